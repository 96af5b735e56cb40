"""Gives supervisord what others may ask it for: the state of the pools, announcements, and answers to commands."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence

from supervisor_memreap import __version__
from supervisor_memreap.core import events
from supervisor_memreap.core.rows import PoolRow
from supervisor_memreap.outputs.announcements import Announcements
from supervisor_memreap.outputs.answers import Answers
from supervisor_memreap.outputs.lasting import Once
from supervisor_memreap.outputs.statusrows import VERSION
from supervisor_memreap.supervisord.client import Client, Unavailable


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
        if self.is_read:
            status = {
                "version": VERSION,
                "memreap": __version__,
                "looked": self._looked,
                "troubles": [*self._once.lasting("troubles"), *self._troubles()],
                "warnings": self._once.lasting("warnings"),
                "pools": self._pools(),
                "answers": self.answers.values(),
            }
            self.is_read = client.publish(json.dumps(status))

    def _announce(self, client: Client) -> None:
        self.announcements.send(client.announce)
