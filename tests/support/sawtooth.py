"""Histories of pools as they would be recorded: workers that grow in a saw-tooth, and what happened to them."""

from __future__ import annotations

import contextlib
import os
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from supervisor_memreap.advice.poolhistory import EventRecord, PoolHistory, PoolReading, Reading, WorkerHistory
from supervisor_memreap.core import events
from supervisor_memreap.core.events import Event
from supervisor_memreap.core.model import ProcessId, SentMoment
from supervisor_memreap.core.reasons import OverLimit, Reason, TooOld
from supervisor_memreap.core.text import MIB
from supervisor_memreap.outputs import fields

MINUTE, HOUR, DAY = 60.0, 3600.0, 86400.0
UNTIL = 1_764_288_000.0
"""2025-11-28, 00:00 UTC."""
LIMIT = 150 * MIB
SPARSE = 15 * MINUTE
"""Seconds between two readings that are older than a day."""


@contextlib.contextmanager
def time_zone(zone: str) -> Iterator[None]:
    """As on a machine of this time zone, such as UTC0 or CET-1CEST,M3.5.0,M10.5.0/3."""
    before = os.environ.get("TZ")
    os.environ["TZ"] = zone
    time.tzset()
    try:
        yield
    finally:
        del os.environ["TZ"]
        if before is not None:
            os.environ["TZ"] = before
        time.tzset()


def record(event: Event) -> EventRecord:
    return EventRecord(event.at, type(event).__name__, event.pid, fields.of(event))


@dataclass
class _Worker:
    pid: int
    started: float
    base: float
    per_hour: float
    readings: list[Reading] = field(default_factory=list)
    was_reaped: bool = False

    def used(self, at: float, noise: float) -> int:
        return int((self.base + self.per_hour * (at - self.started) / HOUR + noise) * MIB)


class Simulation:
    """A pool of workers that start at 40 MiB, grow by 8 to 14 MiB an hour, and are replaced at their limit."""

    def __init__(self, workers: int, limit: int | None, seed: int):
        self.random, self.limit, self.pid = random.Random(seed), limit, 4200
        self.count = workers
        self.alive: list[_Worker] = []
        self.ended: list[_Worker] = []
        self.readings: list[PoolReading] = []
        self.events: list[EventRecord] = []
        self.returned = 0

    def fork(self, at: float, ago: float = 0.0) -> _Worker:
        self.pid += self.random.randint(1, 40)
        worker = _Worker(self.pid, at - ago, self.random.uniform(38, 44), self.random.uniform(8, 14))
        self.alive.append(worker)
        return worker

    def play(self, since: float, until: float) -> Simulation:
        for number in range(self.count):
            self.fork(since, ago=8 * HOUR * number / self.count)
        at = since
        while at <= until:
            self.look(at)
            at += MINUTE if until - at <= DAY else SPARSE
        return self

    def look(self, at: float) -> None:
        used = {}
        for worker in self.alive:
            used[worker.pid] = worker.used(at, self.random.uniform(-0.5, 0.5))
            worker.readings.append(Reading(at, used[worker.pid]))
        sizes = used.values()
        self.readings.append(PoolReading(at, len(self.alive), self.limit, sum(sizes), max(sizes, default=0)))
        largest = max(self.alive, key=lambda each: used[each.pid])
        if self.limit is not None and used[largest.pid] > self.limit:
            self.reap(largest, at + 3, OverLimit(used[largest.pid], self.limit, "uss"))

    def reap(self, worker: _Worker, at: float, reason: Reason) -> None:
        id, held = ProcessId(worker.pid, worker.started), worker.readings[-1].used
        after = self.random.choice([0.03, 0.05, 0.2, 0.4, 2.1])
        came_back = held - 6 * MIB
        self.alive.remove(worker)
        self.ended.append(worker)
        worker.was_reaped = True
        successor = self.fork(at + after)
        self.add(events.Signalled("", at, id, reason, "HUP", SentMoment.HELD, 60.0))
        left = events.Left(
            "", at + after, id, after, ProcessId(successor.pid, successor.started), came_back, 3 * MIB, held, "uss"
        )
        self.add(left)
        self.returned += came_back

    def add(self, event: Event) -> None:
        self.events.append(record(event))

    def history(self, name: str, since: float) -> PoolHistory:
        workers = [
            WorkerHistory(each.pid, each.started, tuple(each.readings), each.was_reaped)
            for each in sorted((*self.ended, *self.alive), key=lambda each: each.started)
            if each.readings
        ]
        reaps = sum(event.name == "Left" for event in self.events)
        history = PoolHistory(name, "uss", since, tuple(self.readings), tuple(workers), (), reaps, self.returned)
        return with_events(history, *self.events)


