"""The hazard of FCGI::ProcManager's newborns: between fork and its own handlers a worker runs those of its manager."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import psutil
import pytest
from support import needs, stack
from support.driver import eventually, stop, until, workers_below

from supervisor_memreap.core import events
from supervisor_memreap.core.model import Program
from supervisor_memreap.core.settings import Settings
from supervisor_memreap.demo import fastcgi
from supervisor_memreap.host import procfs
from supervisor_memreap.host.thismachine import ThisMachine
from supervisor_memreap.listener.reaper import Reaper

MIB = 1024**2
WORKERS = 4
REAPS = 3
APP = """
my @kept;
sub { push @kept, 'x' x (1024 * 1024); [200, ['Content-Type' => 'text/plain'], ["$$"]] }
"""


class Started(NamedTuple):
    manager: int
    socket: str
    pidfile: Path

    def workers(self) -> set[int]:
        return workers_below(self.manager)


@pytest.fixture
def pool() -> Iterator[Started]:
    """A real one, whose workers are newborns for half a second; each request makes one grow by 1 MiB."""
    needs.skip_without("plackup", "FCGI::ProcManager")
    where = stack.directory()
    (where / "app.psgi").write_text(APP)
    command = ["plackup", "-s", "FCGI", "--listen", f"{where}/s", "--nproc", str(WORKERS), "--pid", f"{where}/pid"]
    environment = {**os.environ, "PERL5LIB": str(stack.APPS), "PERL5OPT": "-MSlowNewborn"}
    process = subprocess.Popen([*command, f"{where}/app.psgi"], env=environment, stderr=subprocess.DEVNULL)
    started = Started(process.pid, f"{where}/s", where / "pid")
    try:
        eventually(lambda: _assert_whole(started))
        yield started
    finally:
        stop(process.pid)  # so that it forks no other meanwhile
        for worker in psutil.Process(process.pid).children():
            worker.kill()  # not waited for while its manager is stopped: the pid is its own
        process.kill()
        process.wait()
        shutil.rmtree(where)


def _assert_whole(pool: Started) -> None:
    """All of them wait for a request; one that spins never does."""
    workers = pool.workers()
    view = procfs.source()
    assert len(workers) == WORKERS
    assert all(view.idle(pid) for pid in workers)


def test_the_hazard_exists_a_newborn_that_gets_hup_ends_its_siblings(pool):
    siblings = pool.workers()
    os.kill(min(siblings), signal.SIGHUP)

    def newborn() -> int:
        (pid,) = pool.workers() - siblings
        return pid

    os.kill(eventually(newborn), signal.SIGHUP)
    until(lambda: not siblings & pool.workers())


def test_under_constant_recycling_only_signalled_workers_leave(pool):
    view = procfs.source()
    limit = 70 * MIB + max(view.memory(pid).private for pid in pool.workers())
    settings = Settings({"myapp": {"limit": limit, "min_age": 0.6, "settle": 0.0}})
    emitted: list[events.Event] = []
    reaper = Reaper(ThisMachine(), (emitted.append,))
    ever: set[int] = set()

    def signalled() -> list[int]:
        return [event.pid for event in emitted if isinstance(event, events.Signalled)]

    def recycle() -> None:
        # At most 50 MiB a second, should one worker get all of it: one that is over the limit sooner than 2 x min_age
        # after its start would indicate a wrong limit.
        time.sleep(0.02)
        fastcgi.get(pool.socket)
        reaper.tick([Program("myapp", "myapp", "RUNNING", pool.manager)], settings, time.monotonic())
        assert pool.pidfile.read_text().strip() == str(pool.manager)
        ever.update(pool.workers())

    deadline = time.monotonic() + 120
    while len(signalled()) < REAPS and time.monotonic() < deadline:
        recycle()
    assert len(signalled()) == REAPS, emitted
    eventually(lambda: _assert_whole(pool))
    assert ever - pool.workers() <= set(signalled())
    reaper.close()
