"""Memory that processes share: that of the host and of nested control groups, with swap; and what the kernel does when
it is short.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from supervisor_memreap.core.model import HOST, Holder, MemoryScope
from supervisor_memreap.host.memory import Group, largest

from .processes import SHARED, Manager, Worker

if TYPE_CHECKING:
    from .alarm import SimAlarm
    from .world import World

# Seconds from one check to the next.
SHORTEST, LONGEST = 1.0, 6 * 3600.0
# The parts of a limit from which on processes wait for memory, and from which on that wakes memreap.
FULL, STALLS = 0.95, 0.975
PREFIX = "control group "


def name_of(path: str) -> str:
    """Of the scope, as in host.memory; empty: the host."""
    return f"{PREFIX}{path}" if path else HOST


class Usage(NamedTuple):
    """Of one scope at one moment, in bytes."""

    held: int
    """By its processes, in swap too."""
    size: int | None
    pressure: float
    """% of the time for which some process waits for memory, of this scope alone."""


class Memory:
    """A scope is known by the path of its group; empty: the host, which has all."""

    def __init__(self, world: World, sizes: dict[str, int | None], swap: int, every: float):
        """Checked at least once in `every` seconds where memory may be short."""
        self._world, self.sizes, self._swap, self._every = world, sizes, swap, every
        self.kills: Counter[str] = Counter()
        """Processes that the kernel has ended, by the scope that counts it: the innermost one of the process."""
        self.alarms: list[SimAlarm] = []
        """Those of all processes of memreap."""
        self.when_killed: Callable[[str], None] = lambda _pool: None
        self._known: dict[str, Usage] = {}
        self._known_at = 0.0
        self.chain = functools.cache(self._chain)
        world.clock.after(SHORTEST, self._check)

    def _chain(self, group: str) -> list[str]:
        """The scopes of a process in this group, the host first, then the innermost."""
        inner = sorted((path for path in self.sizes if path and _is_in(group, path)), key=len, reverse=True)
        return ["", *inner]

    def counted_in(self, group: str) -> str:
        """The scope in which the kills of a process in this group are counted."""
        return [*self.chain(group), ""][1]

    def _managers(self, path: str = "") -> list[Manager]:
        programs = self._world.supervisord.programs.values()
        there = [each.manager for each in programs if each.manager and each.manager.ended is None]
        return [each for each in there if _is_in(each.plan.group, path)]

    def usage(self, path: str) -> Usage:
        now = self._world.clock.now
        if now != self._known_at:
            self._known, self._known_at = {}, now
        if path not in self._known:
            self._known[path] = self._usage(path, now)
        return self._known[path]

    def _usage(self, path: str, now: float) -> Usage:
        managers = self._managers(path)
        held = SHARED * len(managers)
        held += sum(worker.private(now) for manager in managers for worker in manager.workers.values())
        size = self.sizes[path]
        return Usage(held, size, 0.0 if size is None else min(100.0, max(0.0, held / size - FULL) * 400))

    def swapped(self, group: str) -> float:
        """The part that a process in this group has in swap of what it holds."""
        if not self._swap:
            return 0.0
        usages = [self.usage(path) for path in self.chain(group)]
        return max(
            min(max(0, each.held - each.size), self._swap) / max(1, each.held)
            for each in usages
            if each.size is not None
        )

    def pressure(self, path: str) -> float:
        """That of this scope, those around it and those in it: what waits in one of them waits in all."""
        related = [each for each in self.sizes if _is_in(each, path) or _is_in(path, each)]
        return max(self.usage(each).pressure for each in related)

    def scope(self, path: str) -> MemoryScope:
        held, size, _ = self.usage(path)
        in_swap = min(max(0, held - size), self._swap) if size is not None else 0
        available = None if size is None else max(0, size - held + in_swap)
        has_pressure = self._world.script.cgroups == 2 or not path
        return MemoryScope(name_of(path), size, available, self.pressure(path) if has_pressure else None)

    def scopes(self, group: str) -> tuple[MemoryScope, ...]:
        """As host.memory reads them."""
        scopes = map(self.scope, self.chain(group))
        return tuple(each for each in scopes if each.size is not None or each.pressure is not None)

    def group(self, path: str) -> Group:
        scope = self.scope(path)
        is_scope = scope.size is not None or scope.pressure is not None
        return Group(self._world.script.cgroups, path, scope if is_scope else None, self.usage(path).held)

    def holders(self, path: str) -> tuple[Holder, ...]:
        now = self._world.clock.now
        processes = [each for manager in self._managers(path) for each in (manager, *manager.workers.values())]
        return largest(
            Holder(each.id.pid, "app", SHARED + (each.private(now) if isinstance(each, Worker) else 0))
            for each in processes
        )

    # The kernel.

    def _check(self) -> None:
        """End the largest processes where memory has run out, and wake those that wait for that."""
        for path, size in self.sizes.items():
            while size is not None and self.usage(path).held > size + self._swap:
                workers = [each for manager in self._managers(path) for each in manager.workers.values()]
                if not workers:
                    break
                self.kill(max(workers, key=lambda each: each.private(self._world.clock.now)))
        happened = [alarm.check() for alarm in self.alarms]
        if any(happened):
            self._world.when_ready()
        self._world.clock.after(self._calm(), self._check)

    def kills_in(self, path: str) -> int:
        """As its counter has them: that of the host has all."""
        return self.kills[path] if path else sum(self.kills.values())

    def kill(self, worker: Worker) -> None:
        """As the OOM killer does it."""
        self.kills[self.counted_in(worker.manager.plan.group)] += 1
        self.when_killed(worker.manager.plan.name)
        worker.manager.end_worker(worker, "killed by the kernel")
        self._known = {}

    def _calm(self) -> float:
        """Seconds until something may happen in a scope, at the earliest."""
        return min(self._calm_in(path, size) for path, size in self.sizes.items() if size is not None)

    def _calm_in(self, path: str, size: int) -> float:
        most, rate = 0.0, 0.0
        for manager in self._managers(path):
            workers = list(manager.workers.values())
            missing = max(0, manager.plan.kind.most - len(workers))
            fresh = manager.plan.growth
            most += SHARED + missing * fresh.peak(0.0)
            most += sum(each.growth.peak(self._world.clock.now - each.born) for each in workers)
            rate += sum(each.growth.leak for each in workers) + missing * fresh.leak
        if most + rate * LONGEST <= FULL * size:
            return LONGEST
        if most < FULL * size:
            return max(SHORTEST, (FULL * size - most) / rate)
        # Steps and spikes come at any time; by their leaks alone, it takes so long.
        held = self.usage(path).held
        ends = [at - held for at in (FULL * size, STALLS * size, size, size + self._swap) if at > held]
        return max(SHORTEST, min(self._every, ends[0] / rate if ends and rate else self._every))


def _is_in(path: str, group: str) -> bool:
    return not group or f"{path}/".startswith(f"{group}/")
