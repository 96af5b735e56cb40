"""Histories of pools that leak, level off, jump or stay as they are: which limit is suggested, and why none is."""

from __future__ import annotations

import math
import random
import re
from bisect import bisect_left
from collections.abc import Callable, Iterable
from dataclasses import replace

import pytest

from supervisor_memreap.advice.evidence import Kind
from supervisor_memreap.advice.passage import passage
from supervisor_memreap.advice.poolhistory import EventRecord, PoolHistory, PoolReading, Reading, WorkerHistory
from supervisor_memreap.advice.suggestion import Suggestion, Why, round_sizes, suggest
from supervisor_memreap.outputs.words import clock
from supervisor_memreap.reports import advicetext as words

pytestmark = pytest.mark.dear
MIB = 1024**2
HOUR, DAY = 3600.0, 86400.0
BEGIN = 1_790_000_000.0
Size = Callable[[float], float]
"""What a worker holds, in MiB, by its age in hours."""


def worker(
    pid: int, size: Size, start: float = 0.0, end: float = 24.0, reaped: bool = False, every: int = 5
) -> WorkerHistory:
    """`start` and `end` are hours since watching began; with a reading `every` so many minutes."""
    chance = random.Random(pid)
    minutes = range(math.ceil(max(0.0, start) * 60) + 1, math.ceil(end * 60), every)
    readings = tuple(
        Reading(BEGIN + minute * 60, int((size(minute / 60 - start) + chance.gauss(0, 0.2)) * MIB))
        for minute in minutes
    )
    return WorkerHistory(pid, BEGIN + start * HOUR, readings, reaped)


def pool(
    workers: Iterable[WorkerHistory],
    number: int = 4,
    hours: float = 24.0,
    limit: float | None = None,
    gap: tuple[float, float] = (0.0, 0.0),
    events: tuple[EventRecord, ...] = (),
) -> PoolHistory:
    minutes = [minute for minute in range(1, math.ceil(hours * 60)) if not gap[0] <= minute / 60 < gap[1]]
    in_force = int(limit * MIB) if limit else None
    readings = tuple(PoolReading(BEGIN + minute * 60, number, in_force, 0, 0) for minute in minutes)
    kept = tuple(
        WorkerHistory(
            each.pid,
            each.started,
            tuple(reading for reading in each.readings if not gap[0] <= (reading.at - BEGIN) / HOUR < gap[1]),
            each.was_reaped,
        )
        for each in workers
    )
    return PoolHistory("myapp", "uss", BEGIN, readings, kept, events)


def shifted(history: PoolHistory, seconds: float) -> PoolHistory:
    """The same, shifted by `seconds`."""
    workers = tuple(
        replace(
            worker,
            started=worker.started + seconds,
            readings=tuple(reading._replace(at=reading.at + seconds) for reading in worker.readings),
        )
        for worker in history.workers
    )
    readings = tuple(reading._replace(at=reading.at + seconds) for reading in history.readings)
    return replace(history, since=history.since + seconds, workers=workers, readings=readings)


def judged(history: PoolHistory, hours: float = 24.0) -> Suggestion:
    return suggest(history, BEGIN + hours * HOUR)


def leak(per_hour: float, base: float = 50.0) -> Size:
    return lambda age: base + per_hour * age


def four(size: Size, start: float = 0.0, end: float = 24.0, every: int = 5) -> list[WorkerHistory]:
    return [worker(pid, size, start, end, every=every) for pid in (11, 12, 13, 14)]


def reaped_at(limit: float, per_hour: float, days: float = 1.0, base: float = 50.0) -> list[WorkerHistory]:
    """Four places, in each one worker after another that is reaped at the limit."""
    life = (limit - base) / per_hour
    workers = []
    for place in range(4):
        start, pid = -place * life / 4, 100 * (place + 1)
        while start < 24 * days:
            end = start + life
            pid += 1
            if end > 0.1:
                size = leak(per_hour, base)
                workers.append(worker(pid, size, start, min(end, 24 * days), reaped=end < 24 * days))
            start = end
    return workers


