"""What is remembered of a pool from one look to the next, and which part survives a restart. Pure.

Times are monotonic, in seconds: the same for every process of this boot.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from operator import attrgetter
from typing import Any

from supervisor_memreap.core.frozen import replace
from supervisor_memreap.core.hindrance import Hindrance
from supervisor_memreap.core.hindrance import Kind as HindranceKind
from supervisor_memreap.core.model import InitialSize, Nested, ProcessId
from supervisor_memreap.core.settings import PoolSettings


class Phase(str, enum.Enum):
    """How far a reap has come; what must be saved before a signal is saved as if that were sent."""

    ATTEMPTED = "attempted"
    """An attempt is being made, which may send the signal at any moment."""
    SIGNALLED = "signalled"
    AGAIN = "again"
    """A second signal was sent, or an attempt at that is being made."""
    FORCED = "forced"
    """It was to be sent the signal that `stuck` sets."""
    GONE = "gone"
    """It has left, and that was reported."""
    REPLACED = "replaced"
    """A worker has come in its place, which may not have settled yet."""


# What each phase may become; every reap ends from any of them.
TRANSITIONS: Mapping[Phase, frozenset[Phase]] = {
    Phase.ATTEMPTED: frozenset((Phase.SIGNALLED,)),
    Phase.SIGNALLED: frozenset((Phase.AGAIN, Phase.FORCED, Phase.GONE)),
    # Back to SIGNALLED if the second signal was not sent.
    Phase.AGAIN: frozenset((Phase.SIGNALLED, Phase.FORCED, Phase.GONE)),
    # To AGAIN if it could not be sent: no signal but this one may follow.
    Phase.FORCED: frozenset((Phase.AGAIN, Phase.GONE)),
    # A list of children may miss one, so it may still run; but it was reported as gone, and is sent nothing more.
    Phase.GONE: frozenset((Phase.REPLACED,)),
    Phase.REPLACED: frozenset(),
}


@dataclass(frozen=True)
class Reap:
    """Of one worker: from the attempt to signal it until its replacement has settled."""

    worker: ProcessId
    signalled: float
    """When it was signalled; while that is not known, when the attempt began."""
    before: frozenset[ProcessId]
    """The pool's workers when it was signalled, including itself."""
    started_after: float = 0.0
    """Its replacement was started after this, on the scale of ProcessId.start_time: a list of children may miss one."""
    phase: Phase = Phase.SIGNALLED
    since: float = 0.0
    """When it came into this phase."""
    is_sent: bool = True
    """False: it is unknown whether the signal was sent. It counts as sent, but the worker is not forced for it."""
    left: float | None = None
    """When it left, also before that was reported."""
    replaced_by: ProcessId | None = None
    overdue: bool = False
    """NotReplaced has been emitted."""
    slot: str = ""
    """Of the worker, as in core.model."""
    private: int = 0
    """Its private bytes when it was signalled, which should be freed; 0: unknown."""
    signal: str = "HUP"
    """The signal that it was sent."""
    server: str = ""
    """As in core.model."""
    has_settled: bool = False
    """A worker was seen that came after it and had settled."""

    def to(self, phase: Phase, now: float, **values: Any) -> Reap:
        """In another phase, with other values."""
        assert phase in TRANSITIONS[self.phase], f"{self.phase.value} to {phase.value}"
        return replace(self, phase=phase, since=now, **values)


class Cause(str, enum.Enum):
    """Why a pool is suspended."""

    WRONG_SETTING = "wrong setting"
    """Workers exceed their limit already when they begin to serve."""
    MANAGER_LOST = "manager lost"


@dataclass(frozen=True)
class Suspension:
    cause: Cause
    manager: ProcessId
    """The manager at that time."""
    needs_age: float | None = None
    """It ends once another manager has run for this many seconds."""
    leaving: Reap | None = None
    """The worker that was leaving when that manager exited, in case it is still running."""
    since: float = 0.0
    until: float | None = None
    """When it ends automatically; None: not at a fixed time."""
    setting: str = ""
    """The setting that is wrong."""
    usable: str = ""
    """One that is not, as a user writes it; empty: it was not saved."""

    @property
    def text(self) -> str:
        if self.cause is Cause.MANAGER_LOST:
            return "its manager exited"
        return f"its {self.setting} is too low{f'; set {self.usable} or higher' if self.usable else ''}"


