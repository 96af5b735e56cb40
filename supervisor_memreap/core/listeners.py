"""How memreap's listener is recognised, and the states that it has. Pure, and small: supervisord itself imports it."""

from __future__ import annotations

import enum
import re

# Each word may be quoted, and a shell may run it, with more commands behind it.
_COMMAND = re.compile(
    r"""memreap\S*(?:\s+["']?(?:-c|--conf[a-z]*)["']?[\s=]*\S+)?\s+["']?listen(?![\w-])(?P<words>[^;&|]*)"""
)


class ListenerState(str, enum.Enum):
    """`listener_state` of memreap.getListener: what supervisord's event protocol has come to."""

    READY = "READY"
    BUSY = "BUSY"
    ACKNOWLEDGED = "ACKNOWLEDGED"
    UNKNOWN = "UNKNOWN"
    """It broke the protocol: it no longer receives events."""
    NONE = "NONE"
    """There is no listener."""


def is_listener(command: str) -> bool:
    """Whether this is a command of memreap's listener."""
    return bool(_COMMAND.search(command))


def words_of_listener(command: str) -> list[str]:
    """What follows `listen` in the command, without quotation marks; none where it is another command."""
    match = _COMMAND.search(command)
    return [bare for part in match["words"].split() if (bare := part.strip("\"'"))] if match else []
