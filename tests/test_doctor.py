"""`memreap doctor`: each thing that it finds is made so, on the real stack."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from support import stack
from support.doctor import BIN, assert_found, doctor, needs_root, running
from support.driver import POOL, eventually, supervisord
from support.stack import INTERFACE, NAMESPACE, PLUGIN, may_unshare, python_for

from supervisor_memreap import doctor as memreap_doctor
from supervisor_memreap.commands import cli
from supervisor_memreap.core.model import ProcessId, Worker, WorkerDetail
from supervisor_memreap.core.settings import PoolSettings
from supervisor_memreap.doctor import perl
from supervisor_memreap.host import orphans
from supervisor_memreap.supervisord.client import connect_as_supervisorctl

PLACK = f"plackup -E deployment -s FCGI --listen WHERE/myapp.sock --nproc 2 --keep-stderr 1 {stack.APPS}/leaky.psgi"
SOUND = f"""\
[program:myapp]
command={PLACK}
stopwaitsecs=70
[memreap:myapp]
limit=150MB
min_age=1s
[eventlistener:memreap]
command={BIN}/memreap listen
events=TICK_5,REMOTE_COMMUNICATION
stderr_logfile=WHERE/memreap.log
environment=TMPDIR="WHERE"
"""
SECOND = f"[eventlistener:b]\ncommand={BIN}/memreap listen\nevents=TICK_5\nautostart=false\n"


def changed(*changes: tuple[str, str]) -> str:
    text = SOUND
    for old, new in changes:
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    return text


def test_where_all_is_as_it_should_be_no_problems_are_found(where):
    with running(where, SOUND + INTERFACE + PLUGIN):
        ok = r"memreap: myapp: ok: FCGI::ProcManager: workers are reaped with HUP \(signal= is not set\)\n"
        eventually(lambda: assert_found(where, rf"^{ok}memreap: no problems found\n$", 0))


FINDINGS = {
    "a value": (
        [("limit=150MB", "limit=150 monkeys")],
        r"limit=150 monkeys: not a size, .* no setting of the file is used until",
    ),
    "a misspelt section": ([("[eventlistener", "[memreep:x]\n[eventlistener")], r"\[memreep:x\]: not read"),
    "a section that stands twice": (
        [("[eventlistener", "[memreap:myapp]\nlimit=160MB\n[eventlistener")],
        r"configuration: \[memreap:myapp\] stands at .*supervisord.conf line \d+ and .* line \d+: .*; keep one section",
    ),
    "a name that is not there": (
        [("[memreap:myapp]", "[memreap:myap]")],
        r"\[memreap:myap\]: not a program or group in",
    ),
    "no pool": ([("[memreap:myapp]\nlimit=150MB\nmin_age=1s\n", "")], r"no program has a \[memreap:PROGRAM\] section"),
    "no listener": (
        [("/memreap listen", "/memreap --help\nautostart=false")],
        r"listener: there is none: add \[eventlistener:memreap\]",
    ),
    "two listeners": (
        [("[eventlistener:memreap]\n", f"{SECOND}[eventlistener:memreap]\n")],
        r"listener: there is more than one \(.*\[eventlistener:b\], .*\[eventlistener:memreap\]\): keep one",
    ),
    "no ticks": ([("TICK_5,REMOTE", "REMOTE")], r"events=REMOTE_COMMUNICATION: no TICK, so it never looks: add TICK_5"),
    "a listener that does not run": (
        [("events=", "autostart=false\nevents=")],
        r"listener: memreap is STOPPED: see its log, then supervisorctl start memreap",
    ),
    "a listener in numbers": (
        [("events=", "numprocs=2\nprocess_name=%(program_name)s_%(process_num)s\nautostart=false\nevents=")],
        r"listener: there is more than one \(.*\[eventlistener:memreap\]\): keep one, with numprocs=1",
    ),
    "a listener that is not started again": (
        [("events=", "autorestart=false\nevents=")],
        r"listener: .*\[eventlistener:memreap\] autorestart=false: a listener that exits is not restarted",
    ),
    "a program that cannot be started": (
        [("[event", "[program:none]\ncommand=/none\nstartretries=0\n[memreap:none]\nlimit=1GB\n[event")],
        r"none: it does not run \((BACKOFF|FATAL)\): can't find command '/none'",
    ),
    "a plugin without its interface": (
        [("[eventlistener", f"{PLUGIN}[eventlistener")],
        r"needs \[rpcinterface:memreap\]",
    ),
    "a wrapper without exec": (
        [(PLACK, f"sh -c '{PLACK}; true'\nstopasgroup=true")],
        r"myapp: not watched: its child \d+ .* the pool is below it; write exec",
    ),
    "too little time to finish": ([("stopwaitsecs=70\n", "")], r"stopwaitsecs=10: FCGI::ProcManager gives .* 60 s"),
    "no manager": (
        [
            ("[program:myapp]", "[fcgi-program:myapp]\nsocket=unix://WHERE/myapp.sock"),
            ("--listen WHERE/myapp.sock --nproc 2", "--manager ''"),
        ],
        r"myapp: process \d+ has no workers: not watched.*set target=self",
    ),
    "a manager that is not started again": (
        [("stopwaitsecs=70", "stopwaitsecs=70\nautorestart=false")],
        r"autorestart=false: a manager that exits is not restarted: set it to true",
    ),
    "a worker that is not started again": (
        [("limit=150MB", "limit=150MB\ntarget=self"), ("[eventlistener", f"{INTERFACE}[eventlistener")],
        r"with target=self supervisord must restart the process after exit status 0: set autorestart=true",
    ),
    "a supervisord that does not say whether it starts a worker again": (
        [("limit=150MB", "limit=150MB\ntarget=self")],
        r"myapp: with target=self supervisord must say .*: not watched; add \[rpcinterface:memreap\] with .*, then ",
    ),
    "a signal that is not caught": (
        [(PLACK, f"{sys.executable} {POOL} 2 5 deaf")],
        r"myapp: worker \d+ would die of HUP \(it does not catch it\)",
    ),
    "a signal that drops requests": (
        [("limit=150MB", "limit=150MB\nsignal=QUIT")],
        r"myapp: FCGI::ProcManager drops its requests on signal=QUIT .* under \[memreap:myapp\], write signal=HUP;",
    ),
    "a limit that is too low": (
        [("limit=150MB", "limit=4MB\nmetric=rss\nsettle=1min")],
        r"a fresh worker already holds [0-9.]+ MiB \(rss\), over the limit of 4.0 MiB.* set limit=\d0MB or more",
    ),
}


@pytest.mark.parametrize("name", FINDINGS)
def test_what_would_make_it_fail_or_do_harm_is_found_with_its_remedy(where, name):
    changes, expression = FINDINGS[name]
    with running(where, changed(*changes)):
        eventually(lambda: assert_found(where, expression))


def test_a_listener_that_broke_the_protocol_is_found_though_supervisord_calls_it_running(where):
    text = changed((f"{BIN}/memreap listen", f"sh -c 'echo hello; exec {BIN}/memreap listen'"))
    with running(where, text + INTERFACE):
        eventually(lambda: assert_found(where, "broke the event protocol and gets no more events"))


def test_a_log_in_the_event_protocol_is_found_before_supervisord_refuses_to_start_with_it(where):
    with running(where, SOUND):
        conf = where / "supervisord.conf"
        conf.write_text(conf.read_text().replace("events=TICK_5", "redirect_stderr=true\nevents=TICK_5"))
        assert_found(where, r"redirect_stderr=true: its log would be mixed into the event protocol.*: remove that line")


def test_without_the_interface_it_says_what_it_cannot_know_and_ends_with_0(where):
    with running(where, SOUND):
        expression = r"listener: note: whether it still looks is unknown: .*; add \[rpcinterface:memreap\] with"
        eventually(lambda: assert_found(where, expression, 0))
        with (where / "supervisord.conf").open("a") as conf:
            conf.write(INTERFACE)
        assert_found(where, r"supervisord: it has not read \[rpcinterface:memreap\] yet: restart supervisord, once\n")


def test_a_plugin_in_an_included_file_is_found(where):
    (where / "more.conf").write_text(PLUGIN)
    with running(where, f"{SOUND}{INTERFACE}[include]\nfiles=more.conf\n"):
        expression = (
            r"more.conf \[ctlplugin:memreap\]: supervisorctl does not read included files: move this section to "
        )
        eventually(lambda: assert_found(where, expression))


def of_another_cgroup(where: Path, monkeypatch) -> str:
    """What doctor says in a shell of a host where systemd has each service, and each login, in a group of its own."""
    told: list[str] = []
    real = orphans._cgroup
    monkeypatch.setattr(orphans, "_cgroup", lambda pid: "a shell" if pid == os.getpid() else real(pid))
    monkeypatch.setenv("SUPERVISOR_SERVER_URL", f"unix://{where}/s.sock")
    assert memreap_doctor.run(f"{where}/supervisord.conf", connect_as_supervisorctl, told.append) == 1
    return "\n".join(told)


def test_a_program_that_daemonizes_is_found_and_what_it_has_left_behind(where, monkeypatch):
    text = changed((PLACK, f"{PLACK} --daemonize\nstartretries=1"))
    try:
        with running(where, text, gives_up=True):
            result = doctor(where)
            assert result.returncode == 1
            assert "--daemonize: it daemonizes itself, and supervisord keeps restarting it: remove -d" in result.stdout
            assert "myapp: it does not run (FATAL): Exited too quickly" in result.stdout
            managers = stack.left_in(where, name="perl-fcgi-pm")
            assert len(managers) == 2
            pids = [str(pid) for pid in sorted(manager.pid for manager in managers)]
            expression = rf"2 process trees from its earlier starts, .*: kill {' '.join(pids)}$"
            assert re.search(expression, result.stdout, re.MULTILINE)
            assert re.search(expression, of_another_cgroup(where, monkeypatch), re.MULTILINE)
            subprocess.run(["kill", *pids], check=True)
    finally:
        for process in stack.left_in(where):  # where the test failed
            process.kill()


def old_procmanager(where: Path) -> None:
    """A copy of the real one that says it is 0.17."""
    ask = ["perl", "-MFCGI::ProcManager", "-e", "print $INC{'FCGI/ProcManager.pm'}"]
    path = Path(subprocess.run(ask, capture_output=True, text=True, check=True).stdout)
    (where / "FCGI").mkdir()
    text, count = re.subn(r"(VERSION\s*=\s*')[0-9.]+'", r"\g<1>0.17'", path.read_text())
    assert count >= 1
    (where / "FCGI/ProcManager.pm").write_text(text)


OLD = ("stopwaitsecs=70", 'stopwaitsecs=70\nenvironment=PERL5LIB="WHERE"')


def test_an_old_procmanager_is_found_by_the_managers_own_perl(where):
    old_procmanager(where)
    with running(where, changed(OLD)):
        eventually(
            lambda: assert_found(where, r"myapp: FCGI::ProcManager 0.17 is older than 0.18: .* \(daemonized, or")
        )


@pytest.mark.skipif(not may_unshare(), reason="may not make a namespace of pids")
def test_a_supervisord_that_is_process_1_is_found_where_it_matters(where):
    old_procmanager(where)
    script = where / "doctor.sh"
    script.write_text(f"while sleep 1; do {BIN}/memreap doctor -c {where}/supervisord.conf >{where}/out; done\n")
    text = changed(OLD) + f"[program:doctor]\ncommand=sh {script}\nstopasgroup=true\n"
    with supervisord(where, text.replace("WHERE", str(where)), within=NAMESPACE):
        expression = r"FCGI::ProcManager 0.17 is older than 0.18: .* \(as here: supervisord is process 1\)"
        eventually(lambda: assert_in(expression, where / "out"))


def assert_in(expression: str, path: Path) -> None:
    text = path.read_text() if path.exists() else ""
    assert re.search(expression, text), text


@needs_root
def test_a_listener_that_may_not_signal_the_workers_is_found(where):
    where.chmod(0o777)
    command = python_for("www-data", where)
    http = f"[unix_http_server]\nfile={where}/s.sock\nchown=www-data\n"
    with running(where, changed((f"{BIN}/memreap listen", f"{command} listen\nuser=www-data")), http=http):
        expression = r"the listener \(user 33\) may not signal worker \d+ \(user 0\): run it as the pool's user"
        eventually(lambda: assert_found(where, expression))


@needs_root
@pytest.mark.parametrize(
    ("metric", "expression", "status"),
    [
        ("uss", r"myapp: the listener \(user 0\) may not read the uss of worker \d+ \(user 33\).*CAP_SYS_PTRACE", 1),
        (
            "rss",
            r"myapp: note: the listener \(user 0\) may not bring workers to the point between two requests \(ptrace\),"
            r" so they are signalled when seen idle, and after idle_wait=60 s while busy, by USR1 \(0 of 793 .*\); this"
            r" root lacks CAP_SYS_PTRACE: start the container with it: docker run --cap-add SYS_PTRACE",
            0,
        ),
        ("rss", r"myapp: note: the sockets of its processes may not be read, so it is not known when a replac", 0),
    ],
)
def test_a_listener_that_may_not_read_the_workers_is_found(where, metric, expression, status):
    # With CAP_PERFMON or CAP_SYS_ADMIN Linux 6.15 and later let it read.
    assert_found_of(where, "-sys_ptrace,-perfmon,-sys_admin", metric, expression, status)


# What matters here of the rights of root in a container of Docker's.
CONTAINED = ("setpriv", "--bounding-set=-all,+chown,+dac_override,+fowner,+kill,+setgid,+setuid,+setpcap")


@needs_root
@pytest.mark.parametrize("user", ["www-data", "root"])
def test_root_of_a_container_says_which_right_it_lacks_and_whether_the_listener_has_it(where, user):
    where.chmod(0o1777)
    shutil.copy(POOL, where)
    listen = f"{python_for('www-data', where)} listen"
    if user == "root":
        listen = f"{' '.join(CONTAINED)} {listen}"
    text = changed(
        (f"command={PLACK}", f"command=/usr/bin/python3 {where}/pool.py 2 5\nuser=www-data"),
        (f"command={BIN}/memreap listen", f"command={listen}\nuser={user}"),
    )
    http = f"[unix_http_server]\nfile={where}/s.sock\nchown=www-data\n"
    expression = {
        "www-data": r": run supervisorctl memreap doctor, which has the listener's rights\n",
        "root": r": run memreap doctor as root with CAP_SYS_PTRACE \(in Docker: --cap-add SYS_PTRACE\)\n",
    }[user]
    with running(where, text + INTERFACE + PLUGIN, http=http):
        unread = r"myapp: note: its limit was not checked: the uss of its workers may not be read from here"
        lack = rf"{unread} \(this root lacks CAP_SYS_PTRACE\){expression}"
        eventually(lambda: assert_found(where, lack, 0 if user == "www-data" else 1, within=CONTAINED))
        command = [sys.executable, "-m", "supervisor.supervisorctl", "-c", f"{where}/supervisord.conf"]
        asked = subprocess.run([*command, "memreap", "doctor"], capture_output=True, text=True, check=False)
        by_listener = asked.stdout
        assert ("may not be read from here" in by_listener) is (user == "root"), by_listener


@needs_root
def test_what_the_listener_may_do_is_tried_not_computed(where):
    """Whether root without CAP_SYS_PTRACE may read depends on the kernel: doctor says what a read says."""
    with sleeping_as_www_data(where) as pid:
        read = ["setpriv", "--bounding-set", "-sys_ptrace", "head", "-c", "1", f"/proc/{pid}/smaps_rollup"]
        may_read = subprocess.run(read, capture_output=True, check=False).returncode == 0
    expression = r"may not bring workers to the point between two" if may_read else "may not read the uss"
    assert_found_of(where, "-sys_ptrace", "uss", expression, 0 if may_read else 1)


@contextlib.contextmanager
def sleeping_as_www_data(where: Path):
    with subprocess.Popen(["sleep", "1000"], cwd=where, user="www-data", group="www-data") as process:
        try:
            yield process.pid
        finally:
            process.kill()


def assert_found_of(where: Path, bounds: str, metric: str, expression: str, status: int) -> None:
    where.chmod(0o777)
    shutil.copy(stack.APPS / "leaky.psgi", where)
    text = changed(
        (f"command={PLACK}", f"command={PLACK.replace(str(stack.APPS), str(where))}\nuser=www-data"),
        (f"command={BIN}", f"command=setpriv --bounding-set {bounds} {BIN}"),
        ("limit=150MB", f"limit=150MB\nmetric={metric}"),
    )
    with running(where, text):
        eventually(lambda: assert_found(where, expression, status))


def test_a_supervisord_that_does_not_answer_is_found(where):
    (where / "supervisord.conf").write_text(
        SOUND.replace("WHERE", str(where)) + f"[supervisorctl]\nserverurl=unix://{where}/none.sock\n"
    )
    assert_found(where, r"supervisord: no supervisord answers at unix://")


def test_a_configuration_that_is_none_is_one_line(where):
    (where / "supervisord.conf").write_text("[supervisord\n")
    assert_found(where, r"configuration: .*supervisord.conf: File contains no section headers")
    result = doctor(where, "nonsense")
    assert (result.returncode, len(result.stderr.splitlines())) == (2, 1)


def test_a_listener_that_hears_no_commands_is_a_note(where):
    with running(where, changed(("TICK_5,REMOTE_COMMUNICATION", "TICK_5"))):
        expression = (
            r"listener: note: .*it does not get the commands supervisorctl memreap reap.*: add REMOTE_COMMUNICATION"
        )
        eventually(lambda: assert_found(where, expression, 0))


def test_of_a_group_each_process_that_does_not_run_is_named(where):
    text = changed(
        (PLACK, f"sh -c 'test %(process_num)s = 0 || exit 1; exec {sys.executable} {POOL} 1 5'"),
        ("stopwaitsecs=70", "numprocs=2\nprocess_name=%(process_num)s\nautorestart=true\nstartretries=0"),
        ("limit=150MB", "limit=150MB\ntarget=self"),
    )
    with running(where, text + INTERFACE, gives_up=True):
        eventually(lambda: assert_found(where, r"myapp: myapp:1 does not run \(FATAL\): Exited too quickly"))
        assert "myapp:0 does not run" not in doctor(where).stdout


def test_the_d_of_a_manager_that_is_there_means_something_else(where):
    with running(where, changed((PLACK, f"{sys.executable} {POOL} 2 5 -d"))):
        eventually(lambda: assert_found(where, r"no problems found\n$", 0))
        assert "daemonizes" not in doctor(where).stdout


def grown(pid: int, age: float, mb: int) -> Worker:
    used = mb * 1024**2
    return Worker(ProcessId(pid, 1.0), age, used, WorkerDetail(used, True))


@pytest.mark.parametrize(
    ("workers", "is_reported"),
    [
        ([grown(1, 19, 200)], True),
        ([grown(1, 19, 200), grown(2, 19, 40)], False),
        ([grown(1, 21, 200), grown(2, 3600, 200)], False),
        ([grown(1, 19, 40), grown(2, 3600, 200)], False),
    ],
    ids=["fresh", "one of the fresh", "all are old", "the old ones"],
)
def test_a_limit_is_too_low_if_all_fresh_workers_are_over_it_however_large_old_ones_are(workers, is_reported):
    settings = PoolSettings(limit=150 * 1024**2, min_age=3600)
    texts = [finding.text for finding in memreap_doctor.workers.check_limit(workers, settings)]
    assert bool(texts) is is_reported
    assert all("set limit=400MB or more" in text for text in texts)


def test_another_users_perl_is_not_asked_by_who_cannot_become_that_user(monkeypatch):
    with subprocess.Popen(["perl", "-e", "$| = 1; print 1; sleep 1000"], stdout=subprocess.PIPE) as asked:
        try:
            assert asked.stdout.read(1)
            assert perl.procmanager_version(asked.pid, "", {}, 10.0) >= (0, 18)
            monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
            assert perl.procmanager_version(asked.pid, "", {}, 10.0) is None
        finally:
            asked.kill()


def test_that_doctor_itself_failed_is_no_finding(where, monkeypatch, capsys):
    def fail(*_):
        raise RuntimeError("a fault")

    (where / "supervisord.conf").write_text("[supervisord]\n")
    monkeypatch.setattr(memreap_doctor, "run", fail)
    assert cli.main(["doctor", "-c", f"{where}/supervisord.conf"]) == 70
    assert "RuntimeError: a fault" in capsys.readouterr().err


def test_what_a_program_of_another_supervisord_left_behind_is_none_of_this_ones(where, tmp_path):
    pool = f"{sys.executable} {POOL} 2 5"
    with supervisord(tmp_path, f"[program:myapp]\ncommand={pool}\nautorestart=false\n[memreap:myapp]\nlimit=1GB\n"):
        (manager,) = stack.left_in(tmp_path, words="pool.py", children=2)
        workers = manager.children()
        try:
            manager.kill()
            psutil.wait_procs([manager], timeout=10)
            with running(where, SOUND):
                result = doctor(where)
            assert "earlier starts" not in result.stdout
            assert "earlier starts" in doctor(tmp_path).stdout
        finally:
            for worker in workers:
                worker.kill()