@dataclass(frozen=True)
class Roll:
    """A user asked for all workers of a pool to be replaced. It is known until the next one, or another manager."""

    id: str
    """Of the command."""
    workers: frozenset[ProcessId]
    """That were to be replaced."""
    is_over: bool = False
    left: int = 0
    """When it is over: how many of them were not replaced."""
    failure: str = ""
    """Why it ended before all were replaced."""
    rolled: float | None = None
    """Since when none is left to be signalled, but too few serve."""


@dataclass(frozen=True)
class Delay:
    """Workers are due, and for too long none could be signalled."""

    since: float
    hindrance: Hindrance


@dataclass(frozen=True)
class Population:
    """What is known of how a manager keeps its workers. A new manager starts anew: its program may be another one."""

    replaces: bool | None = None
    """Whether the manager forked another worker in the place of the last one that was reaped; None: not known."""
    shrinks: bool = False
    """The manager has shrunk its pool on its own: it forks workers when they are needed."""
    serving: Mapping[ProcessId, float] = field(default_factory=dict)
    """Since when each worker serves that was seen to do so: it serves until it ends."""
    seen_late: frozenset[ProcessId] = frozenset()
    """Those that may have served for long before they were first seen to: there was no look for a while."""
    served: bool = False
    """A worker was seen that had settled."""
    had_more: bool = False
    """It was seen to have more than one worker."""
    peaks: tuple[int, int] = (0, 0)
    """The largest number of workers since `peak_since`, and in the period before."""
    peak_since: float | None = None
    workers: frozenset[ProcessId] = frozenset()
    """The workers of the last look."""
    last_workers: frozenset[ProcessId] = frozenset()
    """With target=self: the workers of the last look that had any."""
    starting: frozenset[ProcessId] = frozenset()
    """Workers that were seen in the last look not to serve yet."""
    child_faults: int | None = None
    """Of the last look, as in core.model."""
    calm_since: float | None = None
    """Since when no worker has come or left."""
    no_workers_since: float | None = None
    """Since when the manager has had none; None: it has some."""

    def calm(self, at: float) -> float:
        """Seconds for which no worker had come or left at this time."""
        return at - self.calm_since if self.calm_since is not None else 0.0

    @property
    def lasting_values(self) -> tuple[bool | None, bool, Mapping[ProcessId, float]]:
        """Those that survive a restart of the listener: what looks cannot soon show again."""
        return self.replaces, self.shrinks, self.serving

    def lasting(self) -> Population:
        return Population(*self.lasting_values)

    def without_expectations(self) -> Population:
        """A user says that the number of workers is right as it is.

        What the manager is like stays known: that it shrinks its pool, and that its workers come to serve.
        """
        return replace(self, replaces=None, peaks=(0, 0), peak_since=None, had_more=False)


@dataclass(frozen=True)
class Lasting:
    """What survives a restart of the listener."""

    settings: PoolSettings | None = None
    manager: ProcessId | None = None
    reap: Reap | None = None
    """The one that is under way."""
    stuck: tuple[Reap, ...] = ()
    started_over: tuple[int, ...] = ()
    """The last initial sizes in bytes, as long as all workers that began to serve were over the limit (rule 9)."""
    suspended: Suspension | None = None
    manager_losses: int = 0
    paused: bool = False
    requested: frozenset[ProcessId] = frozenset()
    """Workers that a user requested, while they exist."""
    roll: Roll | None = None
    """The last one."""
    population: Population = field(default_factory=Population)
    delay: Delay | None = None
    """Saved for commands that cannot ask the listener, and so that a new listener goes on with it."""

    @property
    def attempted(self) -> Reap | None:
        """The worker that an attempt is being made to signal."""
        return self.reap if self.reap and self.reap.phase is Phase.ATTEMPTED else None

    @property
    def leaving(self) -> Reap | None:
        """The worker that was signalled, as far as is known, until its replacement has settled."""
        return self.reap if self.reap and self.reap.phase is not Phase.ATTEMPTED else None

    @property
    def rolling(self) -> Roll | None:
        """The roll that goes on."""
        return self.roll if self.roll and not self.roll.is_over else None


