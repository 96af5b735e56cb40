"""A part of benchmarks/suggest.py: promises of `memreap suggest` on synthetic pools are right in 9 of 10."""

from __future__ import annotations

import sys

import pytest
from support import stack

from supervisor_memreap.advice.suggestion import Why

sys.path.append(str(stack.ROOT / "benchmarks"))
import suggest as benchmark
import suggest_report
from pages import RESULTS

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
    assert rows[-1] == "| steady leak | 4 | 3 | 2 | 0 | 1 | steady leak 4 |"


def test_the_documentation_page_matches_the_benchmark():
    page = (RESULTS / "suggest.md").read_text()
    assert all(f"| {kind} |" in page for kind in (*benchmark.KINDS, benchmark.TOO_SHORT))
    assert suggest_report._LEGEND in page
    assert suggest_report._INTRODUCTION in page
