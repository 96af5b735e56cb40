"""What the sockets of a real process say of it: a child of this one, which listens."""

from __future__ import annotations

import os
import select
import signal
import socket
import threading
import time

import pytest
from support.driver import eventually
from support.waiter import WAYS, connect, forked, listen

from supervisor_memreap.core.model import Fact, Pool, ProcessId, Worker
from supervisor_memreap.host import procfs, reader, seen, sockets, waiting
from supervisor_memreap.host.serving import Serving


@pytest.fixture(params=["tcp", "tcp6", "unix", "abstract"])
def listening(request, tmp_path):
    with listen(request.param, str(tmp_path / "s")) as own:
        yield own


@pytest.fixture
def own():
    with listen("tcp") as own:
        yield own


def says(pid: int) -> Fact:
    return reader.fact(pid, os.getpid())


def assert_says(pid: int, fact: Fact) -> None:
    assert says(pid) is fact


def in_its_own(way):
    """Waits so for a connection on a socket of its own."""

    def waits() -> None:
        with listen("tcp") as other:
            WAYS[way](other)

    return waits


@pytest.mark.parametrize("way", WAYS)
def test_one_that_waits_at_the_shared_socket_serves(listening, way):
    with forked(lambda: WAYS[way](listening)) as pid:
        eventually(lambda: assert_says(pid, Fact.SERVES))


def test_so_does_one_with_a_client_whatever_it_does(listening):
    def serves() -> None:
        connection, _ = listening.accept()
        signal.pause()
        connection.close()

    with forked(serves) as pid, connect(listening):
        eventually(lambda: assert_in_call(pid, signal.pause))
        assert says(pid) is Fact.SERVES


def assert_in_call(pid: int, _call) -> None:
    with open(f"/proc/{pid}/wchan") as place:
        assert "pause" in place.read()


def test_so_does_one_of_which_another_thread_waits(listening):
    def serves() -> None:
        threading.Thread(target=listening.accept, daemon=True).start()
        threading.Event().wait()

    with forked(serves) as pid:
        eventually(lambda: assert_says(pid, Fact.SERVES))


@pytest.mark.parametrize("way", WAYS)
def test_one_that_imports_only_has_it(listening, way):
    with forked(lambda: time.sleep(60)) as pid:
        assert says(pid) is Fact.HOLDS
    with listen("tcp"), forked(lambda: select.select([], [], [], 60)) as pid:
        assert says(pid) is Fact.HOLDS


@pytest.mark.parametrize("way", WAYS)
def test_one_that_has_the_shared_socket_and_waits_at_one_of_its_own_is_elsewhere(own, way):
    with forked(in_its_own(way)) as pid:
        eventually(lambda: assert_says(pid, Fact.ELSEWHERE))


def test_one_whose_second_thread_waits_at_a_socket_of_its_own_serves_while_it_has_a_client(listening):
    """As where a thread shows metrics."""

    def serves() -> None:
        connection, _ = listening.accept()
        with socket.create_server(("127.0.0.1", 0)) as own:
            threading.Thread(target=own.accept, daemon=True).start()
            connection.recv(1)

    with forked(serves) as pid, connect(listening):
        eventually(lambda: assert_threads(pid, 2))
        eventually(lambda: assert_says(pid, Fact.SERVES))


def assert_threads(pid: int, number: int) -> None:
    assert len(os.listdir(f"/proc/{pid}/task")) == number


def test_one_that_has_closed_the_shared_socket_and_listens_elsewhere_is_apart(own):
    def elsewhere() -> None:
        own.close()
        with listen("tcp") as other:
            other.accept()

    with forked(elsewhere) as pid:
        eventually(lambda: assert_says(pid, Fact.APART))


def test_one_that_listens_on_nothing_says_so(own):
    def logs() -> None:
        own.close()
        signal.pause()

    with forked(logs) as pid:
        eventually(lambda: assert_says(pid, Fact.NONE))


def test_a_connection_to_elsewhere_is_no_client(own, tmp_path):
    with listen("unix", str(tmp_path / "other")) as other:

        def asks() -> None:
            other.close()
            with connect(own):
                signal.pause()

        with forked(asks) as pid:
            eventually(lambda: assert_in_call(pid, signal.pause))
            assert says(pid) is Fact.HOLDS


