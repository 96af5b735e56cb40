"""Whether the listener can write the history and offer its metrics. Without them it still reaps."""

from __future__ import annotations

import os
from collections.abc import Iterator

from supervisor_memreap.core.model import supervisord_of
from supervisor_memreap.doctor import rights
from supervisor_memreap.doctor.finding import Case, Finding, note
from supervisor_memreap.doctor.listening import name_of_user, rights_of_listener
from supervisor_memreap.history.historypath import HistoryError, in_force, refusal


def check(case: Case) -> Iterator[Finding]:
    findings = list(_history(case))
    yield from findings
    for warning in (case.listener and case.listener.get("warnings")) or ():
        subject, _, text = warning.partition(": ")
        if subject not in {finding.subject for finding in findings}:
            yield note(subject, text)


def _history(case: Case) -> Iterator[Finding]:
    """Without waiting for the listener's attempt, and with a remedy."""
    try:
        path = in_force(case.settings.recording, case.contents, supervisord_of(case.programs))
    except HistoryError as error:
        yield note("history", f"nothing is recorded: {error}")
        return
    actor = rights_of_listener(case)
    if path is None or actor is None:
        return
    trouble = rights.run_as(actor, lambda: _trouble(path))
    if trouble:
        user = name_of_user(actor.users[1])
        text = f"nothing is recorded: {trouble.decode()}, for the listener's user {user}: set history=PATH in [memreap]"
        yield note("history", f"{text} to a file in a directory of that user, or off")


def _trouble(path: str) -> bytes:
    """Why this user cannot write that file; empty if nothing is known against it."""
    above = os.path.dirname(path)
    if not os.path.isdir(above):
        return f"there is no directory {above}".encode()
    if os.path.lexists(path) and not os.access(path, os.W_OK):
        return f"cannot write {path}".encode()
    if reason := refusal(path):
        return reason.encode()
    # Also beside a history that is there: SQLite keeps its journal there.
    return b"" if os.access(above, os.W_OK | os.X_OK) else f"cannot create a file in {above}".encode()
