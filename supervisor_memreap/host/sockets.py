"""The sockets of a process: on which it listens, and whether it has a client's connection. Linux only.

Each socket is asked itself, through a copy of its descriptor: that is quick whatever else the host has open, and finds
connections from other network namespaces too. Where that is not possible (before Linux 5.6, or without ptrace attach
rights), the tables of /proc/PID/net must do: 60,000 connections in TIME_WAIT make reading them take 0.1 to 1 s.
"""

from __future__ import annotations

import ctypes
import errno
import os
import re
import signal
import socket
from collections.abc import Collection, Iterable, Mapping
from typing import NamedTuple

from supervisor_memreap.host.procfile import link, listed, read

_LIBC = ctypes.CDLL(None, use_errno=True)
# pidfd_getfd(2), Linux 5.6, has this number on every machine.
_PIDFD_GETFD = 438
_INTERNET = (socket.AF_INET, socket.AF_INET6)
# Tables of /proc/PID/net with the column of the inode, in the order in which they are searched: the rest of a process's
# sockets is searched only for sockets not seen in earlier ones.
_TABLES = {"unix": 6, "tcp": 9, "tcp6": 9, "udp": 9, "udp6": 9, "netlink": 9}
_STREAMS = ("unix", "tcp", "tcp6")
# Of /proc/net/unix: the type of a stream, the flag of a socket that listens (__SO_ACCEPTCON), the state of one that is
# connected.
_STREAM, _ACCEPTCON, _CONNECTED = b"0001", 0x10000, b"03"
# Of /proc/net/tcp: the state LISTEN.
_LISTEN = b"0A"


class Sockets(NamedTuple):
    listening: frozenset[int]
    """Descriptors of the sockets on which it listens."""
    clients: frozenset[int]
    """Descriptors of the connections that it accepted from one of these."""
    has_client: bool | None
    """Whether it has a connection that it accepted from one of these, even if the client has closed it. None: it has
    a socket of which that is unknown.
    """
    streams: frozenset[int]
    """Descriptors of its streams of TCP or UNIX."""
    has_others: bool
    """Whether it has sockets that are not streams of TCP or UNIX."""


class _Socket(NamedTuple):
    is_stream: bool
    listens: bool
    address: str | bytes | int
    """What a connection has in common with the socket that it was accepted from: a path, or a port of TCP. Empty for
    one that is neither connected nor listens.
    """
    may_be_pair: bool = False
    """Whether neither end has a name; where only this end is known, whether it has none."""


def of(pid: int, among: Collection[int] | None = None) -> Sockets:
    """Its clients are those of these listening sockets, by default of all.

    Raises ProcessLookupError, PermissionError.
    """
    found = _asked(pid, inodes(pid))
    listening = frozenset(fd for fd, each in found.items() if each and each.listens)
    wanted = listening if among is None else among
    addresses = {each.address for fd, each in found.items() if each and fd in wanted}
    clients = frozenset(fd for fd, each in found.items() if each and not each.listens and each.address in addresses)
    has_client = True if clients else None if None in found.values() else False
    streams = frozenset(fd for fd, each in found.items() if each and each.is_stream)
    return Sockets(listening, clients, has_client, streams, len(streams) < len(found))


def listening(pid: int, descriptors: Mapping[int, bytes]) -> frozenset[int]:
    """Those of these sockets, with their inodes, that listen. Raises ProcessLookupError, PermissionError."""
    return frozenset(fd for fd, each in _asked(pid, descriptors).items() if each and each.listens)


def pairs(pid: int, descriptors: Mapping[int, bytes]) -> frozenset[int]:
    """Those of these sockets, with their inodes, that may be ends of a pair.

    Raises ProcessLookupError, PermissionError.
    """
    return frozenset(fd for fd, each in _asked(pid, descriptors).items() if each and each.may_be_pair)


def _asked(pid: int, descriptors: Mapping[int, bytes]) -> dict[int, _Socket | None]:
    try:
        return _by_copies(pid, descriptors)
    except ProcessLookupError:
        raise
    except OSError:
        return _by_tables(pid, descriptors)


def inodes(pid: int) -> dict[int, bytes]:
    """The inode of each descriptor that is a socket. Blocks nowhere. Raises ProcessLookupError, PermissionError."""
    numbers = {int(name): inode(pid, int(name)) for name in listed(pid, "fd")}
    return {fd: number for fd, number in numbers.items() if number}


def inode(pid: int, fd: int) -> bytes:
    """The inode of this descriptor if it is a socket; empty: it is none, or closed. Raises PermissionError."""
    try:
        match = re.fullmatch(r"socket:\[([0-9]+)\]", link(pid, fd))
    except ProcessLookupError:
        return b""  # closed since the list was read
    return match[1].encode() if match else b""


