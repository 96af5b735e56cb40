"""Decides about one pool: values in, values out. All rules are listed here, with the numbers that the code refers to.

To find the code of a rule, search core/ for "rule 7", in any case of letters. core.following finds out what happened in
a pool since the last look, core.choosing who goes next in it, and core.selection who goes next over all pools. Here are
the words they use, what they both ask of the state, and what becomes of that as attempts are made and as users command.

 1. One worker at a time. The next is not chosen before the last has left, the manager has forked a replacement, and
    that has settled: it was seen to serve, `settle` ago, and is as old as the server's pace (core.servers). (A
    replacement that dies at once, as after a broken deployment, never settles: then only the old workers serve, and
    they stay.) A manager that shrinks its pool on purpose forks none: there the next may go after `grace`, if no worker
    comes or leaves. Half of the usual number must serve and be older than `min_age`, unless the manager is known to
    shrink its pool, and no worker has come or left for twice that time; none goes while another one starts, but in a
    large pool; and the last worker that serves never goes, unless its manager forks one as soon as a client asks.
    Where it may not be read who serves, age counts.
 2. The most urgent reason goes first (core.reasons); for the same reason, the worker with the most memory to free.
 3. `checks` consecutive looks over the limit, not one.
 4. Never a helper (core.serving), nor a worker that was not seen to serve yet, nor a newborn: a worker of
    FCGI::ProcManager has its manager's signal handlers until it sets its own; if it gets HUP before, it sends TERM to
    its siblings.
 5. Never a worker that has no handler for the signal, or that is known to drop its request on it (core.servers).
 6. At its boundary: the caller signals a worker where it enters its wait for the next connection. Where that may not
    be had, while it is seen idle; and while busy once attempts in this pool have failed for `idle_wait`, with the
    signal that costs least then, unless it costs too much (core.servers).
 7. Signalled once. A second time, once, only if it comes to its boundary `AGAIN` after the first: that one came between
    the last request and accept, where Perl only records it.
 8. A worker that does not leave within `grace` is stuck: it is reported, and the next may go. Only if `stuck` is set
    is it sent a stronger signal, once, and then it has another `grace`.
 9. A limit that workers already exceed when they begin to serve is wrong: suspended, not recycled endlessly; tried
    again after 6 h. Workers that grow over it later leak, however fast: they are reaped, and that is reported.
10. If a manager exits on its own right after a reap, the pool is suspended, since here a HUP to a worker ends the tree.
    Not if a user stopped or restarted the manager; if that is unknown, the suspension is shorter.
11. Only programs that supervisord calls RUNNING, only (pid, start time): otherwise the pool has no manager here.
12. A user may request a worker: it goes before all others, over the limit or not, by the same rules. In a pool that a
    user paused, no worker goes. A roll, of all workers, ends with the first that is not replaced within `grace`.
13. Where a pool is only observed (`observe`), nothing is ever sent; what would have been is an event. It is observed
    for STABLE_SETTINGS more after the setting is gone.
14. Where memory is short (core.shortage), on the host or in a control group, one worker goes in each look, over all
    pools: the one that gives back most. None goes while what others give back may be enough, or where it does not help.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

from supervisor_memreap.core import events, reasons, shortage
from supervisor_memreap.core.events import Event
from supervisor_memreap.core.frozen import replace
from supervisor_memreap.core.hindrance import Hindrance
from supervisor_memreap.core.model import STOPPED_BY_HAND, Pool, ProcessId, Sharing, Standing, Worker
from supervisor_memreap.core.reasons import Circumstances, OverLimit, Reason
from supervisor_memreap.core.servers import named
from supervisor_memreap.core.settings import PoolSettings
from supervisor_memreap.core.shortage import Episodes
from supervisor_memreap.core.state import Cause, Phase, PoolState, Reap, Roll, Wait

# A limit is wrong if workers began to serve at this many consecutive looks, all of them over it (rule 9).
STARTED_OVER = 3
# Seconds after which a reading no longer shows what a worker held when it began to serve: two ticks of TICK_5.
LATE = 10.0
# Seconds that a look may take to read a worker: its age is of that moment.
READ = 1.0
# Seconds: a leak is reported as fast if this many consecutive workers were over the limit at this age.
FAST, FAST_REAPS = 60.0, 3
# Seconds that the next manager must have run before the pool resumes; doubled with each loss (rule 10).
TRUSTED_AFTER = 600.0
# The same if it is unknown whether a user stopped the manager or it exited on its own.
TRUSTED_AFTER_UNKNOWN = 60.0
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
# this many for each child: one of them takes 0.1 ms.
STRUCTURE, STRUCTURE_OF_CHILD = 60.0, 0.1
# Seconds after which a child that has the pool's socket and does not serve is no longer taken for one that starts.
STARTS = 120.0
# One goes while others start only if all of them together are not more than this part of the usual number.
MOST_LACKING = 4
# The usual number of workers is the largest number that served in this many seconds, and in as many before.
USUAL = 1800.0


class Look(NamedTuple):
    """A pool after `follow`."""

    pool: Pool
    settings: PoolSettings
    state: PoolState

    def circumstances(self, episodes: Episodes, now: float) -> Circumstances:
        """What its workers are judged by."""
        relieved = shortage.to_relieve(self.pool, self.settings, episodes) if episodes else ()
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
    """It was not seen between two requests for `idle_wait`: signal it while busy, if its server permits that."""
    attempts: int = 0
    """Attempts to signal it that failed."""
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
    """Of them those that are overdue, if none could be signalled for too long; the state has the reason."""
    unreadable: int = 0
    """The number of workers that may be over the limit and whose size may not be read."""
    again: Worker | None = None
    """It was signalled long ago: signal it a second time, if it comes to its boundary."""
    force: Worker | None = None
    """It is stuck: send it the signal that `stuck` sets."""
    unwatched: str = ""
    """Why none of its workers could ever be reaped, and what to do; empty: some may be, or the log has the reason."""

    @property
    def follows_up(self) -> bool:
        """Whether a worker that was signalled may be sent another signal."""
        return bool(self.again or self.force)


class PoolInLook:
    """One pool in one look. It owns what the rules change, the state and the events; the rules are its methods."""

    def __init__(self, look: Look, now: float):
        """`now` is monotonic, in seconds."""
        self.pool, self.settings, self.state = look
        self.now = now
        self.events: list[Event] = []

    def set(self, **values: Any) -> None:
        """Give these fields of the state other values."""
        self.state = replace(self.state, **values)

    def note(self, **values: Any) -> None:
        """Give these fields of the population other values."""
        self.set(population=replace(self.state.population, **values))

    def say(self, event: Event) -> None:
        """Emit the event, unless it is one that is reported once and was."""
        new, self.state = is_new(event, self.state)
        if new:
            self.events.append(event)


def needs_probe(settings: PoolSettings, state: PoolState, now: float) -> bool:
    """Whether one worker has to be read to know whether sizes may be read: whether or not one is near its limit."""
    return reasons.needs_exact(settings) and (state.probed is None or now - state.probed >= PROBE)


def waited(state: PoolState) -> float:
    """Seconds that failed attempts took in this pool, since a worker was signalled or none was due."""
    return sum(wait.seconds for wait in state.waits.values())


def is_structure_due(state: PoolState, now: float, is_group: bool) -> bool:
    """Whether to read again what is below each child: the workers may be there, and may have come only now."""
    if state.nested_read is None:
        return True
    workers, calm_since = state.population.workers, state.population.calm_since
    # A child that was seen to serve is a worker. But with target=self, a process with children may be anything.
    if not (is_group or state.nested or workers.isdisjoint(state.population.serving)):
        return False
    has_changed = workers != state.nested_of or calm_since is None or now - calm_since < LONG_WAIT
    pause = min(STRUCTURE, STRUCTURE_OF_CHILD * len(workers)) if has_changed else STRUCTURE
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
    since = now - state.looked - pool.late if state.looked is not None else 0.0
    seen = pool.worker(worker.id) or worker
    started_after = seen.id.start_time + seen.age + max(0.0, since) - START_STEP
    return frozenset(other.id for other in pool.workers), started_after


def unknown(state: PoolState, now: float) -> PoolState:
    """It is unknown whether an attempt has sent its signal."""
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
    """The attempt ended without a signal; `seconds` is how long it waited for a moment, None: not for that reason."""
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
    """Whether this pool is only observed (rule 13), also shortly after the setting is gone.

    A file that is half written may lack its last lines.
    """
    was = state.settings is not None and state.settings.observe
    return settings.observe or was or state.observe_gone is not None


def sends_nothing(settings: PoolSettings, state: PoolState) -> bool:
    """Whether no signal may be sent in this pool, not even a second or a stronger one (rules 10, 12, 13).

    Not in a pool that is suspended for a wrong setting: there workers go for memory that is short on the host, and one
    that was signalled before may get its second signal.
    """
    has_lost_manager = state.suspended is not None and state.suspended.cause is Cause.MANAGER_LOST
    return state.paused or has_lost_manager or only_observes(settings, state)


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


def may_signal_again(worker: ProcessId, settings: PoolSettings, state: PoolState) -> bool:
    """Whether a second signal to this worker that is on its way may still be sent."""
    leaving = state.leaving
    if leaving is None or leaving.worker != worker or leaving.left is not None:
        return False
    return not sends_nothing(settings, state)


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
    """A user requests these workers, whatever the settings are."""
    vetoes = {kind.__name__ for kind in events.kinds(events.Veto)}
    return replace(state, requested=state.requested | set(workers), reported=state.reported - vetoes)


def roll(id: str, workers: Iterable[ProcessId], signalled: Iterable[ProcessId], state: PoolState) -> PoolState:
    """A user requests all of these workers, until one of them is not replaced (rule 12); the others are leaving."""
    asked = frozenset(workers)
    return replace(request(asked, state), roll=Roll(id, asked | frozenset(signalled)))


def not_replaced(pool: Pool, state: PoolState) -> frozenset[ProcessId]:
    """The workers of the last roll that are not replaced, or not yet."""
    present = {worker.id for worker in pool.workers}
    return state.roll.workers & (present | to_replace(state)) if state.roll else frozenset()


def to_replace(state: PoolState) -> frozenset[ProcessId]:
    """The workers that wait for their signal or, being signalled, for their replacement."""
    return state.requested | ({state.reap.worker} if state.reap else set())


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
        population=state.population.without_expectations(),
    )


def veto(pool: Pool, worker: Worker) -> Event | None:
    """Why this worker must never be signalled; None if it may be (rule 5)."""
    detail = worker.detail
    if detail is None:
        return None
    if detail.looks_like_manager:
        return events.LooksLikeManager(*pool.stamp, worker.id, pool.is_group)
    safe = named(detail.server).graceful
    if safe is not None and detail.signal not in safe:
        return events.WrongSignal(*pool.stamp, worker.id, detail.server, detail.signal, safe)
    if pool.sharing is Sharing.APART:
        return events.NotShared(*pool.stamp, worker.id, pool.is_group)
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


def asks_how_it_ended(pool: Pool, state: PoolState) -> bool:
    """Whether `follow` needs to know how the manager of the last look ended: stopped by a user, or on its own."""
    leaving = state.leaving
    if pool.not_visible or leaving is None or state.manager is None or pool.manager == state.manager:
        return False
    if pool.state in STOPPED_BY_HAND:
        return False  # a user is stopping it
    if state.looked is None or not state.manager_seen:
        return False  # remembered from before a restart of ours, in which the program may have been restarted too
    return leaving.left is None or state.looked - leaving.left <= LOSS  # else it ran on after the worker had left


def serves(worker: Worker, state: PoolState) -> bool:
    """Whether it was seen to serve; where that may not be read, its age is all that is known."""
    return worker.id in state.population.serving or worker.serving is not False


def served_for(worker: Worker, state: PoolState, now: float) -> float:
    """Seconds since it was first seen to serve, negative if it was not; where that may not be read, its age."""
    if not serves(worker, state):
        return -1.0
    since = state.population.serving.get(worker.id)
    return worker.age if since is None else now - since


def is_starting(worker: Worker, state: PoolState) -> bool:
    """Whether it does not serve yet, and is young enough to do so in a while."""
    return not serves(worker, state) and worker.age < STARTS


def is_grown(worker: Worker, settings: PoolSettings, state: PoolState) -> bool:
    """Whether it may be signalled by its age, and serves (rule 4)."""
    return worker.age >= settings.min_age and serves(worker, state)


def waits_for_replacements(pool: Pool, settings: PoolSettings, state: PoolState) -> bool:
    """Whether all workers that are too young came in the place of reaped ones."""
    young = {worker.id for worker in pool.workers if worker.age < settings.min_age}
    return bool(young) and young <= state.replacements


def is_long_calm(settings: PoolSettings, state: PoolState, at: float) -> bool:
    """Whether no worker has come or left for so long that the manager wants as many as there are.

    A worker that starts and then fails does so before it is `min_age` old; meanwhile it counts, and is young.
    """
    return state.population.calm(at) >= max(SINGLE_CALM, 2 * settings.min_age)


def is_ready(worker: Worker, reason: Reason, settings: PoolSettings, state: PoolState) -> bool:
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
            reason for reason in reasons.applying(worker, circumstances) if is_ready(worker, reason, settings, state)
        )
        for worker in pool.detailed
        if worker.age >= settings.min_age and worker.id != leaving
        if not is_starting(worker, state)
    }
    return {worker: due for worker, due in ready.items() if due}


# Behind every candidate.
LAST = (len(reasons.REASONS), 0)


def urgency(candidate: Candidate) -> tuple[int, int]:
    worker, reason = candidate.worker, candidate.reason
    held = worker.used if reason.is_about_worker else reasons.given_back(reason)
    return reasons.REASONS.index(type(reason)), -(held or 0)


def has_boundary(settings: PoolSettings, state: PoolState) -> bool:
    """Whether workers may be brought to their boundary, as far as is known."""
    return settings.hold and state.has_boundary
