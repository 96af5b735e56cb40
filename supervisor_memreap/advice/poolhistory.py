"""What was recorded of a pool over time, as values. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple


class Reading(NamedTuple):
    """One reading of a worker."""

    at: float
    """Seconds since 1970."""
    used: int
    """The metric, in bytes."""


@dataclass(frozen=True)
class WorkerHistory:
    """The life of one worker, as far as it was watched."""

    pid: int
    started: float
    """When it was forked, in seconds since 1970; some seconds before or after, since clocks are adjusted."""
    readings: tuple[Reading, ...]
    """In their order. A gap is a time in which nothing was recorded."""
    was_reaped: bool = False


class PoolReading(NamedTuple):
    """One reading of a pool as a whole."""

    at: float
    """Seconds since 1970."""
    workers: int
    limit: int | None
    """Bytes; None: the pool has no limit."""
    total: int
    """The sum of the metric over its workers, in bytes."""
    largest: int
    """The largest worker, in bytes."""


class EventRecord(NamedTuple):
    """One event of the pool, as outputs.fields has it."""

    at: float
    """Seconds since 1970."""
    name: str
    """The name of its class in core.events, such as Left."""
    pid: int
    """Of the worker; 0: it is about the pool."""
    values: Mapping[str, Any]
    """All its fields, as plain values with their numbers, and its `message`."""


@dataclass(frozen=True)
class PoolHistory:
    name: str
    metric: str
    """The metric of all readings. When the setting changes, the history of the pool starts over."""
    since: float
    """When the counters and the history of this pool began, in seconds since 1970."""
    readings: tuple[PoolReading, ...]
    """In their order: one a minute for a day, fewer before that."""
    workers: tuple[WorkerHistory, ...]
    """In the order in which they were first seen; with a reading a minute for a day, fewer before that."""
    events: tuple[EventRecord, ...] = ()
    """In their order."""
    reaps: int = 0
    """Since `since`."""
    freed: int = 0
    """Bytes that the host got back since `since`."""
