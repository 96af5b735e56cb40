"""What `memreap status`, `memreap top` and `supervisorctl memreap` show, from the rows of pools and listener. Pure."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable, Sequence
from typing import Any, Literal, NamedTuple

from supervisor_memreap import __version__
from supervisor_memreap.core.command import chosen, means
from supervisor_memreap.core.listeners import ListenerState
from supervisor_memreap.core.model import UP, ProgramState, Standing
from supervisor_memreap.core.rows import VERSION, ListenerRow, PoolRow, known
from supervisor_memreap.core.text import seconds
from supervisor_memreap.outputs import statustable, words

# A listener that has not looked for two periods does not look. A tick comes up to 2 s late, and the look takes time.
_PERIODS = 2
_LATE = 5.0


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
    """What else is wrong, a line each: of the history, the metrics, or the number of listeners."""
    is_watched: bool = True
    """Whether a listener watches these pools, as far as known."""
    has_commands: bool = False
    """Whether supervisorctl memreap reaches that listener, as far as known."""

    def values(self) -> dict[str, Any]:
        """For JSON; unknown values are left out.

        Each time in seconds since 1970 has a text with the time zone beside it: `since_time` of `since`.
        """
        values = {
            "version": VERSION,
            "view": self.whose,
            "note": self.note or None,
            "age_seconds": self.age,
            "trouble": "; ".join(self.troubles) or None,
            "warning": "; ".join(self.warnings) or None,
            "pools": [words.timed(pool) for pool in self.pools],
        }
        return known(values)

    def table(self, now: float) -> str:
        """Empty where there is no pool."""
        return statustable.table(self.pools, now, self.has_commands) if self.pools else ""

    def text(self, now: float) -> str:
        return "\n".join(filter(None, (self.table(now), textwrap.fill(self.note, statustable.WIDTH))))

    def is_well(self) -> bool:
        return not self.troubles and all(map(is_well, self.pools))

    def require(self, names: Sequence[str]) -> None:
        """Raises UnknownName if one of them matches no pool."""
        chosen(names, [pool["name"] for pool in self.pools])

    def only(self, names: Sequence[str]) -> View:
        """The pools of these names, as far as there are any; without names, all."""
        return self._replace(pools=[pool for pool in self.pools if means(names, pool["name"])])


def of_listener(pools: list[PoolRow], listener: ListenerRow, has_plugin: bool) -> View:
    """The view of a listener; its last one if it no longer looks. `has_plugin` is as in words.has_commands."""
    has_commands = words.has_commands(has_plugin, listener)
    trouble = trouble_of_listener(listener)
    if trouble:
        note = "The listener is not looking at the pools; this is its last view."
        pools = unwatched(pools)
        return View(pools, "listener", note, (trouble,), is_watched=False, has_commands=has_commands)
    age = listener["age_seconds"] or 0.0
    note = f"This is what the listener saw {seconds(age)} ago."
    troubles = (*filter(None, [age_of_listener(listener, __version__)]), *(listener.get("troubles") or ()))
    warnings = (*filter(None, [number_of_listeners(listener)]), *(listener.get("warnings") or ()))
    return View(pools, "listener", note, troubles, age, warnings=warnings, has_commands=has_commands)


def trouble_of_listener(listener: ListenerRow) -> str:
    """What is wrong with the listener, in a line; empty if nothing is."""
    if listener["listener_state"] == ListenerState.NONE:
        return "supervisord has no memreap listener: add [eventlistener:memreap] with command=memreap listen"
    name, age = listener["name"], listener.get("age_seconds")
    if listener["state"] not in UP:
        return listener_is_down(name, listener["state"], listener.get("spawnerr") or "")
    if listener["listener_state"] == ListenerState.UNKNOWN:
        return (
            f"the listener {name} broke the event protocol and gets no more events: restart {name}; does anything in"
            " its command print to stdout?"
        )
    if age is None:
        troubles = "; ".join(listener.get("troubles") or ())
        return f"the listener has not looked at the pools yet: {troubles or 'wait for the next tick, or see its log'}"
    if age > _PERIODS * (listener.get("period_seconds") or 5) + _LATE:
        return f"the listener last looked at the pools {age:.0f} s ago: restart {name}, and see its log"
    return ""


def listener_is_down(
    name: str, state: str, error: str, command: str = "the full path of memreap, followed by listen"
) -> str:
    """Of a listener whose process does not run; `state` and `error` (spawnerr) are as supervisord has them.

    `command` is what its section should have as command=.
    """
    why = f" ({error})" if error else ""
    if "can't find command" in error:
        remedy = f"set command= in its section to {command}, then supervisorctl update"
    else:
        remedy = f"see its log, then supervisorctl start {name}"
    return f"the listener {name} is {state}{why}: {remedy}"


def number_of_listeners(listener: ListenerRow) -> str:
    """What to do where there is more than one, in a line; empty: there is not."""
    count = listener["count"]
    what = f"supervisord has {count} listeners of memreap, of which one works"
    return f"{what}: keep one, with numprocs=1, then run supervisorctl update" if count > 1 else ""


def age_of_listener(listener: ListenerRow, version: str) -> str:
    """What to do about a listener that is older than this memreap, in a line; empty if it is not older."""
    theirs = str(listener.get("version") or "")
    if not theirs or _numbers(theirs) >= _numbers(version):
        return ""
    name = listener["name"]
    return f"the listener {name} is memreap {theirs}, older than this memreap {version}: restart {name}"


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall("[0-9]+", version))


def unwatched(pools: Iterable[PoolRow]) -> list[PoolRow]:
    """The pools of a listener that no longer looks: their present state is unknown."""
    return [{**pool, "standing": Standing.BLIND.value} for pool in pools]


def is_well(pool: PoolRow) -> bool:
    """Whether memreap works in this pool, as far as known: not FATAL, suspended or blind, and no worker overdue."""
    bad = pool.get("suspension") or pool.get("hindrance") or pool["state"] == ProgramState.FATAL
    return not bad and pool["standing"] != Standing.BLIND
