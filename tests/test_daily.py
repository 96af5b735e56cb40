"""The lines that the log gets from the history: once a day, also over restarts of the listener."""

from __future__ import annotations

import functools
import os
import signal
import time

import pytest
from support.histories import MIB, Messages, left, look, signalled

from supervisor_memreap.core import events
from supervisor_memreap.core.model import ProcessId, SentMoment
from supervisor_memreap.core.reasons import OverLimit
from supervisor_memreap.core.recording import Recording
from supervisor_memreap.history import daily, historyfile, historywriter
from supervisor_memreap.history.daily import Daily
from supervisor_memreap.outputs import fields

DAY = 86400.0
NOON = time.mktime((2026, 11, 28, 12, 0, 0, 0, 0, -1))
"""By the clock of this machine."""


class Marks(dict):
    mark = dict.get

    def set_mark(self, name, value):
        self[name] = value


@pytest.fixture(autouse=True)
def no_test_waits(monkeypatch):
    monkeypatch.setattr(daily, "ASKED_EVERY", 0.0)
    monkeypatch.setattr(os, "nice", lambda _: 0)


@pytest.fixture
def recorded(tmp_path):
    """Records at the end of the 27th and on the 28th; what is loaded of it."""
    path = tmp_path / "h.sqlite"
    messages = [look(NOON - 13 * 3600 + minute * 60, {11: 40, 12: 45}) for minute in range(30)]
    messages += [signalled(NOON - 12.8 * 3600), left(NOON - 12.7 * 3600)]
    messages += [look(NOON, {12: 50, 13: 40})]
    recording = Recording(history=str(path))
    historywriter.consume(Messages(messages, at_once=50), lambda _: None, recording)
    return functools.partial(historyfile.each, str(path))


def test_each_day_is_summarised_once_after_its_end_and_across_a_restart(recorded):
    marks = Marks()
    assert list(Daily(True, recorded).lines(marks, (), NOON - DAY)) == []  # its first day
    (line,) = Daily(True, recorded).lines(marks, (), NOON)
    assert (line["kind"], line["pool"]) == ("summary", "myapp")
    assert line["text"].startswith("in the last 24 h: 1 worker replaced (1 limit), 95 MiB freed")
    assert list(Daily(True, recorded).lines(marks, (), NOON + 3600)) == []
    (next_day,) = Daily(True, recorded).lines(marks, (), NOON + DAY)
    assert "no worker replaced" in next_day["text"]


def test_a_suspension_of_an_earlier_day_and_a_reap_over_midnight_are_in_the_summary(tmp_path):
    path = str(tmp_path / "h.sqlite")
    too_low = events.WrongSetting(
        "myapp", NOON - 36 * 3600 - 0.5, OverLimit(42 * MIB, 40 * MIB, "uss"), "limit=90MB", 12.0, 21600.0
    )
    asked = events.Signalled(
        "myapp",
        NOON - 36 * 3600 - 1,
        ProcessId(11, 1.0),
        OverLimit(100 * MIB, 90 * MIB, "uss"),
        "HUP",
        SentMoment.HELD,
        60.0,
    )
    happened = [{"kind": "event", **fields.of(event)} for event in (asked, too_low)]
    messages = [
        *happened,
        left(NOON - 36 * 3600 + 1),
        *(look(NOON - hour * 3600, {11: 40}) for hour in range(50, 0, -1)),
    ]
    historywriter.consume(Messages(messages, at_once=90), lambda _: None, Recording(history=path))
    marks = Marks(summary=NOON - 1.5 * DAY)
    (line,) = Daily(True, functools.partial(historyfile.each, path)).lines(marks, (), NOON)
    assert "suspended for" in line["text"]
    assert "1 worker replaced (1 limit)" in line["text"]


