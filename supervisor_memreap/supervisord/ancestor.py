"""The supervisord that this process runs under, and its command line."""

from __future__ import annotations

import getopt
import os

import psutil

# Those of supervisord 4. Not asked of supervisor's own ServerOptions, which opens a poller when it is made.
SHORT_OPTIONS = "h?c:vnu:m:d:l:y:z:e:j:i:q:a:kts"
LONG_OPTIONS = [
    *("help", "configuration=", "version", "nodaemon", "user=", "umask=", "directory=", "logfile="),
    *("logfile_maxbytes=", "logfile_backups=", "loglevel=", "pidfile=", "identifier=", "childlogdir=", "minfds="),
    *("minprocs=", "nocleanup", "strip_ansi", "profile_options=", "silent"),
]


def find() -> psutil.Process | None:
    """The nearest ancestor whose command is supervisord; None: there is none, as in a shell."""
    try:
        for process in psutil.Process().parents():
            if any(map(_is_supervisord, _command(process)[:4])):
                return process
    except psutil.Error:
        pass  # an ancestor ended while we looked; then there is none
    return None


def pid() -> int:
    """Of the supervisord above a listener: its parent, if no ancestor is recognised as one."""
    supervisord = find()
    return supervisord.pid if supervisord else os.getppid()


def directory(supervisord: psutil.Process) -> str:
    """Where it was started, which its relative paths refer to."""
    try:
        return str(supervisord.cwd())
    except psutil.Error:
        return os.getcwd()  # another user's: a listener starts where its supervisord is, unless it has directory=


def option(supervisord: psutil.Process, *names: str) -> str | None:
    """The value of this option on its command line, such as that of "-c", "--configuration"; None: it is not there."""
    words = _command(supervisord)
    start = next((number for number, argument in enumerate(words) if _is_supervisord(argument)), len(words))
    try:
        given, _ = getopt.getopt(words[start + 1 :], SHORT_OPTIONS, LONG_OPTIONS)
    except getopt.GetoptError:
        return None
    return next((value for name, value in reversed(given) if name in names), None)


def _is_supervisord(argument: str) -> bool:
    return os.path.basename(argument) == "supervisord" or argument == "supervisor.supervisord"


def _command(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []
