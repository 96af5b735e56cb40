"""The events about memory that processes share; core.events has them too. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from supervisor_memreap.core.event import Base
from supervisor_memreap.core.model import Holder
from supervisor_memreap.core.shortage import Kind, Shortage
from supervisor_memreap.core.text import memory, seconds


@dataclass(frozen=True)
class NotRelieved(Base):
    """Memory is short, and reaping does not help: memreap reaps nothing for it for a while."""

    announced_as = "short"
    fails = True
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
        return f"{self.shortage.text}, and {done}{most}; {self._remedy}, trying again in {seconds(self.retry_after)}"

    @property
    def _remedy(self) -> str:
        if self.shortage.kind is Kind.TOTAL:
            return "raise total=, run fewer workers, or restart the program when convenient"
        return f"nothing more is reaped for {self.shortage.kind.value}"


@dataclass(frozen=True)
class Outgrown(Base):
    """Memory is short, and workers grow as fast as they are replaced: reaping goes on."""

    shortage: Shortage
    reaps: int
    """Workers reaped for it since memreap last began to try."""
    after: float
    """Seconds since it began."""

    @property
    def text(self) -> str:
        return (
            f"{self.shortage.text}, though {self.reaps} workers were replaced in {seconds(self.after)}: workers grow as"
            " fast as they are replaced, one at a time; find what leaks, or run fewer workers"
        )


@dataclass(frozen=True)
class Relieved(Base):
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


@dataclass(frozen=True)
class TotalUnreadable(Base):
    """`total` is set, but memreap may not read what the pool's processes hold."""

    is_reported_once = fails = True

    @property
    def text(self) -> str:
        return (
            "memreap may not read what its processes hold (pss), so total= has no effect; run memreap as their user"
            " or as root with CAP_SYS_PTRACE (in Docker: --cap-add SYS_PTRACE)"
        )
