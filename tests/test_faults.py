"""Real faults around memreap: in none of them is a wrong process signalled."""

from __future__ import annotations

import contextlib
import functools
import glob
import os
import re
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from support import stack
from support.boundary import hup_to
from support.driver import (
    POOL,
    assert_have_served,
    eventually,
    exactly,
    is_alive,
    listening,
    listening_in,
    pool,
    stop,
    supervisord,
    until,
    workers_below,
)
from support.looking import SETTINGS, look, look_in_full, order_of, reap
from support.reaping import wait_for

from supervisor_memreap.core import events, policy
from supervisor_memreap.core.model import Program
from supervisor_memreap.core.reasons import OverLimit
from supervisor_memreap.core.settings import Settings
from supervisor_memreap.host import attempt, boundary
from supervisor_memreap.host.procfs import Procfs
from supervisor_memreap.host.thismachine import ThisMachine
from supervisor_memreap.listener.reaper import Reaper
from supervisor_memreap.outputs.eventlog import Log

BYSTANDER = POOL.with_name("bystander.py")
QUICK = "limit=30MB\nmin_age=1s\nsettle=1s\n"
needs_linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
needs_root = pytest.mark.skipif(os.getuid() != 0, reason="becomes another user")


@pytest.fixture
def log(tmp_path):
    return tmp_path / "listener.log"


def program(*command: object, name: str = "myapp", more: str = "") -> str:
    words = " ".join(map(str, (sys.executable, *command)))
    return f"[program:{name}]\ncommand={words}\nautorestart=false\nstopasgroup=true\nkillasgroup=true\n{more}"


def spawned(directory: Path, name: str) -> list[int]:
    """The pids that supervisord gave to this program, the last one last."""
    return [int(pid) for pid in re.findall(rf"spawned: '{name}' with pid ([0-9]+)", (directory / "s.log").read_text())]


def workers_of(directory: Path, name: str = "myapp") -> set[int]:
    return workers_below(spawned(directory, name)[-1])


@contextlib.contextmanager
def among_bystanders(directory: Path, programs: str, **options):
    """A real supervisord with these programs, and with others that are not configured for memreap: those stay.

    `aside` is a pool of the same kind, `bystander` a manager with a worker that write down every signal.
    """
    recorded = directory / "signals"
    others = program(POOL, 1, 40, name="aside") + program(BYSTANDER, recorded, name="bystander")
    with supervisord(directory, programs + others + stack.recorder(directory), **options) as process:
        names = ("aside", "bystander")
        before = {name: eventually(lambda name=name: exactly(1, workers_of(directory, name))) for name in names}
        yield process
        assert recorded.read_text() == ""
        assert {name: workers_of(directory, name) for name in names} == before
        assert all(len(spawned(directory, name)) == 1 for name in names)


def signalled(emitted: list[events.Event]) -> list[int]:
    return [event.pid for event in emitted if isinstance(event, events.Signalled)]


# The log is not read, or it is closed.


def replaced(directory: Path, before: set[int]) -> None:
    now = workers_of(directory)
    assert len(now) == len(before)
    assert not now & before


def test_with_stderr_closed_it_answers_and_reaps(log, tmp_path):
    closed = ("sh", "-c", 'exec "$@" 2>&-', "sh")
    with among_bystanders(tmp_path, program(POOL, 1, 40) + f"[memreap:myapp]\n{QUICK}"):
        before = workers_of(tmp_path)
        with listening_in(tmp_path, log=log, through=closed) as listener:
            eventually(lambda: listener.tick() and replaced(tmp_path, before))
            listener.tick()
            (process,) = psutil.Process(listener.process.pid).children()
            # Else the next descriptor is 2, and what a library writes there goes to the owner of that descriptor.
            assert os.readlink(f"/proc/{process.pid}/fd/2") == os.devnull
    assert log.read_bytes() == b""


def all_of(readable: int) -> bytes:
    """The present content of a pipe."""
    text = b""
    with contextlib.suppress(BlockingIOError):
        while chunk := os.read(readable, 65536):
            text += chunk
    return text


