"""Decides about one pool: values in, values out. All rules are here; the numbers are those of docs and tests.

 1. One worker at a time. The next is not chosen before the last has left, the manager has forked a replacement, and
    that has lived for `settle`. (A replacement that dies at once, say of a broken deployment, never settles: then
    the old workers are the only ones that serve, and stay.)
 2. The worker with the most memory to give back goes first.
 3. `checks` consecutive looks over the limit, not one.
 4. Never a newborn: FCGI::ProcManager's worker runs its manager's signal handlers until it has set its own; a HUP
    in that gap TERMs its siblings.
 5. Never a worker that has no handler for the signal, or that is known to drop its request on it (core.servers).
 6. Idle first: the caller signals only a worker that waits in accept, and at any moment after `idle_wait` (`insist`).
 7. Signalled once. A second time, once, only if it is idle `AGAIN` after the first: that one fell into the gap between
    the last request and accept, where Perl only notes it.
 8. A worker that does not leave within `grace` is stuck: told, and the next may go. Only where `stuck` asks for it is
    it sent something stronger, once, and then it has `grace` again.
 9. A limit that fresh workers already exceed is wrong: suspended, not recycled for ever.
10. A manager that goes away right after a reap: suspended, since here a HUP to a worker ends the tree.
11. Only where supervisord says RUNNING, only (pid, born): a pool comes here without a manager otherwise.
12. Somebody may ask for a worker (`ask`): it goes before all others, over the limit or not, by the same rules. In a
    pool that somebody paused nobody goes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from supervisor_memreap.core.model import STOPPED_BY_HAND, Pool, ProcessId, Worker
from supervisor_memreap.core.servers import graceful
from supervisor_memreap.core.settings import PoolSettings
from supervisor_memreap.core.verdict import (
    Event,
    Fell,
    Left,
    NeverIdle,
    NotCaught,
    NotReplaced,
    Replaced,
    Resumed,
    Stuck,
    Unreadable,
    Unseen,
    Verdict,
    Wrapped,
    WrongLimit,
    WrongSignal,
)

# After so many reaps in succession of workers that went over the limit while fresh, the limit is wrong (rule 9).
HASTY_REAPS = 3
# How long the next manager must have stood before a fallen tree is trusted again; doubled with each fall (rule 10).
STOOD = 600.0
# A manager that ends so long after the worker left did not end of that.
FALL = 10.0
# Seconds after the first signal, or half of `grace` where that is less: a worker that was in a request and got it is
# gone as soon as that ends, so one that is idle so much later never got it.
AGAIN = 10.0
# Times of birth are told in full steps, 10 ms on Linux: one that is born right after a signal may seem older than it.
BIRTH = 1.0
# With idle_wait=never, a worker that has waited so long for an idle moment is told of.
LONG_WAIT = 60.0
_VETOES = (Wrapped, WrongSignal, NotCaught)


@dataclass(frozen=True)
class Leaving:
    """A worker that was signalled, until its replacement has settled."""

    worker: ProcessId
    signalled: float
    before: frozenset[ProcessId]
    """The pool's workers when it was signalled, itself among them."""
    born_after: float = 0.0
    """Who came for it was born after this, on the scale of ProcessId.born: a list of children may have missed one."""
    sent: bool = True
    """False: this was written down before the signal, and nobody came back to say that it went out."""
    again: bool = False
    """It was signalled a second time."""
    forced: float | None = None
    """When it was to be sent what `stuck` asks for."""
    left: float | None = None
    told: bool = False
    replaced_by: ProcessId | None = None
    overdue: bool = False
    """NotReplaced has been told."""
    slot: str = ""
    """Of the worker, as in core.model."""


@dataclass(frozen=True)
class Over:
    """A worker over the limit, look after look."""

    looks: int
    fresh: bool
    """It was seen over the limit nearly from its birth."""


@dataclass(frozen=True)
class Suspension:
    word: str
    manager: ProcessId
    """The manager under which it came about."""
    needs_age: float | None = None
    """It ends under another manager, once that has stood for this long."""
    leaving: Leaving | None = None
    """Who was leaving when that manager went away, for the case that it is there after all."""


