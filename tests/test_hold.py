"""Holding a worker inside accept: the signal arrives there, or it is not sent; and no worker stays stopped."""

from __future__ import annotations

import contextlib
import functools
import os
import platform
import signal
import socket
import subprocess
import sys
import threading
import time

import psutil
import pytest
from support import driver, waiter
from support.driver import eventually, stop, workers_below

from supervisor_memreap.demo import fastcgi
from supervisor_memreap.host import hold, sockets, waiting
from supervisor_memreap.host.procfs import Procfs
from supervisor_memreap.host.signalling import tgkill
from supervisor_memreap.host.waiting import Kind, Wait

pytestmark = pytest.mark.skipif(not hold.is_usable(), reason=f"not on {sys.platform} {platform.machine()}")


@pytest.fixture(autouse=True)
def _patient(monkeypatch):
    """Other tests may keep all CPUs busy."""
    monkeypatch.setattr(hold, "TIMEOUT", 10.0)


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
        wait = waiting.current(pid)
    except OSError:
        return False
    return wait is not None and wait.kind is Kind.ACCEPT


def _all_in_accept(manager: int, count: int) -> None:
    pids = workers_below(manager)
    assert len(pids) == count
    assert all(in_accept(pid) for pid in pids)


def test_a_worker_in_accept_gets_the_signal_there_and_leaves(tmp_path):
    with pool(tmp_path, 1) as (manager, path):
        (worker,) = workers_below(manager)
        assert hold.signal_held(worker, lambda: tgkill(worker, worker, signal.SIGHUP)) == "held"
        eventually(lambda: _replaced(manager, worker))
        assert fastcgi.get(path).endswith(b"ok")


def _replaced(manager: int, worker: int) -> None:
    workers = workers_below(manager)
    assert workers
    assert worker not in workers


def test_a_worker_that_has_ended_and_is_not_collected_yet_is_gone(tmp_path):
    with pool(tmp_path, 1) as (manager, _path):
        (worker,) = workers_below(manager)
        stop(manager)
        try:
            eventually(lambda: _assert_status(manager, psutil.STATUS_STOPPED))
            os.kill(worker, signal.SIGKILL)
            eventually(lambda: _assert_status(worker, psutil.STATUS_ZOMBIE))
            assert hold.signal_held(worker, lambda: tgkill(worker, worker, signal.SIGHUP)) == "gone"
        finally:
            os.kill(manager, signal.SIGCONT)


def _assert_status(pid: int, status: str) -> None:
    assert psutil.Process(pid).status() == status


def test_a_worker_that_serves_gets_no_signal(tmp_path):
    sent = []
    with pool(tmp_path, 1) as (manager, path), socket.socket(socket.AF_UNIX) as half:
        (worker,) = workers_below(manager)
        half.connect(path)
        eventually(lambda: _busy(worker))
        assert hold.signal_held(worker, lambda: sent.append(1)) == "not waiting"
        half.sendall(fastcgi.request())
        assert half.recv(4096)
        assert workers_below(manager) == {worker}


def _busy(worker: int) -> None:
    assert not in_accept(worker)


def test_a_worker_that_is_gone_is_a_normal_answer():
    with subprocess.Popen(["true"]) as process:
        process.wait()
    assert hold.signal_held(process.pid, lambda: os.kill(process.pid, signal.SIGHUP)) == "gone"


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
        assert hold.signal_held(worker, lambda: tgkill(worker, worker, signal.SIGHUP)) == "not permitted"
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


def test_a_child_that_hangs_is_ended_in_time_and_the_worker_runs_on(tmp_path, monkeypatch):
    monkeypatch.undo()
    with pool(tmp_path, 1) as (manager, path):
        (worker,) = workers_below(manager)
        started = time.monotonic()
        assert hold.signal_held(worker, lambda: time.sleep(60)) == "unknown"
        assert time.monotonic() - started < 10
        eventually(lambda: _runs(worker))
        assert fastcgi.get(path).endswith(b"ok")
        assert workers_below(manager) == {worker}


def test_under_load_no_request_is_lost_whatever_the_attempts_say(tmp_path):
    attempts: list[str] = []
    lost, answered, stop = [], [0], threading.Event()

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
        while attempts.count("held") < 30:
            for worker in workers_below(manager):
                if psutil.pid_exists(worker) and in_accept(worker):
                    send = functools.partial(tgkill, worker, worker, signal.SIGHUP)
                    attempts.append(hold.signal_held(worker, send))
        stop.set()
        for thread in threads:
            thread.join()
    assert lost == []
    assert answered[0] > 30
    assert set(attempts) <= {"held", "not waiting", "gone"}


