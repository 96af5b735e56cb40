"""Decides about one pool: values in, values out. All rules are here, with the numbers that the code refers to.

`follow` finds out what happened in a pool since the last look; `choose_in` decides who goes next in it, and
core.selection who goes next over all pools.

 1. One worker at a time. The next is not chosen before the last has left, the manager has forked a replacement, and
    that has settled: it was seen to serve, `settle` ago, and is as old as the server's pace (core.servers). (A
    replacement that dies at once, as after a broken deployment, never settles: then only the old workers serve, and
    they stay.) A manager that shrinks its pool on purpose forks none: there the next may go after `grace`, if no worker
    comes or leaves. Half of the usual number must serve and be older than `min_age`, unless the manager is known to
    shrink its pool, and no worker has come or left for twice that time; none goes while another one starts, but in a
    large pool; and the last worker that serves never goes. Where it may not be read who serves, age counts.
 2. The most urgent reason goes first (core.reasons); for the same reason, the worker with the most memory to free.
 3. `checks` consecutive looks over the limit, not one.
 4. Never a helper (core.serving), nor a worker that was not seen to serve yet, nor a newborn: a worker of
    FCGI::ProcManager has its manager's signal handlers until it sets its own; if it gets HUP before, it sends TERM to
    its siblings.
 5. Never a worker that has no handler for the signal, or that is known to drop its request on it (core.servers).
 6. At its boundary: the caller signals a worker where it enters its wait for the next connection. Where that may not
    be had, while it is seen idle; and while busy once attempts in this pool were in vain for `idle_wait`, with the
    signal that costs least then, unless it costs too much (core.servers).
 7. Signalled once. A second time, once, only if it comes to its boundary `AGAIN` after the first: that one came between
    the last request and accept, where Perl only records it.
 8. A worker that does not leave within `grace` is stuck: it is reported, and the next may go. Only if `stuck` says so
    is it sent a stronger signal, once, and then it has another `grace`.
 9. A limit that workers already exceed when they begin to serve is wrong: suspended, not recycled endlessly; tried
    again after 6 h. Workers that grow over it later leak, however fast: they are reaped, and that is reported.
10. If a manager ends by itself right after a reap, the pool is suspended, since here a HUP to a worker ends the tree.
    Not if a user stopped or restarted the manager; if that is unknown, the suspension is shorter.
11. Only programs that supervisord calls RUNNING, only (pid, start time): otherwise the pool has no manager here.
12. A user may request a worker: it goes before all others, over the limit or not, by the same rules. In a pool that a
    user paused, no worker goes.
13. Where a pool is only observed (`observe`), nothing is ever sent; what would have been is an event. It is observed
    for STABLE_SETTINGS more after the setting is gone.
14. Where memory is short (core.shortage), on the host or in a control group, one worker goes in each look, over all
    pools: the one that gives back most. None goes while what others give back may be enough, or where it does not help.
"""

from __future__ import annotations

import enum
from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from typing import NamedTuple

from supervisor_memreap.core import events, memoryevents, reasons, shortage
from supervisor_memreap.core.events import Event
from supervisor_memreap.core.hindrance import Hindrance
from supervisor_memreap.core.model import STOPPED_BY_HAND, Ending, InitialSize, Pool, ProcessId, Sharing, Worker
from supervisor_memreap.core.reasons import Circumstances, OverLimit, Reason
from supervisor_memreap.core.servers import DEFAULT_SIGNAL, graceful, pace_of
from supervisor_memreap.core.settings import PoolSettings
from supervisor_memreap.core.shortage import Episodes
from supervisor_memreap.core.state import TRANSITIONS, Cause, Phase, PoolState, Reap, Seen, Suspension, Wait

# A limit is wrong if workers began to serve at so many looks in succession, and all were over it then (rule 9).
STARTED_OVER = 3
# Seconds after which a reading does not show any more what a worker held when it began to serve: two ticks of TICK_5.
LATE = 10.0
# Seconds that a look may take to read a worker: its age is of that moment.
READ = 1.0
# Seconds: a leak is reported as fast if so many workers in succession were over the limit at this age.
FAST, FAST_REAPS = 60.0, 3
# Seconds that the next manager must have run before the pool resumes; doubled with each loss (rule 10).
STOOD = 600.0
# The same if it is unknown whether a user stopped the manager or it ended by itself.
STOOD_UNKNOWN = 60.0
# Seconds after the worker left; a manager that ends later did not end because of that.
LOSS = 10.0
# Seconds after the first signal, or half of `grace` if that is less: a worker that got it during a request leaves as
# soon as that ends, so one that is idle this much later never got it.
AGAIN = 10.0
# Seconds. Start times have steps, 10 ms on Linux: a process started right after a signal may seem older than it.
START_STEP = 1.0
# Seconds after which a due worker is reported that waits for something that may never happen.
LONG_WAIT = 60.0
# Seconds for which other settings must have been in force before they end a suspension: a look may find a file that is
# half written, without its last lines.
STABLE_SETTINGS = 10.0
# Seconds after which a wrong setting is tried again: fresh workers may hold less by then.
RETRY_SETTING = 6 * 3600.0
# Seconds after which it is tried again whether sizes may be read, if they could be; if not, at every look.
PROBE = 300.0
# Seconds without any change after which a pool that has fewer workers than before counts as stable.
CALM = 10.0
# The same at least before the only worker of a pool goes: new ones that end at once may be in no look.
SINGLE_CALM = 3.0
# Seconds between two readings of what is below each child of a manager; after a change, and for LONG_WAIT from then on,
# so many for each child: one of them takes 0.1 ms.
STRUCTURE, STRUCTURE_OF_CHILD = 60.0, 0.1
# Seconds after which a child that has the pool's socket and does not serve is no longer taken for one that starts.
STARTS = 120.0
# One goes while others start only if all of them together are not more than this part of the usual number.
MOST_LACKING = 4
# The usual number of workers is the largest number that served in this many seconds, and in as many before.
USUAL = 1800.0


class Standing(str, enum.Enum):
    """The state of a pool, in one word."""

    QUIET = "quiet"
    DUE = "due"
    """A worker is due."""
    OVERDUE = "overdue"
    """Workers are due, and for too long none could be signalled (core.delay)."""
    REQUESTED = "requested"
    LEAVING = "leaving"
    SETTLING = "settling"
    PAUSED = "paused"
    OBSERVED = "observed"
    SUSPENDED = "suspended"
    BLIND = "blind"
    """Sizes may not be read, or processes cannot be seen."""
    NOT_RUNNING = "not running"


