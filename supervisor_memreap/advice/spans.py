"""Spans of time in a history: when a pool was recorded, and when it was suspended. Pure.

1. Readings that are much farther apart than those beside them have a gap between them: the listener did not run, or
   could not record. Readings that are thinned with age lie farther apart, without a gap.
2. A suspension that has no end lasts. One that began before the history did is not known.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from statistics import median
from typing import NamedTuple

from supervisor_memreap.advice.poolhistory import EventRecord
from supervisor_memreap.core.reasons import REASONS

# For which no worker of a suspended pool is reaped.
_ABOUT_WORKERS = frozenset(each.setting or "requested" for each in REASONS if each.is_about_worker)
# An interval between readings is a gap if it is this many times as long as its neighbours, and at least this long.
_TIMES = 3.0
_AT_LEAST = 180.0
# Intervals compared on each side; the seconds that a single reading covers.
_BESIDE = 5
_ALONE = 60.0
# Seconds after which it would be reported at the latest that a setting is tried again: at a tick, which may be late.
_LATE = 3700.0


class Span(NamedTuple):
    """Seconds since 1970."""

    start: float
    end: float

    @property
    def length(self) -> float:
        return self.end - self.start

    def within(self, since: float, until: float) -> Span:
        """The part of it from `since` to `until`; it may be empty."""
        start = min(max(self.start, since), until)
        return Span(start, max(start, min(self.end, until)))


class Suspension(NamedTuple):
    span: Span
    why: str
    """The message of the event."""
    has_ended: bool


def recorded(times: Sequence[float], until: float) -> list[Span]:
    """The spans in which a pool was recorded; `times` are those of its readings, in their order, none after `until`.

    Each reading covers the time until the next one would be due.
    """
    if not times:
        return []
    steps = [after - before for before, after in zip(times, times[1:])]
    spans, start = [], times[0]
    for number, step in enumerate(steps):
        if step > max(_AT_LEAST, _TIMES * _usual(steps, number)):
            spans.append(Span(start, times[number] + _usual(steps, number)))
            start = times[number + 1]
    last = median(steps[-_BESIDE:]) if steps else _ALONE
    return [*spans, Span(start, min(until, times[-1] + last))]


def _usual(steps: Sequence[float], number: int) -> float:
    """The longer one of the usual steps before and after this one: the border of a thinned part is not a gap."""
    before, after = steps[max(0, number - _BESIDE) : number], steps[number + 1 : number + 1 + _BESIDE]
    return max((median(part) for part in (before, after) if part), default=_ALONE)


def gaps(spans: Iterable[Span], since: float, until: float) -> list[Span]:
    """What lies between these spans, from `since` to `until`; a gap that is shorter than a reading's step is none."""
    result, end = [], since
    for span in (*(each.within(since, until) for each in spans), Span(until, until)):
        if span.start - end > _AT_LEAST:
            result.append(Span(end, span.start))
        end = max(end, span.end)
    return result


def suspensions(events: Iterable[EventRecord], until: float) -> list[Suspension]:
    """The suspensions of a pool, in their order; one that lasts ends at `until`.

    After a restart of supervisord memreap knows nothing of it, and no event reports that. So one that was never resumed
    ended by the first reap that it would have prevented, or when the setting would have been tried again.
    """
    result: list[Suspension] = []
    start, why, reaped, lasts = 0.0, "", None, math.inf
    is_suspended = False
    for event in events:
        kind = event.values.get("event")
        if kind == "suspended" and (not is_suspended or reaped is not None):
            if is_suspended and reaped is not None:
                result.append(Suspension(Span(start, reaped), why, has_ended=True))
            start, why, reaped, is_suspended = event.at, str(event.values.get("message", "")), None, True
            lasts = float(event.values.get("lasts") or math.inf)
        elif kind == "resumed" and is_suspended:
            result.append(Suspension(Span(start, event.at), why, has_ended=True))
            is_suspended = False
        elif kind == "reap" and reaped is None and event.values.get("reason") in _ABOUT_WORKERS:
            reaped = event.at
    if is_suspended:
        if reaped is None and start + lasts + _LATE < until:
            reaped = start + lasts
        result.append(Suspension(Span(start, until if reaped is None else reaped), why, has_ended=reaped is not None))
    return result
