"""Growth in the status: of a real pool that grows, in the values, in the tables, and through XML-RPC."""

from __future__ import annotations

import errno
import json
import os
import time
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import pytest
from support import driver
from support.driver import eventually
from support.reaping import Reaping

from supervisor_memreap.advice import growth
from supervisor_memreap.advice.growth import Growth, Sample
from supervisor_memreap.core import events, following, policy, selection
from supervisor_memreap.core.counters import Counters
from supervisor_memreap.core.model import MemoryScope, Pool, ProcessId, Worker, WorkerDetail
from supervisor_memreap.core.policy import Look
from supervisor_memreap.core.rows import of_xmlrpc
from supervisor_memreap.core.settings import PoolSettings
from supervisor_memreap.core.state import PoolState
from supervisor_memreap.host import kept, look, procfs, reader
from supervisor_memreap.host.machine import Machine
from supervisor_memreap.listener import sizes
from supervisor_memreap.listener.pool import WatchedPool
from supervisor_memreap.listener.sizes import PoolSizes
from supervisor_memreap.outputs import statusrows, statustable
from supervisor_memreap.rpcinterface import make_rpcinterface

MIB = 1024**2
NOW = 1_800_000_000.0
SETTINGS = PoolSettings(150 * MIB)


@pytest.fixture
def in_seconds(monkeypatch):
    """Growth is known after seconds, not minutes."""
    monkeypatch.setattr(sizes, "MEASURE", 0.2)
    monkeypatch.setattr(growth, "WARM_UP", 0.0)
    monkeypatch.setattr(growth, "APART", 0.2)
    monkeypatch.setattr(growth, "WATCHED", 3.0)


@pytest.fixture
def growing():
    """The manager of a real pool: 3 workers that grow by 4 MiB a second each."""
    with driver.pool(3, 4, script=driver.POOL.with_name("growing.py")) as manager:
        yield manager


# With `limit` alone sizes are measured for the status; with `max_age` each worker is read at each look.
@pytest.mark.parametrize("more", [{}, {"max_age": "60s", "settle": "1h"}], ids=["measured", "read for a reason"])
def test_the_growth_of_a_real_pool_is_within_20_percent(growing, in_seconds, more):
    with Reaping(growing, limit="1GB", min_age="1h", **more) as reaping:

        def assert_true() -> None:
            reaping.tick()
            (pool,) = reaping.reaper.status()
            assert "next_at_limit_seconds" in pool
            assert pool.get("growth_bytes_per_hour") == pytest.approx(3 * 4 * MIB * 3600, rel=0.2)
            for worker in pool["workers"]:
                assert worker.get("growth_bytes_per_hour") == pytest.approx(4 * MIB * 3600, rel=0.2)
            left = 1024 * MIB - pool["largest_bytes"]
            assert pool["next_at_limit_seconds"] == pytest.approx(left / (4 * MIB), rel=0.2)

        eventually(assert_true)  # on a machine that is busy a worker may not get its time for a while


def test_a_reading_costs_no_extra_look(growing, in_seconds, monkeypatch):
    measured = []
    real = look.measure

    def measure(*arguments):
        measured.append(real(*arguments))
        return measured[-1]

    monkeypatch.setattr(look, "measure", measure)
    monkeypatch.setattr(sizes, "MEASURE", 1000.0)
    monkeypatch.setattr(growth, "APART", 0.0)
    with Reaping(growing, limit="1GB") as reaping:
        for _ in range(5):
            reaping.tick()
            reaping.reaper.status()
        (of_pool,) = [each.growth for each in reaping.reaper._sizes._by_pool.values()]
    assert len(measured) == 1
    # What is known from the first one is no reading of the later ones.
    assert [len(series.samples) for series in of_pool.series.values()] == [1, 1, 1]


