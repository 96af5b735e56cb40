"""The results of loss.py as a page of tables and a picture. Pure: results in, text out."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping
from typing import Any

from loss_ways import WAYS
from quantiles import quantile

from supervisor_memreap.core.text import memory

# What loss.py writes down of one way under one condition; a line of JSON in its results.
Result = dict[str, Any]


def _cell(moments: Mapping[str, int]) -> Counter[str]:
    return Counter({{"held": "at its boundary"}.get(moment, moment): count for moment, count in moments.items()})


def add_up(results: list[Result]) -> Result:
    """Several results as one."""
    total: Result = {
        "lost": Counter(),
        "moments": Counter(),
        "longest_gap": 0.0,
        "leaks": set(),
        "overshoot": 0,
        "took": Counter(),
    }
    for result in results:
        for key in ("recycled", "seconds", "answered", "sleeps", "shortened", "promised", "cleanups_lost"):
            total[key] = total.get(key, 0) + result[key]
        total["leaks"].add(result["leak"])
        total["lost"] += Counter(result["lost"])
        total["moments"] += Counter(result["moments"])
        total["longest_gap"] = max(total["longest_gap"], result["longest_gap"])
        total["overshoot"] = max(total["overshoot"], result.get("overshoot", 0))
        total["took"] += Counter({int(ms): count for ms, count in result.get("took", {}).items()})
    return total


def grouped(results: list[Result], *keys: str) -> dict[tuple[str, ...], Result]:
    """The sums of those that have the values of these keys in common."""
    groups: dict[tuple[str, ...], list[Result]] = {}
    for result in results:
        groups.setdefault(tuple(result[key] for key in keys), []).append(result)
    return {values: add_up(groups[values]) for values in sorted(groups)}


def rate(count: int, recycled: int) -> str:
    """The number per 1,000 recycled; if there was none, its upper bound at 95 % certainty: `0 (< 1.5)`."""
    if not recycled:
        return "-"
    return _number(1000 * count / recycled) if count else f"0 (< {_number(3000 / recycled)})"


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 or not value else f"{value:.1f}" if value >= 1 else f"{value:.2g}"


def markdown(results: list[Result]) -> str:
    """The page."""
    lines = [*_of_methods(results), *_of_conditions(results), *_of_measurement(results)]
    return "\n".join(lines) + "\n"


def _of_methods(results: list[Result]) -> list[str]:
    """The head of the page, with the sums of each method."""
    lines = [
        "# What it costs to replace a grown worker",
        "",
        "This page is the output of `python benchmarks/loss.py`; its `--help` describes the method.",
        "",
        "![Lost requests, shortened sleeps and lost cleanup handlers per 1,000 replaced workers](loss.svg)",
        "",
        "| | method | workers replaced | requests answered | requests lost | lost per 1,000 replaced | shortened sleeps"
        " | lost cleanup handlers | longest time with two or more workers missing |",
        "|---|---|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for (key,), result in grouped(results, "strategy").items():
        lost = sum(result["lost"].values())
        lines.append(
            f"| {key} | {WAYS[key].title} | {result['recycled']:,} | {result['answered']:,} | {lost:,}"
            f" | {rate(lost, result['recycled'])} | {result['shortened']:,} | {result['cleanups_lost']:,}"
            f" | {result['longest_gap']:.2f} s |"
        )
    lines += [
        "",
        "- *requests lost*: any answer that was not complete and correct.",
        "- *lost per 1,000 replaced*: if nothing was lost, the bound in brackets is the rate's upper limit at 95 %"
        " confidence.",
        "- *shortened sleeps*: a signal ended a `sleep` in the application early.",
        "- *lost cleanup handlers*: the answer promised a handler (`psgix.cleanup.handlers`) that never ran.",
        "",
        "These are sums over all load conditions. Not every method was measured in each, or replaced as many workers."
        " To compare two methods, use the second table.",
        "",
    ]
    return lines + [f"- **{key}, {way.title}**: {way.about}." for key, way in WAYS.items()]


def _of_conditions(results: list[Result]) -> list[str]:
    """The second table: each method under each condition."""
    lines = [
        "",
        "## By load condition",
        "",
        "*saturated*: 8 clients without a pause, whose requests take at least 20 ms: more clients than workers. *full*:"
        " 4 clients without a pause. *moderate*: 2 clients with pauses. *kept*: `fastcgi_keep_conn on`. *KiB per"
        " request*: how much each request makes its worker grow. *overshoot*: by how much the largest worker exceeded"
        " the limit, in resident memory. *ms*: how long requests took: half of them, 99 %, the longest. *longest gap*:"
        " as in the last column above. *sent while*: what the worker was doing when memreap signalled it.",
        "",
        "| | load | KiB per request | replaced | seconds | answered | lost | sleeps shortened"
        " | cleanup handlers lost | overshoot | ms | longest gap | sent while |",
        "|---|---|--:|--:|--:|--:|---|--:|--:|--:|--:|--:|---|",
    ]
    for (key, name), result in grouped(results, "strategy", "condition").items():
        leaks = ", ".join(map(str, sorted(result["leaks"])))
        cleanups = f"{result['cleanups_lost']:,} of {result['promised']:,}"
        lines.append(
            f"| {key} | {name} | {leaks} | {result['recycled']:,} | {result['seconds']:,.0f} | {result['answered']:,}"
            f" | {_each(result['lost'])} | {result['shortened']:,} of {result['sleeps']:,}"
            f" | {cleanups} | {memory(result['overshoot']) if result['took'] else '-'} | {_durations(result['took'])}"
            f" | {result['longest_gap']:.2f} s | {_each(_cell(result['moments']), '-')} |"
        )
    return lines


def _durations(took: Counter[int]) -> str:
    """Of times in milliseconds, in steps of 10."""
    if not took:
        return "-"
    return ", ".join(f"{1000 * quantile(took, share):.0f}" for share in (0.5, 0.99, 1.0))


def _of_measurement(results: list[Result]) -> list[str]:
    """What was remarkable, and when and with what it was measured."""
    remarks = [
        f"- {result['strategy']}, {result['condition']}: {text}" for result in results for text in result["remarks"]
    ]
    dates = sorted(result["at"] for result in results)
    used = {json.dumps(result["versions"]): result["versions"] for result in results}.values()
    lines = ["", *remarks, *([""] if remarks else []), f"Measured from {dates[0]} to {dates[-1]} with:", ""]
    return lines + ["- " + ", ".join(f"{what} {version}" for what, version in result.items()) for result in used]


def _each(counts: Counter[str], none: str = "0") -> str:
    return ", ".join(f"{count:,} {what}" for what, count in counts.most_common()) or none


_BARS = (
    ("lost", "lost requests", "#d1495b"),
    ("shortened", "shortened sleeps", "#c98a1b"),
    ("cleanups_lost", "lost cleanup handlers", "#3d85a8"),
)
_STYLE = (
    "text{font:12px system-ui,sans-serif;fill:#1f2328}.bold{font-weight:600}.small{font-size:11px;opacity:.75}"
    "@media(prefers-color-scheme:dark){text{fill:#e6edf3}}"
)


def svg(results: list[Result]) -> str:
    """The picture: bars by the logarithm, since 1 and 1,000 are both to be seen, and the numbers beside them."""
    sums = {key: result for (key,), result in grouped(results, "strategy").items() if result["recycled"]}
    parts = ['<text x="20" y="22" class="bold">Per 1,000 replaced workers (logarithmic scale)</text>']
    for x, (_, label, colour) in zip((170, 300, 440), _BARS):
        parts.append(f'<rect x="{x}" y="36" width="10" height="10" fill="{colour}"/>')
        parts.append(f'<text x="{x + 15}" y="45">{label}</text>')
    y = 62
    for key, result in sums.items():
        parts.append(f'<text x="160" y="{y + 20}" text-anchor="end" class="bold">{WAYS[key].title}</text>')
        parts.append(
            f'<text x="160" y="{y + 35}" text-anchor="end" class="small">{result["recycled"]:,} replaced</text>'
        )
        for what, _, colour in _BARS:
            count = sum(result[what].values()) if what == "lost" else result[what]
            value = 1000 * count / result["recycled"]
            width = 110 * math.log10(1 + value)
            parts.append(f'<rect x="170" y="{y}" width="{max(width, 1.5):.1f}" height="13" fill="{colour}"/>')
            parts.append(f'<text x="{176 + width:.0f}" y="{y + 11}">{_number(value)}</text>')
            y += 16
        y += 16
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 720 {y}" width="720" height="{y}" role="img">'
    title = "<title>Requests lost, shortened sleeps and lost cleanup handlers for each 1,000 replaced workers</title>"
    return "\n".join([head, title, f"<style>{_STYLE}</style>", *parts, "</svg>"]) + "\n"
