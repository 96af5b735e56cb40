"""look() at pools, and reap() one worker: the only place that sends a signal."""

from __future__ import annotations

import ctypes
import os
import platform
import signal
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

from supervisor_memreap.core.model import (
    STOPPED_BY_HAND,
    Pool,
    ProcessId,
    Program,
    Result,
    SentMoment,
    Worker,
    WorkerDetail,
)
from supervisor_memreap.core.servers import Moment, manages, moment_of, recognise
from supervisor_memreap.core.settings import PoolSettings
from supervisor_memreap.host import hold, procfs
from supervisor_memreap.host.hold import Attempt
from supervisor_memreap.host.reader import is_blocked
from supervisor_memreap.host.source import Process, Psutil, Source

# Seconds between two readings of whether a worker is idle: 0.3 s has a hundred of them, at a few % of one core.
_BETWEEN_READS = 0.003
_PROCFS = procfs.is_usable()
# Of asm/unistd.h, where a worker can be held.
_TGKILL = {"x86_64": 234, "aarch64": 131}
NOT_RESTARTED = (
    "with target=self supervisord must start it again when it ends with 0: set autorestart=true in its section, then"
    " supervisorctl update"
)
# Seconds by which two statements of when a process was started may differ.
_SAME_START = 5.0
_ANOTHER_START = (
    "its process here was not started when supervisord says: supervisord runs in another container, or the clock was"
    " set since then; run memreap where supervisord runs, or restart the program"
)
RESTART_UNKNOWN = (
    "with target=self supervisord must say whether it starts it again when it ends with 0, and it has no"
    " [rpcinterface:memreap]: run memreap doctor, which says how to add it safely"
)


def source() -> Source:
    """A fresh view of the system, for one look."""
    return procfs.Procfs() if _PROCFS else Psutil()


NeedsDetail = Callable[[Worker], bool]


def always(_worker: Worker) -> bool:
    """Exact figures of each worker, whatever it holds."""
    return True


class Watched(NamedTuple):
    """A pool to look at."""

    program: Program
    settings: PoolSettings
    members: tuple[Program, ...] = ()
    """With target=self: the processes that are the workers, of the supervisord whose pid `program` has."""
    expected: tuple[ProcessId, ...] = ()
    """Workers that count as there until they are seen to be gone, whatever the list of children says."""
    needs_detail: NeedsDetail = always
    """For which workers exact figures are read."""


def look(watched: Iterable[Watched], view: Source) -> list[Pool]:
    """One reading of all pools; exact figures only for workers that need them."""
    return [replace(_look_at(each, view), at=time.time(), is_group=bool(each.members)) for each in watched]


def _look_at(watched: Watched, view: Source) -> Pool:
    program, settings = watched.program, watched.settings
    if settings.target == "self":
        return _look_at_group(watched, view)
    if program.state != "RUNNING" or program.pid <= 0:
        return Pool(program.namespec, program.state)
    try:
        manager = view.process(program.pid)
        # A supervisord of another machine or container: its pids mean other processes here.
        if program.supervisord and manager.parent != program.supervisord:
            return Pool(program.namespec, program.state, "its process here is no child of that supervisord")
        if not _has_started_when_supervisord_says(program, manager):
            return Pool(program.namespec, program.state, _ANOTHER_START)
        if settings.depth == 2:
            below = _below_wrapper(program.pid, view)
            if below is None:
                return Pool(program.namespec, program.state, "depth=2, and there is not one manager below the wrapper")
            manager = below
        if manager.ended:
            raise ProcessLookupError(manager.id.pid)
        # The kernel's list may miss one while a sibling exits (proc_pid_children(5)): never take that for gone.
        pids = {*view.children(manager.id.pid), *(one.pid for one in watched.expected)}
    except ProcessLookupError:
        return Pool(program.namespec, "gone")
    except PermissionError:
        return Pool(program.namespec, program.state, "its processes are hidden from this user")
    return _pool(manager, pids, watched, view)


