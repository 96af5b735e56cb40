"""How long an attempt may take, and what is noted of a second signal."""

from __future__ import annotations

from typing import Any

import pytest

from supervisor_memreap.core import events
from supervisor_memreap.core.model import ProcessId, Result, SentMoment, Worker, WorkerDetail
from supervisor_memreap.core.policy import Candidate
from supervisor_memreap.core.reasons import OverLimit
from supervisor_memreap.core.state import Phase, PoolState, Reap
from supervisor_memreap.host.machine import TURN, Outcome
from supervisor_memreap.listener import attempts
from supervisor_memreap.listener.attempts import ALONE, LAST
from supervisor_memreap.listener.poolstate import StatefulPool

WORKER = ProcessId(11, 1.0)


def candidate(server: str = "unicorn", **values: Any) -> Candidate:
    return Candidate(Worker(WORKER, 60.0, 200, WorkerDetail(200, True, server)), OverLimit(200, 100, "uss"), **values)


@pytest.mark.parametrize(
    ("given", "is_alone", "remaining", "patience"),
    [
        (candidate(), True, 60.0, ALONE),
        (candidate(), True, 4.0, 4.0),
        (candidate(), True, 0.0, ALONE),
        (candidate(), False, 60.0, 1.0),
        (candidate(attempts=3), False, 60.0, 8.0),
        (candidate(attempts=3), False, 4.0, 4.0),
        (candidate(attempts=9), False, 600.0, ALONE),
        (candidate("uWSGI"), True, 4.0, ALONE),  # it is only ever signalled at its boundary
        (candidate("uWSGI", idle_wait_expired=True), True, 0.0, TURN),
        (candidate(idle_wait_expired=True), True, 0.0, LAST),  # it may be signalled at any moment
    ],
)
def test_an_attempt_takes_as_long_as_nobody_else_waits_and_as_idle_wait_lets_it(given, is_alone, remaining, patience):
    assert attempts._patience(given, is_alone, remaining, True) == patience


def pool(phase: Phase) -> tuple[StatefulPool, list[Any]]:
    seen: list[Any] = []
    state = PoolState(reap=Reap(WORKER, 0.0, frozenset(), phase=phase))
    return StatefulPool("myapp", state, [seen.append], lambda: ""), seen


SENT = Outcome(Result.SENT, SentMoment.HELD)


def test_a_second_signal_that_was_sent_is_an_event_and_no_third_one_follows():
    kept, seen = pool(Phase.AGAIN)
    attempts._settle_again(kept, WORKER, SENT, 5.0, 7.0)
    assert [type(event) for event in seen] == [events.SignalledAgain]
    assert kept.state.reap.phase is Phase.AGAIN


def test_after_a_second_signal_that_was_not_sent_another_attempt_may_follow():
    kept, seen = pool(Phase.AGAIN)
    attempts._settle_again(kept, WORKER, Outcome(Result.BUSY), 5.0, 7.0)
    assert (seen, kept.state.reap.phase) == ([], Phase.SIGNALLED)


@pytest.mark.parametrize("phase", [Phase.SIGNALLED, Phase.FORCED])
def test_what_came_of_a_late_attempt_changes_nothing_in_another_phase(phase):
    kept, seen = pool(phase)
    attempts._settle_again(kept, WORKER, Outcome(Result.BUSY), 5.0, 7.0)
    assert (seen, kept.state.reap.phase) == ([], phase)


def test_what_came_of_an_attempt_on_another_worker_changes_nothing():
    kept, seen = pool(Phase.AGAIN)
    attempts._settle_again(kept, ProcessId(12, 1.0), SENT, 5.0, 7.0)
    assert (seen, kept.state.reap.phase) == ([], Phase.AGAIN)
