"""benchmarks/loss.py at a small scale: what it measures, and the page and the picture that it makes of it."""

from __future__ import annotations

import json
import sys
import xml.etree.ElementTree
from collections import Counter

import pytest
from support import stack

sys.path.insert(0, str(stack.ROOT / "benchmarks"))

import loss
import loss_report

REAPS = 4
KEPT = loss.CONDITIONS[-1]._replace(leak=1400, pause=0.01)  # so that it is over in seconds


@pytest.fixture(scope="module")
def measured():
    """`ulimit -v` and memreap on kept connections, as they stand in the file of results."""
    with loss.application() as script:
        with loss.served(script, loss.WAYS["f"]) as pool:
            limits = loss.limits_of(pool)
            held = loss.observe(pool, "f", KEPT, limits, REAPS, 60, "f")
        with loss.served(script, loss.WAYS["a"], limits) as pool:
            limited = loss.observe(pool, "a", KEPT, limits, 4, 60, "a")
    return [json.loads(json.dumps(result)) for result in (limited, held)]


def test_a_worker_that_is_held_in_accept_loses_nothing_when_it_is_reaped(measured):
    _, held = measured
    assert held["recycled"] >= REAPS
    assert set(held["moments"]) == {"held"}
    assert (held["lost"], held["shortened"], held["cleanups_lost"]) == ({}, 0, 0)
    assert held["answered"] > REAPS
    assert held["promised"] > 0
    assert held["sleeps"] > 0


def test_a_request_that_is_cut_off_counts_as_lost(measured):
    limited, _ = measured
    assert limited["recycled"] >= 4
    assert sum(limited["lost"].values()) >= 4
    assert {what.split()[1] for what in limited["lost"]} == {"502"}


def test_the_page_and_the_picture_have_the_figures(measured):
    limited, held = measured
    page = loss_report.markdown(measured)
    took = {int(ms): count for ms, count in held["took"].items()}
    lost = sum(limited["lost"].values())
    rate = loss_report.rate(lost, limited["recycled"])
    assert f"| a | ulimit -v | {limited['recycled']} | {limited['answered']:,} | {lost} | {rate} |" in page
    assert f"| f | memreap | {held['recycled']} | {held['answered']:,} | 0 | 0 (< " in page
    assert f"| f | moderate, kept | {held['leak']} | {held['recycled']} |" in page
    assert f"{loss_report.memory(held['overshoot'])} | {loss_report._durations(Counter(took))} |" in page
    assert f"FCGI::ProcManager {held['versions']['FCGI::ProcManager']}" in page
    picture = xml.etree.ElementTree.fromstring(loss_report.drawing(measured))
    texts = [text.text for text in picture.iter("{http://www.w3.org/2000/svg}text")]
    at = texts.index("memreap")
    assert texts[at + 1 : at + 5] == [f"{held['recycled']} replaced", loss_report.rate(0, held["recycled"]), "0", "0"]


def test_recorded_results_are_not_measured_again(measured, tmp_path, monkeypatch):
    file = tmp_path / "loss.jsonl"
    monkeypatch.setattr(sys, "argv", ["loss.py", "--strategy", "f", "--condition", "moderate, kept", "--reaps", "40"])
    options = loss.arguments()
    (task,) = loss.tasks(options, file)
    assert (task.key, task.condition.name, task.reaps, task.seconds) == ("f", "moderate, kept", 40, 600)
    file.write_text("".join(json.dumps(result) + "\n" for result in measured))
    (task,) = loss.tasks(options, file)
    assert task.reaps == 40 - measured[1]["recycled"]


@pytest.mark.parametrize(
    ("count", "recycled", "expected"),
    [(0, 0, "-"), (0, 2000, "0 (< 1.5)"), (0, 20, "0 (< 150)"), (7, 2000, "3.5"), (1, 2000, "0.5"), (90, 40, "2,250")],
)
def test_a_rate_of_zero_is_reported_with_its_bound(count, recycled, expected):
    assert loss_report.rate(count, recycled) == expected
