"""A listener on the simulated machine: the real reaper and timing, and around them what supervisord and the loop do."""

from __future__ import annotations

import functools
from collections.abc import Callable

from supervisor_memreap.core import events
from supervisor_memreap.core.command import NEED_WORKERS, Command, CommandError, named
from supervisor_memreap.core.events import Sink
from supervisor_memreap.core.model import Program
from supervisor_memreap.core.settings import Settings
from supervisor_memreap.host.machine import States
from supervisor_memreap.listener.reaper import Reaper
from supervisor_memreap.listener.savedstates import SavedStates
from supervisor_memreap.listener.timing import PERIODS, Timing
from supervisor_memreap.outputs.guard import Guard
from supervisor_memreap.outputs.lasting import Once
from supervisor_memreap.supervisord.client import Unavailable
from supervisor_memreap.supervisord.protocol import Event

from .faults import Killed
from .machine import SimMachine
from .store import SimStore
from .world import World

# Seconds until supervisord starts a listener again that has ended.
STARTS = 2.0
# Events that supervisord keeps for a listener that does not take them.
KEPT = 10


class Listener:
    def __init__(
        self,
        world: World,
        settings: Callable[[], Settings],
        emit: Sink,
        looked: Callable[[Reaper], None] = lambda _: None,
        name: str = "listener",
    ):
        """`name` is that of its state file."""
        self._world, self._settings, self._emit, self._looked, self._name = world, settings, emit, looked, name
        self._tick = next((name for name, period in PERIODS.items() if period == world.script.tick), "TICK_5")
        self.machine: SimMachine | None = None
        """None: it does not run."""
        self.reaper: Reaper | None = None
        self.starts = 0
        self.ticks = 0
        self.is_deaf = False
        """Its ticks are lost."""
        self.late: list[float] | None = None
        """Ticks that wait for it, by the wall clock; None: they do not."""
        self.saved: States | None = None
        """What the last one had saved, as it knew it; None: it could not, or was in the middle of a step."""
        self.when_started: Callable[[], None] = lambda: None
        self.when_stepped: Callable[[], None] = lambda: None
        self.when_closed: Callable[[SimMachine], None] = lambda _: None
        self._is_busy = False
        self._wakes_at = float("inf")

    def start(self) -> None:
        if self.machine is not None:
            return
        self.starts += 1
        self.step(self._start)

    def _start(self) -> None:
        self.machine = machine = SimMachine(self._world, name=self._name)
        self._once = once = Once(self._emit)
        self.store = SimStore(machine, self._name)
        self._saved = saved = SavedStates(machine, self.store, self._emit, once)
        self.reaper = Reaper(machine, (self._emit,), False, saved.read(), saved.save, saved.leaving_elsewhere)
        self._timing = Timing(machine, self.reaper.memory, once)
        self.when_started()

    # Events of supervisord.

    def tick(self, when: float) -> None:
        """`when` it was, by the wall clock."""
        if self.late is not None:
            self.late = [*self.late, when][-KEPT:]
        elif not self.is_deaf and self.machine:
            self._take(when)

    def catch_up(self) -> None:
        """It gets the ticks that waited for it, one right after another."""
        late, self.late = self.late or (), None
        for when in late:
            self._take(when)

    def _take(self, when: float) -> None:
        self.step(functools.partial(self._handle, Event(self._tick, f"when:{int(when)}")))

    def _handle(self, event: Event) -> None:
        if self._timing.is_for_a_look(event):
            self.ticks += 1
            self._look()

    def _look(self, counts: bool = True) -> None:
        assert self.reaper
        self._timing.begin()
        try:
            programs = self._programs()
            self._once.end(events.SupervisordAvailable, self._world.clock.wall)
            self.reaper.tick(programs, self._settings(), self._world.clock.now, counts)
        finally:
            self._timing.end()
        self._looked(self.reaper)

    def _programs(self) -> list[Program]:
        """Raises Unavailable."""
        if self._world.call("programs"):
            raise Unavailable("supervisord refused")
        return self._world.supervisord.listed()

    def command(self, command: Command) -> bool:
        """Whether it was carried out."""
        done: list[bool] = []
        self.step(functools.partial(self._carry_out, command, done))
        return bool(done)

    def _carry_out(self, command: Command, done: list[bool]) -> None:
        assert self.reaper
        watched = sorted(watch.program.namespec for watch in self._settings().pools(self._programs()))
        if command.verb in NEED_WORKERS and not self.reaper.has_seen(named(command.name, watched)):
            self._look()
        try:
            results = self.reaper.command(command, watched)
        except CommandError:
            return
        done += [True for result in results if not result.refused]
        self._look()

    # Its loop.

    def step(self, step: Callable[[], None]) -> None:
        """One event that it handles; what comes meanwhile waits, as it has one thread."""
        if step != self._start and self.machine is None:
            return
        if self._is_busy:
            self._world.clock.after(0.01, functools.partial(self.step, step))
            return
        self._is_busy = True
        try:
            with Guard(self._emit):
                try:
                    step()
                except Unavailable as error:
                    self._once(events.SupervisordUnavailable("", self._world.clock.wall, str(error)))
        except Killed:
            self._end(is_saved=False)
        finally:
            self._is_busy = False
        if self.machine and self.reaper:
            self.when_stepped()
        self._plan_wake()

    def _wake(self) -> None:
        assert self.reaper
        assert self.machine
        for part in (self._timing, self.reaper):
            with Guard(self._emit):
                part.wake([fd for fd in part.fds() if self.machine.is_ready(fd)])
        if self._timing.is_due():
            self._look(counts=False)

    def ready(self) -> None:
        """Something may have become ready that it waits for."""
        if self.machine and self.reaper and not self._is_busy and self._has_ready():
            self._wake_at(self._world.clock.now)

    def _has_ready(self) -> bool:
        assert self.reaper
        assert self.machine
        return self.machine.descriptors > 0 and any(
            map(self.machine.is_ready, (*self.reaper.fds(), *self._timing.fds()))
        )

    def _plan_wake(self) -> None:
        if self.machine and self.reaper:
            waits = [each for each in (self.reaper.patience(), self._timing.patience()) if each is not None]
            if self._has_ready():
                waits = [0.0]
            if waits:
                self._wake_at(self._world.clock.now + min(waits))

    def _wake_at(self, at: float) -> None:
        if at < self._wakes_at or self._wakes_at < self._world.clock.now:
            self._wakes_at = at
            self._world.clock.at(at, self._wake_if_due)

    def _wake_if_due(self) -> None:
        if self._world.clock.now >= self._wakes_at:
            self._wakes_at = float("inf")
            self.step(self._wake)

    # Its end.

    def kill(self, for_good: bool = False) -> None:
        """By force, between two steps: it has no time for anything."""
        if self._is_busy:
            self._world.clock.after(0.01, functools.partial(self.kill, for_good))
        elif self.machine:
            self._end(for_good)

    def _end(self, for_good: bool = False, is_saved: bool = True) -> None:
        assert self.machine
        is_saved = is_saved and self.reaper is not None and not self.store.trouble
        self.saved = {pool.name: pool.state for pool in self.reaper.pools} if self.reaper and is_saved else None
        self.machine.die()
        self.machine = self.reaper = None
        if not for_good:
            self._world.clock.after(STARTS, self.start)

    def restart(self, with_all: bool = False) -> None:
        """By supervisorctl: it has the time to release what it holds. `with_all`: all programs end too."""
        if self._is_busy or not self.reaper or not self.machine:
            return
        paused: States | None = None
        self._is_busy = True  # it takes no event while it waits for an attempt to end
        try:
            if with_all:
                self.reaper.attempts.end_all()
                paused = self.reaper.pools.paused()
                self._saved.save(paused)
            self.reaper.close()
            self.when_closed(self.machine)
        except Killed:
            pass
        finally:
            self._is_busy = False
        self.kill()
        if with_all and self.saved is not None:
            self.saved = paused
