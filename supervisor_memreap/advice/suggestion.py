"""Which limit is right for a pool: its history in, one suggested limit or why it is not known out. Pure.

1. The *baseline* is what a warmed-up worker holds: the median, over the workers that were watched from their youth, of
   what each held when it was 2 to 10 minutes old (up to 30, if readings are further apart). If none was, it is
   calculated back from the age and the growth of the workers, as far as that is sure enough.
2. Nothing is promised before 20 hours were watched, since the load changes over the day. What was before a restart of
   the whole pool does not count unless it agrees with what came after (core.deployment).
3. Growth is *steady* from an age on if it is about as fast from the oldest age on for which the rate is known
   (core.climbrate). Then a worker reaches a limit at that age, plus what is missing divided by the rate; up to 3 times
   the range that was seen. Where a limit replaces workers, only slow ones grow old; so there the upper half of their
   way to the limit is compared with the lower one.
4. Where workers climb in jumps, and below the age from which on growth is steady, the time to a limit is put together
   from the times in the levels below it (core.passage). Above what was seen, nothing is known.
5. A pool of n workers reaps n times a day, divided by the mean life in days. This is promised only if its standard
   error is small enough to be right within 25 %. Where workers do not come near a limit, the promise is an upper bound:
   less than one reap a day; or up to three, since what was not seen in one day may well happen three times in another.
   Otherwise nothing is known, and a limit for which nothing is known is never suggested.
6. The suggested limit is at least twice the baseline, so the pool is never suspended for it (core.policy, rule 9). It
   is the smallest one with which a worker lives for at least 6 hours, since a young worker has cold caches, and 1,000
   times as long as a replacement took to serve. Where workers do not grow for long, no limit is needed; that which is
   suggested is clearly above all that they were seen to hold: it replaces none, and catches a leak.
"""

from __future__ import annotations

import enum
import math
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import NamedTuple

from supervisor_memreap.advice.climb import LONGEST_STEP, is_young
from supervisor_memreap.advice.climbrate import COMPARED, DAYS_DIFFER
from supervisor_memreap.advice.deployment import changed_at
from supervisor_memreap.advice.evidence import DAY, HOUR, MIXED, NONE, SURE, Evidence, Jump, Kind, held_young
from supervisor_memreap.advice.passage import Passage, passage
from supervisor_memreap.advice.poolhistory import PoolHistory, Reading, WorkerHistory
from supervisor_memreap.core.frozen import replace
from supervisor_memreap.core.text import MIB

# Seconds of readings before anything is promised.
WATCHED = 20 * HOUR
# Seconds of the history that count.
RECENT = 7 * DAY
# Seconds that a worker should live: younger ones have cold caches.
WARM = 6 * HOUR
# And it should live at least this many times as long as a replacement takes to serve.
LIVES = 1000
# A limit is at least this many times the baseline.
ROOM = 2
# A limit that is to replace none in normal running is at least this many times the largest size that was seen.
CLEAR = 1.25
# Fewer reaps a day count as few, whatever the exact number.
FEW = 1
# If something was never seen, at most this many occurrences were expected (95 %, Poisson). So after one day that is the
# least that may happen in a day.
_NONE_SEEN = 3
# How far beyond the range of sizes that was seen steady growth is expected to go on.
FARTHEST = 3
# In how many of the 24 hours of a weekday workers must be seen below a limit that they reach before growth is steady.
_FEWEST_HOURS = 16
# How many candidates are shown.
_SHOWN = 7
_ROUND = (10, 12, 15, 20, 25, 30, 40, 50, 60, 80)


