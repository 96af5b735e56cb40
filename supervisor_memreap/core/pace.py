"""When to look again before the next tick, since memory may grow by hundreds of MB between two ticks. Pure.

There are only three reasons for an extra look:

- the kernel has woken the listener;
- memory is short on the host or in a control group: the next worker may go as soon as a replacement has settled;
- available memory falls so fast that it will be below `headroom` before the next tick: then after an eighth of the time
  which that takes. So TICK_5 causes a look a second, and TICK_3600 some fifty.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

from supervisor_memreap.core.frozen import Frozen
from supervisor_memreap.core.model import Pool
from supervisor_memreap.core.settings import PoolSettings
from supervisor_memreap.core.shortage import Episodes, Kind, headroom_in

# Seconds from the end of a look to an extra one.
PAUSE = 1.0
# Seconds for which a shortage causes extra looks, after its beginning and after each signal. After that it waits for
# something slow, such as a busy worker or a paused pool, and the ticks are enough. During a shortage, a look reads the
# exact size of each worker, which takes 36 ms for 500 workers of 20 MB.
HURRY = 60.0


class Reading(Frozen):
    """The memory available at one look."""

    at: float
    """Monotonic, in seconds."""
    spare: Mapping[str, float]
    """Available bytes above `headroom`, by the name of the scope."""


def reading(pools: Iterable[tuple[Pool, PoolSettings]], now: float) -> Reading:
    spare = {
        scope.name: scope.available - headroom_in(scope, settings.headroom)
        for pool, settings in pools
        if settings.headroom is not None
        for scope in pool.scopes
        if scope.available is not None and scope.name != pool.name
    }
    return Reading(now, spare)


def next_look(
    looked: float, is_woken: bool, episodes: Episodes, readings: Sequence[Reading], tick: float
) -> float | None:
    """When to look again; None: at the next tick. All times are monotonic, in seconds.

    `looked` is when the last look ended, `readings` are those of the last two looks, the older first, and `tick` is
    when the next tick is expected.
    """
    if is_woken or _is_urgent(episodes, looked):
        return looked + PAUSE
    reached = _reaches_headroom(readings)
    return looked + max(PAUSE, reached / 8) if readings and reached <= tick - readings[-1].at else None


def _is_urgent(episodes: Episodes, now: float) -> bool:
    return any(
        episode.shortage.kind is not Kind.TOTAL
        and episode.given_up is None
        and now - (episode.since if episode.last is None else episode.last) < HURRY
        for episode in episodes.values()
    )


def _reaches_headroom(readings: Sequence[Reading]) -> float:
    """In how many seconds memory will be below headroom, if it goes on falling as between these looks."""
    if len(readings) < 2 or readings[-1].at <= readings[-2].at:
        return math.inf
    before, last = readings[-2:]
    decreases = ((spare, before.spare.get(scope, spare) - spare) for scope, spare in last.spare.items())
    # If it is below headroom already, that is a shortage.
    seconds = (spare / each * (last.at - before.at) for spare, each in decreases if spare > 0 and each > 0)
    return min(seconds, default=math.inf)