class Look(NamedTuple):
    """A pool after `follow`."""

    pool: Pool
    settings: PoolSettings
    state: PoolState

    def circumstances(self, episodes: Episodes, now: float) -> Circumstances:
        """What its workers are judged by."""
        relieved = shortage.to_relieve(self.pool, self.settings, episodes)
        baseline = self.state.baseline
        if baseline is None and relieved:
            baseline = shortage.smallest(self.pool.workers)
        return Circumstances(self.settings, self.state.requested, relieved, baseline, now)


@dataclass(frozen=True)
class Candidate:
    """A worker, and the reason to replace it."""

    worker: Worker
    reason: Reason
    idle_wait_expired: bool = False
    """It was not found between two requests for `idle_wait`: signal it while busy, if its server permits that."""
    attempts: int = 0
    """Those that were made in vain to signal it."""
    all_reasons: tuple[Reason, ...] = ()
    """Of a pending worker, every reason that applies to it."""


@dataclass(frozen=True)
class Choice:
    """What to do in one pool."""

    pool: Pool
    standing: Standing
    state: PoolState
    events: tuple[Event, ...] = ()
    candidates: tuple[Candidate, ...] = ()
    """One of these is to be signalled, the first that is idle. A worker is here twice if it goes for memory that is
    short on the host, and for a reason of its own too.
    """
    pending: tuple[Candidate, ...] = ()
    """All that have to go, whatever they wait for: their turn, `min_age`, `checks`, the end of a pause."""
    individually_due: int = 0
    """Workers that have to go for what they are, also those that are stuck or that may never be signalled."""
    to_go: int = 0
    """The same, and one more where memory is short."""
    overdue: int = 0
    """Of them those that are overdue, if none could be signalled for too long; the state says why."""
    unreadable: int = 0
    """The number of workers that may be over the limit and whose size may not be read."""
    again: Worker | None = None
    """It was signalled long ago: signal it a second time, if it comes to its boundary."""
    force: Worker | None = None
    """It is stuck: send it the signal that `stuck` sets."""
    unwatched: str = ""
    """Why none of its workers could ever be reaped, and what to do; empty: some may be, or the log says why."""


def follow(
    pool: Pool, settings: PoolSettings, state: PoolState, now: float, may_suspend: bool = True, counts: bool = True
) -> tuple[PoolState, tuple[Event, ...]]:
    """What happened in one pool since the last look. `now` is monotonic, in seconds.

    Not `may_suspend`: a single look at new workers is not enough to call a setting wrong. Not `counts`: a look between
    two ticks is not one of the consecutive `checks`.
    """
    log: list[Event] = []
    gap = now - state.looked if state.looked is not None else 0.0
    state = _apply_settings(pool, settings, state, now, log)
    reported = state.reported
    state = _apply_manager(pool, state, now, log)
    if pool.manager is None:
        not_visible = events.NotVisible(*pool.stamp, pool.not_visible)
        state = replace(state, looked=now, reported=reported & {not_visible.key})
        return _report(not_visible, state, log) if pool.not_visible else state, tuple(log)
    if pool.is_group:
        state = _apply_group_restart(pool, state, log)
    state = _note_serving(pool, state, now)
    state = _note_changes(pool, settings, state, now)
    state = _follow_stuck(pool, state, now, log)
    state = _follow_leaving(pool, settings, state, now, log)
    before = state.seen
    state = _count(pool, settings, state, counts)
    state = _end_suspension(pool, state, now, log)
    no_more = {worker for worker, _ in before.keys() - state.seen.keys()}
    state = _note_initial_sizes(pool, settings, state, now, gap, no_more)
    if may_suspend and not only_observes(settings, state):
        state = _suspend_wrong_limit(pool, settings, state, now, log)
    return replace(state, looked=now), tuple(log)


def choose_in(look: Look, episodes: Episodes, now: float) -> Choice:
    pool, settings, state = look
    if pool.manager is None:
        is_blind = pool.not_visible and pool.state == "RUNNING"
        return Choice(pool, Standing.BLIND if is_blind else Standing.NOT_RUNNING, state)
    log: list[Event] = []
    circumstances = look.circumstances(episodes, now)
    pending, candidates, state = _candidates(look, circumstances, now, log)
    due = {each.worker.id for each in candidates}
    if not due >= state.waits.keys():
        state = replace(state, waits={worker: wait for worker, wait in state.waits.items() if worker in due})
    candidates = tuple(_after_its_waits(each, settings, state) for each in candidates)
    unwatched = _why_unwatched(pool, settings, state, now)
    if unwatched:
        state = _report(unwatched, state, log)
    unreadable, state = _note_probe(pool, settings, state, now, log)
    alone = Circumstances(settings, state.requested)
    individually_due = sum(any(reasons.applying(worker, alone)) for worker in pool.detailed)
    is_observed = only_observes(settings, state)
    is_blind = bool(unreadable or pool.is_total_unreadable or unwatched)
    return Choice(
        pool,
        _standing(state, candidates, is_blind, is_observed),
        state,
        tuple(log),
        candidates,
        pending,
        unreadable=unreadable,
        again=None if is_observed else _due_again(pool, settings, state, now),
        force=None if is_observed else _due_force(pool, state, now),
        individually_due=individually_due,
        to_go=individually_due,
        unwatched=unwatched.why if isinstance(unwatched, events.Wrapped) else "",
    )


def needs_probe(settings: PoolSettings, state: PoolState, now: float) -> bool:
    """Whether one worker has to be read to know whether sizes may be read: whether or not one is near its limit."""
    return reasons.needs_exact(settings) and (state.probed is None or now - state.probed >= PROBE)


def _note_probe(
    pool: Pool, settings: PoolSettings, state: PoolState, now: float, log: list[Event]
) -> tuple[int, PoolState]:
    """How many workers are known to have sizes that may not be read."""
    unreadable = [worker for worker in pool.detailed if reasons.is_unreadable(worker, settings)]
    hidden = sum(reasons.is_hidden(worker, settings) for worker in pool.detailed)
    grown_up = [worker for worker in unreadable if worker.age >= settings.min_age]
    if grown_up and not hidden:  # a newborn may still run as another user
        # With another metric it is for headroom or pressure, by what workers hold of their own.
        metric = "pss" if settings.metric == "pss" else "uss"
        state = _report(events.SizesUnreadable(*pool.stamp, grown_up[0].id, metric), state, log)
    if pool.detailed:
        state = replace(state, probed=None if unreadable else now)
    return max(hidden, len(unreadable)), state


def _after_its_waits(candidate: Candidate, settings: PoolSettings, state: PoolState) -> Candidate:
    attempts = state.waits.get(candidate.worker.id, Wait()).attempts
    # They take turns: of 20 workers that are never idle, the first must not wait for 20 times as long.
    has_expired = attempts > 0 and waited(state) >= settings.idle_wait
    return replace(candidate, attempts=attempts, idle_wait_expired=has_expired)


