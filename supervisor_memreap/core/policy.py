"""Decides about one pool: values in, values out. All rules are here; the numbers are those of docs and tests.

 1. One worker at a time. The next is not chosen before the last has left, the manager has forked a replacement, and
    that has lived for `settle`. (A replacement that dies at once, say of a broken deployment, never settles: then
    the old workers are the only ones that serve, and stay.) A pool that is made smaller on purpose forks none: there
    the next may go after `grace`, if nothing comes or leaves. Half of the usual number must be older than `min_age`,
    and the last one that serves never goes.
 2. The worker with the most memory to give back goes first.
 3. `checks` consecutive looks over the limit, not one.
 4. Never a newborn: FCGI::ProcManager's worker runs its manager's signal handlers until it has set its own; a HUP
    in that gap TERMs its siblings.
 5. Never a worker that has no handler for the signal, or that is known to drop its request on it (core.servers).
 6. Idle first: the caller signals only a worker that waits in accept, and at any moment after `idle_wait` (`insist`),
    unless its server is known to lose requests then (core.servers).
 7. Signalled once. A second time, once, only if it is idle `AGAIN` after the first: that one fell into the gap between
    the last request and accept, where Perl only notes it.
 8. A worker that does not leave within `grace` is stuck: told, and the next may go. Only where `stuck` asks for it is
    it sent something stronger, once, and then it has `grace` again.
 9. A limit that fresh workers already exceed is wrong: suspended, not recycled for ever; tried again after 6 h.
10. A manager that ends by itself right after a reap: suspended, since here a HUP to a worker ends the tree. Not one
    that a user stopped or restarted; where that is not known, suspended for a shorter time.
11. Only where supervisord says RUNNING, only (pid, start_time): a pool comes here without a manager otherwise.
12. Somebody may ask for a worker (`ask`): it goes before all others, over the limit or not, by the same rules. In a
    pool that somebody paused nobody goes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from supervisor_memreap.core.model import STOPPED_BY_HAND, Ending, Pool, ProcessId, Worker
from supervisor_memreap.core.servers import Moment, graceful, moment_of
from supervisor_memreap.core.settings import PoolSettings
from supervisor_memreap.core.verdict import (
    Event,
    Fell,
    Left,
    NeverIdle,
    NoReplacement,
    NotCaught,
    NotReplaced,
    Replaced,
    Resumed,
    Stuck,
    TooFewWorkers,
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
# The same where it is not known whether a user stopped the manager or it ended by itself.
STOOD_UNKNOWN = 60.0
# A manager that ends so long after the worker left did not end of that.
FALL = 10.0
# Seconds after the first signal, or half of `grace` where that is less: a worker that was in a request and got it is
# gone as soon as that ends, so one that is idle so much later never got it.
AGAIN = 10.0
# Start times come in steps, 10 ms on Linux: a process that starts right after a signal may seem to be older than it.
START_STEP = 1.0
# Seconds after which it is logged that a worker that is due waits for something that may never come.
LONG_WAIT = 60.0
# The most that the time between two looks counts for whether a worker went over its limit while fresh (rule 9).
LONGEST_GAP = 60.0
# Seconds after which a limit that was found to be wrong is tried again: what fresh workers hold may have changed.
RETRY_LIMIT = 6 * 3600.0
# Seconds without any change after which a pool that was not made whole again counts as stable.
CALM = 10.0
# The usual number of workers is the largest of this many seconds, and of as many before.
USUAL = 1800.0
_VETOES = (Wrapped, WrongSignal, NotCaught)


@dataclass(frozen=True)
class Leaving:
    """A worker that was signalled, until its replacement has settled."""

    worker: ProcessId
    signalled: float
    before: frozenset[ProcessId]
    """The pool's workers when it was signalled, itself among them."""
    started_after: float = 0.0
    """Its replacement was started after this, on the scale of ProcessId.start_time: a list of children may miss one."""
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
    since: float = 0.0
    until: float | None = None
    """When it ends by itself; None: not by the clock."""


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
    members: frozenset[ProcessId] = frozenset()
    """The workers of the last look."""
    child_faults: int | None = None
    """Of the last look, as in core.model."""
    calm_since: float | None = None
    """Since when no worker has come or left."""
    peaks: tuple[int, int] = (0, 0)
    """The largest number of workers since `peak_since`, and in the `USUAL` seconds before."""
    peak_since: float | None = None
    thin_since: float | None = None
    """Since when too few workers have been old enough to serve."""


