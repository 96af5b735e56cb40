"""One tick: look, follow, choose, act. The only place where the steps meet."""

from __future__ import annotations

import functools
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from supervisor_memreap.core import events, policy, reasons
from supervisor_memreap.core.command import Command, CommandError, Result, Verb, carry_out_in_all, named, unknown
from supervisor_memreap.core.events import Sink
from supervisor_memreap.core.model import Ending, Pool, ProcessId, Program, Worker
from supervisor_memreap.core.policy import Look
from supervisor_memreap.core.settings import Settings, Watch
from supervisor_memreap.core.state import PoolState, is_worth_keeping
from supervisor_memreap.followed import signalled
from supervisor_memreap.host import lock, look, procfs
from supervisor_memreap.host.source import Source
from supervisor_memreap.host.statm import Statm
from supervisor_memreap.pool import WatchedPool
from supervisor_memreap.record import log
from supervisor_memreap.record.status import of_pool

# Seconds in which a tick watches for idle moments, over all pools: the listener must be back for the next event.
WATCH = 0.3

# Seconds between two readings of all workers' metric for the status, and how long one may take: 36 ms for 500 workers
# of 20 MiB, and more if they are larger.
MEASURE = 30.0
MEASURING = 0.1

# Seconds for which a pool that is no longer watched is remembered after its manager has ended: its section, its
# program or its group may come back, and a user's pause must still apply.
REMEMBERED = 24 * 3600.0

# What has happened when a command was carried out.
_DONE: dict[Verb, Callable[[str, float, str], events.Event]] = {
    "pause": events.Paused,
    "resume": events.ResumedByUser,
    "reap": events.WorkersRequested,
    "roll": events.WorkersRequested,
}
States = Mapping[str, PoolState]
# Asks supervisord how the last process of a program ended, after this time of the wall clock.
HowEnded = Callable[[Program, float], Ending]


