"""One pool at run time: the only owner of its state, its lock, its descriptors and its counters."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from supervisor_memreap.core import events, following, policy, resting
from supervisor_memreap.core.events import Event, Sink
from supervisor_memreap.core.frozen import replace
from supervisor_memreap.core.model import Pool, Result, Worker
from supervisor_memreap.core.policy import Choice, Look
from supervisor_memreap.core.settings import PoolSettings
from supervisor_memreap.core.state import Phase, PoolState
from supervisor_memreap.host.machine import Machine
from supervisor_memreap.listener.attempts import PoolAttempts
from supervisor_memreap.listener.followed import FollowedWorkers, TakeLock
from supervisor_memreap.listener.poolstate import StatefulPool
from supervisor_memreap.outputs.guard import Guard


class WatchedPool(StatefulPool):
    """As StatefulPool; `take_lock` takes the lock of a manager."""

    def __init__(
        self,
        machine: Machine,
        name: str,
        state: PoolState,
        sinks: Iterable[Sink],
        write_down: Callable[[], str],
        take_lock: TakeLock,
    ):
        super().__init__(name, state, sinks, write_down)
        self._machine = machine
        self.choice: Choice | None = None
        """The choice of the last look; None: not looked at."""
        self.is_at_rest = False
        """Whether it was at the last look."""
        self.settings = PoolSettings()
        self.followed = FollowedWorkers(machine, take_lock)
        self.attempts = PoolAttempts(machine, self, self.followed, take_lock)

    def guard(self) -> Guard:
        """An error in this pool is a line in the log, and memreap goes on with the other pools."""
        return Guard(self.emit, self.name)

    def hide(self) -> None:
        """Note that the pool is not watched now."""
        self.attempts.end(self._machine.now(), by_force=True)
        self.choice = None
        if self._state.leaving is None or self._state.leaving.left is not None:
            self.followed.unlock()

    @property
    def pool(self) -> Pool:
        """The pool as the kernel reported it in the last look."""
        return self.choice.pool if self.choice else Pool(self.name, "not looked at yet")

    def follow(self, pool: Pool, settings: PoolSettings, now: float, **how: bool) -> Look:
        """Find out what happened since the last look; `how` says what kind of look this is, as for following.follow."""
        self.attempts.follow(pool, now)
        self.choice, self.is_at_rest = None, False
        if self._state.is_unsaved:
            self.update(replace(self._state, is_unsaved=bool(self.write_down())), save=False)
        state, followed = following.follow(pool, settings, self._state, now, **how)
        self.settings = settings
        self.update(state)
        self.hand_on(self._complete(event, pool) for event in followed)
        self.followed.release(state)
        self.followed.take_over(pool, state)
        return Look(pool, settings, self._state)

    def rest(self, pool: Pool, settings: PoolSettings, now: float) -> Look | None:
        """The look at a pool at rest, which needs no choice; None: it is not at rest."""
        choice = resting.choice_in(Look(pool, settings, self._state), self.choice, now)
        if choice is None:
            return None
        self.settings, self.choice, self._state, self.is_at_rest = settings, choice, choice.state, True
        self.attempts.pool = pool  # not an old one beside it
        return Look(pool, settings, choice.state)

    def take(self, choice: Choice, now: float) -> None:
        """Accept what to do in this pool."""
        self.update(choice.state)
        self.hand_on(choice.events)
        self.attempts.offer(choice.pool, self.settings, choice.candidates, now)
        self.counters = self.counters.with_standing(choice.standing.value, self._machine.time())
        self.choice = choice  # last: if any of this fails, memreap does not act on the pool

    def follow_up(self, now: float, may_attempt: bool) -> None:
        """Signal a worker again if it has not left and a second signal is due, for which it `may_attempt`."""
        assert self.choice
        again, force = self.choice.again, self.choice.force
        worker = again or force
        if worker is None or ((self.attempts.trial or not may_attempt) and not force):
            return
        self.attempts.end(now, by_force=True)
        if not self.followed.is_ours(worker.id):
            if force:
                self._give_up(force, now)
            return
        if again:
            self.attempts.signal_again(again, now)
        if force:
            self._force(force, now)

    def _force(self, worker: Worker, now: float) -> None:
        signal = self.settings.stuck
        if self.write_down():
            self.update(policy.force_later(self._state, now), save=False)
            return
        result = self._machine.force(self.pool, worker, signal)
        if result is Result.SENT:
            self.emit(events.Forced(self.name, self._machine.time(), worker.id, signal))
            return
        self.emit(events.NotForced(self.name, self._machine.time(), worker.id, signal, result.value))
        if result in (Result.NOT_PERMITTED, Result.FAILED):
            self._give_up(worker, now)

    def _give_up(self, worker: Worker, now: float) -> None:
        """Send a stuck worker nothing more; the next one may go as soon as the pool's lock is free."""
        reap = self._state.reap
        if reap and (reap.worker, reap.phase) == (worker.id, Phase.FORCED):  # else it is that of another memreap
            self.update(policy.not_forced(self._state, now))
        self.followed.release(self._state)

    def close(self) -> None:
        """Release everything that is held; an attempt that is being made ends."""
        self.attempts.end(self._machine.now(), by_force=True)
        self.followed.close()

    def exited(self, fd: int, now: float) -> None:
        """The kernel reported that the worker of this descriptor is gone."""
        worker = self.followed.exited(fd)
        if worker:
            self.update(policy.exited(worker, self._state, now))

    def _complete(self, event: Event, pool: Pool) -> Event:
        """Complete an event of the policy with what only the machine knows."""
        if isinstance(event, events.Left):
            known, after = self.followed.of(event.worker), event.replaced_by
            taken = self._machine.private_memory(after, len(pool.workers) + 1) if after else None
            if known is None:
                return replace(event, taken=taken)
            return replace(event, came_back=known.private, taken=taken, used=known.used, metric=known.metric)
        if isinstance(event, events.Stuck):
            return replace(event, activity=self._machine.activity(event.worker))
        return event
