"""The events about a pool as a whole; those about memory that pools share are in core.memoryevents. Pure."""

from __future__ import annotations

from supervisor_memreap.core.event import AboutWorker, Event, Over
from supervisor_memreap.core.hindrance import SAFER_WAY, Hindrance
from supervisor_memreap.core.model import Nested, ProcessId
from supervisor_memreap.core.reasons import Reason
from supervisor_memreap.core.text import memory, seconds

# Managers of which a line has the pids.
_MOST_NAMED = 5

# What is watched, and how its workers are signalled.


class NotVisible(Event):
    """The program runs, but its manager cannot be seen."""

    is_reported_once = fails = True
    told_apart_by = "{why}"
    trouble = "pool not visible"
    wording = "the program runs, but {why}: not watched"
    why: str


class NoWorkers(Event):
    """The program has been running for a while, but no process below it serves."""

    is_reported_once = fails = True
    trouble = "no workers"
    wording = (
        "process {manager.pid} has no workers: not watched; is -l missing in the command of an [fcgi-program], or the"
        " manager turned off (--manager '')? If the process itself serves, set target=self"
    )
    manager: ProcessId


class Wrapped(Event):
    """The workers are not children of what supervisord started, but of one of its children, or deeper."""

    is_reported_once = fails = True
    trouble = "pool below a wrapper"
    wording = "not watched: {why}"
    managers: tuple[Nested, ...]
    depth: int

    @property
    def why(self) -> str:
        """The text, without that it is not watched."""
        if len(self.managers) > 1:
            several = " and ".join(f"{each.id.pid} ({each.name})" for each in self.managers[:_MOST_NAMED])
            return (
                f"its children {several} are managers themselves, and no other child can be a worker; give each its"
                " own [program:...] section"
            )
        (manager,) = self.managers
        children = "a child" if manager.children == 1 else f"{manager.children} children"
        start = f"its child {manager.id.pid} ({manager.name}) has {children}, and no other child can be a worker"
        if self.depth == 2:
            deeper = "depth=2 does not reach the pool; use exec in the program's command, and user= instead of su"
            return f"{start}: {deeper}"
        return f"{start}: the pool is below it; use exec in the program's command, or set depth=2"


class CannotHold(Event):
    """Workers may not be held while they are signalled."""

    is_reported_once = True
    wording = (
        "no permission to hold workers (ptrace): each is signalled right after it is seen idle, where that is visible,"
        f" or while busy after idle_wait, if its server allows that; {SAFER_WAY}"
    )


class SignalOfServer(Event):
    """`signal` is not set, and the server finishes its requests on another one than HUP: that one is used."""

    is_reported_once = True
    wording = "{server} finishes its requests on {signal}, so {signal} is used (signal= is not set)"
    server: str
    signal: str


class ServingUnknown(Event):
    """It cannot be seen whether workers serve: their age counts."""

    is_reported_once = True
    wording = (
        "{is_hidden:no permission to read the sockets of its processes|none of its workers listens}, so memreap cannot"
        " tell when a replacement serves and goes by its age (settle); set settle= longer than a worker takes to start"
        "{is_hidden:; " + SAFER_WAY + "|}"
    )
    is_hidden: bool
    """Whether their sockets may not be read; False: none of them listens."""


class TooFewWorkers(Event):
    """Too few workers are old enough to serve: none of them is signalled."""

    is_reported_once = fails = ends_wait = True
    refusal = "too few workers"
    wording = (
        "too few workers serve and are older than min_age={min_age:seconds} ({old_enough} of the usual {usual}):"
        " nothing is sent; see the program's own log for why the others exit"
    )
    old_enough: int
    usual: int
    min_age: float


# What goes on for long.


class Overdue(Event):
    """Workers are due, and for too long none could be signalled; repeated while that lasts."""

    trouble = "pool overdue"
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


class OverdueEnded(Over):
    """Workers are signalled again, or none is due any longer."""

    ends = Overdue
    wording = "no worker is overdue any longer, after {after:seconds}"
    after: float
    """Seconds."""


class FastLeak(Event):
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
            " each replacement starts with cold caches: raise limit=, or find the leak"
        )


class WrongSetting(Event):
    """Workers are over the limit already when they begin to serve: the pool is suspended."""

    announced_as = "suspended"
    fails = True
    wording = (
        "suspended: even a fresh worker {baseline.text}, {age:seconds} after its start; set {usable} or higher; resumes"
        " after {lasts:seconds}"
    )
    baseline: Reason
    """The reason as it applied when the worker began to serve that exceeds the setting least."""
    usable: str
    """A usable setting, as a user writes it."""
    age: float
    """Of that worker at that time, in seconds."""
    lasts: float
    """Seconds after which the setting is tried again."""


class ManagerLost(AboutWorker):
    """The manager ended after a reap, and no user asked for that: the pool is suspended."""

    announced_as = "suspended"
    fails = True
    wording = (
        "suspended: the manager {manager.pid} ended {after:seconds} after worker {pid} was signalled: {is_certain:it"
        " exited on its own; likely causes: it runs daemonized (-d), or FCGI::ProcManager is 0.17 or older"
        "|supervisord did not report whether it was stopped or exited on its own}; resumes when the next manager has"
        " run for {resumes_after:seconds} or the settings change"
    )
    manager: ProcessId
    resumes_after: float
    after: float
    """Seconds since the signal."""
    is_certain: bool
    """Whether supervisord reported that it exited on its own; False: it did not report how it ended."""


class Resumed(Event):
    announced_as = "resumed"
    wording = "resumed: {because}"
    because: str


class OrphansFound(Event):
    """Earlier starts of a program have left processes behind that supervisord does not know."""

    trouble = "orphans found"
    roots: tuple[int, ...]
    memory: int
    """Bytes that they hold together."""
    daemonizes: bool
    """Whether the program's command has an option that daemonizes it."""

    @property
    def text(self) -> str:
        is_one = len(self.roots) == 1
        trees = (
            "a process tree from an earlier start" if is_one else f"{len(self.roots)} process trees from earlier starts"
        )
        hold = "holds" if is_one else "hold"
        cause = (
            "it daemonized itself; remove -d (--daemonize) from its command"
            if self.daemonizes
            else "it daemonizes itself, or its manager was killed before its workers; keep it in the"
            " foreground, and set stopwaitsecs= longer than they take to finish"
        )
        return (
            f"{trees} of this program, unknown to supervisord, still {hold} {memory(self.memory)}: {cause};"
            f" then end {'it' if is_one else 'them'}: kill {' '.join(map(str, self.roots))}"
        )


# What a user asked for, or gets to read.


class CommandDone(Event):
    """A user's command was carried out in this pool."""

    wording = "{result}"
    result: str


class Paused(CommandDone):
    """A user paused this pool."""


class ResumedByUser(CommandDone):
    """A user ended the pause or suspension of this pool."""

    announced_as = "resumed"


class WorkersRequested(CommandDone):
    """A user asked for workers of this pool to be replaced."""


class Noted(Event):
    """The state of a pool, or what the run waits for."""

    wording = "{note}"
    note: str


class Summary(Event):
    """What happened in this pool in the last day, once a day."""

    wording = "{line}"
    line: str


class LimitSuggested(Event):
    """What is known about the right limit of a pool that is only observed."""

    wording = "{line}"
    line: str
