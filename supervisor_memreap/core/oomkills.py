"""Whose processes the kernel's OOM killer may have ended. Pure.

The kernel counts each process that it ends for lack of memory in the control group of that process (`oom_kill`),
whatever was short of memory: that group, one above it, or the host. It does not show which process it was. So a worker
that left without a signal of memreap, at a look at which the counter of its group had risen, may be the one. The
counter rises before the process is gone: where none is gone yet, the next look decides.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from supervisor_memreap.core.frozen import Frozen
from supervisor_memreap.core.model import HOST, STOPPED_BY_HAND, Pool, ProcessId, Worker
from supervisor_memreap.core.poolevents import OomKilled, OomKilledOther
from supervisor_memreap.core.state import PoolState


class Gone(Frozen):
    """The processes of a pool that were there at the last look and are not now, without a signal of memreap."""

    pool: str
    workers: tuple[Worker, ...]
    """As they were at the last look."""
    manager: ProcessId | None = None

    @property
    def count(self) -> int:
        return len(self.workers) + (self.manager is not None)


class Kills(Frozen):
    """The counter of one memory scope at this look."""

    scope: str
    risen: int
    """Processes that the kernel ended there since the last look."""
    size: int | None = None
    """The scope's own limit in bytes; None: it has none, or it is not known."""


def gone(before: Pool, after: Pool, state: PoolState) -> Gone:
    """`state` is that before this look. If supervisord stops the pool, no worker exited on its own."""
    if before.manager is None or after.not_visible or after.state in STOPPED_BY_HAND:
        return Gone(after.name, ())
    leaving = (state.leaving,) if state.leaving else ()
    signalled = {each.worker for each in (*leaving, *state.stuck)}
    present = {worker.id for worker in after.workers}
    workers = tuple(
        worker
        for worker in before.workers
        if worker.id not in present and worker.id not in signalled and worker.slot not in after.stopped
    )
    return Gone(after.name, workers, None if after.manager == before.manager else before.manager)


def follow(
    departed: Iterable[Gone], scopes: Mapping[str, str], kills: Iterable[Kills], pending: Mapping[str, int], at: float
) -> tuple[tuple[OomKilled | OomKilledOther, ...], dict[str, int]]:
    """The events of this look, and the kills for which no process was seen to leave yet, by scope.

    `scopes` has the scope of each pool, `kills` the counters, `pending` what the last look left open.
    """
    log: list[OomKilled | OomKilledOther] = []
    left: dict[str, int] = {}
    departed = [each for each in departed if each.count]
    for each in kills:
        total = each.risen + pending.get(each.scope, 0)
        if not total:
            continue
        possible = [pool for pool in departed if scopes.get(pool.pool) == each.scope]
        count = sum(pool.count for pool in possible)
        for pool in possible:
            others = tuple(sorted(other.pool for other in possible if other is not pool))
            held = max((worker.bound for worker in pool.workers), default=0)
            pids = tuple(worker.id for worker in pool.workers)
            known = each.scope, each.size, total
            killed = min(total, pool.count)
            log.append(OomKilled(pool.pool, at, *known, pids, pool.manager, held, count, killed, others))
        unexplained = max(0, total - count)
        left[each.scope] = min(unexplained, each.risen)
        expired = unexplained - left[each.scope]
        if expired and each.scope != HOST:  # the host's counter has those of all containers
            log.append(OomKilledOther("", at, each.scope, each.size, expired))
    return tuple(log), {scope: number for scope, number in left.items() if number}
