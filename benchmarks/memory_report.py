"""The tables and the picture of memory.py. Pure except `put_into`."""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

# What memory.py records about one reap, or about the looks at one pool: a line of JSON in its results.
Result = dict[str, Any]
METRICS = ("uss", "pss", "rss", "vms")
MIB = 1024**2
BEGIN, END = "<!-- python benchmarks/memory.py writes what follows, -->", "<!-- up to here. -->"
# How far the amount that came back may differ from the promise.
TOLERANCE = 0.1


def came_back(row: Result) -> int:
    """Bytes that came back, measured without memreap: by the control group or, without one, by the sum of PSS."""
    return int(row["came_back"].get("usage", row["came_back"]["pss"]))


def share(row: Result) -> float:
    """The part of the promise that came back."""
    return came_back(row) / float(row["promised"])


def picked_best(row: Result) -> bool:
    """Whether the reaped worker had the most private memory."""
    return max(row["workers"].items(), key=lambda worker: worker[1]["uss"])[0] == str(row["picked"])


def difference(row: Result) -> float:
    """The relative difference between the event's figure and the measurement."""
    return abs(float(row["event"]["came_back"]) / came_back(row) - 1)


def tables(results: list[Result]) -> str:
    reaps = [row for row in results if "metric" in row]
    lines = [
        "| metric | reaps | promised | came back | share of the promise that came back | within 10 %"
        " | reaped the worker with most to give back |",
        "|---|--:|--:|--:|--:|--:|--:|",
    ]
    for metric in METRICS:
        rows = [row for row in reaps if row["metric"] == metric]
        if not rows:
            continue
        shares = sorted(map(share, rows))
        close = sum(abs(value - 1) <= TOLERANCE for value in shares)
        promised, back = _mib([row["promised"] for row in rows]), _mib(list(map(came_back, rows)))
        part = f"{statistics.median(shares):.0%} ({shares[0]:.0%} to {shares[-1]:.0%})"
        best = sum(map(picked_best, rows))
        count = len(rows)
        lines.append(
            f"| `{metric}` | {count} | {promised} | {back} | {part} | {close} of {count} | {best} of {count} |"
        )
    lines += ["", *_remarks(reaps)]
    for row in results:
        if "swap" in row:
            lines += ["", *_swapped(row)]
    costs = [row for row in results if "costs" in row]
    if costs:
        lines += ["", *_costs(costs)]
    dates = sorted(row["at"] for row in results)
    used = {json.dumps(row["versions"]): row["versions"] for row in results}.values()
    lines += ["", f"Measured from {dates[0]} to {dates[-1]} with:", ""]
    lines += ["- " + ", ".join(f"{what} {version}" for what, version in versions.items()) for versions in used]
    return "\n".join(lines) + "\n"


def _remarks(reaps: list[Result]) -> list[str]:
    differences = [difference(row) for row in reaps]
    close = sum(value <= TOLERANCE for value in differences)
    by_pss = [abs(row["came_back"]["pss"] / came_back(row) - 1) for row in reaps]
    has_group = all("usage" in row["came_back"] for row in reaps)
    way = "the memory control group of the pool" if has_group else "the sum of PSS in the pool"
    return [
        "- Medians, with the smallest and the largest value in brackets.",
        "- *promised*: the metric of the worker before the signal.",
        f"- *came back*: measured without memreap, by {way}. A replacement held"
        f" {_mib([row['replacement'] for row in reaps])} of its own when it waited for its first request; that is not"
        " subtracted.",
        f"- In {close} of {len(reaps)} reaps, the figure in memreap's log is within 10 % of what came back; the largest"
        f" difference is {max(differences):.1%}."
        + (f" The sum of PSS in the pool agrees with the control group within {max(by_pss):.1%}." if has_group else ""),
    ]


def _swapped(row: Result) -> list[str]:
    """The `uss` of workers before and after their memory was pushed into swap."""
    lines = [
        "| in swap | `uss` of the 4 workers before, MiB | after | private memory and the kernel's SwapPss |",
        "|---|---|---|---|",
    ]
    for what, pool in row["swap"].items():
        cells = (", ".join(f"{size / MIB:.1f}" for size in pool[key]) for key in ("before", "after", "kernel"))
        lines.append(f"| {pool['swapped'] / MIB:.0f} MiB of a pool of {what} workers | {' | '.join(cells)} |")
    return lines


def _costs(costs: list[Result]) -> list[str]:
    ways = list(costs[0]["looks"])
    lines = [
        f"| ms of CPU for one look, manager and workers with {costs[0]['held']} MiB resident each | "
        + " | ".join(row["costs"] for row in costs)
        + " |",
        f"|---|{'--:|' * len(costs)}",
    ]
    lines += [f"| {way} | " + " | ".join(f"{row['looks'][way]:.1f}" for row in costs) + " |" for way in ways]
    return lines


def _mib(sizes: list[int]) -> str:
    low, middle, high = (
        f"{size / MIB:.{0 if size >= 10 * MIB else 1}f}" for size in (min(sizes), statistics.median(sizes), max(sizes))
    )
    return f"{middle} MiB ({low} to {high})"


