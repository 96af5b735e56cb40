"""How often an attempt to bring a worker to its boundary cuts a write short that has to wait.

    python benchmarks/writes.py                      two minutes; writes benchmarks/results/writes.md
    python benchmarks/writes.py --seconds 60

An interrupt lets a write that waits for its reader return less than it was given, as any signal does. memreap
interrupts a worker only where that harms nothing; this counts what remains. One worker does nothing but accept a
connection and answer with one write(2) of 8 MB, to a client that reads quickly or slowly (64 KB each millisecond), over
TCP and UNIX sockets. Attempts that send nothing are made on it one after the other, and none for comparison.
"""

from __future__ import annotations

import argparse
import ctypes
import itertools
import os
import signal
import socket
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from loss import versions
from pages import RESULTS
from support.boundary import attempt

LENGTH = 8 << 20
_LEGEND = """\
`python benchmarks/writes.py` wrote this page. A worker does nothing but answer each connection with one write of 8 MB,
to a client that reads quickly or slowly; attempts that send nothing are made on it one after the other (0: none, for
comparison). A write is cut short if it returned less than it was given, as after any signal."""
_LIBC = ctypes.CDLL(None, use_errno=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=15.0, help="for each of the eight rows (15)")
    parser.add_argument("--out", type=Path, default=RESULTS, help="directory of writes.md (benchmarks/results)")
    options = parser.parse_args()
    lines = ["| socket | client | attempts | writes | cut short |", "|---|---|--:|--:|--:|"]
    print("\n".join(lines))
    for family, pause, attempts in itertools.product(("tcp", "unix"), (0.0, 0.001), (False, True)):
        made, short, writes = measure(family, pause, attempts, options.seconds)
        lines.append(f"| {family} | {'slow' if pause else 'quick'} | {made} | {writes:,} | {short} |")
        print(lines[-1], flush=True)
    used = ", ".join(f"{name} {version}" for name, version in versions().items())
    measured = f"Measured on {time.strftime('%Y-%m-%d')}: {used}."
    page = "\n\n".join(("# Writes that an attempt cuts short", _LEGEND, "\n".join(lines), measured))
    (options.out / "writes.md").write_text(f"{page}\n")


def measure(family: str, pause: float, with_attempts: bool, seconds: float) -> tuple[int, int, int]:
    """Attempts that were made; writes that were cut short; all writes."""
    with tempfile.TemporaryDirectory() as directory, listening_on(family, directory) as listening:
        worker = os.fork()
        if worker == 0:
            serve(listening)
        is_over, lengths = threading.Event(), Counter[bool]()
        client = threading.Thread(target=ask, args=(listening, pause, is_over, lengths))
        client.start()
        made, end = 0, time.monotonic() + seconds
        try:
            while time.monotonic() < end:
                if with_attempts:
                    attempt(worker, lambda: None, patience=0.5)
                    made += 1
                else:
                    time.sleep(0.1)
        finally:
            is_over.set()
            client.join()
            os.kill(worker, signal.SIGKILL)
            os.waitpid(worker, 0)
        return made, lengths[False], lengths.total() if sys.version_info >= (3, 10) else sum(lengths.values())


def listening_on(family: str, directory: str) -> socket.socket:
    if family == "tcp":
        return socket.create_server(("127.0.0.1", 0))
    own = socket.socket(socket.AF_UNIX)
    own.bind(f"{directory}/s")
    own.listen()
    return own


def serve(listening: socket.socket) -> None:
    """Never returns."""
    answer = bytes(LENGTH)
    while True:
        connection, _ = listening.accept()
        _LIBC.write(connection.fileno(), answer, LENGTH)
        connection.close()


def ask(listening: socket.socket, pause: float, is_over: threading.Event, lengths: Counter[bool]) -> None:
    while not is_over.is_set():
        with socket.socket(listening.family) as client:
            client.connect(listening.getsockname())
            got = 0
            while chunk := client.recv(1 << 16):
                got += len(chunk)
                time.sleep(pause)
            lengths[got == LENGTH] += 1


if __name__ == "__main__":
    main()
