"""What one quiet tick costs, in ms of CPU: python benchmarks/tick.py [--out FOLDER]

Sleeping workers, 10 to 10,000 of them in 1 to 200 programs, are looked at by each way in turn, several times over; the
median counts. All run on the same workers in the same run:

    C floor     benchmarks/tick_floor.c: the list of children and each child's statm, opened, read and closed
    memreap     Reaper.tick, with a limit that none is over
    psutil      children() and memory_info() of each manager's workers
    kidreaper   ps -o pid=,vsz= --ppid, for each manager

Needs a C compiler, and ps for the last one. Writes the table to performance.md in the folder (docs). Linux only.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil

from supervisor_memreap import __version__
from supervisor_memreap.core.model import Program
from supervisor_memreap.core.settings import Settings
from supervisor_memreap.reaper import Reaper

HERE = Path(__file__).resolve().parent
SIZES = ((1, 10), (5, 100), (50, 1000), (200, 4000), (200, 10_000))
TIMES = 5
# A way that needs more than this for one tick is measured once.
SLOW = 2000.0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=HERE.parent / "docs", help="folder of performance.md (docs)")
    options = parser.parse_args()
    rows = []
    try:
        with tempfile.TemporaryDirectory() as folder:
            floor = build(Path(folder))
            for programs, workers in SIZES:
                with sleepers(floor, programs, workers) as managers:
                    rows.append((programs, workers, measure_all(floor, managers)))
    except KeyboardInterrupt:
        return 130
    page = markdown(rows)
    (options.out / "performance.md").write_text(page)
    print(page)
    return 0


def build(folder: Path) -> str:
    floor = folder / "tick_floor"
    subprocess.run(["cc", "-O2", "-o", floor, HERE / "tick_floor.c"], check=True)
    return str(floor)


@contextlib.contextmanager
def sleepers(floor: str, programs: int, workers: int) -> Iterator[list[int]]:
    """The pids of the managers; all is ended afterwards."""
    command = [floor, "spawn", str(programs), str(workers // programs)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        yield [int(process.stdout.readline()) for _ in range(programs)]


def measure_all(floor: str, managers: list[int]) -> dict[str, float]:
    """ms of CPU for one tick, by way. In turn, so that what else the machine does hits all of them."""
    programs = [Program(f"p{pid}", f"p{pid}", "RUNNING", pid) for pid in managers]
    settings = Settings({program.name: {"limit": 1 << 40} for program in programs})
    reaper = Reaper()
    reaper.tick(programs, settings, time.monotonic())
    ways: dict[str, Callable[[], float]] = {
        "C floor": lambda: by_floor(floor, managers),
        "memreap": lambda: by_cpu(lambda: reaper.tick(programs, settings, time.monotonic())),
        "psutil": lambda: by_cpu(lambda: by_psutil(managers)),
        "kidreaper": lambda: by_ps(managers),
    }
    measured: dict[str, list[float]] = {way: [] for way in ways}
    for number in range(TIMES):
        for way, measure in ways.items():
            if not measured[way] or measured[way][0] < SLOW:
                measured[way].append(measure())
                print(
                    f"{len(managers)} programs: {way} {measured[way][-1]:.1f} ms ({number + 1} of {TIMES})", flush=True
                )
    reaper.close()
    return {way: statistics.median(values) for way, values in measured.items()}


def by_floor(floor: str, managers: list[int]) -> float:
    command = [floor, "look", "20", *map(str, managers)]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[0])


def by_cpu(act: Callable[[], object]) -> float:
    start = time.process_time()
    act()
    return (time.process_time() - start) * 1000


def by_psutil(managers: list[int]) -> None:
    for pid in managers:
        for worker in psutil.Process(pid).children():
            worker.memory_info()


def by_ps(managers: list[int]) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    for pid in managers:
        subprocess.run(["ps", "-o", "pid=,vsz=", "--ppid", str(pid)], stdout=subprocess.DEVNULL, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return (after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime) * 1000


def markdown(rows: list[tuple[int, int, dict[str, float]]]) -> str:
    ways = list(rows[0][2])
    lines = [
        "# What a tick costs",
        "",
        "Measured by `python benchmarks/tick.py`; its `--help` says what each column does. This page is its output.",
        "ms of CPU for one tick in which nothing has to be done, the median of up to five.",
        "",
        f"| programs | workers | {' | '.join(ways)} | memreap / C floor |",
        f"|--:|--:|{'--:|' * (len(ways) + 1)}",
    ]
    for programs, workers, values in rows:
        cells = " | ".join(f"{values[way]:,.1f}" for way in ways)
        lines.append(f"| {programs} | {workers:,} | {cells} | {values['memreap'] / values['C floor']:.1f} |")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    lines += [
        "",
        f"memreap {__version__}, Python {platform.python_version()}, psutil {psutil.__version__},"
        f" Linux {platform.release()} {platform.machine()}, {os.cpu_count()} CPUs."
        f" The benchmark's own process held {peak} MB at most.",
        "",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
