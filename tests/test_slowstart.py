"""gunicorn without preload, whose workers import for 8 s: a replacement serves only then."""

from __future__ import annotations

import psutil
import pytest
from support.driver import eventually
from support.reaping import Reaping
from support.slowstart import Slow, slow

from supervisor_memreap.core import events
from supervisor_memreap.core.settings import Settings

IMPORT = 8
MIB = 1024**2


@pytest.mark.parametrize("kind", ["sync", "gthread"])
@pytest.mark.parametrize("workers", [2, 3])
def test_all_but_one_always_serve(kind, workers, tmp_path):
    with slow(kind, workers, tmp_path, IMPORT) as pool, Reaping(pool.manager) as reaping:
        # What may be written is a minute at least.
        reaping.settings = Settings({"myapp": {"max_age": 2.0, "min_age": 1.0, "settle": 0.5}})
        with pool.watched():
            eventually(lambda: assert_settled(reaping, 2))
        assert (pool.fewest, pool.lost) == (workers - 1, [])
        assert pool.longest < IMPORT / 2
        first, *_ = reaping.all_of(events.Settled)
        assert IMPORT <= first.to_serve < IMPORT + 5


def test_all_but_one_always_serve_when_reaped_for_their_size(tmp_path):
    with slow("sync", 2, tmp_path, IMPORT) as pool, Reaping(pool.manager) as reaping:
        grow(pool)
        reaping.settings = Settings({"myapp": {"limit": 60 * MIB, "min_age": 1.0, "settle": 0.5}})
        with pool.watched():
            eventually(lambda: assert_settled(reaping, 2))
        assert (pool.fewest, pool.lost) == (1, [])


def grow(pool: Slow) -> None:
    def all_have_grown() -> None:
        pool.ask("/grow")
        assert all(each.memory_info().rss > 70 * MIB for each in psutil.Process(pool.manager).children())

    eventually(all_have_grown)


def assert_settled(reaping: Reaping, number: int) -> None:
    reaping.tick()
    assert len(reaping.all_of(events.Settled)) >= number, reaping.events


def test_status_shows_the_replacement_as_starting(tmp_path):
    with slow("sync", 2, tmp_path, 3.0) as pool, Reaping(pool.manager) as reaping:
        reaping.settings = Settings({"myapp": {"max_age": 2.0, "min_age": 1.0, "settle": 0.5}})
        reaping.until(events.Left)

        def assert_starting() -> None:
            reaping.tick()
            (status,) = reaping.reaper.status()
            notes = [worker.get("note") for worker in status["workers"]]
            assert notes.count("starting") == 1

        eventually(assert_starting)
        reaping.until(events.Settled)
