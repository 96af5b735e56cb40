"""What a worker gives back that has memory in swap, by what is short."""

from __future__ import annotations

import pytest

from supervisor_memreap.core.model import ProcessId, ProcessMemory, Worker, WorkerDetail
from supervisor_memreap.core.shortage import Kind, gives_back, is_worth_reaping

MIB = 1024**2


def worker(memory: ProcessMemory | None) -> Worker:
    own_swap = memory.swapped if memory else 0
    detail = WorkerDetail(None, True, memory=memory, own_swap=own_swap)
    return Worker(ProcessId(11, 1.0), 3600.0, 100 * MIB, detail)


@pytest.mark.parametrize(
    ("kind", "expected"), [(Kind.TOTAL, 62), (Kind.HEADROOM, 2), (Kind.PRESSURE, 2)], ids=lambda value: str(value)
)
def test_swap_counts_for_total_but_not_for_the_host(kind, expected):
    in_swap = worker(ProcessMemory(2 * MIB, 60 * MIB, 3 * MIB))
    assert gives_back(in_swap, kind) == expected * MIB
    assert is_worth_reaping(in_swap, kind, 5 * MIB, 0.0) is (kind is Kind.TOTAL)


@pytest.mark.parametrize(
    ("memory", "processes", "own"),
    [
        # 60 private, and 150 that all five share: 30 each.
        (ProcessMemory(0, 90, 0, 210), 5, 60),
        (ProcessMemory(0, 30, 0, 150), 5, 0),
        # 60 private and none shared.
        (ProcessMemory(0, 60, 0, 60), 5, 60),
        # 60 private, and 150 that only four still share, since one worker has written to them: 37 each.
        (ProcessMemory(0, 97, 0, 210), 5, 68),
        # A child of a worker shares them too: less than nothing is left.
        (ProcessMemory(0, 25, 0, 150), 5, 0),
        # A process alone, and a system that does not report it.
        (ProcessMemory(0, 60, 0, 60), 1, 60),
        (ProcessMemory(0, 90, 0), 5, 90),
    ],
)
def test_a_worker_has_no_share_of_swap_that_manager_and_workers_share(memory, processes, own):
    assert memory.own_swap(processes) == own


def test_a_worker_with_unreadable_memory_frees_an_unknown_amount():
    assert gives_back(worker(None), Kind.TOTAL) is None
