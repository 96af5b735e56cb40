"""Memory that is short while no worker can be reaped for it: why, in each pool. Pure.

core.selection gives a shortage up where reaping does not help. Here it may help, but does not happen: that is logged at
the first look, since the OOM killer does not wait.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from supervisor_memreap.core import policy, reasons, shortage
from supervisor_memreap.core.memoryevents import NotMet
from supervisor_memreap.core.policy import Choice, Look
from supervisor_memreap.core.shortage import Episode, Episodes, Kind
from supervisor_memreap.core.state import Cause
from supervisor_memreap.core.text import seconds

# Seconds that a first attempt may take: with requests of 0.3 s it took 0.3 s.
ATTEMPT = 2.0


def follow(
    pools: Sequence[tuple[Look, Choice]], episodes: Episodes, now: float, at: float
) -> tuple[Mapping[tuple[Kind, str], Episode], tuple[NotMet, ...]]:
    """Call after the signals of a look; the state in each Look is that after them."""
    after, log = dict(episodes), []
    for key, episode in episodes.items():
        if key[0] is Kind.TOTAL or episode.given_up is not None or episode.is_unmet:
            continue
        affected = [(look, choice) for look, choice in pools if any(scope.name == key[1] for scope in look.pool.scopes)]
        if not affected or _is_under_way(episode, [look for look, _ in affected], now):
            continue
        causes = [(look.pool.name, _cause(look, choice, key, now)) for look, choice in affected]
        after[key] = replace(episode, is_unmet=True)
        log.append(NotMet("", at, episode.shortage, tuple((pool, cause) for pool, cause in causes if cause)))
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


def _cause(look: Look, choice: Choice, key: tuple[Kind, str], now: float) -> str:
    """Why no worker of this pool goes for it; empty: not known."""
    settings, state = look.settings, look.state
    if policy.only_observes(settings, state):
        return "only observed (observe=yes)"
    if not settings.relieves:
        return "yield=no"
    if state.paused:
        return "paused"
    if state.suspended and state.suspended.cause is not Cause.WRONG_SETTING:
        return "suspended"
    if state.leaving:
        ago = seconds(now - state.leaving.signalled)
        return f"worker {state.leaving.worker.pid} was signalled {ago} ago and has not left"
    if any(reasons.shortage_of(each.reason) == key for each in choice.candidates):
        return "none of the candidates was seen between two requests"
    if look.pool.workers and all(worker.age < settings.min_age for worker in look.pool.workers):
        return f"all workers are younger than min_age={seconds(settings.min_age)}"
    if any(reasons.shortage_of(reason) == key for each in choice.pending for reason in each.all_reasons):
        return "too few workers are old enough to serve meanwhile"
    return ""