@dataclass(frozen=True)
class PoolState:
    """What the policy remembers of a pool from one look to the next."""

    settings: PoolSettings | None = None
    manager: ProcessId | None = None
    looked: float | None = None
    met: bool = False
    """Its manager was seen since this was begun, or remembered from before a restart."""
    over: Mapping[ProcessId, Over] = field(default_factory=dict)
    ripe: Mapping[ProcessId, float] = field(default_factory=dict)
    """Since when a worker has been due, and waits for an idle moment."""
    leaving: Leaving | None = None
    stuck: tuple[Leaving, ...] = ()
    hasty: tuple[int, ...] = ()
    """What the last reaped workers used, as long as each went over the limit while fresh."""
    suspended: Suspension | None = None
    falls: int = 0
    paused: bool = False
    asked: frozenset[ProcessId] = frozenset()
    """Workers that somebody asked for, as long as they are there."""
    said: frozenset[str] = frozenset()
    """What is said once for a manager."""
    there: frozenset[ProcessId] = frozenset()
    """The workers of the last look that found any."""


def decide(
    pool: Pool, settings: PoolSettings, state: PoolState, now: float, may_suspend: bool = True
) -> tuple[Verdict, PoolState]:
    """One look at one pool. The caller signals `verdict.reap`, if any, and says so with `signalled`.

    Not `may_suspend`: a single look at newborn workers is not enough to call the limit wrong.
    """
    events: list[Event] = []
    state = _heed_settings(settings, state, events)
    said = state.said
    state = _heed_manager(pool, state, events)
    gap = now - state.looked if state.looked is not None else 0.0
    if pool.manager is None:
        if pool.unseen and pool.unseen not in said:
            events.append(Unseen(pool.unseen))
        is_blind = pool.unseen and pool.state == "RUNNING"
        return Verdict("blind" if is_blind else pool.state.lower(), events=tuple(events)), replace(
            state, looked=now, said=frozenset([pool.unseen])
        )
    if settings.target == "self":
        state = _heed_restart(pool, state, events)
    state = _follow_stuck(pool, state, now, events)
    state = _follow_leaving(pool, settings, state, now, events)
    state = _count(pool, settings, state, gap)
    if may_suspend:
        state = _suspend_at_birth(pool, settings, state, events)
    workers, state = _choose(pool, settings, state, events)
    since = {worker.id: state.ripe.get(worker.id, now) for worker in workers}
    insist = frozenset(id for id, start in since.items() if now - start >= settings.idle_wait)
    state = _tell_long_wait(workers, settings, replace(state, looked=now, ripe=since), now, events)
    again, force = _due_again(pool, settings, state, now), _due_force(pool, state, now)
    return Verdict(_standing(pool, state, workers), workers, insist, again, force, tuple(events)), state


def signalled(
    pool: Pool, worker: Worker, settings: PoolSettings, state: PoolState, now: float, sent: bool = True
) -> PoolState:
    """The signal that `decide` asked for went out to `worker`; or, not `sent`, it is about to."""
    over = state.over.get(worker.id)
    fresh = over is not None and over.fresh
    return replace(
        state,
        ripe={},
        asked=state.asked - {worker.id},
        leaving=Leaving(
            worker.id,
            now,
            frozenset(other.id for other in pool.workers),
            worker.id.born + worker.age - BIRTH,
            sent,
            slot=worker.slot,
        ),
        hasty=(*state.hasty, worker.used or 0)[-HASTY_REAPS:] if fresh else (),
    )


def signalled_again(state: PoolState, sent: bool = True) -> PoolState:
    """The second signal that `decide` asked for went out; or, not `sent`, it is about to."""
    assert state.leaving
    return replace(state, leaving=replace(state.leaving, again=True, sent=state.leaving.sent or sent))


def not_forced(state: PoolState) -> PoolState:
    """What `stuck` asks for could not be sent: the worker stays as it is, and the next one may go."""
    assert state.leaving
    return replace(state, leaving=None, stuck=(*state.stuck, replace(state.leaving, forced=None)))


