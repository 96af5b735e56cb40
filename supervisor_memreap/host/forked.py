"""What a forked child of memreap does first: it keeps nothing of its parent that it does not need."""

from __future__ import annotations

import ctypes
import os
import signal
from collections.abc import Collection

# prctl(2): end with the parent; and the name that ps(1) shows.
_PR_SET_PDEATHSIG, _PR_SET_NAME = 1, 15


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
    for fd in _open_descriptors():
        if fd > 2 and fd not in kept:
            try:
                os.close(fd)
            except OSError:
                pass  # that of the list itself


def _open_descriptors() -> list[int]:
    try:
        return list(map(int, os.listdir("/dev/fd")))
    except OSError:
        return list(range(os.sysconf("SC_OPEN_MAX")))
