"""Which limit is right for a pool: its history in, one suggested limit or why it is not known out. Pure.

1. The *baseline* is what a warmed-up worker holds: the median, over the workers that were watched from their youth, of
   what each held when it was 2 to 10 minutes old (up to 30, if readings are further apart). If none was, it is
   calculated back from the age and the growth of the workers, as far as that is sure enough.
2. Nothing is promised before 20 hours were watched, since the load changes over the day.
3. Growth is *steady* from an age on if it is about as fast from the oldest age on for which the rate is known
   (core.climbrate). Then a worker reaches a limit at that age, plus what is missing divided by the rate; up to 3 times
   the range that was seen.
4. Where workers climb in jumps, and below the age from which on growth is steady, the time to a limit is put together
   from the times in the levels below it (core.passage). Above what was seen, nothing is known.
5. A pool of n workers reaps n times a day, divided by the mean life in days. This is promised only if its standard
   error is small enough to be right within 25 %. Where workers do not come near a limit, the promise is an upper bound:
   less than one reap a day; or up to three, since what was not seen in one day may well happen three times in another.
   Otherwise nothing is known, and a limit for which nothing is known is never suggested.
6. The suggested limit is at least twice the baseline, so the pool is never suspended for it (core.policy, rule 9). It
   is the smallest one with which a worker lives for at least 6 hours, since a young worker has cold caches. Where
   workers do not grow for long, it is clearly above all that they were seen to hold: it replaces none, and catches a
   leak.
"""

from __future__ import annotations

import enum
import math
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from statistics import median, pstdev
from typing import NamedTuple

from supervisor_memreap.core.climb import LONGEST_STEP, Step, is_young, life_of, run_in, size_at, steps
from supervisor_memreap.core.climbrate import Cells, Rate
from supervisor_memreap.core.growth import STEADY
from supervisor_memreap.core.history import PoolHistory, Reading, WorkerHistory
from supervisor_memreap.core.passage import Passage, passage
from supervisor_memreap.core.text import MIB

HOUR, DAY = 3600.0, 86400.0
# Seconds of readings before anything is promised.
WATCHED = 20 * HOUR
# Seconds of the history that count.
RECENT = 7 * DAY
# Seconds that a worker should live: younger ones have cold caches.
WARM = 6 * HOUR
# A limit is at least this many times the baseline.
ROOM = 2
# A limit that is to replace none in normal running is at least this many times the largest size that was seen.
CLEAR = 1.25
# The largest standard error of a life, as a share of it, with which it is promised.
SURE = 0.15
# Fewer reaps a day are a few, whatever the exact figure.
FEW = 1
# If something was never seen, at most so many times were to be expected (95 %, Poisson). So after one day that is the
# least that may happen in a day.
_NONE_SEEN = 3
# How far beyond the range of sizes that was seen steady growth is expected to go on.
FARTHEST = 3
# Seconds: the ages from which on growth may be steady; the first is that from which on it counts (climb.run_in).
_AGES = (1 * HOUR, 2 * HOUR, 4 * HOUR, 8 * HOUR, 16 * HOUR, 32 * HOUR, 64 * HOUR)
_BASELINE_AGES = ((2 * 60.0, 10 * 60.0), (10 * 60.0, 30 * 60.0))
# A step is a jump if it is larger than this share of the baseline, and than so many mean steps.
_JUMP, _JUMP_STEPS = 0.1, 6
# Maximum seconds of a step that shows whether workers climb in jumps.
_FINE = 150.0
# Shares of all climbing that jumps have in a pool with spikes, and in a mixed one.
_SPIKY, _MIXED = 0.6, 0.25
# Growth in a day that counts as none, as a share of the baseline.
_NONE = 0.05
# The standard error, as a share, of growth before the watching began.
_DAYS_BEFORE = 0.15
# How many candidates are shown.
_SHOWN = 7
_ROUND = (10, 12, 15, 20, 25, 30, 40, 50, 60, 80)


class Kind(enum.Enum):
    """How workers grow."""

    STEADY = "steady leak"
    LEVELS_OFF = "levels off"
    SPIKES = "spikes"
    NONE = "no growth"
    MIXED = "mixed"
    UNKNOWN = "unknown"


class Why(enum.Enum):
    """Why this limit is suggested, or why none is."""

    WARM = "smallest limit with which a worker lives for hours"
    SHORT_LIVES = "the largest limit that can be judged; workers grow too fast to live for hours"
    CLEAR = "above all that workers hold in normal running"
    AFTER_SPIKES = "replaces a worker after a large request"
    TOO_SHORT = "watched for too short a time"
    NO_WORKERS = "no worker was watched"
    NO_FRESH = "no fresh worker was watched"
    UNSURE = "no limit can be judged yet"


