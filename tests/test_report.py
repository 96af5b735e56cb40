"""The wording: figures with units, one line an event."""

from __future__ import annotations

import io
import re
from dataclasses import replace

import pytest

from supervisor_memreap.core.model import Pool, ProcessId, Worker, WorkerDetail
from supervisor_memreap.core.settings import PoolSettings
from supervisor_memreap.core.verdict import (
    Fell,
    Left,
    NotCaught,
    Replaced,
    Resumed,
    Stuck,
    Unreadable,
    WrongLimit,
    WrongSignal,
)
from supervisor_memreap.record import log, report

MIB = 1024**2
SETTINGS = PoolSettings(limit=150 * MIB)
WORKER = Worker(ProcessId(4242, 1.0), 99.0, 330 * MIB, WorkerDetail(312 * MIB, True))
NEW = ProcessId(4250, 2.0)


@pytest.mark.parametrize(
    ("bytes_", "text"),
    [
        (0, "0.0 MiB"),
        (5.3 * MIB, "5.3 MiB"),
        (312.4 * MIB, "312 MiB"),
        (1023 * MIB, "1023 MiB"),
        (1434 * MIB, "1.4 GiB"),
    ],
)
def test_memory_is_written_with_its_unit(bytes_, text):
    assert report.memory(int(bytes_)) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.012, "12 ms"), (0.4, "0.4 s"), (45, "45 s"), (300, "5 min"), (9000, "2.5 h")],
)
def test_time_is_written_with_its_unit(seconds, text):
    assert report.seconds(seconds) == text


def test_the_lines_are_those_that_were_promised():
    assert (
        report.sent(WORKER, SETTINGS, "idle") == "worker 4242 holds 312 MiB (uss), limit 150 MiB: HUP sent, it was idle"
    )
    left = report.line(Left(WORKER.id, 0.4, NEW), SETTINGS, came_back=307 * MIB)
    assert left == "worker 4242 left after 0.4 s, 307 MiB came back, 4250 took its place"
    assert report.line(NotCaught(WORKER), SETTINGS) == (
        "worker 4242 would die of HUP (it does not catch it): nothing sent; set signal= to what this server finishes on"
    )


@pytest.mark.parametrize(
    ("event", "remedy"),
    [
        (Stuck(WORKER.id, 300.0), "raise grace="),
        (Stuck(WORKER.id, 300.0, forced=True), "raise grace="),
        (WrongSignal(replace(WORKER, detail=WorkerDetail(312 * MIB, True, "gunicorn"))), "set signal=TERM"),
        (WrongSignal(replace(WORKER, detail=WorkerDetail(312 * MIB, True, "fcgiwrap"))), "remove this program's"),
        (Unreadable(WORKER), "set metric=rss"),
        (WrongLimit(160 * MIB, 330 * MIB), "set limit=330MB or more"),
        (Fell(WORKER.id, NEW, 600.0), "daemonized (-d)"),
    ],
)
def test_each_trouble_names_its_remedy(event, remedy):
    assert remedy in report.line(event, SETTINGS)


def test_a_stuck_worker_is_shown_with_what_it_does():
    line = report.line(Stuck(WORKER.id, 300.0), replace(SETTINGS, stuck="KILL"), activity="state D, in nfs_wait")
    assert line == "worker 4242 has not left 5 min after HUP: stuck (state D, in nfs_wait)"


@pytest.mark.parametrize(
    "event",
    [Left(WORKER.id, 1.0, None), Replaced(WORKER.id, 3.0, NEW), Resumed("its settings changed"), Stuck(WORKER.id, 9.0)],
)
def test_no_event_is_more_than_one_line(event):
    assert "\n" not in report.line(event, SETTINGS)


@pytest.mark.parametrize("word", ["would", "young", "gone", "changed", "not permitted", "locked"])
def test_every_outcome_has_its_words_and_the_evidence(word):
    line = report.outcome(word, WORKER, SETTINGS)
    assert line.startswith("worker 4242 holds 312 MiB (uss), limit 150 MiB: ")


@pytest.mark.parametrize("moment", ["held", "idle", "busy", "unknown"])
def test_a_signal_says_at_what_moment_it_went_out(moment):
    line = report.sent(WORKER, SETTINGS, moment)
    assert line.startswith("worker 4242 holds 312 MiB (uss), limit 150 MiB: HUP sent, ")
    assert moment in line


def test_a_pool_that_does_not_run_is_told_as_that():
    assert report.summary(Pool("myapp", "STOPPED"), SETTINGS, 0, 0) == "does not run (STOPPED)"


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
