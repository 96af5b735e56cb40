"""Everything that can happen, as values: one class each, in the module that says what they are about. Pure.

An event has its pool, its time and all its numbers before it is emitted. The log line, the announcement, the counters
and the exit status of `memreap once` are made from it alone; its class says what it means for them.
"""

# ruff: noqa: F403 # of a list of the names, each would have to be kept in two places

from __future__ import annotations

from collections.abc import Callable, Iterator

from supervisor_memreap.core.event import *
from supervisor_memreap.core.event import Event
from supervisor_memreap.core.listenerevents import *
from supervisor_memreap.core.poolevents import *
from supervisor_memreap.core.workerevents import *

Sink = Callable[[Event], None]
"""A consumer of events: the log, the counters, announcements."""


def kinds(of: type[Event] = Event) -> Iterator[type[Event]]:
    """All classes of events, or those derived from one; not a class that only has what others derive from it."""
    for kind in of.__subclasses__():
        if kind.__subclasses__():
            yield from kinds(kind)
        else:
            yield kind
