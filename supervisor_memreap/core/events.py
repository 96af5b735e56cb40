"""Everything that can happen, as values: one frozen class each; `Event` is their union. Pure.

An event has its pool, its time and all its numbers before it is emitted. The log line, the announcement, the counters
and the exit status of `memreap once` are made from it alone; its class says what it means for them. mypy rejects a
class without wording, since `text` is abstract, and emitting a class that is missing from `Event`.
"""

from __future__ import annotations

import abc
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import ClassVar, Union

from supervisor_memreap.core.event import Base as _Base
from supervisor_memreap.core.hindrance import SAFER_WAY, Hindrance
from supervisor_memreap.core.memoryevents import (
    NotMet,
    NotRelieved,
    OomKilled,
    OomKilledOther,
    Outgrown,
    Relieved,
    TotalUnreadable,
)
from supervisor_memreap.core.model import Nested, ProcessId, Program, SentMoment
from supervisor_memreap.core.reasons import Reason
from supervisor_memreap.core.servers import refusal
from supervisor_memreap.core.settings import PoolSettings, shown
from supervisor_memreap.core.text import MIB, memory, quote, seconds

# Processes of which a line has the pids.
_MOST_NAMED = 5

# What was sent, or could not be sent.


@dataclass(frozen=True)
class Signalled(_Base):
    """A worker was sent the signal."""

    announced_as = "reap"
    worker: ProcessId
    reason: Reason
    signal: str
    moment: SentMoment
    idle_wait: float
    cost: str = ""
    """What it may cost that the worker was busy; empty: nothing."""

    @property
    def text(self) -> str:
        moment = {
            SentMoment.HELD: "between two requests",
            SentMoment.IDLE: "while idle",
            SentMoment.BUSY: f"while busy, since it was not found between two requests for {seconds(self.idle_wait)}",
            SentMoment.UNKNOWN: "; whether it was idle is not known",
        }[self.moment]
        text = f"worker {self.worker.pid} {self.reason.text}: {self.signal} sent {moment}".replace(" ;", ";")
        return f"{text} ({self.cost})" if self.cost else text


@dataclass(frozen=True)
class SignalledAgain(_Base):
    """A worker that came to its boundary long after the first signal was sent a second one there."""

    worker: ProcessId
    signal: str
    moment: SentMoment
    first_was_sent: bool
    """False: it is unknown whether the first one was sent."""

    @property
    def text(self) -> str:
        start = f"worker {self.worker.pid} waits for its next connection and has not left: "
        if not self.first_was_sent:
            return f"{start}memreap was killed before it could signal it; {self.signal} sent"
        return (
            f"{start}the first {self.signal} came between a request and accept, where it is only recorded;"
            f" {self.signal} sent a second time"
        )


@dataclass(frozen=True)
class Forced(_Base):
    """A stuck worker was sent the signal that `stuck` sets."""

    worker: ProcessId
    signal: str

    @property
    def text(self) -> str:
        return f"worker {self.worker.pid}: {self.signal} sent (stuck={self.signal})"


@dataclass(frozen=True)
class NotForced(_Base):
    """The signal that `stuck` sets could not be sent."""

    worker: ProcessId
    signal: str
    why: str

    @property
    def text(self) -> str:
        return f"worker {self.worker.pid}: {self.signal} (stuck={self.signal}) could not be sent: {self.why}"


@dataclass(frozen=True)
class _Refused(_Base):
    """A worker was chosen, but nothing was sent."""

    worker: ProcessId
    reason: Reason

    @property
    @abc.abstractmethod
    def why(self) -> str: ...

    @property
    def text(self) -> str:
        return f"worker {self.worker.pid} {self.reason.text}: {self.why}"


class LeftByItself(_Refused):
    why = "it left by itself, nothing sent"


class WouldReap(_Refused):
    """In a pool that is only observed, a worker would have been signalled now."""

    why = "it would be replaced now; nothing sent (observe=yes)"


class Changed(_Refused):
    why = "it has changed since it was measured, nothing sent"


class OutOfResources(_Refused):
    is_reported_once = True
    why = "nothing sent, the system is out of resources; trying again"


