"""Values as a user writes them: sizes, durations, choices. Parsers raise a ValueError that says what is allowed."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import TypeVar

_SIZE = re.compile(r"([0-9]+)(?:\.([0-9]+))?\s*([kmgt]?)(?:i?b)?", re.IGNORECASE)
_SIZE_UNITS = {"": 1, "k": 1024, "m": 1024**2, "g": 1024**3, "t": 1024**4}
_DURATION = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*([a-z]*)", re.IGNORECASE)
_DURATION_UNITS = {"": 1, "s": 1, "sec": 1, "m": 60, "min": 60, "h": 3600, "d": 86400}
# No user waits longer: a longer duration is a mistake.
_MAX_SECONDS = 365 * 86400
_Value = TypeVar("_Value")
_Other = TypeVar("_Other")


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


def choice(words: Sequence[str], why: str) -> Callable[[str], str]:
    """A parser of one of these words, in small or capital letters; `why` is the error of any other."""

    def parse(text: str) -> str:
        if text.lower() not in words:
            raise ValueError(why)
        return text.lower()

    return parse


def at_least(minimum: str, why: str) -> Callable[[str], float]:
    """A parser of a duration that is not shorter than this one."""

    def parse(text: str) -> float:
        seconds = duration(text)
        if seconds < duration(minimum):
            raise ValueError(f"must be at least {minimum}, since {why}")
        return seconds

    return parse


def either(word: str, value: _Value, other: Callable[[str], _Other]) -> Callable[[str], _Value | _Other]:
    """A parser of this word, which means this value, and of what the other parser takes."""

    def parse(text: str) -> _Value | _Other:
        if text.lower() == word:
            return value
        try:
            return other(text)
        except ValueError as error:
            raise ValueError(f"{error}, or {word}") from None

    return parse
