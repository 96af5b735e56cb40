"""What happened in a pool in a day or a month: as values, as a page of text, and as the daily line of the log. Pure."""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, NamedTuple

from supervisor_memreap.advice import growth, spans
from supervisor_memreap.advice.growth import Sample
from supervisor_memreap.advice.poolhistory import EventRecord, PoolHistory, PoolReading, WorkerHistory
from supervisor_memreap.advice.spans import Span, Suspension
from supervisor_memreap.core.delay import REPEAT
from supervisor_memreap.core.events import kinds
from supervisor_memreap.core.rows import freed, known
from supervisor_memreap.core.text import duration, memory, padded, seconds
from supervisor_memreap.outputs.words import time_text, timed
from supervisor_memreap.reports import timeaxis

VERSION = 1
"""The version of `values`; increased when a key is removed or changes its meaning, not when one is added."""

# Of older versions, in their histories.
_OLD_REFUSALS = {"NeverIdle": "never idle"}
REFUSALS: Mapping[str, str] = {**_OLD_REFUSALS, **{kind.__name__: kind.refusal for kind in kinds() if kind.refusal}}
"""The events of a due worker to which nothing was sent, and why in a few words."""
TROUBLES: Mapping[str, str] = {kind.__name__: kind.trouble for kind in kinds() if kind.trouble}
"""Other events that a reader of the report wants to know of."""

_WIDTH, _LABEL = 80, 19
# A reading that is older than this, in seconds, is not what the pool holds now.
_NOW = 300.0


class Peak(NamedTuple):
    size: int
    at: float


class Day(NamedTuple):
    at: float
    """Its first second in the report, in seconds since 1970."""
    replaced: Mapping[str, int]
    """By reason."""
    freed: int
    """Bytes."""
    is_recorded: bool
    """Whether anything of it was recorded."""


class Sizes(NamedTuple):
    """What a pool held, as far as it was recorded."""

    last: PoolReading
    largest: Peak
    total: Peak


@dataclass(frozen=True)
class PoolReport:
    """A pool from `since` to `until`, in seconds since 1970; sizes in bytes."""

    history: PoolHistory
    since: float
    until: float
    recorded: float
    """Seconds."""
    gaps: tuple[Span, ...]
    replaced: Mapping[str, int]
    """Workers that were signalled and left, by the setting for which they had to go, or `requested`."""
    observed: Mapping[str, int]
    """Workers that would have been signalled, without observe=yes."""
    freed: int
    times_to_leave: tuple[float, ...]
    """Seconds, the shortest first."""
    refused: Mapping[str, int]
    """By the name of the event."""
    troubles: Mapping[str, int]
    """By the name of the event."""
    stuck: int
    oom_killed: int
    """Processes, at most."""
    second_signals: int
    suspensions: tuple[Suspension, ...]
    growth: float | None
    """Of a worker, in bytes per hour: the median over `grown` workers. None: no worker was recorded for long enough."""
    grown: int
    sizes: Sizes | None
    """None: nothing was recorded in this time."""
    days: tuple[Day, ...]
    suggestion: str = ""
    """A line about the right limit; empty: none was asked for."""

    @property
    def begin(self) -> float:
        """When it could be recorded: what lay before the first look at the pool is not missing."""
        return _begin(self.history, self.since, self.until)


def _begin(history: PoolHistory, since: float, until: float) -> float:
    return min(max(since, history.since), until)


