"""What the metrics are made of: the last look, and the events so far, by pool. Pure.

A pool whose state is unknown must never look fine. So a pool is blind, and what was measured of it is unknown, if the
last look does not have it or is too old.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from supervisor_memreap.core import events
from supervisor_memreap.core.model import Standing
from supervisor_memreap.core.reasons import REASONS
from supervisor_memreap.core.rows import PoolRow, freed
from supervisor_memreap.outputs.fields import kind_of

# Upper bounds of the buckets of the time to leave, in seconds: an idle worker leaves within some ms, a busy one after
# its request, and `grace` is 300 s.
BUCKETS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)
# By which a worker was reaped. Unknown: it was signalled before the listener, or its settings, last changed.
UNKNOWN = "unknown"
REAPED_FOR = (*(each.setting or "requested" for each in REASONS), UNKNOWN)
# By the field `event`: events of a worker that was due and was sent nothing; those that say that memreap itself does
# not work as it should; and those of these that may last for a while, of which a counter tells only the beginning.
REFUSED = tuple(kind_of(kind) for kind in events.kinds() if kind.refusal)
ERRORS = tuple(kind_of(kind) for kind in events.kinds() if kind.is_error)
LASTING = tuple(kind_of(kind) for kind in events.kinds() if kind.may_last)
# What may be short so that reaping does not help: in a pool, and on the host or in a control group.
OF_POOL, OF_HOST = ("total",), ("headroom", "pressure")
# Seconds between two ticks, before the first one has come: a command can bring a look before that.
_PERIOD = 60.0
# A listener that has not looked for two periods does not look. A tick comes up to 2 s late, and the look takes time.
_PERIODS, _LATE = 2, 5.0
# Workers of a pool whose reason is remembered until they have left. One leaves at a time, and some are stuck.
_MOST_LEAVING = 100


@dataclass
class PoolTally:
    """The events of one pool so far."""

    reaps: Counter[str] = field(default_factory=lambda: Counter(dict.fromkeys(REAPED_FOR, 0)))
    would_reap: Counter[str] = field(default_factory=lambda: Counter(dict.fromkeys(REAPED_FOR[:-1], 0)))
    refused: Counter[str] = field(default_factory=lambda: Counter(dict.fromkeys(REFUSED, 0)))
    not_relieved: Counter[str] = field(default_factory=lambda: Counter(dict.fromkeys(OF_POOL, 0)))
    freed: int = 0
    """Bytes."""
    stuck: int = 0
    oom_killed: int = 0
    """Processes, at most."""
    left: list[int] = field(default_factory=lambda: [0] * (len(BUCKETS) + 1))
    """How many workers left within each of BUCKETS, and not within the one before; the last: within none."""
    leaving_took: float = 0.0
    """Seconds, of all of these together."""
    taken: int = 0
    """How many events."""
    _leaving: dict[int, str] = field(default_factory=dict)
    """Why each worker was signalled that has not left yet, by its pid."""

    def take(self, event: Mapping[str, Any]) -> None:
        kind, pid = event["event"], event["pid"]
        self.taken += 1
        if kind == "reap":
            self._leaving[pid] = event["reason"]
            if len(self._leaving) > _MOST_LEAVING:
                del self._leaving[next(iter(self._leaving))]
        elif kind == "left":
            self._take_left(event)
        elif kind == "stuck":
            # With stuck=TERM, it is reported again if that did not help.
            self.stuck += not event["forced"]
        elif kind == "oom_killed":
            self.oom_killed += event["killed"]
        elif kind == "oom_killed_other":
            self.oom_killed += event["kills"]
        elif kind == "would_reap":
            self.would_reap[event["reason"]] += 1
        elif kind == "short":
            self.not_relieved[event["shortage"]["kind"]] += 1
        elif kind in REFUSED:
            self.refused[kind] += 1

    def _take_left(self, event: Mapping[str, Any]) -> None:
        self.reaps[self._leaving.pop(event["pid"], UNKNOWN)] += 1
        self.freed += freed(event["came_back"], event["taken"])
        self.left[bisect_left(BUCKETS, event["after"])] += 1
        self.leaving_took += event["after"]


class Tally:
    def __init__(self) -> None:
        self.looked_at: float | None = None
        """When the pools were last looked at, in seconds since 1970; None: never."""
        self.errors = Counter(dict.fromkeys(ERRORS, 0))
        self._lasting: frozenset[str] = frozenset()
        self.of_no_pool = PoolTally(not_relieved=Counter(dict.fromkeys(OF_HOST, 0)))
        """Events of the host and of the control groups of the pools."""
        self._pools: dict[str, PoolTally] = {}
        self._rows: dict[str, PoolRow] = {}
        self._watching: tuple[str, ...] = ()
        """The pools that the listener watches."""
        self.period = _PERIOD
        """Seconds between two ticks."""
        self._looked: float | None = None

    def take(self, message: Mapping[str, Any], now: float) -> bool:
        """Count an event, or take a look; whether it was a look. `now` is monotonic, in seconds."""
        if message["kind"] == "look":
            self._take_look(message, now)
            return True
        self._take_event(message)
        return False

    def _take_look(self, look: Mapping[str, Any], now: float) -> None:
        self._looked, self.looked_at = now, look["at"]
        self.period = look["period"] or _PERIOD
        self._lasting = frozenset(look["lasting"])
        self._rows = {row["name"]: row for row in look["pools"]}
        self._keep()

    def _take_event(self, event: Mapping[str, Any]) -> None:
        kind, pool = event["event"], event["pool"]
        if kind == "watching":
            self._watching = tuple(name for name, _ in event["pools"])
            self._keep()
        elif kind in ERRORS:
            self.errors[kind] += 1
        else:
            # An event may come before the first look at its pool.
            (self._pools.setdefault(pool, PoolTally()) if pool else self.of_no_pool).take(event)

    def _keep(self) -> None:
        """Forget the pools that are gone, and begin to count for new ones."""
        names = sorted({*self._rows, *self._watching})
        self._pools = {name: self._pools.get(name, PoolTally()) for name in names}

    def pools(self) -> Mapping[str, PoolTally]:
        """All that should be watched, by name."""
        return self._pools

    def row(self, pool: str, now: float) -> PoolRow | None:
        """The pool at the last look; None: its state is unknown now."""
        return None if self.is_old(now) else self._rows.get(pool)

    def lasting_errors(self, now: float) -> Mapping[str, bool]:
        """Whether each kind of error lasted at the last look; empty: unknown now."""
        return {} if self.is_old(now) else {kind: kind in self._lasting for kind in LASTING}

    def is_old(self, now: float) -> bool:
        """Whether the listener has stopped looking, or has not begun."""
        if self._looked is None:
            return True
        return now - self._looked > _PERIODS * self.period + _LATE


def is_blind(row: PoolRow | None) -> bool:
    return row is None or row["standing"] == Standing.BLIND
