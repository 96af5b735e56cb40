"""One try to signal one worker, made by a child process, so that the listener waits for nothing.

The child checks the worker again, brings it to its boundary (host.boundary), and signals it there; where ptrace is not
permitted it waits until the worker is seen idle, or signals it while busy if the order allows that. It reports
through a pipe, first that it is about to signal: if it ends after that without another word, it is unknown whether the
signal was sent, so it counts as sent. It ends with its parent, and keeps the pool's lock for as long as it lives.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Collection
from dataclasses import asdict

from supervisor_memreap.core.frozen import replace
from supervisor_memreap.core.model import Result, SentMoment
from supervisor_memreap.core.servers import Moment, may_signal_busy, named, permits
from supervisor_memreap.host import boundary, forked, reader
from supervisor_memreap.host.connections import Connections
from supervisor_memreap.host.look import private_memory
from supervisor_memreap.host.machine import Handle, Order, Outcome
from supervisor_memreap.host.signalling import has_changed, number, send, send_to_main_thread
from supervisor_memreap.host.source import Source

# Seconds by which a child may overrun its time, on a machine that is busy, before it is ended.
_OVERRUN = 2.0
# Seconds to wait for a child after its last report; and for one that was signalled to end, or killed.
_PATIENCE, _ENDS = 0.1, {signal.SIGTERM: 0.1, signal.SIGKILL: 0.02}
# Seconds between two readings of whether a worker is idle, and so many times as long as the last one took: less than a
# tenth of one core.
_BETWEEN_READS, _PART_OF_READ = 0.003, 9

# A line with the time (monotonic).
_QUEUES = b"q "


_HANDLED = {signal.SIGTERM, signal.SIGINT, signal.SIGHUP}


class Attempt:
    """The parent's side. `fd` becomes readable when the child reports something, or ends."""

    def __init__(self, order: Order, view: Source, handle: Handle | None, lock: int | None):
        """`handle` is as in host.machine. Raises OSError where no process can be started: nothing was sent then."""
        self.order = order
        self.handle = handle
        pidfd = handle.fileno() if handle else None
        self._written = b""
        self.fd, writable = os.pipe()
        try:
            os.set_blocking(self.fd, False)  # before the fork: it may raise OSError
            parent = os.getpid()
            # Until the child has its own handlers, a signal to it would wake the parent, by its pipe for signals.
            mask = signal.pthread_sigmask(signal.SIG_BLOCK, _HANDLED)
            try:
                self.child = os.fork()
                if self.child == 0:
                    kept = [each for each in (writable, pidfd, lock) if each is not None]
                    _run(order, view, pidfd, writable, kept, parent)
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        except BaseException:
            os.close(self.fd)
            raise
        finally:
            os.close(writable)
        self._began = time.monotonic()
        self.deadline = self._began + order.patience + _OVERRUN

    def shorten(self, patience: float) -> None:
        """Give it at most `patience` seconds from its start.

        An attempt with no time left ends on its own: it may signal a busy worker then.
        """
        if self.order.patience > patience:
            self.deadline = min(self.deadline, self._began + patience)

    def outcome(self) -> Outcome | None:
        """What became of it, as soon as that is known; None: it goes on. Never waits for long."""
        ended = self._read()
        if not ended and time.monotonic() < self.deadline:
            return None
        return self._end(by_force=not ended)

    def cancel(self) -> Outcome:
        """End it now."""
        return self._end(by_force=not self._read())

    def _read(self) -> bool:
        """Read what the child has written; whether it has ended."""
        try:
            while chunk := os.read(self.fd, 4096):
                self._written += chunk
        except BlockingIOError:
            return False
        return True

    def _end(self, by_force: bool) -> Outcome:
        status = forked.collect(self.child, 0.0 if by_force else _PATIENCE, _ENDS)
        self._read()
        os.close(self.fd)
        report = self._written.rpartition(b"\n")[0].rpartition(b"\n")[2]
        if report.startswith(b"{"):
            return _decoded(report)
        queued = [line for line in self._written.splitlines() if line.startswith(_QUEUES)]
        if queued:
            return Outcome(Result.SENT, SentMoment.UNKNOWN, sent_at=float(queued[-1][len(_QUEUES) :] or self._began))
        # A seccomp filter that kills who calls ptrace would kill the next one too. SIGALRM: boundary.FROZEN.
        killed = os.WTERMSIG(status) if status is not None and os.WIFSIGNALED(status) else 0
        if killed == signal.SIGSYS:
            return Outcome(Result.BUSY, unheld=True)
        watched = min(time.monotonic() - self._began, self.order.patience)
        return Outcome(Result.BUSY, watched=watched, stopped=boundary.FROZEN if killed == signal.SIGALRM else 0.0)


