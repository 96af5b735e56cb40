"""The child of the listener that keeps the metrics, as a separate process."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from support import stack

_CHILD = """\
import json, os, sys
from supervisor_memreap.core.recording import Address, Recording
try:
    from supervisor_memreap.outputs import scrape
except ImportError:
    pass
from supervisor_memreap.outputs import metrics, tally

exec(sys.argv[4])
host, port, file = sys.argv[1:4]
recording = Recording(metrics=Address(host, int(port)) if host else None, metrics_file=file or None)
tell = lambda message: print(json.dumps(message), flush=True)
metrics.consume(map(json.loads, sys.stdin), tell, recording)
os._exit(0)
"""


class Child:
    def __init__(self, process: subprocess.Popen[str], port: int):
        self.process = process
        self.port = port
        self.troubles: list[str] = []
        """What it reported to the listener."""

    def takes(self, *messages: dict[str, Any]) -> None:
        self.process.stdin.write("".join(json.dumps(message) + "\n" for message in messages))
        self.process.stdin.flush()

    def scrape(self, host: str = "127.0.0.1", timeout: float = 30.0, query: str = "") -> str:
        """Raises OSError."""
        with urllib.request.urlopen(f"http://{host}:{self.port}/metrics{query}", timeout=timeout) as answer:
            return answer.read().decode()

    def listen(self) -> None:
        for line in self.process.stdout:
            self.troubles.append(json.loads(line)["trouble"])


@contextlib.contextmanager
def child(
    host: str = "127.0.0.1",
    port: int = 0,
    file: Path | None = None,
    first: str = "",
    env: dict[str, str] | None = None,
) -> Iterator[Child]:
    """It serves on a port of `host`, unless that is empty, and writes the file, if one is given.

    `first` is what it does before that, in Python.
    """
    port = port or stack.free_port()
    with subprocess.Popen(
        [sys.executable, "-c", _CHILD, host, str(port), str(file or ""), first],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=stack.ROOT,
        env={**os.environ, **(env or {})},
    ) as process:
        made = Child(process, port)
        reader = threading.Thread(target=made.listen)
        reader.start()
        try:
            yield made
        finally:
            with contextlib.suppress(BrokenPipeError):
                process.stdin.close()
            try:
                process.wait(10)
            finally:
                process.kill()
                reader.join()


def ended(made: Child) -> float:
    """The seconds that it takes to end once the listener has."""
    start = time.monotonic()
    made.process.stdin.close()
    made.process.wait(10)
    return time.monotonic() - start