class NotPermitted(_Refused):
    is_reported_once = fails = ends_wait = True
    why = "nothing sent, not permitted; run memreap as the worker's user or as root (user=)"


@dataclass(frozen=True)
class Locked(_Base):
    """Another process, such as a second memreap, holds the lock of this pool."""

    is_reported_once = True
    worker: ProcessId
    reason: Reason
    holder: str

    @property
    def text(self) -> str:
        start = f"worker {self.worker.pid} {self.reason.text}: nothing sent, {self.holder}"
        return f"{start}: another memreap, a listener or once, reaps in this pool; trying again"


@dataclass(frozen=True)
class CannotHold(_Base):
    """Workers may not be held while they are signalled."""

    is_reported_once = True

    @property
    def text(self) -> str:
        return (
            "workers may not be held: each is signalled right after it is seen idle, where that can be seen, or after"
            f" idle_wait while busy, if its server permits that; {SAFER_WAY}"
        )


@dataclass(frozen=True)
class Overdue(_Base):
    """Workers are due, and for too long none could be signalled; said again while that lasts."""

    workers: int
    largest: int | None
    """What the largest of them uses, in bytes; None: unknown."""
    limit: int | None
    metric: str
    lasts: float
    """Seconds."""
    hindrance: Hindrance

    @property
    def text(self) -> str:
        are_due = "1 worker is due" if self.workers == 1 else f"{self.workers} workers are due"
        limit = "" if self.limit is None else f", limit {memory(self.limit)}"
        largest = "" if self.largest is None else f" (the largest holds {memory(self.largest)} {self.metric}{limit})"
        none = "none could be signalled" if self.workers > 1 else "could not be signalled"
        return f"{are_due}{largest} and {none} for {seconds(self.lasts)}: {self.hindrance.text}"


@dataclass(frozen=True)
class OverdueEnded(_Base):
    """Workers are signalled again, or none has to go any more."""

    after: float
    """Seconds."""

    @property
    def text(self) -> str:
        return f"no worker is overdue any more, after {seconds(self.after)}"


# Which signal is used; why a worker must never be signalled, or a pool's workers not now.


@dataclass(frozen=True)
class SignalOfServer(_Base):
    """`signal` is not set, and the server finishes its requests on another one than HUP: that one is used."""

    is_reported_once = True
    server: str
    signal: str

    @property
    def text(self) -> str:
        return f"{self.server} finishes its requests on {self.signal}, so {self.signal} is used (signal= is not set)"


@dataclass(frozen=True)
class NotCaught(_Base):
    """A worker has no handler for the signal."""

    is_reported_once = fails = True
    worker: ProcessId
    signal: str
    serves_alone: bool
    """With target=self."""

    @property
    def text(self) -> str:
        hint = " (FastCGI without a manager: TERM)" if self.serves_alone else ""
        return (
            f"worker {self.worker.pid} would die of {self.signal} (it does not catch it): nothing sent;"
            f" set signal= to one on which this server finishes its request{hint}"
        )


@dataclass(frozen=True)
class WrongSignal(_Base):
    """The worker belongs to a server that drops its request on this signal, even with a handler."""

    is_reported_once = fails = True
    worker: ProcessId
    server: str
    signal: str
    graceful: tuple[str, ...]
    """The signals on which this server finishes its request."""

    @property
    def text(self) -> str:
        start = f"worker {self.worker.pid} belongs to {self.server}, which"
        if not self.graceful:
            return (
                f"{start} {refusal(self.server)}: nothing sent, and no setting helps; remove this program's"
                " [memreap:NAME] section"
            )
        remedy = f"set signal={self.graceful[0]}, on which it finishes its request"
        return f"{start} drops its request on {self.signal}: nothing sent; {remedy}"


@dataclass(frozen=True)
class LooksLikeManager(_Base):
    """The worker looks like a manager itself."""

    is_reported_once = fails = True
    worker: ProcessId
    serves_alone: bool
    """With target=self."""

    @property
    def text(self) -> str:
        if self.serves_alone:
            return (
                f"worker {self.worker.pid} has children of its own and may be a manager: nothing sent; target=self is"
                " for programs that serve in one process"
            )
        return (
            f"worker {self.worker.pid} may be a manager itself (it has children, or a manager's name): nothing sent; if"
            " it is the pool's manager below a wrapper, write exec in the program's command, or set depth=2"
        )


