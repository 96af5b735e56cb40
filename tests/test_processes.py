"""Looking at real processes and signalling one of them."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from support.driver import eventually, exactly, pool, stop, until
from support.looking import SETTINGS, look, look_in_full, only_wchan, reap
from support.stack import ROOT

from supervisor_memreap.core import servers
from supervisor_memreap.core.model import Pool, ProcessId, Program, Worker
from supervisor_memreap.core.settings import PoolSettings, Watch
from supervisor_memreap.host import lock, procfile, procfs, roster, signalling
from supervisor_memreap.host import look as host_look
from supervisor_memreap.host.connections import Clients
from supervisor_memreap.host.machine import Locked, Unlockable
from supervisor_memreap.host.procfs import Procfs
from supervisor_memreap.host.source import Source

MIB = 1024**2
NOBODY = 65534
needs_root = pytest.mark.skipif(os.getuid() != 0, reason="becomes another user")
needs_linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


@pytest.fixture(params=[Procfs, Source], ids=["procfs", "psutil"])
def view(request):
    if request.param is Procfs and sys.platform != "linux":
        pytest.skip("reads /proc")
    return request.param()


@contextlib.contextmanager
def looked(count: int, mib: int, *words: str):
    """The pid of a pool's manager, one look at the pool, and the first worker of that look."""
    with pool(count, mib, *words) as pid:
        seen = look_in_full(pid)
        yield pid, seen, seen.workers[0]


def test_a_look_reads_the_manager_its_workers_and_their_sizes(view):
    with pool(3, 40) as pid:
        seen = look(pid, view=view)
        assert seen.manager.pid == pid
        assert {worker.id.pid for worker in seen.workers} == {process.pid for process in psutil.Process(pid).children()}
        for worker in seen.workers:
            assert 40 * MIB <= worker.used < 60 * MIB
            assert worker.used <= worker.bound
            assert 0 <= worker.age < 30


def test_a_worker_whose_bound_is_within_the_limit_is_not_measured(view):
    with pool(2, 5) as pid:
        assert [worker.detail for worker in look(pid, PoolSettings(limit=500 * MIB), view).workers] == [None, None]


@needs_linux
def test_procfs_and_psutil_agree():
    with pool(1, 40) as pid:
        (worker,) = look(pid, view=Procfs()).workers
        (reference,) = look(pid, view=Source()).workers
        assert worker.id.pid == reference.id.pid
        assert abs(worker.used - reference.used) < MIB
        assert abs(worker.bound - reference.bound) < 2 * MIB
        assert abs(worker.age - reference.age) < 2


@needs_linux
@pytest.mark.parametrize("metric", ["uss", "pss", "rss", "vms"])
def test_each_metric_equals_that_of_psutil(metric):
    with pool(2, 40) as pid:
        for worker in look(pid, PoolSettings(limit=MIB, metric=metric)).workers:
            expected = getattr(psutil.Process(worker.id.pid).memory_full_info(), metric)
            assert worker.used == pytest.approx(expected, abs=MIB)


@needs_linux
@pytest.mark.parametrize(("words", "caught"), [((), True), (("deaf",), False), (("stuck",), True)])
def test_whether_the_signal_is_caught_is_read_from_the_kernel(words, caught):
    with pool(1, 40, *words) as pid:
        (worker,) = look(pid).workers
        assert worker.detail.caught is caught


def test_a_program_that_does_not_run_has_no_manager():
    seen = host_look.look(Watch(Program("myapp", "myapp", "STOPPED", 0), SETTINGS), procfs.source())
    assert (seen.manager, seen.workers, seen.state) == (None, (), "STOPPED")


def test_a_manager_that_is_gone_is_a_normal_value(view):
    with pool(1, 1) as pid:
        pass
    until(lambda: not psutil.pid_exists(pid))
    assert look(pid, view=view).manager is None


def test_with_depth_2_the_workers_below_the_wrapper_are_seen(view):
    with pool(2, 40, "wrapped") as pid:
        wrapper = psutil.Process(pid).ppid()
        assert look(wrapper, view=view).manager.pid == wrapper
        seen = look(wrapper, PoolSettings(limit=30 * MIB, depth=2), view)
        assert (seen.manager.pid, len(seen.workers)) == (pid, 2)