def waited(state: PoolState) -> float:
    """Seconds that attempts took which were made in vain in this pool, since a worker was signalled or none was due."""
    return sum(wait.seconds for wait in state.waits.values())


def _why_unwatched(pool: Pool, settings: PoolSettings, state: PoolState, now: float) -> Event | None:
    """Why there is no worker that could ever be reaped, as far as is known."""
    empty_for = now - state.no_workers_since if state.no_workers_since is not None else 0.0
    if empty_for >= LONG_WAIT and not (state.shrinks or pool.is_group):
        assert pool.manager
        return events.NoWorkers(*pool.stamp, pool.manager)
    if state.nested and pool.is_group:
        return events.LooksLikeManager(*pool.stamp, state.nested[0].id, True)
    return events.Wrapped(*pool.stamp, state.nested, settings.depth) if state.nested else None


def is_structure_due(state: PoolState, now: float) -> bool:
    """Whether to read again what is below each child: the workers may be there, and may have come only now."""
    if state.nested_read is None:
        return True
    has_changed = state.workers != state.nested_of or state.calm_since is None or now - state.calm_since < LONG_WAIT
    pause = min(STRUCTURE, STRUCTURE_OF_CHILD * len(state.workers)) if has_changed else STRUCTURE
    return now - state.nested_read >= pause


def attempted(pool: Pool, candidate: Candidate, state: PoolState, now: float) -> PoolState:
    """An attempt to signal this candidate is about to be made."""
    worker, reason = candidate.worker, candidate.reason
    assert worker.detail
    reap = Reap(
        worker.id,
        now,
        *_at(pool, worker, state, now),
        Phase.ATTEMPTED,
        now,
        slot=worker.slot,
        private=reasons.given_back(reason) or worker.private or 0,
        signal=worker.detail.signal,
        server=worker.detail.server,
    )
    return replace(state, reap=reap)


def _at(pool: Pool, worker: Worker, state: PoolState, now: float) -> tuple[frozenset[ProcessId], float]:
    """`before` and `started_after` of Reap, for a signal to this worker at this time; `pool` is the last look."""
    since = now - state.looked if state.looked is not None else 0.0
    seen = pool.worker(worker.id) or worker
    started_after = seen.id.start_time + seen.age + max(0.0, since) - START_STEP
    return frozenset(other.id for other in pool.workers), started_after


def unknown(state: PoolState, now: float) -> PoolState:
    """Nobody is left to say whether an attempt has sent its signal."""
    attempted = state.attempted
    return replace(state, reap=attempted.to(Phase.SIGNALLED, now, is_sent=False)) if attempted else state


def signalled(pool: Pool, candidate: Candidate, state: PoolState, now: float) -> PoolState:
    """The attempt sent its signal at this time, as far as is known; `pool` is the last look."""
    assert state.attempted
    worker, reason = candidate.worker, candidate.reason
    before, started_after = _at(pool, worker, state, now)
    at = {"signalled": now, "before": before, "started_after": started_after}
    return replace(
        state,
        waits={},
        refusal=None,
        requested=state.requested - {worker.id},
        reap=state.attempted.to(Phase.SIGNALLED, now, **at),
        fast=_after_reap(worker, reason, state),
    )


def _after_reap(worker: Worker, reason: Reason, state: PoolState) -> tuple[float, ...]:
    """The new `fast`, if this worker goes for this reason."""
    seen = state.seen.get((worker.id, reason.setting))
    if not isinstance(reason, OverLimit) or seen is None:
        return state.fast
    started_over = reason.applied_to(state.initial.get(worker.id))
    if not started_over and seen.age <= FAST:
        return (*state.fast, seen.age)[-FAST_REAPS:]
    # Of an older worker that was not watched from its start, it is not known how fast it grew.
    return state.fast if started_over is None else ()


def not_signalled(state: PoolState, seconds: float | None) -> PoolState:
    """The attempt ended without a signal; `seconds` is how long it waited in vain, None: not for that reason."""
    assert state.attempted
    worker, waits = state.attempted.worker, state.waits
    if seconds is not None:
        wait = waits.get(worker, Wait())
        waits = {**waits, worker: Wait(wait.attempts + 1, wait.seconds + seconds)}
    return replace(state, reap=None, waits=waits)


def tried(state: PoolState, has_boundary: bool) -> PoolState:
    """An attempt has ended that could bring a worker to its boundary, or not."""
    return state if state.has_boundary == has_boundary else replace(state, has_boundary=has_boundary)


def only_observes(settings: PoolSettings, state: PoolState) -> bool:
    """Whether nothing may be sent in this pool (rule 13): a file that is half written may lack its last lines."""
    return settings.observe or (state.settings is not None and state.settings.observe)


def not_sent(state: PoolState, why: Hindrance | None) -> PoolState:
    """The caller tried to signal the first candidate, and sent nothing; None: the candidate has left."""
    return replace(state, refusal=why or state.refusal)


def signalled_again(state: PoolState, now: float) -> PoolState:
    """The second signal that `choose_in` asked for is about to be sent."""
    assert state.reap
    return replace(state, reap=state.reap.to(Phase.AGAIN, now))


def was_signalled_again(state: PoolState) -> PoolState:
    """It was sent."""
    assert state.reap
    return replace(state, reap=replace(state.reap, is_sent=True))


def not_signalled_again(state: PoolState, now: float) -> PoolState:
    """The second signal was not sent: the worker did not come to its boundary."""
    assert state.reap
    return replace(state, reap=state.reap.to(Phase.SIGNALLED, now))


def force_later(state: PoolState, now: float) -> PoolState:
    """The signal that `stuck` sets must not be sent before the state can be saved."""
    assert state.reap
    return replace(state, reap=state.reap.to(Phase.AGAIN, now), is_unsaved=True)


def may_signal_again(worker: ProcessId, state: PoolState) -> bool:
    """Whether a second signal to this worker that is on its way may still be sent."""
    leaving = state.leaving
    if leaving is None or leaving.worker != worker or leaving.left is not None:
        return False
    return not (state.paused or (state.settings is not None and state.settings.observe))


def not_forced(state: PoolState, now: float) -> PoolState:
    """The signal that `stuck` sets could not be sent: the worker stays, and the next one may go."""
    assert state.reap
    return replace(state, reap=None, stuck=(*state.stuck, state.reap.to(Phase.AGAIN, now)))


