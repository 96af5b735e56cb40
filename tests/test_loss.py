"""benchmarks/loss.py at a small scale: what it measures, and the page and the picture that it makes of it."""

from __future__ import annotations

import json
import sys
import xml.etree.ElementTree

import pytest
import stack

sys.path.insert(0, str(stack.ROOT / "benchmarks"))

import loss
import loss_report

REAPS = 15
KEPT = loss.CONDITIONS[-1]._replace(leak=700, pause=0.01)  # so that it is over in seconds


@pytest.fixture(scope="module")
def measured():
    """kidreaper and memreap on kept connections, as they stand in the file of results."""
    with loss.application() as script:
        limits = loss.measure(script)
        results = [loss.run(key, KEPT, script, limits, REAPS, 60) for key in "df"]
    return [json.loads(json.dumps({**one, "versions": {"memreap": "0.1.0"}})) for one in results]


def test_a_worker_that_is_held_in_accept_loses_nothing_when_it_is_reaped(measured):
    _, held = measured
    assert held["recycled"] >= REAPS
    assert held["moments"] == {"held": pytest.approx(held["recycled"], abs=1)}
    assert (held["lost"], held["shortened"], held["cleanups_lost"]) == ({}, 0, 0)
    assert held["answered"] > REAPS
    assert held["promised"] > 0
    assert held["sleeps"] > 0


def test_the_page_and_the_picture_have_the_figures(measured):
    kidreaper, held = measured
    assert kidreaper["recycled"] >= REAPS
    page = loss_report.markdown(measured)
    lost = sum(kidreaper["lost"].values())
    rate = loss_report.rate(lost, kidreaper["recycled"])
    assert f"| d | kidreaper | {kidreaper['recycled']} | {kidreaper['answered']:,} | {lost} | {rate} |" in page
    assert f"| f | memreap | {held['recycled']} | {held['answered']:,} | 0 | 0 (< " in page
    assert f"| f | moderate, kept | {held['recycled']} |" in page
    picture = xml.etree.ElementTree.fromstring(loss_report.svg(measured))
    texts = [text.text for text in picture.iter("{http://www.w3.org/2000/svg}text")]
    at = texts.index("memreap")
    assert texts[at + 1 : at + 5] == [f"{held['recycled']} recycled", "0", "0", "0"]


@pytest.mark.parametrize(
    ("count", "recycled", "said"),
    [(0, 0, "-"), (0, 2000, "0 (< 1.5)"), (0, 20, "0 (< 150)"), (7, 2000, "3.5"), (1, 2000, "0.5"), (90, 40, "2,250")],
)
def test_a_rate_of_none_is_given_with_its_bound(count, recycled, said):
    assert loss_report.rate(count, recycled) == said
