"""Signals a worker while it is held where it waits for a connection, so that none can come in between. Linux only.

A worker that was just seen waiting may take a connection before the signal arrives. While ptrace stops it, it cannot.
If the registers then show that it is still in the call in which it waits (host.waiting), and its descriptors that it
has no client's connection, then a signal queued now is the first thing that it sees: accept returns EINTR. From epoll,
select and poll it may be about to return since a connection has arrived; but nobody has accepted that yet, and under
load it is so at almost each attempt, as each new connection wakes all workers that wait. Then the handler runs first,
and either this worker still serves the connection before it leaves, or another one takes it from the queue.

All of this runs in a child process with a time limit. The kernel releases a traced process when its tracer ends, so
whatever happens to the child, the worker continues.
"""

from __future__ import annotations

import contextlib
import ctypes
import enum
import errno
import os
import platform
import select
import signal
import sys
import time
from collections.abc import Callable, Iterator

from supervisor_memreap.host.procfile import read, read_part, stat
from supervisor_memreap.host.waiting import (
    Kind,
    Reads,
    Wait,
    awaits_connection,
    current,
    has_no_client,
    other_threads_sleep,
)

# ptrace(2) of <sys/ptrace.h>; SEIZE, unlike ATTACH, sends no SIGSTOP that could outlive us.
_SEIZE, _INTERRUPT, _DETACH, _GETREGSET = 0x4206, 0x4207, 17, 0x4204
_NT_PRSTATUS, _EVENT_STOP = 1, 128
_WALL = 0x40000000
# A wait that was interrupted and has not returned: EINTR and the kernel's ERESTART… codes.
_INTERRUPTED = (-4, -512, -513, -514, -516)
# Of ours, not of the worker: the next attempt may have them.
_OUT_OF_RESOURCES = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN)
# Calls that say that there is a connection, and do not accept it.
_TAKES_NOTHING = (Kind.EPOLL, Kind.SELECT, Kind.POLL)
# The instruction `svc #0` of aarch64, as it lies in memory.
_SVC = b"\x01\x00\x00\xd4"
# Registers are signed here, the arguments of /proc/PID/syscall are not.
_WORD = (1 << 64) - 1
# Seconds that an attempt may take, and those of them in which a worker that has just been woken may come back to its
# wait. Attempts took 4 ms at the 99th percentile while clients kept both CPUs busy; with five processes to a CPU that
# want to run, one in ten took more than 0.25 s.
TIMEOUT, _PATIENCE = 0.5, 0.05


class Attempt(str, enum.Enum):
    """The outcome of one attempt to signal a worker while it is held."""

    HELD = "held"
    """Sent, while it was held where it waits for a connection."""
    NOT_WAITING = "not waiting"
    """Nothing was sent: it waits no longer, or something else is happening to it. Try again later."""
    GONE = "gone"
    """Nothing was sent: the process has ended."""
    NOT_PERMITTED = "not permitted"
    """Nothing was sent: this worker may not be held, now or later."""
    UNKNOWN = "unknown"
    """It is unknown whether the signal was sent, so it counts as sent."""


# What the child writes, a byte each: it is about to queue the signal; and the outcome of the attempt.
_QUEUES = b"q"
_WRITTEN = {
    b"h": Attempt.HELD,
    b"n": Attempt.NOT_WAITING,
    b"p": Attempt.NOT_PERMITTED,
    b"g": Attempt.GONE,
    _QUEUES: Attempt.UNKNOWN,
}


def is_usable() -> bool:
    return sys.platform == "linux" and platform.machine() in _IS_INSIDE and sys.maxsize > 2**32


