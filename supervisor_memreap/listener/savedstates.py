"""The states of pools that survive a restart of memreap: read at its start, and saved at each change."""

from __future__ import annotations

from supervisor_memreap.core import events
from supervisor_memreap.core.events import Sink
from supervisor_memreap.host.machine import Clock, States, Store
from supervisor_memreap.outputs.lasting import Once


class SavedStates:
    """Those in a file; without one nothing is saved."""

    def __init__(self, clock: Clock, file: Store | None, emit: Sink, once: Once):
        self._clock = clock
        self._file = file
        self._emit = emit
        self._once = once

    def read(self) -> States:
        """What the previous listener knew: a worker that it signalled may still be leaving."""
        if self._file is None:
            return {}
        now = self._clock.now()
        states, trouble = self._file.read(now)
        if trouble:
            self._emit(events.NotRemembered("", self._clock.time(), trouble))
        for name, state in states.items():
            leaving = state.leaving
            if leaving and leaving.left is None:
                after = now - leaving.signalled
                self._emit(events.Remembered(name, self._clock.time(), leaving.worker, after, leaving.is_sent))
        return states

    def save(self, states: States) -> str:
        """Returns why they could not be saved, in a line; empty: they are saved."""
        trouble = self._file.write(states, self._clock.now()) if self._file else ""
        if trouble:
            self._once(events.NotSaved("", self._clock.time(), trouble))
        else:
            self._once.end(events.SavedAgain, self._clock.time())
        return trouble

    def leaving_elsewhere(self) -> States:
        """The pools in which a `memreap once` signalled a worker that may not have left."""
        return self._file.leaving_elsewhere(self._clock.now()) if self._file else {}

    def forget(self) -> None:
        """Remove what is saved for the next listener: there will be none."""
        if self._file:
            self._file.remove()
