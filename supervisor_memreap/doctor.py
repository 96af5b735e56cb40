"""`memreap doctor`: all that would make memreap fail or do harm here, each with its remedy. It signals nobody."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from supervisor.datatypes import dict_of_key_value_pairs

from supervisor_memreap import __version__
from supervisor_memreap.core import policy
from supervisor_memreap.core.model import Pool, Program, Worker
from supervisor_memreap.core.settings import PoolSettings, Settings, SettingsError, Watch, resolve
from supervisor_memreap.core.verdict import Unreadable, Unseen
from supervisor_memreap.host import perl, processes, rights, strays
from supervisor_memreap.host.source import Source
from supervisor_memreap.record import report
from supervisor_memreap.record.status import age_of_listener, trouble_of_listener
from supervisor_memreap.supervisord import configfile
from supervisor_memreap.supervisord.client import Client, Unavailable

# Seconds that FCGI::ProcManager gives its workers to finish when it is stopped (die_timeout).
_PROCMANAGER_PATIENCE = 60
# Since 0.18 a manager whose parent has the pid 1 stands.
_SOUND_PROCMANAGER = (0, 18)
# Seconds in which a program that has just been started may still be forking its workers.
_STARTING = 5.0


# Seconds in which a worker has served too little to have grown.
_FRESH = 60.0
# Seconds for all questions to Perl together: it needs 20 ms to start, and longer with modules on a network's disk.
_ASKING = 10.0


class Finding(NamedTuple):
    subject: str
    """A pool, a section or supervisord."""
    text: str
    """What is wrong, and the remedy."""
    harms: bool = True
    """False: memreap does its work, and could do it better."""


@dataclass
class Case:
    """What is looked at."""

    contents: configfile.Contents
    main: str
    """The path of the main file."""
    settings: Settings
    client: Client
    environ: Mapping[str, str]
    view: Source
    ask_until: float
    """When Perl is asked no more (monotonic)."""


def run(path: str, connect: Callable[[Mapping[str, str]], Client], tell: Callable[[str], None]) -> int:
    """0: nothing to mend; 1: something is. `connect` makes a client of what [supervisorctl] says."""
    harms = 0
    for one in _all(path, connect):
        tell(f"{one.subject}: {'' if one.harms else 'note: '}{one.text}")
        harms += one.harms
    tell("nothing to mend" if not harms else f"{harms} to mend" if harms > 1 else "one thing to mend")
    return 1 if harms else 0


def _all(path: str, connect: Callable[[Mapping[str, str]], Client]) -> Iterator[Finding]:
    try:
        contents = configfile.ConfigFile(path).read()
    except SettingsError as error:
        yield Finding("configuration", str(error))
        return
    try:
        settings = resolve(configfile.merge(contents.sections, contents.limits()))
    except SettingsError as error:
        yield Finding("configuration", f"{error}; none of the file is taken until that is mended")
        settings = Settings({})
    else:
        if not settings.names:
            yield Finding("configuration", f"{path}: no program has a [memreap:PROGRAM] section: add one with limit=")
    for warning in contents.warnings:
        yield Finding("configuration", warning)
    yield from _sections(contents, path)
    try:
        client = connect(contents.server)
        case = Case(contents, path, settings, client, os.environ, processes.source(), time.monotonic() + _ASKING)
        programs = client.programs()
        yield from _supervisord(case, programs)
        for watch in settings.pools(programs):
            for finding in _pool(case, watch, programs):
                yield finding._replace(subject=watch.program.namespec)
    except Unavailable as error:
        yield Finding("supervisord", str(error))


def _sections(contents: configfile.Contents, main: str) -> Iterator[Finding]:
    """What the sections of supervisor's own say."""
    listeners = [one for one in contents.others if one.listens]
    if not listeners:
        yield Finding(
            "listener", "there is none: add [eventlistener:memreap] with command=memreap listen, events=TICK_5"
        )
    if len(listeners) > 1 or any(one.options.get("numprocs", "1") != "1" for one in listeners):
        where = ", ".join(one.where for one in listeners)
        yield Finding("listener", f"there is more than one ({where}): have one, with numprocs=1")
    for one in listeners:
        events = one.options.get("events", "").upper()
        if not re.search(r"\b(TICK(_5|_60|_3600)?|EVENT)\b", events):
            yield Finding("listener", f"{one.where} events={events or 'none'}: no TICK, so it never looks: add TICK_5")
        if not re.search(r"\b(REMOTE_COMMUNICATION|EVENT)\b", events):
            text = "it does not hear supervisorctl memreap reap, roll, pause and resume: add REMOTE_COMMUNICATION"
            yield Finding("listener", f"{one.where} events={events}: {text}", False)
        if one.options.get("autorestart", "").lower() in _NO:
            text = "autorestart=false: a listener that ends is not started again: remove that line"
            yield Finding("listener", f"{one.where} {text}")
        if one.is_on("redirect_stderr"):
            yield Finding(
                "listener",
                f"{one.where} redirect_stderr=true: its log would go where the event protocol goes, and supervisord"
                " does not start with it: remove that line",
            )
    doors = {kind: [one for one in contents.others if one.kind == kind and _is_ours(one)] for kind in _DOORS}
    for one in doors["ctlplugin"]:
        if os.path.realpath(one.path) != os.path.realpath(main):
            yield Finding(
                "supervisorctl", f"{one.where}: supervisorctl reads no included file: put this section into {main}"
            )
    if doors["ctlplugin"] and not doors["rpcinterface"]:
        yield Finding("supervisorctl", f"memreap needs [rpcinterface:memreap] too: add it with {_INTERFACE}")


