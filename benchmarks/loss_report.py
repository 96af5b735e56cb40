"""The results of loss.py as a page of tables and a picture. Pure: results in, text out."""

from __future__ import annotations

import json
import math
import sys
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent / "docs/pictures"))

import svg
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
        "![Lost requests, shortened sleeps and lost cleanup handlers per 1,000 replaced workers](../../docs/loss.svg)",
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
    ("lost", "lost requests", "red"),
    ("shortened", "shortened sleeps", "amber"),
    ("cleanups_lost", "lost cleanup handlers", "blue"),
)
_WIDTH, _LEFT, _DECADE = 640, 196, 84


def drawing(results: list[Result]) -> str:
    """The picture: bars by the logarithm, since 1 and 1,000 are both to be seen, and the numbers beside them."""
    sums = {key: result for (key,), result in grouped(results, "strategy").items() if result["recycled"]}
    body = [svg.text(20, 26, "Per 1,000 workers replaced (logarithmic scale)", "text bold big")]
    for x, (_, label, colour) in zip((20, 140, 270), _BARS):
        body.append(svg.rect(x, 42, 10, 10, colour))
        body.append(svg.text(x + 15, 51, label, "text small"))
    y = 76
    for key, result in sums.items():
        body.append(svg.text(_LEFT - 10, y + 18, WAYS[key].title, "text bold", "end"))
        body.append(svg.text(_LEFT - 10, y + 33, f"{result['recycled']:,} replaced", "dim small", "end"))
        for what, _, colour in _BARS:
            count = _count(result, what)
            width = max(_DECADE * math.log10(1 + 1000 * count / result["recycled"]), 1.5)
            label = rate(count, result["recycled"]) if what == "lost" else _per_thousand(count, result)
            body.append(svg.rect(_LEFT, y, width, 13, colour))
            body.append(svg.text(_LEFT + width + 6, y + 11, label, "text small"))
            y += 16
        y += 16
    about = "; ".join(f"{WAYS[key].title}: {_per_thousand(_count(each, 'lost'), each)}" for key, each in sums.items())
    title = "Requests lost, shortened sleeps and lost cleanup handlers for each 1,000 replaced workers"
    return svg.document(title, f"Requests lost: {about}.", (_WIDTH, y), body)


def _count(result: Result, what: str) -> int:
    return int(sum(result[what].values()) if what == "lost" else result[what])


def _per_thousand(count: int, result: Result) -> str:
    return _number(1000 * count / result["recycled"])
