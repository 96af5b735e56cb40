"""benchmarks/memory.py at a small scale: what each metric predicts, what is freed, and what the event reports."""

from __future__ import annotations

import json
import random
import re
import sys
import xml.etree.ElementTree

import pytest
from support import stack
from support.swap import CannotSwap

sys.path.insert(0, str(stack.ROOT / "benchmarks"))

import memory
import memory_report

REAPS = 2
TEXTS = "{http://www.w3.org/2000/svg}text"


@pytest.fixture(scope="module")
def measured():
    """Reaps with `uss`, and one each with `rss` and `vms`, as they stand in the file of results."""
    metrics = [*["uss"] * REAPS, "rss", "vms"]
    with memory.served() as application:
        reaps = [memory.reap(application, metric, random.Random(number)) for number, metric in enumerate(metrics)]
    return [{**json.loads(json.dumps(row)), "versions": {"Linux": "here"}} for row in reaps]


def with_metric(measured, metric):
    return [row for row in measured if row["metric"] == metric]


def test_with_uss_the_worker_that_frees_most_is_reaped_and_that_much_is_freed(measured):
    rows = with_metric(measured, "uss")
    assert len(rows) == REAPS
    for row in rows:
        assert memory_report.picked_best(row)
        assert memory_report.freed(row) == pytest.approx(row["promised"], rel=0.1)


def test_the_event_reports_what_was_freed_with_any_metric(measured):
    for row in measured:
        assert row["event"]["came_back"] == pytest.approx(memory_report.freed(row), rel=0.1)
        assert row["event"]["used"] == pytest.approx(row["promised"], rel=0.01)
        assert row["event"]["taken"] == pytest.approx(row["replacement"], abs=memory.MIB)


@pytest.mark.parametrize(
    ("metric", "rest"), [("rss", "the rest is shared"), ("vms", "the rest is shared or was never used")]
)
def test_the_line_explains_a_metric_that_promised_more_than_was_freed(measured, metric, rest):
    (row,) = with_metric(measured, metric)
    assert row["promised"] > 1.3 * memory_report.freed(row)
    line = (
        rf"worker \d+ left after \S+ m?s, \d+ MiB of its [2-9]\d\d MiB \({metric}\) freed, {rest}, \d+ took its place"
    )
    assert re.match(line, row["event"]["text"]), row["event"]["text"]


def test_swap_shared_by_manager_and_workers_is_not_counted_as_swap_of_a_worker():
    try:
        pools = memory.in_swap()["swap"]
    except CannotSwap as error:
        pytest.skip(str(error))
    fresh, grown = pools["fresh"], pools["grown"]
    assert min(fresh["kernel"]) > 20 * memory.MIB
    assert max(fresh["after"]) < 2 * memory.MIB
    for before, after in zip(grown["before"], grown["after"]):
        assert 0.98 * before < after < before + 40 * memory.MIB


def test_the_tables_and_the_picture_have_the_figures(measured):
    page = memory_report.tables(measured)
    assert re.search(rf"^\| `uss` \| {REAPS} \| .* \| {REAPS} of {REAPS} \| {REAPS} of {REAPS} \|$", page, re.MULTILINE)
    assert f"In {len(measured)} of {len(measured)} reaps, the figure in memreap's log is within 10 %" in page
    picture = xml.etree.ElementTree.fromstring(memory_report.drawing(measured))
    assert set(memory_report.METRICS) <= {text.text for text in picture.iter(TEXTS)}
    marks = [mark for mark in picture.iter("{http://www.w3.org/2000/svg}rect") if mark.get("class") == "blue mid"]
    assert len(marks) == REAPS + 1  # and that of the legend


def test_the_page_and_the_picture_are_made_from_the_results_beside_them():
    results = memory.read(memory.RESULTS / "memory.jsonl")
    page = (memory.RESULTS / "memory.md").read_text()
    assert page.partition(memory_report.BEGIN)[2].partition(memory_report.END)[0].strip() == (
        memory_report.tables(results).strip()
    )
    assert (stack.ROOT / "docs/memory.svg").read_text() == memory_report.drawing(results)
