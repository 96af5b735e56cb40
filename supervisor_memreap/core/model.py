"""The values that pass between the steps. All frozen; memory in bytes, time in seconds."""

from __future__ import annotations

import enum
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from supervisor_memreap.core import rows


class ProcessId(NamedTuple):
    """Identifies one process permanently: a pid is reused, a pid with its start time is not."""

    pid: int
    start_time: float
    """Seconds after the boot (Linux) or after the epoch (elsewhere): to compare, not to show."""


class ProgramState(str, enum.Enum):
    """The states of a process as supervisord names them, to compare with: one that is not here is passed on as text."""

    STOPPED = "STOPPED"
    STARTING = "STARTING"
    RUNNING = "RUNNING"
    BACKOFF = "BACKOFF"
    STOPPING = "STOPPING"
    EXITED = "EXITED"
    FATAL = "FATAL"
    UNKNOWN = "UNKNOWN"


UP = (ProgramState.RUNNING, ProgramState.STARTING)
"""States of a program that runs, or will in a moment."""
STOPPED_BY_HAND = (ProgramState.STOPPING, ProgramState.STOPPED)
"""States of a program that a user stops."""


@dataclass(frozen=True)
class Program:
    """A process that supervisord runs, as reported in this look."""

    group: str
    name: str
    state: str
    """As supervisorctl shows it: one of ProgramState."""
    pid: int
    """0 if there is none."""
    supervisord: int = 0
    """The pid of the supervisord that reported it, which must be the manager's parent; 0: the user gave --pid."""
    restarts: bool | None = None
    """Whether supervisord restarts it after exit status 0; None: unknown."""
    spawnerr: str = ""
    """supervisord's error for a start that failed."""
    age: float | None = None
    """Seconds since supervisord started it, by its own clock; None: its pid is known to mean the same process here."""
    asked: float | None = None
    """When supervisord was asked for its age (monotonic); None: just now."""

    @property
    def namespec(self) -> str:
        return self.name if self.group == self.name else f"{self.group}:{self.name}"


def supervisord_of(programs: Iterable[Program]) -> int | None:
    """The pid of the supervisord that runs them; None: it is not known."""
    return next((program.supervisord for program in programs if program.supervisord), None)


class Ending(enum.Enum):
    """How a manager ended, according to supervisord."""

    STOPPED = "stopped"
    """A user asked supervisord to stop or restart it."""
    EXITED = "exited"
    """It exited on its own."""
    UNKNOWN = "unknown"


class Result(str, enum.Enum):
    """The outcome of an attempt to signal a worker."""

    SENT = "sent"
    BUSY = "busy"
    """It did not come to its boundary, and was not seen idle."""
    GONE = "gone"
    CHANGED = "changed"
    NOT_SHARED = "not shared"
    """It has no socket of its manager: connections queued at its own socket would be lost with it."""
    NOT_PERMITTED = "not permitted"
    FAILED = "failed"


class SentMoment(str, enum.Enum):
    """What the worker was doing when the signal was sent."""

    HELD = "held"
    """It was at its boundary: where it enters its wait for the next connection, with none in hand."""
    IDLE = "idle"
    """It was seen idle just before."""
    BUSY = "busy"
    UNKNOWN = "unknown"


