"""How long an attempt may take, and what is noted of a second signal."""

from __future__ import annotations

from typing import Any

import pytest

from supervisor_memreap.core import events
from supervisor_memreap.core.frozen import replace
from supervisor_memreap.core.hindrance import Hindrance
from supervisor_memreap.core.model import HOST, Pool, ProcessId, Result, SentMoment, Worker, WorkerDetail
from supervisor_memreap.core.policy import Candidate
from supervisor_memreap.core.reasons import OverLimit, ShortOfHeadroom
from supervisor_memreap.core.settings import PoolSettings
from supervisor_memreap.core.shortage import Kind, Shortage
from supervisor_memreap.core.state import Phase, PoolState, Reap, Wait
from supervisor_memreap.host.machine import TURN, Locked, Outcome
from supervisor_memreap.listener import attempts
from supervisor_memreap.listener.attempts import ALONE, LAST, PoolAttempts
from supervisor_memreap.listener.followed import FollowedWorkers
from supervisor_memreap.listener.poolstate import StatefulPool

WORKER = ProcessId(11, 1.0)


def candidate(server: str = "unicorn", **values: Any) -> Candidate:
    return Candidate(Worker(WORKER, 60.0, 200, WorkerDetail(200, True, server)), OverLimit(200, 100, "uss"), **values)


def another(**values: Any) -> Candidate:
    given = candidate(**values)
    return replace(given, worker=given.worker._replace(id=ProcessId(12, 1.0)))


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


class Made:
    """An attempt whose outcome the test decides."""

    def __init__(self, order: Any):
        self.order, self.fd, self.deadline, self.handle = order, 5, 99.0, None
        self.result: Outcome | None = None
        self.is_shortened = False

    def outcome(self) -> Outcome | None:
        return self.result

    def cancel(self) -> Outcome:
        return self.result or Outcome(Result.BUSY)

    def shorten(self, _patience: float) -> None:
        self.is_shortened = True


class Lock:
    is_open = True

    def close(self) -> None:
        self.is_open = False


class Attempting:
    """One pool of three workers, of which the first is due."""

    def __init__(self, given: Candidate | None = None) -> None:
        self.at, self.lock = 100.0, Lock()
        self.may_send = True
        self.made: list[Made] = []
        self.seen: list[Any] = []
        self.kept = StatefulPool("myapp", PoolState(), [self.seen.append], lambda: "")
        machine: Any = self
        lock: Any = lambda *_: self.lock  # noqa: E731
        self.attempts = PoolAttempts(machine, self.kept, FollowedWorkers(machine, lock), lock)
        self.given = given or candidate()
        others = tuple(Worker(ProcessId(pid, 1.0), 60.0, 20) for pid in (12, 13))
        self.pool = Pool("myapp", "RUNNING", manager=ProcessId(1, 0.0), workers=(self.given.worker, *others))

    def now(self) -> float:
        return self.at

    time = now

    def may_signal(self, _worker: ProcessId) -> bool:
        return self.may_send

    def attempt(self, order: Any, _lock: Any) -> Made:
        self.made.append(Made(order))
        return self.made[-1]

    def begin(self, may_relieve: bool = True) -> int:
        """How many attempts were made after another look."""
        self.attempts.offer(self.pool, PoolSettings(), (self.given,), self.at)
        self.attempts.begin_next(self.at, may_relieve)
        return len(self.made)

    def is_going_on_after(self, pool: Pool, *candidates: Candidate) -> bool:
        """Whether the attempt goes on after a look at that."""
        self.attempts.offer(pool, PoolSettings(), candidates, self.at)
        return self.attempts.trial is not None

    def end(self, outcome: Outcome) -> None:
        self.made[-1].result = outcome
        self.attempts.end(self.at)


def test_the_seconds_of_an_attempt_on_a_busy_worker_count_and_those_of_another_do_not():
    busy, changed = Attempting(), Attempting()
    for each, result in ((busy, Result.BUSY), (changed, Result.CHANGED)):
        assert each.begin() == 1
        each.end(Outcome(result, watched=5.0, has_boundary=False))
    assert [wait.seconds for wait in busy.kept.state.waits.values()] == [5.0]
    assert changed.kept.state.waits == {}
    assert busy.kept.state.has_boundary is False
    assert ([type(each) for each in busy.seen], [type(each) for each in changed.seen]) == ([], [events.Changed])


def test_an_error_in_an_attempt_is_raised_and_not_taken_for_a_refusal():
    attempting = Attempting()
    attempting.begin()
    with pytest.raises(RuntimeError, match="in an attempt: no memory"):
        attempting.end(Outcome(Result.CHANGED, error="no memory"))
    assert (attempting.seen, attempting.kept.state.reap, attempting.lock.is_open) == ([], None, False)


def test_where_a_worker_goes_for_the_host_in_another_pool_none_goes_for_it_here():
    shortage = Shortage(Kind.HEADROOM, HOST, 1.0, 2.0, 3.0)
    attempting = Attempting(replace(candidate(), reason=ShortOfHeadroom(shortage, 50)))
    assert (attempting.begin(may_relieve=False), attempting.begin()) == (0, 1)


