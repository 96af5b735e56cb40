"""Plays a script: the world, a listener in it, and the watcher of the invariants."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from supervisor_memreap.core.command import Command, Verb
from supervisor_memreap.core.events import Event, Resumed
from supervisor_memreap.core.frozen import replace
from supervisor_memreap.core.settings import PoolSettings, Settings
from supervisor_memreap.listener import oneshot
from supervisor_memreap.listener.reaper import Reaper

from .faults import DEFECT, Killed
from .invariants import SECOND, Broken, Watcher
from .listener import Listener
from .machine import SimMachine
from .processes import PoolPlan, Worker
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
        self.emit = emit
        self._values = {pool.name: dict(pool.settings) for pool in script.pools}
        self.watcher = Watcher(self.world, {}, has_defects=any(each.how == DEFECT for each in script.faults))
        self._change_settings()
        self.events: Counter[str] = Counter()
        self.listener = Listener(self.world, lambda: self._in_force, self._happened, self._looked)
        self.second = Listener(self.world, lambda: self._in_force, self._take_of_another, name=SECOND)
        self.world.when_sent = self.watcher.sent
        self.world.when_ready = self._ready

    def play(self) -> Report:
        clock, start = self.world.clock, self.world.clock.now
        for action in self.script.actions:
            clock.at(start + action.at, self._act_of(action))
        clock.after(3.0, self.listener.start)
        clock.at(start + 5.0, self._tick)
        self.world.ends = start + self.script.days * DAY
        clock.run(self.world.ends)
        return Report(
            self.script,
            self.watcher.broken,
            self.listener.ticks,
            len(self.world.sent),
            self.listener.starts,
            self.world.faults.made,
            self.events,
        )

    def _tick(self) -> None:
        self.world.clock.after(self.script.tick, self._tick)
        self.listener.tick()
        self.second.tick()

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
            self.world.oom_kills += 1
            self.watcher.disturb(action.pool)
            worker.manager.end_worker(worker, "killed by the kernel")

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

    def _restart_memreap(self, _action: Action) -> None:
        self.listener.restart()

    def _kill_memreap(self, _action: Action) -> None:
        self.listener.kill()

    def _no_answer(self, action: Action) -> None:
        self.listener.is_deaf = True
        self.world.clock.after(action.values[0], self._answers)

    def _answers(self) -> None:
        self.listener.is_deaf = False

    def _late_ticks(self, action: Action) -> None:
        self._no_answer(replace(action, values=(min(60.0, action.values[0]),)))

    def _step_clock(self, action: Action) -> None:
        self.world.clock.offset += action.values[0]

    def _suspend(self, action: Action) -> None:
        """The machine sleeps: its processes do nothing, and the monotonic clock of Linux stands still."""
        self.world.clock.offset += action.values[0]

    def _disk_full(self, action: Action) -> None:
        self.world.is_disk_full = True
        self.world.clock.after(action.values[0], self._disk_has_room)

    def _disk_has_room(self) -> None:
        self.world.is_disk_full = False

    def _no_forks(self, action: Action) -> None:
        self.world.may_not_fork = True
        self.world.clock.after(action.values[0], self._may_fork)

    def _may_fork(self) -> None:
        self.world.may_not_fork = False

    def _once(self, action: Action) -> None:
        """By a user, beside the listener; the world goes on while it waits."""
        interrupted = self.world.clock.now + action.values[0]
        name = f"once {self.world.clock.now:.0f}"
        machine = SimMachine(self.world, name=name, settings=dict(self.watcher.settings), interrupted=interrupted)
        beside = SimBeside(machine, name)
        programs = self.world.supervisord.listed
        try:
            oneshot.run(machine, programs, lambda _: beside, self._in_force, (), False, self._take_of_another)
        except (Killed, RuntimeError):
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
        self.listener.restart()
