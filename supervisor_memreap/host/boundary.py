"""Brings a worker to its boundary and signals it there, whether it is idle or never idle. Linux only.

The boundary is the entry of the system call in which a worker will wait for its next connection, with none in hand. A
worker of a pool that has more clients than workers is never seen idle, since accept returns at once; so memreap does
not wait for an idle moment but goes to the boundary: ptrace runs the worker from system call to system call until it
enters that wait. There the signal is queued, the call returns EINTR, and the worker is let go. An idle worker is at its
boundary at once, as the interrupted call is entered again; a busy one at the end of its request, without noticing.

All of this runs in a child process (host.attempt). The kernel lets go of a traced process when its tracer ends, so
`steps` may end anywhere: each stop is only looked at and never taken (WNOWAIT), so a signal that was on its way is
still delivered.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import platform
import signal
import socket
import sys
import time
from collections.abc import Callable, Generator, Mapping
from typing import NamedTuple

from supervisor_memreap.host import sockets, waiting
from supervisor_memreap.host.machine import MOST_STOPS
from supervisor_memreap.host.procfile import listed, read, stat, status
from supervisor_memreap.host.waiting import (
    KINDS,
    RESTART,
    Kind,
    Wait,
    awaits_connection,
    other_threads_sleep,
    system_call,
    wait_in,
    watches,
)

# ptrace(2) of <sys/ptrace.h>; SEIZE, unlike ATTACH, sends no SIGSTOP that could outlive us. GET_SYSCALL_INFO is of
# Linux 5.3, and the same on every machine.
_SEIZE, _INTERRUPT, _CONT, _SYSCALL, _DETACH = 0x4206, 0x4207, 7, 24, 17
_GETREGSET, _SETREGSET, _GET_SYSCALL_INFO = 0x4204, 0x4205, 0x420E
# Without it, a tracer that is killed at a system call would leave a SIGTRAP behind, and the worker would die of it.
_TRACESYSGOOD = 1
_SYSCALL_STOP, _EVENT_STOP = signal.SIGTRAP | 0x80, 128
_NT_PRSTATUS, _NT_ARM_SYSTEM_CALL = 1, 0x404
_WALL = 0x40000000
_ENTRY = 1
# Of ours, not of the worker: the next attempt may have them.
_OUT_OF_RESOURCES = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN)
# What a call returns inside the kernel that is entered again, unless a handler runs: then it returns EINTR.
_ERESTARTNOHAND = -514

# From asm/unistd.h: tgkill, and AUDIT_ARCH of <linux/audit.h>.
_TGKILL = {"x86_64": 234, "aarch64": 131}
_EPOLL_PWAIT2 = 441
# Of x86_64, and of aarch64, which lacks pause.
_PAUSE, _PPOLL = 34, 73
_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
# Calls that an interrupt does not disturb (signal(7)): they go on afterwards, until the time that was meant. select,
# poll; futex, nanosleep, clock_nanosleep, wait4, waitid, pause, rt_sigsuspend, restart_syscall, fcntl.
_GOES_ON = {
    "x86_64": {23, 270, 7, 271, 202, 35, 230, 61, 247, 34, 130, 219, 72},
    "aarch64": {72, 73, 98, 101, 115, 260, 95, 133, 128, 25},
}
# Seconds for which a worker may be stopped while it is read whether it is at its boundary: it can keep locked what is
# read then. The kernel ends the tracer, and lets go of the worker.
STOPPED = 1.0
# The same at any other time, for a tracer that is frozen (cgroup.freeze): longer, since one that waits for memory on a
# host that has none left goes on after a while. While it traces, it never waits for longer than _AWAKE.
FROZEN, _AWAKE = 3.0, 0.5
# Calls of x86_64 that return EINTR after a stop if they have a time-out, or always, and then are entered again: those
# above, accept, write, sendto, sendmsg, writev, sendfile, epoll, semtimedop, rt_sigtimedwait, io_getevents.
_EINTR_TAKEN_BACK = {0, 19, 45, 47, 43, 288, 1, 44, 46, 20, 40, 232, 281, 441, 65, 220, 128, 208, 333}
_MACHINE = platform.machine()
# Seconds between two looks at a worker that may not be interrupted: at first, and at least as parts of what the last
# look took, and of the time since the first one. So it costs less than a tenth of one core.
_BETWEEN, _PART_OF_LOOK, _PART_OF_TIME = 0.0005, 9, 1 / 200
# Nanoseconds of CPU without a voluntary context switch, after which a worker that runs is not in a write that would be
# cut short: to copy all that a socket holds, 4 MB, takes 1 to 2 ms, and then it waits.
_RUNS = 3_000_000
# Seconds for the stop by the interrupt, on a busy machine.
_FIRST_STOP = 1.0
# And for the last one: between two looks at whether the worker still runs, and in all; and where the parent ends this
# process, which then has 0.1 s (host.attempt).
_NEXT_STOP, _LAST_STOP, _HURRIED_STOP = 0.005, 1.0, 0.05
# As Bounds.rest, where threads take turns: if they have not answered by then, not again before this many times as long.
REST, _PART_OF_REST = 0.25, 9
# How often a thread has to be seen at work in a row, _NEXT_STOP apart, while the worker has no client.
_TRIES_OF_REST = 6
# And for each stop, until this process runs.
_SWITCH = 20e-6


class _SyscallInfo(ctypes.Structure):
    """struct ptrace_syscall_info, as far as it is the same for an entry and an exit."""

    _fields_ = (
        ("op", ctypes.c_uint8),
        ("pad", ctypes.c_uint8 * 3),
        ("arch", ctypes.c_uint32),
        ("instruction_pointer", ctypes.c_uint64),
        ("stack_pointer", ctypes.c_uint64),
        ("number", ctypes.c_uint64),
        ("arguments", ctypes.c_uint64 * 6),
        ("rest", ctypes.c_uint64 * 2),
    )


class Bounds(NamedTuple):
    """What an attempt may cost the worker."""

    deadline: float
    """Monotonic: how long it may take to come to its boundary."""
    stops: int = MOST_STOPS
    rest: float = 0.0
    """Seconds for which its main thread may be held at its wait, until its other threads have answered."""


# What `steps` yields: the signal is about to be queued; and how it ended. NOT_PERMITTED: it was not traced.
# UNTRACEABLE: it was, in vain, as its system calls are not known here, or the kernel is older than Linux 5.3. NONE: it
# has no boundary, as it listens on nothing: its manager hands it connections. NOT_SHARED: on no socket of its manager.
# TRACED: a debugger has it.
QUEUES, SENT, LATE, GONE, CHANGED, NONE, NOT_SHARED = b"q", b"s", b"l", b"g", b"c", b"n", b"o"
NOT_PERMITTED, UNTRACEABLE, TRACED = b"p", b"u", b"t"


class Signal(NamedTuple):
    """What is sent at the boundary."""

    number: int
    may_send: Callable[[], bool]
    """Asked while the worker is held: whether it still is what was measured, and may go. Raises OSError."""
    to_thread: Callable[[], None]
    """Directs it at the main thread."""
    to_process: Callable[[], None]
    """The same to any thread: for a worker whose main thread blocks it, so that another one takes it."""


def is_usable() -> bool:
    return sys.platform == "linux" and _MACHINE in _ARCH and sys.maxsize > 2**32


class _Worker:
    """The worker as it is seen from outside, before it is interrupted."""

    def __init__(self, pid: int, known: Mapping[int, bytes]):
        self.turn: Wait | None = None
        """In what it waited for its turn to wait for a connection when that was last asked."""
        self.polls = False
        """The last call in which it was seen is poll, which is entered again as restart_syscall: as other calls are."""
        self._pid = pid
        self._known = known
        """The inodes of the sockets on which it listens, and that its manager has too."""
        self._ran: tuple[bytes, int] | None = None
        """Its voluntary context switches when it was first seen to run since the last one, and its CPU time."""
        self._rest_from = 0.0
        """When its main thread may be held for its other threads (monotonic)."""

    def sockets(self) -> set[int]:
        """Its descriptors of the pool's sockets."""
        return {fd for fd, inode in self._known.items() if sockets.inode(self._pid, fd) == inode}

    def may_interrupt(self, place: bytes) -> bool:
        """Whether interrupting the main thread does no harm while /proc/PID/syscall shows `place`."""
        pid = self._pid
        if is_zombie(pid):
            raise ProcessLookupError(pid)
        number, *arguments = system_call(place)
        self.polls, self.turn = False, None
        if number < 0:
            return self._runs_on()
        wait = wait_in(pid, number, arguments)
        self.polls = wait is not None and wait.kind is Kind.POLL
        if number in _GOES_ON[_MACHINE]:
            return True
        if wait and wait.kind is Kind.ACCEPT:
            return arguments[0] in self.sockets() or sockets.reads_without_time_out(pid, arguments[0])
        if number in waiting.READS:
            flags = waiting.READS[number]
            waits_for_all = flags is not None and arguments[flags] & socket.MSG_WAITALL
            return not waits_for_all and sockets.reads_without_time_out(pid, arguments[0])
        if wait and wait.kind is Kind.FLOCK:
            # Of a lock that it waits for, it cannot be seen at its entry who holds it.
            self.turn = wait if awaits_connection(pid, wait) is True else None
            return True
        if wait and wait.kind is Kind.EPOLL:
            # A time-out would start over. That does not matter for a wait for a connection.
            is_endless = _MACHINE == "x86_64" and number != _EPOLL_PWAIT2 and ctypes.c_int32(arguments[3]).value < 0
            return is_endless or watches(pid, wait, self.sockets())
        return False

    def is_free(self, wait: Wait) -> bool:
        """Whether it has no client in hand, and all its other threads sleep, while its main thread waits so."""
        return awaits_connection(self._pid, wait) is True and other_threads_sleep(self._pid)

    def comes_to_rest(self, wait: Wait, patience: float) -> bool:
        """Whether it becomes free, as its other threads answer while its main thread is held at its wait."""
        began = time.monotonic()
        if not patience or began < self._rest_from or len(listed(self._pid, "task")) == 1:
            return False
        remaining = _TRIES_OF_REST
        while remaining and time.monotonic() < began + patience:
            time.sleep(_NEXT_STOP)
            has_none = awaits_connection(self._pid, wait)
            if has_none and other_threads_sleep(self._pid):
                return True
            # A thread that still does something then is one of the application's own: for that it is not held.
            remaining = remaining - 1 if has_none else _TRIES_OF_REST
        self._rest_from = time.monotonic() + _PART_OF_REST * patience
        return False

    def _runs_on(self) -> bool:
        """Whether it has run without waiting for long enough that no call can be cut short by an interrupt."""
        (switches,) = status(self._pid, b"voluntary_ctxt_switches")
        try:
            ran = switches, int(read(f"/proc/{self._pid}/schedstat").split()[0])
        except PermissionError:
            return False  # this kernel has no such file (CONFIG_SCHED_INFO)
        if self._ran is None or self._ran[0] != switches:
            self._ran = ran
        return ran[1] - self._ran[1] >= _RUNS


