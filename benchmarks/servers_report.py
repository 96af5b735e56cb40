"""The tables and the picture of servers.py. Pure except `put_into`."""

from __future__ import annotations

import math
import sys
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).parent.parent / "docs/pictures"))

import svg
from loss_report import rate
from pages import put_between
from quantiles import longest, quantile

from supervisor_memreap.core.servers import LINES, Moment, Server
from supervisor_memreap.core.text import memory

# What servers.py records about one server under one load and moment: a line of JSON in its results.
Result = dict[str, Any]
NOTHING, ANY, WHILE_BUSY, IDLE, BOUNDARY = (
    "nothing",
    "any moment",
    "any moment, signal while busy",
    "seen idle",
    "boundary",
)
SHOWN = (ANY, IDLE, BOUNDARY)
# Whether the worker that held a lost request had been signalled by the benchmark.
SIGNALLED, NOT_SIGNALLED, UNKNOWN = "signalled", "not signalled", "unknown"
BEGIN, END = "<!-- python benchmarks/servers.py writes what follows, -->", "<!-- up to here. -->"
_TIMES = ("signalled", "gone", "replaced", "serving", "took")


class Load(NamedTuple):
    """What a server is measured under."""

    server: str
    kept: bool
    load: str

    @property
    def cells(self) -> str:
        return f"{self.server} | {'kept' if self.kept else 'not kept'} | {self.load}"


def lost(row: Result) -> int:
    return sum(row["lost"].values())


_OF_BEFORE = (
    "Rows of 3 clients without times were measured before memreap went to the boundary: there the column holds workers"
    " that were seen idle and held while they were signalled."
)


def by_load(results: Iterable[Result]) -> dict[Load, dict[str, Result]]:
    """By server, connections and clients, then by moment; several measurements of the same are added up.

    Results from before there were two loads count only if there are no later ones.
    """
    results = list(results)
    loads: dict[Load, dict[str, Result]] = {}
    for row in sorted(results, key=lambda row: "load" in row):
        load = Load(row["server"], row["kept"], row.get("load", "3 clients"))
        moment = {"held": BOUNDARY}.get(row["moment"], row["moment"])
        earlier = loads.setdefault(load, {}).get(moment)
        is_more = earlier is not None and "load" in earlier
        loads[load][moment] = _sum(earlier, row) if earlier and is_more else row
    names = list(dict.fromkeys(row["server"] for row in results))
    return dict(sorted(loads.items(), key=lambda item: (names.index(item[0].server), item[0].kept, item[0].load)))


def _sum(first: Result, second: Result) -> Result:
    both = {**second}
    for key in ("reaps", "seconds", "answered"):
        both[key] = first[key] + second[key]
    for key in ("longest_gap", "overshoot"):
        both[key] = max(first[key], second[key])
    for key in ("lost", "otherwise", "lost_in", *_TIMES):
        both[key] = Counter(first.get(key)) + Counter(second.get(key))
    both["gave_up"] = first["gave_up"] or second["gave_up"]
    return both


def tables(results: list[Result]) -> str:
    loads = by_load(results)
    parts = [_of_losses(loads), _of_times(loads), _of_requests(loads), _measurement(results)]
    return "\n".join(line for part in parts for line in [*part, ""])[:-1]


def _of_losses(loads: dict[Load, dict[str, Result]]) -> list[str]:
    lines = [
        "Requests lost, of workers signalled:",
        "",
        "| server | connections | load | `signal` | any moment | seen idle | boundary | requests answered meanwhile |",
        "|---|---|---|---|--:|--:|--:|--:|",
    ]
    for load, rows in loads.items():
        cells = [_lost_cell(rows.get(moment)) for moment in SHOWN]
        if WHILE_BUSY in rows:
            cells[0] += f" ({rows[WHILE_BUSY]['signal']}: {_lost_cell(rows[WHILE_BUSY])})"
        cells[-1] = f"**{cells[-1]}**"
        signal = next((row["signal"] for moment, row in rows.items() if moment != WHILE_BUSY), "-")
        answered = f"{rows[BOUNDARY]['answered']:,}" if BOUNDARY in rows else "-"
        lines.append(f"| {load.cells} | {signal} | {' | '.join(cells)} | {answered} |")
    lines += _of_holders(loads)
    if any(rows[BOUNDARY]["moment"] == "held" for rows in loads.values() if BOUNDARY in rows):
        lines += ["", _OF_BEFORE]
    return lines


