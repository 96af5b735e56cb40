"""The state of each pool, as plain values with their units in the names: for JSON, XML-RPC and tables. Pure."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from supervisor_memreap.advice.growth import Growth
from supervisor_memreap.core import policy
from supervisor_memreap.core.counters import Counters
from supervisor_memreap.core.listeners import ListenerState
from supervisor_memreap.core.model import UP, Pool, ProcessId, ProgramState, Worker
from supervisor_memreap.core.policy import Choice, Standing
from supervisor_memreap.core.reasons import OverLimit
from supervisor_memreap.core.servers import signal_for
from supervisor_memreap.core.settings import PoolSettings
from supervisor_memreap.core.state import PoolState
from supervisor_memreap.core.text import aligned, duration, memory, seconds
from supervisor_memreap.outputs import fields, words
from supervisor_memreap.outputs import growthfields as growth_values

VERSION = 1
"""The version of these values; increased when a key is removed or changes its meaning, not when one is added."""

# A listener that has not looked for two periods does not look. A tick comes up to 2 s late, and the look takes time.
_PERIODS = 2
_LATE = 5.0
# Seconds after which the start of the counting is no news: `memreap report` has it.
_FIRST_DAY = 86400.0
# Columns of a terminal.
WIDTH = 80
# Columns that a table which is too wide goes without.
_DROPPED: tuple[tuple[str, ...], ...] = ((), ("freed",), ("freed", "since"))
# What only a listener knows, since it was there before: after a single look it is unknown, not 0.
_OF_A_LISTENER = ("reaps", "given_back_bytes", "counted_since", "since", "message", "message_at")

# The keys of a pool and of a suspension that are seconds since 1970.
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
) -> dict[str, Any]:
    """One pool; `used` has the known metric of each worker, in bytes. Unknown values are left out.

    `boot` is added to the times in `state`, for seconds since the epoch. `server` is as in host.look.server_of.
    """
    pool, growth = choice.pool, growth or Growth()
    reasons = {each.worker.id: each.reason.label for each in reversed(choice.pending)}  # the most urgent one
    workers = [
        {**_worker(worker, settings, state, used, reasons), **growth_values.of_worker(growth, worker.id)}
        for worker in pool.workers
    ]
    known = [worker["used_bytes"] for worker in workers if "used_bytes" in worker]
    values: dict[str, Any] = {
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
        "workers": workers,
        **_others(pool),
        "due": choice.to_go,
        **_overdue_values(choice, state, boot),
        "reaps": counters.reaps.count,
        "given_back_bytes": counters.reaps.freed,
        "message": counters.message,
        "unreadable_workers": choice.unreadable or None,
        "not_visible": pool.not_visible or choice.unwatched or None,
        "suspension": suspension(pool, state, boot),
        "largest_bytes": max(known, default=None),
        "total_bytes": sum(known) if known else None,
        "total_limit_bytes": settings.total,
        "pool_bytes": _held(pool),
        **growth_values.of_pool(growth, settings.limit, used),
        "message_at": int(counters.message_at) if counters.message else None,
    }
    return {key: value for key, value in values.items() if value is not None}


def _others(pool: Pool) -> dict[str, Any]:
    """The pids of what is no worker."""
    helpers = [helper.pid for helper in pool.helpers]
    return {"manager_pid": pool.manager.pid if pool.manager else None, "helpers": helpers or None}


def _held(pool: Pool) -> int | None:
    """Bytes that its manager and workers hold together, or more, where even that is within `total`; None: not read."""
    scope = next((scope for scope in pool.scopes if scope.name == pool.name), None)
    return None if scope is None or scope.size is None or scope.available is None else scope.size - scope.available


def _worker(
    worker: Worker,
    settings: PoolSettings,
    state: PoolState,
    used: Mapping[ProcessId, int],
    reasons: Mapping[ProcessId, str],
) -> dict[str, Any]:
    row: dict[str, Any] = {"pid": worker.id.pid, "age_seconds": round(worker.age, 1)}
    if worker.id in used:
        row["used_bytes"] = used[worker.id]
        row["over"] = settings.limit is not None and used[worker.id] > settings.limit
    elif worker.detail is None:
        row["over"] = False  # its bound is within the limit
    if state.leaving and state.leaving.worker == worker.id:
        row["note"] = "leaving"
    elif worker.id in {leaving.worker for leaving in state.stuck}:
        row["note"] = "stuck"
    elif worker.id in state.requested:
        row["note"] = "requested"
    elif not policy.serves(worker, state):
        row["note"] = "starting" if policy.is_starting(worker, state) else "not serving"
    if worker.id in reasons:
        row["reason"] = reasons[worker.id]
    return row


def _overdue_values(choice: Choice, state: PoolState, boot: float) -> dict[str, Any]:
    """How many workers are overdue, and why."""
    delay = state.delay
    if not choice.overdue or delay is None:
        return {"overdue": 0}
    why = {"kind": delay.hindrance.kind.value, "text": delay.hindrance.text, "since": int(delay.since + boot)}
    return {"overdue": choice.overdue, "hindrance": why}


def suspension(pool: Pool, state: PoolState, boot: float) -> dict[str, Any] | None:
    """Why nothing is sent in a pool, since when and until when; None: it is not suspended. `boot` is as in of_pool."""
    suspended = state.suspended
    if suspended is None:
        return None
    values: dict[str, Any] = {
        "cause": suspended.cause.value,
        "reason": suspended.text,
        "since": int(suspended.since + boot),
    }
    until = suspended.until
    needs_age, looked = suspended.needs_age, state.looked
    if needs_age is not None and looked is not None and pool.manager and pool.manager != suspended.manager:
        until = looked + needs_age - pool.manager_age
    if until is not None:
        values["until"] = int(until + boot)
    return values


def trouble_of_listener(listener: Mapping[str, Any]) -> str:
    """What is wrong with the listener, judging by getListener, in a line; empty if nothing is."""
    age = listener.get("age_seconds")
    if listener["listener_state"] == ListenerState.NONE:
        return "supervisord has no listener of memreap: add [eventlistener:memreap] with command=memreap listen"
    if listener["state"] not in UP:
        name = listener["name"]
        return f"the listener {name} is {listener['state']}: see its log, then supervisorctl start {name}"
    if listener["listener_state"] == ListenerState.UNKNOWN:
        return (
            f"the listener {listener['name']} broke the event protocol and gets no more events: restart"
            f" {listener['name']}; does anything in its command print to stdout?"
        )
    if age is None:
        troubles = "; ".join(listener.get("troubles", ()))
        return f"the listener has not looked at the pools yet: {troubles or 'wait for the next tick, or see its log'}"
    if age > _PERIODS * listener.get("period_seconds", 5) + _LATE:
        return f"the listener last looked at the pools {age:.0f} s ago: restart {listener['name']}, and see its log"
    return ""


def age_of_listener(listener: Mapping[str, Any], version: str) -> str:
    """What to do about a listener that is older than this memreap, in a line; empty if it is not older."""
    theirs = str(listener.get("version", ""))
    if not theirs or _numbers(theirs) >= _numbers(version):
        return ""
    name = listener["name"]
    return f"the listener {name} is memreap {theirs}, older than this memreap {version}: restart {name}"


def troubles_beside(listener: Mapping[str, Any], version: str) -> list[str]:
    """What is wrong although the listener works, a line each."""
    return [*filter(None, [age_of_listener(listener, version)]), *listener.get("troubles", ())]


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall("[0-9]+", version))


def warnings_of(listener: Mapping[str, Any]) -> list[str]:
    """What does not work, while workers are replaced all the same: the history or the metrics, a line each."""
    return list(listener.get("warnings", ()))


def of_look(pools: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The pools after our own look, without what only a listener knows."""
    return [
        {key: value for key, value in _judged_once(growth_values.without(pool)).items() if key not in _OF_A_LISTENER}
        for pool in pools
    ]


