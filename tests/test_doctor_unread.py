"""`memreap doctor`: what is written compared with what supervisord runs, and what machine and listener allow."""

from __future__ import annotations

import functools
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from support import stack
from support.doctor import BIN, assert_found, doctor, needs_root, running
from support.driver import POOL, eventually
from support.stack import INTERFACE, PLUGIN, python_for

from supervisor_memreap.core.model import ProcessId, Program, Worker, WorkerDetail
from supervisor_memreap.core.settings import PoolSettings, Settings
from supervisor_memreap.doctor import attach, finding, listening, rights, workers
from supervisor_memreap.host import procfs
from supervisor_memreap.supervisord.configfile import ConfigFile

TEXT = f"""\
[program:myapp]
command={sys.executable} {POOL} 2 5
stopwaitsecs=70
environment=A="%(ENV_HOME)s"
[memreap:myapp]
limit=1GB
min_age=1s
[eventlistener:memreap]
command={BIN}/memreap listen
events=TICK_5,REMOTE_COMMUNICATION
environment=TMPDIR="WHERE"
"""


def change(where: Path, old: str, new: str) -> None:
    conf = where / "supervisord.conf"
    text = conf.read_text()
    assert text.count(old) == 1, old
    conf.write_text(text.replace(old, new))


def supervisorctl(where: Path, *words: str, python: str = sys.executable) -> str:
    command = [python, "-m", "supervisor.supervisorctl", "-c", f"{where}/supervisord.conf", *words]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60).stdout


def assert_read(where: Path) -> None:
    assert_found(where, r"(?s)\A(?!.*has not read).*no problems found\n\Z", 0)


@pytest.mark.parametrize("version", stack.ENVIRONMENTS)
def test_what_supervisord_has_not_read_yet_is_found_with_what_update_will_restart(where, version):
    python = stack.python_with(version)
    with running(where, f"{TEXT}[program:old]\ncommand=sleep 1000\n", python=python):
        eventually(lambda: assert_read(where))
        change(where, "stopwaitsecs=70", "stopwaitsecs=80")
        change(where, "[program:old]", "[program:new]")
        expression = (
            r"supervisord: it has not read all of its configuration: run supervisorctl update, which will start: new;"
            r" restart: myapp \(stopwaitsecs: 70, now 80\); stop and remove: old\n"
        )
        assert_found(where, expression)
        # doctor has changed nothing, or supervisord would have taken the file over.
        assert_found(where, expression)
        output = supervisorctl(where, "update", python=python)
        assert {"myapp: updated process group", "new: added process group", "old: removed process group"} <= {
            *output.splitlines()
        }
        eventually(lambda: assert_read(where))


def test_what_supervisord_has_read_and_not_applied_is_found_through_the_interface(where):
    with running(where, TEXT + INTERFACE + PLUGIN):
        eventually(lambda: assert_read(where))
        change(where, "stopwaitsecs=70", "stopwaitsecs=80")
        assert supervisorctl(where, "reread") == "myapp: changed\n"
        assert_found(where, r"run supervisorctl update, which will restart: myapp \(read, but not applied\)\n")


def test_a_listener_that_supervisord_has_not_read_yet_is_found_and_one_that_is_gone_from_the_file(where):
    pool_alone, listener = TEXT.split("[eventlistener")
    with running(where, pool_alone):
        conf = where / "supervisord.conf"
        before = conf.read_text()
        conf.write_text(f"{before}[eventlistener{listener.replace('WHERE', str(where))}")
        assert_found(where, r"supervisord: it has not read all of .*, which will start: memreap\n")
        supervisorctl(where, "update")
        eventually(lambda: assert_read(where))
        conf.write_text(before)
        assert_found(where, r"supervisord: it has not read all of .*, which will stop and remove: memreap\n")


def test_what_update_does_to_others_is_a_note(where):
    with running(where, TEXT):
        eventually(lambda: assert_read(where))
        with (where / "supervisord.conf").open("a") as conf:
            conf.write("[program:other]\ncommand=sleep 1000\n")
        assert_found(where, r"supervisord: note: it has not read all of .*, which will start: other\n", 0)


@needs_root
def test_a_socket_that_the_listeners_user_may_not_open_is_found(where):
    where.chmod(0o1777)
    command = python_for("www-data", where)
    text = TEXT.replace(f"{BIN}/memreap listen", f"{command} listen\nuser=www-data")
    text = text.replace(f"command={sys.executable} {POOL}", f"user=www-data\ncommand=/usr/bin/python3 {where}/pool.py")
    shutil.copy(POOL, where)
    expression = (
        rf"listener: its user www-data may not open supervisord's socket {where}/s.sock, .*: set chown=www-data"
    )
    with running(where, text):
        eventually(lambda: assert_found(where, expression))
    with running(where, text, http=f"[unix_http_server]\nfile={where}/s.sock\nchown=www-data\n"):
        eventually(lambda: assert_found(where, r"no problems found\n\Z", 0))


