"""A reaper on a pool of tests/support/pool.py, without supervisord."""

from __future__ import annotations

import re
import time

from supervisor_memreap.core import events
from supervisor_memreap.core.model import Program
from supervisor_memreap.core.settings import Given, resolve
from supervisor_memreap.host import procfs
from supervisor_memreap.reaper import Reaper
from supervisor_memreap.record import log
from support.driver import eventually

QUICK = {"limit": "30MB", "min_age": "1s", "settle": "0s"}


class Reaping:
    """A reaper, and a time that can be set forward."""

    def __init__(self, manager: int, **settings: str):
        self.programs = [Program("myapp", "myapp", "RUNNING", manager)]
        given = {key: Given(value, "test") for key, value in {**QUICK, **settings}.items()}
        self.settings = resolve({"myapp": given})
        self.said: list[str] = []
        self.events: list[events.Event] = []
        self.sinks = (log.sink(self.said.append), self.events.append)
        self.reaper = Reaper(self.sinks)
        self.later = 0.0
        # Newborns that are all over the limit would be no pool to reap in.
        eventually(lambda: _assert_grown_up(manager))

    def tick(self):
        (pool,) = self.reaper.tick(self.programs, self.settings, time.monotonic() + self.later)
        return pool

    def until(self, expression: str) -> str:
        """Tick until a line says this; the line."""

        def found() -> str:
            self.tick()
            lines = [line for line in self.said if re.search(expression, line)]
            assert lines, self.said
            return lines[-1]

        return eventually(found)

    def signalled(self) -> set[int]:
        return {event.pid for event in self.events if isinstance(event, events.Signalled)}

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.reaper.close()


def _assert_grown_up(manager: int) -> None:
    view = procfs.source()
    assert all(view.process(pid).age > 1 for pid in view.children(manager))
