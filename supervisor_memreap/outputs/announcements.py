"""Announcements for other listeners of supervisord, kept until it has accepted them."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence

from supervisor_memreap.core.events import Event
from supervisor_memreap.outputs import fields

# At most this many wait while supervisord accepts none; then the oldest are lost.
_MOST = 1000


class Announcements:
    """Everything that happened in a tick is sent as one event.

    supervisord keeps only `buffer_size` events, 10 by default, for a busy listener, and discards the oldest. With an
    event for each worker, those of 14 pools pushed out the commands that waited.
    """

    def __init__(self) -> None:
        self._waiting: list[str] = []

    def add(self, event: Event) -> None:
        self._waiting = [*self._waiting, json.dumps(fields.of(event))][-_MOST:]

    def send(self, send: Callable[[Sequence[str]], None]) -> None:
        """If `send` raises, the announcements stay and are sent with the next: one may arrive twice, none is lost."""
        if self._waiting:
            send(self._waiting)
            self._waiting = []