class Reaper:
    """`states` are those of the previous reaper; `keep` is called with all states when one must be saved."""

    def __init__(
        self,
        sinks: Sequence[Sink] = (),
        dry_run: bool = False,
        states: States | None = None,
        keep: Callable[[States], None] = lambda _: None,
        how_ended: HowEnded = lambda _program, _since: Ending.UNKNOWN,
    ):
        self._sinks = sinks
        self._dry_run = dry_run
        self._keep = keep
        self._how_ended = how_ended
        self._pools: dict[str, WatchedPool] = {}
        self._watched: list[WatchedPool] = []
        """Those of the last tick."""
        self._statm = Statm() if procfs.is_usable() else None
        self._used: dict[str, dict[ProcessId, int]] = {}
        self._measured = float("-inf")
        for name, state in (states or {}).items():
            self._pool(name, state)

    def tick(self, programs: Iterable[Program], settings: Settings, now: float) -> list[WatchedPool]:
        """One look at all watched pools, at most one signal in each. `now` is monotonic, in seconds."""
        view = procfs.source()
        programs = list(programs)
        watches = settings.pools(programs)
        self._set_aside({watch.program.namespec for watch in watches}, now, view)
        looks: dict[str, Look] = {}
        if self._statm:
            self._statm.begin()
        for watch in watches:
            name = watch.program.namespec
            self._guard(self._pool(name), functools.partial(self._look, watch, programs, looks, view, now))
        if self._statm:
            self._statm.end()
        self._choose(list(looks.values()), now)
        self._watched = [pool for name in looks for pool in (self._pools[name],) if pool.choice]
        # A dry run sends nothing, neither a first signal nor another one.
        for pool in () if self._dry_run else self._watched:
            self._guard(pool, functools.partial(pool.follow_up, view))
        due = [pool for pool in self._watched if pool.choice and pool.choice.candidates and not self._dry_run]
        for pool in due:
            if not self._waits_for_its_group(pool):
                # Each pool has its share of the time, so that one that is never idle does not use up the others'.
                self._guard(pool, functools.partial(pool.signal_next, view, now, WATCH / len(due)))
        self._write_down()
        return self._watched

    def _look(
        self, watch: Watch, programs: Sequence[Program], looks: dict[str, Look], view: Source, now: float
    ) -> None:
        pool = self._pool(watch.program.namespec)
        requested, settings = pool.state.requested, watch.settings
        is_single = policy.needs_closer_look(pool.state)

        def needs_detail(worker: Worker) -> bool:
            return is_single or reasons.need_detail(worker, settings, requested)

        expected = (*signalled(pool.state), *requested)
        seen = look.look(watch, view, needs_detail, expected, self._statm)
        seen = self._with_ending(seen, watch.program, programs, now)
        looks[pool.name] = pool.follow(seen, settings, view, now, not self._dry_run)

    def _choose(self, looks: Sequence[Look], now: float) -> None:
        """Give each pool what to do; a pool in which that fails is left out, and the others are not."""
        try:
            choices = policy.choose(looks, now)
        except Exception:
            choices = []
            for look in looks:
                pool = self._pools[look.pool.name]
                self._guard(pool, functools.partial(lambda only: choices.extend(policy.choose([only], now)), look))
        for choice in choices:
            pool = self._pools[choice.pool.name]
            self._guard(pool, functools.partial(pool.take, choice))

    def _guard(self, pool: WatchedPool, act: Callable[[], None]) -> None:
        """An error in one pool becomes a line in the log; the other pools are handled as usual."""
        try:
            act()
        except Exception as error:
            pool.emit(log.internal_error(pool.name, error))

    def _pool(self, name: str, state: PoolState | None = None) -> WatchedPool:
        if name not in self._pools:
            self._pools[name] = WatchedPool(name, state or PoolState(), self._sinks, self._write_down, self._take_lock)
        return self._pools[name]

    def _write_down(self) -> None:
        self._keep({name: pool.state for name, pool in self._pools.items()})

    def _with_ending(self, pool: Pool, program: Program, programs: Sequence[Program], now: float) -> Pool:
        """The pool, with how its last manager ended, if that makes a difference."""
        state = self._pools[pool.name].state
        if not policy.asks_how_it_ended(pool, state):
            return pool
        # supervisord's log has the name without the group.
        if sum(each.name == program.name for each in programs) > 1:
            return pool
        assert state.looked is not None
        return replace(pool, ending=self._how_ended(program, time.time() - (now - state.looked)))

    # Status and commands.

    def status(self) -> list[dict[str, Any]]:
        """The state of the pools at the last tick, in the form of record.status; measures all workers every 30 s."""
        now = time.monotonic()
        if now - self._measured >= MEASURE:
            self._measured, self._used = now, {}
        view = procfs.source()
        rows: list[dict[str, Any]] = []
        for pool in sorted(self._watched, key=lambda pool: pool.name):
            self._guard(pool, functools.partial(self._add_status, rows, pool, view, now))
        return rows

    def _add_status(self, rows: list[dict[str, Any]], pool: WatchedPool, view: Source, now: float) -> None:
        if pool.choice is None:
            return
        known = self._used.get(pool.name, {})
        used = self._used[pool.name] = look.measure(pool.pool, pool.settings, view, now + MEASURING, known)
        rows.append(of_pool(pool.choice, pool.settings, pool.state, pool.counters, used, time.time() - now))

    def paused(self) -> States:
        """The pools that a user paused, with no other state."""
        return {name: PoolState(paused=True) for name, pool in self._pools.items() if pool.state.paused}

    def announces(self, name: str) -> bool:
        """Whether the events of this pool are announced."""
        return name not in self._pools or self._pools[name].settings.announce

    def command(self, command: Command, watched: Sequence[str]) -> list[Result]:
        """Carry out a user's command in all `watched` pools that it names. Raises CommandError."""
        names = named(command.name, watched)
        if not names:
            raise CommandError(unknown(command.name, watched))
        # A pool can be paused before its first look, so before any worker is signalled.
        pools = {name: (self._pool(name).pool, self._pool(name).state) for name in names}
        results = carry_out_in_all(command, pools)
        for result in results:
            if result.state:
                self._pools[result.pool].update(result.state)
                self._pools[result.pool].emit(_DONE[command.verb](result.pool, time.time(), result.text))
        self._write_down()
        return results

    def has_seen(self, names: Iterable[str]) -> bool:
        """Whether all of these pools were seen in the last tick."""
        return set(names) <= {pool.name for pool in self._watched}

    def pidfds(self) -> dict[int, WatchedPool]:
        """Descriptors that become readable when a signalled worker is gone, each with its pool."""
        return {pidfd: pool for pool in self._pools.values() for pidfd in pool.followed.pidfds()}

    def exited(self, pidfd: int, now: float) -> None:
        """The kernel reported that the worker of this descriptor is gone."""
        self.pidfds()[pidfd].exited(pidfd, now)

    def close(self) -> None:
        """Release everything that is held."""
        for pool in self._pools.values():
            pool.followed.close()
        if self._statm:
            self._statm.close()

    # Locks, and pools out of sight.

    def _waits_for_its_group(self, pool: WatchedPool) -> bool:
        """Whether a worker of another pool of this group is leaving: with target=self some may have their own."""
        group = pool.name.partition(":")[0]
        return pool.pool.is_group and any(
            other.followed.holds_group_lock() for other in self._pools.values() if other.name.partition(":")[0] == group
        )

    def _take_lock(self, manager: ProcessId, is_group: bool) -> int:
        """A descriptor with the lock of this manager. Raises Locked, ProcessLookupError."""
        if self._dry_run:
            raise lock.Locked("a dry run takes no lock")
        if not is_group:
            return lock.take(manager)
        # All pools with target=self have the same manager, supervisord, and so one lock, which they share here.
        for pool in self._pools.values():
            held = pool.followed.group_lock(manager)
            if held is not None:
                return os.dup(held)
        return lock.take_file(manager)  # a user that runs the pool may not open the files of root's supervisord

    def _set_aside(self, watched: set[str], now: float, view: Source) -> None:
        """Keep what is known of pools that are not watched now: a section may be gone for one look only."""
        for name in set(self._pools) - watched:
            pool = self._pools[name]
            pool.choice = None
            if is_worth_keeping(pool.state) and not _is_outdated(pool.state, now, view):
                if pool.state.leaving is None or pool.state.leaving.left is not None:
                    pool.followed.unlock()
                continue
            pool.followed.close()
            del self._pools[name]


def _is_outdated(state: PoolState, now: float, view: Source) -> bool:
    """Whether nothing in it can count any more: the pool was out of sight for long, and its manager has ended."""
    if state.looked is None or now - state.looked < REMEMBERED:
        return False
    try:
        return state.manager is None or view.process(state.manager.pid).id != state.manager
    except ProcessLookupError:
        return True
    except OSError:
        return False  # it may be there