def test_a_steady_leak_gives_the_smallest_limit_with_a_lifetime_of_hours():
    suggestion = judged(pool(four(leak(5))))
    assert suggestion.kind is Kind.STEADY
    assert (suggestion.limit, suggestion.why) == (120 * MIB, Why.WARM)
    chosen = suggestion.suggested
    assert chosen.life == pytest.approx(14 * HOUR, rel=0.1)
    assert chosen.reaps == pytest.approx(4 * 24 / 14, rel=0.1)
    assert chosen.total == pytest.approx(4 * 85 * MIB, rel=0.05)
    assert chosen.most == 4 * 120 * MIB


def test_the_baseline_is_the_size_of_most_workers_watched_from_early_on():
    workers = [*four(leak(5)), worker(15, leak(5, base=90)), worker(16, leak(5, base=10), start=-30)]
    suggestion = judged(pool(workers, 6))
    assert suggestion.baseline == pytest.approx(51 * MIB, rel=0.05)
    assert suggestion.fresh == 5
    assert suggestion.growth == pytest.approx(5 * MIB, rel=0.1)


def test_a_limit_is_never_below_twice_the_baseline():
    for rate in (0.0, 0.1, 1, 5, 40):
        suggestion = judged(pool(four(leak(rate))))
        assert suggestion.limit >= 2 * suggestion.baseline


def test_minutes_only_show_the_growth_so_far():
    suggestion = judged(pool(four(leak(60), end=0.8), hours=0.8), 0.8)
    assert (suggestion.why, suggestion.limit, suggestion.kind) == (Why.TOO_SHORT, None, Kind.UNKNOWN)
    assert (suggestion.baseline, suggestion.growth) == (None, None)
    suggestion = judged(pool(four(leak(60), end=1.2), hours=1.2), 1.2)
    assert suggestion.baseline == pytest.approx(55 * MIB, rel=0.1)
    assert suggestion.growth == pytest.approx(60 * MIB, rel=0.1)
    assert suggestion.grew == 4


def test_most_of_a_day_is_too_short_since_the_load_may_differ_later():
    assert judged(pool(four(leak(5), end=19), hours=19), 19).why is Why.TOO_SHORT
    assert judged(pool(four(leak(5), end=23.9), hours=23.9), 23.9).limit


def test_a_day_with_a_gap_of_half_of_it_is_too_short():
    assert judged(pool(four(leak(5)), gap=(6, 18))).why is Why.TOO_SHORT


def test_growth_during_a_gap_does_not_count():
    suggestion = judged(pool(four(leak(5), end=28), hours=28, gap=(10, 13)), 28)
    assert suggestion.growth == pytest.approx(5 * MIB, rel=0.1)


def test_a_pool_without_workers_is_reported():
    assert judged(pool([])).why is Why.NO_WORKERS


def test_growth_that_levels_off_gives_a_limit_above_all_sizes_seen():
    suggestion = judged(pool(four(lambda age: 50 + 60 * (1 - math.exp(-age)))))
    assert (suggestion.kind, suggestion.why) == (Kind.LEVELS_OFF, Why.CLEAR)
    assert suggestion.limit == 150 * MIB
    assert suggestion.suggested.below == 3


def test_no_growth_gives_a_limit_that_catches_a_future_leak():
    suggestion = judged(pool(four(lambda age: 51)))
    assert (suggestion.kind, suggestion.limit) == (Kind.NONE, 120 * MIB)
    assert suggestion.suggested.below == 3
    assert suggestion.suggested.total == pytest.approx(4 * 51 * MIB, rel=0.02)


def test_a_leak_after_copy_on_write_is_predicted_from_the_leak_alone():
    suggestion = judged(pool(four(lambda age: 50 + 40 * (1 - math.exp(-2 * age)) + 4 * age, end=48), hours=48), 48)
    assert suggestion.kind is Kind.MIXED
    assert suggestion.suggested.life == pytest.approx((suggestion.limit / MIB - 90) / 4 * HOUR, rel=0.15)


