"""Times as a page or a picture has them, by this machine's time zone."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import NamedTuple

_DAY = 86400
# Seconds between two ticks; each divides a day, or is a number of days.
_STEPS = (
    *(60 * minutes for minutes in (1, 5, 10, 15, 30, 60, 120, 180, 360, 720)),
    *(_DAY * days for days in (1, 2, 7, 14)),
)


class Tick(NamedTuple):
    at: float
    """Seconds since 1970."""
    text: str


def ticks(since: float, until: float, most: int) -> list[Tick]:
    """At most `most` round times of the day, or days, from `since` to `until`."""
    step = next((each for each in _STEPS if (until - since) / each <= most), 30 * _DAY)
    # By the wall clock, so that a tick stays at midnight where the zone changes between summer and winter.
    clock = datetime.fromtimestamp(since).replace(hour=0, minute=0, second=0, microsecond=0)  # noqa: DTZ006
    made = []
    while clock.timestamp() <= until:
        # The hour that is left out when summer time begins has no times.
        if clock.timestamp() >= since and datetime.fromtimestamp(clock.timestamp()) == clock:  # noqa: DTZ006
            is_day = clock.hour == clock.minute == 0
            made.append(Tick(clock.timestamp(), day(clock.timestamp()) if is_day else f"{clock:%H:%M}"))
        clock += timedelta(seconds=step)
    return made


def day(at: float) -> str:
    """`28 Nov`."""
    then = datetime.fromtimestamp(at)  # noqa: DTZ006
    return f"{then.day} {then:%b}"


def minute(at: float) -> str:
    """`28 Nov 07:30`."""
    return f"{day(at)} {datetime.fromtimestamp(at):%H:%M}"  # noqa: DTZ006


def zone(at: float) -> str:
    """`UTC+01:00`, which was in force then."""
    return f"UTC{datetime.fromtimestamp(at).astimezone().isoformat()[-6:]}"


def span_text(since: float, until: float) -> str:
    """`from 27 Nov 07:30 to 28 Nov 2026 07:30 (UTC+01:00)`."""
    start, end = datetime.fromtimestamp(since), datetime.fromtimestamp(until)  # noqa: DTZ006
    year = "" if start.year == end.year else f"{start.year} "
    return f"from {day(since)} {year}{start:%H:%M} to {day(until)} {end.year} {end:%H:%M} ({zone(until)})"


def date(at: float) -> str:
    """`28 Nov 2026 07:30`."""
    then = datetime.fromtimestamp(at)  # noqa: DTZ006
    return f"{day(at)} {then:%Y %H:%M}"


def days(since: float, until: float) -> Iterator[tuple[float, float]]:
    """The days of the calendar, from midnight to midnight, as far as they are within this time."""
    clock = datetime.fromtimestamp(since).replace(hour=0, minute=0, second=0, microsecond=0)  # noqa: DTZ006
    start = since
    while start < until:
        clock += timedelta(days=1)
        end = min(until, clock.timestamp())
        yield start, end
        start = end
