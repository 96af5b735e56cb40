"""The sizes of all workers and how fast they grow, for the status of each pool."""

from __future__ import annotations

import functools
import time
from collections.abc import Iterable, Mapping

from supervisor_memreap.advice.growth import Growth, Sample
from supervisor_memreap.core.model import ProcessId
from supervisor_memreap.core.rows import PoolRow
from supervisor_memreap.host import look, procfs
from supervisor_memreap.host.source import Source
from supervisor_memreap.listener.pool import WatchedPool
from supervisor_memreap.listener.pools import Pools
from supervisor_memreap.outputs.statusrows import of_pool

# Seconds between two readings of the metric of all workers, and how long one look may take for that: 500 workers of
# 20 MiB take 36 ms, larger ones more. Those for which there was no time are read in the next looks.
MEASURE = 30.0
MEASURING = 0.1


class Sizes:
    def __init__(self, pools: Pools) -> None:
        self._pools = pools
        self._used: dict[str, dict[ProcessId, int]] = {}
        """The metric of each worker in bytes, by pool, as far as it was read in this round."""
        self._before: dict[str, dict[ProcessId, int]] = {}
        """The same of the round before: shown until the worker is read again."""
        self._measured = float("-inf")
        self.is_incomplete = False
        """Whether there was no time for some workers in this round."""
        self._growth: dict[str, Growth] = {}
        self._servers: dict[str, tuple[ProcessId | None, str | None]] = {}
        """The manager and the server of each pool, as far as they are known."""

    def status(self, pools: Iterable[WatchedPool]) -> list[PoolRow]:
        """The status of these pools at the last tick, as statusrows.of_pool; sizes are read every MEASURE seconds."""
        now = time.monotonic()
        if now - self._measured >= MEASURE and not self.is_incomplete:
            self._before, self._used, self._servers = self._used, {}, {}
            self._measured = now
            self._growth = {name: growth for name, growth in self._growth.items() if name in self._pools}
        view = procfs.source()
        self.is_incomplete = False
        rows: list[PoolRow] = []
        for pool in sorted(pools, key=lambda pool: pool.name):
            self._pools.guard(pool, functools.partial(self._add, rows, pool, view, now))
        return rows

    def _add(self, rows: list[PoolRow], pool: WatchedPool, view: Source, now: float) -> None:
        if pool.choice is None:
            return
        known = self._used.get(pool.name, {})
        used = self._used[pool.name] = look.measure(pool.pool, pool.settings, view, now + MEASURING, known)
        if len(used) < len(pool.pool.workers) and time.monotonic() >= now + MEASURING:
            self.is_incomplete = True
        growth = self._growth.get(pool.name, Growth())
        growth = growth.after(pool.pool.workers, pool.settings.metric, _readings(pool, used, known, now))
        self._growth[pool.name] = growth
        boot, server = time.time() - now, self._server(pool, view)
        before = self._before.get(pool.name, {})
        shown = {**{worker.id: before[worker.id] for worker in pool.pool.workers if worker.id in before}, **used}
        rows.append(of_pool(pool.choice, pool.settings, pool.state, pool.counters, shown, boot, growth, server))

    def _server(self, pool: WatchedPool, view: Source) -> str | None:
        manager, server = self._servers.get(pool.name, (None, None))
        if server is None or manager != pool.pool.manager:
            server = look.server_of(pool.pool, view)
            self._servers[pool.name] = pool.pool.manager, server
        return server


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