@pytest.mark.parametrize(
    ("user", "remedy"),
    [(33, "set chown=www-data in [unix_http_server], then "), (2**22, "run it as a user that has a name here")],
)
def test_no_chown_is_advised_with_which_supervisord_would_not_start(where, monkeypatch, user, remedy):
    (where / "supervisord.conf").write_text(f"[supervisorctl]\nserverurl=unix://{where}/s.sock\n")
    actor = rights.Rights((user,) * 4, (33,) * 4, (), 0, 0)
    monkeypatch.setattr(listening, "rights_of_listener", lambda case: actor)
    monkeypatch.setattr(rights, "run_as", lambda actor, work: b"refused")
    case = finding.Case(ConfigFile(f"{where}/supervisord.conf").read(), (), Settings({}), {}, procfs.source(), 0.0)
    (found,) = listening._socket(case)
    assert remedy in found.text


def test_a_limit_above_the_memory_of_the_machine_is_found(where):
    with running(where, TEXT.replace("limit=1GB", "limit=999TB")):
        expression = (
            r"myapp: its limit of .* is above the memory of this (machine|container) \(.*\): memory runs out before"
        )
        eventually(lambda: assert_found(where, expression))


def test_a_limit_that_all_workers_together_cannot_reach_is_a_note():
    settings = PoolSettings(limit=1024**3)
    (finding,) = workers.check_memory(settings, 10, (8 * 1024**3, "container"))
    assert not finding.harms
    expression = (
        r"10 workers of up to 1.0 GiB each are together above the memory of this container .*; a limit= of 819MB"
    )
    assert re.match(expression, finding.text), finding.text
    assert not list(workers.check_memory(settings, 8, (8 * 1024**3, "machine")))
    assert not list(workers.check_memory(PoolSettings(limit=1024**4, metric="vms"), 8, (8 * 1024**3, "machine")))
    assert not list(workers.check_memory(settings, 99, None))


def refused(settings: PoolSettings, **may: bool):
    """What doctor finds where the listener may not do all to a worker of 20 MiB."""
    worker = Worker(ProcessId(2**22 + 1, 0.0), age=60.0, bound=20 * 1024**2)
    access = rights.Access(**{"signals": True, "reads": True, "holds": True, **may})
    return workers.check_access(worker, settings, 33, access)


def test_a_size_that_may_not_be_read_is_a_problem_only_where_there_is_a_limit():
    finding = refused(PoolSettings(limit=150 * 1024**2), reads=False)
    assert finding.harms
    assert re.match(r"the listener \(user 33\) may not read the uss of worker \d+, and sends nothing", finding.text)
    assert refused(PoolSettings(limit=150 * 1024**2, metric="rss"), reads=False) is None
    assert refused(PoolSettings(max_age=3600.0), reads=False) is None


ROOT = rights.Rights((0, 0, 0, 0), (0, 0, 0, 0), (), (1 << 19) - 1, 0)  # all capabilities below CAP_SYS_PTRACE
USER = rights.Rights((33, 33, 33, 33), (33, 33, 33, 33), (), 0, 0)
OTHER = USER._replace(users=(34, 34, 34, 34))


@pytest.mark.parametrize(
    ("attaching", "remedy"),
    [
        (attach.Attaching(ROOT, USER, False, 0, True), "this root lacks CAP_SYS_PTRACE: .*docker run --cap-add SYS_"),
        (attach.Attaching(ROOT, USER, False, 3, True), "ptrace_scope=3 forbids that to all processes until the next b"),
        (attach.Attaching(ROOT._replace(effective=1 << 19), USER, False, 1, True), "so a debugger, a seccomp filter"),
        (attach.Attaching(OTHER, USER, False, 0, True), "it is user 34, the worker user 33: remove user= from .eventl"),
        (attach.Attaching(USER, USER, True, 0, True), "the worker was root before, .*: remove user= from"),
        (attach.Attaching(USER, USER, False, 1, True), "ptrace_scope=1: remove user= .*, which restarts only memreap"),
        (attach.Attaching(USER, USER, False, 1, False), "ptrace_scope=1: run supervisord as root, or set kernel.yama"),
        (
            attach.Attaching(USER, USER, False, 0, False),
            "capabilities that it lacks, .*: run supervisord as root",
        ),
    ],
)
def test_that_the_listener_may_not_attach_is_a_note_with_the_reason_and_the_remedy(attaching, remedy):
    detail = WorkerDetail(0, True, "FCGI::ProcManager")
    worker = Worker(ProcessId(2**22 + 1, 0.0), age=60.0, bound=0, detail=detail)
    finding = workers.not_attached(attaching, worker, PoolSettings())
    assert not finding.harms
    assert re.search("after idle_wait=60 s while busy, by USR1 .0 of 793", finding.text)
    assert re.search(remedy, finding.text), finding.text