def test_a_child_that_sends_the_signal_after_its_time_was_up_is_not_taken_for_one_that_did_not(tmp_path, monkeypatch):
    def reads_nothing(_readable: int) -> tuple[bytes, bool]:
        time.sleep(0.5)  # this process did not run while the child did all of it
        return b"", False

    monkeypatch.setattr(hold, "_read_in_time", reads_nothing)
    with pool(tmp_path, 1) as (manager, _path):
        (worker,) = workers_below(manager)
        assert hold.signal_held(worker, lambda: tgkill(worker, worker, signal.SIGHUP)) == "held"
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
        assert hold.signal_held(worker, lambda: tgkill(worker, worker, signal.SIGHUP)) == "held"
        eventually(lambda: _replaced(manager, worker))


def hup(worker: int) -> None:
    tgkill(worker, worker, signal.SIGHUP)


@pytest.fixture
def _children_are_not_waited_for():
    """As inherited from a shell with `trap '' CHLD`, or from a job runner in Perl."""
    before = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    yield
    signal.signal(signal.SIGCHLD, before)


@pytest.mark.usefixtures("_children_are_not_waited_for")
def test_where_sigchld_is_ignored_a_signal_that_was_sent_is_told_as_that(tmp_path):
    with pool(tmp_path, 1) as (manager, _path):
        (worker,) = workers_below(manager)
        assert hold.signal_held(worker, lambda: hup(worker)) == "held"
        eventually(lambda: _replaced(manager, worker))


@pytest.mark.parametrize("function", ["_read_in_time", "_end", "_rest"])
def test_after_the_fork_no_error_means_that_nothing_was_sent(tmp_path, monkeypatch, function):
    real = getattr(hold, function)

    def fails(*args, **options):
        real(*args, **options)
        raise OSError(24, "no descriptor is left")

    monkeypatch.setattr(hold, function, fails)
    with pool(tmp_path, 1) as (manager, _path):
        (worker,) = workers_below(manager)
        assert hold.signal_held(worker, lambda: hup(worker)) == "unknown"
        eventually(lambda: _replaced(manager, worker))


def test_a_child_that_is_ended_at_once_means_that_holding_is_not_permitted(tmp_path, monkeypatch):
    # As a seccomp filter does that kills who calls ptrace.
    monkeypatch.setattr(hold, "steps", lambda *_: os.kill(os.getpid(), signal.SIGSYS))
    with pool(tmp_path, 1) as (manager, _path):
        (worker,) = workers_below(manager)
        assert hold.signal_held(worker, lambda: hup(worker)) == "not permitted"
        assert workers_below(manager) == {worker}


def test_a_child_that_had_no_time_is_tried_again(tmp_path, monkeypatch):
    monkeypatch.undo()
    monkeypatch.setattr(hold, "steps", lambda *_: time.sleep(60))
    with pool(tmp_path, 1) as (manager, _path):
        (worker,) = workers_below(manager)
        assert hold.signal_held(worker, lambda: hup(worker)) == "not waiting"
        assert workers_below(manager) == {worker}


@contextlib.contextmanager
def forked_worker(*words: str):
    """The pid of a worker of tests/support/pool.py, which waits in accept."""
    with driver.pool(1, 1, *words) as manager:
        (worker,) = workers_below(manager)
        eventually(lambda: _in_accept(worker))
        yield worker


def _in_accept(worker: int) -> None:
    assert in_accept(worker)


def test_a_worker_with_a_second_thread_runs_the_handler_in_the_main_one_and_leaves():
    with forked_worker("thread") as worker:
        assert len(os.listdir(f"/proc/{worker}/task")) == 2
        assert hold.signal_held(worker, lambda: hup(worker)) == "held"
        eventually(lambda: _gone(worker))


def _gone(pid: int) -> None:
    with contextlib.suppress(psutil.NoSuchProcess):
        assert psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def test_a_worker_whose_second_thread_may_serve_is_not_signalled():
    with forked_worker("serving") as worker:
        eventually(lambda: _has_threads(worker, 2))
        assert hold.signal_held(worker, lambda: hup(worker)) == "not waiting"
        assert psutil.pid_exists(worker)


def _has_threads(pid: int, count: int) -> None:
    assert len(os.listdir(f"/proc/{pid}/task")) == count


@pytest.mark.parametrize("moment", [1, 2])
def test_another_signal_on_its_way_is_delivered_and_not_lost(moment):
    """After SEIZE, and after INTERRUPT: where the stop is that of the signal itself."""
    for _ in range(10):
        with forked_worker() as worker:
            child = os.fork()
            if child == 0:
                for count, _ in enumerate(hold.steps(worker, lambda: None), 1):
                    if count == moment:
                        os.kill(worker, signal.SIGTERM)
                os._exit(0)
            os.waitpid(child, 0)
            eventually(lambda worker=worker: _gone(worker))


