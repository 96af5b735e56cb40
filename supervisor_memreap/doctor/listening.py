"""The running listener: its state, its version, and whether it can reach supervisord, save its state and write."""

from __future__ import annotations

import os
import pwd
import socket
import sys
import time
from collections.abc import Iterator

from supervisor_memreap import __version__
from supervisor_memreap.core import events
from supervisor_memreap.core.model import UP, Program, ProgramState, supervisord_of
from supervisor_memreap.doctor import ownrights, rights
from supervisor_memreap.doctor.finding import Case, Finding, note
from supervisor_memreap.doctor.restart import advise_interface, advise_restart
from supervisor_memreap.history.historypath import HistoryError, in_force, refusal
from supervisor_memreap.listener import statedirectory
from supervisor_memreap.outputs.view import age_of_listener, listener_is_down, number_of_listeners, trouble_of_listener


def check(case: Case) -> Iterator[Finding]:
    findings = list(_own_findings(case))
    yield from findings
    # A listener of another version words its lines differently, so none is sought by its text: at worst, what was found
    # here is said twice.
    missing = events.ProgramsMissing.of(case.settings.unmatched(case.programs), case.programs, time.time())
    known = [case.refused, "; ".join(case.contents.warnings), missing.text if missing else ""]
    unsaved = events.NotSaved("", time.time(), "").text  # the listener words the cause differently
    known += [unsaved for finding in findings if finding.text.startswith(unsaved)]
    for line in (case.listener and case.listener.get("troubles")) or ():
        is_said = any(line in finding.text for finding in findings) or any(text in line for text in known if text)
        if not is_said:
            yield Finding("listener", line)


def _own_findings(case: Case) -> Iterator[Finding]:
    running = ", ".join(sorted({program.namespec for program in case.programs}))
    for name in case.settings.unmatched(case.programs):
        text = f"{case.settings.where(name)}: not a program or group in supervisord; there are: {running}"
        yield Finding("configuration", text)
    yield from _socket(case)
    yield from _unsaved(case)
    values = case.listener
    if values is None:
        yield from _without_interface(case)
        return
    trouble = trouble_of_listener(values) or age_of_listener(values, __version__) or number_of_listeners(values)
    if trouble:
        yield Finding("listener", trouble)


def _without_interface(case: Case) -> Iterator[Finding]:
    if case.contents.own_sections("rpcinterface"):
        yield Finding("supervisord", f"it has not read [rpcinterface:memreap] yet: {advise_restart(case)}")
    elif any(program.state == ProgramState.RUNNING for program in case.listeners()):
        text = "whether it hangs cannot be seen, since supervisord has no [rpcinterface:memreap]"
        yield note("listener", f"{text}; {advise_interface(case, is_needed=False)}")
    yield from (not_running(program) for program in case.listeners() if program.state not in UP)


def not_running(program: Program) -> Finding:
    own = os.path.abspath(sys.argv[0])
    command = {"command": f"{own} listen"} if os.path.isfile(own) else {}
    return Finding("listener", listener_is_down(program.namespec, program.state, program.spawnerr, **command))


def _unsaved(case: Case) -> Iterator[Finding]:
    """Whether the listener can save what must survive a restart: without that it signals no worker."""
    supervisord, actor = supervisord_of(case.programs), rights_of_listener(case)
    if supervisord and actor:
        environ = ownrights.environment_of_listener(case, supervisord)

        def find() -> bytes:
            return statedirectory.trouble(statedirectory.candidates(supervisord, case.contents, environ)).encode()

        trouble = rights.run_as(actor, find)
        if trouble:
            yield Finding("listener", events.NotSaved("", time.time(), trouble.decode()).text)


def _socket(case: Case) -> Iterator[Finding]:
    url = case.supervisord.serverurl or case.contents.server.get("serverurl", "")
    actor = rights_of_listener(case)
    if actor is None or not url.startswith("unix://"):
        return
    path = url[len("unix://") :]
    if rights.run_as(actor, lambda: _connect(path)) == b"refused":
        name = name_of_user(actor.users[1])
        text = f"its user {name} has no permission to open supervisord's socket {path}, so it sees no program"
        group = f"chown=root:GROUP (a group of {name}, which may then stop all programs)"
        remedy = f"set {group} and chmod=0770 in [unix_http_server], then {advise_restart(case)}"
        if name.isdigit():  # with a chown= that it cannot look up supervisord would not start
            remedy = "run it as a user that has a name here"
        yield Finding("listener", f"{text}: {remedy}")


def _connect(path: str) -> bytes:
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(1.0)
            connection.connect(path)
    except PermissionError:
        return b"refused"
    except OSError:
        return b"unknown"
    return b"open"


def rights_of_listener(case: Case) -> rights.Rights | None:
    """The rights of the listener: of its process, or of the user in its section."""
    if case.running_listener:
        return ownrights.rights_of_running_listener(case)
    try:
        names = [section.options.get("user", "") for section in case.contents.others if section.listens]
        if os.geteuid() != 0 or len(names) != 1 or not names[0]:
            return None
        entry = pwd.getpwuid(int(names[0])) if names[0].isdigit() else pwd.getpwnam(names[0])
        groups = tuple(os.getgrouplist(entry.pw_name, entry.pw_gid))
        return rights.Rights((entry.pw_uid,) * 4, (entry.pw_gid,) * 4, groups, 0, 0)
    except (OSError, KeyError, ValueError):
        return None  # there is no such user: supervisord reports that itself


def name_of_user(user: int) -> str:
    try:
        return pwd.getpwuid(user).pw_name
    except KeyError:
        return str(user)


# Whether the listener can write the history and offer its metrics. Without them it still reaps.


def check_outputs(case: Case) -> Iterator[Finding]:
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
