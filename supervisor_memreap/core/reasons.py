"""Why a worker must be replaced: when each reason applies, what must be read to know that, and the evidence. Pure.

Each reason is one class here and one key of core.settings. REASONS has them in order, the most urgent first.
"""

from __future__ import annotations

import abc
from collections.abc import Callable, Collection, Iterator
from typing import ClassVar

from supervisor_memreap.core.frozen import Frozen
from supervisor_memreap.core.model import InitialSize, ProcessId, Worker
from supervisor_memreap.core.rows import OVER_LIMIT
from supervisor_memreap.core.settings import PoolSettings
from supervisor_memreap.core.shortage import Episode, Kind, Shortage, gives_back, is_worth_reaping
from supervisor_memreap.core.text import memory, seconds


class Circumstances(Frozen):
    """What decides about a worker, besides the worker itself."""

    settings: PoolSettings
    requested: Collection[ProcessId] = ()
    """Workers that a user asked to replace."""
    episodes: tuple[Episode, ...] = ()
    """Shortages of memory that this pool may relieve."""
    baseline: int | None = None
    """Private bytes of a fresh worker of this pool, or of the smallest one; None: all are alike."""
    now: float = 0.0
    """Monotonic, in seconds."""


class Reason(Frozen, abc.ABC):
    """One reason, with the evidence that it applies to one worker."""

    setting: ClassVar[str] = ""
    """The key that it belongs to; empty: a user requested this worker."""
    label: ClassVar[str]
    """In a word or two, for a table."""
    is_counted: ClassVar[bool] = False
    """Whether it must apply at `checks` consecutive looks."""
    is_about_worker: ClassVar[bool] = True
    """False: memory is short, and any worker that frees memory will do."""

    @classmethod
    def may_occur(cls, circumstances: Circumstances) -> bool:
        """Whether it may apply to some worker of the pool."""
        return getattr(circumstances.settings, cls.setting) is not None

    @staticmethod
    @abc.abstractmethod
    def may_apply(worker: Worker, circumstances: Circumstances) -> bool:
        """Whether it may apply, by age and bound alone, so that the worker's detail must be read."""

    @classmethod
    @abc.abstractmethod
    def applying_to(cls, worker: Worker, circumstances: Circumstances) -> Iterator[Reason]:
        """The reason, if it applies to this worker, whose detail was read; one for each shortage of memory."""

    @property
    @abc.abstractmethod
    def text(self) -> str:
        """The evidence, as text that follows `worker 4242`."""


class Requested(Reason):
    """A user requested this worker."""

    label = "requested"
    used: int | None
    """In bytes; None: it may not be read."""
    metric: str

    @classmethod
    def may_occur(cls, circumstances: Circumstances) -> bool:
        return bool(circumstances.requested)

    @staticmethod
    def may_apply(worker: Worker, circumstances: Circumstances) -> bool:
        return worker.id in circumstances.requested

    @classmethod
    def applying_to(cls, worker: Worker, circumstances: Circumstances) -> Iterator[Reason]:
        if worker.id in circumstances.requested:
            yield cls(worker.used, circumstances.settings.metric)

    @property
    def text(self) -> str:
        size = "" if self.used is None else f" (holds {memory(self.used)} {self.metric})"
        return f"was requested by a user{size}"


