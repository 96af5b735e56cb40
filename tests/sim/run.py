"""Plays a script: the world, a listener in it, and the watcher of the invariants."""

from __future__ import annotations

import functools
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from supervisor_memreap.core.command import Command, Verb
from supervisor_memreap.core.events import Event, Resumed
from supervisor_memreap.core.failed import Failed
from supervisor_memreap.core.settings import PoolSettings, Settings
from supervisor_memreap.listener import oneshot
from supervisor_memreap.listener.reaper import Reaper

from . import resting
from .bounds import Bounds
from .faults import DEFECT, Killed
from .invariants import SECOND, Broken, Watcher
from .listener import Listener
from .machine import SimMachine
from .processes import PoolPlan, Worker
from .restarts import Restarts
from .script import DAY, Action, Script
from .store import SimBeside
from .world import World


@dataclass
class Report:
    script: Script
    broken: list[Broken] = field(default_factory=list)
    ticks: int = 0
    signals: int = 0
    starts: int = 0
    """Of memreap."""
    faults: int = 0
    """That were made."""
    calls: Counter[str] = field(default_factory=Counter)
    """Of memreap to the outside, by kind; empty: all."""
    events: Counter[str] = field(default_factory=Counter)

    def add(self, other: Report) -> None:
        self.ticks += other.ticks
        self.signals += other.signals
        self.starts += other.starts
        self.faults += other.faults
        self.events += other.events


