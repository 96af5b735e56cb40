"""Where a simulated memreap saves its states: the real codec, on a disk that is a dictionary."""

from __future__ import annotations

import contextlib
import functools
import json
from collections.abc import Collection
from dataclasses import replace
from typing import TYPE_CHECKING

from supervisor_memreap.core.model import ProcessId
from supervisor_memreap.core.state import PoolState, decode, persistent_part_differs, restored
from supervisor_memreap.host.machine import States
from supervisor_memreap.listener import statefile

if TYPE_CHECKING:
    from .machine import SimMachine

PATH = "/run/memreap/state.json"


class SimStore:
    def __init__(self, machine: SimMachine, name: str):
        """`name` is that of the file: `listener`, or one for each `memreap once`."""
        self._machine, self._name = machine, name
        self._written: dict[str, PoolState] = {}
        self._kept: dict[str, statefile.Encoded] = {}
        self.trouble = ""
        """Why the last states could not be saved; empty: they are."""
        self.was_damaged = False
        """The file of the last process could not be read in full."""

    def read(self, now: float) -> tuple[States, str]:
        world = self._machine.world
        damage = world.call("load")
        text = world.disk.get(self._name)
        if not damage or not text:
            return self._read(self._name), ""
        self.was_damaged = True
        if damage == "unreadable":
            return {}, f"{PATH}: Permission denied"
        try:
            saved = json.loads(text if damage == "foreign" else text[: len(text) // 2])
        except ValueError:
            return {}, f"{PATH}: not written by a listener"
        pools = {name: {**values, "stuck": None} for name, values in saved["pools"].items()}
        states, _ = statefile._states(statefile._Saved(ProcessId(1, 0.0), saved["written"], pools))
        return states, f"{PATH}: parts of it were written by another version"

    def _read(self, name: str) -> dict[str, PoolState]:
        return _decoded(self._machine.world.disk.get(name, "{}"))

    def write(self, states: States, now: float) -> str:
        world = self._machine.world
        fault = world.call("write")
        if self._name in world.disk and not self._has_changed(states):
            return self.trouble  # an encoding takes 1 ms
        self._kept = pools = statefile.encoded(states, self._kept)
        self.trouble = ""
        if fault or (world.is_disk_full and pools):
            self.trouble = f"{PATH}: No space left on device; free space in that directory"
            return self.trouble
        world.call("replace")  # the new file is written beside the old one
        if pools:
            texts = ", ".join(f'"{name}": {each.text}' for name, each in pools.items())
            world.disk[self._name] = f'{{"written": {now}, "pools": {{{texts}}}}}'
        else:
            world.disk.pop(self._name, None)
        self._written = dict(states)
        world.call("replaced")
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
        return {
            name: replace(each, reap=None) if self._is_being_signalled(each) else each
            for name, each in self._of_listener(now).items()
        }

    def _of_listener(self, now: float) -> States:
        states, trouble = self._listeners.read(now)
        if trouble:
            raise statefile.Unread(trouble)
        return states

    def _is_being_signalled(self, state: PoolState) -> bool:
        leaving, manager = state.leaving, state.manager
        return bool(leaving and not leaving.is_sent and manager and self._machine.world.locks.get(manager))

    def paused(self, now: float) -> Collection[str]:
        return {name for name, each in self._of_listener(now).items() if each.paused}

    def leaving(self, now: float) -> States:
        by_listener: States = {}
        with contextlib.suppress(statefile.Unread):
            by_listener = {name: state for name, state in self._of_listener(now).items() if state.leaving}
        return {**self.file.leaving_elsewhere(now), **by_listener}