@pytest.fixture
def full_pipe(tmp_path):
    """A named pipe with not one byte of room, and a descriptor to read it with."""
    path = tmp_path / "full"
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    writer = os.open(path, os.O_WRONLY | os.O_NONBLOCK)
    for size in (65536, 1):
        with contextlib.suppress(BlockingIOError):
            while True:
                os.write(writer, b"\n" * size)
    os.close(writer)
    yield path, reader
    os.close(reader)


def test_with_a_log_that_is_not_read_it_answers_and_reaps_and_reports_lost_lines(log, tmp_path, full_pipe):
    path, reader = full_pipe
    into = ("sh", "-c", f'exec "$@" 2>{path}', "sh")
    programs = program(POOL, 1, 40) + f"[memreap:myapp]\n{QUICK}"
    with among_bystanders(tmp_path, programs + "[include]\nfiles=*.ini\n"):
        before = workers_of(tmp_path)
        with listening_in(tmp_path, log=log, through=into) as listener:
            eventually(lambda: listener.tick() and replaced(tmp_path, before))
            listener.tick()
            assert all_of(reader).strip(b"\n") == b""
            (tmp_path / "more.ini").write_text("[memreap:myapp]\nlimit=77MB\n")
            listener.tick()
        lost, *lines = all_of(reader).decode().splitlines()
    # Version, watching, sent and left were logged while there was no room, and it may have settled by then.
    assert re.search(" memreap: [45] log lines lost: nothing was reading the log$", lost)
    assert any(line.endswith(" memreap: watching myapp (limit 77 MiB uss)") for line in lines)
    others = [line for line in lines if " has settled in place of " not in line]
    assert len(others) == 2  # and that the section appears twice


def test_a_log_line_is_written_whole_or_not_at_all():
    readable, writable = os.pipe()
    os.set_blocking(readable, False)
    with os.fdopen(writable, "w") as stream:
        write = Log(stream)
        for _ in range(100):  # more than there is room for
            write(events.Resumed("myapp", 0.0, "\u00e4" * 3000))
        os.read(readable, 1)
        write(events.Resumed("myapp", 0.0, "one byte of room is none"))
        whole = all_of(readable).decode().splitlines()
        write(events.Resumed("myapp", 0.0, "room again"))
        missing, last = all_of(readable).decode().splitlines()
    os.close(readable)
    assert len(whole) == 65536 // select.PIPE_BUF
    assert {len(line.encode()) for line in whole[1:]} <= {select.PIPE_BUF - 1, select.PIPE_BUF - 2}
    assert f" {101 - len(whole)} log lines lost" in missing
    assert last.endswith(" memreap: myapp: resumed: room again")


# The listener has not the rights that it needs.


# As root in a container: newer kernels let CAP_PERFMON and CAP_SYS_ADMIN read what once needed CAP_SYS_PTRACE.
WITHOUT_PTRACE = ("setpriv", "--bounding-set=-sys_ptrace,-perfmon,-sys_admin")
AS_NOBODY = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")


def may_run(*through: str) -> None:
    """Skip where a command cannot run memreap for us."""
    try:
        subprocess.run([*through, sys.executable, "-m", "supervisor_memreap", "--version"], check=True, cwd="/")
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"cannot be run here: {error}")


def pool_of(user: str, workers: int, directory: Path, name: str = "myapp") -> str:
    """A pool that runs as this user, by a Python that every user may run."""
    for python in (sys.executable, "/usr/bin/python3"):
        with contextlib.suppress(OSError, subprocess.CalledProcessError):
            subprocess.run(
                [python, "-c", "import socket"], check=True, user=user, group=65534, extra_groups=[], cwd="/"
            )
            shutil.copy(POOL, directory)
            more = f"user={user}\n"
            return program(directory / POOL.name, workers, 40, name=name, more=more).replace(sys.executable, python)
    pytest.skip(f"no Python here that {user} may run")


# The user of each pool, and its metric.
POOLS = {"nobody": "uss", "daemon": "pss", "root": "uss", "bin": "rss"}