def _has_started_when_supervisord_says(program: Program, process: Process) -> bool:
    # supervisord gives whole seconds, and may be asked a second before the process is looked at.
    return program.age is None or abs(program.age - process.age) < _SAME_START


def _look_at_group(watched: Watched, view: Source) -> Pool:
    """Processes that are workers themselves, with supervisord in the place of their manager."""
    program = watched.program
    if program.state in STOPPED_BY_HAND or program.pid <= 0:
        return Pool(program.namespec, program.state)
    if not all(one.restarts for one in watched.members):
        unknown = any(one.restarts is None for one in watched.members)
        return Pool(program.namespec, program.state, RESTART_UNKNOWN if unknown else NOT_RESTARTED)
    try:
        supervisord = view.process(program.pid)
    except ProcessLookupError:
        return Pool(program.namespec, "gone")
    except PermissionError:
        return Pool(program.namespec, program.state, "supervisord is hidden from this user")
    running = {one.pid: one.name for one in watched.members if one.state == "RUNNING" and one.pid > 0}
    running.pop(os.getpid(), None)
    for member in watched.members:
        try:
            if member.pid in running and not _has_started_when_supervisord_says(member, view.process(member.pid)):
                return Pool(program.namespec, program.state, _ANOTHER_START)
        except OSError:
            running.pop(member.pid)  # it has just ended, or is hidden
    pool = _pool(supervisord, {*running, *(one.pid for one in watched.expected)}, watched, view)
    return replace(
        pool,
        workers=tuple(replace(one, slot=running.get(one.id.pid, "")) for one in pool.workers),
        stopped=frozenset(one.name for one in watched.members if one.state in STOPPED_BY_HAND),
    )


def _pool(manager: Process, pids: Iterable[int], watched: Watched, view: Source) -> Pool:
    workers = (_worker(pid, manager.id, watched, view) for pid in sorted(pids))
    there = tuple(worker for worker in workers if worker)
    return Pool(
        watched.program.namespec,
        watched.program.state,
        "",
        manager.id,
        manager.age,
        there,
        child_faults=manager.child_faults,
    )


def _below_wrapper(pid: int, view: Source) -> Process | None:
    """The wrapper's one child, or the one of several that has children of its own; None if it is not one."""
    children = view.children(pid)
    managers = [child for child in children if _children(child, view)] if len(children) > 1 else children
    if len(managers) != 1:
        return None
    return view.process(managers[0])


def _worker(pid: int, manager: ProcessId, watched: Watched, view: Source) -> Worker | None:
    settings = watched.settings
    try:
        process = view.process(pid)
        if process.ended or process.parent != manager.pid:
            return None
        sizes = view.sizes(pid)
        worker = Worker(process.id, process.age, sizes.size if settings.metric == "vms" else sizes.bound)
        if not watched.needs_detail(worker):
            return worker
        caught = view.catches(pid, _signum(settings.signal))
        used = _measure(worker, settings.metric, view)
        server = recognise(*view.name_and_argv(pid))
        # One that supervisord runs, and that has children, may be anything: a manager, a shell.
        looks_like_manager = (
            bool(view.children(pid)) if watched.members else _looks_like_manager(pid, manager.pid, view)
        )
        return replace(
            worker, detail=WorkerDetail(used, caught, server, looks_like_manager, used is None and is_blocked(pid))
        )
    except (ProcessLookupError, PermissionError):
        return None


def _looks_like_manager(pid: int, above: int, view: Source) -> bool:
    """Whether this child of `above` looks like a manager itself: then `above` is a wrapper.

    A worker may have children too, of a command that it runs; but then it has siblings of its own name.
    """
    comm, argv = view.name_and_argv(pid)
    if manages(comm, argv):
        return True
    children = [_name_and_argv(one, view) for one in _children(pid, view)]
    if not children:
        return False
    if any(name != comm and recognise(name, words) for name, words in children):
        return True  # whatever it calls itself: they are workers
    siblings = [one for one in _children(above, view) if one != pid and _name_and_argv(one, view)[0] == comm]
    # Or they are managers below one wrapper: each has workers that are called as itself.
    return not siblings or all(
        any(_name_and_argv(child, view)[0] == comm for child in _children(one, view)) for one in (pid, *siblings)
    )


