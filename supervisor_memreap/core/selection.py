"""Decides over all pools: what has to be read, which worker goes next, and what to do about memory that is short. Pure.

The rules of one pool are in core.policy; this is rule 14, which needs all pools.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from supervisor_memreap.core import choosing, delay, policy, poolevents, reasons, shortage
from supervisor_memreap.core.events import Event
from supervisor_memreap.core.frozen import replace
from supervisor_memreap.core.model import Pool, Worker
from supervisor_memreap.core.policy import Candidate, Choice, Look
from supervisor_memreap.core.shortage import Episode, Episodes, Kind


class Decision(NamedTuple):
    """What to do in each pool, the most urgent first, and about memory that is short."""

    choices: list[Choice]
    episodes: Episodes
    events: tuple[Event, ...] = ()


def detail_needed(look: Look, episodes: Episodes, now: float) -> Callable[[Worker], bool]:
    """A function that returns whether a worker's detail must be read to decide about it; `look` has no workers yet."""
    after = shortage.follow([(look.pool, look.settings)], episodes, now) if look.pool.scopes or episodes else {}
    needed = reasons.detail_needed(look.circumstances(after, now))
    leaving = look.state.leaving
    if leaving is None or not leaving.private:
        return needed
    # Replacements are read to learn the private memory of a fresh worker.
    return lambda worker: worker.id not in leaving.before or needed(worker)


def follow_memory(
    looks: Sequence[Look], episodes: Episodes, now: float, at: float
) -> tuple[dict[tuple[Kind, str], Episode], tuple[Event, ...]]:
    """The shortages of this look, and events about those that have ended. `at` is in seconds since 1970."""
    pools = [(look.pool, look.settings) for look in looks if look.pool.manager]
    after = shortage.follow(pools, episodes, now)
    available = {scope.name: scope.available for pool, _ in pools for scope in pool.scopes}
    # A shortage whose pool or group is no longer watched has not ended: nothing is known of it.
    ended = [
        episode
        for key, episode in episodes.items()
        if key not in after and episode.freed and episode.shortage.scope in available
    ]
    return after, tuple(
        poolevents.Relieved(
            _pool_of(each), at, each.shortage, available[each.shortage.scope], now - each.since, each.freed
        )
        for each in ended
    )


def _pool_of(episode: Episode) -> str:
    """The pool named in an event about this shortage; empty: it concerns more than one pool."""
    return episode.shortage.scope if episode.shortage.kind is Kind.TOTAL else ""


def choose(looks: Iterable[Look], now: float, episodes: Episodes | None = None, at: float = 0.0) -> Decision:
    """Which worker goes next, over all pools. The caller makes attempts to signal one candidate of each pool.

    Of all candidates for `headroom` and `pressure`, the caller signals one at each look.
    """
    looks, episodes = list(looks), episodes or {}
    # Those for which it is not expected that what was done already is enough.
    open_ = {
        key: episode
        for key, episode in episodes.items()
        if episode.given_up is None and not shortage.is_expected(episode, _coming(looks, episode, now), now)
    }
    choices = [delay.follow(look, choosing.choose_in(look, open_, now), open_, now) for look in looks]
    after, log = _give_up(looks, choices, open_, now, at)
    given_up = {key for key, episode in after.items() if episode.given_up is not None}
    choices = [_without(choice, given_up) for choice in choices]
    episodes = {**episodes, **after}
    choices.sort(key=lambda choice: min(map(policy.urgency, choice.candidates), default=policy.LAST))
    return Decision(_only_first_pending(choices), episodes, log)


def _coming(looks: Sequence[Look], episode: Episode, now: float) -> int:
    """Bytes that signalled workers still hold in the scope of this shortage."""
    return sum(
        look.state.leaving.private
        for look in looks
        if look.state.leaving
        and look.state.leaving.left is None
        and now - look.state.leaving.signalled < shortage.COMING
        and is_in(look.pool, episode)
    )


def is_in(pool: Pool, episode: Episode) -> bool:
    """Whether it is short of memory in a scope of this pool."""
    return any(scope.name == episode.shortage.scope for scope in pool.scopes)


def _give_up(
    looks: Sequence[Look], choices: Sequence[Choice], episodes: Episodes, now: float, at: float
) -> tuple[dict[tuple[Kind, str], Episode], tuple[Event, ...]]:
    """Those in which reaping does not help, or in which workers grow as fast as they are replaced, and the events."""
    log: list[Event] = []
    after: dict[tuple[Kind, str], Episode] = {}
    for key, episode in episodes.items():
        members = [
            (look, choice)
            for look, choice in zip(looks, choices)
            if is_in(look.pool, episode) and (look.settings.relieves or episode.shortage.kind is Kind.TOTAL)
        ]
        if not members:
            continue
        most = shortage.REAPS_PER_WORKER * sum(len(look.pool.workers) for look, _ in members)
        pending = [each for _, choice in members for each in choice.pending if key in shortages_of(each)]
        is_open = bool(pending) or any(look.state.leaving for look, _ in members)
        if is_open and episode.reaps < most:
            continue
        grown = sum(shortage.grown(look.pool.workers, key[0], look.state.baseline) for look, _ in members)
        if is_open and shortage.ends_with(episode.shortage, grown):
            if not episode.is_outgrown:
                after[key] = replace(episode, is_outgrown=True)
                log.append(
                    poolevents.Outgrown(_pool_of(episode), at, episode.shortage, episode.reaps, now - episode.since)
                )
            continue
        after[key] = replace(episode, given_up=now, is_reported=True)
        if episode.reaps or not episode.is_reported:
            short, pool = episode.shortage, _pool_of(episode)
            log.append(poolevents.NotRelieved(pool, at, short, episode.reaps, episode.freed, shortage.RETRY))
    return after, tuple(log)


def shortages_of(candidate: Candidate) -> set[tuple[Kind, str] | None]:
    """The keys of the shortages for which this worker may go."""
    return {reasons.shortage_of(reason) for reason in candidate.all_reasons}


def _without(choice: Choice, keys: set[tuple[Kind, str]]) -> Choice:
    """The choice without candidates for these shortages."""
    if not keys:
        return choice
    candidates, pending = (
        tuple(each for each in some if reasons.shortage_of(each.reason) not in keys)
        for some in (choice.candidates, choice.pending)
    )
    return replace(choice, candidates=candidates, pending=pending)


def _only_first_pending(choices: list[Choice]) -> list[Choice]:
    """Keep only the first pending candidate of each shortage: whether it needs another is known only after that one."""
    seen: set[tuple[Kind, str]] = set()
    shown = []
    for choice in choices:
        if not choice.pending:
            shown.append(choice)
            continue
        pending = []
        for candidate in choice.pending:
            key = reasons.shortage_of(candidate.reason)
            if key is None or key not in seen:
                pending.append(candidate)
            if key:
                seen.add(key)
        to_go = choice.individually_due + sum(reasons.shortage_of(each.reason) is not None for each in pending)
        shown.append(replace(choice, pending=tuple(pending), to_go=to_go))
    return shown
