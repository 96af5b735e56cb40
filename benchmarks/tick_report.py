"""The page and the picture of tick.py."""

from __future__ import annotations

import importlib.metadata
import math
import os
import platform
import resource
from typing import NamedTuple


class Row(NamedTuple):
    """In ms of CPU for one tick."""

    programs: int
    workers: int
    ways: dict[str, float]
    steps: dict[str, float]
    """Of memreap's tick."""


def markdown(rows: list[Row]) -> str:
    ways, steps = list(rows[0].ways), list(rows[0].steps)
    lines = [
        "# What a tick costs",
        "",
        "Milliseconds of CPU for one tick in which there is nothing to do: the median of up to five. Everything was",
        "measured in the same run of `python benchmarks/tick.py`, which wrote this page. Its `--help` describes each",
        "column.",
        "",
        "![Milliseconds of CPU for a tick, by the number of workers](performance.svg)",
        "",
        f"| programs | workers | {' | '.join(ways)} | memreap / C floor |",
        f"|--:|--:|{'--:|' * (len(ways) + 1)}",
    ]
    for row in rows:
        cells = " | ".join(f"{row.ways[way]:,.1f}" for way in ways)
        ratio = row.ways["memreap"] / row.ways["C floor"]
        lines.append(f"| {row.programs} | {row.workers:,} | {cells} | {ratio:.1f} |")
    lines += [
        "",
        "## Where the time of memreap's tick goes",
        "",
        f"| workers | {' | '.join(steps)} |",
        f"|--:|{'--:|' * len(steps)}",
    ]
    for row in rows:
        lines.append(f"| {row.workers:,} | {' | '.join(f'{row.steps[step]:,.1f}' for step in steps)} |")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    packages = ", ".join(
        f"{name} {importlib.metadata.version(name)}" for name in ("supervisor_memreap", "psutil", "superlance")
    )
    lines += [
        "",
        f"{packages}, Python {platform.python_version()}, Linux {platform.release()} {platform.machine()},"
        f" {os.cpu_count()} CPUs. The benchmark's own process held {peak} MiB at most.",
        "",
    ]
    return "\n".join(lines)


_COLOURS = ("#6e7781", "#2da44e", "#0b7a75", "#3d85a8", "#c98a1b", "#8250df", "#d1495b")
_STYLE = (
    "text{font:12px system-ui,sans-serif;fill:#1f2328}.grid{stroke:#8b949e;stroke-opacity:.35}"
    "@media(prefers-color-scheme:dark){text{fill:#e6edf3}}"
)
_LEFT, _TOP, _WIDTH, _HEIGHT = 70, 30, 470, 320


def svg(rows: list[Row]) -> str:
    """A line for each way; both axes are logarithmic, since 10 and 10,000 workers are both to be seen."""
    low = math.floor(math.log10(min(min(row.ways.values()) for row in rows)))
    high = math.ceil(math.log10(max(max(row.ways.values()) for row in rows)))
    first, last = math.log10(rows[0].workers), math.log10(rows[-1].workers)

    def x(workers: int) -> float:
        return _LEFT + _WIDTH * (math.log10(workers) - first) / (last - first)

    def y(ms: float) -> float:
        return _TOP + _HEIGHT * (high - math.log10(ms)) / (high - low)

    parts = [f'<text x="{_LEFT}" y="16">ms of CPU for a tick, by the number of workers (both logarithmic)</text>']
    for exponent in range(low, high + 1):
        at = y(10.0**exponent)
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{_LEFT + _WIDTH}" y1="{at:.1f}" y2="{at:.1f}"/>')
        parts.append(f'<text x="{_LEFT - 8}" y="{at + 4:.1f}" text-anchor="end">{10.0**exponent:,g}</text>')
    for row in rows:
        parts.append(
            f'<text x="{x(row.workers):.1f}" y="{_TOP + _HEIGHT + 18}" text-anchor="middle">{row.workers:,}</text>'
        )
    ends = sorted(rows[-1].ways, key=lambda way: rows[-1].ways[way], reverse=True)
    label = 0.0
    for way in ends:
        colour = _COLOURS[list(rows[0].ways).index(way)]
        points = " ".join(f"{x(row.workers):.1f},{y(row.ways[way]):.1f}" for row in rows)
        parts.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"/>')
        label = max(y(rows[-1].ways[way]) + 4, label + 14)
        parts.append(f'<text x="{_LEFT + _WIDTH + 8}" y="{label:.1f}" style="fill:{colour}">{way}</text>')
    width, height = _LEFT + _WIDTH + 90, _TOP + _HEIGHT + 30
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" role="img">'
    return "\n".join([head, f"<style>{_STYLE}</style>", *parts, "</svg>"]) + "\n"
