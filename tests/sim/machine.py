"""The simulated machine behind host.machine's protocol."""

from __future__ import annotations

import errno
import itertools
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

from supervisor_memreap.core.model import Ending, Holder, Pool, ProcessId, Program, Result
from supervisor_memreap.core.model import Worker as Seen
from supervisor_memreap.core.oomkills import Kills
from supervisor_memreap.core.settings import PoolSettings
from supervisor_memreap.host.alarm import wakers
from supervisor_memreap.host.machine import Asked, Lock, Locked, Order, Unlockable
from supervisor_memreap.host.memory import Group

from .alarm import SimAlarm
from .attempt import SimAttempt, SimHandle, SimLock
from .faults import Killed
from .memory import name_of
from .processes import Process, Worker
from .reader import SimReader, server_seen
from .world import World


@dataclass
class SimMachine:
    """Of one process of memreap, a listener or a `memreap once`."""

    world: World
    attempts: list[SimAttempt] = field(default_factory=list)
    shared: set[ProcessId] = field(default_factory=set)
    """The managers whose listening sockets their children have."""
    refused: dict[str, float] = field(default_factory=dict)
    """When it last learned that no worker of a pool may be brought to its boundary."""
    name: str = "listener"
    is_dead: bool = False
    groups: dict[str, Group] = field(default_factory=dict)
    """The memory control groups of the pools of the last look, by path."""
    interrupted: float = float("inf")
    """When a user presses Ctrl-C."""
    settings: Mapping[str, PoolSettings] | None = None
    """Of a `memreap once`: those of its start; None: those that are in force."""
    _counted: dict[str, str] = field(default_factory=dict)
    """The scope, by its path, in which the kills of each pool are counted."""
    _kills: dict[str, int] = field(default_factory=dict)
    """Those of the last look, by the path of the scope."""
    _alarm: SimAlarm | None = None
    _open: dict[int, Callable[[], bool]] = field(default_factory=dict)
    """Whether each open descriptor is ready."""
    _numbers: Iterator[int] = field(default_factory=lambda: itertools.count(10))

    def open(self, is_ready: Callable[[], bool]) -> int:
        fd = next(self._numbers)
        self._open[fd] = is_ready
        return fd

    def shut(self, fd: int) -> None:
        self._open.pop(fd, None)

    def is_ready(self, fd: int) -> bool:
        return fd in self._open and self._open[fd]()

    @property
    def descriptors(self) -> int:
        """That are open."""
        return len(self._open)

    @property
    def locks(self) -> int:
        """That are held, those of attempts too."""
        return sum(lock.owner is self for locks in self.world.locks.values() for lock in locks)

    def die(self) -> None:
        """The process ends: the kernel releases what it held, and its attempts end with it."""
        self.is_dead = True
        self.close()
        for attempt in list(self.attempts):
            attempt.drop()
        for locks in list(self.world.locks.values()):
            for lock in [each for each in locks if each.owner is self]:
                lock.close()
        self._open.clear()

    # As in host.machine.

    def now(self) -> float:
        return self.world.clock.now

    def time(self) -> float:
        clock = self.world.clock
        return clock.now + clock.offset

    def look(self, now: float, reads_scopes: bool) -> AbstractContextManager[SimReader]:
        self.world.call("look")
        self.groups = {}
        return nullcontext(SimReader(self, reads_scopes, now))

    def how_ended(self, program: Program, since: float) -> Ending:
        if self.world.call("how_ended") or not self.world.supervisord.answers():
            return Ending.UNKNOWN
        return self.world.supervisord.how_ended(program.namespec, since)

    def may_exist(self, process: ProcessId) -> bool:
        return self.world.pids.get(process) is not None

    def measure(self, asked: Sequence[Asked], until: float) -> list[Mapping[ProcessId, int]]:
        self.world.call("measure")
        return [self._measured(pool, known) for pool, _, known in asked]

    def _measured(self, pool: Pool, known: Mapping[ProcessId, int]) -> dict[ProcessId, int]:
        used = {}
        for worker in pool.workers:
            process = self.world.pids.get(worker.id)
            if worker.used is not None or worker.id in known:
                used[worker.id] = worker.used if worker.used is not None else known[worker.id]
            elif isinstance(process, Worker):
                used[worker.id] = process.private(self.now())
        return used

    def server_of(self, pool: Pool) -> str | None:
        for worker in pool.workers:
            process = self.world.pids.get(worker.id)
            if isinstance(process, Process):
                return server_seen(process, None if pool.is_group else process.parent)
        return None

    def private_memory(self, process: ProcessId, processes: int) -> int | None:
        found = self.world.pids.get(process)
        return found.private(self.now()) if isinstance(found, Worker) else None

    def activity(self, process: ProcessId) -> str:
        return "in a system call" if self.world.pids.get(process) else ""

    def holders(self, pool: Pool) -> tuple[Holder, ...]:
        held = [(self.private_memory(worker.id, 2) or 0, worker.id.pid) for worker in pool.workers]
        return tuple(Holder(pid, "worker", size) for size, pid in sorted(held, reverse=True)[:3])

    def holders_in(self, scope: str) -> tuple[Holder, ...]:
        memory = self.world.memory
        return next((memory.holders(path) for path in memory.sizes if name_of(path) == scope), ())

    def oom_kills(self, processes: Mapping[str, ProcessId | None], now: float) -> tuple[dict[str, str], list[Kills]]:
        self.world.call("oom_kills")
        memory, programs = self.world.memory, self.world.supervisord.programs
        self._counted = {pool: path for pool, path in self._counted.items() if pool in processes}
        scopes = {pool: name_of(path) for pool, path in self._counted.items()}
        kills = [
            Kills(name_of(path), memory.kills_in(path) - self._kills[path], memory.sizes[path] if path else None)
            for path in dict.fromkeys(self._counted.values())
        ]
        for pool, process in processes.items():
            if process:
                self._counted[pool] = memory.counted_in(programs[pool].plan.group)
        self._kills = {path: memory.kills_in(path) for path in self._counted.values()}
        return scopes, kills

    def set_alarm(self, headroom: float | None, pressure: float | None, ignored: Collection[str]) -> str:
        self.world.call("set_alarm")
        is_wanted = (headroom, pressure) != (None, None)
        wanted = wakers(self.groups.values(), headroom, pressure, ignored) if is_wanted else []
        if not (wanted or self._alarm):
            return ""
        if not self.world.script.wakes:
            return f"{wanted[0].place}: Operation not supported"
        if self._alarm is None:
            self._alarm = SimAlarm(self.world.memory, self.open, self.shut)
        self._alarm.set(wanted)
        return ""

    def alarm_fds(self) -> Mapping[int, int]:
        return self._alarm.fds() if self._alarm else {}

    def acknowledge_alarm(self) -> None:
        if self._alarm:
            self._alarm.acknowledge()

    def lock(self, manager: ProcessId, is_group: bool) -> SimLock:
        fault = self.world.call("lock")
        if fault:
            raise Unlockable("no file can be made") if fault == "unlockable" else Locked("process 4 of memreap")
        if self.world.pids.get(manager) is None and manager != self.world.supervisord.process.id:
            raise ProcessLookupError
        if self.world.locks.get(manager):
            raise Locked("process 4 of memreap")
        return SimLock(self, manager)

    def attempt(self, order: Order, lock: Lock | None) -> SimAttempt:
        self.world.call("attempt")
        if self.world.may_not_fork:
            raise OSError(errno.EAGAIN, "Resource temporarily unavailable")
        worker = self.world.pids.get(order.worker)
        if not isinstance(worker, Worker):
            raise ProcessLookupError
        self.world.when_attempted(self, order, worker)
        return SimAttempt(self, order, worker, lock)

    def follow(self, process: ProcessId) -> SimHandle | None:
        if self.world.call("follow"):
            return None
        found = self.world.pids.get(process)
        return SimHandle(self, found) if isinstance(found, Process) else None

    def may_signal(self, process: ProcessId) -> bool:
        return True

    def force(self, pool: Pool, worker: Seen, signal: str) -> Result:
        fault = self.world.call("force")
        if fault:
            return Result.NOT_PERMITTED if fault == "not permitted" else Result.FAILED
        found = self.world.pids.get(worker.id)
        if not isinstance(found, Worker):
            return Result.GONE
        if pool.manager != found.manager.id or found.manager.ended is not None:
            return Result.CHANGED
        self.world.note_signal(self, found, signal, None)
        return Result.SENT

    def wait(self, fds: Mapping[int, int], seconds: float | None) -> list[int]:
        clock = self.world.clock
        until = float("inf") if seconds is None else clock.now + seconds
        while not (ready := [fd for fd in fds if self.is_ready(fd)]):
            if clock.now >= until:
                return []
            if clock.now >= self.world.ends:
                raise Killed
            if clock.now >= self.interrupted:
                raise KeyboardInterrupt
            clock.run(min(until, self.interrupted, clock.next()))
        return ready

    def close(self) -> None:
        if self._alarm:
            self._alarm.close()
            self._alarm = None
