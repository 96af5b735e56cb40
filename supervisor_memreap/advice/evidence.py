"""What the readings of a pool show about how its workers grow; core.suggestion has the rules. Pure."""

from __future__ import annotations

import enum
import math
from collections.abc import Sequence
from statistics import median, pstdev
from typing import NamedTuple

from supervisor_memreap.advice.climb import LONGEST_STEP, Step, is_young, run_in, sizes_at, steps
from supervisor_memreap.advice.climbrate import Cells, Rate
from supervisor_memreap.advice.growth import STEADY
from supervisor_memreap.advice.poolhistory import WorkerHistory

HOUR, DAY = 3600.0, 86400.0
# Growth in a day that counts as none, as a share of the baseline.
NONE = 0.05
# The largest standard error of a life, as a share of it, with which it is promised.
SURE = 0.15
# Seconds: the ages from which on growth may be steady; the first is that from which on it counts (climb.run_in).
_AGES = (1 * HOUR, 2 * HOUR, 4 * HOUR, 8 * HOUR, 16 * HOUR, 32 * HOUR, 64 * HOUR)
_BASELINE_AGES = ((2 * 60.0, 10 * 60.0), (10 * 60.0, 30 * 60.0))
# A step is a jump if it is larger than this share of the baseline, and than this many mean steps.
_JUMP, _JUMP_STEPS = 0.1, 6
# Maximum seconds of a step that shows whether workers climb in jumps.
_FINE = 150.0
# Shares of all climbing that jumps have in a pool with spikes, and in a mixed one.
_SPIKY, MIXED = 0.6, 0.25
# The standard error, as a share, of growth before the watching began.
_DAYS_BEFORE = 0.15
# The standard error, as a share, of growth that slows down.
_UNEVEN = 0.15
# Growth of young workers that does not count, as a share of the smallest size.
_LITTLE = 0.03


class Kind(enum.Enum):
    """How workers grow."""

    STEADY = "steady leak"
    LEVELS_OFF = "levels off"
    SPIKES = "spikes"
    NONE = "no growth"
    MIXED = "mixed"
    UNKNOWN = "unknown"


class Jump(NamedTuple):
    """What a worker climbed at once, in a single request."""

    at: float
    """Seconds since 1970, within a minute."""
    pid: int
    climb: int
    """Bytes."""


