"""What the sockets of a real process show: a child of this one, which listens."""

from __future__ import annotations

import asyncio
import ctypes
import os
import select
import shutil
import signal
import socket
import threading
import time
from dataclasses import replace

import psutil
import pytest
from support.driver import eventually, until
from support.looking import not_permitted
from support.waiter import WAYS, connect, forked, listen

from supervisor_memreap.core.model import Fact, Pool, ProcessId, Sharing, Worker
from supervisor_memreap.core.servers import Loop
from supervisor_memreap.host import forked as forked_children
from supervisor_memreap.host import procfs, reader, seen, sockets, waiting
from supervisor_memreap.host import whoserves as host_serving
from supervisor_memreap.host.whoserves import Serving


@pytest.fixture(autouse=True)
def patient(monkeypatch):
    """A busy machine takes more than half a second to begin a child."""
    monkeypatch.setattr(reader, "PATIENCE", 60.0)


@pytest.fixture(params=["tcp", "tcp6", "unix", "abstract"])
def listening(request, tmp_path):
    with listen(request.param, str(tmp_path / "s")) as own:
        yield own


@pytest.fixture
def own():
    with listen("tcp") as own:
        yield own


def fact_of(pid: int) -> Fact:
    facts = reader.Facts()
    try:
        facts.ask(pid, os.getpid())
        answer = facts.answer(60.0)
    finally:
        facts.end()
    assert answer
    return answer


def in_its_own(way):
    """Waits this way for a connection on its own socket."""

    def waits() -> None:
        with listen("tcp") as other:
            WAYS[way](other)

    return waits


@pytest.mark.parametrize("way", WAYS)
def test_a_worker_that_waits_at_the_shared_socket_serves(listening, way):
    with forked(lambda: WAYS[way](listening)) as pid:
        until(lambda: fact_of(pid), Fact.SERVES)


def test_a_worker_with_a_client_serves_whatever_it_does(listening):
    def serves() -> None:
        connection, _ = listening.accept()
        signal.pause()
        connection.close()

    with forked(serves) as pid, connect(listening):
        eventually(lambda: assert_in_call(pid, signal.pause))
        assert fact_of(pid) is Fact.SERVES


def assert_in_call(pid: int, _call) -> None:
    with open(f"/proc/{pid}/wchan") as place:
        assert "pause" in place.read()


def test_a_worker_serves_if_another_of_its_threads_waits(listening):
    def serves() -> None:
        threading.Thread(target=listening.accept, daemon=True).start()
        threading.Event().wait()

    with forked(serves) as pid:
        until(lambda: fact_of(pid), Fact.SERVES)


@pytest.mark.parametrize("way", WAYS)
def test_a_worker_that_waits_elsewhere_only_holds_the_socket(listening, way):
    with forked(lambda: time.sleep(60)) as pid:
        assert fact_of(pid) is Fact.HOLDS
    with listen("tcp"), forked(lambda: select.select([], [], [], 60)) as pid:
        assert fact_of(pid) is Fact.HOLDS


@pytest.mark.parametrize("way", WAYS)
def test_a_worker_with_the_shared_socket_that_waits_at_its_own_is_elsewhere(own, way):
    with forked(in_its_own(way)) as pid:
        until(lambda: fact_of(pid), Fact.ELSEWHERE)


def test_a_worker_whose_second_thread_waits_at_its_own_socket_serves_while_it_has_a_client(listening):
    """As where a thread shows metrics."""

    def serves() -> None:
        connection, _ = listening.accept()
        with socket.create_server(("127.0.0.1", 0)) as own:
            threading.Thread(target=own.accept, daemon=True).start()
            connection.recv(1)

    with forked(serves) as pid, connect(listening):
        until(lambda: len(os.listdir(f"/proc/{pid}/task")), 2)
        until(lambda: fact_of(pid), Fact.SERVES)


def test_a_worker_that_closed_the_shared_socket_and_listens_elsewhere_is_apart(own):
    def elsewhere() -> None:
        own.close()
        with listen("tcp") as other:
            other.accept()

    with forked(elsewhere) as pid:
        until(lambda: fact_of(pid), Fact.APART)