class Tracer:
    """One attempt. The process that makes it must do nothing else afterwards but end: then the kernel lets go."""

    def __init__(self, pid: int, queued: Signal, bounds: Bounds):
        self.stopped = 0.0
        """Seconds for which it has stopped the worker."""
        self._pid = pid
        self._queued = queued
        self._bounds = bounds
        self._is_traced = False
        self._worker = _Worker(pid, {})

    def steps(self, manager: int) -> Generator[bytes, None, None]:
        """A step at a time; yields what to report after each, often nothing.

        The pool's sockets are those that `manager` has too. Raises OSError, for what is not of the worker, such as a
        lack of descriptors.
        """
        try:
            yield from self._steps(manager)
        except ProcessLookupError:
            yield GONE
        except OSError as error:
            if error.errno in _OUT_OF_RESOURCES:
                raise
            # The kernel refuses a zombie as it refuses what it forbids.
            yield GONE if is_zombie(self._pid) else UNTRACEABLE if self._is_traced else NOT_PERMITTED

    def _steps(self, manager: int) -> Generator[bytes, None, None]:
        pid = self._pid
        try:
            theirs = {*sockets.inodes(manager).values()}
        except ProcessLookupError:
            yield CHANGED
            return
        own = sockets.inodes(pid)
        shared = sockets.listening(pid, {fd: inode for fd, inode in own.items() if inode in theirs})
        self._worker = _Worker(pid, {fd: own[fd] for fd in shared})
        if not shared:
            yield GONE if is_zombie(pid) else NOT_SHARED if sockets.of(pid).listening else NONE
            return
        if status(pid, b"TracerPid") != [b"0"]:
            yield TRACED
            return
        # Each stop is a SIGCHLD. Blocked, so that one that comes before it is waited for is not missed; not ignored, as
        # inherited from some shells, since then there is none.
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.signal(signal.SIGALRM, signal.SIG_DFL)  # ends it, also where it waits in the kernel for a lock
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})
        _ptrace(_SEIZE, pid, 0, _TRACESYSGOOD)  # which does not stop it
        self._is_traced = True
        _bound_stop(FROZEN)  # not before: where ptrace is refused, an idle moment is waited for
        try:
            yield from self._go()
        finally:
            self._let_go()

    def _go(self) -> Generator[bytes, None, None]:
        """From the moment on at which it is traced."""
        pid = self._pid
        yield b""
        if not self._queued.may_send():
            yield CHANGED
            return
        if not self._interrupt():
            yield LATE
            return
        yield b""
        for number in range(self._bounds.stops):
            # The stop by the interrupt comes within microseconds, and what it did has to be taken back.
            stop = self._next_stop(0.0 if number else _FIRST_STOP)
            if stop is None or (number and time.monotonic() >= self._bounds.deadline):
                break
            if _has_ended(stop):
                yield GONE
                return
            began = time.monotonic()
            if stop.si_status == _SYSCALL_STOP and self._is_at_boundary():
                yield from self._send()
                return
            _bound_stop(FROZEN)
            signum = _passed_on(stop)
            if signum is None:
                break
            if _goes_unnoticed(pid, stop, signum):
                _enter_again(pid)
            yield b""
            _ptrace(_SYSCALL, pid, 0, signum)
            self.stopped += time.monotonic() - began + _SWITCH
            yield b""
        yield LATE

    def _interrupt(self) -> bool:
        """Wait until that does no harm, and interrupt the worker, unless it is stopped by then; False: it is late."""
        began = time.monotonic()
        while self._next_stop(0.0, 0.0) is None:
            _bound_stop(FROZEN)
            looked = time.monotonic()
            place = read(f"/proc/{self._pid}/syscall")
            # The last thing before the interrupt: what it does now must be what was judged.
            if self._worker.may_interrupt(place) and read(f"/proc/{self._pid}/syscall") == place:
                _ptrace(_INTERRUPT, self._pid)
                return True
            now = time.monotonic()
            if now >= self._bounds.deadline:
                return False
            pause = max(_BETWEEN, (now - looked) * _PART_OF_LOOK, (now - began) * _PART_OF_TIME)
            signal.sigtimedwait({signal.SIGCHLD}, min(pause, _AWAKE))  # a signal for the worker stops it
        return True

    def _let_go(self) -> None:
        """Let it run without more stops: it would see EINTR if its tracer ended where it is stopped in a call.

        Never raises OSError: when we end, the kernel lets go of it.
        """
        _bound_stop(FROZEN)
        waits = False
        with contextlib.suppress(OSError):
            # Where it is ended from outside, there is no time.
            until = time.monotonic() + (_LAST_STOP if sys.exc_info()[0] is None else _HURRIED_STOP)
            stop = self._next_stop(0.0, 0.0)
            # One that runs comes to its next call; one that waits in a call is not stopped there, and is left at once.
            while stop is None and time.monotonic() < until and self._runs():
                stop = self._next_stop(_NEXT_STOP, 0.0)
            stop = stop or self._next_stop(0.0, 0.0)  # it may have come there since it was seen to run
            signum = None if stop is None or _has_ended(stop) else _passed_on(stop)
            if signum is not None:
                if stop and _goes_unnoticed(self._pid, stop, signum):
                    _enter_again(self._pid)
                _ptrace(_CONT, self._pid, 0, signum)
            waits = stop is None
        # Until this process ends, which has more to read, a signal stops the worker; and if it waits in a call, so does
        # the return of that.
        _bound_stop(STOPPED if waits else FROZEN)

    def _runs(self) -> bool:
        return system_call(read(f"/proc/{self._pid}/syscall"))[0] < 0

    def _next_stop(self, at_least: float, deadline: float | None = None) -> os.waitid_result | None:
        """The next stop, or the end, of the worker, which is not taken from the kernel; None: it came too late."""
        deadline = max(self._bounds.deadline if deadline is None else deadline, time.monotonic() + at_least)
        while True:
            stop = os.waitid(os.P_PID, self._pid, os.WEXITED | os.WSTOPPED | os.WNOWAIT | os.WNOHANG | _WALL)
            if stop is not None:
                return stop
            patience = deadline - time.monotonic()
            if patience <= 0:
                return None
            _bound_stop(FROZEN)
            signal.sigtimedwait({signal.SIGCHLD}, min(patience, _AWAKE))

    def _is_at_boundary(self) -> bool:
        """Whether it enters a wait for its next connection, with none in hand, while all its other threads sleep."""
        info = _SyscallInfo()
        _ptrace(_GET_SYSCALL_INFO, self._pid, ctypes.sizeof(info), ctypes.addressof(info))
        if info.op != _ENTRY:
            return False
        if info.arch != _ARCH[_MACHINE]:
            raise PermissionError("the numbers of its system calls are not known here")
        was, self._worker.turn = self._worker.turn, None
        arguments = tuple(info.arguments)
        kind = KINDS.get(info.number)
        if info.number == RESTART:  # which has the arguments of the call that it goes on with
            kind = Kind.POLL if self._worker.polls else None
        else:
            self._worker.polls = kind is Kind.POLL
        if kind is None:
            return False
        wait = Wait(kind, info.number, arguments)
        _bound_stop(STOPPED)
        if kind is Kind.FLOCK:
            return was is not None and was[:2] == wait[:2] and arguments[:2] == was.arguments[:2]
        if not watches(self._pid, wait, self._worker.sockets()):
            return False
        return self._worker.is_free(wait) or self._worker.comes_to_rest(wait, self._bounds.rest)

    def _send(self) -> Generator[bytes, None, None]:
        if not self._queued.may_send():
            yield CHANGED
            return
        blocked, filter_mode = status(self._pid, b"SigBlk", b"Seccomp")
        is_blocked = int(blocked, 16) >> (self._queued.number - 1) & 1
        yield QUEUES
        (self._queued.to_process if is_blocked else self._queued.to_thread)()
        yield b""
        if not is_blocked:
            with contextlib.suppress(OSError):  # sent is sent; without this the call is made, and the handler runs then
                _return_eintr(self._pid, is_filtered=filter_mode not in (b"0", b""))
        yield b""
        with contextlib.suppress(OSError):  # when we end, the kernel detaches
            _ptrace(_DETACH, self._pid)
        yield SENT


