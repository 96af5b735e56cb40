"""What the demo counts: whom the listener signalled, by its log, and who of them is gone, by the demo's own looks."""

from __future__ import annotations

import re
from pathlib import Path

from supervisor_memreap.core.model import Pool

# The only place that reads the listener's log.
_STAMP = re.compile(r"^\d+-\d+-\d+ ([\d:]+) memreap: (demo: )?")
_SENT = re.compile(r"worker (\d+) .* sent")


class Tally:
    def __init__(self, log: Path) -> None:
        self._log = log
        self._read = 0
        self._signalled: set[int] = set()
        self._held: dict[int, int] = {}
        self._fresh: list[int] = []
        self.lines: list[str] = []
        self.pool: Pool | None = None

    def update(self, pool: Pool) -> list[str]:
        """Take in what was seen just now; the lines of the log that are new, with the time of day in front."""
        if pool.manager is not None:  # else supervisord did not answer
            self.pool = pool
            for worker in pool.workers:
                used = worker.used or 0
                if used and worker.id.pid not in self._held:
                    self._fresh.append(used)
                self._held[worker.id.pid] = used
        whole = self._log.read_text().rpartition("\n")[0].splitlines()
        new = [_STAMP.sub(r"\1 ", line) for line in whole[self._read :]]
        self._read = len(whole)
        self._signalled.update(int(sent[1]) for sent in map(_SENT.search, new) if sent)
        self.lines += new
        return new

    @property
    def leaving(self) -> set[int]:
        """The pids of those that were signalled and are there."""
        return self._signalled & ({worker.id.pid for worker in self.pool.workers} if self.pool else set())

    @property
    def reaped(self) -> int:
        return len(self._signalled) - len(self.leaving)

    @property
    def held(self) -> int:
        """What the pool holds now, in bytes."""
        return sum(worker.used or 0 for worker in self.pool.workers) if self.pool else 0

    @property
    def came_back(self) -> int:
        """What those that were reaped held when they were last seen, in bytes."""
        return sum(self._held.get(pid, 0) for pid in self._signalled - self.leaving)

    @property
    def fresh(self) -> int:
        """What a worker begins with, in bytes: the least that one held when it was first seen."""
        return min(self._fresh, default=0)
