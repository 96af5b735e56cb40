"""The status of the pools as tables and sentences. Pure."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence

from supervisor_memreap.core.model import ProgramState, Standing
from supervisor_memreap.core.rows import OVER_LIMIT, HindranceRow, PoolRow, WorkerRow
from supervisor_memreap.core.text import about, aligned, duration, memory, seconds
from supervisor_memreap.outputs import words

# Seconds after which the start of the counters is not worth a line: `memreap report` has it.
_FIRST_DAY = 86400.0
# Columns of a terminal.
WIDTH = 80
# Columns that a table which is too wide goes without.
_DROPPED: tuple[tuple[str, ...], ...] = ((), ("freed",), ("freed", "since"))


def table(pools: Sequence[PoolRow], now: float, has_commands: bool) -> str:
    """One line for each pool, as in supervisorctl status, and its messages below; 80 columns wide.

    `now` is in seconds since 1970. What a look does not know has no column. `has_commands` is as in words.
    """
    has_history = any("since" in pool for pool in pools)
    more = ("growth", "reaps", "freed", "since") if has_history else ()
    rows = [("", "", "limit", "workers", *(() if has_history else ("over",)), "largest", "total", *more)]
    rows += [_row(pool, has_history, now) for pool in pools]
    head, *lines = _within(rows)
    for number, pool in enumerate(pools):
        lines[number] = "\n".join([lines[number], *_details(pool, has_commands)])
    return "\n".join([head, *lines, *_counted(pools, now)])


def _counted(pools: Sequence[PoolRow], now: float) -> Iterator[str]:
    """Since when reaps are counted, as long as a reader would expect more: once for all pools."""
    starts: dict[str, list[str]] = {}
    for pool in pools:
        since = pool.get("counted_since")
        if pool.get("reaps") and since is not None and now - since < _FIRST_DAY:
            starts.setdefault(words.clock(since), []).append(pool["name"])
    if starts:
        shown = "; ".join(
            f"{start} ({', '.join(names)})" if starts.keys() > {start} else start for start, names in starts.items()
        )
        yield from textwrap.wrap(f"Reaps are counted since {shown}.", WIDTH, break_on_hyphens=False)


def _row(pool: PoolRow, has_history: bool, now: float) -> tuple[str, ...]:
    start = pool["name"], standing_word(pool), limit(pool), str(len(pool["workers"]))
    sizes = size(pool.get("largest_bytes")), size(pool.get("total_bytes"))
    if not has_history:
        return (*start, _over(pool), *sizes)
    return (*start, *sizes, *history(pool), duration(max(0.0, now - (pool.get("since") or 0))))


def limit(pool: PoolRow) -> str:
    """`150 MiB uss`."""
    return f"{size(pool.get('limit_bytes'))} {pool['metric']}" if "limit_bytes" in pool else size(None)


def history(pool: PoolRow) -> tuple[str, str, str]:
    """What needs more than one look: its growth, how many workers were reaped, and what that freed."""
    return growth(pool.get("growth_bytes_per_hour")), str(pool.get("reaps", "-")), size(pool.get("given_back_bytes"))


def size(known: int | None) -> str:
    """`150 MiB`; `-` if it is unknown."""
    return "-" if known is None else memory(known)


def growth(per_hour: int | None) -> str:
    """`12 MiB/h`, of bytes per hour; `-` if it is unknown."""
    if per_hour is None:
        return "-"
    # Less than 50 KiB an hour is shown as none.
    sign = "-" if per_hour < 0 and memory(-per_hour) != memory(0) else ""
    return f"{sign}{memory(abs(per_hour))}/h"


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


def _details(pool: PoolRow, has_commands: bool) -> Iterator[str]:
    """Lines below a pool."""
    for text in details(pool, has_commands):
        yield from _wrapped(text)
    message, at = pool.get("message"), pool.get("message_at")
    if message:
        yield from _wrapped(message if at is None else f"{words.clock(at)} {message}")


def details(pool: PoolRow, has_commands: bool) -> Iterator[str]:
    """What is to be known of a pool beside its numbers, a sentence each."""
    suspension, hindrance = pool.get("suspension"), pool.get("hindrance")
    if suspension:
        yield words.suspended(pool["name"], suspension, has_commands)
    if hindrance:
        yield _overdue(pool["overdue"], hindrance)
    if pool.get("paused") and (pool["standing"] != Standing.PAUSED or not has_commands):
        yield words.paused(pool["name"], has_commands)
    if pool.get("not_visible"):
        yield f"not watched: {pool['not_visible']}"
    if pool["state"] == ProgramState.FATAL:
        yield "supervisord could not start it, and has given up: see the program's own log"
    unreadable, next_at_limit = pool.get("unreadable_workers"), pool.get("next_at_limit_seconds")
    if unreadable:
        yield _unreadable(pool, unreadable)
    if next_at_limit is not None:
        yield f"the next worker reaches its limit in about {about(next_at_limit)}"


def _unreadable(pool: PoolRow, number: int) -> str:
    workers = len(pool["workers"])
    at_least = "" if number == workers else "at least "  # only one of them is tried, unless they may be over the limit
    # With another metric it is headroom or pressure for which the workers' own memory must be read.
    metric, other = (
        (pool["metric"], "; if it may signal them, metric=rss is enough")
        if pool["metric"] in ("uss", "pss")
        else ("uss", "")
    )
    remedy = f"run memreap as their user or as root with CAP_SYS_PTRACE{other}"
    return f"{at_least}{number} of {workers} workers: no permission to read {metric}; {remedy}"


def _overdue(number: int, hindrance: HindranceRow) -> str:
    due = "1 worker is due and could not" if number == 1 else f"{number} workers are due and none could"
    is_said = hindrance["kind"] == "unsaved"  # with its cause, as a trouble of the listener
    why = "the state cannot be saved" if is_said else hindrance["text"]
    return f"{due} be signalled since {words.clock(hindrance['since'])}: {why}"


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(text, WIDTH, initial_indent="  ", subsequent_indent="    ", break_on_hyphens=False)


def standing_word(pool: PoolRow) -> str:
    """The state of a pool, in one word; `details` has the rest."""
    return (pool["state"] if pool["standing"] == Standing.NOT_RUNNING else pool["standing"]).upper()


def _over(pool: PoolRow) -> str:
    known = [over for worker in pool["workers"] if (over := worker.get("over")) is not None]
    return str(sum(known)) if len(known) == len(pool["workers"]) else "-"


def workers_table(pool: PoolRow) -> str:
    """One line for each worker of a pool, the largest first."""
    rows = [("pid", "age", pool["metric"], "growth", "")]
    for worker in largest_first(pool):
        sizes = size(worker.get("used_bytes")), growth(worker.get("growth_bytes_per_hour"))
        rows.append((str(worker["pid"]), seconds(worker["age_seconds"]), *sizes, note(worker)))
    return aligned(rows)


def largest_first(pool: PoolRow) -> list[WorkerRow]:
    return sorted(pool["workers"], key=lambda worker: worker.get("used_bytes") or 0, reverse=True)


def note(worker: WorkerRow) -> str:
    """What happens to it, or why it has to go."""
    return worker.get("note") or worker.get("reason") or (OVER_LIMIT if worker.get("over") else "")
