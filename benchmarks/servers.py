"""What it costs to replace workers of each pre-forking server, by the moment at which they are signalled.

    python benchmarks/servers.py                        everything; Ctrl-C at any time, and continue later
    python benchmarks/servers.py --moment boundary      only that: 300 reaps for each server and load
    python benchmarks/servers.py --server FCGI::ProcManager,Starman --load 8 --reaps 50
    python benchmarks/servers.py --plan                 what would be measured, and how long that takes at most
    python benchmarks/servers.py --report               only write the page and the picture again, from the results

Everything is real: each server (tests/support/servers.py) runs under a supervisord with 4 workers, or with 2 to 6 where
it makes its pool larger and smaller by itself, behind nginx, or without it where the server speaks HTTP. The clients
ask without pause, each on a new connection for every request ("not kept") or for 20 requests ("kept": that of the
client, or that of nginx to the worker). Of ten requests 5 are quick GETs, 3 are POSTs of 2 KB, one is a POST of 100 KB,
and one takes 50 ms. A request is lost if its answer is not a whole and right 200: an empty answer and a closed
connection too, also on a connection that is kept.

    3 clients    one fewer than there are workers, so that now and then one is idle
    8 clients    a saturated pool: each request takes at least 40 ms, and no worker has to wait for one

Each request lets its worker grow, so that it is over its limit after about 1.5 s: then it is due. The largest worker
that is due gets the server's graceful signal, by host.attempt, which is what memreap itself uses:

    nothing      control: no worker grows, and none is signalled
    any moment   whatever it does, as a script does that only knows its size
    any moment, signal while busy
                 the same with the signal that costs least then, for servers where that is another one (core.servers)
    seen idle    right after it was seen idle (hold=no)
    boundary     where it enters its wait for the next connection, with none in hand (the default)

The next one goes when the last one has left, another has taken its place, and the server's own pace allows it. The
moments of a server are measured side by side, each with a pool of its own, so that they have the same machine. Counted
are requests lost, and whether the worker that ended just then had been signalled, or was ended by its manager; the time
from due to signalled, to gone, to the first answer of the worker that took its place; the requests that took longer
than any without reaps, and by how much; and how far a worker got over its limit. (Where that is 128 MiB, workers grow
no further, and the case ends 30 s later: with 8 clients hardly one is ever seen idle.)

What was measured is a line in OUT/servers.jsonl and counts when the same command is given again: remove the file, or
give another --out, to start over. Writes the tables of servers.md beside it, and docs/servers.svg. Needs what tests/run
installs.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

import side_by_side
from pages import RESULTS, picture, read
from servers_measure import LOADS, MOMENTS, NOTHING, WHILE_BUSY, Case, measure, signal_at
from servers_report import Result, drawing, lost, put_into
from support import servers
from support.servers import ELASTIC, SERVERS

# A set-up of the tests alone.
LEFT_OUT = ("Apache prefork elastic",)
# Seconds that a case needs beside the time in which it measures: start, end, pages.
AROUND = 15


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    add = parser.add_argument
    names = [server.name for server in (*SERVERS, *ELASTIC)]
    usual = [name for name in names if name not in LEFT_OUT]
    add("--server", default=",".join(usual), help=f"such as Starman,uWSGI (default: all but {LEFT_OUT[0]})")
    add("--load", default="", help="a part of the name of a load, as 8 or clients (default: both)")
    add("--kept", choices=("yes", "no"), help="only kept connections, or only those that are not (default: both)")
    add("--moment", default=",".join(MOMENTS), help="such as 'boundary,seen idle' (default: all)")
    add("--reaps", type=int, default=300, help="number of reaps for each moment (300)")
    add("--seconds", type=float, default=900, help="at most so long for each server, load and moment (900)")
    add("--control", type=float, default=60, help="seconds for which nothing is signalled, as the control (60)")
    add("--jobs", type=int, default=1, help="servers that are measured at the same time (1)")
    add("--out", type=Path, default=RESULTS, help="directory of servers.jsonl and .md (benchmarks/results)")
    add("--plan", action="store_true", help="measure nothing: say what would be measured, and how long that takes")
    add("--report", action="store_true", help="measure nothing: write the page and the picture from servers.jsonl")
    add("--case", help=argparse.SUPPRESS)
    add("--parent", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    for option, given, there in (("server", options.server, names), ("moment", options.moment, MOMENTS)):
        for name in filter(None, _moments(given) if option == "moment" else given.split(",")):
            if name not in there:
                parser.error(f"--{option} {name}: not one of {'; '.join(there)}")
    if not any(options.load in load for load in LOADS):
        parser.error(f"--load {options.load}: not in one of {', '.join(LOADS)}")
    return options


def _moments(given: str) -> list[str]:
    """One of them has a comma in its name."""
    words = given.replace(WHILE_BUSY, "\0").split(",")
    return [WHILE_BUSY if word.strip() == "\0" else word.strip() for word in words]


def groups(options: argparse.Namespace) -> Iterator[list[Case]]:
    """What is measured side by side."""
    for name in options.server.split(","):
        server = servers.named(name)
        for kept in (False, True) if server.keeps_connections else (False,):
            if options.kept and kept is not (options.kept == "yes"):
                continue
            for load in (load for load in LOADS if options.load in load):
                moments = [moment for moment in _moments(options.moment) if _differs(name, moment)]
                yield [Case(name, kept, load, moment) for moment in moments]


def _differs(name: str, moment: str) -> bool:
    server = servers.named(name)
    return moment != WHILE_BUSY or signal_at(server, moment) != server.signal


def remaining(case: Case, rows: list[Result], options: argparse.Namespace) -> tuple[int, float]:
    """Reaps and seconds that are missing in what was measured."""
    measured = [row for row in rows if row.get("load") and Case(*(row[field] for field in Case._fields)) == case]
    if any(row["gave_up"] for row in measured):
        return 0, 0.0
    seconds = sum(row["seconds"] for row in measured)
    if case.moment == NOTHING:
        return 1, max(0.0, options.control - seconds)
    return max(0, options.reaps - sum(row["reaps"] for row in measured)), max(0.0, options.seconds - seconds)


def plan(options: argparse.Namespace, file: Path) -> list[list[tuple[Case, int, float]]]:
    """What is missing in the file: each case with its reaps and seconds."""
    rows = read(file)
    missing = [[(case, *remaining(case, rows, options)) for case in group] for group in groups(options)]
    return [rest for group in missing if (rest := [each for each in group if each[1] and each[2] > 1])]


def show_plan(todo: list[list[tuple[Case, int, float]]], options: argparse.Namespace) -> None:
    for group in todo:
        for case, reaps, seconds in group:
            print(f"{case.name}: {'' if case.moment == NOTHING else f'{reaps} reaps, '}at most {seconds:.0f} s")
    longest = sum(max(seconds for _, _, seconds in group) + AROUND for group in todo) / options.jobs
    print(f"{len(todo)} groups, one after the other ({options.jobs} at a time): at most {longest / 60:.0f} min")


def measure_all(options: argparse.Namespace, file: Path) -> None:
    """Measure what is missing in the file, and append it."""
    todo = [[_task(*each) for each in group] for group in plan(options, file)]
    side_by_side.measure_all(todo, file, options.jobs, summary)


def _task(case: Case, reaps: int, seconds: float) -> side_by_side.Task:
    words = ["--case", json.dumps(case), "--reaps", str(reaps), "--seconds", str(seconds)]
    return side_by_side.Task(case.name, words)


def summary(result: Result) -> str:
    done = f"{result['reaps']} reaps in {result['seconds']:.0f} s"
    return f"{done}, {result['answered']:,} answered, {lost(result)} lost"


def measure_one(options: argparse.Namespace) -> None:
    """What is run for each case; its result is on standard output."""
    case = Case(*json.loads(options.case))
    side_by_side.measure_one(
        case.name,
        options.parent,
        lambda progress: [measure(case, options.reaps, options.seconds, progress)],
    )


def write_report(file: Path, out: Path) -> None:
    results = read(file)
    put_into(out / "servers.md", results)
    picture(out, "servers").write_text(drawing(results))


def main() -> None:
    options = arguments()
    if options.case:
        measure_one(options)
        return
    options.out.mkdir(parents=True, exist_ok=True)
    file = options.out / "servers.jsonl"
    if options.plan:
        show_plan(plan(options, file), options)
        return
    side_by_side.until_stopped(
        lambda: None if options.report else measure_all(options, file), lambda: write_report(file, options.out)
    )


if __name__ == "__main__":
    main()
