"""All that is outside of memreap: one host with its time, its supervisord, its memory and its faults."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from supervisor_memreap.core.model import ProcessId, SentMoment

from .clock import Clock
from .faults import Faults
from .memory import Memory
from .pids import Pids
from .processes import PoolPlan, Worker
from .script import KINDS, Script
from .supervisord import Supervisord

if TYPE_CHECKING:
    from supervisor_memreap.host.machine import Order

    from .attempt import SimLock
    from .machine import SimMachine


@dataclass(frozen=True)
class Sent:
    """A signal that memreap sent."""

    at: float
    by: SimMachine
    worker: Worker
    signal: str
    moment: SentMoment | None
    """None: a stuck worker was sent a stronger one."""
    serving: int
    """Workers of the pool that served right before, this one included."""


def _takes(chance: random.Random) -> Iterator[float]:
    """Seconds for each call of memreap to the outside: as chance.choice, in a fifth of its time."""
    while True:
        if (number := chance.getrandbits(2)) < 3:
            yield (0.0, 0.0001, 0.002)[number]


class World:
    def __init__(self, script: Script):
        self.clock = Clock(script.uptime)
        self.pids = Pids(self.clock)
        self.supervisord = Supervisord(self.clock, self.pids, script.seed)
        self.script = script
        self.has_ptrace, self.sees_idle = script.has_ptrace, script.sees_idle
        self.reads_sockets = self.reads_sizes = True
        self.locks: dict[ProcessId, list[SimLock]] = {}
        self.disk: dict[str, str] = {}
        """The state files, by whose they are."""
        self.ends = float("inf")
        self.is_disk_full = self.may_not_fork = False
        sizes = {"": script.host, **dict(script.groups)}
        self.memory = Memory(self, sizes, script.swap, script.tick / 5)
        self.signals = 0
        """That memreap has sent."""
        self.sent: deque[Sent] = deque(maxlen=51)
        """The last ones."""
        self.ended: deque[Worker] = deque(maxlen=200)
        """Those that have ended of late: in a year there may be millions."""
        self.when_sent: Callable[[Sent, str], None] = lambda _sent, _wrong: None
        self.when_attempted: Callable[[SimMachine, Order, Worker], None] = lambda _machine, _order, _worker: None
        self.when_ready: Callable[[], None] = lambda: None
        """Something may have become ready that a memreap waits for."""
        self.faults = Faults(script.faults)
        self._takes = _takes(random.Random(f"calls {script.seed}"))
        for pool in script.pools:
            kind = KINDS[pool.kind]
            plan = PoolPlan(pool.name, kind, pool.load, pool.growth, pool.starts, group=pool.group, shares=kind.shares)
            plan.child_ended = self._child_ended
            self.supervisord.add(plan)

    def _child_ended(self, worker: Worker) -> None:
        self.ended.append(worker)
        self.when_ready()

    @property
    def workers(self) -> int:
        """That are there, and helpers."""
        return sum(len(each.manager.children) for each in self.supervisord.programs.values() if each.manager)

    def call(self, call: str) -> str:
        """memreap asks this of the outside, and the world goes on meanwhile; the rest as Faults.at."""
        self.clock.run(self.clock.now + next(self._takes))
        return self.faults.at(call)

    def note_signal(self, by: SimMachine, worker: Worker, signal: str, moment: SentMoment | None) -> None:
        manager, now = worker.manager, self.clock.now
        serving = sum(each.serves <= now for each in manager.workers.values())
        sent = Sent(now, by, worker, signal, moment, serving)
        self.signals += 1
        self.sent.append(sent)
        wrong = manager.receive(worker, signal, moment is SentMoment.HELD)
        self.when_sent(sent, wrong)
