"""Whether a worker waits for a connection. All that is known of accept(2) is here. Linux only.

A worker is idle when its main thread waits in accept(2) and all its other threads sleep in a futex: they serve
nothing. /proc/PID/syscall says so for certain, but reading it needs ptrace attach rights. /proc/PID/wchan needs only
ptrace read rights and is less exact, so what it leaves open is unknown.
"""

from __future__ import annotations

import os
import platform
import re
from typing import NamedTuple

from supervisor_memreap.host.procfile import missing, read

_MACHINE = platform.machine()
# Numbers of accept and accept4, and of futex and futex_waitv, of asm/unistd.h.
ACCEPT = {"x86_64": (43, 288), "aarch64": (202, 242)}.get(_MACHINE, ())
_FUTEX = {"x86_64": (202, 449), "aarch64": (98, 449)}.get(_MACHINE, ())
# Where the kernel lets a process wait in accept on TCP.
_TCP_ACCEPT = b"inet_csk_accept"
# And on a unix socket; but recv on a datagram or netlink socket waits there too.
_UNIX_ACCEPT = b"__skb_wait_for_more_packets"
# Numbers of read, readv, recvfrom and recvmsg.
_RECEIVE = {"x86_64": (0, 19, 45, 47), "aarch64": (63, 65, 207, 212)}.get(_MACHINE, ())
_SOCKET = re.compile(r"socket:\[([0-9]+)\]")
# Of /proc/net/tcp: the state of a socket that listens.
_TCP_LISTENS = "0A"
# Of /proc/net/unix: the flag of a socket that listens (__SO_ACCEPTCON), and the type of a stream socket.
_LISTENS, _STREAM = 0x10000, 1


def idle(pid: int) -> bool | None:
    """Whether the process waits for a connection and serves nothing; None: that may not be read, or is not certain.

    Raises ProcessLookupError where the process is gone.
    """
    main = _is_in_accept(pid)
    if main and not other_threads_sleep(pid):
        return None
    return main


def other_threads_sleep(pid: int) -> bool:
    """Whether all threads but the main one sleep in a futex. Raises ProcessLookupError."""
    try:
        threads = os.listdir(f"/proc/{pid}/task")
    except FileNotFoundError:
        raise missing(pid, f"/proc/{pid}/task") from None
    return all(_sleeps(f"/proc/{pid}/task/{thread}") for thread in threads if int(thread) != pid)


def _sleeps(thread: str) -> bool:
    try:
        number = _system_call(thread)
        return number in _FUTEX if number is not None and _FUTEX else read(f"{thread}/wchan").startswith(b"futex_")
    except PermissionError:
        return not os.path.exists(thread)  # it may have ended since the list was read


def _system_call(task: str) -> int | None:
    """The number of the system call that this thread waits in; -1: it waits in none, or runs; None: may not be read."""
    try:
        number = read(f"{task}/syscall").split()[0]
    except (PermissionError, IndexError):
        return None
    return int(number) if number.isdigit() else -1


def _is_in_accept(pid: int) -> bool | None:
    number = _system_call(f"/proc/{pid}") if ACCEPT else None
    return by_wchan(pid) if number is None else number in ACCEPT


def by_wchan(pid: int) -> bool | None:
    """Whether the main thread waits in accept, as far as /proc/PID/wchan tells. Raises ProcessLookupError."""
    try:
        place = read(f"/proc/{pid}/wchan")
    except PermissionError:
        place = b"0"
    if place == _TCP_ACCEPT:
        return True
    if place == _UNIX_ACCEPT:
        return True if _has_only_streams(pid) else None
    if place in (b"0", b""):
        # Either it runs, or the kernel hides the place. The state is readable for all.
        state = read(f"/proc/{pid}/stat").rpartition(b")")[2].split()[0]
        return False if state == b"R" else None
    return False


class _Socket(NamedTuple):
    inode: str
    is_stream: bool
    address: str
    """Of this side: a path or a TCP port. An accepted connection has that of its listening socket."""
    listens: bool


def receives(pid: int) -> bool | None:
    """Whether the main thread waits for data on a connection that it has accepted; None: that may not be read.

    It may be reading a request, or wait for the next one on a connection that is kept: a signal then closes the
    connection, and loses a request that is on its way. Raises ProcessLookupError where the process is gone.
    """
    try:
        fields = read(f"/proc/{pid}/syscall").split()
        if not _RECEIVE or not fields[0].isdigit() or int(fields[0]) not in _RECEIVE:
            return False if _RECEIVE else None
        match = _SOCKET.fullmatch(os.readlink(f"/proc/{pid}/fd/{int(fields[1], 16)}"))
        sockets = _sockets(pid) if match else []
    except ProcessLookupError:
        raise
    except (OSError, IndexError):
        return None
    addresses = {socket.address for socket in sockets if socket.listens}
    return any(match and socket.inode == match[1] and socket.address in addresses for socket in sockets)


def _has_only_streams(pid: int) -> bool:
    """Whether this process listens on a unix socket, and no other socket of it could wait in the same place."""
    try:
        known = {socket.inode: socket for socket in _sockets(pid)}
        mine = _inodes(pid)
    except OSError:
        return False
    listens = any(known[inode].listens for inode in mine & set(known))
    return listens and all(inode in known and known[inode].is_stream for inode in mine)


def _sockets(pid: int) -> list[_Socket]:
    """The unix and TCP sockets of this process, as its network namespace lists them. Raises OSError."""
    mine = _inodes(pid)
    found = []
    for line in read(f"/proc/{pid}/net/unix").decode("latin-1").splitlines()[1:]:
        row = line.split(None, 7)
        if len(row) > 6 and row[6] in mine:
            path = row[7] if len(row) > 7 else ""
            found.append(_Socket(row[6], int(row[4], 16) == _STREAM, path, bool(int(row[3], 16) & _LISTENS)))
    for name in ("tcp", "tcp6"):
        for line in read(f"/proc/{pid}/net/{name}").decode("latin-1").splitlines()[1:]:
            row = line.split()
            if len(row) > 9 and row[9] in mine:
                found.append(_Socket(row[9], True, row[1].rpartition(":")[2], row[3] == _TCP_LISTENS))
    return found


def _inodes(pid: int) -> set[str]:
    """Of all sockets of this process. Raises OSError."""
    links = set()
    for fd in os.listdir(f"/proc/{pid}/fd"):
        try:
            links.add(os.readlink(f"/proc/{pid}/fd/{fd}"))
        except FileNotFoundError:
            pass  # it has been closed
    return {match[1] for match in map(_SOCKET.fullmatch, links) if match}