class ProcessMemory(NamedTuple):
    """What a process holds, by its page tables, in bytes."""

    private: int
    """Resident and mapped by no other process: what the host gets back when this one exits."""
    swapped: int
    """In swap, with each shared page divided by the number of processes that have it."""
    pss: int | None
    """Resident, with each shared page divided by the number of processes that map it. None: this system has none."""
    swapped_whole: int | None = None
    """In swap, with each shared page counted in full. None: this system does not report it."""

    @property
    def resident_share(self) -> int:
        """Resident bytes, so that shared pages count once in a sum over processes; without `pss`, they do not count."""
        return self.private if self.pss is None else self.pss

    @property
    def share(self) -> int:
        """As `resident_share`, with what is in swap."""
        return self.resident_share + self.swapped

    def own_swap(self, processes: int) -> int:
        """Maximum bytes in swap that no other process has; `processes` is the number of processes in the pool.

        The kernel does not report this. But a page that manager and workers share counts in full in one figure, and
        divided in the other. So the result is exact if all of them share the page, and too large if fewer do.
        """
        if self.swapped_whole is None or processes < 2:
            return self.swapped
        return max(0, min(self.swapped, (processes * self.swapped - self.swapped_whole) // (processes - 1)))


@dataclass(frozen=True)
class WorkerDetail:
    """What is read of a worker only if a reason may apply to it."""

    used: int | None
    """The metric, in bytes. None: it may not be read."""
    caught: bool | None
    """Whether the worker has a handler for the signal. None: this system does not report it."""
    server: str = ""
    """The name of its server in core.servers; empty: none of those."""
    signal: str = "HUP"
    """The signal that it would be sent, by the settings and its server."""
    looks_like_manager: bool | None = False
    """Whether it may be a manager itself: by its name, or by children that may be its workers. None: it has forked a
    child a moment ago, which may be about to run a command.
    """
    is_late: bool = False
    """Whether the metric could not be read in time: the worker may hold the lock of its own memory map."""
    memory: ProcessMemory | None = None
    """None: it may not be read."""
    own_swap: int = 0
    """Maximum bytes in swap that no other process has."""


class Worker(NamedTuple):
    id: ProcessId
    age: float
    bound: int
    """Resident and swapped memory: the metric is never more than this (with metric=vms it is the size)."""
    detail: WorkerDetail | None = None
    slot: str = ""
    """With target=self: the name that supervisord has for this process, and for the next in its place."""
    serving: bool | None = None
    """Whether it was seen to serve. None: not read at this look, or that may not be read, so its age counts."""

    @property
    def used(self) -> int | None:
        return self.detail.used if self.detail else None

    @property
    def private(self) -> int | None:
        """Bytes of memory that the host gets back when it exits; None: unknown."""
        return self.detail.memory.private if self.detail and self.detail.memory else None

    @property
    def freed(self) -> int | None:
        """`private`, and what it has in swap; None: unknown."""
        return None if self.private is None else self.private + self.own_swap

    @property
    def own_swap(self) -> int:
        """Maximum bytes in swap that no other process has; 0 if unknown."""
        return self.detail.own_swap if self.detail else 0


class InitialSize(NamedTuple):
    """What a worker held when it began to serve, as far as it was read then; or less, if it has held less since."""

    size: int
    """In bytes of the metric, or of a bound for it."""
    is_exact: bool
    """Whether it is the metric itself: a worker whose bound is within its limit is not read in full."""
    metric: str
    age: float
    """Of the worker, in seconds, when this was read."""


HOST = "this host"
"""The name of the memory scope that is the whole machine."""


@dataclass(frozen=True)
class MemoryScope:
    """What limits the memory of processes: the host, a control group (such as a container), or a pool's `total`."""

    name: str
    size: int | None
    """Its size or limit in bytes; None: it has no limit of its own."""
    available: int | None
    """Bytes of its size that are not in use; negative if more than its size is in use."""
    pressure: float | None = None
    """% of the last 10 s in which some process waited for memory; None: the kernel does not report it."""


class Holder(NamedTuple):
    """A process that holds memory."""

    pid: int
    name: str
    resident: int
    """In bytes."""


class Nested(NamedTuple):
    """A child of the manager that is a manager itself."""

    id: ProcessId
    name: str
    children: int


class Fact(str, enum.Enum):
    """What the sockets of a child of the manager show about it."""

    SERVES = "serves"
    """It has a listening socket of its manager, and was seen to wait there for a connection, or to have one."""
    HOLDS = "holds"
    """It has a listening socket of its manager, and was not seen to serve yet."""
    ELSEWHERE = "elsewhere"
    """It has a listening socket of its manager, and waits on another one: a manager of its own pool."""
    APART = "apart"
    """It listens, but on no socket of its manager."""
    NONE = "none"
    """It listens on no socket."""
    HIDDEN = "hidden"
    """Its sockets, those of its manager, or what it waits for, may not be read."""
    UNREAD = "unread"
    """They could not be read in time."""
    TURN = "turn"
    """It has a listening socket of its manager, and waits for a lock, which may be its turn to wait there."""


class Sharing(str, enum.Enum):
    """Whether the children of a manager have its listening sockets, as far as they were read."""

    SHARED = "shared"
    APART = "apart"
    """Each listens on sockets of its own: connections queued there end with it."""
    NONE = "none"
    """None of them listens: the manager may hand them connections."""
    HIDDEN = "hidden"


@dataclass(frozen=True)
class Pool:
    """One manager and its workers after a look; no manager if the program does not run."""

    name: str
    state: str
    """As reported by supervisord, or `gone`."""
    not_visible: str = ""
    """Why a running program has no manager that can be seen."""
    manager: ProcessId | None = None
    manager_age: float = 0.0
    workers: tuple[Worker, ...] = ()
    stopped: frozenset[str] = frozenset()
    """With target=self: the slots that supervisord stops or has stopped."""
    child_faults: int | None = None
    """Page faults of all ended children of the manager: it grows when a child ends. None: unknown."""
    ending: Ending = Ending.UNKNOWN
    """If the manager of the last look is gone: how it ended. Read only if the policy needs it."""
    is_group: bool = False
    """With target=self: supervisord itself is the manager, of the workers of other pools too."""
    at: float = 0.0
    """When it was looked at, in seconds since 1970."""
    scopes: tuple[MemoryScope, ...] = ()
    """What limits its memory; read only if a setting needs it. The scope with the pool's name is its `total`."""
    is_total_unreadable: bool = False
    """Whether `total` is set, but memreap may not read what its processes hold."""
    unread: frozenset[ProcessId] = frozenset()
    """Workers of which it could not be read in time whether they serve: they may have served for long."""
    helpers: tuple[ProcessId, ...] = ()
    """Children of the manager that take no connections from the pool's sockets."""
    sharing: Sharing | None = None
    """None: the sockets of no child had to be read at this look."""
    nested: tuple[Nested, ...] | None = None
    """The managers below which its workers are, if none of its children can be one. None: not read at this look."""
    forks_on_demand: bool = False
    """It has at most one worker, and its manager waits for clients itself, to fork one when a client asks."""
    late: float = 0.0
    """Seconds from the begin of the look until it had been read: its ages are of a moment between the two."""

    @property
    def stamp(self) -> tuple[str, float]:
        """The pool and the time of its events."""
        return self.name, self.at

    @property
    def detailed(self) -> tuple[Worker, ...]:
        """The workers to which a reason may apply: only they were read in full."""
        return tuple([worker for worker in self.workers if worker.detail])

    def worker(self, id: ProcessId) -> Worker | None:
        return next((worker for worker in self.workers if worker.id == id), None)


class Standing(str, enum.Enum):
    """The state of a pool, in one word."""

    QUIET = "quiet"
    DUE = "due"
    """A worker is due."""
    OVERDUE = "overdue"
    """Workers are due, and for too long none could be signalled (core.delay)."""
    REQUESTED = "requested"
    LEAVING = "leaving"
    SETTLING = "settling"
    PAUSED = "paused"
    OBSERVED = rows.OBSERVED
    SUSPENDED = "suspended"
    BLIND = "blind"
    """Sizes may not be read, or processes cannot be seen."""
    NOT_RUNNING = "not running"