def _of_holders(loads: dict[Load, dict[str, Result]]) -> list[str]:
    """A line for each load in which requests were lost though workers were signalled at their boundary."""
    lines = []
    for load, rows in loads.items():
        row, without = rows.get(BOUNDARY), rows.get(NOTHING)
        if row and without and lost(row):
            signalled, others = (row.get("lost_in", {}).get(kind, 0) for kind in (SIGNALLED, NOT_SIGNALLED))
            lines.append(
                f"- {load.cells.replace(' |', ',')}: of {lost(row)} requests lost, {signalled} were in workers that had"
                f" been signalled, {others} in workers that the manager had ended, and {lost(row) - signalled - others}"
                f" in workers not known. Without reaps {lost(without):,} of {without['answered']:,} requests were"
                " lost."
            )
    return ["", *lines] if lines else []


def _lost_cell(row: Result | None) -> str:
    return "-" if row is None else f"{lost(row):,} of {row['reaps']:,}"


def _of_times(loads: dict[Load, dict[str, Result]]) -> list[str]:
    lines = [
        "Seconds from the moment at which a worker was due until it was signalled, until it had left, and until the"
        " worker that took its place gave its first answer (median, longest), and by how much the largest worker"
        " exceeded its limit:",
        "",
        "| server | connections | load | moment | signalled | gone | serving | largest overshoot |",
        "|---|---|---|---|--:|--:|--:|--:|",
    ]
    for load, rows in loads.items():
        for moment in SHOWN:
            row = rows.get(moment)
            if row and "signalled" in row:
                cells = [_spread(row[what]) for what in ("signalled", "gone", "serving")]
                over = ("over " if row["gave_up"] else "") + memory(row["overshoot"])
                lines.append(f"| {load.cells} | {moment} | {' | '.join(cells)} | {over} |")
    return lines if len(lines) > 4 else []


def _spread(counts: dict[str, int]) -> str:
    return f"{quantile(counts, 0.5):.2f}, {longest(counts):.2f}" if counts else "never"


def _of_requests(loads: dict[Load, dict[str, Result]]) -> list[str]:
    lines = [
        "What clients notice of reaps at the boundary: how long requests took, in milliseconds (half of them, 99 %, the"
        " longest) without reaps and with them; and how many took longer than any without, with by how much:",
        "",
        "| server | connections | load | without reaps | with reaps | longer than any without | by at most |",
        "|---|---|---|--:|--:|--:|--:|",
    ]
    for load, rows in loads.items():
        without, row = rows.get(NOTHING), rows.get(BOUNDARY)
        if not without or not row or "took" not in row or not without["took"] or not row["took"]:
            continue
        most = longest(without["took"])
        slower = sum(count for ms, count in row["took"].items() if int(ms) > 1000 * most)
        by = f"{1000 * (longest(row['took']) - most):.0f} ms" if slower else "-"
        cells = [_durations(each["took"]) for each in (without, row)]
        cells += [f"{slower:,} of {sum(row['took'].values()):,}", by]
        lines.append(f"| {load.cells} | {' | '.join(cells)} |")
    return lines if len(lines) > 4 else []


def _durations(counts: dict[str, int]) -> str:
    return ", ".join(f"{1000 * quantile(counts, share):.0f}" for share in (0.5, 0.99, 1.0))


