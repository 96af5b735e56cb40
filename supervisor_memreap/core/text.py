"""How values are written for a reader: sizes, durations, tables, and what a user wrote. Pure."""

from __future__ import annotations

from collections.abc import Sequence

# A value may be of any length; a line in a log or on a terminal shows enough of it to find it.
_MAX_CHARACTERS = 100
MIB = 1024**2
_MINUTE, _HOUR, _DAY = 60, 3600, 86400


def quote(text: str) -> str:
    """At most 100 characters of the text."""
    return text if len(text) <= _MAX_CHARACTERS else f"{text[: _MAX_CHARACTERS - 3]}..."


def printable(text: str) -> str:
    """What a program, a user or another machine has written, without what a terminal would obey."""
    return "".join(char if char.isprintable() else "?" for char in text)


def count(number: int, noun: str) -> str:
    """`1 worker`, `3 workers`."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def memory(size: int) -> str:
    """`312 MiB`, `5.3 MiB`, `1.4 GiB`, `2.0 TiB` of bytes."""
    mib = size / MIB
    if mib >= 1024:
        return f"{mib / 1024:.1f} GiB" if mib < 1024**2 else f"{mib / 1024**2:.1f} TiB"
    return f"{mib:.0f} MiB" if mib >= 10 else f"{mib:.1f} MiB"


def seconds(duration: float) -> str:
    """`12 ms`, `0.4 s`, `45 s`, `5 min`, `2.5 h` of seconds."""
    if duration < 0.1:
        return f"{duration * 1000:.0f} ms"
    if duration < 10:
        return f"{duration:.1f} s"
    if duration < 120:
        return f"{duration:.0f} s"
    return f"{duration / _MINUTE:.0f} min" if duration < 2 * _HOUR else f"{duration / _HOUR:.1f} h"


def duration(value: float) -> str:
    """What may last for days: `45 min`, `2.5 h`, `22 h`, `30 d` of seconds."""
    if value < 2 * _HOUR:
        return seconds(value)
    number, unit = (value / _HOUR, "h") if value < 3 * _DAY else (value / _DAY, "d")
    return f"{number:.0f} {unit}" if number >= 10 or number == round(number) else f"{number:.1f} {unit}"


def about(duration: float) -> str:
    """What is only estimated: `1 min`, `45 min`, `3 h`, `5 d` of seconds."""
    if duration < 1.5 * _HOUR:
        return f"{max(1, round(duration / _MINUTE))} min"
    return f"{duration / _HOUR:.0f} h" if duration < 2 * _DAY else f"{duration / _DAY:.0f} d"


def padded(rows: Sequence[tuple[str, ...]], is_right: bool = False) -> list[list[str]]:
    """The cells of a table, each as wide as its column."""
    widths = [max(map(len, column)) for column in zip(*rows)]
    return [[cell.rjust(width) if is_right else cell.ljust(width) for cell, width in zip(row, widths)] for row in rows]


def aligned(rows: Sequence[tuple[str, ...]]) -> str:
    """The rows as a table."""
    return "\n".join("  ".join(cells).rstrip() for cells in padded(rows))


_SHOWN_SIZES = (("TB", 1024**4), ("GB", 1024**3), ("MB", 1024**2), ("KB", 1024))


def shown_size(size: int) -> str:
    """Bytes as a user writes them in a setting: `150MB`."""
    unit, divisor = next((each for each in _SHOWN_SIZES if size % each[1] == 0), ("", 1))
    return f"{size // divisor}{unit}"
