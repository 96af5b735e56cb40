"""`memreap doctor`: what each check finds, on a configuration, programs and processes that the test gives it.

What only a real supervisord, listener, Perl or server can show is in test_doctor_stack.py.
"""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import psutil
import pytest
from support import driver
from support.doctor import (
    MANAGER,
    READY,
    RUNNING,
    SOUND,
    SUPERVISORD,
    Process,
    assert_finds,
    assert_found,
    changed,
    doctor,
    examined,
    pool,
    row,
)
from support.driver import POOL, assert_matches, eventually
from support.stack import INTERFACE, PLUGIN

from supervisor_memreap import __version__
from supervisor_memreap import doctor as memreap_doctor
from supervisor_memreap.commands import cli
from supervisor_memreap.core.model import ProcessId, Worker, WorkerDetail
from supervisor_memreap.core.settings import PoolSettings
from supervisor_memreap.doctor import listening, program, workers
from supervisor_memreap.doctor.interpreter import Answer
from supervisor_memreap.supervisord.client import connect_as_supervisorctl

COMMAND = "python3 /srv/myapp.py"
# A shell whose only child is the manager.
BELOW_SHELL = {MANAGER - 1: Process(SUPERVISORD, "sh -c /srv/myapp; true"), **pool()}
BELOW_SHELL[MANAGER] = Process(MANAGER - 1, "perl-fcgi-pm")
ALIKE = "[program:myapp]\nstopwaitsecs=80\n"
SECOND = "[eventlistener:b]\ncommand=memreap listen\nevents=TICK_5\n"
TWICE = "[memreap:myapp]\nlimit=160MB\n"
MYAPP, MEMREAP = RUNNING


def test_no_problems_are_reported_on_a_correct_setup():
    assert examined(SOUND + INTERFACE + PLUGIN, processes=pool("gunicorn", "gunicorn"), listener=READY) == (
        "myapp: ok: gunicorn: workers are reaped with TERM (signal= is not set)\nno problems found\nexit status 0"
    )


@pytest.mark.parametrize(
    ("old", "new", "expression"),
    [
        (
            "150MB",
            "150 monkeys",
            "configuration: .*limit=150 monkeys: not a size, .*until .*, and a listener that runs keeps its settings$",
        ),
        ("[event", "[memreep:x]\n[event", r"configuration: .*\[memreep:x\]: ignored"),
        (
            "[event",
            "[program:x]\n[memreap:x\n[event",
            r"configuration: .*\[program:x\] has the key \[memreap: is that ",
        ),
        (
            "[event",
            "[program:x]\n[group:x\n[event",
            r"configuration: note: .*\[program:x\] has the key \[group: is that ",
        ),
        (
            "[event",
            f"{TWICE}[event",
            r"configuration: \[memreap:myapp\] appears at .* line \d and .* line \d: .*keep",
        ),
        (
            "[event",
            f"{ALIKE}[event",
            r"configuration: note: \[program:myapp\] appears at .* line \d and .* line \d: .*keep",
        ),
        (
            "[memreap:myapp",
            "[memreap:my",
            r"configuration: /.* \[memreap:my\]: not a program .* are: memreap, myapp$",
        ),
        ("[memreap:myapp]\nlimit=150MB\n", "", r"configuration: .*: no program has a \[memreap:PROGRAM\] section: add"),
        ("limit=150MB\n", "", r"configuration: /.*/supervisord\.conf \[memreap:myapp\]: no limit=, "),
        ("memreap listen", "x", r"listener: there is none: add \[eventlistener:memreap\] with command=memreap listen"),
        ("[event", f"{SECOND}[event", r"listener: .* more than one \(.*:b\], .*\[eventlistener:memreap\]\): keep one"),
        ("events=", "numprocs=2\nevents=", "listener: there is more than one .*: keep one, with numprocs=1$"),
        ("TICK_5,", "", "listener: .*events=REMOTE_COMMUNICATION: no TICK, so it never looks: add TICK_5$"),
        ("events=", "autorestart=no\nevents=", "listener: .* autorestart=false: .*: remove that line$"),
        ("events=", "redirect_stderr=true\nevents=", "listener: .*redirect_stderr=true: .* not start with it: remove"),
        ("[event", f"{PLUGIN}[event", r"supervisorctl: memreap needs \[rpcinterface:memreap\] too: add "),
        ("[event", f"{INTERFACE}[event", r"supervisord: it has not read \[rpcinterface:memreap\] yet: restart super"),
        (
            "events=",
            "events=",
            r"listener: note: whether it hangs cannot be seen, .*; add \[rpcinterface:memreap\]",
        ),
        ("stopwait", "autorestart=no\nstopwait", r"myapp: .*\[program:myapp\] autorestart=false: .*: set it to true$"),
        (
            "stopwaitsecs=70\n",
            "",
            "myapp: .* stopwaitsecs=10: FCGI::ProcManager gives .* 60 s .*: set stopwaitsecs=70",
        ),
        ("150MB", "150MB\nsignal=QUIT", "myapp: FCGI::ProcManager drops .* signal=QUIT .*, write signal=HUP; "),
        ("150MB", "999TB", r"myapp: its limit of .* is above the memory of this (machine|container) \(.*\): "),
        ("-n 2", "-n 2 -I lib", "myapp: note: if its parent has pid 1, with .* 0.17 .*; the version could not be det"),
    ],
)
def test_an_error_in_the_configuration_is_reported_with_its_remedy(old, new, expression):
    assert_finds(expression, examined(changed((old, new))))


