"""Why nothing is sent in a pool although workers are due: one answer for status, log, doctor and metrics. Pure."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from supervisor_memreap.core.model import Result, WorkerDetail
from supervisor_memreap.core.servers import UNRECOGNISABLE, Moment, moment_of
from supervisor_memreap.core.settings import PoolSettings
from supervisor_memreap.core.text import seconds

SAFER_WAY = (
    "to make this safer, run memreap as the workers' user with kernel.yama.ptrace_scope=0, or as root with"
    " CAP_SYS_PTRACE"
)
SHORTEN = "shorten their life (of nginx: keepalive_requests, keepalive_timeout)"
"""The remedy for connections that are kept between requests."""


class Kind(str, enum.Enum):
    BUSY = "busy"
    """No idle moment was found."""
    KEPT = "kept_connection"
    """The worker has a client's connection between requests."""
    CANNOT_HOLD = "cannot_hold"
    NOT_PERMITTED = "not_permitted"
    LOCKED = "locked"
    """Another process holds the pool's lock."""
    GROUP = "group"
    """With target=self: a worker of another pool of this group is leaving."""
    CHANGED = "changed"
    OUT_OF_RESOURCES = "out_of_resources"
    TOO_FEW = "too_few"
    """Too few workers are old enough to serve."""
    NOT_REPLACED = "not_replaced"
    """The last worker that was reaped was not replaced, or its replacement does not settle."""
    REFUSED = "refused"
    """The due workers must never be signalled."""
    UNSAVED = "unsaved"
    """What must survive a restart cannot be saved."""
    STUCK = "stuck"
    """All due workers were signalled and do not leave."""


@dataclass(frozen=True)
class Hindrance:
    kind: Kind
    text: str
    """The cause and the remedy. Without numbers that change at each look."""


STUCK = Hindrance(
    Kind.STUCK, "they were signalled before and have not left within grace; the log says what each of them does"
)
GROUP = Hindrance(Kind.GROUP, "a worker of another pool of this group is leaving, and one leaves at a time")
UNSAVED = Hindrance(
    Kind.UNSAVED, "what must survive a restart cannot be saved; memreap status and the log say why, and what to do"
)


def not_replaced(pool: str, worker: int) -> Hindrance:
    text = f"worker {worker} left, and no other one settles in its place: see the program's own log for why"
    return Hindrance(Kind.NOT_REPLACED, f"{text}; supervisorctl memreap resume {pool} goes on without it")


def too_few(settings: PoolSettings) -> Hindrance:
    old = f"too few workers are older than min_age={seconds(settings.min_age)}"
    return Hindrance(Kind.TOO_FEW, f"{old}: see the program's own log for why the others exit")


def of_lock(holder: str) -> Hindrance:
    return Hindrance(Kind.LOCKED, f"{holder}: another memreap may be reaping in this pool; end it if it is not needed")


def of_attempt(
    result: Result, detail: WorkerDetail | None, settings: PoolSettings, is_kept: bool = False, unheld: bool = False
) -> Hindrance | None:
    """Why an attempt to signal a worker sent nothing; None: it did, or the worker is gone.

    `is_kept`: a client's connection was seen that is kept between requests; `unheld`: holding was not permitted.
    """
    if result is Result.NOT_PERMITTED:
        return Hindrance(
            Kind.NOT_PERMITTED, "memreap may not signal them; run it as the workers' user or as root (user=)"
        )
    if result is Result.CHANGED:
        text = "a worker changed after it was measured, at each look; see the program's own log"
        return Hindrance(Kind.CHANGED, text)
    if result is Result.FAILED:
        return Hindrance(Kind.OUT_OF_RESOURCES, "the system is out of resources (descriptors, processes, memory)")
    return _of_busy(detail, settings, is_kept, unheld) if result is Result.BUSY and detail else None


def _of_busy(detail: WorkerDetail, settings: PoolSettings, is_kept: bool, unheld: bool) -> Hindrance:
    server = detail.server
    if moment_of(server) is Moment.HELD and (unheld or not settings.hold):
        why = "its command line cannot be read" if server == UNRECOGNISABLE else f"{server} can lose requests otherwise"
        remedy = SAFER_WAY if settings.hold else "set hold=yes"
        return Hindrance(Kind.CANNOT_HOLD, f"workers may not be held while they are signalled, and {why}; {remedy}")
    start = f"no idle moment was found{_why_only_idle(detail, settings)}"
    if is_kept:
        return Hindrance(Kind.KEPT, f"{start}; a client keeps its connection between requests: {SHORTEN}")
    return Hindrance(Kind.BUSY, f"{start}; run more workers, or restart the program when convenient")


def _why_only_idle(detail: WorkerDetail, settings: PoolSettings) -> str:
    if settings.idle_wait == float("inf"):
        return " (idle_wait=never)"
    if detail.server == UNRECOGNISABLE:
        return ", and which server it is cannot be read, so it is unknown whether it loses requests at any other moment"
    if moment_of(detail.server) is Moment.ANY:
        return ""
    return f", and {detail.server} can lose requests on {detail.signal} at any other moment"
