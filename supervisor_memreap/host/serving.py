"""Reads from the sockets of a pool's processes who is a worker and who serves. Linux only.

All of it is read in the child of host.reader: a process can keep its epoll and its memory map locked, and a copy of its
socket may be the last one when it is closed, which waits then where SO_LINGER is set. A worker is asked about until it
was seen to serve, so a quiet tick asks for none.
"""

from __future__ import annotations

import time
from collections.abc import Collection

from supervisor_memreap.core import serving
from supervisor_memreap.core.model import Fact, Pool, ProcessId, Sharing
from supervisor_memreap.host import reader

# Seconds of a tick in which workers are asked about; the rest of them at the next one.
PATIENCE = 0.3
# A child that does not serve is asked about again after this share of the time for which it has been asked about, and
# after so many seconds at most: it may be a helper, which never serves.
_SHARE, _LONGEST = 0.1, 60.0


class Serving:
    """What is known of the children of all managers. Call `begin` and `end` around each tick."""

    def __init__(self) -> None:
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

    def end(self) -> None:
        for known in (self._facts, self._asked):
            for gone in known.keys() - self._present:
                del known[gone]
        self._shared &= self._present

    def look(self, pool: Pool, known: Collection[ProcessId], now: float) -> Pool:
        """The pool with its helpers apart; `known` are workers that were seen to serve.

        Begins no reading after PATIENCE; one that hangs takes reader.PATIENCE longer.
        """
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
        if self._remaining <= 0:
            return False
        first, last = self._asked.get(child, (now, float("-inf")))
        return now - last >= min(_SHARE * (now - first), _LONGEST)

    def _ask(self, child: ProcessId, manager: ProcessId, now: float) -> None:
        began = time.monotonic()
        try:
            self._facts[child] = reader.fact(child.pid, manager.pid)
        except (reader.Blocked, reader.NoReader):
            pass  # not in time, or not at all, which says nothing of it
        except PermissionError:
            self._facts[child] = Fact.HIDDEN
        except ProcessLookupError:
            pass  # one of them has just ended
        self._asked[child] = self._asked.get(child, (now, now))[0], now
        self._remaining -= time.monotonic() - began
