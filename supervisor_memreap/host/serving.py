"""Reads from the sockets of a pool's processes who is a worker and who serves. Linux only.

All of it is read in a child (host.reader.Facts): a process can keep its epoll and its memory map locked, and a copy of
its socket may be the last one when it is closed, which waits then where SO_LINGER is set. What the child has not read
in time is known at a later look. A worker is asked about until it was seen to serve, so a quiet tick asks for none.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Collection

from supervisor_memreap.core import serving
from supervisor_memreap.core.model import Fact, Pool, ProcessId, Sharing
from supervisor_memreap.host import reader

# Seconds of a look for answers, of which one takes 0.05 ms; the others come at the next one.
PATIENCE = 0.1
# A child that does not serve is asked about again after this share of the time for which it has been asked about, and
# after so many seconds at most: it may be a helper, which never serves.
_SHARE, _LONGEST = 0.1, 60.0


class Serving:
    """What is known of the children of all managers. Call `begin` and `end` around each tick."""

    def __init__(self) -> None:
        self._reader = reader.Facts()
        self._asking: ProcessId | None = None
        """About whom the reader has not answered yet."""
        self._facts: dict[ProcessId, Fact] = {}
        """Of those that were not seen to serve yet."""
        self._asked: dict[ProcessId, tuple[float, float]] = {}
        """When each of them was asked about first and last (monotonic)."""
        self._shared: set[ProcessId] = set()
        """The managers whose listening sockets their children have."""
        self._present: set[ProcessId] = set()
        self._remaining = PATIENCE

    def begin(self) -> None:
        self._remaining = PATIENCE
        self._present = set()
        self._take()

    def end(self) -> None:
        if self._asking is None and not self._facts.keys() & self._present:
            self._reader.end()
        for known in (self._facts, self._asked):
            for gone in known.keys() - self._present:
                del known[gone]
        self._shared &= self._present

    def look(self, pool: Pool, known: Collection[ProcessId], now: float) -> Pool:
        """The pool with its helpers apart; `known` are workers that were seen to serve."""
        manager = pool.manager
        if manager is None:
            return pool
        unknown = [worker.id for worker in pool.workers if worker.id not in known]
        self._present |= {manager, *unknown}
        if not unknown:
            return pool
        for child in sorted(unknown, key=lambda child: self._asked.get(child, (0.0, 0.0))[1]):
            if self._is_due(child, now):
                self._ask(child, manager, now)
        facts = {child: self._facts.get(child, Fact.UNREAD) for child in unknown}
        is_shared = manager in self._shared or len(unknown) < len(pool.workers)
        pool = serving.sort_out(pool, facts, is_shared)
        if pool.sharing is Sharing.SHARED:
            self._shared.add(manager)
        return pool

    def _is_due(self, child: ProcessId, now: float) -> bool:
        if self._asking or self._remaining <= 0 or self._facts.get(child) is Fact.SERVES:
            return False
        first, last = self._asked.get(child, (now, float("-inf")))
        return now - last >= min(_SHARE * (now - first), _LONGEST)

    def _ask(self, child: ProcessId, manager: ProcessId, now: float) -> None:
        self._asked[child] = self._asked.get(child, (now, now))[0], now
        self._asking = child
        with contextlib.suppress(reader.NoReader):
            self._reader.ask(child.pid, manager.pid)
        self._take()

    def _take(self) -> None:
        """The answer that the reader owes, if it comes in time."""
        child = self._asking
        if child is None:
            return
        began = time.monotonic()
        fact: Fact | None = None
        try:
            fact = self._reader.answer(max(0.0, self._remaining))
            if fact is None:
                return
        except reader.NoReader:
            pass  # not in time, or not at all, which says nothing of it
        except PermissionError:
            fact = Fact.HIDDEN
        except ProcessLookupError:
            pass  # one of them has just ended
        finally:
            self._remaining -= time.monotonic() - began
        self._asking = None
        if fact:
            self._facts[child] = fact

    def close(self) -> None:
        """Leave no process behind."""
        self._reader.end()
