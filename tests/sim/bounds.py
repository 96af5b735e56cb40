"""That memreap holds no more than it needs: descriptors, locks, and what it remembers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

from supervisor_memreap.listener.reaper import Reaper

from .machine import SimMachine
from .world import World

# Looks from one count of all that is remembered to the next.
EVERY = 50


@dataclass
class Bounds:
    say: Callable[[str], None]
    _looks: int = 0

    def stepped(self, machine: SimMachine, reaper: Reaper) -> None:
        """After each event that memreap has handled."""
        if not (machine.descriptors or machine.locks):
            return
        states = [pool.state for pool in reaper.pools]
        followed = sum((state.reap is not None) + len(state.stuck) for state in states)
        most = 2 * len(machine.attempts) + followed
        if machine.descriptors > most + len(machine.alarm_fds()):
            self.say(f"{machine.descriptors} descriptors are open")
        if machine.locks > most:
            self.say(f"{machine.locks} locks are held")

    def closed(self, machine: SimMachine) -> None:
        """After it has released all."""
        if machine.descriptors or machine.locks or machine.attempts:
            self.say(f"after its end {machine.descriptors} descriptors, {machine.locks} locks are left")

    def looked(self, reaper: Reaper, world: World) -> None:
        """After each look."""
        self._looks += 1
        if self._looks % EVERY:
            return
        for pool in reaper._watched:
            if pool.is_at_rest and pool.attempts.pool is not pool.pool:
                self.say(f"{pool.name} is held twice, as it is and as it was")
        most = 4 * world.workers + 60
        for path, count in remembered(reaper, "reaper", set()):
            if count > most:
                self.say(f"{count} are remembered in {path}")


def remembered(value: Any, path: str, known: set[int]) -> Iterator[tuple[str, int]]:
    """How many each collection has, of all that memreap's objects refer to."""
    if id(value) in known or value is None or isinstance(value, (int, float, str)):
        return
    known.add(id(value))
    is_ours = type(value).__module__.startswith("supervisor_memreap.")
    if isinstance(value, dict):
        yield path, len(value)
        for each in value.values():
            yield from remembered(each, f"{path}[]", known)
    elif isinstance(value, (list, set, frozenset)) or (isinstance(value, tuple) and not is_ours):
        yield path, len(value)
        for each in value:
            yield from remembered(each, f"{path}[]", known)
    elif isinstance(value, tuple):
        for each in value:
            yield from remembered(each, path, known)
    elif is_ours:
        names = {*getattr(value, "__dict__", ()), *(each.name for each in fields(value))} if is_dataclass(value) else ()
        for name in names or getattr(value, "__dict__", ()):
            yield from remembered(getattr(value, name), f"{path}.{name}", known)
