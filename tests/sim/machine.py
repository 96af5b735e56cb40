"""The simulated machine behind host.machine's protocol."""

from __future__ import annotations

import errno
import itertools
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

from supervisor_memreap.core import serving
from supervisor_memreap.core.frozen import replace
from supervisor_memreap.core.model import (
    HOST,
    STOPPED_BY_HAND,
    Ending,
    Fact,
    Holder,
    MemoryScope,
    Nested,
    Pool,
    ProcessId,
    ProcessMemory,
    Program,
    ProgramState,
    Result,
    SentMoment,
    Sharing,
    WorkerDetail,
)
from supervisor_memreap.core.model import Worker as Seen
from supervisor_memreap.core.oomkills import Kills
from supervisor_memreap.core.servers import Moment, may_signal_busy, named, signal_for
from supervisor_memreap.core.settings import PoolSettings, Watch
from supervisor_memreap.host.machine import Gate, Lock, Locked, Order, Outcome, Unlockable

from .faults import Killed
from .processes import SHARED, Manager, Process, Worker
from .requests import Doing
from .world import World

LOOK = 0.002
"""Seconds that the reading of a pool takes: meanwhile the world goes on."""


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
            self._machine.world.locks[self.manager].remove(self)

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
        self.handle = SimHandle(machine, worker)
        self._machine, self._worker, self._lock = machine, worker, lock and lock.share()
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
        if not self._manager.plan.kind.shares and order.hold and world.has_ptrace:
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
        if len(gone) > self.order.may_lack and may_hold:
            return self._end(self._busy(has_boundary=True))
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
        has_boundary = order.hold and world.has_ptrace
        doing = self._worker.requests.doing(world.clock.now)
        # The same connection from the start of the attempt to its end may be one that is kept.
        may_be_kept = doing is Doing.KEEPS or self._worker.requests.connected <= self._began
        may_be_kept &= named(order.server).moment is not Moment.ANY
        may_go = order.may_be_busy and may_signal_busy(order.server, has_boundary)
        if may_go and not may_be_kept:
            return self._send(SentMoment.BUSY, order.busy_signal or order.signal)
        outcome = self._busy(has_boundary, unheld=order.hold and not has_boundary)
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
        self.drop()
        return outcome

    def drop(self) -> None:
        """It ends, and sends nothing any more."""
        if self in self._machine.attempts:
            self._machine.attempts.remove(self)
        self._machine.shut(self.fd)
        if self._lock:
            self._lock.close()


@dataclass
class SimReader:
    machine: SimMachine
    reads_scopes: bool
    is_readable: bool = True
    """Whether the pool that is read can be read in time."""

    def read(
        self,
        watch: Watch,
        gate: Gate,
        expected: Collection[ProcessId],
        serving: Collection[ProcessId],
        reads_structure: bool,
        probe: bool,
    ) -> Pool:
        world = self.machine.world
        world.clock.run(world.clock.now + LOOK)
        self.is_readable = not world.call("read")
        program, settings, at = watch.program, watch.settings, world.clock.wall
        name, state = program.namespec, program.state
        if watch.members:
            return self._read_group(watch, gate, expected, serving, reads_structure)
        if state != ProgramState.RUNNING or program.pid <= 0:
            return Pool(name, state, at=at)
        sim = world.supervisord.programs[name]
        above: Process | None = sim.process
        if above is None or not above.is_there or above.id.pid != program.pid:
            return Pool(name, "gone", at=at)
        if settings.depth == 2:
            below = list(above.children.values())
            if len(below) != 1:
                text = "depth=2, but the wrapper does not have exactly one manager below it"
                return Pool(name, state, text, at=at)
            above = below[0]
        pool = Pool(
            name,
            state,
            "",
            above.id,
            world.clock.now - above.born,
            child_faults=above.child_faults if isinstance(above, Manager) else 0,
            at=at,
        )
        pool = replace(pool, scopes=self._scopes(settings, name, above))
        needs_detail = gate(pool)
        present = sorted((each for each in above.children.values() if each.is_there), key=lambda each: each.id.pid)
        seen = [self._seen(child, settings, needs_detail) for child in present]
        if probe and seen and not any(each.detail for each in seen):
            seen[0] = self._seen(present[0], settings, lambda _: True)
        pool = replace(pool, workers=tuple(seen))
        if reads_structure:
            pool = replace(pool, nested=self._nested(above))
        return self._with_serving(pool, above, serving)

    def _read_group(
        self,
        watch: Watch,
        gate: Gate,
        expected: Collection[ProcessId],
        serving: Collection[ProcessId],
        reads_structure: bool,
    ) -> Pool:
        """With target=self: what supervisord has listed, as it is now."""
        world, program, settings = self.machine.world, watch.program, watch.settings
        name, state, at = program.namespec, program.state, world.clock.wall
        if state in STOPPED_BY_HAND or program.pid <= 0:
            return Pool(name, state, is_group=True, at=at)
        supervisord, manager = world.supervisord.process, world.supervisord.programs[name].manager
        assert manager
        listed = {member.pid: member.name for member in watch.members if member.state == ProgramState.RUNNING}
        stopped = frozenset(member.name for member in watch.members if member.state in STOPPED_BY_HAND)
        age = world.clock.now - supervisord.born
        faults, scopes = manager.child_faults, self._scopes(settings, name, manager)
        pool = Pool(name, state, "", supervisord.id, age, (), stopped, faults, is_group=True, at=at, scopes=scopes)
        needs_detail = gate(pool)
        pids = sorted({*listed, *(each.pid for each in expected)})
        present = [manager.children[pid] for pid in pids if pid in manager.children]
        workers = [
            replace(self._seen(each, settings, needs_detail), slot=listed.get(each.id.pid, "")) for each in present
        ]
        pool = replace(pool, workers=tuple(workers), nested=() if reads_structure else None)
        return self._with_serving(pool, manager, serving)

    def _seen(self, child: Process, settings: PoolSettings, needs_detail: Callable[[Seen], bool]) -> Seen:
        now = self.machine.now()
        private = child.private(now) if isinstance(child, Worker) else 20 * 1024**2
        seen = Seen(child.id, now - child.born, private + SHARED)
        return replace(seen, detail=self._detail(child, private, settings)) if needs_detail(seen) else seen

    def _detail(self, child: Process, private: int, settings: PoolSettings) -> WorkerDetail:
        kind = child.manager.plan.kind if isinstance(child, Worker) else None
        server = kind.server if kind else ""
        signal = signal_for(server, settings.signal)
        now = self.machine.now()
        is_newborn = isinstance(child, Worker) and now < child.serves and not child.is_helper
        has_handler = not is_newborn or bool(kind and kind.hangs_up)
        memory = ProcessMemory(private, 0, private + SHARED // 4, 0)
        used = {"uss": private, "pss": private + SHARED // 4}.get(settings.metric, private + SHARED)
        if not self.machine.world.reads_sizes or not self.is_readable:
            return WorkerDetail(
                None, has_handler, server, signal, isinstance(child, Manager), is_late=not self.is_readable
            )
        return WorkerDetail(used, has_handler, server, signal, isinstance(child, Manager), memory=memory)

    def _nested(self, above: Process) -> tuple[Nested, ...]:
        managers = [each for each in above.children.values() if isinstance(each, Manager)]
        return tuple(Nested(each.id, "perl-fcgi-pm", len(each.children)) for each in managers)

    def _scopes(self, settings: PoolSettings, name: str, above: Process) -> tuple[MemoryScope, ...]:
        scopes = []
        world = self.machine.world
        if self.reads_scopes and (settings.headroom is not None or settings.pressure is not None):
            scopes.append(MemoryScope(HOST, world.host, world.available(), 0.0))
        if settings.total is not None:
            held = sum(
                each.private(world.clock.now) + SHARED // 4
                for each in above.children.values()
                if isinstance(each, Worker)
            )
            scopes.append(MemoryScope(name, settings.total, settings.total - held))
        return tuple(scopes)

    def _with_serving(self, pool: Pool, above: Process, known: Collection[ProcessId]) -> Pool:
        unknown = [each.id for each in pool.workers if each.id not in known]
        if not unknown:
            return pool
        facts = {id: self._fact(above.children[id.pid]) for id in unknown if id.pid in above.children}
        is_shared = pool.manager in self.machine.shared or len(unknown) < len(pool.workers)
        server = above.plan.kind.server if isinstance(above, Manager) else ""
        pool = serving.sort_out(pool, facts, is_shared, lambda: named(server).takes_turns)
        if pool.sharing is Sharing.SHARED and pool.manager:
            self.machine.shared.add(pool.manager)
        return pool

    def _fact(self, child: Process) -> Fact:
        world = self.machine.world
        if not self.is_readable:
            return Fact.UNREAD
        if not world.reads_sockets:
            return Fact.HIDDEN
        if not isinstance(child, Worker) or not child.manager.plan.kind.shares:
            return Fact.APART
        if child.is_helper:
            return Fact.ELSEWHERE if child.id.pid % 2 else Fact.NONE
        return Fact.SERVES if world.clock.now >= child.serves else Fact.HOLDS


@dataclass
class SimMachine:
    """Of one process of memreap, a listener or a `memreap once`."""

    world: World
    attempts: list[SimAttempt] = field(default_factory=list)
    shared: set[ProcessId] = field(default_factory=set)
    """The managers whose listening sockets their children have."""
    name: str = "listener"
    is_dead: bool = False
    oom_kills_known: int = 0
    interrupted: float = float("inf")
    """When a user presses Ctrl-C."""
    settings: Mapping[str, PoolSettings] | None = None
    """Of a `memreap once`: those of its start; None: those that are in force."""
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

    def has_ready(self) -> bool:
        return any(is_ready() for is_ready in self._open.values())

    @property
    def descriptors(self) -> int:
        """That are open."""
        return len(self._open)

    def die(self) -> None:
        """The process ends: the kernel releases what it held, and its attempts end with it."""
        self.is_dead = True
        for attempt in list(self.attempts):
            attempt.drop()
        for locks in self.world.locks.values():
            for lock in [each for each in locks if each.owner is self]:
                lock.close()
        self._open.clear()

    # As in host.machine.

    def now(self) -> float:
        return self.world.clock.now

    def time(self) -> float:
        return self.world.clock.wall

    @contextmanager
    def look(self, now: float, reads_scopes: bool) -> Iterator[SimReader]:
        self.world.call("look")
        yield SimReader(self, reads_scopes)

    def how_ended(self, program: Program, since: float) -> Ending:
        if self.world.call("how_ended"):
            return Ending.UNKNOWN
        return self.world.supervisord.how_ended(program.namespec, since)

    def may_exist(self, process: ProcessId) -> bool:
        return self.world.pids.get(process) is not None

    def measure(
        self, pool: Pool, settings: PoolSettings, known: Mapping[ProcessId, int], until: float
    ) -> dict[ProcessId, int]:
        self.world.call("measure")
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
            if isinstance(process, Worker):
                return process.manager.plan.kind.server
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
        return ()

    def oom_kills(self, processes: Mapping[str, ProcessId | None], now: float) -> tuple[dict[str, str], list[Kills]]:
        known, self.oom_kills_known = self.oom_kills_known, self.world.oom_kills
        risen = self.world.oom_kills - known
        return dict.fromkeys(processes, HOST), [Kills(HOST, risen, None)] if risen else []

    def set_alarm(self, headroom: float | None, pressure: float | None, ignored: Collection[str]) -> str:
        return ""

    def alarm_fds(self) -> Mapping[int, int]:
        return {}

    def acknowledge_alarm(self) -> None:
        pass

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
        pass
