"""Where the history is, if the settings do not say: beside supervisord's log. Imports no SQLite into the listener."""

from __future__ import annotations

import os
import stat

from supervisor_memreap.core.recording import Recording
from supervisor_memreap.supervisord import mainlog
from supervisor_memreap.supervisord.configfile import Contents
from supervisor_memreap.supervisord.mainlog import MainLog

NAME = "memreap.sqlite"


class HistoryError(Exception):
    """One line: the file, what is wrong, and what to do."""


class NoHistoryError(HistoryError):
    """Nothing was recorded yet."""


def default_path(log: MainLog) -> str:
    """Beside supervisord's log. Raises HistoryError."""
    path = mainlog.path_of(log)
    above = os.path.dirname(path)
    if not mainlog.is_file(path):
        raise HistoryError(f"supervisord's log ({log.path}) is in no directory: set history=PATH in [memreap], or off")
    try:
        status = os.stat(above)
    except OSError as error:
        raise HistoryError(f"{above}: {error.strerror}; set history=PATH in [memreap], or off") from None
    # Another user could put a file of this name there, or a link in the place of SQLite's journal.
    if status.st_mode & stat.S_IWOTH:
        raise HistoryError(f"every user may write to {above}: set history=PATH in [memreap], or off")
    if status.st_uid not in (0, os.geteuid(), log.user):
        raise HistoryError(f"{above} belongs to another user: set history=PATH in [memreap], or off")
    return os.path.join(above, NAME)


def in_force(recording: Recording, contents: Contents, supervisord: int | None = None) -> str | None:
    """The path of the history of the supervisord with this pid, or of the one above us; None: it is off.

    Raises HistoryError.
    """
    return default_path(mainlog.find(contents, supervisord)) if recording.history == "" else recording.history