def test_with_another_metric_the_status_has_its_sizes_at_once(growing):
    with Reaping(growing, limit="1GB") as reaping:
        shown = {}
        for metric in ("uss", "rss"):
            reaping.settings = reaping.with_settings(limit="1GB", metric=metric)
            reaping.tick()
            (pool,) = reaping.reaper.status()
            shown[pool["metric"]] = pool["largest_bytes"]
        (of_pool,) = [each.growth for each in reaping.reaper._sizes._by_pool.values()]
    assert shown["rss"] > shown["uss"] + 2 * MIB  # what it shares with its manager
    assert all(len(series.samples) <= 1 for series in of_pool.series.values())


def test_the_reader_of_sizes_is_there_only_while_they_are_read(growing, monkeypatch):
    """It shares less and less memory with the listener, the more that does meanwhile."""
    real, ended = reader.end, []
    monkeypatch.setattr(reader, "end", lambda: (ended.append(reader._child is not None), real()))
    with Reaping(growing, limit="1GB") as reaping:
        reaping.tick()  # reads one in full, to know whether that is permitted
        assert (reader._child, ended) == (None, [True])
        (pool,) = reaping.reaper._watched
        reaping.reaper._machine.measure([(pool.pool, pool.settings, {})], time.monotonic() + 60)
        assert (reader._child, ended) == (None, [True, True])


def test_the_swap_of_other_processes_is_no_part_of_a_size(growing, monkeypatch):
    monkeypatch.setattr(kept, "_swap_in_use", lambda: 300 * MIB)
    monkeypatch.setattr(sizes, "MEASURE", 0.0)
    monkeypatch.setattr(policy, "PROBE", 0.0)
    # With headroom= one worker is read at each look, to know whether sizes may be read.
    with Reaping(growing, limit="900MB", metric="rss", headroom="1MB") as reaping:
        for _ in range(3):
            reaping.tick()
            (pool,) = reaping.reaper.status()
            assert 0 < pool["largest_bytes"] < 300 * MIB


def test_sizes_that_cannot_be_read_leave_the_status_as_it_is(growing, monkeypatch):
    def fail(*_):
        raise RuntimeError("no sizes")

    def has_no_descriptor(*_):
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    with Reaping(growing, limit="1GB") as reaping:
        reaping.tick()
        with monkeypatch.context() as patch:
            patch.setattr(kept.Kept, "workers", lambda *_, **__: {})
            patch.setattr(procfs.Procfs, "process", has_no_descriptor)
            (pool,) = reaping.reaper.status()
        assert (len(pool["workers"]), reaping.all_of(events.InternalError)) == (3, [])
        monkeypatch.setattr(look, "measure", fail)
        (pool,) = reaping.reaper.status()
        assert len(pool["workers"]) == 3
        assert reaping.all_of(events.InternalError)


def test_the_server_is_read_again_with_other_workers_and_while_it_is_not_sure():
    answers = ["gunicorn of an unknown worker class", "gunicorn", "gunicorn gthread"]
    known = PoolSizes(cast(Machine, SimpleNamespace(server_of=lambda _: answers.pop(0))), "uss")

    def server(pid: int) -> str | None:
        workers = (Worker(ProcessId(pid, 1.0), 3600.0, MIB),)
        known.begin_round()
        pool = Pool("myapp", "RUNNING", manager=ProcessId(1, 1.0), workers=workers)
        return known.server(cast(WatchedPool, SimpleNamespace(pool=pool)))

    shown = [server(pid) for pid in (11, 11, 11, 12)]
    assert shown == ["gunicorn of an unknown worker class", "gunicorn", "gunicorn", "gunicorn gthread"]


def test_a_real_pool_with_a_total_has_the_memory_of_all_its_processes(growing):
    with Reaping(growing, limit="1GB", total="2GB") as reaping:
        reaping.tick()
        (pool,) = reaping.reaper.status()
    assert pool["total_limit_bytes"] == 2048 * MIB
    assert pool["total_bytes"] <= pool["pool_bytes"] < 2048 * MIB