def test_a_clock_set_back_summarises_nothing(recorded):
    marks = Marks(summary=NOON + 3 * DAY)
    assert list(Daily(True, recorded).lines(marks, (), NOON)) == []
    assert len(list(Daily(True, recorded).lines(marks, (), NOON + DAY))) == 1


def test_without_summary_daily_there_is_no_summary(recorded):
    assert list(Daily(False, recorded).lines(Marks(), (), NOON + 5 * DAY)) == []


def test_the_log_reports_the_suggestion_for_an_observed_pool_once_a_day(recorded):
    marks, observing = Marks(), {"myapp"}
    (line,) = Daily(False, recorded).lines(marks, observing, NOON)
    assert (line["kind"], line["pool"]) == ("suggestion", "myapp")
    assert "ask again tomorrow" in line["text"]
    assert list(Daily(False, recorded).lines(marks, observing, NOON + 3600)) == []
    assert len(list(Daily(False, recorded).lines(marks, observing, NOON + DAY))) == 1


def test_a_new_suggestion_is_reported_at_once_and_then_once_a_day(recorded, monkeypatch):
    marks, observing = Marks(), {"myapp"}
    list(Daily(False, recorded).lines(marks, observing, NOON))

    class Known:
        limit = 120 * 1024**2

    monkeypatch.setattr("supervisor_memreap.advice.suggestion.suggest", lambda _history, _now: Known)
    monkeypatch.setattr("supervisor_memreap.reports.advicetext.line", lambda _known: "set limit=120MB")
    (line,) = Daily(False, recorded).lines(marks, observing, NOON + 3600)
    assert line["text"] == "set limit=120MB"
    assert list(Daily(False, recorded).lines(marks, observing, NOON + 7200)) == []
    assert len(list(Daily(False, recorded).lines(marks, observing, NOON + 3600 + DAY))) == 1


def test_a_pool_that_is_not_observed_gets_no_suggestion(recorded):
    assert list(Daily(False, recorded).lines(Marks(), (), NOON)) == []
    assert list(Daily(False, recorded).lines(Marks(), {"web"}, NOON)) == []


def test_the_history_sends_its_lines_to_the_listener(tmp_path):
    reported = []
    recording = Recording(history=str(tmp_path / "h.sqlite"))
    now = time.time()
    messages = [look(now - 60, {11: 40}, standing="observed"), look(now, {11: 41}, standing="observed")]
    historywriter.consume(Messages(messages), reported.append, recording)
    ((line,),) = [message["lines"] for message in reported if "lines" in message]
    assert (line["kind"], line["pool"]) == ("suggestion", "myapp")


def test_a_process_for_a_suggestion_that_was_killed_is_reported_and_the_history_continues(tmp_path, monkeypatch):
    monkeypatch.setattr("supervisor_memreap.advice.suggestion.suggest", lambda *_: os.kill(os.getpid(), signal.SIGKILL))
    reported = []
    recording = Recording(history=str(tmp_path / "h.sqlite"))
    messages = [look(time.time(), {11: 40}, standing="observed")]
    historywriter.consume(Messages(messages), reported.append, recording)
    assert {"note": "a line about the pools could not be made: its process was ended"} in reported
    assert not [message for message in reported if message.get("trouble")]
    assert len(historyfile.load(recording.history)[0].readings) == 1


def test_an_error_in_a_summary_is_reported_and_the_history_continues(tmp_path, monkeypatch):
    def broken(_history, _now):
        raise KeyError("x")

    monkeypatch.setattr("supervisor_memreap.advice.suggestion.suggest", broken)
    reported = []
    recording = Recording(history=str(tmp_path / "h.sqlite"))
    now = time.time()
    messages = [look(now - 60, {11: 40}, standing="observed"), look(now, {11: 41}, standing="observed")]
    historywriter.consume(Messages(messages), reported.append, recording)
    assert {"trouble": "internal error, please report it: KeyError('x')"} in reported
    assert len(historyfile.load(recording.history)[0].readings) == 2