def jumps(pid: int, days: float, every: float) -> Size:
    """A large request every few hours on average, which leaks 80 MiB."""
    chance = random.Random(pid)
    times = sorted(chance.uniform(0, days * 24) for _ in range(round(days * 24 / every)))
    return lambda age: 50 + 80 * bisect_left(times, age)


@pytest.mark.parametrize("start", [0, -3])
def test_the_time_of_day_at_the_start_makes_no_difference(start):
    """A part of the day watched for only some minutes is not evidence."""
    leaking = pool(four(leak(2), start=start))
    values_for = {
        (suggestion.kind, suggestion.limit)
        for later in range(300, 3 * 3600, 1500)
        for suggestion in [suggest(shifted(leaking, later), BEGIN + later + 24 * HOUR)]
    }
    assert values_for == {(Kind.STEADY, 120 * MIB)}


def test_jumps_after_single_requests_are_spikes():
    workers = [worker(pid, jumps(pid, 1.25, 4), end=30, every=2) for pid in range(80)]
    suggestion = judged(pool(workers, 80, 30), 30)
    assert suggestion.kind is Kind.SPIKES
    needed = math.ceil((suggestion.limit / MIB - 50) / 80)
    assert suggestion.suggested.life == pytest.approx(4 * HOUR * needed, rel=0.25)
    assert suggestion.why is Why.AFTER_SPIKES


@pytest.mark.parametrize("late", [0, 2, 10])
def test_nothing_is_predicted_above_a_limit_in_force(late):
    """Busy workers are reaped after their next readings, which are above the limit."""
    workers, pid = [], 0
    for place in range(4):
        start = 0.0
        while start < 72:
            size = jumps(pid, 3, 20)
            over = next((minute / 60 for minute in range(72 * 60) if size(minute / 60) > 90), 72.0)
            end = min(72.0, start + over + (late + 0.5) / 60)
            workers.append(worker(pid * 10 + place, size, start, end, reaped=end < 72))
            start, pid = end, pid + 1
    suggestion = judged(pool(workers, 4, 72, limit=90), 72)
    assert all(not each.is_known for each in suggestion.forecasts if each.limit > 90 * MIB)
    assert suggestion.limit is None


def test_a_few_jumps_are_not_enough():
    workers = [worker(pid, jumps(pid, 1, 8)) for pid in range(3)]
    suggestion = judged(pool(workers, 3))
    assert (suggestion.why, suggestion.limit) == (Why.UNSURE, None)
    assert not suggestion.forecasts[0].is_known


def test_twenty_jumps_over_a_limit_are_not_enough_for_a_rate():
    workers = [worker(pid, jumps(pid, 3, 8), end=72, every=2) for pid in range(20)]
    (forecast,) = suggest(pool(workers, 20, 72), BEGIN + 72 * HOUR, [320 * MIB]).forecasts
    assert not forecast.is_known


def test_sizes_that_no_worker_grew_through_may_take_any_time():
    low = [worker(pid, leak(5), end=6) for pid in range(4)]
    high = [worker(pid, leak(5), start=-20) for pid in range(10, 14)]
    assert passage([*low, *high], 52 * MIB, 200 * MIB, 1200, 7200).crossings == 4
    assert math.isinf(passage([*low, *high], 52 * MIB, 200 * MIB, 1200, 7200).seconds)


def test_old_workers_do_not_show_the_size_of_a_fresh_one_if_they_grew_for_long():
    suggestion = judged(pool(four(leak(5), start=-200)))
    assert (suggestion.why, suggestion.baseline) == (Why.NO_FRESH, None)
    assert suggestion.growth == pytest.approx(5 * MIB, rel=0.1)


def test_the_size_of_a_fresh_worker_is_extrapolated_over_some_hours():
    suggestion = judged(pool(four(leak(2), start=-3)))
    assert suggestion.fresh == 0
    assert suggestion.baseline == pytest.approx(50 * MIB, rel=0.1)
    assert suggestion.limit == 120 * MIB