def test_a_worker_that_listens_on_no_socket_is_recognised(own):
    def logs() -> None:
        own.close()
        signal.pause()

    with forked(logs) as pid:
        until(lambda: fact_of(pid), Fact.NONE)


def test_an_outgoing_connection_is_not_a_client(own, tmp_path):
    with listen("unix", str(tmp_path / "other")) as other:

        def asks() -> None:
            other.close()
            with connect(own):
                signal.pause()

        with forked(asks) as pid:
            eventually(lambda: assert_in_call(pid, signal.pause))
            assert fact_of(pid) is Fact.HOLDS


@pytest.mark.parametrize(
    ("way", "expected"),
    [("accept", Fact.SERVES), ("epoll", Fact.SERVES), ("select", Fact.HIDDEN), ("poll", Fact.HIDDEN)],
)
def test_without_ptrace_the_call_in_which_it_waits_shows_it(own, way, expected, monkeypatch):
    """In select and poll it does not show for what it waits: then its age counts, as where nothing may be read."""

    def refused(_task: str):
        raise PermissionError

    def refuse_copies(_pid: int, _descriptors) -> None:
        raise PermissionError

    monkeypatch.setattr(waiting, "_system_call", refused)
    monkeypatch.setattr(sockets, "_by_copies", refuse_copies)
    with forked(lambda: WAYS[way](own)) as pid:
        until(lambda: fact_of(pid), expected)
    with forked(lambda: time.sleep(60)) as pid:
        until(lambda: fact_of(pid), Fact.HOLDS)


def pool_of(*pids: int) -> Pool:
    view = procfs.source()
    workers = tuple(Worker(view.process(pid).id, view.process(pid).age, 0) for pid in pids)
    return Pool("myapp", "RUNNING", manager=view.process(os.getpid()).id, workers=workers)


class Asked:
    """Counts what is asked, and answers so; None: not in time."""

    def __init__(self, monkeypatch, *answers):
        self.answers = list(answers)
        self.asked: list[int] = []
        monkeypatch.setattr(reader.Facts, "ask", lambda _facts, pid, _manager: self.asked.append(pid))
        monkeypatch.setattr(reader.Facts, "answer", lambda _facts, _patience: self.answer())

    def answer(self) -> Fact | None:
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer


WORKER = ProcessId(11, 1.0)
POOL = Pool("myapp", "RUNNING", manager=ProcessId(1, 0.5), workers=(Worker(WORKER, 60.0, 0),))


def looked(serving: Serving, now: float, known=()) -> Pool:
    serving.begin(now)
    pool = serving.look(POOL, known, procfs.source(), now)
    serving.end()
    return pool


def test_a_worker_known_to_serve_is_not_read_again(monkeypatch):
    asked = Asked(monkeypatch, Fact.SERVES)
    serving = Serving()
    assert looked(serving, 100.0, {WORKER}) is POOL
    assert asked.asked == []


def test_a_worker_that_does_not_serve_is_read_less_and_less_often(monkeypatch):
    asked = Asked(monkeypatch, Fact.HOLDS)
    serving = Serving()
    for second in range(3600):
        looked(serving, float(second))
    assert 50 < len(asked.asked) < 120


@pytest.mark.parametrize("answer", [None, reader.NoReader(13, "no process left")])
def test_a_worker_not_read_in_time_does_not_count_as_serving(monkeypatch, answer):
    Asked(monkeypatch, answer)
    pool = looked(Serving(), 100.0)
    assert ([worker.serving for worker in pool.workers], pool.unread) == ([False], {WORKER})


def test_an_unreadable_worker_is_unknown(monkeypatch):
    Asked(monkeypatch, PermissionError())
    (worker,) = looked(Serving(), 100.0).workers
    assert worker.serving is None