def test_with_depth_2_and_no_wrapper_no_process_is_taken_for_a_manager(view):
    with pool(2, 40) as pid:
        seen = look(pid, PoolSettings(limit=30 * MIB, depth=2), view)
        assert (seen.manager, seen.not_visible) == (
            None,
            "depth=2, but the wrapper does not have exactly one manager below it",
        )


def test_a_zombie_is_not_a_worker(view):
    with pool(2, 40) as pid:
        stop(pid)  # so that no process waits for the worker
        first, second = look(pid, view=view).workers
        os.kill(first.id.pid, signal.SIGKILL)
        fresh = type(view)
        assert [worker.id for worker in eventually(lambda: exactly(1, look(pid, view=fresh()).workers))] == [second.id]


def test_an_expected_worker_counts_as_present_until_it_is_gone():
    class Forgetful(type(procfs.source())):  # type: ignore[misc]
        def children(self, pid):
            return []  # what the kernel's list may do for a moment while a sibling exits

    with pool(1, 40) as pid:
        (worker,) = look(pid).workers
        assert look(pid, view=Forgetful(), expected=(worker.id,)).workers[0].id == worker.id
        os.kill(worker.id.pid, signal.SIGKILL)
        until(lambda: look(pid, view=Forgetful(), expected=(worker.id,)).workers, ())


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


@pytest.fixture(params=[True, False], ids=["pidfd", "kill"])
def _with_and_without_pidfd(request, monkeypatch):
    if not request.param:
        monkeypatch.delattr(os, "pidfd_open", raising=False)


@pytest.mark.usefixtures("_with_and_without_pidfd")
def test_exactly_the_chosen_worker_leaves_and_is_replaced():
    with looked(3, 40) as (pid, seen, worker):
        _, *others = seen.workers
        outcome = reap(seen, worker)
        assert outcome.result == "sent"
        assert outcome.private == pytest.approx(worker.used, abs=MIB)

        def replaced():
            now = {worker.id for worker in look(pid).workers}
            assert len(now) == 3
            assert worker.id not in now
            assert {other.id for other in others} < now

        eventually(replaced)


def test_a_worker_that_left_on_its_own_is_not_signalled():
    with looked(2, 40) as (_pid, seen, worker):
        os.kill(worker.id.pid, signal.SIGKILL)
        until(lambda: not psutil.pid_exists(worker.id.pid))
        assert reap(seen, worker).result == "gone"


def test_another_process_with_the_workers_pid_is_not_signalled():
    with looked(1, 40) as (pid, seen, worker):
        earlier = worker._replace(id=ProcessId(worker.id.pid, worker.id.start_time - 1))
        assert reap(seen, earlier).result == "gone"
        assert look(pid).workers[0].id == worker.id


def test_an_orphan_of_a_manager_that_died_is_not_signalled():
    with looked(1, 40) as (pid, seen, worker):
        os.kill(pid, signal.SIGKILL)
        until(lambda: psutil.Process(worker.id.pid).ppid() != pid)
        assert reap(seen, worker).result == "changed"
        assert psutil.pid_exists(worker.id.pid)


def test_a_worker_that_lost_its_handler_since_the_look_is_not_signalled():
    with looked(1, 40, "deaf") as (pid, seen, worker):
        assert reap(seen, worker).result == "changed"
        assert look(pid).workers[0].id == worker.id


@needs_linux
@pytest.mark.parametrize(("hold", "moment"), [(True, "held"), (False, "idle")])
def test_an_idle_worker_is_signalled_at_once_and_held_unless_hold_is_off(hold, moment):
    with looked(1, 40) as (_pid, seen, worker):
        outcome = reap(seen, worker, replace(SETTINGS, hold=hold))
        assert (outcome.result, outcome.moment, outcome.unheld) == ("sent", moment, False)


