"""Pools at rest: the rules would find nothing there. tests/sim lets them try at each look at such a pool."""

from __future__ import annotations

from typing import Any

import pytest
from test_core_policy import BOOT, MIB, SETTINGS, Film

from supervisor_memreap.core import policy, resting
from supervisor_memreap.core.frozen import replace
from supervisor_memreap.core.model import MemoryScope, Pool, ProcessId, WorkerDetail
from supervisor_memreap.core.policy import Choice, Look
from supervisor_memreap.core.state import PoolState, Reap


def calm(**settings: Any) -> tuple[Film, Pool, Choice]:
    """Workers that have long served; the next look at them, and the choice of the last one."""
    film = Film()
    film.settings = replace(film.settings, **settings)
    for _ in range(20):
        verdict = film.look({pid: film.worker(pid, 20)._replace(serving=True) for pid in (11, 12)})
    film.now += 5.0
    workers = tuple(worker._replace(age=worker.age + 5.0) for worker in verdict.pool.workers)
    return film, replace(verdict.pool, workers=workers), replace(verdict, state=film.state)


@pytest.mark.parametrize("settings", [{}, {"observe": True}], ids=str)
def test_the_rules_find_nothing_in_a_pool_at_rest(settings: dict[str, Any]):
    film, pool, before = calm(**settings)
    choice = resting.choice_in(Look(pool, film.settings, film.state), before, film.now)
    assert choice is not None
    assert choice == film.decide(pool, film.now)
    assert choice.state == replace(before.state, looked=film.now)


OTHER = ProcessId(13, BOOT + 1)


@pytest.mark.parametrize(
    "changes",
    [
        {"manager": OTHER},
        {"manager": None},
        {"workers": ()},
        {"child_faults": 1},
        {"helpers": (OTHER,)},
        {"nested": ()},
        {"scopes": (MemoryScope("myapp", 1, 1),)},
    ],
    ids=str,
)
def test_what_is_read_for_the_first_time_ends_the_rest(changes):
    film, pool, before = calm()
    look = Look(replace(pool, **changes), film.settings, film.state)
    assert resting.choice_in(look, before, film.now) is None


@pytest.mark.parametrize("changes", [{"id": OTHER}, {"detail": WorkerDetail(20 * MIB, True)}], ids=["new", "read"])
def test_a_worker_that_is_new_or_was_read_in_full_ends_the_rest(changes):
    film, pool, before = calm()
    workers = (pool.workers[0], pool.workers[1]._replace(**changes))
    look = Look(replace(pool, workers=workers), film.settings, film.state)
    assert resting.choice_in(look, before, film.now) is None


@pytest.mark.parametrize(
    "changes",
    [
        {"paused": True},
        {"requested": frozenset((OTHER,))},
        {"reap": Reap(OTHER, BOOT, frozenset())},
        {"manager_seen": False},
        {"too_few_since": BOOT},
        {"observe_gone": BOOT},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_what_is_to_be_done_ends_the_rest(changes: dict[str, Any]):
    film, pool, before = calm()
    look = Look(pool, film.settings, replace(film.state, **changes))
    assert resting.choice_in(look, before, film.now) is None


@pytest.mark.parametrize(
    "changes",
    [
        {"serving": {}},
        {"served": False},
        {"starting": frozenset((OTHER,))},
        {"replaces": False},
        {"peaks": (3, 0)},
        {"calm_since": None},
        {"serving": {ProcessId(11, BOOT): 0.0, ProcessId(12, BOOT): BOOT + 3700}},
    ],
    ids=str,
)
def test_a_pool_that_may_change_by_itself_is_not_at_rest(changes: dict[str, Any]):
    film, pool, before = calm()
    state = replace(film.state, population=replace(film.state.population, **changes))
    assert resting.choice_in(Look(pool, film.settings, state), before, film.now) is None


def test_other_settings_and_a_new_period_of_the_usual_number_end_the_rest():
    film, pool, before = calm()
    assert resting.choice_in(Look(pool, replace(SETTINGS, checks=3), film.state), before, film.now) is None
    later = film.now + policy.USUAL
    assert resting.choice_in(Look(pool, film.settings, film.state), before, later) is None


def test_no_pool_is_at_rest_before_a_look_that_found_it_so():
    film, pool, before = calm()
    look = Look(pool, film.settings, film.state)
    assert resting.choice_in(look, None, film.now) is None
    assert resting.choice_in(look, replace(before, to_go=1), film.now) is None
    assert resting.choice_in(look._replace(state=PoolState()), before, film.now) is None
