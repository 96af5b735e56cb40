"""How doctor gets to what it may not read here: the remedy, for all findings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from supervisor_memreap.doctor import rights
from supervisor_memreap.doctor.finding import Case
from supervisor_memreap.listener import statedirectory


def remedy(case: Case, pids: Sequence[int]) -> str:
    """` (this root lacks …): run …`, so that these processes may be read; empty where only rights are not the cause.

    The doctor of the listener has the listener's rights, so those are tried.
    """
    actor = rights_of_running_listener(case)
    if not rights.needed():
        return ""
    if actor and case.has_commands and _may_read(actor, pids):
        return f"{rights.lack()}: run supervisorctl memreap doctor, which has the listener's rights"
    return f"{rights.lack()}: {rights.needed()}"


def rights_of_running_listener(case: Case) -> rights.Rights | None:
    listener = case.running_listener
    try:
        return rights.of(listener.pid) if listener else None
    except OSError:
        return None  # it has just ended, or this system does not report it


def environment_of_listener(case: Case, supervisord: int) -> Mapping[str, str]:
    """Where none runs, the one that it will have."""
    environ = statedirectory.environment(supervisord)
    if rights_of_running_listener(case):
        return environ
    sections = (section.environment for section in case.contents.others if section.listens)
    return {**environ, **next(sections, {})}


def _may_read(actor: rights.Rights, pids: Sequence[int]) -> bool:
    access = rights.access(actor, pids)
    return access is None or all(may.reads for may in access.values())
