"""`memreap doctor`: in this process on what a test gives it, or as a command on a supervisord of its own."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
import subprocess
import sys
import tempfile
import time
import types
import venv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import pytest
import supervisor

import supervisor_memreap
from supervisor_memreap import __version__
from supervisor_memreap import doctor as memreap_doctor
from supervisor_memreap.core.model import ProcessId, ProcessMemory, Program
from supervisor_memreap.core.servers import Loop, Names
from supervisor_memreap.doctor.interpreter import Answer
from supervisor_memreap.host import source
from support import inprocess, stack
from support.driver import POOL, eventually, supervisord
from support.operated import Operated

MIB = 1024**2
BIN = Path(sys.executable).parent
# Quick to start, for where the pool is not what is at stake.
SMALL_POOL = f"""\
[program:myapp]
command={sys.executable} {POOL} 2 5
[memreap:myapp]
limit=1GB
[eventlistener:memreap]
command={BIN}/memreap listen
events=TICK_5,REMOTE_COMMUNICATION
environment=TMPDIR="WHERE"
"""


# What matters here of the rights of root in a container of Docker's.
CONTAINED = ("setpriv", "--bounding-set=-all,+chown,+dac_override,+fowner,+kill,+setgid,+setuid,+setpcap")
needs_root = pytest.mark.skipif(os.getuid() != 0, reason="runs processes as another user")


class Environment:
    """A venv that has supervisor and pip, and no memreap."""

    def __init__(self, where: Path):
        self.directory = where / "their venv"  # with a space, as a path may have one
        venv.create(self.directory, symlinks=True)
        self.python = str(self.directory / "bin/python")
        (self._packages,) = self.directory.glob("lib/python*/site-packages")
        for name in ("supervisor", "pip"):
            self._add(Path(supervisor.__file__).parent.parent / name)
        for name in ("supervisord", "supervisorctl"):
            script = Path(self.script(name))
            # As pip writes it where the path has a space.
            head = f"#!/bin/sh\n'''exec' \"{self.python}\" \"$0\" \"$@\"\n' '''\n"
            script.write_text(f"{head}import sys\nfrom supervisor.{name} import main\nsys.exit(main())\n")
            script.chmod(0o755)

    def script(self, name: str) -> str:
        return f"{self.directory}/bin/{name}"

    def _add(self, package: Path) -> None:
        (self._packages / package.name).symlink_to(package)

    def install_memreap(self) -> None:
        """What `pip install` does, without an index."""
        self._add(Path(supervisor_memreap.__file__).parent)
        self._add(Path(psutil.__file__).parent)

    @property
    def path(self) -> str:
        """The PATH where this environment is activated."""
        return f"{self.directory}/bin:{os.environ['PATH']}"


def doctor(where: Path, *more: str, within: Sequence[str] = (), **options) -> subprocess.CompletedProcess[str]:
    """The command; in this process, unless it is given options of a process.

    `within` is a command that runs the one behind it, such as setpriv.
    """
    words = ["doctor", "-c", f"{where}/supervisord.conf", *more]
    if within or options:
        command = [*within, sys.executable, "-m", "supervisor_memreap", *words]
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60, **options)
    return inprocess.memreap(*words)


@contextlib.contextmanager
def running(where: Path, text: str, **options):
    with supervisord(where, text.replace("WHERE", str(where)), **options) as process:
        try:
            yield process
        finally:
            # As an administrator ends it, so that the pool ends too. Not reaped here: driver.supervisord does that.
            os.kill(process.pid, 15)
            with contextlib.suppress(AssertionError):
                eventually(lambda: stack.assert_none_left(where), timeout=5)
            # FCGI::ProcManager spins for a minute where its whole group got TERM, as below a shell.
            for process in stack.left_in(where):
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()


def assert_found(where: Path, expression: str, status: int = 1, **options) -> str:
    """Returns what doctor prints."""
    result = doctor(where, **options)
    assert re.search(expression, result.stdout), result.stdout + result.stderr
    assert result.returncode == status, result.stdout
    assert "Traceback" not in result.stdout + result.stderr
    return result.stdout


def eventually_found(where: Path, expression: str, status: int = 1, **options) -> str:
    """The same, asked when there is something to judge: each doctor takes a second of CPU."""
    eventually(lambda: _assert_can_be_judged(where))
    return eventually(lambda: assert_found(where, expression, status, **options))


def _assert_can_be_judged(where: Path) -> None:
    """All workers are older than a min_age of 1 s, and the listener, if it can be asked, has looked or failed."""
    processes = [process for process in stack.left_in(where) if not process.info["name"].startswith("memreap ")]
    assert time.time() - max(process.create_time() for process in processes) > 1.5
    if stack.INTERFACE in (where / "supervisord.conf").read_text():
        listener = Operated.of(where).rpc().memreap.getListener()
        assert "age_seconds" in listener or listener["listener_state"] == "UNKNOWN", listener


# Pids that no process of this machine can have.
SUPERVISORD, MANAGER, LISTENER = 2**22 + 1, 2**22 + 100, 2**22 + 200
CAN_IMPORT = Answer("supervisord", sys.executable, version=__version__)
READY = {
    "name": "memreap",
    "state": "RUNNING",
    "listener_state": "READY",
    "age_seconds": 1.0,
    "count": 1,
    "takes_commands": True,
}
"""What memreap.getListener says of a listener that works."""
SOUND = """\
[program:myapp]
command=/srv/myapp_fastcgi.pl -l /run/myapp.sock -n 2 -e
stopwaitsecs=70
[memreap:myapp]
limit=150MB
[eventlistener:memreap]
command=memreap listen
events=TICK_5,REMOTE_COMMUNICATION
"""


class Process(NamedTuple):
    """One that is not there."""

    parent: int = MANAGER
    title: str = "perl-fcgi"
    """Or its command, with a path."""
    age: float = 600.0
    mib: int | None = 5
    """None: what it holds may not be read."""
    catches: bool = True


def pool(
    manager: str = "perl-fcgi-pm",
    worker: str = "perl-fcgi",
    pids: Sequence[int] = (MANAGER + 1, MANAGER + 2),
    **of_workers: Any,
) -> dict[int, Process]:
    """A manager and its workers with these titles, or commands; FCGI::ProcManager's unless stated otherwise."""
    workers = {pid: Process(MANAGER, worker, **of_workers) for pid in pids}
    return {MANAGER: Process(SUPERVISORD, manager), **workers}


