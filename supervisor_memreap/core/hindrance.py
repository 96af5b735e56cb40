"""What may stand in the way of a signal, with its remedy. core.delay.hindrance_in decides which of it holds. Pure."""

from __future__ import annotations

import enum
from typing import NamedTuple

from supervisor_memreap.core.frozen import Frozen
from supervisor_memreap.core.model import Result, WorkerDetail
from supervisor_memreap.core.servers import UNRECOGNISABLE, Moment, cost_while_busy, named, signal_while_busy
from supervisor_memreap.core.settings import PoolSettings
from supervisor_memreap.core.text import seconds

SAFER_WAY = (
    "to make this safer, run memreap as the workers' user with kernel.yama.ptrace_scope=0, or as root with"
    " CAP_SYS_PTRACE"
)
SHORTEN = "shorten keep-alive (nginx: keepalive_requests, keepalive_timeout)"
"""The remedy for connections that are kept between requests."""


class Kind(str, enum.Enum):
    BUSY = "busy"
    """No moment between two requests was seen."""
    KEPT = "kept_connection"
    """The worker has a client's connection between requests."""
    CANNOT_HOLD = "cannot_hold"
    DEAF = "no_handler"
    """The worker has no handler for the signal that busy ones are sent."""
    NOT_PERMITTED = "not_permitted"
    LOCKED = "locked"
    """Another process holds the pool's lock, or it cannot be taken."""
    GROUP = "group"
    """With target=self: a worker of another pool of this group is leaving."""
    CHANGED = "changed"
    NOT_SHARED = "not_shared"
    """The workers listen on sockets that their manager does not have."""
    OUT_OF_RESOURCES = "out_of_resources"
    TOO_FEW = "too_few"
    """Too few workers are old enough to serve."""
    NOT_REPLACED = "not_replaced"
    """The last worker that was reaped was not replaced, or its replacement does not settle."""
    REFUSED = "refused"
    """The due workers must never be signalled."""
    UNSAVED = "unsaved"
    """What must survive a restart cannot be saved."""
    NOT_SERVING = "not_serving"
    """The due workers were never seen to serve."""
    STUCK = "stuck"
    """All due workers were signalled and do not leave."""
    # What follows is waited for, or a user wants it so: no worker is overdue for it.
    OBSERVED = "observed"
    PAUSED = "paused"
    SUSPENDED = "suspended"
    LEAVING = "leaving"
    """A worker was signalled."""
    SETTLING = "settling"
    """A worker has left, and its replacement has not settled yet."""
    YOUNG = "young"
    """The workers that have to go are younger than `min_age`."""


class Hindrance(Frozen):
    kind: Kind
    text: str
    """The cause and the remedy, but no command of supervisorctl, which may be missing. Without numbers that change at
    each look.
    """


STUCK = Hindrance(
    Kind.STUCK, "they were signalled before and have not left within grace; the log shows what each is doing"
)
NOT_SERVING = Hindrance(
    Kind.NOT_SERVING,
    "they were never seen waiting for a connection or handling one: they may still be starting, or may not serve;"
    " see the program's own log",
)
UNREAD = Hindrance(
    Kind.OUT_OF_RESOURCES,
    "cannot find out in time whether they serve: a file server may be hanging, or no reader process can be started",
)
OBSERVED = Hindrance(Kind.OBSERVED, "only observed (observe=yes): no worker is signalled")
GROUP = Hindrance(Kind.GROUP, "a worker of another pool of this group is leaving, and only one may leave at a time")
PAUSED = Hindrance(Kind.PAUSED, "paused")


def suspended(why: str) -> Hindrance:
    return Hindrance(Kind.SUSPENDED, f"suspended ({why})")


def leaving(worker: int) -> Hindrance:
    return Hindrance(Kind.LEAVING, f"worker {worker} was signalled and has not left yet")


def settling(worker: int, is_replaced: bool) -> Hindrance:
    missing = "its replacement has not settled" if is_replaced else "none has come in its place"
    return Hindrance(Kind.SETTLING, f"worker {worker} left, and {missing} yet")


def young(settings: PoolSettings) -> Hindrance:
    return Hindrance(Kind.YOUNG, f"they are younger than min_age={seconds(settings.min_age)}")


def not_replaced(worker: int) -> Hindrance:
    text = f"worker {worker} left, and no replacement has settled: see the program's own log for why"
    return Hindrance(Kind.NOT_REPLACED, text)


