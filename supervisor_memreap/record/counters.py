"""Totals for one pool since the listener started. Pure."""

from __future__ import annotations

from dataclasses import dataclass, replace

from supervisor_memreap.core.events import Event, Left


@dataclass(frozen=True)
class Counters:
    """Times are in seconds since 1970, sizes in bytes."""

    standing: str = ""
    since: float = 0.0
    """When `standing` last changed."""
    reaps: int = 0
    given_back: int = 0
    message: str = ""
    """The text of the last event."""
    message_at: float = 0.0

    def after(self, event: Event) -> Counters:
        counters = replace(self, message=event.text, message_at=event.at)
        if isinstance(event, Left):
            # Less what the worker in its place has taken already.
            given_back = self.given_back + max(0, (event.came_back or 0) - (event.taken or 0))
            counters = replace(counters, reaps=self.reaps + 1, given_back=given_back)
        return counters

    def with_standing(self, standing: str, at: float) -> Counters:
        return self if standing == self.standing else replace(self, standing=standing, since=at)
