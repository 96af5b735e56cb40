"""What each way of replacing grown workers costs: lost requests, shortened sleeps, lost cleanup handlers.

    python benchmarks/loss.py                       everything; three hours; Ctrl-C at any time, and go on later
    python benchmarks/loss.py --strategy d,f --quick
    python benchmarks/loss.py --condition saturated --strategy b,d,f,g,n
    python benchmarks/loss.py --plan                what would be measured, and how long that takes at most
    python benchmarks/loss.py --report              the tables and the picture again, from the results alone

All of it is real: an application made by catalyst.pl, started by its own script/myapp_fastcgi.pl under a supervisord,
with FCGI::ProcManager and 4 workers, behind nginx. Each request makes its worker grow, by 80 KiB ("full"), 150 KiB
("saturated") or 500 KiB ("moderate"), so each worker is over the limit after some seconds, and the strategy has to do
something about it.

The client asks without pause (8 at a time, twice as many as there are workers, and each request takes at least 20 ms:
"saturated"; 4 at a time: "full") or with a pause (2 at a time: "moderate"), each with a connection from nginx to the
worker for every request, and with connections that are kept (fastcgi_keep_conn on). 55 % of the requests are quick
GETs, 30 % POSTs of 2 KB, 5 % POSTs of 100 KB, 10 % GETs whose action sleeps for 0.2 s; every fourth request promises in
its answer that a handler in psgix.cleanup.handlers will run. Every answer is checked to be whole and right; all else is
lost: another status than 200, a reset, a cut, a wrong checksum of the body that was posted. (nginx repeats a failed
request only where there is another server, or a GET on a kept connection: its defaults.) After a loss a client waits
for 0.1 s, so that a time without any worker is not counted at the rate at which nginx refuses.

The limit is what a worker holds that has served, measured first, plus 8 MiB: by memreap in its private memory, by
kidreaper and ulimit in address space, by memmon in resident memory of all together. Needs what tests/run installs, and
superlance for b. The ways:
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import http.client
import importlib.metadata
import importlib.util
import itertools
import json
import math
import multiprocessing
import os
import platform
import random
import re
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import psutil

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

import side_by_side
from loss_report import Result, drawing, markdown
from loss_ways import MOMENT, REMARK, WAYS, WORKERS, Limits, Way
from pages import RESULTS, picture, read
from support import stack
from support.driver import eventually
from support.load import exchange

from supervisor_memreap import __version__
from supervisor_memreap.core.model import ProcessId
from supervisor_memreap.host import procfs

APPS = Path(__file__).with_name("apps")
ROOM = 8 * 1024**2
"""Bytes from a worker that has served to one that is over the limit."""
SLEEP = 0.2
MOST = 128 * 1024**2
"""Bytes over the limit at which workers grow no more: where none can be replaced, the machine must survive."""
NO_LIMITS = Limits(0, 0, 0, 0)
FORK = multiprocessing.get_context("fork")


class Condition(NamedTuple):
    name: str
    path: str
    clients: int
    pause: float
    """Seconds of thinking after each answer, on average."""
    leak: int
    """KiB a request, so that a worker's life is a few seconds long."""
    takes: float = 0.0
    """Seconds that each request takes, at least."""


# KiB for each request under full load. With 160 the worker that gets most requests is over the limit within 0.6 s of
# its start, hardly later than it may be signalled.
LEAK = 80
# With 20 ms a request and 4 workers, a worker has 40 requests a second at most, and is over the limit after 1.5 s.
CONDITIONS = (
    Condition("saturated", "myapp", 8, 0.0, 150, 0.02),
    Condition("saturated, kept", "fewkept", 8, 0.0, 150, 0.02),
    Condition("full", "myapp", 4, 0.0, LEAK),
    Condition("full, kept", "kept", 4, 0.0, LEAK),
    Condition("moderate", "myapp", 2, 0.03, 500),
    Condition("moderate, kept", "kept", 2, 0.03, 500),
)


