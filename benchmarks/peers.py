"""Servers' own ways of replacing workers that grow, side by side with memreap.

    python benchmarks/peers.py                              everything; Ctrl-C at any time, and continue later
    python benchmarks/peers.py --comparison php-fpm,uWSGI --load "2 clients" --seconds 30
    python benchmarks/peers.py --plan                       what would be measured, and how long that takes
    python benchmarks/peers.py --report                     only write the page and the picture again, from the results

Everything is real: each server (tests/support/servers.py) runs under a supervisord of its own with 4 workers, behind
nginx, or without it where the server speaks HTTP, and memreap's own listener where memreap replaces the workers. All
ways of a comparison run at the same time, on the same machine, with the same application, leak and load:

    8 clients, each request leaks 48 KiB               saturated: each request takes 40 ms, clients ask without pause
    2 clients, each request leaks 80 KiB               half of the workers are idle: 20 ms, and a pause of 20 ms
    8 clients, one request of 80 leaks 3,840 KiB       saturated, and uneven: on average the same leak

A worker may grow by 24 MiB beyond what one holds that has served (measured before, for each server). By that,

    a limit on memory      is what such a worker holds, by what the way looks at (uss, RSS, VSZ), and 24 MiB
    a number of requests   is what a worker answers on average until it has leaked 24 MiB; with jitter: 90 % to 110 %
    unicorn-worker-killer  draws a limit for each worker: 90 % to 110 % of the 24 MiB
    puma_worker_killer     looks at the sum: what the manager and 4 workers at their limit hold (RSS)

This is fast motion: a worker is at its limit after about 20 s, not after hours. So all that looks at intervals does so
each second: memreap (TICK_5 by default; with settle=1s and min_age=1s), Granian (30 s by default), puma_worker_killer
(10 s). All else is as it is by default. Clients open a connection for each request. A request is lost if its answer is
not a whole and right 200.

Counted are lost requests; workers replaced; for how long workers were away, that is, did not wait for a connection and
had none (looked at every 20 ms); what the workers held together (private memory and swap, every 0.1 s) and, as root,
the peak of the pool's control group; how far a worker got over its limit; and how long requests took.

What was measured is a line in OUT/peers.jsonl and counts when the same command is given again: remove the file, or give
another --out, to start over. Writes the tables of peers.md beside it, and docs/peers.svg. Needs what tests/run
installs, Debian's puma, ruby-puma-worker-killer and ruby-unicorn-worker-killer, and granian (of PyPI) on the PATH.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

import side_by_side
from pages import RESULTS, picture, read
from peers_measure import measure
from peers_report import Result, drawing, put_into, summary
from peers_ways import COMPARISONS, LOADS, SLOW, Load

# Seconds that a comparison needs beside those in which it measures: limits, start, end.
AROUND = 30


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    add = parser.add_argument
    add("--comparison", default=",".join(COMPARISONS), help="such as 'php-fpm,uWSGI' (default: all)")
    add("--load", default="", help="a part of the name of a load, such as '2 clients' (default: all)")
    add("--seconds", type=float, default=120, help="for each comparison and load (120)")
    add("--jobs", type=int, default=2, help="comparisons that are measured at the same time (2)")
    add("--out", type=Path, default=RESULTS, help="directory of peers.jsonl and .md (benchmarks/results)")
    add("--plan", action="store_true", help="measure nothing: say what would be measured, and how long that takes")
    add("--report", action="store_true", help="measure nothing: write the page and the picture from peers.jsonl")
    add("--case", help=argparse.SUPPRESS)
    add("--parent", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    for name in options.comparison.split(","):
        if name not in COMPARISONS:
            parser.error(f"--comparison {name}: not one of {', '.join(COMPARISONS)}")
    return options


def plan(options: argparse.Namespace, file: Path) -> list[tuple[str, Load]]:
    """What is missing in the file."""
    measured = {(row["comparison"], row["load"]) for row in read(file)}
    wanted = [(title, load) for title in options.comparison.split(",") for load in COMPARISONS[title].loads]
    return [each for each in wanted if options.load in each[1].name and (each[0], each[1].name) not in measured]


def seconds_of(title: str, options: argparse.Namespace) -> float:
    return max(options.seconds, COMPARISONS[title].seconds)


def show_plan(todo: list[tuple[str, Load]], options: argparse.Namespace) -> None:
    for title, load in todo:
        print(f"{title}: {' | '.join(way.name for way in COMPARISONS[title].ways)}; {load.name}")
        for executable in {
            way.server.executable for way in COMPARISONS[title].ways if not shutil.which(way.server.executable)
        }:
            print(f"  {executable} is not there: this would fail")
    minutes = sum(seconds_of(title, options) + AROUND for title, _ in todo) / 60 / options.jobs
    print(f"{len(todo)} comparisons, {options.jobs} at a time, {options.seconds:.0f} s each: about {minutes:.0f} min")


def measure_all(options: argparse.Namespace, file: Path) -> None:
    """Measure what is missing in the file, and append it."""
    todo = []
    for title, load in plan(options, file):
        words = ["--case", json.dumps([title, load.name]), "--seconds", str(seconds_of(title, options))]
        todo.append([side_by_side.Task(f"{title}, {load.name}", words)])
    side_by_side.measure_all(todo, file, options.jobs, summary)


def measure_one(options: argparse.Namespace) -> None:
    title, name = json.loads(options.case)
    (load,) = (load for load in (*LOADS, SLOW) if load.name == name)
    side_by_side.measure_one(
        f"{title}, {name}", options.parent, lambda progress: measure(title, load, options.seconds, progress)
    )


def write_report(file: Path, out: Path) -> None:
    results: list[Result] = read(file)
    if results:
        put_into(out / "peers.md", results)
        picture(out, "peers").write_text(drawing(results))


def main() -> None:
    options = arguments()
    if options.case:
        measure_one(options)
        return
    options.out.mkdir(parents=True, exist_ok=True)
    file = options.out / "peers.jsonl"
    if options.plan:
        show_plan(plan(options, file), options)
        return
    side_by_side.until_stopped(
        lambda: None if options.report else measure_all(options, file), lambda: write_report(file, options.out)
    )


if __name__ == "__main__":
    main()
