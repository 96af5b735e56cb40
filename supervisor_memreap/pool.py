"""One pool at run time: the only owner of its state, its lock, its descriptors and its counters."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable
from dataclasses import replace

from supervisor_memreap.core import events, policy
from supervisor_memreap.core.events import Event, Sink
from supervisor_memreap.core.model import Pool, ProcessId, Result, Worker
from supervisor_memreap.core.policy import Candidate, Choice, Look
from supervisor_memreap.core.reasons import Reason
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


class WatchedPool:
    """`write_down` is called after each change of the state that survives a restart."""

    def __init__(
        self,
        name: str,
        state: PoolState,
        sinks: Iterable[Sink],
        write_down: Callable[[], None],
        take_lock: TakeLock,
    ):
        self.name = name
        self.counters = Counters()
        self.choice: Choice | None = None
        """Of the last look; None: not looked at."""
        self.settings = PoolSettings()
        self.followed = FollowedWorkers(take_lock)
        self._experience = signalling.Experience()
        self._state = state
        self._sinks = (self._count, *sinks)
        self._write_down = write_down
        self._take_lock = take_lock

    @property
    def state(self) -> PoolState:
        return self._state

    @property
    def pool(self) -> Pool:
        """As the kernel reported in the last look."""
        return self.choice.pool if self.choice else Pool(self.name, "not looked at yet")

    def update(self, state: PoolState) -> None:
        """The only place where the state changes; what survives a restart is saved before this returns."""
        before, self._state = self._state, state
        if persistent_part_differs(before, state):
            self._write_down()

    def emit(self, event: Event) -> None:
        """Pass it to each sink; an event that is reported once, only once."""
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

    def follow(self, pool: Pool, settings: PoolSettings, view: Source, now: float, may_suspend: bool) -> Look:
        """What happened in it since the last look."""
        self.choice = None
        state, followed = policy.follow(pool, settings, self._state, now, may_suspend)
        self.settings = settings
        self.update(state)
        self._hand_on(_complete(event, self.followed, view) for event in followed)
        self.followed.release(state)
        self.followed.take_over(pool, state, view)
        return Look(pool, settings, self._state)

    def take(self, choice: Choice) -> None:
        """Accept what to do in this pool."""
        self.update(choice.state)
        self._hand_on(choice.events)
        self.counters = self.counters.with_standing(choice.standing.value, time.time())
        self.choice = choice  # last: a pool in which any of this fails is not acted on

    # Signals.

    def signal_next(self, view: Source, now: float, watch: float) -> None:
        """Signal the first candidate that is idle within `watch` seconds, if any is."""
        assert self.choice
        assert self.pool.manager
        candidates, began = self.choice.candidates, time.monotonic()
        lock: int | None
        try:
            lock = self._take_lock(self.pool.manager, self.pool.is_group)
        except ProcessLookupError:
            self._refuse(candidates[0], Result.CHANGED)
            return
        except Locked as trouble:
            if signalling.may_signal(candidates[0].worker.id):
                self.emit(events.Locked(*self._refused(candidates[0]), str(trouble)))
            else:
                self._refuse(candidates[0], Result.NOT_PERMITTED)
            return
        try:
            for candidate in candidates:
                outcome = self._signal(candidate, view, now, watch)
                if outcome.result is Result.SENT:
                    kept, lock = lock, None
                    self._follow_signalled(candidate, outcome, kept, now + time.monotonic() - began)
                    break
                watch = 0.0  # the others are taken if they are idle just now
        finally:
            if lock is not None:
                os.close(lock)

    def _signal(self, candidate: Candidate, view: Source, now: float, watch: float) -> signalling.Outcome:
        before, worker, expired = self._state, candidate.worker, candidate.idle_wait_expired
        try:
            # If the listener is killed between the signal and the end of the tick, the next one must find this saved.
            self.update(policy.signalled(self.pool, candidate, before, now, sent=False))
            outcome = signalling.reap(self.pool, worker, self.settings, view, watch, self._experience, expired)
        except BaseException:
            # It is unknown whether the signal was sent, so it counts as sent.
            self.update(policy.signalled(self.pool, candidate, before, now))
            raise
        if outcome.result is not Result.SENT:
            self.update(policy.watched(before, worker.id, now) if outcome.result is Result.BUSY else before)
            self._refuse(candidate, outcome.result)
            self._report_next_best(outcome)
        return outcome

    def _follow_signalled(self, candidate: Candidate, outcome: signalling.Outcome, lock: int | None, at: float) -> None:
        assert outcome.moment
        # From here on nothing may fail before the state says that a worker is leaving.
        worker = candidate.worker.id
        self.followed.add(Followed(worker, self.pool, outcome.private, outcome.pidfd, lock))
        self.update(policy.sent(self._state, at))
        signal, idle_wait = self.settings.signal, self.settings.idle_wait
        event = events.Signalled(self.name, time.time(), worker, candidate.reason, signal, outcome.moment, idle_wait)
        self.emit(event)
        self._report_next_best(outcome)

    def _report_next_best(self, outcome: signalling.Outcome) -> None:
        """Report why the safest moment is not available here."""
        if outcome.unheld:
            self.emit(events.CannotHold(self.name, time.time()))
        if outcome.unreadable:
            self.emit(events.IdlenessUnknown(self.name, time.time()))

    def follow_up(self, view: Source) -> None:
        """Signal a worker again that was signalled and is still there, if it is due."""
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
        try:
            # Saved first, as before the first signal: if the listener is killed here, no third one may be sent.
            self.update(policy.signalled_again(before, sent=False))
            outcome = signalling.reap_again(self.pool, worker, self.settings, view, self._experience)
        except BaseException:
            # It is unknown whether the signal was sent, so it counts as sent: there is no third one.
            self.update(policy.signalled_again(before))
            raise
        if outcome.result is not Result.SENT:
            self.update(before)
            return
        assert outcome.moment
        self.update(policy.signalled_again(before))
        signal = self.settings.signal
        sent = before.leaving.sent
        self.emit(events.SignalledAgain(self.name, time.time(), worker.id, signal, outcome.moment, sent))

    def _force(self, worker: Worker, view: Source) -> None:
        signal = self.settings.stuck
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

    def _refuse(self, candidate: Candidate, result: Result) -> None:
        if result in _REFUSALS:
            self.emit(_REFUSALS[result](*self._refused(candidate)))

    def _refused(self, candidate: Candidate) -> tuple[str, float, ProcessId, Reason]:
        return self.name, time.time(), candidate.worker.id, candidate.reason

    def exited(self, pidfd: int, now: float) -> None:
        """The kernel reported that the worker of this descriptor is gone."""
        worker = self.followed.forget_pidfd(pidfd)
        if worker:
            self.update(policy.exited(worker, self._state, now))


def _complete(event: Event, followed: FollowedWorkers, view: Source) -> Event:
    """An event of the policy, completed with what only the system knows."""
    if isinstance(event, events.Left):
        return replace(event, came_back=_came_back(event, followed, view))
    if isinstance(event, events.Stuck):
        return replace(event, activity=look.activity(event.worker, view))
    return event


def _came_back(left: events.Left, followed: FollowedWorkers, view: Source) -> int | None:
    """Bytes that the worker had for itself, less those that its replacement has for itself by now."""
    private = followed.private_of(left.worker)
    if private is None:
        return None
    taken = look.private_memory(left.replaced_by, view) if left.replaced_by else None
    return max(0, private - (taken or 0))
