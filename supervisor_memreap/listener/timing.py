"""When the listener looks: at each tick, and between two ticks if memory runs short."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping

from supervisor_memreap.core import events, pace
from supervisor_memreap.host.machine import Machine
from supervisor_memreap.listener.memorywatch import MemoryWatch
from supervisor_memreap.outputs.lasting import Once
from supervisor_memreap.supervisord.protocol import Event

# Event names of supervisord and the seconds between two of them.
PERIODS = {"TICK_5": 5, "TICK_60": 60, "TICK_3600": 3600}
# A listener that starts late gets up to 10 old ticks in a row: it answers them and otherwise ignores them.
STALE = 30.0
# Seconds: ticks that arrive together, such as after a wait, or TICK_5 and TICK_60, cause one look.
TOGETHER = 0.5


class Timing:
    def __init__(self, machine: Machine, memory: MemoryWatch, once: Once):
        self._machine = machine
        self._memory = memory
        self._once = once
        self._is_woken = False
        self._due: float | None = None
        """When to look, even without a tick."""
        self._looked = 0.0
        """When the last look ended."""
        self._began: float | None = None
        """When the last look began, at a tick or between two; a look for a command does not count."""
        self._ticks: dict[str, float] = {}
        """When the next tick of each kind is expected."""

    def is_for_a_look(self, event: Event) -> bool:
        """Whether to look at this event: it is a tick, not too old, and not right after another look."""
        period = PERIODS.get(event.name)
        if period is None:
            return False
        when = re.search(r"\bwhen:([0-9]{1,12})", event.payload)
        if when and self._machine.time() - int(when[1]) > max(STALE, 2 * period):
            return False
        now = self._machine.now()
        self._ticks[event.name] = now + period
        return self._begin(now)

    def _begin(self, now: float) -> bool:
        if self._began is not None and now - self._began < TOGETHER:
            return False
        self._began = now
        return True

    def is_due(self) -> bool:
        """Whether to look now, between two ticks."""
        now = self._machine.now()
        if self._due is None or now < self._due:
            return False
        self._due = None
        return self._begin(now)

    def period(self) -> int | None:
        """Seconds between two ticks, of the kind that comes most often; None: none has come yet."""
        return min((PERIODS[name] for name in self._ticks), default=None)

    def begin(self) -> None:
        """Call before each look."""
        self._machine.acknowledge_alarm()
        self._is_woken = False

    def end(self) -> None:
        """Call after each look, even if it failed."""
        self._looked = self._machine.now()
        why = self._memory.set_alarm()
        self._once.follow(events.NoAlarm, events.NoAlarm("", self._machine.time(), why) if why else None)
        self._decide()

    def _decide(self) -> None:
        tick = min((at for at in self._ticks.values() if at > self._looked), default=self._looked + PERIODS["TICK_5"])
        memory = self._memory
        self._due = pace.next_look(self._looked, self._is_woken, memory.episodes, memory.readings, tick)

    # For the loop of the listener.

    def fds(self) -> Mapping[int, int]:
        """Descriptors to wait for, each with its poll events; none if the next look is due soon anyway."""
        return {} if self._is_woken else self._machine.alarm_fds()

    def wake(self, readable: Collection[int]) -> None:
        """Look soon if the kernel woke the listener by one of these descriptors."""
        if not self._machine.alarm_fds().keys().isdisjoint(readable):
            self._is_woken = True
            self._decide()

    def patience(self) -> float | None:
        """Seconds until the next look between two ticks; None: there is none."""
        return None if self._due is None else max(0.0, self._due - self._machine.now())
