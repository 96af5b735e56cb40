"""`memreap doctor` on memory that processes share: total=, headroom= and pressure= that cannot do what they are for."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable

import pytest
from support import driver
from support.doctor import LISTENER, assert_finds, changed, examined, row

from supervisor_memreap.core.model import HOST, MemoryScope, Pool, ProcessId, Worker
from supervisor_memreap.core.settings import PoolSettings
from supervisor_memreap.doctor import workers
from supervisor_memreap.doctor.finding import Finding
from supervisor_memreap.doctor.workers import Held
from supervisor_memreap.host import procfs

MIB = 1024**2


@pytest.fixture(scope="module")
def real_pool():
    """A real manager with two workers that hold 40 MiB each."""
    with driver.pool(2, 40) as manager:
        yield manager


def examined_with(manager: int, reasons: str, headroom: str = "1MB") -> str:
    """What doctor finds where this real pool has these reasons to reap."""
    rows = [row("myapp", manager, supervisord=os.getpid()), row("memreap", LISTENER)]
    text = changed(("limit=150MB", reasons)) + f"[memreap]\nheadroom={headroom}\n"
    return examined(text, rows, view=procfs.source())


def pool(*ages: float) -> Pool:
    workers = (Worker(ProcessId(100 + number, 0.0), age, 0) for number, age in enumerate(ages))
    return Pool("myapp", "RUNNING", manager=ProcessId(99, 0.0), workers=tuple(workers))


def held(private: int, rest: int, swapped: int = 0) -> Held:
    return Held(private * MIB, rest * MIB, swapped * MIB)


def texts(findings: Iterable[Finding]) -> list[tuple[str, bool]]:
    return [(finding.text, finding.harms) for finding in findings]


def test_nothing_is_reported_if_everything_fits_in_memory(real_pool):
    assert examined_with(real_pool, "total=1GB").endswith("no problems found\nexit status 0")


def test_a_total_too_small_for_fresh_workers_is_reported_and_the_advised_one_is_enough(real_pool):
    expression = (
        r"myapp: its manager and 2 fresh workers already hold (\d+) MiB, over its total of 60 MiB: reaping does not"
        r" help; set total=(\d+)MB or higher, or run fewer workers$"
    )
    output = examined_with(real_pool, "total=60MB\nsettle=1h")
    assert_finds(expression, output)
    holds, usable = map(int, re.search(expression, output, re.MULTILINE).groups())
    assert 80 < holds < 120
    assert holds + 80 <= usable < holds + 100


def test_a_total_below_the_size_of_the_manager_is_reported_at_any_age_of_the_workers(real_pool):
    expression = (
        r"myapp: its manager and the memory shared with its workers take [0-9.]+ MiB, over its total of 1.0 MiB,"
        r" whatever is reaped: set total=\d+MB or higher, or restart the program when convenient$"
    )
    assert_finds(expression, examined_with(real_pool, "total=1MB"))
    settings = PoolSettings(total=100 * MIB)
    ((text, harms),) = texts(workers.check_total(pool(9999.0), settings, held(private=50, rest=101)))
    assert harms
    assert "set total=210MB or higher" in text


def test_a_total_that_grown_workers_exceed_is_a_note():
    settings = PoolSettings(total=100 * MIB)
    expected = "its manager and workers hold 130 MiB, over its total of 100 MiB"
    assert texts(workers.check_total(pool(10.0, 61.0), settings, held(90, 30, 10))) == [(expected, False)]
    assert texts(workers.check_total(pool(10.0, 61.0), settings, held(60, 30, 10))) == []


def test_a_total_of_unreadable_processes_is_a_note():
    ((text, harms),) = texts(workers.check_total(pool(10.0), PoolSettings(total=100 * MIB), None, ": run as root"))
    assert not harms
    assert text == "its total was not checked: doctor cannot read the memory of its processes: run as root"


def test_a_headroom_larger_than_the_host_is_reported(real_pool):
    expression = f"myapp: headroom=1000GB can never be met: {HOST} has .* GiB; set a smaller headroom="
    assert_finds(expression, examined_with(real_pool, "total=1GB", headroom="1000GB"))


def test_a_headroom_that_the_manager_leaves_no_room_for_is_reported():
    group = MemoryScope("control group /web", 500 * MIB, 100 * MIB)
    settings = PoolSettings(headroom=0.9)
    assert texts(workers.check_headroom([group], settings, held(private=300, rest=50))) == []
    assert texts(workers.check_headroom([group], settings, None)) == []
    ((text, harms),) = texts(workers.check_headroom([group], settings, held(private=300, rest=51)))
    assert harms
    assert text == (
        "headroom=90% can never be met: control group /web has 500 MiB, of which the manager and the memory shared with"
        " its workers take 51 MiB; set a smaller headroom=, such as 10%, or give it more memory"
    )


def test_a_headroom_in_a_scope_without_a_size_is_not_judged():
    scopes = [MemoryScope("control group /web", None, None, 0.0)]
    assert texts(workers.check_headroom(scopes, PoolSettings(headroom=1024 * MIB), held(1, 1))) == []


def test_a_pressure_that_the_kernel_does_not_report_is_a_note():
    silent, reporting = MemoryScope(HOST, MIB, MIB, None), MemoryScope("control group /web", None, None, 0.0)
    ((text, harms),) = texts(workers.check_pressure([silent], PoolSettings(pressure=20.0)))
    assert not harms
    assert text == (
        "this kernel does not report memory pressure, so pressure=20% has no effect: boot it with psi=1, or set"
        " headroom="
    )
    assert texts(workers.check_pressure([silent, reporting], PoolSettings(pressure=20.0))) == []
    assert texts(workers.check_pressure([silent], PoolSettings())) == []
