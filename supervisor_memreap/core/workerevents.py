"""The events about one worker: signals that were sent or not, and what became of it. Pure."""

from __future__ import annotations

from supervisor_memreap.core.event import AboutDueWorker, AboutWorker
from supervisor_memreap.core.model import ProcessId, SentMoment
from supervisor_memreap.core.servers import named
from supervisor_memreap.core.text import MIB, memory, seconds

# What was sent.


class Signalled(AboutDueWorker):
    """A worker was sent the signal."""

    announced_as = "reap"
    signal: str
    moment: SentMoment
    idle_wait: float
    cost: str = ""
    """What signalling a busy worker may cost; empty: nothing."""

    @property
    def text(self) -> str:
        moment = {
            SentMoment.HELD: "between two requests",
            SentMoment.IDLE: "while idle",
            SentMoment.BUSY: f"while busy, since it was not seen between two requests for {seconds(self.idle_wait)}",
            SentMoment.UNKNOWN: "; could not tell whether it was idle",
        }[self.moment]
        text = f"{self.due_worker}: {self.signal} sent {moment}".replace(" ;", ";")
        return f"{text} ({self.cost})" if self.cost else text


class SignalledAgain(AboutWorker):
    """A worker that came to its boundary long after the first signal was sent a second one there."""

    wording = (
        "worker {pid} is waiting for its next connection and has not left: {first_was_sent:the first {signal} arrived"
        " between a request and accept, where the worker only records it; {signal} sent a second time"
        "|memreap was killed before it could signal it; {signal} sent}"
    )
    signal: str
    moment: SentMoment
    first_was_sent: bool
    """False: it is unknown whether the first one was sent."""


class Forced(AboutWorker):
    """A stuck worker was sent the signal that `stuck` sets."""

    wording = "worker {pid}: {signal} sent (stuck={signal})"
    signal: str


class NotForced(AboutWorker):
    """The signal that `stuck` sets could not be sent."""

    refusal = "stuck= not sent"
    wording = "worker {pid}: {signal} (stuck={signal}) could not be sent: {why}"
    signal: str
    why: str


# A worker that has to go was sent nothing.


class LeftByItself(AboutDueWorker):
    """The worker was gone before anything was sent: no refusal, since nothing stood in the way of what was wanted."""

    wording = "{due_worker}: it exited on its own; nothing sent"


class WouldReap(AboutDueWorker):
    """In a pool that is only observed, a worker would have been signalled now."""

    wording = "{due_worker}: it would be replaced now; nothing sent (observe=yes)"


class Changed(AboutDueWorker):
    refusal = "changed after measuring"
    wording = "{due_worker}: the process, or the loop it waits in, changed after it was measured; nothing sent"


class OutOfResources(AboutDueWorker):
    is_reported_once = True
    refusal = "out of resources"
    wording = "{due_worker}: nothing sent, the system is out of resources; trying again"


class NotPermitted(AboutDueWorker):
    is_reported_once = fails = ends_wait = True
    refusal = "not permitted"
    wording = "{due_worker}: nothing sent, not permitted; run memreap as the worker's user or as root (user=)"


class Locked(AboutDueWorker):
    """The lock of this pool cannot be had: another process, such as a second memreap, holds it, or may hold it."""

    is_reported_once = True
    refusal = "locked by another memreap"
    wording = "{due_worker}: nothing sent, {holder}; trying again"
    holder: str
    """Which process holds it, or why it cannot be taken, and the remedy."""


class NeverServed(AboutDueWorker):
    """A worker has to go, and was never seen to serve."""

    is_reported_once = fails = ends_wait = True
    refusal = "never seen to serve"
    wording = (
        "{due_worker}, and in {age:seconds} it was never seen waiting for a connection or handling one: nothing sent;"
        " it may still be starting, or may not serve at all; see the program's own log"
    )
    age: float


class Unreadable(AboutWorker):
    """A worker's bound is over the limit and its metric cannot be read."""

    is_reported_once = fails = True
    refusal = "size unreadable"
    wording = (
        "worker {pid} may hold up to {bound:memory}, limit {limit:memory}, but its {metric} {is_late:could not be read"
        " in time: nothing sent; unless the host is just busy, the worker may be holding the lock of its own memory"
        " map: see what it is doing (cat /proc/{pid}/stack)|cannot be read: nothing sent; run memreap as the worker's"
        " user or as root with CAP_SYS_PTRACE (in Docker: --cap-add SYS_PTRACE); if it may signal it (root"
        " may), metric=rss is enough}"
    )
    bound: int
    limit: int
    metric: str
    is_late: bool
    """It could not be read in time."""


class SizesUnreadable(AboutWorker):
    """memreap may not read what the workers hold, whether or not one is near its limit."""

    is_reported_once = True
    trouble = "sizes unreadable"
    wording = (
        "no permission to read the {metric} of worker {pid}: the pool is not watched; run memreap as the worker's user"
        " or as root with CAP_SYS_PTRACE (in Docker: --cap-add SYS_PTRACE)"
    )
    metric: str


class Planned(AboutDueWorker):
    """What a run without --dry-run would do with a worker."""

    wording = "{due_worker}: {action}"
    action: str


