"""The clients' connections that a busy worker was seen to have, reading after reading. Pure.

Where ptrace is not permitted, a busy worker may be signalled whose connections are not kept between requests. Nothing
says that of a connection; but one that is kept outlasts others, and the worker comes back to wait for data on it.
"""

from __future__ import annotations

from typing import NamedTuple

# How often a worker waits on one connection that is kept. On another it may wait once for a request that is not there
# yet, and libfcgi once more for the client to close; a slow upload looks like a connection that is kept.
RETURNS = 3


class Clients(NamedTuple):
    """What a worker has in hand at one moment."""

    connections: frozenset[str]
    """By names that no other connection has had, such as `socket:[4242]`."""
    awaited: str | None
    """The one from which it waits for data; None: it waits for none, or that is not known."""


class Connections:
    def __init__(self) -> None:
        self._first: frozenset[str] | None = None
        self._last: frozenset[str] = frozenset()
        self._ever: frozenset[str] = frozenset()
        self._awaited: list[str | None] = []
        self._waits: dict[str, int] = {}

    def note(self, clients: Clients) -> None:
        """Call after each reading that was permitted."""
        if self._first is None:
            self._first = clients.connections
        awaited = clients.awaited
        if awaited and (not self._awaited or self._awaited[-1] != awaited):
            self._waits[awaited] = self._waits.get(awaited, 0) + 1
        self._awaited = [*self._awaited[:1], awaited]
        self._last = clients.connections
        self._ever |= clients.connections

    @property
    def are_kept(self) -> bool:
        """Whether one was seen that is kept between requests, or may be: it was there all the time."""
        is_awaited = len(self._awaited) > 1 and self._awaited[0] is not None and self._awaited[0] == self._awaited[-1]
        return is_awaited or max(self._waits.values(), default=0) >= RETURNS

    @property
    def is_same(self) -> bool:
        """Whether one connection was there from the first reading to the last: kept, or for a long request."""
        return bool(self._first and self._first & self._last)

    @property
    def are_fresh(self) -> bool:
        """Whether one was seen to come and to go, and none that is kept."""
        came_and_went = self._ever - (self._first or frozenset()) - self._last
        return bool(came_and_went) and not self.are_kept and not self.is_same