def signal_held(pid: int, send: Callable[[], None]) -> Attempt:
    """Hold `pid`, and `send` the signal if it waits for a connection and has none.

    `send` is called in a child process while the main thread of `pid` is stopped. It must direct the signal at that
    thread: one for the whole process goes to another thread where there is one.
    """
    readable, writable = os.pipe()
    try:
        child = os.fork()
    except OSError:  # no memory, no process left: that must not stand in the way of the next best
        os.close(readable)
        os.close(writable)
        return Attempt.NOT_PERMITTED
    if child == 0:
        _run_child(pid, send, writable)
    try:
        os.close(writable)
        written, ended = _read_in_time(readable)
        # Only a child that has ended has a known outcome: one that was late may have continued.
        _end(child, by_force=not ended)
        written += _rest(readable)
    except OSError:
        return Attempt.UNKNOWN  # from the fork on, no error of ours means that nothing was sent
    except BaseException:
        _end(child, by_force=True)  # Ctrl-C: it must not go on without us
        raise
    finally:
        os.close(readable)
    if written:
        return _WRITTEN[written[-1:]]
    # It had no time to reach the signal; or something killed it at once, such as a seccomp filter, and would kill the
    # next one too.
    return Attempt.NOT_PERMITTED if ended else Attempt.NOT_WAITING


def _run_child(pid: int, send: Callable[[], None], writable: int) -> None:
    """Never returns. A child of the listener has its handlers and descriptors, and must use none of them."""
    try:
        signal.set_wakeup_fd(-1)
        # It has its own time limit; if a signal for the listener's group killed it, holding would seem to be refused.
        for signum in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(signum, signal.SIG_IGN)
        for written in steps(pid, send):
            if written:
                os.write(writable, written)
    finally:
        os._exit(0)


def steps(pid: int, send: Callable[[], None]) -> Iterator[bytes]:
    """One attempt, a step at a time; yields what to write after each. The process that runs this is the tracer."""
    try:
        wait = _next_wait(pid)
        if wait is None:
            yield b"g" if _is_zombie(pid) else b"n"
            return
        _ptrace(_SEIZE, pid)
        yield b""
        _ptrace(_INTERRUPT, pid)
        yield b""
        # WNOWAIT leaves the kernel's note of the stop in place. If it is the stop of another signal on its way, such as
        # TERM from the manager, that signal is then delivered when we end; taking the note would lose it.
        stop = os.waitid(os.P_PID, pid, os.WEXITED | os.WSTOPPED | os.WNOWAIT | _WALL)
        if stop is None or stop.si_code not in (os.CLD_TRAPPED, os.CLD_STOPPED):
            yield b"g"
            return
        yield b""
        if stop.si_status >> 8 != _EVENT_STOP or not _is_idle(pid, wait):
            yield b"n"
            return  # the kernel detaches when we end
        yield _QUEUES
        send()
        yield b""
        with contextlib.suppress(OSError):  # sent is sent; and when we end the kernel detaches
            _ptrace(_DETACH, pid)
        yield b"h"
    except ProcessLookupError:
        yield b"g"
    except OSError as error:
        if error.errno in _OUT_OF_RESOURCES:
            yield b"n"
        else:
            yield b"g" if _is_zombie(pid) else b"p"  # the kernel refuses a zombie as it refuses what is not permitted


def _next_wait(pid: int) -> Wait | None:
    """In what the process waits, as soon as it waits for a connection; None: it did not within `_PATIENCE`.

    For what it waits is looked at here, before it is held: another process can lock some of that for long, and a
    process that waits for something else is not to be stopped. Raises ProcessLookupError, PermissionError.
    """
    deadline = time.monotonic() + _PATIENCE
    while True:
        wait = current(pid)
        if wait and awaits_connection(pid, wait, _READS) is True:
            return wait
        if time.monotonic() >= deadline or _is_zombie(pid):
            return None
        time.sleep(0.001)


def _memory(pid: int, address: int, length: int) -> bytes:
    return read_part(f"/proc/{pid}/mem", address, length)


# Without host.reader: this process may be killed, and the reader's child would not be.
_READS = Reads(_memory, read)


def _is_zombie(pid: int) -> bool:
    """Whether it has ended, collected by its parent or not."""
    try:
        return stat(pid)[0] in b"ZX"
    except ProcessLookupError:
        return True
    except OSError:
        return False