@dataclass(frozen=True)
class NotShared(_Base):
    """Each worker listens on a socket of its own: what waits in its queue ends with it."""

    is_reported_once = fails = True
    worker: ProcessId
    serves_alone: bool
    """With target=self."""

    @property
    def text(self) -> str:
        start = (
            f"worker {self.worker.pid} listens on a socket of its own, and clients that wait there are refused when it"
            " leaves: nothing sent"
        )
        if self.serves_alone:
            return f"{start}; let supervisord hold one socket for all ([fcgi-program], socket=), or remove this section"
        return f"{start}; let the manager open one socket for all its workers (no reuse-port for each of them)"


@dataclass(frozen=True)
class NeverServed(_Base):
    """A worker has to go, and was never seen to serve."""

    is_reported_once = fails = ends_wait = True
    worker: ProcessId
    reason: Reason
    age: float

    @property
    def text(self) -> str:
        return (
            f"worker {self.worker.pid} {self.reason.text}, and in {seconds(self.age)} it was never seen to wait for a"
            " connection, nor with one: nothing sent, since it may start for long, or take no part in serving; see"
            " the program's own log"
        )


@dataclass(frozen=True)
class ServingUnknown(_Base):
    """It cannot be seen whether workers serve: their age counts."""

    is_reported_once = True
    is_hidden: bool
    """Whether their sockets may not be read; False: none of them listens."""

    @property
    def text(self) -> str:
        why = "the sockets of its processes may not be read" if self.is_hidden else "none of its workers listens"
        remedy = f"; {SAFER_WAY}" if self.is_hidden else ""
        return (
            f"{why}, so it is not known when a replacement serves: its age counts (settle); set settle= above the"
            f" time that one needs to start{remedy}"
        )


@dataclass(frozen=True)
class Unreadable(_Base):
    """A worker's bound is over the limit and its metric cannot be read."""

    is_reported_once = fails = True
    worker: ProcessId
    bound: int
    limit: int
    metric: str
    is_late: bool
    """It could not be read in time."""

    @property
    def text(self) -> str:
        start = (
            f"worker {self.worker.pid} may hold up to {memory(self.bound)}, limit {memory(self.limit)}, but its"
            f" {self.metric}"
        )
        if self.is_late:
            return (
                f"{start} could not be read in time: nothing sent; if this host is not just busy, the worker may hold"
                f" the lock of its own memory map: see what it does (cat /proc/{self.worker.pid}/stack)"
            )
        return (
            f"{start} may not be read: nothing sent; run memreap as the worker's user or as root with CAP_SYS_PTRACE"
            " (in Docker: --cap-add SYS_PTRACE), or set metric=rss"
        )


@dataclass(frozen=True)
class SizesUnreadable(_Base):
    """memreap may not read what the workers hold, whether or not one is near its limit."""

    is_reported_once = True
    worker: ProcessId
    metric: str

    @property
    def text(self) -> str:
        return (
            f"the memory of worker {self.worker.pid} ({self.metric}) may not be read: the pool is not watched; run"
            " memreap as the worker's user or as root with CAP_SYS_PTRACE (in Docker: --cap-add SYS_PTRACE)"
        )


@dataclass(frozen=True)
class NotVisible(_Base):
    """The program runs, but its manager cannot be seen."""

    is_reported_once = fails = True
    why: str

    @property
    def text(self) -> str:
        return f"it runs, but {self.why}: not watched"

    @property
    def key(self) -> str:
        return f"NotVisible: {self.why}"


@dataclass(frozen=True)
class NoWorkers(_Base):
    """The program has been running for a while, but no process below it serves."""

    is_reported_once = fails = True
    manager: ProcessId

    @property
    def text(self) -> str:
        return (
            f"process {self.manager.pid} has no workers: not watched; is -l missing in the command of an"
            " [fcgi-program], or the manager turned off (--manager '')? If the process itself serves, set target=self"
        )


