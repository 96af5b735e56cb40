"""Reads from the sockets of a pool's processes who is a worker and who serves. Linux only.

All of it is read in a child (host.reader.Facts): a process can keep its epoll and its memory map locked, and a copy of
its socket may be the last one when it is closed, which waits then where SO_LINGER is set. What the child has not read
in time is known at a later look. A worker is asked about until it was seen to serve, so a quiet tick asks for none.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Collection
from typing import NamedTuple

from supervisor_memreap.core import serving
from supervisor_memreap.core.model import Fact, Pool, ProcessId, Sharing
from supervisor_memreap.core.servers import named
from supervisor_memreap.host import forked, reader
from supervisor_memreap.host.look import server_of
from supervisor_memreap.host.source import Source

# Seconds of a listener's look for answers, of which one takes 0.05 ms; the others come at the next one. And of one by
# which a command decides.
PATIENCE, OF_COMMAND = 0.1, 5.0
# Share of that for the last answer: a reader that owes one lasts until the next look, and soon shares no memory with
# this process.
_LAST = 0.2
# A child that does not serve is asked about again after this share of the time for which it has been asked about, and
# after this many seconds at most: it may be a helper, which never serves.
_SHARE, _LONGEST = 0.1, 60.0


class _Asked(NamedTuple):
    """Since when a child is there that was not seen to serve, and when it was asked about (monotonic)."""

    manager: ProcessId
    first: float
    last: float = float("-inf")


class Serving:
    """What is known of the children of all managers. Call `begin` and `end` around each look."""

    def __init__(self, patience: float = PATIENCE) -> None:
        self._patience = patience
        self._reader = reader.Facts()
        self._asking: ProcessId | None = None
        """The worker that the reader has not answered about yet."""
        self._facts: dict[ProcessId, Fact] = {}
        """Of those that were not seen to serve yet."""
        self._asked: dict[ProcessId, _Asked] = {}
        self._shared: set[ProcessId] = set()
        """The managers whose listening sockets their children have."""
        self._present: set[ProcessId] = set()
        self._remaining = patience

    def begin(self, now: float) -> None:
        self._remaining = self._patience
        self._present = set()
        self._take()
        # Over all pools: one whose children do not answer keeps no other one from its turn.
        for child, asked in sorted(self._asked.items(), key=lambda each: each[1].last):
            is_due = now - asked.last >= min(_SHARE * (now - asked.first), _LONGEST)
            if is_due and self._facts.get(child) is not Fact.SERVES:
                self._ask(child, asked.manager, now)

    def end(self) -> None:
        if self._asking is None:
            self._reader.end()
        forked.uncollected()  # on a busy machine it ends a moment later
        for known in (self._facts, self._asked):
            for gone in known.keys() - self._present:
                del known[gone]
        self._shared &= self._present

    def look(self, pool: Pool, known: Collection[ProcessId], view: Source, now: float) -> Pool:
        """The pool with its helpers apart; `known` are workers that were seen to serve."""
        manager = pool.manager
        if manager is None:
            return pool
        unknown = [worker.id for worker in pool.workers if worker.id not in known]
        self._present |= {manager, *unknown}
        if not unknown:
            return pool
        for child in unknown:
            if child not in self._asked:
                self._asked[child] = _Asked(manager, now)
                self._ask(child, manager, now)
        facts = {child: self._facts.get(child, Fact.UNREAD) for child in unknown}
        is_shared = manager in self._shared or len(unknown) < len(pool.workers)
        pool = serving.sort_out(pool, facts, is_shared, lambda: named(server_of(pool, view) or "").takes_turns)
        if pool.sharing is Sharing.SHARED:
            self._shared.add(manager)
        return pool

    def _ask(self, child: ProcessId, manager: ProcessId, now: float) -> None:
        """Unless another answer is owed, or there is no time left in this look."""
        if self._asking or not self._has_time():
            return
        self._asked[child] = self._asked[child]._replace(last=now)
        self._asking = child
        with contextlib.suppress(reader.NoReader):
            self._reader.ask(child.pid, manager.pid)
        self._take()
        if self._asking is None and not self._has_time():
            self._reader.end()

    def _has_time(self) -> bool:
        return self._remaining > _LAST * self._patience

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
            pass  # not in time, or not at all: still unknown
        except PermissionError:
            fact = Fact.HIDDEN
        except OSError:
            pass  # one of them has just ended; or the system is out of resources
        finally:
            self._remaining -= time.monotonic() - began
        self._asking = None
        if fact:
            self._facts[child] = fact

    def close(self) -> None:
        """Leave no process behind."""
        self._reader.end()
