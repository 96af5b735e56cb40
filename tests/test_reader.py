"""Reading files of /proc in a child, so that no process can stop a tick by holding its own lock."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import sys
import time

import psutil
import pytest
from support.driver import eventually, pool, until, workers_below

from supervisor_memreap.core import following, policy, selection
from supervisor_memreap.core.events import Unreadable
from supervisor_memreap.core.model import Pool, ProcessId, Program, Worker, WorkerDetail
from supervisor_memreap.core.servers import Loop
from supervisor_memreap.core.settings import PoolSettings, Watch
from supervisor_memreap.core.state import PoolState
from supervisor_memreap.host import forked, look, procfile, reader
from supervisor_memreap.host.procfs import Procfs
from supervisor_memreap.host.reader import Blocked

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


@pytest.fixture
def endless(tmp_path, monkeypatch):
    """A file that takes forever to open, as smaps_rollup does while its process holds the mmap lock."""
    reader._avoided.clear()
    path = tmp_path / "fifo"
    os.mkfifo(path)
    return str(path)


def test_the_answer_is_the_content_of_the_file():
    path = f"/proc/{os.getpid()}/cmdline"
    assert reader.read(path) == procfile.read(path)


def test_a_process_that_is_gone_is_distinguished_from_an_unreadable_file():
    with pool(1, 1) as pid:
        (worker,) = workers_below(pid)
        assert b"Pss:" in reader.read(f"/proc/{worker}/smaps_rollup")
    until(lambda: not psutil.pid_exists(worker))
    with pytest.raises(ProcessLookupError):
        reader.read(f"/proc/{worker}/smaps_rollup")
    with pytest.raises(PermissionError):
        reader.read(f"/proc/{os.getpid()}/no_such_file")


def test_a_file_that_never_opens_is_given_up_and_the_others_are_read(endless, monkeypatch):
    monkeypatch.setattr(reader, "IMPATIENCE", 60.0)  # a busy machine needs more to begin the next child
    with pytest.raises(Blocked):
        reader.read(endless)
    assert reader.read(f"/proc/{os.getpid()}/cmdline")


def test_afterwards_the_same_process_is_not_read_for_a_while(endless, monkeypatch):
    with pytest.raises(Blocked):
        reader.read(endless)
    monkeypatch.setattr(reader, "_child", None)
    monkeypatch.setattr(reader, "_Child", lambda: pytest.fail("it was asked about"))
    with pytest.raises(Blocked):
        reader.read(endless)


def test_the_pause_grows_with_each_failure_and_an_answer_ends_it(monkeypatch):
    """A busy machine may be late once; a lock may be held forever."""

    def no_answer(*_question: object) -> bytes:
        raise TimeoutError

    reader._avoided.clear()
    path = f"/proc/{os.getpid()}/cmdline"
    now, pauses = time.monotonic(), []
    monkeypatch.setattr(reader._Child, "ask", no_answer)
    monkeypatch.setattr(reader.time, "monotonic", lambda: now)
    for _ in range(6):
        with pytest.raises(Blocked):
            reader.read(path)
        until, _ = reader._avoided[f"/proc/{os.getpid()}"]
        pauses.append(until - now)
        now = until
    assert pauses == pytest.approx([4, 8, 16, 32, 60, 60])
    monkeypatch.undo()
    reader._avoided[f"/proc/{os.getpid()}"] = time.monotonic(), 60.0
    assert reader.read(path)
    assert not reader._avoided


def test_an_epoll_that_is_not_read_in_time_hides_the_loop_but_not_the_memory(monkeypatch, nothing_avoided):
    ask = reader._Child.ask

    def no_answer(self, question, patience):
        if question.startswith("/"):
            return ask(self, question, 60.0)
        raise TimeoutError

    monkeypatch.setattr(reader._Child, "ask", no_answer)
    for _ in range(2):
        assert reader.loop(os.getpid(), os.getppid()) is Loop.HIDDEN
        assert reader.read(f"/proc/{os.getpid()}/smaps_rollup")


def test_the_sizes_of_many_processes_are_those_of_each():
    with pool(3, 5) as manager:
        workers = sorted(workers_below(manager))
        gone = 2**22 + 1
        found = reader.memories([*workers, gone], time.monotonic() + 10.0)
        assert sorted(found) == workers
        for worker in workers:
            assert found[worker].private == pytest.approx(reader.memory(worker).private, abs=2**20)
        assert reader.memories(workers, time.monotonic()) == {}


def test_one_that_keeps_its_memory_map_locked_keeps_no_other_one_from_being_measured(monkeypatch):
    monkeypatch.setattr(reader, "IMPATIENCE", 1.0)
    real = reader.read_part
    with pool(3, 1) as manager:
        locked, *others = sorted(workers_below(manager))

        def read_part(path: str, offset: int, length: int) -> bytes:
            if f"/{locked}/" in path:
                signal.pause()
            return real(path, offset, length)

        monkeypatch.setattr(reader, "read_part", read_part)
        reader.end()
        reader._avoided.clear()
        found = {}

        def assert_measured() -> None:
            unknown = [worker for worker in (locked, *others) if worker not in found]
            found.update(reader.memories(unknown, time.monotonic() + 0.1))
            assert sorted(found) == others

        eventually(assert_measured)
        reader.end()


def test_a_worker_whose_lock_is_held_counts_as_unreadable(monkeypatch):
    def blocked(path: str) -> bytes:
        raise Blocked(errno.EACCES, "its memory map is locked", path)

    monkeypatch.setattr(reader, "read", blocked)
    with pytest.raises(PermissionError):
        Procfs().memory(os.getpid())


def test_the_line_about_such_a_worker_gives_the_cause():
    reader._avoided[f"/proc/{os.getpid()}"] = float("inf"), reader.AVOIDED
    try:
        with pytest.raises(Blocked):
            Procfs().memory(os.getpid())
    finally:
        reader._avoided.clear()
    worker = Worker(ProcessId(11, 1.0), 60.0, 200 << 20, WorkerDetail(None, True, is_late=True))
    settings = PoolSettings(limit=150 << 20, min_age=1.0)
    pool_ = Pool("myapp", "RUNNING", "", ProcessId(1, 0.5), 60.0, (worker,))
    state, _ = following.follow(pool_, settings, PoolState(), 100.0)
    ((choice,), *_) = selection.choose([policy.Look(pool_, settings, state)], 100.0)
    (event,) = choice.events
    assert isinstance(event, Unreadable)
    assert event.is_late


def test_a_worker_not_read_in_time_is_not_the_same_as_an_unreadable_one(monkeypatch):
    def fails(_path: str) -> bytes:
        raise reader.NoReader(errno.EACCES, "the process that reads it has ended")

    with pool(1, 40) as manager:
        program = Program("myapp", "myapp", "RUNNING", manager)
        watch = Watch(program, PoolSettings(limit=30 << 20, min_age=1.0))
        eventually(lambda: assert_has_a_worker(watch))
        monkeypatch.setattr(reader, "read", fails)
        (worker,) = look.look(watch, Procfs()).workers
    assert worker.detail
    assert (worker.detail.used, worker.detail.is_late) == (None, True)


def assert_has_a_worker(watch: Watch) -> None:
    (worker,) = look.look(watch, Procfs()).workers
    assert worker.bound > 30 << 20


@pytest.fixture(autouse=True)
def nothing_avoided(monkeypatch):
    """What took too long in another test, on a busy machine."""
    monkeypatch.setattr(reader, "_avoided", {})
    monkeypatch.setattr(reader, "_lost_at", float("-inf"))


def test_an_ended_child_is_replaced():
    reader.read(f"/proc/{os.getpid()}/cmdline")
    os.kill(reader._child._pid, signal.SIGKILL)
    with pytest.raises(PermissionError):
        eventually(lambda: _assert_read())
    _assert_read()


def _assert_read() -> None:
    assert reader.read(f"/proc/{os.getpid()}/cmdline")


def test_where_no_process_can_be_forked_nothing_is_read(monkeypatch):
    def fails() -> int:
        raise BlockingIOError(errno.EAGAIN, "no process is left")

    monkeypatch.setattr(reader, "_child", None)
    monkeypatch.setattr(os, "fork", fails)
    before = psutil.Process().num_fds()
    with pytest.raises(PermissionError):
        reader.read(f"/proc/{os.getpid()}/cmdline")
    assert psutil.Process().num_fds() == before


def test_while_killed_children_remain_in_the_kernel_no_more_are_started(monkeypatch):
    monkeypatch.setattr(reader, "_child", None)
    monkeypatch.setattr(forked, "uncollected", lambda: 4)
    with pytest.raises(reader.NoReader):
        reader.read(f"/proc/{os.getpid()}/cmdline")


def test_the_child_holds_no_lock_or_descriptor_of_its_parent(tmp_path, monkeypatch):
    monkeypatch.setattr(reader, "_child", None)
    held = os.open(tmp_path, os.O_RDONLY)
    fcntl.flock(held, fcntl.LOCK_EX)
    reader.read(f"/proc/{os.getpid()}/cmdline")
    child = psutil.Process(reader._child._pid)
    assert child.num_fds() == 5
    os.close(held)
    again = os.open(tmp_path, os.O_RDONLY)
    fcntl.flock(again, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.close(again)
    reader._child.end()


def test_the_child_ends_with_its_parent():
    readable, writable = os.pipe()
    parent = os.fork()
    if parent == 0:
        try:
            reader.read(f"/proc/{os.getpid()}/cmdline")
            os.write(writable, str(reader._child._pid).encode())
            os.kill(os.getpid(), signal.SIGKILL)
        finally:
            os._exit(1)  # else, where that fails, it would go on as a second pytest
    os.close(writable)
    child = int(os.read(readable, 20))
    os.waitpid(parent, 0)
    os.close(readable)
    until(lambda: not psutil.pid_exists(child))


def test_many_hanging_processes_take_little_more_time_than_one(monkeypatch):
    patience = []

    def hangs(*question):
        patience.append(question[-1])
        raise TimeoutError

    monkeypatch.setattr(reader._Child, "ask", hangs)
    monkeypatch.setattr(reader, "_lost_at", float("-inf"))
    now = time.monotonic()
    monkeypatch.setattr(reader.time, "monotonic", lambda: now)  # it counts within some seconds
    try:
        for pid in range(40):
            with pytest.raises(Blocked):
                reader.read(f"/proc/{10_000_000 + pid}/smaps_rollup")
    finally:
        reader._avoided.clear()
    assert patience == [reader.PATIENCE] + [reader.IMPATIENCE] * 39
    assert reader._lost_at > 0


def test_a_child_that_ends_right_before_its_signal_is_collected(monkeypatch):
    """Where a library ignores SIGCHLD, nothing is left of it then."""
    ended = os.fork()
    if not ended:
        os._exit(0)
    os.waitpid(ended, 0)
    states = [forked._RUNS, forked._UNKNOWN]
    monkeypatch.setattr(forked, "_wait", lambda *_: states.pop(0))
    assert forked.collect(ended, 0.0, {signal.SIGKILL: 0.0}) is None
    assert not forked.uncollected()
