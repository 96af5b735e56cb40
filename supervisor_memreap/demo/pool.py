"""A small pre-forking manager whose workers leak: python -m supervisor_memreap.demo.pool SOCKET WORKERS

It behaves as FCGI::ProcManager does: TERM to the manager ends the pool, a worker that leaves is replaced, and a worker
that gets HUP or TERM finishes the request that it has in hand and leaves; waiting in accept, it leaves at once.
pool.pl is the same with the real one.
"""

from __future__ import annotations

import ctypes
import os
import random
import signal
import socket
import struct
import sys
import time
from typing import NoReturn

from supervisor_memreap.demo import fastcgi

SIGNALS = {signal.SIGHUP, signal.SIGTERM}
KIB = 1024
# Bytes. The first workers begin as if they had served for a while, each longer than the one before, so that they do
# not all come to the limit together.
HEAD_START = 24 * KIB * KIB
# socket.accept() goes back to waiting after a signal (PEP 475), and a handler that raises instead may run when a
# connection has just been accepted, and lose it. The C function returns one or the other.
_accept = ctypes.CDLL(None, use_errno=True).accept


def manage(path: str, count: int) -> None:
    """Keep so many workers until TERM."""
    workers: set[int] = set()
    wanted = count

    def pass_on(signum: int, _frame: object) -> None:
        nonlocal wanted
        if signum == signal.SIGTERM:
            wanted = 0
        for pid in workers:
            try:
                os.kill(pid, signal.SIGTERM)
            except ProcessLookupError:
                pass  # it has just been waited for

    for signum in SIGNALS:
        signal.signal(signum, pass_on)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(path)
        listener.listen(100)
        held = [HEAD_START * number // count for number in range(count)]
        while wanted or workers:
            # Signals wait while there is a worker that is not in the set yet, or that has no handlers of its own.
            signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
            forks = len(workers) < wanted
            if forks:
                holds = held.pop(0) if held else 0
                pid = os.fork()
                if pid == 0:
                    serve(listener, holds)
                workers.add(pid)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
            if not forks and workers:
                workers.discard(os.wait()[0])


def serve(listener: socket.socket, holds: int) -> NoReturn:
    """Answer requests, and hold on to a little more with each, until a signal or the manager's end."""
    manager = os.getppid()
    leaving = False

    def leave(_signum: int, _frame: object) -> None:
        nonlocal leaving
        leaving = True

    for signum in SIGNALS:
        signal.signal(signum, leave)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    # A signal after `leaving` was read and before accept has begun would not be seen until the next connection: the
    # kernel lets accept return after 1 s without one.
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", 1, 0))
    leak = random.randint(110, 150) * KIB
    kept = [bytearray(holds)]  # bytes() of zeros would not be resident
    while not leaving and os.getppid() == manager:
        fd = _accept(listener.fileno(), None, None)
        if fd >= 0:
            with socket.socket(fileno=fd) as connection:
                answer(connection)
            kept.append(bytearray(random.randint(0, 2 * leak)))
    os._exit(0)


def answer(connection: socket.socket) -> None:
    try:
        with connection.makefile("rb") as stream:
            if fastcgi.read_request(stream):
                time.sleep(random.uniform(0.005, 0.025))  # so that a signal often finds a worker at work
                connection.sendall(fastcgi.reply(b"worker %d\n" % os.getpid() * 100))
    except OSError:
        pass  # the client went away


if __name__ == "__main__":
    manage(sys.argv[1], int(sys.argv[2]))
