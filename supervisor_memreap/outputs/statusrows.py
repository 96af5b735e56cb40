"""The state of each pool and of the listener as rows, which core.rows describes: for JSON, XML-RPC and tables. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any, cast

from supervisor_memreap.advice.growth import Growth
from supervisor_memreap.core import following, policy
from supervisor_memreap.core.counters import Counters
from supervisor_memreap.core.model import Pool, ProcessId, ProgramState, Standing
from supervisor_memreap.core.policy import Choice
from supervisor_memreap.core.rows import HindranceRow, PoolRow, RollRow, SuspensionRow, WorkerRow, known, without
from supervisor_memreap.core.servers import signal_for
from supervisor_memreap.core.settings import PoolSettings
from supervisor_memreap.core.state import PoolState
from supervisor_memreap.core.text import seconds

_HOUR = 3600
_UNKNOWN = Growth()
_NO_NOTE = cast(WorkerRow, {})
# What only a listener knows of a pool or of a worker.
_OF_LISTENER = (
    *("growth_bytes_per_hour", "next_at_limit_seconds", "reaps", "given_back_bytes", "counted_since", "since"),
    *("message", "message_at"),
)


def of_pool(
    choice: Choice,
    settings: PoolSettings,
    state: PoolState,
    counters: Counters,
    used: Mapping[ProcessId, int],
    boot: float = 0.0,
    growth: Growth = _UNKNOWN,
    server: str | None = None,
    whole: bool = True,
) -> PoolRow:
    """One pool; `used` has the known metric of each worker, in bytes. Unknown values are left out.

    `boot` is added to the times in `state`, for seconds since the epoch. `server` is as in host.look.server_of.
    """
    pool, sizes = choice.pool, [used[worker.id] for worker in choice.pool.workers if worker.id in used]
    row: PoolRow = {
        "name": pool.name,
        "state": pool.state,
        "standing": counters.standing,
        "paused": state.paused,
        "since": int(counters.since),
        "metric": settings.metric,
        "limit_bytes": settings.limit,
        "signal": settings.signal if server is None else signal_for(server, settings.signal),
        "signal_is_set": settings.signal is not None,
        "server": server or None,
        "workers": list((_workers if whole else _notes)(choice, settings, state, used, growth)),
        "manager_pid": pool.manager.pid if pool.manager else None,
        "helpers": [helper.pid for helper in pool.helpers] or None,
        "due": choice.to_go,
        "overdue": choice.overdue if state.delay is not None else 0,
        "hindrance": hindrance(state, boot) if choice.overdue else None,
        "reaps": counters.reaps.count,
        "given_back_bytes": counters.reaps.freed,
        "message": counters.message,
        "unreadable_workers": choice.unreadable or None,
        "not_visible": pool.not_visible or choice.unwatched or None,
        "suspension": suspension(pool, state, boot),
        "roll": _roll(pool, state),
        "largest_bytes": max(sizes, default=None),
        "total_bytes": sum(sizes) if sizes else None,
        "total_limit_bytes": settings.total,
        "pool_bytes": _held(pool),
        "growth_bytes_per_hour": _per_hour(growth.of_all),
        "next_at_limit_seconds": _next_at_limit(growth, settings.limit, used),
        "message_at": int(counters.message_at) if counters.message else None,
        "counted_since": None,
    }
    return known(row)


def _held(pool: Pool) -> int | None:
    """Bytes that its manager and workers hold together, or more, where even that is within `total`; None: not read."""
    scope = next((scope for scope in pool.scopes if scope.name == pool.name), None)
    return None if scope is None or scope.size is None or scope.available is None else scope.size - scope.available


def _next_at_limit(growth: Growth, limit: int | None, used: Mapping[ProcessId, int]) -> int | None:
    left = None if limit is None else growth.next_at_limit(limit, used)
    return None if left is None else round(left)


def _workers(
    choice: Choice, settings: PoolSettings, state: PoolState, used: Mapping[ProcessId, int], growth: Growth
) -> Iterator[WorkerRow]:
    reasons = {each.worker.id: each.reason.label for each in reversed(choice.pending)}  # the most urgent one
    limit = float("inf") if settings.limit is None else settings.limit
    for worker, note in zip(choice.pool.workers, _notes(choice, settings, state, used, growth)):
        # Key by key: with 4,000 workers, leaving out what is unknown afterwards takes twice as long.
        size, reason, growth_ = used.get(worker.id), reasons.get(worker.id), growth.of_worker(worker.id)
        row: dict[str, Any] = {"pid": worker.id.pid, "age_seconds": round(worker.age, 1)}
        if size is not None:
            row["used_bytes"], row["over"] = size, size > limit
        elif worker.detail is None:
            row["over"] = False  # its bound is within the limit
        row.update(note)
        if reason is not None:
            row["reason"] = reason
        if growth_ is not None:
            row["growth_bytes_per_hour"] = _per_hour(growth_)
        yield cast(WorkerRow, row)


def _notes(choice: Choice, _settings: object, state: PoolState, _used: object, _growth: object) -> Iterator[WorkerRow]:
    """Of a pool that is not shown `whole`: what happens to each worker, if anything does."""
    leaving, stuck = state.leaving, {each.worker for each in state.stuck}
    population = state.population
    if not (leaving or stuck or state.requested) and population.workers <= population.serving.keys():
        yield from [_NO_NOTE] * len(choice.pool.workers)  # as in nearly every pool
        return
    for worker in choice.pool.workers:
        note = ""
        if leaving and leaving.worker == worker.id:
            note = "leaving"
        elif worker.id in stuck:
            note = "stuck"
        elif worker.id in state.requested:
            note = "requested"
        elif not policy.serves(worker, state):
            note = "starting" if policy.is_starting(worker, state) else "not serving"
        yield cast(WorkerRow, {"note": note} if note else {})


def with_notes(row: PoolRow) -> PoolRow:
    """A row that is whole as one that is not."""
    notes = ({"note": each["note"]} if "note" in each else {} for each in row["workers"])
    return {**row, "workers": [cast(WorkerRow, note) for note in notes]}


def _per_hour(per_second: float | None) -> int | None:
    return None if per_second is None else round(per_second * _HOUR)


def hindrance(state: PoolState, boot: float) -> HindranceRow | None:
    """Why workers are overdue; None: none is. `boot` is as in of_pool."""
    delay = state.delay
    if delay is None:
        return None
    return {"kind": delay.hindrance.kind.value, "text": delay.hindrance.text, "since": int(delay.since + boot)}


def suspension(pool: Pool, state: PoolState, boot: float) -> SuspensionRow | None:
    """Why nothing is sent in a pool, since when and until when; None: it is not suspended. `boot` is as in of_pool."""
    suspended = state.suspended
    if suspended is None:
        return None
    until = suspended.until
    needs_age, looked = suspended.needs_age, state.looked
    if needs_age is not None and looked is not None and pool.manager and pool.manager != suspended.manager:
        until = looked + needs_age - pool.manager_age
    reason, by_change = suspended.text, following.ends_by_change(state)
    if by_change is not None:
        until = by_change
        stay = f"once they stay so for {seconds(policy.STABLE_SETTINGS)}"
        reason = f"{reason}; its settings have changed, and it ends {stay}"
    row: SuspensionRow = {
        "cause": suspended.cause.value,
        "reason": reason,
        "since": int(suspended.since + boot),
        "until": None if until is None else int(until + boot),
        "settings_changed": True if by_change is not None else None,
    }
    return known(row)


def _roll(pool: Pool, state: PoolState) -> RollRow | None:
    roll = state.roll
    if roll is None:
        return None
    left = roll.left if roll.is_over else len(policy.not_replaced(pool, state))
    return {
        "id": roll.id,
        "workers": len(roll.workers),
        "left": left,
        "is_over": roll.is_over,
        "failure": roll.failure,
    }


def of_look(pools: Iterable[PoolRow], on_demand: Collection[str] = ()) -> list[PoolRow]:
    """The pools after our own look, without what only a listener knows, since it was there before.

    `on_demand` are the names of those whose manager forks a worker when a client asks: they may be empty.
    """
    rows: list[PoolRow] = [
        {
            **(pool if pool["name"] in on_demand else _judged_once(pool)),
            "workers": [without(worker, *_OF_LISTENER) for worker in pool["workers"]],
        }
        for pool in pools
    ]
    return [without(row, *_OF_LISTENER) for row in rows]


def _judged_once(pool: PoolRow) -> PoolRow:
    """A listener sees whether an empty pool forks workers again; from a single look nothing is known of it."""
    if pool["workers"] or pool["standing"] != Standing.QUIET or pool["state"] != ProgramState.RUNNING:
        return pool
    return {**pool, "standing": Standing.BLIND.value, "not_visible": "it has no workers now"}
