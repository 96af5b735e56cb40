"""One reaper at a time for a process: a lock that every memreap on this machine sees, of whatever user.

On Linux it is a flock(2) on a file of the process in /proc: readable by all, gone with the process, released by the
kernel when the holder ends, and no file of ours is left anywhere.
"""

from __future__ import annotations

import errno
import fcntl
import os
import sys
import tempfile

from supervisor_memreap.core.model import ProcessId


def take(process: ProcessId, file: str = "stat") -> int | None:
    """A descriptor that holds the lock until it is closed; None: another memreap holds it.

    A process has as many locks as files in its folder of /proc; `file` names one of them.

    Raises ProcessLookupError where the process is gone.
    """
    if sys.platform == "linux":
        try:
            return _flock(os.open(f"/proc/{process.pid}/{file}", os.O_RDONLY | os.O_CLOEXEC))
        except FileNotFoundError:
            raise ProcessLookupError(process.pid) from None
        except OSError:
            pass  # hidden (hidepid), or a /proc that cannot lock (gVisor): a file then
    path = os.path.join(tempfile.gettempdir(), f"memreap-{process.pid}-{file}.lock")
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW
    try:
        return _flock(os.open(path, flags))
    except FileNotFoundError:
        return _flock(os.open(path, flags | os.O_CREAT, 0o644))


def _flock(fd: int) -> int | None:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(fd)
        if error.errno in (errno.EWOULDBLOCK, errno.EAGAIN):
            return None
        raise
    return fd
