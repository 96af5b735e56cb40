"""Managers and their children, and what signals do to them."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable
from dataclasses import dataclass

from supervisor_memreap.core.model import ProcessId
from supervisor_memreap.core.servers import Moment, Names, named, signal_for

from .clock import Clock
from .names import CALLED, CATCHES, OTHERS, renamed
from .pids import Pids
from .requests import Doing, Load, Requests

MIB = 1024**2
SHARED = 30 * MIB
"""What a worker shares with its manager."""


@dataclass(frozen=True)
class Growth:
    """What a worker holds for itself, in bytes."""

    fresh: int = 10 * MIB
    leak: float = 0.0
    """In a second, while it serves."""
    step: int = 0
    """In one go, after `step_at` seconds: copy on write after a large request."""
    step_at: float = 600.0
    spike: int = 0
    """For one second in every ten minutes."""

    def peak(self, age: float) -> float:
        """The most that a worker of this age may hold."""
        return self.fresh + self.leak * age + self.step + self.spike


@dataclass(frozen=True)
class Kind:
    """How a pre-forking server keeps its workers."""

    server: str
    """As in core.servers."""
    least: int = 4
    most: int = 4
    """Workers; it has as many as it likes between these."""
    notices: float = 0.1
    """Seconds until it forks another worker after one has ended."""
    starts: float = 0.2
    """Seconds until a worker serves."""
    helpers: int = 0
    """Children that take no connections."""
    hangs_up: bool = False
    """A worker that has not begun yet has its manager's handlers, and ends its siblings on HUP."""
    throttle: float = 0.0
    """Seconds for which it forks none after more workers than it has ended in a row, each within a second."""
    fails_with_its_workers: bool = False
    """It ends when a worker could not start."""
    ends_with_a_worker: bool = False
    """It ends when a worker that was signalled leaves."""
    wraps: bool = False
    """It is a shell: the manager is its child."""
    daemonizes: bool = False
    """It leaves supervisord, which starts it again."""
    is_group: bool = False
    """It is supervisord itself, with target=self."""
    shares: bool = True
    """Its workers have its listening socket; False: each has its own."""


class Process:
    def __init__(self, id: ProcessId, parent: Process | None, born: float):
        self.id = id
        self.parent = parent
        self.born = born
        self.ended: float | None = None
        self.children: dict[int, Process] = {}
        if parent:
            parent.children[id.pid] = self

    @property
    def is_there(self) -> bool:
        return self.ended is None

    @property
    def names(self) -> Names:
        return OTHERS


class Worker(Process):
    def __init__(self, id: ProcessId, manager: Manager, born: float, serves: float, load: Load, growth: Growth):
        super().__init__(id, manager, born)
        self.manager = manager
        self.serves = serves
        """When it begins to serve; infinite: never, it is a helper or fails."""
        self._grows = serves if serves < float("inf") else born
        """Since when."""
        self.chance = random.Random(f"{manager.seed} {id.pid} {id.start_time}")
        self.requests = Requests(load, self.chance, serves)
        taken = {each.slot for each in manager.workers.values()}
        self.slot: int = next(number for number in itertools.count() if number not in taken)
        """Of its manager's workers, counted from 0."""
        self.growth = growth
        self.signals: list[tuple[float, str]] = []
        """Those that memreap sent it."""
        self.title = manager.plan.title
        """That its application gave it; empty: none."""
        self.shares = manager.plan.shares
        """It has its manager's listening socket; False: one of its own."""
        self.hangs = False
        """It catches the signal, and does not leave."""
        self.leaves: float | None = None
        """When it will have left."""
        self.ended_by = ""
        """Of its own accord: empty."""

    def private(self, at: float) -> int:
        """Bytes that it holds for itself."""
        growth, since = self.growth, at - self._grows
        size = growth.fresh + int(growth.leak * since) if since > 0.0 else growth.fresh
        if growth.step and since >= growth.step_at:
            size += growth.step
        if growth.spike and (at + self.id.pid) % 600.0 < 1.0:
            size += growth.spike
        return size

    @property
    def is_helper(self) -> bool:
        return self.id.pid in self.manager.helpers

    @property
    def names(self) -> Names:
        return renamed(CALLED[self.manager.plan.kind.server].worker, self.title)

    def catches(self, signal: str, at: float) -> bool:
        kind = self.manager.plan.kind
        if at < self.serves and not self.is_helper:
            return kind.hangs_up  # its manager's handlers
        return signal in CATCHES.get(kind.server, (signal,))


