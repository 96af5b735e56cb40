"""Whether a worker waits for a connection. All knowledge of how they wait is here. Linux only.

Only for a child of memreap, which may be killed: a process can keep its memory map and its epoll locked.

A worker is idle when its main thread waits for a socket on which it listens, in accept(2) or in epoll, select or poll,
when it has no client's connection in hand, and when all its other threads sleep. If the workers take turns
at that by a lock on a file, as those of Starman with several addresses do, one that waits for its turn in flock(2) is
idle too. /proc/PID/syscall shows exactly in what a thread waits, but reading it needs ptrace attach rights.
/proc/PID/wchan needs only ptrace read rights and is less exact, so what it does not show is unknown.

Other locks do not count: Net::Server with serialize=semaphore ends the whole server when semop(2) returns EINTR; and of
a futex it cannot be seen what it is for.
"""

from __future__ import annotations

import enum
import os
import platform
import struct
from collections.abc import Collection, Sequence
from typing import NamedTuple

from supervisor_memreap.core.model import Fact
from supervisor_memreap.host import sockets
from supervisor_memreap.host.connections import Clients
from supervisor_memreap.host.procfile import link, listed, read, read_part, stat


class Kind(enum.Enum):
    """How a thread waits for a connection."""

    ACCEPT = "accept"
    EPOLL = "epoll"
    SELECT = "select"
    POLL = "poll"
    FLOCK = "flock"


class Wait(NamedTuple):
    """The system call in which a thread waits."""

    kind: Kind
    number: int
    arguments: tuple[int, ...]


class Target(NamedTuple):
    """What is in an epoll set."""

    fd: int
    events: int
    inode: bytes
    """With which the kernel shows it."""


# Of a file of fdinfo: 10,000 descriptors take 0.8 MB.
_MAX_FDINFO = 1 << 20


_MACHINE = platform.machine()
# System calls of asm/unistd.h: accept, accept4; epoll_wait, epoll_pwait, epoll_pwait2; select, pselect6; poll, ppoll;
# flock.
_NUMBERS: dict[str, dict[Kind, tuple[int, ...]]] = {
    "x86_64": {
        Kind.ACCEPT: (43, 288),
        Kind.EPOLL: (232, 281, 441),
        Kind.SELECT: (23, 270),
        Kind.POLL: (7, 271),
        Kind.FLOCK: (73,),
    },
    "aarch64": {
        Kind.ACCEPT: (202, 242),
        Kind.EPOLL: (22, 441),
        Kind.SELECT: (72,),
        Kind.POLL: (73,),
        Kind.FLOCK: (32,),
    },
}
KINDS = {number: kind for kind, numbers in _NUMBERS.get(_MACHINE, {}).items() for number in numbers}
"""By the number of the system call, on this machine."""
_READS: dict[str, dict[int, int | None]] = {
    "x86_64": {0: None, 19: None, 45: 3, 47: 2},
    "aarch64": {63: None, 65: None, 207: 3, 212: 2},
}
READS = _READS.get(_MACHINE, {})
"""read, readv, recvfrom, recvmsg, whose first argument is the descriptor, with the number of the one with flags."""
# restart_syscall: in it, a process waits on that was stopped and continued while in poll, or in other calls.
RESTART = {"x86_64": 219, "aarch64": 128}.get(_MACHINE)
# The stack of a 64-bit process lies above this address; a 32-bit process numbers its system calls differently.
_LOWEST_STACK = 1 << 32
# futex, futex_waitv, nanosleep, clock_nanosleep: what a thread sleeps in that serves nothing.
_SLEEP = {"x86_64": (202, 449, 35, 230), "aarch64": (98, 449, 101, 115)}.get(_MACHINE, ())
# futex, with the flag for one process only (FUTEX_PRIVATE_FLAG); semop, semtimedop, fcntl.
_FUTEX, _FUTEX_PRIVATE = {"x86_64": 202, "aarch64": 98}.get(_MACHINE, -2), 128
_LOCKS = {"x86_64": (65, 220, 72), "aarch64": (193, 192, 25)}.get(_MACHINE, ())
# The kernel functions of these.
_SLEEP_PLACES = (b"futex_", b"hrtimer_nanosleep", b"do_nanosleep")
# The kernel function in which a process waits in accept on TCP.
_TCP_ACCEPT = b"inet_csk_accept"
# And on a unix socket; but recv on a datagram or netlink socket waits there too.
_UNIX_ACCEPT = b"__skb_wait_for_more_packets"
# In epoll, by the version of the kernel; in select and poll.
_EPOLL, _POLL = (b"ep_poll", b"do_epoll_wait"), b"poll_schedule_timeout"
# In read, recv on a stream: of a unix socket, of TCP.
_READ_PLACES = (b"unix_stream_", b"wait_woken", b"sk_wait_data")
# EPOLLIN and POLLIN, EPOLLPRI.
_IN, PRI = 1, 2
# The maximum number of threads read in a process.
_MOST_THREADS = 64
# Of /proc/locks, until one shows who has a lock.
_READINGS_OF_LOCKS = 3
# struct pollfd; and the maximum number read.
_POLLFD, _MAX_POLLFDS = struct.Struct("=ihh"), 1024