def test_a_worker_with_an_unknown_start_counts_from_when_it_was_seen():
    suggestion = judged(pool([*four(leak(5))[:2], *four(leak(5), start=-40)[2:]]))
    assert suggestion.suggested.life == pytest.approx((suggestion.limit / MIB - 50) / 5 * HOUR, rel=0.15)


def test_workers_replaced_by_the_present_limit_count_up_to_it():
    suggestion = judged(pool(reaped_at(90, 5), limit=90))
    assert suggestion.present.limit == 90 * MIB
    assert suggestion.present.life == pytest.approx(8 * HOUR, rel=0.15)
    assert suggestion.suggested.life == pytest.approx((suggestion.limit / MIB - 50) / 5 * HOUR, rel=0.2)


def test_the_present_limit_is_kept_if_it_is_right():
    suggestion = judged(pool(reaped_at(110, 5), limit=110))
    assert suggestion.limit == 110 * MIB


def test_a_worker_reaped_for_another_reason_did_not_reach_the_limit():
    rolled = [worker(pid, leak(0.1), end=12, reaped=True) for pid in range(4)]
    fresh = [worker(pid + 10, leak(0.1), start=12) for pid in range(4)]
    event = [EventRecord(BEGIN + 12 * HOUR, "Signalled", pid, {"reason": "requested"}) for pid in range(4)]
    suggestion = judged(pool([*rolled, *fresh], limit=200, events=tuple(event)))
    assert suggestion.limit
    assert not suggestion.forecasts[0].reaps


def test_nothing_is_predicted_far_above_the_sizes_seen():
    suggestion = judged(pool(four(leak(3))))
    (far,) = suggest(pool(four(leak(3))), BEGIN + DAY, [400 * MIB]).forecasts
    assert far.life is None
    assert not far.is_known
    assert suggestion.limit


def test_candidate_limits_may_be_passed():
    history = pool(four(leak(5)))
    suggestion = suggest(history, BEGIN + DAY, [130 * MIB, 110 * MIB])
    assert [forecast.limit for forecast in suggestion.forecasts] == [110 * MIB, 130 * MIB]
    assert suggestion.limit == 110 * MIB


def test_a_leak_too_fast_for_hours_gives_the_largest_limit_that_can_be_judged():
    suggestion = judged(pool(reaped_at(300, 250), limit=300))
    assert suggestion.why is Why.SHORT_LIVES
    assert suggestion.suggested.life < 6 * HOUR


def test_records_older_than_a_week_do_not_count():
    old = [worker(pid, leak(50), end=24) for pid in range(4)]
    new = [worker(pid + 10, leak(1), start=24 * 9, end=24 * 11) for pid in range(4)]
    suggestion = judged(pool([*old, *new], hours=24 * 11), 24 * 11)
    assert suggestion.growth == pytest.approx(1 * MIB, rel=0.1)


def restarted(before: float, after: float, hours: float, base: float = 50.0) -> Suggestion:
    """All four workers are new after two days; MiB an hour before and after that, and hours since then."""
    later = [worker(pid + 10, leak(after, base), start=48, end=48 + hours) for pid in (11, 12, 13, 14)]
    return judged(pool([*four(leak(before), end=48), *later], hours=48 + hours), 48 + hours)


@pytest.mark.parametrize("factor", [0.25, 0.4, 2.5, 4])
def test_records_before_a_restart_that_changed_the_leak_do_not_count(factor):
    suggestion = restarted(5, 5 * factor, 28)
    assert suggestion.growth == pytest.approx(5 * factor * MIB, rel=0.1)
    assert suggestion.restarted == 28 * HOUR
    assert suggestion.suggested.life == pytest.approx((suggestion.limit / MIB - 50) / 5 / factor * HOUR, rel=0.15)
    assert words.line(suggestion).startswith("watched for 28 h since all workers were restarted: a limit of")


