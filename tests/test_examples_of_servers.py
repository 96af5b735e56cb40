"""The files in conf.d-examples/ for servers other than FCGI::ProcManager, run by a private supervisord: each as it
stands, and with the lines of each variant that it has in comments.

A variant is a comment and the lines below it: `; For NAME, add to the command:`, `; For NAME, add:` or `; For NAME,
write instead:`. The latter two have lines of the server's own file behind `;     `, or of supervisord behind `;`. What
is written instead takes the place of the lines with the same keys, or is added where there are none.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import pytest
from support import servers, stack
from support.driver import eventually, until, workers_below

FILES = stack.ROOT / "conf.d-examples"


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
ELASTIC = ", whose pool grows and shrinks"
IN_COMMAND = "add to the command"
_OWN = ";     "
_VARIANT = re.compile(rf"(?m)^; For (.+?)({ELASTIC})?, ({IN_COMMAND}|add|write instead):\n((?:(?:{_OWN}|;\w).*\n)+)")


class Variant(NamedTuple):
    name: str
    is_elastic: bool
    """Its manager forks workers and ends idle ones, as many as it needs."""
    how: str
    """Whether its lines are added, or take the place of those with the same keys."""
    lines: list[str]

    def of(self, plain: str) -> str:
        """The example, with these lines out of the comments."""
        lines = plain.splitlines()
        for new in self.lines:
            places = [place for place, line in enumerate(lines) if key(line) == self._key(new)]
            if places:
                (place,) = places
                lines[place] = f"{lines[place]} {new[len(_OWN) :]}" if self.how == IN_COMMAND else new
            else:
                lines.insert(1 + max(place for place, line in enumerate(lines) if line.startswith(_OWN)), new)
        return "".join(f"{line}\n" for line in lines)

    def _key(self, line: str) -> str | None:
        """Of the line that this one changes."""
        return {IN_COMMAND: "command", "write instead": key(line)}.get(self.how)


def key(line: str) -> str:
    """The word that names a setting; empty for a line of text."""
    return (re.match(rf"(?:{_OWN})?(\w[\w.-]*)(?=[ =])", line) or [""] * 2)[1]


def parts(file: str) -> tuple[str, dict[str, Variant]]:
    """An example without its variants, and these, by their names."""
    text = (FILES / f"{file}.conf").read_text()
    variants = {}
    for name, elastic, how, block in _VARIANT.findall(text):
        lines = [line if line.startswith(_OWN) else line[1:] for line in block.splitlines()]
        variants[name] = Variant(name, bool(elastic), how, lines)
    return _VARIANT.sub("", text), variants


class Run(NamedTuple):
    """An example that is run, under a name of its own."""

    example: Example
    text: str
    is_elastic: bool = False

    @property
    def server(self) -> servers.Server:
        return servers.named(self.example.server)


def runs() -> Iterator[tuple[str, Run]]:
    """By the names of the servers."""
    for file, example in EXAMPLES.items():
        plain, variants = parts(file)
        yield example.server, Run(example, plain)
        for variant in variants.values():
            # nginx has only letters in the name of a pool.
            program = example.program + re.sub(r"[^a-z]", "", variant.name.lower())
            text = re.sub(rf"\b{example.program}\b", program, variant.of(plain))
            yield variant.name, Run(example._replace(program=program), text, variant.is_elastic)


RUNS = dict(runs())


def adapted(run: Run, where: Path, port: int) -> str:
    """An unmodified example, except for its paths, its ports, and times in which a test can wait."""
    program = run.example.program
    replacements = {
        "/srv/\\w+/venv/bin/gunicorn": GUNICORN,
        # Whose application asks a dirty worker.
        " app:(.*) tasks:Tasks": r" dirty:\1 dirty:Echoes",
        f"/srv/{program}/server.pl": f"perl {stack.APPS}/netserver.pl",
        # Each has a file of its own.
        rf"/srv/{program}/[a-z-]+\.(ini|conf|rb)\b": rf"{where}/{program}.\1",
        rf"/(srv|run)/{program}\b": str(where),
        r"127\.0\.0\.1:3031": f"{where}/{program}-2.sock",
        r"127\.0\.0\.1:[0-9]+": f"127.0.0.1:{port}",
        r"(?m)^(\[memreap:.*\])$": r"\1\nmin_age=1s\nsettle=1s",
    }
    # The Python of the tests may be in a directory that only their own user may enter.
    if os.getuid() != 0 or run.example.server.startswith("gunicorn"):
        replacements[r"(?m)^user=.*$"] = ""
    text = run.text
    for pattern, new in replacements.items():
        text = re.sub(pattern, new, text)
    return text


def write_own_configuration(text: str, run: Run, where: Path, port: int) -> None:
    """The server's own file, from the comments of an example, with what this server and the test need."""
    (path,) = re.findall(rf"(?m)^; (?:In )?{where}/([a-z]+\.(?:ini|conf|rb))[:,]", text) or [""]
    if not path:
        return
    lines = "\n".join(re.findall(rf"(?m)^{_OWN}(.*)$", text))
    assert lines
    before, after = "", ""
    if run.example.server == "Apache prefork":
        before = servers.APACHE.format(where=where, port=port).replace("apache.pid", f"{path}.pid")
    if run.example.server == "php-fpm":
        after = "php_admin_value[ffi.enable] = 1"
    (where / path).write_text(f"{before}{lines}\n{after}\n")


