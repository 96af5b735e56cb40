"""What one quiet tick costs, in ms of CPU.

    python benchmarks/tick.py             a quarter of an hour
    python benchmarks/tick.py --report    only write the page and the picture again, from the results

Waiting workers, 10 to 10,000 of them in 1 to 500 programs, are looked at by each way in turn, several times over; the
median counts. All run on the same workers in the same run:

    C floor       benchmarks/tick_floor.c: the list of children and each child's statm, opened, read and closed
    Python floor  the same in Python, with nothing but os.open, os.read and os.close
    memreap       Reaper.tick, with a limit that none is over
    recording     the same with a history and metrics: twelve ticks, a minute of TICK_5, in which all sizes are read and
                  recorded once, divided by twelve; without what its child processes need
    children      what these need: the history, the metrics, and the reader of sizes
    psutil        children() and memory_info() of each manager's workers
    kidreaper     ps -o pid=,vsz= --ppid, for each manager
    memmon        superlance's: ps -orss= -p, for each manager; it does not see the workers
    memmon -c     superlance's with --cumulative: the list of all processes, for each manager

With 10,000 workers, recording is not measured: two reapers in one process would need 22,000 descriptors. The last four
are not asked for more than 1,000 workers: with 4,000, 130 s of CPU. Then a real supervisord runs the
programs, with and without the listener (tick_live.py).

Needs a C compiler, ps, prometheus-client, and superlance for the last two. Writes performance.jsonl and performance.md
to benchmarks/results, and docs/performance.svg. Linux only.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import io
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from unittest import mock

import psutil
import tick_live
import tick_report
from pages import RESULTS, picture, read
from superlance.memmon import Memmon

from supervisor_memreap.core import following, policy, resting, selection
from supervisor_memreap.core.events import Event
from supervisor_memreap.core.model import Program
from supervisor_memreap.core.recording import Recording
from supervisor_memreap.core.settings import Settings
from supervisor_memreap.host import look, reader, roster
from supervisor_memreap.host.thismachine import ThisMachine
from supervisor_memreap.listener import loop, sizes
from supervisor_memreap.listener.reaper import Reaper
from supervisor_memreap.listener.slowoutputs import SlowOutputs
from supervisor_memreap.outputs.lasting import Once
from supervisor_memreap.supervisord.configfile import Contents

HERE = Path(__file__).resolve().parent
SIZES = ((1, 10), (5, 100), (50, 1000), (200, 4000), (500, 10000))
# Those with a real supervisord; and up to how many workers the ways of others are measured.
LIVE, OTHERS = (10, 4000), 1000
TIMES = 5
# A way that needs more than this for one tick is measured once.
SLOW = 2000.0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--out", type=Path, default=RESULTS, help="directory of performance.jsonl and .md (benchmarks/results)"
    )
    parser.add_argument("--most", type=int, default=SIZES[-1][1], help="largest number of workers (%(default)s)")
    parser.add_argument("--report", action="store_true", help="measure nothing: write the page and the picture again")
    options = parser.parse_args()
    file = options.out / "performance.jsonl"
    if not options.report:
        try:
            rows = measured([size for size in SIZES if size[1] <= options.most])
        except KeyboardInterrupt:
            return 130
        options.out.mkdir(parents=True, exist_ok=True)
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    results = read(file)
    page = tick_report.markdown(results)
    (options.out / "performance.md").write_text(page)
    picture(options.out, "performance").write_text(tick_report.drawing(results))
    print(page)
    return 0


def measured(sizes: Sequence[tuple[int, int]]) -> list[tick_report.Result]:
    rows = []
    loop.collect_seldom()  # as a listener does
    with tempfile.TemporaryDirectory() as directory:
        floor = build(Path(directory))
        for programs, workers in sizes:
            with sleepers(floor, programs, workers) as managers:
                ways, steps = measure_all(floor, managers, with_others=workers <= OTHERS)
            live = tick_live.measured(floor, programs, workers) if workers in LIVE else {}
            row = {"programs": programs, "workers": workers, "ways": ways, "steps": steps, "live": live, **about()}
            rows.append(row)
    return rows


def about() -> dict[str, str]:
    """When and on what it was measured."""
    packages = ("supervisor_memreap", "psutil", "superlance")
    return {
        "at": time.strftime("%Y-%m-%d"),
        "on": "".join(f"{name} {importlib.metadata.version(name)}, " for name in packages)
        + f"Python {platform.python_version()}, Linux {platform.release()} {platform.machine()}, {os.cpu_count()} CPUs,"
        f" load average {os.getloadavg()[0]:.0f}",
    }


def build(directory: Path) -> str:
    floor = directory / "tick_floor"
    subprocess.run(["cc", "-O2", "-o", floor, HERE / "tick_floor.c"], check=True)
    return str(floor)


@contextlib.contextmanager
def sleepers(floor: str, programs: int, workers: int) -> Iterator[list[int]]:
    """The pids of the managers; all is ended afterwards."""
    command = [floor, "spawn", str(programs), str(workers // programs)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        yield [int(process.stdout.readline()) for _ in range(programs)]


def measure_all(floor: str, managers: list[int], with_others: bool) -> tuple[dict[str, float], dict[str, float]]:
    """ms of CPU for one tick, by way, and those of memreap by step.

    The ways take turns, so that what else the machine does hits all of them.
    """
    programs = [Program(f"p{pid}", f"p{pid}", "RUNNING", pid) for pid in managers]
    settings = Settings({program.name: {"limit": 1 << 40} for program in programs})
    time.sleep(sizes.MEASURE)  # until the name of a server is final
    quiet, recording = Ticks(programs, settings), None
    if len(managers) < SIZES[-1][0]:
        recording = Minute(programs, settings)
    ticks: list[dict[str, float]] = []

    def by_memreap() -> float:
        ticks.append(by_step(quiet))
        return sum(ticks[-1].values())

    ways: dict[str, Callable[[], float]] = {
        "C floor": lambda: by_floor(floor, managers),
        "Python floor": lambda: by_cpu(lambda: by_python(managers)),
        "memreap": by_memreap,
    }
    if recording:
        ways["recording"] = lambda: by_cpu(recording.pass_by) / Minute.TICKS
        ways["children"] = lambda: recording.of_children / Minute.TICKS
    others: dict[str, Callable[[], float]] = {
        "psutil": lambda: by_cpu(lambda: by_psutil(managers)),
        "kidreaper": lambda: by_children(lambda: by_ps(managers)),
        "memmon": lambda: by_children(lambda: by_memmon(managers, cumulative=False)),
        "memmon -c": lambda: by_children(lambda: by_memmon(managers, cumulative=True)),
    }
    ways |= others if with_others else {}
    measured: dict[str, list[float]] = {way: [] for way in ways}
    for number in range(TIMES):
        for way, measure in ways.items():
            if not measured[way] or measured[way][0] < SLOW:
                measured[way].append(measure())
                print(
                    f"{len(managers)} programs: {way} {measured[way][-1]:.1f} ms ({number + 1} of {TIMES})", flush=True
                )
    quiet.reaper.close()
    if recording:
        recording.close()
    # Those of the tick that is the median, so that they add up to it.
    steps = sorted(ticks, key=lambda tick: sum(tick.values()))[len(ticks) // 2]
    return {way: statistics.median(values) for way, values in measured.items()}, steps


class Ticks:
    """TICK_5 to pools that have long been calm: every worker was seen to serve, and all are still there."""

    def __init__(self, programs: list[Program], settings: Settings):
        self.reaper = Reaper(ThisMachine())
        self._arguments = programs, settings
        self._now = time.monotonic()
        while not self._all_serve():
            self.pass_by()
        self._now += policy.LONG_WAIT
        self.pass_by()

    def _all_serve(self) -> bool:
        pools = self.reaper._watched
        return bool(pools) and all(
            worker.id in pool.state.population.serving for pool in pools for worker in pool.pool.workers
        )

    def pass_by(self) -> None:
        self._now += 5.0
        self.reaper.tick(*self._arguments, self._now)


class Minute:
    """A listener with a history and metrics, for a minute of TICK_5."""

    TICKS = 12

    def __init__(self, programs: list[Program], settings: Settings):
        self._directory = tempfile.TemporaryDirectory()
        self._log: list[Event] = []
        self._outputs = SlowOutputs(self._log.append, Once(self._log.append))
        history, metrics = f"{self._directory.name}/history.sqlite", f"{self._directory.name}/metrics.prom"
        self._outputs.apply(Recording(history=history, metrics_file=metrics), Contents())
        self.of_children = 0.0
        """ms of CPU that they needed in the last minute."""
        self._ticks = Ticks(programs, settings)
        self._reaper = self._ticks.reaper

    def pass_by(self) -> None:
        before = self._children_cpu()
        for number in range(self.TICKS):
            self._ticks.pass_by()
            if number == 0:
                self._reaper._sizes._measured = float("-inf")
                self._reaper._sizes.is_incomplete = False
                self._outputs._history._looked = None
            whole = self._outputs.want_workers()
            if whole or self._outputs.want_a_look() or self._reaper.is_measuring:
                rows = self._outputs.with_totals(self._reaper.status(whole))
                self._outputs.look(rows, 5, whole)
            self._outputs.wake(self._outputs.fds())
            reader.end()  # as after each tick of the listener
        self.of_children = self._children_cpu() - before

    def _children_cpu(self) -> float:
        ended = resource.getrusage(resource.RUSAGE_CHILDREN)
        running = [output.child._pid for output in self._outputs._all if output.child]
        return sum(map(tick_live.cpu, running)) + (ended.ru_utime + ended.ru_stime) * 1000

    def close(self) -> None:
        self._reaper.close()
        self._outputs.close()
        assert self._log == [], [event.text for event in self._log]
        self._directory.cleanup()


def by_step(quiet: Ticks) -> dict[str, float]:
    """Where the time of one tick goes. Each step is called once a program, so that measuring it costs little."""
    spent = {"list": 0.0, "look": 0.0, "policy": 0.0}

    steps = (
        (roster, "of", "list"),
        (look, "look", "look"),
        (resting, "choice_in", "policy"),
        (following, "follow", "policy"),
        (selection, "choose", "policy"),
    )
    with contextlib.ExitStack() as stack:
        for step in steps:
            stack.enter_context(tick_live.timed(*step, spent))
        total = by_cpu(quiet.pass_by)
    spent = {step: seconds * 1000 for step, seconds in spent.items()}
    return {
        "the list of each manager's children": spent["list"],
        "the size of each worker": spent["look"] - spent["list"],
        "the decisions for each pool": spent["policy"],
        "the rest": total - spent["look"] - spent["policy"],
    }


def by_floor(floor: str, managers: list[int]) -> float:
    command = [floor, "look", "20", *map(str, managers)]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[0])


def by_python(managers: list[int]) -> None:
    def read(path: str) -> bytes:
        fd = os.open(path, os.O_RDONLY)
        data = os.read(fd, 65536)
        os.close(fd)
        return data

    for manager in managers:
        for child in read(f"/proc/{manager}/task/{manager}/children").split():
            int(read(f"/proc/{int(child)}/statm").split(None, 2)[1])


def by_cpu(act: Callable[[], object]) -> float:
    start = time.process_time()
    act()
    return (time.process_time() - start) * 1000


def by_psutil(managers: list[int]) -> None:
    for pid in managers:
        for worker in psutil.Process(pid).children():
            worker.memory_info()


def by_children(act: Callable[[], None]) -> float:
    """ms of CPU, with that of the processes which it starts."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    own = by_cpu(act)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return own + (after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime) * 1000


def by_ps(managers: list[int]) -> None:
    for pid in managers:
        subprocess.run(["ps", "-o", "pid=,vsz=", "--ppid", str(pid)], stdout=subprocess.DEVNULL, check=True)


def by_memmon(managers: list[int], cumulative: bool) -> None:
    """One tick of superlance's listener, with a fake supervisord that reports what runs."""
    infos = [{"pid": pid, "name": f"p{pid}", "group": f"p{pid}"} for pid in managers]
    rpc = mock.Mock(**{"supervisor.getAllProcessInfo.return_value": infos})
    memmon = Memmon(cumulative, {}, {}, 1 << 50, None, None, 0, None, rpc)
    memmon.stdin = io.StringIO("ver:3.0 server:s serial:1 pool:m poolserial:1 eventname:TICK_5 len:0\n")
    memmon.stdout, memmon.stderr = io.StringIO(), io.StringIO()
    memmon.runforever(test=True)
    assert memmon.stderr.getvalue().count("RSS of") == len(managers)


if __name__ == "__main__":
    sys.exit(main())
