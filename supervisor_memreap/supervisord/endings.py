"""How programs ended: stopped because a user asked for it, or by themselves."""

from __future__ import annotations

import re
import time
from collections.abc import Callable

from supervisor_memreap.core.model import Ending, Program
from supervisor_memreap.supervisord.client import Client, Unavailable
from supervisor_memreap.supervisord.protocol import Event

# The endings that supervisord's events report.
_ENDINGS = {
    "PROCESS_STATE_STOPPING": Ending.STOPPED,
    "PROCESS_STATE_STOPPED": Ending.STOPPED,
    "PROCESS_STATE_EXITED": Ending.EXITED,
    "PROCESS_STATE_BACKOFF": Ending.EXITED,
}
# Programs may come and go under ever new names; of those that ended longer ago, supervisord's log tells.
_MOST = 1000


class Endings:
    """How programs ended: by events, for listeners that subscribe to them; else by supervisord's log."""

    def __init__(self, connect: Callable[[], Client]):
        self._connect = connect
        self._known: dict[tuple[str, str], tuple[float, Ending]] = {}
        """By group and name: when (wall clock) and how a program ended last."""

    def note(self, event: Event) -> None:
        ending = _ENDINGS.get(event.name)
        match = re.match(r"processname:(\S+) groupname:(\S+) ", event.payload)
        if ending and match:
            self._known.pop((match[2], match[1]), None)  # the last to end is the last
            self._known[match[2], match[1]] = (time.time(), ending)
            if len(self._known) > _MOST:
                del self._known[next(iter(self._known))]

    def of(self, program: Program, since: float) -> Ending:
        """How it ended after `since`, in seconds since 1970."""
        at, ending = self._known.get((program.group, program.name), (0.0, Ending.UNKNOWN))
        if at >= since:
            return ending
        try:
            return self._connect().how_ended(program, since)
        except Unavailable:
            return Ending.UNKNOWN
