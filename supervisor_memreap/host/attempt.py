"""One try to signal one worker, made by a child process, so that the listener waits for nothing.

The child checks the worker again, brings it to its boundary (host.boundary), and signals it there; where ptrace is not
permitted it waits until the worker is seen idle, or signals it while busy if the order says that it may be. It reports
through a pipe, first that it is about to signal: if it ends after that without another word, it is unknown whether the
signal was sent, so it counts as sent. It ends with its parent, and keeps the pool's lock for as long as it lives.
"""

from __future__ import annotations

import json
import os
import select
import signal
import time
from collections.abc import Callable, Collection
from dataclasses import asdict, dataclass, replace

from supervisor_memreap.core.model import ProcessId, Result, SentMoment
from supervisor_memreap.core.servers import Moment, may_signal_busy, moment_of
from supervisor_memreap.host import boundary, forked, reader
from supervisor_memreap.host.look import private_memory
from supervisor_memreap.host.signalling import has_changed, send, send_to_main_thread
from supervisor_memreap.host.signals import number
from supervisor_memreap.host.source import Source

# Seconds in which a worker has to come to its boundary, so that others that are due have their turn; and if none is.
TURN, ALONE = 5.0, 30.0
# The same where it is signalled at any moment after that.
LAST = 0.5
# Seconds by which a child may overrun its time, on a machine that is busy, before it is ended.
_OVERRUN = 2.0
# Seconds to wait for a child that was killed: one that waits for a lock in the kernel ends when it gets that.
_KILLED = 0.1
# Seconds between two readings of whether a worker is idle: a hundred in 0.3 s, at a few % of one core.
_BETWEEN_READS = 0.003
# Readings of a sleeping worker, so many seconds apart, that must all lack the place where it waits before it is proven
# that the system never tells it: of a busy worker 2 to 6 % lack it by chance, up to 70 in a row at 3 ms.
_UNSEEN_PROVES, _UNSEEN_APART = 20, 0.1

_QUEUES = b"q\n"


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
    patience: float = TURN
    """Seconds that this may take."""
    stops: int = boundary.MOST_STOPS
    """System calls, twice over, in which the worker may be stopped for microseconds."""


@dataclass(frozen=True)
class Outcome:
    """What became of an attempt."""

    result: Result
    moment: SentMoment | None = None
    """What the worker was doing when the signal was sent; None: it was not sent."""
    unheld: bool = False
    """It was not permitted to bring it to its boundary."""
    unreadable: bool = False
    """Whether it is idle is never to be seen here."""
    private: int | None = None
    """Bytes that the worker had for itself; None if that may not be read."""
    watched: float = 0.0
    """Seconds in which it was seen that it never came to an idle moment."""
    is_kept: bool = False
    """It waited all the time for what one client sends: a connection that is kept between requests."""
    error: str = ""
    """Of memreap itself: nothing was sent."""


class Attempt:
    """The parent's side. `fd` becomes readable when the child has something to say, also when it ends."""

    def __init__(self, order: Order, view: Source, pidfd: int | None, lock: int | None):
        """Raises OSError where no process can be started: nothing was sent then."""
        self.order = order
        self.pidfd = pidfd
        self.lock = lock
        self._written = b""
        self.fd, writable = os.pipe()
        try:
            parent = os.getpid()
            self._child = os.fork()
            if self._child == 0:
                kept = [each for each in (writable, pidfd, lock) if each is not None]
                _run(order, view, pidfd, writable, kept, parent)
        except OSError:
            os.close(self.fd)
            raise
        finally:
            os.close(writable)
        os.set_blocking(self.fd, False)
        self.deadline = time.monotonic() + order.patience + _OVERRUN

    def outcome(self) -> Outcome | None:
        """What became of it, as soon as that is known; None: it goes on. Never waits for long."""
        ended = self._read()
        if not ended and time.monotonic() < self.deadline:
            return None
        return self._end(by_force=not ended)

    def cancel(self) -> Outcome:
        """End it now."""
        return self._end(by_force=not self._read())

    def wait(self) -> Outcome:
        """Wait until it has ended."""
        poll = select.poll()
        poll.register(self.fd, select.POLLIN)
        while True:
            poll.poll(max(0.0, self.deadline - time.monotonic()) * 1000 + 1)
            outcome = self.outcome()
            if outcome:
                return outcome

    def _read(self) -> bool:
        """Read what the child has written; whether it has ended."""
        try:
            while chunk := os.read(self.fd, 4096):
                self._written += chunk
        except BlockingIOError:
            return False
        return True

    def _end(self, by_force: bool) -> Outcome:
        _collect(self._child, by_force)
        self._read()
        os.close(self.fd)
        report = self._written.rpartition(b"\n")[0].rpartition(b"\n")[2]
        if report.startswith(b"{"):
            return _decoded(report)
        if _QUEUES in self._written:
            return Outcome(Result.SENT, SentMoment.UNKNOWN)
        # Ended without a word: something killed it at once, such as a seccomp filter, and would kill the next one too.
        return Outcome(Result.BUSY, unheld=not by_force)


_uncollected: list[int] = []
"""Children that did not end in time after they were killed."""


def _collect(child: int, by_force: bool) -> None:
    if by_force:
        os.kill(child, signal.SIGKILL)  # ours, and not waited for yet: no other process can have its pid
    deadline = time.monotonic() + _KILLED
    _uncollected.append(child)
    while child in _uncollected and time.monotonic() < deadline:
        _uncollected[:] = [pid for pid in _uncollected if not _has_ended(pid)]
        if child in _uncollected:
            time.sleep(0.001)