@needs_linux
def test_a_busy_worker_is_not_signalled_before_idle_wait():
    with looked(1, 40, "busy") as (pid, seen, worker):
        assert reap(seen, worker, watch=0.1).result == "busy"
        assert look(pid).workers[0].id == worker.id
        # Of its server it was not measured that it finishes any request: not where it may be brought to its boundary.
        assert reap(seen, worker, watch=0.1, idle_wait_expired=True).result == "busy"
        assert look(pid).workers[0].id == worker.id
        settings = replace(SETTINGS, hold=False)
        outcome = reap(seen, worker, settings, watch=0.1, idle_wait_expired=True)
        assert (outcome.result, outcome.moment) == ("sent", "busy")


def test_where_idleness_is_unreadable_the_signal_is_sent_after_idle_wait():
    with pool(1, 40) as pid:
        seen, settings = look(pid, view=Source()), replace(SETTINGS, hold=False)
        assert reap(seen, seen.workers[0], settings, Source(), 0.1).result == "busy"
        assert reap(seen, seen.workers[0], settings, Source(), 0.1, True).moment == "unknown"


@needs_linux
def test_where_a_worker_cannot_be_held_the_signal_follows_the_reading():
    with looked(1, 40) as (_pid, seen, worker):
        code = f"from supervisor_memreap.host import boundary; boundary._ptrace(boundary._SEIZE, {worker.id.pid});"
        with subprocess.Popen(
            [sys.executable, "-c", code + "print('traced', flush=True); import time; time.sleep(60)"],
            stdout=subprocess.PIPE,
        ) as tracer:
            assert tracer.stdout.readline() == b"traced\n"
            outcome = reap(seen, worker)
            tracer.kill()
        assert (outcome.result, outcome.moment, outcome.unheld) == ("sent", "idle", False)
        until(lambda: not psutil.pid_exists(worker.id.pid))


@pytest.fixture
def _yama(monkeypatch):
    only_wchan(monkeypatch)


@needs_linux
@pytest.mark.usefixtures("_yama")
@pytest.mark.parametrize(
    ("words", "expected"),
    [([], True), (["busy"], False), (["datagram"], None), (["thread"], True), (["serving"], None)],
)
def test_wchan_shows_idleness_where_syscall_is_unreadable(words, expected):
    with pool(1, 40, *words) as pid:
        (worker,) = look(pid).workers
        until(lambda: Procfs().idle(worker.id.pid), expected)


@needs_linux
@pytest.mark.usefixtures("_yama")
def test_where_syscall_is_unreadable_a_computing_worker_is_busy():
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as process:
        until(lambda: Procfs().idle(process.pid), False)
        for _ in range(200):
            assert Procfs().idle(process.pid) is not True
        process.kill()


@needs_linux
def test_a_worker_only_seen_at_an_unknown_moment_is_not_signalled_before_idle_wait():
    with looked(1, 40, "serving") as (pid, seen, worker):
        until(lambda: Procfs().idle(worker.id.pid), None)
        assert reap(seen, worker, watch=0.1).result == "busy"
        assert look(pid).workers[0].id == worker.id


@needs_linux
@pytest.mark.parametrize(
    ("server", "hold", "words", "sent"),
    [
        ("FCGI::ProcManager", True, (), "held"),
        ("FCGI::ProcManager", False, (), "idle"),
        ("FCGI::ProcManager", True, ("busy",), ""),
        ("FCGI::ProcManager", True, ("serving",), ""),
        ("Starman", True, (), "held"),
        ("Starman", False, (), ""),
        ("Starman", True, ("busy",), ""),
        ("uWSGI", True, ("busy",), ""),
        ("Apache", False, (), "idle"),
        ("Apache", True, ("busy",), ""),
        ("gunicorn", True, ("busy",), "busy"),
    ],
)
def test_a_server_that_loses_requests_at_other_moments_is_never_signalled_then(server, hold, words, sent):
    with looked(1, 40, *words) as (_pid, seen, worker):
        worker = worker._replace(detail=replace(worker.detail, server=server))
        settings = replace(SETTINGS, hold=hold, signal="HUP")
        outcome = reap(seen, worker, settings, watch=0.1, idle_wait_expired=True)
        assert (outcome.result, outcome.moment) == (("sent", sent) if sent else ("busy", None))


class NoClients(Procfs):
    """A view in which no connection is ever seen to stay."""

    def clients(self, pid: int) -> Clients:
        return Clients(frozenset(), None)


