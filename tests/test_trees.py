"""Trees that fall when a worker leaves, and trees that a daemonized start leaves behind."""

from __future__ import annotations

import functools
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from support import stack
from support.driver import POOL, Driver, assert_have_served, eventually, exactly, listening_in, supervisord, until
from support.stack import NAMESPACE, may_unshare

from supervisor_memreap.commands import once
from supervisor_memreap.core.events import Event
from supervisor_memreap.core.settings import Given, resolve
from supervisor_memreap.host.thismachine import ThisMachine
from supervisor_memreap.listener import oneshot
from supervisor_memreap.listener.statefile import BesideListener


@pytest.mark.skipif(not may_unshare(), reason="may not make a namespace of pids")
def test_an_old_procmanager_below_a_supervisord_with_pid_1_is_lost_once_and_then_left_alone():
    where = stack.directory()
    memreap = f"{Path(sys.executable).parent}/memreap"
    text = (
        f"[program:myapp]\ncommand={sys.executable} {POOL} 3 40 oldest fresh\nstartsecs=0\nautorestart=true\n"
        "[memreap:myapp]\nlimit=30MB\nmin_age=1s\nsettle=1s\nchecks=3\n"
        f"[eventlistener:memreap]\ncommand={memreap} listen\nevents=TICK_5\nstderr_logfile={where}/memreap.log\n"
        f'environment=TMPDIR="{where}"\n'
    ) + stack.recorder(where)
    managers = r"spawned: 'myapp' with pid"
    try:
        with supervisord(where, text, within=NAMESPACE):
            until(lambda: [event["event"] for event in stack.announced(where)], ["reap", "suspended"])
            assert len(re.findall(managers, (where / "s.log").read_text())) == 2
            _, suspended = stack.announced(where)
            assert "daemonized (-d)" in suspended["message"]
            assert "FCGI::ProcManager is 0.17 or older" in suspended["message"]
            assert "resumes when the next manager has run for 10 min" in suspended["message"]
            log_text = (where / "memreap.log").read_text()
            after = time.time() + 3.5  # three ticks have passed, and the new workers are over the limit too
            until(lambda: time.time() > after)
            assert (where / "memreap.log").read_text() == log_text
            assert len(re.findall(managers, (where / "s.log").read_text())) == 2
    finally:
        shutil.rmtree(where)


