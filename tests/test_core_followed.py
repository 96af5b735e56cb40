"""What is kept open for signalled workers, and which pools share it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from supervisor_memreap.core import events, hindrance
from supervisor_memreap.core.frozen import replace
from supervisor_memreap.core.model import HOST, Holder, Pool, ProcessId, Standing, Worker, WorkerDetail
from supervisor_memreap.core.policy import Candidate, Choice
from supervisor_memreap.core.reasons import OverLimit
from supervisor_memreap.core.selection import Decision
from supervisor_memreap.core.shortage import Kind, Shortage
from supervisor_memreap.core.state import Phase, PoolState, Reap
from supervisor_memreap.host.machine import Locked
from supervisor_memreap.listener import memorywatch
from supervisor_memreap.listener.attemptqueue import AttemptQueue
from supervisor_memreap.listener.attempts import Trial, Turns
from supervisor_memreap.listener.followed import Followed, FollowedWorkers, signalled
from supervisor_memreap.listener.memorywatch import MemoryWatch
from supervisor_memreap.listener.pools import FORGET_AFTER, Pools

MANAGER = ProcessId(1, 0.0)
WORKERS = tuple(ProcessId(pid, 1.0) for pid in (11, 12, 13))
POOL = Pool("myapp", "RUNNING", manager=MANAGER)


class Held:
    """A lock or a handle."""

    def __init__(self, fd: int = 0):
        self.fd, self.is_open = fd, True

    def fileno(self) -> int:
        return self.fd

    def share(self) -> Held:
        return Held(self.fd)

    def close(self) -> None:
        self.is_open = False


class Host:
    """A machine that hands out handles; `gone` are the processes that no longer exist."""

    def __init__(self) -> None:
        self.handles: dict[ProcessId, Held] = {}
        self.locks: list[Held] = []
        self.gone: set[ProcessId] = set()

    def follow(self, process: ProcessId) -> Held:
        self.handles[process] = Held(process.pid)
        return self.handles[process]

    def lock(self, _manager: ProcessId, _is_group: bool) -> Held:
        self.locks.append(Held())
        return self.locks[-1]

    def may_exist(self, process: ProcessId) -> bool:
        return process not in self.gone

    def now(self) -> float:
        return 0.0

    def time(self) -> float:
        return 0.0


class Following:
    def __init__(self, take_lock: Any = None):
        host: Any = Host()
        self.host, self.workers = host, FollowedWorkers(host, take_lock or host.lock)

    def add(self, worker: ProcessId, pool: Pool = POOL) -> tuple[Held, Held]:
        handle, lock = Held(worker.pid), Held()
        self.workers.add(Followed(worker, pool, handle, lock))
        return handle, lock


def leaving(worker: ProcessId, **values: Any) -> PoolState:
    return PoolState(manager=MANAGER, reap=Reap(worker, 0.0, frozenset(), **values))


def test_a_worker_that_is_gone_is_known_by_its_descriptor_once():
    following = Following()
    (first, _), (second, _) = (following.add(worker) for worker in WORKERS[:2])
    assert list(following.workers.fds()) == [11, 12]
    assert following.workers.exited(99) is None
    assert following.workers.exited(12) == WORKERS[1]
    assert (first.is_open, second.is_open) == (True, False)
    assert list(following.workers.fds()) == [11]
    assert following.workers.exited(12) is None


def test_what_is_held_for_a_worker_ends_with_its_reap():
    following = Following()
    handle, lock = following.add(WORKERS[0])
    following.workers.release(leaving(WORKERS[0]))
    assert (handle.is_open, lock.is_open) == (True, True)
    following.workers.release(leaving(WORKERS[0], overdue=True))
    assert (handle.is_open, lock.is_open) == (True, False)
    following.workers.release(leaving(WORKERS[1]))
    assert (handle.is_open, following.workers.of(WORKERS[0])) == (False, None)


def test_a_stuck_worker_is_followed_without_a_lock():
    following = Following()
    handle, lock = following.add(WORKERS[0])
    following.workers.release(PoolState(stuck=(Reap(WORKERS[0], 0.0, frozenset()),)))
    assert (handle.is_open, lock.is_open) == (True, False)


def test_a_worker_is_ours_if_its_lock_is_held_or_can_be_had():
    following = Following()
    following.add(WORKERS[0])
    following.add(WORKERS[1])[1].close()
    following.workers.of(WORKERS[1]).lock = None
    assert [following.workers.is_ours(worker) for worker in WORKERS] == [True, True, False]
    assert len(following.host.locks) == 1


def test_a_worker_whose_lock_another_memreap_holds_is_not_ours():
    def locked(*_: Any) -> Any:
        raise Locked("process 4 of memreap")

    following = Following(locked)
    following.add(WORKERS[0])
    following.workers.of(WORKERS[0]).lock = None
    assert not following.workers.is_ours(WORKERS[0])


def test_only_the_lock_of_the_same_supervisord_is_shared():
    following = Following()
    following.add(WORKERS[0])
    assert following.workers.group_lock(MANAGER) is None
    assert not following.workers.holds_group_lock()
    _, lock = following.add(WORKERS[1], replace(POOL, is_group=True))
    assert following.workers.group_lock(MANAGER) is lock
    assert following.workers.group_lock(ProcessId(2, 0.0)) is None
    assert following.workers.holds_group_lock()
    following.workers.unlock()
    assert not following.workers.holds_group_lock()


def test_after_a_restart_what_is_leaving_has_a_lock_and_what_is_stuck_has_none():
    following = Following()
    state = replace(leaving(WORKERS[0]), stuck=(Reap(WORKERS[1], 0.0, frozenset()),))
    following.workers.take_over(replace(POOL, manager=None), state)
    assert list(following.workers.fds()) == []
    for _ in range(2):  # the second time nothing is taken again
        following.workers.take_over(POOL, state)
        assert list(following.workers.fds()) == [11, 12]
    assert len(following.host.locks) == 1
    assert [following.workers.of(worker).lock is not None for worker in WORKERS[:2]] == [True, False]
    assert signalled(leaving(WORKERS[0], left=1.0)) == ()


# Several pools.


def pools(*names: str, is_group: bool = True, **states: PoolState) -> tuple[Pools, Any]:
    host: Any = Host()
    known = Pools(host, [lambda _event: None], False, states, lambda _states: None)
    for name in names:
        pool = Pool(name, "RUNNING", manager=MANAGER, is_group=is_group)
        known.named(name).choice = Choice(pool, Standing.QUIET, PoolState())
    return known, host


def test_with_target_self_the_pools_of_one_group_take_turns():
    known, _ = pools("web:a", "web:b", "other:a")
    assert [pool.name for pool in known.group_of(known.named("web:a"))] == ["web:a", "web:b"]
    alone, _ = pools("web:a", "web:b", is_group=False)
    assert [pool.name for pool in alone.group_of(alone.named("web:a"))] == ["web:a"]


def test_why_it_could_not_be_saved_is_returned():
    known, _ = pools("a")
    assert known.write_down() == ""
    known._keep = lambda _states: "no space left"
    assert known.write_down() == "no space left"
    assert known.change({"a": PoolState(paused=True)}) == "no space left"
    assert known.named("a").state.paused is False


@pytest.mark.parametrize("trouble", ["", "no space left"])
def test_a_change_of_several_pools_is_saved_at_once_and_undone_where_it_cannot_be(trouble):
    known, _ = pools("a", "b")
    saved = []

    def keep(states: Any) -> str:
        saved.append([state.paused for state in states.values()])
        return trouble

    known._keep = keep
    assert known.change(dict.fromkeys("ab", PoolState(paused=True))) == trouble
    assert saved == [[True, True]]
    assert [pool.state.paused for pool in known] == [not trouble] * 2


def test_the_next_signal_waits_for_a_worker_that_a_memreap_has_signalled_which_has_ended():
    host: Any = Host()
    known = Pools(host, [], False, {}, lambda _states: None, lambda: {"a": leaving(WORKERS[0])})
    pool = replace(POOL, workers=(Worker(WORKERS[0], 60.0, 200),))
    known.named("a").choice = Choice(pool, Standing.QUIET, PoolState())
    with pytest.raises(Locked, match="worker 11 was signalled by a memreap that has ended"):
        known._take_lock(MANAGER, False)
    assert not host.locks[0].is_open
    assert known.named("a").state.leaving
    assert known._take_lock(MANAGER, False) is host.locks[1]  # it is followed now


def test_a_stuck_worker_that_another_memreap_follows_is_not_forced():
    known, _ = pools("a")
    pool = known.named("a")
    pool.update(leaving(WORKERS[0], phase=Phase.FORCED))
    pool.choice = replace(pool.choice, force=Worker(WORKERS[0], 60.0, 200))
    pool.follow_up(5.0, True)
    assert (pool.state.reap, [each.phase for each in pool.state.stuck]) == (None, [Phase.AGAIN])


def test_control_groups_are_those_of_the_manager_or_with_target_self_of_a_worker():
    workers = tuple(Worker(worker, 60.0, 200) for worker in reversed(WORKERS))
    pool = replace(POOL, workers=workers)
    assert memorywatch._a_process(pool) == MANAGER
    assert memorywatch._a_process(replace(pool, is_group=True)) == WORKERS[0]
    assert memorywatch._a_process(replace(pool, is_group=True, workers=())) is None


@pytest.mark.parametrize(("is_gone", "is_forgotten"), [(False, False), (True, True)])
def test_a_pause_of_a_pool_that_is_no_longer_watched_lasts_as_long_as_its_manager(is_gone, is_forgotten):
    known, host = pools(a=PoolState(paused=True, manager=MANAGER, looked=0.0))
    host.gone = {MANAGER} if is_gone else set()
    known.set_aside({"b"}, FORGET_AFTER - 1)
    assert "a" in known
    known.set_aside({"b"}, FORGET_AFTER)
    assert ("a" not in known) is is_forgotten


def test_a_pool_that_is_hidden_keeps_its_lock_only_while_a_worker_is_leaving():
    known, _ = pools("a")
    pool = known.named("a")
    lock = Held()
    pool.followed.add(Followed(WORKERS[0], POOL, None, lock))
    pool.update(leaving(WORKERS[0]))
    pool.hide()
    assert (lock.is_open, pool.choice) == (True, None)
    pool.update(leaving(WORKERS[0], left=1.0))
    pool.hide()
    assert not lock.is_open


def test_while_a_worker_of_a_group_is_leaving_none_of_its_other_pools_is_signalled():
    known, host = pools("web:a", "web:b")
    pool = known.named("web:b")
    pool.choice = replace(pool.choice, candidates=(candidate(WORKERS[1]),))
    queue = AttemptQueue(host, known, MemoryWatch(host))
    queue.begin([pool], 5.0)
    assert pool.state.refusal is None
    known.named("web:a").followed.add(Followed(WORKERS[0], replace(POOL, is_group=True), None, Held()))
    queue.begin([pool], 5.0)
    assert pool.state.refusal is hindrance.GROUP


def test_an_attempt_whose_time_is_up_is_not_waited_for():
    known, host = pools("a")
    queue, attempt = AttemptQueue(host, known, MemoryWatch(host)), SimpleNamespace(deadline=3.0)
    assert queue.patience() is None
    made: Any = attempt
    known.named("a").attempts.trial = Trial(POOL, Worker(WORKERS[0], 60.0, 200), attempt=made)
    assert queue.patience() == 3.0
    attempt.deadline = -1.0
    assert queue.patience() == 0.0


def test_who_holds_the_memory_is_said_where_nothing_relieves_a_shortage():
    host: Any = Host()
    host.holders_in = lambda _scope: (Holder(5, "db", 100),)
    short = Shortage(Kind.HEADROOM, HOST, 1.0, 2.0, 3.0)
    said = events.Outgrown("", 0.0, short, 3, 60.0), events.NotRelieved("", 0.0, short, 1, 0, 600.0)
    first, second = MemoryWatch(host).take(Decision([], {}, said), [])
    assert (first, second) == (said[0], replace(said[1], holders=(Holder(5, "db", 100),)))


# Turns.


def candidate(worker: ProcessId, attempts: int = 0) -> Candidate:
    detail = WorkerDetail(200, True)
    return Candidate(Worker(worker, 60.0, 200, detail), OverLimit(200, 100, "uss"), attempts=attempts)


def test_who_was_tried_least_has_the_next_turn_and_the_most_urgent_one_decides_what_is_said():
    turns = Turns()
    tried, fresh, current = candidate(WORKERS[0], 2), candidate(WORKERS[1]), candidate(WORKERS[2], 1)
    turns.offer((tried, fresh, current), WORKERS[2], 10.0)
    assert (turns.waiting, turns.first) == ([fresh, tried], WORKERS[0])
    turns.pause(WORKERS[1], 20.0)
    turns.offer((tried, fresh), None, 15.0)
    assert turns.waiting == [tried]
    turns.offer((tried, fresh), None, 20.0)
    assert turns.waiting == [fresh, tried]


def test_an_event_of_a_pool_reaches_each_sink():
    seen: list[Any] = []
    host: Any = Host()
    known = Pools(host, [seen.append], False, {}, lambda _states: None)
    known.named("a").emit(events.Noted("a", 0.0, "x"))
    known.emit(events.Noted("b", 0.0, "y"))
    assert [event.pool for event in seen] == ["a", "b"]
