"""The output of `memreap suggest`, as text, as a line of the log, and as values. Pure."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from typing import Any

from supervisor_memreap.advice.climbrate import FEWEST_HOURS
from supervisor_memreap.advice.evidence import DAY, HOUR, Kind
from supervisor_memreap.advice.suggestion import CLEAR, Forecast, Suggestion, Why
from supervisor_memreap.core.rows import known
from supervisor_memreap.core.text import about, aligned, count, memory, quote, seconds, shown_size
from supervisor_memreap.outputs.words import clock

VERSION = 1
"""Of the values; increased when a key is removed or changes its meaning, not when one is added."""
_WIDTH = 80
_NOT_KNOWN = "not known"
_KINDS = {
    Kind.STEADY: "a steady leak",
    Kind.LEVELS_OFF: "it levels off, as copy on write does",
    Kind.SPIKES: "in jumps, each after a single request",
    Kind.NONE: "no significant growth",
    Kind.MIXED: "a leak, and growth of other kinds",
    Kind.UNKNOWN: "of a kind that is not known yet",
}
_STOPPED = {Kind.NONE: "workers do not grow", Kind.LEVELS_OFF: "workers stop growing"}
_HEAD = ("", "limit", "a worker lives", "reaps a day", "all workers", "at most")


def text(suggestion: Suggestion) -> str:
    """All of it, 80 columns wide; the block to paste at the end."""
    parts = [_paragraph(_header(suggestion))]
    if suggestion.forecasts:
        parts.append(_table(suggestion))
    if suggestion.limit is None:
        parts.append(_paragraph(_sentence(why_not(suggestion))))
        return "\n\n".join(parts)
    sentences = (_reason(suggestion), *_cost(suggestion), *_present(suggestion))
    parts.append(_paragraph(" ".join(map(_sentence, sentences))))
    parts.append(f"[memreap:{suggestion.pool}]\nlimit={shown_size(suggestion.limit)}")
    return "\n\n".join(parts)


def line(suggestion: Suggestion) -> str:
    """One line for the log: what the suggested limit would do, or why none is known yet."""
    chosen = suggestion.suggested
    if chosen is None:
        return why_not(suggestion)
    limit, watched = shown_size(chosen.limit), _watched(suggestion)
    holds = "" if chosen.total is None else f" and hold the pool at about {memory(chosen.total)}"
    if suggestion.present and suggestion.present.limit == chosen.limit:
        holds = holds.replace("hold", "holds")
        return f"{watched}: the limit of {limit} replaces {_workers_a_day(chosen)}{holds}; keep it"
    if suggestion.is_needed is False:
        return (
            f"{watched}: no limit is needed, since {_STOPPED[suggestion.kind]}; limit={limit} would catch a later leak"
        )
    return f"{watched}: a limit of {limit} would replace {_workers_a_day(chosen)}{holds}; set limit={limit}"


def values(suggestion: Suggestion) -> dict[str, Any]:
    """For `--json`; unknown values are left out."""
    pairs = {
        "name": suggestion.pool,
        "metric": suggestion.metric,
        "watched_seconds": round(suggestion.watched),
        "restarted_seconds_ago": None if suggestion.restarted is None else round(suggestion.restarted),
        "ask_again_seconds": None if suggestion.again is None else round(suggestion.again),
        "workers": suggestion.workers,
        "workers_watched": suggestion.seen,
        "workers_watched_from_start": suggestion.fresh,
        "workers_grew": suggestion.grew,
        "baseline_bytes": suggestion.baseline,
        "growth_bytes_per_hour": None if suggestion.growth is None else round(suggestion.growth),
        "serve_seconds": suggestion.serves,
        "kind": suggestion.kind.value,
        "needed": suggestion.is_needed,
        "limit_bytes": suggestion.limit,
        "limit": None if suggestion.limit is None else shown_size(suggestion.limit),
        "reason": why_not(suggestion) if suggestion.limit is None else _reason(suggestion),
        "candidates": [_forecast_values(forecast) for forecast in suggestion.forecasts],
        "present": _forecast_values(suggestion.present) if suggestion.present else None,
    }
    return known(pairs)


def _forecast_values(forecast: Forecast) -> dict[str, Any]:
    pairs = {
        "limit_bytes": forecast.limit,
        "life_seconds": None if forecast.life is None else round(forecast.life),
        "reaps_per_day": None if forecast.reaps is None else round(forecast.reaps, 2),
        "reaps_per_day_below": forecast.below,
        "total_bytes": forecast.total,
        "most_bytes": forecast.most,
    }
    return known(pairs)


def why_not(suggestion: Suggestion) -> str:
    """Why no limit is suggested, and what to do."""
    jumps = "" if suggestion.why is Why.UNSURE else _jumps(suggestion)
    return "; ".join(filter(None, (_why_not(suggestion), jumps)))


def _why_not(suggestion: Suggestion) -> str:
    watched, grew = _watched(suggestion), count(suggestion.grew, "worker")
    if suggestion.why is Why.NO_WORKERS:
        return "no worker was watched yet; ask again tomorrow"
    if suggestion.restarted is not None and suggestion.again is not None:
        return (
            f"all workers were restarted {about(suggestion.restarted)} ago, perhaps with another release, and too"
            f" little was watched since then to know how they grow now; ask again in {about(suggestion.again)}"
        )
    unsure = _jumps(suggestion) or _WHY_UNSURE.get(suggestion.kind, "growth changes from hour to hour")
    reasons = {
        Why.TOO_SHORT: f"{watched}, {grew} grew; ask again tomorrow",
        Why.NO_FRESH: f"{watched}, but no worker was watched from its start, so what a fresh one holds is not known;"
        " restart the program when convenient, and ask again a day later",
        Why.SHORT_LIVED: f"{watched}, but workers leave too soon to see how they grow: something else replaces them",
        Why.FEW_HOURS: f"{watched}, but in fewer than {FEWEST_HOURS} of the 24 hours of a weekday (UTC), and the load"
        " changes over the day and at weekends; ask again when a whole weekday was watched",
        Why.NOT_SEEN: f"{watched}, {grew} grew, but none came near a limit of twice what a warmed-up worker holds: ask"
        " again when they have grown more",
        Why.UNSURE: f"{watched}, {grew} grew, but the reaps a day cannot be predicted within 25 % for any limit yet:"
        f" {unsure}; ask again in a few days",
    }
    return reasons.get(suggestion.why, reasons[Why.UNSURE])


_WHY_UNSURE = {
    Kind.MIXED: "too few workers were seen to reach one",
    Kind.LEVELS_OFF: "growth has not levelled off for long enough",
}


def _jumps(suggestion: Suggestion) -> str:
    """What to observe, where single requests make workers grow."""
    if not suggestion.jumps:
        return ""
    at, pid, climb = suggestion.jumps[0]
    return (
        f"{count(len(suggestion.jumps), 'large request')} seen, and it takes some 40 over a limit; look up in the"
        f" access log what worker {pid} served at {clock(at)}, when it grew by {memory(climb)}"
    )


def _watched(suggestion: Suggestion) -> str:
    watched = f"watched for {about(suggestion.watched)}"
    return watched if suggestion.restarted is None else f"{watched} since all workers were restarted"


def _header(suggestion: Suggestion) -> str:
    start = f"{quote(suggestion.pool)}: {_watched(suggestion)}, {count(suggestion.workers, 'worker')}"
    if suggestion.baseline is None:
        holds = "what a fresh worker holds is not known"
    else:
        counted = count(suggestion.fresh, "worker") if suggestion.fresh else "calculated from their growth"
        holds = f"a warmed-up worker holds {memory(suggestion.baseline)} ({suggestion.metric}; {counted})"
    if suggestion.growth is None:
        return f"{start}; {holds}."
    grows = f"grows by {memory(round(suggestion.growth))} an hour"
    return f"{start}; {holds}, and {grows}: {_KINDS[suggestion.kind]}."


def _table(suggestion: Suggestion) -> str:
    rows = [_HEAD, *(_row(forecast, suggestion) for forecast in suggestion.forecasts)]
    return aligned(rows)


def _row(forecast: Forecast, suggestion: Suggestion) -> tuple[str, ...]:
    mark = "*" if forecast.limit == suggestion.limit else ""
    is_present = suggestion.present is not None and suggestion.present.limit == forecast.limit
    limit = shown_size(forecast.limit) + (" (now)" if is_present else "")
    if forecast.below:
        reaps = f"less than {forecast.below}"
    else:
        reaps = _NOT_KNOWN if forecast.reaps is None else _number(forecast.reaps)
    sizes = ("-" if size is None else memory(size) for size in (forecast.total, forecast.most))
    return (mark, limit, _life(forecast, suggestion), reaps, *sizes)


def _life(forecast: Forecast, suggestion: Suggestion) -> str:
    if forecast.below:
        return f"over {about(suggestion.workers * DAY / forecast.below)}"
    return _NOT_KNOWN if forecast.life is None else about(forecast.life)


def _reason(suggestion: Suggestion) -> str:
    """Why this limit, in one sentence."""
    assert suggestion.limit is not None
    limit, warm = shown_size(suggestion.limit), f"{suggestion.warm / HOUR:.0f} hours"
    stopped = _STOPPED.get(suggestion.kind)
    needed = f"no limit is needed, since {stopped}; " if stopped else ""
    reasons = {
        Why.WARM: f"{limit} is the smallest limit that is at least twice what a warmed-up worker holds and with which a"
        f" worker lives for {warm} or more, so that its caches are warm",
        Why.SHORT_LIVES: f"workers grow so fast that with {limit}, the largest limit that can be judged, they live for"
        f" less than {warm}: fix the leak, or set a larger limit if the machine has the memory",
        Why.CLEAR: f"{needed}{limit} is more than {CLEAR:g} times what any worker was seen to hold, so in normal"
        " operation it replaces few or none, and catches a leak",
        Why.AFTER_SPIKES: f"{limit} is the smallest limit that frees the memory of large requests, while a worker"
        f" lives for {warm} or more on average",
    }
    return reasons[suggestion.why]


def _cost(suggestion: Suggestion) -> Iterator[str]:
    """What short lives cost."""
    chosen, serves = suggestion.suggested, suggestion.serves
    if chosen and chosen.reaps is not None and serves is not None:
        missing = seconds(chosen.reaps * serves)
        workers = "the only worker" if suggestion.workers == 1 else f"one of {suggestion.workers} workers"
        yield f"a replacement serves after {seconds(serves)}, so {workers} is missing for {missing} a day"


def _present(suggestion: Suggestion) -> Iterator[str]:
    """How the limit that is set now compares."""
    present = suggestion.present
    if present is None or suggestion.limit is None:
        return
    if present.limit == suggestion.limit:
        yield "it is already set"
    elif present.is_known:
        holds = "" if present.total is None else f", and the pool holds about {memory(present.total)}"
        yield f"the current limit of {shown_size(present.limit)} replaces {_workers_a_day(present)}{holds}"
    else:
        yield f"the long-term effect of the current limit of {shown_size(present.limit)} is not known"


def _workers_a_day(forecast: Forecast) -> str:
    if forecast.below or forecast.reaps is None:
        return f"less than {count(forecast.below or 0, 'worker')} a day"
    if forecast.reaps < 1:
        return f"about {_number(forecast.reaps)} workers a day"
    return f"about {_number(forecast.reaps)} {'worker' if _number(forecast.reaps) == '1' else 'workers'} a day"


def _number(reaps: float) -> str:
    """`0.4`, `3.5`, `14`: no more digits than are known."""
    return f"{reaps:.1f}".removesuffix(".0") if reaps < 9.95 else f"{reaps:.0f}"


def _sentence(words: str) -> str:
    return f"{words[:1].upper()}{words[1:]}."


def _paragraph(words: str) -> str:
    return textwrap.fill(words, _WIDTH, break_long_words=False, break_on_hyphens=False)