def down(error: str = "Exited too quickly (see the log)") -> dict[str, Any]:
    return {"pid": 0, "state": "FATAL", "spawnerr": error}


@pytest.mark.parametrize(
    ("rows", "expression"),
    [
        (
            [MYAPP, row("memreap", **down())],
            r"listener: the listener memreap is FATAL \(Exited .*\): see its log, then",
        ),
        (
            [MYAPP, row("memreap", **down("can't find command 'x'"))],
            "listener: the listener memreap is FATAL .*: set command= in its section to .* listen, then superv",
        ),
        (
            [MEMREAP, row("myapp", **down("can't find command '/none'"))],
            r"myapp: .*running \(FATAL\): .*command '/none'$",
        ),
        ([MEMREAP, row("myapp", 0, "FATAL")], r"myapp: it is not running \(FATAL\): see its log$"),
    ],
)
def test_a_listener_or_program_that_is_not_running_is_reported_with_supervisords_own_reason(rows, expression):
    assert_finds(expression, examined(rows=rows))


def test_each_trouble_of_the_listener_is_reported_whatever_its_version_words_and_none_twice():
    troubles = ["worded by an older version: no worker is signalled", "memory is short, and nothing is done"]
    lines = examined(SOUND + INTERFACE, listener={**READY, "troubles": troubles}).splitlines()
    assert [line for line in lines if line.startswith("listener: ")] == [f"listener: {text}" for text in troubles]
    troubles = ["no program or group 'myap' in supervisord; there are: memreap, myapp"]
    output = examined(f"{SOUND}[memreap:myap]\nlimit=1MB\n{INTERFACE}", listener={**READY, "troubles": troubles})
    assert output.count("there are: memreap, myapp") == 1
    starting = {**READY, "age_seconds": None, "troubles": ["the state cannot be saved"]}
    output = examined(SOUND + INTERFACE, listener=starting)
    assert output.count("the state cannot be saved") == 1


def test_that_the_state_cannot_be_saved_is_one_problem_though_listener_and_pool_have_it_too(monkeypatch):
    """The listener words the cause as it met it, doctor as it finds it now."""
    cause = "no worker is signalled, since the state cannot be saved: "
    monkeypatch.setattr(listening, "rights_of_listener", lambda _case: True)
    monkeypatch.setattr(listening.ownrights, "environment_of_listener", lambda *_: {})
    monkeypatch.setattr(listening.rights, "run_as", lambda *_: b"/run/memreap: no space left on device: free some")
    reported = {**READY, "troubles": [f"{cause}/run/memreap/x.json: No space left on device; free space"]}
    hindrance = {"kind": "unsaved", "text": "the state cannot be saved: No space left on device", "since": 0}
    text = f"{SOUND}[memreap]\nhistory=off\n{INTERFACE}"
    output = examined(text, listener=reported, pool={"hindrance": hindrance})
    assert_finds(f"listener: {cause}/run/memreap: no space left on device: free some$", output)
    assert output.count("saved") == 1


