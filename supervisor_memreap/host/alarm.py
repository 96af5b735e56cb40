"""Descriptors by which the kernel wakes a process when memory runs short. Linux only.

| kernel offers | in | wakes when |
|---|---|---|
| PSI trigger on memory.pressure | host, v2 groups | processes wait for memory for a part of 2 s |
| memory.events | v2 groups | usage is at the limit |
| memory.usage_in_bytes, with an eventfd | v1 groups | usage crosses a value |
| memory.pressure_level, with an eventfd | v1 groups | the kernel finds few pages to take back |

A refusal by the kernel is not an error: then it offers nothing there.
"""

from __future__ import annotations

import ctypes
import os
import select
from collections.abc import Callable, Collection, Iterable, Iterator
from typing import Literal, NamedTuple

from supervisor_memreap.core.shortage import headroom_in
from supervisor_memreap.host.memory import Group

# Microseconds. Since Linux 6.4 a process without CAP_SYS_RESOURCE may use multiples of 2 s too.
WINDOW = 2_000_000
# % of the window in which some process waits for memory, if `pressure` is not set.
STALL = 10.0
# An armed value may be wrong by this part of the headroom: each change of it takes the kernel some ms.
TOLERANCE = 0.1
# eventfd(2) of Linux; os.eventfd came with Python 3.10.
_EFD_CLOEXEC, _EFD_NONBLOCK = os.O_CLOEXEC, os.O_NONBLOCK


class Waker(NamedTuple):
    """One way in which the kernel may wake memreap."""

    kind: Literal["stall", "limit", "usage", "level"]
    place: str
    """The file (stall, limit) or the directory of the group (usage, level)."""
    value: int = 0
    """stall: microseconds of the window; usage: bytes."""
    tolerance: int = 0
    usage: int = 0
    """Bytes at the last look."""


def wakers(
    groups: Iterable[Group], headroom: float | None, pressure: float | None, ignored: Collection[str]
) -> list[Waker]:
    """All wakers that may help with these settings, except in `ignored` scopes.

    Inactive file pages count as available, but also as used. So a group that has more of them than its headroom is at
    its limit all the time although no memory is short: there, usage means nothing, and only stalls count.
    """
    stall = max(1, int(WINDOW * (STALL if pressure is None else pressure) / 100))
    # A stall of a group is a stall of the host too.
    chosen = [] if ignored else [Waker("stall", "/proc/pressure/memory", stall)]
    for group in groups:
        scope = group.scope
        if scope is not None and scope.name not in ignored:
            if group.version == 2:
                chosen.append(Waker("stall", f"{group.directory}/memory.pressure", stall))
            elif scope.size is not None:
                chosen.append(Waker("level", group.directory))
            if headroom is not None:
                chosen += _at_usage(group, headroom)
    return chosen


def _at_usage(group: Group, headroom: float) -> Iterator[Waker]:
    scope = group.scope
    if scope is None or scope.size is None or scope.available is None or group.usage is None:
        return
    wanted = headroom_in(scope, headroom)
    value, tolerance = int(group.usage + scope.available - wanted), int(TOLERANCE * wanted)
    if 0 < value < scope.size - tolerance:
        if group.version == 2:
            yield Waker("limit", f"{group.directory}/memory.events")
        else:
            yield Waker("usage", group.directory, value, tolerance, group.usage)


class _Armed(NamedTuple):
    waker: Waker
    fd: int | None
    """None: the kernel does not offer it."""
    refused: str = ""