def exited(worker: ProcessId, state: PoolState, at: float) -> PoolState:
    """The kernel reported, between two looks, that a signalled worker is gone."""

    def mark(reap: Reap) -> Reap:
        return replace(reap, left=at) if reap.worker == worker and reap.left is None else reap

    return replace(state, reap=mark(state.reap) if state.reap else None, stuck=tuple(map(mark, state.stuck)))


def request(workers: Iterable[ProcessId], state: PoolState) -> PoolState:
    """A user requests these workers, whatever the settings say."""
    vetoes = {kind.__name__ for kind in events.VETOES}
    return replace(state, requested=state.requested | set(workers), reported=state.reported - vetoes)


def pause(state: PoolState) -> PoolState:
    """Signal no more workers, not even a second time; a worker that was signalled is still followed."""
    return replace(state, paused=True, requested=frozenset())


def resume(state: PoolState) -> PoolState:
    """End every pause and suspension: the user has dealt with the cause."""
    return replace(
        state,
        paused=False,
        suspended=None,
        reap=None if state.reap and state.reap.overdue else state.reap,
        started_over=(),
        initial={},
        manager_losses=0,
        peaks=(0, 0),
        peak_since=None,
        had_more=False,
        replaces=None,
    )


def veto(pool: Pool, worker: Worker) -> Event | None:
    """Why this worker must never be signalled; None if it may be (rule 5)."""
    detail = worker.detail
    if detail is None:
        return None
    if detail.looks_like_manager:
        return events.LooksLikeManager(*pool.stamp, worker.id, pool.is_group)
    if pool.sharing is Sharing.APART:
        return events.NotShared(*pool.stamp, worker.id, pool.is_group)
    safe = graceful(detail.server)
    if safe is not None and detail.signal not in safe:
        return events.WrongSignal(*pool.stamp, worker.id, detail.server, detail.signal, safe)
    return events.NotCaught(*pool.stamp, worker.id, detail.signal, pool.is_group) if detail.caught is False else None


def unreadable_worker(pool: Pool, worker: Worker, settings: PoolSettings) -> events.Unreadable:
    """The event for a worker that may be over the limit and whose size may not be read."""
    is_late = worker.detail is not None and worker.detail.is_late
    return events.Unreadable(*pool.stamp, worker.id, worker.bound, settings.limit or 0, settings.metric, is_late)


def is_new(event: Event, state: PoolState) -> tuple[bool, PoolState]:
    """Whether to emit the event: some are reported only once for the same manager and settings."""
    if not event.is_reported_once:
        return True, state
    return event.key not in state.reported, replace(state, reported=state.reported | {event.key})


def _report(event: Event, state: PoolState, log: list[Event]) -> PoolState:
    new, state = is_new(event, state)
    if new:
        log.append(event)
    return state


def _apply_settings(pool: Pool, settings: PoolSettings, state: PoolState, now: float, log: list[Event]) -> PoolState:
    if settings == state.settings:
        return replace(state, changed_settings=None) if state.changed_settings else state
    is_new = state.changed_settings is None or state.changed_settings[0] != settings
    if is_new:
        # What was counted under other settings does not count under these.
        state = replace(state, changed_settings=(settings, now), seen={}, started_over=(), fast=())
    assert state.changed_settings
    since = state.changed_settings[1]
    if state.settings is not None and now - since < STABLE_SETTINGS:
        return state
    suspended = state.suspended
    if suspended and (suspended.since >= since or not _may_end(suspended, state.settings, settings)):
        return replace(state, settings=settings, changed_settings=None, reported=frozenset())  # it is about these
    if suspended:
        log.append(events.Resumed(*pool.stamp, "its settings changed"))
    # The user who changed them has dealt with the cause: forget suspensions and what led to them.
    return replace(
        state, settings=settings, changed_settings=None, suspended=None, manager_losses=0, reported=frozenset()
    )


def _may_end(suspended: Suspension, before: PoolSettings | None, after: PoolSettings) -> bool:
    """Whether these settings may be an answer to what the pool is suspended for."""
    if suspended.cause is Cause.MANAGER_LOST or before is None:
        return True
    about = (suspended.setting, "metric", "settle", "min_age", "checks")
    return any(getattr(before, name) != getattr(after, name) for name in about)


def _apply_manager(pool: Pool, state: PoolState, now: float, log: list[Event]) -> PoolState:
    if pool.not_visible:
        return state  # it may still be there, and so may the leaving worker
    if pool.manager is None or (state.manager and pool.manager != state.manager):
        state = _forget_manager(pool, state, now, log)
    if pool.manager is None:
        return state
    if state.manager != pool.manager or not state.manager_seen:
        state = replace(state, manager=pool.manager, manager_seen=True)
    suspended = state.suspended
    if suspended and pool.manager != suspended.manager and pool.manager_age >= (suspended.needs_age or 0):
        log.append(events.Resumed(*pool.stamp, f"its manager {pool.manager.pid} is a new one"))
        state = replace(state, suspended=None)
    elif suspended and pool.manager == suspended.manager and suspended.needs_age is not None:
        log.append(events.Resumed(*pool.stamp, f"its manager {pool.manager.pid} is there after all"))
        losses = max(0, state.manager_losses - 1)
        state = replace(state, suspended=None, reap=suspended.leaving, manager_losses=losses)
    return state


def _apply_group_restart(pool: Pool, state: PoolState, log: list[Event]) -> PoolState:
    """With target=self the manager is supervisord, and stays: all workers are new ones where a group was restarted."""
    workers = frozenset(worker.id for worker in pool.workers)
    if workers and state.last_workers and not workers & state.last_workers and not state.leaving:
        if state.suspended:
            log.append(events.Resumed(*pool.stamp, "all of its processes are new ones"))
        state = replace(state, suspended=None, started_over=(), reported=frozenset())
    return replace(state, last_workers=workers or state.last_workers)


def asks_how_it_ended(pool: Pool, state: PoolState) -> bool:
    """Whether `follow` needs to know how the manager of the last look ended: stopped by a user, or by itself."""
    leaving = state.leaving
    if pool.not_visible or leaving is None or state.manager is None or pool.manager == state.manager:
        return False
    if pool.state in STOPPED_BY_HAND:
        return False  # a user is stopping it
    if state.looked is None or not state.manager_seen:
        return False  # remembered from before a restart of ours, in which the program may have been restarted too
    return leaving.left is None or state.looked - leaving.left <= LOSS  # else it stood on after the worker had left


