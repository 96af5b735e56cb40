"""A pool whose only job is to be watched: python pool.py WORKERS MIB [word …]

The manager forks workers that hold MIB each, announces `ready (pid: N)`, and replaces those that leave, with workers
that hold nothing. The words make it behave badly:

    deaf        workers have no handler for HUP
    term        workers leave on TERM, as those of gunicorn do, and have no handler for HUP
    busy        workers never wait in accept: each has a client
    stuck       workers catch HUP and stay
    gap         workers only note the first HUP, as Perl does with one that comes between a request and accept
    once        workers that leave are not replaced
    falls       the manager ends with the first worker that leaves, as FCGI::ProcManager 0.17 does with parent 1
    oldest      the same, but only where its parent has the pid 1, as FCGI::ProcManager 0.17 really does
    daemonized  it goes into the background first
    wrapped     the manager runs below a wrapper, as a shell without exec makes one
    twice       two managers run below one wrapper
    thread      each worker has a second thread, which sleeps
    serving     each worker has a second thread, which waits for data as one that serves a client does
    datagram    each worker has a datagram socket too
    fresh       the last worker holds nothing: if all were over the limit from the start, the limit would be wrong (rule
                9 of core.policy), and whether memreap saw that would depend on when it looks
    parent      the first worker has a child that runs a command, the second one a fork of itself
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
import time

LISTENING = socket.socket(socket.AF_UNIX)


def leave(_signum: int, _frame: object) -> None:
    os._exit(0)


def note(_signum: int, _frame: object) -> None:
    signal.signal(signal.SIGHUP, leave)


def stay(_signum: int, _frame: object) -> None:
    pass


def fork_worker(mib: int, words: set[str], ready: int, number: int = 0) -> int:
    # Signals wait until the worker has handlers of its own, so that no newborn runs the handlers of its manager.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP, signal.SIGTERM})
    pid = os.fork()
    if pid == 0:
        if not words & {"deaf", "term"}:
            signal.signal(signal.SIGHUP, stay if "stuck" in words else note if "gap" in words else leave)
        signal.signal(signal.SIGTERM, leave if "term" in words else signal.SIG_DFL)
        if "parent" in words and not (os.fork() if mib else 1):
            signal.pause() if number else os.execlp("sleep", "sleep", "1000")
        if words & {"thread", "serving"}:
            wait = threading.Event().wait if "thread" in words else lambda: os.read(os.pipe()[0], 1)
            threading.Thread(target=wait, daemon=True).start()
        other = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) if "datagram" in words else None
        held = bytearray(mib * 1024 * 1024)  # bytes() of zeros would not be resident
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGHUP, signal.SIGTERM})
        client = []
        if "busy" in words:
            client = [socket.socket(socket.AF_UNIX)]
            client[0].connect(LISTENING.getsockname())
            client.append(LISTENING.accept()[0])
        os.write(ready, b".")
        while held is not None or other or client:
            if "busy" in words:
                time.sleep(0.1)  # not pause(): a signal that comes just before it would be noted, and slept over
            else:
                LISTENING.accept()
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGHUP, signal.SIGTERM})
    return pid


def main() -> None:
    count, mib, words = int(sys.argv[1]), int(sys.argv[2]), set(sys.argv[3:])
    if "twice" in words and os.fork():
        words.add("wrapped")
    if "wrapped" in words and os.fork():
        signal.signal(signal.SIGTERM, lambda *_: os.killpg(0, signal.SIGKILL))
        os.wait()
        return
    if "daemonized" in words:
        if os.fork():
            return
        os.setsid()
    LISTENING.bind("")  # an abstract address chosen by the kernel: no client connects
    LISTENING.listen()
    starting, ready = os.pipe()
    held = [mib] * count
    if "fresh" in words:
        held[-1] = 0
    workers = {fork_worker(mib, words, ready, number) for number, mib in enumerate(held)}

    def end(_signum: int, _frame: object) -> None:
        for pid in workers:
            os.kill(pid, signal.SIGKILL)
        os._exit(0)

    signal.signal(signal.SIGTERM, end)
    for _ in workers:
        os.read(starting, 1)
    try:
        # In one write: with PYTHONUNBUFFERED print() makes two, and two managers would write into each other's line.
        os.write(1, f"ready (pid: {os.getpid()})\n".encode())
    except BrokenPipeError:
        pass  # a daemonized one may be too late: the reader has ended
    while True:
        try:
            gone, _ = os.wait()
        except ChildProcessError:
            signal.pause()
            continue
        workers.discard(gone)
        if "falls" in words or ("oldest" in words and os.getppid() == 1):
            end(0, None)
        if "once" not in words:
            workers.add(fork_worker(0, words, ready))


if __name__ == "__main__":
    main()
