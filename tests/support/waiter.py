"""A process that waits for a connection, in each of the ways in which servers do."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
from collections.abc import Callable, Iterator

# Waits once; then the caller decides what to do.
Way = Callable[[socket.socket], object]


def accept(listening: socket.socket) -> None:
    listening.accept()


def in_epoll(listening: socket.socket) -> None:
    with select.epoll() as epoll:
        epoll.register(listening, select.EPOLLIN)
        epoll.poll()


def in_select(listening: socket.socket) -> None:
    select.select([listening], [], [])


def in_poll(listening: socket.socket) -> None:
    poll = select.poll()
    poll.register(listening, select.POLLIN)
    poll.poll()


WAYS = {"accept": accept, "epoll": in_epoll, "select": in_select, "poll": in_poll}


def listen(family: str, name: str = "") -> socket.socket:
    """A listening socket: `tcp`, `tcp6` (also for IPv4), `unix` with the path `name`, or `abstract`."""
    if family.startswith("tcp"):
        listening = socket.socket(socket.AF_INET6 if family == "tcp6" else socket.AF_INET)
        if family == "tcp6":
            listening.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        listening.bind(("::" if family == "tcp6" else "127.0.0.1", 0))
    else:
        listening = socket.socket(socket.AF_UNIX)
        listening.bind(name if family == "unix" else b"\0memreap %d" % os.getpid())
    listening.listen()
    return listening


def connect(listening: socket.socket) -> socket.socket:
    address = listening.getsockname()
    client = socket.socket(socket.AF_UNIX if listening.family == socket.AF_UNIX else socket.AF_INET)
    client.connect(address if listening.family == socket.AF_UNIX else ("127.0.0.1", address[1]))
    return client


@contextlib.contextmanager
def busy(listening: socket.socket, act: Callable[[], object]) -> Iterator[int]:
    """The pid of a child that accepts a connection, does this while it has it in hand, and closes it."""

    def serve() -> None:
        connection, _ = listening.accept()
        act()
        connection.close()

    with forked(serve) as pid:
        yield pid


@contextlib.contextmanager
def forked(function: Callable[[], object]) -> Iterator[int]:
    """The pid of a child that runs this, and has no thread but the main one."""
    pid = os.fork()
    if pid == 0:
        try:
            signal.set_wakeup_fd(-1)
            function()
        finally:
            os._exit(0)
    try:
        yield pid
    finally:
        os.kill(pid, signal.SIGKILL)  # ours, and not waited for yet: no other process can have its pid
        os.waitpid(pid, 0)