def _decoded(report: bytes) -> Outcome:
    values = json.loads(report)
    moment = values.pop("moment")
    return Outcome(Result(values.pop("result")), SentMoment(moment) if moment else None, **values)


def _run(order: Order, view: Source, pidfd: int | None, writable: int, kept: Collection[int], parent: int) -> None:
    """Never returns."""
    try:
        # Ctrl-Z of `memreap once` would stop it while it holds a worker.
        os.setsid()
        gc.disable()  # it would write to all that is shared with the parent, and so unshare it
        forked.settle("memreap attempt", kept, {signal.SIGINT, signal.SIGHUP}, with_parent=True)
        signal.signal(signal.SIGTERM, _leave)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _HANDLED)
        reader.read_here()
        if os.getppid() == parent:
            outcome = carry_out(order, view, pidfd, lambda at: os.write(writable, _QUEUES + b"%f\n" % at))
            os.write(writable, json.dumps(asdict(outcome)).encode() + b"\n")
    finally:
        os._exit(0)


def _leave(_signum: int, _frame: object) -> None:
    """Let go of the worker and end, without a word: so boundary.steps has its way out."""
    sys.exit()


def carry_out(order: Order, view: Source, pidfd: int | None, queues: Callable[[float], object]) -> Outcome:
    """In the child. `queues` is called right before each signal, with the time. Never raises OSError."""
    child = _Child(order, view, pidfd, queues)
    try:
        return replace(child.outcome(), sent_at=child.queued_at)
    except SystemExit:
        return child.when_ended()
    except ProcessLookupError:
        return Outcome(Result.GONE)
    except PermissionError:
        return Outcome(Result.NOT_PERMITTED)
    except OSError:
        return Outcome(Result.FAILED)
    except Exception as error:
        if child.queued_at is not None:
            raise  # it is unknown whether it was sent
        return Outcome(Result.FAILED, error=f"{type(error).__name__}: {error}")


# By how bringing it to its boundary ended.
_OUTCOMES = {
    boundary.SENT: Outcome(Result.SENT, SentMoment.HELD, has_boundary=True),
    boundary.GONE: Outcome(Result.GONE),
    boundary.CHANGED: Outcome(Result.CHANGED),
    boundary.NOT_SHARED: Outcome(Result.NOT_SHARED),
    # It is let go of only when this process ends.
    boundary.UNTRACEABLE: Outcome(Result.BUSY, unheld=True),
}


