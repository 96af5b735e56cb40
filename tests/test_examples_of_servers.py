"""The files in conf.d-examples/ for servers other than FCGI::ProcManager, run by a private supervisord."""

from __future__ import annotations

import os
import re
import shutil
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

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
    "net-server": Example("quotes", "Net::Server::PreFork", "app.psgi"),
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
        "/srv/quotes/server.pl": f"perl {stack.APPS}/netserver.pl",
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


class Grown(NamedTuple):
    pool: stack.Pool
    before: set[int]
    """Its workers."""
    pid: int
    """Of the one that has grown since."""


@pytest.fixture(scope="module")
def grown() -> Iterator[dict[str, Grown]]:
    """All whose servers are there, by the names of their files, in one supervisord; a worker of each has grown."""
    where = stack.directory()
    where.chmod(0o777)
    there = {name: each for name, each in EXAMPLES.items() if shutil.which(servers.named(each.server).executable)}
    ports = {name: stack.free_port() for name in there}
    texts = [
        f"[eventlistener:memreap]\ncommand={Path(sys.executable).parent}/memreap listen\nevents=TICK_5\n"
        f"buffer_size=100\nstderr_logfile={where}/memreap.log\n{stack.recorder(where)}"
    ]
    for name, example in there.items():
        text = (stack.ROOT / f"conf.d-examples/{name}.conf").read_text()
        texts.append(adapted(text, example, where, ports[name]))
        write_own_configuration(texts[-1], example, where, ports[name])
        shutil.copy(stack.APPS / servers.named(example.server).app, where / example.app)
    fronted = {each.program: servers.named(each.server) for each in there.values()}
    port = stack.free_port()
    pools = {
        name: stack.Pool(where, port if fronted[each.program].front else ports[name], each.program)
        for name, each in there.items()
    }
    first = min(pools.values(), key=lambda pool: not fronted[pool.name].front)
    nginx_conf = servers.in_front_of(fronted, where) if fronted[first.name].front else None
    try:
        with stack.running("".join(texts), first.name, where, nginx_conf=nginx_conf, port=first.port):
            for pool in pools.values():
                eventually(lambda pool=pool: stack.assert_answers(pool))
            before = {name: eventually(lambda pool=pool: assert_all_are_there(pool)) for name, pool in pools.items()}
            yield {name: Grown(pool, before[name], pool.ask("mb=160")[0]) for name, pool in pools.items()}
    finally:
        shutil.rmtree(where)


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_worker_that_grows_is_replaced_and_a_stopped_program_finishes_its_requests(grown, name):
    servers.skip_without(servers.named(EXAMPLES[name].server))
    pool, before, pid = grown[name]
    reap = eventually(lambda: assert_reaped(pool, pid))
    assert re.search(r"limit 150 MiB: \w+ sent between two requests$", reap["message"])
    assert before - eventually(lambda: assert_all_are_there(pool)) == {pid}
    with ThreadPoolExecutor() as threads:
        answer = threads.submit(pool.ask, "mb=60&s=2")
        until(lambda: pool.largest() > 60)  # it does so before it sleeps
        stack.control(pool.directory).stopProcess(pool.name)
        answer.result()  # raises what came instead of a whole answer


def assert_reaped(pool: stack.Pool, pid: int) -> dict[str, Any]:
    """This worker, and no other one."""
    events = [event for event in stack.announced(pool.directory) if event["pool"] == pool.name]
    assert [(event["event"], event["pid"]) for event in events] == [("reap", pid), ("left", pid)]
    return events[0]


def assert_all_are_there(pool: stack.Pool) -> set[int]:
    workers = pool.workers()
    assert len(workers) == servers.WORKERS
    assert time.time() - max(psutil.Process(pid).create_time() for pid in workers) > 1
    return workers