def _measurement(results: list[Result]) -> list[str]:
    versions = {name: version for row in results for name, version in row["versions"].items()}
    dates = sorted(row["at"][:10] for row in results)
    if not dates:
        return []
    span = dates[0] if dates[0] == dates[-1] else f"{dates[0]} to {dates[-1]}"
    used = ", ".join(f"{name} {version}" for name, version in versions.items())
    machines = sorted({row["machine"] for row in results})
    rows = [rows[BOUNDARY] for rows in by_load(results).values() if BOUNDARY in rows]
    # Where workers grew too far there are few, as the table says.
    fewest = min((row["reaps"] for row in rows if row["reaps"] and not row.get("gave_up")), default=0)
    lines = [f"Measured on {span}: {used}; {'; '.join(machines)}."]
    if fewest:
        lines.append(
            f"0 of {fewest} says, at 95 %, that fewer than {3 / fewest:.1%} of the signals lose a request, and no more"
            " than that."
        )
    return lines


def needs() -> str:
    """What memreap needs for each server, by core.servers."""
    lines = [
        "| server | needs | while busy, without ptrace | lost then | lost then, connections kept |",
        "|---|---|---|--:|--:|",
    ]
    for server in LINES:
        if server.graceful:
            busy = server.while_busy
            cells = ["never", "-", "-"]
            if busy:
                cells = [f"`{busy.signal}`{_UNLESS[server.moment]}", busy.lost, busy.lost_kept or "-"]
            lines.append(f"| {server.name} | {_need(server)} | {' | '.join(cells)} |")
    return "\n".join(lines)


_UNLESS = {
    Moment.ANY: "",
    Moment.UNLESS_KEPT: ", unless connections are seen to be kept",
    Moment.IF_FRESH: ", if connections are seen not to be kept",
    Moment.HELD: "",
}


def _need(server: Server) -> str:
    if server.moment is Moment.HELD:
        return "ptrace: without it, nothing is sent"
    if server.moment is Moment.ANY:
        return "nothing: it lost none at any moment"
    return "ptrace, or idle moments, or connections that are not kept"


NEEDS_BEGIN, NEEDS_END = "<!-- of core/servers.py, written by benchmarks/servers.py -->", "<!-- end -->"


def put_into(page: Path, results: list[Result]) -> None:
    """Write the tables between the marks of this page."""
    put_between(page, BEGIN, END, f"{tables(results)}\n\n")
    put_between(page, NEEDS_BEGIN, NEEDS_END, f"{needs()}\n\n")


_COLOURS = dict(zip(SHOWN, ("red", "amber", "green")))
_WIDTH, _LEFT, _DECADE = 640, 210, 125


def drawing(results: list[Result]) -> str:
    """Bars by the logarithm, since 1 and 1,000 are both to be seen, and the numbers beside them."""
    body = [svg.text(20, 26, "Requests lost per 1,000 workers replaced (logarithmic scale)", "text bold big")]
    for x, moment in zip((20, 130, 230), SHOWN):
        body.append(svg.rect(x, 42, 10, 10, _COLOURS[moment]))
        body.append(svg.text(x + 15, 51, moment, "text small"))
    y = 76
    for load, rows in by_load(results).items():
        connections = f"{'kept' if load.kept else 'not kept'}, {load.load}"
        body.append(svg.text(_LEFT - 10, y + 18, load.server, "text bold", "end"))
        body.append(svg.text(_LEFT - 10, y + 33, connections, "dim small", "end"))
        for moment in SHOWN:
            row = rows.get(moment)
            if row and row["reaps"]:
                width = max(_DECADE * math.log10(1 + 1000 * lost(row) / row["reaps"]), 1.5)
                body.append(svg.rect(_LEFT, y, width, 11, _COLOURS[moment]))
                body.append(svg.text(_LEFT + width + 6, y + 10, rate(lost(row), row["reaps"]), "text small"))
            elif row:
                body.append(svg.text(_LEFT, y + 10, "no worker could be signalled", "dim small"))
            y += 14
        y += 12
    about = (
        f"At {SHOWN[0]}, right after a worker was seen idle, and at its {BOUNDARY}, by server, connections and load."
    )
    return svg.document("Requests lost per 1,000 workers replaced", about, (_WIDTH, y), body)
