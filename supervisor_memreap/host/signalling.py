"""Signals one worker: looks again, waits for an idle moment, holds, sends. The only place that sends a signal."""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from supervisor_memreap.core.model import Pool, ProcessId, Result, SentMoment, Worker
from supervisor_memreap.core.servers import Moment, may_signal_busy, moment_of, signal_for
from supervisor_memreap.core.settings import PoolSettings
from supervisor_memreap.host import hold
from supervisor_memreap.host.hold import Attempt
from supervisor_memreap.host.look import private_memory, server_of_worker
from supervisor_memreap.host.signals import number
from supervisor_memreap.host.source import Source

# Seconds between two readings of whether a worker is idle: 0.3 s has a hundred of them, at a few % of one core.
_BETWEEN_READS = 0.003
# System call numbers, from asm/unistd.h, of the machines on which a worker can be held.
_TGKILL = {"x86_64": 234, "aarch64": 131}
# Seconds for which holding is not tried for the workers of a manager after it was refused: each attempt is a process,
# and, if a seccomp filter kills it, a line in the kernel's log.
REFUSED = 300.0
# Readings of a sleeping worker that must all lack the place where it waits, before it counts as proven that the system
# never tells it: of a busy worker 2 to 6 % of the readings lack it by chance, and up to 70 in a row, as readings 3 ms
# apart depend on each other. So only this many of each attempt count.
UNSEEN_PROVES, UNSEEN_COUNTED = 20, 2


class Experience:
    """What attempts to signal the workers of one manager have shown."""

    def __init__(self) -> None:
        self._manager: ProcessId | None = None
        self._refused_until = 0.0
        self._unseen = 0
        self._unseen_now = 0
        self._was_seen = False

    def begin(self, pool: Pool) -> None:
        """What was learned of another manager does not count."""
        self._unseen_now = 0
        if pool.manager != self._manager:
            self.__init__()  # type: ignore[misc]
            self._manager = pool.manager

    def note_reading(self, idle: bool | None, pid: int, view: Source) -> None:
        """After a worker was read as idle, busy or unknown. Raises ProcessLookupError."""
        if not self._was_seen:
            tells = True if idle else view.can_observe_idle(pid)
            self._was_seen = tells is True
            if tells is False and self._unseen_now < UNSEEN_COUNTED:
                self._unseen_now += 1
                self._unseen += 1

    @property
    def never_tells_idleness(self) -> bool:
        """Whether it is proven that this system does not say if workers are idle."""
        return self._unseen >= UNSEEN_PROVES and not self._was_seen

    @property
    def may_hold(self) -> bool:
        """Whether holding a worker was not refused lately."""
        return self._refused_until <= time.monotonic()

    def note_refused_hold(self) -> None:
        self._refused_until = time.monotonic() + REFUSED


def may_signal(process: ProcessId) -> bool:
    """Whether this user may signal that process; tested with signal 0, which is never delivered."""
    try:
        _send(process.pid, None, 0)
    except PermissionError:
        return False
    except OSError:
        pass  # it is gone
    return True


@dataclass(frozen=True)
class Outcome:
    """The outcome of a reap."""

    result: Result
    moment: SentMoment | None = None
    """What the worker was doing when the signal was sent; None: it was not sent."""
    unheld: bool = False
    """Holding was tried, and not permitted."""
    unreadable: bool = False
    """Whether it was idle could not be read."""
    private: int | None = None
    """Bytes that the worker had for itself when it was signalled; None if that may not be read."""
    pidfd: int | None = None
    """Readable as soon as the worker is gone; the caller closes it. None if the system has none."""


def reap(
    pool: Pool,
    worker: Worker,
    settings: PoolSettings,
    view: Source,
    watch: float,
    experience: Experience | None = None,
    idle_wait_expired: bool = False,
) -> Outcome:
    """Check exactly this worker again, and signal it only if nothing has changed. Never raises OSError.

    Waits for an idle moment for `watch` seconds. Without one the worker is BUSY; or it is signalled anyway, if
    idle_wait has expired and the server finishes its request at any moment.
    """
    deadline = time.monotonic() + watch
    experience = experience or Experience()
    experience.begin(pool)
    return _with_pidfd(
        worker, lambda pidfd: _signal(pool, worker, settings, view, pidfd, deadline, experience, idle_wait_expired)
    )


def reap_again(
    pool: Pool, worker: Worker, signal_name: str, settings: PoolSettings, view: Source, experience: Experience
) -> Outcome:
    """As `reap`, but at once, and only if the worker is seen idle; the outcome has no pidfd.

    `signal_name` is the signal that it was sent before: the settings may have changed since.
    """
    return _closed(reap(pool, worker, replace(settings, signal=signal_name), view, 0.0, experience))


def force(pool: Pool, worker: Worker, signal_name: str, view: Source) -> Outcome:
    """Send a stuck worker this signal, whatever it is doing."""

    def send(pidfd: int | None) -> Outcome:
        if _has_changed(pool, worker, view):
            return Outcome(Result.CHANGED)
        _send(worker.id.pid, pidfd, number(signal_name))
        return Outcome(Result.SENT, SentMoment.BUSY, pidfd=pidfd)

    return _closed(_with_pidfd(worker, send))


def _closed(outcome: Outcome) -> Outcome:
    if outcome.pidfd is not None:
        os.close(outcome.pidfd)
    return replace(outcome, pidfd=None)


