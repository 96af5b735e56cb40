"""How long a worker takes until it is over a limit for the first time, where it climbs in jumps. Pure.

The way from the size of a fresh worker up to the limit is divided into levels. The mean time in a level is all the time
that workers were watched while their running maximum was in it, divided by how often it was climbed through; a jump
climbs through several levels at once. The sum over the levels is the mean time to the limit. A worker that was watched
only for a part of its way counts for that part: one that was forked earlier, still runs, or was reaped.

A worker that returns the memory of a large request is as good as fresh: once it was over the limit, and is then back
near the size of a fresh worker, its running maximum starts over.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

from supervisor_memreap.advice.climb import is_young
from supervisor_memreap.advice.climbrate import is_weekend
from supervisor_memreap.advice.poolhistory import WorkerHistory

LEVELS = 20
# A worker is back near the size of a fresh one if it has given back this share of what it had climbed.
BACK = 0.75
# Seconds of watching of one worker that count as one observation for the standard error.
BLOCK = 6 * 3600
# Share of the crossings that last for one reading only: with more, most of such crossings are between two readings.
MOST_BRIEF = 0.25


class Passage(NamedTuple):
    seconds: float
    """Mean time until a worker is over the limit; infinite: none was seen there."""
    error: float
    """Its standard error."""
    mean: float
    """What a worker holds on average until then, in bytes."""
    crossings: int
    watched: float
    """Worker seconds below the limit."""
    hours: int
    """How many of the 24 hours of a weekday that was in."""
    is_brief: bool
    """Whether workers are over the limit for so short a time that readings miss many of these times."""


class _Levels:
    def __init__(self, fresh: float, limit: float) -> None:
        self.fresh, self.limit = fresh, limit
        self.width = (limit - fresh) / LEVELS
        self.time = [0.0] * LEVELS
        self.climbs = [0.0] * LEVELS
        self.hours: set[int] = set()
        """Since 1970."""
        self.bytes = 0.0
        """Used memory times seconds."""
        self.crossings = self.brief = 0
        self.blocks: defaultdict[tuple[int, int], dict[int, list[float]]] = defaultdict(dict)
        """For each worker and block of time: for each level its time and its climbs."""

    def of(self, size: float) -> int:
        return min(LEVELS - 1, max(0, int((size - self.fresh) / self.width)))

    def stay(self, block: tuple[int, int], size: int, seconds: float, used: int) -> None:
        level = self.of(size)
        self.time[level] += seconds
        self.bytes += seconds * min(used, size)
        self.blocks[block].setdefault(level, [0.0, 0.0])[0] += seconds

    def climb(self, block: tuple[int, int], low: float, high: float) -> None:
        """Count the part of each level that is climbed."""
        if high <= self.fresh:
            return
        for level in range(self.of(low), self.of(high) + 1):
            bottom = self.fresh + level * self.width
            part = (min(high, bottom + self.width) - max(low, bottom)) / self.width
            if part > 0:
                self.climbs[level] += part
                self.blocks[block].setdefault(level, [0.0, 0.0])[1] += part


def passage(workers: Sequence[WorkerHistory], fresh: float, limit: float, begin: float, longest: float) -> Passage:
    """From `fresh` to `limit`, both in bytes; the first `begin` seconds of watching of each worker do not count."""
    levels = _Levels(fresh, limit)
    for number, worker in enumerate(workers):
        _follow(levels, number, worker, begin, longest)
    watched = sum(levels.time)
    hours = len({hour % 24 for hour in levels.hours if not is_weekend(hour)})
    is_brief = levels.brief > MOST_BRIEF * max(levels.crossings, 1)
    # A level that none was seen to climb may take any time.
    if not all(levels.climbs) or not levels.crossings:
        return Passage(math.inf, math.inf, 0.0, levels.crossings, watched, hours, is_brief)
    means = [time / climbs for time, climbs in zip(levels.time, levels.climbs)]
    variance = sum(
        sum(
            (time - climbs * means[level]) / levels.climbs[level]
            for level, (time, climbs) in block.items()
            if means[level]
        )
        ** 2
        for block in levels.blocks.values()
    )
    mean = levels.bytes / watched if watched else 0.0
    return Passage(sum(means), math.sqrt(variance), mean, levels.crossings, watched, hours, is_brief)


def _follow(levels: _Levels, number: int, worker: WorkerHistory, begin: float, longest: float) -> None:
    if not worker.readings:
        return
    before, top = worker.readings[0]
    is_counted = False
    is_over = False
    for index, (at, used) in enumerate(worker.readings[1:], 1):
        block = number, int(at // BLOCK)
        low, seconds = top, at - before
        before = at
        if is_over:
            if used > levels.fresh + (1 - BACK) * (levels.limit - levels.fresh):
                continue
            is_over, top = False, used
            levels.climb(block, levels.fresh, max(top, levels.fresh))
            continue
        top = max(top, used)
        if at - worker.readings[0].at < begin:
            continue
        if not is_counted:
            # Only the way from here counts. But a young worker that is larger than others has that behind it.
            is_counted = True
            if is_young(worker):
                levels.climb(block, levels.fresh, min(top, levels.limit))
        elif seconds <= longest and low <= levels.limit:
            levels.stay(block, low, seconds, used)
            levels.hours.add(int(at // 3600))
            if top > low:
                levels.climb(block, max(low, levels.fresh), min(top, levels.limit))
        if top > levels.limit:
            is_over = True
            if low <= levels.limit:
                levels.crossings += 1
                after = worker.readings[index + 1].used if index + 1 < len(worker.readings) else used
                # Not one that was only just below the limit before.
                levels.brief += after < (low + used) / 2 and low < levels.limit - levels.width
