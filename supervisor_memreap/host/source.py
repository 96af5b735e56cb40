"""What a look asks of the system, and the answers of psutil, which serve where /proc does not."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Collection, Iterable
from typing import NamedTuple, TypeVar

import psutil

from supervisor_memreap.core.model import ProcessId, ProcessMemory
from supervisor_memreap.core.servers import Loop, Names
from supervisor_memreap.host.connections import Clients

Value = TypeVar("Value")


def if_readable(read: Callable[[], Value], otherwise: Value) -> Value:
    """What this reads of a process; `otherwise` if that is gone or may not be read."""
    try:
        return read()
    except (ProcessLookupError, PermissionError):
        return otherwise


class Process(NamedTuple):
    id: ProcessId
    parent: int
    age: float
    ended: bool
    """A zombie: it serves nothing and holds nothing."""
    child_faults: int | None = None
    """Page faults of its children that have ended and were waited for; None where unknown."""


class Sizes(NamedTuple):
    size: int
    """The address space, in bytes."""
    bound: int
    """Resident and swapped memory, in bytes, as the system counts it."""
    uncounted: int = 0
    """Bytes that it may have beyond that."""


class Source:
    """One look's view through psutil: who is whose child is read once, at the first question.

    All raise ProcessLookupError where the process is gone. host.procfs answers more than other systems tell.
    """

    def __init__(self) -> None:
        self._children: dict[int, list[int]] | None = None

    def pids(self) -> Iterable[int]:
        """Those of all processes."""
        return psutil.pids()

    def process(self, pid: int) -> Process:
        try:
            process = psutil.Process(pid)
            with process.oneshot():
                start_time = process.create_time()
                age = max(0.0, time.time() - start_time)
                return Process(
                    ProcessId(pid, start_time), process.ppid(), age, process.status() == psutil.STATUS_ZOMBIE
                )
        except psutil.NoSuchProcess:
            raise ProcessLookupError(pid) from None

    def children(self, pid: int) -> list[int]:
        if self._children is None:
            self._children = {}
            for process in psutil.process_iter(["ppid"]):
                self._children.setdefault(process.info["ppid"], []).append(process.pid)
        return self._children.get(pid, [])

    def family(self, pid: int) -> tuple[Process, list[int]]:
        """The process, and the pids of its children."""
        return self.process(pid), self.children(pid)

    def sizes(self, pid: int) -> Sizes:
        info = self._memory(pid, full=False)
        return Sizes(info.vms, info.rss)

    def memory(self, pid: int) -> ProcessMemory:
        """What the process holds, by its page tables. Raises PermissionError."""
        info = self._memory(pid, full=True)
        if not hasattr(info, "uss"):  # the BSDs
            raise PermissionError("this system does not report uss")
        pss = getattr(info, "pss", None)  # macOS has none
        return ProcessMemory(int(info.uss), int(getattr(info, "swap", 0)), None if pss is None else int(pss))

    def memories(self, pids: Collection[int], until: float) -> dict[int, ProcessMemory]:
        """That of each, if it may be read, and as far as there is time until then (monotonic)."""
        found = {}
        for pid in pids:
            if time.monotonic() < until:
                with contextlib.suppress(OSError):
                    found[pid] = self.memory(pid)
        return found

    def catches(self, pid: int, signum: int) -> bool | None:
        """Whether the process has a handler for the signal; None: unknown."""
        return None

    def idle(self, pid: int) -> bool | None:
        """Whether the process waits for a connection at this moment; None: unknown.

        Like `clients` only for a child of memreap: the process can keep locked what is read.
        """
        return None

    def clients(self, pid: int) -> Clients:
        """The clients' connections that the process has. Raises PermissionError."""
        raise PermissionError("this system does not show whose connections they are")

    def names(self, pid: int) -> Names:
        """What the process is called."""
        try:
            process = psutil.Process(pid)
            with process.oneshot():
                names = Names(process.name(), process.cmdline())
        except psutil.AccessDenied:
            return Names("", [])
        except psutil.NoSuchProcess:
            raise ProcessLookupError(pid) from None
        try:
            return names._replace(executable=process.exe().rpartition("/")[2])
        except psutil.Error:
            return names

    def environ(self, pid: int) -> dict[str, str]:
        """The environment with which it was started; empty where it has overwritten that. Raises PermissionError."""
        try:
            return psutil.Process(pid).environ()
        except psutil.NoSuchProcess:
            raise ProcessLookupError(pid) from None
        except psutil.Error:
            raise PermissionError(pid) from None

    def is_fork(self, pid: int, parent: int) -> bool | None:
        """Whether the process was forked from `parent` and has run no other program since; None: unknown."""
        return None

    def loop(self, pid: int, manager: int) -> Loop:
        """In what the process waits for connections on the sockets of its manager.

        Raises Blocked or NoReader where that could not be read in time.
        """
        return Loop.HIDDEN

    def watches_own(self, pid: int) -> bool:
        """Whether the process watches a socket on which it listens, in an epoll; False where that may not be read."""
        return False

    def activity(self, pid: int) -> str:
        """What the process does at this moment, for a reader, such as `state S, in futex_wait_queue`."""
        try:
            return f"state {psutil.Process(pid).status()}"
        except psutil.NoSuchProcess:
            raise ProcessLookupError(pid) from None

    def _memory(self, pid: int, full: bool):  # type: ignore[no-untyped-def] # its fields differ by system
        try:
            process = psutil.Process(pid)
            return process.memory_full_info() if full else process.memory_info()
        except psutil.AccessDenied:
            raise PermissionError(pid) from None
        except psutil.NoSuchProcess:
            raise ProcessLookupError(pid) from None
