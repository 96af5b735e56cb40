"""Which attempts are made, and when: several pools, with a stand-in for the child that makes one."""

from __future__ import annotations

import pytest

from supervisor_memreap.core import policy
from supervisor_memreap.core.model import Pool, ProcessId, Result, Standing, Worker, WorkerDetail
from supervisor_memreap.core.policy import Candidate, Choice
from supervisor_memreap.core.reasons import Requested
from supervisor_memreap.core.settings import PoolSettings
from supervisor_memreap.core.state import PoolState
from supervisor_memreap.host.attempt import Attempt
from supervisor_memreap.host.machine import TURN, Outcome
from supervisor_memreap.host.thismachine import ThisMachine
from supervisor_memreap.listener import attemptqueue, attempts
from supervisor_memreap.listener.attemptqueue import AttemptQueue
from supervisor_memreap.listener.attempts import ALONE, LAST
from supervisor_memreap.listener.memorywatch import MemoryWatch
from supervisor_memreap.listener.pool import WatchedPool
from supervisor_memreap.listener.pools import Pools


class Child(Attempt):
    """An attempt that ends as the test decides."""

    fd = 0
    handle = None
    deadline = float("inf")

    def __init__(self, order):  # the real one would fork
        self.order = order
        self.ended: Outcome | None = None
        self.patience = order.patience

    def outcome(self) -> Outcome | None:
        return self.ended

    def cancel(self) -> Outcome:
        return Outcome(Result.BUSY, has_boundary=True)

    def shorten(self, patience: float) -> None:
        self.patience = min(self.patience, patience)


class Free:
    """A lock that no other one holds."""

    def share(self) -> Free:
        return self

    def close(self) -> None:
        pass


def candidate(worker: Worker, state: PoolState) -> Candidate:
    wait = state.waits.get(worker.id)
    return Candidate(worker, Requested(None, "uss"), attempts=wait.attempts if wait else 0)


class Machine(ThisMachine):
    """This one, on which every lock is free and nothing is signalled."""

    def __init__(self) -> None:
        super().__init__()
        self.begun: list[int] = []
        """The workers on which attempts were begun."""

    def lock(self, manager, is_group):
        return Free()

    def attempt(self, order, lock):
        self.begun.append(order.worker.pid)
        return Child(order)


class Queue:
    """Pools, each with the workers that are due."""

    def __init__(self, **due: tuple[int, ...]):
        machine = Machine()
        self.begun = machine.begun
        self.pools = Pools(machine, (), False, {}, lambda _states: "", dict)
        self.queue = AttemptQueue(machine, self.pools, MemoryWatch(machine))
        self.due = due
        self.now = 0.0

    def pool(self, name: str) -> WatchedPool:
        return self.pools.named(name)

    def look(self) -> None:
        self.now += 5.0
        for name, pids in self.due.items():
            pool = self.pool(name)
            detail = WorkerDetail(1, True, "Starman", "HUP")
            workers = tuple(Worker(ProcessId(pid, 1.0), 100.0, 1, detail) for pid in pids)
            seen = Pool(name, "RUNNING", manager=ProcessId(1, 0.5), workers=workers)
            candidates = [candidate(worker, pool.state) for worker in workers]
            pool.take(Choice(seen, Standing.DUE, pool.state, (), tuple(candidates)), self.now)
        self.queue.begin([self.pool(name) for name in self.due], self.now)

    def ends(self, name: str, outcome: Outcome) -> None:
        child = self.child(name)
        child.ended = outcome
        self.queue.wake(self.now)

    def child(self, name: str) -> Child:
        trial = self.pool(name).attempts.trial
        assert trial
        assert isinstance(trial.attempt, Child)
        return trial.attempt


def busy(stopped: float = 0.0) -> Outcome:
    return Outcome(Result.BUSY, has_boundary=True, watched=1.0, stopped=stopped)


def test_a_paused_pool_is_not_attempted_when_its_turn_comes(monkeypatch):
    monkeypatch.setattr(attemptqueue, "MOST", 1)
    queue = Queue(a=(11,), b=(21,))
    queue.look()
    assert queue.begun == [11]
    paused = queue.pool("b")
    paused.attempts.end(queue.now, by_force=True)  # as a pause does
    paused.update(policy.pause(paused.state))
    queue.ends("a", busy())
    assert queue.begun == [11]


def test_attempts_are_shortened_when_the_maximum_number_is_running(monkeypatch):
    monkeypatch.setattr(attemptqueue, "MOST", 1)
    queue = Queue(a=(11,))
    queue.look()
    assert queue.child("a").patience == ALONE
    queue.due["b"] = (21,)
    queue.look()
    assert queue.child("a").patience == TURN
    queue.ends("a", busy())
    assert queue.begun == [11, 21]


def test_an_always_busy_worker_does_not_block_the_turn_of_others():
    queue = Queue(a=(11, 12, 13))
    for _ in range(2):
        queue.look()
        for _ in range(3):
            queue.ends("a", busy())
    assert queue.begun == [11, 12, 13] * 2
    queue.look()
    assert queue.child("a").patience == 4 * attempts.FIRST


def test_a_worker_stopped_without_a_signal_is_left_alone_nine_times_as_long():
    queue = Queue(a=(11,))
    queue.look()
    queue.ends("a", busy(stopped=3600.0))  # by the clock of this machine, which is not that of the looks
    queue.look()
    assert queue.begun == [11]


def test_changed_settings_end_an_attempt():
    queue = Queue(a=(11,))
    queue.look()
    first = queue.child("a")
    queue.pool("a").settings = PoolSettings(hold=False)
    queue.look()
    assert queue.child("a") is not first
    assert queue.begun == [11, 11]


@pytest.mark.parametrize(
    ("server", "has_boundary", "patience"),
    [("", True, TURN), ("", False, LAST), ("gunicorn", True, LAST), ("Starman", False, TURN)],
)
def test_an_attempt_is_short_only_if_it_may_end_with_a_signal_to_a_busy_worker(server, has_boundary, patience):
    worker = Worker(ProcessId(11, 1.0), 60.0, 1, WorkerDetail(1, True, server))
    due = Candidate(worker, Requested(None, "uss"), idle_wait_expired=True)
    assert attempts._patience(due, True, 0.0, has_boundary) == patience


def test_a_worker_with_a_thousand_failed_attempts_is_attempted_again():
    due = Candidate(
        Worker(ProcessId(11, 1.0), 60.0, 1, WorkerDetail(1, True, "")), Requested(None, "uss"), attempts=2000
    )
    assert attempts._patience(due, False, 0.0, True) == ALONE