def of(history: PoolHistory, since: float, until: float, suggestion: str = "") -> PoolReport:
    events = [event for event in history.events if since <= event.at <= until]
    readings = [reading for reading in history.readings if since <= reading.at <= until]
    recorded = spans.recorded([reading.at for reading in history.readings if reading.at <= until], until)
    left = _named(events, "Left")
    reasons = _reasons(history.events)
    slopes = [slope for slope in (_growth(worker, since, until) for worker in history.workers) if slope is not None]
    suspensions = spans.suspensions(history.events, until)
    # While a pool is overdue, that is logged every 10 minutes.
    troubles = (
        event.name
        for event in _named(events, *TROUBLES)
        if event.name != "Overdue" or float(event.values.get("lasts") or 0) <= REPEAT
    )
    return PoolReport(
        history,
        since,
        until,
        recorded=sum(span.within(since, until).length for span in recorded),
        gaps=tuple(spans.gaps(recorded, _begin(history, since, until), until)),
        replaced=_counted(reasons.get((event.pid, event.at), "unknown") for event in left),
        observed=_counted(str(event.values.get("reason", "")) for event in _named(events, "WouldReap")),
        freed=_freed(left),
        times_to_leave=tuple(sorted(float(event.values.get("after") or 0) for event in left)),
        refused=_counted(event.name for event in _named(events, *REFUSALS)),
        troubles=_counted(troubles),
        stuck=len(_named(events, "Stuck")),
        oom_killed=sum(int(event.values.get("killed") or 0) for event in _named(events, "OomKilled")),
        second_signals=len(_named(events, "SignalledAgain")),
        suspensions=tuple(each for each in suspensions if each.span.end > since and each.span.start <= until),
        growth=median(slopes) if slopes else None,
        grown=len(slopes),
        sizes=_sizes(readings) if readings else None,
        days=tuple(_days(left, reasons, recorded, since, until)),
        suggestion=suggestion,
    )


def _sizes(readings: Sequence[PoolReading]) -> Sizes:
    largest = max(readings, key=lambda reading: reading.largest)
    total = max(readings, key=lambda reading: reading.total)
    return Sizes(readings[-1], Peak(largest.largest, largest.at), Peak(total.total, total.at))


def _named(events: Iterable[EventRecord], *names: str) -> list[EventRecord]:
    return [event for event in events if event.name in names]


def _counted(words: Iterable[str]) -> dict[str, int]:
    """The most frequent one first."""
    return dict(sorted(Counter(words).items(), key=lambda item: (-item[1], item[0])))


def _freed(left: Iterable[EventRecord]) -> int:
    return sum(freed(event.values.get("came_back"), event.values.get("taken")) for event in left)


def _reasons(events: Iterable[EventRecord]) -> dict[tuple[int, float], str]:
    """Why each worker that left had been signalled, by its pid and the time at which it left."""
    signalled: dict[int, str] = {}
    reasons = {}
    for event in events:
        if event.name == "Signalled":
            signalled[event.pid] = str(event.values.get("reason", "")) or "unknown"
        elif event.name == "Left" and event.pid in signalled:
            reasons[event.pid, event.at] = signalled.pop(event.pid)
    return reasons


