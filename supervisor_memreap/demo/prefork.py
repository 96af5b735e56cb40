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
import time

from supervisor_memreap.demo import fastcgi

# Bytes that a request leaks on average, and how much faster or slower some workers do; the same in pool.pl.
# 40 requests a second on 4 workers: 2 to 4 MB/s for each, so the first is over 40 MB after 10 s, the last after 23 s.
LEAK = 250_000
PACES = (0.7, 0.9, 1.2, 1.5)
# Seconds that workers have to finish when the pool is ended; FCGI::ProcManager gives them 60.
DIE_TIMEOUT = 5.0
_SIGNALS = (signal.SIGHUP, signal.SIGTERM)
# socket.accept goes back to waiting after a signal (PEP 475), and a handler that raises instead may run when a
# connection has just been taken, and lose it. The C function returns the one or the other.
_accept = ctypes.CDLL(None).accept


def main(path: str, count: int) -> None:
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(path)
    listening.listen(100)
    # Blocked for good, and taken by sigwait: so no newborn runs its manager's handlers, as FCGI::ProcManager's does.
    signal.pthread_sigmask(signal.SIG_BLOCK, {*_SIGNALS, signal.SIGCHLD})
    signal.signal(signal.SIGCHLD, lambda *_: None)  # a signal that is ignored may not become pending
    workers: set[int] = set()
    manager = os.getpid()
    while True:
        while len(workers) < count:
            pid = os.fork()
            if pid == 0:
                work(listening, manager)
                os._exit(0)
            workers.add(pid)
        if signal.sigwait({signal.SIGCHLD, signal.SIGTERM}) == signal.SIGTERM:
            end(workers)
            return
        collect(workers)


def collect(workers: set[int]) -> None:
    """Take the ended ones out; no pid of another process stays in."""
    while workers:
        pid, _status = os.waitpid(-1, os.WNOHANG)
        if not pid:
            return
        workers.discard(pid)


def end(workers: set[int]) -> None:
    """TERM, and KILL for those that do not leave: it arrived in the gap before accept, or the request is long."""
    for signum, patience in ((signal.SIGTERM, DIE_TIMEOUT), (signal.SIGKILL, DIE_TIMEOUT)):
        for pid in workers:
            os.kill(pid, signum)
        deadline = time.monotonic() + patience
        while workers and time.monotonic() < deadline:
            collect(workers)
            time.sleep(0.01)


def end_with_parent(signum: int, parent: int) -> None:
    """On Linux: should the parent be KILLed, this process gets `signum`, so that a demo leaves nothing behind."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signum)  # PR_SET_PDEATHSIG
        if os.getppid() != parent:
            os._exit(1)  # it was ended in between


def work(listening: socket.socket, manager: int) -> None:
    """Serve until signalled to leave; a request that has been taken is always finished."""
    end_with_parent(signal.SIGKILL, manager)
    leave = False

    def handle(*_: object) -> None:
        nonlocal leave
        leave = True

    for signum in _SIGNALS:
        signal.signal(signum, handle)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
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
