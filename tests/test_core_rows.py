"""The rows of the status: with the totals of the history, and as XML-RPC sends them."""

from __future__ import annotations

import json
import tracemalloc

import pytest
from support.messages import MIB, row

from supervisor_memreap.core import events
from supervisor_memreap.core.counters import Totals
from supervisor_memreap.core.model import ProcessId
from supervisor_memreap.core.rows import as_json, of_xmlrpc

LEFT = events.Left("myapp", 9.0, ProcessId(11, 1.0), 0.4, ProcessId(12, 5.0), 30 * MIB, 10 * MIB)


def totals_of(pool: str, totals: Totals) -> tuple[int, int, int]:
    whole = totals.into(row(pool))
    return whole["reaps"], whole["given_back_bytes"], whole["counted_since"]


def test_the_totals_of_a_pool_are_those_of_this_listener_until_those_of_the_history_are_known():
    totals = Totals(7.5)
    totals(LEFT)
    totals(events.Settled("myapp", 9.0, ProcessId(11, 1.0), ProcessId(12, 5.0), 5.0))
    assert (totals.are_continued, totals_of("myapp", totals)) == (False, (1, 20 * MIB, 7))
    totals.continue_from({"myapp": {"since": 2.5, "reaps": 3, "returned": 100 * MIB}})
    assert (totals.are_continued, totals_of("myapp", totals)) == (True, (4, 120 * MIB, 2))
    assert totals_of("web", totals) == (0, 0, 7)


def test_what_the_history_has_counted_later_is_not_counted_twice():
    totals = Totals(7.5)
    totals.continue_from({})
    totals(LEFT)
    totals.continue_from({"myapp": {"since": 7.5, "reaps": 1, "returned": 20 * MIB}})
    assert totals_of("myapp", totals) == (1, 20 * MIB, 7)


def test_while_they_are_unknown_a_row_has_no_totals():
    pool = row(given_back_bytes=0)
    assert pool.keys() - Totals(7.5).without(pool).keys() == {"reaps", "given_back_bytes"}


def test_sizes_that_xml_rpc_sent_as_doubles_are_integers_again_and_other_numbers_are_not():
    worker = {"pid": 11, "age_seconds": 1.5, "used_bytes": 3e9, "over": True}
    (pool,) = of_xmlrpc([{"name": "myapp", "limit_bytes": 4e9, "workers": [worker], "key of a later version": 2.0}])
    assert (pool["limit_bytes"], type(pool["limit_bytes"])) == (4_000_000_000, int)
    (restored,) = pool["workers"]
    assert restored == {**worker, "used_bytes": 3_000_000_000}
    assert [type(restored[key]) for key in ("used_bytes", "age_seconds")] == [int, float]
    assert type(pool["key of a later version"]) is float


@pytest.mark.parametrize("answer", [["myapp"], [None], [{"limit_bytes": float("inf")}]])
def test_an_answer_that_is_no_list_of_rows_is_refused(answer):
    with pytest.raises((TypeError, ValueError, OverflowError)):
        of_xmlrpc(answer)


@pytest.mark.parametrize("pools", [[], [{"name": "myapp"}], [{"name": 'a "b"', "workers": [{}]}, {"name": "ü"}]])
def test_a_message_as_json_is_the_same_message(pools):
    message = {"kind": "look", "pools": pools, "period": None}
    assert json.loads(as_json(message)) == message


def test_the_json_of_many_workers_takes_little_memory_beside_its_text():
    workers = [{"pid": 10_000 + number, "age_seconds": 0.5 + number, "used_bytes": 10**8} for number in range(20)]
    message = {"kind": "look", "pools": [{"name": f"p{number}", "workers": workers} for number in range(100)]}
    tracemalloc.start()
    try:
        text = as_json(message)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 3 * len(text)