def _growth(worker: WorkerHistory, since: float, until: float) -> float | None:
    """Bytes per hour; None: it was not recorded for long enough. As core.growth has it."""
    first = max(since, worker.started + growth.WARM_UP)
    samples = [Sample(*reading) for reading in worker.readings if first <= reading.at <= until]
    if len(samples) < growth.FEWEST or samples[-1].at - samples[0].at < growth.WATCHED:
        return None
    step = -(-len(samples) // growth.MOST)
    return growth.slope(samples[::step]) * 3600


def _days(
    left: Sequence[EventRecord],
    reasons: Mapping[tuple[int, float], str],
    recorded: Sequence[Span],
    since: float,
    until: float,
) -> Iterator[Day]:
    """Each day of this machine's calendar that the report touches."""
    for start, end in timeaxis.days(since, until):
        events = [event for event in left if start <= event.at < end or event.at == end == until]
        replaced = _counted(reasons.get((event.pid, event.at), "unknown") for event in events)
        is_recorded = any(span.within(start, end).length > 0 for span in recorded)
        yield Day(start, replaced, _freed(events), is_recorded)


# As text.


def text(report: PoolReport) -> str:
    """A page of 80 columns."""
    span = f"{timeaxis.span_text(report.since, report.until)}, {recorded(report)}"
    lines = [report.history.name, *_wrapped("  ", span), ""]
    for label, value in rows(report):
        lines += _wrapped(f"  {label:{_LABEL}}", value)
    if report.sizes:
        lines += ["", *_table(day_rows(report))]
    return "\n".join(lines)


def _wrapped(start: str, value: str) -> list[str]:
    return textwrap.wrap(
        value, _WIDTH, initial_indent=start, subsequent_indent=" " * len(start), break_on_hyphens=False
    )


def _table(table: Sequence[tuple[str, ...]]) -> Iterator[str]:
    for row, cells in zip(table, padded([row[:-1] for row in table], is_right=True)):
        yield "\n".join(_wrapped(f"  {'  '.join(cells)}  ", row[-1] or "-"))


def recorded(report: PoolReport) -> str:
    """`recorded for 22 h of 24 h`."""
    if report.sizes is None:
        return "nothing recorded"
    whole, first = report.until - report.begin, ""
    if report.begin - report.since >= _NOW:
        first = f" since {timeaxis.minute(report.begin)}, its first look"
    if whole - report.recorded < _NOW:
        return f"recorded{first or ' all the time'}"
    return f"recorded for {duration(report.recorded)} of {duration(whole)}{first}"


def rows(report: PoolReport) -> Iterator[tuple[str, str]]:
    """The rows about the pool: a label and a text each."""
    sizes = report.sizes
    if sizes is None:
        yield "counted since", _since(report.history)
        return
    yield "workers replaced", _counts(report.replaced)
    if report.observed:
        yield "would be replaced", f"{_counts(report.observed)}, observe=yes"
    if report.replaced:
        yield "memory freed", memory(report.freed)
        times = report.times_to_leave
        yield "time to leave", f"median {seconds(median(times))}, longest {seconds(times[-1])}"
    yield "refused", _counts(report.refused, REFUSALS)
    yield "stuck", str(report.stuck or "none")
    if report.oom_killed:
        yield "OOM killer", f"ended {report.oom_killed:,} of its processes"
    if report.second_signals:
        yield "signalled twice", str(report.second_signals)
    for suspension in report.suspensions:
        yield "suspended", _suspended(suspension)
    if not report.suspensions:
        yield "suspended", "never"
    if report.troubles:
        yield "other trouble", _counts(report.troubles, TROUBLES)
    yield "growth", _growth_text(report)
    last, largest, total = sizes
    when = "now" if report.until - last.at <= _NOW else f"at {timeaxis.minute(last.at)}"
    yield f"largest ({report.history.metric})", f"{memory(last.largest)} {when}, {_peak(largest)}, {limit(sizes)}"
    yield "total of the pool", f"{memory(last.total)} {when}, {_peak(total)}, {_workers(last.workers)}"
    yield "counted since", _since(report.history)
    if report.gaps:
        shown = [f"{timeaxis.minute(gap.start)} for {duration(gap.length)}" for gap in report.gaps[-5:]]
        more = [f"and {len(report.gaps) - 5} more before"] if len(report.gaps) > 5 else []
        yield "not recorded", "; ".join(shown + more)
    if report.suggestion:
        yield "suggestion", report.suggestion


def limit(sizes: Sizes) -> str:
    """The limit that was in force last."""
    return "no limit" if sizes.last.limit is None else f"limit {memory(sizes.last.limit)}"


def day_rows(report: PoolReport) -> list[tuple[str, str, str, str]]:
    """A table: its head, then each day with the workers that were replaced, the memory, and the reasons."""
    table = [("day", "replaced", "freed", "reasons")]
    for day in report.days:
        count = sum(day.replaced.values())
        shown = f"{count:,}" if count or day.is_recorded else "-"
        table.append((timeaxis.day(day.at), shown, memory(day.freed) if count else "-", _parts(day.replaced)))
    return table


def _parts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count:,} {what}" for what, count in counts.items())


def _counts(counts: Mapping[str, int], words: Mapping[str, str] | None = None) -> str:
    """The sum and its parts; `words` are for the keys."""
    shown = {(words or {}).get(what, what): count for what, count in counts.items()}
    if len(shown) == 1:
        ((what, count),) = shown.items()
        return f"{count:,} ({what})"
    return f"{sum(shown.values()):,}: {_parts(shown)}" if shown else "none"


def _suspended(suspension: Suspension) -> str:
    start, lasted = timeaxis.minute(suspension.span.start), duration(suspension.span.length)
    until = f"for {lasted}" if suspension.has_ended else f"since then ({lasted})"
    return f"{start} {until}: {suspension.why.removeprefix('suspended: ')}"


def _growth_text(report: PoolReport) -> str:
    if report.growth is None:
        return "unknown: no worker was recorded for 10 minutes"
    sign = "-" if report.growth < 0 else ""
    of = "1 worker" if report.grown == 1 else f"median of {report.grown:,} workers"
    return f"{sign}{memory(round(abs(report.growth)))} an hour for a worker ({of})"