def exited(worker: ProcessId, state: PoolState, at: float) -> PoolState:
    """The kernel told, between two looks, that a signalled worker is gone."""

    def mark(one: Leaving) -> Leaving:
        return replace(one, left=at) if one.worker == worker and one.left is None else one

    leaving = mark(state.leaving) if state.leaving else None
    return replace(state, leaving=leaving, stuck=tuple(map(mark, state.stuck)))


def ask(workers: Iterable[ProcessId], state: PoolState) -> PoolState:
    """These workers are to be reaped, over the limit or not."""
    return replace(state, asked=state.asked | set(workers), said=state.said - {one.__name__ for one in _VETOES})


def pause(state: PoolState) -> PoolState:
    """Nobody is signalled any more, not a second time either; who has been is followed to the end."""
    return replace(state, paused=True, asked=frozenset())


def resume(state: PoolState) -> PoolState:
    """Nothing is in the way any more: whoever says so has looked into it."""
    leaving = None if state.leaving and state.leaving.overdue else state.leaving
    return replace(state, paused=False, suspended=None, leaving=leaving, hasty=(), falls=0)


def veto(pool: Pool, worker: Worker, settings: PoolSettings) -> Event | None:
    """What speaks against signalling this worker, ever; None if nothing does (rule 5)."""
    suspect = worker.suspect
    if suspect is None:
        return None
    if suspect.leads:
        return Wrapped(worker)
    safe = graceful(suspect.server)
    if safe is not None and settings.signal not in safe:
        return WrongSignal(worker)
    return NotCaught(worker) if suspect.caught is False else None


def unreadable(pool: Pool) -> int:
    """How many workers may be over the limit without anybody knowing: their size may not be read."""
    return sum(worker.suspect is not None and worker.suspect.used is None for worker in pool.workers)


def say_once(what: str, state: PoolState) -> tuple[bool, PoolState]:
    """Whether `what` is told for the first time under this manager and these settings."""
    return what not in state.said, replace(state, said=state.said | {what})


def _heed_settings(settings: PoolSettings, state: PoolState, events: list[Event]) -> PoolState:
    if settings == state.settings:
        return state
    if state.suspended:
        events.append(Resumed("its settings changed"))
    # Whoever changed them has looked into it: suspensions and what led to them start anew.
    return replace(state, settings=settings, suspended=None, over={}, hasty=(), falls=0, said=frozenset())


def _heed_manager(pool: Pool, state: PoolState, events: list[Event]) -> PoolState:
    if pool.unseen:
        return state  # it may be there, and so may who is leaving
    if pool.manager is None or (state.manager and pool.manager != state.manager):
        state = _forget_manager(pool, state, events)
    if pool.manager is None:
        return state
    state = replace(state, manager=pool.manager, met=True)
    suspended = state.suspended
    if suspended and pool.manager != suspended.manager and pool.manager_age >= (suspended.needs_age or 0):
        events.append(Resumed(f"its manager {pool.manager.pid} is a new one"))
        state = replace(state, suspended=None)
    elif suspended and pool.manager == suspended.manager and suspended.needs_age is not None:
        events.append(Resumed(f"its manager {pool.manager.pid} is there after all"))
        state = replace(state, suspended=None, leaving=suspended.leaving, falls=max(0, state.falls - 1))
    return state


def _heed_restart(pool: Pool, state: PoolState, events: list[Event]) -> PoolState:
    """With target=self the manager is supervisord, and stays: all workers are new ones where a group was restarted."""
    there = frozenset(worker.id for worker in pool.workers)
    if there and state.there and not there & state.there and not state.leaving:
        if state.suspended:
            events.append(Resumed("all of its processes are new ones"))
        state = replace(state, suspended=None, hasty=(), said=frozenset())
    return replace(state, there=there or state.there)


