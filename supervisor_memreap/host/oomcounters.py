"""How many processes the kernel's OOM killer has ended, where the watched pools are. Linux only.

A descriptor of each counter stays open, so a look costs one read for each control group that has a pool.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Mapping
from typing import NamedTuple

from supervisor_memreap.core.model import ProcessId
from supervisor_memreap.core.oomkills import Kills
from supervisor_memreap.host.memory import Memory

# Seconds after which the group of a process is read again: it may have been moved.
_REREAD = 60.0
_COUNT = re.compile(rb"^oom_kill ([0-9]+)\n", re.MULTILINE)


class _Place(NamedTuple):
    """Where the kills of a pool are counted."""

    process: ProcessId
    """The one whose group was read."""
    read: float
    scope: str


class _Counter(NamedTuple):
    fd: int
    kills: int
    size: int | None


class OomKills:
    """Owner of the descriptors. No method raises OSError. `root` holds recorded proc and sys."""

    def __init__(self, root: str = "") -> None:
        self._root = root
        self._places: dict[str, _Place] = {}
        self._counters: dict[str, _Counter] = {}

    def look(self, processes: Mapping[str, ProcessId | None], now: float) -> tuple[dict[str, str], list[Kills]]:
        """The scope of each pool, and what has risen in each scope since the last look.

        `processes` has one process of each pool; None: it has none now, and the scope is that of the last one. Call
        this after the pools were read: a process that was gone then is counted by now.
        """
        for pool in self._places.keys() - processes.keys():
            del self._places[pool]
        scopes = {pool: place.scope for pool, place in self._places.items()}
        kills = [self._risen(scope) for scope in {*scopes.values()}]
        memory: Memory | None = None
        for pool, process in processes.items():
            place = self._places.get(pool)
            if process and (place is None or place.process != process or now - place.read >= _REREAD):
                memory = memory or Memory(self._root)
                self._places[pool] = _Place(process, now, self._counted_in(process.pid, memory))
        for scope in self._counters.keys() - {place.scope for place in self._places.values()}:
            os.close(self._counters.pop(scope).fd)
        return scopes, kills

    def _risen(self, scope: str) -> Kills:
        counter = self._counters.get(scope)
        count = counter and _read(counter.fd)
        if counter is None or count is None:
            return Kills(scope, 0)  # the group is gone
        self._counters[scope] = counter._replace(kills=count)
        return Kills(scope, max(0, count - counter.kills), counter.size)

    def _counted_in(self, pid: int, memory: Memory) -> str:
        """The scope in which the kills of this process are counted, which is read from now on."""
        scope, size, path = memory.oom_counter(pid)
        before = self._counters.get(scope)
        if before and _read(before.fd) is not None:
            self._counters[scope] = before._replace(size=size)
            return scope
        with contextlib.suppress(OSError):
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            count = _read(fd)
            if before:
                os.close(before.fd)  # of a group that is gone, whose name another one has by now
            self._counters[scope] = _Counter(fd, count or 0, size)
        return scope

    def close(self) -> None:
        for counter in self._counters.values():
            os.close(counter.fd)
        self._places, self._counters = {}, {}


def _read(fd: int) -> int | None:
    """None: the group is gone, or this kernel does not count (before Linux 4.13)."""
    text = b""
    try:
        while True:
            part = os.pread(fd, 65536, len(text))  # at most a page of /proc/vmstat, in whole lines
            text += part
            match = _COUNT.search(text)
            if match or not part:
                return int(match[1]) if match else None
    except OSError:
        return None