def _forget_manager(pool: Pool, state: PoolState, now: float, log: list[Event]) -> PoolState:
    leaving, manager = state.leaving, state.manager
    forgotten = PoolState(
        settings=state.settings,
        suspended=state.suspended,
        manager_losses=state.manager_losses,
        paused=state.paused,
        delay=state.delay,
        delay_told=state.delay_told,
    )
    if not asks_how_it_ended(pool, state) or pool.ending is Ending.STOPPED:
        return forgotten
    assert leaving
    assert manager
    certain = pool.ending is Ending.EXITED
    needs_age = (STOOD if certain else STOOD_UNKNOWN) * 2**state.manager_losses
    after = now - leaving.signalled
    log.append(events.ManagerLost(*pool.stamp, leaving.worker, manager, needs_age, after, certain))
    suspended = Suspension(Cause.MANAGER_LOST, manager, needs_age, leaving, now)
    return replace(forgotten, suspended=suspended, manager_losses=state.manager_losses + 1)


def _end_suspension(pool: Pool, state: PoolState, now: float, log: list[Event]) -> PoolState:
    suspended = state.suspended
    if suspended is None or suspended.until is None or now < suspended.until:
        return state
    log.append(events.Resumed(*pool.stamp, f"its {suspended.setting} is tried again"))
    # Only new workers can show whether it is still wrong.
    return replace(state, suspended=None, started_over=(), initial={}, reported=frozenset())


def serves(worker: Worker, state: PoolState) -> bool:
    """Whether it was seen to serve; where that may not be read, its age is all that is known."""
    return worker.id in state.serving or worker.serving is not False


def served_for(worker: Worker, state: PoolState, now: float) -> float:
    """Seconds since it was first seen to serve, negative if it was not; where that may not be read, its age."""
    if not serves(worker, state):
        return -1.0
    since = state.serving.get(worker.id)
    return worker.age if since is None else now - since


def is_starting(worker: Worker, state: PoolState) -> bool:
    """Whether it does not serve yet, and is young enough to do so in a while."""
    return not serves(worker, state) and worker.age < STARTS


def is_grown(worker: Worker, settings: PoolSettings, state: PoolState) -> bool:
    """Whether it may be signalled by its age, and serves (rule 4)."""
    return worker.age >= settings.min_age and serves(worker, state)


def _note_serving(pool: Pool, state: PoolState, now: float) -> PoolState:
    # Of one that was there before and that could not be read in time, it is not known whether it still starts.
    known = state.workers - state.starting if state.looked is not None else pool.unread
    starting = frozenset(each.id for each in pool.workers if each.serving is False) - (pool.unread & known)
    new = [worker for worker in pool.workers if worker.serving and worker.id not in state.serving]
    if not new and starting == state.starting:
        return state
    before = state.workers - state.starting
    # Of one that was there before, and not seen when it did not serve yet, it is not known when it began: it may be
    # old, and large.
    is_known = {worker.id: state.looked is not None and worker.id not in before for worker in new}
    began = {worker.id: now if is_known[worker.id] else now - worker.age for worker in new}
    present = {worker.id for worker in pool.workers}
    kept = {id: since for id, since in state.serving.items() if id in present}
    return replace(state, serving={**kept, **began}, starting=starting)


def _note_changes(pool: Pool, settings: PoolSettings, state: PoolState, now: float) -> PoolState:
    """How many workers this pool usually has, and since when none has come or left."""
    if not pool.is_group:  # supervisord starts each of its processes again, however many they are
        state = _note_elasticity(pool, settings, state, now)
    workers = frozenset(worker.id for worker in pool.workers)
    # A child that came and left between two looks shows in the page faults alone.
    is_calm = workers == state.workers and pool.child_faults == state.child_faults
    if pool.nested is not None:
        state = replace(state, nested=pool.nested, nested_read=now, nested_of=workers)
    peaks, since = state.peaks, state.peak_since
    number = len(workers) - sum(worker.serving is False and not serves(worker, state) for worker in pool.workers)
    if since is None or now - since >= USUAL:
        peaks, since = (number, peaks[0]), now
    elif is_calm and workers and state.calm_since is not None and number <= peaks[0]:
        return state  # at nearly every look of nearly every pool: a copy costs 8 us
    return replace(
        state,
        workers=workers,
        child_faults=pool.child_faults,
        calm_since=state.calm_since if is_calm and state.calm_since is not None else now,
        peaks=(max(peaks[0], number), peaks[1]),
        peak_since=since,
        had_more=state.had_more or len(workers) > 1,
        no_workers_since=None if workers else now if state.no_workers_since is None else state.no_workers_since,
    )


def _note_elasticity(pool: Pool, settings: PoolSettings, state: PoolState, now: float) -> PoolState:
    """Whether the manager makes its pool larger and smaller by itself, as far as the looks before this one show it."""
    looked = state.looked if state.looked is not None else 0.0
    served = state.served or any(served_for(worker, state, now) >= settings.settle for worker in pool.workers)
    is_smaller = len(state.workers) < max(state.peaks)
    # A pool that has become empty may also have a manager that forks none any more, until it has.
    is_alive = bool(state.workers or pool.workers)
    was_calm = served and is_smaller and is_alive and not state.leaving and _is_long_calm(settings, state, looked)
    shrinks = state.shrinks or was_calm
    replaces = state.replaces
    times = (served_for(worker, state, now) for worker in pool.workers)
    just_settled = (settings.settle <= time < settings.settle + now - looked for time in times)
    if replaces is False and not state.leaving and any(just_settled):
        replaces = None  # it had more than it needed when it did not replace that one
    if (served, shrinks, replaces) == (state.served, state.shrinks, state.replaces):
        return state
    return replace(state, served=served, shrinks=shrinks, replaces=replaces)


def _is_long_calm(settings: PoolSettings, state: PoolState, at: float) -> bool:
    """Whether no worker has come or left for so long that the manager wants as many as there are.

    A worker that starts and then fails does so before it is `min_age` old; meanwhile it counts, and is young.
    """
    calm = at - state.calm_since if state.calm_since is not None else 0.0
    return calm >= max(SINGLE_CALM, 2 * settings.min_age)


def _follow_stuck(pool: Pool, state: PoolState, now: float, log: list[Event]) -> PoolState:
    still = []
    for stuck in state.stuck:
        if stuck.left is None and pool.worker(stuck.worker):
            still.append(stuck)
        else:
            left = now if stuck.left is None else stuck.left
            log.append(events.Left(*pool.stamp, stuck.worker, left - stuck.signalled, None))
    return replace(state, stuck=tuple(still)) if state.stuck else state


def _follow_leaving(pool: Pool, settings: PoolSettings, state: PoolState, now: float, log: list[Event]) -> PoolState:
    leaving = state.leaving
    if leaving is None:
        return state
    if pool.worker(leaving.worker):
        # Also one that seemed to have left, since it could not be seen for a moment.
        return _follow_present(pool, settings, replace(leaving, left=None), state, now, log)
    if leaving.left is None:
        leaving = replace(leaving, left=now)
    return _follow_gone(pool, settings, leaving, state, now, log)