@pytest.mark.parametrize(
    ("way", "expected"),
    [("accept", Fact.SERVES), ("epoll", Fact.SERVES), ("select", Fact.HIDDEN), ("poll", Fact.HIDDEN)],
)
def test_without_the_right_to_attach_the_place_where_it_waits_shows_it(own, way, expected, monkeypatch):
    """In select and poll it does not show for what it waits: then its age counts, as where nothing may be read."""

    def refused(_task: str):
        raise PermissionError

    def refuse_copies(_pid: int, _descriptors) -> None:
        raise PermissionError

    monkeypatch.setattr(waiting, "_system_call", refused)
    monkeypatch.setattr(sockets, "_by_copies", refuse_copies)
    reader.end()  # its child is to be forked from this process
    try:
        with forked(lambda: WAYS[way](own)) as pid:
            eventually(lambda: assert_says(pid, expected))
        with forked(lambda: time.sleep(60)) as pid:
            eventually(lambda: assert_says(pid, Fact.HOLDS))
    finally:
        reader.end()


def pool_of(*pids: int) -> Pool:
    view = procfs.source()
    workers = tuple(Worker(view.process(pid).id, view.process(pid).age, 0) for pid in pids)
    return Pool("myapp", "RUNNING", manager=view.process(os.getpid()).id, workers=workers)


class Asked:
    """Counts what is asked, and answers so."""

    def __init__(self, monkeypatch, *answers):
        self.answers = list(answers)
        self.asked: list[int] = []
        monkeypatch.setattr(reader, "fact", self)

    def __call__(self, pid: int, _manager: int) -> Fact:
        self.asked.append(pid)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer


WORKER = ProcessId(11, 1.0)
POOL = Pool("myapp", "RUNNING", manager=ProcessId(1, 0.5), workers=(Worker(WORKER, 60.0, 0),))


def looked(serving: Serving, now: float, known=()) -> Pool:
    serving.begin()
    pool = serving.look(POOL, known, now)
    serving.end()
    return pool


def test_of_a_worker_that_is_known_to_serve_nothing_is_read(monkeypatch):
    asked = Asked(monkeypatch, Fact.SERVES)
    serving = Serving()
    assert looked(serving, 100.0, {WORKER}) is POOL
    assert asked.asked == []


def test_one_that_does_not_serve_is_asked_less_and_less_often(monkeypatch):
    asked = Asked(monkeypatch, Fact.HOLDS)
    serving = Serving()
    for second in range(3600):
        looked(serving, float(second))
    assert 50 < len(asked.asked) < 120


@pytest.mark.parametrize("error", [reader.Blocked(13, "locked"), reader.NoReader(13, "no process left")])
def test_one_that_could_not_be_read_is_not_taken_to_serve(monkeypatch, error):
    Asked(monkeypatch, error)
    pool = looked(Serving(), 100.0)
    assert ([worker.serving for worker in pool.workers], pool.unread) == ([False], {WORKER})


def test_one_that_may_not_be_read_is_unknown(monkeypatch):
    Asked(monkeypatch, PermissionError())
    (worker,) = looked(Serving(), 100.0).workers
    assert worker.serving is None


def test_a_tick_asks_for_no_longer_than_its_patience(monkeypatch):
    asked = []
    monkeypatch.setattr(reader, "fact", lambda pid, _manager: asked.append(pid) or time.sleep(0.1) or Fact.HOLDS)
    workers = tuple(Worker(ProcessId(pid, 1.0), 60.0, 0) for pid in range(11, 41))
    serving = Serving()
    serving.begin()
    pool = serving.look(Pool("myapp", "RUNNING", manager=ProcessId(1, 0.5), workers=workers), (), 100.0)
    assert len(asked) <= 3
    assert (len(pool.unread), {worker.serving for worker in pool.workers}) == (30 - len(asked), {False})


def test_a_reading_that_hangs_ends_with_its_child(monkeypatch):
    """As a close with SO_LINGER would, where the copy of a worker's socket is the last one."""
    reader.end()  # its child is to be forked from this process
    monkeypatch.setattr(seen, "fact", lambda _pid, _manager, _reads: time.sleep(60))
    try:
        with forked(lambda: time.sleep(60)) as pid:
            serving = Serving()
            serving.begin()
            began = time.monotonic()
            pool = serving.look(pool_of(pid), (), began)
            assert time.monotonic() - began < 30  # of the 60 s for which it hangs
            assert ([worker.serving for worker in pool.workers], len(pool.unread)) == ([False], 1)
    finally:
        reader.end()
