"""Why a worker has to be replaced: when each reason applies, what must be read to know it, and its evidence. Pure.

A reason is one class here and one key of core.settings. The tuple at the end has their order, the most urgent first.
"""

from __future__ import annotations

import abc
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import ClassVar

from supervisor_memreap.core.model import ProcessId, Worker
from supervisor_memreap.core.settings import PoolSettings
from supervisor_memreap.core.text import memory, seconds


@dataclass(frozen=True)
class Reason(abc.ABC):
    """One reason, with the evidence that it applies to one worker."""

    setting: ClassVar[str] = ""
    """The key that sets it; empty: a user requested this worker."""
    is_counted: ClassVar[bool] = False
    """Whether it must apply in `checks` consecutive looks."""

    @staticmethod
    @abc.abstractmethod
    def may_apply(worker: Worker, settings: PoolSettings, requested: bool) -> bool:
        """Whether it may apply, judging by the worker's age and bound: then the worker's detail must be read."""

    @classmethod
    @abc.abstractmethod
    def of(cls, worker: Worker, settings: PoolSettings, requested: bool) -> Reason | None:
        """The reason, if it applies to this worker, whose detail was read."""

    @property
    @abc.abstractmethod
    def measure(self) -> float:
        """The value that is compared with the setting, in bytes or seconds."""

    @property
    @abc.abstractmethod
    def text(self) -> str:
        """The evidence, to follow `worker 4242`."""

    @classmethod
    def usable(cls, measures: Collection[float]) -> str:
        """A usable setting for workers with these measures, as a user writes it."""
        return ""


@dataclass(frozen=True)
class Requested(Reason):
    """A user requested this worker."""

    used: int | None
    """In bytes; None: it may not be read."""
    metric: str

    @staticmethod
    def may_apply(worker: Worker, settings: PoolSettings, requested: bool) -> bool:
        return requested

    @classmethod
    def of(cls, worker: Worker, settings: PoolSettings, requested: bool) -> Reason | None:
        return cls(worker.used, settings.metric) if requested else None

    @property
    def measure(self) -> float:
        return self.used or 0

    @property
    def text(self) -> str:
        size = "" if self.used is None else f", holds {memory(self.used)} ({self.metric})"
        return f"was requested by a user{size}"


@dataclass(frozen=True)
class OverLimit(Reason):
    """The worker uses more memory than `limit`."""

    setting = "limit"
    is_counted = True
    used: int
    limit: int
    metric: str

    @staticmethod
    def may_apply(worker: Worker, settings: PoolSettings, requested: bool) -> bool:
        return settings.limit is not None and worker.bound > settings.limit

    @classmethod
    def of(cls, worker: Worker, settings: PoolSettings, requested: bool) -> Reason | None:
        if settings.limit is None or worker.used is None or worker.used <= settings.limit:
            return None
        return cls(worker.used, settings.limit, settings.metric)

    @property
    def measure(self) -> float:
        return self.used

    @property
    def text(self) -> str:
        return f"holds {memory(self.used)} ({self.metric}), limit {memory(self.limit)}"

    @classmethod
    def usable(cls, measures: Collection[float]) -> str:
        """Twice what fresh workers use, rounded up to 10 MiB: they can serve for a while before they are reaped."""
        step = 10 * 1024**2
        size = -(-2 * int(max(measures)) // step) * step
        return f"limit={size // 1024**2}MB"


@dataclass(frozen=True)
class TooOld(Reason):
    """The worker is older than `max_age` allows."""

    setting = "max_age"
    age: float
    max_age: float

    @staticmethod
    def may_apply(worker: Worker, settings: PoolSettings, requested: bool) -> bool:
        return settings.max_age is not None and worker.age > settings.max_age * _share_of_age(worker.id)

    @classmethod
    def of(cls, worker: Worker, settings: PoolSettings, requested: bool) -> Reason | None:
        if settings.max_age is None or not cls.may_apply(worker, settings, requested):
            return None
        return cls(worker.age, settings.max_age)

    @property
    def measure(self) -> float:
        return self.age

    @property
    def text(self) -> str:
        return f"is {seconds(self.age)} old, max_age {seconds(self.max_age)}"

    @classmethod
    def usable(cls, measures: Collection[float]) -> str:
        return f"max_age={-(-2 * int(max(measures)) // 60)}min"


def _share_of_age(id: ProcessId) -> float:
    """From 0.9 to 1, the same for a worker in each look, so that workers forked together are not replaced together.

    Knuth's multiplicative hash puts consecutive pids far apart.
    """
    return 0.9 + 0.1 * (id.pid * 2654435761 % 2**32) / 2**32


REASONS: tuple[type[Reason], ...] = (Requested, OverLimit, TooOld)


def need_detail(worker: Worker, settings: PoolSettings, requested: Collection[ProcessId]) -> bool:
    """Whether a reason may apply to this worker, so that its detail must be read."""
    is_requested = worker.id in requested
    for kind in REASONS:  # noqa: SIM110 # called for each worker in each look; takes half the time of any() over a generator
        if kind.may_apply(worker, settings, is_requested):
            return True
    return False


def applying(worker: Worker, settings: PoolSettings, requested: Collection[ProcessId]) -> Iterator[Reason]:
    """The reasons to replace this worker, the most urgent first."""
    if worker.detail is None:
        return
    for kind in REASONS:
        reason = kind.of(worker, settings, worker.id in requested)
        if reason:
            yield reason


def is_hidden(worker: Worker, settings: PoolSettings) -> bool:
    """Whether the worker may be over its limit, and its size may not be read."""
    return worker.detail is not None and worker.used is None and OverLimit.may_apply(worker, settings, False)
