"""One pool at run time: the only owner of its state, its lock, its descriptors and its counters."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace

from supervisor_memreap.core import events, hindrance, policy
from supervisor_memreap.core.events import Event, Sink
from supervisor_memreap.core.hindrance import Hindrance
from supervisor_memreap.core.model import Pool, ProcessId, Result, Worker
from supervisor_memreap.core.policy import Candidate, Choice, Look
from supervisor_memreap.core.reasons import Reason, is_host_wide
from supervisor_memreap.core.settings import PoolSettings
from supervisor_memreap.core.state import PoolState, persistent_part_differs
from supervisor_memreap.followed import Followed, FollowedWorkers, TakeLock
from supervisor_memreap.host import look, signalling
from supervisor_memreap.host.lock import Locked
from supervisor_memreap.host.source import Source
from supervisor_memreap.record.counters import Counters

# What is reported if nothing was sent; a busy worker is not reported.
_REFUSALS: dict[Result, Callable[..., Event]] = {
    Result.GONE: events.LeftByItself,
    Result.CHANGED: events.Changed,
    Result.NOT_PERMITTED: events.NotPermitted,
    Result.FAILED: events.OutOfResources,
}


class _Kept:
    """The state of a pool, and who gets its events.

    `write_down` saves what survives a restart, after each change of it; it returns why it could not be saved.
    """

    def __init__(self, name: str, state: PoolState, sinks: Iterable[Sink], write_down: Callable[[], str]):
        self.name = name
        self.counters = Counters()
        self._state = state
        self._sinks = (self._count, *sinks)
        self._write_down = write_down

    @property
    def state(self) -> PoolState:
        return self._state

    def update(self, state: PoolState, save: bool = True) -> str:
        """The only place where the state changes. What survives a restart is saved before this returns.

        Returns why it could not be saved; empty: it is.
        """
        before, self._state = self._state, state
        return self._write_down() if save and persistent_part_differs(before, state) else ""

    def _can_save(self, state: PoolState) -> bool:
        """Save this state, which says that a signal is about to be sent; if that fails, it stays as it was.

        Then nothing may be sent: another memreap would not know of it.
        """
        before = self._state
        if not self.update(state):
            return True
        self.update(before, save=False)
        return False

    def emit(self, event: Event) -> None:
        """Pass the event to each sink; an event that is reported once, only the first time."""
        new, state = policy.is_new(event, self._state)
        self.update(state)
        if new:
            self._hand_on([event])

    def _hand_on(self, emitted: Iterable[Event]) -> None:
        for event in emitted:
            for sink in self._sinks:
                sink(event)

    def _count(self, event: Event) -> None:
        self.counters = self.counters.after(event)

    def _emit_all(self, emitted: Iterable[Event]) -> None:
        for event in emitted:
            self.emit(event)


class WatchedPool(_Kept):
    """As `_Kept`; `take_lock` takes the lock of a manager."""

    def __init__(
        self,
        name: str,
        state: PoolState,
        sinks: Iterable[Sink],
        write_down: Callable[[], str],
        take_lock: TakeLock,
    ):
        super().__init__(name, state, sinks, write_down)
        self.choice: Choice | None = None
        """The choice of the last look; None: not looked at."""
        self.settings = PoolSettings()
        self.signalled: Candidate | None = None
        """The one that was signalled in the last look, as far as is known."""
        self.followed = FollowedWorkers(take_lock)
        self._experience = signalling.Experience()
        self._refusals = _Refusals()
        self._take_lock = take_lock

    def hide(self) -> None:
        """Note that the pool is not watched now."""
        self.choice = None
        if self._state.leaving is None or self._state.leaving.left is not None:
            self.followed.unlock()

    @property
    def pool(self) -> Pool:
        """The pool as the kernel reported it in the last look."""
        return self.choice.pool if self.choice else Pool(self.name, "not looked at yet")

    def follow(self, pool: Pool, settings: PoolSettings, view: Source, now: float, **how: bool) -> Look:
        """Find out what happened since the last look; `how` says what kind of look this is, as for policy.follow."""
        self.choice = None
        if self._state.is_unsaved:
            self.update(replace(self._state, is_unsaved=bool(self._write_down())), save=False)
        state, followed = policy.follow(pool, settings, self._state, now, **how)
        self.settings = settings
        self.update(state)
        self._hand_on(_complete(event, pool, self.followed, view) for event in followed)
        self.followed.release(state)
        self.followed.take_over(pool, state, view)
        return Look(pool, settings, self._state)

    def take(self, choice: Choice) -> None:
        """Accept what to do in this pool."""
        self.update(choice.state)
        self._hand_on(choice.events)
        self.counters = self.counters.with_standing(choice.standing.value, time.time())
        self.choice = choice  # last: if any of this fails, memreap does not act on the pool

    # Signals.

    def signal_next(self, view: Source, now: float, watch: float, may_relieve: bool = True) -> None:
        """Signal the first that is idle within `watch` seconds; if not `may_relieve`, none for the host's memory."""
        assert self.choice
        assert self.pool.manager
        self.signalled, began = None, time.monotonic()
        candidates = [each for each in self.choice.candidates if may_relieve or not is_host_wide(each.reason)]
        if not candidates:
            return
        lock = _lock_for(candidates[0], self.pool, self._take_lock)
        if not isinstance(lock, int):
            self.update(policy.not_sent(self._state, lock[0]))
            self._emit_all(lock[1])
            return
        tried: set[ProcessId] = set()
        try:
            for candidate in candidates:
                if candidate.worker.id in tried:
                    continue  # it was tried for another reason
                tried.add(candidate.worker.id)
                outcome = self._signal(candidate, view, now, watch)
                if outcome is None:
                    self.update(policy.not_sent(self._state, hindrance.UNSAVED))
                    return
                if outcome.result is Result.SENT:
                    kept, lock = lock, -1
                    self._follow_signalled(candidate, outcome, kept, now + time.monotonic() - began)
                    return
                watch = 0.0  # the others must be idle at this moment
        finally:
            if lock >= 0:
                os.close(lock)

    def _signal(self, candidate: Candidate, view: Source, now: float, watch: float) -> signalling.Outcome | None:
        """None: nothing was tried, since the state cannot be saved."""
        before, worker, expired = self._state, candidate.worker, candidate.idle_wait_expired
        try:
            # If the listener is killed between the signal and the end of the tick, the next one must find this saved.
            if not self._can_save(policy.signalled(self.pool, candidate, before, now, sent=False)):
                return None
            outcome = signalling.reap(self.pool, worker, self.settings, view, watch, self._experience, expired)
        except BaseException:
            self.signalled = candidate
            # It is unknown whether the signal was sent, so it counts as sent.
            self.update(policy.signalled(self.pool, candidate, before, now))
            raise
        if outcome.result is Result.SENT:
            self.signalled = candidate
        else:
            self.update(self._refusals.after(before, candidate, outcome, self.settings, view, now, watch > 0))
            self._emit_all([*_refusal(self.name, candidate, outcome.result), *_next_best(self.name, outcome)])
        return outcome

    def _follow_signalled(self, candidate: Candidate, outcome: signalling.Outcome, lock: int | None, at: float) -> None:
        assert outcome.moment
        # From here on nothing may fail before the state says that a worker is leaving.
        worker = candidate.worker.id
        held = outcome.private, candidate.worker.used, self.settings.metric
        self.followed.add(Followed(worker, self.pool, outcome.pidfd, lock, *held))
        self.update(policy.sent(self._state, at))
        assert candidate.worker.detail
        how = candidate.worker.detail.signal, outcome.moment, self.settings.idle_wait
        self.emit(events.Signalled(self.name, time.time(), worker, candidate.reason, *how))
        self._emit_all(_next_best(self.name, outcome))

    def follow_up(self, view: Source) -> None:
        """Signal a worker again if it has not left and a second signal is due."""
        assert self.choice
        again, force = self.choice.again, self.choice.force
        worker = again or force
        if worker is None:
            return
        if not self.followed.is_ours(worker.id):
            if force:
                self._give_up()
            return
        if again:
            self._signal_again(again, view)
        if force:
            self._force(force, view)

    def _signal_again(self, worker: Worker, view: Source) -> None:
        before = self._state
        assert before.leaving
        signal, sent = before.leaving.signal, before.leaving.sent
        try:
            # Saved first, as before the first signal: if the listener is killed here, no third one may be sent.
            if not self._can_save(policy.signalled_again(before, sent=False)):
                return
            outcome = signalling.reap_again(self.pool, worker, signal, self.settings, view, self._experience)
        except BaseException:
            # It is unknown whether the signal was sent, so it counts as sent: no third one is sent.
            self.update(policy.signalled_again(before))
            raise
        if outcome.result is not Result.SENT:
            self.update(before)
            return
        assert outcome.moment
        self.update(policy.signalled_again(before))
        self.emit(events.SignalledAgain(self.name, time.time(), worker.id, signal, outcome.moment, sent))

    def _force(self, worker: Worker, view: Source) -> None:
        signal = self.settings.stuck
        if self._write_down():
            self.update(policy.force_later(self._state), save=False)
            return
        outcome = signalling.force(self.pool, worker, signal, view)
        if outcome.result is Result.SENT:
            self.emit(events.Forced(self.name, time.time(), worker.id, signal))
            return
        self.emit(events.NotForced(self.name, time.time(), worker.id, signal, outcome.result.value))
        if outcome.result in (Result.NOT_PERMITTED, Result.FAILED):
            self._give_up()

    def _give_up(self) -> None:
        """Send a stuck worker nothing more; the next one may go as soon as the pool's lock is free."""
        self.update(policy.not_forced(self._state))
        self.followed.release(self._state)

    def exited(self, pidfd: int, now: float) -> None:
        """The kernel reported that the worker of this descriptor is gone."""
        worker = self.followed.forget_pidfd(pidfd)
        if worker:
            self.update(policy.exited(worker, self._state, now))