def _children(pid: int, view: Source) -> list[int]:
    """None of one that has just ended: that says nothing about the one for whose sake it is asked."""
    try:
        return view.children(pid)
    except (ProcessLookupError, PermissionError):
        return []


def _name_and_argv(pid: int, view: Source) -> tuple[str, list[str]]:
    try:
        return view.name_and_argv(pid)
    except (ProcessLookupError, PermissionError):
        return "", []


def _measure(worker: Worker, metric: str, view: Source) -> int | None:
    """The exact metric in bytes; None where it may not be read: a bound is never taken for it."""
    try:
        if metric == "uss":
            return view.uss(worker.id.pid)
        if metric == "pss":
            return view.pss(worker.id.pid)
    except PermissionError:
        return None
    return worker.bound


def measure(
    pool: Pool, settings: PoolSettings, view: Source, deadline: float, known: Mapping[ProcessId, int]
) -> dict[ProcessId, int]:
    """The metric of each worker, in bytes, as far as it may be read; until `deadline` (monotonic) those not `known`."""
    used = {}
    for worker in pool.workers:
        try:
            found = worker.used if worker.used is not None else known.get(worker.id)
            if found is None and time.monotonic() < deadline:
                found = _measure(worker, settings.metric, view)
            if found is not None and view.process(worker.id.pid).id == worker.id:
                used[worker.id] = found
        except (ProcessLookupError, PermissionError):
            pass  # it has just left
    return used


def private_memory(process: ProcessId, view: Source) -> int | None:
    """What comes back when this process leaves, in bytes; None if it is gone or may not be read."""
    try:
        return view.uss(process.pid) if view.process(process.pid).id == process else None
    except (ProcessLookupError, PermissionError):
        return None


def activity(process: ProcessId, view: Source) -> str:
    """What this process does at this moment, for a reader; empty if it is gone."""
    try:
        return view.activity(process.pid) if view.process(process.pid).id == process else ""
    except (ProcessLookupError, PermissionError):
        return ""


def may_signal(process: ProcessId) -> bool:
    """Whether this user may signal that process; asked with the signal 0, which is never delivered."""
    try:
        _send(process.pid, None, 0)
    except PermissionError:
        return False
    except OSError:
        pass  # it is gone
    return True


@dataclass(frozen=True)
class Outcome:
    """What came of a reap."""

    result: Result
    moment: SentMoment | None = None
    """When it was sent; None: it was not."""
    unheld: bool = False
    """It was to be held, and that was not permitted."""
    unreadable: bool = False
    """Whether it was idle could not be read."""
    private: int | None = None
    """Bytes that were the worker's own when it was signalled; None if that may not be read."""
    pidfd: int | None = None
    """Readable as soon as the worker is gone; the caller closes it. None where the system has none."""


def reap(
    pool: Pool, worker: Worker, settings: PoolSettings, view: Source, watch: float, idle_wait_expired: bool = False
) -> Outcome:
    """Look again at exactly this worker, and signal it only if all is as it was seen. Never raises OSError.

    For `watch` seconds an idle moment is waited for. Without one it is BUSY; or, where idle_wait has expired
    and the server finishes its request at any moment, signalled all the same.
    """
    deadline = time.monotonic() + watch
    return _with_pidfd(worker, lambda pidfd: _signal(pool, worker, settings, view, pidfd, deadline, idle_wait_expired))


def reap_again(pool: Pool, worker: Worker, settings: PoolSettings, view: Source) -> Outcome:
    """As `reap`, at once, and only if it is seen that the worker is idle; no pidfd comes with the outcome."""
    return _closed(reap(pool, worker, settings, view, 0.0))


