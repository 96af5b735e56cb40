"""`memreap doctor`: checks for anything that would stop memreap or make it unsafe, each with its remedy.

It signals no process and changes nothing. A check is a function of a Case that yields Findings.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from supervisor_memreap.core.settings import REASON_KEYS_TEXT, Settings, SettingsError
from supervisor_memreap.doctor import configuration, listening, program, restart
from supervisor_memreap.doctor.finding import Case, Finding, note
from supervisor_memreap.host import procfs
from supervisor_memreap.supervisord import configfile
from supervisor_memreap.supervisord.client import Client, Unavailable

# Seconds for all questions to Perl and Python together: each takes 0.02 to 0.3 s, and longer with modules on a
# network disk.
_ASKING = 10.0


def run(path: str | None, connect: Callable[[Mapping[str, str]], Client], print_line: Callable[[str], None]) -> int:
    """Returns 0: no problems; 1: some. `connect` makes a client from the settings of [supervisorctl]."""
    problems = 0
    for finding in sorted(_findings(path, connect), key=lambda finding: finding.rank):
        print_line(f"{finding.subject}: {('', 'note: ', 'ok: ')[finding.rank]}{finding.text}")
        problems += finding.harms
    print_line("no problems found" if not problems else f"{problems} problem{'s' if problems > 1 else ''} found")
    return 1 if problems else 0


def document(path: str | None, connect: Callable[[Mapping[str, str]], Client]) -> dict[str, Any]:
    """The same for JSON; its version is increased when a key is removed or changes its meaning."""
    findings = sorted(_findings(path, connect), key=lambda finding: finding.rank)
    rows = [
        {"kind": ("problem", "note", "ok")[each.rank], "subject": each.subject, "text": each.text} for each in findings
    ]
    return {"version": 1, "problems": sum(each.harms for each in findings), "findings": rows}


def _findings(path: str | None, connect: Callable[[Mapping[str, str]], Client]) -> Iterator[Finding]:
    try:
        file = configfile.ConfigFile(configfile.find(path))
    except SettingsError as error:
        yield Finding("configuration", str(error))
        return
    try:
        contents = file.read()
    except SettingsError as error:
        yield Finding("configuration", f"{error}; supervisord will not start with a file that it cannot read")
        return
    deadline = time.monotonic() + _ASKING
    case = Case(contents, file.files(), Settings({}), os.environ, procfs.source(), deadline)
    unavailable = None
    try:
        case.client = connect(contents.server)
        case.programs = case.client.programs()
        case.listener = case.client.listener()
    except Unavailable as error:
        unavailable = Finding("supervisord", str(error))
    restart.ask(case)
    # First what would stop supervisord itself.
    yield from restart.check(case)
    yield from _settings(case)
    yield from configuration.check_sections(case)
    if unavailable:
        yield unavailable
        return
    try:
        yield from listening.check(case)
        yield from listening.check_outputs(case)
        yield from configuration.check_unread(case)
        yield from _pools(case)
    except Unavailable as error:
        yield Finding("supervisord", str(error))


def _settings(case: Case) -> Iterator[Finding]:
    contents = case.contents
    try:
        case.settings = contents.settings()
    except SettingsError as error:
        case.refused = str(error)
        text = "until this is corrected, nothing of the file is used, and a listener that runs keeps its settings"
        yield Finding("configuration", f"{error}; {text}")
    else:
        if not case.settings.names:
            text = (
                f"{case.main}: no program has a [memreap:PROGRAM] section: add one with observe=yes, {REASON_KEYS_TEXT}"
            )
            yield Finding("configuration", text)
    for warning in contents.warnings:
        yield Finding("configuration", warning)
    for repeated in contents.repeated:
        yield note("configuration", repeated)


def _pools(case: Case) -> Iterator[Finding]:
    for watch in case.settings.pools(case.programs):
        for finding in program.check(case, watch):
            yield finding._replace(subject=watch.program.namespec)