@dataclass(frozen=True)
class Wrapped(_Base):
    """The workers are not children of what supervisord started, but of one of its children, or deeper."""

    is_reported_once = fails = True
    managers: tuple[Nested, ...]
    depth: int

    @property
    def why(self) -> str:
        """The text, without that it is not watched."""
        if len(self.managers) > 1:
            several = " and ".join(f"{each.id.pid} ({each.name})" for each in self.managers[:_MOST_NAMED])
            return (
                f"its children {several} are managers themselves, and no other child can be a worker; give each of"
                " them a program of its own"
            )
        (manager,) = self.managers
        children = "a child" if manager.children == 1 else f"{manager.children} children"
        start = f"its child {manager.id.pid} ({manager.name}) has {children}, and no other child can be a worker"
        if self.depth == 2:
            deeper = "depth=2 does not reach the pool; write exec in the program's command, and user= in place of su"
            return f"{start}: {deeper}"
        return f"{start}: the pool is below it; write exec in the program's command, or set depth=2"

    @property
    def text(self) -> str:
        return f"not watched: {self.why}"


@dataclass(frozen=True)
class TooFewWorkers(_Base):
    """Too few workers are old enough to serve: none of them is signalled."""

    is_reported_once = fails = ends_wait = True
    old_enough: int
    usual: int
    min_age: float

    @property
    def text(self) -> str:
        return (
            f"only {self.old_enough} of the usual {self.usual} workers serve and are older than"
            f" min_age={seconds(self.min_age)}: nothing is sent; see the program's own log for why the others exit"
        )


# What happened to a worker that was signalled.