def _is_idle(pid: int, wait: Wait) -> bool:
    """Whether the stopped process is still in the call in which it waits for a connection, and has none in hand."""
    is_inside = _IS_INSIDE[platform.machine()](pid, wait)
    return is_inside and other_threads_sleep(pid) and has_no_client(pid, wait.kind) is True


def _is_inside_x86_64(pid: int, wait: Wait) -> bool:
    """orig_rax has the number of the system call, rax what it returned; rdi, rsi and rdx have its arguments.

    orig_rax is negative wherever a process is stopped outside a system call. After this stop the kernel restarts the
    call, but for epoll_wait, which returns EINTR as after every stop (signal(7)).
    """
    registers = _registers(pid, 27)
    arguments = [register & _WORD for register in (registers[14], registers[13], registers[12])]
    if registers[15] != wait.number or arguments != list(wait.arguments[:3]):
        return False
    return wait.kind in _TAKES_NOTHING or registers[10] in _INTERRUPTED


def _is_inside_aarch64(pid: int, wait: Wait) -> bool:
    """x8 has the number of the system call, x1 and x2 its second and third argument.

    The kernel prepares the restart *before* this stop (do_signal in arch/arm64/kernel/signal.c): x0 is the first
    argument again, and pc points to the `svc` that it will run again. Behind a call that returned there is other code,
    and if it has run none of that yet, the `svc` is right before pc.
    """
    registers = _registers(pid, 34)
    if registers[8] != wait.number or [registers[1] & _WORD, registers[2] & _WORD] != list(wait.arguments[1:3]):
        return False
    if registers[0] in _INTERRUPTED or _instruction(pid, registers[32]) == _SVC:
        return True
    return wait.kind in _TAKES_NOTHING and _instruction(pid, registers[32] - len(_SVC)) == _SVC


_IS_INSIDE = {"x86_64": _is_inside_x86_64, "aarch64": _is_inside_aarch64}


def _registers(pid: int, count: int) -> ctypes.Array[ctypes.c_int64]:
    """The first `count` of the stopped thread's registers, in the order of struct user_regs."""
    registers = (ctypes.c_int64 * count)()
    vector = (ctypes.c_void_p * 2)(ctypes.addressof(registers), ctypes.sizeof(registers))
    _ptrace(_GETREGSET, pid, _NT_PRSTATUS, ctypes.addressof(vector))
    return registers


def _instruction(pid: int, address: int) -> bytes:
    return _memory(pid, address, len(_SVC))


def _ptrace(request: int, pid: int, address: int = 0, data: int = 0) -> None:
    function = ctypes.CDLL(None, use_errno=True).ptrace
    function.restype = ctypes.c_long
    function.argtypes = (ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p)
    if function(request, pid, address, data) == -1:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))


def _read_in_time(readable: int) -> tuple[bytes, bool]:
    """What the child wrote within the time limit, and whether it ended by itself."""
    written = b""
    poll = select.poll()
    poll.register(readable, select.POLLIN)
    deadline = time.monotonic() + TIMEOUT
    while poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
        chunk = os.read(readable, 16)
        if not chunk:
            return written, True
        written += chunk
    return written, False


def _rest(readable: int) -> bytes:
    """What the child wrote until it was ended."""
    os.set_blocking(readable, False)
    written = b""
    with contextlib.suppress(BlockingIOError):
        while chunk := os.read(readable, 16):
            written += chunk
    return written


def _end(child: int, by_force: bool) -> None:
    """Wait for the child; kill it first if it has not ended by itself.

    One that waits for a lock in the kernel ends only when it gets that, and does nothing more: it is left behind.
    """
    try:
        if by_force:
            os.kill(child, signal.SIGKILL)  # ours, and not waited for yet: no other process can have its pid
        deadline = time.monotonic() + TIMEOUT
        while os.waitpid(child, os.WNOHANG)[0] == 0 and time.monotonic() < deadline:
            time.sleep(0.001)
    except (ProcessLookupError, ChildProcessError):
        pass  # a library ignores SIGCHLD in this process: then the kernel has waited for it
