"""`memreap doctor`: what the listener may do to its workers, tried with the rights of real processes."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from support.doctor import (
    CONTAINED,
    LISTENER,
    READY,
    SOUND,
    SUPERVISORD,
    Process,
    assert_finds,
    changed,
    examined,
    needs_root,
    pool,
    row,
)
from support.driver import assert_matches, eventually, until
from support.stack import INTERFACE, PLUGIN

from supervisor_memreap.core.model import ProcessId, Worker, WorkerDetail
from supervisor_memreap.core.settings import PoolSettings
from supervisor_memreap.doctor import attach, rights, workers

WITHOUT_PTRACE = ("setpriv", "--bounding-set", "-sys_ptrace")
# With CAP_PERFMON or CAP_SYS_ADMIN Linux 6.15 and later let it read.
WITHOUT_READING = ("setpriv", "--bounding-set", "-sys_ptrace,-perfmon,-sys_admin")


@contextlib.contextmanager
def sleeping(*within: str, user: str | int | None = None):
    """The pid of a process of this user; `within` is a command that runs it, such as setpriv."""
    with subprocess.Popen([*within, "sleep", "1000"], user=user, group=user and "www-data", extra_groups=[]) as process:
        try:
            until(Path(f"/proc/{process.pid}/comm").read_text, "sleep\n")
            yield process.pid
        finally:
            process.kill()


def examined_with(actor: int, worker: int, text: str = SOUND, mib: int | None = 5, **more) -> str:
    """What doctor finds where these processes are the listener and a worker."""
    return examined(text, [row("myapp"), row("memreap", actor)], pool(pids=[worker], mib=mib), **more)


@needs_root
def test_a_listener_that_cannot_signal_the_workers_is_reported():
    with sleeping() as worker, sleeping(user="www-data") as listener:
        expression = (
            rf"myapp: the listener \(user 33\) has no permission to signal worker {worker} \(user 0\): run it as"
        )
        assert_finds(expression, examined_with(listener, worker))


@needs_root
def test_a_listener_that_cannot_take_the_lock_of_the_manager_is_reported():
    """As that of a pool whose manager is root and whose workers are not, with the workers' user."""
    with sleeping() as manager, sleeping(user="www-data") as worker, sleeping(user="www-data") as listener:
        processes = {manager: Process(SUPERVISORD, "perl-fcgi-pm"), worker: Process(manager)}
        found = examined(SOUND, [row("myapp", manager), row("memreap", listener)], processes)
    assert_finds(
        r"myapp: the listener \(user 33\) may not take the lock of the manager, so it sends nothing: run it as root:"
        r" set or remove user= in its section",
        found,
    )


@needs_root
def test_a_listener_that_cannot_read_the_workers_is_reported():
    with sleeping(user="www-data") as worker, sleeping(*WITHOUT_READING) as listener:
        may_not = (
            rf"myapp: the listener \(user 0\) has no permission to read the uss of worker {worker} .*CAP_SYS_PTRACE"
        )
        assert_finds(may_not, examined_with(listener, worker))
        found = examined_with(listener, worker, changed(("limit=150MB", "limit=150MB\nmetric=rss")))
        assert_finds(
            r"myapp: note: the listener \(user 0\) has no permission to hold workers between two requests \(ptrace\),"
            r" so they are signalled when seen idle, and after idle_wait=60 s while busy, by USR1 \(0 of 300 .*\); this"
            r" root lacks CAP_SYS_PTRACE: start the container with it: docker run --cap-add SYS_PTRACE",
            found,
        )
        assert_finds(
            "myapp: note: no permission to read the sockets of its processes, so memreap cannot tell when", found
        )


@needs_root
def test_the_rights_of_the_listener_are_tried_not_computed():
    """Whether root without CAP_SYS_PTRACE may read depends on the kernel: doctor reports the result of a read."""
    with sleeping(user="www-data") as worker, sleeping(*WITHOUT_PTRACE) as listener:
        read = [*WITHOUT_PTRACE, "head", "-c", "1", f"/proc/{worker}/smaps_rollup"]
        may_read = subprocess.run(read, capture_output=True, check=False).returncode == 0
        note = r"note: the listener \(user 0\) has no permission to hold workers"
        assert_finds(
            f"myapp: {note if may_read else 'the listener .* has no permission to read'}",
            examined_with(listener, worker),
        )


@needs_root
def test_where_the_listener_lacks_a_right_too_doctor_is_to_be_run_with_it(monkeypatch):
    monkeypatch.setattr(rights, "lacking", lambda: ["CAP_SYS_PTRACE"])
    with sleeping(user="www-data") as worker, sleeping(*CONTAINED) as actor:
        found = examined_with(actor, worker, SOUND + INTERFACE + PLUGIN, mib=None, listener=READY)
    unread = r"no permission to read the uss of its workers from here \(this root lacks CAP_SYS_PTRACE\)"
    remedy = r"run memreap doctor as root with CAP_SYS_PTRACE \(in Docker: --cap-add SYS_PTRACE\)"
    assert_matches(f"myapp: note: its limit was not checked: {unread}: {remedy}\n", found)


