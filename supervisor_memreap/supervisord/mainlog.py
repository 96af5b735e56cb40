"""supervisord's own log and pid file: where they are, and whose."""

from __future__ import annotations

import os
from typing import NamedTuple

import psutil

from supervisor_memreap.supervisord import ancestor
from supervisor_memreap.supervisord.configfile import Contents

# supervisord's defaults.
_DEFAULT, _DEFAULT_PIDFILE = "supervisord.log", "supervisord.pid"


class MainLog(NamedTuple):
    path: str
    directory: str
    """What a relative path refers to."""
    user: int | None
    """The user of supervisord; None: unknown."""


def directories(contents: Contents, pid: int) -> list[str]:
    """Where the supervisord with this pid keeps its log and its pid file, as far as they are files."""
    log = find(contents, pid)
    try:
        pidfile = ancestor.option(psutil.Process(pid), "-j", "--pidfile")
    except psutil.Error:
        pidfile = None
    paths = (path_of(log), path_of(log._replace(path=pidfile or contents.pidfile or _DEFAULT_PIDFILE)))
    return [os.path.dirname(path) for path in paths if is_file(path)]


def path_of(log: MainLog) -> str:
    return os.path.join(log.directory, os.path.expanduser(log.path))


def is_file(path: str) -> bool:
    """Whether supervisord writes to a file of this name: no word such as syslog, and no device."""
    return os.path.basename(path).lower() not in ("syslog", "none", "off") and not path.startswith(("/dev/", "/proc/"))


def find(contents: Contents, pid: int | None = None) -> MainLog:
    """Of the supervisord with this pid, or of the one above this process; as far as one is known."""
    try:
        supervisord = psutil.Process(pid) if pid else ancestor.find()
        user = supervisord.uids().effective if supervisord else None
    except psutil.Error:
        supervisord = user = None
    if supervisord is None:
        return MainLog(contents.logfile or _DEFAULT, os.getcwd(), None)
    path = ancestor.option(supervisord, "-l", "--logfile") or contents.logfile or _DEFAULT
    return MainLog(path, ancestor.directory(supervisord), user)