def _forget_manager(pool: Pool, state: PoolState, events: list[Event]) -> PoolState:
    leaving, manager = state.leaving, state.manager
    forgotten = PoolState(settings=state.settings, suspended=state.suspended, falls=state.falls, paused=state.paused)
    if not (leaving and manager) or pool.state in STOPPED_BY_HAND:
        return forgotten  # a program that somebody stops is no falling tree
    if state.looked is None or not state.met:
        return forgotten  # remembered from before a restart of ours, in which the program may have been restarted too
    if leaving.left is not None and state.looked - leaving.left > FALL:
        return forgotten  # it stood on after the worker had left
    needs_age = STOOD * 2**state.falls
    events.append(Fell(leaving.worker, manager, needs_age))
    suspended = Suspension("its manager went away", manager, needs_age, leaving)
    return replace(forgotten, suspended=suspended, falls=state.falls + 1)


def _follow_stuck(pool: Pool, state: PoolState, now: float, events: list[Event]) -> PoolState:
    still = []
    for stuck in state.stuck:
        if stuck.left is None and pool.worker(stuck.worker):
            still.append(stuck)
        else:
            left = now if stuck.left is None else stuck.left
            events.append(Left(stuck.worker, left - stuck.signalled, None))
    return replace(state, stuck=tuple(still))


def _follow_leaving(pool: Pool, settings: PoolSettings, state: PoolState, now: float, events: list[Event]) -> PoolState:
    leaving = state.leaving
    if leaving is None:
        return state
    if leaving.left is None:
        if pool.worker(leaving.worker) is None:
            leaving = replace(leaving, left=now)
        elif now - (leaving.forced or leaving.signalled) < settings.grace:
            pass
        elif not leaving.sent:
            return replace(state, leaving=None)  # it never got the signal, as far as anybody knows
        elif not state.paused or settings.stuck == "report":
            events.append(Stuck(leaving.worker, now - leaving.signalled, leaving.forced is not None))
            if settings.stuck == "report" or leaving.forced is not None:
                return replace(state, leaving=None, stuck=(*state.stuck, leaving))
            leaving = replace(leaving, forced=now)
    left = leaving.left
    if left is None:
        return replace(state, leaving=leaving)
    gone_for = now - left
    newcomers = [one for one in pool.workers if one.id not in leaving.before and one.id.born >= leaving.born_after]
    if leaving.replaced_by is None and newcomers:
        youngest = min(newcomers, key=lambda worker: worker.age)
        leaving = replace(leaving, replaced_by=youngest.id)
        if leaving.told:
            events.append(Replaced(leaving.worker, gone_for, youngest.id))
    if not leaving.told:
        events.append(Left(leaving.worker, left - leaving.signalled, leaving.replaced_by))
        leaving = replace(leaving, told=True)
    if leaving.slot in pool.stopped and gone_for >= settings.settle:
        return replace(state, leaving=None)  # somebody wants none in its place, and does not just restart it
    settled = sum(worker.age >= settings.settle for worker in newcomers)
    # Others may have left by themselves meanwhile: each of them needs a settled one in its place too.
    gone = len(leaving.before - {worker.id for worker in pool.workers})
    # A pool may be made smaller on purpose (FCGI::ProcManager::Dynamic): after `grace` one settled newcomer will do.
    if settled >= gone or (settled and gone_for >= settings.grace):
        return replace(state, leaving=None, falls=0)
    if gone_for >= settings.grace and not leaving.overdue:
        events.append(NotReplaced(leaving.worker, gone_for, len(pool.workers), len(leaving.before)))
        leaving = replace(leaving, overdue=True)
    return replace(state, leaving=leaving)


def _count(pool: Pool, settings: PoolSettings, state: PoolState, gap: float) -> PoolState:
    over = {}
    for worker in pool.workers:
        if worker.used is not None and worker.used > settings.limit:
            before = state.over.get(worker.id)
            # By what it was when it was first seen over the limit: it cannot be reaped before `min_age`, nor be seen
            # between two looks, so that much is no merit of its own. How long it then waits for its turn is neither.
            fresh = before.fresh if before else worker.age < 2 * settings.min_age + gap
            over[worker.id] = Over(before.looks + 1 if before else 1, fresh)
    return replace(state, over=over)


