"""Memory that is short: in a pool (`total`), on the host or in a control group (`headroom`, `pressure`). Pure.

A shortage is about memory that processes share. Unlike a limit it is not about one worker: any worker that gives memory
back will do. Three rules keep memreap from recycling pools endlessly:

- a shortage of headroom or pressure ends only some way past the value at which it began (RELIEF, CALM);
- a worker counts only if it holds clearly more than a fresh one of its pool (`is_worth_reaping`);
- if no worker is worth reaping, or twice as many were reaped as there are and fresh ones in all their places would not
  be enough, others hold the memory: memreap stops, reports who holds it, and tries again only after RETRY. If they
  would be enough, the workers leak as fast as they are replaced: that is reported, and reaping goes on.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping

from supervisor_memreap.core.frozen import Frozen, replace
from supervisor_memreap.core.model import MemoryScope, Pool, Worker
from supervisor_memreap.core.settings import PoolSettings
from supervisor_memreap.core.text import memory

# A shortage of headroom ends when this multiple of the setting is available, one of pressure below this part of the
# setting. Otherwise it would end and begin again with each worker.
RELIEF, CALM = 1.2, 0.5
# Seconds for which the memory of a signalled worker is expected back; an idle worker leaves at once.
COMING = 10.0
# Pressure is an average of 10 s: it shows the effect of a reap only after that time.
PRESSURE_WINDOW = 10.0
# Reaps for each worker in one shortage before memreap stops.
REAPS_PER_WORKER = 2
# Seconds until memreap tries again after reaping did not help.
RETRY = 600.0
# A worker is worth reaping if it holds this multiple of what a fresh one holds, and at least this many bytes more.
GROWN, GROWN_BYTES = 1.25, 2 * 1024**2


class Kind(str, enum.Enum):
    """What is short, by the name of its setting."""

    TOTAL = "total"
    PRESSURE = "pressure"
    HEADROOM = "headroom"


class Shortage(Frozen):
    kind: Kind
    scope: str
    """The name of the memory scope: a pool, the host, or a control group."""
    measured: float
    """Bytes that the pool holds (`total`) or that are available (`headroom`); with `pressure` a percentage."""
    wanted: float
    """The value of the setting, in the same unit."""
    end: float
    """Where it ends, in the same unit: some way past the setting, but for `total`."""

    @property
    def key(self) -> tuple[Kind, str]:
        return self.kind, self.scope

    @property
    def text(self) -> str:
        """The evidence, as text for a user."""
        if self.kind is Kind.TOTAL:
            return f"the pool holds {memory(int(self.measured))}, total {memory(int(self.wanted))}"
        if self.kind is Kind.HEADROOM:
            has = f"{self.scope} has {memory(int(self.measured))} available, headroom {memory(int(self.wanted))}"
            # It began below the setting, and lasts until there is more than that.
            return has if self.measured < self.wanted else f"{has} (until {memory(int(self.end))} are available)"
        has = f"{self.scope} has a memory pressure of {self.measured:.0f} %, pressure {self.wanted:g} %"
        return has if self.measured > self.wanted else f"{has} (until below {self.end:g} %)"

    @property
    def ended(self) -> str:
        """What holds when it is over, as text for a user."""
        if self.kind is Kind.TOTAL:
            return f"the pool fits in its total of {memory(int(self.wanted))} again"
        if self.kind is Kind.HEADROOM:
            return f"{self.scope} has its headroom of {memory(int(self.wanted))} again"
        return f"the memory pressure of {self.scope} is below {self.wanted:g} % again"


class Episode(Frozen):
    """A shortage from its beginning to its end."""

    shortage: Shortage
    """The last measurement."""
    since: float
    reaps: int = 0
    """Workers signalled for it since memreap last began to try."""
    freed: int = 0
    """Bytes that all workers signalled for it held of their own, since the beginning."""
    last: float | None = None
    """When the last worker was signalled for it."""
    given_up: float | None = None
    """When memreap stopped reaping for it, since that does not help."""
    is_reported: bool = False
    """Whether it was reported that reaping does not help."""
    is_outgrown: bool = False
    """Whether it was reported that workers grow as fast as they are replaced."""
    is_unmet: bool = False
    """Whether it was reported that no worker could be signalled."""


Episodes = Mapping[tuple[Kind, str], Episode]


def _short(kind: Kind, scope: MemoryScope, pool: Pool, settings: PoolSettings, lasts: bool) -> Shortage | None:
    """The shortage in one scope, if there is one; `lasts`: there was one at the last look."""
    is_pool = scope.name == pool.name
    if kind is Kind.TOTAL and is_pool and settings.total is not None and scope.available is not None:
        short = scope.available < 0
        held = settings.total - scope.available
        return Shortage(kind, scope.name, held, settings.total, settings.total) if short else None
    if kind is Kind.HEADROOM and not is_pool and settings.headroom is not None:
        wanted = headroom_in(scope, settings.headroom)
        if scope.available is None or scope.size is None or wanted >= scope.size:
            return None  # unlimited; or it can never be met: memreap doctor reports it
        end = min(wanted * RELIEF, (wanted + scope.size) / 2)  # one of 90 % would never end
        short = scope.available < (end if lasts else wanted)
        return Shortage(kind, scope.name, scope.available, wanted, end) if short else None
    if kind is Kind.PRESSURE and settings.pressure is not None and scope.pressure is not None:
        end = settings.pressure * CALM
        short = scope.pressure > (end if lasts else settings.pressure)
        return Shortage(kind, scope.name, scope.pressure, settings.pressure, end) if short else None
    return None


def headroom_in(scope: MemoryScope, headroom: float) -> float:
    """The bytes that must stay available in this scope."""
    return headroom * (scope.size or 0) if headroom < 1 else headroom


def of_pool(pool: Pool, settings: PoolSettings, episodes: Episodes) -> list[Shortage]:
    """The shortages in the scopes of this pool."""
    shortages = (
        _short(kind, scope, pool, settings, (kind, scope.name) in episodes) for scope in pool.scopes for kind in Kind
    )
    return [shortage for shortage in shortages if shortage]


def follow(
    pools: Iterable[tuple[Pool, PoolSettings]], episodes: Episodes, now: float
) -> dict[tuple[Kind, str], Episode]:
    """The shortages of this look, without those that have ended. `now` is monotonic, in seconds.

    A shortage whose scope could not be read at this look is kept as it was.
    """
    pools = list(pools)
    read = {scope.name for pool, _ in pools for scope in pool.scopes}
    going_on = {key: episode for key, episode in episodes.items() if key[1] not in read and _is_watched(key, pools)}
    for pool, settings in pools:
        for shortage in of_pool(pool, settings, episodes):
            before = episodes.get(shortage.key)
            episode = replace(before, shortage=shortage) if before else Episode(shortage, now)
            if episode.given_up is not None and now - episode.given_up >= RETRY:
                episode = replace(episode, given_up=None, reaps=0)
            going_on[shortage.key] = episode
    return going_on


def _is_watched(key: tuple[Kind, str], pools: list[tuple[Pool, PoolSettings]]) -> bool:
    """Whether a pool is watched that this shortage may be about."""
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
        if scope in names and episode.given_up is None and (kind is Kind.TOTAL or settings.relieves)
    )


def gives_back(worker: Worker, kind: Kind) -> int | None:
    """Bytes that the exit of this worker takes off the shortage; None: unknown.

    `total` counts swap too. On a host that is short of memory, what a worker has in swap does not count.
    """
    if worker.private is None:
        return None
    return worker.private + (worker.own_swap if kind is Kind.TOTAL else 0)


def is_worth_reaping(worker: Worker, kind: Kind, baseline: int | None, lasts: float) -> bool:
    """Whether this worker gives back clearly more than its replacement will take.

    `baseline`: private bytes of a fresh worker, or of the smallest worker if no fresh one was seen. If it
    is None, all workers are alike: then a worker counts if it is older than the shortage, which has lasted for `lasts`
    seconds.
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
    """Private bytes of the smallest worker, if another holds clearly more; None: all are alike."""
    held = [worker.private for worker in workers if worker.private is not None]
    return min(held) if held and max(held) >= _grown(min(held)) else None


