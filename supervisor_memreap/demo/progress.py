"""What the demo counts: the workers signalled, by the listener's log in JSON, and those of them that are gone."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from supervisor_memreap.core.events import kinds
from supervisor_memreap.core.model import Pool

# The name of each event that is shown: one that is announced to other programs.
_SHOWN = {kind.__name__ for kind in kinds() if kind.announced_as}


def read(log: Path) -> list[dict[str, Any]]:
    """The whole lines of a log, an event each; a line that is not from memreap has only a message. Raises OSError."""
    lines = log.read_text(encoding="utf-8", errors="replace").rpartition("\n")[0].splitlines()
    return [json.loads(line) if line.startswith('{"version"') else {"message": line} for line in lines]


class Tally:
    def __init__(self, log: Path) -> None:
        self._log = log
        self._read = 0
        self._signalled: set[int] = set()
        self._freed: dict[int, int] = {}
        self._held: dict[int, int] = {}
        self._fresh: list[int] = []
        self.lines: list[str] = []
        self._before: set[int] | None = None
        """Those that were signalled before the pool was saturated."""
        self.pool: Pool | None = None

    def update(self, pool: Pool) -> list[str]:
        """Take in what was seen just now; what is new of what happened, with the time of day in front."""
        if pool.manager is not None:  # else supervisord did not answer
            self.pool = pool
            for worker in pool.workers:
                used = worker.used or 0
                if used and worker.id.pid not in self._held:
                    self._fresh.append(used)
                self._held[worker.id.pid] = used
        events = read(self._log)
        new = []
        for event in events[self._read :]:
            if event.get("name") == "Signalled":
                self._signalled.add(event["pid"])
            elif event.get("name") == "Left" and event["came_back"] is not None:
                self._freed[event["pid"]] = event["came_back"]
            if event.get("name") in _SHOWN:
                new.append(f"{time.strftime('%H:%M:%S', time.localtime(event['at']))} {event['message']}")
        self._read = len(events)
        self.lines += new
        return new

    @property
    def leaving(self) -> set[int]:
        """The pids of those that were signalled and are there."""
        return self._signalled & ({worker.id.pid for worker in self.pool.workers} if self.pool else set())

    @property
    def reaped(self) -> int:
        return len(self._signalled) - len(self.leaving)

    def begin_saturation(self, text: str) -> str:
        """Count those that are signalled from now on separately too; the line about it."""
        self._before = set(self._signalled)
        line = f"{time.strftime('%H:%M:%S')} {text}"
        self.lines.append(line)
        return line

    @property
    def reaped_saturated(self) -> int:
        """The part of `reaped` that was signalled while the pool was saturated."""
        return 0 if self._before is None else len(self._signalled - self._before - self.leaving)

    @property
    def held(self) -> int:
        """What the pool holds now, in bytes."""
        return sum(worker.used or 0 for worker in self.pool.workers) if self.pool else 0

    @property
    def freed(self) -> int:
        """What came free when those that were reaped left, in bytes; until that is logged, what they held."""
        return sum(self._freed.get(pid, self._held.get(pid, 0)) for pid in self._signalled - self.leaving)

    @property
    def fresh(self) -> int:
        """What a worker begins with, in bytes: the least that one held when it was first seen."""
        return min(self._fresh, default=0)
