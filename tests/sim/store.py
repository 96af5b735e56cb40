"""Where a simulated memreap saves its states: the real codec, on a disk that is a dictionary."""

from __future__ import annotations

import functools
import json
from collections.abc import Collection
from dataclasses import replace
from typing import TYPE_CHECKING

from supervisor_memreap.core.state import PoolState, decode, encode, is_worth_keeping, persistent_part_differs, restored
from supervisor_memreap.host.machine import States

if TYPE_CHECKING:
    from .machine import SimMachine


class SimStore:
    def __init__(self, machine: SimMachine, name: str):
        """`name` is that of the file: `listener`, or one for each `memreap once`."""
        self._machine, self._name = machine, name
        self._written: dict[str, PoolState] = {}

    def read(self, now: float) -> tuple[States, str]:
        return self._read(self._name), ""

    def _read(self, name: str) -> dict[str, PoolState]:
        return _decoded(self._machine.world.disk.get(name, "{}"))

    def write(self, states: States, now: float) -> str:
        world = self._machine.world
        fault = world.call("write")
        if self._name in world.disk and not self._has_changed(states):
            return ""  # an encoding takes 1 ms
        pools = {name: encode(state) for name, state in states.items() if is_worth_keeping(state)}
        if fault or (world.is_disk_full and pools):
            return "/run/memreap/state.json: No space left on device; free space in that directory"
        if pools:
            world.disk[self._name] = json.dumps({"written": now, "pools": pools})
        else:
            world.disk.pop(self._name, None)
        self._written = dict(states)
        return ""

    def _has_changed(self, states: States) -> bool:
        before = self._written
        return states.keys() != before.keys() or any(
            persistent_part_differs(state, before[name]) for name, state in states.items()
        )

    def leaving_elsewhere(self, now: float) -> States:
        names = [name for name in self._machine.world.disk if name != self._name]
        return {pool: state for name in names for pool, state in self._read(name).items() if state.leaving}

    def remove(self) -> None:
        self._machine.world.disk.pop(self._name, None)


@functools.lru_cache(maxsize=8)
def _decoded(text: str) -> dict[str, PoolState]:
    saved = json.loads(text)
    return {pool: restored(decode(values), saved["written"]) for pool, values in saved.get("pools", {}).items()}


class SimBeside:
    """What a `memreap once` finds of the listener."""

    def __init__(self, machine: SimMachine, name: str):
        self._machine = machine
        self.file = SimStore(machine, name)
        self._listeners = SimStore(machine, "listener")

    def known(self, now: float) -> States:
        states, _ = self._listeners.read(now)
        return {
            name: replace(each, reap=None) if self._is_being_signalled(each) else each for name, each in states.items()
        }

    def _is_being_signalled(self, state: PoolState) -> bool:
        leaving, manager = state.leaving, state.manager
        return bool(leaving and not leaving.is_sent and manager and self._machine.world.locks.get(manager))

    def paused(self, now: float) -> Collection[str]:
        states, _ = self._listeners.read(now)
        return {name for name, each in states.items() if each.paused}

    def leaving(self, now: float) -> States:
        states, _ = self._listeners.read(now)
        by_listener = {name: state for name, state in states.items() if state.leaving}
        return {**self.file.leaving_elsewhere(now), **by_listener}