class Forecast(NamedTuple):
    """What a limit would do; None: not known."""

    limit: int
    """Bytes."""
    life: float | None = None
    """Mean life of a worker, in seconds."""
    reaps: float | None = None
    """By the whole pool in a day."""
    below: int | None = None
    """Fewer reaps a day than this, where no more is known."""
    total: int | None = None
    """What the workers hold together on average, in bytes of the metric."""
    most: int | None = None
    """What they hold at most, if all are right below their limit."""

    @property
    def is_known(self) -> bool:
        return self.below is not None or self.reaps is not None


@dataclass(frozen=True)
class Suggestion:
    pool: str
    metric: str
    watched: float
    """Seconds for which there are readings."""
    workers: int
    """How many serve at a time."""
    seen: int
    """How many were watched in all."""
    fresh: int
    """How many of them were watched from their youth."""
    grew: int
    """How many of them grew."""
    baseline: int | None
    """What a warmed-up worker holds, in bytes."""
    growth: float | None
    """Bytes that a worker climbs in an hour."""
    kind: Kind
    why: Why
    limit: int | None = None
    """The suggested one, in bytes."""
    forecasts: tuple[Forecast, ...] = ()
    """Of the candidates, the smallest first."""
    present: Forecast | None = None
    """Of the limit that is set now."""

    @property
    def suggested(self) -> Forecast | None:
        return next((forecast for forecast in self.forecasts if forecast.limit == self.limit), None)


def suggest(history: PoolHistory, now: float, candidates: Iterable[int] | None = None) -> Suggestion:
    """Judge the candidates (bytes; round sizes by default), and suggest one. `now` is in seconds since 1970."""
    history = _recent(history, now)
    workers, cap = _completed(history)
    watched = _watched(history, now)
    number = _usual_number(history, workers)
    fresh = [held for worker in workers if is_young(worker) for held in [_held_young(worker)] if held is not None]
    baseline = round(median(fresh)) if fresh else None
    evidence = _Evidence(workers, max(1, number), baseline, cap, watched / DAY)
    growth = evidence.rates[0] if evidence.rates else None
    so_far = growth.mean if growth else evidence.growth_so_far()
    common = (history.name, history.metric, watched, number, len(workers), len(fresh), evidence.grew())
    per_hour = None if so_far is None else so_far * HOUR
    if not workers:
        return Suggestion(*common, None, None, Kind.UNKNOWN, Why.NO_WORKERS)
    if watched < WATCHED or not evidence.rates:
        return Suggestion(*common, baseline, per_hour, Kind.UNKNOWN, Why.TOO_SHORT)
    if evidence.start is None:
        return Suggestion(*common, None, per_hour, evidence.kind, Why.NO_FRESH)
    present = history.readings[-1].limit if history.readings else None
    return _choose(
        Suggestion(
            *common,
            evidence.baseline,
            per_hour,
            evidence.kind,
            Why.UNSURE,
            present=evidence.forecast(present) if present else None,
        ),
        evidence,
        tuple(candidates) if candidates is not None else None,
    )


def _choose(judged: Suggestion, evidence: _Evidence, candidates: Sequence[int] | None) -> Suggestion:
    assert judged.baseline is not None
    sizes = set(candidates or round_sizes(ROOM * judged.baseline))
    if judged.present and judged.present.limit >= ROOM * judged.baseline:
        sizes.add(judged.present.limit)
    forecasts = [evidence.forecast(limit) for limit in sorted(sizes)]
    least = max(ROOM * judged.baseline, evidence.large_fresh * CLEAR)
    usable = [each for each in forecasts if each.is_known and each.limit >= least]
    clear = [each for each in usable if each.limit >= CLEAR * evidence.largest and each.below]
    warm = [each for each in usable if (each.life or evidence.number * DAY / (each.below or math.inf)) >= WARM]
    chosen: Forecast | None = None
    why = Why.UNSURE
    if judged.kind in (Kind.LEVELS_OFF, Kind.NONE):
        chosen, why = (clear[0], Why.CLEAR) if clear else (None, Why.UNSURE)
    elif warm:
        chosen, why = warm[0], Why.AFTER_SPIKES if judged.kind is Kind.SPIKES else Why.WARM
    elif usable:
        chosen, why = usable[-1], Why.SHORT_LIVES
    shown = forecasts if candidates is not None else _around(forecasts, chosen)
    return replace(judged, why=why, limit=chosen.limit if chosen else None, forecasts=tuple(shown))