def test_a_daemonized_old_procmanager_is_lost_with_the_first_worker_and_reported():
    """By hand, since under supervisord a daemonized program is never RUNNING."""
    command = [sys.executable, str(POOL), "2", "40", "daemonized", "falls"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        line = process.stdout.readline()
    manager = psutil.Process(int(re.fullmatch(r"ready \(pid: ([0-9]+)\)\n", line)[1]))
    tree = [manager, *manager.children()]
    happened: list[Event] = []
    section = {key: Given(value, "") for key, value in {"limit": "30MB", "min_age": "1s", "settle": "0s"}.items()}
    try:
        eventually(lambda: assert_have_served(manager.pid, settle=0.0))
        programs = once.of_pid(manager.pid, "old")
        machine, settings = ThisMachine(once.ended_by_itself), resolve({"old": section})
        beside = functools.partial(BesideListener, contents=None)
        assert oneshot.run(machine, programs, beside, settings, ["old"], False, happened.append) == 1
    finally:
        _, alive = psutil.wait_procs(tree, timeout=5)
        for remaining in alive:
            remaining.kill()
    assert alive == []  # the manager was lost
    lines = [event.text for event in happened]
    assert len([line for line in lines if "HUP sent" in line]) == 1
    (line,) = (line for line in lines if "suspended" in line)
    workers = "|".join(str(process.pid) for process in tree[1:])
    assert re.search(rf"suspended: the manager {manager.pid} ended .* after worker ({workers}) was signalled: it", line)


# What leaves a tree behind at each start, known by its environment, or by its socket, since Perl has written over that;
# and the name of the manager.
DAEMONIZED = {
    "python": (f"{sys.executable} {POOL} 2 5 daemonized -d", "python"),
    "perl": ("plackup -s FCGI --listen {where}/perl.sock --nproc 2 --daemonize {apps}/leaky.psgi", "perl-fcgi-pm"),
}


def test_orphans_of_a_daemonized_program_are_reported_with_the_command_that_ends_them():
    where = stack.directory()
    text = "".join(
        f"[program:{name}]\ncommand={command.format(where=where, apps=stack.APPS)}\nstartretries=2\nstartsecs=5\n"
        f"[memreap:{name}]\nlimit=1MB\nmin_age=1s\n"
        for name, (command, _) in DAEMONIZED.items()
    )
    bystander = subprocess.Popen(["sleep", "1000"], start_new_session=True)
    try:
        with supervisord(where, text, gives_up=True), listening_in(where) as listener:
            until(lambda: (where / "s.log").read_text().count("entered FATAL state"), 2)
            for _ in range(3):
                listener.tick()
            assert "sent" not in listener.text()  # they are over the limit, and not in the pool
            for name, (_, manager) in DAEMONIZED.items():
                ends_the_orphans(about_orphans(listener, name), stack.left_in(where, name=manager, children=2))
    finally:
        for process in psutil.process_iter(["cmdline", "cwd"]):  # where the test failed
            command = " ".join(process.info["cmdline"] or ())
            if "pool.py 2 5 daemonized" in command and process.info["cwd"] == str(where):
                process.kill()
        bystander.kill()
        assert bystander.wait() == -9
        shutil.rmtree(where)


def ends_the_orphans(lines: list[str], roots: list[psutil.Process]) -> None:
    """The only line has a command that ends just these trees; it is run."""
    assert len(lines) == 1
    assert len(roots) == 3
    end = f"kill {' '.join(str(pid) for pid in sorted(root.pid for root in roots))}"
    held = r"3 process trees from earlier starts of this program, unknown to supervisord, still hold [0-9.]+ MiB"
    assert re.fullmatch(rf"\w+: {held}: .*remove -d .*: {end}", lines[0])
    trees = [process for root in roots for process in (root, *root.children())]
    assert len(set(trees)) == 9
    subprocess.run(end, shell=True, check=True)
    _, alive = psutil.wait_procs(trees, timeout=10)
    assert alive == []


# What supervisord runs as a program of this name; each is for one test.
WATCHED = {
    "healthy": "sh {where}/start.sh",
    "killed": f"{sys.executable} {POOL} 2 5",
    "second": f"{sys.executable} {POOL} 2 5",
    "named": f"{sys.executable} {POOL} 2 5",
}


@pytest.fixture(scope="module")
def watched() -> Iterator[tuple[Path, Driver]]:
    """The directory of a supervisord with WATCHED, and a listener that has looked at them once."""
    where = stack.directory()
    (where / "start.sh").write_text(f"setsid -f sleep 1000\nexec {sys.executable} {POOL} 2 5\n")
    text = "".join(
        f"[program:{name}]\ncommand={command.format(where=where)}\nautorestart=false\n[memreap:{name}]\nlimit=100MB\n"
        for name, command in WATCHED.items()
    )
    try:
        with supervisord(where, text), listening_in(where) as listener:
            listener.tick()
            yield where, listener
    finally:
        for helper in stack.left_in(where, name="sleep"):
            helper.kill()
        shutil.rmtree(where)


def restart(where: Path, name: str) -> None:
    stack.control(where).stopProcess(name)
    stack.control(where).startProcess(name)


def about_orphans(listener: Driver, name: str) -> list[str]:
    listener.tick()
    return [line for line in listener.lines() if line.startswith(f"{name}: ") and "earlier starts" in line]


def test_detached_processes_of_a_healthy_program_are_not_orphans_even_after_its_restart(watched):
    where, listener = watched
    restart(where, "healthy")
    assert about_orphans(listener, "healthy") == []
    assert len(stack.left_in(where, name="sleep")) == 2


def test_workers_of_a_killed_manager_are_reported_but_not_as_daemonized(watched):
    where, listener = watched
    manager = stack.Pool(where, 0, "killed").manager()
    workers = manager.children()
    try:
        manager.kill()
        (line,) = eventually(lambda: exactly(1, about_orphans(listener, "killed")))
        assert "2 process trees from earlier starts of this program" in line
        assert "set stopwaitsecs= longer" in line
        assert "remove -d" not in line
        assert line.endswith(f"kill {' '.join(str(worker.pid) for worker in workers)}")
        assert all(worker.is_running() for worker in workers)
    finally:
        for worker in workers:
            worker.kill()


def test_a_tree_with_a_living_parent_is_not_an_orphan(watched):
    """A user has started a second one by hand, from a shell of the first one's environment."""
    where, listener = watched
    shell = f"import subprocess; subprocess.call([{sys.executable!r}, {str(POOL)!r}, '2', '5'])"
    environment = {"SUPERVISOR_PROCESS_NAME": "second", "SUPERVISOR_GROUP_NAME": "second"}
    # The name of a process counts, not that of the shell.
    wrapper = f"import os, sys; os.environ.update({environment}); "
    command = [sys.executable, "-c", wrapper + shell]
    with subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True) as process:
        try:
            until(lambda: len(psutil.Process(process.pid).children(recursive=True)), 3)
            restart(where, "second")
            assert about_orphans(listener, "second") == []
        finally:
            os.killpg(process.pid, signal.SIGKILL)


