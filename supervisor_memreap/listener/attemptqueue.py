"""The attempts of all pools: how many are made at a time, and in which pool the next one begins."""

from __future__ import annotations

from collections.abc import Sequence

from supervisor_memreap.core import hindrance, policy
from supervisor_memreap.core.reasons import is_host_wide
from supervisor_memreap.host.machine import Attempt, Machine
from supervisor_memreap.listener.attempts import Trial
from supervisor_memreap.listener.memorywatch import MemoryWatch
from supervisor_memreap.listener.pool import WatchedPool
from supervisor_memreap.listener.pools import Pools
from supervisor_memreap.listener.wakeable import READABLE

# Attempts at a time: each is a process.
MOST = 8


class AttemptQueue:
    def __init__(self, machine: Machine, pools: Pools, memory: MemoryWatch):
        self._machine = machine
        self._pools = pools
        self._memory = memory
        self._due: Sequence[WatchedPool] = ()
        """Those that have candidates since the last look, the most urgent first."""
        self._may_relieve = True
        """Whether no worker was signalled since the last look for memory that is short on the host."""

    @property
    def is_full(self) -> bool:
        return len(self._made()) >= MOST

    def begin(self, due: Sequence[WatchedPool], now: float) -> None:
        """Call after each look."""
        self._due, self._may_relieve = due, True
        self._go_on(now)

    def _go_on(self, now: float) -> None:
        """Begin with as many as may be made at a time; at most one in each pool."""
        self._count(now)
        # One that is always busy does not keep the others from their turn.
        for pool in sorted(self._due, key=lambda pool: pool.attempts.in_vain):
            trials = [each.attempts.trial for each in self._pools if each.attempts.trial]
            group = self._pools.group_of(pool)
            if not (pool.choice and pool.choice.candidates) or any(each.attempts.trial for each in group):
                continue
            if self.is_full:
                for trial in trials:
                    trial.shorten()
                return
            if any(each.followed.holds_group_lock() for each in group):
                pool.update(policy.not_sent(pool.state, hindrance.GROUP))
                continue
            # Of all pools, only one worker goes at each look for memory that is short on the host.
            may_relieve = self._may_relieve and not any(map(_relieves, trials))
            with pool.guard():
                pool.attempts.begin_next(now, may_relieve)

    def _count(self, now: float) -> None:
        for candidate in filter(None, [pool.attempts.taken() for pool in self._pools]):
            self._memory.note_sent(candidate, now)
            self._may_relieve = self._may_relieve and not is_host_wide(candidate.reason)

    def end_all(self) -> None:
        """End those that are being made. Never raises."""
        for pool in self._pools:
            with pool.guard():
                pool.attempts.end(self._machine.now(), by_force=True)

    # For the loop of the listener.

    def fds(self) -> dict[int, int]:
        """Descriptors that become readable when an attempt reports something."""
        return {attempt.fd: READABLE for attempt in self._made()}

    def patience(self) -> float | None:
        """Seconds until the time of an attempt is up; None: none is being made."""
        deadlines = [attempt.deadline for attempt in self._made()]
        return max(0.0, min(deadlines) - self._machine.now()) if deadlines else None

    def _made(self) -> list[Attempt]:
        trials = [pool.attempts.trial for pool in self._pools]
        return [trial.attempt for trial in trials if trial and trial.attempt]

    def wake(self, now: float) -> None:
        """Take what came of attempts that have ended, and begin with the next ones. Never raises."""
        with self._pools.guard():
            before = len(self._made())
            for pool in self._pools:
                with pool.guard():
                    pool.attempts.end(now)
            if len(self._made()) < before:
                self._go_on(now)
                self._pools.write_down()


def _relieves(trial: Trial) -> bool:
    return trial.candidate is not None and is_host_wide(trial.candidate.reason)