def idle(pid: int) -> bool | None:
    """Whether the process waits for a connection and serves nothing; None: that may not be read, or is uncertain.

    Raises ProcessLookupError where the process is gone.
    """
    # First, since it is a connection that shows that a thread was woken in the meantime.
    others_sleep = other_threads_sleep(pid)
    try:
        wait = current(pid)
    except PermissionError:
        main = by_wchan(pid)
    else:
        main = wait is not None and awaits_connection(pid, wait)
    return None if main and not others_sleep else main


def current(pid: int) -> Wait | None:
    """What the main thread waits in; None: not in a call in which it could wait for a connection.

    Raises ProcessLookupError, PermissionError.
    """
    number, *values = _system_call(f"/proc/{pid}")
    return wait_in(pid, number, values)


def wait_in(pid: int, number: int, values: Sequence[int]) -> Wait | None:
    """As `current`, of a main thread that is in this system call."""
    kind = KINDS.get(number)
    if number == RESTART and read(f"/proc/{pid}/wchan").startswith(_POLL):
        kind = Kind.POLL
    return Wait(kind, number, tuple(values[:6])) if kind else None


def watches(pid: int, wait: Wait, descriptors: Collection[int]) -> bool:
    """Whether one of these is among what the thread waits for. Raises ProcessLookupError, PermissionError."""
    return not _watched(pid, wait).isdisjoint(descriptors)


def awaits_connection(pid: int, wait: Wait) -> bool | None:
    """Whether a main thread that waits so waits for a connection, and the process has none in hand; None: unknown.

    Raises ProcessLookupError.
    """
    try:
        if wait.kind is Kind.FLOCK:
            return _is_taking_turns(pid) and has_no_client(pid)
        return has_no_client(pid, _watched(pid, wait))
    except PermissionError:
        return None


def clients(pid: int) -> Clients:
    """The clients' connections that the process has. Raises ProcessLookupError, PermissionError."""
    own = sockets.of(pid)
    names = {fd: link(pid, fd) for fd in own.clients}
    try:
        awaits = _reads_from(pid)
    except PermissionError:
        # By the place alone, it is not known which of its connections it waits for.
        is_only = len(own.clients) == 1 and own.streams == own.listening | own.clients
        awaits = own.clients if is_only and read(f"/proc/{pid}/wchan").startswith(_READ_PLACES) else frozenset()
    awaited = sorted(names[fd] for fd in awaits & own.clients if names[fd])
    return Clients(frozenset(filter(None, names.values())), awaited[0] if awaited else None)


def _reads_from(pid: int) -> frozenset[int] | set[int]:
    """The descriptors from which the main thread waits for data. Raises ProcessLookupError, PermissionError."""
    number, *values = _system_call(f"/proc/{pid}")
    if number in READS:
        return {values[0]}
    wait = wait_in(pid, number, values)
    return _watched(pid, wait) if wait else frozenset()


def selects(pid: int, descriptors: Collection[int]) -> bool:
    """Whether its main thread waits in select for one of these; False where that may not be known.

    Raises ProcessLookupError.
    """
    try:
        wait = current(pid)
        return wait is not None and wait.kind is Kind.SELECT and watches(pid, wait, descriptors)
    except PermissionError:
        return False


def waits_for(pid: int, descriptors: Collection[int]) -> Fact | None:
    """SERVES: one of its threads waits for what comes on one of these listening sockets; None: none does.

    TURN: the main thread waits for a lock. HIDDEN: what it waits for may not be seen. Raises ProcessLookupError.
    """
    try:
        number, *values = _system_call(f"/proc/{pid}")
        wait = wait_in(pid, number, values)
        if wait and (_is_taking_turns(pid) if wait.kind is Kind.FLOCK else watches(pid, wait, descriptors)):
            return Fact.SERVES
        # Which lock it is, is not to be seen: it may be the one of workers of Apache with several addresses, of uWSGI
        # with thunder-lock, of Net::Server with serialize. A private futex is of one process alone.
        if number in _LOCKS or (number == _FUTEX and not values[1] & _FUTEX_PRIVATE):
            return Fact.TURN
    except PermissionError:
        try:
            return _place_waits_for(pid, descriptors)
        except PermissionError:
            return Fact.HIDDEN
    others = (thread for thread in listed(pid, "task")[:_MOST_THREADS] if int(thread) != pid)
    return Fact.SERVES if any(_thread_waits_for(pid, thread, descriptors) for thread in others) else None


