"""A listener on the simulated machine: the real reaper, with what supervisord and the loop do around it."""

from __future__ import annotations

import functools
from collections.abc import Callable

from supervisor_memreap.core.command import Command, CommandError
from supervisor_memreap.core.events import Sink
from supervisor_memreap.core.settings import Settings
from supervisor_memreap.listener.reaper import Reaper
from supervisor_memreap.listener.savedstates import SavedStates
from supervisor_memreap.outputs.guard import guard
from supervisor_memreap.outputs.lasting import Once

from .faults import Killed
from .machine import SimMachine
from .store import SimStore
from .world import World

# Seconds until supervisord starts a listener again that has ended.
STARTS = 2.0


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
        self.machine: SimMachine | None = None
        """None: it does not run."""
        self.reaper: Reaper | None = None
        self.starts = 0
        self.ticks = 0
        self.is_deaf = False
        """supervisord does not answer it, or ticks are lost."""
        self._is_busy = False
        self._wakes_at = float("inf")

    def start(self) -> None:
        if self.machine is not None:
            return
        self.starts += 1
        self._step(self._start)

    def _start(self) -> None:
        self.machine = machine = SimMachine(self._world, name=self._name)
        saved = SavedStates(machine, SimStore(machine, self._name), self._emit, Once(self._emit))
        self.reaper = Reaper(machine, (self._emit,), False, saved.read(), saved.save, saved.leaving_elsewhere)

    def tick(self) -> None:
        if self.is_deaf:
            return
        self.ticks += 1
        self._step(self._look)

    def _look(self) -> None:
        assert self.reaper
        now = self._world.clock.now
        self.reaper.tick(self._world.supervisord.listed(), self._settings(), now)
        self._looked(self.reaper)

    def wake(self) -> None:
        self._step(self._wake)

    def _wake(self) -> None:
        assert self.reaper
        assert self.machine
        self.reaper.wake([fd for fd in self.reaper.fds() if self.machine.is_ready(fd)])

    def command(self, command: Command) -> bool:
        """Whether it was carried out."""
        done: list[bool] = []
        self._step(functools.partial(self._carry_out, command, done))
        return bool(done)

    def _carry_out(self, command: Command, done: list[bool]) -> None:
        assert self.reaper
        watched = [watch.program.namespec for watch in self._settings().pools(self._world.supervisord.listed())]
        try:
            results = self.reaper.command(command, sorted(watched))
        except CommandError:
            return
        done += [True for result in results if not result.refused]
        self._look()

    def _step(self, step: Callable[[], None]) -> None:
        """One event that it handles; what comes meanwhile waits, as it has one thread."""
        if step != self._start and self.machine is None:
            return
        if self._is_busy:
            self._world.clock.after(0.01, functools.partial(self._step, step))
            return
        self._is_busy = True
        try:
            with guard(self._emit):
                step()
        except Killed:
            self.kill()
        finally:
            self._is_busy = False
        self._plan_wake()

    def ready(self) -> None:
        """Something may have become ready that it waits for."""
        if self.machine and not self._is_busy and self.machine.has_ready():
            self._wake_at(self._world.clock.now)

    def _plan_wake(self) -> None:
        if self.machine and self.reaper:
            patience = self.reaper.patience()
            if any(map(self.machine.is_ready, self.reaper.fds())):
                patience = 0.0
            if patience is not None:
                self._wake_at(self._world.clock.now + patience)

    def _wake_at(self, at: float) -> None:
        if at < self._wakes_at or self._wakes_at < self._world.clock.now:
            self._wakes_at = at
            self._world.clock.at(at, self._wake_if_due)

    def _wake_if_due(self) -> None:
        if self._world.clock.now >= self._wakes_at:
            self._wakes_at = float("inf")
            self.wake()

    def kill(self, for_good: bool = False) -> None:
        """By force: it has no time for anything."""
        if self.machine:
            self.machine.die()
            self.machine = self.reaper = None
            if not for_good:
                self._world.clock.after(STARTS, self.start)

    def restart(self) -> None:
        """By supervisorctl: it has the time to release what it holds."""
        if self._is_busy or not self.reaper:
            return
        self.reaper.close()
        self.kill()