class Evidence:
    """What the readings of a pool show about its growth."""

    def __init__(
        self, workers: Sequence[WorkerHistory], number: int, baseline: int | None, cap: float, days: float
    ) -> None:
        self.workers, self.number, self.cap, self.days = workers, number, cap, max(1.0, days)
        self.begin = run_in(workers)
        """Age from which on climbing counts, in seconds."""
        self.steps: list[list[Step]] = [list(steps(worker, self.begin)) for worker in workers]
        self.all_steps = [step for each in self.steps for step in each]
        self.ages = usable_ages(workers, self.begin)
        self._cells = Cells(self.steps, self.ages)
        rates = [self._cells.rate(first) for first in range(len(self.ages))]
        self.rates: list[Rate] = [rate for rate in rates if rate is not None]
        """From each age on, as far as enough hours of the day were watched."""
        sizes = [used for worker in workers for _, used in worker.readings]
        self.smallest, self.largest = min(sizes, default=0), max(sizes, default=0)
        young = [held for worker in workers if is_young(worker) for held in [held_young(worker)] if held is not None]
        self.large_fresh = sorted(young)[len(young) * 3 // 4] if young else 0
        """What three quarters of the fresh workers hold at most."""
        # The readings of an older history are far apart: they miss memory that is soon returned.
        self.longest = _FINE if self._is_returned() else LONGEST_STEP
        self.seen_jumps: list[Jump] = []
        self.jumps = self._share_of_jumps(baseline)
        self.steady_from = 0
        """The number of the age from which on growth is steady, as far as is known."""
        self.curvature = 0.0
        """By which share growth changes on the way to the limit in force."""
        self.is_slowing = False
        """Whether growth still slows down at the oldest age."""
        self.early_growth: float | None = 0.0
        """Bytes that a worker climbs before that age, beyond what it climbs at the rate after it; None: unknown."""
        self.early_growth_error = 0.0
        self._find_steady()
        self.baseline = baseline
        self.start, self.start_error = self._size_at(self.begin)
        """The running maximum from which on climbing counts, in bytes; None: unknown."""
        if self.start is None and self.rates:
            self._calculate_back()
        if self.cap < math.inf:
            self.curvature = self._curvature_below_limit()
            self.is_slowing = self.is_slowing or self.curvature > 1 - STEADY
        self.kind = self._kind() if self.rates else Kind.UNKNOWN

    @property
    def is_followed(self) -> bool:
        """Whether workers were watched beyond the age from which on growth counts, for as long as one must be."""
        return sum(step.seconds for step in self.all_steps) >= DAY / 4

    def growth_so_far(self) -> float | None:
        """Bytes per second, of all that was watched."""
        seconds = sum(step.seconds for step in self.all_steps)
        return sum(step.climb for step in self.all_steps) / seconds if seconds >= self.begin / 2 else None

    def grew(self) -> int:
        """How many workers climbed by more than readings fall and rise."""
        return sum(
            1 for worker in self.workers if max(used for _, used in worker.readings) > 1.05 * worker.readings[0].used
        )

    def _share_of_jumps(self, baseline: int | None) -> float:
        fine = [step for step in self.all_steps if step.seconds <= _FINE]
        whole, seconds = sum(step.climb for step in fine), sum(step.seconds for step in fine)
        if not whole:
            return 0.0
        base = baseline or min(used for worker in self.workers for _, used in worker.readings)
        mean = whole / seconds
        self.seen_jumps = [
            Jump(step.at, worker.pid, step.climb)
            for worker, worker_steps in zip(self.workers, self.steps)
            for step in worker_steps
            if step.seconds <= _FINE and step.climb > max(base * _JUMP, _JUMP_STEPS * mean * step.seconds)
        ]
        return sum(jump.climb for jump in self.seen_jumps) / whole

    def _is_returned(self) -> bool:
        """Whether workers return what they climb."""
        high = used = 0.0
        for worker_steps in self.steps:
            first = worker_steps[0].low if worker_steps else 0
            for step in worker_steps:
                high += (step.high - first) * step.seconds
                used += (step.used - first) * step.seconds
        return used < high / 2

    def _find_steady(self) -> None:
        """Compare the growth of young workers with that of old ones, from the oldest age down."""
        if not self.rates:
            return
        number = len(self.rates) - 1
        old = self.rates[number]
        while number:
            excess = self._cells.excess(number - 1, old)
            length = self.ages[number] - self.ages[number - 1]
            if (
                excess is not None
                and abs(excess.mean) > (1 - STEADY) * old.mean + 2 * excess.error
                and abs(excess.mean) * length > _LITTLE * self.smallest
            ):
                break
            number -= 1
        self.steady_from = number
        if len(self.rates) == 1:
            self.is_slowing = len(self.ages) > 1
        elif number == len(self.rates) - 1:
            # What may still be left of the growth that slows down.
            last = self._cells.excess(number - 1, old)
            self.is_slowing = last is None or last.mean > old.mean / 2
        if number and self.days < 2 and not self.is_slowing:
            # Another time of the day may hide that growth still slows down.
            first, later = self._cells.plain(number, number + 1), self._cells.plain(number + 2, None)
            self.is_slowing = first is not None and later is not None and later < STEADY * first
        for each in range(number):
            excess = self._cells.excess(each, self.rates[number])
            length = self.ages[each + 1] - self.ages[each]
            if excess is None:
                self.early_growth = None
                return
            assert self.early_growth is not None
            self.early_growth += excess.mean * length
            self.early_growth_error = math.hypot(self.early_growth_error, excess.error * length)
        # Growth that slows down is not even within the time between two ages.
        self.early_growth_error = math.hypot(self.early_growth_error, _UNEVEN * (self.early_growth or 0.0))

    def _curvature_below_limit(self) -> float:
        """By which share workers that are reaped at a limit climb the upper half of their way faster or slower."""
        half = (self.start + min(self.cap, self.largest)) / 2 if self.start else 0.0
        seconds, climb = [0.0, 0.0], [0.0, 0.0]
        for step in self.all_steps:
            seconds[step.low > half] += step.seconds
            climb[step.low > half] += step.climb
        if not all(seconds) or not all(climb):
            return math.inf
        ratio = climb[1] / seconds[1] * seconds[0] / climb[0]
        return 1 - min(ratio, 1 / ratio)

    def _size_at(self, age: float) -> tuple[float | None, float]:
        """The median running maximum at this age, and its standard error, in bytes."""
        sizes = sizes_at(self.workers, age, self.begin)
        if not sizes:
            return None, 0.0
        middle = median(sizes)
        spread = pstdev(sizes) if len(sizes) > 2 else middle * 0.1
        return middle, spread / math.sqrt(len(sizes))

    def _calculate_back(self) -> None:
        """The size of a fresh worker, from the age and size of those that are watched.

        Jumps before that are unknown, so where workers climb in jumps it is what those hold that were an hour old.
        """
        rate, starts, climbs = self.rates[self.steady_from], [], []
        for worker, worker_steps in zip(self.workers, self.steps):
            if worker_steps and (self.jumps < MIXED or worker_steps[0].age <= HOUR):
                first = worker_steps[0]
                begin = first.at - first.seconds / 2
                climbs.append(rate.between(min(begin, worker.started + self.begin), begin))
                starts.append(first.low - climbs[-1])
        if not starts:
            return
        size, climb = median(starts), median(climbs)
        spread = pstdev(starts) if len(starts) > 2 else abs(size) * 0.1
        before = (self.early_growth or 0.0) * min(1.0, climb / rate.mean / HOUR) if rate.mean else 0.0
        error = math.hypot(spread / math.sqrt(len(starts)), climb * _DAYS_BEFORE, before)
        if error <= size * SURE:
            self.start, self.start_error, self.baseline = size, error, round(size)

    def _kind(self) -> Kind:
        base = self.baseline or self.start or self.largest
        if self.jumps >= MIXED:
            return Kind.SPIKES if self.jumps >= _SPIKY else Kind.MIXED
        rate = self.rates[self.steady_from]
        is_flat = rate.mean * DAY < NONE * base
        has_early_growth = self.early_growth is None or self.early_growth > max(
            NONE * base, 2 * self.early_growth_error
        )
        if is_flat:
            return Kind.LEVELS_OFF if has_early_growth else Kind.NONE
        if self.is_slowing:
            return Kind.UNKNOWN if has_early_growth else Kind.STEADY
        return Kind.MIXED if has_early_growth else Kind.STEADY

    def mean_used(self, limit: int) -> float:
        """What a worker holds on average while it is below the limit, as far as was seen."""
        below = [step for step in self.all_steps if step.high <= limit]
        seconds = sum(step.seconds for step in below)
        return sum(step.seconds * step.used for step in below) / seconds if seconds else 0.0


def usable_ages(workers: Sequence[WorkerHistory], begin: float) -> tuple[float, ...]:
    """Of workers that are reaped, only the slow ones grow old: the old ones do not stand for all."""
    if sum(worker.was_reaped for worker in workers) >= 3:
        return (begin,)
    return (begin, *(age for age in _AGES if begin < age))


def held_young(worker: WorkerHistory) -> float | None:
    for first, last in _BASELINE_AGES:
        held = [used for at, used in worker.readings if first <= at - worker.started <= last]
        if held:
            return median(held)
    return None
