"""Which pools are at rest: no rule has anything to do there until something else is read there than before. Pure.

Most pools are, at most looks. core.following and core.choosing would find nothing then, and leave the state as it is;
the simulated machine of the tests lets them try at each such look.
"""

from __future__ import annotations

from supervisor_memreap.core import policy
from supervisor_memreap.core.frozen import replace
from supervisor_memreap.core.model import Pool, Standing
from supervisor_memreap.core.policy import Choice, Look
from supervisor_memreap.core.state import PoolState

_INFINITE = float("inf")


def choice_in(look: Look, before: Choice | None, now: float) -> Choice | None:
    """The choice in a pool at rest, where `before` is that of the last look; None: the rules have to decide."""
    pool, settings, state = look
    if before is None or _found_work(before) or _has_work(state) or _has_changed(pool, state):
        return None
    if settings != state.settings or before.standing is not _standing(look) or not _is_settled(look, now):
        return None
    return Choice(pool, before.standing, replace(state, looked=now))


def _found_work(choice: Choice) -> bool:
    lists = choice.candidates or choice.pending
    return bool(lists or choice.to_go or choice.unreadable or choice.unwatched or choice.follows_up)


def _standing(look: Look) -> Standing:
    if policy.only_observes(look.settings, look.state):
        return Standing.OBSERVED
    return Standing.PAUSED if look.state.paused else Standing.QUIET


def _has_work(state: PoolState) -> bool:
    """Whether a worker is followed, or something is waited for."""
    return bool(
        (state.reap or state.stuck or state.requested or state.rolling or state.suspended or state.changed_settings)
        or (state.seen or state.waits or state.due or state.delay or state.refusal or state.nested or state.is_unsaved)
        or (state.observe_gone is not None and state.observe_gone != _INFINITE)
        or state.too_few_since is not None
        or not state.manager_seen
    )


def _has_changed(pool: Pool, state: PoolState) -> bool:
    """Whether something was read that no earlier look had, or that no look at a pool at rest reads."""
    population = state.population
    return bool(
        pool.manager is None
        or pool.manager != state.manager
        or pool.child_faults != population.child_faults
        or population.workers != {worker.id for worker in pool.workers}
        or (pool.detailed or pool.helpers or pool.scopes or pool.is_total_unreadable or pool.nested is not None)
    )


def _is_settled(look: Look, now: float) -> bool:
    """Whether all workers have long served, and are as many as they ever were of late."""
    population, number = look.state.population, len(look.pool.workers)
    since = population.peak_since
    if population.calm_since is None or since is None or now - since >= policy.USUAL or number > population.peaks[0]:
        return False
    if not (number and population.served and population.workers <= population.serving.keys()):
        return False
    may_shrink = number < max(population.peaks) and not population.shrinks
    if may_shrink or population.replaces is False or population.starting:
        return False
    return max(population.serving.values()) < now - look.settings.settle - policy.LATE - policy.READ
