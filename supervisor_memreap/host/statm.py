"""Descriptors of /proc/PID/statm that are kept open from look to look. Linux only.

Such a descriptor always means the same process: once that is gone, reads fail with ESRCH, even if its pid was reused.
So one read shows that it is this process, and its size, for a third of the cost of reading stat and status again.
"""

from __future__ import annotations

import os
import resource
import time
from typing import NamedTuple

from supervisor_memreap.core.model import ProcessId
from supervisor_memreap.host.procfile import read
from supervisor_memreap.host.source import Process, Source

_PAGE = os.sysconf("SC_PAGE_SIZE")
# Descriptors reserved for everything else: sockets, locks, pipes, pidfds.
_SPARE = 200


class Measured(NamedTuple):
    id: ProcessId
    age: float
    size: int
    """The address space, in bytes."""
    resident: int
    """In bytes."""


class _Kept(NamedTuple):
    id: ProcessId
    manager: ProcessId
    """Its parent. That cannot change while this process lives."""
    fd: int


class Statm:
    """Call `begin` and `end` around each tick: descriptors that no look of the tick asked for are closed."""

    def __init__(self) -> None:
        self._kept: dict[int, _Kept] = {}
        self._used: set[int] = set()
        self._most = _raise_limit() - _SPARE
        self._now = 0.0
        self.swap_in_use = 0
        """Swap in use on this host, in bytes: no process has more."""

    def begin(self) -> None:
        self._used = set()
        self._now = time.clock_gettime(time.CLOCK_BOOTTIME)
        self.swap_in_use = _swap_in_use()

    def end(self) -> None:
        for pid in set(self._kept) - self._used:
            self._close(pid)

    def close(self) -> None:
        for pid in list(self._kept):
            self._close(pid)

    def known(self, pid: int, manager: ProcessId) -> Measured | None:
        """This child of `manager` and its size; None: it must be read again, or is gone."""
        kept = self._kept.get(pid)
        if kept is None or kept.manager != manager:
            return None
        size, resident = _read(kept.fd)
        if not resident:  # gone, or a zombie
            return None
        self._used.add(pid)
        return Measured(kept.id, self._now - kept.id.start_time, size, resident)

    def keep(self, pid: int, manager: ProcessId, view: Source) -> Process:
        """Read this process, and keep a descriptor of it if it is a child of `manager`. Raises as `view` does."""
        kept = self._kept.get(pid)
        if kept:
            process = view.process(pid)
            if (process.id, kept.manager) == (kept.id, manager) and not process.ended:
                self._used.add(pid)
                return process
            self._close(pid)
        try:
            fd = os.open(f"/proc/{pid}/statm", os.O_RDONLY) if len(self._kept) < self._most else -1
        except OSError:
            fd = -1
        try:
            process = view.process(pid)
            # It can be read after the process was: so both are the same, and no other one took the pid in between.
            if fd >= 0 and process.parent == manager.pid and not process.ended and _read(fd)[1]:
                self._kept[pid] = _Kept(process.id, manager, fd)
                self._used.add(pid)
                fd = -1
            return process
        finally:
            if fd >= 0:
                os.close(fd)

    def _close(self, pid: int) -> None:
        os.close(self._kept.pop(pid).fd)


def _read(fd: int) -> tuple[int, int]:
    """Size and resident memory in bytes; 0 if the process is gone or a zombie."""
    try:
        size, resident, _ = os.pread(fd, 256, 0).split(None, 2)
    except (OSError, ValueError):
        return 0, 0
    return int(size) * _PAGE, int(resident) * _PAGE


def _swap_in_use() -> int:
    try:
        values = {key: value for key, _, value in (line.partition(b":") for line in read("/proc/meminfo").splitlines())}
        return (int(values[b"SwapTotal"].split()[0]) - int(values[b"SwapFree"].split()[0])) * 1024
    except (OSError, KeyError, ValueError, IndexError):
        return 1 << 60  # not known: each worker's own is read


def _raise_limit() -> int:
    """The soft limit of descriptors, raised to the hard limit if permitted."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    except (OSError, ValueError):
        return soft
    return hard
