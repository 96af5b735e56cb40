"""A small pre-forking FastCGI pool that behaves like FCGI::ProcManager, and leaks: python -m … SOCKET WORKERS

A worker that gets HUP finishes the request that it serves and leaves, at once if it waits in accept; the manager forks
another one. pool.pl is the same with the real FCGI::ProcManager.
"""

from __future__ import annotations

import ctypes
import os
import random
import signal
import socket
import sys

from supervisor_memreap.demo import fastcgi

# Bytes that a request leaks on average, and how much faster or slower some workers do; the same in pool.pl.
# 40 requests a second on 4 workers: 2 to 4 MB/s for each, so the first is over 40 MB after 10 s, the last after 23 s.
LEAK = 250_000
PACES = (0.7, 0.9, 1.2, 1.5)
_SIGNALS = (signal.SIGHUP, signal.SIGTERM)
# socket.accept goes back to waiting after a signal (PEP 475), and a handler that raises instead may run when a
# connection has just been taken, and lose it. The C function returns the one or the other.
_accept = ctypes.CDLL(None).accept


def main(path: str, count: int) -> None:
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(path)
    listening.listen(100)
    workers: set[int] = set()

    def end(*_: object) -> None:
        for pid in workers:
            os.kill(pid, signal.SIGTERM)
        sys.exit()

    # No signal may reach a newborn while it still has its manager's handlers: it would TERM its siblings.
    signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    signal.signal(signal.SIGTERM, end)
    while True:
        while len(workers) < count:
            pid = os.fork()
            if pid == 0:
                work(listening)
                os._exit(0)
            workers.add(pid)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
        gone, _status = os.wait()
        signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        workers.discard(gone)


def work(listening: socket.socket) -> None:
    """Serve until told to leave; a request that has been taken is always finished."""
    leave = False

    def hear(*_: object) -> None:
        nonlocal leave
        leave = True

    for signum in _SIGNALS:
        signal.signal(signum, hear)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
    kept = []
    pace = PACES[os.getpid() % len(PACES)]
    while not leave:
        fd = _accept(listening.fileno(), None, None)
        if fd < 0:
            continue  # a signal
        with socket.socket(fileno=fd) as connection:
            kept.append(bytearray(int(LEAK * pace * random.uniform(0, 2))))
            try:
                fastcgi.serve(connection, b"ok")
            except OSError:
                pass  # the other side went away; that is its loss


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
