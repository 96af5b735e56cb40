"""All pools at run time, and what they share: the watched pools, and hidden ones that must not be forgotten."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import Union

from supervisor_memreap.core.events import Event, Sink
from supervisor_memreap.core.frozen import replace
from supervisor_memreap.core.model import ProcessId
from supervisor_memreap.core.state import PoolState, is_worth_keeping
from supervisor_memreap.host.machine import Lock, Locked, Machine, States
from supervisor_memreap.listener.pool import WatchedPool
from supervisor_memreap.outputs.guard import Guard

# Seconds for which memreap remembers a pool that is no longer watched and whose manager has ended: its section, program
# or group may come back, and with it a pause that a user set.
FORGET_AFTER = 24 * 3600.0

Keep = Callable[[States], Union[str, None]]
"""Saves all states, and returns why they could not be saved; empty or None: they are saved."""


class Pools:
    """`states` are those of the memreap before this one; `keep` gets all of them whenever what outlives us changes.

    `saved` returns what another memreap has saved meanwhile: a listener may have signalled a worker and ended.
    """

    def __init__(
        self,
        machine: Machine,
        sinks: Sequence[Sink],
        dry_run: bool,
        states: States,
        keep: Keep,
        saved: Callable[[], States] = dict,
    ):
        self._machine = machine
        self._sinks = sinks
        self._dry_run = dry_run
        self._keep = keep
        self._saved = saved
        self._adopted: set[ProcessId] = set()
        """Workers of which another memreap had saved that they are leaving."""
        self._pools: dict[str, WatchedPool] = {}
        for name, state in states.items():
            self.named(name, state)

    def __iter__(self) -> Iterator[WatchedPool]:
        return iter(self._pools.values())

    def __contains__(self, name: str) -> bool:
        return name in self._pools

    def named(self, name: str, state: PoolState | None = None) -> WatchedPool:
        """The pool of this name; it is created if there is none yet."""
        if name not in self._pools:
            how = self._sinks, self.write_down, self._take_lock
            self._pools[name] = WatchedPool(self._machine, name, state or PoolState(), *how)
        return self._pools[name]

    def write_down(self) -> str:
        """Returns why that was not possible; empty: all is saved."""
        return self._keep({name: pool.state for name, pool in self._pools.items()}) or ""

    def change(self, states: States) -> str:
        """Change these states, all or none. Returns why they cannot be saved, and none is changed; empty: all are."""
        before = {name: self.named(name).state for name in states}
        for name, state in states.items():
            self.named(name).update(state, save=False)
        trouble = self.write_down()
        for name, state in before.items() if trouble else ():
            self.named(name).update(state, save=False)
        return trouble

    def paused(self) -> States:
        """The pools that a user paused; the states have nothing else."""
        return {name: PoolState(paused=True) for name, pool in self._pools.items() if pool.state.paused}

    def emit(self, event: Event) -> None:
        """Of a pool, or of none."""
        if event.pool in self._pools:
            self._pools[event.pool].emit(event)
            return
        for sink in self._sinks:
            sink(event)

    def emit_all(self, emitted: Iterable[Event]) -> None:
        """An error in one is a line in the log, and the others are emitted all the same."""
        for event in emitted:
            with self.guard():
                self.emit(event)

    def guard(self) -> Guard:
        """An error in a step for all pools is one log line, and each pool is still handled."""
        return Guard(self.emit)

    def fds(self) -> dict[int, WatchedPool]:
        """Descriptors that become readable when a signalled worker is gone, each with its pool."""
        return {fd: pool for pool in self for fd in pool.followed.fds()}

    def close(self) -> None:
        for pool in self:
            pool.close()

    def group_of(self, pool: WatchedPool) -> list[WatchedPool]:
        """The pools of which one worker goes at a time: with target=self those of the group, otherwise only this."""
        group = pool.name.partition(":")[0]
        return [other for other in self if other.name.partition(":")[0] == group] if pool.pool.is_group else [pool]

    def _take_lock(self, manager: ProcessId, is_group: bool) -> Lock:
        """The lock of this manager. Raises Locked, ProcessLookupError, OSError."""
        if self._dry_run:
            raise Locked("a dry run takes no lock")
        # All pools with target=self have one manager, supervisord, and so one lock, which is shared here.
        for pool in self if is_group else ():
            held = pool.attempts.group_lock(manager) or pool.followed.group_lock(manager)
            if held:
                return held.share()
        return self._unless_leaving(self._machine.lock(manager, is_group), manager)

    def _unless_leaving(self, taken: Lock, manager: ProcessId) -> Lock:
        """The lock that was taken, unless a memreap that has ended signalled a worker, which is followed then.

        Raises Locked.
        """
        for name, state in self._saved().items():
            leaving = state.leaving
            if leaving is None or state.manager != manager or leaving.worker in self._adopted:
                continue
            self._adopted = {each for each in self._adopted if self._machine.may_exist(each)} | {leaving.worker}
            pool = self.named(name)
            if pool.pool.worker(leaving.worker):
                taken.close()
                pool.update(replace(pool.state, reap=leaving))
                raise Locked(f"worker {leaving.worker.pid} was signalled by a memreap that has ended")
        return taken

    def set_aside(self, watched: Collection[str], now: float) -> None:
        """Keep what is known of pools that are not watched now: a section may be missing for one look only."""
        for name, pool in [each for each in self._pools.items() if each[0] not in watched]:
            with pool.guard():
                pool.hide()
            if is_worth_keeping(pool.state) and not self._is_outdated(pool.state, now):
                continue
            pool.close()
            del self._pools[name]

    def _is_outdated(self, state: PoolState, now: float) -> bool:
        """Whether the state is useless: the pool has been hidden for long, and its manager has ended."""
        if state.looked is None or now - state.looked < FORGET_AFTER:
            return False
        return state.manager is None or not self._machine.may_exist(state.manager)
