"""What a report shows about a pool: counts, sizes, times, and what is not known. No process here."""

from __future__ import annotations

import dataclasses
import json

import pytest
from support import sawtooth
from support.sawtooth import DAY, HOUR, LIMIT, UNTIL

from supervisor_memreap.core import events, hindrance
from supervisor_memreap.core.model import ProcessId, SentMoment
from supervisor_memreap.core.reasons import OverLimit, Requested
from supervisor_memreap.core.text import MIB
from supervisor_memreap.outputs import fields, tally
from supervisor_memreap.reports import summary

SINCE = UNTIL - DAY
OVER = OverLimit(152 * MIB, LIMIT, "uss")


@pytest.fixture(scope="module", autouse=True)
def _utc():
    with sawtooth.time_zone("UTC0"):
        yield


def of(history, since=SINCE, until=UNTIL):
    return summary.of(history, since, until)


def page(history, since=SINCE, until=UNTIL) -> str:
    return summary.text(of(history, since, until))


def empty(*happened, **values):
    """A pool that was watched for a day, in which only this happened."""
    quiet = sawtooth.pool(workers=1, limit=None)
    return dataclasses.replace(sawtooth.with_events(quiet, *happened), **values)


def reaped(at: float, pid: int = 4242, after: float = 1.0, came_back: int | None = MIB, reason=OVER):
    worker = ProcessId(pid, 1.0)
    return (
        events.Signalled("a", at, worker, reason, "HUP", SentMoment.HELD, 60.0),
        events.Left("a", at + after, worker, after, None, came_back),
    )


TROUBLED = """\
shop
  from 27 Nov 00:00 to 28 Nov 2025 00:00 (UTC+00:00), recorded for 22 h of 24 h

  workers replaced   12: 11 limit, 1 max_age
  memory freed       1.6 GiB
  time to leave      median 0.2 s, longest 4.0 s
  refused            4: 2 not permitted, 1 never idle, 1 signal not caught
  stuck              1
  suspended          27 Nov 14:00 for 90 min: even a fresh worker holds 42 MiB
                     (uss), limit 40 MiB, 12 s after its start; set limit=90MB
                     or higher; resumes after 6.0 h
  growth             11 MiB an hour for a worker (median of 16 workers)
  largest (uss)      128 MiB now, peak 151 MiB (27 Nov 14:04), limit 150 MiB
  total of the pool  486 MiB now, peak 601 MiB (27 Nov 11:59), 5 workers
  counted since      27 Nov 2025 00:00: 11 workers replaced, 1.6 GiB freed
  not recorded       27 Nov 09:01 for 119 min

     day  replaced    freed  reasons
  27 Nov        12  1.6 GiB  11 limit, 1 max_age"""


def test_a_report_fits_80_columns():
    assert page(sawtooth.troubled()) == TROUBLED


@pytest.mark.dear
def test_a_month_fits_on_a_page_with_a_line_for_each_day():
    report = of(sawtooth.pool(workers=12, days=30), UNTIL - 30 * DAY)
    lines = summary.text(report).splitlines()
    assert len(lines) <= 50
    assert max(map(len, lines)) <= 80
    days = lines[lines.index(next(line for line in lines if "reasons" in line)) + 1 :]
    assert (days[0].split()[:2], days[-1].split()[:2], len(days)) == (["29", "Oct"], ["27", "Nov"], 30)
    assert sum(int(line.split()[2]) for line in days) == report.replaced["limit"]


def test_a_reap_counts_when_the_worker_has_left_under_the_reason_of_its_signal():
    before, after = reaped(SINCE - 1, pid=1, after=2.0), reaped(UNTIL - 1, pid=2, after=2.0)
    asked = reaped(SINCE + HOUR, pid=3, reason=Requested(None, "uss"))
    report = of(empty(*before, *after, *asked))
    assert report.replaced == {"limit": 1, "requested": 1}
    assert report.times_to_leave == (1.0, 2.0)


def test_a_worker_without_a_recorded_signal_left_for_an_unknown_reason():
    _, left = reaped(SINCE + HOUR)
    assert of(empty(left)).replaced == {"unknown": 1}


def test_a_reused_pid_has_the_reason_of_its_own_signal():
    twice = (*reaped(SINCE + HOUR), *reaped(SINCE + 2 * HOUR, reason=Requested(None, "uss")))
    assert of(empty(*twice)).replaced == {"limit": 1, "requested": 1}


def test_memory_not_known_to_be_freed_is_not_counted():
    assert of(empty(*reaped(SINCE + 1), *reaped(SINCE + 9, pid=2, came_back=None))).freed == MIB


