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
from supervisor_memreap.record import fields

WORKER = ProcessId(4242, 1.0)


@pytest.mark.parametrize("event", [event for event, _ in EXAMPLES], ids=lambda event: type(event).__name__)
def test_every_event_is_json_with_all_its_fields(event):
    values = json.loads(json.dumps(fields.of(event), allow_nan=False))
    own = {field.name for field in dataclasses.fields(event)} - {"worker", "reason"}
    assert own <= set(values)
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