def test_a_process_below_a_known_program_is_not_an_orphan(watched):
    """Its own workers have its name in their environment too, and so has what another program started by hand."""
    _, listener = watched
    # That of another supervisord, of which this one cannot know.
    other = {"SUPERVISOR_PROCESS_NAME": "named", "SUPERVISOR_GROUP_NAME": "named", "SUPERVISOR_SERVER_URL": "unix:///o"}
    with subprocess.Popen(["sleep", "1000"], env={**os.environ, **other}) as sleeping:
        try:
            assert about_orphans(listener, "named") == []
        finally:
            sleeping.kill()


def test_a_real_manager_below_a_shell_beside_another_process_is_never_signalled():
    """HUP to it would end all of its workers together."""
    where = stack.directory()
    command = f"plackup -s FCGI --listen {where}/myapp.sock --nproc 2 {stack.APPS}/leaky.psgi"
    text = (
        f'[program:myapp]\ncommand=sh -c "{command} | cat"\nstopasgroup=true\nkillasgroup=true\n'
        "[memreap:myapp]\nlimit=1MB\nmetric=rss\nmin_age=1s\nidle_wait=0s\n"
    )
    try:
        with supervisord(where, text), listening_in(where) as listener:
            (manager,) = eventually(lambda: exactly(1, stack.left_in(where, name="perl-fcgi-pm", children=2)))
            workers = manager.children()
            listener.until(f"worker {manager.pid} may be a manager itself")
            for _ in range(3):
                listener.tick()
            assert "sent" not in listener.text().replace("nothing sent", "")
            assert manager.is_running()
            assert manager.children() == workers
            # Its children are that manager and cat.
            arguments = [sys.executable, "-m", "supervisor_memreap", "status", "-c", f"{where}/supervisord.conf"]
            status = subprocess.run(arguments, capture_output=True, text=True, check=False)
            assert status.returncode == 1, status
            assert "myapp  BLIND" in status.stdout
            shown = " ".join(status.stdout.split())
            assert f"not watched: its child {manager.pid} (perl-fcgi-pm) has 2 children, and no other" in shown
    finally:
        shutil.rmtree(where)


def test_two_real_managers_with_their_own_titles_below_one_shell_are_never_signalled(tmp_path):
    """Called perl-fcgi, or with titles of their workers too."""
    text = ""
    for name, workers in (("plain", ""), ("titled", " 1")):
        script = f"{stack.APPS}/titled.pl{workers}"
        text += (
            f"[program:{name}]\ncommand=sh -c 'perl {script} & perl {script} & wait'\n"
            "stopasgroup=true\nkillasgroup=true\n"
            f"[memreap:{name}]\nlimit=1MB\nmetric=rss\nmin_age=1s\nidle_wait=0s\n"
        )
    with supervisord(tmp_path, text), listening_in(tmp_path) as listener:
        managers = eventually(lambda: exactly(4, stack.left_in(tmp_path, name="myapp", children=2)))
        before = [manager.children() for manager in managers]
        for name in ("plain", "titled"):
            listener.until(f" {name}: .*may be a manager itself")
        for _ in range(2):
            listener.tick()
        assert "sent" not in listener.text().replace("nothing sent", "")
        assert [manager.children() for manager in managers] == before
