"""The messages of the listener to a child that keeps its looks and events. Pure."""

from __future__ import annotations

from typing import Any

from supervisor_memreap.core import events
from supervisor_memreap.core.model import ProcessId, SentMoment
from supervisor_memreap.core.reasons import OverLimit, Reason
from supervisor_memreap.core.settings import PoolSettings
from supervisor_memreap.outputs import fields

MIB = 1024**2
LIMIT = OverLimit(312 * MIB, 150 * MIB, "uss")


def worker(pid: int = 4242) -> ProcessId:
    return ProcessId(pid, 1.0)


def row(name: str = "myapp", **values: Any) -> Any:
    """A pool of two workers in which all is well, as in a look."""
    workers = [{"pid": pid, "age_seconds": 60.0, "used_bytes": pid * MIB, "over": False} for pid in (40, 50)]
    usual = {
        "name": name,
        "state": "RUNNING",
        "standing": "quiet",
        "paused": False,
        "since": 1,
        "metric": "uss",
        "limit_bytes": 150 * MIB,
        "workers": workers,
        "due": 0,
        "overdue": 0,
        "reaps": 0,
        "given_back_bytes": 0,
        "server": "x",
        "largest_bytes": 50 * MIB,
        "total_bytes": 90 * MIB,
        "signal_is_set": False,
    }
    return {key: value for key, value in {**usual, **values}.items() if value is not None}


def look(
    *rows: dict[str, Any], at: float = 1e9, lasting: tuple[str, ...] = (), period: float | None = 5.0
) -> dict[str, Any]:
    return {"kind": "look", "at": at, "pools": list(rows), "lasting": list(lasting), "period": period}


def event(happened: events.Event) -> dict[str, Any]:
    return {"kind": "event", **fields.of(happened)}


def watching(*names: str) -> dict[str, Any]:
    return event(events.Watching("", 1.0, tuple((name, PoolSettings(limit=150 * MIB)) for name in names)))


def signalled(pid: int = 4242, pool: str = "myapp", reason: Reason = LIMIT) -> dict[str, Any]:
    return event(events.Signalled(pool, 1.0, worker(pid), reason, "HUP", SentMoment.HELD, 60.0))


def left(
    pid: int = 4242, pool: str = "myapp", after: float = 0.02, freed: int = 300, taken: int = 100
) -> dict[str, Any]:
    return event(events.Left(pool, 1.0, worker(pid), after, worker(1), freed * MIB, taken * MIB, 312 * MIB, "uss"))


def reap(pid: int = 4242, pool: str = "myapp") -> tuple[dict[str, Any], dict[str, Any]]:
    """A worker was signalled, and left."""
    return signalled(pid, pool), left(pid, pool)
