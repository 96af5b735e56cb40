"""What the programs of supervisord hold, as a table, as sentences and as JSON. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, cast

from supervisor_memreap.core.rows import VERSION, Held, MemoryRow, known, without
from supervisor_memreap.core.text import aligned, count, printable
from supervisor_memreap.outputs.statustable import size

_NOTE = """\
Sorted by uss, the memory that no other process has. pss is that and a share of
the memory that processes have in common. swap comes on top of both."""
# Programs that are named in a line; the others are counted.
_MAX_NAMES = 5
_SIZES = ("uss_bytes", "pss_bytes", "swap_bytes")


def ordered(held: Held) -> list[MemoryRow]:
    """All rows, the largest first; what is unknown comes before what holds nothing."""
    rows = [*held.programs, *([held.supervisord] if held.supervisord else [])]
    return sorted(rows, key=lambda row: (-(row.get("uss_bytes") or 0), "unknown" not in row, row["name"]))


def text(held: Held) -> str:
    return f"{table(ordered(held))}\n{_NOTE}"


def table(rows: Sequence[MemoryRow]) -> str:
    """One line for each row, and one for all."""
    head = ("", "", "processes", "uss", "pss", "swap")
    return aligned([head, *map(_cells, rows), _cells(total(rows))])


def _cells(row: MemoryRow) -> tuple[str, ...]:
    processes = row.get("processes")
    sizes = [size(cast("int | None", row.get(key))) for key in _SIZES]
    if "unknown" in row:  # at least
        sizes = [cell if cell == size(None) else f">{cell}" for cell in sizes]
    return printable(row["name"]), printable(row["state"]), size(None) if processes is None else str(processes), *sizes


def total(rows: Sequence[MemoryRow]) -> MemoryRow:
    """The sum of all that is known."""
    sums = {key: _sum([row.get(key) for row in rows]) for key in ("processes", *_SIZES, "unreadable_processes")}
    sums["unreadable_processes"] = sums["unreadable_processes"] or None
    if any("uss_bytes" in row and "pss_bytes" not in row for row in rows):
        sums["pss_bytes"] = None  # a system without pss
    unknown = "; ".join(troubles(rows)) or None
    return known(cast("MemoryRow", {"name": "total", "state": "", **sums, "unknown": unknown}))


def _sum(values: Sequence[Any]) -> int | None:
    """None where nothing is known."""
    numbers = [value for value in values if value is not None]
    return sum(numbers) if numbers or not values else None


def troubles(rows: Iterable[MemoryRow]) -> list[str]:
    """Why something is unknown, and the remedy: a line for each cause."""
    affected: dict[str, list[MemoryRow]] = {}
    for row in rows:
        if row.get("unknown"):
            affected.setdefault(row["unknown"] or "", []).append(row)
    return [f"{_who(those)}: {cause}" for cause, those in affected.items()]


def _who(rows: Sequence[MemoryRow]) -> str:
    names = ", ".join(printable(row["name"]) for row in rows[:_MAX_NAMES])
    names += f" and {count(len(rows) - _MAX_NAMES, 'more program')}" if len(rows) > _MAX_NAMES else ""
    unreadable, processes = (_sum([row.get(key) for row in rows]) for key in ("unreadable_processes", "processes"))
    return f"{unreadable} of {processes} processes of {names}" if unreadable else names


def values(held: Held) -> dict[str, Any]:
    """For JSON; unknown values are left out."""
    rows = ordered(held)
    return {
        "version": VERSION,
        "programs": [row for row in rows if row is not held.supervisord],
        **({"supervisord": held.supervisord} if held.supervisord else {}),
        "total": without(total(rows), "name", "state"),
    }