def test_a_late_answer_is_used_at_a_later_look_and_no_other_is_requested_until_then(monkeypatch):
    asked = Asked(monkeypatch, None, None, Fact.SERVES)
    serving = Serving()
    assert [looked(serving, now).unread for now in (100.0, 101.0)] == [{WORKER}, {WORKER}]
    pool = looked(serving, 102.0)
    assert ([worker.serving for worker in pool.workers], pool.unread) == ([True], set())
    assert asked.asked == [WORKER.pid]


@pytest.mark.parametrize(("server", "serving"), [("uWSGI", None), ("Apache", None), ("gunicorn", False), ("", None)])
def test_a_worker_waiting_for_a_lock_may_serve_only_if_its_server_takes_turns(server, serving, monkeypatch):
    """A helper of gunicorn's that waits in a lock of multiprocessing has the pool's socket too."""
    Asked(monkeypatch, Fact.TURN)
    monkeypatch.setattr(host_serving, "server_of", lambda _pool, _view: server)
    pool = looked(Serving(), 100.0)
    assert ([worker.serving for worker in pool.workers], pool.sharing) == ([serving], Sharing.SHARED)


def test_a_pool_with_hanging_children_does_not_block_the_turn_of_others(monkeypatch):
    hung = [ProcessId(pid, 1.0) for pid in range(11, 21)]
    asked: list[int] = []
    waited: set[int] = set()

    def answer(_facts: object, _patience: float) -> Fact | None:
        if asked[-1] == 99:
            return Fact.HOLDS
        waited.symmetric_difference_update(asked[-1:])
        if asked[-1] in waited:
            return None  # not in this look
        raise reader.NoReader

    monkeypatch.setattr(reader.Facts, "ask", lambda _facts, pid, _manager: asked.append(pid))
    monkeypatch.setattr(reader.Facts, "answer", answer)
    serving = Serving()
    first = replace(POOL, workers=tuple(Worker(id, 60.0, 0) for id in hung))
    second = Pool("other", "RUNNING", manager=ProcessId(2, 0.5), workers=(Worker(ProcessId(99, 1.0), 60.0, 0),))

    def look(now: float) -> bool:
        serving.begin(now)
        serving.look(first, (), procfs.source(), now)
        unread = serving.look(second, (), procfs.source(), now).unread
        serving.end()
        return not unread

    assert any(look(100.0 + 5 * number) for number in range(len(hung) + 2))


def test_a_look_reads_no_longer_than_its_timeout(monkeypatch):
    asked = []
    monkeypatch.setattr(reader.Facts, "ask", lambda _facts, pid, _manager: asked.append(pid))
    monkeypatch.setattr(reader.Facts, "answer", lambda _facts, _patience: time.sleep(0.05) or Fact.HOLDS)
    workers = tuple(Worker(ProcessId(pid, 1.0), 60.0, 0) for pid in range(11, 41))
    serving = Serving()
    serving.begin(100.0)
    pool = serving.look(replace(POOL, workers=workers), (), procfs.source(), 100.0)
    assert len(asked) <= 2
    assert (len(pool.unread), {worker.serving for worker in pool.workers}) == (30 - len(asked), {False})


def test_nothing_is_asked_too_late_to_be_answered_in_the_look_and_the_reading_child_ends_then(monkeypatch):
    happened: list[object] = []
    monkeypatch.setattr(reader.Facts, "ask", lambda _facts, pid, _manager: happened.append(pid))
    monkeypatch.setattr(reader.Facts, "answer", lambda _facts, _patience: time.sleep(0.085) or Fact.HOLDS)
    monkeypatch.setattr(reader.Facts, "end", lambda _facts: happened.append("end"))
    serving = Serving(0.1)
    serving.begin(100.0)
    workers = tuple(Worker(ProcessId(pid, 1.0), 60.0, 0) for pid in (11, 12))
    serving.look(replace(POOL, workers=workers), (), procfs.source(), 100.0)
    assert happened == [11, "end"]


