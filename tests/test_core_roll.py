"""A user's roll: all workers, one at a time, until one of them is not replaced."""

from __future__ import annotations

import pytest
from test_core_policy import MIB, STAMP, Film, reaped

from supervisor_memreap.core import policy
from supervisor_memreap.core.carryout import carry_out
from supervisor_memreap.core.command import CommandError, parse
from supervisor_memreap.core.events import NotReplaced, Rolled, RollStopped
from supervisor_memreap.core.frozen import replace
from supervisor_memreap.core.model import Worker, WorkerDetail
from supervisor_memreap.core.settings import PoolSettings
from supervisor_memreap.core.state import PoolState, Reap, Roll, decode, encode, is_worth_keeping
from supervisor_memreap.outputs import statusrows

SETTINGS = PoolSettings(limit=100 * MIB, min_age=30.0, settle=10.0, grace=60.0)


class Rolling:
    """A pool of three workers, after the command."""

    def __init__(self) -> None:
        self.film = Film(SETTINGS)
        self.workers = {11, 12, 13}
        self.verdict = self.film.look({pid: self._readable(pid, 5.0) for pid in self.workers})
        self.film.state, self.answer = carry_out(parse("roll myapp id=7"), self.verdict.pool, self.film.state)

    def _readable(self, pid: int, after: float) -> Worker:
        worker = self.film.worker(pid, 20)
        return worker._replace(age=worker.age + after, detail=WorkerDetail(20 * MIB, True))

    def look(self, after: float = 5.0, **options) -> int | None:
        """The pid of the worker that is signalled, which leaves."""
        workers = {pid: self._readable(pid, after) for pid in self.workers}
        self.verdict = self.film.look(workers, after=after, **options)
        pid = reaped(self.verdict)
        if pid:
            self.workers.remove(pid)
        return pid

    def replace(self, pid: int) -> None:
        """A worker comes, and settles."""
        self.film.fork(pid)
        self.workers.add(pid)
        assert self.look() is None

    @property
    def row(self) -> tuple[int, int, bool, str]:
        roll = statusrows._roll(self.verdict.pool, self.film.state)
        assert roll
        assert roll["id"] == "7"
        return roll["workers"], roll["left"], roll["is_over"], roll["failure"]


def test_all_workers_are_replaced_and_the_roll_is_done():
    rolling = Rolling()
    rows = []
    for new in (21, 22, 23):
        assert rolling.look(after=30) in (11, 12, 13)
        rows.append(rolling.row)
        rolling.replace(new)
    assert rows == [(3, 3, False, ""), (3, 2, False, ""), (3, 1, False, "")]
    assert rolling.film.of(Rolled) == []
    assert rolling.look(after=30) is None
    assert (rolling.film.of(Rolled), rolling.row) == ([Rolled(*STAMP, 3)], (3, 0, True, ""))
    assert rolling.look(after=600) is None
    assert len(rolling.film.of(Rolled)) == 1


def test_it_stops_at_the_first_worker_that_is_not_replaced():
    rolling = Rolling()
    gone = rolling.look()
    for pid in range(100, 120):  # as after a broken deployment: each look finds another newborn in its place
        rolling.film.fork(pid)
        rolling.workers.add(pid)
        assert rolling.look() is None
        rolling.workers.remove(pid)
        if rolling.film.of(RollStopped):
            break
    why = f"worker {gone} left, and no replacement has settled: see the program's own log for why"
    assert len(rolling.film.of(NotReplaced)) == 1
    assert rolling.film.of(RollStopped) == [RollStopped(*STAMP, 0, 3, why)]
    assert rolling.row == (3, 3, True, why)
    rolling.replace(21)  # mended: but the user must ask again
    assert rolling.look(after=30) is None
    assert rolling.look(after=600) is None
    assert len(rolling.film.of(RollStopped)) == 1


def test_it_does_not_begin_where_the_last_worker_was_not_replaced():
    rolling = Rolling()
    rolling.look()
    reap = rolling.film.state.reap
    assert reap
    rolling.film.state = replace(rolling.film.state, reap=replace(reap, overdue=True))
    with pytest.raises(CommandError, match=r"no replacement has settled: .*, send resume myapp$"):
        carry_out(parse("roll myapp"), rolling.verdict.pool, rolling.film.state)