@pytest.fixture(scope="module")
def pools() -> Iterator[Path]:
    """The directory of a supervisord with POOLS that have served for a while, each over its limit."""
    if os.getuid() != 0:
        pytest.skip("becomes another user")
    directory = stack.directory()
    programs = "".join(pool_of(user, 2, directory, user) for user in POOLS)
    try:
        with among_bystanders(directory, programs, http=f"[unix_http_server]\nfile={directory}/s.sock\nchmod=0777\n"):
            for user in POOLS:
                eventually(lambda user=user: assert_have_served(spawned(directory, user)[-1], settle=1.0))
            yield directory
    finally:
        shutil.rmtree(directory)


def logged_without_a_signal(directory: Path, user: str, through: tuple[str, ...], text: str) -> list[str]:
    """The log of a listener of this pool that is run `through` this, two looks after it has logged `text`."""
    may_run(*through)
    conf = directory / "own.conf"
    # Its user may not write beside supervisord's log either, which would be a line as well.
    conf.write_text(f"[memreap]\nhistory=off\n[memreap:{user}]\nmetric={POOLS[user]}\nidle_wait=7s\n{QUICK}")
    before = workers_of(directory, user)
    log, environment = directory / "listener.log", {"SUPERVISOR_SERVER_URL": f"unix://{directory}/s.sock"}
    with listening("-c", str(conf), log=log, through=through, **environment) as listener:
        listener.until(text)
        for _ in range(2):
            listener.tick()
    assert workers_of(directory, user) == before
    return listener.lines()


@needs_linux
@pytest.mark.parametrize(
    ("through", "user"),
    [(WITHOUT_PTRACE, "nobody"), (AS_NOBODY, "daemon"), (AS_NOBODY, "root")],
    ids=["root without ptrace", "nobody for daemon", "nobody for root"],
)
def test_with_an_unreadable_metric_nothing_is_signalled_and_the_remedy_is_reported_once(pools, through, user):
    expected = "cannot be read: nothing sent"
    (line,) = [each for each in logged_without_a_signal(pools, user, through, expected) if expected in each]
    held = rf"{user}: worker \d+ may hold up to \d+ MiB, limit 30 MiB"
    remedy = "run memreap as the worker's user or as root with CAP_SYS_PTRACE"
    assert re.fullmatch(f"{held}, but its {POOLS[user]} cannot be read: nothing sent; {remedy} .*", line)


@needs_linux
def test_without_permission_nothing_is_signalled_and_the_remedy_is_reported_once(pools):
    expected = "nothing sent, not permitted"
    (line,) = [each for each in logged_without_a_signal(pools, "bin", AS_NOBODY, expected) if expected in each]
    remedy = "nothing sent, not permitted; run memreap as the worker's user or as root (user=)"
    assert re.fullmatch(rf"bin: worker \d+ holds \d+ MiB \(rss\), limit 30 MiB: {re.escape(remedy)}", line)


@needs_linux
def test_a_listener_that_cannot_see_supervisord_and_the_pool_reports_it(pools):
    through = ("unshare", "--mount", "sh", "-c", 'mount -t proc -o hidepid=2 proc /proc && exec "$@"', "sh", *AS_NOBODY)
    lines = logged_without_a_signal(pools, "daemon", through, "hidden from this user: not watched")
    assert re.match(r"supervisord \(process \d+\) is hidden from this user \(by hidepid= on /proc\?\): ", lines[0])
    assert "daemon: the program runs, but its processes are hidden from this user: not watched" in lines


@needs_linux
@needs_root
def test_root_without_ptrace_reaps_by_a_readable_metric_and_reports_the_uncertainty(sock):
    may_run(*WITHOUT_PTRACE)
    directory = sock.parent
    programs = pool_of("nobody", 1, directory) + f"[memreap:myapp]\nmetric=rss\nidle_wait=2s\n{QUICK}"
    with among_bystanders(directory, programs):
        before = workers_of(directory)
        with listening_in(directory, through=WITHOUT_PTRACE) as listener:
            eventually(lambda: listener.tick() and replaced(directory, before))
            listener.tick()
            until(lambda: len(announced(directory, "left")), 1)
    assert announced(directory, "reap") == announced(directory, "left") == list(before)
    assert len(before) == 1
    lines = [line for line in listener.lines() if "CAP_SYS_PTRACE" in line]
    assert len(lines) == len(set(lines))
    assert any("no permission to hold workers" in line for line in lines)


def announced(directory: Path, kind: str) -> list[int]:
    """The pids of the workers in these announcements."""
    return [event["pid"] for event in stack.announced(directory) if event["event"] == kind]


