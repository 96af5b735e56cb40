"""gunicorn without preload, whose workers import for a while before they serve, under load."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import psutil

from support import stack
from support.driver import eventually, is_alive


class Slow:
    """A running gunicorn, and how many of its workers serve."""

    def __init__(self, process: subprocess.Popen[bytes], port: int, marks: Path, workers: int):
        self.manager = process.pid
        self.port = port
        self.workers = workers
        self.fewest = workers
        self.longest = 0.0
        """Seconds that a client waited."""
        self.lost: list[str] = []
        self._marks = marks
        self._stop = threading.Event()

    def ask(self, path: str = "/") -> None:
        began = time.monotonic()
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=30) as answer:
            answer.read()
        self.longest = max(self.longest, time.monotonic() - began)

    def serving(self) -> int:
        return sum(is_alive(int(mark.name)) for mark in self._marks.iterdir())

    def assert_all_serve(self) -> None:
        assert self.serving() == self.workers

    def _watch(self) -> None:
        while not self._stop.wait(0.03):
            self.fewest = min(self.fewest, self.serving())

    def _load(self) -> None:
        while not self._stop.wait(0.03):
            try:
                self.ask()
            except OSError as error:
                self.lost.append(str(error))

    @contextlib.contextmanager
    def watched(self) -> Iterator[None]:
        threads = [threading.Thread(target=each) for each in (self._watch, self._load)]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self._stop.set()
            for thread in threads:
                thread.join()


@contextlib.contextmanager
def slow(kind: str, workers: int, where: Path, seconds: float, *options: str) -> Iterator[Slow]:
    shutil.copy(stack.APPS / "slowstart.py", where)
    (where / "marks").mkdir()
    port = stack.free_port()
    command = [sys.executable, "-m", "gunicorn", "--workers", str(workers), "--worker-class", kind]
    command += ["--bind", f"127.0.0.1:{port}", "--no-control-socket", *options, "slowstart:application"]
    environment = {**os.environ, "TMPDIR": str(where), "IMPORT": str(seconds), "MARKS": str(where / "marks")}
    with subprocess.Popen(command, cwd=where, env=environment, stderr=subprocess.DEVNULL) as process:
        try:
            pool = Slow(process, port, where / "marks", workers)
            eventually(pool.assert_all_serve)
            yield pool
        finally:
            below = psutil.Process(process.pid).children(recursive=True)
            process.kill()
            for each in below:
                with contextlib.suppress(psutil.NoSuchProcess):
                    each.kill()