def put_into(page: Path, results: list[Result]) -> None:
    """Write the tables between the two marks of this page."""
    put_between(page, BEGIN, END, f"{tables(results)}\n")


def put_between(page: Path, begin: str, end: str, tables: str) -> None:
    text = page.read_text() if page.exists() else f"{begin}\n{end}\n"
    before, _, rest = text.partition(begin)
    page.write_text(f"{before}{begin}\n\n{tables}{end}{rest.partition(end)[2]}")


# Each metric has its own shape, so that the picture needs no colours.
_STYLE = (
    "text{font:12px system-ui,sans-serif;fill:#1f2328}.bold{font-weight:600}.small{font-size:11px}"
    ".grid{stroke:#8b949e;stroke-opacity:.35}.axis,.all{stroke:#57606a}.all{stroke-dasharray:6 4}"
    ".near{fill:#8b949e;fill-opacity:.25}.mark{fill:none;stroke:#1f2328;stroke-width:1.2}"
    ".uss{fill:#1f2328;fill-opacity:.75}"
    "@media(prefers-color-scheme:dark){text{fill:#e6edf3}.mark{stroke:#e6edf3}.uss{fill:#e6edf3}"
    ".axis,.all{stroke:#9198a1}}"
)
_LEFT, _TOP, _WIDTH, _HEIGHT = 62, 52, 560, 300


def svg(results: list[Result]) -> str:
    """A plot of what came back against what was promised, with a mark for each reap."""
    reaps = [row for row in results if "metric" in row]
    best_bound = _step(max(row["promised"] for row in reaps) / MIB)
    most_back = _step(max(map(came_back, reaps)) / MIB)

    def x(mib: float) -> float:
        return _LEFT + _WIDTH * mib / best_bound

    def y(mib: float) -> float:
        return _TOP + _HEIGHT * (1 - mib / most_back)

    end = min(best_bound, most_back)
    low, high = (1 - TOLERANCE) * end, end / (1 + TOLERANCE)
    parts = [
        '<text x="20" y="20" class="bold">What a metric promises, and what came back when the worker left</text>',
        f'<text x="20" y="{_TOP - 10}" class="small">MiB that came back</text>',
        f'<polygon class="near" points="{x(0):.0f},{y(0):.0f} {x(end):.1f},{y(low):.1f} {x(end):.1f},{y(end):.1f}'
        f' {x(high):.1f},{y(end):.1f}"/>',
    ]
    for mib in range(0, most_back + 1, 50):
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{_LEFT + _WIDTH}" y1="{y(mib):.1f}" y2="{y(mib):.1f}"/>')
        parts.append(f'<text x="{_LEFT - 8}" y="{y(mib) + 4:.1f}" text-anchor="end">{mib}</text>')
    for mib in range(0, best_bound + 1, 100):
        parts.append(f'<text x="{x(mib):.1f}" y="{_TOP + _HEIGHT + 18}" text-anchor="middle">{mib}</text>')
    middle, below = _LEFT + _WIDTH / 2, _TOP + _HEIGHT + 38
    parts.append(f'<text x="{middle:.0f}" y="{below}" text-anchor="middle" class="small">MiB promised</text>')
    parts.append(f'<line class="all" x1="{x(0):.0f}" y1="{y(0):.0f}" x2="{x(end):.1f}" y2="{y(end):.1f}"/>')
    parts.append(f'<text x="{x(end) + 6:.1f}" y="{y(end) + 12:.1f}" class="small">all of it, ±10 %</text>')
    for row in reaps:
        parts.append(_mark(row["metric"], x(row["promised"] / MIB), y(came_back(row) / MIB)))
    for number, metric in enumerate(METRICS):
        at = _LEFT + 250 + 80 * number
        parts.append(_mark(metric, at, _TOP - 14))
        parts.append(f'<text x="{at + 10}" y="{_TOP - 10}" class="bold">{metric}</text>')
    width, height = _LEFT + _WIDTH + 40, _TOP + _HEIGHT + 50
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" role="img">'
    return "\n".join([head, f"<style>{_STYLE}</style>", *parts, "</svg>"]) + "\n"


def _step(mib: float) -> int:
    """The next multiple of 50 MiB above."""
    return (int(mib) // 50 + 1) * 50


def _mark(metric: str, x: float, y: float) -> str:
    if metric == "uss":
        return f'<circle class="uss" cx="{x:.1f}" cy="{y:.1f}" r="3.5"/>'
    if metric == "pss":
        return f'<rect class="mark" x="{x - 3.5:.1f}" y="{y - 3.5:.1f}" width="7" height="7"/>'
    if metric == "rss":
        return f'<path class="mark" d="M{x:.1f},{y - 4.5:.1f} l4.5,8 h-9 z"/>'
    return f'<path class="mark" d="M{x - 4:.1f},{y - 4:.1f} l8,8 m0,-8 l-8,8"/>'
