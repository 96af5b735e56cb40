"""Signals a process that was just verified. Together with host.boundary the only place that sends a signal."""

from __future__ import annotations

import errno
import os
import signal

from supervisor_memreap.core.model import Pool, ProcessId, Result, Worker
from supervisor_memreap.host import boundary
from supervisor_memreap.host.source import Source


def number(name: str) -> int:
    """Of `HUP` and its like."""
    return int(getattr(signal, f"SIG{name}"))


def may_signal(process: ProcessId) -> bool:
    """Whether this user may signal that process; tested with signal 0, which is never delivered."""
    try:
        send(process.pid, None, 0)
    except PermissionError:
        return False
    except OSError:
        pass  # it is gone
    return True


def force(pool: Pool, worker: Worker, signal_name: str, view: Source) -> Result:
    """Send a stuck worker this signal, whatever it is doing. Never raises OSError."""
    pidfd = None
    try:
        pidfd = open_pidfd(worker.id.pid)
        # From here on the pidfd, if there is one, means this process and no later one with its pid.
        if pool.manager is None or has_changed(worker.id, pool.manager, view):
            return Result.CHANGED
        send(worker.id.pid, pidfd, number(signal_name))
    except ProcessLookupError:
        return Result.GONE
    except PermissionError:
        return Result.NOT_PERMITTED
    except OSError:
        return Result.FAILED
    finally:
        if pidfd is not None:
            os.close(pidfd)
    return Result.SENT


def follow(process: ProcessId, view: Source) -> int | None:
    """A descriptor that becomes readable when this process is gone; None if it is gone, or the system has none."""
    try:
        pidfd = open_pidfd(process.pid)
    except OSError:
        return None
    if pidfd is None:
        return None
    try:
        if view.process(process.pid).id == process:
            return pidfd
    except OSError:
        pass  # gone, or may not be read; or the system is out of resources
    os.close(pidfd)
    return None


def open_pidfd(pid: int) -> int | None:
    """A descriptor of that process; None if the system has none (Linux before 5.3, seccomp, other UNIX).

    Raises OSError where the process is gone, or the system is out of resources: a pid alone could mean a later process.
    """
    if not hasattr(os, "pidfd_open") or not hasattr(signal, "pidfd_send_signal"):
        return None
    try:
        return os.pidfd_open(pid)
    except OSError as error:
        if error.errno in (errno.ENOSYS, errno.EPERM, errno.EINVAL):
            return None
        raise


def has_changed(worker: ProcessId, manager: ProcessId, view: Source) -> bool:
    """Whether this is no longer a worker of that manager. Raises ProcessLookupError."""
    now = view.process(worker.pid)
    if now.id != worker or now.ended:
        raise ProcessLookupError(worker.pid)
    above = view.process(manager.pid)
    return now.parent != manager.pid or above.id != manager or above.ended


def send(pid: int, pidfd: int | None, signum: int) -> None:
    """Raises OSError."""
    if pidfd is not None:
        signal.pidfd_send_signal(pidfd, signum)
    else:
        os.kill(pid, signum)


def send_to_main_thread(worker: ProcessId, pidfd: int | None, signum: int, view: Source) -> None:
    """Signal the main thread while it is held: a signal for the whole process would go to another thread.

    A held process keeps its pid, so what is verified here stays true until it is let go. Raises ProcessLookupError.
    """
    if pidfd is not None:
        signal.pidfd_send_signal(pidfd, 0)  # so the pid that is held has been this process's all the time
    elif view.process(worker.pid).id != worker:
        raise ProcessLookupError(worker.pid)
    boundary.tgkill(worker.pid, worker.pid, signum)
