"""What a forked child of memreap does first: it keeps nothing of its parent that it does not need."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import time
from collections.abc import Collection, Iterator, Mapping

from supervisor_memreap.host import procfile

# prctl(2): end with the parent; and the name that ps(1) shows.
_PR_SET_PDEATHSIG, _PR_SET_NAME = 1, 15


@contextlib.contextmanager
def two_pipes() -> Iterator[tuple[int, int, int, int]]:
    """For a fork in its block: what the child reads and what it writes, what this process writes and what it reads.

    Afterwards the child's ends are closed here; where the block fails, ours too. Raises OSError.
    """
    with contextlib.ExitStack() as own_ends, contextlib.ExitStack() as child_ends:
        received, sends = os.pipe()
        child_ends.callback(os.close, received)
        own_ends.callback(os.close, sends)
        reads, reports = os.pipe()
        child_ends.callback(os.close, reports)
        own_ends.callback(os.close, reads)
        yield received, reports, sends, reads
        own_ends.pop_all()


def settle(name: str, kept: Collection[int], ignored: Collection[int], with_parent: bool) -> None:
    """Close all descriptors but those `kept`, above all each lock; ignore these signals of TERM, INT and HUP.

    `with_parent`: end when the parent ends, even if that is killed. `name` is what ps shows, on Linux.
    """
    signal.set_wakeup_fd(-1)
    for signum in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(signum, signal.SIG_IGN if signum in ignored else signal.SIG_DFL)
    prctl = getattr(ctypes.CDLL(None), "prctl", None)
    if prctl:
        if with_parent:
            prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        prctl(_PR_SET_NAME, name.encode(), 0, 0, 0)
    null = os.open(os.devnull, os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(null, fd)
    begin = 3
    for fd in (*sorted(fd for fd in kept if fd >= begin), _end_of_descriptors()):
        os.closerange(begin, fd)
        begin = fd + 1


# No wait status: it has not ended; it has ended, but its status is unknown.
_RUNS, _UNKNOWN = -1, -2
_uncollected: list[int] = []
"""Children that did not end in time after they were killed."""


def collect(child: int, patience_before: float, ends: Mapping[signal.Signals, float]) -> int | None:
    """The wait status of a child of this process; None: it is not known, or it has not ended yet.

    Wait for it for `patience_before` seconds, then send each signal of `ends` and wait its number of seconds. One that
    waits for a lock in the kernel ends when it gets that, and is collected by a later call, or by `uncollected`.
    """
    status = _wait(child, patience_before)
    for signum, patience in ends.items():
        if status == _RUNS:
            try:
                os.kill(child, signum)  # ours, and not waited for yet: no other process can have its pid
            except ProcessLookupError:
                pass  # a library ignores SIGCHLD, and it has just ended
            status = _wait(child, patience)
    uncollected()
    if status == _RUNS:
        _uncollected.append(child)
    return None if status in (_RUNS, _UNKNOWN) else status


def uncollected() -> int:
    """The number of children that were killed and have not ended yet."""
    _uncollected[:] = [child for child in _uncollected if _wait(child, 0.0) == _RUNS]
    return len(_uncollected)


def _wait(child: int, patience: float) -> int:
    deadline = time.monotonic() + patience
    while True:
        try:
            ended, status = os.waitpid(child, os.WNOHANG)
        except ChildProcessError:
            return _UNKNOWN  # a library ignores SIGCHLD in this process: then the kernel has waited for it
        if ended:
            return status
        if time.monotonic() >= deadline:
            return _RUNS
        time.sleep(0.001)


def _end_of_descriptors() -> int:
    """Greater than each open descriptor of this process."""
    # Not from a list of them: the kernel makes an entry for each that it lists, which the end of this process removes.
    # With 4,400 of them, as the listener has of 4,000 workers, that took the listener 6 ms, and the child 14.
    try:
        return int(procfile.status(os.getpid(), b"FDSize")[0])
    except (OSError, ValueError):
        return os.sysconf("SC_OPEN_MAX")
