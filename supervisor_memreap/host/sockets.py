"""The sockets of a process: on which it listens, and whether it has a client's connection. Linux only.

The tables are those of the process's own network namespace (/proc/PID/net). Listing its descriptors needs ptrace read
rights.
"""

from __future__ import annotations

import ctypes
import errno
import os
import re
import signal
import socket
from collections.abc import Iterable
from typing import NamedTuple

from supervisor_memreap.host.procfile import missing, read

# Tables of /proc/PID/net with the column of the inode, in the order in which they are searched: the rest of a process's
# sockets is searched only where one was found in none so far. Each row begins with the address of the socket, or with
# its number.
_TABLES = {"unix": 6, "tcp": 9, "tcp6": 9, "udp": 9, "udp6": 9, "netlink": 9}
_STREAMS = ("unix", "tcp", "tcp6")
# Of /proc/net/unix: the type of a stream, the flag of a socket that listens (__SO_ACCEPTCON), the state of one that is
# connected.
_STREAM, _ACCEPTCON, _CONNECTED = b"0001", 0x10000, b"03"
# Of /proc/net/tcp: the state LISTEN.
_LISTEN = b"0A"
# pidfd_getfd(2), Linux 5.6, has this number on every machine.
_PIDFD_GETFD = 438


class Sockets(NamedTuple):
    listening: frozenset[int]
    """Descriptors of the sockets on which it listens."""
    has_client: bool | None
    """Whether it has a connection that it accepted from one of these, even if the client has closed it. None: it has
    a socket of which that cannot be said.
    """
    has_others: bool
    """Whether it has sockets that are not streams of TCP or UNIX."""


def of(pid: int) -> Sockets:
    """Raises ProcessLookupError, PermissionError."""
    descriptors = _descriptors(pid)
    remaining = set(descriptors.values())
    listening_inodes: set[bytes] = set()
    addresses: set[bytes] = set()
    connected: set[bytes] = set()
    has_others = False
    for table, column in _TABLES.items():
        if not remaining:
            break
        for inode, row in _rows(pid, table, column, remaining):
            remaining.discard(inode)
            has_others |= table not in _STREAMS or (table == "unix" and row[4] != _STREAM)
            address, listens = _address_and_whether_it_listens(table, row)
            if listens:
                listening_inodes.add(inode)
                addresses.add(address)
            elif address:
                connected.add(address)
    listening = frozenset(fd for fd, inode in descriptors.items() if inode in listening_inodes)
    has_others |= bool(remaining)
    if addresses & connected:
        return Sockets(listening, True, has_others)
    unknown = [fd for fd, inode in descriptors.items() if inode in remaining]
    return Sockets(listening, _any(_has_port(pid, fd, addresses) for fd in unknown), has_others)


def _descriptors(pid: int) -> dict[int, bytes]:
    """The inode of each descriptor that is a socket."""
    inodes = {}
    try:
        names = os.listdir(f"/proc/{pid}/fd")
    except FileNotFoundError:
        raise missing(pid, f"/proc/{pid}/fd") from None
    for name in names:
        try:
            match = re.fullmatch(r"socket:\[([0-9]+)\]", os.readlink(f"/proc/{pid}/fd/{name}"))
        except FileNotFoundError:
            continue  # closed since the list was read
        if match:
            inodes[int(name)] = match[1].encode()
    return inodes


def _rows(pid: int, table: str, column: int, inodes: Iterable[bytes]) -> list[tuple[bytes, list[bytes]]]:
    """The rows of these sockets; nothing where the kernel lacks the table. A table may have 100,000 rows of others."""
    try:
        text = read(f"/proc/{pid}/net/{table}")
    except PermissionError:
        return []
    rows = []
    for inode in inodes:
        at = text.find(b" " + inode)
        while at >= 0:
            fields = text[text.rfind(b"\n", 0, at) + 1 : text.find(b"\n", at)].split()
            if len(fields) > column and fields[column] == inode:
                rows.append((inode, fields))
                break
            at = text.find(b" " + inode, at + 1)
    return rows


def _address_and_whether_it_listens(table: str, row: list[bytes]) -> tuple[bytes, bool]:
    """What a connection has in common with the socket that it was accepted from: a path, or a port of TCP.

    Empty for a socket that is neither connected nor listens.
    """
    if table == "unix":
        listens = bool(int(row[3], 16) & _ACCEPTCON)
        path = b" ".join(row[7:])
        return (path if listens or row[5] == _CONNECTED else b""), listens
    if table in ("tcp", "tcp6"):
        return b":" + row[1].rpartition(b":")[2], row[3] == _LISTEN
    return b"", False


def _has_port(pid: int, fd: int, addresses: set[bytes]) -> bool | None:
    """Whether a socket that is in no table has one of these ports, as a connection of TCP that its client has reset.

    The kernel keeps its address, but lists it no more. None: that cannot be found out.
    """
    try:
        with _copied(pid, fd) as copy:
            if copy.family not in (socket.AF_INET, socket.AF_INET6) or copy.type != socket.SOCK_STREAM:
                return False
            return b":%04X" % copy.getsockname()[1] in addresses
    except ProcessLookupError:
        raise
    except OSError as error:
        # Closed since the list was read: then something is happening, and it does not wait.
        return True if error.errno == errno.EBADF else None


def _copied(pid: int, fd: int) -> socket.socket:
    """A descriptor of ours for the same socket. Raises OSError."""
    if not hasattr(os, "pidfd_open") or not hasattr(signal, "pidfd_send_signal"):
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    pidfd = os.pidfd_open(pid)
    try:
        copy = ctypes.CDLL(None, use_errno=True).syscall(_PIDFD_GETFD, pidfd, fd, 0)
        if copy == -1:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    finally:
        os.close(pidfd)
    return socket.socket(fileno=copy)


def _any(answers: Iterable[bool | None]) -> bool | None:
    """True if any is true, otherwise None if any is unknown."""
    found = set(answers)
    return True if True in found else None if None in found else False
