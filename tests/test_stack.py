"""The main job on the real thing: supervisord, FCGI::ProcManager, Plack, Catalyst, nginx, and the README's block."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from support import stack
from support.driver import eventually, until
from support.looking import reap
from support.stack import python_for

from supervisor_memreap.core.model import Program
from supervisor_memreap.core.settings import PoolSettings, Watch
from supervisor_memreap.host import look as host_look
from supervisor_memreap.host import procfs

LIMIT_MB = 150
README = (stack.ROOT / "README.md").read_text()
needs_root = pytest.mark.skipif(os.getuid() != 0, reason="runs a pool as another user")


def block(sock: Path, command: str, python: str = sys.executable) -> str:
    """A program, and the block of the README but for the path, with a limit instead of observe=yes, and quick times."""
    (text,) = (section for section in re.findall(r"```ini\n(.*?)```", README, re.DOTALL) if "eventlistener" in section)
    replacements = {
        "command=/opt/memreap/bin/": f"stderr_logfile={sock.parent}/memreap.log\ncommand={Path(python).parent}/",
        "observe=yes": f"limit={LIMIT_MB}MB\nmin_age=1s\nsettle=1s",
    }
    for old, new in replacements.items():
        assert text.count(old) == 1
        text = text.replace(old, new)
    return f"{stack.recorder(sock.parent)}[program:myapp]\ncommand={command}\nstopwaitsecs=70\n{text}"


def plack(sock: Path) -> str:
    app = stack.APPS / "leaky.psgi"
    return f"plackup -E deployment -s FCGI --listen {sock} --nproc 5 --keep-stderr 1 {app}"


def assert_all_are_there(pool: stack.Pool, number: int) -> set[int]:
    """All that the manager is to keep, the youngest older than a second."""
    workers = pool.workers()
    assert len(workers) == number
    assert time.time() - max(psutil.Process(pid).create_time() for pid in workers) > 1
    return workers


def assert_replaced(pool: stack.Pool, before: set[int], grown: set[int]) -> None:
    """memreap may see a worker gone as soon as the kernel begins to free its memory: it is still there then."""
    after = pool.workers()
    assert before - after == grown
    assert len(after) == len(before)


@contextlib.contextmanager
def in_turn(pool: stack.Pool, workers: int = 5) -> Iterator[set[int]]:
    """What must be so for every pool while workers are reaped; the set is for those that grow and are to go."""
    before = eventually(lambda: assert_all_are_there(pool, workers))
    grown: set[int] = set()
    with stack.Watch(pool) as watch:
        yield grown
        eventually(lambda: stack.assert_in_turn(pool.directory, len(grown)), timeout=40 + 20 * len(grown))
    assert {event["pid"] for event in stack.announced(pool.directory)} == grown
    eventually(lambda: assert_replaced(pool, before, grown))
    assert watch.fewest >= len(before) - 1
    assert watch.most_gone_together == 1
    assert len(watch.managers) == 1
    assert pool.largest() < LIMIT_MB


def only_the_growing_worker_is_replaced(pool: stack.Pool, workers: int = 5) -> None:
    before = eventually(lambda: assert_all_are_there(pool, workers))
    with in_turn(pool, workers) as grown:
        grown |= pool.grow(1, LIMIT_MB + 50)
    (new,) = pool.workers() - before
    _, left = stack.announced(pool.directory)
    # A look may have measured it while it was still growing.
    freed = re.search(rf" left after .*, (\d+) MiB freed, {new} took its place", left["message"])
    assert LIMIT_MB * 0.9 < int(freed[1]) < LIMIT_MB * 2


def test_only_the_plack_worker_that_grows_is_replaced(sock):
    """By the oldest supervisord as it is, with ticks 5 s apart; the others here are of the newest one."""
    python = stack.python_with("4.2.5")
    with stack.running(block(sock, plack(sock), python), "myapp", sock.parent, python, prompt=False) as pool:
        only_the_growing_worker_is_replaced(pool)


def test_only_the_worker_of_an_fcgi_program_that_grows_is_replaced(sock, catalyst_script):
    text = block(sock, f"{catalyst_script} -l x -n 4 -e")
    text = text.replace("[program:myapp]", f"[fcgi-program:myapp]\nsocket=unix://{sock}\nsocket_mode=0777")
    with stack.running(text, "myapp", sock.parent) as pool:
        only_the_growing_worker_is_replaced(pool, workers=4)


def test_a_worker_in_a_long_request_finishes_it_and_is_signalled_when_idle_again(sock, catalyst_script):
    """The request sleeps, which a signal would shorten."""
    body = os.urandom(300_000)
    text = block(sock, f"{catalyst_script} -l {sock} -n 5 -e").replace("settle=1s", "settle=1s\nidle_wait=1s")
    with stack.running(text, "myapp", sock.parent) as pool:
        with in_turn(pool) as grown:
            begun = time.monotonic()
            # Several ticks and more than idle_wait long.
            pid, answer = pool.ask(f"mb={LIMIT_MB + 50}&s=5", body)
            assert time.monotonic() - begun >= 5
            grown.add(pid)
        assert answer == body
        reap, _ = stack.announced(pool.directory)
        assert "HUP sent between two requests" in reap["message"]


@needs_root
def test_a_listener_that_runs_as_the_user_of_the_pool_needs_no_more_rights(sock):
    where = sock.parent
    where.chmod(0o777)
    shutil.copy(stack.APPS / "leaky.psgi", where)
    text = block(sock, plack(sock).replace(str(stack.APPS), str(where)))
    text = text.replace(f"{Path(sys.executable).parent}/memreap", python_for("www-data", where))
    text = text.replace("[memreap:myapp]", "user=www-data\n[memreap:myapp]") + "user=www-data\n"
    http = f"[unix_http_server]\nfile={where}/s.sock\nchown=www-data\n"
    with stack.running(text, "myapp", where, http=http) as pool:
        assert pool.manager().username() == "www-data"
        only_the_growing_worker_is_replaced(pool)


def test_a_worker_with_a_connection_that_nginx_keeps_is_not_idle_until_it_closes(sock):
    """With the block of docs/servers.md, but that connections are kept for 3 s."""
    where = sock.parent
    page = (stack.ROOT / "docs/servers.md").read_text()
    (upstream,) = re.findall(r"^    upstream myapp \{\n.*?\n    \}$", page, re.DOTALL | re.MULTILINE)
    for old, new in {"/run/myapp.sock": str(sock), "keepalive_timeout 10s": "keepalive_timeout 3s"}.items():
        assert upstream.count(old) == 1
        upstream = upstream.replace(old, new)
    conf = (stack.APPS / "nginx.conf").read_text().replace("    server {", f"{upstream}\n    server {{", 1)
    conf = conf.replace("fastcgi_pass unix:FOLDER/$pool.sock;", "fastcgi_pass myapp; fastcgi_keep_conn on;")
    (where / "kept.conf").write_text(conf)
    text = f"[program:myapp]\ncommand={plack(sock)}\n"
    with stack.running(text, "myapp", where, nginx_conf=where / "kept.conf") as pool:
        view = procfs.source()
        busy, _ = pool.ask()
        program = Program("myapp", "myapp", "RUNNING", pool.manager().pid)
        settings = PoolSettings(limit=1024**2)
        seen = host_look.look(Watch(program, settings), view)
        worker = seen.worker(view.process(busy).id)
        assert reap(seen, worker, settings, view, 0.3).result == "busy"
        until(lambda: view.idle(busy))
        outcome = reap(seen, worker, settings, view)
        assert (outcome.result, outcome.moment) == ("sent", "held")
