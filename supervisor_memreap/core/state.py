"""What is remembered of a pool from one look to the next, and what of it outlives a restart. Pure.

Times are monotonic, in seconds: the same for every process of this boot.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from supervisor_memreap.core.model import ProcessId
from supervisor_memreap.core.settings import PoolSettings


@dataclass(frozen=True)
class Leaving:
    """A worker that was signalled, until its replacement has settled."""

    worker: ProcessId
    signalled: float
    before: frozenset[ProcessId]
    """The pool's workers when it was signalled, itself among them."""
    started_after: float = 0.0
    """Its replacement was started after this, on the scale of ProcessId.start_time: a list of children may miss one."""
    sent: bool = True
    """False: this was written down before the signal, and it is not known that it went out."""
    again: bool = False
    """It was signalled a second time."""
    forced: float | None = None
    """When it was to be sent what `stuck` asks for."""
    left: float | None = None
    reported: bool = False
    """Left has been emitted."""
    replaced_by: ProcessId | None = None
    overdue: bool = False
    """NotReplaced has been emitted."""
    slot: str = ""
    """Of the worker, as in core.model."""


class Cause(str, enum.Enum):
    """Why a pool is suspended."""

    WRONG_SETTING = "wrong setting"
    """Fresh workers already meet a reason."""
    MANAGER_LOST = "manager lost"


@dataclass(frozen=True)
class Suspension:
    cause: Cause
    manager: ProcessId
    """The manager under which it came about."""
    needs_age: float | None = None
    """It ends under another manager, once that has stood for this long."""
    leaving: Leaving | None = None
    """Who was leaving when that manager went away, for the case that it is still there after all."""
    since: float = 0.0
    until: float | None = None
    """When it ends by itself; None: not by the clock."""
    setting: str = ""
    """The setting that is wrong."""

    @property
    def text(self) -> str:
        return f"its {self.setting} is too low" if self.cause is Cause.WRONG_SETTING else "its manager went away"


@dataclass(frozen=True)
class Lasting:
    """What outlives a restart of the listener."""

    settings: PoolSettings | None = None
    manager: ProcessId | None = None
    leaving: Leaving | None = None
    stuck: tuple[Leaving, ...] = ()
    early_reaps: tuple[tuple[str, float], ...] = ()
    """Setting and measure of the last reaped workers, while each of them met its reason while fresh."""
    suspended: Suspension | None = None
    manager_losses: int = 0
    paused: bool = False
    requested: frozenset[ProcessId] = frozenset()
    """Workers that a user asked for, while they are there."""


@dataclass(frozen=True)
class Seen:
    """A reason that applies to a worker, look after look."""

    looks: int
    early: bool
    """It was seen to apply nearly from the worker's start."""


@dataclass(frozen=True)
class PoolState(Lasting):
    """All that the policy remembers of a pool."""

    looked: float | None = None
    manager_seen: bool = False
    """Its manager was seen since this was begun: it is not only remembered from before a restart."""
    seen: Mapping[tuple[ProcessId, str], Seen] = field(default_factory=dict)
    """By worker and the setting of a reason."""
    due_since: Mapping[ProcessId, float] = field(default_factory=dict)
    """Since when a worker has been due, and waits for an idle moment."""
    reported: frozenset[str] = frozenset()
    """The keys of events that are reported once."""
    last_workers: frozenset[ProcessId] = frozenset()
    """The workers of the last look that had any."""
    workers: frozenset[ProcessId] = frozenset()
    """The workers of the last look."""
    child_faults: int | None = None
    """Of the last look, as in core.model."""
    calm_since: float | None = None
    """Since when no worker has come or left."""
    peaks: tuple[int, int] = (0, 0)
    """The largest number of workers since `peak_since`, and in the period before."""
    peak_since: float | None = None
    too_few_since: float | None = None
    """Since when too few workers have been old enough to serve."""


_LASTING = tuple(each.name for each in fields(Lasting))


def lasting(state: Lasting) -> Lasting:
    """The part that outlives a restart."""
    return Lasting(**{name: getattr(state, name) for name in _LASTING})


def persistent_part_differs(state: Lasting, other: Lasting) -> bool:
    """Whether the parts that outlive a restart differ."""
    if state is other:
        return False
    return any(getattr(state, name) != getattr(other, name) for name in _LASTING)


def restored(kept: Lasting, looked: float | None = None) -> PoolState:
    """The state of a listener that goes on where the last one was ended; `looked` is when that wrote it down."""
    return PoolState(**{name: getattr(kept, name) for name in _LASTING}, looked=looked)


def is_worth_keeping(state: Lasting) -> bool:
    """Whether anything in it must outlive the listener, or a time in which the pool is not watched."""
    return bool(
        state.leaving
        or state.stuck
        or state.early_reaps
        or state.suspended
        or state.manager_losses
        or state.paused
        or state.requested
    )


def encode(state: Lasting) -> dict[str, Any]:
    """As JSON can hold it."""
    values = asdict(lasting(state))
    values["requested"] = sorted(values["requested"])
    suspended = values["suspended"]
    for leaving in filter(None, (values["leaving"], *values["stuck"], suspended and suspended["leaving"])):
        leaving["before"] = sorted(leaving["before"])
    return values


def decode(values: Mapping[str, Any]) -> Lasting:
    """What `encode` made. Raises ValueError, TypeError, KeyError or AttributeError where it did not make this."""
    return Lasting(
        settings=_settings(values.get("settings")),
        manager=_optional(values["manager"], process_id),
        leaving=_optional(values["leaving"], _leaving),
        stuck=tuple(map(_leaving, values["stuck"])),
        early_reaps=tuple((str(setting), float(measure)) for setting, measure in values["early_reaps"]),
        suspended=_optional(values["suspended"], _suspension),
        manager_losses=int(values["manager_losses"]),
        paused=bool(values["paused"]),
        requested=frozenset(map(process_id, values.get("requested", ()))),
    )


def _settings(values: Any) -> PoolSettings | None:
    try:
        return None if values is None else PoolSettings(**values)
    except TypeError:
        return None  # of another version: they count as changed, which ends a suspension


def _optional(value: Any, of: Callable[[Any], Any]) -> Any:
    return None if value is None else of(value)


def process_id(value: Any) -> ProcessId:
    """Of JSON. Raises ValueError, TypeError."""
    pid, start_time = value
    return ProcessId(int(pid), float(start_time))


def _suspension(values: dict[str, Any]) -> Suspension:
    return Suspension(
        cause=Cause(values["cause"]),
        manager=process_id(values["manager"]),
        needs_age=_optional(values["needs_age"], float),
        leaving=_optional(values["leaving"], _leaving),
        since=float(values["since"]),
        until=_optional(values["until"], float),
        setting=str(values["setting"]),
    )


def _leaving(values: dict[str, Any]) -> Leaving:
    return Leaving(
        worker=process_id(values["worker"]),
        signalled=float(values["signalled"]),
        before=frozenset(map(process_id, values["before"])),
        started_after=float(values["started_after"]),
        sent=bool(values["sent"]),
        again=bool(values["again"]),
        forced=_optional(values["forced"], float),
        left=_optional(values["left"], float),
        reported=bool(values["reported"]),
        replaced_by=_optional(values["replaced_by"], process_id),
        overdue=bool(values["overdue"]),
        slot=str(values["slot"]),
    )