@pytest.mark.parametrize(
    ("restarts", "expression"),
    [
        (True, r"myapp: myapp:1 is not running \(FATAL\): Exited"),
        (False, "myapp: .*must restart the process after exit status 0: set autorestart=true"),
        (
            None,
            r"myapp: with target=self supervisord must report .*: not watched; add \[rpcinterface:memreap\] .*, then ",
        ),
    ],
)
def test_each_process_of_a_group_that_is_not_running_or_would_not_be_restarted_is_reported(restarts, expression):
    rows = [row("0", 0, group="myapp", restarts=restarts), row("1", group="myapp", restarts=restarts, **down())]
    text = changed(("150MB", "150MB\ntarget=self"), ("stopwait", "numprocs=2\nprocess_name=%(process_num)s\nstopwait"))
    output = examined(text, [*rows, MEMREAP])
    assert_finds(expression, output)
    assert "myapp:0 is not running" not in output


@pytest.mark.parametrize(
    ("listener", "pool", "expression"),
    [
        ({"listener_state": "UNKNOWN"}, {}, "listener: .*broke the event protocol and gets no more events"),
        ({"count": 2}, {}, "listener: supervisord has 2 listeners of memreap, of which one works: keep one"),
        ({}, {"suspension": {"reason": "too low", "since": 0}}, "myapp: suspended since .* resume myapp: too low$"),
        (
            {},
            {"hindrance": {"kind": "busy", "text": "not idle", "since": 0}},
            "myapp: workers are due, .* since .*: not idle$",
        ),
        ({}, {"paused": True}, "myapp: note: paused: nothing is sent until supervisorctl memreap resume myapp$"),
    ],
)
def test_what_the_listener_reports_of_itself_and_of_a_pool_is_passed_on(listener, pool, expression):
    listener = {"name": "memreap", **READY, **listener}
    assert_finds(expression, examined(SOUND + INTERFACE + PLUGIN, listener=listener, pool=pool))


@pytest.mark.parametrize(
    ("pid", "processes", "expression"),
    [
        (MANAGER - 1, BELOW_SHELL, f"myapp: not watched: its child {MANAGER} .* the pool is below it; use exec"),
        (MANAGER, pool(pids=[]), f"myapp: process {MANAGER} has no workers: not watched.*set target=self$"),
        (
            MANAGER,
            pool(COMMAND, COMMAND, catches=False),
            r"myapp: HUP would kill worker \d+ \(no hand",
        ),
        (
            MANAGER,
            pool(mib=200, age=5.0),
            r"myapp: even a fresh worker holds 200 MiB \(uss\), .* set limit=400MB",
        ),
    ],
)
def test_a_fault_of_the_processes_of_a_pool_is_reported_with_its_remedy(pid, processes, expression):
    assert_finds(expression, examined(rows=[row("myapp", pid), MEMREAP], processes=processes))


def test_a_pool_that_has_just_been_started_may_still_be_without_workers():
    manager = Process(SUPERVISORD, "perl-fcgi-pm", age=program._STARTING - 1)
    assert "has no workers" not in examined(processes={MANAGER: manager})


@pytest.mark.parametrize(("parent", "where"), [(SUPERVISORD, r"\(daemonized, or"), (1, r"\(as here: .* process 1\)")])
def test_an_old_procmanager_is_reported_with_what_makes_its_pool_end(monkeypatch, parent, where):
    monkeypatch.setattr(program, "procmanager_version", lambda *_: (0, 17))
    processes = {**pool(), MANAGER: Process(parent, "perl-fcgi-pm")}
    output = examined(rows=[row("myapp", supervisord=parent), MEMREAP], processes=processes)
    assert_finds(f"myapp: FCGI::ProcManager 0.17 is older than 0.18: .* {where}", output)
    monkeypatch.setattr(program, "procmanager_version", lambda *_: (0, 18))
    assert "0.18" not in examined()


