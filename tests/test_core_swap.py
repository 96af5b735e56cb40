"""What a worker gives back that has memory in swap, by what is short."""

from __future__ import annotations

import pytest

from supervisor_memreap.core.model import ProcessId, ProcessMemory, Worker, WorkerDetail
from supervisor_memreap.core.shortage import Kind, gives_back, is_worth_reaping

MIB = 1024**2


def worker(memory: ProcessMemory | None) -> Worker:
    return Worker(ProcessId(11, 1.0), 3600.0, 100 * MIB, WorkerDetail(None, True, memory=memory))


@pytest.mark.parametrize(
    ("kind", "expected"), [(Kind.TOTAL, 62), (Kind.HEADROOM, 2), (Kind.PRESSURE, 2)], ids=lambda value: str(value)
)
def test_swap_is_given_back_to_total_and_no_memory_to_the_host(kind, expected):
    in_swap = worker(ProcessMemory(2 * MIB, 60 * MIB, 3 * MIB))
    assert gives_back(in_swap, kind) == expected * MIB
    assert is_worth_reaping(in_swap, kind, 5 * MIB, 0.0) is (kind is Kind.TOTAL)


def test_a_worker_whose_memory_may_not_be_read_gives_back_nothing_that_is_known():
    assert gives_back(worker(None), Kind.TOTAL) is None