def _judged_once(pool: Mapping[str, Any]) -> Mapping[str, Any]:
    """A listener sees whether an empty pool forks workers again; from a single look nothing is known of it."""
    if pool["workers"] or pool["standing"] != Standing.QUIET or pool["state"] != ProgramState.RUNNING:
        return pool
    return {**pool, "standing": Standing.BLIND.value, "not_visible": "it has no workers now"}


def of_listener(value: Any, key: str = "") -> Any:
    """The pools as memreap.getPools has them: sizes are doubles in XML-RPC, whose integers end at 2 GiB."""
    if isinstance(value, dict):
        return {name: of_listener(part, name) for name, part in value.items()}
    if isinstance(value, list):
        return [of_listener(part) for part in value]
    return int(value) if "_bytes" in key else value


def document(
    pools: Iterable[Mapping[str, Any]],
    view: str,
    note: str = "",
    troubles: Sequence[str] = (),
    age: float | None = None,
    warnings: Sequence[str] = (),
) -> dict[str, Any]:
    """What the commands print as JSON; unknown values are left out.

    Each time in seconds since 1970 has a text with the time zone beside it: `since_time` of `since`.
    """
    known = {
        "note": note or None,
        "age_seconds": age,
        "trouble": "; ".join(troubles) or None,
        "warning": "; ".join(warnings) or None,
    }
    return {
        "version": VERSION,
        "view": view,
        **{key: value for key, value in known.items() if value is not None},
        "pools": [_timed(pool) for pool in pools],
    }