class Why(enum.Enum):
    """Why this limit is suggested, or why none is."""

    WARM = "smallest limit with which a worker lives for hours"
    SHORT_LIVES = "the largest limit that can be judged; workers grow too fast to live for hours"
    CLEAR = "above all that workers hold in normal running"
    AFTER_SPIKES = "replaces a worker after a large request"
    TOO_SHORT = "watched for too short a time"
    SHORT_LIVED = "workers leave before it is seen how they grow"
    FEW_HOURS = "watched in too few hours of the day"
    NO_WORKERS = "no worker was watched"
    NO_FRESH = "no fresh worker was watched"
    UNSURE = "no limit can be judged yet"
    NOT_SEEN = "no worker came near a limit that is large enough"


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
    restarted: float | None = None
    """Seconds since the restart that may have changed how workers grow: only what came after it counts."""
    again: float | None = None
    """Seconds after which to ask again, where that is known."""
    jumps: tuple[Jump, ...] = ()
    """Those that were seen, the largest first."""
    serves: float | None = None
    """Seconds from the start of a replacement until it serves, the median; None: none was seen to."""

    @property
    def warm(self) -> float:
        """Seconds for which a worker should live."""
        return max(WARM, LIVES * (self.serves or 0.0))

    @property
    def is_needed(self) -> bool | None:
        """Whether a limit is: workers go on growing. None: not known."""
        known = {Kind.STEADY: True, Kind.MIXED: True, Kind.LEVELS_OFF: False, Kind.NONE: False}
        return None if self.limit is None else known.get(self.kind)

    @property
    def suggested(self) -> Forecast | None:
        return next((forecast for forecast in self.forecasts if forecast.limit == self.limit), None)


def suggest(history: PoolHistory, now: float, candidates: Iterable[int] | None = None) -> Suggestion:
    """Judge the candidates (bytes; round sizes by default), and suggest one. `now` is in seconds since 1970."""
    history = _since(history, now - RECENT)
    restart = changed_at(_completed(history)[0], [event.at for event in history.events if event.name == "Rolled"])
    if restart is None:
        return _judge(history, now, candidates)
    later = _since(history, restart)
    # Old workers may be seen beside new ones for as long as a roll takes.
    later = replace(later, workers=tuple(worker for worker in later.workers if worker.started >= restart))
    watched = _watched(later, now)
    is_comparable = watched < COMPARED and _watched(history, restart) >= WATCHED
    # An hour more, since it is shown in whole hours.
    again = (COMPARED if is_comparable else WATCHED) + HOUR - watched
    judged = _judge(later, now, candidates)
    return replace(judged, restarted=now - restart, again=again if judged.why is Why.TOO_SHORT else None)


def _judge(history: PoolHistory, now: float, candidates: Iterable[int] | None) -> Suggestion:
    workers, cap = _completed(history)
    watched = _watched(history, now)
    number = _usual_number(history, workers)
    fresh = [held for worker in workers if is_young(worker) for held in [held_young(worker)] if held is not None]
    baseline = round(median(fresh)) if fresh else None
    evidence = Evidence(workers, max(1, number), baseline, cap, watched / DAY)
    growth = evidence.rates[0] if evidence.rates else None
    so_far = growth.mean if growth else evidence.growth_so_far()
    common = (history.name, history.metric, watched, number, len(workers), len(fresh), evidence.grew())
    jumps = tuple(sorted(evidence.seen_jumps, key=lambda jump: -jump.climb))
    per_hour = None if so_far is None else so_far * HOUR
    if not workers:
        return Suggestion(*common, None, None, Kind.UNKNOWN, Why.NO_WORKERS)
    if watched < WATCHED or not evidence.rates:
        why = Why.TOO_SHORT if watched < WATCHED else Why.FEW_HOURS if evidence.is_followed else Why.SHORT_LIVED
        # Of the first hour, what a fresh worker holds is known as little as how it grows.
        early = (None, None) if watched < HOUR else (baseline, per_hour)
        return Suggestion(*common, *early, Kind.UNKNOWN, why, jumps=jumps)
    if evidence.start is None:
        return Suggestion(*common, None, per_hour, evidence.kind, Why.NO_FRESH, jumps=jumps)
    present = history.readings[-1].limit if history.readings else None
    return _choose(
        Suggestion(
            *common,
            evidence.baseline,
            per_hour,
            evidence.kind,
            Why.UNSURE,
            present=forecast(evidence, present) if present else None,
            jumps=jumps,
            serves=_to_serve(history),
        ),
        evidence,
        tuple(candidates) if candidates is not None else None,
    )


