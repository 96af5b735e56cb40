"""An event as plain values, the same for the log in JSON, announcements and the history. Pure."""

from __future__ import annotations

import dataclasses
import enum
import json
import math
import re
from collections.abc import Mapping
from typing import Any

from supervisor_memreap.core.events import Event
from supervisor_memreap.core.model import ProcessId
from supervisor_memreap.core.settings import PoolSettings, key_of
from supervisor_memreap.outputs.words import time_text

VERSION = 1
"""The version of these fields; increased when a key is removed or changes its meaning, not when one is added."""


def of(event: Event) -> dict[str, Any]:
    """All fields of the event: first the common ones, then its own. Sizes in bytes, times in seconds.

    A process is its pid. `reason` is the setting for which a worker goes; its numbers are in `evidence`.
    """
    own = {field.name: getattr(event, field.name) for field in dataclasses.fields(event)}
    reason = own.pop("reason", None)
    values: dict[str, Any] = {
        "version": VERSION,
        "event": kind_of(type(event)),
        "name": type(event).__name__,
        "pool": plain(own.pop("pool")),
        "pid": event.pid,
        "reason": event.asked_by,
        "message": plain(event.text),
        "at": round(own.pop("at"), 3),
        "time": time_text(event.at),
    }
    own.pop("worker", None)
    if reason is not None:
        own["evidence"] = reason
    return {**values, **{key: plain(value) for key, value in own.items()}}


def kind_of(event: type[Event]) -> str:
    """What the field `event` has for events of this class."""
    return event.announced_as or _words(event.__name__)


COMMON = ("version", "event", "name", "pool", "pid", "reason", "message", "at", "time")
"""The fields that every event has."""


def line(values: Mapping[str, Any], room: int) -> str:
    """The fields as JSON, in ASCII, of at most `room` characters.

    If they do not fit, the largest of those that not every event has are left out, then the texts are cut, and
    `shortened` is true.
    """
    whole = json.dumps(values)
    if len(whole) <= room:
        return whole
    sizes = {key: len(json.dumps(value)) for key, value in values.items()}
    kept = {**values, "shortened": True}
    for key in sorted(sizes.keys() - set(COMMON), key=lambda key: sizes[key], reverse=True):
        if len(json.dumps(kept)) > room:
            del kept[key]
    for key in sorted(("message", "pool"), key=lambda key: sizes[key], reverse=True):
        excess = len(json.dumps(kept)) - room
        if excess > 0:
            kept[key] = _cut(kept[key], sizes[key] - excess)
    return json.dumps(kept)


def _cut(text: str, room: int) -> str:
    """Its longest beginning that fits `room` characters in JSON, where a character may take 12."""
    fits, too_long = 0, len(text) + 1
    while fits + 1 < too_long:
        middle = (fits + too_long) // 2
        if len(json.dumps(text[:middle])) <= room:
            fits = middle
        else:
            too_long = middle
    return text[:fits]


def plain(value: Any) -> Any:
    """A value of an event as JSON has it, to the microsecond; an unlimited number is null."""
    if isinstance(value, ProcessId):
        return value.pid
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, str):
        # A lone surrogate represents a byte that is not UTF-8. Strict readers of JSON, and SQLite, refuse it.
        return value.encode(errors="replace").decode()
    if isinstance(value, float):
        return round(value, 6) if math.isfinite(value) else None
    if isinstance(value, PoolSettings):
        return {key_of(field.name): plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if dataclasses.is_dataclass(value):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, tuple) and hasattr(value, "_asdict"):
        return plain(value._asdict())
    if isinstance(value, Mapping):
        return {str(key): plain(part) for key, part in value.items()}
    if isinstance(value, (tuple, list, set, frozenset)):
        return [plain(part) for part in value]
    return value


def _words(name: str) -> str:
    """`cannot_hold` of CannotHold."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower()