def round_sizes(least: float) -> list[int]:
    """Sizes as users write them, from `least` bytes on, up to some 50 times as much."""
    sizes = [each * 10**power for power in range(3) for each in _ROUND if 10 <= each * 10**power < 1000]
    sizes = sorted(set(sizes)) + [round(each * 1024) for each in (1, 1.5, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64)]
    return [size * MIB for size in sizes if size * MIB >= least][:18]


def _around(forecasts: Sequence[Forecast], chosen: Forecast | None) -> Sequence[Forecast]:
    """Some below the chosen one, and some above."""
    at = forecasts.index(chosen) if chosen else 0
    first = max(0, min(at - _SHOWN // 2, len(forecasts) - _SHOWN))
    return forecasts[first : first + _SHOWN]


class _Evidence:
    """What the readings of a pool say about its growth."""

    def __init__(
        self, workers: Sequence[WorkerHistory], number: int, baseline: int | None, cap: float, days: float
    ) -> None:
        self.workers, self.number, self._cap, self._days = workers, number, cap, max(1.0, days)
        self.begin = run_in(workers)
        """Age from which on climbing counts, in seconds."""
        self._steps: list[list[Step]] = [list(steps(worker, self.begin)) for worker in workers]
        self._ages = self._usable_ages()
        self._cells = Cells(self._steps, self._ages)
        rates = [self._cells.rate(first) for first in range(len(self._ages))]
        self.rates: list[Rate] = [rate for rate in rates if rate is not None]
        """From each age on, as far as enough hours of the day were watched."""
        self.largest = max((used for worker in workers for _, used in worker.readings), default=0)
        young = [held for worker in workers if is_young(worker) for held in [_held_young(worker)] if held is not None]
        self.large_fresh = sorted(young)[len(young) * 3 // 4] if young else 0
        """What three quarters of the fresh workers hold at most."""
        # The readings of an older history are far apart: they miss memory that is soon returned.
        self._longest = _FINE if self._is_returned() else LONGEST_STEP
        self.jumps = self._share_of_jumps(baseline)
        self.steady_from = 0
        """The number of the age from which on growth is steady, as far as is known."""
        self.is_slowing = False
        """Whether growth still slows down at the oldest age."""
        self.youth: float | None = 0.0
        """Bytes that a worker climbs before that age, beyond what it climbs at the rate after it; None: unknown."""
        self._youth_error = 0.0
        self._find_steady()
        self.baseline = baseline
        self.start, self._start_error = self._size_at(self.begin)
        """The running maximum from which on climbing counts, in bytes; None: unknown."""
        if self.start is None and self.rates:
            self._calculate_back()
        self.kind = self._kind() if self.rates else Kind.UNKNOWN

    def _usable_ages(self) -> tuple[float, ...]:
        """Of workers that are reaped, only the slow ones grow old: the old ones do not stand for all."""
        lives = [life_of(worker) for worker in self.workers if worker.was_reaped]
        oldest = median(lives) / 2 if len(lives) >= 3 else math.inf
        return (self.begin, *(age for age in _AGES if self.begin < age <= oldest))

    def growth_so_far(self) -> float | None:
        """Bytes per second, of all that was watched."""
        seconds = sum(step.seconds for each in self._steps for step in each)
        return sum(step.climb for each in self._steps for step in each) / seconds if seconds >= self.begin / 2 else None

    def grew(self) -> int:
        """How many workers climbed by more than readings fall and rise."""
        return sum(
            1 for worker in self.workers if max(used for _, used in worker.readings) > 1.05 * worker.readings[0].used
        )

    def _share_of_jumps(self, baseline: int | None) -> float:
        fine = [step for each in self._steps for step in each if step.seconds <= _FINE and step.climb]
        whole = sum(step.climb for step in fine)
        seconds = sum(step.seconds for each in self._steps for step in each if step.seconds <= _FINE)
        if not whole:
            return 0.0
        base = baseline or min(used for worker in self.workers for _, used in worker.readings)
        mean = whole / seconds
        jumps = (
            step.climb for step in fine if step.climb > base * _JUMP and step.climb > _JUMP_STEPS * mean * step.seconds
        )
        return sum(jumps) / whole

    def _is_returned(self) -> bool:
        """Whether workers return what they climb."""
        high = used = 0.0
        for its_steps in self._steps:
            first = its_steps[0].low if its_steps else 0
            for step in its_steps:
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
            if excess is not None and abs(excess.mean) > (1 - STEADY) * old.mean + 2 * excess.error:
                break
            number -= 1
        self.steady_from = number
        if len(self.rates) == 1:
            self.is_slowing = len(self._ages) > 1
        elif number == len(self.rates) - 1:
            # What may still be left of the growth that slows down.
            last = self._cells.excess(number - 1, old)
            self.is_slowing = last is None or last.mean > old.mean / 2
        if number and self._days < 2 and not self.is_slowing:
            # Another time of the day may hide that growth still slows down.
            first, later = self._cells.plain(number, number + 1), self._cells.plain(number + 2, None)
            self.is_slowing = first is not None and later is not None and later < STEADY * first
        for each in range(number):
            excess = self._cells.excess(each, self.rates[number])
            length = self._ages[each + 1] - self._ages[each]
            if excess is None:
                self.youth = None
                return
            assert self.youth is not None
            self.youth += excess.mean * length
            self._youth_error = math.hypot(self._youth_error, excess.error * length)

    def _size_at(self, age: float) -> tuple[float | None, float]:
        """The median running maximum at this age, and its standard error, in bytes."""
        sizes = [size for worker in self.workers for size in [size_at(worker, age, self.begin)] if size is not None]
        if not sizes:
            return None, 0.0
        middle = median(sizes)
        spread = pstdev(sizes) if len(sizes) > 2 else middle * 0.1
        return middle, spread / math.sqrt(len(sizes))

    def _calculate_back(self) -> None:
        """The size of a fresh worker, from the age and size of those that are watched.

        Jumps before that are unknown, so where workers climb in jumps it is what those hold that were an hour old.
        """
        rate, found, ways = self.rates[self.steady_from], [], []
        for worker, its_steps in zip(self.workers, self._steps):
            if its_steps and (self.jumps < _MIXED or its_steps[0].age <= HOUR):
                first = its_steps[0]
                begin = first.at - first.seconds / 2
                ways.append(rate.between(min(begin, worker.started + self.begin), begin))
                found.append(first.low - ways[-1])
        if not found:
            return
        size, way = median(found), median(ways)
        spread = pstdev(found) if len(found) > 2 else abs(size) * 0.1
        before = (self.youth or 0.0) * min(1.0, way / rate.mean / HOUR) if rate.mean else 0.0
        error = math.hypot(spread / math.sqrt(len(found)), way * _DAYS_BEFORE, before)
        if error <= size * SURE:
            self.start, self._start_error, self.baseline = size, error, round(size)

    def _kind(self) -> Kind:
        base = self.baseline or self.start or self.largest
        if self.jumps >= _MIXED:
            return Kind.SPIKES if self.jumps >= _SPIKY else Kind.MIXED
        rate = self.rates[self.steady_from]
        is_flat = rate.mean * DAY < _NONE * base
        has_youth = self.youth is None or self.youth > max(_NONE * base, 2 * self._youth_error)
        if is_flat:
            return Kind.LEVELS_OFF if has_youth else Kind.NONE
        if self.is_slowing:
            return Kind.UNKNOWN if has_youth else Kind.STEADY
        return Kind.MIXED if has_youth else Kind.STEADY

    def forecast(self, limit: int) -> Forecast:
        """What this limit would do."""
        most = self.number * limit
        if self.start is None or limit <= self.start:
            return Forecast(limit, most=most)
        if self.jumps < _MIXED:
            forecast = self._steady(limit)
            if forecast is not None:
                return forecast
        if limit > self._cap:
            return Forecast(limit, most=most)
        if limit >= self.largest:
            # The same as from all readings, without reading them again.
            watched = sum(step.seconds for each in self._steps for step in each if step.seconds <= self._longest)
            return self._by_levels(limit, Passage(math.inf, math.inf, 0.0, 0, watched, False))
        return self._by_levels(limit, passage(self.workers, self.start, limit, self.begin, self._longest))

    def _steady(self, limit: int) -> Forecast | None:
        """By the rate from the age on from which growth is steady; None: the limit is reached before that age."""
        assert self.start is not None
        rate = self.rates[self.steady_from]
        youth = max(0.0, self.youth or 0.0)
        way = limit - self.start - youth
        error = math.hypot(self._start_error, self._youth_error)
        is_seen = limit < min(self.largest, self._cap)
        if way <= max(2 * error, rate.mean * (self._ages[self.steady_from] - self.begin)) or (
            self.is_slowing and is_seen
        ):
            return None
        is_far = limit - self.start > FARTHEST * (self.largest - self.start)
        is_flat = rate.mean * DAY < _NONE * self.start
        most = self.number * limit
        if not (self.is_slowing or self.youth is None or is_far or is_flat):
            life = self.begin + way / rate.mean
            if way / rate.mean * math.hypot(rate.error / rate.mean, error / way) <= SURE * life:
                mean = (self.start + youth / 2 + limit) / 2
                return Forecast(limit, life, self.number * DAY / life, None, round(self.number * mean), most)
        is_few = self.number * DAY * rate.most < FEW * (way - 2 * error) and limit >= CLEAR * self.largest
        if is_few and (is_flat or not is_far):
            total = round(self.number * self._mean_used(limit)) if is_flat else None
            # A larger request than all that were seen may come, though.
            below = max(FEW, math.ceil(_NONE_SEEN / self._days)) if is_flat else FEW
            return Forecast(limit, below=below, total=total, most=most)
        return Forecast(limit, most=most)

    def _by_levels(self, limit: int, way: Passage) -> Forecast:
        most = self.number * limit
        if way.is_brief:
            return Forecast(limit, most=most)
        life = self.begin + way.seconds
        if math.isfinite(life) and way.error <= SURE * life:
            return Forecast(limit, life, self.number * DAY / life, None, round(self.number * way.mean), most)
        if way.crossings == 0 and way.watched:
            below = max(FEW, math.ceil(self.number * DAY * _NONE_SEEN / way.watched))
            total = round(self.number * self._mean_used(limit))
            if below <= _NONE_SEEN:
                return Forecast(limit, below=below, total=total, most=most)
        return Forecast(limit, most=most)

    def _mean_used(self, limit: int) -> float:
        """What a worker holds on average while it is below the limit, as far as was seen."""
        seconds = used = 0.0
        for its_steps in self._steps:
            for step in its_steps:
                if step.high <= limit:
                    seconds += step.seconds
                    used += step.seconds * step.used
        return used / seconds if seconds else 0.0


def _recent(history: PoolHistory, now: float) -> PoolHistory:
    """What was recorded since RECENT: before that, the application may have been another one."""
    since = now - RECENT
    if not history.readings or history.readings[0].at >= since:
        return history
    workers = (
        replace(worker, readings=tuple(reading for reading in worker.readings if reading.at >= since))
        for worker in history.workers
    )
    return replace(
        history,
        readings=tuple(reading for reading in history.readings if reading.at >= since),
        workers=tuple(worker for worker in workers if worker.readings),
    )


def _completed(history: PoolHistory) -> tuple[tuple[WorkerHistory, ...], float]:
    """The workers, those that were reaped with a reading over their limit at the end; and the highest such limit.

    A worker that is over its limit is reaped before its next reading. Above a limit in force nothing is seen.
    """
    others = {event.pid for event in history.events if event.values.get("reason") not in (None, "", "limit")}
    workers, cap = [], 0
    times = [reading.at for reading in history.readings]
    for worker in history.workers:
        if not worker.readings:
            continue
        last = worker.readings[-1]
        at = bisect_right(times, last.at) - 1
        limit = history.readings[at].limit if at >= 0 else None
        completed = worker
        if worker.was_reaped and limit and worker.pid not in others and last.used <= limit:
            cap = max(cap, limit)
            gap = last.at - worker.readings[-2].at if len(worker.readings) > 1 else 60.0
            completed = replace(worker, readings=(*worker.readings, Reading(last.at + gap / 2, limit + 1)))
        workers.append(completed)
    return tuple(workers), cap or math.inf


def _held_young(worker: WorkerHistory) -> float | None:
    for first, last in _BASELINE_AGES:
        held = [used for at, used in worker.readings if first <= at - worker.started <= last]
        if held:
            return median(held)
    return None


def _watched(history: PoolHistory, now: float) -> float:
    """Seconds for which there are readings."""
    times = [reading.at for reading in history.readings if reading.at <= now]
    times = times or sorted(at for worker in history.workers for at, _ in worker.readings)
    return sum(after - before for before, after in zip(times, times[1:]) if after - before <= LONGEST_STEP)


def _usual_number(history: PoolHistory, workers: Sequence[WorkerHistory]) -> int:
    """Of workers at a time."""
    recent = [reading.workers for reading in history.readings[-1440:] if reading.workers]
    return round(median(recent)) if recent else len(workers)
