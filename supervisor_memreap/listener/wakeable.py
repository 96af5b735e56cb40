"""Whatever has descriptors to wait for: the listener, and `memreap once`, know no more of it than this."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Protocol

from supervisor_memreap.host.machine import Machine

# Of poll(2): POLLIN.
READABLE = 1


class Wakeable(Protocol):
    def fds(self) -> Mapping[int, int]:
        """Descriptors to wait for, each with its poll events."""

    def wake(self, readable: Collection[int]) -> None:
        """These descriptors are ready, and those of others; none are if it is only time to go on."""

    def patience(self) -> float | None:
        """Seconds after which to be woken even if nothing is ready; None: that may take for ever."""
        return None


def wait(machine: Machine, *parts: Wakeable, at_most: float | None = None) -> list[int]:
    """Wait until one of these has to be woken, `at_most` so many seconds; the descriptors that are ready."""
    fds = {fd: wanted for part in parts for fd, wanted in part.fds().items()}
    waits = [seconds for seconds in (at_most, *(part.patience() for part in parts)) if seconds is not None]
    return machine.wait(fds, min(waits, default=None))