def decide(
    pool: Pool, settings: PoolSettings, state: PoolState, now: float, may_suspend: bool = True
) -> tuple[Verdict, PoolState]:
    """One look at one pool. The caller signals `verdict.reap`, if any, and says so with `signalled`.

    Not `may_suspend`: a single look at newborn workers is not enough to call the limit wrong.
    """
    events: list[Event] = []
    state = _heed_settings(settings, state, events)
    said = state.said
    state = _heed_manager(pool, state, now, events)
    gap = min(LONGEST_GAP, now - state.looked) if state.looked is not None else 0.0
    if pool.manager is None:
        if pool.unseen and pool.unseen not in said:
            events.append(Unseen(pool.unseen))
        is_blind = pool.unseen and pool.state == "RUNNING"
        return Verdict("blind" if is_blind else pool.state.lower(), events=tuple(events)), replace(
            state, looked=now, said=frozenset([pool.unseen])
        )
    if settings.target == "self":
        state = _heed_restart(pool, state, events)
    state = _note_changes(pool, state, now)
    state = _follow_stuck(pool, state, now, events)
    state = _follow_leaving(pool, settings, state, now, events)
    state = _count(pool, settings, state, gap)
    state = _end_suspension(state, now, events)
    if may_suspend:
        state = _suspend_at_birth(pool, settings, state, now, events)
    workers, state = _choose(pool, settings, state, now, events)
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
            worker.id.start_time + worker.age - START_STEP,
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
    return replace(
        state, paused=False, suspended=None, leaving=leaving, hasty=(), falls=0, peaks=(0, 0), peak_since=None
    )


def veto(pool: Pool, worker: Worker, settings: PoolSettings) -> Event | None:
    """What speaks against signalling this worker, ever; None if nothing does (rule 5)."""
    detail = worker.detail
    if detail is None:
        return None
    if detail.looks_like_manager:
        return Wrapped(worker)
    safe = graceful(detail.server)
    if safe is not None and settings.signal not in safe:
        return WrongSignal(worker)
    return NotCaught(worker) if detail.caught is False else None


def unreadable(pool: Pool) -> int:
    """How many workers may be over the limit without anybody knowing: their size may not be read."""
    return sum(worker.detail is not None and worker.detail.used is None for worker in pool.workers)


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


def _heed_manager(pool: Pool, state: PoolState, now: float, events: list[Event]) -> PoolState:
    if pool.unseen:
        return state  # it may be there, and so may who is leaving
    if pool.manager is None or (state.manager and pool.manager != state.manager):
        state = _forget_manager(pool, state, now, events)
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


def asks_how_it_ended(pool: Pool, state: PoolState) -> bool:
    """Whether `decide` needs to know how the manager of the last look ended: stopped by a user, or by itself."""
    leaving = state.leaving
    if pool.unseen or leaving is None or state.manager is None or pool.manager == state.manager:
        return False
    if pool.state in STOPPED_BY_HAND:
        return False  # a user is stopping it
    if state.looked is None or not state.met:
        return False  # remembered from before a restart of ours, in which the program may have been restarted too
    return leaving.left is None or state.looked - leaving.left <= FALL  # else it stood on after the worker had left


def _forget_manager(pool: Pool, state: PoolState, now: float, events: list[Event]) -> PoolState:
    leaving, manager = state.leaving, state.manager
    forgotten = PoolState(settings=state.settings, suspended=state.suspended, falls=state.falls, paused=state.paused)
    if not asks_how_it_ended(pool, state) or pool.ending is Ending.STOPPED:
        return forgotten
    assert leaving
    assert manager
    certain = pool.ending is Ending.EXITED
    needs_age = (STOOD if certain else STOOD_UNKNOWN) * 2**state.falls
    events.append(Fell(leaving.worker, manager, needs_age, now - leaving.signalled, certain))
    suspended = Suspension("its manager went away", manager, needs_age, leaving, now)
    return replace(forgotten, suspended=suspended, falls=state.falls + 1)


def _end_suspension(state: PoolState, now: float, events: list[Event]) -> PoolState:
    suspended = state.suspended
    if suspended is None or suspended.until is None or now < suspended.until:
        return state
    events.append(Resumed("its limit is tried again"))
    return replace(state, suspended=None, hasty=(), said=frozenset())


def _note_changes(pool: Pool, state: PoolState, now: float) -> PoolState:
    """How many workers this pool usually has, and since when none has come or left."""
    members = frozenset(worker.id for worker in pool.workers)
    # A child that came and left between two looks shows in the page faults alone.
    is_calm = members == state.members and pool.child_faults == state.child_faults
    peaks, since = state.peaks, state.peak_since
    if since is None or now - since >= USUAL:
        peaks, since = (len(members), peaks[0]), now
    return replace(
        state,
        members=members,
        child_faults=pool.child_faults,
        calm_since=state.calm_since if is_calm and state.calm_since is not None else now,
        peaks=(max(peaks[0], len(members)), peaks[1]),
        peak_since=since,
    )


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
    newcomers = [
        one for one in pool.workers if one.id not in leaving.before and one.id.start_time >= leaving.started_after
    ]
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
    if gone_for >= settings.grace and _is_stable(pool, settings, state, now):
        # The server makes its pool smaller by itself (FCGI::ProcManager::Dynamic, uWSGI's cheaper, Apache).
        events.append(NoReplacement(leaving.worker, gone_for, len(pool.workers), len(leaving.before)))
        return replace(state, leaving=None, falls=0)
    if gone_for >= settings.grace and not leaving.overdue:
        events.append(NotReplaced(leaving.worker, gone_for, len(pool.workers), len(leaving.before)))
        leaving = replace(leaving, overdue=True)
    return replace(state, leaving=leaving)


