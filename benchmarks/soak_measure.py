"""What a listener, its children and its files hold at a moment, and what its log says about overlaps."""

from __future__ import annotations

import contextlib
import json
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from supervisor_memreap.host import procfs

KIB = 1024
# The children that stay; those that read sizes or bring a worker to its boundary end after a moment.
STAY = ("memreap history", "memreap metrics")


def sample(listener: int, files: Iterable[Path], history: Path) -> dict[str, int]:
    """Sizes in bytes. `files` are those with the state. Raises OSError if the listener has ended."""
    children = procfs.source().children(listener)
    own = _memory(listener)
    found = {
        "pss": own["Pss"] + own["SwapPss"],
        # Not Pss_Anon: while a fork goes on, it counts half of what that shares.
        "anonymous": own["Anonymous"] + own["Swap"],
        "resident": own["Rss"] + own["Swap"],
        "descriptors": len(os.listdir(f"/proc/{listener}/fd")),
        "threads": len(os.listdir(f"/proc/{listener}/task")),
        "children": len(children),
        "children_pss": 0,
        "children_anonymous": 0,
        "children_resident": 0,
        "children_descriptors": 0,
        "state": sum(map(_size, files)),
        "history": sum(_size(each) for each in (history, Path(f"{history}-journal"), Path(f"{history}-wal"))),
    }
    for child in children:
        with contextlib.suppress(OSError, ValueError):  # it has just ended
            if Path(f"/proc/{child}/comm").read_text().strip() in STAY:
                memory = _memory(child)
                found["children_descriptors"] += len(os.listdir(f"/proc/{child}/fd"))
                found["children_pss"] += memory["Pss"] + memory["SwapPss"]
                found["children_anonymous"] += memory["Anonymous"] + memory["Swap"]
                found["children_resident"] += memory["Rss"] + memory["Swap"]
    return found


def anonymous(pid: int) -> int:
    memory = _memory(pid)
    return memory["Anonymous"] + memory["Swap"]


def _memory(pid: int) -> dict[str, int]:
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
    return {name: int(value.split()[0]) * KIB for name, value in (line.split(":") for line in lines)}


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


class Story:
    """What the log of the listener, as JSON, says: how often what happened, and where two workers were away at once.

    `restarts` are the times (since 1970) from which to which a pool had no manager, or another one: with the old one
    all of its workers go.
    """

    def __init__(self, restarts: Sequence[tuple[float, float]] = ()) -> None:
        self.counts: Counter[str] = Counter()
        self.overlaps: list[str] = []
        self.errors: list[str] = []
        """Lines about errors of memreap itself, and lines that are none of JSON."""
        self._restarts = restarts
        self._away: dict[str, tuple[int, float]] = {}
        """The worker of each pool that was signalled and has not been replaced yet, and when that was."""

    def read(self, lines: Iterable[str]) -> Story:
        for line in lines:
            try:
                event = json.loads(line)
            except ValueError:
                self.errors.append(line.strip())
                continue
            self._take(event)
        return self

    def _take(self, event: dict[str, Any]) -> None:
        name, pool, pid, at = event["name"], event["pool"], event["pid"], event["at"]
        self.counts[name] += 1
        if "internal error" in event["message"]:
            self.errors.append(event["message"])
        away, since = self._away.get(pool, (pid, at))
        if name == "Signalled":
            if away != pid and not any(begin <= at and end >= since for begin, end in self._restarts):
                self.overlaps.append(f"{pool}: {pid} was signalled while {away} was away")
            self._away[pool] = pid, at
        elif name in ENDS and away == pid:
            self._away.pop(pool, None)


# The events with which a reap is over: the next worker may go.
ENDS = ("Settled", "Stuck", "NoReplacement")
