"""Brings a worker to its boundary and signals it there, whether it is idle or never idle. Linux only.

The boundary is the entry of the system call in which a worker will wait for its next connection, with none in hand. A
worker of a pool that has more clients than workers is never seen idle, since accept returns at once; so memreap does
not wait for an idle moment but goes to the boundary: ptrace runs the worker from system call to system call until it
enters that wait. There the signal is queued, the call returns EINTR, and the worker is let go. An idle worker is at its
boundary at once, as the interrupted call is entered again; a busy one at the end of its request, without noticing.

All of this runs in a child process (host.attempt). The kernel lets go of a traced process when its tracer ends, so
`steps` may end anywhere: each stop is only looked at and never taken (WNOWAIT), so a signal that was on its way is
delivered all the same.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import platform
import signal
import sys
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

from supervisor_memreap.host import sockets
from supervisor_memreap.host.procfile import read, stat
from supervisor_memreap.host.procfs import READS
from supervisor_memreap.host.waiting import KINDS, Kind, Wait, awaits_connection, current, other_threads_sleep

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

# From asm/unistd.h: restart_syscall, tgkill, and AUDIT_ARCH of <linux/audit.h>.
_RESTART = {"x86_64": 219, "aarch64": 128}
_TGKILL = {"x86_64": 234, "aarch64": 131}
_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
# Calls in which a worker may be interrupted. Those that wait for a connection, futex, nanosleep, clock_nanosleep,
# wait4, waitid, pause, rt_sigsuspend and restart_syscall go on afterwards whatever happens. On x86_64 also read,
# recvfrom, recvmsg, fcntl, semop, semtimedop and rt_sigtimedwait: with a time-out they return EINTR after each stop
# (signal(7)), and so does epoll_wait, but that can be taken back there (_enter_again). Never write, send or sendfile:
# what they return then is shorter, and that cannot be taken back.
_MAY_INTERRUPT = {
    "x86_64": {*KINDS, 202, 35, 230, 61, 247, 34, 130, 219, 0, 45, 47, 72, 65, 220, 128},
    "aarch64": {*KINDS, 98, 101, 115, 260, 95, 133, 128} - {22, 441},
}
_MACHINE = platform.machine()
# Seconds between two looks at a worker that may not be interrupted.
_BETWEEN = 0.0005
# Seconds for the stop by the interrupt, on a busy machine.
_FIRST_STOP = 1.0
# And for the last one: a worker that runs comes to its next call sooner, and one that waits in one may be left there.
_NEXT_STOP = 0.005
# Stops of one attempt: two for each system call, 35 us each from Python.
MOST_STOPS = 10000


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


# What `steps` yields: the signal is about to be queued; and how it ended.
QUEUES, SENT, LATE, GONE, NOT_PERMITTED = b"q", b"s", b"l", b"g", b"p"


def is_usable() -> bool:
    return sys.platform == "linux" and _MACHINE in _ARCH and sys.maxsize > 2**32


def steps(pid: int, send: Callable[[], None], manager: int, bounds: Bounds) -> Iterator[bytes]:
    """One attempt, a step at a time; yields what to report after each, often nothing.

    The process that runs this is the tracer. `send` must direct the signal at the main thread of `pid`. The pool's
    sockets are those that `manager` has too.
    """
    try:
        yield from _Attempt(pid, send, frozenset(sockets.inodes(manager).values()), bounds).steps()
    except ProcessLookupError:
        yield GONE
    except OSError as error:
        if error.errno in _OUT_OF_RESOURCES:
            yield LATE
        else:
            yield GONE if is_zombie(pid) else NOT_PERMITTED  # the kernel refuses a zombie as it refuses what it forbids


class _Attempt:
    def __init__(self, pid: int, send: Callable[[], None], shared: frozenset[bytes], bounds: Bounds):
        self._pid = pid
        self._send = send
        self._shared = shared
        self._bounds = bounds
        self._interrupted: Wait | None = None
        """In what it waited for a connection, or for its turn to do so, when it was interrupted."""

    def steps(self) -> Iterator[bytes]:
        """Raises OSError."""
        pid = self._pid
        while not self._may_interrupt():
            if self._is_late():
                yield LATE
                return
            time.sleep(_BETWEEN)
        # Each stop is a SIGCHLD. Blocked, so that one that comes before it is waited for is not missed; not ignored, as
        # inherited from some shells, since then there is none.
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})
        _ptrace(_SEIZE, pid, 0, _TRACESYSGOOD)
        yield b""
        _ptrace(_INTERRUPT, pid)
        yield b""
        for number in range(self._bounds.stops):
            # The stop by the interrupt comes within microseconds, and what it did has to be taken back.
            stop = self._next_stop(0.0 if number else _FIRST_STOP)
            if stop is None or (number and self._is_late()):
                break
            if _has_ended(stop):
                yield GONE
                return
            if stop.si_status == _SYSCALL_STOP and self._is_at_boundary():
                yield from self._signal()
                return
            signum = _passed_on(stop)
            if signum is None:
                break
            if stop.si_status >> 8 == _EVENT_STOP:
                _enter_again(pid)
            yield b""
            _ptrace(_SYSCALL, pid, 0, signum)
            yield b""
        self._let_go()
        yield LATE

    def _let_go(self) -> None:
        """Let it run without more stops: it would see EINTR if its tracer ended where it is stopped in a call."""
        stop = self._next_stop(_NEXT_STOP)
        signum = None if stop is None or _has_ended(stop) else _passed_on(stop)
        if signum is not None:
            _ptrace(_CONT, self._pid, 0, signum)

    def _is_late(self) -> bool:
        return time.monotonic() >= self._bounds.deadline

    def _may_interrupt(self) -> bool:
        """Whether interrupting the main thread does no harm now."""
        if is_zombie(self._pid):
            raise ProcessLookupError(self._pid)
        first = read(f"/proc/{self._pid}/syscall").split()[0]
        if first == b"running":
            return True
        wait = current(self._pid)
        if wait and wait.kind in (Kind.FLOCK, Kind.EPOLL):
            # Of a lock that it waits for, it cannot be seen at its entry who holds it; and other machines than x86_64
            # cannot take back that the application's own epoll_wait was interrupted.
            self._interrupted = wait if awaits_connection(self._pid, wait, READS) is True else None
        return int(first) in _MAY_INTERRUPT[_MACHINE] or self._interrupted is not None

    def _next_stop(self, at_least: float) -> os.waitid_result | None:
        """The next stop, or the end, of the worker, which is not taken from the kernel; None: it came too late."""
        deadline = max(self._bounds.deadline, time.monotonic() + at_least)
        while True:
            stop = os.waitid(os.P_PID, self._pid, os.WEXITED | os.WSTOPPED | os.WNOWAIT | os.WNOHANG | _WALL)
            if stop is not None:
                return stop
            patience = deadline - time.monotonic()
            if patience <= 0:
                return None
            signal.sigtimedwait({signal.SIGCHLD}, patience)

    def _is_at_boundary(self) -> bool:
        """Whether it enters a wait for its next connection, with none in hand, while all its other threads sleep."""
        info = _SyscallInfo()
        _ptrace(_GET_SYSCALL_INFO, self._pid, ctypes.sizeof(info), ctypes.addressof(info))
        if info.op != _ENTRY:
            return False
        if info.arch != _ARCH[_MACHINE]:
            raise PermissionError("the numbers of its system calls are not known here")
        was, self._interrupted = self._interrupted, None
        arguments = tuple(info.arguments)
        # poll is entered again as restart_syscall, which has the arguments of poll.
        kind = Kind.POLL if info.number == _RESTART[_MACHINE] else KINDS.get(info.number)
        if kind is None:
            return False
        wait = Wait(kind, info.number, arguments)
        if kind is Kind.FLOCK:
            return was is not None and was[:2] == wait[:2] and arguments[:2] == was.arguments[:2]
        own = sockets.inodes(self._pid)
        if not self._shared & {*own.values()}:
            return False
        if kind is Kind.ACCEPT and own.get(arguments[0]) not in self._shared:
            return False
        return awaits_connection(self._pid, wait, READS) is True and other_threads_sleep(self._pid)

    def _signal(self) -> Iterator[bytes]:
        yield QUEUES
        self._send()
        yield b""
        with contextlib.suppress(OSError):  # sent is sent; and without this the call is made, and the handler runs then
            _return_eintr(self._pid)
        yield b""
        with contextlib.suppress(OSError):  # when we end, the kernel detaches
            _ptrace(_DETACH, self._pid)
        yield SENT


def _has_ended(stop: os.waitid_result) -> bool:
    return stop.si_code not in (os.CLD_TRAPPED, os.CLD_STOPPED)


def _passed_on(stop: os.waitid_result) -> int | None:
    """The signal that was on its way; 0: none was. None: the whole process is stopped, as by SIGSTOP: it stays so."""
    if stop.si_status == _SYSCALL_STOP:
        return 0
    if stop.si_status >> 8 == _EVENT_STOP:
        return 0 if stop.si_status & 0x7F == signal.SIGTRAP else None
    return int(stop.si_status)


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
    prepared the restart before this stop, and such a call is not interrupted (_MAY_INTERRUPT).
    """
    if _MACHINE != "x86_64":
        return
    registers = _registers(pid, _NT_PRSTATUS, 27)
    if registers[15] >= 0 and registers[10] == -errno.EINTR:
        registers[10] = _ERESTARTNOHAND
        _set_registers(pid, _NT_PRSTATUS, registers)


def _return_eintr(pid: int) -> None:
    """Let the call that was just entered do nothing and return EINTR."""
    if _MACHINE == "x86_64":
        registers = _registers(pid, _NT_PRSTATUS, 27)
        registers[15], registers[10] = -1, -errno.EINTR
        _set_registers(pid, _NT_PRSTATUS, registers)
        return
    registers = _registers(pid, _NT_PRSTATUS, 34)
    registers[0] = -errno.EINTR
    _set_registers(pid, _NT_PRSTATUS, registers)
    number = (ctypes.c_int32 * 1)(-1)
    _regset(_SETREGSET, pid, _NT_ARM_SYSTEM_CALL, number)


def _registers(pid: int, kind: int, count: int) -> ctypes.Array[ctypes.c_int64]:
    """The first `count` of the stopped thread's registers, in the order of struct user_regs."""
    registers = (ctypes.c_int64 * count)()
    _regset(_GETREGSET, pid, kind, registers)
    return registers


def _set_registers(pid: int, kind: int, registers: ctypes.Array[ctypes.c_int64]) -> None:
    _regset(_SETREGSET, pid, kind, registers)


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
