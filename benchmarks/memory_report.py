"""The tables and the picture of memory.py. Pure except `put_into`."""

from __future__ import annotations

import json
import statistics
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent / "docs/pictures"))

import svg
from pages import put_between

# What memory.py records about one reap, or about the looks at one pool: a line of JSON in its results.
Result = dict[str, Any]
METRICS = ("uss", "pss", "rss", "vms")
MIB = 1024**2
BEGIN, END = "<!-- python benchmarks/memory.py writes what follows, -->", "<!-- up to here. -->"
# How far what was freed may differ from the prediction.
TOLERANCE = 0.1


def freed(row: Result) -> int:
    """Bytes that were freed, measured without memreap: by the control group or, without one, by the sum of PSS."""
    return int(row["came_back"].get("usage", row["came_back"]["pss"]))


def share(row: Result) -> float:
    """The part of the prediction that was freed."""
    return freed(row) / float(row["promised"])


def picked_best(row: Result) -> bool:
    """Whether the reaped worker had the most private memory."""
    return max(row["workers"].items(), key=lambda worker: worker[1]["uss"])[0] == str(row["picked"])


def difference(row: Result) -> float:
    """The relative difference between the event's figure and the measurement."""
    return abs(float(row["event"]["came_back"]) / freed(row) - 1)


def tables(results: list[Result]) -> str:
    reaps = [row for row in results if "metric" in row]
    lines = [
        "| metric | reaps | predicted | freed | share of the prediction that was freed | within 10 %"
        " | reaped the worker that frees most |",
        "|---|--:|--:|--:|--:|--:|--:|",
    ]
    for metric in METRICS:
        rows = [row for row in reaps if row["metric"] == metric]
        if not rows:
            continue
        shares = sorted(map(share, rows))
        close = sum(abs(value - 1) <= TOLERANCE for value in shares)
        promised, back = _mib([row["promised"] for row in rows]), _mib(list(map(freed, rows)))
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
    by_pss = [abs(row["came_back"]["pss"] / freed(row) - 1) for row in reaps]
    has_group = all("usage" in row["came_back"] for row in reaps)
    way = "the memory control group of the pool" if has_group else "the sum of PSS in the pool"
    return [
        "- Medians, with the smallest and the largest value in brackets.",
        "- *predicted*: the metric of the worker before the signal.",
        f"- *freed*: measured without memreap, by {way}. A replacement held"
        f" {_mib([row['replacement'] for row in reaps])} of its own when it waited for its first request; that is not"
        " subtracted.",
        f"- In {close} of {len(reaps)} reaps, the figure in memreap's log is within 10 % of what was freed; the largest"
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


_WIDTH, _LEFT, _TOP, _ACROSS, _HEIGHT = 600, 52, 84, 510, 290
_COLOURS = {"uss": "blue", "pss": "amber", "rss": "red", "vms": "violet"}


def drawing(results: list[Result]) -> str:
    """A plot of what was freed against what was predicted, with a mark for each reap."""
    reaps = [row for row in results if "metric" in row]
    most_predicted = _step(max(row["promised"] for row in reaps) / MIB)
    most_freed = _step(max(map(freed, reaps)) / MIB)

    def x(mib: float) -> float:
        return _LEFT + _ACROSS * mib / most_predicted

    def y(mib: float) -> float:
        return _TOP + _HEIGHT * (1 - mib / most_freed)

    end = min(most_predicted, most_freed)
    body = [
        svg.text(20, 26, "What each metric predicts, and what was freed", "text bold big"),
        svg.text(20, 44, "Each mark is a worker that was replaced", "dim"),
        svg.text(20, _TOP - 12, "MiB freed", "dim small"),
    ]
    for mib in range(0, most_freed + 1, 50):
        body.append(svg.path([(_LEFT, y(mib)), (_LEFT + _ACROSS, y(mib))], "edge line"))
        body.append(svg.text(_LEFT - 8, y(mib) + 4, f"{mib}", "dim small", "end"))
    for mib in range(0, most_predicted + 1, 100):
        body.append(svg.text(x(mib), _TOP + _HEIGHT + 18, f"{mib}", "dim small", "middle"))
    body.append(svg.text(_LEFT + _ACROSS / 2, _TOP + _HEIGHT + 36, "MiB predicted", "dim small", "middle"))
    body.append(svg.path([(x(0), y(0)), (x(end), y(end))], "dim line", ' stroke-dasharray="6 4"'))
    body.append(svg.text(x(end) + 6, y(end) + 12, "freed as predicted", "dim small"))
    for row in reaps:
        body.append(_mark(row["metric"], x(row["promised"] / MIB), y(freed(row) / MIB)))
    for number, metric in enumerate(METRICS):
        at = _LEFT + 300 + 56 * number
        body.append(_mark(metric, at, _TOP - 16))
        body.append(svg.text(at + 10, _TOP - 12, metric, f"{_COLOURS[metric]} bold"))
    counts = ", ".join(f"{sum(row['metric'] == metric for row in reaps)} by {metric}" for metric in METRICS)
    return svg.document(
        "What was freed when a worker left, by what each metric predicted",
        f"Workers replaced: {counts}. Those measured by uss lie on the diagonal, those by pss near it, those by rss and"
        " vms far below it.",
        (_WIDTH, _TOP + _HEIGHT + 48),
        body,
    )


def _step(mib: float) -> int:
    """The next multiple of 50 MiB above."""
    return (int(mib) // 50 + 1) * 50


def _mark(metric: str, x: float, y: float) -> str:
    """Each metric has its own shape, for whom its colour says nothing."""
    classes = f"{_COLOURS[metric]} mid"
    if metric == "uss":
        return svg.rect(x - 3.5, y - 3.5, 7, 7, classes, ' rx="3.5"')
    if metric == "vms":
        return svg.path([(x - 4, y - 4), (x + 4, y + 4)], classes) + svg.path([(x + 4, y - 4), (x - 4, y + 4)], classes)
    triangle = [(x, y - 4.5), (x + 4.5, y + 3.5), (x - 4.5, y + 3.5)]
    square = [(x - 3.5, y - 3.5), (x + 3.5, y - 3.5), (x + 3.5, y + 3.5), (x - 3.5, y + 3.5)]
    shape = triangle if metric == "rss" else square
    return svg.path([*shape, shape[0]], classes)
