"""What each metric predicts for a worker, and what is freed when that worker leaves.

    python benchmarks/memory.py                      everything; about ten minutes; Ctrl-C at any time, continue later
    python benchmarks/memory.py --metric uss --reaps 5
    python benchmarks/memory.py --report             only write the tables and the picture again, from the results

Everything is real: supervisord runs a Plack application (benchmarks/apps/memory.psgi) with FCGI::ProcManager and 4
workers, behind nginx. The manager holds 200 MiB before it forks. For each reap the program is restarted, and each
worker gets one request that makes it

    write to 5 to 120 MiB of what it inherited: the kernel copies these pages, so they are no longer shared
    keep 0 to 10 MiB more
    map 0 to 200 MiB of a file, of which it reads almost nothing

by random numbers that are the same for each metric. Then memreap (Reaper.tick with supervisord's current answer, as in
loss.py) gets a limit just below the largest worker by that metric, and reaps that worker.

What was freed is measured without memreap. The pool runs in its own memory control group (as root): the group's usage
before, minus its usage when the replacement waits for its first request, plus what the replacement holds of its own
then. If no such group can be made, the sum of the PSS of manager and workers takes the place of the usage. The results
have both. Two more parts measure what a look costs with each setting about memory, and, as root with a swap file of
512 MiB that is switched on and off, what a worker counts as when most of its memory is in swap.

Writes memory.jsonl and memory.md to benchmarks/results, and docs/memory.svg. Needs what tests/run installs.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import random
import resource
import shutil
import sys
import threading
import time
import xmlrpc.client
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import psutil

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

import side_by_side
from loss import versions
from memory_report import METRICS, Result, drawing, put_into
from pages import RESULTS, picture, read
from support import stack
from support.driver import Transport, eventually
from support.memorygroup import MemoryGroup, memory_group, why_not
from support.reaping import wait_for
from support.swap import CannotSwap, swap_file

from supervisor_memreap.core.events import Event, Left, Signalled
from supervisor_memreap.core.model import Program
from supervisor_memreap.core.settings import PoolSettings, Settings, Watch
from supervisor_memreap.host import look, procfs, reader
from supervisor_memreap.host.thismachine import ThisMachine
from supervisor_memreap.listener.reaper import Reaper
from supervisor_memreap.supervisord.client import connect

HERE = Path(__file__).resolve().parent
MIB = 1024**2
WORKERS, HELD = 4, 200
# MiB of the file in one mapping; the file is sparse.
FILE = 50
# Seconds: no worker is signalled before it has its own signal handlers.
MIN_AGE = 1.0
# Sizes of the pools whose looks are timed, the number of looks for each mean, and the number of means.
COSTS_OF, LOOKS, ROUNDS = (4, 20), 10, 7


class Served(NamedTuple):
    """The application under supervisord."""

    pool: stack.Pool
    group: MemoryGroup | None
    """None: no control group can be made here."""
    workers: int
    """The number of workers."""

    def restart(self) -> None:
        """Stop and start the program, so that no worker has written to shared memory."""
        proxy = xmlrpc.client.ServerProxy(
            "http://127.0.0.1", transport=Transport("", "", f"unix://{self.pool.directory}/s.sock")
        )
        proxy.supervisor.stopProcess("myapp")
        proxy.supervisor.startProcess("myapp")
        eventually(self._assert_ready, timeout=30)

    def _assert_ready(self) -> None:
        workers = self.pool.workers()
        assert len(workers) == self.workers
        view = procfs.source()
        for pid in workers:
            with contextlib.suppress(ProcessLookupError):
                assert view.process(pid).age > MIN_AGE
                assert view.idle(pid)

    def spread(self, dice: random.Random) -> None:
        """Send each worker one request, each for different sizes."""
        asked = [
            f"unshare={dice.randint(5, 120)}&own={dice.randint(0, 10)}&map={FILE * dice.randint(0, 4)}&s=0.5"
            for _ in range(WORKERS)
        ]
        answered: list[int] = []
        threads = [
            threading.Thread(target=lambda query: answered.append(self.pool.ask(query)[0]), args=(query,))
            for query in asked
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if len(set(answered)) != WORKERS:
            raise RuntimeError(f"{asked}: only {answered} answered")
        eventually(self._assert_ready)

    def pss(self) -> int:
        """Bytes that the manager and the workers hold together."""
        return sum(
            psutil.Process(pid).memory_full_info().pss for pid in (self.pool.manager().pid, *self.pool.workers())
        )

    def held(self) -> dict[str, int]:
        """Bytes that the pool holds, by each way of counting."""
        by_group = {"usage": self.group.usage(), "anonymous": self.group.anonymous()} if self.group else {}
        return {**by_group, "pss": self.pss()}


@contextlib.contextmanager
def served(workers: int = WORKERS) -> Iterator[Served]:
    """The application, in its own control group if one can be made."""
    where = stack.directory()
    try:
        with contextlib.ExitStack() as stacked:
            group = None if why_not() else stacked.enter_context(memory_group())
            with (where / "mapped").open("wb") as file:
                file.truncate(FILE * MIB)
            app = HERE / "apps/memory.psgi"
            fcgi = f"-s FCGI --listen {where}/myapp.sock --nproc {workers} --keep-stderr 1"
            command = f"plackup -E deployment {fcgi} {app}"
            text = (
                f"[program:myapp]\ncommand={group.running(command) if group else command}\n"
                f'environment=MEMORY_HELD={HELD},MEMORY_FILE="{where}/mapped"\n'
            )
            yield Served(stacked.enter_context(stack.running(text, "myapp", where)), group, workers)
    finally:
        shutil.rmtree(where)


def reap(served: Served, metric: str, dice: random.Random) -> Result:
    """Let memreap reap the largest worker by this metric; return what was promised and what was freed."""
    served.restart()
    served.spread(dice)
    workers = {pid: sizes_of(pid) for pid in sorted(served.pool.workers())}
    held = served.held()
    # Leave 2 %: PSS falls when another program on this machine maps the same libraries.
    settings = {"limit": int(0.98 * max(sizes[metric] for sizes in workers.values())), "metric": metric}
    events: list[Event] = []
    supervisord = connect(f"unix://{served.pool.directory}/s.sock", {})
    reaper = Reaper(ThisMachine(), [events.append])

    def tick() -> None:
        given = {**settings, "min_age": MIN_AGE, "settle": 60.0}  # no other worker goes meanwhile
        reaper.tick(supervisord.programs(), Settings({served.pool.name: given}), time.monotonic())
        wait_for(reaper)

    def assert_one(kind: type[Event]) -> Event:
        tick()
        (event,) = (event for event in events if isinstance(event, kind))
        return event

    try:
        signalled = eventually(lambda: assert_one(Signalled))
        replacement = eventually(lambda: _assert_replaced(served, set(workers), signalled.pid))
        left = eventually(lambda: assert_one(Left))
        assert isinstance(left, Left)
    finally:
        reaper.close()
    taken = sizes_of(replacement)["uss"]
    after = served.held()
    return {
        "metric": metric,
        "picked": signalled.pid,
        "workers": workers,
        "promised": workers[signalled.pid][metric],
        "came_back": {way: held[way] - after[way] + taken for way in held},
        "replacement": taken,
        "event": {"came_back": left.came_back, "taken": left.taken, "used": left.used, "text": left.text},
        "at": time.strftime("%Y-%m-%d %H:%M:%S"),
    }


def _assert_replaced(served: Served, before: set[int], gone: int) -> int:
    """The pid of the replacement, once it waits for its first request."""
    (pid,) = served.pool.workers() - before
    assert gone not in served.pool.workers()
    view = procfs.source()
    assert view.process(pid).age > 0.5
    assert view.idle(pid)
    return pid


def sizes_of(pid: int) -> dict[str, int]:
    """Bytes that a process holds, by each metric, according to psutil."""
    info = psutil.Process(pid).memory_full_info()
    return {"uss": info.uss + info.swap, "pss": info.pss + info.swap, "rss": info.rss + info.swap, "vms": info.vms}


def costs(served: Served) -> Result:
    """CPU time of a look with each setting, in ms: the smallest of several means, since other programs interfere."""
    served.restart()
    total = served.pss() + 20 * MIB
    ways: dict[str, dict[str, Any]] = {
        "`limit`, no worker near it": {"limit": 1 << 40},
        "`total`, the pool far below it": {"total": 1 << 40},
        "`total`, the pool near it": {"total": total},
        "`headroom`, enough of it": {"headroom": float(MIB)},
        "`pressure`, none": {"pressure": 100.0},
    }
    programs = connect(f"unix://{served.pool.directory}/s.sock", {}).programs()
    looks = {
        way: min(_cpu_of_a_look(programs, Settings({"myapp": values})) for _ in range(ROUNDS))
        for way, values in ways.items()
    }
    return {
        "costs": f"{served.workers} workers",
        "looks": looks,
        "held": HELD,
        "at": time.strftime("%Y-%m-%d %H:%M:%S"),
    }


def _cpu_of_a_look(programs: list[Program], settings: Settings) -> float:
    """CPU time in ms, including that of the process that reads page tables."""
    events: list[Event] = []
    reaper = Reaper(ThisMachine(), [events.append])
    began = _cpu()
    for _ in range(LOOKS):
        reaper.tick(programs, settings, time.monotonic())
    reader.end()  # only after it ends does the kernel add its time to that of our children
    took = _cpu() - began
    reaper.close()
    if events:  # for example, the processes may not be read, which costs less
        raise RuntimeError(events[0].text)
    return took * 1000 / LOOKS


def _cpu() -> float:
    """CPU seconds of this process and of its children that have ended."""
    times = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(each.ru_utime + each.ru_stime for each in times)


def in_swap() -> Result:
    """The `uss` of workers before and after most of their memory was pushed into swap.

    Raises CannotSwap.
    """
    with swap_file(), served() as application:
        if application.group is None:
            raise CannotSwap(why_not())
        application.restart()
        fresh = _push_out(application, application.group)
        application.restart()
        application.spread(random.Random(0))
        grown = _push_out(application, application.group)
    return {"swap": {"fresh": fresh, "grown": grown}, "held": HELD, "at": time.strftime("%Y-%m-%d %H:%M:%S")}


def _push_out(application: Served, group: MemoryGroup) -> Result:
    """Push three quarters of what the pool holds into swap; return what memreap and the kernel count per worker."""
    before = _uss_of_all(application)
    held = group.anonymous()
    with group.limited(group.usage() // 4):
        after, swapped = _uss_of_all(application), held - group.anonymous()
        divided = [procfs.source().memory(pid) for pid in sorted(application.pool.workers())]
    return {
        "before": before,
        "after": after,
        "kernel": [memory.private + memory.swapped for memory in divided],
        "swapped": swapped,
    }


def _uss_of_all(application: Served) -> list[int]:
    """The `uss` of each worker in bytes, according to memreap."""
    program = Program("myapp", "myapp", "RUNNING", application.pool.manager().pid)
    seen = look.look(Watch(program, PoolSettings(limit=MIB)), procfs.source())
    return [worker.used or 0 for worker in seen.workers]


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    add = parser.add_argument
    add("--metric", default=",".join(METRICS), help="such as uss,rss (default: all)")
    add("--reaps", type=int, default=50, help="number of reaps for uss (50); half of that for each other metric")
    add("--out", type=Path, default=RESULTS, help="directory of memory.jsonl and .md (benchmarks/results)")
    add("--report", action="store_true", help="measure nothing: write the tables and the picture from memory.jsonl")
    options = parser.parse_args()
    for metric in options.metric.split(","):
        if metric not in METRICS:
            parser.error(f"--metric {metric}: not one of {', '.join(METRICS)}")
    return options


def measure_all(options: argparse.Namespace, file: Path) -> None:
    """Measure what is missing in the file, and append it."""
    used = versions()
    with file.open("a", buffering=1) as stream:

        def keep(result: Result) -> None:
            stream.write(json.dumps({**result, "versions": used}) + "\n")

        with served() as application:
            for metric in options.metric.split(","):
                reaps = options.reaps if metric == "uss" else options.reaps // 2
                for number in range(reaps):
                    if any(row.get("metric") == metric and row["number"] == number for row in read(file)):
                        continue
                    result = reap(application, metric, random.Random(number))
                    keep({**result, "number": number})
                    print(f"{metric} {number + 1} of {reaps}: {result['event']['text']}", file=sys.stderr)
        for workers in COSTS_OF:
            if not any(row.get("costs") == f"{workers} workers" for row in read(file)):
                with served(workers) as application:
                    keep(costs(application))
        if not any("swap" in row for row in read(file)):
            try:
                keep(in_swap())
            except CannotSwap as error:
                print(error, file=sys.stderr)


def write_report(file: Path, out: Path) -> None:
    results = read(file)
    page = out / "memory.md"
    put_into(page, results)
    picture(out, "memory").write_text(drawing(results))
    print(page.read_text())


def main() -> None:
    options = arguments()
    options.out.mkdir(parents=True, exist_ok=True)
    file = options.out / "memory.jsonl"
    side_by_side.until_stopped(
        lambda: None if options.report else measure_all(options, file), lambda: write_report(file, options.out)
    )


if __name__ == "__main__":
    main()
