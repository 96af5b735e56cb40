"""How fast the workers of a pool climb from a certain age on, averaged over the hours of a day. Pure.

The load is shared: a worker that serves more requests takes them from the others. So the pool's rate is all that its
workers climbed, divided by all the time that they were watched, however different they are.

The load has a daily cycle, and a weekend (Saturday and Sunday, UTC) may have less of it. So the rate is calculated for
each 3 hours of a weekday and of a day of a weekend, and then averaged over a week: a night that was watched twice
counts once. A weekend that was not watched counts as weekdays do; weekdays have to be watched.

Its standard error comes from what each worker climbed in each hour, compared with what the rate at that time of the day
and the worker's own speed predict, and from the difference between one day and another.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from supervisor_memreap.advice.climb import Step

HOUR, DAY = 3600, 86400
# The load is about the same within a part of the day.
PARTS = 8
# Of the 24 hours of a weekday, the least that must be watched; and the least where watching went on for more than a
# day, so that another part of the day does not look like another age.
FEWEST_HOURS, FEWEST_HOURS_LATER = 20, 23
# A part of the day that was watched for less than this share of the others is not evidence: in a minute a worker climbs
# less than its readings fall and rise.
THIN = 0.1
# Seconds of watching after which what came before a restart is compared with what came after it.
COMPARED = 3 * HOUR
# Days differ in load: the standard deviation, as a share of the rate.
DAYS_DIFFER = 0.1


class Rate(NamedTuple):
    mean: float
    """Bytes per second of a worker."""
    error: float
    """Its standard error."""
    parts: tuple[float, ...]
    """The same for each part of a weekday, and then of a day of a weekend (UTC)."""

    def between(self, begin: float, end: float) -> float:
        """Bytes that a worker climbs from one time to another, in seconds since 1970."""
        days = max(0.0, (end - begin) // DAY)
        climb, at = days * DAY * self.mean, begin + days * DAY
        while at < end:
            after = min(end, (at // HOUR + 1) * HOUR)
            climb += (after - at) * self.parts[_part(int(at // HOUR))]
            at = after
        return climb

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
                part = cell[bisect_right(ages, step.age) - 1]
                part[0] += step.seconds
                part[1] += step.high - step.low

    def _from(self, first: int, last: int | None = None) -> Iterator[tuple[int, int, float, float]]:
        """Worker, hour, seconds and climb of each cell, of the ages from number `first` up to `last`."""
        for (worker, hour), parts in self._cells.items():
            seconds = sum(part[0] for part in parts[first:last])
            if seconds:
                yield worker, hour, seconds, sum(part[1] for part in parts[first:last])

    def rate(self, first: int) -> Rate | None:
        """From age number `first` on; None: too few hours of the day were watched."""
        cells = list(self._from(first))
        needed = FEWEST_HOURS_LATER if len({hour for _, hour in self._cells}) >= 27 else FEWEST_HOURS
        if len({hour % 24 for _, hour, _, _ in cells if _part(hour) < PARTS}) < needed:
            return None
        part_rates, seconds_of = self._parts(first)
        weekday, weekend = part_rates[:PARTS], part_rates[PARTS:]
        known = [rate for rate in weekday if rate is not None]
        usual = [sum(known) / len(known) if rate is None else rate for rate in weekday]
        off = [at_work if rate is None else rate for at_work, rate in zip(usual, weekend)]
        rates = (*usual, *off)
        mean = sum((5 * at_work + 2 * at_rest) / 7 for at_work, at_rest in zip(usual, off)) / PARTS
        cells = [cell for cell in cells if part_rates[_part(cell[1])] is not None]
        shares = [1.0 if rate is None else 5 / 7 for rate in weekend] + [2 / 7] * PARTS
        days = max(1.0, len({hour for _, hour, _, _ in cells}) / 24)
        expected = [(worker, rates[_part(hour)] * seconds, climb) for worker, hour, seconds, climb in cells]
        differences, workers = _differences(expected)
        weights = [shares[part] / seconds_of[part] / PARTS for part in (_part(hour) for _, hour, _, _ in cells)]
        squares = sum((difference * weight) ** 2 for difference, weight in zip(differences, weights))
        # The rates and speeds are calculated from the same cells.
        free = len(cells) - sum(map(bool, seconds_of)) - workers
        variance = squares * len(cells) / max(free, 1)
        error = math.sqrt(variance + (DAYS_DIFFER * mean) ** 2 / days)
        return Rate(mean, error, rates)

    def _parts(self, first: int) -> tuple[list[float | None], list[float]]:
        """The rate from age number `first` on in each part of the day, None: unknown; and how long it was watched."""
        seconds, climb = [0.0] * 2 * PARTS, [0.0] * 2 * PARTS
        for _, hour, watched, climbed in self._from(first):
            seconds[_part(hour)] += watched
            climb[_part(hour)] += climbed
        least = THIN * sum(seconds) / max(1, sum(map(bool, seconds)))
        return [part / time if time > least else None for part, time in zip(climb, seconds)], seconds

    def plain(self, first: int, last: int | None) -> float | None:
        """Bytes per second from age `first` up to age `last`, whatever the time of the day; None: unknown."""
        seconds = climb = 0.0
        for _, _, watched, climbed in self._from(first, last):
            seconds += watched
            climb += climbed
        return climb / seconds if seconds >= HOUR else None

    def excess(self, number: int, rate: Rate) -> Rate | None:
        """How much faster workers climb from age `number` up to the next one than at this rate; None: unknown.

        Compared at the same times of the day. The standard error is that between workers.
        """
        seconds: defaultdict[int, float] = defaultdict(float)
        climb: defaultdict[int, float] = defaultdict(float)
        for worker, hour, watched, climbed in self._from(number, number + 1):
            seconds[worker] += watched
            climb[worker] += climbed - watched * rate.parts[_part(hour)]
        whole = sum(seconds.values())
        length = self.ages[number + 1] - self.ages[number]
        if whole < length / 2:
            return None
        mean = sum(climb.values()) / whole
        squares = sum((climb[worker] - mean * seconds[worker]) ** 2 for worker in seconds)
        return Rate(mean, math.sqrt(squares) / whole, ())

    def compare(self, before: Cells, first: int) -> tuple[float, float, float]:
        """Bytes per second from age number `first` on; the same of `before`, at the same times of the day; its error.

        If `before` was not watched then, at the times beside them, and a weekend is compared with weekdays. The error
        is infinite if less than 3 hours can be compared.
        """
        part_rates, _ = before._parts(first)
        weekday = part_rates[:PARTS]
        weekday = list(map(_known, weekday, [weekday[-1], *weekday[:-1]], [*weekday[1:], weekday[0]]))
        rates = [*weekday, *map(_known, part_rates[PARTS:], weekday)]
        climbed, expected, error = self._beside(rates, first)
        return climbed, expected, math.hypot(error, before._beside(rates, first)[2])

    def _beside(self, rates: Sequence[float | None], first: int) -> tuple[float, float, float]:
        """Bytes per second; what these rates of each part of the day predict; the standard error of the difference."""
        cells: list[tuple[int, float, float]] = []
        seconds, hours = 0.0, set()
        for worker, hour, watched, climb in self._from(first):
            rate = rates[_part(hour)]
            if rate is not None:
                cells.append((worker, rate * watched, climb))
                seconds += watched
                hours.add(hour)
        differences, workers = _differences(cells)
        if len(hours) < COMPARED / HOUR or len(cells) <= workers:
            return 0.0, 0.0, math.inf
        squares = sum(difference**2 for difference in differences)
        error = math.sqrt(squares * len(cells) / (len(cells) - workers))
        climbed, expected = (sum(cell[part] for cell in cells) for part in (2, 1))
        return climbed / seconds, expected / seconds, error / seconds


def _known(*rates: float | None) -> float | None:
    """The first that is known."""
    return next((rate for rate in rates if rate is not None), None)


def is_weekend(hour: int) -> bool:
    """Whether an hour since 1970, which began on a Thursday, is on a Saturday or Sunday (UTC)."""
    return hour // 24 % 7 in (2, 3)


def _part(hour: int) -> int:
    """The part of the day, of an hour since 1970; those of a weekend come after those of weekdays."""
    return hour % 24 * PARTS // 24 + is_weekend(hour) * PARTS


def _differences(cells: Sequence[tuple[int, float, float]]) -> tuple[list[float], int]:
    """What each cell climbed more than expected, of its worker, what is expected and what it climbed; and of how many
    workers they are. The shares that workers have of the load stay; what differs from hour to hour is chance.
    """
    expected: defaultdict[int, float] = defaultdict(float)
    climbed: defaultdict[int, float] = defaultdict(float)
    for worker, usual, climb in cells:
        expected[worker] += usual
        climbed[worker] += climb
    speed = {worker: climbed[worker] / usual if usual else 1.0 for worker, usual in expected.items()}
    return [climb - usual * speed[worker] for worker, usual, climb in cells], len(expected)
