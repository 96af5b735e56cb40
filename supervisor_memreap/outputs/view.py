"""What `memreap status`, `memreap top` and `supervisorctl memreap` show. Pure."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

from supervisor_memreap import __version__
from supervisor_memreap.core.command import chosen, named
from supervisor_memreap.core.rows import ListenerRow, PoolRow
from supervisor_memreap.core.text import seconds
from supervisor_memreap.outputs import statusrows, statustable, words


class View(NamedTuple):
    pools: list[PoolRow]
    whose: Literal["listener", "look"]
    note: str
    """Whose view this is, in a sentence."""
    troubles: tuple[str, ...] = ()
    """Why something is not watched, and the remedy, a line each; empty: no trouble is known."""
    age: float | None = None
    """Seconds since the listener looked; None: this is a look of our own, or it has not looked yet."""
    why: str = ""
    """Why this is a look of our own."""
    warnings: tuple[str, ...] = ()
    """What else does not work, a line each: the history or the metrics."""
    is_watched: bool = True
    """Whether a listener watches these pools, as far as known."""
    has_commands: bool = False
    """Whether supervisorctl memreap reaches that listener, as far as known."""

    def values(self) -> dict[str, Any]:
        """For JSON."""
        return statusrows.document(self.pools, self.whose, self.note, self.troubles, self.age, self.warnings)

    def table(self, now: float) -> str:
        """Empty where there is no pool."""
        return statustable.table(self.pools, now, self.has_commands) if self.pools else ""

    def text(self, now: float) -> str:
        return "\n".join(filter(None, (self.table(now), textwrap.fill(self.note, statustable.WIDTH))))

    def is_well(self) -> bool:
        return not self.troubles and all(map(statusrows.is_well, self.pools))

    def require(self, names: Sequence[str]) -> None:
        """Raises UnknownName if one of them matches no pool."""
        chosen(names, [pool["name"] for pool in self.pools])

    def only(self, names: Sequence[str]) -> View:
        """The pools of these names, as far as there are any; without names, all."""
        pools = [pool for pool in self.pools if any(named(name, [pool["name"]]) for name in names)]
        return self._replace(pools=pools) if names else self


def of_listener(pools: list[PoolRow], listener: ListenerRow, has_plugin: bool) -> View:
    """The view of a listener; its last one if it no longer looks. `has_plugin` is as in words.has_commands."""
    has_commands = words.has_commands(has_plugin, listener)
    trouble = statusrows.trouble_of_listener(listener)
    if trouble:
        note = "The listener is not looking at the pools; this is its last view."
        pools = statusrows.unwatched(pools)
        return View(pools, "listener", note, (trouble,), is_watched=False, has_commands=has_commands)
    age = listener["age_seconds"] or 0.0
    note = f"This is what the listener saw {seconds(age)} ago."
    troubles, warnings = statusrows.troubles_beside(listener, __version__), listener.get("warnings") or ()
    return View(pools, "listener", note, tuple(troubles), age, warnings=tuple(warnings), has_commands=has_commands)
