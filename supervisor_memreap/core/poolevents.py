"""The events about a pool as a whole, and about memory that pools share. Pure."""

from __future__ import annotations

from supervisor_memreap.core.event import AboutWorker, Event, Over
from supervisor_memreap.core.hindrance import SAFER_WAY, Hindrance
from supervisor_memreap.core.model import HOST, Holder, Nested, ProcessId
from supervisor_memreap.core.reasons import Reason
from supervisor_memreap.core.shortage import Kind, Shortage
from supervisor_memreap.core.text import memory, seconds

# Processes of which a line has the pids.
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
    """A user ended what kept memreap from signalling in this pool: a pause, a suspension, a wait for a replacement."""

    announced_as = "resumed"


class WorkersRequested(CommandDone):
    """A user asked for workers of this pool to be replaced."""


class Rolled(Event):
    """All workers were replaced that were to be replaced by a user's roll."""

    wording = "the roll is done: workers replaced: {workers}"
    workers: int


class RollStopped(Event):
    """A roll ended before all workers were replaced."""

    trouble = "roll stopped"
    wording = (
        "the roll stopped after {replaced} of {workers} workers: {why}; the others stay as they are: correct the cause,"
        " then roll again"
    )
    replaced: int
    workers: int
    why: str


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


# Memory that is short.


class NotRelieved(Event):
    """Memory is short, and reaping does not help: memreap reaps nothing for it for a while."""

    announced_as = "short"
    fails = True
    trouble = "reaping did not help"
    shortage: Shortage
    reaps: int
    """Workers reaped for it since memreap last began to try."""
    freed: int
    """Bytes that all workers reaped for it since the shortage began held of their own."""
    retry_after: float
    holders: tuple[Holder, ...] = ()
    """The processes that hold most of the memory, the largest first."""

    @property
    def text(self) -> str:
        workers = "1 worker" if self.reaps == 1 else f"{self.reaps} workers"
        done = (
            f"reaping does not help: replacing {workers} freed {memory(self.freed)}"
            if self.reaps
            else "reaping cannot help: no worker holds clearly more than a fresh one"
        )
        held = ", ".join(f"{each.name} ({each.pid}) {memory(each.resident)}" for each in self.holders)
        most = f"; most is held by {held}" if held else ""
        return f"{self.shortage.text}, and {done}{most}; {self._remedy}; trying again in {seconds(self.retry_after)}"

    @property
    def _remedy(self) -> str:
        if self.shortage.kind is Kind.TOTAL:
            return "raise total=, run fewer workers, or restart the program when convenient"
        return f"no more workers are replaced for {self.shortage.kind.value}"


class Outgrown(Event):
    """Memory is short, and workers grow as fast as they are replaced: reaping goes on."""

    wording = (
        "{shortage.text}, though {reaps} workers were replaced in {after:seconds}: workers grow as fast as they are"
        " replaced, one at a time; find the leak, or run fewer workers"
    )
    shortage: Shortage
    reaps: int
    """Workers reaped for it since memreap last began to try."""
    after: float
    """Seconds since it began."""


class NotMet(Event):
    """Memory is short, and at this look no worker could be signalled for it."""

    shortage: Shortage
    causes: tuple[tuple[str, str], ...]
    """Of each pool, by its name, as far as known."""

    @property
    def text(self) -> str:
        causes = "; ".join(f"{pool}: {cause}" for pool, cause in self.causes)
        why = f" ({causes})" if causes else ""
        return f"{self.shortage.text}, and no worker could be signalled for it now{why}; trying again at each look"


class Relieved(Event):
    """Memory was short, workers were reaped, and memory is no longer short."""

    announced_as = "relieved"
    shortage: Shortage
    """The last measurement."""
    available: int | None
    """Bytes that are available now; None: unknown."""
    after: float
    freed: int
    """Bytes that the workers reaped for it held of their own."""

    @property
    def text(self) -> str:
        start = self.shortage.ended
        now = f" ({memory(self.available)} available)" if self.available is not None and self.available >= 0 else ""
        return f"{start}{now} after {seconds(self.after)}: workers that held {memory(self.freed)} were replaced"


class TotalUnreadable(Event):
    """`total` is set, but memreap may not read what the pool's processes hold."""

    is_reported_once = fails = True
    trouble = "total unreadable"
    wording = (
        "no permission to read the pss of its processes, so total= has no effect; run memreap as their user or as root"
        " with CAP_SYS_PTRACE (in Docker: --cap-add SYS_PTRACE)"
    )


class OomKills(Event):
    """The kernel's OOM killer ended processes."""

    scope: str
    size: int | None
    """The scope's own limit in bytes; None: it has none."""
    kills: int
    """Processes that the kernel ended there since the last look."""

    @property
    def _ended(self) -> str:
        processes = "1 process" if self.kills == 1 else f"{self.kills} processes"
        place = f"{'on' if self.scope == HOST else 'in'} {self.scope}"
        limit = "" if self.size is None else f" (limit {memory(self.size)})"
        return f"the kernel's OOM killer ended {processes} {place}{limit}"


class OomKilled(OomKills):
    """Processes of this pool left without a signal of memreap while the kernel's OOM killer ended some in its group."""

    wording = (
        "{_subject} left without a signal while {_ended}{_doubt}: any request in progress was lost; give it more"
        " memory, or set headroom= or a lower limit="
    )
    workers: tuple[ProcessId, ...]
    manager: ProcessId | None
    """The manager, if it is gone too."""
    held: int
    """Bytes that the largest of these workers held at most at the look before."""
    gone: int
    """All processes that left so there, also of other pools."""
    killed: int
    """At most this many of the kills were in this pool."""
    others: tuple[str, ...] = ()
    """Other pools whose processes left that way there."""

    @property
    def pid(self) -> int:
        return self.workers[0].pid if len(self.workers) == 1 and not self.manager else 0

    @property
    def _subject(self) -> str:
        manager = f"the manager {self.manager.pid}" if self.manager else ""
        first = ", ".join(str(worker.pid) for worker in self.workers[:_MOST_NAMED])
        more = f" and {len(self.workers) - _MOST_NAMED} more" if len(self.workers) > _MOST_NAMED else ""
        noun = "worker" if len(self.workers) == 1 else "workers"
        held = "up to" if len(self.workers) == 1 else "the largest up to"
        workers = f"{noun} {first}{more} ({held} {memory(self.held)})" if self.workers else ""
        return " and ".join(filter(None, (manager, workers)))

    @property
    def _doubt(self) -> str:
        if self.kills >= self.gone:
            return ""
        also = f" (others belong to {', '.join(self.others)})" if self.others else ""
        return f", unknown which of the {self.gone} that left{also}"


class OomKilledOther(OomKills):
    """The OOM killer ended processes in a scope of watched pools, and no worker of these had left without a signal."""

    wording = "{_ended}, and no worker of a watched pool left without a signal then; dmesg has the names"
