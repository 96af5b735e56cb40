"""How workers climbed: their readings as steps of the largest size so far. Pure.

A worker is reaped when it is seen above its limit for the first time. So what counts is its *running maximum*, and how
long it takes to climb from one size to the next. Readings that fall and rise again do not count as growth.

- The first 20 minutes in which a worker is watched do not count (`run_in`): the running maximum of readings with noise
  rises fast at first, and a young worker warms up.
- Between two readings more than LONGEST_STEP apart (the listener was down) nothing is known; the climb does not count.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from statistics import median
from typing import NamedTuple

from supervisor_memreap.advice.poolhistory import WorkerHistory

# Seconds of watching before a worker's climbing counts; less where workers are reaped so soon that little is left.
RUN_IN, SHORTEST_RUN_IN = 20 * 60.0, 2 * 60.0
# Maximum seconds between two readings; the oldest part of a history has one an hour.
LONGEST_STEP = 2 * 3600.0
# A worker whose first reading is at most this old, in seconds, was watched from its youth.
YOUNG = 10 * 60.0


class Step(NamedTuple):
    """From one reading of a worker to the next."""

    at: float
    """The middle between the two, in seconds since 1970."""
    age: float
    """Of the worker, at the first of the two, in seconds."""
    seconds: float
    low: int
    """Its largest size until the first of the two, in bytes."""
    high: int
    """The same until the second."""
    used: int
    """What it holds at the second of the two."""

    @property
    def climb(self) -> int:
        return self.high - self.low


def is_young(worker: WorkerHistory) -> bool:
    """Whether it was watched from its youth."""
    return bool(worker.readings) and worker.readings[0].at - worker.started <= YOUNG


def run_in(workers: Iterable[WorkerHistory]) -> float:
    """Seconds of watching before a worker's climbing counts, in this pool."""
    lives = [each.readings[-1].at - each.started for each in workers if each.was_reaped and each.readings]
    return RUN_IN if len(lives) < 3 else min(RUN_IN, max(SHORTEST_RUN_IN, median(lives) / 4))


def steps(worker: WorkerHistory, begin: float) -> Iterator[Step]:
    """The steps of a worker after it was watched for `begin` seconds."""
    if not worker.readings:
        return
    before, top = worker.readings[0]
    begin += before
    for at, used in worker.readings[1:]:
        low, top = top, max(top, used)
        if before >= begin and 0 < at - before <= LONGEST_STEP:
            yield Step((before + at) / 2, before - worker.started, at - before, low, top, used)
        before = at


def size_at(worker: WorkerHistory, age: float, begin: float) -> int | None:
    """The running maximum at this age, in bytes; None: it was not watched then, or for less than `begin` before."""
    top = 0
    if not worker.readings or worker.readings[0].at > worker.started + max(age - begin, min(YOUNG, age / 2)):
        return None
    for at, used in worker.readings:
        if at - worker.started > age + max(RUN_IN, age / 8):
            return None
        top = max(top, used)
        if at - worker.started >= age:
            return top
    return None


def sizes_at(workers: Iterable[WorkerHistory], age: float, begin: float) -> list[int]:
    """As size_at, of the workers of which it is known."""
    return [size for worker in workers for size in [size_at(worker, age, begin)] if size is not None]
