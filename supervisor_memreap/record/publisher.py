"""Hands supervisord what others may ask it for: how the pools stand, what happened, and answers to commands."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from typing import Any

from supervisor_memreap import __version__
from supervisor_memreap.core import events
from supervisor_memreap.record.announcements import Announcements
from supervisor_memreap.record.answers import Answers
from supervisor_memreap.record.log import Once
from supervisor_memreap.record.status import VERSION
from supervisor_memreap.supervisord.client import Client, Unavailable


class Publisher:
    """`pools` says how they stand, as record.status has it."""

    def __init__(self, pools: Callable[[], Sequence[dict[str, Any]]], once: Once):
        self._pools = pools
        self._once = once
        self.answers = Answers()
        self.announcements = Announcements()
        self._looked: float | None = None
        """When the pools were last looked at, in seconds since 1970: an answer that is published is not a look."""
        # Until it is known that supervisord has no [rpcinterface:memreap]: it gets one only when it starts anew, and
        # then so do we.
        self._is_read = True

    def note_look(self) -> None:
        """The pools were looked at now."""
        self._looked = time.time()

    def publish(self, client: Client) -> None:
        """When all that is to be done has been done."""
        trouble = None
        for step in (self._publish_status, self._announce):
            try:
                step(client)
            except Unavailable as error:
                trouble = events.NotPublished("", time.time(), str(error))
        self._once.follow(events.NotPublished, trouble)

    def _publish_status(self, client: Client) -> None:
        if self._is_read:
            status = {
                "version": VERSION,
                "memreap": __version__,
                "looked": self._looked,
                "troubles": self._once.lasting(events.SettingsRefused, events.ProgramsMissing),
                "pools": self._pools(),
                "answers": self.answers.values(),
            }
            self._is_read = client.publish(json.dumps(status))

    def _announce(self, client: Client) -> None:
        self.announcements.send(client.announce)
