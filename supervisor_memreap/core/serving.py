"""Who is a worker, and who serves: what the sockets of a manager's children mean. Pure.

Names and ages do not tell: a newborn may import for a minute before it serves, and gunicorn's dirty arbiter is called
like a worker. A child that serves was seen to do so (core.model.Fact); then it serves until it ends.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

from supervisor_memreap.core.frozen import replace
from supervisor_memreap.core.model import Fact, Pool, ProcessId, Sharing, Worker

# What a helper is seen to be, where the others share sockets.
_HELPS = (Fact.ELSEWHERE, Fact.APART, Fact.NONE)
# Of the others, their age is all that is known. What could not be read in time is not taken for one that serves.
_SERVING: Mapping[Fact, bool] = {Fact.SERVES: True, Fact.HOLDS: False, Fact.UNREAD: False}


def sharing(facts: Collection[Fact], is_shared: bool) -> Sharing | None:
    """`is_shared`: a child of this manager was seen earlier that has its listening sockets. None: nothing is known."""
    if is_shared or not {Fact.SERVES, Fact.HOLDS, Fact.ELSEWHERE, Fact.TURN}.isdisjoint(facts):
        return Sharing.SHARED
    if Fact.APART in facts:
        return Sharing.APART
    if Fact.HIDDEN in facts:
        return Sharing.HIDDEN
    return Sharing.NONE if Fact.NONE in facts else None


def sort_out(
    pool: Pool, facts: Mapping[ProcessId, Fact], is_shared: bool, takes_turns: Callable[[], bool] = lambda: True
) -> Pool:
    """The pool with its helpers apart, and with what is known of those `facts` are about. The others serve.

    `takes_turns`: whether a worker that waits for a lock may be waiting for its turn (core.servers).
    """
    if not facts:
        return pool
    how = sharing(facts.values(), is_shared)
    helpers = tuple(id for id, fact in facts.items() if how is Sharing.SHARED and fact in _HELPS)
    serving: Mapping[Fact, bool] = _SERVING
    if Fact.TURN in facts.values() and not takes_turns():
        serving = {**_SERVING, Fact.TURN: False}
    workers = tuple(_judged(worker, facts, serving) for worker in pool.workers if worker.id not in helpers)
    unread = frozenset(id for id, fact in facts.items() if fact is Fact.UNREAD)
    return replace(pool, workers=workers, unread=unread, helpers=helpers, sharing=how)


def _judged(worker: Worker, facts: Mapping[ProcessId, Fact], serving: Mapping[Fact, bool]) -> Worker:
    fact = facts.get(worker.id)
    return worker._replace(serving=serving.get(fact)) if fact else worker
