"""What `memreap memory` costs, by the number of programs: python benchmarks/programs.py

A real supervisord runs so many programs, each a shell with a child below it. Its answer with all programs is timed
several times, and so is one reading: the processes of the machine, and the size of each below supervisord. Prints
medians as a Markdown table. The load that it prints at the end should not be higher than 1: run nothing else meanwhile.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from support import stack
from support.driver import supervisord

from supervisor_memreap.host import reader, trees
from supervisor_memreap.supervisord.client import Client

PROGRAMS = (20, 200)
TIMES = 11


def main() -> None:
    print("| programs | processes | processes of the machine | supervisord answers | memory read | slowest |")
    print("|--:|--:|--:|--:|--:|--:|")
    for number in PROGRAMS:
        where = stack.directory()
        # Each holds 1 MiB of its own, and the shell waits for it.
        child = f'{sys.executable} -c "import time; held = bytearray(2**20); time.sleep(9999)"; true'
        section = (
            f"[program:p]\ncommand=sh -c '{child}'\nnumprocs={number}\nprocess_name=%%(process_num)03d\nstartsecs=0\n"
        )
        try:
            with supervisord(where, section.replace("%%", "%")):
                measure(number, Client(f"unix://{where}/s.sock", timeout=30.0))
        finally:
            shutil.rmtree(where)
    print(
        f"\nsupervisor_memreap {importlib.metadata.version('supervisor_memreap')}, psutil {psutil.__version__}, Python"
        f" {platform.python_version()}, Linux {platform.release()} {platform.machine()}, {os.cpu_count()} CPUs; load"
        f" {os.getloadavg()[0]:.1f}"
    )


def measure(number: int, client: Client) -> None:
    deadline = time.monotonic() + 120
    while processes(client) < 2 * number and time.monotonic() < deadline:
        time.sleep(1)
    answers = [timed(client.programs) for _ in range(TIMES)]
    programs = client.programs()
    read = [timed(lambda: trees.read(programs)) for _ in range(TIMES)]
    cells = (processes(client), len(psutil.pids()), statistics.median(answers), statistics.median(read), max(read))
    print("| {} | {} | {} | {:.0f} ms | {:.0f} ms | {:.0f} ms |".format(number, *cells), flush=True)
    reader.end()


def processes(client: Client) -> int:
    return sum(row["processes"] or 0 for row in trees.read(client.programs()).programs)


def timed(call: Callable[[], object]) -> float:
    """In ms."""
    start = time.perf_counter()
    call()
    return (time.perf_counter() - start) * 1000


if __name__ == "__main__":
    main()