class _Child:
    def __init__(self, order: Order, view: Source, pidfd: int | None, queues: Callable[[float], object]):
        self.queued_at: float | None = None
        """When the signal was about to be sent (monotonic)."""
        self._order = order
        self._view = view
        self._pid = order.worker.pid
        self._pidfd = pidfd
        self._signum = number(order.signal)
        self._queues = queues
        self._began = time.monotonic()
        self._deadline = self._began + order.patience
        self._connections = Connections()
        self._others_left = False
        self._tracer: boundary.Tracer | None = None
        """None: it is not brought to its boundary."""

    def outcome(self) -> Outcome:
        """Raises ProcessLookupError, PermissionError, OSError."""
        # Ask whether it may be signalled, before waiting for nothing.
        send(self._pid, self._pidfd, 0)
        if self._has_changed() or self._has_another_loop():
            return Outcome(Result.CHANGED)
        self._note_clients()
        private = self._order.private
        if private is None:
            private = private_memory(self._order.worker, self._order.processes, self._view)
        return replace(self._signalled(), private=private)

    def when_ended(self) -> Outcome:
        """What to report if the parent ends the attempt. Raises SystemExit: it is unknown whether it was sent."""
        if self.queued_at is not None:
            sys.exit()
        self._note_clients()
        return self._busy(has_boundary=self._tracer is not None)

    def _has_changed(self) -> bool:
        return has_changed(self._order.worker, self._order.manager, self._view) or (
            self._view.catches(self._pid, self._signum) is False
        )

    def _has_another_loop(self) -> bool:
        """Whether it serves otherwise than it did at the look: its loop may just not have watched its socket then."""
        return not permits(self._order.server, lambda: self._view.loop(self._pid, self._order.manager.pid))

    def _may_send(self) -> bool:
        """Whether it is what was measured, and no other worker has left meanwhile."""
        gone = self._order.siblings.difference(self._view.children(self._order.manager.pid))
        self._others_left = len(gone) > self._order.may_lack
        return not self._others_left and not self._has_changed()

    def _signalled(self) -> Outcome:
        """At its boundary, or where that may not be had, when it is seen idle."""
        if not (self._order.hold and boundary.is_usable()):
            return replace(self._when_idle(), unheld=self._order.hold)
        last = self._at_its_boundary()
        if last == boundary.LATE:
            return self._late(has_boundary=True)
        if self._others_left:
            return self._busy(has_boundary=True)
        if last in _OUTCOMES:
            return _OUTCOMES[last]
        self._tracer = None
        if last == boundary.TRACED:
            # For this attempt as if it were not permitted, but not so that it is signalled while busy for that.
            self._order = replace(self._order, may_be_busy=False)
            return replace(self._when_idle(), has_boundary=None)
        return replace(self._when_idle(), unheld=last == boundary.NOT_PERMITTED)

    def _at_its_boundary(self) -> bytes:
        """How bringing it there ended, as reported by boundary.Tracer.steps."""

        def to_thread() -> None:
            send_to_main_thread(self._order.worker, self._pidfd, self._signum, self._view)

        def to_process() -> None:
            send(self._pid, self._pidfd, self._signum)

        def may_send() -> bool:
            # Of which nothing else is known, the loop may be seen only there.
            is_known = named(self._order.server).moment is not Moment.HELD
            return self._may_send() and (is_known or not self._has_another_loop())

        queued = boundary.Signal(self._signum, may_send, to_thread, to_process)
        rest = boundary.REST if named(self._order.server).threads_take_turns else 0.0
        self._tracer = boundary.Tracer(self._pid, queued, boundary.Bounds(self._deadline, self._order.stops, rest))
        last = b""
        with contextlib.closing(self._tracer.steps(self._order.manager.pid)) as steps:
            for written in steps:
                if written == boundary.QUEUES:
                    self._queue()
                last = written or last
        return last

    def _when_idle(self) -> Outcome:
        moment = named(self._order.server).moment
        if moment is Moment.HELD:
            return self._busy(has_boundary=False)  # it is signalled nowhere else
        while True:
            idle = self._view.idle(self._pid)
            now = time.monotonic()
            if idle:
                return self._send(SentMoment.IDLE)
            if now >= self._deadline:
                return self._late(False, SentMoment.UNKNOWN if idle is None else SentMoment.BUSY)
            if self._order.may_be_busy and moment is not Moment.ANY:
                self._note_clients()
            pause = max(_BETWEEN_READS, (time.monotonic() - now) * _PART_OF_READ)
            time.sleep(max(0.0, min(pause, self._deadline - time.monotonic())))
            if self._has_changed():
                return Outcome(Result.CHANGED)

    def _late(self, has_boundary: bool, moment: SentMoment = SentMoment.BUSY) -> Outcome:
        """It was not seen between two requests in time."""
        self._note_clients()
        order = self._order
        if order.may_be_busy and may_signal_busy(order.server, has_boundary):
            if not self._permit_it():
                return replace(self._busy(has_boundary), may_be_kept=True)
            signal_name = order.busy_signal or order.signal
            if self._view.catches(self._pid, number(signal_name)) is not False:
                return self._send(moment, signal_name)
            return Outcome(Result.BUSY, is_deaf=True)
        return self._busy(has_boundary)

    def _busy(self, has_boundary: bool) -> Outcome:
        watched = min(self._order.patience, time.monotonic() - self._began)
        is_kept = self._connections.are_kept
        stopped = self._tracer.stopped if self._tracer else 0.0
        return Outcome(Result.BUSY, is_kept=is_kept, watched=watched, has_boundary=has_boundary, stopped=stopped)

    def _permit_it(self) -> bool:
        """Whether its connections, as far as they were seen, permit that it is signalled while busy."""
        moment, seen = named(self._order.server).moment, self._connections
        if moment is Moment.IF_FRESH:
            return seen.are_fresh
        return moment is Moment.ANY or not (seen.are_kept or seen.is_same)

    def _queue(self) -> None:
        self.queued_at = time.monotonic()
        self._queues(self.queued_at)

    def _note_clients(self) -> None:
        with contextlib.suppress(OSError):  # it has left; or that may not be read
            self._connections.note(self._view.clients(self._pid))

    def _send(self, moment: SentMoment, signal_name: str = "") -> Outcome:
        if not self._may_send() or self._has_another_loop():
            return Outcome(Result.BUSY if self._others_left else Result.CHANGED)
        self._queue()
        send(self._pid, self._pidfd, number(signal_name) if signal_name else self._signum)
        return Outcome(Result.SENT, moment, signal=signal_name)
