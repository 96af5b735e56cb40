"""Where the history is by default: beside supervisord's log. Imports no SQLite into the listener."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

from supervisor_memreap.core.failed import Failed
from supervisor_memreap.core.recording import Recording

if TYPE_CHECKING:
    from supervisor_memreap.supervisord.configfile import Contents
    from supervisor_memreap.supervisord.mainlog import MainLog

NAME = "memreap.sqlite"


class HistoryError(Failed):
    """One line: the file, what is wrong, and what to do."""


class NoHistoryError(HistoryError):
    """Nothing was recorded yet."""


def default_path(log: MainLog) -> str:
    """Beside supervisord's log. Raises HistoryError."""
    from supervisor_memreap.supervisord import mainlog  # not for the process that writes the history

    path = mainlog.path_of(log)
    above = os.path.dirname(path)
    if not mainlog.is_file(path):
        raise HistoryError(f"supervisord does not log to a file ({log.path}): set history=PATH in [memreap], or off")
    try:
        reason = _unsafe(above, os.stat(above), log.user)
    except OSError as error:
        raise HistoryError(f"{above}: {error.strerror}; set history=PATH in [memreap], or off") from None
    if reason:
        raise HistoryError(f"{reason}: set history=PATH in [memreap], or off")
    return os.path.join(above, NAME)


def refusal(path: str) -> str:
    """Why a history is not written to this path; empty: it may be. Raises OSError where there is no directory."""
    above = os.path.dirname(path) or "."
    unsafe = _unsafe(above, os.stat(above))
    if unsafe or not os.path.lexists(path):
        return unsafe
    status = os.lstat(path)
    if stat.S_ISLNK(status.st_mode):
        return f"{path} is a symbolic link"
    return _unsafe(path, status)


def _unsafe(path: str, status: os.stat_result, owner: int | None = None) -> str:
    """Why another user than root, ours and `owner` may write there; empty: none may.

    Another user could put a file or a link in the place of the history, or of SQLite's journal.
    """
    if status.st_mode & stat.S_IWOTH:
        return f"{path} is writable by every user"
    return "" if status.st_uid in (0, os.geteuid(), owner) else f"{path} belongs to another user"


def in_force(recording: Recording, contents: Contents, supervisord: int | None = None) -> str | None:
    """The path of the history of the supervisord with this pid, or of the one above us; None: it is off.

    Raises HistoryError.
    """
    from supervisor_memreap.supervisord import mainlog

    return default_path(mainlog.find(contents, supervisord)) if recording.history == "" else recording.history
