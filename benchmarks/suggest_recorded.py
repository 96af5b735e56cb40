"""The real pools that suggest_record.py recorded: what is true of each, and its history as memreap recorded it."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from functools import cache
from typing import Any, NamedTuple

from pages import RESULTS
from suggest_pools import MIB, Pool

from supervisor_memreap.advice.poolhistory import PoolHistory, PoolReading, Reading, WorkerHistory

FILE = RESULTS / "suggest_recorded.json.gz"
PAGE = 4096


class Recorded(NamedTuple):
    server: str
    truth: Pool
    history: PoolHistory
    until: float
    """When it was recorded to, in seconds since 1970."""


@cache
def contents() -> dict[str, Any]:
    with gzip.open(FILE) as file:
        values: dict[str, Any] = json.load(file)
    return values


def pools() -> list[Recorded]:
    return [_recorded(contents(), values) for values in contents()["pools"]]


def _recorded(recorded: dict[str, Any], values: dict[str, Any]) -> Recorded:
    truth = dict(values["truth"])
    truth.update({key: tuple(map(_tuple, truth[key])) for key in ("deploys", "gaps")})
    pool = Pool(**truth)
    begin: float = recorded["begin"]
    times = [begin + at for at in recorded["times"]]
    workers = tuple(_worker(begin, times, worker) for worker in values["workers"])
    limit = round(pool.limit * MIB) if pool.limit else None
    sizes: dict[float, list[int]] = {}
    for worker in workers:
        for at, used in worker.readings:
            sizes.setdefault(at, []).append(used)
    readings = tuple(PoolReading(at, len(held), limit, sum(held), max(held)) for at, held in sorted(sizes.items()))
    history = PoolHistory(f"{values['server']}, {pool.kind}", "uss", begin, readings, workers)
    return Recorded(values["server"], pool, history, times[-1])


def _tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _worker(begin: float, times: list[float], values: dict[str, Any]) -> WorkerHistory:
    readings = tuple(_readings(times[values["first"] :], values["pages"]))
    return WorkerHistory(values["pid"], begin + values["started"], readings, values.get("reaped", False))


def _readings(times: list[float], steps: list[int | None]) -> Iterator[Reading]:
    pages = 0
    for at, step in zip(times, steps):
        if step is not None:
            pages += step
            yield Reading(at, pages * PAGE)
