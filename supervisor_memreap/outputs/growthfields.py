"""The growth of a pool and its workers, as values and text of the status. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from supervisor_memreap.advice.growth import Growth
from supervisor_memreap.core.model import ProcessId
from supervisor_memreap.core.text import about, memory

_HOUR = 3600
OF_WORKER = "growth_bytes_per_hour"
OF_POOL = (OF_WORKER, "next_at_limit_seconds")
"""The keys that need more than one look."""


def of_worker(growth: Growth, worker: ProcessId) -> dict[str, int]:
    """The growth of a worker; empty if it is unknown."""
    return _per_hour(growth.of_worker(worker))


def of_pool(growth: Growth, limit: int | None, used: Mapping[ProcessId, int]) -> dict[str, int]:
    """The growth of a pool, without unknown values. `limit` and `used` are in bytes."""
    values = _per_hour(growth.of_all)
    left = None if limit is None else growth.next_at_limit(limit, used)
    return values if left is None else {**values, "next_at_limit_seconds": round(left)}


def _per_hour(per_second: float | None) -> dict[str, int]:
    return {} if per_second is None else {OF_WORKER: round(per_second * _HOUR)}


def without(pool: Mapping[str, Any]) -> dict[str, Any]:
    """The pool and its workers without their growth."""
    workers = [{key: value for key, value in worker.items() if key != OF_WORKER} for worker in pool["workers"]]
    return {**{key: value for key, value in pool.items() if key not in OF_POOL}, "workers": workers}


def cell(values: Mapping[str, Any]) -> str:
    """`12 MiB/h`, of a pool or a worker; `-` if it is unknown."""
    if OF_WORKER not in values:
        return "-"
    size = memory(abs(values[OF_WORKER]))
    # Less than 50 KiB an hour is shown as none.
    sign = "-" if values[OF_WORKER] < 0 and size != memory(0) else ""
    return f"{sign}{size}/h"


def forecast(pool: Mapping[str, Any]) -> str:
    """A line about the next worker that reaches its limit; empty if that is unknown."""
    if "next_at_limit_seconds" not in pool:
        return ""
    return f"the next worker reaches its limit in about {about(pool['next_at_limit_seconds'])}"