POOL_OF_FCGI = pool()


class Processes:
    """A source of processes that are not there: each has what is given, and no memory in common with another."""

    def __init__(self, given: Mapping[int, Process]):
        self._given = given

    def _of(self, pid: int) -> Process:
        if pid not in self._given:
            raise ProcessLookupError(pid)
        return self._given[pid]

    def pids(self) -> list[int]:
        return [*self._given]

    def process(self, pid: int) -> source.Process:
        process = self._of(pid)
        return source.Process(ProcessId(pid, 1.0), process.parent, process.age, False)

    def children(self, pid: int) -> list[int]:
        return [child for child, process in self._given.items() if process.parent == pid]

    def family(self, pid: int) -> tuple[source.Process, list[int]]:
        return self.process(pid), self.children(pid)

    def sizes(self, pid: int) -> source.Sizes:
        size = (self._of(pid).mib or 5) * MIB
        return source.Sizes(size, size)

    def memory(self, pid: int) -> ProcessMemory:
        held = self._of(pid).mib
        if held is None:
            raise PermissionError(pid)
        return ProcessMemory(held * MIB, 0, held * MIB)

    def catches(self, pid: int, signum: int) -> bool:
        return self._of(pid).catches

    def loop(self, pid: int, manager: int) -> Loop:
        self._of(pid)
        return Loop.NONE

    def names(self, pid: int) -> Names:
        title = self._of(pid).title
        argv = title.split() if "/" in title else [title]
        return Names(argv[0][:15], argv, argv[0])

    def environ(self, pid: int) -> dict[str, str]:
        self._of(pid)
        return {}

    def is_fork(self, pid: int, parent: int) -> bool:
        return self._of(pid).title[:4] == self._of(parent).title[:4]


def changed(*changes: tuple[str, str], text: str = SOUND) -> str:
    for old, new in changes:
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    return text


def assert_finds(expression: str, output: str) -> None:
    """The finding has a line of its own; only if it is a note or good news, doctor ends with 0."""
    is_harmless = ": note: " in expression or ": ok: " in expression
    assert re.search(rf"(?m)^{expression}", output), output
    assert output.endswith("exit status 0" if is_harmless else "exit status 1"), output


def row(name: str, pid: int = MANAGER, state: str = "RUNNING", supervisord: int = SUPERVISORD, **more: Any) -> Program:
    return Program(more.pop("group", name), name, state, pid, supervisord, **more)


RUNNING = (row("myapp"), row("memreap", LISTENER))


def examined(
    text: str = SOUND,
    rows: Sequence[Program] = RUNNING,
    processes: Mapping[int, Process] | None = None,
    answer: Answer = CAN_IMPORT,
    view: Any = None,
    listener: Mapping[str, Any] | None = None,
    pool: Mapping[str, Any] | None = None,
    read: Sequence[Mapping[str, Any]] = (),
    not_applied: Sequence[str] = (),
    url: str = "unix:///none",
) -> str:
    """What `memreap doctor` prints where all is as the arguments say, without a process; then its exit status.

    `processes` are a pool of FCGI::ProcManager unless stated otherwise; `view`: look at real ones instead. `answer` is
    that of the Pythons of supervisord and supervisorctl. supervisord says `rows`; the others are what its methods
    memreap.getListener (None: it has no such interface), getPools, supervisor.getAllConfigInfo and memreap.getPending
    return.
    """
    lines: list[str] = []
    view = view or Processes(POOL_OF_FCGI if processes is None else processes)
    client: Any = types.SimpleNamespace(
        programs=lambda: rows,
        listener=lambda: listener,
        seen_by_listener=lambda: listener and ([{"name": "myapp", **(pool or {})}], listener),
        configuration=lambda: read,
        pending=lambda: {"changed": not_applied},
        url=url,
        is_local=True,
    )

    def ask(case: memreap_doctor.Case) -> None:
        case.supervisord, case.supervisorctl = answer, dataclasses.replace(answer, program="supervisorctl")

    with tempfile.TemporaryDirectory() as directory, pytest.MonkeyPatch.context() as patch:
        path = Path(directory, "supervisord.conf")
        path.write_text(f"[supervisord]\nlogfile={directory}/s.log\n{text}")
        patch.setattr(memreap_doctor, "procfs", types.SimpleNamespace(source=lambda: view))
        patch.setattr(memreap_doctor.restart, "ask", ask)
        status = memreap_doctor.run(str(path), lambda _server: client, lines.append)
    return "\n".join([*lines, f"exit status {status}"])