class Manager(Process):
    def __init__(
        self, parent: Process | None, clock: Clock, plan: PoolPlan, pids: Pids, seed: str, id: ProcessId | None = None
    ):
        """`id`: it is that process, in a role of it."""
        super().__init__(id or pids.new(), parent, clock.now)
        if id is None:
            pids.add(self)
        self.seed = seed
        self.plan = plan
        self._clock = clock
        self._pids = pids
        self._chance = random.Random(f"{seed} {self.id}")
        self.wanted = plan.kind.least
        self.workers: dict[int, Worker] = {}
        self.helpers: dict[int, Worker] = {}
        self.child_faults = 0
        self._quick = 0
        """Workers that ended in a row, each within a second of the one before."""
        self._last_end = float("-inf")
        self.when_ended: Callable[[Manager], None] = lambda _: None
        for _ in range(plan.kind.helpers):
            self._fork(is_helper=True)
        for _ in range(self.wanted):
            self._fork()

    def _fork(self, is_helper: bool = False) -> None:
        if self.ended is not None:
            return
        clock, plan = self._clock, self.plan
        starts = plan.starts * self._chance.uniform(0.5, 1.5)
        fails = plan.is_broken and not is_helper
        serves = float("inf") if is_helper or fails else clock.now + starts
        worker = Worker(self._pids.new(), self, clock.now, serves, plan.load, plan.growth)
        self._pids.add(worker)
        (self.helpers if is_helper else self.workers)[worker.id.pid] = worker
        if fails:
            clock.after(2.0 + starts, lambda: self._fail(worker))

    def _fail(self, worker: Worker) -> None:
        """It could not start, as after a broken deployment."""
        if worker.is_there:
            self.end_worker(worker, "failed to start")
            if self.plan.kind.fails_with_its_workers:
                self.end()

    def fork_missing(self) -> None:
        while self.ended is None and len(self.workers) < self.wanted:
            self._fork()

    def resize(self, wanted: int) -> None:
        """As the load asks for: to fewer, the idle ones are ended."""
        kind = self.plan.kind
        self.wanted = max(kind.least, min(kind.most, wanted))
        idle = [each for each in self.workers.values() if each.requests.doing(self._clock.now) is Doing.WAITS]
        for worker in idle[: max(0, len(self.workers) - self.wanted)]:
            self.end_worker(worker, "not needed")
        self.fork_missing()

    def end_worker(self, worker: Worker, why: str) -> None:
        """It is gone at this moment."""
        if worker.ended is not None:
            return
        now, kind = self._clock.now, self.plan.kind
        worker.ended, worker.ended_by = now, why
        self.children.pop(worker.id.pid, None)
        self.workers.pop(worker.id.pid, None)
        self.helpers.pop(worker.id.pid, None)
        self.child_faults += 100
        self.plan.child_ended(worker)
        self._quick = self._quick + 1 if now - self._last_end <= 1.0 else 1
        self._last_end = now
        if self.ended is not None:
            return
        if worker.signals and kind.ends_with_a_worker:
            self.end()
            return
        pause = kind.notices * self._chance.uniform(0.2, 1.0)
        if kind.throttle and self._quick > self.wanted:
            pause += kind.throttle
        self._clock.after(pause, self.fork_missing)

    def end(self, with_workers: bool = True) -> None:
        """It is gone, and so are its workers."""
        if self.ended is not None:
            return
        self.ended = self._clock.now
        for child in (*self.workers.values(), *self.helpers.values()) if with_workers else ():
            self.end_worker(child, "its manager ended")
        if self.parent:
            self.parent.children.pop(self.id.pid, None)
        self.when_ended(self)

    @property
    def names(self) -> Names:
        return renamed(CALLED[self.plan.kind.server].manager, self.plan.manager_title)

    # Signals.

    def receive(self, worker: Worker, signal: str, is_held: bool) -> str:
        """What memreap's signal does to one of its children now; what went wrong, else empty.

        `is_held`: it is at its boundary.
        """
        clock, kind = self._clock, self.plan.kind
        worker.signals.append((clock.now, signal))
        if worker.ended is not None:
            return "a process that has ended was signalled"
        if worker.id.pid in self.helpers:
            return "a helper was signalled"
        if signal == "KILL":
            self.end_worker(worker, "killed")
            return ""
        if clock.now < worker.serves:
            if kind.hangs_up:
                for each in list(self.workers.values()):
                    self.end_worker(each, "a newborn got HUP")
            else:
                self.end_worker(worker, "had no handler yet")
            return "a newborn was signalled"
        if not worker.catches(signal, clock.now):
            self.end_worker(worker, f"{signal} has no handler")
            return f"{signal} is not caught"
        if not worker.shares:
            self._leave(worker, Doing.WAITS)
            return "what waits at a socket of its own is lost"
        doing = Doing.WAITS if is_held else worker.requests.doing(clock.now)
        safe = named(kind.server).graceful
        if safe is not None and signal not in safe:
            self.end_worker(worker, f"{signal} is not graceful")
            return f"{signal} to a worker of {kind.server}"
        is_lost = named(kind.server).moment is Moment.HELD and not is_held
        kept = self._leave(worker, doing)
        return "it was not at its boundary" if is_lost else "" if kept else "a request was cut"

    def _leave(self, worker: Worker, doing: Doing) -> bool:
        """Whether no request is lost by a signal that this server takes as a wish to leave."""
        clock = self._clock
        if worker.leaves is None:
            never = float("inf")
            free = clock.now if doing is Doing.WAITS else worker.requests.boundary(clock.now)
            boundary = never if worker.hangs else free
            worker.leaves = boundary + self._chance.uniform(0.0, 0.05)
            if worker.leaves < float("inf"):
                clock.at(worker.leaves, lambda: self.end_worker(worker, "signalled"))
        return doing is Doing.WAITS or self.plan.finishes_while_busy


@dataclass
class PoolPlan:
    """A pool as it is now; a script changes it as time goes on."""

    name: str
    kind: Kind
    load: Load
    growth: Growth
    starts: float
    finishes_while_busy: bool = True
    """A worker that is signalled with a request in hand finishes it."""
    is_broken: bool = False
    """Workers cannot start."""
    group: str = ""
    """The path of its control group; empty: none."""
    title: str = ""
    """That the application gives to each new worker; empty: none."""
    manager_title: str = ""
    shares: bool = True
    """New workers have the listening socket of their manager."""
    child_ended: Callable[[Worker], None] = lambda _: None
    """Called when a worker is gone."""

    @property
    def signal(self) -> str:
        return signal_for(self.kind.server, None)
