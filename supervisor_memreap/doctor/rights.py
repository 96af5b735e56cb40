"""Tries what one process may do to another, in a child that takes the rights of the first. Linux only.

The kernel's rules grow with every version (CAP_SYS_PTRACE, CAP_PERFMON, Yama, user namespaces), so they are tried, not
reimplemented. Nothing is stopped and nothing is signalled.
"""

from __future__ import annotations

import ctypes
import os
import signal
import struct
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, NoReturn

from supervisor_memreap.host.lock import LOCKED_FILE

# <linux/prctl.h>, <linux/capability.h>.
_KEEPCAPS, _CAPABILITIES_3 = 8, 0x20080522
# What a check needs of root to try and to read what other users' processes hold: <linux/capability.h>.
_NEEDED = {"CAP_SETGID": 6, "CAP_SETUID": 7, "CAP_SYS_PTRACE": 19}
# Seconds for a child that tries: /proc answers at once, but a socket or a file on a network disk may hang.
_TIMEOUT = 2
_UNKNOWN = 2


class Rights(NamedTuple):
    """Of a process."""

    users: tuple[int, ...]
    """Real, effective, saved and file-system user."""
    groups: tuple[int, ...]
    others: tuple[int, ...]
    """Its supplementary groups."""
    effective: int
    permitted: int
    """Its capabilities."""


class Access(NamedTuple):
    """What a process may do to a worker."""

    signals: bool
    reads: bool
    """Its exact memory."""
    holds: bool
    """Attach to it."""
    locks: bool
    """Take its lock: of a manager."""


def of(pid: int) -> Rights:
    """Raises OSError where the process is gone, or this is not Linux."""
    fields = dict(
        line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text("latin-1").split("\n") if ":" in line
    )
    users, groups, others = (tuple(map(int, fields[key].split())) for key in ("Uid", "Gid", "Groups"))
    return Rights(users, groups, others, int(fields["CapEff"], 16), int(fields["CapPrm"], 16))


def has(actor: Rights, name: str) -> bool:
    """Whether this capability is in force."""
    return bool(actor.effective >> _NEEDED[name] & 1)


def lacking() -> list[str]:
    """Which capabilities this process lacks though it is root's, as in a container; empty for any other user."""
    if os.geteuid() != 0:
        return []
    try:
        own = of(os.getpid())
    except OSError:
        return []
    return [name for name in _NEEDED if not has(own, name)]


def lack() -> str:
    """` (this root lacks CAP_SYS_PTRACE)`; empty if it lacks nothing, or is no root."""
    return f" (this root lacks {', '.join(lacking())})" if lacking() else ""


def needed() -> str:
    """How doctor gets the rights to read each process of this machine; empty if it has them."""
    if os.geteuid() != 0:
        return "run memreap doctor as root"
    docker = " ".join(f"--cap-add {name.removeprefix('CAP_')}" for name in lacking())
    return f"run memreap doctor as root with {', '.join(lacking())} (in Docker: {docker})" if docker else ""


def access(actor: Rights, pids: Sequence[int]) -> dict[int, Access] | None:
    """What `actor` may do to each process that still exists; None: it could not be tried."""
    attempts = (_signal, _read, _attach, _lock)
    answers = run_as(actor, lambda: bytes(_may(attempt, pid) for pid in pids for attempt in attempts))
    if answers is None:
        return None
    size = len(attempts)
    by_pid = {pid: answers[size * number : size * number + size] for number, pid in enumerate(pids)}
    return {pid: Access(*map(bool, answer)) for pid, answer in by_pid.items() if _UNKNOWN not in answer}


def run_as(actor: Rights, work: Callable[[], bytes]) -> bytes | None:
    """What `work` returns in a child with these rights; None: it cannot get them from here, or it failed.

    Limits (rlimit) stay those of this process.
    """
    readable, writable = os.pipe()
    try:
        child = os.fork()
    except OSError:
        os.close(readable)
        os.close(writable)
        return None
    if child == 0:
        _work_as(actor, work, readable, writable)
    os.close(writable)
    with open(readable, "rb") as file:
        answer = file.read()
    _, status = os.waitpid(child, 0)
    return answer if status == 0 else None


def _work_as(actor: Rights, work: Callable[[], bytes], readable: int, writable: int) -> NoReturn:
    try:
        os.close(readable)
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(_TIMEOUT)
        _become(actor)
        with open(writable, "wb") as file:
            file.write(work())
    except BaseException:
        os._exit(1)  # no test, no handler and no buffer of the parent's is to run here
    os._exit(0)


def run(words: Sequence[str], directory: str, environ: Mapping[str, str], user: Rights | None, timeout: float) -> str:
    """What this command prints, as this user, None: ours. Raises OSError, ValueError, subprocess.SubprocessError."""
    return subprocess.run(
        words,
        cwd=directory,
        env=environ,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        timeout=timeout,
        check=False,
        user=user.users[1] if user else None,
        group=user.groups[1] if user else None,
        extra_groups=user.others if user else None,
    ).stdout


def _become(actor: Rights) -> None:
    """Raises OSError where that is not permitted."""
    own = of(os.getpid())
    if own == actor:
        return
    libc = ctypes.CDLL(None, use_errno=True)
    if own.users != actor.users or own.groups != actor.groups or own.others != actor.others:
        if libc.prctl(_KEEPCAPS, 1, 0, 0, 0):
            raise OSError(ctypes.get_errno(), "prctl")
        os.setgroups(actor.others)
        os.setresgid(*actor.groups[:3])
        os.setresuid(*actor.users[:3])
    header = struct.pack("Ii", _CAPABILITIES_3, 0)
    halves = [(actor.effective >> shift & 0xFFFFFFFF, actor.permitted >> shift & 0xFFFFFFFF, 0) for shift in (0, 32)]
    data = b"".join(struct.pack("III", *half) for half in halves)
    if libc.capset(header, data):
        raise OSError(ctypes.get_errno(), "capset")


def _may(attempt: Callable[[int], None], pid: int) -> int:
    """1: yes; 0: no; _UNKNOWN."""
    try:
        attempt(pid)
    except PermissionError:
        return 0
    except OSError:
        return _UNKNOWN
    return 1


def _signal(pid: int) -> None:
    os.kill(pid, 0)


def _read(pid: int) -> None:
    with open(f"/proc/{pid}/smaps_rollup", "rb", buffering=0) as file:
        file.read(1)


def _attach(pid: int) -> None:
    # The kernel shows this to processes that may attach, and Yama applies as well.
    with open(f"/proc/{pid}/syscall", "rb", buffering=0) as file:
        file.read(1)


def _lock(pid: int) -> None:
    os.close(os.open(f"/proc/{pid}/{LOCKED_FILE}", os.O_RDONLY))
