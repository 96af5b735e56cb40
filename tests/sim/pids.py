"""Processes by their pids, which are used again soon, as on a host where thousands of processes come and go."""

from __future__ import annotations

from typing import Protocol

from supervisor_memreap.core.model import ProcessId

from .clock import Clock


class HasId(Protocol):
    id: ProcessId

    @property
    def is_there(self) -> bool: ...


class Pids:
    def __init__(self, clock: Clock, first: int = 1000, last: int = 1400):
        self._clock = clock
        self._first, self._last = first, last
        self._next = first
        self._known: dict[int, HasId] = {}
        """The last process that had each pid."""

    def new(self) -> ProcessId:
        while self._next in self._known and self._known[self._next].is_there:
            self._advance()
        pid = self._next
        self._advance()
        return ProcessId(pid, round(self._clock.now, 2))

    def _advance(self) -> None:
        self._next = self._next + 1 if self._next < self._last else self._first

    def add(self, process: HasId) -> None:
        self._known[process.id.pid] = process

    def get(self, id: ProcessId) -> HasId | None:
        """The process, while it is there."""
        process = self._known.get(id.pid)
        return process if process and process.id == id and process.is_there else None