def test_records_before_a_restart_that_changed_nothing_count():
    suggestion = restarted(5, 5, 8)
    assert (suggestion.restarted, suggestion.seen) == (None, 8)
    assert suggestion.limit


@pytest.mark.parametrize(
    ("rate", "base", "hours", "ago", "again"),
    [(12.5, 50, 8, "8 h", "13 h"), (5, 70, 8, "8 h", "13 h"), (5, 50, 1, "60 min", "3 h")],
    ids=["another leak", "another size", "not known"],
)
def test_with_too_few_records_after_a_restart_it_reports_when_to_ask_again(rate, base, hours, ago, again):
    suggestion = restarted(5, rate, hours, base)
    assert (suggestion.why, suggestion.limit) == (Why.TOO_SHORT, None)
    assert words.why_not(suggestion) == (
        f"all workers were restarted {ago} ago, perhaps with another release, and too little was watched since then to"
        f" know how they grow now; ask again in {again}"
    )


def test_workers_all_replaced_many_times_a_day_are_not_a_new_release():
    workers = [worker(number, leak(5), start=5.0 * number, end=5.0 * number + 5) for number in range(15)]
    assert judged(pool(workers, 1, 75), 75).restarted is None


def test_workers_that_were_all_reaped_are_not_a_new_release():
    workers = [replace(each, was_reaped=True) for each in four(leak(5), end=48)]
    later = [worker(pid + 10, leak(20), start=48, end=76) for pid in (11, 12, 13, 14)]
    assert judged(pool([*workers, *later], hours=76), 76).restarted is None


def rolled(before: float, after: float) -> Suggestion:
    """Eight workers that are replaced one after another by a roll of 40 minutes after two days; 30 hours follow."""
    ends = [48 + place / 12 for place in range(8)]
    old = [worker(10 + place, leak(before), 0, end, reaped=True) for place, end in enumerate(ends)]
    new = [worker(30 + place, leak(after), end + 0.01, 78) for place, end in enumerate(ends)]
    asked = [
        EventRecord(BEGIN + end * HOUR, "Signalled", 10 + n, {"reason": "requested"}) for n, end in enumerate(ends)
    ]
    done = EventRecord(BEGIN + 48.7 * HOUR, "Rolled", 0, {"workers": 8})
    return judged(pool([*old, *new], 8, 78, events=(*asked, done)), 78)


def test_records_before_a_roll_that_changed_the_leak_do_not_count():
    suggestion = rolled(2, 8)
    assert suggestion.restarted == pytest.approx(30 * HOUR, abs=60)
    assert suggestion.seen == 8
    assert suggestion.suggested is not None
    assert suggestion.suggested.reaps == pytest.approx(8 * 24 * 8 / (suggestion.suggested.limit / MIB - 50), rel=0.1)


def test_records_before_a_roll_that_changed_nothing_count():
    suggestion = rolled(5, 5)
    assert (suggestion.restarted, suggestion.seen) == (None, 16)


def test_a_weekend_with_less_traffic_counts_as_two_days_of_seven():
    """Watched from Monday 14:13 (UTC) to Sunday 18:13."""
    saturday = 24 * 4 + 9.8
    traffic = lambda age: 50 + 1.0 * min(age, saturday) + 0.3 * max(0.0, age - saturday)  # noqa: E731
    suggestion = judged(pool(four(traffic, end=148), hours=148), 148)
    assert suggestion.growth == pytest.approx((5 + 2 * 0.3) / 7 * MIB, rel=0.03)


def test_a_weekend_alone_does_not_represent_the_other_days():
    suggestion = suggest(shifted(pool(four(leak(5))), 4.5 * DAY), BEGIN + 5.5 * DAY)
    assert "ask again when a whole weekday was watched" in words.line(suggestion)


def test_the_answer_is_deterministic():
    history = pool(four(leak(5)))
    assert judged(history) == judged(history)


