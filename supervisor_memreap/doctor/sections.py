"""Supervisor's own sections: the listener's, and [ctlplugin:memreap]."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator

from supervisor_memreap.core.text import quote
from supervisor_memreap.doctor.finding import Case, Finding, note
from supervisor_memreap.doctor.restart import advise_interface
from supervisor_memreap.supervisord.configfile import Section


def check(case: Case) -> Iterator[Finding]:
    listeners = [section for section in case.contents.others if section.listens]
    if not listeners:
        text = "there is none: add [eventlistener:memreap] with command=memreap listen, events=TICK_5"
        yield Finding("listener", text)
    if len(listeners) > 1 or any(section.options.get("numprocs", "1") != "1" for section in listeners):
        where = ", ".join(section.where for section in listeners)
        yield Finding("listener", f"there is more than one ({where}): keep one, with numprocs=1")
    for section in listeners:
        yield from _listener(section)
    yield from _plugin(case)


def _listener(section: Section) -> Iterator[Finding]:
    events = section.options.get("events", "").upper()
    if not re.search(r"\b(TICK(_5|_60|_3600)?|EVENT)\b", events):
        yield Finding(
            "listener", f"{section.where} events={quote(events) or 'none'}: no TICK, so it never looks: add TICK_5"
        )
    if not re.search(r"\b(REMOTE_COMMUNICATION|EVENT)\b", events):
        text = (
            "it does not get the commands supervisorctl memreap reap, roll, pause and resume: add REMOTE_COMMUNICATION"
        )
        yield note("listener", f"{section.where} events={quote(events)}: {text}")
    if section.is_off("autorestart"):
        text = "autorestart=false: a listener that exits is not restarted: remove that line"
        yield Finding("listener", f"{section.where} {text}")
    if section.is_on("redirect_stderr"):
        text = "redirect_stderr=true: its log would be mixed into the event protocol, and supervisord does not start"
        yield Finding("listener", f"{section.where} {text} with it: remove that line")


def _plugin(case: Case) -> Iterator[Finding]:
    plugins = case.contents.own_sections("ctlplugin")
    for section in plugins:
        if os.path.realpath(section.path) != os.path.realpath(case.main):
            text = f"supervisorctl does not read included files: move this section to {case.main}"
            yield Finding("supervisorctl", f"{section.where}: {text}")
    if plugins and not case.contents.own_sections("rpcinterface"):
        yield Finding("supervisorctl", f"memreap needs [rpcinterface:memreap] too: {advise_interface(case)}")