def _thread_waits_for(pid: int, thread: str, descriptors: Collection[int]) -> bool:
    try:
        number, *values = _system_call(f"/proc/{pid}/task/{thread}")
        kind = KINDS.get(number)
        wait = Wait(kind, number, tuple(values[:6])) if kind and kind is not Kind.FLOCK else None
        return wait is not None and watches(pid, wait, descriptors)
    except PermissionError:
        return False  # it may have ended since the list was read


def _place_waits_for(pid: int, descriptors: Collection[int]) -> Fact | None:
    """The same by /proc/PID/wchan, which does not show for which descriptor it waits, but in epoll."""
    place = read(f"/proc/{pid}/wchan")
    if place in _EPOLL:
        return None if _in_own_epolls(pid).isdisjoint(descriptors) else Fact.SERVES
    if place in (_TCP_ACCEPT, _UNIX_ACCEPT):
        own = sockets.of(pid)
        is_accept = place == _TCP_ACCEPT or not own.has_others
        return Fact.SERVES if is_accept and own.listening <= set(descriptors) else Fact.HIDDEN
    is_shown = stat(pid)[0] == b"R" if place in (b"0", b"") else not place.startswith(_POLL)
    return None if is_shown else Fact.HIDDEN


def has_no_client(pid: int, among: Collection[int] | None = None) -> bool | None:
    """Whether it listens on one of these descriptors, by default on any, and has no client's connection; None: unknown.

    A server with one thread has none while it is in accept, but the application may be: it may wait there for a
    connection of its own, as for the data of FTP. Raises ProcessLookupError.
    """
    own = sockets.of(pid)
    listens = bool(own.listening) if among is None else not own.listening.isdisjoint(among)
    if own.has_client or not listens:
        return False
    return None if own.has_client is None else True


def _is_taking_turns(pid: int) -> bool:
    """Whether what the process waits for in flock is locked by a sibling that itself waits for a connection."""
    holder, parent = _holder_of_flock(pid), stat(pid)[1]
    try:
        if holder is None or stat(holder)[1] != parent:
            return False
        wait = current(holder)
        # Not in epoll, as with Apache's `Mutex flock`: there, one that waits for its turn does not leave on a signal.
        if wait is None or wait.kind not in (Kind.SELECT, Kind.ACCEPT):
            return False
        return awaits_connection(holder, wait) is True
    except ProcessLookupError:
        return False  # that one has ended, and this one is about to have its turn


def _holder_of_flock(pid: int) -> int | None:
    """Who has locked the file for which this process waits. None: it waits for none, or that is not to be seen.

    Opening /proc/locks takes a lock of the whole system, for 0.6 ms: only for a process that is in flock.
    """
    # The kernel shows it in parts of 4 kB: a lock that comes or goes meanwhile moves the others, so that one line is
    # there twice or not at all. With 60 locks taken and released all the time, one reading of 15 lacked one.
    return next(filter(None, (_holder_in(read("/proc/locks"), pid) for _ in range(_READINGS_OF_LOCKS))), None)


def _holder_in(locks: bytes, pid: int) -> int | None:
    # Of each: its number, `->` if it waits, FLOCK, ADVISORY, READ or WRITE, the pid, and the file. Those that wait
    # follow the one that has it.
    lines = [line.split() for line in locks.splitlines() if b" FLOCK " in line]
    files = [fields[6] for fields in lines if fields[1] == b"->" and fields[5] == b"%d" % pid]
    holders = {int(fields[4]) for fields in lines if fields[3] == b"WRITE" and fields[5] in files}
    holder = holders.pop() if len(holders) == 1 else 0
    return holder if holder > 0 else None