def is_expected(episode: Episode, coming: int, now: float) -> bool:
    """Whether the workers signalled so far may be enough: `coming` bytes are still expected back from them."""
    shortage = episode.shortage
    if shortage.kind is Kind.PRESSURE:
        return episode.last is not None and now - episode.last < PRESSURE_WINDOW
    return ends_with(shortage, coming)


def ends_with(shortage: Shortage, coming: int) -> bool:
    """Whether it ends when this many bytes come back. Not known of pressure: False."""
    if shortage.kind is Kind.TOTAL:
        return shortage.measured - coming <= shortage.end
    return shortage.kind is Kind.HEADROOM and shortage.measured + coming >= shortage.end


def grown(workers: Iterable[Worker], kind: Kind, baseline: int | None) -> int:
    """Bytes that come back if each of these workers is replaced by a fresh one; `baseline` as in is_worth_reaping."""
    held = (gives_back(worker, kind) or 0 for worker in workers if baseline is not None)
    return sum(max(0, size - (baseline or 0)) for size in held)


def after_reap(episodes: Episodes, key: tuple[Kind, str], private: int, now: float) -> dict[tuple[Kind, str], Episode]:
    """Count a worker that was signalled for this shortage and holds `private` bytes of its own."""
    episode = episodes[key]
    after = replace(episode, reaps=episode.reaps + 1, freed=episode.freed + private, last=now)
    # Whatever the reason of its signal, it relieves the pressure too.
    others = {
        each: replace(other, last=now) for each, other in episodes.items() if other.shortage.kind is Kind.PRESSURE
    }
    return {**episodes, **others, key: after}
