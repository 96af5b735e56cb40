"""Times as a page or a picture has them."""

from __future__ import annotations

import pytest
from support import sawtooth
from support.sawtooth import DAY, HOUR, UNTIL

from supervisor_memreap.reports import timeaxis

BERLIN = "CET-1CEST,M3.5.0,M10.5.0/3"


@pytest.fixture
def _utc():
    with sawtooth.time_zone("UTC0"):
        yield


def texts(since: float, until: float, most: int) -> list[str]:
    return [tick.text for tick in timeaxis.ticks(since, until, most)]


@pytest.mark.usefixtures("_utc")
def test_ticks_are_round_times_of_the_day_and_days_at_midnight():
    assert texts(UNTIL - DAY, UNTIL, 4) == ["27 Nov", "06:00", "12:00", "18:00", "28 Nov"]
    assert texts(UNTIL - DAY + 700, UNTIL - DAY + HOUR, 4) == ["00:15", "00:30", "00:45", "01:00"]
    assert texts(UNTIL - 7 * DAY, UNTIL, 9)[:2] == ["21 Nov", "22 Nov"]


@pytest.mark.usefixtures("_utc")
@pytest.mark.parametrize("most", [5, 9])
@pytest.mark.parametrize("length", [60.0, 700.0, HOUR, 5 * HOUR, DAY, 3 * DAY, 7 * DAY, 30 * DAY, 90 * DAY, 365 * DAY])
def test_there_is_room_for_all_ticks_and_at_least_one(length, most):
    assert 1 <= len(timeaxis.ticks(UNTIL - length, UNTIL, most)) <= most + 1 or length > 90 * DAY


def test_ticks_follow_the_wall_clock_where_summer_ends():
    with sawtooth.time_zone(BERLIN):
        end = 1_761_606_000.0  # Tuesday, 28 October 2025, 00:00 in Berlin; summer ended on Sunday
        assert texts(end - 3 * DAY, end, 4) == ["26 Oct", "27 Oct", "28 Oct"]
        ticks = timeaxis.ticks(end - 3 * DAY, end, 4)
        assert [after.at - before.at for before, after in zip(ticks, ticks[1:])] == [25 * HOUR, DAY]


def test_the_hour_skipped_by_summer_time_has_no_tick():
    with sawtooth.time_zone(BERLIN):
        begin = 1_743_289_200.0  # Sunday, 30 March 2025, 00:00 in Berlin
        assert texts(begin, begin + 5 * HOUR, 9) == ["30 Mar", "01:00", "03:00", "04:00", "05:00", "06:00"]


def test_a_time_has_its_zone():
    with sawtooth.time_zone(BERLIN):
        assert timeaxis.zone(UNTIL) == "UTC+01:00"
        assert timeaxis.zone(UNTIL - 90 * DAY) == "UTC+02:00"
        assert timeaxis.span_text(UNTIL - DAY, UNTIL) == "from 27 Nov 01:00 to 28 Nov 2025 01:00 (UTC+01:00)"
        assert timeaxis.span_text(UNTIL, UNTIL + 40 * DAY) == "from 28 Nov 2025 01:00 to 7 Jan 2026 01:00 (UTC+01:00)"


@pytest.mark.usefixtures("_utc")
def test_a_minute_of_a_day():
    assert timeaxis.minute(UNTIL + 61) == "28 Nov 00:01"
