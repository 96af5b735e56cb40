"""What happened, for other listeners of supervisord, until it has taken it."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence

from supervisor_memreap.core.events import Event

# The form of an announcement; raised when a name goes or changes its meaning, not when one is added.
VERSION = 1
# So many wait while supervisord takes none; the oldest are lost then.
_MOST = 1000


class Announcements:
    """All that happened in a tick goes out as one event.

    supervisord keeps only `buffer_size` events, 10 by default, for a listener that is at work, and drops the oldest.
    With an event for each worker, those of 14 pools pushed out the commands that waited.
    """

    def __init__(self) -> None:
        self._waiting: list[str] = []

    def add(self, event: Event) -> None:
        values = {
            "version": VERSION,
            "event": event.announced_as,
            "pool": event.pool,
            "pid": event.pid,
            "message": event.text,
            "at": round(event.at, 3),
        }
        self._waiting = [*self._waiting, json.dumps(values)][-_MOST:]

    def send(self, send: Callable[[Sequence[str]], None]) -> None:
        """Those that `send` raises for stay, and go out with the next: one may come twice, none is lost."""
        if self._waiting:
            send(self._waiting)
            self._waiting = []
