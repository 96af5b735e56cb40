"""The log: one line an event to a stream that may be closed or full, which never ends the listener."""

from __future__ import annotations

import os
import select
import time
import traceback
from collections.abc import Callable
from typing import TextIO

from supervisor_memreap.core.events import Event, InternalError, Sink


def to(stream: TextIO | None, stamped: bool) -> Callable[[str], None]:
    """A function that writes one line.

    `stamped` is for the listener: supervisord puts no time on its lines, and nothing that reads them, or does not,
    may hold it up. A line for which there is no room is left out, and the next one says so.
    """
    missing = 0

    def print_line(text: str) -> None:
        nonlocal missing
        if missing and write(f"{missing} lines are missing here: the log was not read, and there was no room for them"):
            missing = 0
        if missing or not write(text):
            missing += 1

    def write(text: str) -> bool:
        stamp = time.strftime("%Y-%m-%d %H:%M:%S ") if stamped else ""
        # What comes from a configuration or a process may hold anything: one event stays one line.
        line = f"{stamp}memreap: {''.join(char if char.isprintable() else '?' for char in text)}"
        try:
            if stream is None:
                return True
            if stamped:
                return _write_at_once(stream, line)
            print(line, file=stream, flush=True)
        except (OSError, ValueError):
            pass  # no one reads it any more; the work goes on
        return True

    return print_line


def _write_at_once(stream: TextIO, line: str) -> bool:
    """Whether there was room. Not by O_NONBLOCK: others write to this file too, and it would be set for them."""
    if not select.select([], [stream], [], 0)[1]:
        return False
    # So much a pipe takes without a wait when it is writable; a character that is cut in two goes as well.
    fits = line.encode()[: select.PIPE_BUF - 1].decode(errors="ignore")
    os.write(stream.fileno(), f"{fits}\n".encode())
    return True


def sink(print_line: Callable[[str], None]) -> Sink:
    """The log of events: a line each."""
    return lambda event: print_line(f"{event.pool}: {event.text}" if event.pool else event.text)


def internal_error(pool: str, error: Exception) -> InternalError:
    """With the place where it was raised."""
    place = traceback.extract_tb(error.__traceback__)[-1]
    return InternalError(pool, time.time(), repr(error), f"{os.path.basename(place.filename)}:{place.lineno}")


class Once:
    """A sink that passes on an event of a lasting state: again only if its text has changed since."""

    def __init__(self, emit: Sink):
        self._emit = emit
        self._last: dict[tuple[type[Event], str], str] = {}

    def __call__(self, event: Event) -> None:
        key = type(event), event.pool
        if self._last.get(key) != event.text:
            self._last[key] = event.text
            self._emit(event)

    def follow(self, kind: type[Event], event: Event | None, pool: str = "") -> None:
        """The state of this kind, or that there is none."""
        if event:
            self(event)
        else:
            self.clear(kind, pool)

    def has_passed(self, kind: type[Event], pool: str = "") -> bool:
        return (kind, pool) in self._last

    def lasting(self, *kinds: type[Event]) -> list[str]:
        """The texts of the states of these kinds that last."""
        return [text for (kind, _), text in self._last.items() if kind in kinds]

    def clear(self, kind: type[Event], pool: str = "") -> bool:
        """That state is over; whether there was any."""
        return self._last.pop((kind, pool), None) is not None
