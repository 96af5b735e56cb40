"""Whether a pool still grows as it did before it was restarted, perhaps with another release. Pure.

A *restart* is a moment at which all workers are new: of those before it, none is seen more than 10 minutes after the
first new one began (a server that reloads starts new workers before the old ones have finished), and of those that were
there last, at least half were not reaped. A roll is a restart too, however long it took: the oldest worker that is seen
after its end is the first new one. Restarts within an hour are one. Whether the manager is new does not matter: HUP
makes many managers load another release. More than 3 restarts, and more than one a day, are how this pool lives: none
changes it.

What was recorded before a restart counts only if it agrees with what came after it:

1. Of what came after, at least 3 hours can be compared: the same times of the day, or the 3 hours beside them, were
   watched before.
2. In these, from one of the ages of core.evidence on, workers climb 0.75 to 1.33 times as fast as before, and the
   standard error is at most 0.2 of the rate; or the difference is less than 5 % of what a worker holds, in a day.
3. At that age they hold 0.85 to 1.18 times as much as before.

The history begins at the newest restart for which this is not so. A release with which workers grow half or twice as
fast differs by 2 standard errors or more from one with which they grow at 0.75 or 1.33 times the rate.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from statistics import median

from supervisor_memreap.advice.climb import run_in, sizes_at, steps
from supervisor_memreap.advice.climbrate import DAY, DAYS_DIFFER, HOUR, Cells
from supervisor_memreap.advice.evidence import NONE, usable_ages
from supervisor_memreap.advice.poolhistory import WorkerHistory

# Seconds for which old workers may be seen beside new ones.
_OVERLAP = 600.0
# Seconds between the last readings of workers that ended together; old readings are 900 s apart.
_TOGETHER = 1000.0
# Up to this many restarts are not routine, however many days were watched.
_FEW = 3
# The largest factor between rates that agree, and its largest standard error; and the factor between sizes.
_SAME_RATE, _RATE_ERROR, _SAME_SIZE = 4 / 3, 0.2, 1 / 0.85


def changed_at(workers: Sequence[WorkerHistory], rolled: Sequence[float] = ()) -> float | None:
    """When the newest restart was after which the workers may grow otherwise, in seconds since 1970; None: none.

    `rolled`: when rolls ended.
    """
    ordered = sorted((worker for worker in workers if worker.readings), key=lambda worker: worker.started)
    for first in reversed(_restarts(ordered, rolled)):
        if not _agree(ordered[:first], ordered[first:]):
            return ordered[first].started
    return None


def _restarts(workers: Sequence[WorkerHistory], rolled: Sequence[float]) -> list[int]:
    """For each restart, the number of the first new worker; the workers are in the order of their starts."""
    firsts = {*_at_once(workers), *(_first_seen(workers, end) for end in rolled)} - {0}
    restarts: list[int] = []
    began = 0.0
    for number in sorted(firsts):
        if workers[number].started - began >= HOUR:
            began = workers[number].started
            restarts.append(number)
        restarts[-1] = number
    times = [reading.at for worker in workers for reading in (worker.readings[0], worker.readings[-1])]
    days = (max(times) - min(times)) / DAY if times else 0.0
    return restarts if len(restarts) <= max(_FEW, days) else []


def _at_once(workers: Sequence[WorkerHistory]) -> Iterator[int]:
    """The first new workers of the restarts that were no rolls."""
    seen = 0.0
    end = max((worker.readings[-1].at for worker in workers), default=0.0)
    for number, worker in enumerate(workers):
        if number and seen < end and seen <= worker.started + _OVERLAP:
            ended = [each for each in workers[:number] if each.readings[-1].at >= seen - _TOGETHER]
            if 2 * sum(each.was_reaped for each in ended) <= len(ended):
                yield number
        seen = max(seen, worker.readings[-1].at)


def _first_seen(workers: Sequence[WorkerHistory], since: float) -> int:
    """The oldest worker that was seen since then; 0: none."""
    return next((number for number, worker in enumerate(workers) if worker.readings[-1].at >= since), 0)


def _agree(before: Sequence[WorkerHistory], after: Sequence[WorkerHistory]) -> bool:
    """Whether workers grow after a restart as they did before it, as far as is known."""
    workers = [*before, *after]
    begin = run_in(workers)
    ages = usable_ages(workers, begin)
    earlier, later = (Cells((steps(worker, begin) for worker in part), ages) for part in (before, after))
    smallest = min(used for worker in workers for _, used in worker.readings)
    return any(
        _is_same_rate(earlier, later, number, smallest) and _is_same_size(before, after, age, begin)
        for number, age in enumerate(ages)
    )


def _is_same_rate(before: Cells, after: Cells, first: int, smallest: int) -> bool:
    """Of workers from age number `first` on. `smallest` is what a worker holds, in bytes."""
    climbed, expected, error = after.compare(before, first)
    if math.isinf(error):
        return False
    if abs(climbed - expected) * DAY < NONE * smallest:
        return True
    low, high = sorted((climbed, expected))
    if low <= 0:
        return False
    share = math.hypot(error / expected, math.sqrt(2) * DAYS_DIFFER)
    return share <= _RATE_ERROR and high <= _SAME_RATE * low


def _is_same_size(before: Sequence[WorkerHistory], after: Sequence[WorkerHistory], age: float, begin: float) -> bool:
    """At this age, if it is known."""
    sizes = [sizes_at(part, age, begin) for part in (before, after)]
    if not all(sizes):
        return True
    low, high = sorted(median(each) for each in sizes)
    return high <= _SAME_SIZE * low