def _watched(pid: int, wait: Wait) -> set[int]:
    """The descriptors from which the thread waits for data. Raises ProcessLookupError, PermissionError."""
    first, second, *_ = wait.arguments
    if wait.kind in (Kind.ACCEPT, Kind.FLOCK):  # of flock: the file, which is not a socket
        return {first}
    if wait.kind is Kind.EPOLL:
        return _in_epoll(pid, first)
    if wait.kind is Kind.SELECT:
        # int nfds, fd_set *readfds: a bit for each descriptor, in words of 64.
        words = _memory(pid, second, (min(first, _MAX_POLLFDS) + 63) // 64 * 8) if second else b""
        bits = int.from_bytes(words, "little")
        return {fd for fd in range(min(first, _MAX_POLLFDS)) if bits >> fd & 1}
    # struct pollfd *fds, nfds_t nfds
    data = _memory(pid, first, min(second, _MAX_POLLFDS) * _POLLFD.size)
    whole = data[: len(data) // _POLLFD.size * _POLLFD.size]
    return {fd for fd, events, _ in _POLLFD.iter_unpack(whole) if fd >= 0 and events & _IN}


def _memory(pid: int, address: int, length: int) -> bytes:
    """What the process's memory holds there; empty where it holds nothing."""
    return read_part(f"/proc/{pid}/mem", address, length)


def _in_epoll(pid: int, fd: int) -> set[int]:
    """What is in the epoll set of this descriptor, and is waited for."""
    return {each.fd for each in _parsed(_fdinfo(pid, fd)) if each.events & _IN}


def _fdinfo(pid: int, fd: int) -> bytes:
    return read_part(f"/proc/{pid}/fdinfo/{fd}", 0, _MAX_FDINFO)


def _parsed(fdinfo: bytes) -> frozenset[Target]:
    lines = fdinfo.rpartition(b"\n")[0].splitlines()
    targets = [fields for line in lines if len(fields := line.split()) >= 4 and fields[0] == b"tfd:"]
    return frozenset(Target(int(fields[1]), int(fields[3], 16), fields[-2]) for fields in targets)


def other_threads_sleep(pid: int) -> bool:
    """Whether all threads but the main one sleep, and wait for nothing from outside. Raises ProcessLookupError."""
    return all(_sleeps(f"/proc/{pid}/task/{thread}") for thread in listed(pid, "task") if int(thread) != pid)


def _sleeps(thread: str) -> bool:
    try:
        return _system_call(thread)[0] in _SLEEP
    except PermissionError:
        pass
    try:
        return read(f"{thread}/wchan").startswith(_SLEEP_PLACES)
    except PermissionError:
        return not os.path.exists(thread)  # it may have ended since the list was read


def _system_call(task: str) -> list[int]:
    """As `system_call`, of this thread. Raises ProcessLookupError, PermissionError."""
    return system_call(read(f"{task}/syscall"))


def system_call(place: bytes) -> list[int]:
    """What /proc/PID/syscall has: the number of a system call, its six arguments, the stack pointer, and where it is.

    Only -1: the thread waits in none, or runs. Raises PermissionError.
    """
    fields = place.split()
    if len(fields) < 9 or not fields[0].isdigit():
        return [-1]
    values = [int(fields[0]), *(int(field, 16) for field in fields[1:])]
    if not KINDS or values[7] < _LOWEST_STACK:
        raise PermissionError("the numbers of its system calls are not known here")
    return values


def by_wchan(pid: int) -> bool | None:
    """Whether the main thread waits for a connection, according to /proc/PID/wchan. Raises ProcessLookupError."""
    try:
        place = read(f"/proc/{pid}/wchan")
    except PermissionError:
        place = b"0"
    try:
        if place in (_TCP_ACCEPT, _UNIX_ACCEPT):
            # recv on other sockets waits there too, where they are unix.
            return None if place == _UNIX_ACCEPT and sockets.of(pid).has_others else has_no_client(pid)
        if place in _EPOLL:
            return has_no_client(pid, _in_own_epolls(pid))
        if place.startswith(_POLL):
            # For what it waits there cannot be seen without more rights.
            return False if has_no_client(pid) is False else None
    except PermissionError:
        return None
    if place in (b"0", b""):
        # Either it runs, or the kernel hides the place. Every user may read the state.
        return False if stat(pid)[0] == b"R" else None
    return False


def _in_own_epolls(pid: int) -> set[int]:
    """What is in its epoll sets, and is waited for. Raises ProcessLookupError, PermissionError."""
    return {each.fd for targets in epolls(pid).values() for each in targets if each.events & _IN}


def epolls(pid: int) -> dict[int, frozenset[Target]]:
    """What is in its epoll sets, by their descriptors. Raises ProcessLookupError, PermissionError."""
    descriptors = [int(name) for name in listed(pid, "fd")]
    return {fd: _all_targets(pid, fd) for fd in descriptors if link(pid, fd) == "anon_inode:[eventpoll]"}


def _all_targets(pid: int, fd: int) -> frozenset[Target]:
    """What is in it. Raises PermissionError where there is more than is read: what is missing might have decided."""
    fdinfo = _fdinfo(pid, fd)
    if len(fdinfo) >= _MAX_FDINFO:
        raise PermissionError("its epoll has too much in it")
    return _parsed(fdinfo)
