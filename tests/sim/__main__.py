"""python -m tests.sim: plays simulated days, and shows each invariant that does not hold.

Each run is drawn from its seed: pools, what a user and the machine do to them, and faults. A run that fails can be
played again by its seed alone.
"""

from __future__ import annotations

import argparse
import itertools
import signal
import sys
import time
from collections import Counter
from collections.abc import Collection

from .faults import FAULTS
from .processes import MIB
from .run import Report, Run
from .script import DAY, Action, Script, draw
from .shrink import kind_of, play, shrink
from .sweep import base, calls_of, kinds, sweep


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.sim", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seed", default="1", help="of the first run; the next have it with .1, .2 … (default: 1)")
    parser.add_argument("--days", type=float, default=30.0, help="play runs until they have so many days (default: 30)")
    parser.add_argument("--ticks", type=int, default=2000, help="of each run (default: 2000)")
    parser.add_argument(
        "--tick", type=int, choices=(5, 60, 3600), default=0, help="seconds between two ticks (default: by the seed)"
    )
    parser.add_argument("--shrink", action="store_true", help="look for the shortest script that fails like the first")
    parser.add_argument("--log", action="store_true", help="print every event of memreap with its time")
    parser.add_argument(
        "--sweep",
        nargs="*",
        metavar="CALL",
        help="instead: each call of a short run fails, in each way; or only these calls",
    )
    parser.add_argument("--every", type=int, default=1, help="with --sweep: only so many-th call (default: 1)")
    arguments = parser.parse_args(argv)
    if arguments.ticks < 1 or arguments.days <= 0:
        parser.error("--ticks and --days must be more than 0")
    made = [call for call in FAULTS if not arguments.sweep or calls_of(base())[call]]
    if unknown := set(arguments.sweep or ()).difference(made):
        parser.error(f"the short run makes no call {min(unknown)}; it makes: {', '.join(made)}")
    for each in (signal.SIGINT, signal.SIGTERM):  # a shell ignores the first in what it starts in the background
        signal.signal(each, signal.default_int_handler)
    try:
        return _play(arguments) if arguments.sweep is None else _sweep(arguments.sweep, max(1, arguments.every))
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130


def _play(arguments: argparse.Namespace) -> int:
    """What was played until Ctrl-C is summed up too."""
    total = Report(draw(arguments.seed, arguments.ticks))
    runs, failed, days, began = 0, 0, 0.0, time.perf_counter()
    status = None
    try:
        while days < arguments.days:
            script = draw(f"{arguments.seed}.{runs}" if runs else arguments.seed, arguments.ticks, arguments.tick)
            report = _logged(script) if arguments.log else play(script)
            total.add(report)
            runs, days = runs + 1, days + script.days
            if report.broken:
                failed += 1
                _show(report)
                if arguments.shrink:
                    short = shrink(script, lambda text: print(f"  … {text}", file=sys.stderr))
                    _describe(short)
                    _show(_logged(short))
                    return 1
            if runs % 10 == 0:
                print(f"{runs} runs, {days:.0f} of {arguments.days:.0f} days, {failed} failed", file=sys.stderr)
    except KeyboardInterrupt:
        status = 130
    seconds = time.perf_counter() - began
    pace = f"{total.ticks} ticks in {seconds:.0f} s, {total.ticks / seconds:.0f} a second"
    made = f"{total.signals} signals, {total.starts} starts of memreap, {total.faults} faults"
    print(f"{runs} runs, {days:.0f} days: {pace}; {made}; {failed} runs failed")
    print(", ".join(f"{name} {count}" for name, count in total.events.most_common()))
    return status or int(failed > 0)


def _sweep(calls: Collection[str], every: int) -> int:
    script, failed, began = base(), 0, time.perf_counter()
    for call, how in kinds():
        if calls and call not in calls:
            continue
        runs = 0
        for report in sweep(call, how, script, every):
            runs += 1
            if report.broken:
                failed += 1
                print(f"faults {report.script.faults}")
                _show(report)
        print(f"{call or 'any call'}: {how}: {runs} runs, {time.perf_counter() - began:.0f} s", flush=True)
    print(f"{failed} runs failed")
    return 1 if failed else 0


def _logged(script: Script) -> Report:
    run = Run(script)
    start = run.world.clock.now
    run.emit = lambda event: print(f"{run.world.clock.now - start:12.2f} {event.pool}: {event.text}")
    return run.play()


def _describe(script: Script) -> None:
    for pool in script.pools:
        print(f"  {pool}")
    print(
        f"  a tick in {script.tick:.0f} s, ptrace {script.has_ptrace}, idle seen {script.sees_idle}, "
        f"{script.days * DAY:.0f} s, faults {script.faults}\n"
        f"  host {script.host // MIB} MiB, swap {script.swap // MIB} MiB, groups {script.groups}, wakes {script.wakes}"
    )
    for action in script.actions:
        print(f"  {_line(action)}")


def _line(action: Action) -> str:
    return f"{action.at:12.2f} {action.what} {action.pool} {' '.join(map(str, action.values))}"


def _show(report: Report) -> None:
    kinds = Counter(kind_of(each.what) for each in report.broken)
    for each in itertools.islice(report.broken, 5):
        print(f"seed {report.script.seed}: {each.at - report.script.uptime:.2f} s: {each.what}")
    if len(report.broken) > 5:
        print(f"seed {report.script.seed}: {dict(kinds)}")


if __name__ == "__main__":
    sys.exit(main())