@dataclass(frozen=True)
class Seen:
    """A reason that applies to a worker in consecutive looks."""

    looks: int
    age: float
    """Of the worker, in seconds, when it was first seen to apply."""


@dataclass(frozen=True)
class Wait:
    """Of a worker that is due, for its boundary or to be seen idle."""

    attempts: int = 0
    """Failed attempts."""
    seconds: float = 0.0
    """How long they took together."""


@dataclass(frozen=True)
class DueSince:
    """A worker that is due, while no right and short wait keeps it from being signalled."""

    since: float
    looks: int
    """After the first one."""


@dataclass(frozen=True)
class PoolState(Lasting):
    """Everything that the policy remembers of a pool."""

    looked: float | None = None
    is_unsaved: bool = False
    """A stronger signal was due, and the state could not be saved: none is sent."""
    manager_seen: bool = False
    """Its manager was seen since the start: it is not only remembered from before a restart."""
    seen: Mapping[tuple[ProcessId, str], Seen] = field(default_factory=dict)
    """By worker and the setting of a reason."""
    initial: Mapping[ProcessId, InitialSize] = field(default_factory=dict)
    """Of the workers that began to serve while they were watched."""
    fast: tuple[float, ...] = ()
    """The ages at which the last reaped workers were first seen over the limit, as long as all were young (FAST)."""
    waits: Mapping[ProcessId, Wait] = field(default_factory=dict)
    """Of the due workers to which attempts have failed."""
    due: Mapping[ProcessId, DueSince] = field(default_factory=dict)
    refusal: Hindrance | None = None
    """Why the last attempt to signal a worker sent nothing; None: it did, or there was none yet."""
    delay_told: float | None = None
    """When the log last had the hindrance of due workers, in this delay or an earlier one."""
    reported: frozenset[str] = frozenset()
    """The keys of events that are reported once."""
    nested: tuple[Nested, ...] = ()
    """As in core.model, when that was read last."""
    nested_read: float | None = None
    nested_of: frozenset[ProcessId] = frozenset()
    """The children at that time."""
    changed_settings: tuple[PoolSettings, float] | None = None
    """Other settings than those in `settings`, and since when: they may be those of a file that is half written."""
    observe_gone: float | None = None
    """Since which look `observe` is gone, for a while; infinite: it is set; None: it is long gone, or never was."""
    too_few_since: float | None = None
    """Since when too few workers have been old enough to serve."""
    replacements: frozenset[ProcessId] = frozenset()
    """Workers that have settled in the place of reaped ones."""
    observed: frozenset[ProcessId] = frozenset()
    """In a pool that is only observed: the workers that would have been signalled."""
    has_boundary: bool = True
    """Whether the last attempt could bring a worker to its boundary."""
    probed: float | None = None
    """When it was last seen that sizes may be read; None: not yet, or they could not be."""
    baseline: int | None = None
    """Private bytes of the last replacement when it had settled."""


_LASTING = tuple(each.name for each in fields(Lasting) if each.name != "population")
_values = attrgetter(*_LASTING)


def lasting(state: Lasting) -> Lasting:
    """The part that survives a restart."""
    return Lasting(population=state.population.lasting(), **{name: getattr(state, name) for name in _LASTING})


def persistent_part_differs(state: Lasting, other: Lasting) -> bool:
    """Whether the parts that survive a restart differ."""
    return state is not other and (
        state.population.lasting_values != other.population.lasting_values or _values(state) != _values(other)
    )


def restored(kept: Lasting, looked: float | None = None) -> PoolState:
    """The state of a listener that continues where the last one stopped; `looked` is when that one saved it.

    Whether an attempt sent its signal is unknown then, so it counts as sent.
    """
    state = PoolState(**vars(lasting(kept)), looked=looked)
    attempted = state.attempted
    return replace(state, reap=attempted.to(Phase.SIGNALLED, attempted.since, is_sent=False)) if attempted else state


