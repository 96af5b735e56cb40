"""A supervisord with all three doors of memreap, and what goes through them.

supervisorctl and memreap run in the process of the test: a start takes 0.3 s of CPU. `process` is the real thing.
"""

from __future__ import annotations

import contextlib
import re
import shutil
import subprocess
import sys
import xmlrpc.client
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import psutil

from supervisor_memreap.core import policy
from support import inprocess, sections, stack
from support.driver import Transport, supervisord, workers_below


class Operated(NamedTuple):
    """The supervisord in `directory`, of the Python `python`; its login, if it has one."""

    directory: Path
    python: str
    url: str
    username: str
    password: str

    @classmethod
    def of(cls, directory: Path) -> Operated:
        """The one that listens on the socket in that directory."""
        return cls(directory, sys.executable, f"unix://{directory}/s.sock", "", "")

    @property
    def conf(self) -> Path:
        return self.directory / "supervisord.conf"

    def ctl(self, *words: str) -> subprocess.CompletedProcess[str]:
        return inprocess.control(*self._arguments(), *words)

    def process(self, *words: str) -> subprocess.CompletedProcess[str]:
        """A supervisorctl of that very Python."""
        return subprocess.run(self.command(*words), capture_output=True, text=True, cwd=self.directory, check=False)

    def command(self, *words: str) -> list[str]:
        return [self.python, "-m", "supervisor.supervisorctl", *self._arguments(), *words]

    def _arguments(self) -> list[str]:
        access = ["-u", self.username, "-p", self.password] if self.username else []
        return ["-c", str(self.conf), "-s", self.url, *access]

    def memreap(self, command: str, *words: str) -> subprocess.CompletedProcess[str]:
        environment = {"SUPERVISOR_SERVER_URL": self.url}
        if self.username:
            environment.update(SUPERVISOR_USERNAME=self.username, SUPERVISOR_PASSWORD=self.password)
        return inprocess.memreap(command, "-c", str(self.conf), *words, environment=environment)

    def rpc(self) -> Any:
        transport = Transport(self.username, self.password, self.url)
        return xmlrpc.client.ServerProxy("http://127.0.0.1", transport=transport)

    def send(self, command: str) -> None:
        """As supervisorctl memreap does, but without waiting for an answer."""
        self.rpc().supervisor.sendRemoteCommEvent("memreap-command", command)

    def workers(self, name: str = "myapp") -> set[int]:
        pids = re.findall(rf"spawned: '{name}' with pid ([0-9]+)", (self.directory / "s.log").read_text())
        return workers_below(int(pids[-1]))

    def listener(self) -> psutil.Process:
        return psutil.Process(self.rpc().memreap.getListener()["pid"])

    def log(self) -> str:
        path = self.directory / "memreap.log"
        return path.read_text() if path.exists() else ""

    def announced(self) -> list[dict]:
        return stack.announced(self.directory)


@contextlib.contextmanager
def operating(
    text: str,
    command: str = sections.LISTEN,
    events: str = "TICK_5,REMOTE_COMMUNICATION",
    doors: str = sections.INTERFACES,
    environment: str = "",
    **options: Any,
) -> Iterator[Operated]:
    """A supervisord with these sections, a listener and a recorder; `options` are those of driver.supervisord."""
    where = stack.directory()
    try:
        text += sections.listener(where, command, events, environment) + stack.recorder(where) + doors
        with supervisord(where, text.replace("WHERE", str(where)), **options):
            yield Operated.of(where)
    finally:
        shutil.rmtree(where)


def assert_status(operated: Operated, expression: str) -> None:
    result = operated.ctl("memreap", "status")
    assert re.search(expression, result.stdout), result.stdout + result.stderr + operated.log()[-1000:]


def assert_logged(operated: Operated, text: str, count: int | None = None) -> None:
    """It is in the log of the listener, `count` times if that is given."""
    log = operated.log()
    assert text in log if count is None else log.count(text) == count, log[-3000:]


def assert_have_been_seen_serving(operated: Operated, settle: float, name: str = "myapp") -> None:
    """The listener has seen each worker after it began to serve: from now on growth counts (rule 9)."""
    (pool,) = (pool for pool in operated.rpc().memreap.getPools() if pool["name"] == name)
    assert min(worker["age_seconds"] for worker in pool.get("workers", ())) > settle + policy.READ
