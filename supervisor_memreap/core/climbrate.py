"""How fast the workers of a pool climb from a certain age on, averaged over the hours of a day. Pure.

The load is shared: a worker that serves more requests takes them from the others. So the pool's rate is all that its
workers climbed, divided by all the time that they were watched, however different they are.

The load has a daily cycle. So the rate is calculated for each 3 hours of the day, and then averaged: a night that was
watched twice counts once.

Its standard error comes from what each worker climbed in each hour, compared with what the rate at that time of the day
and the worker's own speed let expect, and from the difference between one day and another.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from supervisor_memreap.core.climb import Step

HOUR = 3600
# The load is about the same within a part of the day.
PARTS = 8
# Of 24 hours of the day, the least that must be watched.
FEWEST_HOURS = 20
# Days differ in load: the standard deviation, as a share of the rate.
DAYS_DIFFER = 0.1


class Rate(NamedTuple):
    mean: float
    """Bytes per second of a worker."""
    error: float
    """Its standard error."""

    @property
    def most(self) -> float:
        """The largest that it may well be (95 %)."""
        return self.mean + 1.645 * self.error


class Cells:
    """What each worker climbed in each hour, by age."""

    def __init__(self, workers: Iterable[Iterable[Step]], ages: Sequence[float]) -> None:
        self.ages = ages
        """In seconds, ascending: a rate may be asked for from each of them on."""
        self._cells: dict[tuple[int, int], list[list[float]]] = {}
        for number, steps in enumerate(workers):
            for step in steps:
                if step.age < ages[0]:
                    continue
                key = number, int(step.at // HOUR)
                cell = self._cells.get(key)
                if cell is None:
                    cell = self._cells[key] = [[0.0, 0.0] for _ in ages]
                part = cell[sum(step.age >= age for age in ages) - 1]
                part[0] += step.seconds
                part[1] += step.high - step.low

    def rate(self, first: int = 0, last: int | None = None) -> Rate | None:
        """From age number `first` up to number `last`; None: too few hours of the day were watched."""
        cells: list[tuple[int, int, float, float]] = []
        for (worker, hour), parts in self._cells.items():
            seconds = sum(part[0] for part in parts[first:last])
            if seconds:
                cells.append((worker, hour, seconds, sum(part[1] for part in parts[first:last])))
        if len({hour % 24 for _, hour, _, _ in cells}) < FEWEST_HOURS:
            return None
        seconds_of, climb_of = [0.0] * PARTS, [0.0] * PARTS
        for _, hour, seconds, climb in cells:
            seconds_of[_part(hour)] += seconds
            climb_of[_part(hour)] += climb
        rates = {part: climb_of[part] / seconds_of[part] for part in range(PARTS) if seconds_of[part]}
        mean = sum(rates.values()) / len(rates)
        days = max(1.0, len({hour for _, hour, _, _ in cells}) / 24)
        return Rate(mean, math.sqrt(_variance(cells, rates, seconds_of) + (DAYS_DIFFER * mean) ** 2 / days))


def _part(hour: int) -> int:
    """The part of the day, of an hour since 1970."""
    return hour % 24 * PARTS // 24


def _variance(
    cells: Sequence[tuple[int, int, float, float]], rates: Mapping[int, float], watched: Sequence[float]
) -> float:
    """Of the mean over the parts of the day."""
    expected: defaultdict[int, float] = defaultdict(float)
    climbed: defaultdict[int, float] = defaultdict(float)
    for worker, hour, seconds, climb in cells:
        expected[worker] += rates[_part(hour)] * seconds
        climbed[worker] += climb
    variance = 0.0
    for worker, hour, seconds, climb in cells:
        speed = climbed[worker] / expected[worker] if expected[worker] else 1.0
        difference = climb - rates[_part(hour)] * speed * seconds
        variance += (difference / watched[_part(hour)] / len(rates)) ** 2
    # The rates and speeds are calculated from the same cells.
    free = len(cells) - len(rates) - len(expected)
    return variance * len(cells) / max(free, 1)
