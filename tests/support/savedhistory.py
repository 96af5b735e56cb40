"""Histories in the file in which the listener has them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

from supervisor_memreap.advice.poolhistory import PoolHistory
from supervisor_memreap.core.text import MIB
from supervisor_memreap.history import historyfile, historywriter


def save(path: Path, *histories: PoolHistory) -> None:
    """Write the file of the history as the listener does."""
    with closing(historyfile.Writer(str(path), 64 * MIB)) as file:
        tables = historywriter._Tables(file)
        for history in histories:
            tables.write(messages(history))


def messages(history: PoolHistory) -> Iterator[dict[str, Any]]:
    """What the listener sent to its history."""
    workers: dict[float, list[dict[str, Any]]] = {}
    for worker in history.workers:
        for at, used in worker.readings:
            row = {"pid": worker.pid, "age_seconds": at - worker.started, "used_bytes": used}
            workers.setdefault(at, []).append(row)
    for reading in history.readings:
        pool = {"name": history.name, "metric": history.metric, "limit_bytes": reading.limit}
        yield {"kind": "look", "at": reading.at, "pools": [{**pool, "workers": workers.get(reading.at, [])}]}
    for event in history.events:
        yield {"kind": "event", **event.values}
