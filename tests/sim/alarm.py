"""What wakes memreap when memory runs short, as host.alarm has it of the kernel."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from supervisor_memreap.host.alarm import WINDOW, Waker

from .memory import Memory

Key = tuple[str, str]


class SimAlarm:
    """As host.alarm: its wakers, on this memory."""

    def __init__(self, memory: Memory, open: Callable[[Callable[[], bool]], int], shut: Callable[[int], None]):
        self._memory, self._open, self._shut = memory, open, shut
        self._armed: dict[tuple[str, str], tuple[Waker, int]] = {}
        self._happened: set[tuple[str, str]] = set()
        memory.alarms.append(self)

    def set(self, wanted: Iterable[Waker]) -> None:
        by_key = {(waker.kind, waker.place): waker for waker in wanted}
        for key in [*self._armed]:
            if key not in by_key or abs(self._armed[key][0].value - by_key[key].value) > by_key[key].tolerance:
                self._disarm(key)
        for key, waker in by_key.items():
            if key not in self._armed:
                self._armed[key] = waker, self._open(lambda key=key: key in self._happened)  # type: ignore[misc]

    def fds(self) -> dict[int, int]:
        return {fd: 1 for _, fd in self._armed.values()}

    def check(self) -> bool:
        """Whether one of them has just become ready."""
        happened = {key for key, (waker, _) in self._armed.items() if self._holds(waker)} - self._happened
        self._happened |= happened
        return bool(happened)

    def _holds(self, waker: Waker) -> bool:
        path = "" if waker.place.startswith("/proc/") else waker.place.partition("/memory.")[0]
        usage = self._memory.usage(path)
        if waker.kind == "stall":
            return self._memory.pressure(path) >= 100 * waker.value / WINDOW
        return usage.held > waker.value if waker.kind == "usage" else usage.held >= (usage.size or float("inf"))

    def acknowledge(self) -> None:
        for key in self._happened & self._armed.keys():
            if key[0] in ("usage", "level"):  # they report once
                self._disarm(key)
        self._happened.clear()

    def _disarm(self, key: tuple[str, str]) -> None:
        self._shut(self._armed.pop(key)[1])
        self._happened.discard(key)

    def close(self) -> None:
        self.set(())
        if self in self._memory.alarms:
            self._memory.alarms.remove(self)
