"""Workers that the kernel has really pushed into swap, on a swap file that is switched on for these tests."""

from __future__ import annotations

import psutil
import pytest
from support.driver import pool
from support.reaping import Reaping
from support.swap import MIB, CannotSwap, page_out, swap_file

from supervisor_memreap.core import events
from supervisor_memreap.core.model import Program
from supervisor_memreap.core.reasons import OverLimit, OverTotal, ShortOfHeadroom
from supervisor_memreap.core.settings import PoolSettings, Watch
from supervisor_memreap.host import look, procfs

SIZE = 60
"""MiB of a worker."""


@pytest.fixture(scope="module", autouse=True)
def swap():
    try:
        with swap_file():
            yield
    except CannotSwap as error:
        pytest.skip(str(error))


@pytest.fixture
def manager():
    with pool(3, SIZE) as pid:
        yield pid


def push_out(worker: int) -> None:
    try:
        page_out(worker)
    except OSError as error:
        pytest.skip(f"no process can be pushed into swap here: {error.strerror}")
    memory = procfs.source().memory(worker)
    assert memory.private < 5 * MIB
    assert memory.swapped > (SIZE - 5) * MIB


def used_by(manager: int, worker: int, **settings) -> int:
    """The metric of this worker at a look, in bytes."""
    program = Program("myapp", "myapp", "RUNNING", manager)
    seen = look.look(Watch(program, PoolSettings(limit=MIB, **settings)), procfs.source())
    (used,) = (each.used for each in seen.workers if each.id.pid == worker)
    return used


@pytest.mark.parametrize("metric", ["uss", "pss", "rss"])
def test_a_worker_in_swap_counts_with_its_full_size(manager, metric):
    worker = procfs.source().children(manager)[0]
    before = used_by(manager, worker, metric=metric)
    push_out(worker)
    assert before > SIZE * MIB
    assert used_by(manager, worker, metric=metric) == pytest.approx(before, rel=0.02)


def test_the_limit_applies_to_a_worker_swapped_out_between_two_looks(manager):
    with Reaping(manager, limit="50GB") as reaping:
        for _ in range(2):
            reaping.tick()  # from then on only its statm is read, which has no swap
        for worker in procfs.source().children(manager):
            push_out(worker)
        reaping.settings = reaping.with_settings(limit=f"{SIZE - 5}MB")
        signalled = reaping.until(events.Signalled)
        left = reaping.until(events.Left)
    assert isinstance(signalled.reason, OverLimit)
    assert signalled.reason.used > SIZE * MIB
    assert left.pid == signalled.pid
    assert left.came_back == pytest.approx(signalled.reason.used, rel=0.02)


def test_total_counts_swap_and_swapped_workers_are_reaped_until_the_pool_fits(manager):
    for worker in procfs.source().children(manager):
        push_out(worker)
    with Reaping(manager, limit="50GB", total="100MB") as reaping:
        reaping.until(events.Relieved)
        sent, gone = reaping.all_of(events.Signalled), reaping.all_of(events.Left)
        assert reaping.all_of(events.NotRelieved) == []
    assert [type(event.reason) for event in sent] == [OverTotal, OverTotal]
    for event, left in zip(sent, gone):
        assert event.reason.private > SIZE * MIB
        assert left.came_back == pytest.approx(event.reason.private, rel=0.02)


def test_if_the_host_is_short_of_memory_a_worker_in_memory_is_reaped_not_one_in_swap(manager):
    first, second, third = procfs.source().children(manager)
    push_out(first)
    push_out(third)
    # All but 1 MB of the host: that much is never available. More than the host has would be no headroom at all.
    kibibytes = psutil.virtual_memory().total // 1024 - 1024
    with Reaping(manager, limit="50GB", headroom=f"{kibibytes}KB") as reaping:
        signalled = reaping.until(events.Signalled)
    assert isinstance(signalled.reason, ShortOfHeadroom)
    assert signalled.pid == second
