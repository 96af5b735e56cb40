"""Reports memory that is short while no worker could be signalled for it, and why, in each pool. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from supervisor_memreap.core import delay, hindrance, policy, poolevents, reasons, shortage
from supervisor_memreap.core.frozen import replace
from supervisor_memreap.core.model import Result
from supervisor_memreap.core.policy import Choice, Look
from supervisor_memreap.core.selection import is_in, shortages_of
from supervisor_memreap.core.shortage import Episode, Episodes, Kind
from supervisor_memreap.core.state import Cause
from supervisor_memreap.core.text import seconds

# Seconds that a first attempt may take: with requests of 0.3 s it took 0.3 s.
ATTEMPT = 2.0


def report(
    pools: Sequence[tuple[Look, Choice]], episodes: Episodes, now: float, at: float
) -> tuple[Episodes, tuple[poolevents.NotMet, ...]]:
    """Shortages for which no worker could be signalled, and why, in each pool: reaping may help, but does not happen.

    That is logged at the first look, since the OOM killer does not wait. Call after the signals of a look; the state in
    each Look is that after them.
    """
    after, log = dict(episodes), []
    for key, episode in episodes.items():
        if key[0] is Kind.TOTAL or episode.given_up is not None or episode.is_unmet:
            continue
        affected = [(look, choice) for look, choice in pools if is_in(look.pool, episode)]
        if not affected or _is_under_way(episode, [look for look, _ in affected], now):
            continue
        causes = [(look.pool.name, _cause(look, choice, episodes, key, now)) for look, choice in affected]
        after[key] = replace(episode, is_unmet=True)
        known = tuple((pool, cause) for pool, cause in causes if cause)
        log.append(poolevents.NotMet("", at, episode.shortage, known))
    return after, tuple(log)


def _is_under_way(episode: Episode, looks: Sequence[Look], now: float) -> bool:
    """Whether a worker was signalled just now, has left and is being replaced, or is attempted for the first time."""
    attempts = [(look.state.attempted, look.state.waits) for look in looks if look.state.attempted]
    if any(each.worker not in waits and now - each.signalled < ATTEMPT for each, waits in attempts):
        return True
    if episode.last is not None and now - episode.last < shortage.COMING:
        return True
    leaving = [look.state.leaving for look in looks if look.state.leaving]
    return any(each.left is not None or now - each.signalled < shortage.COMING for each in leaving)


def _cause(look: Look, choice: Choice, episodes: Episodes, key: tuple[Kind, str], now: float) -> str:
    """Why no worker of this pool goes for this shortage; empty: not known."""
    if not look.settings.yields:
        return "yield=no"
    suspended = look.state.suspended
    if suspended and suspended.cause is Cause.WRONG_SETTING:  # what goes for memory goes all the same
        look = look._replace(state=replace(look.state, suspended=None))
    candidates = tuple(each for each in choice.candidates if reasons.shortage_of(each.reason) == key)
    pending = tuple(each for each in choice.pending if key in shortages_of(each))
    due = policy.due_workers(look, look.circumstances(episodes, now))
    due = {worker: each for worker, each in due.items() if key in map(reasons.shortage_of, each)}
    obstacle = delay.hindrance_in(look, replace(choice, candidates=candidates, pending=pending), due, now)
    if obstacle is None and candidates:
        obstacle = hindrance.of_attempt(Result.BUSY, candidates[0].worker.detail, look.settings)
    if obstacle is None and all(worker.age < look.settings.min_age for worker in look.pool.workers):
        obstacle = hindrance.young(look.settings) if look.pool.workers else None
    leaving = look.state.leaving
    if obstacle and obstacle.kind is hindrance.Kind.LEAVING and leaving:
        return f"worker {leaving.worker.pid} was signalled {seconds(now - leaving.signalled)} ago and has not left"
    return obstacle.text if obstacle else ""
