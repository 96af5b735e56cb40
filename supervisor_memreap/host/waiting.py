"""Whether a worker waits for a connection. All knowledge of accept(2) is here. Linux only.

A worker is idle when its main thread waits in accept(2) and all its other threads sleep in a futex: they serve
nothing. /proc/PID/syscall shows this exactly, but reading it needs ptrace attach rights. /proc/PID/wchan needs only
ptrace read rights and is less exact, so what it does not show is unknown.
"""

from __future__ import annotations

import os
import platform
import re

from supervisor_memreap.host.procfile import missing, read, stat

_MACHINE = platform.machine()
# Numbers of accept and accept4, and of futex and futex_waitv, of asm/unistd.h.
ACCEPT = {"x86_64": (43, 288), "aarch64": (202, 242)}.get(_MACHINE, ())
_FUTEX = {"x86_64": (202, 449), "aarch64": (98, 449)}.get(_MACHINE, ())
# The kernel functions in which a process waits in accept on TCP.
_TCP_ACCEPT = b"inet_csk_accept"
# And on a unix socket; but recv on a datagram or netlink socket waits there too.
_UNIX_ACCEPT = b"__skb_wait_for_more_packets"
# Of /proc/net/unix: the flag of a socket that listens (__SO_ACCEPTCON), and the type of a stream socket.
_LISTENS, _STREAM = 0x10000, 1


def idle(pid: int) -> bool | None:
    """Whether the process waits for a connection and serves nothing; None: that may not be read, or is uncertain.

    Raises ProcessLookupError where the process is gone.
    """
    main = _is_in_accept(pid)
    if main and not other_threads_sleep(pid):
        return None
    return main


def can_observe_idle(pid: int) -> bool | None:
    """Whether the kernel shows where this process waits; None: at this moment it runs, and waits nowhere.

    False is no proof: a process that waits for very short times may run when its place is read, and sleep when its
    state is. Raises ProcessLookupError.
    """
    if _system_call(f"/proc/{pid}") is not None:
        return True
    try:
        if read(f"/proc/{pid}/wchan") not in (b"0", b""):
            return True
    except PermissionError:
        pass
    return None if stat(pid)[0] == b"R" else False


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
    """Whether the main thread waits in accept, according to /proc/PID/wchan. Raises ProcessLookupError."""
    try:
        place = read(f"/proc/{pid}/wchan")
    except PermissionError:
        place = b"0"
    if place == _TCP_ACCEPT:
        return True
    if place == _UNIX_ACCEPT:
        return True if _has_only_streams(pid) else None
    if place in (b"0", b""):
        # Either it runs, or the kernel hides the place. Every user may read the state.
        return False if stat(pid)[0] == b"R" else None
    return False


def _has_only_streams(pid: int) -> bool:
    """Whether this process listens on a unix socket, and no other socket of it could wait in the same place."""
    try:
        links = [os.readlink(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd")]
        mine = {match[1] for link in links if (match := re.fullmatch(r"socket:\[([0-9]+)\]", link))}
        unix = [line.split() for line in read(f"/proc/{pid}/net/unix").decode("latin-1").splitlines()[1:]]
        tcp = [
            line.split()[9]
            for name in ("tcp", "tcp6")
            for line in read(f"/proc/{pid}/net/{name}").decode("latin-1").splitlines()[1:]
        ]
    except (OSError, IndexError):
        return False
    streams = {row[6]: int(row[3], 16) for row in unix if row[6] in mine and int(row[4], 16) == _STREAM}
    return mine <= {*streams, *tcp} and any(flags & _LISTENS for flags in streams.values())
