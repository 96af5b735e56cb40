"""benchmarks/servers.py at a small scale: what it measures, and the page and the picture that it makes of it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import xml.etree.ElementTree

import pytest
from support import servers, stack
from support.driver import until

sys.path.insert(0, str(stack.ROOT / "benchmarks"))

import pages
import servers as benchmark
import servers_report
from quantiles import quantile
from worker_ends import Ends, lost_in

from supervisor_memreap.core import servers as table

SERVER = "php-fpm"
# Their managers end workers that they believe idle, and may lose a request by that, without any reap.
ENDS_WORKERS = {"php-fpm dynamic", "FCGI::ProcManager elastic"}
REAPS = 2


def row(moment: str, lost: dict[str, int], **changes: object) -> servers_report.Result:
    times = {"10": 2, "200": 1}
    return {
        **benchmark.Case(SERVER, False, "8 clients", moment)._asdict(),
        "signal": "QUIT",
        "reaps": 300,
        "otherwise": {},
        "seconds": 60.0,
        "answered": 12345,
        "lost": lost,
        "longest_gap": 0.3,
        "overshoot": 3 * 1024**2,
        "gave_up": False,
        **dict.fromkeys(("signalled", "gone", "replaced", "serving"), times),
        "took": {"40": 900, "50": 99, "80": 1},
        "at": "2026-01-02 03:04:05",
        "versions": {"memreap": "1.0.0", SERVER: "8.2"},
        "machine": "2 of a model",
        **changes,
    }


NEVER: dict[str, int] = {}
RESULTS = [
    row("nothing", {}, reaps=0, took={"40": 990, "45": 10}),
    row("any moment", {"post 502": 20, "get 502": 1}),
    row("seen idle", {}, reaps=0, signalled=NEVER, gone=NEVER, serving=NEVER, gave_up=True, overshoot=128 * 1024**2),
    row("boundary", {}),
]


@pytest.mark.parametrize("moment", ["any moment", "boundary"])
def test_each_signalled_worker_is_waited_for_and_the_answers_are_counted(moment):
    servers.skip_without(servers.named(SERVER))
    result = json.loads(json.dumps(benchmark.measure(benchmark.Case(SERVER, False, "8 clients", moment), REAPS, 60)))
    assert (result["reaps"], result["signal"], result["moment"]) == (REAPS, "QUIT", moment)
    assert result["answered"] >= sum(result["took"].values()) > 0
    for what in ("signalled", "gone", "replaced"):
        assert sum(result[what].values()) == REAPS
    assert sum(result["serving"].values()) > REAPS / 2
    medians = [quantile(result[what], 0.5) for what in ("signalled", "gone", "serving")]
    assert medians == sorted(medians)
    assert result["overshoot"] > 0
    assert not result["gave_up"]
    if moment == "boundary":
        assert (result["lost"], result["lost_in"], result["otherwise"]) == ({}, {}, {})
    assert result["ended_unsignalled"] == 0


def test_the_end_of_each_worker_is_noted_also_of_one_that_took_the_place_of_another(where):
    server = servers.named(SERVER)
    with servers.running(server, where) as pool:
        until(lambda: len(pool.workers()), server.workers)
        with (ends := Ends(pool)):
            before = pool.workers()
            # Not noted: one that ends before it is watched. A newborn may not take the signal. Then it is sent again.
            until(lambda: quit_one(pool.workers() & before) and bool(ends.at.keys() & before))
            until(lambda: quit_one(pool.workers() - before) and bool(ends.at.keys() - before))


def quit_one(workers: set[int]) -> bool:
    for worker in sorted(workers)[:1]:
        with contextlib.suppress(ProcessLookupError):
            os.kill(worker, signal.SIGQUIT)
    return True


def test_a_lost_request_was_in_the_worker_that_ended_just_then():
    ends = {1: 10.005, 2: 20.01, 3: 29.99, 4: 30.005, 5: 40.1}
    assert lost_in([10.0], ends, {2, 3}) == {"not signalled": 1}
    assert lost_in([20.0, 20.015], ends, {2, 3}) == {"signalled": 2}
    assert lost_in([30.0, 40.0], ends, {2, 3}) == {"unknown": 2}


def test_the_page_says_whether_workers_that_held_lost_requests_had_been_signalled():
    first = row("boundary", {"post 502": 4})  # from before that was recorded
    second = row("boundary", {"post 502": 3, "upload 502": 1}, lost_in={"not signalled": 2, "signalled": 1})
    page = servers_report.tables([RESULTS[0], first, second])
    assert (
        f"- {SERVER}, not kept, 8 clients: of 8 requests lost, 1 were in workers that had been signalled, 2 in workers"
        " that the manager had ended, and 5 in workers not known. Without reaps 0 of 12,345 requests were lost."
    ) in page
    assert "in workers" not in servers_report.tables(RESULTS)


def test_the_page_has_the_losses_the_times_and_the_effect_on_clients():
    page = servers_report.tables(RESULTS)
    start = f"| {SERVER} | not kept | 8 clients |"
    assert f"{start} QUIT | 21 of 300 | 0 of 0 | **0 of 300** | 12,345 |" in page
    assert f"{start} boundary | 0.01, 0.20 | 0.01, 0.20 | 0.01, 0.20 | 3.0 MiB |" in page
    assert f"{start} seen idle | never | never | never | over 128 MiB |" in page
    assert f"{start} 40, 40, 45 | 40, 50, 80 | 100 of 1,000 | 35 ms |" in page
    assert "Measured on 2026-01-02: memreap 1.0.0, php-fpm 8.2; 2 of a model." in page
    assert "0 of 300 says, at 95 %, that fewer than 1.0% of the signals lose a request" in page


def test_repeated_measurements_are_added_up():
    again = row("boundary", {"get 502": 2}, at="2026-02-03 03:04:05")
    page = servers_report.tables([*RESULTS, again])
    assert "| **2 of 600** |" in page
    assert "Measured on 2026-01-02 to 2026-02-03" in page


@pytest.mark.parametrize("server", [line for line in table.SERVERS if line.while_busy], ids=lambda line: line.name)
def test_what_a_signal_to_a_busy_worker_costs_by_the_table_is_the_most_that_was_measured(server):
    results = benchmark.read(stack.ROOT / "benchmarks/results/servers.jsonl")
    measured: dict[bool, list[tuple[int, int]]] = {False: [], True: []}
    for load, rows in servers_report.by_load(results).items():
        # "gunicorn gthread" has a line of its own.
        own = max((line.name for line in table.LINES if load.server.startswith(line.name)), key=len, default="")
        for moment in (servers_report.ANY, servers_report.WHILE_BUSY) if own == server.name else ():
            if moment in rows and rows[moment]["signal"] == server.while_busy.signal:
                measured[load.kept].append((servers_report.lost(rows[moment]), rows[moment]["reaps"]))
    most = {kept: max(each, key=lambda pair: pair[0] / pair[1], default=None) for kept, each in measured.items()}
    shown = {kept: f"{pair[0]} of {pair[1]}" if pair else "" for kept, pair in most.items()}
    assert server.while_busy[1:] == (shown[False], shown[True])


def test_results_from_before_there_were_two_loads_count_until_there_are_new_ones():
    old = {key: value for key, value in row("held", {"get 502": 7}).items() if key not in ("load", "took", "signalled")}
    assert "| not kept | 3 clients | QUIT | - | - | **7 of 300** |" in servers_report.tables([old])
    assert "**0 of 300**" in servers_report.tables([old, row("boundary", {}, load="3 clients")])


def test_a_different_signal_for_busy_workers_has_its_own_number():
    page = servers_report.tables([*RESULTS, row("any moment, signal while busy", {}, signal="USR1")])
    assert "| 21 of 300 (USR1: 0 of 300) |" in page


def test_the_picture_has_a_bar_for_each_moment():
    picture = xml.etree.ElementTree.fromstring(servers_report.drawing(RESULTS))
    texts = [text.text for text in picture.iter("{http://www.w3.org/2000/svg}text")]
    at = texts.index(SERVER)
    assert texts[at : at + 5] == [SERVER, "not kept, 8 clients", "70", "no worker could be signalled", "0 (< 10)"]


def options(monkeypatch, *words: str):
    monkeypatch.setattr(sys, "argv", ["servers.py", *words])
    return benchmark.arguments()


def test_measured_servers_are_not_measured_again(monkeypatch, tmp_path):
    given = options(monkeypatch, "--server", SERVER, "--load", "8", "--kept", "no", "--reaps", "400")
    file = tmp_path / "servers.jsonl"
    (cases,) = benchmark.plan(given, file)
    assert [case.moment for case, _, _ in cases] == ["nothing", "any moment", "seen idle", "boundary"]
    file.write_text("".join(json.dumps(each) + "\n" for each in RESULTS))
    (cases,) = benchmark.plan(given, file)
    assert [(case.moment, reaps, seconds) for case, reaps, seconds in cases] == [
        ("any moment", 100, 840.0),
        ("boundary", 100, 840.0),
    ]


def test_the_signal_for_busy_workers_is_measured_only_if_it_is_cheaper(monkeypatch):
    given = options(monkeypatch, "--moment", "any moment, signal while busy,boundary")
    measured = {case.server for group in benchmark.groups(given) for case in group if case.moment.startswith("any")}
    assert measured == {"FCGI::ProcManager", "FCGI::Engine", "FCGI::ProcManager elastic"}


def test_the_documentation_page_is_made_from_its_results():
    results = benchmark.read(pages.RESULTS / "servers.jsonl")
    page = (pages.RESULTS / "servers.md").read_text()
    assert servers_report.tables(results) in page
    assert servers_report.needs() in page
    assert servers_report.drawing(results) == (stack.ROOT / "docs/servers.svg").read_text()
    for load, rows in servers_report.by_load(results).items():
        row = rows["boundary"]
        # Where the boundary is seldom reached, workers grow on until they are signalled while busy.
        signalled = rows["any moment"] if row.get("gave_up") else row
        assert signalled["reaps"] >= 300
        assert not row.get("lost_in", {}).get(servers_report.SIGNALLED)
        if load.server not in ENDS_WORKERS:
            assert (row["lost"], row["otherwise"], signalled["lost"]) == ({}, {}, {})
