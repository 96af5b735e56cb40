"""What it costs to replace workers of each pre-forking server, by the moment at which they are signalled.

    python benchmarks/servers.py                     everything; about an hour; Ctrl-C at any time, continue later
    python benchmarks/servers.py --server Starman,uWSGI --reaps 50
    python benchmarks/servers.py --report            only write the page and the picture again, from the results

Everything is real: each server (tests/support/servers.py) runs under a supervisord with 4 workers, behind nginx, or
without it where the server speaks HTTP. Three clients ask without pause, each on a connection of its own for every
request ("not kept") or for 20 requests ("kept": that of the client, or that of nginx to the worker). Of ten requests 5
are quick GETs, 4 are POSTs of 2 KB, and one takes 50 ms. A request is lost if its answer is not a whole and right 200:
an empty answer and a closed connection too, also on a connection that is kept.

One worker after the other gets the server's graceful signal, by host.signalling, which is what memreap itself uses:

    any moment   whatever it does, as a script does that only knows its size
    seen idle    right after it was seen idle (hold=no)
    held         while it is held where it waits (the default)

The next one, at least half a second old, is signalled when the last one has left, another has taken its place, and the
server's own pace allows it. The three moments of a server are measured side by side, each with a pool of its own.

Writes servers.jsonl, servers.svg and the tables of servers.md to docs. Needs what tests/run installs.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from loss import read, versions
from servers_report import MOMENTS, Result, put_into, svg
from support import servers, stack
from support.driver import eventually
from support.load import Load
from support.servers import SERVERS, WORKERS, Server

from supervisor_memreap import __version__
from supervisor_memreap.core.model import Pool, SentMoment, Worker, WorkerDetail
from supervisor_memreap.core.model import Result as Sent
from supervisor_memreap.core.servers import pace_of, recognise
from supervisor_memreap.core.settings import PoolSettings
from supervisor_memreap.host import procfs, signalling
from supervisor_memreap.host.source import Source

HERE = Path(__file__).resolve().parent
# One client fewer than there are workers: with as many, each worker always has a connection, and none is ever idle.
CLIENTS, PER_CONNECTION = 3, 20
# Seconds: no worker is signalled before it has its own signal handlers.
MIN_AGE = 0.5
# Seconds in which a signalled worker has to leave, and another to take its place.
PATIENCE = 60.0


class Case(NamedTuple):
    """One server under one load, signalled at one moment."""

    server: str
    kept: bool
    moment: str

    @property
    def name(self) -> str:
        return f"{self.server}, {'kept' if self.kept else 'not kept'}, {self.moment}"


def server_of(case: Case) -> Server:
    return next(server for server in SERVERS if server.name == case.server)


class Workers:
    """The workers of a pool, which one after the other are signalled."""

    def __init__(self, pool: stack.Pool, server: Server):
        self._manager = procfs.source().process(pool.manager().pid).id
        self._server = server
        self.otherwise: Counter[str] = Counter()
        """Workers that were signalled at another moment than wanted, and why."""

    def all(self, view: Source) -> list[Worker]:
        """The oldest first."""
        workers = []
        for pid in view.children(self._manager.pid):
            with contextlib.suppress(ProcessLookupError):
                process = view.process(pid)
                if process.parent == self._manager.pid and not process.ended:
                    workers.append(Worker(process.id, process.age, 0, WorkerDetail(None, True)))
        return sorted(workers, key=lambda worker: worker.id.start_time)

    def signal_one(self, moment: str) -> Worker | None:
        """The worker that was signalled; None: at this attempt, none was."""
        view = procfs.source()
        for worker in self.all(view):
            if worker.age >= MIN_AGE and self._signal(worker, moment, view):
                return worker
        return None

    def _signal(self, worker: Worker, moment: str, view: Source) -> bool:
        signum = signal.Signals[f"SIG{self._server.signal}"]
        if moment == MOMENTS[0]:
            with contextlib.suppress(ProcessLookupError):
                if view.catches(worker.id.pid, signum):
                    os.kill(worker.id.pid, signum)
                    return True
            return False
        settings = PoolSettings(limit=1, signal=self._server.signal, hold=moment == MOMENTS[2])
        outcome = signalling.reap(Pool("", "RUNNING", manager=self._manager), worker, settings, view, 0.1)
        if outcome.pidfd is not None:
            os.close(outcome.pidfd)
        if outcome.result is not Sent.SENT:
            return False
        # Not as wanted: not permitted, or the process that holds was out of time, and may have sent it or not.
        wanted = SentMoment.HELD if settings.hold else SentMoment.IDLE
        if outcome.moment is not wanted:
            self.otherwise["not permitted" if outcome.unheld else "out of time"] += 1
        return True

    def pace(self) -> float:
        """Seconds that this server needs between two signals."""
        worker = self.all(procfs.source())[0].id
        return pace_of(recognise(procfs.source().names(worker.pid)))

    def wait_until_gone(self, worker: Worker) -> None:
        eventually(lambda: self._assert_gone(worker), timeout=PATIENCE)

    def _assert_gone(self, worker: Worker) -> None:
        assert worker.id not in {each.id for each in self.all(procfs.source())}

    def wait_until_all_are_there(self) -> None:
        eventually(self._assert_all_are_there, timeout=PATIENCE)

    def _assert_all_are_there(self) -> None:
        assert len(self.all(procfs.source())) >= WORKERS


def measure(case: Case, reaps: int, seconds: float) -> Result:
    """Replace so many workers under load, within so many seconds; what it cost."""
    server = server_of(case)
    where = stack.directory()
    left, replaced = [], []
    try:
        with servers.running(server, where, keep=case.kept) as pool:
            workers = Workers(pool, server)
            workers.wait_until_all_are_there()
            per_connection = PER_CONNECTION if case.kept else 1
            with Load(pool.port, "/myapp/", CLIENTS, per_connection, pause=0.0) as load:
                began = time.monotonic()
                while len(replaced) < reaps and time.monotonic() < began + seconds:
                    worker = workers.signal_one(case.moment)
                    if worker is None:
                        continue
                    signalled = time.monotonic()
                    workers.wait_until_gone(worker)
                    left.append(time.monotonic() - signalled)
                    workers.wait_until_all_are_there()
                    replaced.append(time.monotonic() - signalled)
                    time.sleep(max(0.0, workers.pace() - replaced[-1]))
                took = time.monotonic() - began
    finally:
        shutil.rmtree(where)
    return {
        **case._asdict(),
        "signal": server.signal,
        "reaps": len(replaced),
        "otherwise": workers.otherwise,
        "seconds": round(took, 1),
        "answered": load.tally.answered,
        "lost": load.tally.lost,
        "longest_gap": round(load.tally.longest_gap, 3),
        "left": _spread(left),
        "replaced": _spread(replaced),
        "at": time.strftime("%Y-%m-%d %H:%M:%S"),
        "versions": {"memreap": __version__, case.server: version(server)},
        "machine": machine(),
    }


def version(server: Server) -> str:
    if not server.packages:
        return importlib.metadata.version(server.executable.rpartition("/")[2])
    command = ["dpkg-query", "-W", "-f", "${Version}", server.packages[0]]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def machine() -> str:
    used = versions()
    return f"{used['CPUs']}, Linux {used['Linux']}, Python {used['Python']}, nginx {used['nginx']}"


def _spread(times: list[float]) -> dict[str, float]:
    """Median and longest, in seconds."""
    return {"median": round(statistics.median(times), 3), "longest": round(max(times), 3)} if times else {}


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    add = parser.add_argument
    names = [server.name for server in SERVERS]
    add("--server", default=",".join(names), help="such as Starman,uWSGI (default: all)")
    add("--reaps", type=int, default=300, help="number of reaps for each moment (300)")
    add("--seconds", type=float, default=1800, help="at most so long for each moment (1800)")
    add("--jobs", type=int, default=1, help="servers that are measured at the same time (1)")
    add("--out", type=Path, default=HERE.parent / "docs", help="directory of servers.jsonl, .svg and .md (docs)")
    add("--report", action="store_true", help="measure nothing: write the page and the picture from servers.jsonl")
    add("--case", help=argparse.SUPPRESS)
    options = parser.parse_args()
    for name in options.server.split(","):
        if name not in names:
            parser.error(f"--server {name}: not one of {', '.join(names)}")
    return options


def groups(names: list[str]) -> Iterator[list[Case]]:
    """What is measured side by side."""
    for name in names:
        server = server_of(Case(name, False, ""))
        for kept in (False, True) if server.keeps_connections else (False,):
            yield [Case(name, kept, moment) for moment in MOMENTS]


def measure_all(options: argparse.Namespace, file: Path) -> None:
    """Measure what is missing in the file, and append it."""
    done = {Case(row["server"], row["kept"], row["moment"]) for row in read(file)}
    running: list[subprocess.Popen[bytes]] = []

    def run(case: Case) -> Result:
        """In a process of its own, which is its workers' only tracer."""
        command = [sys.executable, __file__, "--case", json.dumps(case), "--reaps", str(options.reaps)]
        process = subprocess.Popen([*command, "--seconds", str(options.seconds)], stdout=subprocess.PIPE)
        running.append(process)
        output, _ = process.communicate()
        if not output:
            raise RuntimeError(f"{case.name}: failed, see above, or stopped")
        result: Result = json.loads(output)
        lost = sum(result["lost"].values())
        print(f"{case.name}: {result['reaps']} reaps, {result['answered']} answered, {lost} lost", file=sys.stderr)
        return result

    def run_group(cases: list[Case]) -> None:
        with ThreadPoolExecutor(len(cases)) as threads:
            for result in threads.map(run, cases):
                with file.open("a") as stream:
                    stream.write(json.dumps(result) + "\n")

    missing = [[case for case in group if case not in done] for group in groups(options.server.split(","))]
    threads = ThreadPoolExecutor(options.jobs)
    try:
        list(threads.map(run_group, filter(None, missing)))  # raises what one of them raised
    finally:
        threads.shutdown(wait=False, cancel_futures=True)
        for process in running:
            process.terminate()  # each ends its supervisord; those that have ended are no longer there
            process.wait()


def write_report(file: Path, out: Path) -> None:
    results = read(file)
    put_into(out / "servers.md", results)
    (out / "servers.svg").write_text(svg(results))


def main() -> None:
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    options = arguments()
    if options.case:
        with contextlib.suppress(KeyboardInterrupt):
            print(json.dumps(measure(Case(*json.loads(options.case)), options.reaps, options.seconds)))
        return
    options.out.mkdir(parents=True, exist_ok=True)
    file = options.out / "servers.jsonl"
    try:
        if not options.report:
            measure_all(options, file)
    except KeyboardInterrupt:
        print("stopped; the same command continues from here", file=sys.stderr)
        sys.exit(130)
    finally:
        write_report(file, options.out)


if __name__ == "__main__":
    main()
