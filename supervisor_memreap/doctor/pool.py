"""One pool: its program, what the listener may do to its workers, its limit, and how it stands."""

from __future__ import annotations

import json
import os
import re
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from supervisor.datatypes import dict_of_key_value_pairs

from supervisor_memreap.core import policy
from supervisor_memreap.core.model import Pool, Worker
from supervisor_memreap.core.settings import PoolSettings, Watch
from supervisor_memreap.core.verdict import Unreadable, Unseen
from supervisor_memreap.doctor.finding import Case, Finding
from supervisor_memreap.doctor.restart import advise_interface
from supervisor_memreap.doctor.sections import NO
from supervisor_memreap.host import memory, perl, processes, rights, strays
from supervisor_memreap.record import report
from supervisor_memreap.record.statefile import StateFile
from supervisor_memreap.supervisord.configfile import Section

# Seconds that FCGI::ProcManager gives its workers to finish when it is stopped (die_timeout).
_PROCMANAGER_PATIENCE = 60
# Since 0.18 a manager whose parent has the pid 1 stands.
_SOUND_PROCMANAGER = (0, 18)
# Seconds in which a program that has just been started may still be forking its workers.
_STARTING = 5.0
# Seconds in which a worker has served too little to have grown.
_FRESH = 60.0
# How Starman and Plack are told where to listen.
_LISTEN = re.compile(r"(?:^|\s)(?:-l|--listen)[\s=]")


def check(case: Case, watch: Watch) -> Iterator[Finding]:
    program, settings = watch.program, watch.settings
    section = case.contents.section_of(watch.members[0] if watch.members else program)
    command = section.options.get("command", "") if section else ""
    if section and settings.target == "workers" and section.options.get("autorestart", "").lower() in NO:
        text = "autorestart=false: a manager that ends is not started again: set it to true"
        yield Finding("", f"{section.where} {text}")
    # As if all were over the limit, so that each is read in full.
    everything = replace(settings, limit=0)
    (pool,) = processes.look([processes.Watched(program, everything, watch.members)], case.view)
    yield from _daemonizing(case, watch, command, pool)
    for member in watch.members or (program,):
        if member.state in ("BACKOFF", "FATAL", "EXITED"):
            which = f"{member.namespec} " if watch.members else "it "
            yield Finding("", f"{which}does not run ({member.state}): {member.spawnerr or 'see its log'}")
    yield from _standing(case, watch)
    if pool.manager is None:
        if pool.unseen == processes.RESTART_UNKNOWN:
            yield Finding("", f"{pool.unseen.partition(':')[0]}: {advise_interface(case)}")
        elif pool.unseen:
            yield Finding("", report.line(Unseen(pool.unseen), settings))
        return
    grown_up = [one for one in pool.workers if one.suspect and one.age >= min(settings.min_age, _STARTING)]
    if not pool.workers and settings.target == "workers" and pool.manager_age > _STARTING:
        yield Finding(
            "",
            f"process {pool.manager.pid} has no workers: it is no manager, and memreap finds none to reap. Is -l"
            " missing in the command of an [fcgi-program], or the manager turned off (--manager '')? If it serves by"
            " itself, set target=self",
        )
    yield from _vetoes(pool, grown_up, settings)
    yield from _starman(pool, grown_up, command)
    yield from _rights(case, grown_up, settings)
    yield from check_limit(grown_up, settings)
    yield from check_memory(settings, len(pool.workers), memory.available_to(pool.manager.pid))
    if any(one.suspect and one.suspect.server == "FCGI::ProcManager" for one in grown_up):
        yield from _procmanager(case, pool, section, command, watch)


def _daemonizing(case: Case, watch: Watch, command: str, pool: Pool) -> Iterator[Finding]:
    # Of a manager that is there its -d means something else.
    if strays.daemonizes(command) and pool.manager is None:
        yield Finding("", f"command={command}: it daemonizes itself, and supervisord starts another one: remove -d")
    sought = dict.fromkeys(watch.members or (watch.program,), command)
    for left in strays.find(sought, case.client.programs, case.environ, case.view).values():
        yield Finding("", report.strays(left.roots, left.memory, left.daemonizes))


