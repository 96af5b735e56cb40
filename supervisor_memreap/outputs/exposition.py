"""The metrics as Prometheus gets them. Needs prometheus-client.

Base units, and by pool, never by pid: a worker lives for hours, and each pid would be a permanent time series. What is
unknown has no value, rather than 0. docs/metrics.md has a table of all of them.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from itertools import accumulate
from typing import Any

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from supervisor_memreap import __version__
from supervisor_memreap.core.model import ProgramState, Standing
from supervisor_memreap.core.rows import PoolRow
from supervisor_memreap.outputs.tally import BUCKETS, PoolTally, Tally, is_blind


def _growth(row: PoolRow) -> float | None:
    per_hour = row.get("growth_bytes_per_hour")
    return None if per_hour is None else per_hour / 3600


def _stuck(row: PoolRow) -> float:
    return sum(1 for worker in row["workers"] if worker.get("note") == "stuck")


# Of each pool at the last look: a key of its row, or what is made of it; None: unknown.
_GAUGES: tuple[tuple[str, str, str | Callable[[PoolRow], float | None]], ...] = (
    ("workers", "Workers of the pool.", lambda row: len(row["workers"])),
    ("due_workers", "Workers that are due for replacement.", "due"),
    ("overdue_workers", "Workers that are due, if none could be signalled for more than two ticks.", "overdue"),
    ("stuck_workers", "Workers that were signalled and have not left within grace=.", _stuck),
    ("worker_limit_bytes", "What a worker may use (limit=).", "limit_bytes"),
    ("largest_worker_bytes", "What the largest worker uses, in the pool's metric.", "largest_bytes"),
    ("workers_bytes", "What all workers use, in the pool's metric.", "total_bytes"),
    ("pool_limit_bytes", "What the pool may hold (total=).", "total_limit_bytes"),
    ("pool_bytes", "Upper bound of what manager and workers hold together (total=).", "pool_bytes"),
    ("growth_bytes_per_second", "How fast all workers grow together, over at most the last 2 hours.", _growth),
    ("pool_running", "1 if supervisord runs the program.", lambda row: row["state"] == ProgramState.RUNNING),
    ("pool_suspended", "1 if memreap has suspended the pool.", lambda row: "suspension" in row),
    ("pool_paused", "1 if a user has paused the pool.", "paused"),
    (
        "pool_observed",
        "1 if the pool is only observed (observe=yes).",
        lambda row: row["standing"] == Standing.OBSERVED,
    ),
)
# A sum over workers, some of which may not be read, would be wrong.
_MEASURED = {"largest_worker_bytes", "workers_bytes", "pool_bytes"}
# Of each pool since the start of the counters: the label of its parts, if it has any, and where the tally has it.
_COUNTERS: tuple[tuple[str, str, str, str], ...] = (
    ("reaps", "Workers that were signalled and have left.", "reason", "reaps"),
    ("would_reap", "Workers that would have been signalled (observe=yes).", "reason", "would_reap"),
    ("returned_bytes", "Memory freed when workers left, minus the memory of their replacements.", "", "freed"),
    ("stuck", "Workers that did not leave within grace=.", "", "stuck"),
    (
        "refused_signals",
        "Due workers to which memreap sent nothing, each counted when that begins.",
        "kind",
        "refused",
    ),
    (
        "not_relieved",
        "Shortages of memory that reaping did not relieve. No pool: on the host or in a control group.",
        "kind",
        "not_relieved",
    ),
    (
        "oom_killed",
        "Processes of the pool that the kernel's OOM killer ended, at most. No pool: others in its control groups.",
        "",
        "oom_killed",
    ),
)
# These are also counted where they belong to no pool.
_OF_NO_POOL = {"not_relieved", "oom_killed"}


def _is_measured(row: PoolRow | None) -> bool:
    return not (is_blind(row) or (row and row.get("unreadable_workers")))


class Exposition(Collector):
    """Of a tally that another thread adds to while it holds `lock`."""

    def __init__(self, tally: Tally, lock: threading.Lock):
        self._tally = tally
        self._lock = lock
        self._started = time.time()
        self._rendered: dict[str, tuple[tuple[object, ...], bytes]] = {}
        """What each pool was rendered from the last time, and its text."""

    def collect(self) -> Iterator[Metric]:
        with self._lock:
            metrics = [*self._of_listener(), *self._of_pools(self._all(), time.monotonic())]
        yield from metrics

    def text(self) -> bytes:
        """All of them, as generate_latest has them. To be called by one thread only.

        A pool is rendered again only if it has changed: each takes 0.4 ms, and most are at rest.
        """
        with self._lock:
            now, pools = time.monotonic(), self._all()
            of_listener = [*self._of_listener()]
            made_of = {name: (self._tally.row(name, now), tally.taken) for name, tally in pools.items()}
            known = {name: each for name, each in self._rendered.items() if each[0] == made_of.get(name)}
            changed = {name: [*self._of_pools({name: pools[name]}, now)] for name in pools if name not in known}
        known |= {name: (made_of[name], _text(metrics)) for name, metrics in changed.items()}
        self._rendered = {name: known[name] for name in pools}
        parts = [re.split(rb"(?m)^(?=# HELP )", text)[1:] for _, text in self._rendered.values()]
        whole = [_text(of_listener)]
        for metric in zip(*parts):
            of_each = [part.split(b"\n", 2) for part in metric]
            whole += [b"\n".join([*of_each[0][:2], b""]), *(samples for _, _, samples in of_each)]
        return b"".join(whole)

    def _all(self) -> Mapping[str, PoolTally]:
        return {**self._tally.pools(), "": self._tally.of_no_pool}

    def _of_listener(self) -> Iterator[Metric]:
        tally = self._tally
        info = GaugeMetricFamily("memreap_build_info", "Always 1; the version of memreap.", labels=["version"])
        info.add_metric([__version__], 1)
        yield info
        yield GaugeMetricFamily("memreap_start_time_seconds", "Start of the counters, as Unix time.", self._started)
        yield GaugeMetricFamily(
            "memreap_last_look_timestamp_seconds", "Last look at the pools, as Unix time.", tally.looked_at
        )
        yield GaugeMetricFamily("memreap_tick_seconds", "Time between two ticks, at which memreap looks.", tally.period)
        yield GaugeMetricFamily("memreap_pools", "Pools that memreap is configured to watch.", len(tally.pools()))
        errors = CounterMetricFamily("memreap_errors", "Errors of memreap, counted as they begin.", labels=["kind"])
        for kind, count in tally.errors.items():
            errors.add_metric([kind], count)
        yield errors
        lasting = GaugeMetricFamily("memreap_lasting_error", "1 while this error of memreap lasts.", labels=["kind"])
        for kind, lasts in tally.lasting_errors(time.monotonic()).items():
            lasting.add_metric([kind], lasts)
        yield lasting

    def _of_pools(self, pools: Mapping[str, PoolTally], now: float) -> Iterator[Metric]:
        rows = {name: self._tally.row(name, now) for name in pools if name}
        for name, text, what in _GAUGES:
            gauge = GaugeMetricFamily(f"memreap_{name}", text, labels=["pool"])
            for pool, row in rows.items():
                value: Any = None if row is None else what(row) if callable(what) else dict(row).get(what)
                if value is not None and (name not in _MEASURED or _is_measured(row)):
                    gauge.add_metric([pool], value)
            yield gauge
        blind = "1 if the state of the pool is unknown: it is configured but not watched."
        gauge = GaugeMetricFamily("memreap_pool_blind", blind, labels=["pool"])
        for pool, row in rows.items():
            gauge.add_metric([pool], is_blind(row))
        yield gauge
        info = GaugeMetricFamily(
            "memreap_pool_info", "Always 1; the pool's metric and server.", labels=["pool", "metric", "server"]
        )
        for pool, row in rows.items():
            if row is not None:
                info.add_metric([pool, row["metric"], row.get("server") or ""], 1)
        yield info
        leaving = HistogramMetricFamily(
            "memreap_leave_seconds", "How long signalled workers took to leave.", labels=["pool"]
        )
        for pool in rows:
            buckets = zip((*map(str, BUCKETS), "+Inf"), accumulate(pools[pool].left))
            leaving.add_metric([pool], [*buckets], pools[pool].leaving_took)
        yield leaving
        for name, text, label, attribute in _COUNTERS:
            counter = CounterMetricFamily(f"memreap_{name}", text, labels=["pool", label] if label else ["pool"])
            for pool, tally in pools.items() if name in _OF_NO_POOL else ((pool, pools[pool]) for pool in rows):
                counts = getattr(tally, attribute)
                for kind, count in (counts if label else {"": counts}).items():
                    counter.add_metric([pool, kind] if label else [pool], count)
            yield counter


def _text(metrics: list[Metric]) -> bytes:
    registry = CollectorRegistry()
    registry.collect = lambda: iter(metrics)  # type: ignore[method-assign]
    return generate_latest(registry)


def registry(exposition: Exposition) -> CollectorRegistry:
    """These metrics alone, without those of Python and of its process."""
    # auto_describe: so that a scrape may ask for some of them by name.
    registry = CollectorRegistry(auto_describe=True)
    registry.register(exposition)
    return registry