def test_pools_no_longer_watched_are_forgotten(growing, in_seconds):
    with Reaping(growing, limit="1GB") as reaping:
        reaping.tick()
        reaping.reaper.status()
        assert set(reaping.reaper._sizes._by_pool) == {"myapp"}
        reaping.reaper.pools._pools.clear()
        reaping.programs = []

        def assert_forgotten() -> None:
            reaping.reaper.tick([], reaping.settings, 0.0)
            reaping.reaper.status()
            assert reaping.reaper._sizes._by_pool == {}

        eventually(assert_forgotten)


def worker(pid: int, mib: float, age: float = 3600.0) -> Worker:
    used = int(mib * MIB)
    return Worker(ProcessId(pid, 1.0), age, used, WorkerDetail(used, True))


def grown(per_hour: dict[int, float]) -> Growth:
    """Of workers by their pids, which grew by these MiB an hour for an hour."""
    known = Growth()
    for at in range(0, 3600, 60):
        workers = [worker(pid, 50 + mib * at / 3600) for pid, mib in per_hour.items()]
        known = known.after(workers, {each.id: Sample(at, each.used or 0) for each in workers})
    return known


def values(*workers: Worker, settings=SETTINGS, known: Growth | None = None, **more) -> Any:
    pool = replace(Pool("myapp", "RUNNING", "", ProcessId(1, 0.5), 7200.0, workers), **more)
    state, _ = following.follow(pool, settings, PoolState(), 100.0)
    ((choice,), *_) = selection.choose([Look(pool, settings, state)], 100.0)
    counters = Counters().with_standing(choice.standing.value, NOW - 34)
    used = {each.id: each.used for each in workers if each.used is not None}
    return statusrows.of_pool(choice, settings, choice.state, counters, used, growth=known or growth.Growth())


GROWING = values(worker(11, 60), worker(12, 50), known=grown({11: 12, 12: -2}))


def test_unknown_growth_is_omitted_and_a_dash_in_the_tables():
    early = values(worker(11, 60))
    assert not {"growth_bytes_per_hour", "next_at_limit_seconds"} & {*early, *early["workers"][0]}
    head, line = statustable.table([early], NOW, True).splitlines()
    assert line[head.index("growth") :].split()[0] == "-"
    head, line = statustable.workers_table(early).splitlines()
    assert (head.split(), line.split()[-1]) == (["pid", "age", "uss", "growth"], "-")


def test_known_growth_is_shown_with_the_time_until_a_worker_reaches_its_limit():
    assert GROWING["growth_bytes_per_hour"] == 10 * MIB
    assert GROWING["next_at_limit_seconds"] == pytest.approx(90 / 12 * 3600, abs=2)
    assert [each["growth_bytes_per_hour"] for each in GROWING["workers"]] == [12 * MIB, -2 * MIB]
    head, line, below = statustable.table([GROWING], NOW, True).splitlines()
    assert line[head.index("growth") :].startswith("10 MiB/h ")
    assert below == "  the next worker reaches its limit in about 8 h"
    _, largest, other = statustable.workers_table(GROWING).splitlines()
    assert (largest.split()[-2:], other.split()[-2:]) == (["12", "MiB/h"], ["-2.0", "MiB/h"])


@pytest.mark.parametrize(
    ("seconds", "about"), [(5, "1 min"), (3000, "50 min"), (3 * 3600, "3 h"), (5 * 86400 + 9, "5 d")]
)
def test_the_forecast_is_rounded_to_its_certainty(seconds, about):
    (line,) = statustable.details({**GROWING, "next_at_limit_seconds": seconds}, True)
    assert line == f"the next worker reaches its limit in about {about}"


@pytest.mark.parametrize(
    ("size", "expected"),
    [(12 * MIB, "12 MiB/h"), (0, "0.0 MiB/h"), (-3, "0.0 MiB/h"), (-12 * MIB, "-12 MiB/h"), (2048 * MIB, "2.0 GiB/h")],
)
def test_growth_is_a_size_an_hour(size, expected):
    assert statustable.growth(size) == expected


