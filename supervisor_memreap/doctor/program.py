"""One pool: its section, its program, its manager and its workers."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import time
from collections.abc import Iterator, Mapping

from supervisor_memreap.core import events
from supervisor_memreap.core.model import Pool, ProgramState
from supervisor_memreap.core.settings import Watch
from supervisor_memreap.doctor import ownrights, rights, server, standing, workers
from supervisor_memreap.doctor.finding import Case, Finding, note
from supervisor_memreap.doctor.restart import advise_interface
from supervisor_memreap.host import look, orphans, procfs, roster
from supervisor_memreap.host.whoserves import OF_COMMAND, Serving
from supervisor_memreap.supervisord.configfile import Section

# Of a program that the file does not have, as after a change without an update.
_NO_SECTION = Section("program", "", "", {})
# States of a program that exited on its own.
_DOWN = (ProgramState.BACKOFF, ProgramState.FATAL, ProgramState.EXITED)
# Seconds that FCGI::ProcManager gives its workers to finish when it is stopped (die_timeout).
_PROCMANAGER_PATIENCE = 60
# Since 0.18, a manager whose parent has pid 1 keeps running.
_SOUND_PROCMANAGER = (0, 18)
# Seconds in which a newly started program may still be forking its workers.
_STARTING = 5.0


def check(case: Case, watch: Watch) -> Iterator[Finding]:
    program, settings = watch.program, watch.settings
    section = case.contents.section_of(watch.members[0] if watch.members else program) or _NO_SECTION
    if settings.target == "workers" and section.is_off("autorestart"):
        text = "autorestart=false: a manager that exits is not restarted: set it to true"
        yield Finding("", f"{section.where_of('autorestart')} {text}")
    pool = look.look(watch, case.view, reads_structure=True)
    if procfs.is_usable():
        with contextlib.closing(Serving(OF_COMMAND)) as serving:
            pool = serving.look(pool, (), case.view, time.monotonic())
    yield from _daemonizing(case, watch, section, pool)
    for member in watch.members or (program,):
        if member.state in _DOWN:
            which = f"{member.namespec} " if watch.members else "it "
            yield Finding("", f"{which}is not running ({member.state}): {member.spawnerr or 'see its log'}")
    yield from standing.check(case, watch)
    if pool.manager is None:
        if pool.not_visible == roster.RESTART_UNKNOWN:
            text = "with target=self supervisord must report whether it restarts the process after exit status 0"
            yield Finding("", f"{text}: not watched; {advise_interface(case)}")
        elif pool.not_visible:
            yield Finding("", events.NotVisible(*pool.stamp, pool.not_visible).text)
        return
    old_enough = min(settings.min_age, _STARTING)
    grown_up = [worker for worker in pool.workers if worker.detail and worker.age >= old_enough]
    is_empty = not pool.workers and settings.target == "workers" and pool.manager_age > _STARTING
    if is_empty and not server.shrinks(case, pool, section):
        yield Finding("", events.NoWorkers(*pool.stamp, pool.manager).text)
    if pool.nested and not pool.is_group:
        yield Finding("", events.Wrapped(*pool.stamp, pool.nested, settings.depth).text)
        return  # what is below it is not looked at
    yield from workers.check(case, pool, grown_up, settings)
    yield from workers.check_shared(case, pool, settings)
    yield from server.check(case, watch, pool, section)
    if any(worker.detail and worker.detail.server == "FCGI::ProcManager" for worker in grown_up):
        yield from _procmanager(case, watch, section, pool)


def _daemonizing(case: Case, watch: Watch, section: Section, pool: Pool) -> Iterator[Finding]:
    command = section.options.get("command", "")
    # If there is a manager, its -d means something else.
    if orphans.daemonizes(command) and pool.manager is None:
        text = "its command has -d, -D or --daemonize: it daemonizes itself, and supervisord keeps restarting it"
        yield Finding("", f"{text}: remove -d")
    sought = dict.fromkeys(watch.members or (watch.program,), command)
    # A shell does not know the supervisord; and orphans of another supervisord do not belong to these programs.
    environ = {"SUPERVISOR_SERVER_URL": case.client.url, **case.environ} if case.client.is_local else case.environ
    for left in orphans.find(sought, case.client.programs, environ, case.view).values():
        yield Finding("", left.text)


def _procmanager(case: Case, watch: Watch, section: Section, pool: Pool) -> Iterator[Finding]:
    assert pool.manager
    wait = section.options.get("stopwaitsecs", "10")
    if section is not _NO_SECTION and wait.isdigit() and int(wait) < _PROCMANAGER_PATIENCE:
        yield Finding(
            "",
            f"{section.where_of('stopwaitsecs')} stopwaitsecs={wait}: FCGI::ProcManager gives its workers"
            f" {_PROCMANAGER_PATIENCE} s to finish, and supervisord would kill them earlier: set stopwaitsecs=70",
        )
    command = section.options.get("command", "")
    version = procmanager_version(pool.manager.pid, command, section.environment, case.time_left)
    is_first = watch.program.supervisord == 1
    if version is not None and version < _SOUND_PROCMANAGER:
        text = f"FCGI::ProcManager {version[0]}.{version[1]:02} is older than 0.18: if its parent has pid 1"
        now = (
            " (as here: supervisord is process 1)"
            if is_first
            else " (daemonized, or below a supervisord that is process 1)"
        )
        yield Finding("", f"{text}{now}, one worker that leaves ends the whole pool: install a newer version")
    elif version is None and is_perl(pool.manager.pid):
        where = "supervisord is process 1, and " if is_first else "if its parent has pid 1, "
        text = f"{where}with FCGI::ProcManager 0.17 or older, one worker that leaves ends the pool; the version could"
        yield note("", f"{text} not be determined{ownrights.remedy(case, [pool.manager.pid])}")


# Asks the Perl of a running manager which FCGI::ProcManager it has.


_PERL = re.compile(r"perl[0-9.]*$")
_ASK = ("-MFCGI::ProcManager", "-e", "print FCGI::ProcManager->VERSION")


def is_perl(pid: int) -> bool:
    """Whether this process runs Perl, as far as that may be read; one of which it may not be may be."""
    try:
        return bool(_PERL.match(os.path.basename(os.readlink(f"/proc/{pid}/exe"))))
    except OSError:
        return True


def procmanager_version(
    pid: int, command: str, environment: Mapping[str, str], timeout: float
) -> tuple[int, ...] | None:
    """(0, 28) of 0.28; None where this process is no Perl, or does not answer within `timeout` seconds.

    `command` and `environment` are its own. Run as the manager's user, never as ours: the modules are that user's.
    """
    try:
        perl, directory, user = os.readlink(f"/proc/{pid}/exe"), os.readlink(f"/proc/{pid}/cwd"), rights.of(pid)
        if not _PERL.match(os.path.basename(perl)):
            return None
        include = [argument for argument in command.split() if re.match(r"-I.", argument)]
        if os.geteuid() not in (0, user.users[1]):
            return None
        environ = {"PATH": os.environ.get("PATH", os.defpath), **environment}
        as_user = user if os.geteuid() == 0 else None
        answer = rights.run([perl, *include, *_ASK], directory, environ, as_user, timeout)
    except (OSError, ValueError, subprocess.SubprocessError):
        return None
    version = re.fullmatch(r"v?([0-9]+)\.([0-9]+)\S*", answer)
    return (int(version[1]), int(version[2])) if version else None