def test_each_day_has_its_own_reaps_by_the_wall_clock():
    with sawtooth.time_zone("CET-1CEST,M3.5.0,M10.5.0/3"):
        report = of(empty(*reaped(SINCE + 22 * HOUR), *reaped(SINCE + 23.5 * HOUR, pid=2)))
    assert [sum(day.replaced.values()) for day in report.days] == [1, 1]
    assert [day.at for day in report.days] == [SINCE, SINCE + 23 * HOUR]


def test_a_report_and_the_metrics_count_the_same_refusals():
    today = set(summary.REFUSALS) - set(summary._OLD_REFUSALS)
    assert {fields.kind_of(getattr(events, name)) for name in today} == set(tally.REFUSED)
    assert {kind.__name__ for kind in events.kinds(events.Veto)} < set(summary.REFUSALS)


def test_a_worker_that_left_before_it_was_signalled_is_no_refusal():
    history = empty(events.LeftByItself("a", SINCE + HOUR, ProcessId(7, 1.0), OVER))
    assert (of(history).refused, of(history).troubles) == ({}, {})


def test_a_pool_that_stays_overdue_is_counted_once_however_often_the_log_repeats_it():
    begun, *repeated = (
        events.Overdue("a", SINCE + HOUR + lasts, 2, 300 * MIB, 150 * MIB, "uss", lasts, hindrance.GROUP)
        for lasts in (10.0, 610.0, 1210.0)
    )
    assert of(empty(begun, *repeated)).troubles == {"Overdue": 1}
    assert "  other trouble      1 (pool overdue)" in page(empty(begun, *repeated))


def test_a_pool_whose_sizes_may_not_be_read_is_among_the_troubles():
    history = empty(events.SizesUnreadable("a", SINCE + HOUR, ProcessId(7, 1.0), "uss"))
    assert (of(history).refused, of(history).troubles) == ({}, {"SizesUnreadable": 1})
    assert "  other trouble      1 (sizes unreadable)" in page(history)


def test_what_observe_would_have_done_is_not_a_refusal():
    history = empty(events.WouldReap("a", SINCE + HOUR, ProcessId(7, 1.0), OVER))
    assert (of(history).refused, of(history).observed) == ({}, {"limit": 1})
    assert "  would be replaced  1 (limit), observe=yes" in page(history)
    assert "1 would be replaced (observe=yes)" in summary.summary_line(history, SINCE, UNTIL)


def test_growth_is_per_worker_and_hour_without_the_first_minute_of_a_worker():
    report = of(sawtooth.pool(workers=1, limit=None))
    (worker,) = sawtooth.pool(workers=1, limit=None).workers
    per_hour = (worker.readings[-1].used - worker.readings[0].used) / 24
    assert report.growth == pytest.approx(per_hour, rel=0.02)
    assert report.grown == 1


def test_growth_of_workers_that_were_watched_too_briefly_is_unknown():
    history = sawtooth.pool(days=5 / 1440)
    assert of(history).growth is None
    assert "unknown: no worker was recorded for 10 minutes" in page(history)


def test_a_suspension_that_began_before_counts_and_one_that_ended_before_does_not():
    wrong = events.WrongSetting(
        "a", SINCE - 3 * HOUR, OverLimit(42 * MIB, 40 * MIB, "uss"), "limit=90MB", 12.0, 2 * DAY
    )
    ended = events.Resumed("a", SINCE - HOUR, "its settings changed")
    assert of(empty(wrong, ended)).suspensions == ()
    (lasting,) = of(empty(wrong)).suspensions
    assert not lasting.has_ended
    assert "26 Nov 21:00 since then (27 h): even a fresh worker" in page(empty(wrong))
    assert "suspended for 24 h" in summary.summary_line(empty(wrong), SINCE, UNTIL)


def test_other_problems_are_counted():
    lost = events.NotReplaced("a", SINCE + HOUR, ProcessId(7, 1.0), 60.0, 3, 5)
    assert "  other trouble      1 (pool not settled after a reap)" in page(empty(lost))


def test_an_old_reading_is_not_shown_as_current():
    text = page(sawtooth.pool(until=UNTIL - 3 * HOUR))
    assert "115 MiB at 27 Nov 21:00" in text
    assert " now" not in text


