"""What a soak has shown: its figures, what is wrong, and the page. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from quantiles import longest, quantile
from soak_fit import WARM_UP, Fit, Verdict, fit, grows

KIB, MIB = 1024, 1024**2


class Judged(NamedTuple):
    """A figure grows if its slope is certain to be above `allowed`, and it has grown by more than `least`."""

    allowed: float
    """In 100,000 ticks, six days of TICK_5; of a real run, in an hour."""
    least: float


_MEMORY = Judged(64 * KIB, 256 * KIB)
JUDGED = {
    "anonymous": _MEMORY,
    "resident": _MEMORY,
    "children_anonymous": _MEMORY,
    "children_resident": _MEMORY,
    "descriptors": Judged(0.2, 1),
    "children_descriptors": Judged(0.2, 1),
    "threads": Judged(0.01, 0),
    "children": Judged(0.2, 1),
    "state": Judged(200.0, 2 * KIB),
    "remembered": Judged(5.0, 50),
    "old_history": Judged(16 * KIB, 64 * KIB),
}
ALLOWED_TEXT = (
    "64 KiB for the listener or its children, 0.2 descriptors or processes, 200 bytes of the saved state, in 100,000"
    " ticks (six days of TICK_5; of a real run in an hour)."
)
MOST_HISTORY = 5 * MIB
NAMES = {
    "pss": "PSS of the listener",
    "anonymous": "its anonymous memory",
    "resident": "its resident memory",
    "children_pss": "PSS of the processes for history and metrics",
    "children_anonymous": "their anonymous memory",
    "children_resident": "their resident memory",
    "descriptors": "descriptors of the listener",
    "children_descriptors": "their descriptors",
    "threads": "threads of the listener",
    "children": "its children",
    "state": "saved state",
    "history": "history",
    "old_history": "history, after its 31 days",
    "remembered": "values that are remembered",
    "supervisord": "anonymous memory of supervisord",
    "processes": "processes of the machine",
}
_BYTES = ("pss", "anonymous", "resident", "state", "history", "old_history", "supervisord")


class Unit(NamedTuple):
    size: float
    name: str
    allows: float
    """How often what is allowed."""


UNITS = {
    "ticks": Unit(100_000.0, "100,000 ticks", 1.0),
    "seconds": Unit(3600.0, "an hour", 1.0),
    "days": Unit(30.0, "a month", 5.0),
}
TITLES = {
    "fast": "As fast as they are answered",
    "month": "A month of simulated time, with TICK_5 and restarts of memreap",
    "quarter": "Three months of simulated time, with TICK_60, of one listener",
    "real": "By the clock",
}


def times(counts: Mapping[int, int]) -> dict[str, float]:
    """In seconds, of counts by tenths of a millisecond."""
    if not counts:
        return {}
    return {"p50": quantile(counts, 0.5) / 10, "p99": quantile(counts, 0.99) / 10, "max": longest(counts) / 10}


def figures(
    samples: Sequence[tuple[float, Mapping[str, float]]], warm_up: float = WARM_UP
) -> dict[str, dict[str, float]]:
    """The fit of each; none of a run that was too short."""
    if len(samples) < 4:
        return {}
    names = samples[0][1]
    return {name: fit([(at, values[name]) for at, values in samples], warm_up)._asdict() for name in names}


def thinned(
    samples: Sequence[tuple[float, Mapping[str, float]]], most: int = 60
) -> list[tuple[float, Mapping[str, float]]]:
    """At most so many of them, as they stand in the file of results."""
    return list(samples[:: max(1, -(-len(samples) // most))])


def verdict(name: str, figure: Mapping[str, float], unit: Unit) -> Verdict | None:
    """None: it is not judged."""
    judged = JUDGED.get(name)
    return judged and grows(Fit(**figure), judged.allowed * unit.allows / unit.size, judged.least)


def problems(result: Mapping[str, Any]) -> list[str]:
    """What makes the run fail."""
    unit = UNITS[result["unit"]]
    found = [
        f"growth: {NAMES[name]}: {_slope(name, figure, unit)} for {unit.name}"
        for name, figure in result["figures"].items()
        if verdict(name, figure, unit) == "yes"
    ]
    history = result["figures"].get("history", {}).get("largest", 0)
    if history > MOST_HISTORY:
        found.append(f"the history took {history:,.0f} bytes, more than history_size=")
    if result["answered"] < result["sent"]:
        found.append(f"{result['sent'] - result['answered']} events were not answered")
    if result.get("failed"):
        found.append(f"it ended early: {result['failed']}")
    if result.get("lost"):
        found.append(
            f"{result['lost']} requests were lost that no action explains; all that were lost: {result['lost_as']}"
        )
    return [*found, *result["overlaps"], *result["errors"]]


def markdown(results: Sequence[Mapping[str, Any]]) -> str:
    lines = [
        "# A month of ticks",
        "",
        "Written by `python benchmarks/soak.py`; its `--help` says what is done, and when a figure counts as growing.",
        "Each slope has its bound at 95 %; *start* and *end* are the medians of the first and the last of 12 parts of",
        "the run after the warm-up.",
        "",
    ]
    for kind in TITLES:
        for result in results:
            if result["kind"] == kind:
                lines += _section(result)
    return "\n".join(lines)


def _section(result: Mapping[str, Any]) -> list[str]:
    unit = UNITS[result["unit"]]
    lines = [f"## {TITLES[result['kind']]}", "", _story(result), ""]
    if result["figures"]:
        lines += [f"| | start | end | largest | slope, for {unit.name} | grows |", "|---|--:|--:|--:|--:|---|"]
        for name, figure in result["figures"].items():
            sizes = " | ".join(_size(name, figure[key]) for key in ("first", "last", "largest"))
            judged = verdict(name, figure, unit) or "not judged"
            lines.append(f"| {NAMES[name]} | {sizes} | {_slope(name, figure, unit)} | {judged} |")
        lines.append("")
    found = problems(result)
    lines += [f"- **{each}**" for each in found] + ([""] if found else [])
    # By hand, about what else the machine did.
    lines += [result["remark"], ""] if "remark" in result else []
    lines += [f"{result['at']}, {result['on']}.", ""]
    return lines


def _story(result: Mapping[str, Any]) -> str:
    events = result["events"]
    parts = [
        f"{result['sent']:,} {'looks' if result['unit'] == 'days' else 'events'} in {_lasted(result['seconds'])}"
        + (" (it was ended early)" if result["interrupted"] else ""),
        *([_missed(result)] if result["unit"] != "days" else []),
        f"{events.get('Signalled', 0):,} workers signalled, {events.get('Left', 0):,} left,"
        f" {len(result['overlaps'])} while another one was away",
        f"{len(result['errors'])} internal errors",
        f"{sum(result['actions'].values()):,} actions: "
        + ", ".join(f"{name} {count}" for name, count in sorted(result["actions"].items())),
    ]
    if result.get("answers"):
        for name, what in (("answers", "OK"), ("looks", "READY, after the look,")):
            ms = {key: 1000 * value for key, value in result[name].items()}
            parts.append(f"{what} after {ms['p50']:.1f} ms (median), {ms['p99']:.1f} (99 %), {ms['max']:.0f} (longest)")
    if "oldest_look" in result:
        parts.append(f"the last look was at most {result['oldest_look']:.1f} s ago")
    if "requests" in result:
        parts.append(
            f"{result['requests']:,} requests answered, {result['lost']} lost, and {result['lost_by_actions']} by"
            " actions that end workers by themselves"
        )
    if result.get("troubles"):
        parts.append(f"{len(result['troubles'])} actions did not do what they should")
    return "\n".join(f"- {part}" for part in parts)


def _missed(result: Mapping[str, Any]) -> str:
    missed = result["sent"] - result["answered"]
    return f"{missed} not taken, by supervisord's log" if result["kind"] == "real" else f"{missed} not answered"


def _lasted(seconds: float) -> str:
    return f"{seconds / 3600:.1f} hours" if seconds >= 5400 else f"{seconds / 60:.0f} minutes"


def _is_bytes(name: str) -> bool:
    return name.removeprefix("children_") in _BYTES


def _size(name: str, value: float) -> str:
    if not _is_bytes(name):
        return f"{value:g}"
    return f"{value / MIB:.2f} MiB" if value >= MIB else f"{value / KIB:.1f} KiB"


def _slope(name: str, figure: Mapping[str, float], unit: Unit) -> str:
    slope, bound = figure["slope"] * unit.size, figure["bound"] * unit.size
    if _is_bytes(name):
        return f"{slope / KIB:+.1f} ± {bound / KIB:.1f} KiB"
    return f"{slope:+.2f} ± {bound:.2f}"
