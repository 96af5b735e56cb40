"""One tick: look, follow, choose, act. The only place where the steps meet."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence

from supervisor_memreap.core import events, policy, selection
from supervisor_memreap.core.carryout import Result, carry_out_in_all
from supervisor_memreap.core.command import Command, CommandError, Verb, named, unknown
from supervisor_memreap.core.events import Sink
from supervisor_memreap.core.frozen import replace
from supervisor_memreap.core.model import Pool, Program
from supervisor_memreap.core.policy import Choice, Look
from supervisor_memreap.core.rows import PoolRow
from supervisor_memreap.core.selection import Decision
from supervisor_memreap.core.settings import Settings, Watch
from supervisor_memreap.host.machine import Machine, NeedsDetail, PoolReader, States
from supervisor_memreap.listener.attemptqueue import AttemptQueue
from supervisor_memreap.listener.followed import signalled
from supervisor_memreap.listener.memorywatch import MemoryWatch
from supervisor_memreap.listener.pool import WatchedPool
from supervisor_memreap.listener.pools import Keep, Pools
from supervisor_memreap.listener.sizes import Sizes
from supervisor_memreap.listener.wakeable import READABLE

# The event for each command that was carried out.
_DONE: dict[Verb, Callable[[str, float, str], events.Event]] = {
    "pause": events.Paused,
    "resume": events.ResumedByUser,
    "reap": events.WorkersRequested,
    "roll": events.WorkersRequested,
}


class Reaper:
    """`states` are those of the previous reaper; `keep` is called with all states when one must be saved.

    `machine` is used by this reaper alone, which closes it.
    """

    def __init__(
        self,
        machine: Machine,
        sinks: Sequence[Sink] = (),
        dry_run: bool = False,
        states: States | None = None,
        keep: Keep = lambda _: None,
        saved: Callable[[], States] = dict,
    ):
        self._machine = machine
        self._dry_run = dry_run
        self.pools = Pools(machine, sinks, dry_run, states or {}, keep, saved)
        self._watched: list[WatchedPool] = []
        """The pools of the last tick."""
        self.memory = MemoryWatch(machine)
        self.attempts = AttemptQueue(machine, self.pools, self.memory)
        self._sizes = Sizes(machine, self.pools)
        self.exits = 0
        """How many signalled workers were seen to be gone between two looks."""

    def tick(
        self, programs: Iterable[Program], settings: Settings, now: float, counts: bool = True
    ) -> list[WatchedPool]:
        """Look at all watched pools once, and begin to signal at most one worker in each. `now` is monotonic.

        If not `counts`, this look is between two ticks and does not count for `checks`.
        """
        programs = list(programs)
        watches = settings.pools(programs)
        self.pools.set_aside({watch.program.namespec for watch in watches}, now)
        looks: dict[str, Look] = {}
        awake: list[Look] = []
        with self._machine.look(now, self.memory.begin(watches)) as reader:
            for watch in watches:
                pool = self.pools.named(watch.program.namespec)
                with pool.guard():
                    seen = self._read(watch, programs, reader, now)
                    rests = pool.rest(seen, watch.settings, now)
                    looks[pool.name] = rests or self._follow(seen, watch, now, counts)
                    if not rests:
                        awake.append(looks[pool.name])
        by_urgency = self._choose([*looks.values()], awake, now)
        self._watched = [pool for pool in map(self.pools.named, looks) if pool.choice]
        # A dry run sends nothing, neither a first signal nor another one.
        signalled = [] if self._dry_run else [each for each in self._watched if each.choice and each.choice.follows_up]
        for pool in signalled:
            with pool.guard():
                pool.follow_up(now, not self.attempts.is_full)
        self.attempts.begin(() if self._dry_run else by_urgency, now)
        if not self._dry_run:
            chosen = [
                (Look(pool.pool, pool.settings, pool.state), pool.choice) for pool in self._watched if pool.choice
            ]
            with self.pools.guard():
                self.pools.emit_all(self.memory.end(chosen, now))
        self.pools.write_down()
        return self._watched

    def _read(self, watch: Watch, programs: Sequence[Program], reader: PoolReader, now: float) -> Pool:
        pool = self.pools.named(watch.program.namespec)
        state, settings = pool.state, watch.settings

        def gate(seen: Pool) -> NeedsDetail:
            return selection.detail_needed(Look(seen, settings, state), self.memory.episodes, now)

        expected = (*signalled(state), *state.requested)
        reads_structure = policy.is_structure_due(state, now, bool(watch.members))
        probe = policy.needs_probe(settings, state, now)
        seen = reader.read(watch, gate, expected, state.population.serving.keys(), reads_structure, probe)
        return self._with_ending(seen, watch.program, programs)

    def _follow(self, seen: Pool, watch: Watch, now: float, counts: bool) -> Look:
        pool = self.pools.named(seen.name)
        self.memory.note(pool.pool, seen, pool.state)
        return pool.follow(seen, watch.settings, now, may_suspend=not self._dry_run, counts=counts)

    def _choose(self, looks: Sequence[Look], awake: Sequence[Look], now: float) -> list[WatchedPool]:
        """Give each pool its choice that is not at rest, and return these pools, the most urgent first.

        A pool for which this fails is left out.
        """
        with self.pools.guard():
            self.pools.emit_all(self.memory.follow(looks, now))
        try:
            decision = selection.choose(awake, now, self.memory.episodes, self._machine.time())
        except Exception:
            # Choose in each pool alone, and not for shared memory: which worker gives back most is unknown.
            alone: list[Choice] = []
            for only in awake:
                with self.pools.named(only.pool.name).guard():
                    alone += selection.choose([only], now).choices
            decision = Decision(alone, self.memory.episodes)
        with self.pools.guard():
            self.pools.emit_all(self.memory.take(decision, looks))
        chosen = [self.pools.named(choice.pool.name) for choice in decision.choices]
        for pool, choice in zip(chosen, decision.choices):
            with pool.guard():
                pool.take(choice, now)
        return [pool for pool in chosen if pool.choice]

    def _with_ending(self, pool: Pool, program: Program, programs: Sequence[Program]) -> Pool:
        """The pool with how its last manager ended, if the policy needs that."""
        state = self.pools.named(pool.name).state
        if not policy.asks_how_it_ended(pool, state):
            return pool
        # supervisord's log has the name without the group.
        if sum(each.name == program.name for each in programs) > 1:
            return pool
        assert state.looked is not None
        # Not since this look began: on a busy machine it has taken a while, and the manager may have ended before.
        since = self._machine.time() - (self._machine.now() - state.looked)
        return replace(pool, ending=self._machine.how_ended(program, since))

    # Status and commands.

    def status(self, whole: bool = True) -> list[PoolRow]:
        """The status of the pools at the last tick; if not `whole`, their workers have only their notes."""
        return self._sizes.status(self._watched, whole)

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
                with pool.guard():
                    pool.attempts.end(self._machine.now(), by_force=True)
        # A pool can be paused before the first look, and so before any worker is signalled.
        pools = {name: (self.pools.named(name).pool, self.pools.named(name).state) for name in names}
        results = carry_out_in_all(command, pools)
        done = {result.pool: result.state for result in results if result.state}
        trouble = self.pools.change(done)
        if trouble:
            raise CommandError(f"{command.verb} {command.name}: nothing was done, since it cannot be saved: {trouble}")
        for result in results:
            if result.state and result.is_news:
                self.pools.named(result.pool).emit(_DONE[command.verb](result.pool, self._machine.time(), result.text))
        return results

    def take_pauses(self, paused: Collection[str], now: float) -> list[str]:
        """These pools are paused too, as another memreap has saved them; which of them were not yet."""
        new = [pool for pool in self.pools if pool.name in paused and not pool.state.paused]
        for pool in new:
            with pool.guard():
                pool.attempts.end(now, by_force=True)
                pool.update(replace(pool.state, paused=True))
        return [pool.name for pool in new]

    def has_seen(self, names: Iterable[str]) -> bool:
        """Whether all of these pools were seen in the last tick."""
        return set(names) <= {pool.name for pool in self._watched}

    # For whoever waits between two looks.

    def fds(self) -> dict[int, int]:
        """Those of attempts, and of workers that were signalled: the kernel reports there that one is gone."""
        return {**dict.fromkeys(self.pools.fds(), READABLE), **self.attempts.fds()}

    def wake(self, readable: Collection[int]) -> None:
        """Note which workers are gone, and take what came of attempts. Never raises."""
        now = self._machine.now()
        for fd in readable:
            pool = self.pools.fds().get(fd)
            if pool:
                with pool.guard():
                    pool.exited(fd, now)
                    self.exits += 1
        self.attempts.wake(self._machine.now())

    def patience(self) -> float | None:
        return self.attempts.patience()

    def close(self) -> None:
        """Release everything that is held."""
        self.pools.close()
        self._machine.close()
