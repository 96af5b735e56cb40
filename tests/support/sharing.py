"""A pool of two workers that leave on HUP, and how they have their sockets: python sharing.py 2 MIB HOW

    logger      a third child has the pool's socket, and waits for other things
    closed      a third child has closed it
    other       a third child waits on its own socket
    handed      the workers do not listen: the manager hands them connections
    each        every worker has its own socket, with SO_REUSEPORT, and the manager has none

It announces `ready (pid: N)`, and replaces those that leave.
"""

from __future__ import annotations

import os
import signal
import socket
import sys


def listen(port: int = 0) -> socket.socket:
    listening = socket.socket()
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    listening.bind(("127.0.0.1", port))
    listening.listen()
    return listening


def wait_for(listening: socket.socket | None) -> None:
    while True:
        if listening is None:
            signal.pause()
        else:
            listening.accept()[0].close()


def main() -> None:
    mib, how = int(sys.argv[2]), sys.argv[3]
    shared = listen()
    port = shared.getsockname()[1]
    helpers = ("helper",) if how in ("logger", "closed", "other") else ()
    started, starts = os.pipe()
    children: dict[int, str] = {}

    def start(role: str, size: int) -> None:
        pid = os.fork()
        if pid:
            children[pid] = role
            return
        signal.signal(signal.SIGHUP, lambda *_: os._exit(0))
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        held = bytearray(size << 20)
        if how == "each":
            own: socket.socket | None = listen(port)
        elif role == "helper":
            own = listen() if how == "other" else None
        else:
            own = None if how == "handed" else shared
        if how in ("closed", "handed"):
            os.close(shared.detach()) if own is not shared else None
        os.write(starts, b".")
        wait_for(own)
        del held

    def end(*_: object) -> None:
        for pid in children:
            os.kill(pid, signal.SIGKILL)
        os._exit(0)

    signal.signal(signal.SIGTERM, end)
    if how == "each":
        shared.close()
    for role in ("worker", "worker", *helpers):
        start(role, mib)
        os.read(started, 1)
    os.write(1, f"ready (pid: {os.getpid()})\n".encode())
    while True:
        gone, _ = os.wait()
        start(children.pop(gone), 0)


if __name__ == "__main__":
    main()
