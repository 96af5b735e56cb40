"""The log: one line for each event, to a stream that may be closed or full; that never stops the listener."""

from __future__ import annotations

import json
import os
import select
import time
from typing import TextIO

from supervisor_memreap.core.events import Event, LinesMissing, Sink
from supervisor_memreap.core.settings import Settings
from supervisor_memreap.outputs import fields, log


def sink(stream: TextIO | None, is_json: bool = False) -> Sink:
    """A log of events, for commands: one line for each."""
    return lambda event: log.write(stream, json.dumps(fields.of(event)) if is_json else log.line(_text(event)))


def _text(event: Event) -> str:
    return f"{event.pool}: {event.text}" if event.pool else event.text


class Log:
    """The listener's log, a sink: each event is one line, as text with the time, or as JSON.

    A reader that is slow or absent must not block the listener. A line for which there is no room is dropped, and the
    next one reports it.
    """

    def __init__(self, stream: TextIO | None, is_json: bool = False):
        self._stream = stream
        self._is_json = is_json
        self._missing = 0

    def apply(self, settings: Settings) -> None:
        """From now on, write in the configured format."""
        self._is_json = settings.recording.log == "json"

    def __call__(self, event: Event) -> None:
        if self._missing and self._write(LinesMissing("", time.time(), self._missing)):
            self._missing = 0
        if self._missing or not self._write(event):
            self._missing += 1

    def _write(self, event: Event) -> bool:
        """Whether there was room, as far as that is known."""
        try:
            if self._stream is None:
                return True
            # O_NONBLOCK would also be set for the other writers of this file.
            if not select.select([], [self._stream], [], 0)[1]:
                return False
            os.write(self._stream.fileno(), f"{self._line(event)}\n".encode())
        except (OSError, ValueError):
            pass  # nothing reads any more; the work continues
        return True

    def _line(self, event: Event) -> str:
        # A writable pipe accepts PIPE_BUF bytes without blocking.
        room = select.PIPE_BUF - 1
        if self._is_json:
            return fields.line(fields.of(event), room)
        # supervisord adds no time to the lines. A character that is cut in two is dropped as well.
        whole = f"{time.strftime('%Y-%m-%d %H:%M:%S')} {log.line(_text(event))}"
        return whole.encode()[:room].decode(errors="ignore")
