"""The tables and the picture of servers.py. Pure except `put_into`."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from memory_report import put_between

# What servers.py records about one server under one load and moment: a line of JSON in its results.
Result = dict[str, Any]
MOMENTS = ("any moment", "seen idle", "held")
BEGIN, END = "<!-- python benchmarks/servers.py writes what follows, -->", "<!-- up to here. -->"


def lost(row: Result) -> int:
    return sum(row["lost"].values())


def by_load(results: Iterable[Result]) -> dict[tuple[str, bool], dict[str, Result]]:
    """By server and whether connections are kept, then by moment: what was measured last."""
    loads: dict[tuple[str, bool], dict[str, Result]] = {}
    for row in results:
        loads.setdefault((row["server"], row["kept"]), {})[row["moment"]] = row
    return loads


def tables(results: list[Result]) -> str:
    loads = by_load(results)
    lines = [
        "Requests lost, of workers signalled:",
        "",
        "| server | `signal` | connections | any moment | seen idle | held | requests answered while held |",
        "|---|---|---|--:|--:|--:|--:|",
    ]
    for (server, kept), rows in loads.items():
        cells = [f"{lost(rows[moment])} of {rows[moment]['reaps']}" if moment in rows else "-" for moment in MOMENTS]
        cells[-1] = f"**{cells[-1]}**"
        signal = next(iter(rows.values()))["signal"]
        answered = f"{rows['held']['answered']:,}" if "held" in rows else "-"
        lines.append(f"| {server} | {signal} | {_connections(kept)} | {' | '.join(cells)} | {answered} |")
    lines += [
        "",
        "Seconds until a worker that was held had left, until another had taken its place, and the longest in which no"
        " client got an answer:",
        "",
        "| server | connections | left: median | longest | replaced: median | longest | no answer |",
        "|---|---|--:|--:|--:|--:|--:|",
    ]
    for (server, kept), rows in loads.items():
        row = rows.get("held")
        if row and row["reaps"]:
            times = [row[what][which] for what in ("left", "replaced") for which in ("median", "longest")]
            cells = [f"{time:.2f}" for time in (*times, row["longest_gap"])]
            lines.append(f"| {server} | {_connections(kept)} | {' | '.join(cells)} |")
    return "\n".join([*lines, "", *_measurement(results)])


def _connections(kept: bool) -> str:
    return "kept" if kept else "not kept"


def _measurement(results: list[Result]) -> list[str]:
    versions = {name: version for row in results for name, version in row["versions"].items()}
    dates = sorted(row["at"][:10] for row in results)
    if not dates:
        return []
    span = dates[0] if dates[0] == dates[-1] else f"{dates[0]} to {dates[-1]}"
    used = ", ".join(f"{name} {version}" for name, version in versions.items())
    machines = sorted({row["machine"] for row in results})
    fewest = min((row["reaps"] for row in results if row["moment"] == MOMENTS[-1] and row["reaps"]), default=0)
    lines = [f"Measured on {span}: {used}; {'; '.join(machines)}."]
    if fewest:
        lines.append(
            f"0 of {fewest} says, at 95 %, that fewer than {3 / fewest:.1%} of the signals lose a request, and no more"
            " than that."
        )
    return lines


def put_into(page: Path, results: list[Result]) -> None:
    """Write the tables between the two marks of this page."""
    put_between(page, BEGIN, END, f"{tables(results)}\n\n")


# Each moment has its own filling, so that the picture needs no colours.
_STYLE = (
    "text{font:12px system-ui,sans-serif;fill:#1f2328}.bold{font-weight:600}.small{font-size:11px;opacity:.75}"
    ".any{fill:#57606a}.seen{fill:#57606a;fill-opacity:.45}.held{fill:none;stroke:#57606a}"
    "@media(prefers-color-scheme:dark){text{fill:#e6edf3}.any,.seen{fill:#9198a1}.held{stroke:#9198a1}}"
)
_CLASSES = dict(zip(MOMENTS, ("any", "seen", "held")))


def svg(results: list[Result]) -> str:
    """Bars by the logarithm, since 1 and 1,000 are both to be seen, and the numbers beside them."""
    parts = ['<text x="20" y="22" class="bold">Requests lost per 1,000 workers replaced (logarithmic scale)</text>']
    for x, moment in zip((190, 300, 400), MOMENTS):
        parts.append(f'<rect x="{x}" y="36" width="10" height="10" class="{_CLASSES[moment]}"/>')
        parts.append(f'<text x="{x + 15}" y="45">{moment}</text>')
    y = 62
    for (server, kept), rows in by_load(results).items():
        parts.append(f'<text x="180" y="{y + 20}" text-anchor="end" class="bold">{server}</text>')
        parts.append(f'<text x="180" y="{y + 35}" text-anchor="end" class="small">{_connections(kept)}</text>')
        for moment in MOMENTS:
            row = rows.get(moment)
            if row and row["reaps"]:
                value = 1000 * lost(row) / row["reaps"]
                width = 130 * math.log10(1 + value)
                parts.append(
                    f'<rect x="190" y="{y}" width="{max(width, 1.5):.1f}" height="11" class="{_CLASSES[moment]}"/>'
                )
                parts.append(f'<text x="{196 + width:.0f}" y="{y + 10}">{value:.3g}</text>')
            y += 14
        y += 12
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 720 {y}" width="720" height="{y}" role="img">'
    return "\n".join([head, f"<style>{_STYLE}</style>", *parts, "</svg>"]) + "\n"
