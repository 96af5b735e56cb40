"""One attempt of host.boundary, by a separate child process, as in production."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from supervisor_memreap.host import boundary, waiting
from supervisor_memreap.host.machine import MOST_STOPS
from supervisor_memreap.host.procfs import Procfs
from supervisor_memreap.host.waiting import Kind
from support.driver import eventually, workers_below

WORDS = {
    boundary.QUEUES: "unknown",
    boundary.SENT: "sent",
    boundary.LATE: "late",
    boundary.GONE: "gone",
    boundary.CHANGED: "changed",
    boundary.NONE: "none",
    boundary.NOT_SHARED: "not shared",
    boundary.UNTRACEABLE: "untraceable",
    boundary.NOT_PERMITTED: "not permitted",
    boundary.TRACED: "traced",
}


def hup(worker: int) -> None:
    boundary.tgkill(worker, worker, signal.SIGHUP)


def hup_to(worker: int, send: Callable[[], None] | None = None, may_send: bool = True) -> boundary.Signal:
    """HUP to this worker, or what `send` does in its place."""
    to_thread = (lambda: hup(worker)) if send is None else send
    return boundary.Signal(signal.SIGHUP, lambda: may_send, to_thread, lambda: os.kill(worker, signal.SIGHUP))


def attempt(
    worker: int,
    send: Callable[[], None] | None = None,
    patience: float = 30.0,
    stops: int = MOST_STOPS,
    rest: float = 0.0,
    killed_at: int | None = None,
    may_send: bool = True,
    kill: Callable[[], object] = lambda: os.kill(os.getpid(), signal.SIGKILL),
) -> str:
    """How it ended, in a word; by default with HUP. `killed_at`: its child is killed at this step, or what `kill` does.

    At 0: after the last one. "released": the kernel has ended the child since it did not go on.
    """
    manager = Procfs().process(worker).parent
    readable, writable = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            bounds = boundary.Bounds(time.monotonic() + patience, stops, rest)
            steps = boundary.Tracer(worker, hup_to(worker, send, may_send), bounds).steps(manager)
            for count, written in enumerate(steps, 1):
                os.write(writable, written)
                if count == killed_at:
                    kill()
            if killed_at == 0:
                kill()
        finally:
            os._exit(0)
    os.close(writable)
    with open(readable, "rb") as file:
        # As host.attempt does: what a worker keeps locked is waited for without end.
        killer = threading.Timer(patience + 2.0, os.kill, (child, signal.SIGKILL))
        killer.start()
        written = file.read()
        killer.cancel()
    _, ended = os.waitpid(child, 0)
    if os.WIFSIGNALED(ended) and os.WTERMSIG(ended) == signal.SIGALRM:
        return "released"
    return WORDS[written[-1:]] if written else "nothing"


@contextlib.contextmanager
def fastcgi_pool(tmp_path: Path, workers: int) -> Iterator[tuple[int, str]]:
    """The pid of the manager, and the path of its socket: the demo's pool, all of whose workers wait in accept."""
    path = str(tmp_path / "s")
    with subprocess.Popen([sys.executable, "-m", "supervisor_memreap.demo.prefork", path, str(workers)]) as process:
        try:
            eventually(lambda: _assert_all_in_accept(process.pid, workers))
            yield process.pid, path
        finally:
            process.terminate()


def in_accept(pid: int) -> bool:
    try:
        wait = waiting.current(pid)
    except OSError:
        return False
    return wait is not None and wait.kind is Kind.ACCEPT


def _assert_all_in_accept(manager: int, count: int) -> None:
    pids = workers_below(manager)
    assert len(pids) == count
    assert all(in_accept(pid) for pid in pids)