def pool(
    name: str = "myapp",
    workers: int = 5,
    days: float = 1,
    limit: int | None = LIMIT,
    until: float = UNTIL,
    seed: int = 1,
) -> PoolHistory:
    """A pool that was watched for `days` days."""
    since = until - days * DAY
    return Simulation(workers, limit, seed).play(since, until).history(name, since)


def with_gap(history: PoolHistory, start: float, end: float) -> PoolHistory:
    """The same, had the listener not run from `start` to `end`."""

    def kept(at: float) -> bool:
        return not start < at < end

    workers = (
        replace(worker, readings=tuple(each for each in worker.readings if kept(each.at))) for worker in history.workers
    )
    return replace(
        history,
        readings=tuple(each for each in history.readings if kept(each.at)),
        workers=tuple(worker for worker in workers if worker.readings),
        events=tuple(each for each in history.events if kept(each.at)),
    )


def with_limit(history: PoolHistory, limit: int | None, before: float) -> PoolHistory:
    """The same, had the limit been another one before that time."""
    changed = (each._replace(limit=limit) if each.at < before else each for each in history.readings)
    return replace(history, readings=tuple(changed))


def with_events(history: PoolHistory, *added: EventRecord | Event) -> PoolHistory:
    """The same, and this happened too."""
    records = [event if isinstance(event, EventRecord) else record(event) for event in added]
    named = [each._replace(values={**each.values, "pool": history.name}) for each in records]
    return replace(history, events=tuple(sorted((*history.events, *named), key=lambda each: each.at)))


def suspended(at: float, lasts: float = 21600.0) -> Event:
    return events.WrongSetting("myapp", at, OverLimit(42 * MIB, 40 * MIB, "uss"), "limit=90MB", 12.0, lasts)


def observed(name: str = "watched", until: float = UNTIL) -> PoolHistory:
    """A day of a pool with observe=yes, whose workers grow beyond their limit."""
    history = pool(name, limit=None, until=until)
    first = [next((each for each in worker.readings if each.used > LIMIT), None) for worker in history.workers]
    would = (
        events.WouldReap(name, each.at, ProcessId(worker.pid, worker.started), OverLimit(each.used, LIMIT, "uss"))
        for worker, each in zip(history.workers, first)
        if each
    )
    return with_events(with_limit(history, LIMIT, until + 1), *would)


def troubled(name: str = "shop", until: float = UNTIL) -> PoolHistory:
    """A day with all that can go wrong: a gap, a suspension, refusals, a stuck worker, and a limit that changed."""
    start = until - DAY
    worker = ProcessId(4711, start)
    over, old = OverLimit(152 * MIB, LIMIT, "uss"), TooOld(6.1 * HOUR, 6 * HOUR)
    too_low = OverLimit(42 * MIB, 40 * MIB, "uss")
    never_idle = {
        "event": "never_idle",
        "name": "NeverIdle",
        "at": start + 8 * HOUR,
        "pid": worker.pid,
        "message": "worker 4711 was never idle",
    }
    history = with_gap(pool(name, until=until, seed=3), until - 15 * HOUR, until - 13 * HOUR)
    history = with_limit(history, 120 * MIB, until - 9 * HOUR)
    return with_events(
        history,
        events.Signalled(name, start + 7 * HOUR, worker, old, "HUP", SentMoment.IDLE, 60.0),
        events.Left(name, start + 7 * HOUR + 4, worker, 4.0, ProcessId(4712, start), 80 * MIB, None, 90 * MIB, "uss"),
        # Of an older version, which had such an event.
        EventRecord(start + 8 * HOUR, "NeverIdle", worker.pid, never_idle),
        events.NotPermitted(name, start + 8.1 * HOUR, worker, over),
        events.NotPermitted(name, start + 8.2 * HOUR, worker, over),
        events.NotCaught(name, start + 8.3 * HOUR, worker, "HUP", False),
        events.Signalled(name, start + 13 * HOUR, worker, over, "HUP", SentMoment.BUSY, 60.0),
        events.Stuck(name, start + 13.1 * HOUR, worker, 300.0, "HUP", activity="S, in ep_poll"),
        events.WrongSetting(name, start + 14 * HOUR, too_low, "limit=90MB", 12.0, 21600.0),
        events.Resumed(name, start + 15.5 * HOUR, "its settings changed"),
    )
