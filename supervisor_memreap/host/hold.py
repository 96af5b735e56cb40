"""Signals a worker while it is held inside accept(2), so that no connection can come in between. Linux only.

A worker that was just seen waiting in accept may take a connection before the signal arrives. Stopped by ptrace it
cannot: if the registers then say that accept has not returned a descriptor, none was taken, and a signal queued now is
the first thing that it sees: accept returns EINTR.

All of it runs in a child process with a time limit. The kernel lets go of a traced process when its tracer ends, so
whatever happens to the child, the worker runs on.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
import select
import signal
import sys
import time
from collections.abc import Callable, Iterator

# ptrace(2) of <sys/ptrace.h>; SEIZE, unlike ATTACH, sends no SIGSTOP that could outlive us.
_SEIZE, _INTERRUPT, _DETACH, _GETREGSET = 0x4206, 0x4207, 17, 0x4204
_NT_PRSTATUS, _EVENT_STOP = 1, 128
_WALL = 0x40000000
# Of user_regs: how many 8-byte words, which one has the system call's number, and which its return value.
_REGISTERS = {"x86_64": (27, 15, 10), "aarch64": (34, 8, 0)}
# accept, accept4.
ACCEPT = {"x86_64": (43, 288), "aarch64": (202, 242)}.get(platform.machine(), ())
# A wait that was interrupted, and has not returned: EINTR and the kernel's ERESTART… codes.
_INTERRUPTED = (-4, -512, -513, -514, -516)
# Attempts took 4 ms at the 99th percentile on a loaded machine.
TIMEOUT = 0.25

# What the child says, a byte each: it is about to queue the signal; and what came of the attempt.
_QUEUES = b"q"
_WORDS = {b"h": "held", b"t": "taken", b"p": "not permitted", b"g": "gone"}


def is_usable() -> bool:
    return sys.platform == "linux" and platform.machine() in _REGISTERS and sys.maxsize > 2**32


def signal_in_accept(pid: int, send: Callable[[], None]) -> str:
    """Hold `pid`, and `send` the signal if it is inside accept and has taken no connection.

    held: sent. taken: nothing sent, it has left accept. gone, not permitted: nothing sent. unknown: the time was up
    when the signal was being sent; it must be taken for sent.
    """
    readable, writable = os.pipe()
    try:
        child = os.fork()
    except OSError:  # no memory, no process left: that must not stand in the way of the next best
        os.close(readable)
        os.close(writable)
        return "not permitted"
    if child == 0:
        _run_child(pid, send, writable)
    os.close(writable)
    try:
        said = _hear(readable)
        # Only of a child that has ended is it known what it did: one that was late may have gone on meanwhile.
        _end(child)
        said += _rest(readable)
    finally:
        os.close(readable)
    for byte, word in _WORDS.items():
        if said.endswith(byte):
            return word
    return "unknown" if said == _QUEUES else "taken"


def _run_child(pid: int, send: Callable[[], None], writable: int) -> None:
    """Never returns. A child of the listener has its handlers and descriptors, and must use none of them."""
    try:
        signal.set_wakeup_fd(-1)
        for signum in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(signum, signal.SIG_DFL)
        for said in steps(pid, send):
            if said:
                os.write(writable, said)
    finally:
        os._exit(0)


def steps(pid: int, send: Callable[[], None]) -> Iterator[bytes]:
    """One attempt, a step at a time; what is to be said after each. The tracer is the process that runs this."""
    try:
        _ptrace(_SEIZE, pid)
        yield b""
        _ptrace(_INTERRUPT, pid)
        yield b""
        _, status = os.waitpid(pid, _WALL)
        if not os.WIFSTOPPED(status):
            yield b"g"
            return
        yield b""
        # Another stop is that of a signal on its way, which must not be lost: the kernel delivers it when we end.
        if status >> 16 != _EVENT_STOP or not _is_inside_accept(pid):
            yield b"t"
            return  # the kernel detaches when we end
        yield _QUEUES
        send()
        yield b""
        with contextlib.suppress(OSError):  # sent is sent; and when we end the kernel detaches
            _ptrace(_DETACH, pid)
        yield b"h"
    except ProcessLookupError:
        yield b"g"
    except OSError:
        yield b"p"


def _is_inside_accept(pid: int) -> bool:
    count, number, result = _REGISTERS[platform.machine()]
    registers = (ctypes.c_int64 * count)()
    vector = (ctypes.c_void_p * 2)(ctypes.addressof(registers), ctypes.sizeof(registers))
    _ptrace(_GETREGSET, pid, _NT_PRSTATUS, ctypes.addressof(vector))
    return registers[number] in ACCEPT and registers[result] in _INTERRUPTED


def _ptrace(request: int, pid: int, address: int = 0, data: int = 0) -> None:
    function = ctypes.CDLL(None, use_errno=True).ptrace
    function.restype = ctypes.c_long
    function.argtypes = (ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p)
    if function(request, pid, address, data) == -1:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))


def _hear(readable: int) -> bytes:
    """All that the child says within the time limit."""
    said = b""
    poll = select.poll()
    poll.register(readable, select.POLLIN)
    deadline = time.monotonic() + TIMEOUT
    while poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
        chunk = os.read(readable, 16)
        if not chunk:
            break
        said += chunk
    return said


def _rest(readable: int) -> bytes:
    said = b""
    while chunk := os.read(readable, 16):
        said += chunk
    return said


def _end(child: int) -> None:
    try:
        os.kill(child, signal.SIGKILL)  # ours, and not waited for yet: no other process can have its pid
    except ProcessLookupError:
        pass
    os.waitpid(child, 0)