@needs_linux
@pytest.mark.parametrize(("signal_set", "sent"), [(None, None), ("HUP", "busy")])
def test_a_worker_without_a_handler_is_not_sent_the_signal_for_busy_workers(signal_set, sent):
    """The worker catches HUP, and not USR1, which costs least with its server."""
    with looked(1, 40, "busy") as (_pid, seen, worker):
        worker = worker._replace(detail=replace(worker.detail, server="FCGI::ProcManager"))
        settings = replace(SETTINGS, hold=False, signal=signal_set)
        outcome = reap(seen, worker, settings, NoClients(), 0.1, True)
        assert (outcome.moment, outcome.is_deaf) == (sent, sent is None)


def as_unprivileged_user(function):
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
def test_a_missing_permission_to_signal_is_the_outcome():
    with looked(1, 40) as (pid, seen, worker):
        assert as_unprivileged_user(lambda: reap(seen, worker).result.value) == "not permitted"
        assert look(pid).workers[0].id == worker.id


@needs_root
@needs_linux
@pytest.mark.parametrize(("metric", "readable"), [("uss", False), ("pss", False), ("rss", True), ("vms", True)])
def test_a_bound_is_not_used_for_an_unreadable_metric(metric, readable):
    with pool(1, 40) as pid:
        used = as_unprivileged_user(lambda: look(pid, PoolSettings(limit=30 * MIB, metric=metric)).workers[0].used)
        assert used != "None" if readable else used == "None"


def _assert_locked(process: ProcessId) -> None:
    with pytest.raises(Locked):
        os.close(lock.take(process))


def test_the_lock_of_a_process_is_exclusive_until_released():
    mine = procfs.source().process(os.getpid()).id
    held = lock.take(mine)
    with pytest.raises(Locked, match=rf"process {os.getpid()} \(.*python.*\) holds its lock"):
        lock.take(mine)
    os.close(held)
    os.close(lock.take(mine))


@needs_root
@needs_linux
def test_another_user_cannot_take_the_lock_of_a_process_which_counts_as_locked():
    with pool(1, 1) as pid:
        manager = look(pid).manager
        refused = f"the lock /proc/{pid}/personality cannot be opened (Permission denied); run memreap as root"
        assert as_unprivileged_user(lambda: outcome_of(lock.take, manager)) == refused
        os.close(lock.take(manager))


def outcome_of(take, process: ProcessId) -> str:
    try:
        return f"taken {take(process)}"
    except Unlockable as trouble:
        return str(trouble)


@needs_root
@needs_linux
def test_the_lock_excludes_a_user_and_root_alike_and_ends_with_its_holder():
    with subprocess.Popen(["sleep", "60"], user=NOBODY, group=NOBODY) as process:
        manager = procfs.source().process(process.pid).id
        held = lock.take(manager)
        assert as_unprivileged_user(lambda: _assert_locked(manager)) == "None"
        os.close(held)
        assert as_unprivileged_user(lambda: lock.take(manager)).isdigit()
        os.close(lock.take(manager))  # that process has ended, and its lock with it
        process.kill()


@needs_root
@needs_linux
def test_the_lock_excludes_across_two_mounts_of_proc():
    code = (
        "import sys; from supervisor_memreap.host import lock, look, procfs, signalling;"
        "process = procfs.source().process(int(sys.argv[1])).id\n"
        "try: lock.take(process); print('taken')\n"
        "except lock.Locked as trouble: print(trouble)"
    )
    with pool(1, 1) as pid:
        another = ["unshare", "--mount", "sh", "-c", 'mount -t proc proc /proc && exec "$@"', "sh"]
        command = [*another, sys.executable, "-c", code, str(pid)]
        held = lock.take(look(pid).manager)
        assert "holds its lock" in subprocess.run(command, capture_output=True, text=True, check=True).stdout
        os.close(held)
        assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "taken\n"


def test_the_lock_is_a_file_where_proc_cannot_be_locked(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "platform", "freebsd14")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    held = lock.take(ProcessId(4242, 1.0))
    _assert_locked(ProcessId(4242, 1.0))
    os.close(held)
    os.close(lock.take(ProcessId(4242, 1.0)))