# Why a worker must never be signalled.


class Veto(AboutWorker):
    """This worker must never be signalled."""

    is_reported_once = fails = True


class NotCaught(Veto):
    """A worker has no handler for the signal."""

    refusal = "signal not caught"
    wording = (
        "{signal} would kill worker {pid} (no handler): nothing sent; set signal= to one on which this server finishes"
        " its request{serves_alone: (FastCGI without a manager: TERM)|}"
    )
    signal: str
    serves_alone: bool
    """With target=self."""


class WrongSignal(Veto):
    """The worker belongs to a server that drops its request on this signal, even with a handler."""

    refusal = "signal drops requests"
    server: str
    signal: str
    graceful: tuple[str, ...]
    """The signals on which this server finishes its request."""

    @property
    def text(self) -> str:
        start = f"worker {self.pid} belongs to {self.server}, which"
        if not self.graceful:
            return (
                f"{start} {named(self.server).refusal}: nothing sent, and no setting helps; remove this program's"
                " [memreap:NAME] section"
            )
        remedy = f"set signal={self.graceful[0]}, on which it finishes its request"
        return f"{start} drops its request on {self.signal}: nothing sent; {remedy}"


class LooksLikeManager(Veto):
    """The worker looks like a manager itself."""

    refusal = "looks like a manager"
    wording = (
        "worker {pid} {serves_alone:has children of its own and may be a manager: nothing sent; target=self is for"
        " programs that serve in one process|may be a manager itself (it has children, or a manager's name): nothing"
        " sent; if it is the pool's manager below a wrapper, use exec in the program's command, or set depth=2}"
    )
    serves_alone: bool
    """With target=self."""


class NotShared(Veto):
    """Each worker listens on its own socket: connections queued there end with it."""

    refusal = "socket per worker"
    wording = (
        "worker {pid} listens on its own socket, and clients queued there are refused when it leaves: nothing sent;"
        " let {serves_alone:supervisord hold one socket for all ([fcgi-program], socket=), or remove this section"
        "|the manager open one socket for all its workers (no SO_REUSEPORT per worker)}"
    )
    serves_alone: bool
    """With target=self."""


# What became of a worker that was signalled.


class Left(AboutWorker):
    """A signalled worker is gone."""

    announced_as = "left"
    wording = "worker {pid} left after {after:seconds}{_freed}{_place}"
    after: float
    """Seconds since the signal."""
    replaced_by: ProcessId | None
    came_back: int | None = None
    """Bytes freed: the private memory of the worker when it was signalled. None: unknown."""
    taken: int | None = None
    """Private bytes of its replacement now; None: unknown."""
    used: int | None = None
    """The worker's metric when it was signalled, in bytes; None: unknown."""
    metric: str = ""

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


class Replaced(AboutWorker):
    """The replacement came after the worker was reported as having left."""

    wording = "worker {replaced_by.pid} took the place of {pid} after {after:seconds}"
    after: float
    replaced_by: ProcessId


class Settled(AboutWorker):
    """The worker that took the place of one that left serves and has settled: the next one may go."""

    replaced_by: ProcessId
    to_serve: float | None
    """Seconds from the replacement's fork until it was seen to serve; None: that may not be read, its age counted."""

    @property
    def text(self) -> str:
        serves = "" if self.to_serve is None else f"; first seen serving {seconds(self.to_serve)} after its start"
        return f"worker {self.replaced_by.pid} has settled in place of {self.pid}{serves}"


class NotReplaced(AboutWorker):
    """A worker left long ago, and the pool is still not complete and settled."""

    fails = True
    trouble = "pool not settled after a reap"
    wording = (
        "worker {pid} left {after:seconds} ago and the pool has not settled since ({workers} of {before} workers):"
        " no more workers are replaced until it has; see the program's own log for why the new ones exit"
    )
    after: float
    workers: int
    before: int


class NoReplacement(AboutWorker):
    """No worker took the place of one that left, and the others are stable: the next may be signalled."""

    trouble = "no replacement came"
    wording = (
        "worker {pid} left {after:seconds} ago and no worker took its place ({workers} of {before} workers);"
        " {workers:the others are stable, so the next one may be signalled|the pool needs none now}"
    )
    after: float
    workers: int
    before: int


class Stuck(AboutWorker):
    """A worker was signalled and did not leave within `grace`."""

    announced_as = "stuck"
    fails = True
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
        start = f"worker {self.pid} has not left {seconds(self.after)} after {self.signal}{also}: stuck{state}"
        if self.next:
            return start
        return (
            f"{start}; nothing more is sent to it, and the next one may be signalled; see what it is doing"
            f" (cat /proc/{self.pid}/stack, strace -p {self.pid}),"
            " and raise grace= if requests may take that long"
        )


class Remembered(AboutWorker):
    """A worker was signalled before memreap was restarted, or may have been, and has not left yet."""

    wording = (
        "worker {pid} {is_sent:was|may have been} signalled {after:seconds} ago, before memreap was restarted: waiting"
        " for it to leave first"
    )
    after: float
    is_sent: bool = True
    """False: an attempt was being made to signal it, and its outcome is lost."""
