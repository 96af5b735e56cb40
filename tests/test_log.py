"""The log: one line an event, to a stream that may take nothing."""

from __future__ import annotations

import io
import re

import pytest

from supervisor_memreap.core.model import Pool
from supervisor_memreap.core.policy import Choice, Standing
from supervisor_memreap.core.settings import PoolSettings
from supervisor_memreap.core.state import PoolState
from supervisor_memreap.record import log, words


def test_a_pool_that_does_not_run_is_shown_as_that():
    choice = Choice(Pool("myapp", "STOPPED"), Standing.NOT_RUNNING, PoolState())
    assert words.summary(choice, PoolSettings(limit=1 << 20), 0) == "does not run (STOPPED)"


def test_a_line_of_the_log_is_one_line_whatever_stands_in_it():
    stream = io.StringIO()
    log.to(stream, stamped=False)("a\nb\x1b[31m\udcff")
    assert stream.getvalue() == "memreap: a?b?[31m?\n"


def test_a_stamped_line_begins_with_the_time(tmp_path):
    with (tmp_path / "log").open("w") as stream:
        log.to(stream, stamped=True)("x")
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d memreap: x\n", (tmp_path / "log").read_text())


@pytest.mark.parametrize("stream", [None, open("/dev/null")])  # noqa: SIM115 # one that cannot be written to
def test_a_stream_that_takes_nothing_is_no_error(stream):
    log.to(stream, stamped=False)("x")


def test_a_line_is_told_again_only_after_another_one():
    told = []
    once = log.Once(told.append)
    for text in ("a", "a", "b", "a", "", "a"):
        once("topic", text)
    assert told == ["a", "b", "a", "a"]
    assert once.clear("topic")
    assert not once.clear("topic")