@needs_root
def test_an_unopenable_lock_file_counts_as_locked_and_the_line_names_it(monkeypatch, where):
    monkeypatch.setattr("tempfile.tempdir", str(where))
    process = ProcessId(4242, 1.0)
    os.close(lock.take_file(process))
    (path,) = where.iterdir()
    path.chmod(0o600)
    refused = f"the lock {path} cannot be taken (Permission denied)"
    assert as_unprivileged_user(lambda: outcome_of(lock.take_file, process)) == refused


def test_a_process_with_another_start_time_than_supervisord_reports_is_not_the_manager():
    with pool(1, 40) as pid:
        age = procfs.source().process(pid).age
        for reported_age, there in ((None, True), (age, True), (age + 60, False)):
            program = Program("myapp", "myapp", "RUNNING", pid, os.getpid(), age=reported_age)
            seen = host_look.look(Watch(program, SETTINGS), procfs.source())
            assert bool(seen.manager) is there
            assert ("another start time than in supervisord" in seen.not_visible) is not there


def test_on_a_busy_machine_supervisord_may_have_answered_long_before_the_process_is_read():
    with pool(1, 40) as pid:
        age = procfs.source().process(pid).age
        asked = time.monotonic() - 60
        for reported_age, there in ((age - 60, True), (age, False)):
            program = Program("myapp", "myapp", "RUNNING", pid, os.getpid(), age=reported_age, asked=asked)
            assert bool(host_look.look(Watch(program, SETTINGS), procfs.source()).manager) is there


@needs_root
@needs_linux
def test_a_process_hidden_by_hidepid_is_hidden_not_gone():
    code = (
        "import sys; from supervisor_memreap.host.procfs import Procfs\n"
        "for pid in map(int, sys.argv[1:]):\n"
        "    try: Procfs().process(pid); print('seen')\n"
        "    except ProcessLookupError: print('gone')\n"
        "    except PermissionError: print('hidden')"
    )
    with subprocess.Popen(["true"]) as gone:
        gone.wait()
    hidden = ["unshare", "--mount", "sh", "-c", 'mount -t proc -o hidepid=2 proc /proc && exec "$@"', "sh"]
    nobody = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]
    command = [*hidden, *nobody, sys.executable, "-c", code, str(os.getpid()), str(gone.pid)]
    result = subprocess.run(command, capture_output=True, text=True, check=True, env={"PYTHONPATH": str(ROOT)})
    assert result.stdout.split() == ["hidden", "gone"]


def test_a_process_that_is_not_a_child_of_that_supervisord_is_not_the_manager():
    with pool(1, 40) as pid:
        for above, there in ((os.getpid(), True), (1, False)):
            program = Program("myapp", "myapp", "RUNNING", pid, above)
            seen = host_look.look(Watch(program, SETTINGS), procfs.source())
            assert (seen.manager is not None) is there
            assert bool(seen.not_visible) is not there


@needs_linux
def test_where_no_process_can_be_forked_nothing_is_sent(monkeypatch):
    def fork():
        raise BlockingIOError("Resource temporarily unavailable")

    with looked(1, 40) as (_pid, seen, worker):
        monkeypatch.setattr(os, "fork", fork)
        assert reap(seen, worker).result == "failed"


def test_a_refusal_by_the_system_is_an_outcome_and_leaves_no_descriptor_open(monkeypatch):
    def refuse(*_):
        raise OSError("Cannot allocate memory")

    with looked(1, 40) as (_pid, seen, worker):
        before = len(os.listdir("/proc/self/fd"))
        view = procfs.source()
        view.process = refuse
        assert reap(seen, worker, view=view).result == "failed"
        assert len(os.listdir("/proc/self/fd")) == before


def test_with_idle_wait_never_an_unknown_worker_is_not_signalled():
    with pool(1, 40) as pid:
        seen = look(pid, view=Source())
        assert reap(seen, seen.workers[0], replace(SETTINGS, hold=False), Source(), 0.5).result == "busy"