def _bound_stop(seconds: float) -> None:
    """The kernel ends this process after so many seconds from now; called again, the time begins anew."""
    signal.setitimer(signal.ITIMER_REAL, seconds)


def _has_ended(stop: os.waitid_result) -> bool:
    return stop.si_code not in (os.CLD_TRAPPED, os.CLD_STOPPED)


def _passed_on(stop: os.waitid_result) -> int | None:
    """The signal that was on its way; 0: none was. None: the whole process is stopped, as by SIGSTOP: it stays so."""
    if stop.si_status == _SYSCALL_STOP:
        return 0
    if stop.si_status >> 8 == _EVENT_STOP:
        return 0 if stop.si_status & 0x7F == signal.SIGTRAP else None
    return int(stop.si_status)


def _goes_unnoticed(pid: int, stop: os.waitid_result, signum: int) -> bool:
    """Whether the worker would not notice what stopped it, were it not traced: the interrupt, and a signal that it
    ignores, as SIGCHLD is by default. The kernel wakes a process for that only if it is traced.
    """
    if stop.si_status == _SYSCALL_STOP or not signum:
        return stop.si_status >> 8 == _EVENT_STOP
    (caught,) = status(pid, b"SigCgt")
    return not int(caught, 16) >> (signum - 1) & 1


