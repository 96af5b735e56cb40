"""The events about memory that processes share. Pure."""

from __future__ import annotations

from supervisor_memreap.core.event import Event
from supervisor_memreap.core.model import HOST, Holder, ProcessId
from supervisor_memreap.core.shortage import Kind, Shortage
from supervisor_memreap.core.text import memory, seconds

# The maximum number of pids in a line.
_MOST_NAMED = 5


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
        return f"nothing more is reaped for {self.shortage.kind.value}"


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