def _is_stable(pool: Pool, settings: PoolSettings, state: PoolState, now: float) -> bool:
    calm = now - state.calm_since if state.calm_since is not None else 0.0
    return bool(pool.workers) and calm >= max(CALM, settings.settle)


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


def _suspend_at_birth(
    pool: Pool, settings: PoolSettings, state: PoolState, now: float, events: list[Event]
) -> PoolState:
    """Rule 9 at its plainest: every worker is a newborn, and every one is over. One alone may be a spike."""
    young_over = [
        worker.used or 0
        for worker in pool.workers
        if worker.age < settings.min_age and worker.id in state.over and state.over[worker.id].looks >= settings.checks
    ]
    if state.suspended or len(young_over) < 2 or len(young_over) < len(pool.workers):
        return state
    return _suspend_limit(young_over, state, now, events)


def _suspend_limit(used: list[int], state: PoolState, now: float, events: list[Event]) -> PoolState:
    assert state.manager
    events.append(WrongLimit(min(used), usable_limit(used)))
    suspended = Suspension("its limit is too low", state.manager, since=now, until=now + RETRY_LIMIT)
    return replace(state, suspended=suspended, hasty=())


def usable_limit(used: list[int]) -> int:
    """Twice what fresh workers use, in full steps of 10 MiB: room to serve for a while before they are reaped."""
    step = 10 * 1024**2
    return -(-2 * max(used) // step) * step


def _choose(
    pool: Pool, settings: PoolSettings, state: PoolState, now: float, events: list[Event]
) -> tuple[tuple[Worker, ...], PoolState]:
    stuck = {one.worker for one in state.stuck}
    state = replace(state, asked=state.asked & {worker.id for worker in pool.workers} - stuck)
    due = []
    for worker in pool.workers:
        if worker.detail is None or worker.id in stuck or worker.age < settings.min_age:
            continue
        asked = worker.id in state.asked
        if worker.detail.used is None and not asked:
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
        return (), _suspend_limit([*state.hasty, due[0].used or 0], state, now, events)
    few, state = _are_too_few(pool, settings, state, now, events)
    return () if few else tuple(due), state


def _are_too_few(
    pool: Pool, settings: PoolSettings, state: PoolState, now: float, events: list[Event]
) -> tuple[bool, PoolState]:
    """Whether less than half of the usual workers, or only one of several, are old enough to serve.

    New ones may be dying all the time, as after a broken deployment: then the old ones are the pool.
    """
    ages = [worker.age for worker in pool.workers]
    old_enough = sum(age >= settings.min_age for age in ages)
    # Besides the one that goes there must be another one that serves.
    serving = sum(age >= min(settings.min_age, max(settings.settle, CALM)) for age in ages)
    usual = max(state.peaks) - len(pool.stopped)
    if 2 * old_enough >= usual and serving >= min(usual, 2):
        return False, replace(state, thin_since=None)
    since = now if state.thin_since is None else state.thin_since
    state = replace(state, thin_since=since)
    if now - since >= LONG_WAIT:
        state = _tell_once("too few", TooFewWorkers(old_enough, usual), state, events)
    return True, state


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
        server = worker.detail.server if worker.detail else ""
        never = settings.idle_wait == float("inf")
        patience = LONG_WAIT if never else max(LONG_WAIT, settings.idle_wait)
        waited = now - state.ripe[worker.id]
        moment = moment_of(server)
        waits = (
            never
            or moment in (Moment.IDLE, Moment.HELD)
            or (moment is Moment.IDLE_IF_SEEN and "unknown" not in state.said)
        )
        if waited >= patience and waits:
            state = _tell_once("never idle", NeverIdle(worker, waited, "" if never else server), state, events)
    return state


def _tell_once(what: str, event: Event, state: PoolState, events: list[Event]) -> PoolState:
    first, state = say_once(what, state)
    if first:
        events.append(event)
    return state


def is_worth_keeping(state: PoolState) -> bool:
    """Whether anything in it must outlive the listener, or a time in which the pool is not watched."""
    return bool(
        state.leaving or state.stuck or state.hasty or state.suspended or state.falls or state.paused or state.asked
    )


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
