"""Would supervisord and supervisorctl start again, with the present configuration and with the recommended one?

supervisord imports what an [rpcinterface:…] section names, and does not start if it cannot; supervisorctl does the
same with [ctlplugin:…]. Both may run in another Python than memreap, so doctor asks each before it recommends a
section or a restart.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from supervisor_memreap.core.listeners import is_listener
from supervisor_memreap.core.model import supervisord_of
from supervisor_memreap.core.text import quote
from supervisor_memreap.doctor import interpreter
from supervisor_memreap.doctor.finding import Case, Finding, note
from supervisor_memreap.doctor.interpreter import Answer
from supervisor_memreap.supervisord.configfile import Section

INTERFACE = "supervisor.rpcinterface_factory=supervisor_memreap.rpcinterface:make_rpcinterface"
PLUGIN = "supervisor.ctl_factory=supervisor_memreap.ctlplugin:make_ctlplugin"


def ask(case: Case) -> None:
    """Ask the Pythons of supervisord and supervisorctl what they can import."""
    pid = supervisord_of(case.programs)
    if pid:
        case.supervisord = interpreter.of_supervisord(pid, case.files, case.time_left)
    elif case.contents.own_sections("rpcinterface"):
        case.supervisord = _on_path(case, "supervisord")
    if pid or case.contents.own_sections("ctlplugin"):
        # Of several, the one that was installed with the supervisord that runs.
        case.supervisorctl = _on_path(case, "supervisorctl", interpreter.script_beside(pid or 0, "supervisorctl"))


def _on_path(case: Case, name: str, beside: str | None = None) -> Answer:
    script = beside or interpreter.script_on_path(name, case.environ)
    if script is None:
        return Answer(name, unknown=f"there is no {name} on the PATH")
    return interpreter.of_script(name, script, case.files, case.environ, case.time_left)


def check(case: Case) -> Iterator[Finding]:
    yield from _supervisord(case)
    yield from _supervisorctl(case)


def _supervisord(case: Case) -> Iterator[Finding]:
    answer, sections = case.supervisord, case.contents.own_sections("rpcinterface")
    again = "again" if case.programs else f"as {answer.program}"
    if answer.refused:
        yield Finding("supervisord", f"supervisord will not start {again}: {_refusal(answer)}")
    elif answer.unknown:
        # If no supervisord runs, and there is no such section, nothing depends on it.
        if case.programs or sections:
            text = f"cannot tell whether supervisord will start {again}, or has read all of its configuration"
            yield note("supervisord", f"{text}: {answer.unknown}")
    elif sections and not answer.can_import:
        text = f"{answer.lacks}, the version that runs here: first {answer.remedy}, then {advise_restart(case)}"
        yield note("supervisord", text)


def _supervisorctl(case: Case) -> Iterator[Finding]:
    answer = case.supervisorctl
    sections = case.contents.plugins
    if sections and answer.refused:
        yield Finding("supervisorctl", f"every call of {answer.program} fails: {_refusal(answer)}")
    elif sections and answer.unknown:
        text = f"cannot tell whether it can load [ctlplugin:memreap]: {answer.unknown}"
        yield note("supervisorctl", text)
    elif sections and not answer.can_import:
        yield note("supervisorctl", f"{answer.lacks}, the version that runs here: {answer.remedy}")
    elif sections or case.contents.own_sections("ctlplugin") or answer.unknown or answer.refused:
        return
    elif not answer.can_import:
        fails = "" if answer.version else f", and every call of {answer.program} would fail"
        text = f"do not add [ctlplugin:memreap] yet: {answer.lacks}{fails}"
        yield note("supervisorctl", f"{text}; first {answer.remedy}")
    elif case.contents.own_sections("rpcinterface"):
        text = f"for supervisorctl memreap status, add [ctlplugin:memreap] with {PLUGIN} to {case.main}"
        yield note("supervisorctl", text)


def _refusal(answer: Answer) -> str:
    """The parser's error, and the remedy if memreap cannot be imported."""
    if "supervisor_memreap" not in answer.refused or answer.version:
        return answer.refused
    return f"{answer.refused}: {answer.lacks}; remove that section, or {answer.remedy}"


def advise_interface(case: Case) -> str:
    """How to get [rpcinterface:memreap], or why not to add it."""
    answer = case.supervisord
    if answer.unknown:
        return (
            "do not add [rpcinterface:memreap] before it is known that supervisord's Python can import"
            f" supervisor_memreap ({answer.unknown}): otherwise supervisord may not start again"
        )
    add = f"add [rpcinterface:memreap] with {INTERFACE}, then {advise_restart(case)}"
    if answer.can_import:
        return add
    if answer.version:
        return f"{answer.lacks}: first {answer.remedy}, then {add}"
    return (
        f"{answer.lacks}: with [rpcinterface:memreap] supervisord would not start again; first {answer.remedy}; then"
        f" run memreap doctor again, and {add}"
    )


def advise_restart(case: Case) -> str:
    """`restart supervisord`, and what must be known first."""
    answer = case.supervisord
    if answer.refused:
        return "restart supervisord, but first solve the problem that keeps it from starting again"
    if answer.unknown:
        return f"restart supervisord, once it is known whether it will start again ({answer.unknown})"
    return "restart supervisord, once"


# Supervisor's own sections: the listener's, and [ctlplugin:memreap].


def check_sections(case: Case) -> Iterator[Finding]:
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


# Compares the configuration file with what supervisord runs: a change takes effect after `supervisorctl update`.
#
# supervisor.reloadConfig would report what has changed, but also makes supervisord load it, so it is never called here.
# supervisor's own parser reads the file in a separate process (doctor.interpreter). The result is compared with
# supervisor.getAllConfigInfo, value by value. That lacks environment, autorestart, stopasgroup, umask and events; and
# after `supervisorctl reread` it shows what was read, not what runs: only [rpcinterface:memreap] knows that difference.


Values = Mapping[str, Any]


def check_unread(case: Case) -> Iterator[Finding]:
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
