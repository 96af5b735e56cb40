"""The outputs that may have to wait, each in a child process: they get every event, and looks."""

from __future__ import annotations

import select
import time
from collections.abc import Collection, Iterable, Sequence
from typing import NamedTuple

from supervisor_memreap.core import events
from supervisor_memreap.core.counters import Totals
from supervisor_memreap.core.events import Event, Sink
from supervisor_memreap.core.recording import Recording
from supervisor_memreap.core.rows import PoolRow
from supervisor_memreap.history.historypath import HistoryError, in_force
from supervisor_memreap.listener.wakeable import Wakeable
from supervisor_memreap.outputs import child, fields
from supervisor_memreap.outputs.child import Child
from supervisor_memreap.outputs.guard import Guard
from supervisor_memreap.outputs.inbox import Message
from supervisor_memreap.outputs.lasting import Once
from supervisor_memreap.outputs.statusrows import with_notes
from supervisor_memreap.supervisord.configfile import Contents

# Seconds before its time that an output gets a look.
_EARLY = 2.5
# Seconds until a child that has ended is started again.
_RESTART = 30.0
_STALLED = f"nothing was written for {child.PATIENCE:.0f} s: the disk may be hanging; up to 4 MB is buffered"
_LOST = "some entries were dropped: the recorder fell behind"


class _Kind(NamedTuple):
    name: str
    consume: str
    """As in Child."""
    over: type[events.OutputWorks]
    wanted_by: tuple[str, ...]
    """It is started if one of these settings is not off."""
    keys: tuple[str, ...]
    """The settings with which it is started; a change of one restarts it."""
    period: float
    """Seconds between two looks that it gets."""
    reads_workers: bool
    """Whether it needs more of each worker than its note."""
    is_of_now: bool
    """It has to know which pools should be watched now, and are not, whenever it is started."""

    @property
    def trouble(self) -> type[events.OutputFailed]:
        return self.over.ends


_HISTORY = _Kind(
    "history",
    "supervisor_memreap.history.historywriter:consume",
    events.RecordedAgain,
    wanted_by=("history",),
    keys=("history", "history_size", "summary"),
    period=60.0,
    reads_workers=True,
    is_of_now=False,
)
_METRICS = _Kind(
    "metrics",
    "supervisor_memreap.outputs.metrics:consume",
    events.ExposedAgain,
    wanted_by=("metrics", "metrics_file"),
    keys=("metrics", "metrics_file"),
    period=0.0,
    reads_workers=False,
    is_of_now=True,
)
_KINDS = (_HISTORY, _METRICS)


class SlowOutput:
    """One of them: its child process, with the settings that this was started with, and what is wrong with it."""

    def __init__(self, kind: _Kind, emit: Sink, once: Once):
        self._kind = kind
        self._emit = emit
        self._once = once
        self.child: Child | None = None
        self.trouble = ""
        """What is wrong now; empty: nothing is known to be."""
        self._recording = Recording(history=None)
        self._settings: tuple[object, ...] | None = None
        """Those of its keys with which the child was started, or could not be."""
        self._ended: float | None = None
        """When the child ended by itself, or could not be started (monotonic)."""
        self._looked: float | None = None
        """When it last got a look (monotonic)."""
        self._is_recovering = False
        """Whether nothing is wrong since the last look."""

    def apply(self, recording: Recording, watching: Message | None) -> None:
        """Start the child anew if a setting of its own has changed; `watching` is the first message for it."""
        self._recording = recording
        settings = tuple(getattr(recording, key) for key in self._kind.keys)
        if settings != self._settings:
            self.close()
            self.trouble = ""
            self._settings = settings
            self._start(watching)

    def _start(self, watching: Message | None) -> None:
        self._ended = None
        if all(getattr(self._recording, key) is None for key in self._kind.wanted_by):
            return
        try:
            self.child = Child(self._kind.name, self._kind.consume, self._recording)
            if watching and self._kind.is_of_now:
                self.child.send(watching, is_event=True)
        except OSError as error:
            self._ended = time.monotonic()
            self.trouble = f"no process could be started: {error.strerror}; trying again"

    def close(self) -> None:
        self._ended = self._looked = None
        running, self.child = self.child, None
        if running:
            running.close()

    def is_due(self, whole: bool) -> bool:
        """Whether it is to get the next look, if that is `whole`."""
        # Looks come with the ticks, which are up to 2 s early or late.
        has_waited = self._looked is None or time.monotonic() - self._looked >= self._kind.period - _EARLY
        return self.child is not None and has_waited and (whole or not self._kind.reads_workers)

    def look(self, message: Message, rows: Sequence[PoolRow], whole: bool, watching: Message | None) -> None:
        """Hand over the look if it is due; to a child that is started again, if that is."""
        if self._ended is not None and time.monotonic() - self._ended >= _RESTART:
            self.trouble = ""
            self._start(watching)
        # The next look may be an hour away.
        if self.child and self.is_due(whole):
            self._looked = time.monotonic()
            if whole and not self._kind.reads_workers:
                rows = [with_notes(row) for row in rows]
            self.child.send({**message, "pools": rows}, is_event=False)

    def fds(self) -> dict[int, int]:
        if self.child is None:
            return {}
        out = self.child.wants()
        return {self.child.fd: select.POLLIN, **({} if out is None else {out: select.POLLOUT})}

    def wake(self, ready: Collection[int]) -> Sequence[Message]:
        """Write and read what these descriptors are ready for; what its child has sent."""
        running = self.child
        if running and running.wants() in ready:
            running.flush()
        if running is None or running.fd not in ready:
            return ()
        messages = running.read()
        if messages is None:
            self.close()
            self._ended = time.monotonic()
            self.trouble = self.trouble or f"its process ended; restarting it in {_RESTART:.0f} s"
        return messages or ()

    def note(self, message: Message) -> None:
        """Note what is wrong, as its child has sent it."""
        if "note" in message:
            self._emit(self._kind.trouble("", time.time(), str(message["note"])))
        self.trouble = str(message.get("trouble", self.trouble))

    def report(self) -> None:
        """Log what is wrong, once, and when that is over."""
        trouble, running, kind = self.trouble, self.child, self._kind
        if running and running.stalled() >= child.PATIENCE:
            trouble = _STALLED
        elif running and running.lost and not trouble and not running.wants():
            running.lost = 0
            self._emit(kind.trouble("", time.time(), _LOST))
        if trouble:
            self._once(kind.trouble("", time.time(), trouble))
            self._is_recovering = False
        elif self._once.clear(kind.trouble):
            self._is_recovering = True
        elif self._is_recovering:
            # A look later: a child that was just started has had time to find something wrong.
            self._is_recovering = False
            if running:
                self._emit(kind.over("", time.time()))


