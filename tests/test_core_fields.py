"""Events as plain values: nothing is lost, and JSON can have all of them."""

from __future__ import annotations

import dataclasses
import json
import re

import pytest
from test_core_events import EXAMPLES

from supervisor_memreap.core import events
from supervisor_memreap.core.model import ProcessId, SentMoment
from supervisor_memreap.core.reasons import OverLimit
from supervisor_memreap.core.settings import POOL_KEYS, PoolSettings
from supervisor_memreap.outputs import fields

WORKER = ProcessId(4242, 1.0)
STUCK = events.Stuck("myapp", 1e9, WORKER, 300.0, "HUP", next="TERM")


@pytest.mark.parametrize("event", [event for event, _ in EXAMPLES], ids=lambda event: type(event).__name__)
def test_every_event_is_json_with_all_its_fields(event):
    values = json.loads(json.dumps(fields.of(event), allow_nan=False))
    own = {field.name for field in dataclasses.fields(event)} - {"worker", "reason"}
    assert own <= set(values)
    assert own & set(fields.COMMON) <= {"pool", "at"}
    assert list(values)[: len(fields.COMMON)] == list(fields.COMMON)
    assert values["message"] == event.text
    assert values["name"] == type(event).__name__
    assert re.fullmatch("[a-z]+(_[a-z]+)*", values["event"])
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[+-]\d\d:\d\d", values["time"])


def test_a_signal_has_the_worker_the_setting_and_the_numbers():
    event = events.Signalled("a", 1e9, WORKER, OverLimit(312, 150, "uss"), "HUP", SentMoment.HELD, float("inf"))
    values = fields.of(event)
    assert (values["event"], values["pid"], values["reason"], values["moment"]) == ("reap", 4242, "limit", "held")
    assert values["evidence"] == {"used": 312, "limit": 150, "metric": "uss"}
    assert values["idle_wait"] is None


def test_settings_have_the_keys_of_the_configuration():
    ((name, settings),) = fields.of(events.Watching("", 1.0, (("myapp", PoolSettings(yields=False)),)))["pools"]
    assert (name, settings["yield"], list(settings)) == ("myapp", False, list(POOL_KEYS))


def test_a_line_with_enough_room_has_the_whole_event():
    values = fields.of(STUCK)
    whole = fields.line(values, 4095)
    assert json.loads(whole) == values
    assert fields.line(values, len(whole)) == whole
    assert "shortened" in json.loads(fields.line(values, len(whole) - 1))


@pytest.mark.parametrize("text", ["x", "\n", '"', "\u00e4", "\u4e16", "\U0001f600", "\udcff", "a\U0001f600"])
@pytest.mark.parametrize("pool", ["myapp", "\u4e16" * 5000])
def test_a_line_with_too_little_room_is_still_json(text, pool):
    for length in (0, *range(3980, 4000), 100_000):
        event = dataclasses.replace(STUCK, pool=pool, activity=text * length)
        line = fields.line(fields.of(event), 4095)
        values = json.loads(line)
        assert len(line) <= 4095
        assert line.isascii()
        assert (values["event"], values["pid"], values["at"]) == ("stuck", 4242, 1e9)
        if values.get("shortened"):
            # No room is wasted: a character of JSON may take 12.
            assert len(line) > 4095 - 12 or values["message"] == event.text
            assert event.text.encode(errors="replace").decode().startswith(values["message"])


def test_the_longest_field_is_omitted_first():
    event = dataclasses.replace(STUCK, activity="x" * 200, forced="y" * 50, next="z" * 100)
    values = fields.of(event)
    left_out = []
    for room in range(len(json.dumps(values)), 300, -1):
        kept = json.loads(fields.line(values, room))
        left_out += [key for key in values if key not in kept and key not in left_out]
    assert left_out[:3] == ["activity", "next", "forced"]
    assert set(fields.COMMON) <= set(kept)


def test_a_lone_surrogate_is_replaced_for_strict_readers():
    values = fields.of(events.CommandRefused("a\udcff", 1e9, "b\udcff"))
    assert (values["pool"], values["error"]) == ("a?", "b?")
    assert values["message"] == "a command was refused: b?"
