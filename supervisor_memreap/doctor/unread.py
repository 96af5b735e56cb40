"""Compares the configuration file with what supervisord runs: a change takes effect after `supervisorctl update`.

supervisor.reloadConfig would report what has changed, but also makes supervisord load it, so it is never called here.
supervisor's own parser reads the file in a separate process (doctor.interpreter). The result is compared with
supervisor.getAllConfigInfo, value by value. That lacks environment, autorestart, stopasgroup, umask and events; and
after `supervisorctl reread` it shows what was read, not what runs: only [rpcinterface:memreap] knows that difference.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from supervisor_memreap.core.listeners import is_listener
from supervisor_memreap.core.text import quote
from supervisor_memreap.doctor.finding import Case, Finding

Values = Mapping[str, Any]


def check(case: Case) -> Iterator[Finding]:
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
