"""The tables and the picture of peers.py. Pure except `put_into`."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent / "docs/pictures"))

import svg
from pages import put_between
from peers_ways import COMPARISONS, LOADS, MEMREAP
from quantiles import longest, quantile
from support.servers import WORKERS

# What peers.py records of one way under one load: a line of JSON in its results.
Result = dict[str, Any]
BEGIN, END = "<!-- python benchmarks/peers.py writes what follows, -->", "<!-- up to here. -->"
_MIB = 1024**2


def summary(row: Result) -> str:
    return (
        f"{row['way']}: {row['replaced']} replaced, {lost(row)} of {row['answered']:,} lost, at most {most_away(row)}"
        f" away, peak {_mib(row['peak'])}, over the limit {_mib(max(0, row['overshoot']))}"
    )


def lost(row: Result) -> int:
    return sum(row["lost"].values())


def most_away(row: Result) -> int:
    return max((int(number) for number, seconds in row["away"].items() if seconds), default=0)


def seconds_away(row: Result, least: int) -> float:
    """For how long so many workers were away, or more."""
    return float(sum(seconds for number, seconds in row["away"].items() if int(number) >= least))


def in_order(results: list[Result]) -> list[Result]:
    """By section and comparison; several are measured at a time, and end in any order."""
    titles = list(COMPARISONS)
    sections = [*(load.name for load in LOADS), *titles]
    return sorted(results, key=lambda row: (sections.index(row["section"]), titles.index(row["comparison"])))


def tables(results: list[Result]) -> str:
    results = in_order(results)
    parts = [_of_settings(results)]
    for section in dict.fromkeys(row["section"] for row in results):
        parts.append(_of_section(section, [row for row in results if row["section"] == section]))
    parts.append(_measurement(results))
    return "\n".join(line for part in parts for line in [*part, ""])[:-1]


def _of_settings(results: list[Result]) -> list[str]:
    ways: dict[tuple[str, str], dict[str, None]] = {}
    for row in results:
        if row["way"] != MEMREAP:
            ways.setdefault((row["server"], row["way"]), {})[row["set"]] = None
    lines = ["| server | its own way | set as |", "|---|---|---|"]
    return [*lines, *(f"| {server} | {way} | {'; '.join(words)} |" for (server, way), words in ways.items())]


def _of_section(section: str, rows: list[Result]) -> list[str]:
    lines = [
        f"### {section}" + ("" if section == rows[0]["load"] else f": {rows[0]['load']}"),
        "",
        "| server | way | lost, of answered | replaced | fewest that served | two or more away | most there"
        " | together, MiB: mean, peak | control group, peak | over the limit | ms: 99 %, longest |",
        "|---|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for row in rows:
        way = f"**{row['way']}**" if row["way"] == MEMREAP else row["way"]
        replaced = f"{row['replaced']}"
        if row.get("oom_kills") or row["managers"] > 1:
            kills, starts = row.get("oom_kills", 0), row["managers"] - 1
            replaced += f" ({kills} killed by the kernel; program started again {starts} times)"
        cells = (
            f"{lost(row):,} of {row['answered'] + lost(row):,}",
            replaced,
            WORKERS - most_away(row),
            f"{seconds_away(row, 2):.2f} s",
            row["most_workers"],
            f"{row['mean'] / _MIB:.0f}, {row['peak'] / _MIB:.0f}",
            f"{row['peak_of_group'] / _MIB:.0f}" if "peak_of_group" in row else "-",
            _mib(max(0, row["overshoot"])),
            f"{1000 * quantile(row['took'], 0.99):.0f}, {1000 * longest(row['took']):.0f}",
        )
        lines.append(f"| {row['server']} | {way} | {' | '.join(map(str, cells))} |")
    return lines


def _measurement(results: list[Result]) -> list[str]:
    versions = {name: version for row in results for name, version in row["versions"].items()}
    used = ", ".join(f"{name} {version}" for name, version in versions.items())
    dates = sorted({row["at"][:10] for row in results})
    seconds = sorted({f"{row['seconds']:.0f} s" for row in results})
    lines = [f"Measured on {', '.join(dates)}, {' or '.join(seconds)} each: {used}; {results[0]['machine']}."]
    ours = [row for row in results if row["way"] == MEMREAP]
    replaced, gone = sum(row["replaced"] for row in ours), sum(map(lost, ours))
    if replaced and not gone:
        lines.append(
            f"memreap lost 0 requests with {replaced:,} workers: at 95 %, fewer than {3 / replaced:.1%} of its reaps"
            " lose one. A single row says less: 0 with 30 workers, fewer than 10 %."
        )
    return lines


def _mib(size: float) -> str:
    return f"{size / _MIB:.0f} MiB"


def put_into(page: Path, results: list[Result]) -> None:
    """Write the tables between the marks of this page."""
    put_between(page, BEGIN, END, f"{tables(results)}\n\n")


_WIDTH, _LEFT, _TOP, _PANEL, _EACH, _APART = 640, 44, 76, (270, 90), 310, 158
_COLOURS = ("amber", "violet")


def drawing(results: list[Result]) -> str:
    """What each pool held over time, under the first load that was measured."""
    results = in_order(results)
    rows = [row for row in results if row["section"] == results[0]["section"]]
    panels = [(title, list(of)) for title, of in groupby(rows, lambda row: row["comparison"])]
    about = f"{rows[0]['load']}, for {rows[0]['seconds']:.0f} s; dashed: four at their limit; numbers: the mean"
    body = [
        svg.text(20, 26, "What 4 leaking workers hold together", "text bold big"),
        svg.text(20, 44, about, "dim"),
    ]
    for number, (title, of) in enumerate(panels):
        body += _panel(_LEFT + number % 2 * _EACH, _TOP + number // 2 * _APART, title, of)
    height = _TOP + (len(panels) + 1) // 2 * _APART - 10
    means = "; ".join(f"{row['server']}, {row['way']}: {_mib(row['mean'])} on average" for row in rows)
    return svg.document("What leaking pools hold, by what replaces workers", means, (_WIDTH, height), body)


def _panel(left: float, top: float, title: str, rows: list[Result]) -> Iterator[str]:
    width, height = _PANEL
    full = max(4 * row["limits"]["uss"] / _MIB for row in rows)
    highest = 1.05 * max(full, *(held for row in rows for _, held in row["series"]))
    seconds = max(row["series"][-1][0] for row in rows)

    def y(mib: float) -> float:
        return top + height * (1 - mib / highest)

    yield svg.text(left, top - 8, title, "text bold")
    for mib in range(0, int(highest), 50 if highest < 250 else 100):
        yield svg.path([(left, y(mib)), (left + width, y(mib))], "edge line")
        yield svg.text(left - 6, y(mib) + 4, f"{mib}" if mib else "0 MiB", "dim small", "end")
    yield svg.path([(left, y(full)), (left + width, y(full))], "red line", ' stroke-dasharray="5 3"')
    colours = iter(_COLOURS)
    for number, row in enumerate(rows):
        colour = "green" if row["way"] == MEMREAP else next(colours)
        points = [(left + width * at / seconds, y(held)) for at, held in row["series"]]
        yield svg.path(points, f"{colour} line mid")
        server = "" if row["server"] == rows[0]["server"] else f", {row['server']}"
        label = f"{row['way']}{server}: {_mib(row['mean'])}"
        yield svg.text(left, top + height + 14 + 13 * number, label, f"{colour} small")
