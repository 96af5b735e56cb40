"""The log: one line for each event, to a stream that may be closed or full; that never stops the listener."""

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

    `stamped` is for the listener: supervisord adds no time to its lines, and a reader that is slow or absent must not
    block it. A line for which there is no room is dropped, and the next one says so.
    """
    missing = 0

    def print_line(text: str) -> None:
        nonlocal missing
        if missing and write(f"{missing} lines are missing here: nothing read the log, and there was no room for them"):
            missing = 0
        if missing or not write(text):
            missing += 1

    def write(text: str) -> bool:
        stamp = time.strftime("%Y-%m-%d %H:%M:%S ") if stamped else ""
        # Text from a configuration or a process may contain anything; one event must stay one line.
        line = f"{stamp}memreap: {''.join(char if char.isprintable() else '?' for char in text)}"
        try:
            if stream is None:
                return True
            if stamped:
                return _write_at_once(stream, line)
            print(line, file=stream, flush=True)
        except (OSError, ValueError):
            pass  # nothing reads any more; the work continues
        return True

    return print_line


def _write_at_once(stream: TextIO, line: str) -> bool:
    """Whether there was room. O_NONBLOCK would also be set for the other writers of this file."""
    if not select.select([], [stream], [], 0)[1]:
        return False
    # A writable pipe accepts this much without blocking; a character that is cut in two is dropped as well.
    fits = line.encode()[: select.PIPE_BUF - 1].decode(errors="ignore")
    os.write(stream.fileno(), f"{fits}\n".encode())
    return True


def sink(print_line: Callable[[str], None]) -> Sink:
    """A log of events: one line for each."""
    return lambda event: print_line(f"{event.pool}: {event.text}" if event.pool else event.text)


def internal_error(pool: str, error: Exception) -> InternalError:
    """The event, with the place where the error was raised."""
    place = traceback.extract_tb(error.__traceback__)[-1]
    return InternalError(pool, time.time(), repr(error), f"{os.path.basename(place.filename)}:{place.lineno}")


class Once:
    """A sink that passes on an event of a lasting state; again only if its text has changed."""

    def __init__(self, emit: Sink):
        self._emit = emit
        self._last: dict[tuple[type[Event], str], str] = {}

    def __call__(self, event: Event) -> None:
        key = type(event), event.pool
        if self._last.get(key) != event.text:
            self._last[key] = event.text
            self._emit(event)

    def follow(self, kind: type[Event], event: Event | None, pool: str = "") -> None:
        """Report the state of this kind; None: there is no such state now."""
        if event:
            self(event)
        else:
            self.clear(kind, pool)

    def has_passed(self, kind: type[Event], pool: str = "") -> bool:
        return (kind, pool) in self._last

    def lasting(self, *kinds: type[Event]) -> list[str]:
        """The texts of the states of these kinds that still last."""
        return [text for (kind, _), text in self._last.items() if kind in kinds]

    def clear(self, kind: type[Event], pool: str = "") -> bool:
        """End that state; whether there was one."""
        return self._last.pop((kind, pool), None) is not None