def test_sizes_are_as_users_write_them():
    sizes = [size // MIB for size in round_sizes(90 * MIB)]
    assert sizes[:6] == [100, 120, 150, 200, 250, 300]
    assert 1024 in sizes


def test_the_log_line_states_what_the_suggested_limit_would_do():
    assert re.fullmatch(
        r"watched for 24 h: a limit of 120MB would replace about 6\.9 workers a day and hold the pool at about"
        r" 3[34]\d MiB; set limit=120MB",
        words.line(judged(pool(four(leak(5))))),
    )


def test_the_log_line_states_that_the_present_limit_is_right():
    line = words.line(judged(pool(reaped_at(110, 5), limit=110)))
    assert line.startswith("watched for 24 h: the limit of 110MB replaces about 8 workers a day and holds the pool at")
    assert line.endswith("; keep it")


def test_the_text_compares_the_present_limit_with_the_suggested_one():
    text = " ".join(words.text(judged(pool(reaped_at(80, 6), limit=80))).split())
    assert "The current limit of 80MB replaces about 19 workers a day" in text
    assert text.endswith("[memreap:myapp] limit=120MB")


@pytest.mark.parametrize(
    ("history", "hours", "reason"),
    [
        (pool(four(leak(60), end=0.4), hours=0.4), 0.4, "watched for 22 min, 4 workers grew; ask again tomorrow"),
        (pool([]), 24.0, "no worker was watched yet; ask again tomorrow"),
        (pool(four(leak(5), start=-200)), 24.0, "restart the program when convenient"),
        (
            pool([worker(pid, jumps(pid, 1, 8), every=1) for pid in range(3)], 3),
            24.0,
            "9 large requests seen, and it takes some 40 over a limit; look up in the access log what worker",
        ),
        (
            pool([worker(int(10 * at), leak(60), at / 6, at / 6 + 0.16) for at in range(300)], 1, 50),
            50.0,
            "watched for 2 d, but workers leave too soon to see how they grow",
        ),
        (
            pool([worker(day, leak(1), 24 * day, 24 * day + 10) for day in range(4)], 1, 96),
            96.0,
            "but in fewer than 20 of the 24 hours of a weekday",
        ),
        (
            pool([worker(10 * place + at, leak(2), at, at + 1) for place in range(4) for at in range(30)], 4, 30),
            30.0,
            "none came near a limit of twice what a warmed-up worker holds",
        ),
    ],
    ids=["too short", "no worker", "no fresh worker", "too few jumps", "short lives", "few hours", "not seen"],
)
def test_it_explains_why_no_limit_is_known_and_what_to_do(history, hours, reason):
    suggestion = judged(history, hours)
    assert reason in words.line(suggestion)
    assert reason in words.values(suggestion)["reason"]
    assert "limit=" not in words.text(suggestion)


@pytest.mark.parametrize(
    ("size", "why"),
    [(lambda age: 51, "workers do not grow"), (lambda age: 50 + 60 * (1 - math.exp(-age)), "workers stop growing")],
    ids=["no growth", "levels off"],
)
def test_a_pool_that_does_not_go_on_growing_needs_no_limit(size, why):
    suggestion = judged(pool(four(size)))
    assert f"No limit is needed, since {why}; " in " ".join(words.text(suggestion).split())
    assert f"no limit is needed, since {why}; limit=" in words.line(suggestion)
    assert words.values(suggestion)["needed"] is False


def test_a_pool_that_leaks_needs_a_limit_and_one_without_an_answer_may():
    leaking = judged(pool(four(leak(5))))
    assert words.values(leaking)["needed"] is True
    assert "is needed" not in words.text(leaking) + words.line(leaking)
    assert "needed" not in words.values(judged(pool(four(leak(60), end=0.4), hours=0.4), 0.4))


@pytest.mark.parametrize("kind", [Kind.SPIKES, Kind.UNKNOWN])
def test_whether_a_pool_needs_a_limit_is_unknown_where_it_is_not_known_to_leak(kind):
    leaking = judged(pool(four(leak(5))))
    assert leaking.limit
    assert "needed" not in words.values(replace(leaking, kind=kind))


def test_where_large_requests_leave_too_little_to_judge_it_names_the_largest_to_look_up():
    def one_large(pid: int) -> Size:
        return lambda age: 50 + (70 + pid) * (age > 3 + pid / 4)

    workers = [worker(pid, one_large(pid), every=1) for pid in (1, 2, 3)]
    suggestion = judged(pool(workers, 3))
    assert [(jump.pid, round(jump.climb / MIB)) for jump in suggestion.jumps] == [(3, 73), (2, 72), (1, 71)]
    at = suggestion.jumps[0].at
    assert at == pytest.approx(BEGIN + 3.75 * HOUR, abs=90)
    assert (
        "3 large requests seen, and it takes some 40 over a limit; look up in the access log what worker 3 served at"
        f" {clock(at)}, when it grew by 73 MiB"
    ) in words.line(suggestion)


@pytest.mark.parametrize(
    ("start", "hours", "why"), [(0, 12, Why.TOO_SHORT), (-200, 24, Why.NO_FRESH)], ids=["too short", "no fresh worker"]
)
def test_a_large_request_is_named_whatever_else_is_missing(start, hours, why):
    size = jumps(1, 1, 8)
    workers = [worker(pid, lambda age: size(age - max(0, -start)), start, hours, every=1) for pid in (1, 2)]
    suggestion = judged(pool(workers, 2, hours), hours)
    assert suggestion.why is why
    assert re.search("large requests? seen, .* what worker 1 served at .*, when it grew by", words.why_not(suggestion))
    assert "large request" not in words.why_not(judged(pool(four(leak(5), start, hours), 4, hours), hours))


def settled(took: float | None, at: float = 12.0) -> EventRecord:
    return EventRecord(BEGIN + at * HOUR, "Settled", 11, {"to_serve": took})


def test_what_a_short_life_costs_is_counted_from_the_time_that_replacements_took_to_serve():
    events = (settled(None), settled(10.0), settled(12.0), settled(40.0))
    suggestion = judged(pool(four(leak(5)), events=events))
    assert words.values(suggestion)["serve_seconds"] == 12
    assert suggestion.limit == 120 * MIB
    text = " ".join(words.text(suggestion).split())
    assert "A replacement serves after 12 s, so one of 4 workers is missing for 82 s a day." in text
    alone = words.text(judged(pool([worker(11, leak(5))], 1, events=events)))
    assert "so the only worker is missing for 21 s a day." in " ".join(alone.split())
    assert "is missing" not in words.text(judged(pool(four(leak(5)))))


def test_workers_live_a_thousand_times_as_long_as_a_replacement_takes_to_serve():
    suggestion = judged(pool(four(leak(5)), events=(settled(60.0),)))
    assert suggestion.suggested.life > 60_000
    assert suggestion.limit == 150 * MIB
    assert "with which a worker lives for 17 hours or more" in " ".join(words.text(suggestion).split())


def test_the_time_to_serve_before_a_deployment_does_not_count():
    later = [worker(pid + 10, leak(12.5), start=48, end=76) for pid in (11, 12, 13, 14)]
    events = (settled(60.0), settled(5.0, at=60.0))
    suggestion = judged(pool([*four(leak(5), end=48), *later], hours=76, events=events), 76)
    assert (suggestion.restarted, suggestion.serves) == (28 * HOUR, 5.0)


def test_the_text_has_80_columns():
    for history in (pool(four(leak(5))), pool(four(lambda age: 5000)), pool(reaped_at(80, 6), limit=80)):
        assert max(map(len, words.text(judged(history)).splitlines())) <= 80


def test_the_values_omit_what_is_unknown():
    values = words.values(judged(pool(four(leak(3)))))
    assert None not in values.values()
    known, unknown = values["candidates"][0], values["candidates"][-1]
    assert known["reaps_per_day"] == pytest.approx(4 * 24 * 3 / (known["limit_bytes"] / MIB - 50), rel=0.1)
    assert "reaps_per_day" not in unknown
    assert "life_seconds" not in unknown