def _follow_present(
    pool: Pool, settings: PoolSettings, leaving: Reap, state: PoolState, now: float, log: list[Event]
) -> PoolState:
    """It was signalled, and has not left."""
    state = replace(state, reap=leaving)
    is_forced = leaving.phase is Phase.FORCED
    if now - (leaving.since if is_forced else leaving.signalled) < settings.grace:
        return state
    if not leaving.is_sent:
        # It never got the signal, as far as is known; but an attempt at a second one may just be sending that.
        is_attempted = leaving.phase is Phase.AGAIN and now - leaving.since < AGAIN
        return state if is_attempted else replace(state, reap=None)
    if (state.paused or state.is_unsaved or only_observes(settings, state)) and settings.stuck != "report":
        return state
    forced = settings.stuck if is_forced else ""
    is_last = settings.stuck == "report" or Phase.FORCED not in TRANSITIONS[leaving.phase]
    after = now - leaving.signalled
    following = "" if is_last else settings.stuck
    log.append(events.Stuck(*pool.stamp, leaving.worker, after, leaving.signal, forced, following))
    if is_last:
        return replace(state, reap=None, stuck=(*state.stuck, leaving))
    return replace(state, reap=leaving.to(Phase.FORCED, now))


def _follow_gone(
    pool: Pool, settings: PoolSettings, leaving: Reap, state: PoolState, now: float, log: list[Event]
) -> PoolState:
    """It has left: is the pool whole again, and settled?"""
    assert leaving.left is not None
    after, gone_for = leaving.left - leaving.signalled, now - leaving.left
    newcomers = [
        worker
        for worker in pool.workers
        if worker.id not in leaving.before and worker.id.start_time >= leaving.started_after
    ]
    youngest = min(newcomers, key=lambda worker: worker.age).id if newcomers else None
    if leaving.phase not in (Phase.GONE, Phase.REPLACED):
        log.append(events.Left(*pool.stamp, leaving.worker, after, youngest))
        leaving = leaving.to(Phase.GONE, now)
    elif leaving.phase is Phase.GONE and youngest:
        log.append(events.Replaced(*pool.stamp, leaving.worker, gone_for, youngest))
    if leaving.phase is Phase.GONE and youngest:
        leaving = leaving.to(Phase.REPLACED, now, replaced_by=youngest)
    if leaving.slot in pool.stopped and gone_for >= settings.settle:
        return replace(state, reap=None)  # a user wants none in its place, and does not just restart it
    pace = pace_of(leaving.server)
    settled = [
        worker
        for worker in newcomers
        if served_for(worker, state, now) >= settings.settle and worker.age >= max(settings.settle, pace)
    ]
    # Others may have left by themselves meanwhile: each of them needs a settled one in its place too.
    gone = len(leaving.before - {worker.id for worker in pool.workers} - set(pool.helpers))
    # A pool may be made smaller on purpose (FCGI::ProcManager::Dynamic): after `grace` one settled newcomer will do;
    # or one that had settled and left, where workers leave that have nothing to do (php-fpm's ondemand).
    leaving = replace(leaving, has_settled=leaving.has_settled or bool(settled))
    came_and_left = state.shrinks and leaving.has_settled
    if len(settled) >= gone or (gone_for >= settings.grace and (settled or came_and_left)):
        fresh = (worker.private for worker in settled if worker.private is not None)
        if settled:
            log.append(_settled(pool, leaving, settled, state, now))
        baseline = min(fresh, default=state.baseline)
        replaces = True if settled else None
        return replace(state, reap=None, manager_losses=0, replaces=replaces, baseline=baseline)
    present, before = len(pool.workers), len(leaving.before)
    all_serve = all(serves(worker, state) for worker in newcomers)
    if gone_for >= settings.grace and all_serve and _is_stable(pool, settings, state, now):
        # The server makes its pool smaller by itself (FCGI::ProcManager::Dynamic, uWSGI's cheaper, Apache).
        log.append(events.NoReplacement(*pool.stamp, leaving.worker, gone_for, present, before))
        return replace(state, reap=None, manager_losses=0, replaces=False)
    if gone_for >= settings.grace and not leaving.overdue:
        log.append(events.NotReplaced(*pool.stamp, leaving.worker, gone_for, present, before))
        leaving = replace(leaving, overdue=True)
    return replace(state, reap=leaving)


def _settled(pool: Pool, leaving: Reap, settled: list[Worker], state: PoolState, now: float) -> events.Settled:
    worker = next((each for each in settled if each.id == leaving.replaced_by), settled[0])
    since = state.serving.get(worker.id)
    to_serve = None if since is None else max(0.0, since - (now - worker.age))
    return events.Settled(*pool.stamp, leaving.worker, worker.id, to_serve)


def _is_stable(pool: Pool, settings: PoolSettings, state: PoolState, now: float) -> bool:
    calm = now - state.calm_since if state.calm_since is not None else 0.0
    return bool(pool.workers or state.shrinks) and calm >= max(CALM, settings.settle)


def _count(pool: Pool, settings: PoolSettings, state: PoolState, counts: bool) -> PoolState:
    seen = {}
    for worker in pool.detailed:
        for reason in reasons.applying(worker, Circumstances(settings)):
            key = worker.id, reason.setting
            before = state.seen.get(key)
            seen[key] = Seen(before.looks + int(counts), before.age) if before else Seen(1, worker.age)
    return replace(state, seen=seen) if seen or state.seen else state


def _is_ready(worker: Worker, reason: Reason, settings: PoolSettings, state: PoolState) -> bool:
    """Whether the reason has applied at enough looks, and the worker is known to be one."""
    if worker.detail and worker.detail.looks_like_manager is None:
        return False
    if not reason.is_counted:
        return True
    seen = state.seen.get((worker.id, reason.setting))
    return seen is not None and seen.looks >= settings.checks


def due_workers(look: Look, circumstances: Circumstances) -> dict[Worker, tuple[Reason, ...]]:
    """The workers that have to go by now, with the reasons, also those that are stuck or must never be signalled."""
    pool, settings, state = look
    leaving = state.leaving.worker if state.leaving else None
    ready = {
        worker: tuple(
            reason for reason in reasons.applying(worker, circumstances) if _is_ready(worker, reason, settings, state)
        )
        for worker in pool.detailed
        if worker.age >= settings.min_age and worker.id != leaving
        if not is_starting(worker, state)
    }
    return {worker: due for worker, due in ready.items() if due}


