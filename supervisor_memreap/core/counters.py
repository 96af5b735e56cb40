"""What is counted of each pool. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from supervisor_memreap.core.events import Event, Left, Settled
from supervisor_memreap.core.frozen import Frozen, replace
from supervisor_memreap.core.rows import PoolRow, TotalsRow, freed, without


class Reaps(Frozen):
    """Workers that were signalled and have left."""

    count: int = 0
    freed: int = 0
    """Bytes."""

    def after(self, left: Left) -> Reaps:
        return Reaps(self.count + 1, self.freed + freed(left.came_back, left.taken))


class Counters(Frozen):
    """Times are in seconds since 1970, sizes in bytes."""

    standing: str = ""
    since: float = 0.0
    """When `standing` last changed."""
    reaps: Reaps = Reaps()
    message: str = ""
    """The text of the last event."""
    message_at: float = 0.0

    def after(self, event: Event) -> Counters:
        if isinstance(event, Settled):
            return self  # what was freed is to be seen for longer
        counters = replace(self, message=event.text, message_at=event.at)
        return replace(counters, reaps=self.reaps.after(event)) if isinstance(event, Left) else counters

    def with_standing(self, standing: str, at: float) -> Counters:
        return self if standing == self.standing else replace(self, standing=standing, since=at)


class Totals:
    """A sink: what is counted of each pool since it was first watched, also by earlier listeners, if that is known."""

    def __init__(self, began: float):
        self._began = began
        self._own: dict[str, Reaps] = {}
        """Since this listener started."""
        self._before: Mapping[str, TotalsRow] | None = None

    def __call__(self, event: Event) -> None:
        if isinstance(event, Left):
            self._own[event.pool] = self._own.get(event.pool, Reaps()).after(event)

    def continue_from(self, before: Mapping[str, TotalsRow]) -> None:
        """Of the history, as it was before this listener; later calls change nothing, since they include our own."""
        if self._before is None:
            self._before = before

    @property
    def are_continued(self) -> bool:
        return self._before is not None

    def without(self, row: PoolRow) -> PoolRow:
        """The status of a pool while its totals are unknown."""
        return without(row, "reaps", "given_back_bytes")

    def into(self, row: PoolRow) -> PoolRow:
        """The status of a pool with its totals."""
        own = self._own.get(row["name"], Reaps())
        before = (self._before or {}).get(row["name"]) or {"since": self._began, "reaps": 0, "returned": 0}
        return {
            **row,
            "reaps": before["reaps"] + own.count,
            "given_back_bytes": before["returned"] + own.freed,
            "counted_since": int(before["since"]),
        }
