"""Memory that is short: in a pool (`total`), on the host or in a control group (`headroom`, `pressure`). Pure.

A shortage is about memory that processes share, so unlike a limit it is not about one worker: any worker that gives
memory back will do. Three things keep that from recycling pools for ever:

- a shortage begins below what is asked for, and ends only with some more (RELIEF);
- a worker counts only if it holds clearly more than a fresh one of its pool (`is_worth_reaping`);
- where so many workers were reaped that each could have gone twice, or where none is worth it, the memory is somebody
  else's: memreap stops, says who holds it, and tries again only after RETRY.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from supervisor_memreap.core.model import MemoryScope, Pool, Worker
from supervisor_memreap.core.settings import PoolSettings
from supervisor_memreap.core.text import memory

# A shortage of headroom ends with this much of what is asked for, one of pressure below this part of it: else it would
# end and begin again with each worker.
RELIEF, CALM = 1.2, 0.5
# Seconds in which the memory of a worker that was signalled is still expected back; it leaves at once where it is idle.
COMING = 10.0
# Pressure is an average of 10 s: it shows the effect of a reap only after that time.
PRESSURE_WINDOW = 10.0
# Reaps for each worker in one shortage before memreap stops.
REAPS_PER_WORKER = 2
# Seconds after which it is tried again where reaping did not help.
RETRY = 600.0
# A worker is worth reaping that holds this much of what a fresh one does, and so many bytes more.
GROWN, GROWN_BYTES = 1.25, 2 * 1024**2


class Kind(str, enum.Enum):
    """What is short; the setting that says so."""

    TOTAL = "total"
    PRESSURE = "pressure"
    HEADROOM = "headroom"


@dataclass(frozen=True)
class Shortage:
    kind: Kind
    scope: str
    """The name of the memory scope: of a pool, the host, or a control group."""
    measured: float
    """Bytes that the pool holds, or that are available; with `pressure` a percentage."""
    wanted: float
    """What the setting says, in the same unit."""

    @property
    def key(self) -> tuple[Kind, str]:
        return self.kind, self.scope

    @property
    def text(self) -> str:
        """The evidence, for a reader."""
        if self.kind is Kind.TOTAL:
            return f"the pool holds {memory(int(self.measured))}, total {memory(int(self.wanted))}"
        if self.kind is Kind.HEADROOM:
            return f"{self.scope} has {memory(int(self.measured))} available, headroom {memory(int(self.wanted))}"
        return f"{self.scope} has a memory pressure of {self.measured:.0f} %, pressure {self.wanted:g} %"

    @property
    def ended(self) -> str:
        """What is so when it is over, for a reader."""
        if self.kind is Kind.TOTAL:
            return f"the pool fits in its total of {memory(int(self.wanted))} again"
        if self.kind is Kind.HEADROOM:
            return f"{self.scope} has its headroom of {memory(int(self.wanted))} again"
        return f"{self.scope} is below its pressure of {self.wanted:g} % again"


@dataclass(frozen=True)
class Episode:
    """A shortage from its beginning to its end."""

    shortage: Shortage
    """As measured last."""
    since: float
    reaps: int = 0
    """Workers that were signalled for it, since it was last tried."""
    freed: int = 0
    """Bytes that they held of their own, since the beginning."""
    last: float | None = None
    """When the last one was signalled."""
    given_up: float | None = None
    """Since when memreap does nothing about it, as reaping does not help."""
    is_reported: bool = False
    """That was reported."""


Episodes = Mapping[tuple[Kind, str], Episode]


def _short(kind: Kind, scope: MemoryScope, pool: Pool, settings: PoolSettings, lasts: bool) -> Shortage | None:
    """What is short in one scope, if it is; `lasts`: it was at the last look."""
    is_pool = scope.name == pool.name
    if kind is Kind.TOTAL and is_pool and settings.total is not None and scope.available is not None:
        short = scope.available < 0
        return Shortage(kind, scope.name, settings.total - scope.available, settings.total) if short else None
    if kind is Kind.HEADROOM and not is_pool and settings.headroom is not None and scope.available is not None:
        wanted = headroom_in(scope, settings.headroom)
        if scope.size is not None and wanted >= scope.size:
            return None  # it can never hold: memreap doctor says so
        short = scope.available < wanted * (RELIEF if lasts else 1)
        return Shortage(kind, scope.name, scope.available, wanted) if short else None
    if kind is Kind.PRESSURE and settings.pressure is not None and scope.pressure is not None:
        short = scope.pressure > settings.pressure * (CALM if lasts else 1)
        return Shortage(kind, scope.name, scope.pressure, settings.pressure) if short else None
    return None


def headroom_in(scope: MemoryScope, headroom: float) -> float:
    """The bytes that are to stay available in this scope."""
    return headroom * (scope.size or 0) if headroom < 1 else headroom


def of_pool(pool: Pool, settings: PoolSettings, episodes: Episodes) -> list[Shortage]:
    """What is short in the scopes of this pool."""
    shortages = (
        _short(kind, scope, pool, settings, (kind, scope.name) in episodes) for scope in pool.scopes for kind in Kind
    )
    return [shortage for shortage in shortages if shortage]


def follow(
    pools: Iterable[tuple[Pool, PoolSettings]], episodes: Episodes, now: float
) -> dict[tuple[Kind, str], Episode]:
    """The shortages of this look; those that have ended are left out. `now` is monotonic, in seconds.

    One whose scopes could not be read at this look goes on as it was.
    """
    pools = list(pools)
    read = {scope.name for pool, _ in pools for scope in pool.scopes}
    going_on = {key: episode for key, episode in episodes.items() if key[1] not in read and _is_there(key, pools)}
    for pool, settings in pools:
        for shortage in of_pool(pool, settings, episodes):
            before = episodes.get(shortage.key)
            episode = replace(before, shortage=shortage) if before else Episode(shortage, now)
            if episode.given_up is not None and now - episode.given_up >= RETRY:
                episode = replace(episode, given_up=None, reaps=0)
            going_on[shortage.key] = episode
    return going_on


def _is_there(key: tuple[Kind, str], pools: list[tuple[Pool, PoolSettings]]) -> bool:
    """Whether a pool is watched whose memory this may be about."""
    kind, scope = key
    return any(
        getattr(settings, kind.value) is not None and (kind is not Kind.TOTAL or pool.name == scope)
        for pool, settings in pools
    )


def to_relieve(pool: Pool, settings: PoolSettings, episodes: Episodes) -> tuple[Episode, ...]:
    """The shortages for which a worker of this pool may be reaped."""
    names = {scope.name for scope in pool.scopes}
    return tuple(
        episode
        for (kind, scope), episode in episodes.items()
        if scope in names and episode.given_up is None and (kind is Kind.TOTAL or settings.yields)
    )


def gives_back(worker: Worker, kind: Kind) -> int | None:
    """Bytes that are not short any more when it exits; None: not known.

    `total` counts swap too. On a host that is short of memory, a worker in swap holds none of that.
    """
    if worker.private is None:
        return None
    return worker.private + (worker.own_swap if kind is Kind.TOTAL else 0)


def is_worth_reaping(worker: Worker, kind: Kind, baseline: int | None, lasts: float) -> bool:
    """Whether this worker gives back clearly more than its replacement will take.

    `baseline` is what a fresh worker holds of its own, in bytes, or the smallest where none was seen. Where all are
    alike, a worker counts that is older than the shortage, which `lasts` so many seconds.
    """
    size = gives_back(worker, kind)
    if size is None:
        return False
    if baseline is None:
        return worker.age > lasts
    return size >= _grown(baseline)


def _grown(baseline: int) -> float:
    return max(GROWN * baseline, baseline + GROWN_BYTES)


def smallest(workers: Iterable[Worker]) -> int | None:
    """The bytes that the smallest worker holds of its own, if another holds clearly more; None: they are alike."""
    held = [worker.private for worker in workers if worker.private is not None]
    return min(held) if held and max(held) >= _grown(min(held)) else None


def is_expected(episode: Episode, coming: int, now: float) -> bool:
    """Whether what was done already may be enough: `coming` bytes are still to come back from signalled workers."""
    shortage = episode.shortage
    if shortage.kind is Kind.PRESSURE:
        return episode.last is not None and now - episode.last < PRESSURE_WINDOW
    if shortage.kind is Kind.TOTAL:
        return shortage.measured - coming <= shortage.wanted
    return shortage.measured + coming >= shortage.wanted * RELIEF


def after_reap(episodes: Episodes, key: tuple[Kind, str], private: int, now: float) -> dict[tuple[Kind, str], Episode]:
    """A worker that holds so many bytes of its own was signalled for this shortage."""
    episode = episodes[key]
    after = replace(episode, reaps=episode.reaps + 1, freed=episode.freed + private, last=now)
    # Whatever it was signalled for, it relieves the pressure as well.
    others = {
        each: replace(other, last=now) for each, other in episodes.items() if other.shortage.kind is Kind.PRESSURE
    }
    return {**episodes, **others, key: after}
