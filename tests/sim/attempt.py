"""One try to signal one worker, and what is held meanwhile, as host.attempt and host.lock do it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from supervisor_memreap.core.frozen import replace
from supervisor_memreap.core.model import ProcessId, Result, SentMoment
from supervisor_memreap.core.servers import Moment, may_signal_busy, named
from supervisor_memreap.host.machine import Lock, Order, Outcome

from .processes import Manager, Process, Worker
from .requests import Doing

if TYPE_CHECKING:
    from .machine import SimMachine


class SimLock:
    def __init__(self, machine: SimMachine, manager: ProcessId):
        self._machine, self.manager = machine, manager
        self._is_open = True
        machine.world.locks.setdefault(manager, []).append(self)

    def share(self) -> SimLock:
        self._machine.world.call("share")
        return SimLock(self._machine, self.manager)

    def close(self) -> None:
        if self._is_open:
            self._is_open = False
            locks = self._machine.world.locks
            locks[self.manager].remove(self)
            if not locks[self.manager]:
                del locks[self.manager]

    @property
    def owner(self) -> SimMachine:
        return self._machine


class SimHandle:
    def __init__(self, machine: SimMachine, process: Process):
        self._machine, self.process = machine, process
        self._fd = machine.open(lambda: not process.is_there)

    def fileno(self) -> int:
        return self._fd

    def close(self) -> None:
        self._machine.shut(self._fd)


class SimAttempt:
    """As host.attempt's child does it; the world goes on meanwhile."""

    def __init__(self, machine: SimMachine, order: Order, worker: Worker, lock: Lock | None):
        self.order = order
        self._machine, self._worker, self._lock = machine, worker, lock and lock.share()
        self.handle = SimHandle(machine, worker)
        self._began = machine.now()
        self._until = self._began + order.patience
        self._outcome: Outcome | None = None
        self.deadline = self._until + 2.0
        self.fd = machine.open(lambda: self._outcome is not None)
        machine.attempts.append(self)
        machine.world.clock.after(0.001, self._try)

    @property
    def _goes_on(self) -> bool:
        return self._outcome is None and self in self._machine.attempts

    def _try(self) -> None:
        """To bring it to its boundary, or to see it idle."""
        if not self._goes_on:
            return None
        world, order = self._machine.world, self.order
        if not self._worker.is_there:
            return self._end(Outcome(Result.GONE))
        if not self._worker.catches(order.signal, world.clock.now):
            return self._end(Outcome(Result.CHANGED))
        if not self._worker.shares and order.hold and world.has_ptrace:
            return self._end(Outcome(Result.NOT_SHARED))
        may_hold = order.hold and world.has_ptrace
        if not may_hold and (named(order.server).moment is Moment.HELD):
            return self._end(self._busy(has_boundary=False, unheld=order.hold))
        at = self._worker.requests.boundary(world.clock.now)
        if not may_hold and (not world.sees_idle or at > world.clock.now):
            at = at if world.sees_idle and self._worker.requests.load.pause else float("inf")
        if self._worker.leaves is not None and self._worker.leaves < float("inf"):
            at = max(at, self._worker.leaves)
        moment = SentMoment.HELD if may_hold else SentMoment.IDLE
        if at <= self._until:
            world.clock.at(at, lambda: self._send(moment, order.signal))
        else:
            world.clock.at(self._until, self._late)
        return None

    @property
    def _manager(self) -> Manager:
        return self._worker.manager

    def _send(self, moment: SentMoment, signal: str) -> None:
        if not self._goes_on:
            return None
        world, worker = self._machine.world, self._worker
        may_hold = self.order.hold and world.has_ptrace
        if not worker.is_there:
            return self._end(Outcome(Result.GONE))
        if moment is SentMoment.HELD and worker.requests.stuck_since is not None:
            world.clock.at(self._until, self._late)
            return None
        gone = self.order.siblings - set(self._manager.children)
        if len(gone) > self.order.may_lack:
            return self._end(self._busy(has_boundary=may_hold))
        if may_hold and not worker.shares:
            return self._end(Outcome(Result.NOT_SHARED))
        if not worker.catches(self.order.signal, world.clock.now):
            return self._end(Outcome(Result.CHANGED))
        if worker.manager.ended is not None:
            return self._end(Outcome(Result.CHANGED))
        sent_at = world.clock.now
        child = world.faults.at("child")
        if child != "ended before":
            world.note_signal(self._machine, worker, signal, moment)
        if child:
            is_unknown = child != "ended before"
            return self._end(Outcome(Result.SENT, SentMoment.UNKNOWN) if is_unknown else Outcome(Result.BUSY))
        held = moment is SentMoment.HELD
        return self._end(
            Outcome(
                Result.SENT,
                moment,
                unheld=self.order.hold and not may_hold,
                has_boundary=held,
                private=worker.private(sent_at),
                signal=signal,
                sent_at=sent_at,
            )
        )

    def _late(self) -> None:
        if not self._goes_on:
            return None
        order, world = self.order, self._machine.world
        if not self._worker.is_there:
            return self._end(Outcome(Result.GONE))
        doing = self._worker.requests.doing(world.clock.now)
        may_hold = order.hold and world.has_ptrace
        is_free = doing is Doing.WAITS and self._worker.leaves is None and self._worker.requests.stuck_since is None
        if is_free and (may_hold or world.sees_idle):
            # Its request has ended sooner than when the attempt began.
            return self._send(SentMoment.HELD if may_hold else SentMoment.IDLE, order.signal)
        # The same connection from the start of the attempt to its end may be one that is kept.
        may_be_kept = doing is Doing.KEEPS or self._worker.requests.connected <= self._began
        may_be_kept &= named(order.server).moment is not Moment.ANY
        may_go = order.may_be_busy and may_signal_busy(order.server, may_hold)
        signal = order.busy_signal or order.signal
        if may_go and not may_be_kept:
            if not self._worker.catches(signal, world.clock.now):
                return self._end(Outcome(Result.BUSY, is_deaf=True))
            return self._send(SentMoment.BUSY, signal)
        outcome = self._busy(may_hold, unheld=order.hold and not may_hold)
        return self._end(replace(outcome, may_be_kept=may_go and may_be_kept))

    def _busy(self, has_boundary: bool, unheld: bool = False) -> Outcome:
        now = self._machine.now()
        is_kept = self._worker.requests.doing(now) is Doing.KEEPS
        return Outcome(
            Result.BUSY, unheld=unheld, has_boundary=has_boundary, watched=now - self._began, is_kept=is_kept
        )

    def _end(self, outcome: Outcome) -> None:
        self._outcome = outcome
        if self._lock:
            self._lock.close()
        self._machine.world.when_ready()

    def shorten(self, patience: float) -> None:
        if self.order.patience > patience:
            self.deadline = min(self.deadline, self._began + patience)

    def outcome(self) -> Outcome | None:
        self._machine.world.call("outcome")
        if self._outcome is None and self._machine.now() < self.deadline:
            return None
        return self.cancel()

    def cancel(self) -> Outcome:
        outcome = self._outcome or self._busy(self.order.hold and self._machine.world.has_ptrace)
        if outcome.unheld:
            self._machine.refused[self._manager.plan.name] = self._machine.now()
        self.drop()
        return outcome

    def drop(self) -> None:
        """It ends, and sends nothing any more."""
        if self in self._machine.attempts:
            self._machine.attempts.remove(self)
        self._machine.shut(self.fd)
        if self._lock:
            self._lock.close()
