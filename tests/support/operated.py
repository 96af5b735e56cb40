"""A supervisord with all three doors of memreap."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import xmlrpc.client
from pathlib import Path
from typing import Any, NamedTuple

from supervisor_memreap.core import policy
from support import stack
from support.driver import Transport, workers_below


class Operated(NamedTuple):
    """A supervisord with all three doors of memreap, and a pool that is within its limit."""

    directory: Path
    python: str
    url: str
    username: str
    password: str

    def ctl(self, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(self.command(*words), capture_output=True, text=True, cwd=self.directory, check=False)

    def command(self, *words: str) -> list[str]:
        access = ["-u", self.username, "-p", self.password] if self.username else []
        command = [self.python, "-m", "supervisor.supervisorctl", "-c", f"{self.directory}/supervisord.conf"]
        return [*command, "-s", self.url, *access, *words]

    def rpc(self) -> Any:
        transport = Transport(self.username, self.password, self.url)
        return xmlrpc.client.ServerProxy("http://127.0.0.1", transport=transport)

    def workers(self, name: str = "myapp") -> set[int]:
        pids = re.findall(rf"spawned: '{name}' with pid ([0-9]+)", (self.directory / "s.log").read_text())
        return workers_below(int(pids[-1]))

    def log(self) -> str:
        path = self.directory / "memreap.log"
        return path.read_text() if path.exists() else ""

    def announced(self) -> list[dict]:
        return stack.announced(self.directory)


def assert_status(operated: Operated, expression: str) -> None:
    result = operated.ctl("memreap", "status")
    assert re.search(expression, result.stdout), result.stdout + result.stderr + operated.log()[-1000:]


def assert_have_been_seen_serving(operated: Operated, settle: float, name: str = "myapp") -> None:
    """The listener has seen each worker after it began to serve: from now on growth counts (rule 9)."""
    (pool,) = (pool for pool in operated.rpc().memreap.getPools() if pool["name"] == name)
    assert min(worker["age_seconds"] for worker in pool.get("workers", ())) > settle + policy.READ


def look(operated, *words: str, command: str = "status") -> subprocess.CompletedProcess[str]:
    conf = f"{operated.directory}/supervisord.conf"
    whole = [sys.executable, "-m", "supervisor_memreap", command, "-c", conf, *words]
    environment = {**os.environ, "SUPERVISOR_SERVER_URL": operated.url}
    if operated.username:
        environment.update(SUPERVISOR_USERNAME=operated.username, SUPERVISOR_PASSWORD=operated.password)
    return subprocess.run(whole, capture_output=True, text=True, env=environment, check=False)
