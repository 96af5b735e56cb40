"""Holding a worker inside accept: the signal arrives there, or it is not sent; and no worker stays stopped."""

from __future__ import annotations

import contextlib
import os
import platform
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest
from driver import eventually, workers_below

from supervisor_memreap.demo import fastcgi
from supervisor_memreap.host import hold

pytestmark = pytest.mark.skipif(not hold.is_usable(), reason=f"not on {sys.platform} {platform.machine()}")


@contextlib.contextmanager
def pool(tmp_path, workers: int):
    path = str(tmp_path / "s")
    with subprocess.Popen([sys.executable, "-m", "supervisor_memreap.demo.pool", path, str(workers)]) as process:
        try:
            eventually(lambda: _all_in_accept(process.pid, workers))
            yield process.pid, path
        finally:
            process.terminate()


def in_accept(pid: int) -> bool:
    try:
        return int(Path(f"/proc/{pid}/syscall").read_text().split()[0]) in hold.ACCEPT
    except (OSError, ValueError):
        return False


def _all_in_accept(manager: int, count: int) -> None:
    pids = workers_below(manager)
    assert len(pids) == count
    assert all(in_accept(pid) for pid in pids)


def test_a_worker_in_accept_gets_the_signal_there_and_leaves(tmp_path):
    with pool(tmp_path, 1) as (manager, path):
        (worker,) = workers_below(manager)
        assert hold.signal_in_accept(worker, lambda: os.kill(worker, signal.SIGHUP)) == "held"
        eventually(lambda: _replaced(manager, worker))
        assert fastcgi.get(path).endswith(b"ok")


def _replaced(manager: int, worker: int) -> None:
    workers = workers_below(manager)
    assert workers
    assert worker not in workers


def test_a_worker_that_serves_gets_no_signal(tmp_path):
    sent = []
    with pool(tmp_path, 1) as (manager, path), socket.socket(socket.AF_UNIX) as half:
        (worker,) = workers_below(manager)
        half.connect(path)
        eventually(lambda: _busy(worker))
        assert hold.signal_in_accept(worker, lambda: sent.append(1)) == "taken"
        half.sendall(fastcgi.request())
        assert half.recv(4096)
        assert workers_below(manager) == {worker}


def _busy(worker: int) -> None:
    assert not in_accept(worker)


def test_a_worker_that_is_gone_is_a_normal_answer():
    with subprocess.Popen(["true"]) as process:
        process.wait()
    assert hold.signal_in_accept(process.pid, lambda: os.kill(process.pid, signal.SIGHUP)) == "gone"


def test_where_it_is_traced_already_that_is_not_permitted(tmp_path):
    with pool(tmp_path, 1) as (manager, _path):
        (worker,) = workers_below(manager)
        tracer = subprocess.Popen(
            [
                sys.executable,
                "-c",
                f"from supervisor_memreap.host import hold; hold._ptrace(hold._SEIZE, {worker});"
                "print('traced', flush=True); import time; time.sleep(60)",
            ],
            stdout=subprocess.PIPE,
        )
        assert tracer.stdout.readline() == b"traced\n"
        assert hold.signal_in_accept(worker, lambda: os.kill(worker, signal.SIGHUP)) == "not permitted"
        tracer.kill()
        tracer.communicate()
        assert workers_below(manager) == {worker}


# Every place where steps() may be when it is killed; there are six in an attempt that succeeds, the last is the end.
@pytest.mark.parametrize("last", range(1, 7))
def test_a_child_that_is_killed_at_any_step_leaves_the_worker_running(tmp_path, last):
    with pool(tmp_path, 1) as (manager, path):
        (worker,) = workers_below(manager)
        child = os.fork()
        if child == 0:
            for count, _ in enumerate(hold.steps(worker, lambda: None), 1):
                if count == last:
                    os.kill(os.getpid(), signal.SIGKILL)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        assert os.WIFSIGNALED(status)
        eventually(lambda: _runs(worker))
        for _ in range(3):
            assert fastcgi.get(path).endswith(b"ok")
        assert workers_below(manager) == {worker}


def _runs(worker: int) -> None:
    assert psutil.Process(worker).status() not in (psutil.STATUS_STOPPED, psutil.STATUS_TRACING_STOP)


def test_a_child_that_hangs_is_ended_in_time_and_the_worker_runs_on(tmp_path):
    with pool(tmp_path, 1) as (manager, path):
        (worker,) = workers_below(manager)
        started = time.monotonic()
        assert hold.signal_in_accept(worker, lambda: time.sleep(60)) == "unknown"
        assert time.monotonic() - started < 5
        eventually(lambda: _runs(worker))
        assert fastcgi.get(path).endswith(b"ok")
        assert workers_below(manager) == {worker}


def test_under_load_no_request_is_lost_whatever_the_attempts_say(tmp_path):
    words, lost, answered, stop = [], [], [0], threading.Event()

    def ask(path: str) -> None:
        while not stop.is_set():
            try:
                if not fastcgi.get(path).endswith(b"\r\n\r\nok"):
                    lost.append("a wrong answer")
            except OSError as error:
                lost.append(str(error))
            answered[0] += 1

    with pool(tmp_path, 4) as (manager, path):
        threads = [threading.Thread(target=ask, args=(path,)) for _ in range(2)]
        for thread in threads:
            thread.start()
        while words.count("held") < 30:
            for worker in workers_below(manager):
                if psutil.pid_exists(worker) and in_accept(worker):
                    words.append(hold.signal_in_accept(worker, lambda worker=worker: os.kill(worker, signal.SIGHUP)))
        stop.set()
        for thread in threads:
            thread.join()
    assert lost == []
    assert answered[0] > 30
    assert set(words) <= {"held", "taken", "gone"}


def test_a_child_that_sends_the_signal_after_its_time_was_up_is_not_taken_for_one_that_did_not(tmp_path, monkeypatch):
    def hears_nothing(_readable: int) -> bytes:
        time.sleep(0.5)  # this process did not run while the child did all of it
        return b""

    monkeypatch.setattr(hold, "_hear", hears_nothing)
    with pool(tmp_path, 1) as (manager, _path):
        (worker,) = workers_below(manager)
        assert hold.signal_in_accept(worker, lambda: os.kill(worker, signal.SIGHUP)) == "held"
        eventually(lambda: _replaced(manager, worker))


def test_a_signal_that_was_sent_is_told_as_that_also_where_letting_go_fails(tmp_path, monkeypatch):
    real = hold._ptrace

    def fails(request: int, pid: int, *rest: int) -> None:
        if request == hold._DETACH:
            raise PermissionError
        real(request, pid, *rest)

    monkeypatch.setattr(hold, "_ptrace", fails)
    with pool(tmp_path, 1) as (manager, _path):
        (worker,) = workers_below(manager)
        assert hold.signal_in_accept(worker, lambda: os.kill(worker, signal.SIGHUP)) == "held"
        eventually(lambda: _replaced(manager, worker))