def reads_without_time_out(pid: int, fd: int) -> bool:
    """Whether this is a pipe, or a socket from which reading has no time-out and begins with one byte.

    Raises ProcessLookupError, PermissionError where that may not be known.
    """
    what = link(pid, fd)
    if not what.startswith("socket:"):
        return what.startswith("pipe:")
    pidfd = os.pidfd_open(pid)
    try:
        copy = _copy(pidfd, fd)
    finally:
        os.close(pidfd)
    if copy is None:
        return False
    with copy:
        no_time_out = not any(copy.getsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, 16))
        return no_time_out and copy.getsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT) <= 1


def _by_copies(pid: int, descriptors: Iterable[int]) -> dict[int, _Socket | None]:
    """None for what was closed since the list was read. Raises OSError where descriptors cannot be copied.

    While such a copy exists, for some microseconds, a connection that the worker closes does not end.
    """
    if not hasattr(os, "pidfd_open") or not hasattr(signal, "pidfd_send_signal"):
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    # Python would make the copy non-blocking, and with it the worker's own descriptor.
    if socket.getdefaulttimeout() is not None:
        raise OSError(errno.EINVAL, "sockets of this process have a time-out")
    pidfd = os.pidfd_open(pid)
    try:
        return {fd: _by_copy(pidfd, fd) for fd in descriptors}
    finally:
        os.close(pidfd)


def _copy(pidfd: int, fd: int) -> socket.socket | None:
    """A copy of this socket; None: it is closed, or something else. Raises OSError."""
    copied = _LIBC.syscall(_PIDFD_GETFD, pidfd, fd, 0)
    if copied == -1:
        number = ctypes.get_errno()
        if number == errno.EBADF:
            return None
        raise OSError(number, os.strerror(number))
    try:
        return socket.socket(fileno=copied)
    except OSError:
        os.close(copied)  # it is something else by now
        return None


def _by_copy(pidfd: int, fd: int) -> _Socket | None:
    copy = _copy(pidfd, fd)
    if copy is None:
        return None
    with copy:
        if copy.type != socket.SOCK_STREAM or copy.family not in (socket.AF_UNIX, *_INTERNET):
            return _Socket(False, False, "")
        listens = bool(copy.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))
        name = copy.getsockname()
        # A connection that its client has reset keeps its port.
        if copy.family in _INTERNET:
            return _Socket(True, listens, name[1])
        return _Socket(True, listens, name, not name and _peer_has_no_name(copy))


def _peer_has_no_name(copy: socket.socket) -> bool:
    try:
        return not copy.getpeername()
    except OSError:
        return False  # there is none any more


def _by_tables(pid: int, descriptors: Mapping[int, bytes]) -> dict[int, _Socket | None]:
    """None for what is in no table, such as a connection that its client has reset, or one of another namespace."""
    found: dict[bytes, _Socket] = {}
    for table, column in _TABLES.items():
        remaining = {*descriptors.values()} - {*found}
        if remaining:
            found.update(_rows(pid, table, column, remaining))
    return {fd: found.get(inode) for fd, inode in descriptors.items()}


def _rows(pid: int, table: str, column: int, inodes: Iterable[bytes]) -> dict[bytes, _Socket]:
    """Those of these sockets that are in this table; nothing where the kernel lacks it."""
    try:
        text = read(f"/proc/{pid}/net/{table}")
    except PermissionError:
        return {}
    found = {}
    for inode in inodes:
        rows = []
        at = text.find(b" " + inode)
        while at >= 0:
            fields = text[text.rfind(b"\n", 0, at) + 1 : text.find(b"\n", at)].split()
            if len(fields) > column and fields[column] == inode:
                rows.append(fields)
            at = text.find(b" " + inode, at + 1)
        # The path of a socket may hold a newline, so any user can write what looks like a row: two are not evidence.
        if len(rows) == 1 and (row := _from_row(table, rows[0])):
            found[inode] = row
    return found


def _from_row(table: str, row: list[bytes]) -> _Socket | None:
    if table == "unix":
        if not re.fullmatch(rb"[0-9A-F]{8}", row[3]):
            return None
        listens = bool(int(row[3], 16) & _ACCEPTCON)
        path = b" ".join(row[7:])
        is_connected = row[5] == _CONNECTED
        is_stream = row[4] == _STREAM
        return _Socket(
            is_stream, listens, path if listens or is_connected else b"", is_stream and is_connected and not path
        )
    if table in _STREAMS:
        return _Socket(True, row[3] == _LISTEN, b":" + row[1].rpartition(b":")[2])
    return _Socket(False, False, b"")
