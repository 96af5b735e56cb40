"""`memreap doctor` where reality is the point: each test has a real supervisord, and as many findings as fit there.

What follows from a configuration, programs and processes alone is in the other files, without a supervisord.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from support import cgroup, needs, stack
from support.doctor import (
    BIN,
    CONTAINED,
    MIB,
    SMALL_POOL,
    Environment,
    assert_found,
    changed,
    doctor,
    eventually_found,
    needs_root,
    running,
)
from support.driver import POOL, assert_matches, eventually, supervisord, until
from support.operated import Operated, assert_status
from support.stack import INTERFACE, NAMESPACE, PLUGIN, may_unshare, python_for

from supervisor_memreap import __version__
from supervisor_memreap import doctor as memreap_doctor
from supervisor_memreap.doctor.program import _STARTING
from supervisor_memreap.host import orphans
from supervisor_memreap.supervisord.client import connect_as_supervisorctl

PLACK = f"plackup -E deployment -s FCGI --listen WHERE/myapp.sock --nproc 2 --keep-stderr 1 {stack.APPS}/leaky.psgi"
REAL = changed(
    (f"{sys.executable} {POOL} 2 5", f"{PLACK}\nstopwaitsecs=70"),
    ("limit=1GB", "limit=1GB\nmin_age=1s"),  # doctor judges no younger worker
    text=SMALL_POOL,
)
OLD_PERL = ("stopwaitsecs=70", 'stopwaitsecs=70\nenvironment=PERL5LIB="WHERE"')
NO_PROBLEMS = r"no problems found\n\Z"


def rewrite(where: Path, *changes: tuple[str, str]) -> None:
    conf = where / "supervisord.conf"
    conf.write_text(changed(*changes, text=conf.read_text()))


def add(where: Path, text: str) -> None:
    with (where / "supervisord.conf").open("a") as conf:
        conf.write(text.replace("WHERE", str(where)))


def assert_found_with(where: Path, change: tuple[str, str], expression: str, status: int = 1) -> None:
    """Where another file is read, while the listener goes on with its own."""
    old, new = (text.replace("WHERE", str(where)) for text in change)
    other = where / "other.conf"
    other.write_text(changed((old, new), text=(where / "supervisord.conf").read_text()))
    result = doctor(where, "-c", str(other))
    assert re.search(expression, result.stdout), result.stdout + result.stderr
    assert result.returncode == status


def old_procmanager(where: Path) -> None:
    """A copy of the real module with version 0.17."""
    needs.skip_without("FCGI::ProcManager")
    ask = ["perl", "-MFCGI::ProcManager", "-e", "print $INC{'FCGI/ProcManager.pm'}"]
    path = Path(subprocess.run(ask, capture_output=True, text=True, check=True).stdout)
    (where / "FCGI").mkdir()
    text, count = re.subn(r"(VERSION\s*=\s*')[0-9.]+'", r"\g<1>0.17'", path.read_text())
    assert count >= 1
    (where / "FCGI/ProcManager.pm").write_text(text)


def test_of_a_real_pool_only_wrong_settings_are_reported(where):
    old_procmanager(where)
    with running(where, REAL + INTERFACE + PLUGIN):
        ok = r"memreap: myapp: ok: FCGI::ProcManager: workers are reaped with HUP \(signal= is not set\)\n"
        eventually_found(where, rf"\A{ok}memreap: no problems found\n\Z", 0)
        too_low = r"myapp: even a fresh worker holds [0-9.]+ MiB \(rss\), over .* 4.0 MiB.* set limit=\d+MB or higher"
        low = ("limit=1GB", "limit=4MB\nmetric=rss\nsettle=1h")
        eventually(lambda: assert_found_with(where, low, too_low))
        drops = r"myapp: FCGI::ProcManager drops its requests on signal=QUIT"
        assert_found_with(where, ("limit=1GB", "limit=1GB\nsignal=QUIT"), drops)
        # By the manager's own Perl, in its environment.
        old = r"myapp: FCGI::ProcManager 0.17 is older than 0.18: .* \(daemonized, or"
        assert_found_with(where, OLD_PERL, old)


@pytest.mark.skipif(not may_unshare(), reason="may not make a namespace of pids")
def test_a_supervisord_with_pid_1_is_reported_where_it_matters(where):
    old_procmanager(where)
    text = changed(OLD_PERL, text=REAL).replace("WHERE", str(where))
    with supervisord(where, text, within=NAMESPACE) as process:
        (first,) = psutil.Process(process.pid).children()
        inside = ("nsenter", "--pid", "--mount", "--target", str(first.pid))
        expression = r"FCGI::ProcManager 0.17 is older than 0.18: .* \(as here: supervisord is process 1\)"
        eventually_found(where, expression, within=inside)


SICK = f"""\
[program:daemon]
command={sys.executable} {POOL} 2 5 daemonized -d
startsecs=60
startretries=1
[memreap:daemon]
limit=1GB
[eventlistener:memreap]
command=sh -c 'echo hello; exec {BIN}/memreap listen'
events=TICK_5,REMOTE_COMMUNICATION
environment=TMPDIR="WHERE"
"""


def test_a_program_that_daemonizes_and_a_listener_that_broke_the_protocol_are_reported(where, monkeypatch):
    with running(where, SICK + INTERFACE + PLUGIN, gives_up=True):
        expression = r"listener: .*broke the event protocol .*\n(.*\n)*.*daemon: it is not running \(FATAL\): Exited"
        eventually_found(where, expression)
        managers = stack.left_in(where, words="daemonized", children=2)
        assert len(managers) == 2
        end = ["kill", *(str(pid) for pid in sorted(manager.pid for manager in managers))]
        expression = rf"daemon: 2 process trees from earlier starts of this program, .*: {' '.join(end)}\n"
        assert_found(where, expression)
        assert re.search(expression, from_another_cgroup(where, monkeypatch))
        subprocess.run(end, check=True)


def from_another_cgroup(where: Path, monkeypatch) -> str:
    """The output of doctor in a shell on a host where systemd puts each service and login in its own group."""
    lines: list[str] = []
    real = orphans._cgroup
    monkeypatch.setattr(orphans, "_cgroup", lambda pid: "a shell" if pid == os.getpid() else real(pid))
    monkeypatch.setenv("SUPERVISOR_SERVER_URL", f"unix://{where}/s.sock")
    assert memreap_doctor.run(f"{where}/supervisord.conf", connect_as_supervisorctl, lines.append) == 1
    return "\n".join([*lines, ""])


@needs_root
def test_the_listener_may_read_what_root_of_a_container_may_not(where):
    where.chmod(0o1777)
    shutil.copy(POOL, where)
    text = changed(
        (f"command={sys.executable} {POOL}", f"user=www-data\ncommand=/usr/bin/python3 {where}/pool.py"),
        (f"{BIN}/memreap listen", f"{python_for('www-data', where)} listen\nuser=www-data"),
        text=SMALL_POOL,
    )
    http = f"[unix_http_server]\nfile={where}/s.sock\nchown=www-data\n"
    with running(where, text + INTERFACE + PLUGIN, http=http):
        unread = "myapp: note: its limit was not checked: no permission to read .* from here"
        expression = rf"{unread} \(this root lacks CAP_SYS_PTRACE\): run supervisorctl memreap doctor, which has"
        eventually_found(where, expression, 0, within=CONTAINED)
        assert_found(where, NO_PROBLEMS, 0)
        by_listener = Operated.of(where).ctl("memreap", "doctor").stdout
        assert by_listener.endswith("no problems found\n")
        assert "its limit was not checked" not in by_listener


def test_a_supervisord_and_a_supervisorctl_that_cannot_import_memreap_are_reported_before_they_fail(where, monkeypatch):
    theirs = Environment(where)
    monkeypatch.setenv("PATH", theirs.path)
    install = rf"'{theirs.python}' -m pip install DIRECTORY, the source of memreap {re.escape(__version__)}"
    with running(where, SMALL_POOL, python=theirs.python):
        neither = r"listener: note: .*; add neither that nor \[ctlplugin:memreap\]: .* would not start again \(docs/"
        shown = eventually_found(where, neither, 0)
        assert "supervisorctl:" not in shown

        sound = (where / "supervisord.conf").read_text()
        add(where, "[program:myother]\ncommand=sleep 1000\nnumprocs=2\n")
        refused = r"\Amemreap: supervisord: supervisord will not start again: %\(process_num\) must be present"
        assert_found(where, refused)
        (where / "supervisord.conf").write_text(sound)

        add(where, INTERFACE + PLUGIN)
        unresolved = r"supervisord will not start again: .*cannot be resolved within \[rpcinterface:memreap\]"
        shown = assert_found(where, rf"\Amemreap: supervisord: {unresolved}: .*; remove that section, or {install}")
        fails = "supervisorctl: every call of .*/their venv/bin/supervisorctl fails: .*; remove that section, or '"
        assert_matches(fails, shown)
        # And so it is.
        control = [theirs.script("supervisorctl"), "-c", f"{where}/supervisord.conf", "status"]
        for command in ([theirs.python, "-m", "supervisor.supervisord", "-n", *control[1:3]], control):
            result = subprocess.run(command, capture_output=True, text=True, check=False, cwd=where, timeout=30)
            assert (result.returncode, "cannot be resolved" in result.stderr) == (2, True)

        theirs.install_memreap()
        shown = assert_found(
            where, r"it has not read \[rpcinterface:memreap\] yet: restart supervisord, once, when convenient: .*\n"
        )
        assert "fails" not in shown
        assert "myapp" in subprocess.run(control, capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize("version", stack.ENVIRONMENTS)
def test_unread_configuration_is_reported_with_what_update_will_restart(where, version):
    python = stack.python_with(version)
    text = changed(("2 5\n", '2 5\nstopwaitsecs=70\nenvironment=A="%(ENV_HOME)s"\n'), text=SMALL_POOL)
    listener = text[text.index("[eventlistener") :]
    read = rf"(?s)\A(?!.*has not read).*{NO_PROBLEMS}"
    control = Operated.of(where).ctl
    with running(where, f"{text}{INTERFACE}{PLUGIN}[program:old]\ncommand=sleep 1000\n", python=python):
        eventually_found(where, read, 0)
        add(where, "[program:other]\ncommand=sleep 1000\n")
        rewrite(where, ("stopwaitsecs=70", "stopwaitsecs=80"), ("[program:old]", "[program:new]"))
        expression = (
            r"supervisord: it has not read all of its configuration: run supervisorctl update, which will start: new,"
            r" other; restart: myapp \(stopwaitsecs: 70, now 80\); stop and remove: old\n"
        )
        assert_found(where, expression)
        if python != sys.executable:
            return  # the rest asks supervisord for nothing else
        # doctor has changed nothing, or supervisord would have taken the file over.
        assert_found(where, expression)
        assert "myapp: changed\n" in control("reread").stdout
        assert_found(where, r"restart: myapp \(read, but not applied\); stop and remove: old\n")
        assert {
            "myapp: updated process group",
            "new: added process group",
            "old: removed process group",
            "other: added process group",
        } <= {*control("update").stdout.splitlines()}
        eventually_found(where, read, 0)
        rewrite(where, (listener.replace("WHERE", str(where)), ""))
        assert_found(where, "supervisord: it has not read all of .*, which will stop and remove: memreap\n")


def test_a_control_group_that_is_not_visible_from_here_is_a_note(where):
    with cgroup.made(500 * MIB) as group, cgroup.made(500 * MIB) as own:
        text = changed(("limit=1GB", "total=1GB"), text=SMALL_POOL) + "[memreap]\nheadroom=1MB\n"
        with running(where, text, within=group.command):
            # In a separate namespace, as in another container.
            inside = (*own.command, "unshare", "--cgroup")
            expression = rf"myapp: note: its control group /\.\./{group.directory.name} is not visible from here, so"
            eventually_found(where, expression, 0, within=inside)
            assert_found(where, NO_PROBLEMS, 0)


# Beside our Python, where tests/run installs it, or Debian's.
GUNICORN = shutil.which("gunicorn", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
SERVERS = f"""\
[program:gunicorn]
command={GUNICORN} --chdir WHERE -w 2 -b unix:WHERE/g.sock --max-requests 1000 -c conf.py app:application
directory=WHERE
[program:dynamic]
command=php-fpm8.2 -F -y dynamic.conf
directory=WHERE
[program:ondemand]
command=php-fpm8.2 -F -y ondemand.conf
directory=WHERE
[memreap]
limit=1GB
min_age=1s
[memreap:gunicorn]
[memreap:dynamic]
[memreap:ondemand]
[eventlistener:memreap]
command={BIN}/memreap listen
events=TICK_5
environment=TMPDIR="WHERE"
"""


@pytest.mark.skipif(not GUNICORN, reason="gunicorn is not installed")
@pytest.mark.skipif(not shutil.which("php-fpm8.2"), reason="php-fpm is not installed")
def test_what_real_servers_replace_by_themselves_is_a_note_with_what_to_change(where):
    (where / "app.py").write_text("def application(environ, start_response):\n    return []\n")
    (where / "conf.py").write_text("max_requests = 300\n")
    user = "user=www-data\ngroup=www-data\n" if os.getuid() == 0 else ""
    of_mode = {
        "dynamic": "pm.start_servers=2\npm.min_spare_servers=1\npm.max_spare_servers=2\npm.max_requests=500\n",
        "ondemand": "",
    }
    for mode, more in of_mode.items():
        pool = f"[www]\n{user}listen={where}/{mode}.sock\npm={mode}\npm.max_children=4\n{more}"
        (where / f"{mode}.pool").write_text(pool)
        (where / f"{mode}.conf").write_text(f"[global]\nerror_log={where}/{mode}.log\ninclude={where}/{mode}.pool\n")
    with running(where, SERVERS):
        on_the_command_line = (
            r"gunicorn: note: gunicorn also replaces workers on its own \(--max-requests 1000 in its command\): more"
            r" than.*; remove --max-requests from command= in .*\[program:gunicorn\], then run supervisorctl update"
        )
        eventually(lambda: assert_has_started(where))
        lines = eventually_found(where, on_the_command_line, 0)
    assert "gunicorn: ok: gunicorn: workers are reaped with TERM" in lines
    assert lines.count("--max-requests") == 2  # the command line overrides the file
    assert "max_requests = 300" not in lines
    assert "dynamic: ok: php-fpm: workers are reaped with QUIT" in lines
    place = rf"{where}/dynamic.pool \[www\]"
    remedy = "set pm = static,? and pm.max_children to the number "
    loses = r"where nginx keeps connections \(fastcgi_keep_conn on\), it may drop a POST"
    assert re.search(rf"dynamic: note: .* on its own \(pm = dynamic in {place}\):.*; {loses}.*; {remedy}", lines), lines
    assert re.search(
        rf"dynamic: note: .* \(pm.max_requests = 500 in {place}\).*; remove pm.max_requests there", lines
    ), lines
    # It is empty while no client asks.
    assert lines.endswith("no problems found\n")


def assert_has_started(where: Path) -> None:
    """It is so old that doctor would miss its workers."""
    (manager,) = stack.left_in(where, "php-fpm", words="ondemand.conf")
    assert time.time() - manager.create_time() > _STARTING + 1


STANDING = f"""\
[program:low]
command={sys.executable} {POOL} 2 5
[memreap:low]
limit=1MB
metric=rss
settle=1s
min_age=1s
""" + SMALL_POOL.replace("myapp", "calm")


def test_a_suspended_pool_is_a_problem_and_a_paused_one_a_note_also_from_what_is_saved(where):
    operated = Operated.of(where)
    with running(where, STANDING + INTERFACE + PLUGIN):
        until(lambda: "paused" in operated.ctl("memreap", "pause", "calm").stdout)
        eventually(lambda: assert_status(operated, r"calm +PAUSED(?s:.*)low +SUSPENDED"))
        # As if supervisord was restarted without the interface, and the listener reads what it wrote.
        rewrite(where, (INTERFACE, ""))
        operated.ctl("reload")
        suspended = (
            r"low: suspended since [-0-9 :]+, nothing is sent until [-0-9 :]+ or its settings change: its limit is too"
            " low; set limit="
        )
        paused = "calm: note: paused: nothing is sent until supervisorctl memreap resume calm"
        unknown = "listener: note: whether it hangs cannot be seen"
        eventually_found(where, rf"(?s)(?=.*{suspended})(?=.*{paused}).*{unknown}")
