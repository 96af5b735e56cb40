"""Looking at real processes and signalling one of them."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from dataclasses import replace

import psutil
import pytest
from driver import eventually, pool

from supervisor_memreap.core.model import ProcessId, Program
from supervisor_memreap.core.settings import PoolSettings
from supervisor_memreap.host import lock, processes, procfs
from supervisor_memreap.host.procfs import Procfs
from supervisor_memreap.host.source import Psutil

MIB = 1024**2
SETTINGS = PoolSettings(limit=30 * MIB)
NOBODY = 65534
needs_root = pytest.mark.skipif(os.getuid() != 0, reason="becomes another user")
needs_linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


def look(pid: int, settings: PoolSettings = SETTINGS, view=None, **options):
    watched = processes.Watched(Program("myapp", "myapp", "RUNNING", pid), settings, **options)
    (found,) = processes.look([watched], view or processes.source())
    return found


@pytest.fixture(params=[Procfs, Psutil], ids=["procfs", "psutil"])
def view(request):
    if request.param is Procfs and sys.platform != "linux":
        pytest.skip("reads /proc")
    return request.param()


def test_a_look_finds_the_manager_its_workers_and_what_they_hold(view):
    with pool(3, 40) as pid:
        found = look(pid, view=view)
        assert found.manager.pid == pid
        assert {worker.id.pid for worker in found.workers} == {one.pid for one in psutil.Process(pid).children()}
        for worker in found.workers:
            assert 40 * MIB <= worker.used < 60 * MIB
            assert worker.used <= worker.bound
            assert 0 <= worker.age < 30


def test_a_worker_whose_bound_is_within_the_limit_is_not_measured(view):
    with pool(2, 5) as pid:
        assert [worker.suspect for worker in look(pid, PoolSettings(limit=500 * MIB), view).workers] == [None, None]


@needs_linux
def test_procfs_and_psutil_agree():
    with pool(1, 40) as pid:
        (one,) = look(pid, view=Procfs()).workers
        (other,) = look(pid, view=Psutil()).workers
        assert one.id.pid == other.id.pid
        assert abs(one.used - other.used) < MIB
        assert abs(one.bound - other.bound) < 2 * MIB
        assert abs(one.age - other.age) < 2


@needs_linux
@pytest.mark.parametrize("metric", ["uss", "pss", "rss", "vms"])
def test_each_metric_is_what_psutil_says(metric):
    with pool(2, 40) as pid:
        for worker in look(pid, PoolSettings(limit=MIB, metric=metric)).workers:
            expected = getattr(psutil.Process(worker.id.pid).memory_full_info(), metric)
            assert worker.used == pytest.approx(expected, abs=MIB)


@needs_linux
@pytest.mark.parametrize(("words", "caught"), [((), True), (("deaf",), False), (("stuck",), True)])
def test_whether_the_signal_is_caught_is_read_from_the_kernel(words, caught):
    with pool(1, 40, *words) as pid:
        (worker,) = look(pid).workers
        assert worker.suspect.caught is caught


def test_a_program_that_does_not_run_has_no_manager():
    (found,) = processes.look(
        [processes.Watched(Program("myapp", "myapp", "STOPPED", 0), SETTINGS)], processes.source()
    )
    assert (found.manager, found.workers, found.state) == (None, (), "STOPPED")


def test_a_manager_that_is_gone_is_a_normal_answer(view):
    with pool(1, 1) as pid:
        pass
    eventually(lambda: _gone(pid))
    assert look(pid, view=view).manager is None


def test_with_depth_2_the_workers_below_the_wrapper_are_found(view):
    with pool(2, 40, "wrapped") as pid:
        wrapper = psutil.Process(pid).ppid()
        assert look(wrapper, view=view).manager.pid == wrapper
        found = look(wrapper, PoolSettings(limit=30 * MIB, depth=2), view)
        assert (found.manager.pid, len(found.workers)) == (pid, 2)


def test_with_depth_2_and_no_wrapper_nothing_is_taken_for_a_manager(view):
    with pool(2, 40) as pid:
        found = look(pid, PoolSettings(limit=30 * MIB, depth=2), view)
        assert (found.manager, found.unseen) == (None, "depth=2, and there is not one manager below the wrapper")


def test_a_zombie_is_no_worker(view):
    with pool(2, 40) as pid:
        os.kill(pid, signal.SIGSTOP)  # so that nobody waits for the worker
        first, second = look(pid, view=view).workers
        os.kill(first.id.pid, signal.SIGKILL)
        fresh = type(view)
        assert eventually(lambda: _only(look(pid, view=fresh()).workers)).id == second.id


def _gone(pid):
    assert not psutil.pid_exists(pid)


def _orphaned(pid, former_parent):
    assert psutil.Process(pid).ppid() != former_parent


def _only(workers):
    assert len(workers) == 1
    return workers[0]


def test_an_expected_worker_counts_as_there_until_it_is_gone():
    class Forgetful(type(processes.source())):
        def children(self, pid):
            return []  # what the kernel's list may do for a moment while a sibling exits

    with pool(1, 40) as pid:
        (worker,) = look(pid).workers
        assert look(pid, view=Forgetful(), expected=(worker.id,)).workers[0].id == worker.id
        os.kill(worker.id.pid, signal.SIGKILL)
        eventually(lambda: _none(look(pid, view=Forgetful(), expected=(worker.id,)).workers))


def _none(workers):
    assert workers == ()


@needs_linux
@pytest.mark.parametrize("name", [b") S 1 (x", b"a\nVmRSS: 9", b"\xff\xfe) Z", b"((((("])
def test_a_hostile_process_name_changes_no_reading(name):
    with subprocess.Popen(
        [
            sys.executable,
            "-c",
            f"import time; open('/proc/self/comm', 'wb').write({name!r}); print(1, flush=True);"
            " held = bytearray(40 << 20); print(2, flush=True); time.sleep(60)",
        ],
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdout.readline() + process.stdout.readline() == b"1\n2\n"
        seen = Procfs().process(process.pid)
        assert (seen.parent, seen.ended) == (os.getpid(), False)
        assert 40 * MIB < Procfs().sizes(process.pid).bound < 80 * MIB
        process.kill()


def reap(found, worker, settings=SETTINGS, view=None, watch=5.0, insist=False):
    outcome = processes.reap(found, worker, settings, view or processes.source(), watch, insist)
    if outcome.pidfd is not None:
        os.close(outcome.pidfd)
    return outcome


@pytest.fixture(params=[True, False], ids=["pidfd", "kill"])
def _with_and_without_pidfd(request, monkeypatch):
    if not request.param:
        monkeypatch.delattr(os, "pidfd_open", raising=False)


@pytest.mark.usefixtures("_with_and_without_pidfd")
def test_exactly_the_chosen_worker_leaves_and_is_replaced():
    with pool(3, 40) as pid:
        found = look(pid)
        chosen, *others = found.workers
        outcome = reap(found, chosen)
        assert outcome.word == "sent"
        assert outcome.private == pytest.approx(chosen.used, abs=MIB)

        def replaced():
            now = {worker.id for worker in look(pid).workers}
            assert len(now) == 3
            assert chosen.id not in now
            assert {other.id for other in others} < now

        eventually(replaced)


@needs_linux
def test_the_descriptor_of_the_outcome_tells_when_the_worker_is_gone():
    with pool(1, 40) as pid:
        found = look(pid)
        outcome = processes.reap(found, found.workers[0], SETTINGS, processes.source(), 5.0)
        assert select.select([outcome.pidfd], [], [], 5)[0]
        os.close(outcome.pidfd)


def test_a_worker_that_left_by_itself_is_not_signalled():
    with pool(2, 40) as pid:
        found = look(pid)
        os.kill(found.workers[0].id.pid, signal.SIGKILL)
        eventually(lambda: _gone(found.workers[0].id.pid))
        assert reap(found, found.workers[0]).word == "gone"


def test_another_process_with_the_workers_pid_is_not_signalled():
    with pool(1, 40) as pid:
        found = look(pid)
        (worker,) = found.workers
        earlier = replace(worker, id=ProcessId(worker.id.pid, worker.id.born - 1))
        assert reap(found, earlier).word == "gone"
        assert look(pid).workers[0].id == worker.id


def test_an_orphan_of_a_manager_that_died_is_not_signalled():
    with pool(1, 40) as pid:
        found = look(pid)
        os.kill(pid, signal.SIGKILL)
        eventually(lambda: _orphaned(found.workers[0].id.pid, pid))
        assert reap(found, found.workers[0]).word == "changed"
        assert psutil.pid_exists(found.workers[0].id.pid)


def test_a_worker_that_lost_its_handler_since_the_look_is_not_signalled():
    with pool(1, 40, "deaf") as pid:
        found = look(pid)
        assert reap(found, found.workers[0]).word == "changed"
        assert look(pid).workers[0].id == found.workers[0].id


@needs_linux
@pytest.mark.parametrize(("hold", "moment"), [(True, "held"), (False, "idle")])
def test_an_idle_worker_is_signalled_at_once_held_unless_that_is_turned_off(hold, moment):
    with pool(1, 40) as pid:
        found = look(pid)
        outcome = reap(found, found.workers[0], replace(SETTINGS, hold=hold))
        assert (outcome.word, outcome.moment, outcome.unheld) == ("sent", moment, False)


@needs_linux
def test_a_busy_worker_is_not_signalled_unless_it_has_been_waited_for_long_enough():
    with pool(1, 40, "busy") as pid:
        found = look(pid)
        assert reap(found, found.workers[0], watch=0.1).word == "busy"
        assert look(pid).workers[0].id == found.workers[0].id
        outcome = reap(found, found.workers[0], watch=0.1, insist=True)
        assert (outcome.word, outcome.moment) == ("sent", "busy")


def test_where_idleness_cannot_be_read_the_signal_goes_out_and_that_is_told():
    with pool(1, 40) as pid:
        found = look(pid, view=Psutil())
        assert reap(found, found.workers[0], view=Psutil()).moment == "unknown"


@needs_linux
def test_where_a_worker_may_not_be_held_the_signal_follows_the_reading():
    with pool(1, 40) as pid:
        found = look(pid)
        (worker,) = found.workers
        code = f"from supervisor_memreap.host import hold; hold._ptrace(hold._SEIZE, {worker.id.pid});"
        with subprocess.Popen(
            [sys.executable, "-c", code + "print('traced', flush=True); import time; time.sleep(60)"],
            stdout=subprocess.PIPE,
        ) as tracer:
            assert tracer.stdout.readline() == b"traced\n"
            outcome = reap(found, worker)
            tracer.kill()
        assert (outcome.word, outcome.moment, outcome.unheld) == ("sent", "idle", True)
        eventually(lambda: _gone(worker.id.pid))


@needs_linux
@pytest.mark.parametrize("words", [[], ["busy"]])
def test_wchan_tells_idleness_where_syscall_may_not_be_read(words):
    with pool(1, 40, *words) as pid:
        (worker,) = look(pid).workers
        eventually(lambda: _assert_idle(Procfs(), worker.id.pid, "busy" not in words))
        by_wchan = Procfs()._idle_by_wchan(worker.id.pid)
        assert by_wchan in ("busy" not in words, None)  # None: this kernel hides it


def _assert_idle(view, pid, expected) -> None:
    assert view.idle(pid) is expected


def as_nobody(function):
    """What the function returns, as text, when it runs as a user without any rights."""
    readable, writable = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.setgroups([])
            os.setgid(NOBODY)
            os.setuid(NOBODY)
            os.write(writable, str(function()).encode())
        finally:
            os._exit(0)
    os.close(writable)
    with open(readable, "rb") as file:
        text = file.read().decode()
    os.waitpid(pid, 0)
    return text


@needs_root
def test_where_signalling_is_not_permitted_that_is_the_outcome():
    with pool(1, 40) as pid:
        found = look(pid)
        assert as_nobody(lambda: reap(found, found.workers[0]).word) == "not permitted"
        assert look(pid).workers[0].id == found.workers[0].id


@needs_root
@needs_linux
@pytest.mark.parametrize(("metric", "readable"), [("uss", False), ("pss", False), ("rss", True), ("vms", True)])
def test_where_the_metric_may_not_be_read_no_bound_is_taken_for_it(metric, readable):
    with pool(1, 40) as pid:
        used = as_nobody(lambda: look(pid, PoolSettings(limit=30 * MIB, metric=metric)).workers[0].used)
        assert used != "None" if readable else used == "None"


def test_the_lock_of_a_process_is_held_once_until_it_is_let_go():
    mine = processes.source().process(os.getpid()).id
    held = lock.take(mine)
    assert held is not None
    assert lock.take(mine) is None
    os.close(held)
    again = lock.take(mine)
    assert again is not None
    os.close(again)


@needs_root
def test_the_lock_holds_against_another_user_and_ends_with_its_holder():
    with pool(1, 1) as pid:
        manager = look(pid).manager
        held = lock.take(manager)
        assert as_nobody(lambda: lock.take(manager) is None) == "True"
        os.close(held)
        assert as_nobody(lambda: lock.take(manager) is not None) == "True"
        held = lock.take(manager)  # nobody's process has ended, and its lock with it
        assert held is not None
        os.close(held)


def test_where_proc_does_not_serve_the_lock_is_a_file(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "platform", "freebsd14")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    held = lock.take(ProcessId(4242, 1.0))
    assert lock.take(ProcessId(4242, 1.0)) is None
    os.close(held)
    held = lock.take(ProcessId(4242, 1.0))
    assert held is not None
    os.close(held)


def test_a_manager_that_is_no_child_of_the_supervisord_that_named_it_is_none():
    with pool(1, 40) as pid:
        for above, there in ((os.getpid(), True), (1, False)):
            program = Program("myapp", "myapp", "RUNNING", pid, above)
            (found,) = processes.look([processes.Watched(program, SETTINGS)], processes.source())
            assert (found.manager is not None) is there
            assert bool(found.unseen) is not there


@needs_linux
def test_where_no_process_can_be_forked_the_next_best_moment_is_taken(monkeypatch):
    def fork():
        raise BlockingIOError("Resource temporarily unavailable")

    with pool(1, 40) as pid:
        found = look(pid)
        monkeypatch.setattr(os, "fork", fork)
        outcome = reap(found, found.workers[0])
        assert (outcome.word, outcome.moment, outcome.unheld) == ("sent", "idle", True)


def test_a_system_that_refuses_is_an_outcome_and_leaves_no_descriptor_open(monkeypatch):
    def refuse(*_):
        raise OSError("Cannot allocate memory")

    with pool(1, 40) as pid:
        found = look(pid)
        before = len(os.listdir("/proc/self/fd"))
        view = processes.source()
        view.idle = refuse
        assert reap(found, found.workers[0], view=view).word == "failed"
        assert len(os.listdir("/proc/self/fd")) == before


def test_with_never_a_worker_of_which_nothing_is_known_is_not_signalled():
    with pool(1, 40) as pid:
        found = look(pid, view=Psutil())
        assert reap(found, found.workers[0], replace(SETTINGS, idle_wait=float("inf")), Psutil()).word == "busy"


@needs_linux
def test_a_file_that_this_kernel_has_not_is_no_process_that_is_gone():
    with pytest.raises(PermissionError):
        procfs._read(f"/proc/{os.getpid()}/no_such_file")
    with pytest.raises(ProcessLookupError):
        procfs._read("/proc/99999999/stat")


def test_a_worker_with_children_of_its_own_is_known_as_that(view):
    with pool(1, 40, "wrapped") as pid:
        wrapper = psutil.Process(pid).ppid()
        (worker,) = look(wrapper, PoolSettings(limit=MIB), view).workers
        assert worker.id.pid == pid
        assert worker.suspect.leads
        assert not look(pid, view=view).workers[0].suspect.leads


def test_a_worker_with_a_child_is_no_manager_where_it_has_siblings_of_its_name(view, tmp_path):
    """The child may be a command that it runs, or another one of the same name."""
    with pool(2, 40, "parent") as pid:
        found = look(pid, PoolSettings(limit=MIB), view)
        assert [worker.suspect.leads for worker in found.workers] == [False, False]


def test_two_managers_below_one_wrapper_are_known_as_that(view):
    def leads() -> list[bool]:
        found = look(psutil.Process(pid).ppid(), PoolSettings(limit=MIB), type(view)())
        return [worker.suspect.leads for worker in found.workers]

    with pool(2, 40, "twice") as pid:
        eventually(lambda: _assert_equal(leads(), [True, True]))  # the second one is still about to fork


def _assert_equal(one: object, other: object) -> None:
    assert one == other


@needs_linux
def test_what_cannot_be_followed_leaves_no_descriptor_open(monkeypatch):
    def fails(_self, _pid):
        raise OSError("too many open files")

    with subprocess.Popen(["sleep", "100"]) as process:
        before = os.listdir("/proc/self/fd")
        monkeypatch.setattr(Procfs, "process", fails)
        for _ in range(5):
            assert processes.follow(ProcessId(process.pid, 1.0), Procfs()) is None
        assert len(os.listdir("/proc/self/fd")) == len(before)
        process.kill()


class Vanishing(Procfs):
    """What one process has for children can never be read: it has just ended."""

    def __init__(self, pid: int):
        self._pid = pid

    def children(self, pid: int) -> list[int]:
        if pid == self._pid:
            raise ProcessLookupError(pid)
        return super().children(pid)


@needs_linux
def test_a_sibling_that_ends_during_the_look_makes_nobody_else_gone():
    with pool(2, 40, "parent") as pid:
        first, second = sorted(eventually(lambda: _two(pid)))
        for gone in (first, second):
            found = look(pid, PoolSettings(limit=MIB), Vanishing(gone))
            assert {worker.id.pid for worker in found.workers} == {first, second}


def _two(manager: int) -> list[int]:
    pids = processes.source().children(manager)
    assert len(pids) == 2
    return pids


@needs_linux
def test_with_depth_2_a_child_of_the_wrapper_that_ends_during_the_look_is_no_fall():
    with pool(2, 40, "wrapped") as pid:
        wrapper = psutil.Process(pid).ppid()

        class WithOneThatEnds(Vanishing):
            def children(self, pid: int) -> list[int]:
                return [*super().children(pid), 99999999] if pid == wrapper else super().children(pid)

        found = look(wrapper, PoolSettings(limit=30 * MIB, depth=2), WithOneThatEnds(99999999))
        assert (found.manager.pid, len(found.workers)) == (pid, 2)
