"""What the configuration file has: are supervisor's own sections right, and does supervisord run what it says?

supervisor.reloadConfig would report what has changed, but also makes supervisord load it, so it is never called here.
supervisor's own parser reads the file in a separate process (doctor.interpreter). The result is compared with
supervisor.getAllConfigInfo, value by value. That lacks environment, autorestart, stopasgroup, umask and events; and
after `supervisorctl reread` it shows what was read, not what runs: only [rpcinterface:memreap] knows that difference.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from supervisor_memreap.core.listeners import is_listener
from supervisor_memreap.core.text import quote
from supervisor_memreap.doctor.finding import Case, Finding, note
from supervisor_memreap.doctor.restart import advise_interface
from supervisor_memreap.supervisord.configfile import Section

Values = Mapping[str, Any]


def check_sections(case: Case) -> Iterator[Finding]:
    """The sections of the listener, and [ctlplugin:memreap]."""
    listeners = [section for section in case.contents.others if section.listens]
    if not listeners:
        text = "there is none: add [eventlistener:memreap] with command=memreap listen, events=TICK_5"
        yield Finding("listener", text)
    if len(listeners) > 1 or any(section.options.get("numprocs", "1") != "1" for section in listeners):
        where = ", ".join(section.where for section in listeners)
        yield Finding("listener", f"there is more than one ({where}): keep one, with numprocs=1")
    for section in listeners:
        yield from _listener(section, case)
    yield from _plugin(case)


def _listener(section: Section, case: Case) -> Iterator[Finding]:
    events, where = section.options.get("events", "").upper(), section.where_of("events")
    if not re.search(r"\b(TICK(_5|_60|_3600)?|EVENT)\b", events):
        yield Finding("listener", f"{where} events={quote(events) or 'none'}: no TICK, so it never looks: add TICK_5")
    if case.contents.own_sections("ctlplugin") and not re.search(r"\b(REMOTE_COMMUNICATION|EVENT)\b", events):
        text = (
            "it does not get the commands supervisorctl memreap reap, roll, pause and resume: add REMOTE_COMMUNICATION"
        )
        yield note("listener", f"{where} events={quote(events)}: {text}")
    if section.is_off("autorestart"):
        text = "autorestart=false: a listener that exits is not restarted: remove that line"
        yield Finding("listener", f"{section.where_of('autorestart')} {text}")
    if section.is_on("redirect_stderr"):
        text = "redirect_stderr=true: its log would be mixed into the event protocol, and supervisord does not start"
        yield Finding("listener", f"{section.where_of('redirect_stderr')} {text} with it: remove that line")


def _plugin(case: Case) -> Iterator[Finding]:
    plugins = case.contents.own_sections("ctlplugin")
    for section in plugins:
        if os.path.realpath(section.path) != os.path.realpath(case.main):
            text = f"supervisorctl does not read included files: move this section to {case.main}"
            yield Finding("supervisorctl", f"{section.where}: {text}")
    if plugins and not case.contents.own_sections("rpcinterface"):
        yield Finding("supervisorctl", f"memreap needs [rpcinterface:memreap] too: {advise_interface(case)}")


def check_unread(case: Case) -> Iterator[Finding]:
    """A change of the file takes effect after `supervisorctl update`."""
    if case.supervisord.processes is None:
        return
    written, known = _by_group(case.supervisord.processes), _by_group(case.client.configuration())
    runs: dict[str, set[str]] = {}
    for program in case.programs:
        runs.setdefault(program.group, set()).add(program.name)
    added = sorted(written.keys() - runs.keys())
    removed = sorted(runs.keys() - written.keys())
    changed = {
        group: why
        for group in sorted(written.keys() & runs.keys())
        if (why := _difference(written[group], known.get(group, {}), runs[group]))
    }
    for group in case.client.pending().get("changed", ()):
        changed.setdefault(group, "read, but not applied")
    actions = [
        *([f"start: {', '.join(added)}"] if added else []),
        *([f"restart: {', '.join(f'{group} ({why})' for group, why in changed.items())}"] if changed else []),
        *([f"stop and remove: {', '.join(removed)}"] if removed else []),
    ]
    if actions:
        watched = {watch.program.group for watch in case.settings.pools(case.programs)} | _named(case)
        groups = {*added, *removed, *changed}
        matters = any(group in watched or _listens(written, known, group) for group in groups)
        text = f"it has not read all of its configuration: run supervisorctl update, which will {'; '.join(actions)}"
        yield Finding("supervisord", text, matters)


def _by_group(infos: Iterable[Values]) -> dict[str, dict[str, Values]]:
    groups: dict[str, dict[str, Values]] = {}
    for info in infos:
        groups.setdefault(str(info["group"]), {})[str(info["name"])] = info
    return groups


def _difference(written: Mapping[str, Values], known: Mapping[str, Values], running: set[str]) -> str:
    """Why `supervisorctl update` would restart this group, in short; empty if it would not."""
    if set(written) != running:
        return f"{len(running)} processes, now {len(written)}" if len(running) != len(written) else "its processes"
    for name, values in written.items():
        for key, value in values.items():
            before = known.get(name, {}).get(key, value)
            # An automatic log has a path while the program runs; supervisor treats it as equal to any other.
            if key != "inuse" and "auto" not in (value, before) and value != before:
                return f"{key}: {quote(str(before))}, now {quote(str(value))}"
    return ""


def _named(case: Case) -> set[str]:
    return {name.partition(":")[0] for name in case.settings.names}


def _listens(
    written: Mapping[str, Mapping[str, Values]], known: Mapping[str, Mapping[str, Values]], group: str
) -> bool:
    infos = [*written.get(group, {}).values(), *known.get(group, {}).values()]
    return any(is_listener(str(info["command"])) for info in infos)
