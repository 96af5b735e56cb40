"""The sizes of all workers and how fast they grow, for the status of each pool."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from supervisor_memreap.advice.growth import Growth, Sample
from supervisor_memreap.core import servers
from supervisor_memreap.core.model import ProcessId
from supervisor_memreap.core.policy import Choice
from supervisor_memreap.core.rows import PoolRow
from supervisor_memreap.host.machine import Machine
from supervisor_memreap.listener.pool import WatchedPool
from supervisor_memreap.listener.pools import Pools
from supervisor_memreap.outputs.statusrows import of_pool

# Seconds between two readings of the metric of all workers, and how long one look may take for that: 500 workers of
# 20 MiB take 36 ms, larger ones more. Those for which there was no time are read in the next looks; each of these costs
# 10 ms of CPU, whatever it reads, since it forks the reader anew.
MEASURE = 30.0
MEASURING = 0.25


class PoolSizes:
    """Those of one pool in one metric, how fast its workers grow, and its server."""

    def __init__(self, machine: Machine, metric: str) -> None:
        self._machine = machine
        self.metric = metric
        self.used: Mapping[ProcessId, int] = {}
        """The metric of each worker in bytes, as far as it was read in this round."""
        self._before: Mapping[ProcessId, int] = {}
        """The same of the round before: shown until the worker is read again."""
        self.growth = Growth()
        self._server: tuple[tuple[ProcessId | None, ...], str | None] = (), None
        """The manager and its first worker, and their server, as far as that is known."""
        self.row: tuple[tuple[object, ...], PoolRow] | None = None
        """The last one that was not whole, and what it was made of."""
        self._is_server_final = False
        """Whether that worker has run for so long that it has its title, and its loop was seen."""

    def begin_round(self) -> None:
        self._before, self.used = self.used, {}
        if not self._is_server_final:
            self._server = (), None

    def is_due(self, pool: WatchedPool) -> bool:
        """Whether there are workers that were not read in this round, or that the last look has read."""
        used = self.used
        if pool.is_at_rest:  # then none was read in full, and these are all
            return not pool.state.population.workers <= used.keys()
        return any(worker.detail or worker.id not in used for worker in pool.pool.workers)

    def take(self, pool: WatchedPool, used: Mapping[ProcessId, int], now: float) -> None:
        """The metric of each worker in bytes, as far as it was read in this round."""
        readings = _readings(pool, used, self.used, now)
        self.used = used
        self.growth = self.growth.after(pool.pool.workers, readings)

    def shown(self, pool: WatchedPool) -> Mapping[ProcessId, int]:
        """The metric of each worker in bytes, as far as it was read in this round or the one before."""
        known = self.used or self._before
        if not self._before or len(known) >= len(pool.pool.workers):
            return known
        before = {each.id: self._before[each.id] for each in pool.pool.workers if each.id in self._before}
        return {**before, **self.used}

    def server(self, pool: WatchedPool) -> str | None:
        first = pool.pool.workers[:1]
        read_of, server = self._server
        # A manager may start to fork workers of another class.
        known = (pool.pool.manager, *(worker.id for worker in first))
        if server is None or read_of != known:
            server = self._machine.server_of(pool.pool)
            self._server = known, server
            is_old = any(worker.age >= MEASURE for worker in first)
            self._is_server_final = is_old and server is not None and not servers.is_unsure(server)
        return server


class Sizes:
    def __init__(self, machine: Machine, pools: Pools) -> None:
        self._machine = machine
        self._pools = pools
        self._by_pool: dict[str, PoolSizes] = {}
        self._measured = float("-inf")
        self.is_incomplete = False
        """Whether there was no time for some workers in this round."""

    def status(self, pools: Iterable[WatchedPool], whole: bool) -> list[PoolRow]:
        """The status of these pools at the last tick, as statusrows.of_pool; sizes are read every MEASURE seconds."""
        now = self._machine.now()
        if now - self._measured >= MEASURE and not self.is_incomplete:
            self._measured = now
            self._by_pool = {name: sizes for name, sizes in self._by_pool.items() if name in self._pools}
            for sizes in self._by_pool.values():
                sizes.begin_round()
        pools = sorted((pool for pool in pools if pool.choice), key=lambda pool: pool.name)
        for pool in pools:
            if pool.name not in self._by_pool or self._by_pool[pool.name].metric != pool.settings.metric:
                self._by_pool[pool.name] = PoolSizes(self._machine, pool.settings.metric)
        self._measure([pool for pool in pools if self._by_pool[pool.name].is_due(pool)], now)
        rows: list[PoolRow] = []
        for pool in pools:
            with pool.guard():
                if pool.choice:
                    rows.append(self._row(pool, pool.choice, now, whole))
        return rows

    def _measure(self, pools: Sequence[WatchedPool], now: float) -> None:
        """Read their workers that were not read in this round."""
        asked = [(pool.pool, pool.settings, self._by_pool[pool.name].used) for pool in pools]
        measured: Sequence[Mapping[ProcessId, int]] = []
        with self._pools.guard():
            measured = self._machine.measure(asked, now + MEASURING) if asked else []
        had_time = self._machine.now() < now + MEASURING
        for pool, used in zip(pools, measured):
            sizes = self._by_pool[pool.name]
            if used is not sizes.used:
                with pool.guard():
                    sizes.take(pool, used, now)
        self.is_incomplete = not had_time and any(self._by_pool[pool.name].is_due(pool) for pool in pools)

    def _row(self, pool: WatchedPool, choice: Choice, now: float, whole: bool) -> PoolRow:
        sizes = self._by_pool[pool.name]
        boot, server, shown = self._machine.time() - now, sizes.server(pool), sizes.shown(pool)
        known = pool.counters, shown, boot, sizes.growth, server
        if whole or not pool.is_at_rest:
            return of_pool(choice, pool.settings, pool.state, *known, whole)
        # Nothing else of a pool at rest changes from look to look.
        made_of = pool.counters, shown, sizes.growth, pool.settings, server, pool.state.population
        if sizes.row is None or any(old is not new for old, new in zip(sizes.row[0], made_of)):
            sizes.row = made_of, of_pool(choice, pool.settings, pool.state, *known, whole)
        return sizes.row[1]


def _readings(
    pool: WatchedPool, used: Mapping[ProcessId, int], known: Mapping[ProcessId, int], now: float
) -> dict[ProcessId, Sample]:
    """The readings since the last time, including those that the last look made for a reason."""
    looked = now if pool.state.looked is None else pool.state.looked
    return {
        worker.id: Sample(now if worker.used is None else looked, used[worker.id])
        for worker in pool.pool.workers
        if worker.id in used and (worker.used is not None or worker.id not in known)
    }
