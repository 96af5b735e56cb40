"""Descriptors of files in /proc/PID that are kept open from look to look. Linux only.

Such a descriptor always means the same process: once that is gone, reads fail with ESRCH, even if its pid was reused.
So one read of `statm` shows that it is this process, and its size, for a third of the cost of reading stat and status
again; and of a manager, `children` and then `stat` show who its children are, and that it is still there.
"""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Iterable
from typing import NamedTuple

from supervisor_memreap.core.model import ProcessId, Worker
from supervisor_memreap.host import procfile, procfs
from supervisor_memreap.host.source import Process, Source

_PAGE = os.sysconf("SC_PAGE_SIZE")
# Descriptors reserved for everything else: sockets, locks, pipes, pidfds.
_SPARE = 200
# Bytes of statm that hold its first two numbers.
_TWO_NUMBERS = 48
# Bytes: a part that has no more of them is the last one.
_SHORT = 2048
# More than any process has: each worker's own is read.
_UNKNOWN = 1 << 60


class _Worker(NamedTuple):
    id: ProcessId
    manager: ProcessId
    """Its parent. That cannot change while this process lives."""
    fd: int


class _Manager(NamedTuple):
    stat: int
    children: int
    """Of its main thread."""


class Kept:
    """Call `begin` and `end` around each tick: descriptors that no look of the tick asked for are closed."""

    def __init__(self) -> None:
        self._workers: dict[int, _Worker] = {}
        self._managers: dict[int, _Manager] = {}
        self._used: set[int] = set()
        """Pids of both."""
        self._most = _raise_limit() - _SPARE
        self._now = 0.0
        self._unseen = 0
        """Bytes: swap in use on this host, of which no process has more, and what the kernel may not have counted."""

    def begin(self) -> None:
        self._used = set()
        self._now = time.clock_gettime(time.CLOCK_BOOTTIME)
        self._unseen = _swap_in_use() + procfs.uncounted()

    def end(self) -> None:
        if len(self._used) < len(self._workers) + len(self._managers):
            for pid in self._workers.keys() - self._used:
                self._close_worker(pid)
            for pid in self._managers.keys() - self._used:
                self._close_manager(pid)

    def close(self) -> None:
        self._used = set()
        self.end()

    def family(self, pid: int, view: Source) -> tuple[Process, list[int]]:
        """As that of `view`."""
        try:
            kept = self._managers.get(pid) or self._open_manager(pid)
            # In this order: a process that is there afterwards was there before, so this is its list.
            children = _whole(kept.children)
            process, threads = procfs.process_of(pid, procfile.fields(os.pread(kept.stat, 4096, 0)))
        except OSError:
            if pid in self._managers:
                self._close_manager(pid)
            return view.family(pid)
        self._used.add(pid)
        # A child belongs to the thread that has forked it.
        return process, [*map(int, children.split())] if threads == 1 else view.children(pid)

    def _open_manager(self, pid: int) -> _Manager:
        """Raises OSError."""
        self._need_room(2)
        # While that of `stat` can be read, the pid has been this process's, and `children` is of the same.
        stat = os.open(f"/proc/{pid}/stat", os.O_RDONLY | os.O_CLOEXEC)
        try:
            children = os.open(f"/proc/{pid}/task/{pid}/children", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            os.close(stat)
            raise
        kept = self._managers[pid] = _Manager(stat, children)
        return kept

    def workers(self, pids: Iterable[int], manager: ProcessId, by_size: bool) -> dict[int, Worker]:
        """Those of these children of `manager` that an earlier look has read, by pid; any other may be there too.

        The bound of each has all that may be unseen as if it were its own; `by_size`: it is its address space.
        """
        # For each worker at each look: 4,000 workers take 15 ms, 10 of them in the kernel.
        found = {}
        get, now, read, unseen = self._workers.get, self._now, os.pread, self._unseen
        new = tuple.__new__  # Worker(…) takes twice as long
        for pid in pids:
            kept = get(pid)
            if kept is None:
                continue
            id, parent, fd = kept
            if parent != manager:
                continue
            try:
                size, resident, _ = read(fd, _TWO_NUMBERS, 0).split(None, 2)
            except (OSError, ValueError):
                continue
            if resident != b"0":  # a zombie
                bound = int(size) * _PAGE if by_size else int(resident) * _PAGE + unseen
                found[pid] = new(Worker, (id, now - id.start_time, bound, None, "", None))
        self._used.update(found)
        return found

    def keep(self, pid: int, manager: ProcessId, view: Source) -> Process:
        """Read this process, and keep a descriptor of it if it is a child of `manager`. Raises as `view` does."""
        kept = self._workers.get(pid)
        if kept:
            process = view.process(pid)
            if (process.id, kept.manager) == (kept.id, manager) and not process.ended:
                self._used.add(pid)
                return process
            self._close_worker(pid)
        try:
            self._need_room(1)
            fd = os.open(f"/proc/{pid}/statm", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            fd = -1
        try:
            process = view.process(pid)
            # It can be read after the process was: so both are the same, and no other one took the pid in between.
            if fd >= 0 and process.parent == manager.pid and not process.ended and _is_there(fd):
                self._workers[pid] = _Worker(process.id, manager, fd)
                self._used.add(pid)
                fd = -1
            return process
        finally:
            if fd >= 0:
                os.close(fd)

    def _need_room(self, descriptors: int) -> None:
        """Raises OSError."""
        if len(self._workers) + 2 * len(self._managers) + descriptors > self._most:
            raise OSError("too many descriptors")

    def _close_worker(self, pid: int) -> None:
        os.close(self._workers.pop(pid).fd)

    def _close_manager(self, pid: int) -> None:
        for fd in self._managers.pop(pid):
            os.close(fd)


def _is_there(fd: int) -> bool:
    """Whether the process of this statm is there, and no zombie."""
    try:
        return os.pread(fd, _TWO_NUMBERS, 0).split()[1] != b"0"
    except OSError:
        return False


def _whole(fd: int) -> bytes:
    """The list, of which the kernel gives whole entries, as many as fit in a page. Raises OSError."""
    part = text = os.pread(fd, 65536, 0)
    while len(part) > _SHORT:
        part = os.pread(fd, 65536, len(text))
        text += part
    return text


def _swap_in_use() -> int:
    try:
        if os.stat("/proc/meminfo").st_dev != os.stat("/proc/self").st_dev:
            return _UNKNOWN  # it is lxcfs's, which may have none though processes of the container are in swap
        lines = (line.partition(b":") for line in procfile.read("/proc/meminfo").splitlines())
        values = {key: value for key, _, value in lines}
        return (int(values[b"SwapTotal"].split()[0]) - int(values[b"SwapFree"].split()[0])) * 1024
    except (OSError, KeyError, ValueError, IndexError):
        return _UNKNOWN


def _raise_limit() -> int:
    """The soft limit of descriptors, raised to the hard limit if permitted."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    except (OSError, ValueError):
        return soft
    return hard
