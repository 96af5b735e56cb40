"""The files in conf.d-examples/ for servers other than FCGI::ProcManager, each run by a private supervisord."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import psutil
import pytest
from support import servers, stack
from support.driver import eventually, until


class Example(NamedTuple):
    program: str
    server: str
    """Its name in support.servers."""
    app: str
    """The name by which its configuration calls the application."""


# By the name of the file.
EXAMPLES = {
    "apache": Example("site", "Apache prefork", "growing.lua"),
    "fcgi-engine": Example("intranet", "FCGI::Engine", "app.psgi"),
    "gunicorn": Example("blog", "gunicorn sync", "app.py"),
    "php-fpm": Example("forum", "php-fpm", "growing.php"),
    "starman": Example("store", "Starman", "app.psgi"),
    "unicorn": Example("tracker", "unicorn", "config.ru"),
    "uwsgi": Example("wiki", "uWSGI", "app.py"),
}
GUNICORN = f"{Path(sys.executable).parent}/gunicorn"


def adapted(text: str, example: Example, where: Path, port: int) -> str:
    """An unmodified example, except for its paths, its port, and times in which a test can wait."""
    replacements = {
        "/srv/blog/venv/bin/gunicorn": GUNICORN,
        rf"/(srv|run)/{example.program}\b": str(where),
        r"127\.0\.0\.1:[0-9]+": f"127.0.0.1:{port}",
        r"(?m)^(\[memreap:.*\])$": r"\1\nmin_age=1s\nsettle=1s",
    }
    # The Python of the tests may be in a directory that only their own user may enter.
    if os.getuid() != 0 or example.program == "blog":
        replacements[r"(?m)^user=.*$"] = ""
    for pattern, new in replacements.items():
        text = re.sub(pattern, new, text)
    return text


def write_own_configuration(text: str, example: Example, where: Path, port: int) -> None:
    """The server's own file, from the comments of an example, with what this server and the test need."""
    (path,) = re.findall(rf"(?m)^; (?:In )?{where}/([a-z.-]+)[:,]", text) or [""]
    if not path:
        return
    lines = "\n".join(re.findall(r"(?m)^;     (.*)$", text))
    assert lines
    before = servers.APACHE.format(where=where, port=port) if path == "apache.conf" else ""
    after = "php_admin_value[ffi.enable] = 1" if path == "php-fpm.conf" else ""
    (where / path).write_text(f"{before}{lines}\n{after}\n")


@pytest.fixture(params=EXAMPLES)
def pool(request, where) -> Iterator[stack.Pool]:
    example = EXAMPLES[request.param]
    server = servers.named(example.server)
    servers.skip_without(server)
    where.chmod(0o777)
    port = stack.free_port()
    text = adapted((stack.ROOT / f"conf.d-examples/{request.param}.conf").read_text(), example, where, port)
    write_own_configuration(text, example, where, port)
    shutil.copy(stack.APPS / server.app, where / example.app)
    text += (
        f"[eventlistener:memreap]\ncommand={Path(sys.executable).parent}/memreap listen\nevents=TICK_5\n"
        f"buffer_size=100\nstderr_logfile={where}/memreap.log\n{stack.recorder(where)}"
    )
    nginx_conf = servers.front(server, where) if server.front else None
    with stack.running(text, example.program, where, nginx_conf=nginx_conf, port=port) as running:
        yield running


def test_the_worker_that_grows_is_replaced_and_a_stopped_program_finishes_its_requests(pool):
    before = eventually(lambda: assert_all_are_there(pool))
    (grown, _) = pool.ask("mb=200")
    eventually(lambda: stack.assert_in_turn(pool.directory, 1))
    reap, _ = stack.announced(pool.directory)
    assert reap["pid"] == grown
    assert re.search(r"limit 150 MiB: \w+ sent between two requests$", reap["message"])
    assert before - eventually(lambda: assert_all_are_there(pool)) == {grown}
    with ThreadPoolExecutor() as threads:
        answer = threads.submit(pool.ask, "mb=60&s=2")
        until(lambda: pool.largest() > 60)  # it does so before it sleeps
        stop(pool)
        answer.result()  # raises what came instead of a whole answer


def assert_all_are_there(pool: stack.Pool) -> set[int]:
    workers = pool.workers()
    assert len(workers) == servers.WORKERS
    assert time.time() - max(psutil.Process(pid).create_time() for pid in workers) > 1
    return workers


def stop(pool: stack.Pool) -> None:
    command = [sys.executable, "-m", "supervisor.supervisorctl", "-c", f"{pool.directory}/supervisord.conf"]
    result = subprocess.run([*command, "stop", pool.name], capture_output=True, text=True, check=False)
    assert result.stdout == f"{pool.name}: stopped\n"