def tgkill(group: int, thread: int, signum: int) -> None:
    """tgkill(2), which Python lacks and glibc has only since 2.30. Raises OSError."""
    if _LIBC.syscall(_TGKILL[_MACHINE], group, thread, signum) == -1:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))


def is_zombie(pid: int) -> bool:
    """Whether it has ended, collected by its parent or not."""
    try:
        return stat(pid)[0] in b"ZX"
    except ProcessLookupError:
        return True
    except OSError:
        return False


def _enter_again(pid: int) -> None:
    """Take back that a call was interrupted which would return EINTR, so that the application does not see it.

    x86_64: orig_rax has the number of the call, negative outside one; rax, what it returned. On aarch64 the kernel has
    prepared the restart before this stop, and such a call is not interrupted (_may_interrupt).
    """
    if _MACHINE != "x86_64":
        return
    registers = _registers(pid, _NT_PRSTATUS, 27)
    if registers[15] in _EINTR_TAKEN_BACK and registers[10] == -errno.EINTR:
        registers[10] = _ERESTARTNOHAND
        _regset(_SETREGSET, pid, _NT_PRSTATUS, registers)


def _return_eintr(pid: int, is_filtered: bool) -> None:
    """Let the call that was just entered do nothing and return EINTR, while a signal is queued for this thread.

    A seccomp filter (`is_filtered`) judges the call -1, too, and would let it return EPERM, or end the worker. So there
    it becomes one that returns EINTR at once since a signal is queued: pause, or ppoll without descriptors.
    """
    if _MACHINE == "x86_64":
        registers = _registers(pid, _NT_PRSTATUS, 27)
        registers[15] = _PAUSE if is_filtered else -1
        if not is_filtered:
            registers[10] = -errno.EINTR
        _regset(_SETREGSET, pid, _NT_PRSTATUS, registers)
        return
    registers = _registers(pid, _NT_PRSTATUS, 34)
    registers[:5] = [0] * 5 if is_filtered else [-errno.EINTR, *registers[1:5]]
    _regset(_SETREGSET, pid, _NT_PRSTATUS, registers)
    number = (ctypes.c_int32 * 1)(_PPOLL if is_filtered else -1)
    _regset(_SETREGSET, pid, _NT_ARM_SYSTEM_CALL, number)


def _registers(pid: int, kind: int, count: int) -> ctypes.Array[ctypes.c_int64]:
    """The first `count` of the stopped thread's registers, in the order of struct user_regs."""
    registers = (ctypes.c_int64 * count)()
    _regset(_GETREGSET, pid, kind, registers)
    return registers


def _regset(
    request: int, pid: int, kind: int, values: ctypes.Array[ctypes.c_int64] | ctypes.Array[ctypes.c_int32]
) -> None:
    vector = (ctypes.c_void_p * 2)(ctypes.addressof(values), ctypes.sizeof(values))
    _ptrace(request, pid, kind, ctypes.addressof(vector))


_LIBC = ctypes.CDLL(None, use_errno=True)
_LIBC.ptrace.restype = ctypes.c_long
_LIBC.ptrace.argtypes = (ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p)


def _ptrace(request: int, pid: int, address: int = 0, data: int = 0) -> None:
    if _LIBC.ptrace(request, pid, address, data) == -1:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))
