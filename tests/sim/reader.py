"""One look at a pool of the simulated machine, as host.look does it."""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING

from supervisor_memreap.core import serving
from supervisor_memreap.core.frozen import replace
from supervisor_memreap.core.model import (
    STOPPED_BY_HAND,
    Fact,
    MemoryScope,
    Nested,
    Pool,
    ProcessId,
    ProcessMemory,
    ProgramState,
    Sharing,
    WorkerDetail,
)
from supervisor_memreap.core.model import Worker as Seen
from supervisor_memreap.core.servers import Names, manages, named, server_of, signal_for
from supervisor_memreap.core.settings import PoolSettings, Watch
from supervisor_memreap.host.machine import Gate

from .processes import SHARED, Manager, Process, Worker

if TYPE_CHECKING:
    from .machine import SimMachine

LOOK = 0.002
"""Seconds that the reading of a pool takes: meanwhile the world goes on."""


def server_seen(child: Process, above: Process | None) -> str:
    """By the names of a process and of its manager; None: with target=self."""
    return _server_of(child.names, above and above.names)


@functools.lru_cache(maxsize=64)
def _server_of(names: Names, above: Names | None) -> str:
    return server_of(names, above, None if above is None else above.executable == names.executable)


@dataclass
class SimReader:
    machine: SimMachine
    reads_scopes: bool
    began: float
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
        settings, is_group = watch.settings, bool(watch.members)
        pool, above = self._of_group(watch) if is_group else self._of_program(watch)
        if above is None:
            return pool
        needs_detail = gate(pool)
        slots = {each.pid: each.name for each in watch.members if each.state == ProgramState.RUNNING}
        # Of a group, those that supervisord has listed, as they are now.
        listed = {*slots, *(each.pid for each in expected)}
        children = [above.children[pid] for pid in sorted(above.children)]
        present = [each for each in children if (each.id.pid in listed if is_group else each.is_there)]
        parent = None if is_group else above
        seen = [self._seen(each, parent, settings, needs_detail, slots.get(each.id.pid, "")) for each in present]
        if probe and parent and seen and not any(each.detail for each in seen):
            seen[0] = self._seen(present[0], parent, settings, lambda _: True, "")
        late = max(0.0, self.machine.now() - self.began)
        nested = (self._nested(parent) if parent else ()) if reads_structure else None
        return self._with_serving(replace(pool, workers=tuple(seen), nested=nested, late=late), above, serving)

    def _of_program(self, watch: Watch) -> tuple[Pool, Process | None]:
        """The pool without its workers, and the process above these; None: there is none."""
        world, program, at = self.machine.world, watch.program, self.machine.world.clock.wall
        name, state = program.namespec, program.state
        if state != ProgramState.RUNNING or program.pid <= 0:
            return Pool(name, state, at=at), None
        above: Process | None = world.supervisord.programs[name].process
        if above is None or not above.is_there or above.id.pid != program.pid:
            return Pool(name, "gone", at=at), None
        if watch.settings.depth == 2:
            below = list(above.children.values())
            if len(below) != 1:
                text = "depth=2, but the wrapper does not have exactly one manager below it"
                return Pool(name, state, text, at=at), None
            above = below[0]
        faults = above.child_faults if isinstance(above, Manager) else 0
        age, scopes = world.clock.now - above.born, self._scopes(watch.settings, name, above)
        return Pool(name, state, "", above.id, age, child_faults=faults, at=at, scopes=scopes), above

    def _of_group(self, watch: Watch) -> tuple[Pool, Process | None]:
        """The same with target=self: supervisord is in the place of the manager."""
        world, program, at = self.machine.world, watch.program, self.machine.world.clock.wall
        name, state = program.namespec, program.state
        if state in STOPPED_BY_HAND or program.pid <= 0:
            return Pool(name, state, is_group=True, at=at), None
        supervisord, manager = world.supervisord.process, world.supervisord.programs[name].manager
        assert manager
        stopped = frozenset(member.name for member in watch.members if member.state in STOPPED_BY_HAND)
        age, scopes = world.clock.now - supervisord.born, self._scopes(watch.settings, name, manager)
        faults = manager.child_faults
        pool = Pool(name, state, "", supervisord.id, age, (), stopped, faults, is_group=True, at=at, scopes=scopes)
        return pool, manager

    def _seen(
        self,
        child: Process,
        above: Process | None,
        settings: PoolSettings,
        needs_detail: Callable[[Seen], bool],
        slot: str,
    ) -> Seen:
        """`above`: its manager; None: with target=self."""
        now = self.machine.now()
        private = child.private(now) if isinstance(child, Worker) else 20 * 1024**2
        seen = Seen(child.id, now - child.born, private + SHARED, None, slot)
        return seen._replace(detail=self._detail(child, above, private, settings)) if needs_detail(seen) else seen

    def _detail(self, child: Process, above: Process | None, private: int, settings: PoolSettings) -> WorkerDetail:
        server = server_seen(child, above)
        signal = signal_for(server, settings.signal)
        caught = child.catches(signal, self.machine.now()) if isinstance(child, Worker) else True
        is_manager = isinstance(child, Manager) or manages(child.names)
        if not self.machine.world.reads_sizes or not self.is_readable:
            return WorkerDetail(None, caught, server, signal, is_manager, is_late=not self.is_readable)
        group = child.manager.plan.group if isinstance(child, Worker) else ""
        swapped = int(private * self.machine.world.memory.swapped(group))
        resident = private - swapped
        memory = ProcessMemory(resident, swapped, resident + SHARED // 4, swapped)
        used = {"uss": private, "pss": private + SHARED // 4}.get(settings.metric, private + SHARED)
        return WorkerDetail(used, caught, server, signal, is_manager, memory=memory, own_swap=swapped)

    def _nested(self, above: Process) -> tuple[Nested, ...]:
        managers = [each for each in above.children.values() if isinstance(each, Manager)]
        return tuple(Nested(each.id, "perl-fcgi-pm", len(each.children)) for each in managers)

    def _scopes(self, settings: PoolSettings, name: str, above: Process) -> tuple[MemoryScope, ...]:
        scopes: list[MemoryScope] = []
        world = self.machine.world
        if self.reads_scopes and (settings.headroom is not None or settings.pressure is not None):
            group = world.supervisord.programs[name].plan.group
            scopes += world.memory.scopes(group)
            self.machine.groups |= {path: world.memory.group(path) for path in world.memory.chain(group)[1:]}
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
        server = self.machine.server_of(pool) or ""
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
        if not isinstance(child, Worker) or not child.shares:
            return Fact.APART
        if child.is_helper:
            return Fact.ELSEWHERE if child.id.pid % 2 else Fact.NONE
        return Fact.SERVES if world.clock.now >= child.serves else Fact.HOLDS