def _standing(case: Case, watch: Watch) -> Iterator[Finding]:
    """A pool in which the listener sends nothing, by itself or because a user asked for that."""
    name = watch.program.namespec
    published = case.client.pools()
    if published is None:
        values = _remembered(case, watch)
    else:
        values = next((one for one in published if one.get("name") == name), {})
    standing = str(values.get("standing", ""))
    suspension = values.get("suspension")
    if suspension or "suspended" in standing:
        yield Finding("", _suspended(suspension or {"reason": standing.partition("suspended: ")[2]}, name))
    if "paused" in standing:
        yield Finding("", "it is paused: nothing is sent until supervisorctl memreap resume", False)


def _suspended(suspension: Mapping[str, Any], name: str) -> str:
    text = f"suspended: {suspension.get('reason') or 'for a reason that the log has'}"
    if "since" in suspension:
        text += f", since {report.clock(suspension['since'])}"
    if "until" in suspension:
        text += f", until {report.clock(suspension['until'])}"
    return f"{text}; nothing is sent: see the listener's log; supervisorctl memreap resume {name} ends it"


def _remembered(case: Case, watch: Watch) -> dict[str, Any]:
    """What the listener has written down, read as its user and with its temporary directory."""
    pid = next((program.pid for program in case.listeners() if program.pid), 0)
    try:
        supervisord = case.view.process(watch.program.supervisord).id
        actor = rights.of(pid) if pid else rights.of(os.getpid())
    except (OSError, ValueError):
        return {}

    def read() -> bytes:
        tempfile.tempdir = _temporary_directory(pid)
        states, _ = StateFile(supervisord).read(time.monotonic())
        state = states.get(watch.program.namespec)
        if state is None:
            return b"{}"
        values: dict[str, Any] = {"standing": "paused" if state.paused else ""}
        if state.suspended:
            values["suspension"] = {"reason": state.suspended.word}
            for key in ("since", "until"):
                at = getattr(state.suspended, key, None)
                if at is not None:
                    values["suspension"][key] = time.time() + at - time.monotonic()
        return json.dumps(values).encode()

    return dict(json.loads(rights.run_as(actor, read) or b"{}"))


def _temporary_directory(pid: int) -> str | None:
    try:
        words = Path(f"/proc/{pid}/environ").read_bytes().decode(errors="surrogateescape").split("\0")
    except OSError:
        return None
    return next((word[len("TMPDIR=") :] for word in words if word.startswith("TMPDIR=")), None)


def _vetoes(pool: Pool, workers: list[Worker], settings: PoolSettings) -> Iterator[Finding]:
    reported = set()
    for worker in workers:
        veto = policy.veto(pool, worker, settings)
        if veto and type(veto) not in reported:
            reported.add(type(veto))
            yield Finding("", report.line(veto, settings))


def _starman(pool: Pool, workers: list[Worker], command: str) -> Iterator[Finding]:
    # Measured with 0.4016: HUP at any moment lost 43 of 248 requests, and held inside accept none of 113.
    is_starman = any(worker.suspect and worker.suspect.server == "Starman" for worker in workers)
    if is_starman and len(_LISTEN.findall(command)) > 1:
        text = "its workers wait in flock and select, so memreap sees no idle moment and sends nothing"
        yield Finding("", f"Starman with more than one --listen: {text}; use one --listen")


def _rights(case: Case, workers: list[Worker], settings: PoolSettings) -> Iterator[Finding]:
    """What the listener may do to a worker: it is tried with its rights, not with ours."""
    pid = next((program.pid for program in case.listeners() if program.pid), 0)
    if not pid or not workers:
        return
    try:
        actor = rights.of(pid)
    except OSError:
        return  # it has just ended, or this system does not tell
    for worker in workers:
        access = rights.access(actor, worker.id.pid)
        if access is None:
            if os.path.exists(f"/proc/{worker.id.pid}"):
                text = f"what the listener (user {actor.users[1]}) may do to its workers could not be tried from here"
                yield Finding("", f"{text}: run doctor as root, or supervisorctl memreap doctor", False)
                return
        elif not access.signals:
            text = f"the listener (user {actor.users[1]}) may not signal worker {worker.id.pid}{_user_of(worker)}"
            yield Finding("", f"{text}: run it as the pool's user (user= in its section) or as root")
            return
        elif settings.metric in ("uss", "pss") and not access.reads:
            yield Finding("", report.line(Unreadable(worker), settings))
            return
        elif settings.hold and not access.holds:
            yield Finding("", report.NEXT_BEST["unheld"], False)
            return


