"""A worker is signalled where it will wait for its next connection; before that it notices nothing."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import json
import os
import platform
import select
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest
from support import cgroup, driver, needs, stack, waiter
from support.boundary import attempt, fastcgi_pool, hup, hup_to, in_accept
from support.driver import eventually, is_alive, repeating, stop, until, workers_below

from supervisor_memreap.demo import fastcgi
from supervisor_memreap.host import boundary, sockets, waiting
from supervisor_memreap.host.procfs import Procfs

pytestmark = pytest.mark.skipif(not boundary.is_usable(), reason=f"not on {sys.platform} {platform.machine()}")

# Seconds for an attempt that is meant to fail.
BRIEF = 0.3
# Steps of an attempt on an idle worker: from SEIZE on, each is one where its child may be killed.
STEPS = 10


@contextlib.contextmanager
def load(path: str, clients: int) -> Iterator[list[str]]:
    """The results of lost requests, while clients send requests without pause."""
    lost: list[str] = []
    answered = [0]

    def ask() -> None:
        try:
            if not fastcgi.get(path).endswith(b"\r\n\r\nok"):
                lost.append("a wrong answer")
        except OSError as error:
            lost.append(str(error))
        answered[0] += 1

    with repeating(ask, clients):
        yield lost
    assert answered[0] > 30


@contextlib.contextmanager
def one_worker(tmp_path: Path) -> Iterator[tuple[int, str, int]]:
    """The manager of a pool of one, the path of its socket, and the worker."""
    with fastcgi_pool(tmp_path, 1) as (manager, path):
        (worker,) = workers_below(manager)
        yield manager, path, worker


@contextlib.contextmanager
def serving(way: str) -> Iterator[tuple[socket.socket, int]]:
    """A socket, and a worker that waits there for a connection in this way; HUP ends it while it waits.

    It accepts after a wait that reports a connection, as many servers do.
    """
    with waiter.listen("tcp") as listening:

        def serve() -> None:
            signal.signal(signal.SIGHUP, lambda *_: os._exit(0))
            while True:
                waiter.WAYS[way](listening)
                connection, _ = listening.accept()
                connection.recv(1)
                connection.close()

        with waiter.forked(serve) as worker:
            until(lambda: Procfs().idle(worker))
            yield listening, worker


def test_an_idle_worker_is_signalled_where_it_waits_and_leaves(tmp_path):
    with one_worker(tmp_path) as (manager, path, worker):
        assert attempt(worker) == "sent"
        eventually(lambda: _assert_replaced(manager, worker))
        assert fastcgi.get(path).endswith(b"ok")


def _assert_replaced(manager: int, worker: int) -> None:
    workers = workers_below(manager)
    assert workers
    assert worker not in workers


@pytest.mark.parametrize("clients", [1, 8])
def test_at_any_load_a_worker_is_signalled_and_no_request_is_lost(tmp_path, clients):
    with fastcgi_pool(tmp_path, 2) as (manager, path):
        with load(path, clients) as lost:
            for _ in range(20):
                (worker, *_) = eventually(lambda: _assert_two(manager))
                assert attempt(worker) in ("sent", "gone")
                eventually(lambda worker=worker: _assert_replaced(manager, worker))
        assert lost == []


def _assert_two(manager: int) -> list[int]:
    pids = sorted(workers_below(manager))
    assert len(pids) == 2
    assert all(Procfs().catches(pid, signal.SIGHUP) for pid in pids)
    return pids


def test_a_child_killed_at_any_step_loses_no_request_and_leaves_no_worker_stopped(tmp_path):
    with fastcgi_pool(tmp_path, 2) as (manager, path):
        with load(path, 4) as lost:
            for last in (*range(1, STEPS), 15, 30, 60) * 2:
                (worker, *_) = eventually(lambda: _assert_two(manager))
                attempt(worker, killed_at=last)
                eventually(lambda worker=worker: _assert_runs_or_is_gone(worker))
        assert lost == []


def test_a_child_that_is_frozen_at_any_step_is_ended_and_lets_go_of_its_worker(tmp_path, monkeypatch):
    monkeypatch.setattr(boundary, "FROZEN", boundary.FROZEN / 4)
    with fastcgi_pool(tmp_path, 2) as (manager, path), cgroup.freezer() as freeze:
        with load(path, 4) as lost:
            for last in (1, 2, 3, 4, 15):
                (worker, *_) = eventually(lambda: _assert_two(manager))
                assert attempt(worker, lambda: None, killed_at=last, kill=freeze) in ("released", "sent")
                eventually(lambda worker=worker: _assert_runs_or_is_gone(worker))
        assert lost == []


def test_a_child_that_hangs_after_an_attempt_in_vain_is_ended_and_lets_go_of_its_worker(monkeypatch):
    monkeypatch.setattr(boundary, "FROZEN", 0.5)
    with waiter.listen("tcp") as listening:

        def work() -> None:
            while listening:
                os.getppid()

        with waiter.forked(work) as worker:

            def hang() -> None:
                os.kill(worker, signal.SIGWINCH)  # which stops it as long as it is traced
                until(lambda: psutil.Process(worker).status(), psutil.STATUS_TRACING_STOP)
                time.sleep(60)

            assert attempt(worker, lambda: None, stops=100, killed_at=0, kill=hang) == "released"
            until(lambda: psutil.Process(worker).status(), psutil.STATUS_RUNNING)


def _assert_runs_or_is_gone(pid: int) -> None:
    with contextlib.suppress(psutil.NoSuchProcess):
        assert psutil.Process(pid).status() not in (psutil.STATUS_STOPPED, psutil.STATUS_TRACING_STOP)


@pytest.mark.parametrize("last", range(1, STEPS))
def test_an_idle_worker_whose_tracer_is_killed_keeps_waiting_when_nothing_was_sent(tmp_path, last):
    with one_worker(tmp_path) as (manager, path, worker):
        attempt(worker, lambda: None, killed_at=last)
        for _ in range(3):
            assert fastcgi.get(path).endswith(b"ok")
        assert workers_below(manager) == {worker}
        eventually(lambda: _assert_runs_or_is_gone(worker))


def test_a_worker_that_has_ended_but_is_not_reaped_by_its_parent_is_gone(tmp_path):
    with one_worker(tmp_path) as (manager, _path, worker):
        stop(manager)
        try:
            until(lambda: psutil.Process(manager).status(), psutil.STATUS_STOPPED)
            os.kill(worker, signal.SIGKILL)
            until(lambda: psutil.Process(worker).status(), psutil.STATUS_ZOMBIE)
            assert attempt(worker) == "gone"
        finally:
            os.kill(manager, signal.SIGCONT)


def test_a_worker_that_ends_while_held_is_not_an_error():
    with forked_worker() as worker:
        assert attempt(worker, lambda: os.kill(worker, signal.SIGKILL)) == "sent"
        until(lambda: not is_alive(worker))


def test_a_worker_with_half_a_request_is_not_signalled_and_answers_it(tmp_path):
    sent = []
    with one_worker(tmp_path) as (manager, path, worker), socket.socket(socket.AF_UNIX) as half:
        half.connect(path)
        until(lambda: not in_accept(worker))
        assert attempt(worker, lambda: sent.append(1), BRIEF) == "late"
        half.sendall(fastcgi.request())
        assert half.recv(4096)
        assert workers_below(manager) == {worker}
    assert not sent


def test_a_worker_that_a_debugger_traces_is_tried_again_later(tmp_path):
    with one_worker(tmp_path) as (manager, _path, worker):
        tracer = subprocess.Popen(
            [
                sys.executable,
                "-c",
                f"from supervisor_memreap.host import boundary; boundary._ptrace(boundary._SEIZE, {worker});"
                "print('traced', flush=True); import time; time.sleep(60)",
            ],
            stdout=subprocess.PIPE,
        )
        assert tracer.stdout.readline() == b"traced\n"
        assert attempt(worker) == "traced"
        tracer.kill()
        tracer.communicate()
        assert workers_below(manager) == {worker}


@pytest.mark.parametrize("call", ["_return_eintr", "_ptrace"])
def test_a_sent_signal_is_reported_even_if_the_next_step_fails(tmp_path, monkeypatch, call):
    real = getattr(boundary, call)

    def fails(*args: int, **_how: bool) -> None:
        if call == "_return_eintr" or args[0] == boundary._DETACH:
            raise PermissionError
        real(*args)

    monkeypatch.setattr(boundary, call, fails)
    with one_worker(tmp_path) as (manager, _path, worker):
        assert attempt(worker) == "sent"
        eventually(lambda: _assert_replaced(manager, worker))


@contextlib.contextmanager
def forked_worker(*words: str) -> Iterator[int]:
    """The pid of a worker of tests/support/pool.py, which waits in accept."""
    with driver.pool(1, 1, *words) as manager:
        (worker,) = workers_below(manager)
        until(lambda: in_accept(worker))
        yield worker


def test_a_worker_with_two_threads_runs_the_handler_in_the_main_thread_and_leaves():
    with forked_worker("thread") as worker:
        assert len(os.listdir(f"/proc/{worker}/task")) == 2
        assert attempt(worker) == "sent"
        until(lambda: not is_alive(worker))


def test_a_worker_whose_second_thread_may_serve_is_not_signalled():
    with forked_worker("serving") as worker:
        until(lambda: len(os.listdir(f"/proc/{worker}/task")), 2)
        assert attempt(worker, patience=BRIEF) == "late"
        assert psutil.pid_exists(worker)


@contextlib.contextmanager
def uwsgi(where: Path) -> Iterator[tuple[int, stack.Pool]]:
    """Its master, and one worker with two threads, which take turns to wait for a connection."""
    needs.skip_without("uwsgi")
    port = stack.free_port()
    shutil.copy(stack.APPS / "growing.py", where)
    command = "uwsgi --master --die-on-term --need-app --disable-logging --processes 1 --threads 2 --plugin python3"
    words = [*command.split(), "--http-socket", f"127.0.0.1:{port}", "--wsgi-file", "growing.py"]
    with subprocess.Popen(words, cwd=where, stderr=subprocess.DEVNULL) as process:
        pool = stack.Pool(where, port, "myapp")
        try:
            eventually(lambda: stack.assert_answers(pool))
            yield process.pid, pool
        finally:
            process.terminate()


@pytest.mark.parametrize(("rest", "outcome"), [(0.0, "late"), (0.8, "sent")])
def test_a_worker_whose_threads_take_turns_is_held_at_its_wait_until_the_others_have_answered(tmp_path, rest, outcome):
    with uwsgi(tmp_path) as (master, pool):

        def assert_ends_so() -> None:
            (worker,) = workers_below(master)
            until(lambda: pool.ask() and waiting.current(worker) is None)  # it is the turn of the other thread
            with ThreadPoolExecutor(1) as threads:
                answer = threads.submit(pool.ask, "s=0.6")
                until(lambda: waiting.current(worker), timeout=0.3)  # else it was its own turn
                assert (attempt(worker, patience=BRIEF, rest=rest), answer.result()[0]) == (outcome, worker)

        eventually(assert_ends_so)


@pytest.mark.parametrize(
    ("has_none", "sleep", "answer"),
    [
        ([False, False, True, True], [False, True], True),
        ([True] * 20, [False] * 20, False),
        ([None, *[True] * 20], [False] * 20, False),
    ],
    ids=["a thread answers", "a thread of the application", "unknown at first"],
)
def test_a_worker_without_a_client_is_not_held_for_long_for_a_thread_that_never_sleeps(
    has_none, sleep, answer, monkeypatch
):
    """As one of the application, which waits for messages: that would delay the clients in vain, again and again."""
    has_none, sleep = iter(has_none), iter(sleep)
    monkeypatch.setattr(boundary, "awaits_connection", lambda *_: next(has_none))
    monkeypatch.setattr(boundary, "other_threads_sleep", lambda *_: next(sleep))
    monkeypatch.setattr(boundary, "listed", lambda *_: ["1", "2"])
    wait = waiting.Wait(waiting.Kind.EPOLL, 232, (3, 0, 0, 0, 0, 0))
    assert boundary._Worker(1, {}).comes_to_rest(wait, 60.0) is answer


@pytest.mark.parametrize("moment", [1, 2, 4])
def test_another_pending_signal_is_delivered(moment):
    """After SEIZE, after INTERRUPT, where the stop is that of the signal itself, and between two system calls."""
    for _ in range(5):
        with forked_worker() as worker:
            child = os.fork()
            if child == 0:
                bounds = boundary.Bounds(time.monotonic() + BRIEF)
                steps = boundary.Tracer(worker, hup_to(worker, lambda: None), bounds).steps(
                    Procfs().process(worker).parent
                )
                for count, _ in enumerate(steps, 1):
                    if count == moment:
                        os.kill(worker, signal.SIGTERM)
                os._exit(0)
            os.waitpid(child, 0)
            until(lambda worker=worker: not is_alive(worker))


def test_a_worker_stopped_meanwhile_stays_stopped_and_resumes_when_continued(tmp_path):
    with one_worker(tmp_path) as (_manager, path, worker), socket.socket(socket.AF_UNIX) as half:
        half.connect(path)
        until(lambda: not in_accept(worker))
        stopper = threading.Timer(BRIEF, os.kill, (worker, signal.SIGSTOP))
        stopper.start()
        assert attempt(worker) == "late"
        until(lambda: psutil.Process(worker).status(), psutil.STATUS_STOPPED)
        os.kill(worker, signal.SIGCONT)
        half.sendall(fastcgi.request())
        assert half.recv(4096)


@pytest.mark.parametrize("way", ["epoll", "select", "poll"])
def test_a_worker_that_waits_in_another_call_is_signalled_there_and_leaves(way):
    with serving(way) as (_listening, worker):
        assert attempt(worker) == "sent"
        until(lambda: not is_alive(worker))


@pytest.mark.parametrize("way", ["epoll", "select", "poll"])
def test_a_worker_in_another_call_that_is_not_signalled_keeps_waiting(way):
    with serving(way) as (listening, worker):
        assert attempt(worker, lambda: None) == "sent"  # by one who sends nothing
        until(lambda: Procfs().idle(worker))
        with waiter.connect(listening) as client:
            client.sendall(b"x")
            assert client.recv(1) == b""


@pytest.mark.parametrize("way", ["epoll", "select", "poll"])
def test_a_connection_that_arrives_while_a_worker_is_held_stays_queued_for_its_siblings(way):
    """A worker that is held accepts nothing, and after the signal it leaves."""
    with serving(way) as (listening, worker):
        client = socket.socket()

        def send() -> None:
            client.connect(listening.getsockname())
            client.sendall(b"x")
            hup(worker)

        assert attempt(worker, send) == "sent"
        until(lambda: not is_alive(worker))
        connection, _ = listening.accept()
        assert connection.recv(1) == b"x"
        connection.close()
        client.close()


def test_a_worker_with_a_listening_socket_that_its_manager_lacks_is_not_signalled():
    def serve() -> None:
        with waiter.listen("tcp") as own:
            own.accept()

    with waiter.forked(serve) as worker:
        until(lambda: Procfs().idle(worker))
        assert attempt(worker) == "not shared"


def test_a_worker_that_listens_on_no_socket_has_no_boundary():
    with waiter.forked(lambda: time.sleep(1000)) as worker:
        assert attempt(worker) == "none"


def test_a_worker_that_may_not_leave_at_its_boundary_is_not_signalled_and_keeps_waiting(tmp_path):
    sent = []
    with one_worker(tmp_path) as (manager, path, worker):
        assert attempt(worker, lambda: sent.append(1), may_send=False) == "changed"
        assert fastcgi.get(path).endswith(b"ok")
        assert workers_below(manager) == {worker}


@pytest.mark.parametrize("call", ["_is_at_boundary", "_next_stop"])
def test_a_failure_while_a_worker_is_traced_leaves_it_running(tmp_path, monkeypatch, call):
    def fails(*_args: object) -> None:
        raise OSError(errno.EIO, "made for the test")

    monkeypatch.setattr(boundary.Tracer, call, fails)
    with one_worker(tmp_path) as (manager, path, worker):
        assert attempt(worker) == "untraceable"
        assert fastcgi.get(path).endswith(b"ok")
        assert workers_below(manager) == {worker}


def test_another_thread_gets_the_signal_if_the_main_thread_blocks_it():
    with waiter.listen("tcp") as listening:
        child = os.fork()
        if child == 0:
            # _exit as the handler: its argument is the number of the signal. A handler of Python's would wait for the
            # main thread.
            _LIBC.signal(signal.SIGHUP, ctypes.cast(_LIBC._exit, ctypes.c_void_p))
            threading.Thread(target=time.sleep, args=(1000,)).start()
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
            listening.accept()
            os._exit(9)
        until(lambda: in_accept(child))
        assert attempt(child) == "sent"
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == signal.SIGHUP


class _Filter(ctypes.Structure):
    """struct sock_filter."""

    _fields_ = (("code", ctypes.c_uint16), ("jt", ctypes.c_uint8), ("jf", ctypes.c_uint8), ("k", ctypes.c_uint32))


class _Program(ctypes.Structure):
    """struct sock_fprog."""

    _fields_ = (("length", ctypes.c_ushort), ("filters", ctypes.POINTER(_Filter)))


# Of linux/seccomp.h: what the calls get that are not on the list.
_ERRNO_EPERM, _KILL = 0x00050001, 0x80000000


def _allow_only_known_calls(otherwise: int) -> None:
    """As the profile of Docker does (EPERM), or a stricter one: all but the calls up to 600."""
    filters = (_Filter * 4)(
        _Filter(0x20, 0, 0, 0),  # load the number of the call
        _Filter(0x35, 0, 1, 600),  # from 600 on, -1 too:
        _Filter(0x06, 0, 0, otherwise),
        _Filter(0x06, 0, 0, 0x7FFF0000),  # allow
    )
    program = _Program(4, ctypes.cast(filters, ctypes.POINTER(_Filter)))
    assert _LIBC.prctl(38, 1, 0, 0, 0) == 0  # PR_SET_NO_NEW_PRIVS
    assert _LIBC.prctl(22, 2, ctypes.byref(program), 0, 0) == 0  # PR_SET_SECCOMP, SECCOMP_MODE_FILTER


@pytest.mark.parametrize("otherwise", [_ERRNO_EPERM, _KILL])
def test_a_worker_whose_system_calls_are_filtered_sees_no_error_and_leaves(otherwise):
    left = []
    with waiter.listen("tcp") as listening:

        def serve() -> None:
            signal.signal(signal.SIGHUP, lambda *_: left.append(1))
            _allow_only_known_calls(otherwise)
            returned = _LIBC.accept(listening.fileno(), None, None)
            os._exit(7 if returned == -1 and ctypes.get_errno() == errno.EINTR and left else 1)

        child = os.fork()
        if child == 0:
            serve()
        until(lambda: in_accept(child))
        assert attempt(child) == "sent"
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7


# What a request does while attempts fail, each with the C library itself, as Python would try again after
# EINTR: what must come of it, and the seconds that it must take at least.
_LIBC = ctypes.CDLL(None, use_errno=True)
LONG = 0.8


class _Timespec(ctypes.Structure):
    _fields_ = (("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long))


class _Sembuf(ctypes.Structure):
    _fields_ = (("number", ctypes.c_ushort), ("op", ctypes.c_short), ("flags", ctypes.c_short))


def _long() -> ctypes.Array[ctypes.c_char] | object:
    return ctypes.byref(_Timespec(0, int(LONG * 1e9)))


def _recv_with_a_time_out() -> int:
    ours, _theirs = socket.socketpair()
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, bytes(_Timespec(0, int(LONG * 1e6))))
    return _LIBC.recv(ours.fileno(), ctypes.create_string_buffer(1), 1, 0)


def _own_epoll_wait() -> int:
    ours, _theirs = socket.socketpair()
    with select.epoll() as epoll:
        epoll.register(ours, select.EPOLLIN)
        return _LIBC.epoll_wait(epoll.fileno(), ctypes.create_string_buffer(64), 1, int(LONG * 1000))


def _semtimedop() -> int:
    semaphores = _LIBC.semget(0, 1, 0o600)
    try:
        return _LIBC.semtimedop(semaphores, ctypes.byref(_Sembuf(0, -1, 0)), 1, _long())
    finally:
        _LIBC.semctl(semaphores, 0, 0)


def _sigtimedwait() -> int:
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR2})
    mask = ctypes.create_string_buffer(128)
    _LIBC.sigaddset(mask, int(signal.SIGUSR2))
    return _LIBC.sigtimedwait(mask, None, _long())


def _nanosleep() -> int:
    return _LIBC.nanosleep(_long(), None)


def _select() -> int:
    # struct timeval has microseconds.
    return _LIBC.select(0, None, None, None, ctypes.byref(_Timespec(0, int(LONG * 1e6))))


def _poll() -> int:
    return _LIBC.poll(None, 0, int(LONG * 1000))


def _write_of_much() -> int:
    """A blocking write of more than a socket takes, to one who reads now and then."""
    ours, theirs = socket.socketpair()
    reader = threading.Thread(target=_read_slowly, args=(theirs,))
    reader.start()
    length = 4 << 20
    try:
        return _LIBC.write(ours.fileno(), bytes(length), length) - length
    finally:
        ours.close()
        reader.join()


def _read_slowly(connection: socket.socket) -> None:
    while connection.recv(1 << 16):
        time.sleep(LONG / 40)


def _recv_of_all() -> int:
    ours, theirs = socket.socketpair()
    later = threading.Timer(LONG, theirs.sendall, (b"b",))
    theirs.sendall(b"a")
    later.start()
    try:
        return _LIBC.recv(ours.fileno(), ctypes.create_string_buffer(2), 2, socket.MSG_WAITALL) - 2
    finally:
        later.join()


def _waits_for_a_command() -> int:
    child = os.fork()
    if child == 0:
        os.execlp("sleep", "sleep", str(LONG))
    return 0 if _LIBC.waitpid(child, None, 0) == child else -1


def _semop() -> int:
    """Without a time-out: its own child lets it continue."""
    semaphores = _LIBC.semget(0, 1, 0o600)
    try:
        child = _forked(LONG, lambda: _LIBC.semop(semaphores, ctypes.byref(_Sembuf(0, 1, 0)), 1))
        return _LIBC.semop(semaphores, ctypes.byref(_Sembuf(0, -1, 0)), 1) or os.waitpid(child, 0)[1]
    finally:
        _LIBC.semctl(semaphores, 0, 0)


def _accept_with_a_time_out() -> int:
    with waiter.listen("tcp") as own:
        own.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, bytes(_Timespec(0, int(LONG * 1e6))))
        return _LIBC.accept(own.fileno(), None, None)


def _epoll_wait_while_commands_end() -> int:
    """By default SIGCHLD is ignored and wakes no process."""
    children = [_forked(LONG * number / 20, lambda: None) for number in range(20)]
    try:
        return _own_epoll_wait()
    finally:
        for child in children:
            os.waitpid(child, 0)


def _forked(after: float, act: Callable[[], object]) -> int:
    child = os.fork()
    if child == 0:
        time.sleep(after)
        act()
        os._exit(0)
    return child


HARMS: dict[str, tuple[Callable[[], int], int, int]] = {
    "recv with SO_RCVTIMEO": (_recv_with_a_time_out, -1, errno.EAGAIN),
    "epoll_wait": (_own_epoll_wait, 0, 0),
    "semtimedop": (_semtimedop, -1, errno.EAGAIN),
    "sigtimedwait": (_sigtimedwait, -1, errno.EAGAIN),
    "nanosleep": (_nanosleep, 0, 0),
    "select": (_select, 0, 0),
    "poll": (_poll, 0, 0),
    "waitpid": (_waits_for_a_command, 0, 0),
    "write of much": (_write_of_much, 0, 0),
    "recv of all": (_recv_of_all, 0, 0),
    "semop": (_semop, 0, 0),
    "accept with SO_RCVTIMEO": (_accept_with_a_time_out, -1, errno.EAGAIN),
}


@pytest.mark.parametrize("harm", HARMS)
def test_a_request_does_not_notice_an_attempt_whatever_call_it_waits_in(harm):
    act, expected, number = HARMS[harm]
    with waiter.listen("tcp") as listening:

        def serve() -> None:
            connection, _ = listening.accept()
            began = time.monotonic()
            ctypes.set_errno(0)
            returned = act()
            error = ctypes.get_errno() if returned == -1 else 0
            connection.sendall(json.dumps([returned, error, time.monotonic() - began]).encode())
            connection.close()
            listening.accept()

        with waiter.forked(serve) as worker, waiter.connect(listening) as client:
            until(lambda: sockets.of(worker).has_client)
            assert attempt(worker, lambda: None, LONG / 8) == "late"
            attempt(worker, lambda: None, LONG / 8)
            returned, error, seconds = json.loads(client.recv(1000))
            assert (returned, error) == (expected, number)
            assert seconds > LONG * 0.99
            client.close()
            assert attempt(worker, lambda: None) == "sent"


@pytest.mark.parametrize(
    "harm",
    [
        "recv with SO_RCVTIMEO",
        "epoll_wait",
        "semtimedop",
        "sigtimedwait",
        "write of much",
        "recv of all",
        "accept with SO_RCVTIMEO",
    ],
)
def test_a_call_that_would_restart_its_timeout_or_return_less_is_not_interrupted(harm, monkeypatch):
    act, *_ = HARMS[harm]
    real = boundary._ptrace

    def ends_where_it_interrupts(request: int, *args: int) -> None:
        if request == boundary._INTERRUPT:
            os._exit(1)
        real(request, *args)

    with waiter.listen("tcp") as listening:

        def serve() -> None:
            connection, _ = listening.accept()
            act()
            connection.close()
            listening.accept()

        with waiter.forked(serve) as worker, waiter.connect(listening):
            until(lambda: sockets.of(worker).has_client)
            monkeypatch.setattr(boundary, "_ptrace", ends_where_it_interrupts)
            assert attempt(worker, lambda: None, LONG / 4) == "late"


def _requests_that(act: Callable[[], object]) -> None:
    """Serve one request that does this, once an attempt is being made; it is answered, and then comes the boundary."""
    with waiter.listen("tcp") as listening:

        def serve() -> None:
            connection, _ = listening.accept()
            connection.recv(1)
            act()
            connection.sendall(b"ok")
            connection.close()
            listening.accept()

        with waiter.forked(serve) as worker, waiter.connect(listening) as client:
            until(lambda: sockets.of(worker).has_client)
            ask = threading.Timer(BRIEF, client.sendall, (b"x",))
            ask.start()

            def send() -> None:
                if not select.select([client], [], [], 0)[0]:
                    os._exit(1)  # in the middle of the request

            assert attempt(worker, send) == "sent"
            assert client.recv(2) == b"ok"


def test_a_request_that_runs_commands_is_answered():
    def act() -> None:
        for _ in range(5):
            assert subprocess.run(["true"], check=False).returncode == 0
            assert os.waitstatus_to_exitcode(os.system("exit 3")) == 3

    _requests_that(act)


def test_commands_that_end_do_not_wake_a_request_that_waits_for_another_event():
    def act() -> None:
        assert _epoll_wait_while_commands_end() == 0

    _requests_that(act)


def test_a_request_that_calls_accept_as_for_ftp_data_is_answered():
    def act() -> None:
        with waiter.listen("tcp") as data:
            child = _forked(BRIEF, lambda: waiter.connect(data).close())
            connection, _ = data.accept()
            connection.close()
            os.waitpid(child, 0)

    _requests_that(act)


def test_a_request_that_signals_itself_receives_every_signal():
    def act() -> None:
        got: list[int] = []
        signal.signal(signal.SIGUSR1, lambda *_: got.append(1))
        for _ in range(20):
            os.kill(os.getpid(), signal.SIGUSR1)
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        signal.signal(signal.SIGALRM, lambda *_: got.append(1))
        time.sleep(0.2)
        assert len(got) == 21

    _requests_that(act)


def test_a_request_that_exceeds_the_number_of_stops_is_released_and_answered():
    with waiter.listen("tcp") as listening:

        def serve() -> None:
            connection, _ = listening.accept()
            connection.recv(1)
            for _ in range(100_000):
                os.getppid()
            connection.sendall(b"ok")
            connection.close()

        with waiter.forked(serve) as worker, waiter.connect(listening) as client:
            until(lambda: sockets.of(worker).has_client)
            threading.Timer(BRIEF, client.sendall, (b"x",)).start()
            assert attempt(worker, lambda: None, stops=2000) == "late"
            assert client.recv(2) == b"ok"


def test_a_worker_that_execs_during_an_attempt_keeps_running():
    with waiter.listen("tcp") as listening:

        def serve() -> None:
            connection, _ = listening.accept()
            connection.recv(1)
            os.set_inheritable(connection.fileno(), True)
            code = "import os, sys; os.write(int(sys.argv[1]), b'ok')"
            os.execl(sys.executable, sys.executable, "-c", code, str(connection.fileno()))

        with waiter.forked(serve) as worker, waiter.connect(listening) as client:
            until(lambda: sockets.of(worker).has_client)
            threading.Timer(BRIEF, client.sendall, (b"x",)).start()
            assert attempt(worker, lambda: None, stops=100_000) == "gone"
            assert client.recv(2) == b"ok"


def test_aarch64_registers_make_the_call_return_eintr(monkeypatch):
    """From the kernel's source; the registers are set by hand."""
    written: list[tuple[int, list[int]]] = []
    monkeypatch.setattr(boundary, "_MACHINE", "aarch64")
    monkeypatch.setattr(boundary, "_registers", lambda _pid, _kind, count: (ctypes.c_int64 * count)(*range(count)))
    monkeypatch.setattr(boundary, "_regset", lambda _request, _pid, kind, values: written.append((kind, list(values))))
    boundary._return_eintr(1, is_filtered=False)
    assert written == [(1, [-errno.EINTR, *range(1, 34)]), (0x404, [-1])]
    written.clear()
    boundary._return_eintr(1, is_filtered=True)
    assert written == [(1, [0, 0, 0, 0, 0, *range(5, 34)]), (0x404, [73])]
