"""What the policy says about one pool after a look: what to do, how the pool stands, and what is to be told."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Union

from supervisor_memreap.core.model import ProcessId, Worker


@dataclass(frozen=True)
class Left:
    """A worker that was signalled is gone."""

    worker: ProcessId
    after: float
    """Seconds since the signal."""
    replaced_by: ProcessId | None


@dataclass(frozen=True)
class Replaced:
    """The replacement came only after it had been told that the worker left."""

    worker: ProcessId
    after: float
    replaced_by: ProcessId


@dataclass(frozen=True)
class NotReplaced:
    """A worker left long ago and the pool is not whole and settled again."""

    worker: ProcessId
    after: float
    workers: int
    before: int


@dataclass(frozen=True)
class NoReplacement:
    """No worker came in the place of one that left, and the others are stable: the next may go."""

    worker: ProcessId
    after: float
    workers: int
    before: int


@dataclass(frozen=True)
class TooFewWorkers:
    """Too few workers are old enough to serve: none of them is signalled."""

    old_enough: int
    usual: int


@dataclass(frozen=True)
class Stuck:
    """A worker was signalled and did not leave within `grace`."""

    worker: ProcessId
    after: float
    """Seconds since the first signal."""
    forced: bool = False
    """It was sent what `stuck` asks for, `grace` ago, and did not leave of that either."""


@dataclass(frozen=True)
class Unreadable:
    """A worker's bound is over the limit and its metric may not be read."""

    worker: Worker


@dataclass(frozen=True)
class Unseen:
    """The program runs, and no manager of it can be looked at."""

    why: str


@dataclass(frozen=True)
class NotCaught:
    """A worker over its limit has no handler for the signal."""

    worker: Worker


@dataclass(frozen=True)
class WrongSignal:
    """A worker over its limit is of a server that drops its request on this signal, handler or not."""

    worker: Worker


@dataclass(frozen=True)
class Wrapped:
    """It looks like the manager itself, and what it runs under like a wrapper."""

    worker: Worker


@dataclass(frozen=True)
class NeverIdle:
    """A worker has been due for long, had no idle moment, and may not be signalled at another one."""

    worker: Worker
    after: float
    server: str = ""
    """The server that loses requests then; empty: idle_wait=never says so."""


@dataclass(frozen=True)
class WrongLimit:
    """Fresh workers already exceed the limit: suspended."""

    baseline: int
    usable: int
    """A limit that would do, in bytes."""


@dataclass(frozen=True)
class Fell:
    """The manager ended after a reap, and not because a user asked for it: suspended."""

    worker: ProcessId
    manager: ProcessId
    resumes_after: float
    after: float = 0.0
    """Seconds since the signal."""
    certain: bool = True
    """Whether supervisord said that it ended by itself; else it did not say how it ended."""


@dataclass(frozen=True)
class Resumed:
    because: str


Event = Union[
    Left,
    Replaced,
    NotReplaced,
    NoReplacement,
    TooFewWorkers,
    Stuck,
    Unreadable,
    Unseen,
    NotCaught,
    WrongSignal,
    Wrapped,
    NeverIdle,
    WrongLimit,
    Fell,
    Resumed,
]


@dataclass(frozen=True)
class Verdict:
    standing: str
    """In a word or two: quiet, over, blind, asked, leaving, settling, paused, suspended: …; or supervisord's word for a
    program that is not RUNNING."""
    reap: tuple[Worker, ...] = ()
    """One of these is to be reaped, the first that is idle; the one with the most to give back stands first."""
    insist: frozenset[ProcessId] = frozenset()
    """Those whose idle moment has been waited for long enough: signal them at another one."""
    again: Worker | None = None
    """It was signalled long ago: signal it a second time, only if it is idle."""
    force: Worker | None = None
    """It is stuck: send it what the setting `stuck` asks for."""
    events: tuple[Event, ...] = ()