class Census:
    """Who works in the pool, look after look: how many were replaced, and how long it had less than all but one."""

    def __init__(self, pool: stack.Pool):
        self._pool = pool
        self._manager = pool.manager().pid
        self._last: set[ProcessId] = set()
        self._ever: set[ProcessId] = set()
        self._short_since: float | None = None
        self.longest_gap = 0.0
        self.largest = self.largest_now = 0
        """The most resident memory that any worker held, in bytes."""
        self.look()

    @property
    def recycled(self) -> int:
        """Workers that left and have one in their place."""
        return max(0, min(len(self._ever) - WORKERS, len(self._ever - self._last)))

    def look(self) -> None:
        now = time.monotonic()
        self._last = self._workers()
        self._measure()
        self._ever |= self._last
        if len(self._last) >= WORKERS - 1:
            self._short_since = None
            return
        if self._short_since is None:
            self._short_since = now
        self.longest_gap = max(self.longest_gap, now - self._short_since)

    def _measure(self) -> None:
        view = procfs.source()
        sizes = [0]
        for worker in self._last:
            with contextlib.suppress(ProcessLookupError):
                sizes.append(view.sizes(worker.pid).bound)
        self.largest_now = max(sizes)
        self.largest = max(self.largest, self.largest_now)

    def _workers(self) -> set[ProcessId]:
        view = procfs.source()
        try:
            if view.process(self._manager).ended:
                raise ProcessLookupError
            # The kernel's list may miss one while a sibling exits.
            pids = {*view.children(self._manager), *(process.pid for process in self._last)}
        except ProcessLookupError:
            with contextlib.suppress(psutil.NoSuchProcess):
                self._manager = self._pool.manager().pid
            return set()
        present = set()
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                process = view.process(pid)
                if process.parent == self._manager and not process.ended:
                    present.add(process.id)
        return present