def _timed(pool: Mapping[str, Any]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for key, value in pool.items():
        values[key] = _timed(value) if key in ("suspension", "hindrance") else value
        if key in _TIMES:
            values[f"{key.removesuffix('_at')}_time"] = fields.time_text(value)
    return values


def unwatched(pools: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The pools of a listener that no longer looks: their present state is unknown."""
    return [{**pool, "standing": Standing.BLIND.value} for pool in pools]


def is_well(pool: Mapping[str, Any]) -> bool:
    """Whether memreap works in this pool, as far as known: it is neither suspended nor blind, and no worker overdue."""
    return not (pool.get("suspension") or pool.get("hindrance")) and pool["standing"] != Standing.BLIND


def table(pools: Sequence[Mapping[str, Any]], now: float, has_commands: bool) -> str:
    """One line for each pool, as in supervisorctl status, and its messages below; 80 columns wide.

    `now` is in seconds since 1970. What a look does not know has no column. `has_commands` is as in words.
    """
    has_history = any("since" in pool for pool in pools)
    history = ("growth", "reaps", "freed", "since") if has_history else ()
    rows = [("", "", "limit", "workers", *(() if has_history else ("over",)), "largest", "total", *history)]
    rows += [_row(pool, has_history, now) for pool in pools]
    head, *lines = _within(rows)
    for number, pool in enumerate(pools):
        lines[number] = "\n".join([lines[number], *_details(pool, has_commands)])
    return "\n".join([head, *lines, *_counted(pools, now)])


def _counted(pools: Sequence[Mapping[str, Any]], now: float) -> Iterator[str]:
    """Since when reaps are counted, as long as a reader would expect more: once for all pools."""
    starts: dict[str, list[str]] = {}
    for pool in pools:
        if pool.get("reaps") and now - pool.get("counted_since", 0) < _FIRST_DAY:
            starts.setdefault(words.clock(pool["counted_since"]), []).append(str(pool["name"]))
    if starts:
        shown = "; ".join(
            f"{start} ({', '.join(names)})" if starts.keys() > {start} else start for start, names in starts.items()
        )
        yield from textwrap.wrap(f"Reaps are counted since {shown}.", WIDTH, break_on_hyphens=False)


def _row(pool: Mapping[str, Any], has_history: bool, now: float) -> tuple[str, ...]:
    largest, total = (_memory(pool, key) for key in ("largest_bytes", "total_bytes"))
    limit = f"{_memory(pool, 'limit_bytes')} {pool['metric']}" if "limit_bytes" in pool else "-"
    start = str(pool["name"]), standing_word(pool), limit, str(len(pool["workers"]))
    if not has_history:
        return (*start, _over(pool), largest, total)
    growth = growth_values.cell(pool)
    reaps = str(pool.get("reaps", "-"))
    history = growth, reaps, _memory(pool, "given_back_bytes"), duration(max(0.0, now - pool["since"]))
    return (*start, largest, total, *history)


def _within(rows: Sequence[tuple[str, ...]]) -> list[str]:
    """Aligned; if that is too wide, without `freed`, or else with each name on its own line, and without `since`."""
    for dropped in _DROPPED[:2]:
        lines = aligned(_without(rows, dropped)).split("\n")
        if max(map(len, lines)) <= WIDTH:
            return lines
    for dropped in _DROPPED:
        head, *rest = aligned([row[1:] for row in _without(rows, dropped)]).split("\n")
        if max(map(len, (head, *rest))) <= WIDTH - 2:
            break
    return [f"  {head}", *(f"{row[0]}\n  {line}" for row, line in zip(rows[1:], rest))]


def _without(rows: Sequence[tuple[str, ...]], columns: Sequence[str]) -> list[tuple[str, ...]]:
    """The rows without these columns, which the first row names."""
    return [tuple(cell for cell, name in zip(row, rows[0]) if name not in columns) for row in rows]


def _details(pool: Mapping[str, Any], has_commands: bool) -> Iterator[str]:
    """Lines below a pool."""
    for text in details(pool, has_commands):
        yield from _wrapped(text)
    if pool.get("message"):
        yield from _wrapped(f"{_clock(pool)}{pool['message']}")


def details(pool: Mapping[str, Any], has_commands: bool) -> Iterator[str]:
    """What is to be known of a pool beside its numbers, a sentence each."""
    if pool.get("suspension"):
        yield words.suspended(pool["name"], pool["suspension"], has_commands)
    if pool.get("hindrance"):
        yield _overdue(pool)
    if pool.get("paused") and (pool["standing"] != Standing.PAUSED or not has_commands):
        yield words.paused(pool["name"], has_commands)
    if pool.get("not_visible"):
        yield f"not watched: {pool['not_visible']}"
    if pool.get("unreadable_workers"):
        yield _unreadable(pool)
    if growth_values.forecast(pool):
        yield growth_values.forecast(pool)


def _unreadable(pool: Mapping[str, Any]) -> str:
    number, workers = pool["unreadable_workers"], len(pool["workers"])
    at_least = "" if number == workers else "at least "  # only one of them is tried, unless they may be over the limit
    # With another metric it is headroom or pressure for which the workers' own memory must be read.
    metric, other = (pool["metric"], ", or set metric=rss") if pool["metric"] in ("uss", "pss") else ("uss", "")
    remedy = f"run memreap as their user or as root with CAP_SYS_PTRACE{other}"
    return f"{at_least}{number} of {workers} workers: {metric} may not be read; {remedy}"


def _overdue(pool: Mapping[str, Any]) -> str:
    hindrance, number = pool["hindrance"], pool["overdue"]
    due = "1 worker is due and could not" if number == 1 else f"{number} workers are due and none could"
    return f"{due} be signalled since {words.clock(hindrance['since'])}: {hindrance['text']}"


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(text, WIDTH, initial_indent="  ", subsequent_indent="    ", break_on_hyphens=False)


def standing_word(pool: Mapping[str, Any]) -> str:
    """The state of a pool, in one word; `details` has the rest."""
    standing = pool["standing"]
    return str(pool["state"] if standing == Standing.NOT_RUNNING else standing).upper()


def _over(pool: Mapping[str, Any]) -> str:
    known = [worker["over"] for worker in pool["workers"] if "over" in worker]
    return str(sum(known)) if len(known) == len(pool["workers"]) else "-"


def workers_table(pool: Mapping[str, Any]) -> str:
    """One line for each worker of a pool, the largest first."""
    rows = [("pid", "age", str(pool["metric"]), "growth", "")]
    for worker in sorted(pool["workers"], key=lambda each: each.get("used_bytes", 0), reverse=True):
        used, growth = _memory(worker, "used_bytes"), growth_values.cell(worker)
        rows.append((str(worker["pid"]), seconds(worker["age_seconds"]), used, growth, note(worker)))
    return aligned(rows)


def note(worker: Mapping[str, Any]) -> str:
    """What happens to it, or why it has to go."""
    over = OverLimit.label if worker.get("over") else ""
    return str(worker.get("note") or worker.get("reason") or over)


def _memory(values: Mapping[str, Any], key: str) -> str:
    return memory(values[key]) if key in values else "-"


def _clock(values: Mapping[str, Any]) -> str:
    return f"{words.clock(values['message_at'])} " if "message_at" in values else ""
