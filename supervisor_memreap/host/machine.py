"""All that the reaper asks of the outside, in values: the one door to processes, locks, signals and the clock. Pure.

`host.thismachine` answers for the machine that memreap runs on. All of listener/ that decides (CONTRIBUTING.md has the
list) and all of core/ know no other door, so a simulated machine may stand behind it.

A Machine serves one process of memreap: it holds that one's locks and descriptors, which the end of the process
releases. Times that are called `now`, `until` or `deadline` are monotonic, in seconds; memory is in bytes. A process is
known by its ProcessId, never by its pid alone: a question about one that is gone, or whose pid another one has by now,
is answered as `gone`. No method blocks for longer than its docstring permits, whatever a worker does to its own memory
map, sockets or files; where none is given that is some milliseconds. What raises OSError may do so for want of memory,
processes or descriptors, too (ENOMEM, EAGAIN, EMFILE); a method that names no error raises none.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

from supervisor_memreap.core.model import Ending, Holder, Pool, ProcessId, Program, Result, SentMoment, Worker
from supervisor_memreap.core.oomkills import Kills
from supervisor_memreap.core.settings import PoolSettings, Watch
from supervisor_memreap.core.state import PoolState

# Seconds in which a worker has to come to its boundary, so that others that are due have their turn.
TURN = 5.0
# Stops of one attempt: two for each system call, 35 us each from Python.
MOST_STOPS = 10000

NeedsDetail = Callable[[Worker], bool]
# Takes a pool with its manager and memory scopes, but no workers yet; returns which of its workers need details.
Gate = Callable[[Pool], NeedsDetail]
Asked = tuple[Pool, PoolSettings, Mapping[ProcessId, int]]
"""A pool whose workers are to be measured, and the metric of those of them for which it is known, in bytes."""
States = Mapping[str, PoolState]
"""By the names of the pools."""


class Locked(Exception):
    """Another process holds the lock; the text names it."""

    def __init__(self, text: str, pid: int = 0):
        super().__init__(text)
        self.pid = pid
        """Of that process; 0: unknown."""


class Unlockable(Locked):
    """The lock cannot be taken, so whether another process holds it is unknown; the text has the reason."""


@dataclass(frozen=True)
class Order:
    """What an attempt is to do."""

    worker: ProcessId
    manager: ProcessId
    processes: int
    """The number of processes in the pool, which share memory."""
    server: str
    """As in core.model."""
    signal: str
    hold: bool = True
    """Whether to bring the worker to its boundary."""
    may_be_busy: bool = False
    """Signal it at the end even while busy, if its server permits that: `idle_wait` has expired."""
    busy_signal: str = ""
    """The signal for it then; empty: the same."""
    patience: float = TURN
    """Seconds that this may take."""
    private: int | None = None
    """Bytes that the worker has for itself, as read at the look; None: not read there."""
    stops: int = MOST_STOPS
    """System calls, twice over, in which the worker may be stopped for microseconds."""
    siblings: frozenset[int] = frozenset()
    """The pids of the pool's other workers."""
    may_lack: int = 0
    """If more of them are gone by then, nothing is sent."""


@dataclass(frozen=True)
class Outcome:
    """What became of an attempt."""

    result: Result
    moment: SentMoment | None = None
    """What the worker was doing when the signal was sent; None: it was not sent."""
    unheld: bool = False
    """It was not permitted to bring it to its boundary."""
    has_boundary: bool | None = None
    """Whether it could have been brought there; None: unknown."""
    private: int | None = None
    """Private bytes of the worker; None: unknown."""
    watched: float = 0.0
    """Seconds in which it was seen that it never was between two requests."""
    is_kept: bool = False
    """A client's connection was seen that is kept between requests."""
    may_be_kept: bool = False
    """It would have been signalled while busy, but its connections may be kept, as far as they were seen."""
    signal: str = ""
    """The one that was sent; empty: that of the order."""
    is_deaf: bool = False
    """It has no handler for the signal that it would be sent while busy, so nothing was sent."""
    stopped: float = 0.0
    """Seconds for which the worker was stopped without a signal being sent."""
    sent_at: float | None = None
    """Monotonic: right before the signal; None: it was not sent, or it is not known when."""
    error: str = ""
    """Of memreap itself: nothing was sent."""


