"""A month on the simulated machine of tests/sim: the real reaper, and the real writer of the history."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

import soak_report
from sim.bounds import remembered
from sim.clock import Clock
from sim.processes import MIB, Growth
from sim.requests import Load
from sim.run import Run
from sim.script import Action, PoolScript, Script

from supervisor_memreap.core.events import Event
from supervisor_memreap.history import historywriter
from supervisor_memreap.listener.reaper import Reaper
from supervisor_memreap.outputs import fields

DAY = 86400.0
# What memreap keeps of the history, in days, and a day in which it does.
KEPT = 32.0
RECORDED = 60.0
"""Seconds between two readings in the history."""
TOGETHER = 20
"""Readings that are written at a time: each write waits for the disk."""
SAMPLED = 500
# Seconds between two of each.
OFTEN = {
    "restart": DAY,
    "crash": 5 * DAY,
    "crash worker": DAY,
    "stuck": 3 * DAY,
    "hangs": 3 * DAY,
    "oom": 5 * DAY,
    "remove": 4 * DAY,
    "pause": 2 * DAY,
    "reap": DAY,
    "roll": 2 * DAY,
    "settings": DAY,
    "restart memreap": 4 * DAY,
    "kill memreap": 4 * DAY,
    "no answer": DAY,
    "late ticks": DAY,
    "step clock": 10 * DAY,
    "disk full": 5 * DAY,
    "reload": 10 * DAY,
}
RESTARTS = ("restart memreap", "kill memreap", "reload")
_THEN = {"remove": ("add", 3600.0), "pause": ("resume", 600.0)}


def script(ticks: int, tick: float, is_restarted: bool) -> Script:
    """A pool whose workers are over their limit every two hours."""
    growth = Growth(fresh=10 * MIB, leak=0.0125 * MIB)
    load = Load(pause=30.0)
    pool = PoolScript("myapp", "procmanager", load, growth, 0.2, {"limit": 100 * MIB})
    actions: list[Action] = []
    seconds = ticks * tick
    for place, (what, often) in enumerate(OFTEN.items()):
        if what in RESTARTS and not is_restarted:
            continue
        at, number = often * (place + 1) / len(OFTEN), 0
        while at < seconds:
            actions += _action(what, pool.name, at, number)
            at, number = at + often, number + 1
    return Script("soak", seconds / DAY, (pool,), tuple(sorted(actions, key=lambda action: action.at)), tick=tick)


def _action(what: str, pool: str, at: float, number: int) -> list[Action]:
    values: dict[str, tuple[Any, ...]] = {
        "settings": ("limit", (90 + 10 * (number % 3)) * MIB),
        "step clock": (10.0 if number % 2 else -10.0,),
        "no answer": (60.0,),
        "late ticks": (60.0,),
        "disk full": (600.0,),
    }
    then, after = _THEN.get(what, ("", 0.0))
    return [Action(at, what, pool, values.get(what, ())), *([Action(at + after, then, pool)] if then else [])]


class Month:
    def __init__(self, ticks: int, tick: float, sampled: int, is_restarted: bool, history: Path):
        self._run = Run(script(ticks, tick, is_restarted), self._take)
        self._began = self._run.world.clock.now
        self._ticks, self._sampled = ticks, sampled
        self._path = history
        self._reported: list[str] = []
        self._recorded = self._shown = 0.0
        self._waiting = 0
        self.looks = 0
        self.samples: list[tuple[float, dict[str, float]]] = []
        """By days."""
        looked = self._run.listener._looked
        self._run.listener._looked = lambda reaper: (looked(reaper), self._looked(reaper))[0]
        with self._by_its_clock():
            self._history = historywriter._History(str(history), 64 * MIB, False, self._tell)

    @contextlib.contextmanager
    def _by_its_clock(self) -> Iterator[None]:
        clock: Clock = self._run.world.clock
        with mock.patch.object(
            historywriter, "time", SimpleNamespace(time=lambda: clock.wall, monotonic=lambda: clock.now)
        ):
            yield

    def _tell(self, message: Any) -> None:
        if message.get("trouble") or "note" in message:
            self._reported.append(str(message))

    def _take(self, event: Event) -> None:
        self._history.add({"kind": "event", **fields.of(event)})

    def _looked(self, reaper: Reaper) -> None:
        clock = self._run.world.clock
        self.looks += 1
        if clock.now - self._recorded >= RECORDED - 2.5:
            self._recorded = clock.now
            self._history.add({"kind": "look", "at": clock.wall, "pools": reaper.status()})
            self._waiting += 1
        if self._waiting >= TOGETHER:
            self._waiting = 0
            self._history.write()
        if self.looks % self._sampled == 1:
            self._sample(reaper)

    def _sample(self, reaper: Reaper) -> None:
        disk = self._run.world.disk
        self.samples.append(
            (
                (self._run.world.clock.now - self._began) / DAY,
                {
                    "remembered": sum(count for _, count in remembered(reaper, "reaper", set())),
                    "state": sum(map(len, disk.values())),
                    "history": os.stat(self._path).st_size if self._path.exists() else 0,
                },
            )
        )
        if time.monotonic() - self._shown > 10:
            self._shown = time.monotonic()
            print(f"{self.looks:,} of {self._ticks:,} looks: {self.samples[-1][1]}", file=sys.stderr, flush=True)

    def play(self) -> dict[str, Any]:
        began, interrupted = time.monotonic(), False
        with self._by_its_clock():
            try:
                report = self._run.play()
                broken, events = report.broken, report.events
            except KeyboardInterrupt:
                interrupted = True
                broken, events = self._run.watcher.broken, self._run.events
            self._history.close()
        figures = soak_report.figures(self.samples)
        if old := soak_report.figures(
            [(at, {"old_history": each["history"]}) for at, each in self.samples if at > KEPT], 0.0
        ):
            figures |= old
        return {
            "unit": "days",
            "seconds": round(time.monotonic() - began),
            "interrupted": interrupted,
            "sent": self.looks,
            "answered": self.looks,
            "figures": figures,
            "samples": soak_report.thinned(self.samples),
            "events": dict(events.most_common()),
            "overlaps": [each.what for each in broken][:20],
            "errors": self._reported[:20],
            "actions": dict(Counter(action.what for action in self._run.script.actions)),
        }


def play(ticks: int, tick: float, sampled: int = SAMPLED, is_restarted: bool = True) -> dict[str, Any]:
    """So many ticks, in that many seconds each, with a sample at each so many looks."""
    with tempfile.TemporaryDirectory() as directory:
        return Month(ticks, tick, sampled, is_restarted, Path(directory) / "memreap.sqlite").play()
