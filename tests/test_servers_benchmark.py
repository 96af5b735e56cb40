"""benchmarks/servers.py at a small scale: what it measures, and the page and the picture that it makes of it."""

from __future__ import annotations

import json
import sys
import xml.etree.ElementTree

import pytest
from support import servers, stack

sys.path.insert(0, str(stack.ROOT / "benchmarks"))

import servers as benchmark
import servers_report

SERVER = "php-fpm"


def row(moment: str, lost: dict[str, int], **changes: object) -> servers_report.Result:
    times = {"median": 0.01, "longest": 0.2}
    return {
        **benchmark.Case(SERVER, False, moment)._asdict(),
        "signal": "QUIT",
        "reaps": 300,
        "seconds": 60.0,
        "answered": 12345,
        "lost": lost,
        "longest_gap": 0.3,
        "left": times,
        "replaced": {"median": 0.02, "longest": 0.4},
        "at": "2026-01-02 03:04:05",
        "versions": {"memreap": "0.1.0", SERVER: "8.2"},
        "machine": "2 of a model",
        **changes,
    }


RESULTS = [row("any moment", {"post 502": 20, "get 502": 1}), row("seen idle", {"get wrong": 3}), row("held", {})]


@pytest.mark.parametrize("moment", ["any moment", "held"])
def test_each_signalled_worker_is_waited_for_and_what_the_clients_got_is_counted(moment):
    servers.skip_without(benchmark.server_of(benchmark.Case(SERVER, False, moment)))
    result = json.loads(json.dumps(benchmark.measure(benchmark.Case(SERVER, False, moment), 20, 60)))
    assert (result["reaps"], result["signal"], result["moment"]) == (20, "QUIT", moment)
    assert result["answered"] > 0
    assert 0 <= result["left"]["median"] <= result["left"]["longest"] <= result["replaced"]["longest"] < 60
    assert result["longest_gap"] > 0
    if moment == "held":
        assert result["lost"] == {}


def test_the_page_has_the_losses_and_the_times():
    page = servers_report.tables(RESULTS)
    assert f"| {SERVER} | QUIT | not kept | 21 of 300 | 3 of 300 | **0 of 300** | 12,345 |" in page
    assert f"| {SERVER} | not kept | 0.01 | 0.20 | 0.02 | 0.40 | 0.30 |" in page
    assert "Measured on 2026-01-02: memreap 0.1.0, php-fpm 8.2; 2 of a model." in page
    assert "0 of 300 says, at 95 %, that fewer than 1.0% of the signals lose a request" in page


def test_what_was_measured_again_takes_the_place_of_the_old_figures():
    again = row("held", {"get 502": 2}, at="2026-02-03 03:04:05")
    page = servers_report.tables([*RESULTS, again])
    assert "| **2 of 300** |" in page
    assert "Measured on 2026-01-02 to 2026-02-03" in page


def test_the_picture_has_a_bar_for_each_moment():
    picture = xml.etree.ElementTree.fromstring(servers_report.svg(RESULTS))
    texts = [text.text for text in picture.iter("{http://www.w3.org/2000/svg}text")]
    at = texts.index(SERVER)
    assert texts[at : at + 5] == [SERVER, "not kept", "70", "10", "0"]


def test_the_page_of_the_documentation_is_made_of_its_results():
    results = benchmark.read(stack.ROOT / "docs/servers.jsonl")
    assert servers_report.tables(results) in (stack.ROOT / "docs/servers.md").read_text()
    assert servers_report.svg(results) == (stack.ROOT / "docs/servers.svg").read_text()
    assert not [result for result in results if result["moment"] == "held" and (result["lost"] or result["otherwise"])]
    measured = {benchmark.Case(row["server"], row["kept"], row["moment"]) for row in results if row["reaps"] >= 300}
    # uWSGI is measured behind nginx.
    names = [server.name for server in servers.SERVERS if server.name != "uWSGI with HTTP"]
    assert measured == {case for group in benchmark.groups(names) for case in group}