def test_a_program_that_daemonizes_is_reported_but_not_the_d_of_a_running_manager():
    text = changed(("-n 2", "-n 2 -d"))
    expression = "myapp: .*--daemonize: it daemonizes itself, and supervisord keeps restarting it: remove -d$"
    assert_finds(expression, examined(text, [row("myapp", 0, "FATAL"), MEMREAP]))
    assert "daemonizes" not in examined(text)


def test_a_listener_that_gets_no_commands_is_a_note_where_supervisorctl_could_send_them():
    deaf = changed((",REMOTE_COMMUNICATION", ""))
    expression = "listener: note: .* commands .* reap.*: add REMOTE_COMMUNICATION$"
    assert_finds(expression, examined(deaf + INTERFACE + PLUGIN, listener=READY))
    assert "REMOTE_COMMUNICATION" not in examined(deaf)


def test_the_file_is_named_that_sets_what_is_wrong(tmp_path):
    (tmp_path / "more.conf").write_text(
        "[eventlistener:memreap]\nevents=PROCESS_STATE\n[program:myapp]\nstopwaitsecs=10\n"
    )
    found = examined(f"{SOUND}{INTERFACE}[include]\nfiles={tmp_path}/more.conf\n", listener=READY)
    assert_finds(f"listener: {tmp_path}/more.conf .*events=PROCESS_STATE: no TICK", found)
    assert_finds(f"myapp: {tmp_path}/more.conf .*stopwaitsecs=10: ", found)


def test_a_plugin_in_an_included_file_is_reported(tmp_path):
    (tmp_path / "more.conf").write_text(PLUGIN)
    found = examined(f"{SOUND}{INTERFACE}[include]\nfiles={tmp_path}/more.conf\n", listener=READY)
    assert_finds(
        r"supervisorctl: .*more.conf \[ctlplugin:memreap\]: .*: move this section to .*supervisord.conf", found
    )


def test_orphans_of_another_supervisord_are_not_reported():
    """Real processes whose parent has ended, as those of a program that daemonizes."""
    environment = {"SUPERVISOR_GROUP_NAME": "myapp", "SUPERVISOR_PROCESS_NAME": "myapp"}
    environment["SUPERVISOR_SERVER_URL"] = "unix:///run/this"
    text = changed(("/srv/myapp_fastcgi.pl", f"{sys.executable} {POOL} 2 5 -d"))
    rows = [row("myapp", 0, "FATAL", os.getpid()), MEMREAP]
    with driver.pool(2, 5, "daemonized", env={**os.environ, **environment}) as manager:
        try:
            tree = psutil.Process(manager)
            found = examined(text, rows, view=memreap_doctor.procfs.source(), url="unix:///run/this")
            assert_finds(
                f"myapp: a process tree from an earlier start of this program, .* then end it: kill {manager}$", found
            )
            other = examined(text, rows, view=memreap_doctor.procfs.source(), url="unix:///run/other")
            assert "earlier starts" not in other
        finally:
            tree.terminate()
            eventually(lambda: not tree.is_running())


def test_a_supervisord_that_does_not_answer_is_reported(tmp_path, monkeypatch):
    monkeypatch.delenv("SUPERVISOR_SERVER_URL", raising=False)
    conf = tmp_path / "supervisord.conf"
    conf.write_text(f"{SOUND}[supervisorctl]\nserverurl=unix://{tmp_path}/none.sock\n")
    lines: list[str] = []
    assert memreap_doctor.run(str(conf), connect_as_supervisorctl, lines.append) == 1
    assert lines[0].startswith("supervisord: supervisord does not answer at unix://")


def test_an_invalid_configuration_is_reported_in_one_line(where):
    (where / "supervisord.conf").write_text("[supervisord\n")
    assert_found(where, r"configuration: .*supervisord.conf: File contains no section headers")
    result = doctor(where, "nonsense")
    assert (result.returncode, len(result.stderr.splitlines())) == (2, 1)


def test_an_internal_error_of_doctor_is_not_a_finding(where, monkeypatch, capsys):
    def fail(*_):
        raise RuntimeError("a fault")

    (where / "supervisord.conf").write_text("[supervisord]\n")
    monkeypatch.setattr(memreap_doctor, "run", fail)
    assert cli.main(["doctor", "-c", f"{where}/supervisord.conf"]) == 70
    assert "RuntimeError: a fault" in capsys.readouterr().err