def _choose(judged: Suggestion, evidence: Evidence, candidates: Sequence[int] | None) -> Suggestion:
    assert judged.baseline is not None
    sizes = set(candidates or round_sizes(ROOM * judged.baseline))
    if judged.present and judged.present.limit >= ROOM * judged.baseline:
        sizes.add(judged.present.limit)
    forecasts = [forecast(evidence, limit) for limit in sorted(sizes)]
    least = max(ROOM * judged.baseline, evidence.large_fresh * CLEAR)
    usable = [each for each in forecasts if each.is_known and each.limit >= least]
    usable = [each for each in usable if each.limit >= CLEAR * evidence.largest or not each.below]
    clear = [each for each in usable if each.below]
    warm = [each for each in usable if (each.life or evidence.number * DAY / (each.below or math.inf)) >= judged.warm]
    chosen: Forecast | None = None
    why = Why.UNSURE
    if judged.kind in (Kind.LEVELS_OFF, Kind.NONE):
        chosen, why = (clear[0], Why.CLEAR) if clear else (None, Why.UNSURE)
    elif warm:
        usual = Why.AFTER_SPIKES if judged.kind is Kind.SPIKES else Why.WARM
        chosen, why = warm[0], Why.CLEAR if warm[0].below else usual
    elif usable:
        chosen, why = usable[-1], Why.SHORT_LIVES
    elif forecasts and all(_is_far(evidence, each.limit) for each in forecasts):
        why = Why.NOT_SEEN
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


def forecast(evidence: Evidence, limit: int) -> Forecast:
    """What this limit would do."""
    most = evidence.number * limit
    if evidence.start is None or limit <= evidence.start:
        return Forecast(limit, most=most)
    if evidence.jumps < MIXED:
        forecast = _steady(evidence, limit)
        if forecast is not None:
            return forecast
    if limit > evidence.cap:
        return Forecast(limit, most=most)
    if limit >= evidence.largest:
        # The same as from all readings, without reading them again.
        watched = sum(step.seconds for step in evidence.all_steps if step.seconds <= evidence.longest)
        return _by_levels(evidence, limit, Passage(math.inf, math.inf, 0.0, 0, watched, 24, False))
    return _by_levels(
        evidence, limit, passage(evidence.workers, evidence.start, limit, evidence.begin, evidence.longest)
    )


def _is_far(evidence: Evidence, limit: int) -> bool:
    assert evidence.start is not None
    return limit - evidence.start > FARTHEST * (evidence.largest - evidence.start)