def test_a_hanging_read_delays_no_look_and_the_others_are_read_by_the_next_child(monkeypatch):
    """As a close with SO_LINGER would, where the copy of a worker's socket is the last one."""
    real = seen.fact

    def fact(pid: int, *how) -> Fact:
        if pid == hangs:
            time.sleep(600)
        return real(pid, *how)

    monkeypatch.setattr(seen, "fact", fact)  # the child is forked from this process
    monkeypatch.setattr(reader, "PATIENCE", 1.0)
    serving = Serving()
    with forked(lambda: time.sleep(600)) as hangs, forked(lambda: time.sleep(600)) as other:

        def look() -> dict[int, Pool]:
            now, view = time.monotonic(), procfs.source()
            serving.begin(now)
            pools = {pid: serving.look(pool_of(pid), (), view, now) for pid in (hangs, other)}
            serving.end()
            return pools

        try:
            assert [len(pool.unread) for pool in look().values()] == [1, 1]  # the other one has to wait
            until(lambda: not look()[other].unread)
            assert len(look()[hangs].unread) == 1
        finally:
            serving.close()


def test_the_reading_child_ends_with_the_look_unless_it_owes_an_answer(monkeypatch):
    before = set(psutil.Process().children())
    serving = Serving()
    with listen("tcp") as own, forked(lambda: own.accept()) as pid:

        def look() -> Pool:
            serving.begin(time.monotonic())
            pool = serving.look(pool_of(pid), (), procfs.source(), time.monotonic())
            serving.end()
            return pool

        with monkeypatch.context() as patch:
            patch.setattr(reader.Facts, "answer", lambda _facts, _patience: None)
            look()
            assert_children(2, before)
        until(lambda: [worker.serving for worker in look().workers], [True])
        eventually(lambda: assert_children(1, before))


def assert_children(number: int, before: set[psutil.Process]) -> None:
    forked_children.uncollected()  # on a busy machine it may take a moment to end
    assert len(set(psutil.Process().children()) - before) == number


def in_asyncio(listening: socket.socket) -> None:
    kept = []  # a writer that nothing refers to closes its connection

    async def serve() -> None:
        await asyncio.start_server(lambda *streams: kept.append(streams), sock=listening)
        await asyncio.Event().wait()

    asyncio.run(serve())


def in_epoll_with(make, events: int = select.EPOLLIN):
    """Waits for connections and keeps them, and for what this makes."""

    def serve(listening: socket.socket) -> None:
        with select.epoll() as epoll:
            epoll.register(listening, events)
            other = make()
            if other is not None:
                epoll.register(other, select.EPOLLIN)
            while epoll.poll():
                connection, _ = listening.accept()
                epoll.register(connection.detach(), select.EPOLLIN | select.EPOLLET)

    return serve


# As gunicorn's worker classes do: asgi, gevent, gthread since version 24 and before, and eventlet.
LOOPS = {
    Loop.PAIR: in_asyncio,
    Loop.EVENTFD: in_epoll_with(lambda: ctypes.CDLL(None).eventfd(0, 0)),
    Loop.PIPE: in_epoll_with(lambda: os.pipe()[0]),
    Loop.BARE: in_epoll_with(lambda: None),
    Loop.URGENT: in_epoll_with(lambda: None, select.EPOLLIN | select.EPOLLPRI),
    Loop.NONE: WAYS["select"],
}


def beside_asyncio(way):
    """Waits this way while another thread serves by asyncio at a socket of its own, as an application may do."""

    def waits(listening: socket.socket) -> None:
        threading.Thread(target=in_asyncio, args=(listen("tcp"),), daemon=True).start()
        way(listening)

    return waits


def loop_of(pid: int) -> Loop:
    return reader.loop(pid, os.getpid())


@pytest.fixture(params=["by copies", "by tables"])
def _sockets_read(request, monkeypatch):
    if request.param == "by tables":
        monkeypatch.setattr(sockets, "_by_copies", not_permitted)
    reader.end()  # it began before
    yield
    reader.end()


