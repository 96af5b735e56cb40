"""A pool in which no worker can be signalled, since another memreap has its lock."""

from __future__ import annotations

from support.driver import assert_have_served, eventually, pool, workers_below
from support.reaping import Reaping

from supervisor_memreap.core import events
from supervisor_memreap.core.hindrance import Kind


def test_the_lock_of_another_memreap_is_reported_as_the_hindrance():
    with pool(2, 40) as manager, Reaping(manager) as first, Reaping(manager, grace="1h") as second:
        signalled = first.until(events.Signalled).pid
        second.until(events.Locked)
        # Else half of the workers may be too young, which is a hindrance too.
        eventually(lambda: assert_replaced(manager, signalled))

        def assert_overdue():
            second.later += 5
            watched = second.tick()
            assert watched.choice.standing == "overdue"
            return watched

        watched = eventually(assert_overdue)
        assert watched.state.delay.hindrance.kind is Kind.LOCKED
        (overdue,) = second.all_of(events.Overdue)
        assert "holds its lock" in overdue.text


def assert_replaced(manager: int, pid: int) -> None:
    workers = workers_below(manager)
    assert len(workers) == 2
    assert pid not in workers
    assert_have_served(manager, settle=0.0)