class Alarm:
    """Owner of the descriptors. No method raises OSError."""

    def __init__(self) -> None:
        self._armed: dict[tuple[str, str], _Armed] = {}

    def set(self, wanted: Iterable[Waker]) -> None:
        """Be woken by these and by nothing else; cheap if nothing has changed."""
        by_key = {(waker.kind, waker.place): waker for waker in wanted}
        for key in set(self._armed) - set(by_key):
            self._disarm(key)
        for key, waker in by_key.items():
            armed = self._armed.get(key)
            if armed and abs(armed.waker.value - waker.value) <= waker.tolerance:
                continue
            self._disarm(key)
            try:
                self._armed[key] = _Armed(waker, _ARM[waker.kind](waker))
            except OSError as error:
                self._armed[key] = _Armed(waker, None, f"{waker.place}: {error.strerror}")

    def fds(self) -> dict[int, int]:
        """Each descriptor with the events to poll for."""
        return {
            armed.fd: select.POLLPRI if armed.waker.kind in ("stall", "limit") else select.POLLIN
            for armed in self._armed.values()
            if armed.fd is not None
        }

    @property
    def refused(self) -> str:
        """Why the kernel offers no waker at all; empty: it offers one, or none was wanted."""
        if self.fds():
            return ""
        return next((armed.refused for armed in self._armed.values()), "")

    def acknowledge(self) -> None:
        """Call before a look: what has happened so far causes no further look. Close spent descriptors."""
        poll = select.poll()
        for fd, events in self.fds().items():
            poll.register(fd, events)
        happened = dict(poll.poll(0))
        for key, armed in list(self._armed.items()):
            if armed.fd in happened and not _lasts(armed, happened[armed.fd]):
                self._disarm(key)

    def _disarm(self, key: tuple[str, str]) -> None:
        armed = self._armed.pop(key, None)
        if armed and armed.fd is not None:
            os.close(armed.fd)

    def close(self) -> None:
        self.set(())


def _lasts(armed: _Armed, happened: int) -> bool:
    """Whether the descriptor that reported this will report what comes next.

    An eventfd reports the end of its group in the same way as usage, and a new group may have the same name.
    """
    assert armed.fd is not None
    if armed.waker.kind == "stall":
        return not happened & select.POLLERR  # its group is gone
    if armed.waker.kind == "limit":
        try:
            return bool(os.pread(armed.fd, 4096, 0))
        except OSError:
            return False
    return False


def _arm_stall(waker: Waker) -> int:
    return _opened(waker, os.O_RDWR, lambda fd: os.write(fd, f"some {waker.value} {WINDOW}\0".encode()))


def _arm_limit(waker: Waker) -> int:
    return _opened(waker, os.O_RDONLY, lambda fd: os.pread(fd, 4096, 0))  # poll reports what happens after this read


def _opened(waker: Waker, flags: int, begin: Callable[[int], object]) -> int:
    fd = os.open(waker.place, flags | os.O_NONBLOCK)
    try:
        begin(fd)
    except OSError:
        os.close(fd)
        raise
    return fd


def _arm_usage(waker: Waker) -> int:
    fd = _eventfd_of(waker.place, "memory.usage_in_bytes", str(waker.value))
    try:
        with open(f"{waker.place}/memory.usage_in_bytes", "rb") as file:
            usage = int(file.read())
        if waker.usage <= waker.value < usage:
            os.write(fd, (1).to_bytes(8, "little"))  # usage crossed it since the look
    except (OSError, ValueError):
        pass  # the group has just been removed; the descriptor reports that
    return fd


def _arm_level(waker: Waker) -> int:
    return _eventfd_of(waker.place, "memory.pressure_level", "medium")


def _eventfd_of(group: str, file: str, value: str) -> int:
    """A descriptor that becomes readable when this happens in the group. Raises OSError."""
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        fd = int(libc.eventfd(0, _EFD_CLOEXEC | _EFD_NONBLOCK))
    except AttributeError as error:
        raise OSError(0, str(error)) from None
    if fd < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    watched = control = -1
    try:
        watched = os.open(f"{group}/{file}", os.O_RDONLY)
        control = os.open(f"{group}/cgroup.event_control", os.O_WRONLY)
        os.write(control, f"{fd} {watched} {value}".encode())
    except OSError:
        os.close(fd)
        raise
    finally:
        for each in (watched, control):
            if each >= 0:
                os.close(each)
    return fd


_ARM = {"stall": _arm_stall, "limit": _arm_limit, "usage": _arm_usage, "level": _arm_level}
