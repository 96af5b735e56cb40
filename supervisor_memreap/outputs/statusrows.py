"""The state of each pool and of the listener as rows, which core.rows describes: for JSON, XML-RPC and tables. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from supervisor_memreap.advice.growth import Growth
from supervisor_memreap.core import policy
from supervisor_memreap.core.counters import Counters
from supervisor_memreap.core.listeners import ListenerState
from supervisor_memreap.core.model import UP, Pool, ProcessId, ProgramState, Worker
from supervisor_memreap.core.policy import Choice, Standing
from supervisor_memreap.core.rows import HindranceRow, ListenerRow, PoolRow, SuspensionRow, WorkerRow, known
from supervisor_memreap.core.servers import signal_for
from supervisor_memreap.core.settings import PoolSettings
from supervisor_memreap.core.state import PoolState
from supervisor_memreap.outputs import fields

VERSION = 1
"""The version of these values; increased when a key is removed or changes its meaning, not when one is added."""

# A listener that has not looked for two periods does not look. A tick comes up to 2 s late, and the look takes time.
_PERIODS = 2
_LATE = 5.0
_HOUR = 3600
# The keys of a pool, of a suspension and of a hindrance that are seconds since 1970.
_TIMES = ("since", "until", "message_at", "counted_since")


def of_pool(
    choice: Choice,
    settings: PoolSettings,
    state: PoolState,
    counters: Counters,
    used: Mapping[ProcessId, int],
    boot: float = 0.0,
    growth: Growth | None = None,
    server: str | None = None,
) -> PoolRow:
    """One pool; `used` has the known metric of each worker, in bytes. Unknown values are left out.

    `boot` is added to the times in `state`, for seconds since the epoch. `server` is as in host.look.server_of.
    """
    pool, growth = choice.pool, growth or Growth()
    sizes = [used[worker.id] for worker in pool.workers if worker.id in used]
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
        "workers": list(_workers(choice, settings, state, used, growth)),
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
    for worker in choice.pool.workers:
        size = used.get(worker.id)
        over = None if worker.detail is not None else False  # without a detail its bound is within the limit
        row: WorkerRow = {
            "pid": worker.id.pid,
            "age_seconds": round(worker.age, 1),
            "used_bytes": size,
            "over": over if size is None else settings.limit is not None and size > settings.limit,
            "note": _note(worker, state),
            "reason": reasons.get(worker.id),
            "growth_bytes_per_hour": _per_hour(growth.of_worker(worker.id)),
        }
        yield known(row)


def _note(worker: Worker, state: PoolState) -> str | None:
    """What happens to it."""
    if state.leaving and state.leaving.worker == worker.id:
        return "leaving"
    if worker.id in {leaving.worker for leaving in state.stuck}:
        return "stuck"
    if worker.id in state.requested:
        return "requested"
    if policy.serves(worker, state):
        return None
    return "starting" if policy.is_starting(worker, state) else "not serving"


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
    row: SuspensionRow = {
        "cause": suspended.cause.value,
        "reason": suspended.text,
        "since": int(suspended.since + boot),
        "until": None if until is None else int(until + boot),
    }
    return known(row)


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


def age_of_listener(listener: ListenerRow, version: str) -> str:
    """What to do about a listener that is older than this memreap, in a line; empty if it is not older."""
    theirs = str(listener.get("version") or "")
    if not theirs or _numbers(theirs) >= _numbers(version):
        return ""
    name = listener["name"]
    return f"the listener {name} is memreap {theirs}, older than this memreap {version}: restart {name}"


def troubles_beside(listener: ListenerRow, version: str) -> list[str]:
    """What is wrong although the listener works, a line each."""
    return [*filter(None, [age_of_listener(listener, version)]), *(listener.get("troubles") or ())]


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall("[0-9]+", version))


def of_look(pools: Iterable[PoolRow]) -> list[PoolRow]:
    """The pools after our own look, without what only a listener knows, since it was there before."""
    rows: list[PoolRow] = [
        {
            **_judged_once(pool),
            "workers": [_without_growth(worker) for worker in pool["workers"]],
            "growth_bytes_per_hour": None,
            "next_at_limit_seconds": None,
            "reaps": None,
            "given_back_bytes": None,
            "counted_since": None,
            "since": None,
            "message": None,
            "message_at": None,
        }
        for pool in pools
    ]
    return [known(row) for row in rows]


def _without_growth(worker: WorkerRow) -> WorkerRow:
    row: WorkerRow = {**worker, "growth_bytes_per_hour": None}
    return known(row)


def _judged_once(pool: PoolRow) -> PoolRow:
    """A listener sees whether an empty pool forks workers again; from a single look nothing is known of it."""
    if pool["workers"] or pool["standing"] != Standing.QUIET or pool["state"] != ProgramState.RUNNING:
        return pool
    return {**pool, "standing": Standing.BLIND.value, "not_visible": "it has no workers now"}


def document(
    pools: Iterable[PoolRow],
    view: str,
    note: str = "",
    troubles: Sequence[str] = (),
    age: float | None = None,
    warnings: Sequence[str] = (),
) -> dict[str, Any]:
    """What the commands print as JSON; unknown values are left out.

    Each time in seconds since 1970 has a text with the time zone beside it: `since_time` of `since`.
    """
    values = {
        "version": VERSION,
        "view": view,
        "note": note or None,
        "age_seconds": age,
        "trouble": "; ".join(troubles) or None,
        "warning": "; ".join(warnings) or None,
        "pools": [_timed(pool) for pool in pools],
    }
    return known(values)


def _timed(row: Mapping[str, Any]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for key, value in row.items():
        values[key] = _timed(value) if key in ("suspension", "hindrance") else value
        if key in _TIMES:
            values[f"{key.removesuffix('_at')}_time"] = fields.time_text(value)
    return values


def unwatched(pools: Iterable[PoolRow]) -> list[PoolRow]:
    """The pools of a listener that no longer looks: their present state is unknown."""
    return [{**pool, "standing": Standing.BLIND.value} for pool in pools]


def is_well(pool: PoolRow) -> bool:
    """Whether memreap works in this pool, as far as known: it is neither suspended nor blind, and no worker overdue."""
    return not (pool.get("suspension") or pool.get("hindrance")) and pool["standing"] != Standing.BLIND