def test_it_stops_where_no_worker_comes_unless_the_server_shrinks_its_pool():
    rolling = Rolling()
    gone = rolling.look()
    assert rolling.look() is None
    rolling.look(after=SETTINGS.grace)
    assert rolling.film.of(RollStopped) == [RollStopped(*STAMP, 0, 3, f"no worker took the place of worker {gone}")]
    assert rolling.row[:3] == (3, 3, True)
    elastic = Rolling()
    elastic.film.state = replace(
        elastic.film.state, population=replace(elastic.film.state.population, shrinks=True, replaces=None)
    )
    elastic.look()
    elastic.look()
    elastic.look(after=SETTINGS.grace)
    assert elastic.film.of(RollStopped) == []


def test_a_pause_stops_it():
    rolling = Rolling()
    rolling.look()
    rolling.film.state = policy.pause(rolling.film.state)
    rolling.replace(21)
    assert rolling.film.of(RollStopped) == [RollStopped(*STAMP, 0, 3, "the pool is paused")]


def test_a_replacement_that_is_first_seen_after_a_tick_longer_than_grace_stops_nothing():
    rolling = Rolling()
    for new in (21, 22, 23):
        while not rolling.look(after=3600):
            pass
        rolling.film.now += 1
        rolling.film.fork(new)
        rolling.workers.add(new)
    rolling.look(after=3600)
    rolling.look(after=3600)
    assert (rolling.film.of(RollStopped), rolling.film.of(Rolled)) == ([], [Rolled(*STAMP, 3)])


def test_workers_that_leave_by_themselves_must_be_replaced_too():
    rolling = Rolling()
    rolling.workers = {12}
    rolling.look(signal=False)
    rolling.workers = set()
    rolling.look(signal=False)
    assert not rolling.film.state.roll.is_over
    for _ in range(2):
        rolling.look(after=SETTINGS.grace, signal=False)
    why = "only 0 of 3 workers serve: see the program's own log for why"
    assert rolling.film.of(RollStopped) == [RollStopped(*STAMP, 0, 3, why)]


def test_it_is_done_where_all_leave_by_themselves_in_a_pool_that_shrinks():
    rolling = Rolling()
    state = rolling.film.state
    rolling.film.state = replace(state, population=replace(state.population, shrinks=True))
    rolling.workers = set()
    for _ in range(2):
        rolling.look()
    assert rolling.film.of(Rolled) == [Rolled(*STAMP, 3)]


def test_workers_that_were_signalled_before_are_part_of_it_and_children_that_never_serve_are_not():
    film = Film(SETTINGS)
    idle = film.worker(14, 20)._replace(serving=False, age=policy.STARTS + 1)
    pool = film.look({11: 20, 12: 20, 13: 20, 14: idle}).pool
    stuck = Reap(pool.workers[0].id, film.now, frozenset())
    state, answer = carry_out(parse("roll myapp id=7"), pool, replace(film.state, stuck=(stuck,)))
    assert {worker.pid for worker in state.requested} == {12, 13}
    assert {worker.pid for worker in state.roll.workers} == {11, 12, 13}
    assert answer.startswith("all 2 workers will be replaced")
    with pytest.raises(CommandError, match="none of its workers serves"):
        carry_out(parse("roll myapp"), replace(pool, workers=pool.workers[3:]), film.state)


@pytest.mark.parametrize("manager", [2, None])
def test_another_manager_or_none_stops_it(manager):
    rolling = Rolling()
    rolling.look()
    if manager:
        rolling.look(manager=manager)
    else:
        rolling.film.look(state="STOPPED", after=600)
    (stopped,) = rolling.film.of(RollStopped)
    assert (stopped.workers, stopped.why) == (3, "manager 1 is no longer there")
    assert rolling.film.state.requested == frozenset()
    assert rolling.film.state.roll.is_over


def test_a_worker_that_does_not_leave_makes_it_fail_in_the_end():
    rolling = Rolling()
    stuck = rolling.look()
    assert stuck
    rolling.workers.add(stuck)
    for new in (21, 22):
        assert rolling.look(after=SETTINGS.grace)
        rolling.replace(new)
    rolling.look(after=SETTINGS.grace)
    rolling.look(after=SETTINGS.grace)
    (stopped,) = rolling.film.of(RollStopped)
    assert (stopped.replaced, stopped.why) == (2, f"not replaced: {stuck}; the log says why")


@pytest.mark.parametrize("is_over", [False, True])
def test_only_a_roll_that_goes_on_is_worth_keeping(is_over):
    assert is_worth_keeping(replace(PoolState(), roll=Roll("7", frozenset(), is_over))) is not is_over


def test_it_goes_on_after_a_restart_of_memreap():
    rolling = Rolling()
    assert is_worth_keeping(rolling.film.state)
    kept = decode(encode(rolling.film.state))
    assert kept.roll == rolling.film.state.roll == Roll("7", frozenset(kept.requested))
    assert decode({**encode(rolling.film.state), "roll": None}).roll is None