def _just_settled(pool: Pool, settings: PoolSettings, state: PoolState, now: float, gap: float) -> list[Worker]:
    """The workers that have served for `settle` since the last look, `gap` seconds ago."""
    before = settings.settle + min(gap, LATE) + min(gap, READ)
    # Most are older, and a call for each of 500 costs 0.1 ms.
    may_be = [worker for worker in pool.workers if state.serving.get(worker.id, now) >= now - before]
    return [worker for worker in may_be if settings.settle <= served_for(worker, state, now) <= before]


def _note_initial_sizes(
    pool: Pool, settings: PoolSettings, state: PoolState, now: float, gap: float, no_more: Collection[ProcessId]
) -> PoolState:
    """What workers hold that begin to serve (rule 9), and those to which a reason applies `no_more`.

    No worker is read in full for that: if it was not, its bound is within the limit.
    """
    limit = settings.limit
    if limit is None:
        return state
    begin = [worker for worker in _just_settled(pool, settings, state, now, gap) if worker.id not in state.initial]
    if not (begin or no_more):
        return state
    new = {worker.id: _size(worker, settings) for worker in begin}
    changed = {
        worker.id: min(state.initial[worker.id], _size(worker, settings))
        for worker in pool.workers
        if worker.id in no_more and worker.id in state.initial
    }
    present = {worker.id for worker in pool.workers}
    kept = {id: size for id, size in state.initial.items() if id in present}
    over = [OverLimit(size.size, limit, size.metric).applied_to(size) for size in new.values()]
    started_over = state.started_over
    if False in over:
        started_over = ()
    elif True in over:
        largest = max(size.size for size in new.values())
        started_over = (*started_over, largest)[-STARTED_OVER:]
    return replace(state, initial={**kept, **new, **changed}, started_over=started_over)


def _size(worker: Worker, settings: PoolSettings) -> InitialSize:
    is_exact = worker.used is not None
    return InitialSize(worker.bound if worker.used is None else worker.used, is_exact, settings.metric, worker.age)


def _suspend_wrong_limit(
    pool: Pool, settings: PoolSettings, state: PoolState, now: float, log: list[Event]
) -> PoolState:
    """Rule 9: all workers were over the limit when they began to serve, or all that began to serve of late."""
    if state.suspended or not state.seen:
        return state
    over = [
        (state.initial[worker.id], reason)
        for worker in pool.detailed
        for reason in reasons.applying(worker, Circumstances(settings))
        if isinstance(reason, OverLimit) and reason.applied_to(state.initial.get(worker.id))
        if _is_ready(worker, reason, settings, state)
    ]
    are_all = len(over) == len(pool.workers) > 1  # one alone may be a spike
    if not over or not (are_all or len(state.started_over) >= STARTED_OVER):
        return state
    assert state.manager
    (least, reason) = min(over, key=lambda each: each[0])
    usable = OverLimit.usable([*state.started_over, *(size.size for size, _ in over)])
    baseline = replace(reason, used=least.size)
    log.append(events.WrongSetting(*pool.stamp, baseline, usable, least.age, RETRY_SETTING))
    until = now + RETRY_SETTING
    suspended = Suspension(
        Cause.WRONG_SETTING, state.manager, since=now, until=until, setting=reason.setting, usable=usable
    )
    return replace(state, suspended=suspended, started_over=())


def _candidates(
    look: Look, circumstances: Circumstances, now: float, log: list[Event]
) -> tuple[tuple[Candidate, ...], tuple[Candidate, ...], PoolState]:
    """All that are due, and those of them that may go now; the most urgent first."""
    pool, settings, state = look
    stuck = {leaving.worker for leaving in state.stuck}
    if state.requested:
        # In an observed pool nothing is sent, nor weeks later, when it is observed no more.
        present = frozenset() if only_observes(settings, state) else {worker.id for worker in pool.workers} - stuck
        state = replace(state, requested=state.requested & present)
        circumstances = replace(circumstances, requested=state.requested)
    if pool.is_total_unreadable:
        state = _report(memoryevents.TotalUnreadable(*pool.stamp), state, log)
    pending, due = [], []
    for worker in pool.detailed:
        if worker.id in stuck:
            continue
        applying = list(reasons.applying(worker, circumstances))
        ready = [reason for reason in applying if _is_ready(worker, reason, settings, state)]
        against = veto(pool, worker) if ready and is_grown(worker, settings, state) else None
        if against:
            state = _report(against, replace(state, requested=state.requested - {worker.id}), log)
        elif not applying:
            state = _report_unreadable(pool, worker, settings, state, log)
        elif state.leaving is None or worker.id != state.leaving.worker:
            pending.append(Candidate(worker, (ready or applying)[0], all_reasons=tuple(applying)))
            if ready and not (serves(worker, state) or is_starting(worker, state) or worker.id in pool.unread):
                state = _report(events.NeverServed(*pool.stamp, worker.id, ready[0], worker.age), state, log)
            if ready and is_grown(worker, settings, state):
                state = _report_default_signal(pool, worker, settings, state, log)
                state = _report_serving_unknown(pool, worker, state, log)
                due += [Candidate(worker, reason) for reason in _told(ready)]
    due.sort(key=urgency)
    pending.sort(key=urgency)
    may_go, state = _that_may_go(look, due, state, now, log)
    return tuple(pending), may_go, state


def _that_may_go(
    look: Look, due: list[Candidate], state: PoolState, now: float, log: list[Event]
) -> tuple[tuple[Candidate, ...], PoolState]:
    """Those of the due ones that may go now; they are sorted."""
    pool, settings, _ = look
    if only_observes(settings, state):
        return (), _report_observed(pool, due, state, log)
    if state.paused or state.leaving or not due:
        return (), state
    if state.suspended:
        # A setting that is wrong is no reason to let the host run out of memory.
        is_wrong = state.suspended.cause is Cause.WRONG_SETTING
        due = [candidate for candidate in due if is_wrong and not candidate.reason.is_about_worker]
    state = _report_fast_leak(pool, due, state, log)
    few, state = _are_too_few(pool, settings, state, now, log) if due else (True, state)
    return () if few else tuple(due), state


def _report_observed(pool: Pool, due: Iterable[Candidate], state: PoolState, log: list[Event]) -> PoolState:
    """What would have been done, once for each worker."""
    first: dict[ProcessId, Candidate] = {}
    shortages: set[object] = set()
    for candidate in due:
        # Of those that would go because memory is short, one goes at a time, and then there may be enough.
        key = reasons.shortage_of(candidate.reason)
        if key is None or key not in shortages:
            first.setdefault(candidate.worker.id, candidate)
        shortages.add(key)
    new = [candidate for worker, candidate in first.items() if worker not in state.observed]
    log += [events.WouldReap(*pool.stamp, candidate.worker.id, candidate.reason) for candidate in new]
    present = {worker.id for worker in pool.workers}
    observed = (state.observed & present) | {candidate.worker.id for candidate in new}
    return replace(state, observed=observed) if observed != state.observed else state


