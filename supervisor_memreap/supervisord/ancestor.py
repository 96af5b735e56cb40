"""The supervisord that this process runs under, and what its command line says."""

from __future__ import annotations

import getopt
import os

import psutil
from supervisor.options import ServerOptions


def find() -> psutil.Process | None:
    """The nearest ancestor whose command says that it is supervisord; None: there is none, as in a shell."""
    try:
        for process in psutil.Process().parents():
            if any(map(_is_supervisord, _command(process)[:4])):
                return process
    except psutil.Error:
        pass  # an ancestor ended while we looked; then there is none
    return None


def pid() -> int:
    """Of the supervisord above a listener: its parent, where no ancestor says that it is one."""
    supervisord = find()
    return supervisord.pid if supervisord else os.getppid()


def directory(supervisord: psutil.Process) -> str:
    """Where it was started, which its relative paths refer to."""
    try:
        return str(supervisord.cwd())
    except psutil.Error:
        return os.getcwd()  # another user's: a listener starts where its supervisord is, unless it has directory=


def configuration(supervisord: psutil.Process) -> str | None:
    """The file that its command line names; None: it names none."""
    words = _command(supervisord)
    start = next((number for number, word in enumerate(words) if _is_supervisord(word)), len(words))
    options = ServerOptions()
    try:
        given, _ = getopt.getopt(words[start + 1 :], "".join(options.short_options), options.long_options)
    except getopt.GetoptError:
        return None
    return next((value for name, value in reversed(given) if name in ("-c", "--configuration")), None)


def _is_supervisord(word: str) -> bool:
    return os.path.basename(word) == "supervisord" or word == "supervisor.supervisord"


def _command(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []
