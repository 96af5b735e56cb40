"""supervisord: the programs that it runs, what a user does with them, and what it says of them."""

from __future__ import annotations

from supervisor_memreap.core.model import Ending, ProcessId, Program, ProgramState
from supervisor_memreap.supervisord.client import TIMEOUT, Unavailable

from .clock import Clock
from .pids import Pids
from .processes import Manager, PoolPlan, Process, Worker

STARTSECS, STOPS, BACKOFF, RETRIES = 1.0, 0.5, 1.0, 3


class SimProgram:
    """A program of supervisord's, and the pool below it."""

    def __init__(self, plan: PoolPlan, supervisord: Supervisord):
        self.plan = plan
        self.state = ProgramState.STOPPED
        self.process: Process | None = None
        """What supervisord started."""
        self.manager: Manager | None = None
        """The manager of its workers: the same, or its child."""
        self.started = 0.0
        self.endings: list[tuple[float, Ending]] = []
        """By the wall clock, as in supervisord's log."""
        self.asked_to_stop = 0
        self._supervisord = supervisord
        self._failed = 0

    def start(self) -> None:
        if self.process and self.process.is_there:
            return
        clock, host = self._supervisord.clock, self._supervisord
        parent: Process = host.process
        self.started, self.state = clock.now, ProgramState.STARTING
        if self.plan.kind.wraps:
            parent = self.process = Process(host.pids.new(), host.process, clock.now)
            host.pids.add(parent)
        self.manager = Manager(parent, clock, self.plan, host.pids, f"{host.seed} {self.plan.name}")
        self.manager.when_ended = self._ended
        if not self.plan.kind.wraps:
            self.process = self.manager
        process = self.process
        clock.after(STARTSECS, lambda: self._is_up(process))
        if self.plan.kind.daemonizes:
            clock.after(0.3, self._detach)

    def _is_up(self, process: Process | None) -> None:
        if process and process is self.process and process.is_there and self.state is ProgramState.STARTING:
            self.state, self._failed = ProgramState.RUNNING, 0

    def _detach(self) -> None:
        if self.manager:
            self.manager.end(with_workers=False)

    def _ended(self, manager: Manager) -> None:
        """Of itself, or since a user stops it."""
        if manager is not self.manager:
            return
        if self.process and self.process is not manager:
            self.process.ended = manager.ended
            self._supervisord.process.children.pop(self.process.id.pid, None)
        clock = self._supervisord.clock
        stopped = self.state is ProgramState.STOPPING
        self.endings.append((clock.wall, Ending.STOPPED if stopped else Ending.EXITED))
        if stopped:
            self.state = ProgramState.STOPPED
            return
        self._failed = self._failed + 1 if self.state is ProgramState.STARTING else 0
        if self._failed > RETRIES:
            self.state = ProgramState.FATAL
            return
        self.state = ProgramState.BACKOFF if self._failed else ProgramState.EXITED
        clock.after(BACKOFF * (1 + self._failed), self._again)

    def _again(self) -> None:
        if self.state in (ProgramState.BACKOFF, ProgramState.EXITED):
            self.start()

    def stop(self) -> None:
        """As a user asks for it; it takes a moment."""
        self.asked_to_stop += 1
        if self.process and self.process.is_there:
            self.state = ProgramState.STOPPING
            assert self.manager
            self._supervisord.clock.after(STOPS, self.manager.end)
        elif self.state is not ProgramState.FATAL:
            self.state = ProgramState.STOPPED

    def restart(self) -> None:
        self.stop()
        self._supervisord.clock.after(STOPS + 0.1, self.start)

    def listed(self, asked: float) -> list[Program]:
        name, host = self.plan.name, self._supervisord
        pid = self.process.id.pid if self.process and self.process.is_there else 0
        age = host.clock.now - self.started
        return [Program(name, name, self.state.value, pid, host.process.id.pid, restarts=True, age=age, asked=asked)]


class SimGroup:
    """Processes that supervisord runs as workers, in the role of their manager (target=self)."""

    def __init__(self, plan: PoolPlan, supervisord: Supervisord):
        self.plan = plan
        self.endings: list[tuple[float, Ending]] = []
        self.manager: Manager | None = None
        self._supervisord = supervisord

    @property
    def process(self) -> Process | None:
        return self.manager

    def start(self) -> None:
        if self.manager is None or self.manager.ended is not None:
            host = self._supervisord
            seed = f"{host.seed} {self.plan.name} {host.clock.now}"
            self.manager = Manager(None, host.clock, self.plan, host.pids, seed, host.process.id)

    def stop(self) -> None:
        if self.manager:
            self._supervisord.clock.after(STOPS, self.manager.end)

    def restart(self) -> None:
        self.stop()
        self._supervisord.clock.after(STOPS + 0.1, self.start)

    def listed(self, asked: float) -> list[Program]:
        host, name, manager = self._supervisord, self.plan.name, self.manager
        workers = {each.slot: each for each in manager.workers.values()} if manager else {}
        is_up = manager is not None and manager.ended is None
        slots = range(self.plan.kind.least)
        return [self._of_slot(host, f"{name}_{slot}", workers.get(slot), is_up, asked) for slot in slots]

    def _of_slot(self, host: Supervisord, name: str, worker: Worker | None, is_up: bool, asked: float) -> Program:
        if worker is None:
            state, pid, age = ProgramState.BACKOFF if is_up else ProgramState.STOPPED, 0, None
        else:
            pid, age = worker.id.pid, host.clock.now - worker.born
            state = ProgramState.RUNNING if age >= STARTSECS else ProgramState.STARTING
        return Program(self.plan.name, name, state.value, pid, host.process.id.pid, restarts=True, age=age, asked=asked)


class Supervisord:
    def __init__(self, clock: Clock, pids: Pids, seed: str):
        self.clock = clock
        self.refuses = False
        """It answers no XML-RPC."""
        self.takes = 0.0
        """Seconds for an answer."""
        self.seed = seed
        self.pids = pids
        self.process = Process(ProcessId(1, 0.0), None, clock.now)
        self.programs: dict[str, SimProgram | SimGroup] = {}
        self.removed: set[str] = set()
        """Programs that are not in its configuration now."""

    def add(self, plan: PoolPlan) -> None:
        program = self.programs[plan.name] = (SimGroup if plan.kind.is_group else SimProgram)(plan, self)
        program.start()

    def answers(self) -> bool:
        """Whether there is an answer to XML-RPC, which is waited for."""
        self.clock.run(self.clock.now + min(self.takes, TIMEOUT) / 2)
        return not self.refuses and self.takes <= TIMEOUT

    def listed(self) -> list[Program]:
        """As its XML-RPC says. Raises Unavailable."""
        asked = self.clock.now
        if not self.answers():
            raise Unavailable("supervisord does not answer")
        there = [each for name, each in self.programs.items() if name not in self.removed]
        programs = [program for each in there for program in each.listed(asked)]
        self.clock.run(self.clock.now + self.takes / 2)  # the answer is on its way
        return programs

    def how_ended(self, name: str, since: float) -> Ending:
        """By its log: how the last process of this program ended after that time of the wall clock."""
        later = [ending for at, ending in self.programs[name].endings if at >= since - 1.0]
        return later[-1] if later else Ending.UNKNOWN
