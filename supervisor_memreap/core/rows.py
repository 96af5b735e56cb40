"""What JSON and XML-RPC carry of pools and of the listener: each key with its unit. Pure.

An Optional value that is unknown has no key (`known`), so it is read with `get`. The types are evaluated, since
`of_xmlrpc` asks them: integers in XML-RPC end at 2 GiB, so sizes are sent as doubles.
"""

import json
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple, Optional, TypedDict, TypeVar, cast, get_args

Row = TypeVar("Row")

VERSION = 1
"""The version of these values; increased when a key is removed or changes its meaning, not when one is added."""


OVER_LIMIT = "over its limit"
"""The `reason` of a worker that is over its limit."""
OBSERVED = "observed"
"""The `standing` of a pool that is only observed."""


class WorkerRow(TypedDict):
    pid: int
    age_seconds: float
    used_bytes: Optional[int]
    """In the pool's metric."""
    over: Optional[bool]
    """Whether it is over the limit."""
    note: Optional[str]
    """What happens to it: leaving, stuck, requested, starting or not serving."""
    reason: Optional[str]
    """Why it has to go, in a word or two: the most urgent reason."""
    growth_bytes_per_hour: Optional[int]


class SuspensionRow(TypedDict):
    cause: str
    """A value of core.state.Cause."""
    reason: str
    """In a sentence."""
    since: int
    """Seconds since 1970."""
    until: Optional[int]
    """Seconds since 1970."""
    settings_changed: Optional[bool]
    """True: they have, and that ends it if they stay so."""


class HindranceRow(TypedDict):
    kind: str
    """A value of core.hindrance.Kind."""
    text: str
    """The cause and the remedy."""
    since: int
    """Seconds since 1970."""


class RollRow(TypedDict):
    """The last roll of a pool, until it has another manager."""

    id: str
    """Of the command."""
    workers: int
    """That were to be replaced."""
    left: int
    """Those of them that are not replaced, or not yet."""
    is_over: bool
    failure: str
    """Why it ended before all were replaced; empty: it did not."""


class PoolRow(TypedDict):
    name: str
    state: str
    """Of its program, as supervisord has it."""
    standing: str
    """A value of core.model.Standing."""
    paused: bool
    since: Optional[int]
    """When `standing` last changed, in seconds since 1970."""
    metric: str
    limit_bytes: Optional[int]
    """What a worker may use."""
    signal: Optional[str]
    signal_is_set: bool
    """Whether a user has set it."""
    server: Optional[str]
    workers: list[WorkerRow]
    manager_pid: Optional[int]
    helpers: Optional[list[int]]
    """Pids."""
    due: int
    """Workers that are due for replacement."""
    overdue: int
    """Those of them that are overdue."""
    hindrance: Optional[HindranceRow]
    reaps: Optional[int]
    """Since `counted_since`."""
    given_back_bytes: Optional[int]
    """What the host got back since `counted_since`."""
    message: Optional[str]
    """The text of the last event."""
    unreadable_workers: Optional[int]
    not_visible: Optional[str]
    """Why the pool is not watched."""
    suspension: Optional[SuspensionRow]
    roll: Optional[RollRow]
    largest_bytes: Optional[int]
    """Of the largest worker, in the pool's metric."""
    total_bytes: Optional[int]
    """Of all workers, in the pool's metric."""
    total_limit_bytes: Optional[int]
    """What the pool may hold."""
    pool_bytes: Optional[int]
    """What manager and workers hold together, or more."""
    growth_bytes_per_hour: Optional[int]
    """Of all workers together."""
    next_at_limit_seconds: Optional[int]
    """Until a worker reaches its limit."""
    message_at: Optional[int]
    """Seconds since 1970."""
    counted_since: Optional[int]
    """Seconds since 1970."""


class ListenerRow(TypedDict):
    """The result of memreap.getListener."""

    name: str
    """As group:name; empty: there is none."""
    state: str
    """Of its process, as supervisord has it."""
    pid: int
    count: int
    """Of listeners."""
    listener_state: str
    """A value of core.listeners.ListenerState."""
    events_waiting: int
    takes_commands: bool
    time: float
    """Now, in seconds since 1970."""
    period_seconds: Optional[int]
    """Of its ticks."""
    spawnerr: Optional[str]
    """Why its process does not run, as supervisord has it."""
    age_seconds: Optional[float]
    """Since it looked at the pools."""
    version: Optional[str]
    troubles: Optional[list[str]]
    """Why something is not watched, a line each."""
    warnings: Optional[list[str]]
    """What does not work while workers are replaced all the same, a line each."""


class MemoryRow(TypedDict):
    """What a program holds: the process that supervisord started, and all below it."""

    name: str
    state: str
    """Of its program, as supervisord has it."""
    processes: Optional[int]
    uss_bytes: Optional[int]
    """The sizes are sums over the processes that could be read."""
    pss_bytes: Optional[int]
    swap_bytes: Optional[int]
    """In swap, with each shared page divided by the number of processes that have it."""
    unreadable_processes: Optional[int]
    """Those that could not be read."""
    unknown: Optional[str]
    """Why something of it is unknown."""


class Held(NamedTuple):
    """What the programs of one supervisord hold."""

    programs: list[MemoryRow]
    supervisord: Optional[MemoryRow]
    """supervisord itself, without what it has started; None: it was not asked about, or is not known."""


class TotalsRow(TypedDict):
    """What the history has counted of a pool."""

    since: float
    """Seconds since 1970."""
    reaps: int
    returned: int
    """Bytes that the host got back."""


def freed(came_back: Optional[int], taken: Optional[int]) -> int:
    """Bytes that the host got back when a worker left, less what the worker in its place has taken already."""
    return max(0, (came_back or 0) - (taken or 0))


def known(row: Row) -> Row:
    """The row without its unknown values."""
    return cast(Row, {key: value for key, value in cast(Mapping[str, object], row).items() if value is not None})


def without(row: Row, *keys: str) -> Row:
    """The row without these keys."""
    return cast(Row, {key: value for key, value in cast(Mapping[str, object], row).items() if key not in keys})


def as_json(message: Mapping[str, Any]) -> str:
    """As json.dumps; `pools`, if it has them, as pools_as_json."""
    rest = json.dumps({key: value for key, value in message.items() if key != "pools"})
    return f'{rest[:-1]}, "pools": {pools_as_json(message["pools"])}}}' if "pools" in message else rest


def pools_as_json(pools: Iterable[PoolRow]) -> str:
    """One by one: json.dumps makes a text of each value first, with 4,000 workers 4 MB at once."""
    return f"[{', '.join([json.dumps(pool) for pool in pools])}]"


def of_xmlrpc(pools: Iterable[Any]) -> list[PoolRow]:
    """The pools as memreap.getPools has them. Raises TypeError, ValueError or OverflowError if not."""
    return [_of_type(dict(pool), PoolRow) for pool in pools]


def _of_type(value: Any, kind: Any) -> Any:
    """The value with the integers that this type has."""
    kind = next((each for each in get_args(kind) if type(None) in get_args(kind)), kind)
    if isinstance(value, dict):
        kinds = getattr(kind, "__annotations__", {})
        return {key: _of_type(part, kinds.get(key)) for key, part in value.items()}
    if isinstance(value, list):
        return [_of_type(part, next(iter(get_args(kind)), None)) for part in value]
    return int(value) if kind is int and isinstance(value, float) else value
