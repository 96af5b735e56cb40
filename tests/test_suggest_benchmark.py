"""A part of benchmarks/suggest.py: promises of `memreap suggest` are right in 9 of 10; what other rules say."""

from __future__ import annotations

import sys
import time

import pytest
from support import stack

from supervisor_memreap.advice.poolhistory import PoolHistory, Reading, WorkerHistory
from supervisor_memreap.advice.suggestion import Why, suggest

sys.path.append(str(stack.ROOT / "benchmarks"))
import suggest as benchmark
import suggest_record
import suggest_recorded
import suggest_report
import suggest_rules
from pages import RESULTS

MIB = 1024**2
WRONG = benchmark.Outcome("steady leak", 0, "steady leak", "", 100, 10.0, None, 13.5, 0.1)


@pytest.fixture(scope="module")
def outcomes():
    """Of one pool of each kind; in this process, since a process pool leaves a helper process behind for a while."""
    kinds = [*benchmark.KINDS, benchmark.TOO_SHORT]
    return [benchmark.judge((kind, benchmark.FIRST + number)) for number, kind in enumerate(kinds)]


def test_nine_of_ten_predictions_are_right(outcomes):
    answered = [outcome for outcome in outcomes if outcome.is_answered]
    wrong = [outcome for outcome in answered if not outcome.is_right]
    assert len(wrong) <= 0.1 * len(answered), wrong


def test_most_leaks_are_answered(outcomes):
    leaks = [outcome for outcome in outcomes if outcome.kind.startswith("steady")]
    assert sum(outcome.is_answered for outcome in leaks) >= 0.7 * len(leaks)


def test_nothing_is_predicted_for_a_pool_watched_for_too_short_a_time(outcomes):
    short = [outcome for outcome in outcomes if outcome.kind == benchmark.TOO_SHORT]
    assert len(short) == 1
    assert not any(outcome.is_answered for outcome in short)


@pytest.mark.parametrize(
    ("predicted", "below", "actual", "is_right"),
    [
        (10.0, None, 12.4, True),
        (10.0, None, 13.5, False),
        (10.0, None, 7.9, False),
        (0.2, None, 0.9, True),
        (0.2, None, 1.1, False),
        (None, 3, 2.9, True),
        (None, 3, 3.0, False),
    ],
)
def test_a_prediction_is_right_within_25_percent_or_below_its_bound(predicted, below, actual, is_right):
    assert WRONG._replace(predicted=predicted, below=below, actual=actual).is_right is is_right


def test_the_table_counts_wrong_predictions():
    right = WRONG._replace(actual=10.0)
    no_answer = WRONG._replace(limit=None, why=Why.NO_FRESH.value)
    rows = suggest_report.table([WRONG, right, right, no_answer])
    assert rows[-1] == "| steady leak | 4 | 3 | 2 | 0 | 1 | 0 | steady leak 4 |"


def test_the_page_is_that_of_the_results():
    measured, outcomes = benchmark.saved(RESULTS / "suggest.jsonl")
    page = suggest_report.markdown(outcomes, suggest_recorded.contents()["made"], measured)
    assert page == (RESULTS / "suggest.md").read_text()
    assert {outcome.kind for outcome in outcomes} >= {*benchmark.KINDS, benchmark.TOO_SHORT}


@pytest.fixture(scope="module")
def recorded():
    """Each recorded pool, what is suggested for it now, and what the results say."""
    results = [outcome for outcome in benchmark.saved(RESULTS / "suggest.jsonl")[1] if outcome.server]
    pools = suggest_recorded.pools()
    return [*zip(pools, [suggest(each.history, each.until) for each in pools], results)]


def test_thirty_real_pools_of_seven_servers_are_recorded(recorded):
    assert len(recorded) >= 30
    assert len({pool.server for pool, _, _ in recorded}) == 7


def test_nine_of_ten_predictions_for_recorded_pools_are_right(recorded):
    answered = [outcome for _, _, outcome in recorded if outcome.is_answered]
    assert len(answered) >= len(recorded) / 2
    assert sum(outcome.is_right for outcome in answered) >= 0.9 * len(answered)


def test_the_results_are_what_is_suggested_now(recorded):
    for pool, suggestion, outcome in recorded:
        assert (outcome.server, outcome.kind) == (pool.server, pool.truth.kind)
        assert (outcome.limit, outcome.why) == (suggestion.limit, suggestion.why.value)


def test_a_deployment_of_a_recorded_pool_is_noticed_and_no_other_restart_is(recorded):
    for pool, suggestion, _ in recorded:
        ago = [pool.until - pool.truth.begin - day * 86400 for day in pool.truth.deploys]
        # In fast motion a manager takes some minutes to start.
        assert [suggestion.restarted] == [pytest.approx(each, abs=3600) for each in ago or [None]]


def test_a_client_that_fails_ends_the_recording(tmp_path, monkeypatch):
    def fail(*_: object) -> None:
        raise AssertionError("myapp does not answer")

    monkeypatch.setattr(suggest_record.Running, "play", fail)
    pool = suggest_record.Running(0, suggest_record.POOLS[0], tmp_path)
    with pytest.raises(AssertionError, match="myapp does not answer"):
        suggest_record._play([pool], 0, tmp_path, 40.0)


def held(*sizes: float, every: float = 3600.0) -> PoolHistory:
    """A pool of one worker of these sizes, in MiB."""
    readings = tuple(Reading(number * every, int(size * MIB)) for number, size in enumerate(sizes))
    return PoolHistory("myapp", "uss", 0.0, (), (WorkerHistory(1, 0.0, readings),))


def test_krr_is_the_largest_reading_and_5_percent():
    assert suggest_rules.krr(held(40, 100, 60)) == 105 * MIB


def test_vpa_is_the_end_of_a_bucket_of_the_peaks_and_15_percent():
    """The fifth of its buckets ends at 55.3 MB; the worker held 52.4 MB."""
    assert suggest_rules.vpa(held(*[50] * 30)) == round(1e7 * (1.05**5 - 1) / 0.05 * 1.15)


def test_vpa_forgets_a_peak_as_its_weight_halves_each_day():
    """A day of 100 MiB has less than a tenth of the weight of the days after it from the fourth day on."""
    low, high = (suggest_rules.vpa(held(*[size] * 24)) for size in (50, 100))
    assert [suggest_rules.vpa(held(*[100] * 24, *[50] * 24 * days)) for days in (0, 2, 3, 5)] == [high, high, low, low]


@pytest.mark.parametrize(
    ("sizes", "leaks"),
    [
        (range(50, 70), True),
        ([50.0] * 20, False),
        (range(70, 50, -1), False),
        ([50, 51] * 10, False),
        (range(50, 55), None),
    ],
)
def test_mann_kendall_finds_a_rising_trend_of_ten_hours_or_more(sizes, leaks):
    assert suggest_rules.leaks(held(*sizes)) is leaks


def test_a_pool_that_a_busy_machine_gave_no_time_is_one_clear_line(tmp_path, monkeypatch):
    real = suggest_record.POOLS[0]
    pool = suggest_record.Running(0, real, tmp_path)
    for step in ("restart", "warm_up"):
        monkeypatch.setattr(pool, step, lambda _: None)
    with pytest.raises(SystemExit, match=r"^paa \(FCGI::ProcManager\): no request .*; set more --hours$"):
        pool.play(0, tmp_path, time.monotonic() - 60, 1.0)