@pytest.mark.usefixtures("_sockets_read")
@pytest.mark.parametrize("loop", LOOPS)
def test_the_loop_of_a_worker_is_recognised_with_and_without_clients(listening, loop):
    with forked(lambda: LOOPS[loop](listening)) as pid:
        until(lambda: loop_of(pid), loop)
        if loop is not Loop.NONE:
            with connect(listening):
                until(lambda: sockets.of(pid).has_client)
                assert loop_of(pid) is loop


@pytest.mark.parametrize("loop", [Loop.EVENTFD, Loop.PIPE, Loop.BARE, Loop.NONE])
def test_a_loop_that_an_application_has_beside_that_of_its_worker_makes_no_difference(own, loop):
    with forked(lambda: beside_asyncio(LOOPS[loop])(own)) as pid:
        until(lambda: len(os.listdir(f"/proc/{pid}/task")), 2)
        until(lambda: loop_of(pid), loop)


def test_a_connection_to_another_server_by_its_path_is_not_an_end_of_a_pair(own, tmp_path):
    """As gevent's loop has one to a database."""
    with listen("unix", str(tmp_path / "database")) as database:

        def serve() -> None:
            in_epoll_with(lambda: connect(database).detach())(own)

        with forked(serve) as pid:
            until(lambda: sum(map(len, waiting.epolls(pid).values())), 2)
            assert loop_of(pid) is Loop.BARE


def test_a_worker_with_a_loop_is_unknown_until_it_is_seen_in_what_it_waits(own):
    """It may be a loop that just takes no connections, as that of asyncio does where descriptors are exhausted."""
    with forked(lambda: beside_asyncio(lambda _: time.sleep(60))(own)) as pid:
        until(lambda: loop_of(pid), Loop.HIDDEN)


def test_a_loop_that_a_worker_has_of_its_manager_since_its_fork_is_not_its_own(own):
    """As in gunicorn 25.1, of the thread that serves its control socket."""
    with listen("tcp") as control, select.epoll() as epoll:
        pair = socket.socketpair()
        for each in (control, pair[0]):
            epoll.register(each, select.EPOLLIN)
        with forked(lambda: time.sleep(60)) as pid:
            assert len(waiting.epolls(pid)) == 1
            assert loop_of(pid) is Loop.NONE
        for each in pair:
            each.close()


def test_a_manager_that_waits_for_clients_itself_is_recognised_by_its_epoll(own):
    with forked(lambda: WAYS["epoll"](own)) as pid:
        until(lambda: reader.watches_own(pid), True)
    with forked(lambda: WAYS["select"](own)) as pid:
        assert not reader.watches_own(pid)


def test_a_file_whose_path_is_too_long_to_be_read_hides_nothing_else(own, tmp_path):
    """As any user may have one open."""

    def serve() -> None:
        for _ in range(20):
            os.mkdir("d" * 250)
            os.chdir("d" * 250)
        with open("file", "w"):
            in_epoll_with(lambda: os.pipe()[0])(own)

    top = tmp_path / "top"
    top.mkdir()
    with forked(lambda: (os.chdir(top), serve())) as pid:
        until(lambda: loop_of(pid), Loop.PIPE)
        assert fact_of(pid) is Fact.SERVES
        with pytest.raises(OSError, match="too long"):
            [os.readlink(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd")]
    shutil.rmtree(top)


def test_a_loop_with_more_than_is_read_of_it_is_unknown(own, monkeypatch):
    """What is missing might have shown that it is another one."""
    monkeypatch.setattr(waiting, "_MAX_FDINFO", 150)  # of two lines
    reader.end()  # it began before
    with forked(lambda: LOOPS[Loop.EVENTFD](own)) as pid:
        until(lambda: len(os.listdir(f"/proc/{pid}/fd")) > 3 and loop_of(pid), Loop.HIDDEN)
    reader.end()


def test_the_loop_of_a_worker_whose_descriptors_are_hidden_is_unknown(own, monkeypatch):
    monkeypatch.setattr(sockets, "inodes", not_permitted)
    reader.end()  # it began before
    with forked(lambda: WAYS["select"](own)) as pid:
        assert loop_of(pid) is Loop.HIDDEN
    reader.end()
