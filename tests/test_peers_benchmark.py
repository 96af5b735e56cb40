"""The pure parts of benchmarks/peers.py: what is left to measure, and the page and the picture made of the results."""

from __future__ import annotations

import json
import sys
import xml.etree.ElementTree

import pytest
from support import stack

sys.path.insert(0, str(stack.ROOT / "benchmarks"))

import pages
import peers as benchmark
import peers_report
import peers_ways

MIB = 1024**2
BUSY, CALM, UNEVEN = peers_ways.LOADS
LIMITS = peers_ways.Limits(
    uss=30 * MIB, rss=40 * MIB, vms=60 * MIB, pool=160 * MIB, manager=20 * MIB, group=0, requests=512
)


def row(way: str, load: peers_ways.Load = BUSY, **changes: object) -> peers_report.Result:
    return {
        "comparison": "gunicorn",
        "load": load.name,
        "section": load.name,
        "way": way,
        "server": "gunicorn sync",
        "set": f"`{way} 460`",
        "limits": LIMITS._asdict(),
        "seconds": 120.0,
        "replaced": 30,
        "managers": 1,
        "most_workers": 5,
        "away": {"0": 118.5, "1": 1.0, "2": 0.4, "3": 0.1},
        "mean": 60 * MIB,
        "peak": 120 * MIB,
        "peak_of_group": 140 * MIB,
        "overshoot": 5 * MIB,
        "series": [[0.0, 20], [1.0, 30], [2.0, 25]],
        "answered": 9000,
        "lost": {},
        "took": {"40": 900, "50": 99, "80": 1},
        "at": "2026-01-02 03:04:05",
        "versions": {"memreap": "1.0.0", "gunicorn sync": "27.0.1"},
        "machine": "2 of a model",
        **changes,
    }


RESULTS = [row("--max-requests", lost={"get 502": 2}), row("memreap", away={"0": 119.0, "1": 1.0})]


def test_the_page_has_a_table_for_each_load_and_how_each_way_is_set():
    page = peers_report.tables([row("--max-requests", CALM, set="`--max-requests 276`"), *RESULTS])
    assert "| gunicorn sync | --max-requests | `--max-requests 460`; `--max-requests 276` |" in page
    assert page.index(f"### {BUSY.name}") < page.index("| **memreap** |") < page.index(f"### {CALM.name}")
    numbers = "30 | 1 | 0.50 s | 5 | 60, 120 | 140 | 5 MiB | 50, 80 |"
    assert f"| gunicorn sync | --max-requests | 2 of 9,002 | {numbers}" in page
    assert "| gunicorn sync | **memreap** | 0 of 9,000 | 30 | 3 | 0.00 s |" in page


def test_a_bound_is_given_only_if_memreap_lost_no_request():
    assert "memreap lost 0 requests with 30 workers: at 95 %, fewer than 10.0%" in peers_report.tables(RESULTS)
    assert "at 95 %" not in peers_report.tables([row("memreap", lost={"get 502": 1})])


def test_a_program_that_ended_is_noted():
    page = peers_report.tables([row("--workers-max-rss", managers=3, oom_kills=2)])
    assert "| 30 (2 killed by the kernel; program started again 2 times) |" in page


def texts_of(results: list[peers_report.Result]) -> list[str]:
    picture = xml.etree.ElementTree.fromstring(peers_report.drawing(results))
    return [text.text or "" for text in picture.iter("{http://www.w3.org/2000/svg}text")]


def test_the_picture_has_a_panel_for_each_comparison_under_the_first_load():
    texts = texts_of([row("memreap", CALM), row("pm.max_requests", comparison="php-fpm", server="php-fpm"), *RESULTS])
    assert [text for text in texts if text in ("gunicorn", "php-fpm")] == ["gunicorn", "php-fpm"]
    assert [text for text in texts if text.startswith("memreap")] == ["memreap: 60 MiB"]
    assert any(CALM.name in text for text in texts_of([row("memreap", CALM)]))


def test_measured_comparisons_are_not_measured_again(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "argv", ["peers.py", "--comparison", "gunicorn", "--load", "8 clients"])
    options, file = benchmark.arguments(), tmp_path / "peers.jsonl"
    assert benchmark.plan(options, file) == [("gunicorn", BUSY), ("gunicorn", UNEVEN)]
    file.write_text("".join(json.dumps(each) + "\n" for each in RESULTS))
    assert benchmark.plan(options, file) == [("gunicorn", UNEVEN)]


@pytest.mark.parametrize("load", peers_ways.LOADS, ids=str)
def test_what_a_worker_answers_until_it_is_at_its_limit_leaks_the_room_that_it_has(load):
    leaked = load.requests / load.one_in * load.kb * 1024
    assert 0 <= peers_ways.ROOM - leaked < load.kb * 1024


@pytest.mark.parametrize("title", peers_ways.COMPARISONS)
def test_each_way_turns_on_what_the_set_up_of_its_server_turns_off(title):
    for way in peers_ways.COMPARISONS[title].ways:
        server, words = way.set_up(way.server, LIMITS)
        is_changed = (server.command, server.files) != (way.server.command, way.server.files)
        assert words
        assert is_changed is (way.name != "memreap")
        assert ("[memreap:myapp]" in way.section(LIMITS)) is (way.name == "memreap")


def test_the_documentation_page_is_made_from_its_results():
    results = benchmark.read(pages.RESULTS / "peers.jsonl")
    page = (pages.RESULTS / "peers.md").read_text()
    assert peers_report.tables(results) in page
    assert peers_report.drawing(results) == (stack.ROOT / "docs/peers.svg").read_text()
    assert {peers_report.lost(row) for row in results if row["way"] == "memreap"} == {0}