class OverLimit(Reason):
    """The worker uses more memory than `limit`."""

    setting = "limit"
    label = OVER_LIMIT
    is_counted = True
    used: int
    limit: int
    metric: str

    @staticmethod
    def may_apply(worker: Worker, circumstances: Circumstances) -> bool:
        return circumstances.settings.limit is not None and worker.bound > circumstances.settings.limit

    @classmethod
    def applying_to(cls, worker: Worker, circumstances: Circumstances) -> Iterator[Reason]:
        settings = circumstances.settings
        if settings.limit is not None and worker.used is not None and worker.used > settings.limit:
            yield cls(worker.used, settings.limit, settings.metric)

    @property
    def text(self) -> str:
        return f"holds {memory(self.used)} ({self.metric}), limit {memory(self.limit)}"

    def applied_to(self, initial: InitialSize | None) -> bool | None:
        """Whether it applied already when the worker began to serve; None: not known (rule 9)."""
        if initial is None or initial.metric != self.metric:
            return None
        if initial.size <= self.limit:
            return False
        return True if initial.is_exact else None

    @classmethod
    def usable(cls, measures: Collection[float]) -> str:
        """A limit for fresh workers of these sizes, as a user writes it.

        Twice what they use, rounded up to 10 MiB, so that they serve for a while before they are reaped.
        """
        step = 10 * 1024**2
        size = -(-2 * int(max(measures)) // step) * step
        return f"limit={size // 1024**2}MB"


class TooOld(Reason):
    """The worker is older than `max_age` allows."""

    setting = "max_age"
    label = "too old"
    age: float
    max_age: float

    @staticmethod
    def may_apply(worker: Worker, circumstances: Circumstances) -> bool:
        max_age = circumstances.settings.max_age
        return max_age is not None and worker.age > max_age * _age_factor(worker.id)

    @classmethod
    def applying_to(cls, worker: Worker, circumstances: Circumstances) -> Iterator[Reason]:
        max_age = circumstances.settings.max_age
        if max_age is not None and cls.may_apply(worker, circumstances):
            yield cls(worker.age, max_age)

    @property
    def text(self) -> str:
        return f"is {seconds(self.age)} old, max_age {seconds(self.max_age)}"


def _age_factor(id: ProcessId) -> float:
    """From 0.9 to 1, the same for a worker at each look, so that workers forked together are not replaced together.

    Knuth's multiplicative hash puts consecutive pids far apart.
    """
    return 0.9 + 0.1 * (id.pid * 2654435761 % 2**32) / 2**32


class _Shared(Reason):
    """Memory is short, and this worker would free some."""

    is_about_worker = False
    kind: ClassVar[Kind]
    shortage: Shortage
    private: int
    """Bytes by which the exit of this worker reduces the shortage."""

    @classmethod
    def may_occur(cls, circumstances: Circumstances) -> bool:
        return any(episode.shortage.kind is cls.kind for episode in circumstances.episodes)

    @staticmethod
    def may_apply(worker: Worker, circumstances: Circumstances) -> bool:
        return True  # the private memory of each must be read, to know which frees most

    @classmethod
    def applying_to(cls, worker: Worker, circumstances: Circumstances) -> Iterator[Reason]:
        """One for each scope in which memory is short: the host, and groups that the pool is in."""
        for episode in circumstances.episodes:
            short, lasts = episode.shortage, circumstances.now - episode.since
            if short.kind is cls.kind and is_worth_reaping(worker, cls.kind, circumstances.baseline, lasts):
                yield cls(short, gives_back(worker, cls.kind) or 0)

    @property
    def key(self) -> tuple[Kind, str]:
        """The key of the shortage."""
        return self.shortage.key

    @property
    def text(self) -> str:
        return f"holds {memory(self.private)} of its own, and {self.shortage.text}"


class OverTotal(_Shared):
    """The pool uses more memory than `total`."""

    setting = "total"
    label = "pool over its total"
    kind = Kind.TOTAL


class ShortOfHeadroom(_Shared):
    """Less memory than `headroom` is available on the host or in a control group."""

    setting = "headroom"
    label = "short of headroom"
    kind = Kind.HEADROOM


class UnderPressure(_Shared):
    """Processes wait for memory for longer than `pressure` allows."""

    setting = "pressure"
    label = "under pressure"
    kind = Kind.PRESSURE


def shortage_of(reason: Reason) -> tuple[Kind, str] | None:
    """The key of the shortage for which a worker goes; None: the reason is about the worker itself."""
    return reason.key if isinstance(reason, _Shared) else None


def given_back(reason: Reason) -> int | None:
    """Bytes by which the worker's exit reduces the shortage; None: the reason is about the worker itself."""
    return reason.private if isinstance(reason, _Shared) else None


def is_host_wide(reason: Reason) -> bool:
    """Whether a worker of any pool will do: then only one is signalled at each look."""
    return isinstance(reason, _Shared) and reason.kind is not Kind.TOTAL


REASONS: tuple[type[Reason], ...] = (Requested, ShortOfHeadroom, UnderPressure, OverTotal, OverLimit, TooOld)


def detail_needed(circumstances: Circumstances) -> Callable[[Worker], bool]:
    """A function that returns whether a reason may apply to a worker, so that its detail must be read."""
    kinds = [kind for kind in REASONS if kind.may_occur(circumstances)]
    if len(kinds) == 1:  # as for nearly every pool: a fifth less for each worker at each look
        may_apply = kinds[0].may_apply
        return lambda worker: may_apply(worker, circumstances)

    def is_needed(worker: Worker) -> bool:
        for kind in kinds:  # noqa: SIM110 # for each worker at each look; any() over a generator takes twice as long
            if kind.may_apply(worker, circumstances):
                return True
        return False

    return is_needed


def applying(worker: Worker, circumstances: Circumstances) -> Iterator[Reason]:
    """The reasons that apply to this worker, whose detail was read, the most urgent first."""
    for kind in REASONS:
        yield from kind.applying_to(worker, circumstances)


def is_hidden(worker: Worker, settings: PoolSettings) -> bool:
    """Whether the worker may be over its limit, but its size may not be read."""
    is_unknown = worker.detail is not None and worker.used is None
    return is_unknown and OverLimit.may_apply(worker, Circumstances(settings))


def needs_exact(settings: PoolSettings) -> bool:
    """Whether these settings have no effect where exact sizes may not be read."""
    return _limits_exactly(settings) or _needs_own_memory(settings)


def _limits_exactly(settings: PoolSettings) -> bool:
    return settings.limit is not None and settings.metric in ("uss", "pss")


def _needs_own_memory(settings: PoolSettings) -> bool:
    return settings.relieves and not (settings.headroom is None and settings.pressure is None)


def is_unreadable(worker: Worker, settings: PoolSettings) -> bool:
    """Whether the worker was read, and memreap lacks the right to read what the settings need."""
    detail = worker.detail
    if detail is None or detail.is_late:
        return False
    lacks_own_memory = _needs_own_memory(settings) and detail.memory is None
    return lacks_own_memory or (_limits_exactly(settings) and detail.used is None)