class Clock(Protocol):
    def now(self) -> float:
        """Monotonic seconds, the same for every process of this boot; they go on while the clock of the day is set."""

    def time(self) -> float:
        """Seconds since 1970. A user may set it forward or back at any moment."""


class Lock(Protocol):
    """Held until it and all that share it are closed, or this process ends; never twice on one machine."""

    def share(self) -> Lock:
        """Another holder of the same lock. Raises OSError."""

    def close(self) -> None:
        """Again has no effect."""


class Handle(Protocol):
    """Of one process: it means that very process also when the process is gone and its pid is another one's."""

    def fileno(self) -> int:
        """What `Machine.wait` reports as ready when the process is gone. No other open handle or attempt has it."""

    def close(self) -> None:
        """Again has no effect."""


class Attempt(Protocol):
    """One try to signal one worker, which goes on beside this process and ends with it.

    It checks the worker again, brings it to its boundary or waits until it is idle, and sends the signal of its order
    at most once. While it goes on it holds the lock that it was given.
    """

    @property
    def order(self) -> Order: ...

    @property
    def fd(self) -> int:
        """What `Machine.wait` reports as ready when there may be an outcome."""

    @property
    def deadline(self) -> float:
        """When to ask for the outcome at the latest, even if nothing is ready."""

    @property
    def handle(self) -> Handle | None:
        """Of its worker; the caller has to close it. None: this machine has no handles."""

    def shorten(self, patience: float) -> None:
        """Give it at most `patience` seconds from its start."""

    def outcome(self) -> Outcome | None:
        """What became of it; None: it goes on, and its deadline has not passed. At most 0.2 s.

        Nothing is sent after an outcome was returned. SENT also where it is unknown whether the signal was sent. Any
        exception means the same: unknown.
        """

    def cancel(self) -> Outcome:
        """End it now; the rest as `outcome`, which is not to be called any more."""


class PoolReader(Protocol):
    def read(
        self,
        watch: Watch,
        gate: Gate,
        expected: Collection[ProcessId],
        serving: Collection[ProcessId],
        reads_structure: bool,
        probe: bool,
    ) -> Pool:
        """One pool, with its helpers apart. Raises what `gate` raises, nothing of its own.

        `gate` is called once, unless there is no manager; only workers for which it says so have their detail. Workers
        that are `expected` count as present until they are seen to be gone; of those that are `serving` it is known
        that they serve. `reads_structure`: also read `nested`. `probe`: read one worker in full in any case, to learn
        whether sizes may be read. What may not be read, or is not read in time, is unknown in the Pool. Its `late` is
        the time since `now` of the look.

        May take some 0.5 s for the first worker that keeps its memory map locked, then 0.02 s for each.
        """