@needs_root
@pytest.mark.parametrize(
    ("user", "remedy"),
    [
        ("www-data", r"set chown=root:GROUP \(a group of www-data, .*\) and chmod=0770 in .*, then "),
        (2**21, "run it as a user that has a n"),
    ],
)
def test_a_socket_that_the_user_of_the_listener_cannot_open_is_reported(where, user, remedy):
    """No chown= is advised with which supervisord would not start."""
    path = where / "s.sock"
    text = f"{SOUND}[supervisorctl]\nserverurl=unix://{path}\n"
    with socket.socket(socket.AF_UNIX) as server, sleeping(user=user) as listener:
        server.bind(str(path))
        server.listen()
        path.chmod(0o700)
        found = examined_with(listener, LISTENER, text)
        assert_finds(
            f"listener: its user {user} has no permission to open supervisord's socket {path}, .*: {remedy}", found
        )
        path.chmod(0o777)
        assert "may not open" not in examined_with(listener, LISTENER, text)


@needs_root
def test_a_history_that_the_user_of_the_listener_cannot_write_is_a_note(where):
    (where / "closed").mkdir(0o755)
    with sleeping(user="www-data") as worker, sleeping(user="www-data") as listener:
        found = examined_with(listener, worker, f"{SOUND}[memreap]\nhistory={where}/closed/history.sqlite\n")
    assert_matches(
        f"history: note: nothing is recorded: cannot create a file in {where}/closed, for the listener's user"
        r" www-data: set history=PATH in \[memreap\] to a file in a directory of that user, or off\n",
        found,
    )


def refused(settings: PoolSettings, **may: bool):
    """What doctor finds where the listener may not do all to a worker."""
    access = rights.Access(**{"signals": True, "reads": True, "holds": True, "locks": True, **may})
    return workers.check_access(of_server(""), settings, 33, access)


def test_a_size_that_may_not_be_read_is_a_problem_only_where_there_is_a_limit_and_a_signal_always():
    assert refused(PoolSettings(limit=150 * 1024**2), reads=False).harms
    assert refused(PoolSettings(limit=150 * 1024**2, metric="rss"), reads=False) is None
    assert refused(PoolSettings(max_age=3600.0), reads=False) is None
    finding = refused(PoolSettings(max_age=3600.0), signals=False)
    assert finding.harms
    assert "has no permission to signal worker" in finding.text


ROOT = rights.Rights((0, 0, 0, 0), (0, 0, 0, 0), (), (1 << 19) - 1, 0)  # all capabilities below CAP_SYS_PTRACE
USER = rights.Rights((33, 33, 33, 33), (33, 33, 33, 33), (), 0, 0)
OTHER = USER._replace(users=(34, 34, 34, 34))


@pytest.mark.parametrize(
    ("attaching", "remedy"),
    [
        (attach.Attaching(ROOT, USER, False, 0, True), "this root lacks CAP_SYS_PTRACE: "),
        (
            attach.Attaching(ROOT, USER, False, 3, True),
            "ptrace_scope=3 forbids that for all processes until the next b",
        ),
        (attach.Attaching(ROOT._replace(effective=1 << 19), USER, False, 1, True), "so a debugger, a seccomp filter"),
        (
            attach.Attaching(OTHER, USER, False, 0, True),
            "it runs as user 34, the worker as user 33: remove user= from .eventl",
        ),
        (attach.Attaching(USER, USER, True, 0, True), "the worker once ran as root, .*: remove user= from"),
        (attach.Attaching(USER, USER, False, 1, True), "ptrace_scope=1: remove user= .*, which restarts only memreap"),
        (attach.Attaching(USER, USER, False, 1, False), "ptrace_scope=1: run supervisord as root, or set kernel.yama"),
        (attach.Attaching(USER, USER, False, 0, False), "capabilities that it lacks, .*: run supervisord as root"),
    ],
)
def test_a_listener_without_ptrace_is_a_note_with_reason_and_remedy(attaching, remedy):
    finding = workers.not_attached(attaching, of_server("FCGI::ProcManager"), PoolSettings())
    assert not finding.harms
    assert_matches(remedy, finding.text)


def of_server(name: str) -> Worker:
    return Worker(ProcessId(2**22 + 1, 0.0), age=60.0, bound=0, detail=WorkerDetail(0, True, name))


def test_missing_ptrace_is_a_problem_where_nothing_can_be_sent_without_it():
    finding = workers.not_attached(attach.Attaching(ROOT, USER, False, 0, True), of_server("Starman"), PoolSettings())
    assert finding.harms
    assert "so nothing is sent, since workers of Starman lose requests otherwise" in finding.text


def test_hold_no_is_a_problem_where_nothing_can_be_sent_without_holding():
    assert workers.not_to_hold(of_server("FCGI::ProcManager"), PoolSettings(hold=False)) is None
    finding = workers.not_to_hold(of_server("Starman"), PoolSettings(hold=False))
    assert finding.harms
    assert_matches("^hold=no: nothing is sent, since workers of Starman .*: remove hold=no$", finding.text)


@needs_root
@pytest.mark.parametrize("does", ["", "os.execv('/bin/sleep', ['sleep', '60']);"])
def test_a_process_that_has_changed_its_user_may_not_be_attached_to_by_that_user_until_it_runs_a_program(does):
    code = f"import os, time; os.setgid(33); os.setuid(33); {does} time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", code]) as process:
        try:
            eventually(lambda: assert_changed(process.pid, not does))
        finally:
            process.kill()


def assert_changed(pid: int, expected: bool) -> None:
    seen = attach.of(USER, pid, 1, "")
    assert (seen.worker.users[1], seen.has_changed_user) == (33, expected)
