"""Runs the cases of a benchmark, those of a group side by side, and appends their results to its file.

Each case runs in a process of its own, which is the only tracer of its workers; Ctrl-C does not reach it.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from supervisor_memreap.demo.prefork import end_with_parent

Result = dict[str, Any]


class Task(NamedTuple):
    name: str
    words: Sequence[str]
    """The options with which the benchmark measures it. It also gets --parent, for `measure_one`."""


def measure_all(groups: Sequence[Sequence[Task]], file: Path, jobs: int, summary: Callable[[Result], str]) -> None:
    """Measure these groups, `jobs` at a time, and append each result, a line that a case prints, to the file."""
    running: list[subprocess.Popen[bytes]] = []
    writing, is_over = threading.Lock(), threading.Event()

    def run(place: str, task: Task) -> None:
        command = [sys.executable, sys.argv[0], *task.words, "--parent", str(os.getpid())]
        with writing:
            if is_over.is_set():
                return
            process = subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True)
            running.append(process)
        output, _ = process.communicate()
        if not output and not is_over.is_set():
            print(f"{place} {task.name}: failed, see above; nothing of this counts", file=sys.stderr)
        for line in output.splitlines():
            result: Result = json.loads(line)
            with writing, file.open("a") as stream:
                stream.write(json.dumps(result) + "\n")
            print(f"{place} {task.name}: {summary(result)}", file=sys.stderr)

    def run_group(number: int) -> None:
        place = f"[{number + 1}/{len(groups)}]"
        with ThreadPoolExecutor(len(groups[number])) as threads:
            list(threads.map(lambda task: run(place, task), groups[number]))

    threads = ThreadPoolExecutor(jobs)
    try:
        for result in [threads.submit(run_group, number) for number in range(len(groups))]:
            while not result.done():
                time.sleep(0.1)  # so that Ctrl-C arrives
            result.result()
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        is_over.set()
        with writing:
            begun = [*running]
        for process in begun:
            process.terminate()  # each ends its supervisord; those that have ended are no longer there
        for process in begun:
            process.wait()
        threads.shutdown(cancel_futures=True)


def until_stopped(measure: Callable[[], object], write_report: Callable[[], object]) -> None:
    """Measure, and write the report; also after Ctrl-C or TERM, which end the benchmark with 130."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        measure()
    except KeyboardInterrupt:
        print("stopped; the same command continues from here", file=sys.stderr)
        sys.exit(130)
    finally:
        write_report()


def measure_one(name: str, parent: int, measure: Callable[[Callable[[str], None]], Iterable[Result]]) -> None:
    """What is run for each case: `measure` gets what prints its progress, and returns its results."""

    def stop(*_: object) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # once: what is started is being ended
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, stop)
    end_with_parent(signal.SIGTERM, parent)

    def progress(text: str) -> None:
        print(f"{name}: {text}", file=sys.stderr)

    with contextlib.suppress(KeyboardInterrupt):
        for result in measure(progress):
            print(json.dumps(result))
