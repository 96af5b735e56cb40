"""What benchmarks/aarch64.sh runs on an aarch64 kernel: the boundary of real processes there, counted.

Each worker of the real FCGI::ProcManager is signalled by host.attempt while two threads ask it for answers; then
processes that wait for no connection, which must get no signal.
"""

from __future__ import annotations

import os
import platform
import select
import socket
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

from supervisor_memreap import demo
from supervisor_memreap.core.model import Program, Result
from supervisor_memreap.core.settings import PoolSettings, Watch
from supervisor_memreap.demo import fastcgi, load
from supervisor_memreap.host import boundary, look, procfs, reader
from supervisor_memreap.host.attempt import Attempt
from supervisor_memreap.host.machine import Order, Outcome

REAPS = 60
SOCKET = "/tmp/pool.sock"
# Everything is some thirty times slower in the emulator.
PATIENCE = 120.0


def main() -> int:
    print(f"{platform.machine()}, Linux {platform.release()}, Python {platform.python_version()}")
    assert boundary.is_usable()
    results = [_pool_under_load(), _not_in_accept()]
    reader.end()
    return 0 if all(results) else 1


def _pool_under_load() -> bool:
    script = str(Path(demo.__file__).parent / "pool.pl")
    with subprocess.Popen(["perl", script, SOCKET, "3"], stderr=subprocess.DEVNULL) as manager:
        try:
            _wait_until(lambda: fastcgi.get(SOCKET, PATIENCE).endswith(b"ok"))
            with load.Load(SOCKET) as requests:
                outcomes, left = _reap_again_and_again(manager.pid)
            print(
                f"FCGI::ProcManager, {sum(outcomes.values())} attempts: {dict(outcomes)}; {left} workers left;"
                f" {requests.answered} requests answered, {requests.lost} lost {requests.why}"
            )
            return left >= REAPS and not requests.lost and set(outcomes) <= {"sent held", "busy"}
        finally:
            manager.kill()


def _reap_again_and_again(manager: int) -> tuple[Counter[str], int]:
    outcomes: Counter[str] = Counter()
    left = 0
    watch = Watch(Program("pool", "pool", "RUNNING", manager), PoolSettings(min_age=1))
    while left < REAPS:
        view = procfs.source()
        pool = look.look(watch, view)
        worker = max(pool.workers, key=lambda worker: worker.age, default=None)
        if len(pool.workers) < 3 or worker is None or worker.age < 5:  # slow, so a newborn is one for longer
            time.sleep(0.2)
            continue
        assert pool.manager
        assert worker.detail
        order = Order(worker.id, pool.manager, 4, worker.detail.server, worker.detail.signal, patience=PATIENCE)
        outcome = _ended(Attempt(order, view, None, None))
        outcomes[f"{outcome.result.value} {outcome.moment.value if outcome.moment else ''}".strip()] += 1
        if outcome.result is Result.SENT:
            _wait_until(lambda: not os.path.exists(f"/proc/{worker.id.pid}"))  # noqa: B023
            left += 1
    return outcomes, left


# Each reports when it waits in accept, catches HUP, and records it.
_CHILD = """
import signal, socket, sys, time
signal.signal(signal.SIGHUP, lambda *_: print("HUP", flush=True))
signal.siginterrupt(signal.SIGHUP, False)
print("ready", flush=True)
"""
_BUSY = {
    "sleeps": "time.sleep(3600)",
    "reads": "ours, theirs = socket.socketpair(); ours.recv(1)",
    "runs": "while True: pass",
}


def _not_in_accept() -> bool:
    outcomes: Counter[str] = Counter()
    signalled = 0
    listening = socket.socket(socket.AF_UNIX)  # which they have too, as workers do
    listening.bind(f"{SOCKET}.other")
    listening.listen()
    for what, code in _BUSY.items():
        command = [sys.executable, "-c", _CHILD + code]
        pass_fds = (listening.fileno(),)
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, pass_fds=pass_fds) as child:
            try:
                assert child.stdout
                assert child.stdout.readline() == "ready\n"
                time.sleep(1)
                for _ in range(20):
                    view = procfs.source()
                    ids = view.process(child.pid).id, view.process(os.getpid()).id
                    outcome = _ended(Attempt(Order(*ids, 2, "Starman", "HUP", patience=2.0), view, None, None))
                    outcomes[f"{what}: {outcome.result.value}"] += 1
                readable, _, _ = select.select([child.stdout], [], [], 2.0)
                signalled += bool(readable)
            finally:
                child.kill()
    listening.close()
    print(f"processes that are not in accept: {dict(outcomes)}; {signalled} of {len(_BUSY)} got the signal")
    return not signalled and all(outcome.endswith("busy") for outcome in outcomes)


def _ended(attempt: Attempt) -> Outcome:
    while (outcome := attempt.outcome()) is None:
        select.select([attempt.fd], [], [], max(0.0, attempt.deadline - time.monotonic()) + 0.001)
    return outcome


def _wait_until(holds) -> None:
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            if holds():
                return
        except (OSError, socket.timeout):
            pass
        assert time.monotonic() < deadline
        time.sleep(0.1)


if __name__ == "__main__":
    sys.exit(main())
