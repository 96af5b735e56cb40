"""The sinks that may have to wait, each in a child process: they get every event and every look."""

from __future__ import annotations

import select
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

from supervisor_memreap.core import events
from supervisor_memreap.core.counters import Totals
from supervisor_memreap.core.events import Event, Sink
from supervisor_memreap.core.outputsettings import Recording
from supervisor_memreap.core.rows import PoolRow
from supervisor_memreap.history.historypath import HistoryError, in_force
from supervisor_memreap.outputs import child, fields
from supervisor_memreap.outputs.child import Child, Consume, Inbox, Message, Tell
from supervisor_memreap.outputs.log import Once, internal_error
from supervisor_memreap.supervisord.configfile import Contents

# Seconds before its time that a sink gets a look.
_EARLY = 2.5
# Seconds until a child that has ended is started again.
_RESTART = 30.0
_STALLED = (
    f"nothing was written for {child.PATIENCE:.0f} s: does its disk hang? What happens meanwhile is kept, up to 4 MB"
)
_LOST = "a part is missing: more happened than its process could take"


def _history(messages: Inbox, tell: Tell, recording: Recording) -> None:
    from supervisor_memreap.history.historywriter import consume  # SQLite is loaded in the child alone

    consume(messages, tell, recording)


def _metrics(messages: Inbox, tell: Tell, recording: Recording) -> None:
    from supervisor_memreap.outputs.metrics import consume

    consume(messages, tell, recording)


def _message(event: Event) -> Message:
    return {"kind": "event", **fields.of(event)}


class _Kind(NamedTuple):
    consume: Consume
    trouble: type[events.NotRecorded | events.NotExposed]
    over: type[events.RecordedAgain | events.ExposedAgain]
    outputs: tuple[str, ...]
    """It is started if one of these settings is not off."""
    keys: tuple[str, ...]
    """The settings with which it is started; a change of one starts it anew."""
    period: float
    """Seconds between two looks that it gets."""

    def is_wanted(self, recording: Recording) -> bool:
        return any(getattr(recording, key) is not None for key in self.outputs)

    def settings_in(self, recording: Recording) -> tuple[object, ...]:
        return tuple(getattr(recording, key) for key in self.keys)


_KINDS: Mapping[str, _Kind] = {
    "history": _Kind(
        _history, events.NotRecorded, events.RecordedAgain, ("history",), ("history", "history_size", "summary"), 60.0
    ),
    "metrics": _Kind(
        _metrics, events.NotExposed, events.ExposedAgain, ("metrics", "metrics_file"), ("metrics", "metrics_file"), 0.0
    ),
}


class _Lasting:
    """Logs what is wrong with a kind, once, and when that is over."""

    def __init__(self, emit: Sink, once: Once):
        self._emit = emit
        self._once = once
        self._recovering: set[type[Event]] = set()
        """The kinds of which nothing is wrong since the last look."""

    def follow(self, kind: _Kind, trouble: str, is_running: bool) -> None:
        """`trouble` is empty if nothing is wrong now."""
        if trouble:
            self._once(kind.trouble("", time.time(), trouble))
            self._recovering.discard(kind.trouble)
        elif self._once.clear(kind.trouble):
            self._recovering.add(kind.trouble)
        elif kind.trouble in self._recovering:
            # A look later: a child that was just started has had time to find something wrong.
            self._recovering.remove(kind.trouble)
            if is_running:
                self._emit(kind.over("", time.time()))