class Grown(NamedTuple):
    pool: stack.Pool
    before: set[int]
    """Its workers."""
    pid: int
    """Of the one that has grown since."""


@pytest.fixture(scope="module")
def grown() -> Iterator[dict[str, Grown]]:
    """All whose servers are there, in one supervisord; a worker of each has grown."""
    where = stack.directory()
    where.chmod(0o777)
    there = {name: run for name, run in RUNS.items() if shutil.which(run.server.executable)}
    ports = {name: stack.free_port() for name in there}
    texts = [
        f"[eventlistener:memreap]\ncommand={Path(sys.executable).parent}/memreap listen\nevents=TICK_5\n"
        f"buffer_size=100\nstderr_logfile={where}/memreap.log\n{stack.recorder(where)}"
    ]
    for app in ("dirty.py", "growing.py"):
        shutil.copy(stack.APPS / app, where)
    for name, run in there.items():
        texts.append(adapted(run, where, ports[name]))
        write_own_configuration(texts[-1], run, where, ports[name])
        shutil.copy(stack.APPS / run.server.app, where / run.example.app)
    fronted = {run.example.program: run.server for run in there.values()}
    port = stack.free_port()
    pools = {
        name: stack.Pool(where, port if run.server.front else ports[name], run.example.program)
        for name, run in there.items()
    }
    # The last: of those behind nginx, uWSGI starts in the shortest time.
    *_, first = sorted(pools.values(), key=lambda pool: bool(fronted[pool.name].front))
    nginx_conf = servers.in_front_of(fronted, where) if fronted[first.name].front else None
    try:
        with stack.running("".join(texts), first.name, where, nginx_conf=nginx_conf, port=first.port):
            for pool in pools.values():
                eventually(lambda pool=pool: stack.assert_answers(pool))
            before = {name: eventually(lambda name=name: assert_all_are_there(pools[name], name)) for name in pools}
            with ThreadPoolExecutor(4) as threads:
                asked = {name: threads.submit(pool.ask, "mb=160") for name, pool in pools.items()}
            yield {name: Grown(pool, before[name], asked[name].result()[0]) for name, pool in pools.items()}
    finally:
        shutil.rmtree(where)


@pytest.fixture(scope="module")
def stopped(grown: dict[str, Grown]) -> dict[str, Future[None]]:
    """Whether each program finished its request: it is stopped while it answers, eight at a time."""
    with ThreadPoolExecutor(8) as threads:
        return {name: threads.submit(stop_while_it_answers, each) for name, each in grown.items()}


@pytest.mark.parametrize("name", RUNS)
def test_the_worker_that_grows_is_replaced(grown, name):
    servers.skip_without(RUNS[name].server)
    pool, before, pid = grown[name]
    reap = reap_of(pool, pid)
    assert re.search(r"limit 150 MiB: \w+ sent between two requests$", reap["message"])
    if RUNS[name].is_elastic:
        if not pool.workers() - before:
            with servers.requests(pool, 0.3):
                until(lambda: pool.workers() - before)
        assert pid not in pool.workers()
    else:
        assert before - eventually(lambda: assert_all_are_there(pool, name)) == {pid}


@pytest.mark.parametrize("name", RUNS)
def test_a_program_that_is_stopped_finishes_its_requests(stopped, name):
    servers.skip_without(RUNS[name].server)
    stopped[name].result()


def stop_while_it_answers(grown: Grown) -> None:
    """Raises what comes instead of a whole answer."""
    pool, _, pid = grown
    reap_of(pool, pid)
    with ThreadPoolExecutor() as threads:
        answer = threads.submit(pool.ask, "mb=40&s=1")
        until(lambda: pool.largest() > 40)  # it does so before it sleeps
        stack.control(pool.directory).stopProcess(pool.name)
        answer.result()


def reap_of(pool: stack.Pool, pid: int) -> dict[str, Any]:
    """The threads of a worker of uWSGI take turns only while there are requests."""
    with servers.requests(pool, 0.05):
        return eventually(lambda: assert_reaped(pool, pid))


def assert_reaped(pool: stack.Pool, pid: int) -> dict[str, Any]:
    """This worker, and no other one."""
    events = [event for event in stack.announced(pool.directory) if event["pool"] == pool.name]
    assert [(event["event"], event["pid"]) for event in events] == [("reap", pid), ("left", pid)]
    return events[0]


def assert_all_are_there(pool: stack.Pool, name: str) -> set[int]:
    """Less a child with children, as the arbiter of gunicorn's dirty workers."""
    workers = {pid for pid in pool.workers() if not workers_below(pid)}
    assert workers if RUNS[name].is_elastic else len(workers) == servers.WORKERS
    assert time.time() - max(psutil.Process(pid).create_time() for pid in workers) > 1
    return workers