def test_a_single_look_has_no_growth():
    (pool,) = statusrows.of_look([GROWING])
    assert "growth" not in json.dumps(pool)
    assert "next_at_limit_seconds" not in pool
    assert "growth" not in statustable.table([pool], NOW, True)


def test_sizes_an_hour_are_doubles_in_xml_rpc_and_integers_in_json():
    interface = make_rpcinterface(SimpleNamespace())
    interface.publish(json.dumps({"pools": [GROWING], "answers": {}}))
    pool = interface.getPool("myapp")
    sized = (pool["growth_bytes_per_hour"], pool["workers"][1]["growth_bytes_per_hour"], pool["limit_bytes"])
    assert [type(size) for size in sized] == [float, float, float]
    assert isinstance(pool["next_at_limit_seconds"], int)
    (restored,) = of_xmlrpc(interface.getPools())
    assert restored == GROWING
    grew = (each["growth_bytes_per_hour"] for each in (restored, *restored["workers"]))
    assert {type(size) for size in (restored["limit_bytes"], *grew)} == {int}
    assert statustable.table([pool], NOW, True) == statustable.table([GROWING], NOW, True)


@pytest.mark.parametrize(
    ("name", "lines"), [("myapp", 2), ("a-group-of-shops:shop_of_the_north_west_00", 3)], ids=["short", "long"]
)
def test_a_table_with_growth_is_80_columns_wide_with_any_content(name, lines):
    largest: Any = {
        **values(worker(11, 60)),
        "name": name,
        "standing": "suspended",
        "limit_bytes": 1023 * MIB,
        "workers": [{"pid": 1, "age_seconds": 1.0}] * 1000,
        "largest_bytes": 1023 * MIB,
        "total_bytes": 1023 * MIB,
        "growth_bytes_per_hour": -1023 * MIB,
        "reaps": 99_999,
        "given_back_bytes": 1023 * MIB,
        "since": NOW - 86399 * 2,
    }
    table = statustable.table([values(worker(11, 60)), largest], NOW, True)
    assert max(map(len, table.splitlines())) <= 80
    assert {"growth", "reaps", "total"} <= set(table.splitlines()[0].split())
    small = statustable.table([GROWING], NOW, True)
    assert {"growth", "since"} <= set(small.splitlines()[0].split())


def test_a_due_worker_is_shown_with_its_reason():
    settings = PoolSettings(150 * MIB, max_age=1000.0)
    pool = values(worker(11, 160, age=10.0), worker(12, 50, age=2000.0), worker(13, 50, age=10.0), settings=settings)
    assert [each.get("reason") for each in pool["workers"]] == ["over its limit", "too old", None]
    rows = statustable.workers_table(pool).splitlines()[1:]
    assert [row.endswith(note) for row, note in zip(rows, ("over its limit", "too old", "MiB   -"))] == [True] * 3


def test_a_pool_with_max_age_alone_has_no_limit():
    pool = values(worker(11, 60), settings=PoolSettings(max_age=86400.0))
    assert "limit_bytes" not in pool
    head, line = statustable.table([pool], NOW, True).splitlines()
    assert line[head.index("limit") : head.index("workers")].strip() == "-"


def test_a_pool_with_a_total_shows_it_and_what_it_holds():
    settings = PoolSettings(total=500 * MIB)
    pool = values(worker(11, 60), settings=settings, scopes=(MemoryScope("myapp", 500 * MIB, 380 * MIB),))
    assert (pool["total_limit_bytes"], pool["pool_bytes"]) == (500 * MIB, 120 * MIB)
    unread = values(worker(11, 60), settings=settings, is_total_unreadable=True)
    assert (unread["total_limit_bytes"], unread.get("pool_bytes")) == (500 * MIB, None)
