"""One tick: look, decide, act, tell. The only place where the steps meet."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from supervisor_memreap.core import policy
from supervisor_memreap.core.model import Pool, ProcessId, Program, Worker
from supervisor_memreap.core.settings import PoolSettings, Settings
from supervisor_memreap.core.verdict import Event, Left, Verdict
from supervisor_memreap.host import lock, processes
from supervisor_memreap.host.source import Source
from supervisor_memreap.record import report

Tell = Callable[[str], None]


@dataclass
class Hold:
    """What is kept open for one worker that is leaving."""

    worker: ProcessId
    private: int | None
    pidfd: int | None
    lock: int | None

    def release(self) -> None:
        for fd in (self.pidfd, self.lock):
            if fd is not None:
                os.close(fd)
        self.pidfd = self.lock = None


@dataclass
class Standing:
    """How one pool stands after a tick."""

    pool: Pool
    settings: PoolSettings
    verdict: Verdict
    state: policy.PoolState


class Reaper:
    def __init__(self, tell: Tell, dry_run: bool = False):
        self._tell = tell
        self._dry_run = dry_run
        self._states: dict[str, policy.PoolState] = {}
        self._holds: dict[str, list[Hold]] = {}
        self.reaped: Counter[str] = Counter()
        """Workers that left after our signal, by pool."""

    def tick(self, programs: Iterable[Program], settings: Settings, now: float) -> list[Standing]:
        """One look at all watched pools, at most one signal in each. `now` is monotonic, in seconds."""
        view = processes.source()
        watched = []
        for program in programs:
            its = settings.of(program)
            if its:
                state = self._states.setdefault(program.namespec, policy.PoolState())
                watched.append(processes.Watched(program, its, _expected(state)))
        self._forget_others({one.program.namespec for one in watched})
        pools = processes.look(watched, view)
        return [self._tend(pool, one.settings, view, now) for pool, one in zip(pools, watched)]

    def pidfds(self) -> dict[int, tuple[str, ProcessId]]:
        """Descriptors that become readable when a worker that was signalled is gone: its pool and itself."""
        return {
            hold.pidfd: (name, hold.worker)
            for name, holds in self._holds.items()
            for hold in holds
            if hold.pidfd is not None
        }

    def exited(self, pidfd: int, now: float) -> None:
        """The kernel told that this worker is gone."""
        name, worker = self.pidfds()[pidfd]
        self._states[name] = policy.exited(worker, self._states[name], now)
        for hold in self._holds[name]:
            if hold.pidfd == pidfd:
                os.close(pidfd)
                hold.pidfd = None

    def close(self) -> None:
        """Let go of everything that is held."""
        self._forget_others(set())

    def _tend(self, pool: Pool, settings: PoolSettings, view: Source, now: float) -> Standing:
        before = self._states[pool.name]
        verdict, state = policy.decide(pool, settings, before, now)
        self._states[pool.name] = state
        for event in verdict.events:
            self._say(pool, event, settings, view)
        self._release(pool.name, state)
        if verdict.reap and not self._dry_run:
            state = self._states[pool.name] = self._reap(pool, verdict.reap, settings, state, view, now)
        return Standing(pool, settings, verdict, state)

    def _reap(
        self, pool: Pool, worker: Worker, settings: PoolSettings, state: policy.PoolState, view: Source, now: float
    ) -> policy.PoolState:
        assert pool.manager
        held = lock.take(pool.manager)
        if held is None:
            return self._refused("locked", pool, worker, settings, state)
        outcome = processes.reap(pool, worker, settings, view)
        if outcome.word != "sent":
            os.close(held)
            return self._refused(outcome.word, pool, worker, settings, state)
        # From here on nothing may fail before it is known that a worker is leaving.
        self._holds.setdefault(pool.name, []).append(Hold(worker.id, outcome.private, outcome.pidfd, held))
        state = self._states[pool.name] = policy.signalled(pool, worker, settings, state, now)
        self._tell(f"{pool.name}: {report.outcome('sent', worker, settings)}")
        return state

    def _refused(
        self, word: str, pool: Pool, worker: Worker, settings: PoolSettings, state: policy.PoolState
    ) -> policy.PoolState:
        first, state = policy.say_once(word, state)
        if first or word in ("gone", "changed"):
            self._tell(f"{pool.name}: {report.outcome(word, worker, settings)}")
        return state

    def _say(self, pool: Pool, event: Event, settings: PoolSettings, view: Source) -> None:
        came_back = None
        if isinstance(event, Left):
            self.reaped[pool.name] += 1
            came_back = self._came_back(pool.name, event, view)
        self._tell(f"{pool.name}: {report.line(event, settings, came_back)}")

    def _came_back(self, name: str, left: Left, view: Source) -> int | None:
        """What was the worker's own, less what its replacement has made its own by now."""
        private = next((hold.private for hold in self._holds.get(name, ()) if hold.worker == left.worker), None)
        if private is None:
            return None
        taken = processes.private_memory(left.replaced_by, view) if left.replaced_by else None
        return max(0, private - (taken or 0))

    def _release(self, name: str, state: policy.PoolState) -> None:
        """Close what is held for workers that the policy does not follow any more; a stuck one keeps no lock."""
        leaving = {state.leaving.worker} if state.leaving else set()
        stuck = {one.worker for one in state.stuck}
        kept = []
        for hold in self._holds.pop(name, []):
            if hold.worker in leaving:
                kept.append(hold)
            elif hold.worker in stuck:
                if hold.lock is not None:
                    os.close(hold.lock)
                    hold.lock = None
                kept.append(hold)
            else:
                hold.release()
        if kept:
            self._holds[name] = kept

    def _forget_others(self, names: set[str]) -> None:
        for name in set(self._states) - names:
            del self._states[name]
            for hold in self._holds.pop(name, []):
                hold.release()


def _expected(state: policy.PoolState) -> tuple[ProcessId, ...]:
    leaving = (state.leaving,) if state.leaving else ()
    return tuple(one.worker for one in (*leaving, *state.stuck) if one.left is None)
