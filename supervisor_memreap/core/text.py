"""How values are written for a reader: sizes, durations, and what a user wrote. Pure."""

from __future__ import annotations

# A value may be of any length; a line in a log or on a terminal shows enough of it to find it.
_MAX_CHARACTERS = 100
MIB = 1024**2


def quote(text: str) -> str:
    """At most 100 characters of the text."""
    return text if len(text) <= _MAX_CHARACTERS else f"{text[: _MAX_CHARACTERS - 3]}..."


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
    return f"{duration / 60:.0f} min" if duration < 7200 else f"{duration / 3600:.1f} h"


_SHOWN_SIZES = (("TB", 1024**4), ("GB", 1024**3), ("MB", 1024**2), ("KB", 1024))


def shown_size(size: int) -> str:
    """Bytes as a user writes them in a setting: `150MB`."""
    unit, divisor = next((each for each in _SHOWN_SIZES if size % each[1] == 0), ("", 1))
    return f"{size // divisor}{unit}"