@needs_linux
def test_a_file_that_this_kernel_lacks_does_not_mean_that_the_process_is_gone():
    with pytest.raises(PermissionError):
        procfile.read(f"/proc/{os.getpid()}/no_such_file")
    with pytest.raises(ProcessLookupError):
        procfile.read("/proc/99999999/stat")


def test_a_worker_with_children_looks_like_a_manager(view):
    with pool(1, 40, "wrapped") as pid:
        wrapper = psutil.Process(pid).ppid()
        worker = eventually(lambda: _manager_below(wrapper, view))
        assert worker.id.pid == pid
        assert not look(pid, view=view).workers[0].detail.looks_like_manager


def _manager_below(wrapper: int, view) -> Worker:
    (worker,) = look(wrapper, PoolSettings(limit=MIB), type(view)()).workers
    assert worker.detail.looks_like_manager
    return worker


@needs_linux
def test_a_worker_that_runs_a_command_is_not_a_manager_but_one_that_forks_may_be(monkeypatch):
    with pool(2, 40, "parent") as pid:
        until(lambda: _may_manage(pid), [False, True])
        # A child that has just been forked may be about to run a command.
        monkeypatch.setattr(roster, "_FORK_TO_EXEC", 1000.0)
        assert _may_manage(pid) == [False, None]


def _may_manage(pid: int) -> list[bool | None]:
    return [worker.detail.looks_like_manager for worker in look(pid).workers]


@needs_linux
def test_a_worker_with_an_unidentified_child_may_be_a_manager(monkeypatch):
    monkeypatch.setattr(Procfs, "is_fork", lambda _self, _pid, _parent: None)
    with pool(2, 40, "parent") as pid:
        assert _may_manage(pid) == [True, True]
    with pool(1, 40) as pid:
        assert _may_manage(pid) == [False]


@needs_linux
def test_a_finished_command_not_yet_waited_for_does_not_make_a_worker_a_manager():
    with pool(2, 40, "parent") as pid:
        for worker in look(pid).workers:
            (command,) = psutil.Process(worker.id.pid).children()
            command.kill()
            until(lambda command=command: command.status(), psutil.STATUS_ZOMBIE)
        assert _may_manage(pid) == [False, False]


def test_two_managers_below_one_wrapper_are_recognised(view):
    def look_like_managers() -> list[bool]:
        seen = look(psutil.Process(pid).ppid(), PoolSettings(limit=MIB), type(view)())
        return [worker.detail.looks_like_manager for worker in seen.workers]

    with pool(2, 40, "twice") as pid:
        until(look_like_managers, [True, True])  # the second one is still about to fork


@needs_linux
def test_a_process_that_cannot_be_followed_leaves_no_descriptor_open(monkeypatch):
    def fails(_self, _pid):
        raise OSError("too many open files")

    with subprocess.Popen(["sleep", "100"]) as process:
        before = os.listdir("/proc/self/fd")
        monkeypatch.setattr(Procfs, "process", fails)
        for _ in range(5):
            assert signalling.follow(ProcessId(process.pid, 1.0), Procfs()) is None
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
def test_a_sibling_that_ends_during_the_look_does_not_affect_the_others():
    with pool(2, 40, "parent") as pid:
        first, second = sorted(eventually(lambda: exactly(2, procfs.source().children(pid))))
        for gone in (first, second):
            seen = look(pid, PoolSettings(limit=MIB), Vanishing(gone))
            assert {worker.id.pid for worker in seen.workers} == {first, second}


@needs_linux
def test_with_depth_2_a_child_of_the_wrapper_that_ends_during_the_look_is_not_a_lost_manager():
    with pool(2, 40, "wrapped") as pid:
        wrapper = psutil.Process(pid).ppid()

        class WithOneThatEnds(Vanishing):
            def children(self, pid: int) -> list[int]:
                return [*super().children(pid), 99999999] if pid == wrapper else super().children(pid)

        seen = look(wrapper, PoolSettings(limit=30 * MIB, depth=2), WithOneThatEnds(99999999))
        assert (seen.manager.pid, len(seen.workers)) == (pid, 2)


