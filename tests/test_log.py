"""The log: one line an event, to a stream that may take nothing."""

from __future__ import annotations

import io
import json
import os
import re
import select

import pytest

from supervisor_memreap.core import events
from supervisor_memreap.core.frozen import replace
from supervisor_memreap.core.model import Pool, ProcessId, Standing, Worker
from supervisor_memreap.core.policy import Choice
from supervisor_memreap.core.recording import Recording
from supervisor_memreap.core.settings import PoolSettings, Settings
from supervisor_memreap.core.state import PoolState
from supervisor_memreap.listener import oneshot
from supervisor_memreap.outputs import eventlog, fields, log
from supervisor_memreap.outputs.lasting import Once

RESUMED = events.Resumed("a", 1e9, "x")


def test_a_pool_that_does_not_run_is_shown_as_such():
    choice = Choice(Pool("myapp", "STOPPED"), Standing.NOT_RUNNING, PoolState())
    assert oneshot.summary(choice, PoolSettings(limit=1 << 20), 0) == "not running (STOPPED)"


@pytest.mark.parametrize(
    ("settings", "to_go", "expected"),
    [
        (PoolSettings(limit=30 << 20), 0, "none over the limit of 30 MiB"),
        (PoolSettings(limit=30 << 20), 2, "2 to replace"),
        (PoolSettings(limit=30 << 20, max_age=60), 0, "none to replace"),
        (PoolSettings(limit=30 << 20, headroom=0.1), 0, "none to replace"),
        (PoolSettings(max_age=60), 0, "none to replace"),
        (PoolSettings(total=60 << 20), 1, "1 to replace"),
    ],
)
def test_a_run_ends_with_the_number_of_due_workers_and_names_the_limit_only_if_nothing_else_was_checked(
    settings, to_go, expected
):
    pool = Pool("myapp", "RUNNING", manager=ProcessId(1, 0.0), workers=(Worker(ProcessId(2, 1.0), 5.0, 0),))
    choice = Choice(pool, Standing.QUIET, PoolState(), to_go=to_go)
    assert oneshot.summary(choice, settings, None) == f"1 worker, {expected}"
    assert oneshot.summary(choice, settings, 3) == f"1 worker, 3 reaped, {expected}"
    if not to_go:  # a pool below a wrapper, or of which the sizes may not be read
        blind = replace(choice, standing=Standing.BLIND)
        assert oneshot.summary(blind, settings, None) == "1 worker, and whether one is to go is unknown"


def test_a_log_line_is_one_line_with_any_content():
    stream = io.StringIO()
    log.to(stream)("a\nb\x1b[31m\udcff")
    assert stream.getvalue() == "memreap: a?b?[31m?\n"


def test_a_stamped_line_begins_with_the_time(tmp_path):
    with (tmp_path / "log").open("w") as stream:
        eventlog.Log(stream)(RESUMED)
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d memreap: a: resumed: x\n", (tmp_path / "log").read_text())


def test_a_line_of_json_is_the_event_until_the_settings_ask_for_text(tmp_path):
    with (tmp_path / "log").open("w") as stream:
        write = eventlog.Log(stream, is_json=True)
        write(RESUMED)
        write.apply(Settings({}))
        write(RESUMED)
        write.apply(Settings({}, recording=Recording(log="json")))
        write(RESUMED)
    first, second, third = (tmp_path / "log").read_text().splitlines()
    assert json.loads(first) == json.loads(third) == fields.of(RESUMED)
    assert second.endswith(" memreap: a: resumed: x")


def test_unread_json_is_dropped_by_line_and_counted_in_json():
    readable, writable = os.pipe()
    os.set_blocking(readable, False)
    with os.fdopen(writable, "w") as stream:
        write = eventlog.Log(stream, is_json=True)
        for _ in range(100):  # more than there is room for
            write(events.Resumed("a", 1e9, "\u00e4" * 5000))
        whole = os.read(readable, 1 << 20).splitlines(keepends=True)
        write(RESUMED)
        missing, last = map(json.loads, os.read(readable, 1 << 20).splitlines())
    os.close(readable)
    assert {len(line) for line in whole} <= {select.PIPE_BUF - number for number in range(6)}
    assert all(json.loads(line)["shortened"] for line in whole)
    assert (missing["event"], missing["count"]) == ("lines_missing", 100 - len(whole))
    assert last == fields.of(RESUMED)


@pytest.mark.parametrize("stream", [None, open("/dev/null")])  # noqa: SIM115 # one that cannot be written to
def test_a_stream_that_accepts_nothing_is_not_an_error(stream):
    log.to(stream)("x")
    eventlog.Log(stream)(RESUMED)


def test_a_lasting_state_is_logged_again_only_if_its_text_changes():
    logged = []
    once = Once(logged.append)
    for at, error in enumerate(("a", "a", "b", "a")):
        once(events.NotPublished("", at, error))
    assert [event.error for event in logged] == ["a", "b", "a"]
    once(events.SupervisordUnavailable("", 5, "a"))
    assert once.clear(events.NotPublished)
    assert not once.clear(events.NotPublished)
    once(events.NotPublished("", 6, "a"))
    assert len(logged) == 5