def grown(pid: int, age: float, mb: int) -> Worker:
    used = mb * 1024**2
    return Worker(ProcessId(pid, 1.0), age, used, WorkerDetail(used, True))


@pytest.mark.parametrize(
    ("measured", "is_reported"),
    [
        ([grown(1, 19, 200)], True),
        ([grown(1, 19, 200), grown(2, 19, 40)], False),
        ([grown(1, 21, 200), grown(2, 3600, 200)], False),
        ([grown(1, 19, 40), grown(2, 3600, 200)], False),
    ],
    ids=["fresh", "one of the fresh", "all are old", "the old ones"],
)
def test_a_limit_is_too_low_only_if_all_fresh_workers_exceed_it(measured, is_reported):
    settings = PoolSettings(limit=150 * 1024**2, min_age=3600)
    assert bool(list(workers.check_limit(measured, settings))) is is_reported


def test_a_limit_that_all_workers_together_cannot_reach_is_a_note():
    settings = PoolSettings(limit=1024**3)
    (finding,) = workers.check_memory(settings, 10, (8 * 1024**3, "container"))
    assert not finding.harms
    expression = (
        r"10 workers of up to 1.0 GiB each add up to more than the memory of this container .*; a limit= of 819MB"
    )
    assert_matches(f"^{expression}", finding.text)
    assert not list(workers.check_memory(settings, 8, (8 * 1024**3, "machine")))
    assert not list(workers.check_memory(PoolSettings(limit=1024**4, metric="vms"), 8, (8 * 1024**3, "machine")))
    assert not list(workers.check_memory(settings, 99, None))


def test_the_perl_of_another_user_is_not_run_without_becoming_that_user(monkeypatch):
    with subprocess.Popen(["perl", "-e", "$| = 1; print 1; sleep 1000"], stdout=subprocess.PIPE) as asked:
        try:
            assert asked.stdout.read(1)
            assert program.procmanager_version(asked.pid, "", {}, 10.0) >= (0, 18)
            monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
            assert program.procmanager_version(asked.pid, "", {}, 10.0) is None
        finally:
            asked.kill()


# What supervisor's parser reads from the file, and what supervisord has read.
APP = {"group": "myapp", "name": "myapp", "command": "x", "stopwaitsecs": 70, "stdout_logfile": "auto", "inuse": False}
LISTENS = {"group": "memreap", "name": "memreap", "command": "memreap listen"}
OTHER = {"group": "other", "name": "other", "command": "sleep 9"}
BOTH: list[dict[str, Any]] = [APP, LISTENS]


@pytest.mark.parametrize(
    ("written", "read", "not_applied", "expression"),
    [
        (BOTH, [{**APP, "stopwaitsecs": 80}, LISTENS], [], r"restart: myapp \(stopwaitsecs: 80, now 70\)$"),
        ([*BOTH, {**APP, "name": "b"}], BOTH, [], r"restart: myapp \(1 processes, now 2\)$"),
        ([*BOTH, OTHER], BOTH, [], "note: start: other$"),
        ([APP], BOTH, [], "stop and remove: memreap$"),
        ([LISTENS], BOTH, [], "stop and remove: myapp$"),
        (BOTH, BOTH, ["myapp"], r"restart: myapp \(read, but not applied\)$"),
        (BOTH, [{**APP, "inuse": True, "stdout_logfile": "/tmp/x"}, LISTENS], [], ""),
    ],
)
def test_what_update_would_do_is_a_problem_if_a_pool_or_the_listener_is_concerned(
    written, read, not_applied, expression
):
    answer = Answer("supervisord", version=__version__, processes=written)
    output = examined(answer=answer, read=read, not_applied=not_applied)
    kind, what = ("note: ", expression[6:]) if expression.startswith("note: ") else ("", expression)
    if expression:
        assert_finds(f"supervisord: {kind}it has not read .*: run supervisorctl update, which will {what}", output)
    else:
        assert "has not read" not in output


def test_a_listener_that_has_not_been_read_yet_is_reported():
    answer = Answer("supervisord", version=__version__, processes=BOTH)
    assert_finds("supervisord: .* which will start: memreap$", examined(rows=[MYAPP], answer=answer, read=[APP]))
