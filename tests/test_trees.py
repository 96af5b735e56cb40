"""Trees that fall when a worker leaves, and trees that a daemonized start leaves behind."""

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
import stack
from driver import POOL, eventually, listening, supervisord

from supervisor_memreap import once
from supervisor_memreap.core.settings import Given, resolve

NAMESPACE = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"]


def _may_unshare() -> bool:
    return bool(shutil.which("unshare")) and not subprocess.run([*NAMESPACE, "true"], capture_output=True).returncode


@pytest.mark.skipif(not _may_unshare(), reason="may not make a namespace of pids")
def test_an_old_procmanager_below_a_supervisord_that_is_pid_1_falls_once_and_is_left_alone_from_then_on():
    where = stack.folder()
    memreap = f"{Path(sys.executable).parent}/memreap"
    text = (
        f"[program:myapp]\ncommand={sys.executable} {POOL} 2 40 oldest\nstartsecs=0\nautorestart=true\n"
        "[memreap:myapp]\nlimit=30MB\nmin_age=1s\nsettle=1s\n"
        f"[eventlistener:memreap]\ncommand={memreap} listen\nevents=TICK_5\nstderr_logfile={where}/memreap.log\n"
        f'environment=TMPDIR="{where}"\n'
    )
    managers = r"spawned: 'myapp' with pid"
    try:
        with supervisord(where, text, within=NAMESPACE):
            eventually(lambda: _assert_in("resumes when the next manager has stood for 10 min", where), timeout=30)
            assert len(re.findall(managers, (where / "s.log").read_text())) == 2
            line = next(one for one in (where / "memreap.log").read_text().splitlines() if "suspended" in one)
            assert "daemonized (-d)" in line
            assert "FCGI::ProcManager is 0.17 or older" in line
            told = (where / "memreap.log").read_text()
            after = time.time() + 6  # the next tick has passed, and the new workers are over the limit too
            eventually(lambda: _assert_later(after), timeout=10)
            assert (where / "memreap.log").read_text() == told
            assert len(re.findall(managers, (where / "s.log").read_text())) == 2
    finally:
        shutil.rmtree(where)


def _assert_in(text: str, where: Path) -> None:
    log = (where / "memreap.log").read_text()
    assert text in log, log


def _assert_later(moment: float) -> None:
    assert time.time() > moment


def test_a_daemonized_old_procmanager_falls_with_the_first_worker_and_that_is_told():
    """By hand, since under supervisord a daemonized program is never RUNNING."""
    command = [sys.executable, str(POOL), "2", "40", "daemonized", "falls"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        line = process.stdout.readline()
    manager = psutil.Process(int(re.fullmatch(r"ready \(pid: ([0-9]+)\)\n", line)[1]))
    tree = [manager, *manager.children()]
    said: list[str] = []
    section = {key: Given(value, "") for key, value in {"limit": "30MB", "min_age": "1s", "settle": "0s"}.items()}
    try:
        eventually(lambda: _assert_later(manager.create_time() + 3))
        programs = once.of_pid(manager.pid, "old")
        assert once.run(programs, resolve({"old": section}), ["old"], False, said.append) == 1
    finally:
        _, there = psutil.wait_procs(tree, timeout=5)
        for one in there:
            one.kill()
    assert there == []  # the tree fell
    assert len([line for line in said if "HUP sent" in line]) == 1
    assert any("the manager" in line and "went away right after worker" in line for line in said)


PLACKUP = "plackup -s FCGI --listen {where}/myapp.sock --nproc 2 --daemonize {apps}/leaky.psgi"


@pytest.mark.parametrize(
    "command",
    [f"{sys.executable} {POOL} 2 5 daemonized", PLACKUP],
    ids=["known by its environment", "known by its socket, since Perl has overwritten its environment"],
)
def test_what_a_daemonized_program_leaves_behind_is_told_with_the_command_that_ends_it(command):
    where = stack.folder()
    command = command.format(where=where, apps=stack.APPS)
    text = f"[program:myapp]\ncommand={command}\nstartretries=2\nstartsecs=5\n[memreap:myapp]\nlimit=1MB\nmin_age=1s\n"
    log = where / "memreap.log"
    bystander = subprocess.Popen(["sleep", "1000"], start_new_session=True)
    environment = {"SUPERVISOR_SERVER_URL": f"unix://{where}/s.sock"}
    try:
        with (
            supervisord(where, text, gives_up=True),
            listening("-c", f"{where}/supervisord.conf", log=log, **environment) as listener,
        ):
            for _ in range(3):
                listener.tick()
            lines = [line for line in listener.lines() if "earlier starts" in line]
            assert len(lines) == 1, listener.text()
            found = re.fullmatch(
                r"myapp: ([0-9]+) process trees of its earlier starts, of which supervisord knows nothing, still hold"
                r" [0-9.]+ MiB: .*remove -d .*: (kill( [0-9]+){3,})",
                lines[0],
            )
            assert found, lines
            pids = list(map(int, found[2].split()[1:]))
            # On a loaded machine one may be seen in the middle of its start, in two pieces.
            assert len(pids) == int(found[1])
            trees = [one for pid in pids for one in (psutil.Process(pid), *psutil.Process(pid).children())]
            assert len(set(trees)) >= 9
            assert "sent" not in listener.text()  # they are over the limit, and nobody of the pool
            subprocess.run(found[2], shell=True, check=True)
            _, there = psutil.wait_procs(trees, timeout=10)
            assert there == []
    finally:
        for one in psutil.process_iter(["cmdline", "cwd"]):  # where the test failed
            if "pool.py 2 5 daemonized" in " ".join(one.info["cmdline"] or ()) and one.info["cwd"] == str(where):
                one.kill()
        bystander.kill()
        assert bystander.wait() == -9
        shutil.rmtree(where)


def test_what_runs_below_a_program_that_supervisord_knows_is_no_stray(tmp_path):
    """Its own workers have its name in their environment too, and so has what another program started by hand."""
    text = f"[program:myapp]\ncommand={sys.executable} {POOL} 2 5\n[memreap:myapp]\nlimit=100MB\n"
    environment = {"SUPERVISOR_SERVER_URL": f"unix://{tmp_path}/s.sock"}
    with (
        supervisord(tmp_path, text),
        listening("-c", f"{tmp_path}/supervisord.conf", log=tmp_path / "l.log", **environment) as listener,
    ):
        # That of another supervisord, of which this one cannot know.
        other = {
            "SUPERVISOR_PROCESS_NAME": "myapp",
            "SUPERVISOR_GROUP_NAME": "myapp",
            "SUPERVISOR_SERVER_URL": "unix:///o",
        }
        with subprocess.Popen(["sleep", "1000"], env={**os.environ, **other}) as sleeping:
            try:
                listener.tick()
                assert "earlier starts" not in listener.text()
            finally:
                sleeping.kill()
