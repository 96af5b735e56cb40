"""The state of one pool and who gets its events: the only place where that state changes."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from supervisor_memreap.core import policy
from supervisor_memreap.core.counters import Counters
from supervisor_memreap.core.events import Event, Sink
from supervisor_memreap.core.state import PoolState, persistent_part_differs


class StatefulPool:
    """A pool, the only owner of its state.

    `write_down` saves what survives a restart, after each change of it; it returns why it could not be saved.
    """

    def __init__(self, name: str, state: PoolState, sinks: Iterable[Sink], write_down: Callable[[], str]):
        self.name = name
        self.counters = Counters()
        self.write_down = write_down
        self._state = state
        self._sinks = (self._count, *sinks)

    @property
    def state(self) -> PoolState:
        return self._state

    def update(self, state: PoolState, save: bool = True) -> str:
        """Change the state. What survives a restart is saved before this returns.

        Returns why it could not be saved; empty: it is.
        """
        before, self._state = self._state, state
        return self.write_down() if save and persistent_part_differs(before, state) else ""

    def cannot_save(self, state: PoolState) -> str:
        """Save this state, which records that a signal is about to be sent; if that fails, keep the earlier one.

        Returns why it failed; then nothing may be sent: another memreap would not know of it. Empty: it is saved.
        """
        before = self._state
        trouble = self.update(state)
        if trouble:
            self.update(before, save=False)
        return trouble

    def emit(self, event: Event) -> None:
        """Pass the event to each sink; an event that is reported once, only the first time."""
        new, state = policy.is_new(event, self._state)
        self.update(state)
        if new:
            self.hand_on([event])

    def emit_all(self, emitted: Iterable[Event]) -> None:
        for event in emitted:
            self.emit(event)

    def hand_on(self, emitted: Iterable[Event]) -> None:
        """Pass events to each sink, that are new."""
        for event in emitted:
            for sink in self._sinks:
                sink(event)

    def _count(self, event: Event) -> None:
        self.counters = self.counters.after(event)