def _user_of(worker: Worker) -> str:
    try:
        return f" (user {rights.of(worker.id.pid).users[1]})"
    except OSError:
        return ""


def check_limit(workers: Sequence[Worker], settings: PoolSettings) -> Iterator[Finding]:
    """A limit that fresh workers exceed."""
    measured = [one for one in workers if one.used is not None]
    if workers and not measured:
        text = f"the {settings.metric} of its workers may not be read from here, so its limit was not checked"
        yield Finding("", f"{text}: run doctor as root or as the pool's user", False)
    fresh = [one.used or 0 for one in measured if one.age < _FRESH]
    # One alone may be a spike.
    if fresh and min(fresh) > settings.limit:
        usable = policy.usable_limit(fresh) // 1024**2
        yield Finding(
            "",
            f"a fresh worker holds {report.memory(min(fresh))} ({settings.metric}) already, over the limit of"
            f" {report.memory(settings.limit)}: all would be reaped for ever; set limit={usable}MB or more",
        )


def check_memory(settings: PoolSettings, workers: int, available: tuple[int, str] | None) -> Iterator[Finding]:
    """A limit that can never be reached, or that all workers together cannot."""
    if available is None or settings.metric == "vms":
        return
    size, owner = available
    has = f"the memory of this {owner} ({report.memory(size)})"
    limit = report.memory(settings.limit)
    if settings.limit > size:
        text = f"its limit of {limit} is above {has}: memory runs out before any worker is reaped"
        yield Finding("", f"{text}; set a limit= that all workers together leave room for")
    elif workers * settings.limit > size:
        text = (
            f"{workers} workers of up to {limit} each are together above {has}: the limit alone does not keep it free"
        )
        yield Finding("", f"{text}; a limit= of {max(1, size // workers // 1024**2)}MB or less would", False)


def _procmanager(case: Case, pool: Pool, section: Section | None, command: str, watch: Watch) -> Iterator[Finding]:
    assert pool.manager
    options = section.options if section else {}
    wait = options.get("stopwaitsecs", "10")
    if section and wait.isdigit() and int(wait) < _PROCMANAGER_PATIENCE:
        yield Finding(
            "",
            f"{section.where} stopwaitsecs={wait}: FCGI::ProcManager gives its workers {_PROCMANAGER_PATIENCE} s to"
            " finish, and supervisord would end them by force before: set stopwaitsecs=70",
        )
    version = perl.procmanager_version(pool.manager.pid, command, _environment(options), case.time_left)
    is_first = watch.program.supervisord == 1
    if version is not None and version < _SOUND_PROCMANAGER:
        text = f"FCGI::ProcManager {version[0]}.{version[1]:02} is older than 0.18: where its parent has the pid 1"
        now = (
            " (as here: supervisord is process 1)"
            if is_first
            else " (daemonized, or below a supervisord that is process 1)"
        )
        yield Finding("", f"{text}{now}, a worker that leaves ends all of them: install a later one", True)
    elif version is None:
        text = "which FCGI::ProcManager this is could not be found out (as root or as its user it can)"
        where = "supervisord is process 1, and " if is_first else "where its parent has the pid 1, "
        yield Finding("", f"{text}: {where}with 0.17 or older a worker that leaves ends all of them", False)


def _environment(options: Mapping[str, str]) -> dict[str, str]:
    try:
        found: dict[str, Any] = dict_of_key_value_pairs(options.get("environment", ""))
    except ValueError:
        return {}
    return {str(key): str(value) for key, value in found.items()}