def _steady(evidence: Evidence, limit: int) -> Forecast | None:
    """By the rate from the age on from which growth is steady; None: the limit is reached before that age."""
    assert evidence.start is not None
    rate = evidence.rates[evidence.steady_from]
    early_growth = max(0.0, evidence.early_growth or 0.0)
    distance = limit - evidence.start - early_growth
    error = math.hypot(evidence.start_error, evidence.early_growth_error)
    is_seen = limit < min(evidence.largest, evidence.cap)
    if distance <= max(2 * error, rate.mean * (evidence.ages[evidence.steady_from] - evidence.begin)) or (
        evidence.is_slowing and is_seen
    ):
        return None
    is_far = _is_far(evidence, limit)
    is_flat = rate.mean * DAY < NONE * evidence.start
    most = evidence.number * limit
    if not (evidence.is_slowing or evidence.early_growth is None or is_far or is_flat):
        life = evidence.begin + distance / rate.mean
        # Above a limit in force, growth may go on changing as it did below.
        above = 2 * evidence.curvature * max(0.0, limit - evidence.cap) / distance if evidence.curvature else 0.0
        if distance / rate.mean * math.hypot(rate.error / rate.mean, error / distance, above) <= SURE * life:
            mean = (evidence.start + early_growth / 2 + limit) / 2
            return Forecast(limit, life, evidence.number * DAY / life, None, round(evidence.number * mean), most)
    is_few = evidence.number * DAY * rate.most < FEW * (distance - 2 * error) and limit >= CLEAR * evidence.largest
    if is_few and (is_flat or not is_far):
        total = round(evidence.number * evidence.mean_used(limit)) if is_flat else None
        # A larger request than all that were seen may come, though.
        below = max(FEW, math.ceil(_NONE_SEEN / evidence.days)) if is_flat else FEW
        return Forecast(limit, below=below, total=total, most=most)
    return Forecast(limit, most=most)


def _by_levels(evidence: Evidence, limit: int, climb: Passage) -> Forecast:
    most = evidence.number * limit
    if climb.is_brief or climb.hours < _FEWEST_HOURS:
        return Forecast(limit, most=most)
    life = evidence.begin + climb.seconds
    # As far as it climbs in jumps, a few crossings are as uncertain as any count: 20 of them by 22 %.
    error = max(climb.error, evidence.jumps * life / math.sqrt(max(climb.crossings, 1)))
    error = math.hypot(error, DAYS_DIFFER * life / math.sqrt(evidence.days))
    if math.isfinite(life) and error <= SURE * life:
        return Forecast(limit, life, evidence.number * DAY / life, None, round(evidence.number * climb.mean), most)
    if climb.crossings == 0 and climb.watched and not _is_far(evidence, limit):
        # Nor may the mean growth bring this many workers over the limit: those that were seen may only be too young.
        assert evidence.start is not None
        by_growth = evidence.rates[0].most / (limit - evidence.start)
        below = max(FEW, math.ceil(evidence.number * DAY * max(_NONE_SEEN / climb.watched, by_growth)))
        total = round(evidence.number * evidence.mean_used(limit))
        if below <= _NONE_SEEN:
            return Forecast(limit, below=below, total=total, most=most)
    return Forecast(limit, most=most)


def _since(history: PoolHistory, since: float) -> PoolHistory:
    """What was recorded since then."""
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

    A worker that is over its limit is reaped, most often before its next reading. Above a limit in force nothing is
    seen, or only how a worker grows until it has an idle moment.
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
        if worker.was_reaped and limit and worker.pid not in others:
            cap = max(cap, limit)
            if last.used <= limit:
                gap = last.at - worker.readings[-2].at if len(worker.readings) > 1 else 60.0
                completed = replace(worker, readings=(*worker.readings, Reading(last.at + gap / 2, limit + 1)))
        workers.append(completed)
    return tuple(workers), cap or math.inf


def _to_serve(history: PoolHistory) -> float | None:
    """As in Suggestion.serves, since the history begins."""
    since = history.readings[0].at
    settled = (
        event.values.get("to_serve") for event in history.events if event.name == "Settled" and event.at >= since
    )
    took = [seconds for seconds in settled if seconds is not None]
    return median(took) if took else None


def _watched(history: PoolHistory, now: float) -> float:
    """Seconds for which there are readings."""
    times = [reading.at for reading in history.readings if reading.at <= now]
    times = times or sorted(at for worker in history.workers for at, _ in worker.readings)
    return sum(after - before for before, after in zip(times, times[1:]) if after - before <= LONGEST_STEP)


def _usual_number(history: PoolHistory, workers: Sequence[WorkerHistory]) -> int:
    """Of workers at a time."""
    recent = [reading.workers for reading in history.readings[-1440:] if reading.workers]
    return round(median(recent)) if recent else len(workers)
