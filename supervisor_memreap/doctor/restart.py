"""Would supervisord and supervisorctl start again, with the present configuration and with the recommended one?

supervisord imports what an [rpcinterface:…] section names, and does not start if it cannot; supervisorctl does the
same with [ctlplugin:…]. Both may run in another Python than memreap, so doctor asks each before it recommends a
section or a restart.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator

from supervisor_memreap.core.command import ASKED_BY_SUPERVISORCTL
from supervisor_memreap.core.model import supervisord_of
from supervisor_memreap.doctor import interpreter
from supervisor_memreap.doctor.finding import Case, Finding, note
from supervisor_memreap.doctor.interpreter import Answer

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
    script = beside or shutil.which(name, path=case.environ.get("PATH", os.defpath))
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
        # The one that sent us could load it, so another one that cannot hinders none of memreap's commands.
        is_other = ASKED_BY_SUPERVISORCTL in case.environ and "supervisor_memreap" in answer.refused
        other = " (another supervisorctl than the one that asked)" if is_other else ""
        text = f"every call of {answer.program}{other} fails: {_refusal(answer)}"
        yield Finding("supervisorctl", text, harms=not is_other)
    elif sections and answer.unknown:
        text = f"cannot tell whether it can load [ctlplugin:memreap]: {answer.unknown}"
        yield note("supervisorctl", text)
    elif sections and not answer.can_import:
        yield note("supervisorctl", f"{answer.lacks}, the version that runs here: {answer.remedy}")
    elif sections or case.contents.own_sections("ctlplugin") or answer.unknown or answer.refused:
        return
    elif not answer.can_import:
        if answer.python != case.supervisord.python:  # else it is said there
            fails = "" if answer.version else f", and every call of {answer.program} would fail"
            text = f"do not add [ctlplugin:memreap] yet: {answer.lacks}{fails}; first {answer.remedy}"
            yield note("supervisorctl", text)
    elif case.contents.own_sections("rpcinterface"):
        text = f"for supervisorctl memreap status, add [ctlplugin:memreap] with {PLUGIN} to {case.main}"
        yield note("supervisorctl", text)


def _refusal(answer: Answer) -> str:
    """The parser's error, and the remedy if memreap cannot be imported."""
    if "supervisor_memreap" not in answer.refused or answer.version:
        return answer.refused
    return f"{answer.refused}: {answer.lacks}; remove that section, or {answer.remedy}"


def advise_interface(case: Case, is_needed: bool = True) -> str:
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
    if not is_needed:
        neither = f"add neither that nor [ctlplugin:memreap]: {answer.python} cannot import memreap"
        return f"{neither}, and supervisord would not start again (docs/install.md)"
    not_yet = f"{answer.lacks}: with [rpcinterface:memreap] supervisord would not start again"
    return f"{not_yet}; first {answer.remedy}; then run memreap doctor again"


def advise_restart(case: Case) -> str:
    """`restart supervisord`, and what must be known first."""
    answer = case.supervisord
    if answer.refused:
        return "restart supervisord, but first solve the problem that keeps it from starting again"
    if answer.unknown:
        return f"restart supervisord, once it is known whether it will start again ({answer.unknown})"
    return "restart supervisord, once, when convenient: that restarts all its programs"