def _suspend_at_birth(pool: Pool, settings: PoolSettings, state: PoolState, events: list[Event]) -> PoolState:
    """Rule 9 at its plainest: every worker is a newborn, and every one is over. One alone may be a spike."""
    born_over = [
        worker.used or 0
        for worker in pool.workers
        if worker.age < settings.min_age and worker.id in state.over and state.over[worker.id].looks >= settings.checks
    ]
    if state.suspended or len(born_over) < 2 or len(born_over) < len(pool.workers):
        return state
    return _suspend_limit(born_over, state, events)


def _suspend_limit(used: list[int], state: PoolState, events: list[Event]) -> PoolState:
    assert state.manager
    events.append(WrongLimit(min(used), usable_limit(used)))
    return replace(state, suspended=Suspension("its limit is too low", state.manager), hasty=())


def usable_limit(used: list[int]) -> int:
    """Twice what fresh workers use, in full steps of 10 MiB: room to serve for a while before they are reaped."""
    step = 10 * 1024**2
    return -(-2 * max(used) // step) * step


def _choose(
    pool: Pool, settings: PoolSettings, state: PoolState, events: list[Event]
) -> tuple[tuple[Worker, ...], PoolState]:
    stuck = {one.worker for one in state.stuck}
    state = replace(state, asked=state.asked & {worker.id for worker in pool.workers} - stuck)
    due = []
    for worker in pool.workers:
        if worker.suspect is None or worker.id in stuck or worker.age < settings.min_age:
            continue
        asked = worker.id in state.asked
        if worker.suspect.used is None and not asked:
            state = _tell_once("unreadable", Unreadable(worker), state, events)
        elif not asked and (worker.id not in state.over or state.over[worker.id].looks < settings.checks):
            continue
        else:
            against = veto(pool, worker, settings)
            if against:
                state = replace(state, asked=state.asked - {worker.id})
                state = _tell_once(type(against).__name__, against, state, events)
            else:
                due.append(worker)
    if state.suspended or state.paused or state.leaving or not due:
        return (), state
    due.sort(key=lambda one: (one.id in state.asked, one.used or 0), reverse=True)
    if len(state.hasty) >= HASTY_REAPS and not state.asked and state.over[due[0].id].fresh:
        return (), _suspend_limit([*state.hasty, due[0].used or 0], state, events)
    return tuple(due), state


def _due_again(pool: Pool, settings: PoolSettings, state: PoolState, now: float) -> Worker | None:
    leaving = state.leaving
    if leaving is None or leaving.left is not None or leaving.again or leaving.forced is not None or state.paused:
        return None
    if leaving.slot in pool.stopped:
        return None  # supervisord is ending it
    if now - leaving.signalled < min(AGAIN, settings.grace / 2):
        return None
    return pool.worker(leaving.worker)


def _due_force(pool: Pool, state: PoolState, now: float) -> Worker | None:
    """Asked for at the one look that finds the worker stuck, whatever then comes of it."""
    leaving = state.leaving
    if leaving is None or leaving.left is not None or leaving.forced != now or state.paused:
        return None
    if leaving.slot in pool.stopped:
        return None
    return pool.worker(leaving.worker)


def _tell_long_wait(
    workers: tuple[Worker, ...], settings: PoolSettings, state: PoolState, now: float, events: list[Event]
) -> PoolState:
    for worker in workers:
        waited = now - state.ripe[worker.id]
        if settings.idle_wait == float("inf") and waited >= LONG_WAIT:
            state = _tell_once("never idle", NeverIdle(worker, waited), state, events)
    return state


def _tell_once(what: str, event: Event, state: PoolState, events: list[Event]) -> PoolState:
    first, state = say_once(what, state)
    if first:
        events.append(event)
    return state


def _standing(pool: Pool, state: PoolState, reap: tuple[Worker, ...]) -> str:
    if state.suspended:
        return f"{'paused, ' if state.paused else ''}suspended: {state.suspended.word}"
    if state.leaving:
        return "settling" if state.leaving.left is not None else "leaving"
    if state.paused:
        return "paused"
    if state.asked:
        return "asked"
    if unreadable(pool):
        return "blind"
    if reap or state.over:
        return "over"
    return "quiet"
