"""gunicorn without preload, whose workers import for 4 s: a replacement serves only then."""

from __future__ import annotations

import re
import sys

import psutil
from support import stack
from support.driver import eventually
from support.operated import assert_logged, assert_status, operating
from support.reaping import Reaping
from support.slowstart import Slow, slow

from supervisor_memreap.core import events
from supervisor_memreap.core.settings import Settings

IMPORT = 4
MIB = 1024**2


def test_all_but_one_always_serve(tmp_path):
    with slow("sync", 2, tmp_path, IMPORT) as pool, Reaping(pool.manager) as reaping:
        grow(pool)
        reaping.settings = Settings({"myapp": {"limit": 60 * MIB, "min_age": 1.0, "settle": 0.5}})
        starting: set[int] = set()
        with pool.watched():
            eventually(lambda: assert_settled(reaping, 2, starting))
        assert (pool.fewest, pool.lost) == (1, [])
        assert pool.longest < IMPORT
        first, *_ = reaping.all_of(events.Settled)
        assert IMPORT <= first.to_serve < IMPORT + 5
        assert 1 in starting


def test_a_roll_of_a_deployment_that_does_not_start_takes_one_worker_and_ends_with_1():
    gunicorn = f"{sys.executable} -m gunicorn -w 3 --no-control-socket --pythonpath {stack.APPS} slowstart:application"
    where = 'directory=WHERE\nenvironment=IMPORT="0",MARKS="WHERE",TMPDIR="WHERE"\n'
    command = f"{gunicorn} --bind 127.0.0.1:{stack.free_port()}"
    settings = "[memreap]\nlimit=1GB\nmin_age=1s\nsettle=1s\ngrace=5s\n[memreap:myapp]\n"
    with operating(f"[program:myapp]\ncommand={command}\n{where}{settings}") as operated:
        eventually(lambda: assert_status(operated, r"myapp +QUIET.* 3 "))
        before = operated.workers()
        (operated.directory / "import").write_text("60")
        rolled = operated.ctl("memreap", "roll", "myapp", "--wait")
        assert rolled.returncode == 1, rolled
        assert len(before & operated.workers()) == 2
        last = rolled.stdout.splitlines()[-1]
        assert re.match(r"memreap: myapp: 0 of 3 workers replaced; the roll stopped: worker \d+ left, and no", last)
        assert_logged(operated, "the roll stopped after 0 of 3 workers: worker")


def grow(pool: Slow) -> None:
    def all_have_grown() -> None:
        pool.ask("/grow")
        assert all(each.memory_info().rss > 70 * MIB for each in psutil.Process(pool.manager).children())

    eventually(all_have_grown)


def assert_settled(reaping: Reaping, number: int, starting: set[int]) -> None:
    """Collects how many workers the status shows as starting."""
    reaping.tick()
    (status,) = reaping.reaper.status()
    starting.add([worker.get("note") for worker in status["workers"]].count("starting"))
    assert len(reaping.all_of(events.Settled)) >= number, reaping.events
