"""supervisord's own log, and whose it is."""

from __future__ import annotations

import os
from typing import NamedTuple

import psutil

from supervisor_memreap.supervisord import ancestor
from supervisor_memreap.supervisord.configfile import Contents

# supervisord's default.
_DEFAULT = "supervisord.log"


class MainLog(NamedTuple):
    path: str
    directory: str
    """What a relative path refers to."""
    user: int | None
    """The user of supervisord; None: unknown."""


def find(contents: Contents, pid: int | None = None) -> MainLog:
    """Of the supervisord with this pid, or of the one above this process; as far as one is known."""
    try:
        supervisord = psutil.Process(pid) if pid else ancestor.find()
        user = supervisord.uids().effective if supervisord else None
    except psutil.Error:
        supervisord = user = None
    if supervisord is None:
        return MainLog(contents.logfile or _DEFAULT, os.getcwd(), None)
    path = ancestor.logfile(supervisord) or contents.logfile or _DEFAULT
    return MainLog(path, ancestor.directory(supervisord), user)
