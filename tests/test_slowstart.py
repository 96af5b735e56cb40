"""gunicorn without preload, whose workers import for 4 s: a replacement serves only then."""

from __future__ import annotations

import psutil
import pytest
from support.driver import eventually
from support.reaping import Reaping
from support.slowstart import Slow, slow

from supervisor_memreap.core import events
from supervisor_memreap.core.settings import Settings

IMPORT = 4
MIB = 1024**2


@pytest.mark.parametrize(
    ("kind", "workers", "reason"),
    [("sync", 2, {"limit": 60 * MIB}), ("gthread", 3, {"max_age": 2.0})],
    ids=["2 sync, by size", "3 gthread, by age"],
)
def test_all_but_one_always_serve(kind, workers, reason, tmp_path):
    with slow(kind, workers, tmp_path, IMPORT) as pool, Reaping(pool.manager) as reaping:
        grow(pool)
        # What may be written as max_age is a minute at least.
        reaping.settings = Settings({"myapp": {**reason, "min_age": 1.0, "settle": 0.5}})
        starting: set[int] = set()
        with pool.watched():
            eventually(lambda: assert_settled(reaping, 2, starting))
        assert (pool.fewest, pool.lost) == (workers - 1, [])
        assert pool.longest < IMPORT / 2
        first, *_ = reaping.all_of(events.Settled)
        assert IMPORT <= first.to_serve < IMPORT + 5
        assert 1 in starting


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
