"""Gives supervisord what others may ask it for: the state of the pools, announcements, and answers to commands."""

from __future__ import annotations

import base64
import json
import os
import time
import zlib
from collections.abc import Callable, Sequence

from supervisor_memreap import __version__
from supervisor_memreap.core import events
from supervisor_memreap.core.command import Command
from supervisor_memreap.core.events import Event
from supervisor_memreap.core.rows import VERSION, PoolRow, as_json, pools_as_json
from supervisor_memreap.outputs import fields
from supervisor_memreap.outputs.lasting import Once
from supervisor_memreap.supervisord.client import Client, Refused, Unavailable

# At most this many announcements wait while supervisord accepts none; then the oldest are lost.
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


# Answers kept for the senders, who ask within seconds.
_MAX_ANSWERS = 20
# A sender that waits for its answer sends the command again; it expires after some seconds.
_MAX_KNOWN = 1000


class Answers:
    """The answers to commands, by their ids, for their senders; a command without one gets no answer."""

    def __init__(self) -> None:
        self._answers: dict[str, dict[str, object]] = {}
        self._begun: dict[Command, None] = {}

    def begin(self, command: Command) -> bool:
        """Whether to carry this command out: False if it was carried out before, and has been sent again.

        Its time counts too: a script may send the same command with the same id every day.
        """
        if not command.id or command.until is None:
            return True
        if command in self._begun:
            return False
        self._begun[command] = None
        while len(self._begun) > _MAX_KNOWN:
            del self._begun[next(iter(self._begun))]
        return True

    def give(self, id: str, ok: bool, text: str) -> None:
        if id:
            self._answers[id] = {"ok": ok, "text": text}
        while len(self._answers) > _MAX_ANSWERS:
            del self._answers[next(iter(self._answers))]

    def values(self) -> dict[str, dict[str, object]]:
        """The answers that memreap.getAnswer returns."""
        return dict(self._answers)


class Publisher:
    """`pools` returns the state of the pools; `troubles`, what else is wrong."""

    def __init__(
        self, pools: Callable[[], Sequence[PoolRow]], once: Once, troubles: Callable[[], Sequence[str]] = tuple
    ):
        self._pools = pools
        self._troubles = troubles
        self._once = once
        self.answers = Answers()
        self.announcements = Announcements()
        self._looked: float | None = None
        """When the pools were last looked at, in seconds since 1970: publishing an answer is not a look."""
        self.is_read = True
        """False once supervisord turns out to have no [rpcinterface:memreap]: it loads one only when it restarts, and
        then so does the listener.
        """
        self._is_packed = True
        """False once that turns out to be of an older memreap, which cannot unpack the pools."""

    def note_look(self) -> None:
        """The pools were looked at now."""
        self._looked = time.time()

    def publish(self, client: Client) -> None:
        """Publish everything, at the end of a tick."""
        trouble = None
        for step in (self._publish_status, self._announce):
            try:
                step(client)
            except Unavailable as error:
                trouble = events.NotPublished("", time.time(), str(error))
        self._once.follow(events.NotPublished, trouble)

    def _publish_status(self, client: Client) -> None:
        if not self.is_read:
            return
        pools = self._pools()
        status = {
            "version": VERSION,
            "memreap": __version__,
            "pid": os.getpid(),
            "looked": self._looked,
            "troubles": [*self._once.lasting("troubles"), *self._troubles()],
            "warnings": self._once.lasting("warnings"),
            "answers": self.answers.values(),
        }
        try:
            if self._is_packed:
                packed = base64.b64encode(zlib.compress(pools_as_json(pools).encode(), 1)).decode()
                self.is_read = client.publish(json.dumps({**status, "pools": packed}))
                return
        except Refused:
            pass
        self.is_read = client.publish(as_json({**status, "pools": pools}))
        self._is_packed = False  # it accepts this, and not the other

    def _announce(self, client: Client) -> None:
        self.announcements.send(client.announce)