def force(pool: Pool, worker: Worker, signal_name: str, view: Source) -> Outcome:
    """Send a stuck worker this signal, whatever it does."""

    def send(pidfd: int | None) -> Outcome:
        if _has_changed(pool, worker, view):
            return Outcome(Result.CHANGED)
        _send(worker.id.pid, pidfd, _signum(signal_name))
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
    # From here on the pidfd, where there is one, means this process and no later one with its pid.
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
    """Whether this is not the worker of that manager any more. Raises ProcessLookupError."""
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
    idle_wait_expired: bool,
) -> Outcome:
    """Raises ProcessLookupError, PermissionError."""
    signum = _signum(settings.signal)
    pid = worker.id.pid
    needs = moment_of(worker.detail.server if worker.detail else "")
    _send(pid, pidfd, 0)  # asks whether it may be signalled, before an idle moment is waited for in vain
    private = private_memory(worker.id, view)
    holds = settings.hold and hold.is_usable()
    unheld = unreadable = False
    while True:
        if _has_changed(pool, worker, view) or view.catches(pid, signum) is False:
            return Outcome(Result.CHANGED)
        idle = view.idle(pid)
        late = time.monotonic() >= deadline
        if idle and holds and not unheld:
            attempt = hold.signal_in_accept(pid, lambda: _send_to_main_thread(worker.id, pidfd, signum, view))
            if attempt is Attempt.GONE:
                return Outcome(Result.GONE)
            if attempt in (Attempt.HELD, Attempt.UNKNOWN):
                moment = SentMoment.HELD if attempt is Attempt.HELD else SentMoment.IDLE
                return Outcome(Result.SENT, moment, private=private, pidfd=pidfd)
            # Where it is not permitted, the next best is a signal right after it was seen idle: look once more.
            unheld = attempt is Attempt.NOT_PERMITTED
            if unheld or not late:
                continue
            idle = False
        unreadable = unreadable or idle is None
        if idle and needs is not Moment.HELD:
            _send(pid, pidfd, signum)
            return Outcome(Result.SENT, SentMoment.IDLE, unheld, private=private, pidfd=pidfd)
        permitted = needs is Moment.ANY or (needs is Moment.IDLE_IF_SEEN and late and _is_never_seen(pid, view))
        if late and idle_wait_expired and permitted and settings.idle_wait != float("inf"):
            _send(pid, pidfd, signum)
            moment = SentMoment.UNKNOWN if idle is None else SentMoment.BUSY
            return Outcome(Result.SENT, moment, unheld, unreadable, private, pidfd)
        if late:
            return Outcome(Result.BUSY, unheld=unheld, unreadable=unreadable)
        time.sleep(_BETWEEN_READS)


def _is_never_seen(pid: int, view: Source) -> bool:
    """Whether this system does not tell if the worker is idle. One reading may fall between two states of it."""
    return all(view.idle(pid) is None for _ in range(5))


def _open_pidfd(pid: int) -> int | None:
    """A descriptor of that process; None where the system has none (Linux before 5.3, seccomp, other UNIX)."""
    if not hasattr(os, "pidfd_open") or not hasattr(signal, "pidfd_send_signal"):
        return None
    try:
        return os.pidfd_open(pid)
    except ProcessLookupError:
        raise
    except OSError:
        return None


def follow(process: ProcessId, view: Source) -> int | None:
    """A descriptor that is readable when this process is gone; None if it is, or where the system has none."""
    try:
        pidfd = _open_pidfd(process.pid)
    except ProcessLookupError:
        return None
    if pidfd is None:
        return None
    try:
        if view.process(process.pid).id == process:
            return pidfd
    except OSError:
        pass  # gone, or not to be read; or this machine is short of something
    os.close(pidfd)
    return None


def tgkill(group: int, thread: int, signum: int) -> None:
    """tgkill(2), which Python does not have and glibc only from 2.30 on. Raises OSError."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.syscall(_TGKILL[platform.machine()], group, thread, signum) == -1:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))


def _signum(name: str) -> int:
    return int(getattr(signal, f"SIG{name}"))
