"""Messages as the listener sends them to the history."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from typing import Any

from supervisor_memreap.core import events
from supervisor_memreap.core.model import ProcessId, SentMoment
from supervisor_memreap.core.reasons import OverLimit
from supervisor_memreap.outputs import fields
from supervisor_memreap.outputs.inbox import Inbox

MIB = 1024**2
STARTED = time.time() - 50 * 86400
"""When a worker was forked, by default."""


class Messages(Inbox):
    """An Inbox with these; `between` is called before each but the first. Batches of `at_once` do not wait."""

    def __init__(self, messages: Iterable[dict[str, Any]], between=lambda: None, at_once: int = 1):
        super().__init__(-1)
        self._messages = iter(messages)
        self._between = between
        self._at_once = at_once
        self._count = self._asked = 0

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for message in self._messages:
            if self._count:
                self._between()
            self._count += 1
            yield message

    def has_more(self, timeout: float = 0.0) -> bool:
        """A second call has time to wait: the next message arrives within `timeout`."""
        is_again, self._asked = self._asked == self._count, self._count
        return is_again or self._count % self._at_once > 0


def look(at: float, workers: dict[int, float], ages: dict[int, float] | None = None, **values: Any) -> dict[str, Any]:
    """A look at the pool `myapp`; workers are `pid: MiB`."""
    rows = [
        {"pid": pid, "age_seconds": (ages or {}).get(pid, at - STARTED), "used_bytes": int(mib * MIB)}
        for pid, mib in workers.items()
    ]
    pool = {"name": "myapp", "metric": "uss", "limit_bytes": 150 * MIB, "standing": "quiet", "workers": rows, **values}
    return {"kind": "look", "at": at, "pools": [pool]}


def left(at: float, pid: int = 11, mib: float = 100, pool: str = "myapp") -> dict[str, Any]:
    event = events.Left(
        pool, at, ProcessId(pid, 1.0), 0.4, ProcessId(99, 2.0), int(mib * MIB), 5 * MIB, int(mib * MIB), "uss"
    )
    return {"kind": "event", **fields.of(event)}


def signalled(at: float, pid: int = 11, pool: str = "myapp") -> dict[str, Any]:
    reason = OverLimit(160 * MIB, 150 * MIB, "uss")
    event = events.Signalled(pool, at, ProcessId(pid, 1.0), reason, "HUP", SentMoment.HELD, 60.0)
    return {"kind": "event", **fields.of(event)}


def now() -> float:
    return float(int(time.time()))