def _peak(peak: Peak) -> str:
    return f"peak {memory(peak.size)} ({timeaxis.minute(peak.at)})"


def _since(history: PoolHistory) -> str:
    start = f"{timeaxis.date(history.since)}: {_workers(history.reaps)} replaced"
    return f"{start}, {memory(history.freed)} freed" if history.reaps else start


def _workers(count: int) -> str:
    return "1 worker" if count == 1 else f"{count:,} workers" if count else "no worker"


def summary_line(history: PoolHistory, since: float, until: float) -> str:
    """The daily line of the log about a pool."""
    report, start = of(history, since, until), f"in the last {duration(until - since)}:"
    if report.sizes is None:
        return f"{start} nothing recorded"
    count = sum(report.replaced.values())
    parts = [f"{start} {_workers(count)} replaced" + (f" ({_parts(report.replaced)})" if count else "")]
    if report.observed:
        parts.append(f"{sum(report.observed.values()):,} would be replaced (observe=yes)")
    if count:
        parts += [f"{memory(report.freed)} freed", f"longest time to leave {seconds(report.times_to_leave[-1])}"]
    refused = sum(report.refused.values())
    parts += [f"{refused:,} refused"] * bool(refused)
    parts += [f"{report.stuck:,} stuck"] * bool(report.stuck)
    parts += [f"{report.oom_killed:,} ended by the OOM killer"] * bool(report.oom_killed)
    suspended = sum(each.span.within(since, until).length for each in report.suspensions)
    parts += [f"suspended for {duration(suspended)}"] * bool(report.suspensions)
    is_whole = until - since - report.recorded < _NOW
    length = duration(until - since if is_whole else report.recorded)
    largest = memory(report.sizes.largest.size)
    return f"{', '.join(parts)}; largest {largest}, {limit(report.sizes)}; recorded {length}"


# As values.


def values(report: PoolReport) -> dict[str, Any]:
    """The report as JSON has it, with units in the names; unknown values are left out.

    Each time in seconds since 1970 has a text with the time zone beside it: `since_time` of `since`.
    """
    history, times = report.history, report.times_to_leave
    pairs = {
        "name": history.name,
        "metric": history.metric,
        "since": report.since,
        "until": report.until,
        "recorded_seconds": round(report.recorded),
        "gaps": [timed({"since": gap.start, "until": gap.end}) for gap in report.gaps],
        "reaps": sum(report.replaced.values()),
        "reaps_by_reason": dict(report.replaced),
        "observed_by_reason": dict(report.observed),
        "given_back_bytes": report.freed,
        "median_seconds_to_leave": median(times) if times else None,
        "longest_seconds_to_leave": times[-1] if times else None,
        "refused": dict(report.refused),
        "troubles": dict(report.troubles),
        "stuck": report.stuck,
        "oom_killed": report.oom_killed,
        "second_signals": report.second_signals,
        "suspensions": [timed(_suspension_values(each)) for each in report.suspensions],
        "growth_bytes_per_hour": None if report.growth is None else round(report.growth),
        "days": [_day_values(day) for day in report.days],
        "counted_since": history.since,
        "counted_reaps": history.reaps,
        "counted_given_back_bytes": history.freed,
        "suggestion": report.suggestion or None,
        **(_size_values(report.sizes) if report.sizes else {}),
    }
    return timed(known(pairs))


def _suspension_values(suspension: Suspension) -> dict[str, Any]:
    start, end = suspension.span
    return {"since": start, **({"until": end} if suspension.has_ended else {}), "reason": suspension.why}


def _day_values(day: Day) -> dict[str, Any]:
    reaps = sum(day.replaced.values())
    return {
        "day": time_text(day.at)[:10],
        "reaps": reaps,
        "reaps_by_reason": dict(day.replaced),
        "given_back_bytes": day.freed,
    }


def _size_values(sizes: Sizes) -> dict[str, Any]:
    last, largest, total = sizes
    return {
        "read_at": last.at,
        "peak_largest_at": largest.at,
        "peak_total_at": total.at,
        "workers": last.workers,
        "limit_bytes": last.limit,
        "largest_bytes": last.largest,
        "total_bytes": last.total,
        "peak_largest_bytes": largest.size,
        "peak_total_bytes": total.size,
    }