class _Refusals:
    """What is learned from attempts that sent nothing."""

    def __init__(self) -> None:
        self._awaited: tuple[ProcessId, str | None] | None = None
        """A busy worker, and the client's connection of which it waited for data at the last attempt."""

    def after(
        self,
        state: PoolState,
        candidate: Candidate,
        outcome: signalling.Outcome,
        settings: PoolSettings,
        view: Source,
        now: float,
        is_first: bool,
    ) -> PoolState:
        """The state after this attempt; only the most urgent candidate says what stands in the way."""
        worker, result = candidate.worker, outcome.result
        is_kept = is_first and result is Result.BUSY and self._is_kept(worker.id, view)
        if result is Result.BUSY:
            state = policy.watched(state, worker.id, now, is_kept)
        why = hindrance.of_attempt(result, worker.detail, settings, is_kept, outcome.unheld)
        return policy.not_sent(state, why) if is_first else state

    def _is_kept(self, worker: ProcessId, view: Source) -> bool:
        """Whether it waits for data of the same connection as at the last attempt."""
        try:
            connection = view.awaited_client(worker.pid)
        except OSError:
            connection = None  # it has left; or that may not be read
        before, self._awaited = self._awaited, (worker, connection)
        return connection is not None and before == self._awaited


def _lock_for(candidate: Candidate, pool: Pool, take_lock: TakeLock) -> int | tuple[Hindrance | None, list[Event]]:
    """The lock of this pool; if it cannot be taken, what stands in the way, and the events to report."""
    assert pool.manager
    try:
        return take_lock(pool.manager, pool.is_group)
    except ProcessLookupError:
        result = Result.CHANGED
    except Locked as trouble:
        if signalling.may_signal(candidate.worker.id):
            event = events.Locked(*_refused(pool.name, candidate), str(trouble))
            return hindrance.of_lock(str(trouble)), [event]
        result = Result.NOT_PERMITTED
    why = hindrance.of_attempt(result, candidate.worker.detail, PoolSettings())
    return why, list(_refusal(pool.name, candidate, result))


def _refusal(name: str, candidate: Candidate, result: Result) -> Iterator[Event]:
    """The event to report if nothing was sent to this candidate."""
    if result in _REFUSALS:
        yield _REFUSALS[result](*_refused(name, candidate))


def _refused(name: str, candidate: Candidate) -> tuple[str, float, ProcessId, Reason]:
    return name, time.time(), candidate.worker.id, candidate.reason


def _next_best(name: str, outcome: signalling.Outcome) -> Iterator[Event]:
    """Why the worker could not be signalled at the safest moment."""
    if outcome.unheld:
        yield events.CannotHold(name, time.time())
    if outcome.unreadable:
        yield events.IdlenessUnknown(name, time.time())


def _complete(event: Event, pool: Pool, followed: FollowedWorkers, view: Source) -> Event:
    """Complete an event of the policy with what only the system knows."""
    if isinstance(event, events.Left):
        known = followed.of(event.worker)
        taken = look.private_memory(event.replaced_by, pool, view) if event.replaced_by else None
        if known is None:
            return replace(event, taken=taken)
        return replace(event, came_back=known.private, taken=taken, used=known.used, metric=known.metric)
    if isinstance(event, events.Stuck):
        return replace(event, activity=look.activity(event.worker, view))
    return event