_DOORS = ("ctlplugin", "rpcinterface")
_INTERFACE = "supervisor.rpcinterface_factory=supervisor_memreap.rpcinterface:make_rpcinterface"


def _is_ours(section: configfile.Section) -> bool:
    return any("supervisor_memreap" in value for value in section.options.values())


def _supervisord(case: Case, programs: list[Program]) -> Iterator[Finding]:
    there = ", ".join(sorted({one.namespec for one in programs}))
    for name in case.settings.unmatched(programs):
        yield Finding("configuration", f"[memreap:{name}]: no program or group of supervisord; there are: {there}")
    its = case.client.listener()
    if its is not None:
        trouble = trouble_of_listener(its) or age_of_listener(its, __version__)
        if trouble:
            yield Finding("listener", trouble)
        elif its["count"] > 1:
            text = f"supervisord has {its['count']} of them: have one, with numprocs=1, then supervisorctl update"
            yield Finding("listener", text)
        return
    if any(one.kind == "rpcinterface" and _is_ours(one) for one in case.contents.others):
        yield Finding("supervisord", "it has not read [rpcinterface:memreap] yet: restart it, once")
    else:
        text = "whether it still looks cannot be known: supervisord calls a dead listener RUNNING; add"
        yield Finding("listener", f"{text} [rpcinterface:memreap] with {_INTERFACE}", False)
    for one in _listeners(case, programs):
        if one.state not in ("RUNNING", "STARTING"):
            text = f"{one.namespec} is {one.state}: {one.spawnerr or 'see its log'}, then start {one.namespec}"
            yield Finding("listener", text)


def _listeners(case: Case, programs: list[Program]) -> list[Program]:
    names = {name for section in case.contents.others if section.listens for name in section.processes}
    return [one for one in programs if one.name in names]