def _told(ready: list[Reason]) -> list[Reason]:
    """The most urgent one; and where any other worker would do for that, the most urgent one of its own."""
    own = next((reason for reason in ready if not reasons.is_host_wide(reason)), None)
    return [reason for reason in ready if reason is ready[0] or reason is own]


# Behind every candidate.
LAST = (len(reasons.REASONS), 0)


def urgency(candidate: Candidate) -> tuple[int, int]:
    worker, reason = candidate.worker, candidate.reason
    held = worker.used if reason.is_about_worker else reasons.given_back(reason)
    return reasons.REASONS.index(type(reason)), -(held or 0)


def _report_default_signal(
    pool: Pool, worker: Worker, settings: PoolSettings, state: PoolState, log: list[Event]
) -> PoolState:
    detail = worker.detail
    if settings.signal is not None or detail is None or detail.signal == DEFAULT_SIGNAL:
        return state
    return _report(events.SignalOfServer(*pool.stamp, detail.server, detail.signal), state, log)


def _report_serving_unknown(pool: Pool, worker: Worker, state: PoolState, log: list[Event]) -> PoolState:
    if worker.id in state.serving or pool.sharing not in (Sharing.NONE, Sharing.HIDDEN):
        return state
    return _report(events.ServingUnknown(*pool.stamp, pool.sharing is Sharing.HIDDEN), state, log)


def _report_unreadable(
    pool: Pool, worker: Worker, settings: PoolSettings, state: PoolState, log: list[Event]
) -> PoolState:
    # A newborn may still run as another user.
    if worker.age < settings.min_age or not reasons.is_hidden(worker, settings):
        return state
    return _report(unreadable_worker(pool, worker, settings), state, log)


def _report_fast_leak(pool: Pool, due: Iterable[Candidate], state: PoolState, log: list[Event]) -> PoolState:
    """Rule 9: it is no reason to stop; without reaping, the pool would grow as fast."""
    reason = next((each.reason for each in due if isinstance(each.reason, OverLimit)), None)
    if reason is None or len(state.fast) < FAST_REAPS:
        return state
    return _report(events.FastLeak(*pool.stamp, reason.limit, state.fast, FAST), state, log)


def _are_too_few(
    pool: Pool, settings: PoolSettings, state: PoolState, now: float, log: list[Event]
) -> tuple[bool, PoolState]:
    """Whether less than half of the usual workers, or only one of several, serve and are old enough.

    Nor does one go while another starts, but in a large pool. New ones may be dying all the time, as after a broken
    deployment: then the old ones are the pool.
    """
    # Where none comes in the place of another one, a stuck worker, which may serve nothing, must not be the last.
    stuck = {leaving.worker for leaving in state.stuck} if state.replaces is False else ()
    ages = [worker.age for worker in pool.workers if worker.id not in stuck and serves(worker, state)]
    old_enough = sum(age >= settings.min_age for age in ages)
    # At least one other worker must serve.
    serving = sum(age >= min(settings.min_age, max(settings.settle, CALM)) for age in ages)
    usual = max(state.peaks) - len(pool.stopped)
    enough_serve = serving >= 2 or (usual <= 1 and len(ages) == 1 and _may_take_single(pool, settings, state, now))
    may_be_smaller = state.shrinks and state.replaces is not False and not pool.is_group
    is_smaller_on_purpose = may_be_smaller and _is_long_calm(settings, state, now)
    starting = sum(is_starting(worker, state) for worker in pool.workers)
    waited = now - state.too_few_since if state.too_few_since is not None else 0.0
    # Some manager may start short-lived children all the time.
    lacks_none = not starting or MOST_LACKING * (starting + 1) <= usual or waited >= 2 * STARTS
    if (2 * old_enough >= usual or is_smaller_on_purpose) and enough_serve and lacks_none:
        return False, replace(state, too_few_since=None)
    since = now if state.too_few_since is None else state.too_few_since
    state = replace(state, too_few_since=since)
    if now - since >= LONG_WAIT:
        state = _report(events.TooFewWorkers(*pool.stamp, old_enough, usual, settings.min_age), state, log)
    return True, state


def _may_take_single(pool: Pool, settings: PoolSettings, state: PoolState, now: float) -> bool:
    """Whether the only worker of a pool may go: another one must come in its place.

    One that is left of several is the last that serves, unless the manager has replaced the last one that was reaped.
    Children that come and go all the time may be workers that end at once, which are in no look.
    """
    if pool.is_group:
        return True  # supervisord has said that it starts it again
    if state.replaces is not None:
        return state.replaces
    calm = now - state.calm_since if state.calm_since is not None else 0.0
    return not state.had_more and calm >= max(SINGLE_CALM, min(CALM, max(settings.min_age, settings.settle)))


def _due_again(pool: Pool, settings: PoolSettings, state: PoolState, now: float) -> Worker | None:
    leaving = state.leaving
    if leaving is None or leaving.left is not None or state.paused:
        return None
    if leaving.phase is not Phase.SIGNALLED or now - leaving.signalled >= settings.grace:
        return None
    if leaving.slot in pool.stopped:
        return None  # supervisord is ending it
    if now - leaving.signalled < min(AGAIN, settings.grace / 2):
        return None
    return pool.worker(leaving.worker)


def _due_force(pool: Pool, state: PoolState, now: float) -> Worker | None:
    """Only in the look that finds the worker stuck, whatever the outcome."""
    leaving = state.leaving
    if (
        leaving is None
        or leaving.left is not None
        or state.paused
        or (leaving.phase, leaving.since) != (Phase.FORCED, now)
    ):
        return None
    if leaving.slot in pool.stopped:
        return None
    return pool.worker(leaving.worker)


def has_boundary(settings: PoolSettings, state: PoolState) -> bool:
    """Whether workers may be brought to their boundary, as far as is known."""
    return settings.hold and state.has_boundary


def _standing(state: PoolState, candidates: tuple[Candidate, ...], is_blind: bool, is_observed: bool) -> Standing:
    if state.suspended:
        return Standing.SUSPENDED
    if state.leaving:
        return Standing.SETTLING if state.leaving.left is not None else Standing.LEAVING
    if state.paused:
        return Standing.PAUSED
    if state.requested:
        return Standing.REQUESTED
    if is_blind:
        return Standing.BLIND
    if is_observed:
        return Standing.OBSERVED
    return Standing.DUE if candidates or state.seen else Standing.QUIET
