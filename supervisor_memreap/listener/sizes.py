"""The sizes of all workers and how fast they grow, for the status of each pool."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from supervisor_memreap.advice.growth import Growth, Sample
from supervisor_memreap.core.model import ProcessId
from supervisor_memreap.core.policy import Choice
from supervisor_memreap.core.rows import PoolRow
from supervisor_memreap.host.machine import Machine
from supervisor_memreap.listener.pool import WatchedPool
from supervisor_memreap.listener.pools import Pools
from supervisor_memreap.outputs.statusrows import of_pool

# Seconds between two readings of the metric of all workers, and how long one look may take for that: 500 workers of
# 20 MiB take 36 ms, larger ones more. Those for which there was no time are read in the next looks.
MEASURE = 30.0
MEASURING = 0.1


class PoolSizes:
    """Those of one pool, how fast its workers grow, and its server."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self.used: dict[ProcessId, int] = {}
        """The metric of each worker in bytes, as far as it was read in this round."""
        self._before: dict[ProcessId, int] = {}
        """The same of the round before: shown until the worker is read again."""
        self.growth = Growth()
        self._server: tuple[ProcessId | None, str | None] = None, None
        """The manager and its server, as far as that is known."""
        self._is_server_final = False
        """Whether the manager has run for so long that its workers have their titles."""

    def begin_round(self) -> None:
        self._before, self.used = self.used, {}
        if not self._is_server_final:
            self._server = None, None

    def measure(self, pool: WatchedPool, now: float) -> bool:
        """Read the workers that were not read in this round; whether there was time for all."""
        known = self.used
        if not pool.pool.detailed and known.keys() == {worker.id for worker in pool.pool.workers}:
            return True
        self.used = self._machine.measure(pool.pool, pool.settings, known, now + MEASURING)
        had_time = len(self.used) >= len(pool.pool.workers) or self._machine.now() < now + MEASURING
        readings = _readings(pool, self.used, known, now)
        self.growth = self.growth.after(pool.pool.workers, pool.settings.metric, readings)
        return had_time

    def shown(self, pool: WatchedPool) -> dict[ProcessId, int]:
        """The metric of each worker in bytes, as far as it was read in this round or the one before."""
        before = {each.id: self._before[each.id] for each in pool.pool.workers if each.id in self._before}
        return {**before, **self.used}

    def server(self, pool: WatchedPool) -> str | None:
        manager, server = self._server
        if server is None or manager != pool.pool.manager:
            server = self._machine.server_of(pool.pool)
            self._server = pool.pool.manager, server
            self._is_server_final = pool.pool.manager_age >= MEASURE
        return server


class Sizes:
    def __init__(self, machine: Machine, pools: Pools) -> None:
        self._machine = machine
        self._pools = pools
        self._by_pool: dict[str, PoolSizes] = {}
        self._measured = float("-inf")
        self.is_incomplete = False
        """Whether there was no time for some workers in this round."""

    def status(self, pools: Iterable[WatchedPool]) -> list[PoolRow]:
        """The status of these pools at the last tick, as statusrows.of_pool; sizes are read every MEASURE seconds."""
        now = self._machine.now()
        if now - self._measured >= MEASURE and not self.is_incomplete:
            self._measured = now
            self._by_pool = {name: sizes for name, sizes in self._by_pool.items() if name in self._pools}
            for sizes in self._by_pool.values():
                sizes.begin_round()
        self.is_incomplete = False
        rows: list[PoolRow] = []
        for pool in sorted(pools, key=lambda pool: pool.name):
            with pool.guard():
                if pool.choice:
                    rows.append(self._row(pool, pool.choice, now))
        return rows

    def _row(self, pool: WatchedPool, choice: Choice, now: float) -> PoolRow:
        sizes = self._by_pool.setdefault(pool.name, PoolSizes(self._machine))
        if not sizes.measure(pool, now):
            self.is_incomplete = True
        boot, server, shown = self._machine.time() - now, sizes.server(pool), sizes.shown(pool)
        return of_pool(choice, pool.settings, pool.state, pool.counters, shown, boot, sizes.growth, server)


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