class Run:
    def __init__(self, script: Script, emit: Callable[[Event], None] = lambda _: None):
        self.script = script
        self.world = World(script)
        self._chance = random.Random(f"ticks {script.seed}")
        self.emit = emit
        self._values = {pool.name: dict(pool.settings) for pool in script.pools}
        self.watcher = Watcher(self.world, {}, has_defects=any(each.how == DEFECT for each in script.faults))
        self.bounds, self.restarts = Bounds(self.watcher.say), Restarts(self.watcher.say)
        self._change_settings()
        self.events: Counter[str] = Counter()
        self.listener = Listener(self.world, lambda: self._in_force, self._happened, self._looked)
        self.listener.when_started = self._started
        self.listener.when_stepped = self._stepped
        self.listener.when_closed = self._closed
        self.second = Listener(self.world, lambda: self._in_force, self._take_of_another, name=SECOND)
        self.world.when_sent = self.watcher.sent
        self.world.when_attempted = self.watcher.attempted
        self.world.when_ready = self._ready
        self.world.memory.when_killed = self.watcher.disturb

    def play(self) -> Report:
        clock, start = self.world.clock, self.world.clock.now
        for action in self.script.actions:
            clock.at(start + action.at, self._act_of(action))
        clock.after(3.0, self.listener.start)
        clock.at(start + 5.0, self._tick)
        self.world.ends = start + self.script.days * DAY
        with resting.checked(self.watcher.say):
            clock.run(self.world.ends)
        return Report(
            self.script,
            self.watcher.broken,
            self.listener.ticks,
            self.world.signals,
            self.listener.starts,
            self.world.faults.made,
            self.world.faults.calls,
            self.events,
        )

    def _tick(self) -> None:
        clock = self.world.clock
        clock.after(self.script.tick, self._tick)
        for listener in (self.listener, self.second):
            late = self.script.late * self._chance.random()
            clock.after(late, functools.partial(listener.tick, clock.wall))

    def _ready(self) -> None:
        self.listener.ready()
        self.second.ready()

    def _happened(self, event: Event) -> None:
        self.world.call("emit")
        self.events[type(event).__name__] += 1
        self.watcher.happened(event)
        self.emit(event)

    def _looked(self, reaper: Reaper) -> None:
        self.watcher.looked([pool for pool in reaper.pools if pool.choice])
        self.bounds.looked(reaper, self.world)

    def _started(self) -> None:
        listener = self.listener
        if listener.store.was_damaged:
            self.watcher.forgotten()
        elif listener.saved is not None and listener.reaper:
            self.restarts.check(listener.saved, {pool.name: pool.state for pool in listener.reaper.pools})

    def _stepped(self) -> None:
        if self.listener.machine and self.listener.reaper and not self.watcher.has_defects:
            self.bounds.stepped(self.listener.machine, self.listener.reaper)

    def _closed(self, machine: SimMachine) -> None:
        if not self.watcher.has_defects:
            self.bounds.closed(machine)

    def _change_settings(self) -> None:
        self._in_force = Settings({"": {}, **{name: dict(values) for name, values in self._values.items()}})
        now = {name: PoolSettings(**values) for name, values in self._values.items()}
        self.watcher.settings = now

    # Actions.

    def _act_of(self, action: Action) -> Callable[[], None]:
        return lambda: getattr(self, f"_{action.what.replace(' ', '_')}")(action)

    def _plan_of(self, action: Action) -> PoolPlan:
        return self.world.supervisord.programs[action.pool].plan

    def _workers(self, action: Action) -> list[Worker]:
        manager = self.world.supervisord.programs[action.pool].manager
        return [] if manager is None or manager.ended is not None else list(manager.workers.values())

    def _stop(self, action: Action) -> None:
        self.watcher.disturb(action.pool)
        self.world.supervisord.programs[action.pool].stop()

    def _start(self, action: Action) -> None:
        self.world.supervisord.programs[action.pool].start()

    def _remove(self, action: Action) -> None:
        """By `supervisorctl update`."""
        self._stop(action)
        self.world.supervisord.removed.add(action.pool)

    def _add(self, action: Action) -> None:
        self.world.supervisord.removed.discard(action.pool)
        self._start(action)

    def _restart(self, action: Action) -> None:
        self.watcher.disturb(action.pool)
        self.world.supervisord.programs[action.pool].restart()

    def _crash(self, action: Action) -> None:
        self.watcher.disturb(action.pool)
        manager = self.world.supervisord.programs[action.pool].manager
        if manager:
            manager.end()

    def _crash_worker(self, action: Action) -> None:
        self.watcher.disturb(action.pool)
        for worker in self._workers(action)[:1]:
            worker.manager.end_worker(worker, "crashed")

    def _oom(self, action: Action) -> None:
        """The kernel ends the largest worker of the pool."""
        now = self.world.clock.now
        for worker in sorted(self._workers(action), key=lambda each: each.private(now))[-1:]:
            self.world.memory.kill(worker)

    def _stuck(self, action: Action) -> None:
        self.watcher.disturb(action.pool)
        for worker in self._workers(action)[-1:]:
            worker.requests.stuck_since = self.world.clock.now

    def _hangs(self, action: Action) -> None:
        self.watcher.disturb(action.pool)
        for worker in self._workers(action)[-1:]:
            worker.hangs = True

    def _broken(self, action: Action) -> None:
        self.watcher.disturb(action.pool)
        self._plan_of(action).is_broken = action.values[0]

    def _resize(self, action: Action) -> None:
        self.watcher.disturb(action.pool)
        manager = self.world.supervisord.programs[action.pool].manager
        if manager and manager.ended is None:
            manager.resize(action.values[0])

    def _load(self, action: Action) -> None:
        self._plan_of(action).load = action.values[0]
        for worker in self._workers(action):
            worker.requests.load = action.values[0]

    def _command(self, verb: Verb, action: Action) -> bool:
        return self.listener.command(Command(verb, action.pool))

    def _pause(self, action: Action) -> None:
        if self._command("pause", action):
            self.watcher.paused.add(action.pool)

    def _resume(self, action: Action) -> None:
        self.watcher.disturb(action.pool)
        self.watcher.disturbed[f"resume {action.pool}"] = self.world.clock.now
        self.watcher.paused.discard(action.pool)
        self._command("resume", action)

    def _reap(self, action: Action) -> None:
        self._command("reap", action)

    def _roll(self, action: Action) -> None:
        self._command("roll", action)

    def _settings(self, action: Action) -> None:
        self.watcher.disturb(action.pool)
        key, value = action.values
        self._values[action.pool][key] = value
        self._change_settings()

    def _status(self, _action: Action) -> None:
        """A user asks for it: each pool that was looked at is shown, and nothing changes."""
        self.listener.step(self._show)

    def _show(self) -> None:
        assert self.listener.reaper
        pools = list(self.listener.reaper.pools)
        before = [pool.state for pool in pools]
        shown = [row["name"] for row in self.listener.reaper.status()]
        if shown != sorted(pool.name for pool in pools if pool.choice):
            self.watcher.say(f"the status has only {shown}")
        if [pool.state for pool in pools] != before:
            self.watcher.say("the status has changed a state")

    def _restart_memreap(self, _action: Action) -> None:
        self.listener.restart()

    def _kill_memreap(self, _action: Action) -> None:
        self.listener.kill()

    def _no_answer(self, action: Action) -> None:
        self._for_a_while(self.world.supervisord, "refuses", True, False, action)

    def _slow_answers(self, action: Action) -> None:
        self._for_a_while(self.world.supervisord, "takes", 0.9, 0.0, action)

    def _lost_ticks(self, action: Action) -> None:
        self._for_a_while(self.listener, "is_deaf", True, False, action)

    def _late_ticks(self, action: Action) -> None:
        self.listener.late = self.listener.late or []
        self.world.clock.after(min(60.0, action.values[0]), self.listener.catch_up)

    def _for_a_while(self, what: Any, name: str, now: Any, then: Any, action: Action) -> None:
        setattr(what, name, now)
        self.world.clock.after(action.values[0], lambda: setattr(what, name, then))

    def _rename(self, action: Action) -> None:
        """As an application does that gives a title to its processes; to the manager too."""
        plan, (title, manager_title) = self._plan_of(action), action.values
        plan.title, plan.manager_title = title, manager_title
        for worker in self._workers(action):
            worker.title = title

    def _sockets(self, action: Action) -> None:
        """New workers have the manager's listening socket, or sockets of their own."""
        self._plan_of(action).shares = action.values[0]

    def _step_clock(self, action: Action) -> None:
        self.world.clock.offset += action.values[0]

    def _suspend(self, action: Action) -> None:
        """The machine sleeps: its processes do nothing, and the monotonic clock of Linux stands still."""
        self.world.clock.offset += action.values[0]

    def _disk_full(self, action: Action) -> None:
        self._for_a_while(self.world, "is_disk_full", True, False, action)

    def _no_forks(self, action: Action) -> None:
        self._for_a_while(self.world, "may_not_fork", True, False, action)

    def _once(self, action: Action) -> None:
        """By a user, beside the listener; the world goes on while it waits."""
        interrupted = self.world.clock.now + action.values[0]
        name = f"once {self.world.clock.now:.0f}"
        machine = SimMachine(self.world, name=name, settings=dict(self.watcher.settings), interrupted=interrupted)
        beside = SimBeside(machine, name)
        programs = self.world.supervisord.listed
        try:
            oneshot.run(machine, programs, lambda _: beside, self._in_force, (), False, self._take_of_another)
            self._closed(machine)
        except (Killed, RuntimeError, Failed):
            pass
        finally:
            machine.die()

    def _second_listener(self, action: Action) -> None:
        self.second.start()
        self.world.clock.after(action.values[0], lambda: self.second.kill(for_good=True))

    def _take_of_another(self, event: Event) -> None:
        self.events[f"another: {type(event).__name__}"] += 1
        if isinstance(event, Resumed):
            self.watcher.resumed(event.pool)
        self.emit(event)

    def _reload(self, _action: Action) -> None:
        for name, program in self.world.supervisord.programs.items():
            self.watcher.disturb(name)
            program.restart()
        self.listener.restart(with_all=True)
        self.watcher.suspended.clear()  # of all that, only pauses outlive the managers
        self.watcher.lost.clear()
