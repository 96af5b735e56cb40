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
        "column.",
        "",
        "![Milliseconds of CPU for a tick, by the number of workers](../../docs/performance.svg)",
        "",
        f"| programs | workers | {' | '.join(ways)} | memreap / C floor |",
        f"|--:|--:|{'--:|' * (len(ways) + 1)}",
    ]
    for row in rows:
        cells = " | ".join(f"{row['ways'][way]:,.1f}" for way in ways)
        ratio = row["ways"]["memreap"] / row["ways"]["C floor"]
        lines.append(f"| {row['programs']} | {row['workers']:,} | {cells} | {ratio:.1f} |")
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
    return "\n".join([*lines, "", f"Measured on {rows[0]['at']}: {rows[0]['on']}.", ""])


_COLOURS = ("text", "green", "blue", "violet", "amber", "red", "dim")
_WIDTH, _LEFT, _TOP, _ACROSS, _HEIGHT = 600, 62, 70, 440, 310


def drawing(rows: list[Result]) -> str:
    """A line for each way; both axes are logarithmic, since 10 and 4,000 workers are both to be seen."""
    ways = list(rows[0]["ways"])
    low = math.floor(math.log10(min(min(row["ways"].values()) for row in rows)))
    high = math.ceil(math.log10(max(max(row["ways"].values()) for row in rows)))
    first, last = math.log10(rows[0]["workers"]), math.log10(rows[-1]["workers"])

    def x(workers: int) -> float:
        return _LEFT + _ACROSS * (math.log10(workers) - first) / (last - first)

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
    label = 0.0
    for way in sorted(ways, key=lambda way: rows[-1]["ways"][way], reverse=True):
        colour = _COLOURS[ways.index(way)]
        body.append(svg.path([(x(row["workers"]), y(row["ways"][way])) for row in rows], f"{colour} thick"))
        label = max(y(rows[-1]["ways"][way]) + 4, label + 14)
        body.append(svg.text(_LEFT + _ACROSS + 8, label, way, f"{colour} small"))
    about = "; ".join(f"{way} {rows[-1]['ways'][way]:,.0f} ms" for way in ways)
    return svg.document(
        "What a tick costs, by the number of workers",
        f"With {rows[-1]['workers']:,} workers: {about}.",
        (_WIDTH, _TOP + _HEIGHT + 34),
        body,
    )
