"""When a pool was recorded, and when it was suspended. No process here."""

from __future__ import annotations

import pytest
from support import sawtooth
from support.sawtooth import DAY, HOUR, UNTIL

from supervisor_memreap.advice import spans
from supervisor_memreap.advice.spans import Span
from supervisor_memreap.core import events
from supervisor_memreap.core.model import ProcessId, SentMoment
from supervisor_memreap.core.reasons import OverLimit, OverTotal, Requested
from supervisor_memreap.core.shortage import Kind, Shortage

MINUTE = 60.0


def every(step: float, start: float, end: float) -> list[float]:
    return [start + number * step for number in range(int((end - start) / step) + 1)]


def lengths(times: list[float], until: float) -> list[float]:
    return [span.length for span in spans.recorded(times, until)]


def test_a_reading_a_minute_is_one_span():
    assert spans.recorded(every(MINUTE, 0, HOUR), HOUR) == [Span(0, HOUR)]


def test_an_interval_much_longer_than_its_neighbours_is_a_gap():
    times = every(MINUTE, 0, HOUR) + every(MINUTE, 3 * HOUR, 4 * HOUR)
    recorded = spans.recorded(times, 4 * HOUR)
    assert recorded == [Span(0, HOUR + MINUTE), Span(3 * HOUR, 4 * HOUR)]
    assert spans.gaps(recorded, 0, 4 * HOUR) == [Span(HOUR + MINUTE, 3 * HOUR)]


@pytest.mark.parametrize("late", [61.0, 90.0, 170.0])
def test_a_late_reading_is_not_a_gap(late):
    times = every(MINUTE, 0, HOUR)
    times += [each + late for each in times[-1:]] + every(MINUTE, HOUR + late + MINUTE, 2 * HOUR)
    assert len(spans.recorded(times, 2 * HOUR)) == 1


def test_thinned_readings_have_no_gap_at_the_border():
    times = every(15 * MINUTE, 0, 6 * HOUR) + every(MINUTE, 6 * HOUR + MINUTE, 7 * HOUR)
    assert lengths(times, 7 * HOUR) == [7 * HOUR]
    history = sawtooth.pool(workers=2, days=3)
    assert len(spans.recorded([reading.at for reading in history.readings], UNTIL)) == 1


def test_a_gap_between_thinned_readings_is_detected_too():
    times = every(15 * MINUTE, 0, 6 * HOUR) + every(15 * MINUTE, 9 * HOUR, 12 * HOUR)
    assert lengths(times, 12 * HOUR) == [6.25 * HOUR, 3 * HOUR]


def test_after_the_last_reading_nothing_is_recorded():
    recorded = spans.recorded(every(MINUTE, 0, HOUR), DAY)
    assert recorded == [Span(0, HOUR + MINUTE)]
    assert spans.gaps(recorded, 0, DAY) == [Span(HOUR + MINUTE, DAY)]


def test_before_the_first_reading_nothing_is_recorded():
    assert spans.gaps(spans.recorded(every(MINUTE, HOUR, DAY), DAY), 0, DAY) == [Span(0, HOUR)]


def test_no_reading_is_no_span_and_a_single_reading_a_minute():
    assert spans.recorded([], DAY) == []
    assert spans.gaps([], 0, DAY) == [Span(0, DAY)]
    assert spans.recorded([HOUR], DAY) == [Span(HOUR, HOUR + MINUTE)]
    assert spans.recorded([DAY], DAY) == [Span(DAY, DAY)]


def test_only_the_part_within_the_time_counts():
    assert Span(0, 10).within(5, 8) == Span(5, 8)
    assert Span(0, 10).within(20, 30).length == 0
    assert Span(20, 30).within(0, 10).length == 0


TOO_LOW = events.WrongSetting("a", 100.0, OverLimit(42, 40, "uss"), "limit=90MB", 12.0, 21600.0)


def suspensions(*happened):
    return spans.suspensions([sawtooth.record(event) for event in happened], until=1000.0)


def test_a_suspension_lasts_until_it_is_resumed():
    (suspension,) = suspensions(TOO_LOW, events.Resumed("a", 400.0, "its settings changed"))
    assert (suspension.span, suspension.has_ended, suspension.why) == (Span(100, 400), True, TOO_LOW.text)
    (suspension,) = suspensions(TOO_LOW, events.ResumedByUser("a", 300.0, "resumed"))
    assert suspension.span == Span(100, 300)


def test_a_suspension_that_was_not_resumed_lasts():
    assert suspensions(TOO_LOW) == [spans.Suspension(Span(100, 1000), TOO_LOW.text, has_ended=False)]


def test_a_suspension_that_supervisord_did_not_survive_ended_when_its_setting_would_have_been_tried_again():
    """supervisord was restarted, and memreap no longer knows of it."""
    brief = events.WrongSetting("a", 100.0, OverLimit(42, 40, "uss"), "limit=90MB", 12.0, 600.0)
    (suspension,) = spans.suspensions([sawtooth.record(brief)], until=9000.0)
    assert (suspension.span, suspension.has_ended) == (Span(100, 700), True)


def test_an_event_repeated_after_a_restart_is_not_a_second_suspension():
    again = events.WrongSetting("a", 200.0, OverLimit(43, 40, "uss"), "limit=90MB", 12.0, 21600.0)
    assert [each.span for each in suspensions(TOO_LOW, again, events.Resumed("a", 400.0, "x"))] == [Span(100, 400)]


@pytest.mark.parametrize("reason", [OverLimit(95, 90, "uss"), Requested(None, "uss")])
def test_a_reap_that_the_suspension_would_have_prevented_ends_it(reason):
    """The machine was rebooted, and memreap no longer knows of it."""
    reap = events.Signalled("a", 500.0, ProcessId(11, 1.0), reason, "HUP", SentMoment.HELD, 60.0)
    (suspension,) = suspensions(TOO_LOW, reap)
    assert (suspension.span, suspension.has_ended) == (Span(100, 500), True)


def test_a_pool_that_is_suspended_again_after_such_a_reap_was_suspended_twice():
    reap = events.Signalled("a", 500.0, ProcessId(11, 1.0), OverLimit(95, 90, "uss"), "HUP", SentMoment.HELD, 60.0)
    again = events.WrongSetting("a", 700.0, OverLimit(43, 40, "uss"), "limit=90MB", 12.0, 21600.0)
    assert [each.span for each in suspensions(TOO_LOW, reap, again)] == [Span(100, 500), Span(700, 1000)]


def test_a_reap_for_short_memory_does_not_end_a_suspension():
    short = OverTotal(Shortage(Kind.TOTAL, "a", 90, 80, 80), 10)
    reap = events.Signalled("a", 500.0, ProcessId(11, 1.0), short, "HUP", SentMoment.HELD, 60.0)
    assert suspensions(TOO_LOW, reap)[0].span == Span(100, 1000)


def test_the_end_of_a_pause_is_not_a_suspension():
    assert suspensions(events.ResumedByUser("a", 300.0, "resumed")) == []