# The wall clock jumps.


def test_a_clock_that_jumps_an_hour_stops_nothing_permanently(log, tmp_path):
    with among_bystanders(tmp_path, program(POOL, 3, 40) + f"[memreap:myapp]\n{QUICK}checks=2\n"):
        before = workers_of(tmp_path)
        eventually(lambda: assert_have_served(spawned(tmp_path, "myapp")[-1], settle=1.0))
        with listening_in(tmp_path, log=log) as listener:
            for _ in range(4):
                listener.tick(payload=f"when:{int(time.time()) - 3600}")
            assert len(listener.lines()) == 1  # not even what is watched: nothing was looked at
            # Two looks are needed: one ahead of time and one after the jump back are two.
            listener.tick(payload=f"when:{int(time.time()) + 3600}")
            assert listener.lines()[1].startswith("watching myapp")
            until(lambda: listener.tick() and len(announced(tmp_path, "reap")) >= 1)
            listener.tick(payload=f"when:{int(time.time()) + 3600}")
            until(lambda: len(announced(tmp_path, "left")) >= 1)
            first = announced(tmp_path, "left")[0]
            assert first in before
            assert announced(tmp_path, "reap")[0] == first
            for _ in range(2):
                listener.tick(payload=f"when:{int(time.time()) - 3600}")
            until(lambda: listener.tick() and len(announced(tmp_path, "reap")) >= 2)
            until(lambda: len(workers_of(tmp_path)), 3)
        reaped = announced(tmp_path, "reap")
        assert before - workers_of(tmp_path) <= set(reaped)
        assert len(set(reaped)) == len(reaped)


# The manager is restarted, and a pid is used again, between the look and the signal.


def test_no_worker_of_a_manager_restarted_since_the_look_is_signalled(tmp_path):
    with among_bystanders(tmp_path, program(POOL, 2, 40)):
        (manager,) = spawned(tmp_path, "myapp")
        seen = look_in_full(manager)
        stack.control(tmp_path).stopProcess("myapp")
        stack.control(tmp_path).startProcess("myapp")
        until(lambda: len(workers_of(tmp_path)), 2)
        after = workers_of(tmp_path)
        assert [reap(seen, worker, idle_wait_expired=True).result for worker in seen.workers] == ["gone", "gone"]
        assert workers_of(tmp_path) == after
        assert not after & {worker.id.pid for worker in seen.workers}


def test_workers_that_outlive_a_replaced_manager_are_not_signalled(tmp_path):
    with among_bystanders(tmp_path, program(POOL, 2, 40).replace("autorestart=false", "autorestart=true")):
        (manager,) = spawned(tmp_path, "myapp")
        seen = look_in_full(manager)
        os.kill(manager, signal.SIGKILL)
        until(lambda: len(set(spawned(tmp_path, "myapp"))), 2)
        until(lambda: len(workers_of(tmp_path)), 2)
        after, orphans = workers_of(tmp_path), {worker.id.pid for worker in seen.workers}
        results = [reap(seen, worker, idle_wait_expired=True).result for worker in seen.workers]
        try:
            assert set(results) <= {"gone", "changed"}  # gone: its manager's process, which has been waited for
            assert all(psutil.Process(pid).is_running() for pid in orphans)
            assert workers_of(tmp_path) == after
        finally:
            for pid in orphans:
                os.kill(pid, signal.SIGKILL)


def test_no_worker_of_a_manager_that_ends_during_a_tick_is_signalled():
    emitted: list[events.Event] = []
    with pool(2, 40) as manager:

        def emit(event: events.Event) -> None:
            emitted.append(event)
            if isinstance(event, events.Left):  # emitted just before the next one goes
                os.kill(manager, signal.SIGKILL)
                os.waitpid(manager, 0)

        reaper = Reaper(ThisMachine(), (emit,))
        programs = [Program("myapp", "myapp", "RUNNING", manager)]
        settings = Settings({"myapp": {"limit": 30 * 1024**2, "min_age": 0.0, "settle": 0.0}})
        reaper.tick(programs, settings, time.monotonic())
        wait_for(reaper)
        (first,) = signalled(emitted)
        until(lambda: first not in exactly(2, workers_below(manager)))
        before = workers_below(manager)
        (other,) = (worker.id.pid for worker in look(manager).workers if worker.used)
        reaper.tick(programs, settings, time.monotonic())
        wait_for(reaper)
        (last,) = [event for event in emitted if isinstance(event, (events.LeftByItself, events.Changed))]
        assert (last.pid, type(last.reason)) == (other, OverLimit)
        assert all(psutil.Process(pid).is_running() for pid in before)
        reaper.tick(programs, settings, time.monotonic())
        reaper.close()
        assert signalled(emitted) == [first]
    assert glob.glob(f"{tempfile.gettempdir()}/memreap-{manager}.lock") == []


