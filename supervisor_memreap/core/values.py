"""Sizes and durations as a user writes them. Pure."""

from __future__ import annotations

import re

_SIZE = re.compile(r"([0-9]+)(?:\.([0-9]+))?\s*([kmgt]?)(?:i?b)?", re.IGNORECASE)
_SIZE_UNITS = {"": 1, "k": 1024, "m": 1024**2, "g": 1024**3, "t": 1024**4}
_DURATION = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*([a-z]*)", re.IGNORECASE)
_DURATION_UNITS = {"": 1, "s": 1, "sec": 1, "m": 60, "min": 60, "h": 3600, "d": 86400}
# No user waits longer: a longer duration is a mistake.
_MAX_SECONDS = 365 * 86400


def size(text: str) -> int:
    """Bytes of `150MB`, `1.5G`, `100MiB`, `104857600`; as in Supervisor, a KB is 1024 bytes. Raises ValueError."""
    match = _SIZE.fullmatch(text.strip())
    if not match or len(text) > 40:
        raise ValueError("not a size, such as 150MB")
    whole, fraction = match[1], match[2] or ""
    divisor: int = 10 ** len(fraction)
    return int(whole + fraction) * _SIZE_UNITS[match[3].lower()] // divisor


def duration(text: str) -> float:
    """Seconds of `30s`, `5min`, `2h`, `1.5`, at most a year. Raises ValueError."""
    match = _DURATION.fullmatch(text.strip())
    if not match or len(text) > 40 or match[2].lower() not in _DURATION_UNITS:
        raise ValueError("not a duration, such as 30s, 5min or 2h")
    seconds = float(match[1]) * _DURATION_UNITS[match[2].lower()]
    if seconds > _MAX_SECONDS:
        raise ValueError("longer than a year; the maximum is 365d")
    return seconds
