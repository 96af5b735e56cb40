"""One reaper at a time for a process: a lock that every memreap on this machine sees.

On Linux it is a flock(2) on /proc/PID/personality: only the process's own user and root may open that file, it
disappears with the process, the kernel releases the lock when the holder ends, and we leave no file behind. Only where
that cannot serve is it a file in the temporary directory, which stays: removed, there could be two of it.
"""

from __future__ import annotations

import fcntl
import os
import re
import sys
import tempfile

from supervisor_memreap.core.model import ProcessId
from supervisor_memreap.host.machine import Locked, Unlockable
from supervisor_memreap.host.procfile import missing, read

LOCKED_FILE = "personality"
# A process in its own mount namespace may have replaced its /proc with anything: a fifo must not block us.
_FLAGS = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW


def take(process: ProcessId) -> int:
    """A descriptor that holds the lock of this process until it is closed.

    Raises Locked, Unlockable; ProcessLookupError where the process is gone.
    """
    if sys.platform == "linux":
        fd = _open(process)
        try:
            return _flock(fd)
        except OSError:
            pass  # a /proc that cannot lock (gVisor): a file then
    return take_file(process)


def take_file(process: ProcessId, purpose: str = "reaper", mode: int = 0o644) -> int:
    """As `take`, but with a file in the temporary directory. Raises Locked, Unlockable.

    For a process whose files in /proc not all that have to be kept apart may open. By default every user may read the
    file, and so lock it; with mode=0o600 only one user and root may.
    """
    path = os.path.join(_temporary_directory(), f"memreap-{process.pid}-{process.start_time:.2f}-{purpose}.lock")
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW
    try:
        try:
            fd = os.open(path, flags)
        except FileNotFoundError:
            fd = os.open(path, flags | os.O_CREAT, mode)
            os.fchmod(fd, mode)  # whatever the umask is: another user's memreap must be able to open it
        owner = os.fstat(fd).st_uid
        try:
            return _flock(fd)
        except Locked as trouble:
            if owner in (os.geteuid(), 0):
                raise
            # Any local user may have created the file, to keep us out.
            raise Unlockable(f"{trouble}, by a file of user {owner}: {path}") from None
    except OSError as error:
        raise Unlockable(f"the lock {path} cannot be taken ({error.strerror or error})") from None


def _open(process: ProcessId) -> int:
    path = f"/proc/{process.pid}/{LOCKED_FILE}"
    try:
        path = f"{_seen_by_itself(process)}/{LOCKED_FILE}"
        return os.open(path, _FLAGS)
    except FileNotFoundError:
        trouble = missing(process.pid, path)
    except OSError as error:
        trouble = error
    if isinstance(trouble, ProcessLookupError):
        raise trouble
    remedy = f"; run memreap as {users(process.pid)}" if isinstance(trouble, PermissionError) else ""
    raise Unlockable(f"the lock {path} cannot be opened ({trouble.strerror or trouble}){remedy}")


def users(pid: int) -> str:
    """Who may take the lock of this process. Its file is root's, too, if the process has changed its user."""
    try:
        owner = os.stat(f"/proc/{pid}/{LOCKED_FILE}").st_uid
    except OSError:
        owner = 0
    return f"user {owner} or as root" if owner else "root"


def _seen_by_itself(process: ProcessId) -> str:
    """The directory of this process in the /proc that it sees itself.

    Two mounts of proc, such as that of a container and that of its host, have files of their own, and locks on one do
    not count on the other. So all use the mount that the process sees; ours where that may not be entered.
    """
    own = f"/proc/{process.pid}"
    try:
        # The last number is the pid in the innermost namespace of the process.
        match = re.search(rb"^NSpid:.*?(\d+)$", read(f"{own}/status"), re.MULTILINE)
        pid = int(match[1]) if match else 0
        inner = f"{own}/root/proc/{pid}" if pid and _is_of_the_kernel(f"/proc/{pid}", read(f"{own}/mountinfo")) else own
        return inner if _start(inner) == _start(own) else own
    except ProcessLookupError:
        raise
    except OSError:
        return own


def _is_of_the_kernel(directory: str, mountinfo: bytes) -> bool:
    """Whether what a process sees there is the kernel's proc: another file system could block us."""
    mounts = [line.split() for line in mountinfo.decode(errors="replace").splitlines()]
    types = [mount[mount.index("-") + 1] for mount in mounts if mount[4] == "/proc"]
    on_top = any(f"{mount[4]}/".startswith(f"{directory}/") for mount in mounts)
    return types[-1:] == ["proc"] and not on_top


def _start(directory: str) -> bytes:
    with open(os.open(f"{directory}/stat", _FLAGS), "rb") as file:
        return file.read().rpartition(b")")[2].split()[19]


def _flock(fd: int) -> int:
    """Raises Locked, OSError; the descriptor is closed then."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = _holder(fd)
        os.close(fd)
        raise Locked(*holder) from None
    except OSError:
        os.close(fd)
        raise
    return fd


def _holder(fd: int) -> tuple[str, int]:
    """Which process holds a lock on this file, as text, and its pid; 0: unknown."""
    try:
        status = os.fstat(fd)
        file = f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}:{status.st_ino}"
        with open("/proc/locks", "rb") as locks:
            lines = [line.split() for line in locks.read().decode().splitlines()]
        pid = int(next((line[4] for line in lines if file in line and "->" not in line), ""))
        words = read(f"/proc/{pid}/cmdline").decode(errors="replace").split("\0")
        return f"process {pid} ({' '.join(words).strip()[:100]}) holds its lock", pid
    except (OSError, ValueError):
        return "another memreap holds its lock", 0


def _temporary_directory() -> str:
    try:
        return tempfile.gettempdir()
    except FileNotFoundError:  # there is none that can be written to
        return "/tmp"