@pytest.mark.parametrize(
    ("kind", "x8", "x0", "svc_at", "inside"),
    [
        (Kind.ACCEPT, 202, 5, 4096, True),  # interrupted: the kernel has prepared the restart
        (Kind.ACCEPT, 242, 5, 4096, True),
        (Kind.ACCEPT, 202, -4, 4092, True),  # it returned EINTR
        (Kind.ACCEPT, 202, 7, 4092, False),  # it returned a connection
        (Kind.SELECT, 72, 5, 4096, True),
        (Kind.EPOLL, 22, 1, 4092, True),  # it is about to return since there is a connection
        (Kind.EPOLL, 22, 1, 0, False),  # it has returned, and code that follows has run
        (Kind.ACCEPT, 63, 5, 4096, False),  # read
    ],
)
def test_on_aarch64_a_call_that_will_be_restarted_counts_as_inside(monkeypatch, kind, x8, x0, svc_at, inside):
    """From the kernel's source; the registers are set by hand."""
    wait = Wait(kind, 202 if x8 == 63 else x8, (5, 0x7000, 16, 0, 0, 0))
    registers = [0] * 34
    registers[8], registers[0], registers[1], registers[2], registers[32] = x8, x0, 0x7000, 16, 4096
    monkeypatch.setattr(hold, "_registers", lambda _pid, count: registers[:count])
    monkeypatch.setattr(hold, "_instruction", lambda _pid, address: b"\x01\x00\x00\xd4" if address == svc_at else b"")
    assert hold._is_inside_aarch64(1, wait) is inside


def _serve_one_and_leave(way: str, listening: socket.socket) -> None:
    """Accepts when it is told that there is a connection, as servers do that wait first; HUP ends it while it waits."""
    signal.signal(signal.SIGHUP, lambda *_: os._exit(0))
    while True:
        waiter.WAYS[way](listening)
        connection, _ = listening.accept()
        connection.recv(1)
        connection.close()


@pytest.mark.parametrize("way", ["epoll", "select", "poll"])
def test_a_worker_that_waits_in_another_call_gets_the_signal_there_and_leaves(way):
    with waiter.listen("tcp") as listening, waiter.forked(lambda: _serve_one_and_leave(way, listening)) as worker:
        eventually(lambda: _assert_idle(worker))
        assert hold.signal_held(worker, lambda: hup(worker)) == "held"
        eventually(lambda: _gone(worker))


def _assert_idle(worker: int) -> None:
    assert Procfs().idle(worker)


@pytest.mark.parametrize("way", ["epoll", "select", "poll"])
def test_a_worker_there_that_is_not_signalled_waits_on(way):
    with waiter.listen("tcp") as listening, waiter.forked(lambda: _serve_one_and_leave(way, listening)) as worker:
        eventually(lambda: _assert_idle(worker))
        assert hold.signal_held(worker, lambda: None) == "held"  # by one who sends nothing
        eventually(lambda: _assert_idle(worker))
        with waiter.connect(listening) as client:
            client.sendall(b"x")
            assert client.recv(1) == b""


@pytest.mark.parametrize("way", ["epoll", "select", "poll"])
def test_a_connection_that_came_in_between_is_served_and_no_signal_is_sent(way, monkeypatch):
    """The connection comes after the worker was seen waiting, and before it is held."""
    sent: list[int] = []
    real = hold._ptrace
    with waiter.listen("tcp") as listening, waiter.forked(lambda: _serve_one_and_leave(way, listening)) as worker:
        eventually(lambda: _assert_idle(worker))

        def ptrace(request: int, pid: int, *rest: int) -> None:
            if request == hold._SEIZE:
                waiter.connect(listening).detach()
                eventually(lambda: _assert_reads(worker))
            real(request, pid, *rest)

        monkeypatch.setattr(hold, "_ptrace", ptrace)
        assert hold.signal_held(worker, lambda: sent.append(1)) == "not waiting"
        assert not sent
        eventually(lambda: _assert_idle(worker))  # the child that connected has ended


def _assert_reads(worker: int) -> None:
    assert sockets.of(worker).has_client


@pytest.mark.parametrize("way", ["epoll", "select", "poll"])
def test_a_connection_that_comes_while_it_is_held_stays_in_the_queue_for_its_siblings(way, monkeypatch):
    """A worker that is held accepts nothing, and after the signal it leaves."""
    with waiter.listen("tcp") as listening, waiter.forked(lambda: _serve_one_and_leave(way, listening)) as worker:
        eventually(lambda: _assert_idle(worker))
        client = socket.socket()

        def send() -> None:
            client.connect(listening.getsockname())
            client.sendall(b"x")
            hup(worker)

        assert hold.signal_held(worker, send) == "held"
        eventually(lambda: _gone(worker))
        connection, _ = listening.accept()
        assert connection.recv(1) == b"x"
        connection.close()
        client.close()