def make_next(pid: int) -> None:
    """The next process forked in this namespace gets this pid."""
    Path("/proc/sys/kernel/ns_last_pid").write_text(str(pid - 1))


def in_a_pid_namespace(function) -> None:
    """Run a function of this file where no other process forks, so that a pid can be reused."""
    enter = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"]
    try:
        subprocess.run([*enter, "true"], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no pid namespace may be made here: {error}")
    code = f"import test_faults; test_faults.{function.__name__}()"
    ended = subprocess.run(
        [*enter, sys.executable, "-c", code],
        cwd=POOL.parent.parent,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr


def a_strangers_pid() -> None:
    with pool(2, 40) as manager:
        seen = look_in_full(manager)
        worker = seen.workers[0]
        stop(manager)  # so that it forks no other
        os.kill(worker.id.pid, signal.SIGKILL)
        os.kill(manager, signal.SIGKILL)
        for pid in (manager, worker.id.pid):  # its orphans are ours, process 1; a pid is free when it was waited for
            with contextlib.suppress(ChildProcessError):  # its manager waited for it before it stopped
                os.waitpid(pid, 0)
        with tempfile.NamedTemporaryFile() as recorded:
            make_next(worker.id.pid)
            stranger = subprocess.Popen([sys.executable, BYSTANDER, recorded.name], stdout=subprocess.PIPE)
            stranger.stdout.readline()
            assert stranger.pid == worker.id.pid
            assert reap(seen, worker, idle_wait_expired=True).result == "gone"
            assert stranger.poll() is None
            assert recorded.read() == b""
            stranger.terminate()
            stranger.communicate()


def a_siblings_pid() -> None:
    with pool(2, 40) as manager:
        seen = look_in_full(manager)
        worker, other = seen.workers
        stop(manager)
        os.kill(worker.id.pid, signal.SIGKILL)
        make_next(worker.id.pid)
        os.kill(manager, signal.SIGCONT)
        eventually(lambda: assert_another(manager, seen, worker))
        again = next(sibling for sibling in look(manager).workers if sibling.id.pid == worker.id.pid)
        assert reap(seen, worker, idle_wait_expired=True).result == "gone"
        assert {sibling.id for sibling in look(manager).workers} == {again.id, other.id}


def assert_another(manager: int, seen, worker) -> None:
    now = {sibling.id for sibling in look(manager).workers}
    assert len(now) == 2
    assert worker.id not in now
    assert {sibling.pid for sibling in now} == {sibling.id.pid for sibling in seen.workers}


def a_siblings_pid_between_two_looks() -> None:
    emitted: list[events.Event] = []
    with pool(1, 40) as manager:
        settings = Settings({"myapp": {"limit": 64 * 1024, "min_age": 0.0, "checks": 2}})
        programs = [Program("myapp", "myapp", "RUNNING", manager)]
        reaper = Reaper(ThisMachine(), (emitted.append,))
        seen = look_in_full(manager)
        (worker,) = seen.workers
        reaper.tick(programs, settings, 0.0)
        stop(manager)
        os.kill(worker.id.pid, signal.SIGKILL)
        make_next(worker.id.pid)
        os.kill(manager, signal.SIGCONT)
        eventually(lambda: assert_only(manager, worker))
        reaper.tick(programs, settings, 1.0)
        assert emitted == []  # what was counted of the one is not the other's
        reaper.tick(programs, settings, 1.0 + policy.CALM)
        wait_for(reaper)
        assert signalled(emitted) == [worker.id.pid]
        reaper.close()


def assert_only(manager: int, worker) -> None:
    (successor,) = look(manager).workers
    assert successor.id != worker.id
    assert successor.id.pid == worker.id.pid


@needs_linux
@pytest.mark.parametrize("case", [a_strangers_pid, a_siblings_pid, a_siblings_pid_between_two_looks])
def test_another_process_with_a_reused_pid_is_not_signalled(case):
    in_a_pid_namespace(case)


# A worker exits on its own during a reap.


def end(worker: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(worker, signal.SIGKILL)


class EndsAt(Procfs):
    """The answers of /proc; just before the answer with this number the worker ends."""

    def __init__(self, worker: int, last: int):
        self.left = last
        self._worker = worker

    def _count(self) -> None:
        self.left -= 1
        if self.left == 0:
            end(self._worker)
            until(lambda: not is_alive(self._worker))

    def process(self, pid):
        self._count()
        return super().process(pid)

    def memory(self, pid):
        self._count()
        return super().memory(pid)

    def catches(self, pid, signum):
        self._count()
        return super().catches(pid, signum)

    def idle(self, pid):
        self._count()
        return super().idle(pid)


@needs_linux
@pytest.mark.parametrize("waited_for", [True, False], ids=["gone", "zombie"])
@pytest.mark.parametrize("words", [(), ("busy",)], ids=["idle", "busy"])
def test_a_worker_that_ends_before_any_reading_of_a_reap_is_gone(words, waited_for):
    """Six readings: each of one of the six workers that are over the limit; those that take their place are not."""
    with pool(7, 40, *words) as manager:
        look_in_full(manager)
        for last in range(1, 7):
            seen = look(manager)
            worker = next(worker for worker in seen.workers if worker.detail)
            if not waited_for:
                stop(manager)
            view = EndsAt(worker.id.pid, last)
            order = order_of(seen, worker, replace(SETTINGS, hold=False), idle_wait_expired=True)
            outcome = attempt.carry_out(order, view, os.pidfd_open(worker.id.pid), lambda _at: None)
            assert view.left <= 0, last
            assert outcome.result in ("gone", "changed"), last  # a zombie no longer has handlers
            os.kill(manager, signal.SIGCONT)
            until(lambda: len(workers_below(manager)), 7)
            others = {other.id for other in seen.workers if other is not worker}
            assert others < {sibling.id for sibling in look(manager).workers}, last


def hup_by(pidfd: int) -> None:
    signal.pidfd_send_signal(pidfd, signal.SIGHUP)


# There are ten steps in an attempt on an idle worker; the last is the end.
STEPS = 10


@pytest.mark.skipif(not boundary.is_usable(), reason="by ptrace")
def test_a_worker_that_ends_at_any_step_on_the_way_to_its_boundary_is_gone_or_was_signalled():
    with pool(3, 40) as manager:
        for last in range(STEPS):
            worker, *others = (sibling.id.pid for sibling in look(manager).workers)
            until(lambda worker=worker: Procfs().idle(worker))
            assert ended_at(last, manager, worker) in (b"g", b"qg", b"qs"), last
            eventually(functools.partial(assert_replaced_by_one, manager, worker, others))


def ended_at(last: int, manager: int, worker: int) -> bytes:
    """What an attempt reports whose worker ends before it, or after this number of steps."""
    pidfd = os.pidfd_open(worker)
    readable, writable = os.pipe()
    if os.fork() == 0:
        written = b""
        try:
            if last == 0:
                end(worker)
            bounds = boundary.Bounds(time.monotonic() + 10.0)
            steps = boundary.Tracer(worker, hup_to(worker, lambda: hup_by(pidfd)), bounds).steps(manager)
            for count, output in enumerate(steps, 1):
                written += output
                if count == last:
                    end(worker)
        except BaseException as error:
            written = repr(error).encode()
        finally:
            os.write(writable, written)
            os._exit(0)
    os.close(writable)
    os.wait()
    with open(readable, "rb") as file:
        reported = file.read()
    os.close(pidfd)
    return reported


def assert_replaced_by_one(manager: int, worker: int, others: list[int]) -> None:
    now = workers_below(manager)
    assert len(now) == 3
    assert worker not in now
    assert set(others) < now