class SlowOutputs(Wakeable):
    """`emit` gets what the outputs themselves have to say; `once`, what is wrong with one.

    No error in here reaches the caller, who goes on reaping: it is a line in the log, after the next look.
    """

    def __init__(self, emit: Sink, once: Once):
        self._emit = emit
        self._once = once
        self._all = tuple(SlowOutput(kind, emit, once) for kind in _KINDS)
        self._history = self._all[_KINDS.index(_HISTORY)]
        self._recording: Recording | None = None
        """As it is set."""
        self._error: Event | None = None
        self._totals = Totals(time.time())
        self._are_totals_new = False
        self._watching: Message | None = None
        """The last event with the watched pools."""

    def _note_error(self, event: Event) -> None:
        self._error = event

    def apply(self, recording: Recording, contents: Contents) -> None:
        """Follow the settings: start and end children. `contents` is the configuration."""
        if recording != self._recording:
            self._recording = recording
            with Guard(self._note_error):
                self._apply(recording, contents)

    def _apply(self, recording: Recording, contents: Contents) -> None:
        why = ""
        try:
            recording = recording._replace(history=in_force(recording, contents))
        except HistoryError as error:
            recording = recording._replace(history=None)
            why = str(error)
        if recording.summary != "off" and recording.history is None and not why:
            why = "summary=daily needs the history, which is off (history=off)"
        for output in self._all:
            output.apply(recording, self._watching)
        if why:
            self._history.trouble = why

    def want_a_look(self) -> bool:
        """Whether one of them is to get the next look."""
        return any(output.is_due(whole=True) for output in self._all)

    def want_workers(self) -> bool:
        """Whether one of those needs the workers in full."""
        return any(output.is_due(whole=True) and not output.is_due(whole=False) for output in self._all)

    def take(self, event: Event) -> None:
        """A sink of events."""
        with Guard(self._note_error):
            self._totals(event)
            running = [output.child for output in self._all if output.child]
            if not running and not isinstance(event, events.Watching):
                return
            message: Message = {"kind": "event", **fields.of(event)}
            if isinstance(event, events.Watching):
                self._watching = message
            for each in running:
                each.send(message, is_event=True)

    def look(self, rows: Sequence[PoolRow], period: float | None, whole: bool = True) -> None:
        """The pools were looked at; `rows` are there if one of the outputs wants them, and `whole` if it needs that.

        `period` is the number of seconds between two ticks; None: it is not known yet.
        """
        with Guard(self._note_error):
            lasting = sorted(self._once.lasting_kinds())
            message = {"kind": "look", "at": time.time(), "lasting": lasting, "period": period}
            for output in self._all:
                output.look(message, rows, whole, self._watching)
        if self._error:
            error, self._error = self._error, None
            self._once(error)
        for output in self._all:
            output.report()

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
        running = self._history.child
        if running is None or self._totals.are_continued or self._history.trouble:
            return False
        return running.stalled() < child.PATIENCE

    # For the loop of the listener.

    def fds(self) -> dict[int, int]:
        return {fd: wanted for output in self._all for fd, wanted in output.fds().items()}

    def wake(self, readable: Collection[int]) -> None:
        """As Wakeable; the descriptors may be writable too."""
        with Guard(self._note_error):
            for output in self._all:
                for message in output.wake(readable):
                    output.note(message)
                    self._handle(message)

    def _handle(self, message: Message) -> None:
        if "totals" in message:
            self._are_totals_new = not self._totals.are_continued
            self._totals.continue_from(message["totals"])
        for line in message.get("lines", ()):
            kind = events.Summary if line["kind"] == "summary" else events.LimitSuggested
            self._emit(kind(line["pool"], time.time(), line["text"]))

    def close(self) -> None:
        for output in self._all:
            output.close()