@dataclass(frozen=True)
class Left(_Base):
    """A signalled worker is gone."""

    announced_as = "left"
    worker: ProcessId
    after: float
    """Seconds since the signal."""
    replaced_by: ProcessId | None
    came_back: int | None = None
    """Bytes that the host got back: what the worker held of its own when it was signalled. None: unknown."""
    taken: int | None = None
    """Bytes that its replacement holds of its own now; None: unknown."""
    used: int | None = None
    """The worker's metric when it was signalled, in bytes; None: unknown."""
    metric: str = ""

    @property
    def text(self) -> str:
        return f"worker {self.worker.pid} left after {seconds(self.after)}{self._freed}{self._place}"

    @property
    def _freed(self) -> str:
        if self.came_back is None:
            return ""
        # The metric may have promised more: pages that other processes map too are not freed.
        if self.used is not None and self.used - self.came_back > max(MIB, self.used // 10):
            rest = "the rest is shared or was never used" if self.metric == "vms" else "the rest is shared"
            return f", {memory(self.came_back)} of its {memory(self.used)} ({self.metric}) freed, {rest}"
        return f", {memory(self.came_back)} freed"

    @property
    def _place(self) -> str:
        if self.replaced_by is None:
            return ""
        uses = f" and already uses {memory(self.taken)}" if self.taken is not None and self.taken >= MIB else ""
        return f", {self.replaced_by.pid} took its place{uses}"


@dataclass(frozen=True)
class Replaced(_Base):
    """The replacement came after the worker was reported as having left."""

    worker: ProcessId
    after: float
    replaced_by: ProcessId

    @property
    def text(self) -> str:
        return f"worker {self.replaced_by.pid} took the place of {self.worker.pid} after {seconds(self.after)}"


@dataclass(frozen=True)
class Settled(_Base):
    """The worker that took the place of one that left serves and has settled: the next one may go."""

    worker: ProcessId
    replaced_by: ProcessId
    to_serve: float | None
    """Seconds from the replacement's fork until it was seen to serve; None: that may not be read, its age counted."""

    @property
    def text(self) -> str:
        serves = "" if self.to_serve is None else f"; it was seen to serve {seconds(self.to_serve)} after its start"
        return f"worker {self.replaced_by.pid} has settled in the place of {self.worker.pid}{serves}"


@dataclass(frozen=True)
class NotReplaced(_Base):
    """A worker left long ago, and the pool is still not complete and settled."""

    fails = True
    worker: ProcessId
    after: float
    workers: int
    before: int

    @property
    def text(self) -> str:
        return (
            f"worker {self.worker.pid} left {seconds(self.after)} ago and the pool has not settled since"
            f" ({self.workers} of {self.before} workers): nothing more is reaped until it has;"
            " see the program's own log for why the new ones exit"
        )


@dataclass(frozen=True)
class NoReplacement(_Base):
    """No worker took the place of one that left, and the others are stable: the next may be signalled."""

    worker: ProcessId
    after: float
    workers: int
    before: int

    @property
    def text(self) -> str:
        others = (
            "the others are stable, so the next one may be signalled" if self.workers else "the pool needs none now"
        )
        return (
            f"worker {self.worker.pid} left {seconds(self.after)} ago and none took its place ({self.workers} of"
            f" {self.before} workers); {others}"
        )


@dataclass(frozen=True)
class Stuck(_Base):
    """A worker was signalled and did not leave within `grace`."""

    announced_as = "stuck"
    fails = True
    worker: ProcessId
    after: float
    """Seconds since the first signal."""
    signal: str
    forced: str = ""
    """The signal that `stuck` sets, sent `grace` ago without effect; empty: none was sent."""
    next: str = ""
    """The signal that it is sent now; empty: none."""
    activity: str = ""
    """What it is doing now."""

    @property
    def text(self) -> str:
        also = f" and {self.forced}" if self.forced else ""
        state = f" ({self.activity})" if self.activity else ""
        start = f"worker {self.worker.pid} has not left {seconds(self.after)} after {self.signal}{also}: stuck{state}"
        if self.next:
            return start
        return (
            f"{start}, nothing more is sent to it, the next one may be signalled; see what it does"
            f" (cat /proc/{self.worker.pid}/stack, strace -p {self.worker.pid}),"
            " and raise grace= if requests may take that long"
        )


@dataclass(frozen=True)
class Remembered(_Base):
    """A worker was signalled before memreap was restarted, or may have been, and has not left yet."""

    worker: ProcessId
    after: float
    is_sent: bool = True
    """False: an attempt was being made to signal it, and nobody is left to say what came of that."""

    @property
    def text(self) -> str:
        was = "was" if self.is_sent else "may have been"
        return (
            f"worker {self.worker.pid} {was} signalled {seconds(self.after)} ago, before memreap was restarted:"
            " waiting for it first"
        )


# What happens to a pool.


@dataclass(frozen=True)
class WrongSetting(_Base):
    """Workers are over the limit already when they begin to serve: the pool is suspended."""

    announced_as = "suspended"
    fails = True
    baseline: Reason
    """The reason as it applied when the worker began to serve that exceeds the setting least."""
    usable: str
    """A usable setting, as a user writes it."""
    age: float
    """Of that worker at that time, in seconds."""
    lasts: float
    """Seconds after which the setting is tried again."""

    @property
    def text(self) -> str:
        return (
            f"suspended: a fresh worker already {self.baseline.text}, {seconds(self.age)} after its start, so all would"
            f" be reaped endlessly; set {self.usable} or more; resumes after {seconds(self.lasts)}"
        )


@dataclass(frozen=True)
class FastLeak(_Base):
    """Workers are over the limit soon after their start, as far as is known not from the start: reaping goes on."""

    is_reported_once = True
    limit: int
    ages: tuple[float, ...]
    """The ages at which the last reaped workers were first seen over the limit."""
    within: float

    @property
    def text(self) -> str:
        return (
            f"workers reach the limit within {seconds(self.within)} of their start; the last {len(self.ages)} were"
            f" over {memory(self.limit)} when they were at most {seconds(max(self.ages))} old, and"
            " each replacement begins with cold caches: raise limit=, or find what leaks"
        )


@dataclass(frozen=True)
class ManagerLost(_Base):
    """The manager ended after a reap, and no user asked for that: the pool is suspended."""

    announced_as = "suspended"
    fails = True
    worker: ProcessId
    manager: ProcessId
    resumes_after: float
    after: float
    """Seconds since the signal."""
    is_certain: bool
    """Whether supervisord said that it ended by itself; False: it did not say how it ended."""

    @property
    def text(self) -> str:
        causes = (
            "it ended by itself; the likely causes: it runs daemonized (-d), or FCGI::ProcManager is 0.17 or older"
            if self.is_certain
            else "supervisord did not say whether it was stopped or ended by itself"
        )
        return (
            f"suspended: the manager {self.manager.pid} ended {seconds(self.after)} after worker {self.worker.pid}"
            f" was signalled: {causes}; resumes when the next manager has run for {seconds(self.resumes_after)} or"
            " the settings change"
        )


@dataclass(frozen=True)
class Resumed(_Base):
    announced_as = "resumed"
    because: str

    @property
    def text(self) -> str:
        return f"resumed: {self.because}"


@dataclass(frozen=True)
class _CommandDone(_Base):
    """A user's command was carried out in this pool."""

    result: str

    @property
    def text(self) -> str:
        return self.result


class Paused(_CommandDone):
    """A user paused this pool."""


class ResumedByUser(_CommandDone):
    """A user ended the pause or suspension of this pool."""

    announced_as = "resumed"


class WorkersRequested(_CommandDone):
    """A user asked for workers of this pool to be replaced."""


@dataclass(frozen=True)
class OrphansFound(_Base):
    """Earlier starts of a program have left processes behind that supervisord does not know."""

    roots: tuple[int, ...]
    memory: int
    """Bytes that they hold together."""
    daemonizes: bool
    """Whether the program's command says that it daemonizes itself."""

    @property
    def text(self) -> str:
        trees = "a process tree" if len(self.roots) == 1 else f"{len(self.roots)} process trees"
        cause = (
            "it daemonized itself; remove -d (--daemonize) from its command"
            if self.daemonizes
            else "it daemonizes itself, or its manager was killed before its workers; keep it in the"
            " foreground, and set stopwaitsecs= above the time that they need to finish"
        )
        return (
            f"{trees} from its earlier starts, unknown to supervisord, still hold {memory(self.memory)}:"
            f" {cause}; then end them: kill {' '.join(map(str, self.roots))}"
        )


# What only `memreap once` says.


@dataclass(frozen=True)
class Planned(_Base):
    """What a run without --dry-run would do with a worker."""

    worker: ProcessId
    reason: Reason
    action: str

    @property
    def text(self) -> str:
        return f"worker {self.worker.pid} {self.reason.text}: {self.action}"


@dataclass(frozen=True)
class Noted(_Base):
    """How a pool stands, or what the run waits for."""

    note: str

    @property
    def text(self) -> str:
        return self.note


# The listener itself: `pool` is empty.


@dataclass(frozen=True)
class NotUnderSupervisord(_Base):
    """A user runs the listener by hand."""

    @property
    def text(self) -> str:
        return "supervisord starts listen, from an [eventlistener:memreap] section; by hand, use memreap once"


@dataclass(frozen=True)
class AnotherListener(_Base):
    """Another listener of the same supervisord is running: this one exits."""

    holder: str

    @property
    def text(self) -> str:
        return (
            f"another listener of this supervisord is running already ({self.holder}): this one exits; keep one"
            " [eventlistener:memreap], with numprocs=1"
        )


@dataclass(frozen=True)
class OtherListenersUnknown(_Base):
    """memreap cannot find out whether another listener of the same supervisord is running."""

    why: str

    @property
    def text(self) -> str:
        return f"{self.why}: cannot tell whether another listener of this supervisord is running; keep only one"


@dataclass(frozen=True)
class SupervisordHidden(_Base):
    """The supervisord that started the listener is hidden from the listener's user."""

    supervisord: int

    @property
    def text(self) -> str:
        return (
            f"supervisord (process {self.supervisord}) is hidden from this user, as by hidepid= of /proc: pools of"
            " other users cannot be seen, and the saved state may be that of an earlier supervisord; run the listener"
            " as root, or mount /proc with the gid= of a group that it is in"
        )


@dataclass(frozen=True)
class Started(_Base):
    memreap: str
    """Its version."""
    configuration: str
    """Path of the file; empty if there is none."""

    @property
    def text(self) -> str:
        return f"version {self.memreap}, configuration {self.configuration or 'from the command only'}"


@dataclass(frozen=True)
class SettingsRefused(_Base):
    """The settings have an error, and none of them is applied."""

    error: str
    are_known: bool | None
    """Whether earlier settings are in force; None: the listener exits, or has only those of its command."""

    @property
    def text(self) -> str:
        if self.are_known is None:
            return self.error
        consequence = (
            "the earlier settings stay in force" if self.are_known else "nothing is watched until it is corrected"
        )
        return f"{self.error} ({consequence})"


@dataclass(frozen=True)
class SettingsWarned(_Base):
    warnings: tuple[str, ...]

    @property
    def text(self) -> str:
        return "; ".join(self.warnings)


@dataclass(frozen=True)
class NoAlarm(_Base):
    """`headroom` or `pressure` is set, but the kernel cannot wake the listener between two ticks."""

    why: str
    """The kernel's error."""

    @property
    def text(self) -> str:
        missed = "a sudden shortage is noticed only at the next tick"
        return f"the kernel offers no wake-up when memory is short ({self.why}): {missed}"


@dataclass(frozen=True)
class Watching(_Base):
    """What the listener watches, at its start and after each change."""

    pools: tuple[tuple[str, PoolSettings], ...]

    @property
    def text(self) -> str:
        if not self.pools:
            return "watching nothing: no program has a [memreap:PROGRAM] section"
        return f"watching {', '.join(f'{name} ({_bounds(settings)})' for name, settings in self.pools)}"


def _bounds(settings: PoolSettings) -> str:
    limit = "" if settings.limit is None else f"limit {memory(settings.limit)} {settings.metric}"
    max_age = "" if settings.max_age is None else f"max_age {seconds(settings.max_age)}"
    total = "" if settings.total is None else f"total {memory(settings.total)}"
    keys = ("headroom", "pressure") if settings.relieves else ()
    shared = (f"{key} {shown(settings, key)}" for key in keys if getattr(settings, key) is not None)
    return ", ".join(filter(None, ("only observed" if settings.observe else "", limit, max_age, total, *shared)))


@dataclass(frozen=True)
class ProgramsMissing(_Base):
    """Settings or a command name programs that supervisord does not have."""

    names: tuple[str, ...]
    existing: tuple[str, ...]

    @classmethod
    def of(cls, names: Iterable[str], programs: Iterable[Program], at: float) -> ProgramsMissing | None:
        """None: no name is missing."""
        missing = tuple(names)
        return cls("", at, missing, tuple(sorted({program.namespec for program in programs}))) if missing else None

    @property
    def text(self) -> str:
        missing = "; ".join(f"no program or group '{quote(name)}' in supervisord" for name in self.names)
        return f"{missing}; there are: {', '.join(self.existing)}"


@dataclass(frozen=True)
class SupervisordUnavailable(_Base):
    error: str

    @property
    def text(self) -> str:
        return f"{self.error}; trying again at every tick"


@dataclass(frozen=True)
class SupervisordAvailable(_Base):
    @property
    def text(self) -> str:
        return "supervisord answers again"


@dataclass(frozen=True)
class SettingsAccepted(_Base):
    """A mistake in the settings was corrected."""

    @property
    def text(self) -> str:
        return "the configuration has no error any more: its settings are in force"


@dataclass(frozen=True)
class RecordedAgain(_Base):
    """The history is written again."""

    @property
    def text(self) -> str:
        return "history: there is no problem any more"


@dataclass(frozen=True)
class ExposedAgain(_Base):
    """The metrics are offered again."""

    @property
    def text(self) -> str:
        return "metrics: there is no problem any more"


@dataclass(frozen=True)
class NotRemembered(_Base):
    """What the last listener saved could not be read."""

    why: str

    @property
    def text(self) -> str:
        return (
            f"{self.why}: what an earlier listener saved there is not known, such as a pause: pause again what is to be"
            " paused"
        )


@dataclass(frozen=True)
class NotSaved(_Base):
    """What must survive a restart cannot be saved."""

    fails = True
    ends_wait = True
    BEGINNING: ClassVar[str] = "no worker is signalled, since what must survive a restart cannot be saved: "
    why: str

    @property
    def text(self) -> str:
        return f"{self.BEGINNING}{self.why}"


@dataclass(frozen=True)
class SavedAgain(_Base):
    """What must survive a restart can be saved again."""

    @property
    def text(self) -> str:
        return "what must survive a restart can be saved again: workers are signalled again"


@dataclass(frozen=True)
class NotPublished(_Base):
    """supervisord did not accept the status."""

    error: str

    @property
    def text(self) -> str:
        return f"could not publish the status: {self.error}"


@dataclass(frozen=True)
class NotRecorded(_Base):
    """The history cannot be written."""

    error: str

    @property
    def text(self) -> str:
        return f"history: {self.error} (workers are replaced all the same)"


@dataclass(frozen=True)
class NotExposed(_Base):
    """The metrics cannot be offered."""

    error: str

    @property
    def text(self) -> str:
        return f"metrics: {self.error} (workers are replaced all the same)"


@dataclass(frozen=True)
class Summary(_Base):
    """What happened in this pool in the last day, once a day."""

    line: str

    @property
    def text(self) -> str:
        return self.line


@dataclass(frozen=True)
class LimitSuggested(_Base):
    """What is known about the right limit of a pool that is only observed."""

    line: str

    @property
    def text(self) -> str:
        return self.line


@dataclass(frozen=True)
class CommandRefused(_Base):
    error: str

    @property
    def text(self) -> str:
        return f"a command was refused: {self.error}"


@dataclass(frozen=True)
class LinesMissing(_Base):
    """Lines of the log were dropped, since nothing read it."""

    count: int

    @property
    def text(self) -> str:
        return f"{self.count} lines are missing here: nothing read the log, and there was no room for them"


@dataclass(frozen=True)
class InternalError(_Base):
    """A bug in memreap, in this pool or in the listener; the other pools are handled as usual."""

    is_reported_once = True
    error: str
    place: str

    @property
    def text(self) -> str:
        return f"internal error, please report it: {self.error} at {self.place}"

    @property
    def key(self) -> str:
        return f"InternalError: {self.error} at {self.place}"


Event = Union[
    Signalled,
    SignalledAgain,
    Forced,
    NotForced,
    LeftByItself,
    WouldReap,
    Changed,
    OutOfResources,
    NotPermitted,
    Locked,
    CannotHold,
    Overdue,
    OverdueEnded,
    SignalOfServer,
    NotCaught,
    WrongSignal,
    LooksLikeManager,
    NotShared,
    NeverServed,
    ServingUnknown,
    Unreadable,
    SizesUnreadable,
    NotVisible,
    NoWorkers,
    Wrapped,
    TooFewWorkers,
    NotRelieved,
    Outgrown,
    NotMet,
    Relieved,
    TotalUnreadable,
    OomKilled,
    OomKilledOther,
    Left,
    Replaced,
    Settled,
    NotReplaced,
    NoReplacement,
    Stuck,
    Remembered,
    WrongSetting,
    FastLeak,
    ManagerLost,
    Resumed,
    Paused,
    ResumedByUser,
    WorkersRequested,
    OrphansFound,
    Planned,
    Noted,
    NotUnderSupervisord,
    AnotherListener,
    OtherListenersUnknown,
    SupervisordHidden,
    Started,
    SettingsRefused,
    SettingsWarned,
    NoAlarm,
    Watching,
    ProgramsMissing,
    SupervisordUnavailable,
    SupervisordAvailable,
    SettingsAccepted,
    RecordedAgain,
    ExposedAgain,
    NotRemembered,
    NotSaved,
    SavedAgain,
    NotPublished,
    NotRecorded,
    NotExposed,
    Summary,
    LimitSuggested,
    CommandRefused,
    LinesMissing,
    InternalError,
]
VETOES = (NotShared, LooksLikeManager, WrongSignal, NotCaught)
"""The events that say that a worker must never be signalled."""

Sink = Callable[[Event], None]
"""A consumer of events: the log, the counters, announcements."""