def _with_pidfd(worker: Worker, act: Callable[[int | None], Outcome]) -> Outcome:
    try:
        pidfd = _open_pidfd(worker.id.pid)
    except ProcessLookupError:
        return Outcome(Result.GONE)
    except OSError:
        return Outcome(Result.FAILED)
    # From here on the pidfd, if there is one, means this process and no later one with its pid.
    try:
        outcome = act(pidfd)
    except ProcessLookupError:
        outcome = Outcome(Result.GONE)
    except PermissionError:
        outcome = Outcome(Result.NOT_PERMITTED)
    except OSError:
        outcome = Outcome(Result.FAILED)
    if outcome.result is not Result.SENT and pidfd is not None:
        os.close(pidfd)
    return outcome


def _has_changed(pool: Pool, worker: Worker, view: Source) -> bool:
    """Whether this is no longer the worker of that manager. Raises ProcessLookupError."""
    assert pool.manager
    now = view.process(worker.id.pid)
    if now.id != worker.id or now.ended:
        raise ProcessLookupError(worker.id.pid)
    above = view.process(pool.manager.pid)
    return now.parent != pool.manager.pid or above.id != pool.manager or above.ended


def _send(pid: int, pidfd: int | None, signum: int) -> None:
    if pidfd is not None:
        signal.pidfd_send_signal(pidfd, signum)
    else:
        os.kill(pid, signum)


def _send_to_main_thread(worker: ProcessId, pidfd: int | None, signum: int, view: Source) -> None:
    """Signal the main thread while it is held: a signal for the whole process would go to another thread.

    A held process keeps its pid, so what is verified here stays true until it is let go. Raises ProcessLookupError.
    """
    if pidfd is not None:
        signal.pidfd_send_signal(pidfd, 0)  # so the pid that is held has been this process's all the time
    elif view.process(worker.pid).id != worker:
        raise ProcessLookupError(worker.pid)
    tgkill(worker.pid, worker.pid, signum)


def _signal(
    pool: Pool,
    worker: Worker,
    settings: PoolSettings,
    view: Source,
    pidfd: int | None,
    deadline: float,
    experience: Experience,
    idle_wait_expired: bool,
) -> Outcome:
    """Raises ProcessLookupError, PermissionError."""
    pid = worker.id.pid
    # A worker that has left the reasons behind, as one that is signalled again, was not read in full.
    server = server_of_worker(worker, pool, view)
    signum = number(signal_for(server, settings.signal))
    _send(pid, pidfd, 0)  # asks whether it may be signalled, before an idle moment is waited for in vain
    private = private_memory(worker.id, pool, view)
    holds = settings.hold and hold.is_usable()
    unheld = holds and not experience.may_hold
    while True:
        if _has_changed(pool, worker, view) or view.catches(pid, signum) is False:
            return Outcome(Result.CHANGED)
        idle, late = view.idle(pid), time.monotonic() >= deadline
        if idle and holds and not unheld:
            attempt = hold.signal_held(pid, lambda: _send_to_main_thread(worker.id, pidfd, signum, view))
            if attempt is Attempt.GONE:
                return Outcome(Result.GONE)
            if attempt in (Attempt.HELD, Attempt.UNKNOWN):
                moment = SentMoment.HELD if attempt is Attempt.HELD else SentMoment.IDLE
                return Outcome(Result.SENT, moment, private=private, pidfd=pidfd)
            # If that is not permitted, the next best is a signal right after it was seen idle: look again.
            unheld = attempt is Attempt.NOT_PERMITTED
            if unheld:
                experience.note_refused_hold()
            if unheld or not late:
                continue
            idle = False
        experience.note_reading(idle, pid, view)
        unreadable = experience.never_tells_idleness
        if idle and moment_of(server) is not Moment.HELD:
            _send(pid, pidfd, signum)
            return Outcome(Result.SENT, SentMoment.IDLE, unheld, private=private, pidfd=pidfd)
        if late and idle_wait_expired and may_signal_busy(server, idleness_is_visible=not unreadable):
            _send(pid, pidfd, signum)
            moment = SentMoment.UNKNOWN if idle is None else SentMoment.BUSY
            return Outcome(Result.SENT, moment, unheld, unreadable, private, pidfd)
        if late:
            return Outcome(Result.BUSY, unheld=unheld, unreadable=unreadable)
        time.sleep(_BETWEEN_READS)


def _open_pidfd(pid: int) -> int | None:
    """A descriptor of that process; None if the system has none (Linux before 5.3, seccomp, other UNIX)."""
    if not hasattr(os, "pidfd_open") or not hasattr(signal, "pidfd_send_signal"):
        return None
    try:
        return os.pidfd_open(pid)
    except OSError as error:
        if error.errno in (errno.ENOSYS, errno.EPERM, errno.EINVAL):
            return None
        raise  # gone; or the system is out of resources, and a pid alone could mean a later process


def follow(process: ProcessId, view: Source) -> int | None:
    """A descriptor that becomes readable when this process is gone; None if it is gone, or the system has none."""
    try:
        pidfd = _open_pidfd(process.pid)
    except OSError:
        return None
    if pidfd is None:
        return None
    try:
        if view.process(process.pid).id == process:
            return pidfd
    except OSError:
        pass  # gone, or may not be read; or the system is out of resources
    os.close(pidfd)
    return None


def tgkill(group: int, thread: int, signum: int) -> None:
    """tgkill(2), which Python lacks and glibc has only since 2.30. Raises OSError."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.syscall(_TGKILL[platform.machine()], group, thread, signum) == -1:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))