def test_where_nothing_can_be_sent_without_ptrace_that_is_a_problem():
    worker = Worker(ProcessId(2**22 + 1, 0.0), age=60.0, bound=0, detail=WorkerDetail(0, True, "Starman"))
    finding = workers.not_attached(attach.Attaching(ROOT, USER, False, 0, True), worker, PoolSettings())
    assert finding.harms
    assert "so nothing is sent, since those of Starman lose requests otherwise" in finding.text


def test_of_a_listener_that_does_not_run_supervisords_own_reason_is_given_and_where_to_look():
    program = Program("memreap", "memreap", "FATAL", 0, spawnerr="Exited too quickly (process log may have details)")
    text = "memreap is FATAL (Exited too quickly (process log may have details)): see its log, then supervisorctl start"
    assert listening.not_running(program) == finding.Finding("listener", f"{text} memreap")
    assert (
        "set command=" in listening.not_running(Program("m", "m", "FATAL", 0, spawnerr="can't find command 'm'")).text
    )


@pytest.mark.parametrize(("server", "harms"), [("Starman", True), ("FCGI::ProcManager", False)])
def test_that_hold_is_off_is_a_problem_where_nothing_can_be_sent_then(server, harms):
    worker = Worker(ProcessId(2**22 + 1, 0.0), age=60.0, bound=0, detail=WorkerDetail(0, True, server))
    finding = workers.not_to_hold(worker, PoolSettings(hold=False))
    assert (finding is not None) == harms
    if finding:
        assert finding.harms
        assert finding.text == (
            "hold=no: nothing is sent, since those of Starman lose requests otherwise: remove hold=no"
        )


def test_a_process_that_has_changed_its_user_may_not_be_attached_to_by_that_user(tmp_path):
    if os.getuid() != 0:
        pytest.skip("only root can change its user")
    started = {}
    for name, does in {"changed": "", "started": "os.execv('/bin/sleep', ['sleep', '60']);"}.items():
        code = f"import os, time; os.setgid(33); os.setuid(33); {does} time.sleep(60)"
        started[name] = subprocess.Popen([sys.executable, "-c", code])
    try:
        for name, process in started.items():
            eventually(functools.partial(assert_changed, process.pid, name == "changed"))
    finally:
        for process in started.values():
            process.kill()
            process.wait()


def assert_changed(pid: int, expected: bool) -> None:
    seen = attach.of(USER, pid, 1, "")
    assert (seen.worker.users[1], seen.has_changed_user) == (33, expected)


def test_with_an_age_alone_that_workers_may_not_be_signalled_is_still_a_problem():
    finding = refused(PoolSettings(max_age=3600.0), signals=False)
    assert finding.harms
    assert "may not signal worker" in finding.text


@pytest.mark.parametrize("sections", [INTERFACE + PLUGIN, ""], ids=["with the interface", "from what is written down"])
def test_a_suspended_pool_is_a_problem_with_its_reason_and_a_setting_that_fits(where, sections):
    text = TEXT.replace("limit=1GB", "limit=1MB\nmetric=rss\nsettle=1s")
    resume = " or supervisorctl memreap resume myapp" if sections else ""
    change = ", its settings change" if sections else " or its settings change"
    with running(where, text + sections):
        expression = (
            rf"myapp: suspended since [-0-9 :]+, nothing is sent until [-0-9 :]+{change}{resume}:"
            r" its limit is too low; set limit=\d+MB or more\n"
        )
        eventually(lambda: assert_found(where, expression), timeout=60)


@pytest.mark.parametrize("remembered", [False, True], ids=["with the interface", "from what is written down"])
def test_a_paused_pool_is_a_note(where, remembered):
    with running(where, TEXT + INTERFACE + PLUGIN):

        def pause() -> None:
            assert "paused" in supervisorctl(where, "memreap", "pause", "myapp")

        eventually(pause)
        eventually(
            lambda: assert_found(
                where, r"myapp: note: paused: nothing is sent until supervisorctl memreap resume myapp", 0
            )
        )
        if remembered:
            # As where supervisord is started anew without the interface, and the listener reads what it wrote.
            change(where, INTERFACE, "")
            supervisorctl(where, "reload")
            expression = (
                r"is unknown(.*\n)*.*myapp: note: paused: nothing is sent until supervisorctl memreap resume myapp"
            )
            eventually(lambda: assert_found(where, expression))


def test_that_starman_replaces_workers_by_itself_is_said_and_is_no_fault(where):
    shutil.copy(POOL, where / "starman")
    text = TEXT.replace(str(POOL), f"{where}/starman").replace(" 2 5\n", " 2 5 --listen :5001\n")
    with running(where, text):
        eventually(lambda: assert_read(where))
        output = doctor(where).stdout
        assert "myapp: ok: Starman itself replaces each worker after 1000 requests, which is harmless\n" in output
