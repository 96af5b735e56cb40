"""The attempts to signal workers of one pool, one at a time; each goes on beside this process (host.attempt)."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass

from supervisor_memreap.core import events, hindrance, policy
from supervisor_memreap.core.events import Event
from supervisor_memreap.core.frozen import replace
from supervisor_memreap.core.hindrance import Hindrance
from supervisor_memreap.core.model import Pool, ProcessId, Result, SentMoment, Worker
from supervisor_memreap.core.policy import Candidate
from supervisor_memreap.core.reasons import Reason, is_host_wide
from supervisor_memreap.core.servers import Moment, cost_while_busy, may_signal_busy, named, signal_while_busy
from supervisor_memreap.core.settings import PoolSettings
from supervisor_memreap.core.state import Phase
from supervisor_memreap.host.machine import (
    MOST_STOPS,
    TURN,
    Attempt,
    Handle,
    Lock,
    Locked,
    Machine,
    Order,
    Outcome,
    Unlockable,
)
from supervisor_memreap.listener.followed import Followed, FollowedWorkers, TakeLock
from supervisor_memreap.listener.poolstate import StatefulPool

_TAKEN = "another memreap (listener or once) is replacing workers in this pool"
# Seconds for which no worker is brought to its boundary after that was refused: if a seccomp filter kills the child
# that tries, each attempt is a line in the kernel's log.
REFUSED = 300.0
# Seconds that a worker which is signalled a second time may take to its boundary: it was idle there long ago.
AGAIN = 2.0
# Seconds of an attempt if no other worker is due; and where it is signalled at any moment after that.
ALONE, LAST = 30.0, 0.5
# Seconds of the first attempt if another worker is due too; each failed attempt doubles it.
FIRST = 1.0
# After a failed attempt, none is made on the worker for this many times the time it was stopped: attempts slow it
# down by a tenth at most.
PAUSE = 9
# Each failed attempt doubles the number of system calls at which the next may stop the worker, this many times:
# then it may cost a request 1.4 s.
MOST_DOUBLINGS = 2

# What is reported if nothing was sent; a busy worker is not reported.
_REFUSALS: dict[Result, Callable[..., Event]] = {
    Result.GONE: events.LeftByItself,
    Result.CHANGED: events.Changed,
    Result.NOT_PERMITTED: events.NotPermitted,
    Result.FAILED: events.OutOfResources,
}


@dataclass
class Trial:
    """An attempt, and what it needs."""

    pool: Pool
    """In the look in which its worker was chosen."""
    worker: Worker
    candidate: Candidate | None = None
    """None: it is for a second signal."""
    is_first: bool = False
    """Of the candidates of a look: the most urgent one determines the hindrance."""
    lock: Lock | None = None
    handle: Handle | None = None
    attempt: Attempt | None = None

    def may_still_go(self, pool: Pool) -> bool:
        """Whether not too many have left since it began: where they were replaced, a new one may count those."""
        assert self.attempt
        order = self.attempt.order
        return len(order.siblings - {each.id.pid for each in pool.workers}) <= order.may_lack

    def shorten(self) -> None:
        """Others are due too."""
        if self.attempt:
            self.attempt.shorten(TURN)

    def group_lock(self, manager: ProcessId) -> Lock | None:
        return self.lock if self.pool.is_group and self.pool.manager == manager else None

    def close(self) -> None:
        held, self.lock, self.handle = (self.lock, self.handle), None, None
        for each in held:
            if each:
                each.close()


class Turns:
    """The candidates of one pool that wait for an attempt, in the order of their turns."""

    def __init__(self) -> None:
        self.first: ProcessId | None = None
        """The most urgent one of the last look: it determines the hindrance."""
        self.waiting: list[Candidate] = []
        """Those of the last look for which no attempt was made since."""
        self._not_before: dict[ProcessId, float] = {}
        """When the next attempt may be made on workers that were stopped without a signal."""

    def offer(self, candidates: Collection[Candidate], but: ProcessId | None, now: float) -> None:
        """Those that may be signalled after a look, the most urgent first; on `but` an attempt is being made."""
        self._not_before = {worker: until for worker, until in self._not_before.items() if until > now}
        # One that is always busy does not keep the others from their turn, however urgent it is; and one may be there
        # for another reason too.
        by_turn = sorted(candidates, key=lambda each: each.attempts)
        once = {each.worker.id: each for each in reversed(by_turn)}
        self.waiting = [each for each in by_turn if once[each.worker.id] is each and self._may_go(each, but)]
        self.first = next((each.worker.id for each in candidates), None)

    def _may_go(self, candidate: Candidate, but: ProcessId | None) -> bool:
        return candidate.worker.id != but and candidate.worker.id not in self._not_before

    def clear(self) -> None:
        self.waiting = []

    def pause(self, worker: ProcessId, until: float) -> None:
        """Make no attempt on it before this time (monotonic)."""
        self._not_before[worker] = until


class PoolAttempts:
    """Those of one pool; `kept` is that pool, and `followed` gets the workers that were signalled."""

    def __init__(self, machine: Machine, kept: StatefulPool, followed: FollowedWorkers, take_lock: TakeLock):
        self.trial: Trial | None = None
        """The attempt that is being made."""
        self._machine = machine
        self._kept = kept
        self._followed = followed
        self._take_lock = take_lock
        self.pool = Pool(kept.name, "not looked at yet")
        """As at the last look."""
        self._settings = PoolSettings()
        self._turns = Turns()
        self._taken: Candidate | None = None
        self._refused_until = 0.0
        self._not_again_before = 0.0
        """When the next attempt at a second signal may be made (monotonic)."""

    def offer(self, pool: Pool, settings: PoolSettings, candidates: Collection[Candidate], now: float) -> None:
        """Those that may be signalled after this look; an attempt on another worker ends."""
        has_changed = settings != self._settings
        if self.trial and (
            has_changed or not self._may_go_on(self.trial, pool, {each.worker.id for each in candidates})
        ):
            self.end(now, by_force=True)
        self.pool, self._settings = pool, settings
        if self._kept.state.leaving:
            candidates = ()  # the attempt that has just been ended had sent its signal
        self._turns.offer(candidates, self.trial.worker.id if self.trial else None, now)
        if self.trial:
            self.trial.pool = pool
            if self._turns.waiting:
                self.trial.shorten()

    def _may_go_on(self, trial: Trial, pool: Pool, candidates: Collection[ProcessId]) -> bool:
        if trial.candidate:
            return trial.worker.id in candidates and trial.may_still_go(pool)
        return policy.may_signal_again(trial.worker.id, self._settings, self._kept.state)

    def follow(self, pool: Pool, now: float) -> None:
        """Before a look is followed: take what came of the attempt, and end one whose manager is gone."""
        self.end(now, by_force=self.trial is not None and self.trial.pool.manager != pool.manager)

    def begin_next(self, now: float, may_relieve: bool) -> None:
        """Begin an attempt to signal the next candidate, unless one is being made.

        If not `may_relieve`, none for memory that is short on the host.
        """
        may_begin = [each for each in self._turns.waiting if may_relieve or not is_host_wide(each.reason)]
        for candidate in may_begin:
            if self.trial or candidate not in self._turns.waiting:
                return
            self._turns.waiting.remove(candidate)
            self._begin(candidate, now)

    def group_lock(self, manager: ProcessId) -> Lock | None:
        """The lock that all pools with target=self share, if it is held here."""
        return self.trial.group_lock(manager) if self.trial else None

    @property
    def in_vain(self) -> int:
        """Failed attempts to signal the next candidate."""
        return self._turns.waiting[0].attempts if self._turns.waiting else 0

    def _begin(self, candidate: Candidate, now: float) -> None:
        kept = self._kept
        order = _order(self.pool, candidate, self._settings.signal)
        order = replace(order, hold=self._may_hold(), patience=self._patience(candidate))
        lock = _lock_for(candidate, self.pool, self._take_lock, self._machine)
        if isinstance(lock, tuple):
            self._turns.clear()
            kept.update(policy.not_sent(kept.state, lock[0]))
            kept.emit_all(lock[1])
            return
        is_first = candidate.worker.id == self._turns.first
        trial = Trial(self.pool, candidate.worker, candidate, is_first=is_first, lock=lock)
        # If the listener is killed after the signal, the next one must find this saved.
        trouble = kept.cannot_save(policy.attempted(self.pool, candidate, kept.state, now))
        if trouble:
            self._turns.clear()
            trial.close()
            kept.update(policy.not_sent(kept.state, hindrance.unsaved(trouble)))
        else:
            self._start(trial, order, now)

    def _may_hold(self) -> bool:
        return self._settings.hold and self._machine.now() >= self._refused_until

    def _patience(self, candidate: Candidate) -> float:
        remaining = self._settings.idle_wait - policy.waited(self._kept.state)
        has_boundary = policy.has_boundary(self._settings, self._kept.state)
        return _patience(candidate, not self._turns.waiting, remaining, has_boundary)

    def signal_again(self, worker: Worker, now: float) -> None:
        """Begin an attempt to signal a worker a second time."""
        kept, leaving, manager = self._kept, self._kept.state.leaving, self.pool.manager
        assert leaving
        assert manager
        if self._machine.now() < self._not_again_before:
            return
        # Saved first, as before the first signal: if the listener is killed here, no third one may be sent.
        if kept.cannot_save(policy.signalled_again(kept.state, now)):
            return
        processes = len(self.pool.workers) + 1
        order = Order(worker.id, manager, processes, leaving.server, leaving.signal, self._may_hold(), patience=AGAIN)
        self._start(Trial(self.pool, worker), order, now)

    def _start(self, trial: Trial, order: Order, now: float) -> None:
        followed = self._followed.of(order.worker)
        lock = followed.lock if followed else trial.lock
        try:
            trial.attempt = self._machine.attempt(order, lock)
            trial.handle = trial.attempt.handle
        except OSError as error:
            result = Result.GONE if isinstance(error, ProcessLookupError) else Result.FAILED
            self._settle(trial, Outcome(result), now)
        except BaseException:
            trial.close()
            self._kept.update(policy.unknown(self._kept.state, now))
            raise
        else:
            self.trial = trial

    def end(self, now: float, by_force: bool = False) -> None:
        """If the attempt has ended, or `by_force`, take what came of it."""
        if by_force:
            self._turns.clear()
        trial = self.trial
        if trial is None:
            return
        assert trial.attempt
        outcome = trial.attempt.cancel() if by_force else trial.attempt.outcome()
        if outcome is None:
            return
        self.trial = None
        try:
            self._settle(trial, outcome, now)
        except BaseException:
            trial.close()
            if trial.candidate and self._kept.state.attempted:
                # It is unknown whether the signal was sent, so it counts as sent.
                self._kept.update(policy.signalled(trial.pool, trial.candidate, self._kept.state, now))
            raise

    def taken(self) -> Candidate | None:
        """The candidate that was signalled since the last call, also where what came after the signal has failed."""
        taken, self._taken = self._taken, None
        return taken

    def _settle(self, trial: Trial, outcome: Outcome, now: float) -> None:
        if outcome.unheld:
            self._refused_until = self._machine.now() + REFUSED
        if outcome.has_boundary is not None:
            self._kept.update(policy.tried(self._kept.state, outcome.has_boundary))
        if trial.candidate is None:
            self._not_again_before = self._machine.now() + outcome.stopped * PAUSE
            trial.close()
            _settle_again(self._kept, trial.worker.id, outcome, now, self._machine.time())
        elif outcome.result is Result.SENT:
            self._turns.clear()
            self._taken = trial.candidate
            self._follow(trial, trial.candidate, outcome, now)
        else:
            try:
                self._note_refusal(trial, trial.candidate, outcome)
            finally:
                trial.close()  # last: the next holder of the lock must see the saved state
        if outcome.unheld:
            self._kept.emit(events.CannotHold(self._kept.name, self._machine.time()))
        if outcome.error:
            raise RuntimeError(f"in an attempt: {outcome.error}")

    def _follow(self, trial: Trial, candidate: Candidate, outcome: Outcome, now: float) -> None:
        kept, worker = self._kept, candidate.worker
        # From here on nothing may fail before the state records that a worker is leaving.
        held = outcome.private, worker.used, self._settings.metric
        self._followed.add(Followed(worker.id, trial.pool, trial.handle, trial.lock, *held))
        trial.handle = trial.lock = None
        sent_at = now if outcome.sent_at is None else min(now, outcome.sent_at)
        kept.update(policy.signalled(trial.pool, candidate, kept.state, sent_at))
        kept.emit(_signalled(kept.name, candidate, outcome, self._settings.idle_wait, self._machine.time()))

    def _note_refusal(self, trial: Trial, candidate: Candidate, outcome: Outcome) -> None:
        kept, result = self._kept, outcome.result
        if outcome.stopped:
            self._turns.pause(candidate.worker.id, self._machine.now() + outcome.stopped * PAUSE)
        waited = outcome.watched if result is Result.BUSY else None
        state = policy.not_signalled(kept.state, waited)
        if trial.is_first:
            how = hindrance.Seen(self._may_hold(), outcome.is_kept, outcome.is_deaf, outcome.may_be_kept)
            state = policy.not_sent(state, hindrance.of_attempt(result, candidate.worker.detail, self._settings, how))
        kept.update(state)
        if not outcome.error:
            kept.emit_all(_refusal(kept.name, candidate, result, self._machine.time()))


def _settle_again(kept: StatefulPool, worker: ProcessId, outcome: Outcome, now: float, at: float) -> None:
    """Note what came of an attempt to signal it a second time; `at` is in seconds since 1970."""
    leaving = kept.state.leaving
    if leaving is None or leaving.worker != worker:
        return
    if outcome.result is Result.SENT:
        assert outcome.moment
        how = leaving.signal, outcome.moment, leaving.is_sent
        kept.update(policy.was_signalled_again(kept.state))
        kept.emit(events.SignalledAgain(kept.name, at, worker, *how))
    elif leaving.phase is Phase.AGAIN:
        kept.update(policy.not_signalled_again(kept.state, now))


def _signalled(name: str, candidate: Candidate, outcome: Outcome, idle_wait: float, at: float) -> Event:
    detail, moment = candidate.worker.detail, outcome.moment
    assert detail
    assert moment
    signal = outcome.signal or detail.signal
    is_busy = moment in (SentMoment.BUSY, SentMoment.UNKNOWN)
    cost = cost_while_busy(detail.server, signal) if is_busy else ""
    return events.Signalled(*_about(name, candidate, at), signal, moment, idle_wait, cost)


def _order(pool: Pool, candidate: Candidate, signal: str | None) -> Order:
    """To signal this candidate; `signal` is what the user has set."""
    detail = candidate.worker.detail
    assert detail
    assert pool.manager
    return Order(
        candidate.worker.id,
        pool.manager,
        len(pool.workers) + 1,
        detail.server,
        detail.signal,
        may_be_busy=candidate.idle_wait_expired,
        busy_signal=signal_while_busy(detail.server, signal),
        private=candidate.worker.freed,
        stops=MOST_STOPS * 2 ** min(candidate.attempts, MOST_DOUBLINGS),
        siblings=frozenset(each.id.pid for each in pool.workers if each.id != candidate.worker.id),
        may_lack=max(0, len(pool.workers) // policy.MOST_LACKING - 1),
    )


def _patience(candidate: Candidate, is_alone: bool, remaining: float, has_boundary: bool) -> float:
    """Seconds that an attempt to signal this candidate may take.

    `is_alone`: no other one of its pool is due; `remaining` is what is left of `idle_wait`; `has_boundary`: of
    may_signal_busy.
    """
    assert candidate.worker.detail
    server = candidate.worker.detail.server
    moment = named(server).moment
    if candidate.idle_wait_expired and moment is Moment.ANY and may_signal_busy(server, has_boundary):
        return LAST
    patience = TURN if candidate.idle_wait_expired or is_host_wide(candidate.reason) else ALONE
    if not is_alone:
        patience = min(patience, FIRST * 2 ** min(candidate.attempts, 5))  # more than ALONE by then
    return patience if moment is Moment.HELD or remaining <= 0 else min(patience, remaining)


def _lock_for(
    candidate: Candidate, pool: Pool, take_lock: TakeLock, machine: Machine
) -> Lock | tuple[Hindrance | None, list[Event]]:
    """The lock of this pool; if it cannot be taken, the hindrance, and the events to report."""
    assert pool.manager
    at = machine.time()
    try:
        return take_lock(pool.manager, pool.is_group)
    except ProcessLookupError:
        result = Result.CHANGED
    except OSError:
        result = Result.FAILED
    except Locked as trouble:
        if machine.may_signal(candidate.worker.id):
            holder = str(trouble) if isinstance(trouble, Unlockable) else f"{trouble}: {_TAKEN}"
            return hindrance.of_lock(holder), [events.Locked(*_about(pool.name, candidate, at), holder)]
        result = Result.NOT_PERMITTED
    why = hindrance.of_attempt(result, candidate.worker.detail, PoolSettings())
    return why, list(_refusal(pool.name, candidate, result, at))


def _refusal(name: str, candidate: Candidate, result: Result, at: float) -> Iterator[Event]:
    """The event to report if nothing was sent to this candidate."""
    if result in _REFUSALS:
        yield _REFUSALS[result](*_about(name, candidate, at))


def _about(name: str, candidate: Candidate, at: float) -> tuple[str, float, ProcessId, Reason]:
    """The first fields of an event about this candidate; `at` is in seconds since 1970."""
    return name, at, candidate.worker.id, candidate.reason