def test_the_last_gaps_are_listed_and_the_others_counted():
    history = sawtooth.pool()
    for hour in range(2, 23, 3):
        history = sawtooth.with_gap(history, SINCE + hour * HOUR, SINCE + (hour + 1) * HOUR)
    text = page(history)
    assert "recorded for 17 h of 24 h" in text
    assert " ".join(text.split()).count(" for 59 min") == 5
    assert "and 2 more before" in " ".join(text.split())


def test_the_time_before_the_first_look_at_a_pool_is_not_a_gap():
    new = sawtooth.pool(days=2 / 24)
    assert of(new).gaps == ()
    text = page(new)
    assert "recorded since 27 Nov 22:00, its first look" in " ".join(text.split())
    assert "not recorded" not in text
    missed = sawtooth.with_gap(new, UNTIL - 1.5 * HOUR, UNTIL - 0.5 * HOUR)
    assert [round(gap.length / 60) for gap in of(missed).gaps] == [59]
    assert "recorded for 61 min of 2 h since 27 Nov 22:00" in " ".join(page(missed).split())


def test_without_a_reading_the_report_has_only_the_counters():
    text = page(sawtooth.pool(), UNTIL + DAY, UNTIL + 2 * DAY)
    assert text.splitlines()[1:] == [
        "  from 29 Nov 00:00 to 30 Nov 2025 00:00 (UTC+00:00), nothing recorded",
        "",
        "  counted since      27 Nov 2025 00:00: 11 workers replaced, 1.6 GiB freed",
    ]


def test_oom_kills_are_counted():
    at = SINCE + HOUR
    killed = events.OomKilled("a", at, "this host", None, 3, (ProcessId(7, 1.0), ProcessId(8, 1.0)), None, MIB, 2, 2)
    facts = of(empty(killed, dataclasses.replace(killed, at=at + 5, killed=1)))
    assert ("OOM killer", "ended 3 of its processes") in list(summary.rows(facts))
    assert summary.values(facts)["oom_killed"] == 3
    assert "OOM killer" not in page(empty())


def test_the_suggestion_is_the_last_line_of_the_facts():
    facts = summary.of(sawtooth.pool(), SINCE, UNTIL, suggestion="limit=170MB: 9 reaps a day instead of 11")
    assert list(summary.rows(facts))[-1] == ("suggestion", "limit=170MB: 9 reaps a day instead of 11")


@pytest.mark.parametrize(
    ("history", "line"),
    [
        (
            sawtooth.troubled(),
            "in the last 24 h: 12 workers replaced (11 limit, 1 max_age), 1.6 GiB freed, longest time to leave"
            " 4.0 s, 4 refused, 1 stuck, suspended for 90 min; largest 151 MiB, limit 150 MiB; recorded 22 h",
        ),
        (
            sawtooth.pool(),
            "in the last 24 h: 11 workers replaced (11 limit), 1.5 GiB freed, longest time to leave 0.4 s;"
            " largest 151 MiB, limit 150 MiB; recorded 24 h",
        ),
        (empty(), "in the last 24 h: no worker replaced; largest 349 MiB, no limit; recorded 24 h"),
        (sawtooth.pool(until=UNTIL - 2 * DAY), "in the last 24 h: nothing recorded"),
    ],
)
def test_the_daily_line_of_the_log(history, line):
    assert summary.summary_line(history, SINCE, UNTIL) == line


def test_a_pool_without_workers_has_a_line_too():
    history = dataclasses.replace(
        sawtooth.pool(),
        workers=(),
        readings=tuple(each._replace(workers=0, total=0, largest=0) for each in sawtooth.pool().readings),
    )
    assert "largest 0.0 MiB" in summary.summary_line(history, SINCE, UNTIL)
    assert "no worker" in page(history)


def test_values_are_json_with_units_and_zones():
    values = json.loads(json.dumps(summary.values(of(sawtooth.troubled())), allow_nan=False))
    assert values["reaps"] == sum(values["reaps_by_reason"].values()) == 12
    assert values["refused"] == {"NotPermitted": 2, "NeverIdle": 1, "NotCaught": 1}
    assert (values["since"], values["since_time"]) == (SINCE, "2025-11-27T00:00:00+00:00")
    assert values["recorded_seconds"] == 79260
    assert values["suspensions"][0]["until_time"] == "2025-11-27T15:30:00+00:00"
    assert values["days"] == [
        {
            "day": "2025-11-27",
            "reaps": 12,
            "reaps_by_reason": {"limit": 11, "max_age": 1},
            "given_back_bytes": values["given_back_bytes"],
        }
    ]
    assert "suggestion" not in values
    assert {"limit_bytes", "peak_total_bytes", "peak_total_time", "growth_bytes_per_hour"} <= set(values)
