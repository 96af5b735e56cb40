"""The main job on the real thing: supervisord, FCGI::ProcManager, Plack, Catalyst, nginx, and the README's block."""

from __future__ import annotations

import contextlib
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
import supervisor
from driver import eventually

import supervisor_memreap

LIMIT_MB = 150
README = (stack.ROOT / "README.md").read_text()
OLD = stack.ROOT / ".venv-supervisor-4.2.5/bin/python"
PYTHONS = {"4.3": sys.executable, "4.2.5": str(OLD)}
needs_root = pytest.mark.skipif(os.getuid() != 0, reason="runs a pool as another user")


def python_of(version: str) -> str:
    python = PYTHONS[version]
    if not Path(python).exists():
        pytest.skip(f"no environment with supervisor {version}: tests/run makes it")
    return python


def block(sock: Path, command: str, python: str = sys.executable) -> str:
    """The block of the README, as it stands there but for the paths, and with times in which a test can wait."""
    (text,) = (one for one in re.findall(r"```ini\n(.*?)```", README, re.DOTALL) if "eventlistener" in one)
    replacements = {
        "/srv/myapp/script/myapp_fastcgi.pl -l /run/myapp.sock -n 5 -e": command,
        "command=memreap ": f"stderr_logfile={sock.parent}/memreap.log\ncommand={Path(python).parent}/memreap ",
        "limit=150MB": f"limit={LIMIT_MB}MB\nmin_age=1s\nsettle=1s",
    }
    for old, new in replacements.items():
        assert text.count(old) == 1
        text = text.replace(old, new)
    return text


def plack(sock: Path) -> str:
    app = stack.APPS / "leaky.psgi"
    return f"plackup -E deployment -s FCGI --listen {sock} --nproc 5 --keep-stderr 1 {app}"


def assert_log(running: stack.Stack, sent: int, left: int) -> None:
    assert len(running.lines("HUP sent")) == sent
    assert len(running.lines(" left after ")) == left


def the_one_that_grows_is_replaced_and_no_other(running: stack.Stack) -> None:
    before = running.workers()
    with stack.Watch(running) as watch:
        (grown,) = running.grow(1, LIMIT_MB + 50)
        eventually(lambda: assert_log(running, 1, 1), timeout=30)
    after = running.workers()
    assert before - after == {grown}
    assert len(after) == len(before)
    assert watch.fewest >= len(before) - 1
    assert len(watch.managers) == 1
    (left,) = running.lines(" left after ")
    assert re.search(
        rf"worker {grown} left after .*, 2\d\d MiB came back, {(after - before).pop()} took its place", left
    )


@pytest.mark.parametrize("version", PYTHONS)
def test_a_plack_worker_that_grows_is_replaced_and_no_other(sock, version):
    python = python_of(version)
    with stack.running(block(sock, plack(sock), python), "myapp", sock, python) as running:
        the_one_that_grows_is_replaced_and_no_other(running)


def test_a_catalyst_worker_that_grows_is_replaced_and_no_other(sock, catalyst_script):
    with stack.running(block(sock, f"{catalyst_script} -l {sock} -n 5 -e"), "myapp", sock) as running:
        the_one_that_grows_is_replaced_and_no_other(running)


@pytest.mark.parametrize("version", PYTHONS)
def test_a_worker_of_an_fcgi_program_that_grows_is_replaced_and_no_other(sock, catalyst_script, version):
    python = python_of(version)
    text = block(sock, f"{catalyst_script} -l x -n 4 -e", python)
    text = text.replace("[program:myapp]", f"[fcgi-program:myapp]\nsocket=unix://{sock}\nsocket_mode=0777")
    with stack.running(text, "myapp", sock, python) as running:
        assert len(running.workers()) == 4
        the_one_that_grows_is_replaced_and_no_other(running)


def python_for(user: str, where: Path) -> str:
    """The command of a Python that this user may run, with copies of the packages that this user may read."""
    for package in (supervisor_memreap, supervisor, psutil):
        source = Path(package.__file__).parent
        shutil.copytree(source, where / "lib" / source.name, ignore=shutil.ignore_patterns("__pycache__", "tests"))
    for python in (sys.executable, "/usr/bin/python3"):
        command = ["/usr/bin/env", f"PYTHONPATH={where}/lib", python, "-m", "supervisor_memreap"]
        with contextlib.suppress(OSError, subprocess.CalledProcessError):
            subprocess.run([*command, "--version"], user=user, cwd="/", check=True, capture_output=True)
            return " ".join(command)
    pytest.skip(f"no Python here that {user} may run")


@needs_root
def test_a_listener_that_runs_as_the_pools_user_needs_no_more_rights(sock):
    where = sock.parent
    where.chmod(0o777)
    shutil.copy(stack.APPS / "leaky.psgi", where)
    text = block(sock, plack(sock).replace(str(stack.APPS), str(where)))
    text = text.replace(f"{Path(sys.executable).parent}/memreap", python_for("www-data", where))
    text = text.replace("[memreap:myapp]", "user=www-data\n[memreap:myapp]") + "user=www-data\n"
    http = f"[unix_http_server]\nfile={where}/s.sock\nchown=www-data\n"
    with stack.running(text, "myapp", sock, http=http) as running:
        assert running.manager().username() == "www-data"
        the_one_that_grows_is_replaced_and_no_other(running)


def test_of_three_over_the_limit_never_two_are_leaving_and_the_pool_ends_within_it(sock):
    with stack.running(block(sock, plack(sock)), "myapp", sock) as running:
        before = running.workers()
        with stack.Watch(running) as watch:
            grown = running.grow(3, LIMIT_MB + 50)
            eventually(lambda: assert_log(running, 3, 3), timeout=60)
        after = running.workers()
        assert before - after == grown
        assert len(after) == len(before)
        assert watch.fewest >= len(before) - 1
        assert len(watch.managers) == 1
        words = re.findall(r"worker (\d+) (?:.*(HUP sent)|(left))", running.log())
        assert [sent or left for _, sent, left in words] == ["HUP sent", "left"] * 3
        assert [pid for pid, *_ in words[0::2]] == [pid for pid, *_ in words[1::2]]


def test_a_request_that_sleeps_is_neither_cut_nor_shortened(sock):
    with stack.running(block(sock, plack(sock)), "myapp", sock) as running:
        begun = time.monotonic()
        busy = running.get(f"/grow?mb={LIMIT_MB + 50}&s=11")  # two ticks long
        assert time.monotonic() - begun >= 11
        assert running.lines("HUP sent") == []
        eventually(lambda: assert_log(running, 1, 1), timeout=30)
        (sent,) = running.lines("HUP sent")
        assert f"worker {busy} " in sent
        assert "it was idle (held in accept)" in sent