def client(stop: Any, pool: stack.Pool, condition: Condition, leak: int) -> None:
    """Ask until it is to stop; a line for each request in the directory's `answers`."""
    answers = os.open(pool.directory / "answers", os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def ask_on(number: int) -> None:
        dice = random.Random(number)
        for serial in itertools.count():
            if is_over(stop):
                return
            kind = dice.choices(("get", "post", "upload", "sleep"), (55, 30, 5, 10))[0]
            promise = serial % 4 == 0
            kib = 0 if (pool.directory / "grown").exists() else leak
            takes = SLEEP if kind == "sleep" else condition.takes
            began = time.monotonic()
            outcome, slept = ask(pool.port, condition.path, f"{number}-{serial}", kind, kib, promise, takes)
            took = time.monotonic() - began
            length = "none" if not takes else "shortened" if outcome == "ok" and slept < takes - 0.005 else "full"
            os.write(answers, f"{number}-{serial} {kind} {outcome} {length} {int(promise)} {took:.3f}\n".encode())
            time.sleep(0.1 if outcome != "ok" else dice.expovariate(1 / condition.pause) if condition.pause else 0)

    with ThreadPoolExecutor(condition.clients) as threads:
        list(threads.map(ask_on, range(condition.clients)))  # raises what one of them raised


def ask(port: int, path: str, id: str, kind: str, leak: int, promise: bool, takes: float = 0.0) -> tuple[str, float]:
    """`ok`, or in a word how the request was lost; and how long its action slept, in seconds."""
    body = random.Random(id).randbytes({"post": 2048, "upload": 100 * 1024}.get(kind, 0))
    query = f"id={id}&leak={leak}&cleanup={int(promise)}" + (f"&s={takes}" if takes else "")
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        outcome, text, _ = exchange(connection, f"/{path}/?{query}", body)
    finally:
        connection.close()
    if outcome != "ok":
        return outcome, 0.0
    head = f"{id} {len(body)} {hashlib.md5(body).hexdigest()} ([0-9.]+) {int(promise)}\n"
    match = re.fullmatch(head.encode() + rb"\.{4000}\nend\n", text)
    return ("ok", float(match[1])) if match else ("wrong", 0.0)


def pursue(stop: Any, way: Way, pool: stack.Pool, limits: Limits) -> None:
    """Do as the strategy does until it is to stop; its notes are lines in the directory's `notes`."""
    with (pool.directory / "notes").open("a", buffering=1) as notes:
        for pause in way.act(pool, limits, lambda note: print(note, file=notes)):
            if is_over(stop):
                return
            time.sleep(pause)


def is_over(stop: Any) -> bool:
    parent = multiprocessing.parent_process()
    return stop.is_set() or not (parent and parent.is_alive())


@contextlib.contextmanager
def beside(work: Callable[..., None], *args: object) -> Iterator[Any]:
    """Runs work(stop, …) in a separate process, which ends with the block and not with Ctrl-C."""

    def run() -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # they reach us as well, and we end the block
        work(stop, *args)

    stop = FORK.Event()
    process = FORK.Process(target=run)
    process.start()
    try:
        yield process
    finally:
        stop.set()
        process.join(35)  # a request may take as long as its time-out
        process.kill()
        process.join()


@contextlib.contextmanager
def application() -> Iterator[Path]:
    """The script of the Catalyst application."""
    where = stack.directory()
    try:
        script = stack.catalyst(where)
        shutil.copy(APPS / "Root.pm", script.parent.parent / "lib/MyApp/Controller/Root.pm")
        yield script
    finally:
        shutil.rmtree(where)


@contextlib.contextmanager
def served(script: Path, way: Way, limits: Limits = NO_LIMITS) -> Iterator[stack.Pool]:
    """The pool under supervisord, with what the strategy adds to its configuration, and nginx in front."""
    where = stack.directory()
    command = way.wrap.format(command=f"{script} -l {where}/myapp.sock -n {WORKERS} -e", kib=limits.vms // 1024)
    text = f'[program:myapp]\ncommand={command}\nenvironment=LOSS_WRITTEN="{where}/written"\n'
    text += way.extra.format(python=sys.executable, **limits._asdict())
    try:
        with stack.running(text, "myapp", where, nginx_conf=APPS / "nginx.conf") as pool:
            eventually(lambda: _assert_whole(pool))
            yield pool
    finally:
        shutil.rmtree(where)


def _assert_whole(pool: stack.Pool) -> None:
    assert len(pool.workers()) == WORKERS


def limits_of(pool: stack.Pool) -> Limits:
    """What the largest worker holds that has served, or all together, and room for some growth."""
    for serial in range(8 * WORKERS):
        for kind in ("get", "post"):
            assert ask(pool.port, "myapp", str(serial), kind, 0, False)[0] == "ok"
    infos = [psutil.Process(pid).memory_full_info() for pid in (pool.manager().pid, *pool.workers())]
    return Limits(
        max(info.uss + info.swap for info in infos[1:]) + ROOM,
        max(info.vms for info in infos[1:]) + ROOM,
        sum(info.rss for info in infos) + 3 * ROOM,
        max(info.rss for info in infos[1:]) + ROOM,
    )


def observe(
    pool: stack.Pool, key: str, condition: Condition, limits: Limits, reaps: int, seconds: float, name: str
) -> Result:
    """One way under one condition until this many workers are recycled, or the time is up; returns the result.

    Ctrl-C ends it early: what came of it until then has `interrupted`.
    """
    census = Census(pool)
    grown = pool.directory / "grown"
    interrupted = False
    began = reported_at = time.monotonic()
    leak = 0 if key == "n" else condition.leak
    with beside(client, pool, condition, leak) as asker, beside(pursue, WAYS[key], pool, limits) as pursuer:
        try:
            while census.recycled < reaps and time.monotonic() < began + seconds and pursuer.is_alive():
                time.sleep(0.01)
                census.look()
                if census.largest_now > limits.rss + MOST:
                    grown.touch()
                else:
                    grown.unlink(missing_ok=True)
                if time.monotonic() > reported_at + 5:
                    reported_at = time.monotonic()
                    print_progress(name, census.recycled, reaps, reported_at - began, seconds, pool)
        except KeyboardInterrupt:
            interrupted = True
        took = time.monotonic() - began
    if asker.exitcode or pursuer.exitcode:
        raise RuntimeError(f"{name}: the client or the strategy failed, see above; nothing of this is counted")
    with contextlib.suppress(AssertionError):  # those that are lost are counted
        eventually(lambda: _assert_cleaned_up(pool), timeout=2)
    return {
        "strategy": key,
        "condition": condition.name,
        "leak": leak,
        "recycled": census.recycled,
        "seconds": round(took, 1),
        **tally(pool),
        "overshoot": 0 if key == "n" else max(0, census.largest - limits.rss),
        "longest_gap": round(census.longest_gap, 3),
        "interrupted": interrupted,
        "at": time.strftime("%Y-%m-%d %H:%M:%S"),
        "limits": limits._asdict(),
        "versions": versions(),
    }


def _assert_cleaned_up(pool: stack.Pool) -> None:
    assert not tally(pool)["cleanups_lost"]


def tally(pool: stack.Pool) -> Result:
    """What the client and the strategy wrote down, counted."""
    rows = [line.split(" ") for line in pool.log("answers").splitlines()]
    whole = [row for row in rows if row[2] == "ok"]
    took = Counter(10 * math.ceil(100 * float(row[5])) for row in whole)
    promised = {row[0] for row in whole if row[4] == "1"}
    notes = pool.log("notes").splitlines()
    return {
        "answered": len(whole),
        "lost": Counter(f"{row[1]} {row[2]}" for row in rows if row[2] != "ok"),
        "sleeps": sum(row[3] != "none" for row in whole),
        "took": dict(sorted(took.items())),
        "shortened": sum(row[3] == "shortened" for row in whole),
        "promised": len(promised),
        "cleanups_lost": len(promised - set(pool.log("written").splitlines())),
        "moments": Counter(note[len(MOMENT) :] for note in notes if note.startswith(MOMENT)),
        "remarks": [note[len(REMARK) :] for note in notes if note.startswith(REMARK)][:3],
    }


def print_progress(name: str, recycled: int, reaps: int, since: float, seconds: float, pool: stack.Pool) -> None:
    answers = pool.log("answers")
    whole = answers.count(" ok ")
    left = min(seconds - since, since * (reaps - recycled) / recycled if recycled else seconds)
    print(
        f"{name}: {recycled} of {reaps} recycled, {whole} answered, {answers.count(chr(10)) - whole} lost,"
        f" {answers.count(' shortened ')} shortened; {since:.0f} s, {left:.0f} s to go",
        file=sys.stderr,
    )


def has_superlance() -> bool:
    return importlib.util.find_spec("superlance") is not None


def versions() -> dict[str, str]:
    """What it was measured with."""
    perl = "print join ' ', $^V =~ s/v//r, map { eval qq{require $_; 1} or die; $_->VERSION } @ARGV"
    modules = ("Catalyst", "FCGI::ProcManager", "FCGI", "Plack")
    output = subprocess.run(["perl", "-e", perl, *modules], capture_output=True, text=True, check=True).stdout
    nginx = subprocess.run(["/usr/sbin/nginx", "-v"], capture_output=True, text=True, check=True).stderr
    model = re.search("model name\\s*: (.*)", Path("/proc/cpuinfo").read_text())
    return {
        "memreap": __version__,
        "Python": platform.python_version(),
        "supervisor": importlib.metadata.version("supervisor"),
        "superlance": importlib.metadata.version("superlance") if has_superlance() else "none",
        "nginx": nginx.strip().rpartition("/")[2],
        **dict(zip(("Perl", *modules), output.split())),
        "Linux": f"{platform.release()} {platform.machine()}",
        "CPUs": f"{os.cpu_count()} of {model[1] if model else 'an unknown model'}",
    }


def write_report(file: Path, out: Path) -> None:
    results = read(file)
    if results:
        out.mkdir(parents=True, exist_ok=True)
        (out / "loss.md").write_text(markdown(results))
        picture(out, "loss").write_text(drawing(results))
        print(markdown(results))


def arguments() -> argparse.Namespace:
    ways = "\n".join(
        textwrap.fill(f"{key}  {way.title}: {way.about}", 118, initial_indent="  ", subsequent_indent="     ")
        for key, way in WAYS.items()
    )
    parser = argparse.ArgumentParser(description=f"{__doc__}\n{ways}", formatter_class=argparse.RawTextHelpFormatter)
    add = parser.add_argument
    add("--strategy", default=",".join(WAYS), help="letters of the ways, as d,f (default: all)")
    add("--condition", default="", help="a part of the names of the conditions, as kept (default: all)")
    add("--reaps", type=int, default=500, help="workers to recycle under each condition by d, f to i (500); others 40")
    add("--minutes", type=float, default=10, help="at most for each condition of d, f to i (10); others 1")
    add("--plan", action="store_true", help="measure nothing: say what would be measured, and how long that takes")
    add("--quick", action="store_true", help="20 workers, half a minute at most")
    add("--out", type=Path, default=RESULTS, help="directory of loss.md (benchmarks/results)")
    add("--results", type=Path, help="a line of JSON for each that was measured (OUT/loss.jsonl); what is there counts")
    add("--report", type=Path, nargs="?", const=True, help="only write the page and the picture, from this file")
    options = parser.parse_args()
    for key in options.strategy.split(","):
        if key not in WAYS:
            parser.error(f"--strategy {key}: there are {','.join(WAYS)}")
        if key == "b" and not has_superlance() and not options.report:
            parser.error("--strategy b needs superlance: pip install superlance")
    return options


class Task(NamedTuple):
    key: str
    condition: Condition
    reaps: int
    seconds: float


def tasks(options: argparse.Namespace, file: Path) -> Iterator[Task]:
    """What is missing in the file."""
    rows = read(file)
    for key in options.strategy.split(","):
        for condition in (condition for condition in CONDITIONS if options.condition in condition.name):
            patient = WAYS[key].patient
            reaps, seconds = (options.reaps, 60 * options.minutes) if patient else (min(40, options.reaps), 60.0)
            if options.quick:
                reaps, seconds = min(20, reaps), min(30.0, seconds)
            for row in rows:
                if (row["strategy"], row["condition"]) == (key, condition.name):
                    reaps -= row["recycled"]
                    seconds -= row["seconds"]
            if reaps > 0 and seconds > 0:
                yield Task(key, condition, reaps, seconds)


def show_plan(todo: list[Task]) -> None:
    for key, condition, reaps, seconds in todo:
        print(f"{key} ({WAYS[key].title}), {condition.name}: {reaps} workers, at most {seconds:.0f} s")
    # Each needs some seconds to start and to end; the application is made once.
    print(f"{len(todo)} one after the other: at most {(sum(task.seconds + 10 for task in todo) + 30) / 60:.0f} min")


def measure_all(todo: list[Task], script: Path, file: Path) -> None:
    """Append the results to the file; Ctrl-C is raised when what was begun has been written."""
    with served(script, WAYS["n"]) as pool:
        limits = limits_of(pool)
    for number, (key, condition, reaps, seconds) in enumerate(todo, 1):
        name = f"[{number}/{len(todo)}] {key} ({WAYS[key].title}), {condition.name}"
        with served(script, WAYS[key], limits) as pool:
            result = observe(pool, key, condition, limits, reaps, seconds, name)
        with file.open("a") as stream:
            stream.write(json.dumps(result) + "\n")
        if result["interrupted"]:
            raise KeyboardInterrupt


def main() -> None:
    options = arguments()
    file = options.results or options.out / "loss.jsonl"
    if options.report:
        write_report(file if options.report is True else options.report, options.out)
        return
    todo = list(tasks(options, file))
    if options.plan:
        show_plan(todo)
        return
    options.out.mkdir(parents=True, exist_ok=True)

    def measure() -> None:
        with application() as script:
            measure_all(todo, script, file)

    side_by_side.until_stopped(measure, lambda: write_report(file, options.out))


if __name__ == "__main__":
    main()