def too_few(settings: PoolSettings, waits_for_replacements: bool = False) -> Hindrance:
    if waits_for_replacements:
        text = f"waiting until the workers that replaced others are older than min_age={seconds(settings.min_age)}"
        return Hindrance(Kind.TOO_FEW, text)
    old = f"too few workers serve and are older than min_age={seconds(settings.min_age)}"
    return Hindrance(Kind.TOO_FEW, f"{old}: see the program's own log for why the others exit")


def unsaved(why: str) -> Hindrance:
    return Hindrance(Kind.UNSAVED, f"the state cannot be saved: {why}")


def of_lock(holder: str) -> Hindrance:
    return Hindrance(Kind.LOCKED, holder)


class Seen(NamedTuple):
    """What an attempt that sent nothing has seen."""

    has_boundary: bool = True
    """The worker may be brought to its boundary."""
    is_kept: bool = False
    """A client's connection was seen that is kept between requests."""
    is_deaf: bool = False
    """The worker has no handler for the signal that it would be sent while busy."""
    may_be_kept: bool = False
    """`idle_wait` has expired, and the worker's connections may be kept, as far as they were seen."""


NOTHING = Seen()


def of_attempt(
    result: Result, detail: WorkerDetail | None, settings: PoolSettings, seen: Seen = NOTHING
) -> Hindrance | None:
    """Why an attempt to signal a worker sent nothing; None: it did, or the worker is gone."""
    if result is Result.NOT_PERMITTED:
        return Hindrance(
            Kind.NOT_PERMITTED, "no permission to signal them; run memreap as the workers' user or as root (user=)"
        )
    if result is Result.CHANGED:
        text = (
            "at each look a worker, or the loop it waits in, changed after it was measured; see the program's own log"
        )
        return Hindrance(Kind.CHANGED, text)
    if result is Result.NOT_SHARED:
        text = "they listen on their own sockets, which their manager does not share (SO_REUSEPORT, a port each)"
        lost = "connections queued there would be refused if one left"
        return Hindrance(Kind.NOT_SHARED, f"{text}: {lost}; let the manager open one socket for all of them")
    if result is Result.FAILED:
        return Hindrance(Kind.OUT_OF_RESOURCES, "the system is out of resources (descriptors, processes, memory)")
    return _of_busy(detail, settings, seen) if result is Result.BUSY and detail else None


def _of_busy(detail: WorkerDetail, settings: PoolSettings, seen: Seen) -> Hindrance:
    server = detail.server
    if not seen.has_boundary and named(server).moment is Moment.HELD:
        why = "its command line cannot be read" if server == UNRECOGNISABLE else f"{server} can lose requests otherwise"
        remedy = _remedy(settings)
        return Hindrance(Kind.CANNOT_HOLD, f"workers cannot be held while they are signalled, and {why}; {remedy}")
    start = f"none of them was seen between two requests{_why_only_idle(detail, settings, seen)}"
    if seen.is_deaf:
        return Hindrance(Kind.DEAF, start)
    if seen.is_kept:
        return Hindrance(Kind.KEPT, f"{start}; a client keeps its connection open between requests: {SHORTEN}")
    if seen.may_be_kept:
        why = "connections may be kept open between requests, or a request never ends"
        return Hindrance(Kind.KEPT, f"{start}; {why}: {SHORTEN}")
    if not seen.has_boundary:
        return Hindrance(Kind.BUSY, f"{start}; {_remedy(settings)}")
    return Hindrance(Kind.BUSY, f"{start}; if requests take that long, restart the program when convenient")


def _remedy(settings: PoolSettings) -> str:
    return SAFER_WAY if settings.hold else "set hold=yes"


def _why_only_idle(detail: WorkerDetail, settings: PoolSettings, seen: Seen) -> str:
    if settings.idle_wait == float("inf"):
        return " (idle_wait=never)"
    if detail.server == UNRECOGNISABLE:
        unread = ", and the server cannot be identified (let the manager keep the title that its server gives it)"
        return f"{unread}, so it may lose requests at any other moment"
    moment = named(detail.server).moment
    if moment is Moment.ANY and seen.has_boundary and not named(detail.server).is_known:
        return ", and memreap does not know whether its server loses requests at any other moment"
    if moment is Moment.ANY:
        return ""
    busy = signal_while_busy(detail.server, settings.signal)
    if seen.is_deaf:
        return f", and workers have no handler for {busy}, the signal for busy ones; set signal="
    if seen.has_boundary or seen.is_kept or seen.may_be_kept or moment is Moment.HELD:
        return f", and {detail.server} can lose requests on {detail.signal} at any other moment"
    after = f"idle_wait={seconds(settings.idle_wait)}"
    return f"; after {after}, busy workers are sent {busy} too ({cost_while_busy(detail.server, busy)})"
