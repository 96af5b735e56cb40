"""What happened, for other listeners of supervisord, until it has taken it."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence

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

    def add(self, kind: str, pool: str, pid: int, text: str, at: float) -> None:
        """`pid` is the worker's, or 0; `at` is when it happened, in seconds since 1970."""
        values = {"version": VERSION, "event": kind, "pool": pool, "pid": pid, "message": text, "at": round(at, 3)}
        self._waiting = [*self._waiting, json.dumps(values)][-_MOST:]

    def send(self, send: Callable[[Sequence[str]], None]) -> None:
        """Those that `send` raises for stay, and go out with the next: one may come twice, none is lost."""
        if self._waiting:
            send(self._waiting)
            self._waiting = []