class Machine(Clock, Protocol):
    def look(self, now: float, reads_scopes: bool) -> AbstractContextManager[PoolReader]:
        """To read all watched pools once, one after another; what it holds of others is released at the end.

        `reads_scopes`: read what limits the memory of the pools: a setting needs it.
        """

    def how_ended(self, program: Program, since: float) -> Ending:
        """How the last process of this program ended after `since` (seconds since 1970), according to supervisord.

        May wait for supervisord, as asking for the programs may.
        """

    # Of single processes, between looks too.

    def may_exist(self, process: ProcessId) -> bool:
        """Whether this very process exists, or may: it cannot be read."""

    def measure(self, asked: Sequence[Asked], until: float) -> list[Mapping[ProcessId, int]]:
        """The metric of each worker, as far as it may be read, by pool. Those not known are read, one after another.

        None is begun after `until`; one that keeps its memory map locked takes as long as in a look.
        """

    def server_of(self, pool: Pool) -> str | None:
        """The name of the pool's server in core.servers, empty: none of those; None: there is no worker to read."""

    def private_memory(self, process: ProcessId, processes: int) -> int | None:
        """Bytes that are freed when this process leaves a pool of `processes`; None: it is gone or may not be read."""

    def activity(self, process: ProcessId) -> str:
        """What this process is doing now, as text for a user; empty if it is gone."""

    def holders(self, pool: Pool) -> tuple[Holder, ...]:
        """The three processes of this pool that hold most memory (pss), the largest first."""

    # Memory that is short. The scopes are those of the last look.

    def holders_in(self, scope: str) -> tuple[Holder, ...]:
        """The three processes that hold most memory in this scope, the largest first; none if no scopes were read."""

    def oom_kills(self, processes: Mapping[str, ProcessId | None], now: float) -> tuple[dict[str, str], list[Kills]]:
        """The scope in which the kernel counts its OOM kills, by pool, and what was killed in each since the last call.

        `processes` has one process of each pool; None: it has none now, and the scope is that of the last one. To be
        called after the pools were read: a process that was gone then is counted by now.
        """

    def set_alarm(self, headroom: float | None, pressure: float | None, ignored: Collection[str]) -> str:
        """From now on be woken when memory runs short by these settings, but in `ignored` scopes; (None, None): never.

        Returns why the kernel offers nothing to be woken by; empty: it does, or nothing was wanted.
        """

    def alarm_fds(self) -> Mapping[int, int]:
        """What becomes ready then, each with its poll events."""

    def acknowledge_alarm(self) -> None:
        """What has happened so far makes none of them ready."""

    # The signal.

    def lock(self, manager: ProcessId, is_group: bool) -> Lock:
        """The lock of this manager, which no other memreap on this machine can hold at the same time.

        `is_group`: it is a supervisord, and the lock that of its pools with target=self. Raises Locked, Unlockable;
        ProcessLookupError if the manager is gone; OSError.
        """

    def attempt(self, order: Order, lock: Lock | None) -> Attempt:
        """Begin it, and do not wait for it. The state must have been saved as if the signal was sent.

        Raises ProcessLookupError if the worker is gone, OSError if nothing could be begun: nothing is sent then.
        """

    def follow(self, process: ProcessId) -> Handle | None:
        """None: it is gone, or this machine has no handles."""

    def may_signal(self, process: ProcessId) -> bool:
        """Whether this user may; also where the process is gone."""

    def force(self, pool: Pool, worker: Worker, signal: str) -> Result:
        """Send a stuck worker this signal, whatever it is doing, if it is still a worker of the pool's manager."""

    # Until something happens.

    def wait(self, fds: Mapping[int, int], seconds: float | None) -> list[int]:
        """Which of these are ready; none after so many seconds. Each has its poll events; None: without end.

        An interrupt (Ctrl-C) ends it with KeyboardInterrupt.
        """

    def close(self) -> None:
        """Release everything that looks and the alarm hold, and leave no process behind."""


class Store(Protocol):
    """Where this process of memreap saves the states that outlive it. Its methods may wait for a disk."""

    def read(self, now: float) -> tuple[States, str]:
        """What the last process of this kind saved; and an error if it could not be read, else empty.

        An attempt that was saved counts as sent. What another boot or supervisord saved does not count.
        """

    def write(self, states: States, now: float) -> str:
        """Save them all, or nothing: a process that is killed meanwhile leaves the earlier ones. An error, or empty."""

    def leaving_elsewhere(self, now: float) -> States:
        """The pools in which another memreap has saved that a worker is leaving, be it about to be signalled."""

    def remove(self) -> None:
        """Nothing is left to remember."""


class Beside(Protocol):
    """What a `memreap once` needs to know of the listener, which may be running; its methods may wait for a disk.

    `known` and `paused` raise Failed where it is there and cannot be read.
    """

    @property
    def file(self) -> Store:
        """Its own: the next memreap must know which worker it signalled."""

    def known(self, now: float) -> States:
        """Which workers are leaving or stuck, and which pools paused or suspended, as the listener has saved it."""

    def paused(self, now: float) -> Collection[str]:
        """The pools that a user has paused, as the listener has saved it by now."""

    def leaving(self, now: float) -> States:
        """The pools in which a worker is leaving, according to the listener or another `once`."""
