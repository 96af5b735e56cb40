"""Pools below a wrapper are noticed, whenever they come to be there: what is below each child is looked at again."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import psutil
import pytest
from support import needs, stack
from support.driver import eventually, pool
from support.reaping import Reaping

from supervisor_memreap.core.events import Wrapped
from supervisor_memreap.core.model import Standing
from supervisor_memreap.core.policy import STRUCTURE

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
POOL = f"perl {stack.APPS}/late.pl"
# Far above what any worker holds: nothing but the structure is looked at.
WIDE = {"limit": "10GB"}


@contextlib.contextmanager
def running(command: str) -> Iterator[psutil.Process]:
    """The shell that runs this; all that it starts is ended afterwards."""
    needs.skip_without_programs(f"command={command}")
    # Its output is thrown away: FCGI::ProcManager writes a line for each worker.
    shell = subprocess.Popen(["/bin/sh", "-c", command], stderr=subprocess.DEVNULL, start_new_session=True)
    try:
        yield psutil.Process(shell.pid)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(shell.pid, signal.SIGKILL)
        shell.wait()


def manager_below(process: psutil.Process) -> psutil.Process:
    below = process.children(recursive=True)
    (manager,) = (each for each in below if each.name() == "perl-fcgi-pm" and len(each.children()) == 2)
    return manager


def assert_blind(reaping: Reaping) -> Wrapped:
    assert reaping.tick().choice.standing is Standing.BLIND
    (event,) = reaping.all_of(Wrapped)
    return event


@pytest.mark.parametrize(
    "wrapped",
    [
        "{} | cat >/dev/null",
        "{} | while read line; do :; done",
        "sleep 1000 & {}; true",
        pytest.param(
            "su -s /bin/sh -c 'exec {}' root; true",
            marks=pytest.mark.skipif(os.getuid() != 0, reason="su asks for a password"),
        ),
    ],
)
def test_a_pool_behind_a_wrapper_is_not_watched_and_the_remedy_is_reported(wrapped):
    with running(wrapped.format(POOL)) as shell:
        eventually(lambda: manager_below(shell))
        with Reaping(shell.pid, **WIDE) as reaping:
            event = eventually(lambda: assert_blind(reaping))
            (row,) = reaping.reaper.status()
    assert len(event.managers) == 1
    assert "use exec in the program's command, or set depth=2" in event.text
    assert row["not_visible"] == event.why


def test_a_manager_that_forks_its_first_worker_late_is_noticed_within_a_minute(tmp_path):
    os.mkfifo(tmp_path / "start")
    with running(f"{POOL} {tmp_path}/start; true") as shell:
        (manager,) = eventually(lambda: one_child(shell))
        with Reaping(shell.pid, **WIDE) as reaping:
            for reaping.later in (0.0, 30.0, 75.0, 80.0):
                assert reaping.tick().choice.standing is Standing.QUIET  # a single worker, as far as can be known
            (tmp_path / "start").write_text("\n")
            eventually(lambda: manager_below(shell))
            reaping.later += STRUCTURE
            assert [below.id.pid for below in assert_blind(reaping).managers] == [manager.pid]


def one_child(process: psutil.Process) -> list[psutil.Process]:
    children = process.children()
    assert [child.name() for child in children] == ["perl"]
    return children


def test_with_depth_2_the_same_pool_is_watched_and_a_deeper_one_is_reported():
    with running(f"{POOL} | cat >/dev/null") as shell:
        eventually(lambda: manager_below(shell))
        with Reaping(shell.pid, **WIDE, depth="2") as reaping:
            assert reaping.tick().choice.standing is Standing.QUIET
    with running(f"sh -c '{POOL} | cat >/dev/null; true' | cat >/dev/null") as shell:
        manager = eventually(lambda: manager_below(shell))
        with Reaping(shell.pid, **WIDE, depth="2") as reaping:
            event = eventually(lambda: assert_blind(reaping))
            assert [below.id.pid for below in event.managers] == [manager.pid]
            assert "depth=2 does not reach the pool" in event.text


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_that_run_commands_are_workers(workers):
    with pool(workers, 40, "parent") as manager, Reaping(manager, **WIDE) as reaping:
        for reaping.later in (0.0, 30.0, 75.0):
            assert reaping.tick().choice.standing is Standing.QUIET
