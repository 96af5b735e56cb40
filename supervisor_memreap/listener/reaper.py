"""One tick: look, follow, choose, act. The only place where the steps meet."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from supervisor_memreap.core import events, policy, selection
from supervisor_memreap.core.command import Command, CommandError, Result, Verb, carry_out_in_all, named, unknown
from supervisor_memreap.core.events import Sink
from supervisor_memreap.core.model import Ending, Pool, Program
from supervisor_memreap.core.policy import Choice, Look
from supervisor_memreap.core.rows import PoolRow
from supervisor_memreap.core.selection import Decision
from supervisor_memreap.core.settings import Settings, Watch
from supervisor_memreap.host import look, procfs
from supervisor_memreap.host.memory import Memory
from supervisor_memreap.host.source import Source
from supervisor_memreap.host.statm import Statm
from supervisor_memreap.host.whoserves import OF_COMMAND, Serving
from supervisor_memreap.listener.attemptqueue import AttemptQueue
from supervisor_memreap.listener.followed import signalled
from supervisor_memreap.listener.memorywatch import MemoryWatch
from supervisor_memreap.listener.pool import WatchedPool
from supervisor_memreap.listener.pools import Keep, Pools, States
from supervisor_memreap.listener.sizes import Sizes

# The event for each command that was carried out.
_DONE: dict[Verb, Callable[[str, float, str], events.Event]] = {
    "pause": events.Paused,
    "resume": events.ResumedByUser,
    "reap": events.WorkersRequested,
    "roll": events.WorkersRequested,
}
# Asks supervisord how the last process of a program ended, after this time of the wall clock.
HowEnded = Callable[[Program, float], Ending]


class Reaper:
    """`states` are those of the previous reaper; `keep` is called with all states when one must be saved."""

    def __init__(
        self,
        sinks: Sequence[Sink] = (),
        dry_run: bool = False,
        states: States | None = None,
        keep: Keep = lambda _: None,
        how_ended: HowEnded = lambda _program, _since: Ending.UNKNOWN,
        saved: Callable[[], States] = dict,
        patience: float = OF_COMMAND,
    ):
        """`patience`: seconds that a look may wait for who serves."""
        self._dry_run = dry_run
        self._how_ended = how_ended
        self.pools = Pools(sinks, dry_run, states or {}, keep, saved)
        self._watched: list[WatchedPool] = []
        """The pools of the last tick."""
        self._statm = Statm() if procfs.is_usable() else None
        self._serving = Serving(patience) if procfs.is_usable() else None
        self.memory = MemoryWatch()
        self.attempts = AttemptQueue(self.pools, self.memory)
        self._sizes = Sizes(self.pools)

    def tick(
        self, programs: Iterable[Program], settings: Settings, now: float, counts: bool = True
    ) -> list[WatchedPool]:
        """Look at all watched pools once, and begin to signal at most one worker in each. `now` is monotonic.

        If not `counts`, this look is between two ticks and does not count for `checks`.
        """
        view = procfs.source()
        programs = list(programs)
        watches = settings.pools(programs)
        self.pools.set_aside({watch.program.namespec for watch in watches}, now, view)
        looks: dict[str, Look] = {}
        memory = self.memory.begin(watches)
        if self._statm:
            self._statm.begin()
        if self._serving:
            self._serving.begin(now)
        for watch in watches:
            pool = self.pools.named(watch.program.namespec)
            self.pools.guard(pool, functools.partial(self._look, watch, programs, looks, view, memory, now, counts))
        if self._statm:
            self._statm.end()
        if self._serving:
            self._serving.end()
        by_urgency = self._choose(list(looks.values()), view, now)
        self._watched = [pool for pool in map(self.pools.named, looks) if pool.choice]
        # A dry run sends nothing, neither a first signal nor another one.
        for pool in () if self._dry_run else self._watched:
            self.pools.guard(pool, functools.partial(pool.follow_up, view, now, not self.attempts.is_full))
        self.attempts.begin(() if self._dry_run else by_urgency, view, now)
        if not self._dry_run:
            chosen = [(_look_of(pool), pool.choice) for pool in self._watched if pool.choice]
            self._emit(functools.partial(self.memory.end, chosen, now))
        self.pools.write_down()
        return self._watched

    def _look(
        self,
        watch: Watch,
        programs: Sequence[Program],
        looks: dict[str, Look],
        view: Source,
        memory: Memory | None,
        now: float,
        counts: bool,
    ) -> None:
        pool = self.pools.named(watch.program.namespec)
        before, state, settings = pool.pool, pool.state, watch.settings

        def gate(seen: Pool) -> look.NeedsDetail:
            return selection.detail_needed(Look(seen, settings, state), self.memory.episodes, now)

        expected = (*signalled(state), *state.requested)
        reads_structure = policy.is_structure_due(state, now)
        probe = policy.needs_probe(settings, state, now)
        seen = look.look(watch, view, gate, expected, self._statm, memory, reads_structure, probe)
        if self._serving:
            seen = self._serving.look(seen, state.serving.keys(), view, now)
        seen = self._with_ending(seen, watch.program, programs, now)
        self.memory.note(before, seen, state)
        how = {"may_suspend": not self._dry_run, "counts": counts}
        looks[pool.name] = pool.follow(seen, settings, view, now, **how)

    def _choose(self, looks: Sequence[Look], view: Source, now: float) -> list[WatchedPool]:
        """Give each pool its choice, and return the pools, the most urgent first.

        A pool for which this fails is left out.
        """
        self._emit(functools.partial(self.memory.follow, looks, now))
        try:
            decision = selection.choose(looks, now, self.memory.episodes, time.time())
        except Exception:
            # Choose in each pool alone, and not for shared memory: which worker gives back most is unknown.
            alone: list[Choice] = []
            for only in looks:
                choose = functools.partial(selection.choose, [only], now)
                decided = self.pools.guard(self.pools.named(only.pool.name), choose)
                alone += decided.choices if decided else []
            decision = Decision(alone, self.memory.episodes)
        self._emit(functools.partial(self.memory.take, decision, looks, view))
        for choice in decision.choices:
            pool = self.pools.named(choice.pool.name)
            self.pools.guard(pool, functools.partial(pool.take, choice, now))
        chosen = [self.pools.named(choice.pool.name) for choice in decision.choices]
        return [pool for pool in chosen if pool.choice]

    def _emit(self, happened: Callable[[], Iterable[events.Event]]) -> None:
        """Events about more than one pool; an error in them is a line in the log, and each pool is handled as usual."""
        none: Iterable[events.Event] = ()
        for event in self.pools.attempt(happened, none):
            self.pools.attempt(functools.partial(self.pools.emit, event), None)

    def _with_ending(self, pool: Pool, program: Program, programs: Sequence[Program], now: float) -> Pool:
        """The pool with how its last manager ended, if the policy needs that."""
        state = self.pools.named(pool.name).state
        if not policy.asks_how_it_ended(pool, state):
            return pool
        # supervisord's log has the name without the group.
        if sum(each.name == program.name for each in programs) > 1:
            return pool
        assert state.looked is not None
        return replace(pool, ending=self._how_ended(program, time.time() - (now - state.looked)))

    # Status and commands.

    def status(self) -> list[PoolRow]:
        """The status of the pools at the last tick."""
        return self._sizes.status(self._watched)

    @property
    def is_measuring(self) -> bool:
        """Whether the last status has old sizes of workers, which there was no time to read."""
        return self._sizes.is_incomplete

    def announces(self, name: str) -> bool:
        """Whether the events of this pool are announced as events of supervisord."""
        return name not in self.pools or self.pools.named(name).settings.announce

    def command(self, command: Command, watched: Sequence[str]) -> list[Result]:
        """Carry out a user's command in all `watched` pools that it names. Raises CommandError: nothing was done."""
        names = named(command.name, watched)
        if not names:
            raise CommandError(unknown(command.name, watched))
        if command.verb == "pause":
            for name in names:
                pool = self.pools.named(name)
                self.pools.guard(pool, functools.partial(pool.attempts.end, time.monotonic(), by_force=True))
        # A pool can be paused before the first look, and so before any worker is signalled.
        pools = {name: (self.pools.named(name).pool, self.pools.named(name).state) for name in names}
        results = carry_out_in_all(command, pools)
        done = {result.pool: result.state for result in results if result.state}
        trouble = self.pools.change(done)
        if trouble:
            raise CommandError(f"{command.verb} {command.name}: nothing was done, since it cannot be saved: {trouble}")
        for result in results:
            if result.state:
                self.pools.named(result.pool).emit(_DONE[command.verb](result.pool, time.time(), result.text))
        return results

    def has_seen(self, names: Iterable[str]) -> bool:
        """Whether all of these pools were seen in the last tick."""
        return set(names) <= {pool.name for pool in self._watched}

    def exited(self, pidfd: int, now: float) -> None:
        """The kernel reported that the worker of this descriptor is gone."""
        self.pools.pidfds()[pidfd].exited(pidfd, now)

    def close(self) -> None:
        """Release everything that is held."""
        self.pools.close()
        self.memory.close()
        if self._statm:
            self._statm.close()
        if self._serving:
            self._serving.close()


def _look_of(pool: WatchedPool) -> Look:
    """The pool at the last look, with its state after the signals."""
    return Look(pool.pool, pool.settings, pool.state)