def _has_ended(child: int) -> bool:
    try:
        return os.waitpid(child, os.WNOHANG)[0] != 0
    except ChildProcessError:
        return True  # a library ignores SIGCHLD in this process: then the kernel has waited for it


def _decoded(report: bytes) -> Outcome:
    values = json.loads(report)
    moment = values.pop("moment")
    return Outcome(Result(values.pop("result")), SentMoment(moment) if moment else None, **values)


def _run(order: Order, view: Source, pidfd: int | None, writable: int, kept: Collection[int], parent: int) -> None:
    """Never returns."""
    try:
        # If a signal for the listener's group killed it, bringing a worker to its boundary would seem to be refused.
        forked.settle("memreap attempt", kept, {signal.SIGTERM, signal.SIGINT, signal.SIGHUP}, with_parent=True)
        reader.read_here()
        if os.getppid() == parent:
            has_queued: list[bool] = []

            def queues() -> None:
                _write(writable, _QUEUES)
                has_queued.append(True)

            try:
                outcome = carry_out(order, view, pidfd, queues)
            except Exception as error:
                if has_queued:
                    raise  # it is unknown whether it was sent
                outcome = Outcome(Result.FAILED, error=f"{type(error).__name__}: {error}")
            _write(writable, json.dumps(asdict(outcome)).encode() + b"\n")
    finally:
        os._exit(0)


def _write(fd: int, text: bytes) -> None:
    os.write(fd, text)


def carry_out(order: Order, view: Source, pidfd: int | None, queues: Callable[[], None]) -> Outcome:
    """In the child. `queues` is called right before each signal. Never raises OSError."""
    try:
        return _Child(order, view, pidfd, queues).outcome()
    except ProcessLookupError:
        return Outcome(Result.GONE)
    except PermissionError:
        return Outcome(Result.NOT_PERMITTED)
    except OSError:
        return Outcome(Result.FAILED)


class _Child:
    def __init__(self, order: Order, view: Source, pidfd: int | None, queues: Callable[[], None]):
        self._order = order
        self._view = view
        self._pid = order.worker.pid
        self._pidfd = pidfd
        self._signum = number(order.signal)
        self._queues = queues
        self._began = time.monotonic()
        self._deadline = self._began + order.patience
        self._awaited: str | None = None

    def outcome(self) -> Outcome:
        """Raises ProcessLookupError, PermissionError, OSError."""
        # Asks whether it may be signalled, before a moment is waited for in vain.
        send(self._pid, self._pidfd, 0)
        if self._has_changed():
            return Outcome(Result.CHANGED)
        self._awaited = self._awaited_client()
        private = private_memory(self._order.worker, self._order.processes, self._view)
        outcome = self._at_its_boundary() if self._order.hold and boundary.is_usable() else None
        if outcome is None or outcome.unheld:
            idle = self._when_idle()
            outcome = replace(idle, unheld=outcome is not None)
        return replace(outcome, private=private)

    def _has_changed(self) -> bool:
        return has_changed(self._order.worker, self._order.manager, self._view) or (
            self._view.catches(self._pid, self._signum) is False
        )

    def _at_its_boundary(self) -> Outcome:
        def signal_it() -> None:
            send_to_main_thread(self._order.worker, self._pidfd, self._signum, self._view)

        last = b""
        bounds = boundary.Bounds(self._deadline, self._order.stops)
        for written in boundary.steps(self._pid, signal_it, self._order.manager.pid, bounds):
            if written == boundary.QUEUES:
                self._queues()
            last = written or last
        if last == boundary.SENT:
            return Outcome(Result.SENT, SentMoment.HELD)
        if last == boundary.GONE:
            return Outcome(Result.GONE)
        if last == boundary.NOT_PERMITTED:
            return Outcome(Result.BUSY, unheld=True)
        return self._late(is_readable=True)

    def _when_idle(self) -> Outcome:
        moment, unseen, was_seen, counted = moment_of(self._order.server), 0, False, 0.0
        while True:
            idle = self._view.idle(self._pid)
            now = time.monotonic()
            if not was_seen and now - counted >= _UNSEEN_APART:
                tells = True if idle else self._view.can_observe_idle(self._pid)
                was_seen, counted = tells is True, now
                unseen += tells is False
            if idle and moment is not Moment.HELD:
                return self._send(SentMoment.IDLE)
            if now >= self._deadline:
                unreadable = unseen >= _UNSEEN_PROVES and not was_seen
                outcome = self._late(not unreadable, SentMoment.UNKNOWN if idle is None else SentMoment.BUSY)
                return replace(outcome, unreadable=unreadable)
            time.sleep(_BETWEEN_READS)
            if self._has_changed():
                return Outcome(Result.CHANGED)

    def _late(self, is_readable: bool, moment: SentMoment = SentMoment.BUSY) -> Outcome:
        """It did not come to an idle moment in time."""
        if self._order.may_be_busy and may_signal_busy(self._order.server, is_readable):
            return self._send(moment)
        awaited = self._awaited_client()
        is_kept = awaited is not None and awaited == self._awaited
        watched = min(self._order.patience, time.monotonic() - self._began)
        return Outcome(Result.BUSY, is_kept=is_kept, watched=watched)

    def _awaited_client(self) -> str | None:
        try:
            return self._view.awaited_client(self._pid)
        except OSError:
            return None  # it has left; or that may not be read

    def _send(self, moment: SentMoment) -> Outcome:
        self._queues()
        send(self._pid, self._pidfd, self._signum)
        return Outcome(Result.SENT, moment)
