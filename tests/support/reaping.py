"""A reaper on a pool of tests/support/pool.py, without supervisord."""

from __future__ import annotations

import select
import time
from collections.abc import Callable
from typing import TypeVar

import pytest

from supervisor_memreap.core import events, policy, settings
from supervisor_memreap.core.model import Program
from supervisor_memreap.core.settings import Given, Settings, resolve
from supervisor_memreap.core.values import duration
from supervisor_memreap.host.thismachine import ThisMachine
from supervisor_memreap.listener import attempts
from supervisor_memreap.listener.reaper import Reaper
from support.driver import assert_have_served, eventually

QUICK = {"limit": "30MB", "min_age": "1s", "settle": "0s"}

EventT = TypeVar("EventT")


def shorten_times(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a pool of tests/support/pool.py need not wait for: it serves at once, and has handlers from the start."""
    monkeypatch.setitem(QUICK, "min_age", "0.2s")
    monkeypatch.setitem(settings._KEYS, "min_age", duration)
    monkeypatch.setattr(policy, "READ", 0.1)
    monkeypatch.setattr(policy, "SINGLE_CALM", 0.5)
    monkeypatch.setattr(attempts, "ALONE", 1.0)


def wait_for(reaper: Reaper, seconds: float = 5.0, later: float = 0.0) -> None:
    """Until no attempt is being made, but not for longer."""
    until = time.monotonic() + seconds
    while reaper.attempts.fds() and time.monotonic() < until:
        select.select(reaper.attempts.fds(), [], [], until - time.monotonic())
        reaper.attempts.wake(time.monotonic() + later)


class Reaping:
    """A reaper, and a time that can be set forward."""

    def __init__(self, manager: int, **settings: str):
        self.programs = [Program("myapp", "myapp", "RUNNING", manager)]
        self.settings = self.with_settings(**settings)
        self.events: list[events.Event] = []
        self.reaper = Reaper(ThisMachine(), (self.events.append,))
        self.later = 0.0
        eventually(lambda: assert_have_served(manager, settle=0.0))

    def with_settings(self, **settings: str) -> Settings:
        """QUICK with these, each in the section where it may be."""
        given = {key: Given(value, "test") for key, value in {**QUICK, **settings}.items()}
        for_all: dict[str, Given] = {key: given[key] for key in given if key in ("headroom", "pressure")}
        return resolve({"": for_all, "myapp": {key: given[key] for key in given if key not in for_all}})

    def tick(self):
        (pool,) = self.reaper.tick(self.programs, self.settings, time.monotonic() + self.later)
        self.wait()
        return pool

    def wait(self, seconds: float = 0.5) -> None:
        wait_for(self.reaper, seconds, self.later)

    def until(self, kind: type[EventT], condition: Callable[[EventT], bool] = lambda _: True) -> EventT:
        """Tick until there is an event of this class for which the condition holds; the last one."""

        def last() -> EventT:
            self.tick()
            matching = [event for event in self.all_of(kind) if condition(event)]
            assert matching, self.events
            return matching[-1]

        return eventually(last)

    def all_of(self, kind: type[EventT]) -> list[EventT]:
        """The events of this class."""
        return [event for event in self.events if isinstance(event, kind)]

    def signalled(self) -> set[int]:
        return {event.pid for event in self.all_of(events.Signalled)}

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.reaper.close()