@needs_root
@needs_linux
def test_a_lock_file_of_another_user_does_not_prove_another_listener():
    process = procfs.source().process(os.getpid()).id
    path = Path(tempfile.gettempdir()) / f"memreap-{process.pid}-{process.start_time:.2f}-listener.lock"
    path.touch(mode=0o644)
    os.chown(path, NOBODY, NOBODY)
    with path.open() as theirs:
        fcntl.flock(theirs, fcntl.LOCK_EX)
        with pytest.raises(Unlockable, match=f"by a file of user {NOBODY}"):
            lock.take_file(process, "listener")


@needs_root
@needs_linux
def test_no_other_user_can_prevent_a_listener_from_starting_by_its_file():
    process = procfs.source().process(os.getpid()).id
    path = Path(tempfile.gettempdir()) / f"memreap-{process.pid}-{process.start_time:.2f}-alone.lock"
    assert as_unprivileged_user(lambda: lock.take_file(process, "alone", 0o600) > 0) == "True"
    assert (path.stat().st_uid, path.stat().st_mode & 0o777) == (NOBODY, 0o600)
    path.chmod(0o600)
    os.chown(path, 0, 0)  # to the stranger it is another user's file
    assert as_unprivileged_user(lambda: _opens(path)) == "False"


def _opens(path: Path) -> bool:
    try:
        return path.open().readable()
    except PermissionError:
        return False


@needs_linux
def test_a_pidfd_that_cannot_be_opened_for_lack_of_descriptors_is_not_replaced_by_the_pid(monkeypatch):
    def fails(_pid):
        raise OSError(errno.EMFILE, "Too many open files")

    with looked(1, 40) as (_pid, seen, worker):
        monkeypatch.setattr(os, "pidfd_open", fails)
        assert reap(seen, worker).result == "failed"
        assert psutil.pid_exists(worker.id.pid)


@pytest.mark.parametrize(
    ("mounts", "expected"),
    [
        (["proc /proc proc"], True),
        (["proc /proc proc", "tmpfs /proc/7 tmpfs"], True),
        (["proc /proc proc", "x /proc/42 fuse.x"], False),
        (["proc /proc proc", "x /proc/42/personality fuse.x"], False),
        (["proc /proc proc", "x /proc fuse.x"], False),
        (["ext4 / ext4"], False),
        ([], False),
    ],
)
def test_a_lock_is_taken_in_the_visible_proc_only_if_it_is_the_kernels(mounts, expected):
    lines = [f"1 2 0:3 / {point} rw - {kind} {source} rw" for source, point, kind in map(str.split, mounts)]
    assert lock._is_of_the_kernel("/proc/42", "\n".join(lines).encode()) is expected


class Names(Source):
    """A view of processes that have only names."""

    def __init__(self, **names: str):
        super().__init__()
        self._names = {int(pid.lstrip("p")): name for pid, name in names.items()}

    def names(self, pid: int) -> servers.Names:
        if pid not in self._names:
            raise ProcessLookupError(pid)
        return servers.Names(self._names[pid], [self._names[pid]], self._names[pid])


@pytest.mark.parametrize(
    ("names", "server"),
    [
        ({"p1": "uwsgi", "p11": "uwsgi"}, "uWSGI"),
        # Where descriptors are not shown, its worker class is not either.
        ({"p1": "gunicorn", "p11": "gunicorn"}, "gunicorn of an unknown worker class"),
        ({"p1": "multiwatch", "p11": "php-cgi"}, "multiwatch"),
        ({"p1": "multiwatch", "p11": "fcgiwrap"}, "multiwatch"),
        ({"p1": "sh", "p12": "unicorn"}, "unicorn"),  # the first has just left
        ({"p1": "sh", "p11": "cat"}, ""),
        ({"p1": "sh"}, None),
    ],
)
def test_the_server_of_a_pool_is_that_of_its_workers_or_of_a_manager_without_a_graceful_signal(names, server):
    workers = tuple(Worker(ProcessId(pid, 1.0), 60.0, 0) for pid in (11, 12))
    pool_of_two = Pool("myapp", "RUNNING", "", ProcessId(1, 0.5), 60.0, workers)
    assert host_look.server_of(pool_of_two, Names(**names)) == server
    assert host_look.server_of(Pool("myapp", "STOPPED"), Names(**names)) is None
