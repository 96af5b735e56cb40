"""supervisord's own log: its path, and the directory that a relative path refers to."""

from __future__ import annotations

import os

import psutil

from supervisor_memreap.supervisord import ancestor
from supervisor_memreap.supervisord.configfile import Contents

# supervisord's default.
_DEFAULT = "supervisord.log"


def find(contents: Contents, pid: int | None = None) -> tuple[str, str]:
    """Of the supervisord with this pid, or of the one above this process; as far as one is known."""
    try:
        supervisord = psutil.Process(pid) if pid else ancestor.find()
    except psutil.Error:
        supervisord = None
    if supervisord is None:
        return contents.logfile or _DEFAULT, os.getcwd()
    return ancestor.logfile(supervisord) or contents.logfile or _DEFAULT, ancestor.directory(supervisord)