class Recorders:
    """`emit` gets what the sinks themselves have to say; `once`, what is wrong with one.

    No error in here reaches the caller, who goes on reaping: it is a line in the log, after the next look.
    """

    def __init__(self, emit: Sink, once: Once):
        self._emit = emit
        self._once = once
        self._children: dict[str, Child] = {}
        self._settings: dict[str, tuple[object, ...]] = {}
        """Those with which each child was started, or could not be."""
        self._recording: Recording | None = None
        """As it is set."""
        self._in_force = Recording(history=None)
        """The same, with the path of the history."""
        self._ended: dict[str, float] = {}
        """When the child of this kind ended by itself (monotonic)."""
        self._troubles: dict[str, str] = {}
        self._lasting = _Lasting(emit, once)
        self._error: events.InternalError | None = None
        self._totals = Totals(time.time())
        self._are_totals_new = False
        self._watching: Message | None = None
        """The last event that says which pools are to be watched."""
        self._looked: dict[str, float] = {}
        """When each of them last got a look (monotonic)."""

    def _attempt(self, act: Callable[[], None]) -> None:
        try:
            act()
        except Exception as error:
            self._error = internal_error("", error)

    def apply(self, recording: Recording, contents: Contents) -> None:
        """Follow the settings: start and end children. `contents` is the configuration."""
        if recording != self._recording:
            self._recording = recording
            self._attempt(lambda: self._apply(recording, contents))

    def _apply(self, recording: Recording, contents: Contents) -> None:
        why = ""
        try:
            recording = replace(recording, history=in_force(recording, contents))
        except HistoryError as error:
            recording = replace(recording, history=None)
            why = str(error)
        if recording.summary != "off" and recording.history is None and not why:
            why = "summary=daily needs the history, which is off (history=off)"
        for name, kind in _KINDS.items():
            settings = kind.settings_in(recording)
            if self._settings.get(name) != settings:
                self._end(name)
                self._troubles.pop(name, None)
                self._settings[name] = settings
                self._start(name, recording)
        if why:
            self._troubles["history"] = why
        self._in_force = recording

    def _start(self, name: str, recording: Recording) -> None:
        kind = _KINDS[name]
        if not kind.is_wanted(recording):
            return
        try:
            self._children[name] = started = Child(name, kind.consume, recording)
            if self._watching and name == "metrics":
                # A pool that should be watched, and is not, has to be known there.
                started.send(self._watching, is_event=True)
        except OSError as error:
            self._ended[name] = time.monotonic()
            self._troubles[name] = f"no process could be started: {error.strerror}; trying again"

    def _end(self, name: str) -> None:
        self._ended.pop(name, None)
        self._looked.pop(name, None)
        running = self._children.pop(name, None)
        if running:
            running.close()

    def want_a_look(self) -> bool:
        """Whether one of them is to get the next look."""
        return any(map(self._is_due, self._children))

    def _is_due(self, name: str) -> bool:
        # Looks come with the ticks, which are up to 2 s early or late.
        looked = self._looked.get(name)
        return looked is None or time.monotonic() - looked >= _KINDS[name].period - _EARLY

    def take(self, event: Event) -> None:
        """A sink of events."""
        self._attempt(lambda: self._take(event))

    def _take(self, event: Event) -> None:
        self._totals(event)
        if isinstance(event, events.Watching):
            self._watching = _message(event)
        if self._children:
            message = _message(event)
            for running in self._children.values():
                running.send(message, is_event=True)

    def look(self, rows: Sequence[PoolRow]) -> None:
        """The pools were looked at; `rows` are there if one of the sinks wants them."""
        self._attempt(lambda: self._look(rows))
        self._report()

    def _look(self, rows: Sequence[PoolRow]) -> None:
        now = time.monotonic()
        lasting = sorted(self._once.lasting_kinds())
        message = {"kind": "look", "at": time.time(), "pools": rows, "lasting": lasting}
        for name, running in self._children.items():
            if self._is_due(name):
                self._looked[name] = now
                running.send(message, is_event=False)
        for name in [name for name, ended in self._ended.items() if now - ended >= _RESTART]:
            del self._ended[name]
            self._troubles.pop(name, None)
            self._start(name, self._in_force)

    def with_totals(self, rows: Iterable[PoolRow]) -> list[PoolRow]:
        """The status of the pools with what is counted of them, also by earlier listeners."""
        add = self._totals.without if self._is_history_unread() else self._totals.into
        return [add(row) for row in rows]

    def has_new_totals(self) -> bool:
        """Whether those of earlier listeners have come since this was last asked."""
        are_new, self._are_totals_new = self._are_totals_new, False
        return are_new

    def _is_history_unread(self) -> bool:
        """Whether the totals of earlier listeners are still to come; not if the history cannot be read."""
        running = self._children.get("history")
        if running is None or self._totals.are_continued or self._troubles.get("history"):
            return False
        return running.stalled() < child.PATIENCE

    # For the loop of the listener.

    def fds(self) -> dict[int, int]:
        """Descriptors to wait for, each with its poll events."""
        wanted = {running.fd: select.POLLIN for running in self._children.values()}
        for running in self._children.values():
            out = running.wants()
            if out is not None:
                wanted[out] = select.POLLOUT
        return wanted

    def wake(self, ready: Iterable[int]) -> None:
        """These descriptors are ready; others may be among them."""
        self._attempt(lambda: self._wake(ready))

    def _wake(self, ready: Iterable[int]) -> None:
        fds = set(ready)
        for name, running in list(self._children.items()):
            if running.wants() in fds:
                running.flush()
            if running.fd in fds:
                self._read(name, running)

    def _read(self, name: str, running: Child) -> None:
        told = running.read()
        if told is None:
            self._end(name)
            self._ended[name] = time.monotonic()
            self._troubles.setdefault(name, f"its process has ended; it is started again in {_RESTART:.0f} s")
        for message in told or ():
            self._handle(name, message)

    def _handle(self, name: str, message: Message) -> None:
        if "note" in message:
            self._emit(_KINDS[name].trouble("", time.time(), str(message["note"])))
        if "trouble" in message:
            self._troubles[name] = str(message["trouble"])
        if "totals" in message:
            self._are_totals_new = not self._totals.are_continued
            self._totals.continue_from(message["totals"])
        for line in message.get("lines", ()):
            kind = events.Summary if line["kind"] == "summary" else events.LimitSuggested
            self._emit(kind(line["pool"], time.time(), line["text"]))

    def _report(self) -> None:
        """Log what is wrong, once."""
        if self._error:
            error, self._error = self._error, None
            self._once(error)
        for name, kind in _KINDS.items():
            running = self._children.get(name)
            trouble = self._troubles.get(name, "")
            if running and running.stalled() >= child.PATIENCE:
                trouble = _STALLED
            elif running and running.lost and not trouble and not running.wants():
                running.lost = 0
                self._emit(kind.trouble("", time.time(), _LOST))
            self._lasting.follow(kind, trouble, is_running=running is not None)

    def close(self) -> None:
        for name in list(self._children):
            self._end(name)