def is_worth_keeping(state: Lasting) -> bool:
    """Whether anything in it must survive the listener, or a time in which the pool is not watched."""
    return bool(
        state.reap
        or state.stuck
        or state.started_over
        or state.suspended
        or state.manager_losses
        or state.paused
        or state.requested
        or state.rolling
        or state.population.replaces is False
        or state.delay
    )


def encode(state: Lasting) -> dict[str, Any]:
    """The values for JSON."""
    values = {name: _plain(getattr(state, name)) for name in _LASTING}
    population = state.population  # in the file its values are beside the others, as before there was one
    values |= {"replaces": population.replaces, "shrinks": population.shrinks}
    values["serving"] = [[*worker, since] for worker, since in sorted(population.serving.items())]
    return values


def _plain(value: Any) -> Any:
    """As dataclasses.asdict in a tenth of its time: nothing of a state ever changes, so nothing need be copied."""
    if isinstance(value, frozenset):
        return sorted(value)
    if isinstance(value, tuple):
        return tuple(map(_plain, value))
    if names := getattr(value, "__dataclass_fields__", None):
        return {name: _plain(getattr(value, name)) for name in names}
    return value


def decode(values: Mapping[str, Any]) -> Lasting:
    """The reverse of `encode`. Raises ValueError, TypeError, KeyError or AttributeError for other values."""
    return Lasting(
        settings=_settings(values.get("settings")),
        manager=_optional(values["manager"], process_id),
        # `leaving` and `attempted`: of older versions, which had no phases.
        reap=_optional(values["reap"] if "reap" in values else values["leaving"] or values.get("attempted"), _reap),
        stuck=tuple(map(_reap, values["stuck"])),
        # Not `early_reaps` of older versions: those workers may have grown over the limit after they began to serve.
        started_over=tuple(map(int, values.get("started_over", ()))),
        suspended=_optional(values["suspended"], _suspension),
        manager_losses=int(values["manager_losses"]),
        paused=bool(values["paused"]),
        requested=frozenset(map(process_id, values.get("requested", ()))),
        roll=_optional(values.get("roll"), _roll),
        population=Population(
            replaces=_optional(values.get("replaces"), bool),
            shrinks=bool(values.get("shrinks")),
            serving={process_id(worker): float(since) for *worker, since in values.get("serving", ())},
        ),
        delay=_optional(values.get("delay"), _delay),
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
        leaving=_optional(values["leaving"], _reap),
        since=float(values["since"]),
        until=_optional(values["until"], float),
        setting=str(values["setting"]),
        usable=str(values.get("usable", "")),
    )


def _roll(values: dict[str, Any]) -> Roll:
    workers = frozenset(map(process_id, values["workers"]))
    over = bool(values["is_over"]), int(values["left"]), str(values["failure"])
    return Roll(str(values["id"]), workers, *over, _optional(values["rolled"], float))


def _delay(values: dict[str, Any]) -> Delay:
    cause = values["hindrance"]
    return Delay(float(values["since"]), Hindrance(HindranceKind(cause["kind"]), str(cause["text"])))


def _reap(values: dict[str, Any]) -> Reap:
    return Reap(
        worker=process_id(values["worker"]),
        signalled=float(values["signalled"]),
        before=frozenset(map(process_id, values["before"])),
        started_after=float(values["started_after"]),
        phase=Phase(values["phase"]) if "phase" in values else _phase_of_older(values),
        since=float(values.get("since", values.get("forced") or values["signalled"])),
        is_sent=bool(values["is_sent"] if "is_sent" in values else values["sent"]),
        left=_optional(values["left"], float),
        replaced_by=_optional(values["replaced_by"], process_id),
        overdue=bool(values["overdue"]),
        slot=str(values["slot"]),
        private=int(values.get("private", 0)),
        signal=str(values.get("signal", "HUP")),
        server=str(values.get("server", "")),
        has_settled=bool(values.get("has_settled")),
    )


def _phase_of_older(values: dict[str, Any]) -> Phase:
    """Of the flags that older versions had in its place."""
    flags = (
        (Phase.REPLACED, values["replaced_by"] is not None),
        (Phase.GONE, values["reported"]),
        (Phase.FORCED, values["forced"] is not None),
        (Phase.AGAIN, values["again"]),
    )
    return next((phase for phase, is_set in flags if is_set), Phase.SIGNALLED)