def test_a_worker_that_was_stopped_for_nothing_is_left_alone_for_a_while():
    attempting = Attempting()
    attempting.begin()
    attempting.end(Outcome(Result.BUSY, stopped=1.0))
    attempting.at += attempts.PAUSE - 0.1
    assert attempting.begin() == 1
    attempting.at += 0.2
    assert attempting.begin() == 2


def test_so_is_one_that_is_to_be_signalled_again():
    attempting = Attempting()
    attempting.begin()
    attempting.end(SENT)
    for pause, number in ((0.0, 2), (attempts.PAUSE - 0.1, 2), (0.2, 3)):
        attempting.at += pause
        attempting.attempts.signal_again(attempting.given.worker, attempting.at)
        assert len(attempting.made) == number
        assert attempting.made[-1].order.processes == 4
        if attempting.attempts.trial:
            attempting.end(Outcome(Result.BUSY, stopped=1.0))


def test_after_a_refusal_no_worker_is_brought_to_its_boundary_for_five_minutes():
    attempting = Attempting()
    holds = []
    for pause in (0.0, 1.0, attempts.REFUSED - 2.0, 1.0):
        attempting.at += pause
        attempting.begin()
        holds.append(attempting.made[-1].order.hold)
        attempting.end(Outcome(Result.BUSY, unheld=holds[-1]))
    assert holds == [True, False, False, True]
    assert [type(event) for event in attempting.seen] == [events.CannotHold]  # said once


def test_an_attempt_goes_on_while_its_worker_is_due_and_no_other_has_left():
    attempting = Attempting()
    attempting.begin()
    given, pool = attempting.given, attempting.pool
    order = attempting.made[0].order
    assert (order.siblings, order.processes) == ({12, 13}, 4)
    assert attempting.is_going_on_after(pool, given)
    assert not attempting.made[0].is_shortened
    assert attempting.is_going_on_after(pool, given, another())
    assert attempting.made[0].is_shortened
    assert not attempting.is_going_on_after(replace(pool, workers=pool.workers[:2]), given)
    attempting.begin()
    assert not attempting.is_going_on_after(pool)
    assert len(attempting.made) == 2


def test_an_attempt_takes_what_the_ones_before_have_left_of_idle_wait():
    attempting = Attempting()
    attempting.kept.update(PoolState(waits={ProcessId(12, 1.0): Wait(9, PoolSettings().idle_wait - 2.0)}))
    attempting.begin()
    assert attempting.made[0].order.patience == 2.0


@pytest.mark.parametrize(("given", "signal"), [(None, "HUP"), ("USR1", "USR1")])
def test_the_signal_that_was_sent_is_in_the_event(given, signal):
    attempting = Attempting()
    attempting.begin()
    attempting.end(replace(SENT, signal=given))
    (event,) = attempting.seen
    assert (type(event), event.signal) == (events.Signalled, signal)


@pytest.mark.parametrize(("is_first", "refusal"), [(True, Hindrance), (False, type(None))])
def test_what_an_attempt_has_found_counts_for_the_pool_if_none_is_more_urgent(is_first, refusal):
    attempting = Attempting(candidate(attempts=0 if is_first else 1))
    offered = (attempting.given, another()) if is_first else (another(attempts=2), attempting.given)
    attempting.attempts.offer(attempting.pool, PoolSettings(), offered, attempting.at)
    attempting.attempts.begin_next(attempting.at, True)
    assert [made.order.worker for made in attempting.made] == [WORKER]
    attempting.end(Outcome(Result.BUSY))
    assert type(attempting.kept.state.refusal) is refusal


def test_after_an_attempt_that_was_ended_none_is_made_until_the_next_look():
    attempting = Attempting()
    attempting.attempts.offer(attempting.pool, PoolSettings(), (attempting.given, another()), attempting.at)
    attempting.attempts.begin_next(attempting.at, True)
    attempting.attempts.end(attempting.at, by_force=True)
    attempting.attempts.begin_next(attempting.at, True)
    assert len(attempting.made) == 1


@pytest.mark.parametrize(("may_send", "kind"), [(True, events.Locked), (False, events.NotPermitted)])
def test_a_lock_that_is_held_is_said_only_where_the_worker_may_be_signalled(may_send, kind):
    def locked(*_: Any) -> Any:
        raise Locked("process 4 of memreap")

    attempting = Attempting()
    attempting.may_send, attempting.attempts._take_lock = may_send, locked
    assert attempting.begin() == 0
    assert [type(event) for event in attempting.seen] == [kind]


def test_an_error_after_the_signal_may_have_been_sent_counts_as_sent(monkeypatch):
    def fail(_self: Any, _followed: Any) -> None:
        raise RuntimeError("no memory")

    monkeypatch.setattr(FollowedWorkers, "add", fail)
    attempting = Attempting()
    attempting.begin()
    with pytest.raises(RuntimeError, match="no memory"):
        attempting.end(SENT)
    assert attempting.kept.state.leaving.worker == WORKER
    assert not attempting.lock.is_open
