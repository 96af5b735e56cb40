"""What must be true at every step, and what must be true in the end."""

from __future__ import annotations

import json
from dataclasses import dataclass, field

from supervisor_memreap.core import events, policy
from supervisor_memreap.core.model import Ending
from supervisor_memreap.core.policy import Standing
from supervisor_memreap.core.settings import PoolSettings
from supervisor_memreap.host.machine import Order
from supervisor_memreap.listener.pool import WatchedPool

from .machine import SimMachine
from .orders import wrong_in
from .processes import Worker
from .world import Sent, World

# Seconds for which a worker may be over its limit while the status shows nothing that stands in the way.
BOUND = 1800.0
SECOND = "second"
"""The name of another listener, beside the one whose looks are watched."""
HAS_A_REASON = (
    Standing.OVERDUE,
    Standing.BLIND,
    Standing.SUSPENDED,
    Standing.PAUSED,
    Standing.OBSERVED,
    Standing.NOT_RUNNING,
)


@dataclass
class Broken:
    """An invariant that does not hold."""

    at: float
    what: str


@dataclass
class Watcher:
    world: World
    settings: dict[str, PoolSettings]
    """Those that are in force, by pool."""
    broken: list[Broken] = field(default_factory=list)
    paused: set[str] = field(default_factory=set)
    """The pools that a user has paused."""
    suspended: set[str] = field(default_factory=set)
    """Pools that memreap has suspended, for whatever reason."""
    lost: set[str] = field(default_factory=set)
    """Those of them that lost their manager."""
    has_defects: bool = False
    """The run has exceptions that nobody expects."""
    disturbed: dict[str, float] = field(default_factory=dict)
    """When a worker of a pool last ended for another reason than a signal, or a user changed something."""
    _over: dict[Worker, float] = field(default_factory=dict)
    _last_sent: dict[str, float] = field(default_factory=dict)
    _observed: set[str] = field(default_factory=set)
    """The pools that were only observed at the last look: what a user sets is read there."""
    _forgot: float = float("-inf")
    """When what was saved was lost."""

    def say(self, what: str) -> None:
        self.broken.append(Broken(self.world.clock.now, what))

    def disturb(self, pool: str) -> None:
        self.disturbed[pool] = self.world.clock.now

    # At each attempt and signal.

    def attempted(self, by: SimMachine, order: Order, worker: Worker) -> None:
        pool = worker.manager.plan.name
        since_refused = self.world.clock.now - by.refused.get(pool, float("-inf"))
        for wrong in wrong_in(order, worker, (by.settings or self.settings)[pool], since_refused):
            self.say(f"{pool}: the order to signal worker {worker.id.pid}: {wrong}")

    def sent(self, sent: Sent, wrong: str) -> None:
        worker, manager = sent.worker, sent.worker.manager
        pool, now = manager.plan.name, sent.at
        who = f"{pool}: {sent.signal} to worker {worker.id.pid}"
        settings = (sent.by.settings or self.settings)[pool]
        self._last_sent[pool] = now
        if sent.moment is None:
            if settings.stuck == "report":
                self.say(f"{who}: forced, but stuck=report")
            return
        if wrong:
            self.say(f"{who}: {wrong}")
        if sent.by.name != SECOND:  # which no user has told of a pause
            if pool in self.paused:
                self.say(f"{who}: the pool is paused")
            # A wrong setting must not let the host run out of memory.
            is_for_memory = any((settings.total, settings.headroom, settings.pressure))
            if pool in self.lost or (pool in self.suspended and not is_for_memory):
                self.say(f"{who}: the pool is suspended")
        if settings.observe if sent.by.settings else pool in self._observed:
            self.say(f"{who}: the pool is only observed")
        if not self._is_saved(pool, worker):
            self.say(f"{who}: this was not saved before")
        before = [
            each
            for each in list(self.world.sent)[:-1]
            if each.worker.manager is manager and each.moment and each.at > self._forgot
        ]
        # What is stuck for one memreap, another one does not know.
        same = [each for each in before if each.worker is worker and each.by.name == sent.by.name]
        if len(same) > 1:
            self.say(f"{who}: signalled {len(same) + 1} times")
        first = {each.worker: each for each in reversed(before)}
        for other in first.values():
            if other.worker is not worker:
                self._check_replaced(who, other, sent, settings)
        self._check_serving(who, sent, bool(same))

    def _is_saved(self, pool: str, worker: Worker) -> bool:
        for text in self.world.disk.values():
            values = json.loads(text)["pools"].get(pool)
            if values and values["reap"] and tuple(values["reap"]["worker"]) == worker.id:
                return True
        return False

    def _check_replaced(self, who: str, other: Sent, sent: Sent, settings: PoolSettings) -> None:
        """Whether that earlier one has left, and a worker that came after it serves."""
        now, worker = sent.at, other.worker
        resumed = self.disturbed.get(f"resume {worker.manager.plan.name}", float("-inf"))
        if worker.is_there:
            if now - other.at < settings.grace - 5.0 and resumed < other.at:
                self.say(f"{who}: worker {worker.id.pid}, signalled {now - other.at:.1f} s ago, is still there")
            return
        assert worker.ended is not None
        is_known = other.by.name == sent.by.name or not other.by.is_dead
        if not is_known and worker.manager.wanted >= 2 * policy.MOST_LACKING:
            return  # for what another memreap did that has ended: in a large pool one goes while another starts
        came = [each for each in worker.manager.workers.values() if each.born >= other.at and each.serves <= now]
        if not came and now - worker.ended < settings.grace - 5.0 and resumed < other.at:
            kind = worker.manager.plan.kind
            has_left_again = any(
                each.manager is worker.manager and each.born >= other.at and each.serves <= (each.ended or 0.0)
                for each in self.world.ended
            )
            if kind.least == kind.most or not has_left_again:
                self.say(f"{who}: worker {worker.id.pid} left {now - worker.ended:.1f} s ago and was not replaced")

    def _check_serving(self, who: str, sent: Sent, is_again: bool) -> None:
        manager, kind = sent.worker.manager, sent.worker.manager.plan.kind
        if is_again:
            return
        if kind.least == kind.most and sent.serving <= 1 < manager.wanted:
            self.say(f"{who}: the last one that serves, of {manager.wanted}")
        if manager.plan.is_broken:  # workers end by themselves all the time
            self.disturb(manager.plan.name)
        calm = sent.at - max(self.disturbed.get(manager.plan.name, float("-inf")), manager.born)
        if kind.least == kind.most and calm > 3600.0 and sent.serving < manager.wanted:
            self.say(f"{who}: only {sent.serving} of {manager.wanted} served")

    # At each event.

    def resumed(self, pool: str) -> None:
        self.suspended.discard(pool)
        self.lost.discard(pool)

    def forgotten(self) -> None:
        """What was saved was lost, as after damage of the disk."""
        self._forgot = self.world.clock.now
        for pool in self.settings:
            self.disturb(pool)
        self.paused.clear()
        self.suspended.clear()
        self.lost.clear()

    def happened(self, event: events.Event) -> None:
        name = event.pool
        if isinstance(event, events.WrongSetting):
            self.suspended.add(name)
            self._check_wrong(event)
        elif isinstance(event, events.ManagerLost):
            self.suspended.add(name)
            self.lost.add(name)
            endings = self.world.supervisord.programs[name].endings
            if event.is_certain and not (endings and endings[-1][1] is Ending.EXITED):
                self.say(f"{name}: suspended, but its manager did not exit on its own: {event.text}")
        elif isinstance(event, (events.Resumed, events.ResumedByUser)):
            self.resumed(name)
        elif isinstance(event, events.InternalError) and not self.has_defects:
            self.say(f"{name}: {event.text}")

    def _check_wrong(self, event: events.WrongSetting) -> None:
        settings = self.settings[event.pool]
        plan = self.world.supervisord.programs[event.pool].plan
        limit, growth = settings.limit, plan.growth
        gap = self.world.script.tick
        at = settings.settle + min(gap, policy.LATE) + min(gap, policy.READ) + 20.0
        most = growth.fresh + growth.leak * at + (growth.step if growth.step_at <= at else 0) + growth.spike
        if limit is not None and most < limit:
            self.say(f"{event.pool}: suspended for its limit, but fresh workers hold {most / 1024**2:.0f} MiB at most")

    # After each look.

    def looked(self, pools: list[WatchedPool]) -> None:
        self._over = {worker: since for worker, since in self._over.items() if worker.is_there}
        self._observed = {name for name, each in self.settings.items() if each.observe}
        for pool in pools:
            if pool.name in self.paused and not pool.state.paused:
                self.say(f"{pool.name}: the pause is forgotten")
                self.paused.discard(pool.name)
            self._check_due(pool)

    def _check_due(self, pool: WatchedPool) -> None:
        """No worker is over its limit for long, with nothing that says what stands in the way."""
        name, now = pool.name, self.world.clock.now
        settings = self.settings[name]
        manager = self.world.supervisord.programs[name].manager
        if manager is None or settings.limit is None:
            return
        choice = pool.choice
        is_explained = choice is None or choice.standing in HAS_A_REASON or bool(choice.unwatched)
        looks = (settings.checks + 8) * self.world.script.tick
        for worker in manager.workers.values():
            is_over = worker.private(now) > settings.limit and worker.serves <= now and not worker.growth.spike
            if not is_over or is_explained or worker.signals or now - self._last_sent.get(name, 0.0) < BOUND + looks:
                self._over.pop(worker, None)
                continue
            since = self._over.setdefault(worker, now)
            if now - since > BOUND + 2 * settings.grace + 2 * settings.min_age + looks:
                standing = choice.standing.value if choice else ""
                self.say(f"{name}: worker {worker.id.pid} is over its limit for {now - since:.0f} s: {standing}")
                self._over[worker] = float("inf")
