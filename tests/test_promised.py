"""What docs/interfaces.md promises for 1.x is compared with promised.txt, a line for each name that users rely on.

What was added is recorded by `python tests/test_promised.py`, which removes nothing: a line that is to go, or to say
less, is changed by hand, and that is a new major version.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import inspect
import re
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, get_args, get_type_hints
from unittest import mock

from support import sawtooth
from test_core_events import EXAMPLES
from test_docs import CONTROL, PARSERS, SETTINGS_TABLE, accepts, exit_statuses, spans

from supervisor_memreap import ctlplugin, doctor, rpcinterface
from supervisor_memreap.advice.evidence import Kind as GrowthKind
from supervisor_memreap.advice.suggestion import suggest
from supervisor_memreap.commands import showsettings
from supervisor_memreap.core import hindrance, reasons, rows
from supervisor_memreap.core.command import TYPE, VERBS
from supervisor_memreap.core.listeners import ListenerState
from supervisor_memreap.core.model import Standing
from supervisor_memreap.core.recording import Recording
from supervisor_memreap.core.settings import PoolSettings
from supervisor_memreap.core.shortage import Shortage
from supervisor_memreap.core.state import Cause
from supervisor_memreap.outputs import exposition, fields, memorytable, tally, words
from supervisor_memreap.outputs.view import View
from supervisor_memreap.reports import advicetext, summary

RECORD = Path(__file__).with_name("promised.txt")
RECORDED = set(RECORD.read_text().splitlines())


def test_nothing_that_is_promised_for_1_x_is_gone():
    broken = sorted(line for line in RECORDED - present() if not is_still_accepted(line))
    assert broken == [], "\n".join(["breaks the promise of 1.x (docs/interfaces.md#stable): gone, or changed", *broken])


def test_all_that_there_is_is_recorded():
    new = sorted(present() - RECORDED)
    assert new == [], "\n".join(["promised from now on? Then record it: python tests/test_promised.py", *new])


def is_still_accepted(line: str) -> bool:
    """Whether it is a value of a setting: one that has more values now has another first or last one."""
    found = re.fullmatch(r"setting (\w+)=(.+)", line)
    return bool(found) and accepts(found[1], found[2])


@functools.cache
def present() -> frozenset[str]:
    return frozenset([*settings(), *commands(), *events(), *json_and_xmlrpc(), *metrics()])


def settings() -> Iterator[str]:
    for name, _, allowed, _ in SETTINGS_TABLE:
        key = name.strip("`")
        yield f"setting {key}"
        yield from (f"setting {key}={value}" for value in spans(allowed) if accepts(key, value))


def commands() -> Iterator[str]:
    for name, command in PARSERS.items():
        yield f"command memreap {name}"
        for action in command._actions:
            if action.dest == "help":
                continue
            for word in action.option_strings or action.choices or [action.metavar]:
                has_value = action.option_strings and action.nargs != 0
                yield f"command memreap {name} {word}{' VALUE' if has_value else ''}"
        yield from statuses(f"memreap {name}", f"{command.description}\n\n{command.epilog}")
    yield from (f"command supervisorctl memreap {name}" for name in CONTROL)
    yield from (f"command supervisorctl memreap {option}" for option in re.findall(r"--\w+", ctlplugin.HELP))
    yield from statuses("supervisorctl memreap", ctlplugin.HELP)
    yield from (f"command {TYPE} {verb}" for verb in VERBS)
    for module in (ctlplugin, rpcinterface):
        yield from (f"section {module.__name__}:{name}" for name in vars(module) if name.startswith("make_"))


def statuses(command: str, text: str) -> list[str]:
    return [f"command {command} ends with {number}" for number in exit_statuses(text)]


def events() -> Iterator[str]:
    yield from (f"event field {name}" for name in (*fields.COMMON, "shortened"))
    for event, _ in EXAMPLES:
        values = fields.of(event)
        about = f"event {values['event']} ({values['name']})"
        yield from (about, *(f"{about} {name}" for name in values.keys() - set(fields.COMMON)))
        if type(event).announced_as:
            yield f"{about} is announced"
    for reason in (*reasons.REASONS, Shortage):
        about = f"event evidence of {getattr(reason, 'setting', 'a shortage') or 'requested'}"
        yield from (f"{about}: {field.name}" for field in dataclasses.fields(reason))


def json_and_xmlrpc() -> Iterator[str]:
    yield from keys("json status", View([], "look", "n", ("t",), 1.0, warnings=("w",)).values())
    yield from keys("json memory", memorytable.values(rows.Held([], rows.MemoryRow(name="", state=""))))  # type: ignore[typeddict-item]
    setting = showsettings.document(
        "", showsettings.of_listener(Recording(), {}, None, ""), [showsettings.of_pool("", PoolSettings(), {}, None)]
    )
    yield from keys("json settings", setting)
    yield from keys("json settings of a setting", setting["pools"][0]["settings"]["limit"])
    yield from keys("json doctor", doctor.document("/nonexistent", mock.Mock()))
    with mock.patch.object(summary, "known", dict), mock.patch.object(advicetext, "known", dict):
        report = summary.values(summary.of(sawtooth.troubled(), sawtooth.UNTIL - sawtooth.DAY, sawtooth.UNTIL))
        yield from keys("json report of a pool", report)
        yield from keys("json suggest of a pool", advicetext.values(suggest(sawtooth.pool(days=3), sawtooth.UNTIL)))
    for kind in (rows.PoolRow, rows.WorkerRow, rows.RollRow, rows.SuspensionRow, rows.HindranceRow, rows.MemoryRow):
        yield from typed(f"json {kind.__name__.removesuffix('Row')}", kind)
    yield from typed("xml-rpc memreap.getListener", rows.ListenerRow)
    yield from (
        f"json beside {name}: {text}" for name in words._TIMES for text in words.timed({name: 0}) if text != name
    )
    values: dict[str, list[object]] = {
        "standing": [each.value for each in Standing],
        "cause of a suspension": [each.value for each in Cause],
        "kind of a hindrance": [each.value for each in hindrance.Kind],
        "kind of a suggestion": [each.value for each in GrowthKind],
        "listener_state": [each.value for each in ListenerState],
        "reason of a worker": [each.label for each in reasons.REASONS],
        "reason of an event": [each.setting or "requested" for each in reasons.REASONS],
        "version of a row": [rows.VERSION],
        "version of an event": [fields.VERSION],
        "version of settings": [showsettings.VERSION],
        "version of a report": [summary.VERSION],
        "version of a suggestion": [advicetext.VERSION],
    }
    for about, texts in values.items():
        yield from (f"value {about}: {text}" for text in texts)
    for name, method in vars(rpcinterface.MemreapNamespaceRPCInterface).items():
        if not name.startswith("_"):
            yield f"xml-rpc memreap.{name}({', '.join([*inspect.signature(method).parameters][1:])})"


def keys(about: str, values: Mapping[str, Any]) -> Iterator[str]:
    """Also those of the objects in a list."""
    for key, value in values.items():
        yield f"{about}: {key}"
        if isinstance(value, (list, tuple)) and value and isinstance(value[0], dict):
            yield from keys(f"{about}: {key}", value[0])


def typed(about: str, row: type) -> Iterator[str]:
    yield from (f"{about}: {key}, {type_name(kind)}" for key, kind in get_type_hints(row).items())


def type_name(kind: Any) -> str:
    """The same on each Python."""
    parts = get_args(kind)
    if type(None) in parts:
        return f"{type_name(parts[0])} or absent"
    return f"list of {type_name(parts[0])}" if parts else kind.__name__.removesuffix("Row")


def metrics() -> Iterator[str]:
    metric: Any
    for metric in exposition.Exposition(tally.Tally(), threading.Lock()).collect():
        name = f"{metric.name}_total" if metric.type == "counter" else metric.name
        yield f"metric {name}, {metric.type}"
        yield from (f"metric {name} label {label}" for label in metric._labelnames)
    for name, label, values in (
        ("reaps_total", "reason", tally.REAPED_FOR),
        ("errors_total", "kind", tally.ERRORS),
        ("lasting_error", "kind", tally.LASTING),
        ("refused_signals_total", "kind", tally.REFUSED),
        ("not_relieved_total", "kind", (*tally.OF_POOL, *tally.OF_HOST)),
    ):
        yield from (f"metric memreap_{name} {label}={value}" for value in values)


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    RECORD.write_text("".join(f"{line}\n" for line in sorted(RECORDED | present())))