def _pool(case: Case, watch: Watch, programs: list[Program]) -> Iterator[Finding]:
    program, settings = watch.program, watch.settings
    section = case.contents.section_of(watch.members[0] if watch.members else program)
    command = section.options.get("command", "") if section else ""
    if section and settings.target == "workers" and section.options.get("autorestart", "").lower() in _NO:
        yield Finding(
            "", f"{section.where} autorestart=false: a manager that ends is not started again: set it to true"
        )
    # As if all were over the limit, so that each is read in full.
    everything = replace(settings, limit=0)
    (pool,) = processes.look([processes.Watched(program, everything, watch.members)], case.view)
    yield from _daemonizing(case, watch, command, pool)
    for one in watch.members or (program,):
        if one.state in ("BACKOFF", "FATAL", "EXITED"):
            which = f"{one.namespec} " if watch.members else "it "
            yield Finding("", f"{which}does not run ({one.state}): {one.spawnerr or 'see its log'}")
    if pool.manager is None:
        if pool.unseen:
            yield Finding("", report.line(Unseen(pool.unseen), settings))
        return
    grown_up = [one for one in pool.workers if one.suspect and one.age >= min(settings.min_age, _STARTING)]
    if not pool.workers and settings.target == "workers" and pool.manager_age > _STARTING:
        yield Finding(
            "",
            f"process {pool.manager.pid} has no workers: it is no manager, and memreap finds nobody to reap. Is -l"
            " missing in the command of an [fcgi-program], or the manager turned off (--manager '')? If it serves by"
            " itself, set target=self",
        )
    yield from _vetoes(pool, grown_up, settings)
    yield from _rights(case, pool, grown_up, settings, programs)
    yield from _limit(grown_up, settings)
    if any(one.suspect and one.suspect.server == "FCGI::ProcManager" for one in grown_up):
        yield from _procmanager(case, pool, section, command, watch)


_NO = ("false", "no", "off", "f", "n", "0")


def _daemonizing(case: Case, watch: Watch, command: str, pool: Pool) -> Iterator[Finding]:
    # Of a manager that is there its -d means something else.
    if strays.daemonizes(command) and pool.manager is None:
        yield Finding("", f"command={command}: it daemonizes itself, and supervisord starts another one: remove -d")
    sought = dict.fromkeys(watch.members or (watch.program,), command)
    for its in strays.find(sought, case.client.programs, case.environ, case.view).values():
        yield Finding("", report.strays(its.roots, its.memory, its.daemonizes))


def _vetoes(pool: Pool, workers: list[Worker], settings: PoolSettings) -> Iterator[Finding]:
    told = set()
    for worker in workers:
        against = policy.veto(pool, worker, settings)
        if against and type(against) not in told:
            told.add(type(against))
            yield Finding("", report.line(against, settings))


def _rights(
    case: Case, pool: Pool, workers: list[Worker], settings: PoolSettings, programs: list[Program]
) -> Iterator[Finding]:
    """What the listener may do to a worker: it, not we, is to do it."""
    pid = next((one.pid for one in _listeners(case, programs) if one.pid), os.getpid())
    try:
        actor = rights.of(pid)
    except OSError:
        return  # it has just ended, or this system does not tell
    for worker in workers:
        try:
            target = rights.of(worker.id.pid)
        except OSError:
            continue
        if not rights.may_signal(actor, target):
            text = (
                f"the listener (user {actor.users[1]}) may not signal worker {worker.id.pid} (user {target.users[1]})"
            )
            yield Finding("", f"{text}: run it as the pool's user (user= in its section) or as root")
        elif settings.metric in ("uss", "pss") and not rights.may_read(actor, target):
            yield Finding("", report.line(Unreadable(worker), settings))
        elif settings.hold and not rights.may_hold(actor, target):
            yield Finding("", report.NEXT_BEST["unheld"], False)
        else:
            continue
        return


def _limit(workers: list[Worker], settings: PoolSettings) -> Iterator[Finding]:
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


def _procmanager(
    case: Case, pool: Pool, section: configfile.Section | None, command: str, watch: Watch
) -> Iterator[Finding]:
    assert pool.manager
    options = section.options if section else {}
    wait = options.get("stopwaitsecs", "10")
    if section and wait.isdigit() and int(wait) < _PROCMANAGER_PATIENCE:
        yield Finding(
            "",
            f"{section.where} stopwaitsecs={wait}: FCGI::ProcManager gives its workers {_PROCMANAGER_PATIENCE} s to"
            " finish, and supervisord would end them by force before: set stopwaitsecs=70",
        )
    left = max(0.0, case.ask_until - time.monotonic())
    version = perl.procmanager_version(pool.manager.pid, command, _environment(options), left)
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
