"""The page and the picture of tick.py. Pure."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent / "docs/pictures"))

import svg

# What tick.py records of one number of workers, in ms of CPU for one tick; a line of JSON in its results.
Result = dict[str, Any]


def markdown(rows: list[Result]) -> str:
    ways, steps = list(rows[0]["ways"]), list(rows[0]["steps"])
    lines = [
        "# What a tick costs",
        "",
        "Milliseconds of CPU for one tick in which there is nothing to do: the median of up to five. Everything was",
        "measured in the same run of `python benchmarks/tick.py`, which wrote this page. Its `--help` describes each",
        "column; the last three are memreap / C floor, memreap / Python floor, and recording / C floor.",
        "",
        "![Milliseconds of CPU for a tick, by the number of workers](../../docs/performance.svg)",
        "",
        f"| programs | workers | {' | '.join(ways)} | to C | to Python | recording to C |",
        f"|--:|--:|{'--:|' * (len(ways) + 3)}",
    ]
    for row in rows:
        spent = row["ways"]
        cells = " | ".join(f"{spent[way]:,.1f}" if way in spent else "-" for way in ways)
        ratios = (("memreap", "C floor"), ("memreap", "Python floor"), ("recording", "C floor"))
        shares = " | ".join(f"{spent[one] / spent[other]:.2f}" if one in spent else "-" for one, other in ratios)
        lines.append(f"| {row['programs']} | {row['workers']:,} | {cells} | {shares} |")
    lines += ["", *(row["note"] for row in rows if "note" in row)]
    lines += [
        "",
        "## Where the time of memreap's tick goes",
        "",
        "Of that tick which is the median; the four add up to its time in the first table.",
        "",
        f"| workers | {' | '.join(steps)} |",
        f"|--:|{'--:|' * len(steps)}",
    ]
    for row in rows:
        cells = " | ".join(f"{row['steps'][step]:,.1f}" for step in steps)
        lines.append(f"| {row['workers']:,} | {cells} |")
    for row in rows:
        lines += _live(row) if row["live"] else []
    return "\n".join([*lines, "", f"Measured on {rows[0]['at']}: {rows[0]['on']}.", ""])


def _live(row: Result) -> list[str]:
    """The table of a real supervisord."""
    lines = [
        "",
        f"## With a real supervisord: {row['programs']} programs, {row['workers']:,} workers",
        "",
        "For each TICK_5, over a minute, with history, metrics and `[rpcinterface:memreap]`. The parts of supervisord",
        "are what it needs more than without them; the last part of the listener is what it needs beside the others.",
        "The reader reads the sizes.",
        "",
        "| process | parts, ms | together |",
        "|---|---|--:|",
    ]
    for process, parts in row["live"].items():
        cells = ", ".join(f"{part} {spent:,.1f}" for part, spent in parts.items())
        lines.append(f"| {process} | {cells} | {sum(parts.values()):,.1f} |")
    return lines


_DRAWN = ("C floor", "memreap", "recording", "psutil", "kidreaper", "memmon", "memmon -c")
_COLOURS = ("text", "green", "blue", "violet", "amber", "red", "dim")
_WIDTH, _LEFT, _TOP, _ACROSS, _HEIGHT = 600, 62, 70, 440, 310


def drawing(rows: list[Result]) -> str:
    """A line for each way; both axes are logarithmic, since 10 and 4,000 workers are both to be seen."""
    rows = [{**row, "ways": {way: row["ways"][way] for way in _DRAWN if way in row["ways"]}} for row in rows]
    ways = list(rows[0]["ways"])
    low = math.floor(math.log10(min(min(row["ways"].values()) for row in rows)))
    high = math.ceil(math.log10(max(max(row["ways"].values()) for row in rows)))
    first, last = math.log10(rows[0]["workers"]), math.log10(rows[-1]["workers"])

    def x(workers: int) -> float:
        return _LEFT + _ACROSS * (math.log10(workers) - first) / ((last - first) or 1.0)  # of one number alone

    def y(ms: float) -> float:
        return _TOP + _HEIGHT * (high - math.log10(ms)) / (high - low)

    body = [
        svg.text(20, 26, "What a quiet tick costs", "text bold big"),
        svg.text(20, 44, "ms of CPU, by the number of workers (both logarithmic)", "dim"),
    ]
    for exponent in range(low, high + 1):
        at = y(10.0**exponent)
        body.append(svg.path([(_LEFT, at), (_LEFT + _ACROSS, at)], "edge line"))
        body.append(svg.text(_LEFT - 8, at + 4, f"{10.0**exponent:,g}", "dim small", "end"))
    for row in rows:
        body.append(svg.text(x(row["workers"]), _TOP + _HEIGHT + 18, f"{row['workers']:,}", "dim small", "middle"))
    label, was_last = 0.0, True
    lines = {way: [(row["workers"], row["ways"][way]) for row in rows if way in row["ways"]] for way in ways}
    for way in sorted(ways, key=lambda way: lines[way][-1], reverse=True):
        colour = _COLOURS[ways.index(way)]
        body.append(svg.path([(x(workers), y(ms)) for workers, ms in lines[way]], f"{colour} thick"))
        workers, ms = lines[way][-1]
        is_last = workers == rows[-1]["workers"]
        label = max(y(ms) + 4, label + 14 if is_last == was_last else 0.0)
        was_last = is_last
        body.append(svg.text(x(workers) + 8, label, way, f"{colour} small"))
    about = "; ".join(f"{way} {rows[-1]['ways'][way]:,.0f} ms" for way in ways if way in rows[-1]["ways"])
    return svg.document(
        "What a tick costs, by the number of workers",
        f"With {rows[-1]['workers']:,} workers: {about}.",
        (_WIDTH, _TOP + _HEIGHT + 34),
        body,
    )
