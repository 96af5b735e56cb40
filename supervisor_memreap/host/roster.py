"""Which processes make up a pool, before anything is measured."""

from __future__ import annotations

import os
import time
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

from supervisor_memreap.core.frozen import replace
from supervisor_memreap.core.model import STOPPED_BY_HAND, Nested, ProcessId, Program, ProgramState
from supervisor_memreap.core.servers import manages, named, recognise
from supervisor_memreap.core.settings import Watch
from supervisor_memreap.host import sockets
from supervisor_memreap.host.kept import Kept
from supervisor_memreap.host.source import Process, Source, if_readable

NOT_RESTARTED = (
    "with target=self supervisord must restart the process after exit status 0: set autorestart=true in its section,"
    " then run supervisorctl update"
)
# Seconds by which two start times of the same process may differ.
_SAME_START = 5.0
_ANOTHER_START = (
    "its process here has another start time than in supervisord: supervisord runs in another container, or the clock"
    " was set since; run memreap where supervisord runs, or restart the program"
)
HIDDEN = "its processes are hidden from this user"
# Seconds that a child may need from its fork to the program that it runs.
_FORK_TO_EXEC = 2.0
RESTART_UNKNOWN = (
    "with target=self supervisord must report whether it restarts the process after exit status 0, and it has no"
    " [rpcinterface:memreap]: memreap doctor shows how to add it safely"
)


@dataclass(frozen=True)
class Roster:
    """One manager and the pids of the processes that may be its workers; or no manager."""

    name: str
    state: str
    """As reported by supervisord, or `gone`."""
    not_visible: str = ""
    """Why a running program has no manager that can be seen."""
    manager: Process | None = None
    pids: Collection[int] = ()
    is_group: bool = False
    """With target=self: supervisord is the manager."""
    slots: Mapping[int, str] = field(default_factory=dict)
    """With target=self: the name that supervisord has for each process."""
    stopped: frozenset[str] = frozenset()
    """With target=self: the slots that supervisord stops or has stopped."""


def of(watch: Watch, expected: Collection[ProcessId], view: Source, kept: Kept | None = None) -> Roster:
    """`expected` are workers that count as present until they are seen to be gone, even if the list lacks them.

    `kept` knows managers from the last look.
    """
    if watch.members:
        return replace(_of_group(watch, expected, view), is_group=True)
    return _of_manager(watch, expected, view, kept)


def _of_manager(watch: Watch, expected: Collection[ProcessId], view: Source, kept: Kept | None) -> Roster:
    program = watch.program
    name, state = program.namespec, program.state
    if state != ProgramState.RUNNING or program.pid <= 0:
        return Roster(name, state)
    try:
        manager, children = kept.family(program.pid, view) if kept else view.family(program.pid)
        mistake = why_another(program, manager)
        if mistake:
            return Roster(name, state, mistake)
        if watch.settings.depth == 2:
            below = _below_wrapper(children, view)
            if below is None:
                return Roster(name, state, "depth=2, but the wrapper does not have exactly one manager below it")
            manager, children = kept.family(below, view) if kept else view.family(below)
        if manager.ended:
            return Roster(name, "gone")
        # The kernel's list may miss one while a sibling exits (proc_pid_children(5)): never take that for gone.
        pids = {*children, *(worker.pid for worker in expected)}
    except ProcessLookupError:
        return Roster(name, "gone")
    except PermissionError:
        return Roster(name, state, HIDDEN)
    return Roster(name, state, "", manager, pids)


def why_another(program: Program, process: Process) -> str:
    """Why this process, which has the pid of the program, is another one; empty: it is the program's.

    The pids of a supervisord of another machine or container mean other processes here.
    """
    if program.supervisord and process.parent != program.supervisord:
        return "its process here is not a child of that supervisord"
    return "" if _start_time_matches(program, process) else _ANOTHER_START


def _of_group(watch: Watch, expected: Collection[ProcessId], view: Source) -> Roster:
    """Processes that are workers themselves; supervisord takes the manager's place."""
    program, members = watch.program, watch.members
    name, state = program.namespec, program.state
    if state in STOPPED_BY_HAND or program.pid <= 0:
        return Roster(name, state)
    if not all(member.restarts for member in members):
        unknown = any(member.restarts is None for member in members)
        return Roster(name, state, RESTART_UNKNOWN if unknown else NOT_RESTARTED)
    try:
        supervisord = view.process(program.pid)
    except ProcessLookupError:
        return Roster(name, "gone")
    except PermissionError:
        return Roster(name, state, "supervisord is hidden from this user")
    running = {member.pid: member.name for member in members if member.state == ProgramState.RUNNING and member.pid > 0}
    running.pop(os.getpid(), None)
    for member in members:
        try:
            if member.pid in running and not _start_time_matches(member, view.process(member.pid)):
                return Roster(name, state, _ANOTHER_START)
        except OSError:
            running.pop(member.pid)  # it has just ended, or is hidden
    pids = {*running, *(worker.pid for worker in expected)}
    stopped = frozenset(member.name for member in members if member.state in STOPPED_BY_HAND)
    return Roster(name, state, "", supervisord, pids, slots=running, stopped=stopped)


def _start_time_matches(program: Program, process: Process) -> bool:
    if program.age is None:
        return True
    # On a busy machine, other pools may have been looked at for long since supervisord was asked.
    since = time.monotonic() - program.asked if program.asked is not None else 0.0
    return abs(program.age + since - process.age) < _SAME_START


def _below_wrapper(children: list[int], view: Source) -> int | None:
    """The wrapper's only child, or its only child with children; None if there is not exactly one."""
    managers = [child for child in children if _children(child, view)] if len(children) > 1 else children
    return managers[0] if len(managers) == 1 else None


def looks_like_manager(pid: int, above: int, view: Source) -> bool | None:
    """Whether this child of `above` may be a manager itself; None: it has just forked, and it is not known for what.

    The workers of a manager are forks of it, while a command that a worker runs is another program. A process that is
    no fork of `above` may run below a wrapper: if it has children, they may be anything.
    """
    if manages(view.names(pid)):
        return True
    children = _children(pid, view)
    if children and view.is_fork(pid, above) is not True:
        return True
    answers = [_may_be_worker(child, pid, view) for child in children]
    return True if True in answers else None if None in answers else False


def _may_be_worker(pid: int, above: int, view: Source) -> bool | None:
    """Whether this child of `above` may be a worker of it; None: it may be about to run a command."""
    try:
        process, is_fork = view.process(pid), view.is_fork(pid, above)
        # uWSGI's emperor, for one, starts servers as commands.
        is_server = is_fork is False and named(recognise(view.names(pid))).is_known
    except ProcessLookupError:
        return False
    if process.ended or is_fork is False:
        return is_server and not process.ended
    return True if process.age >= _FORK_TO_EXEC else None


def nested(
    manager: ProcessId, children: Iterable[ProcessId], view: Source, is_group: bool = False
) -> tuple[Nested, ...]:
    """Those of its children that are managers themselves, if none of the others can be a worker.

    Then the pool is below a wrapper, such as `sh -c 'pool | cat'`, su, or an init of a container. With target=self a
    process that has children may be anything.
    """
    below = {child: _children(child.pid, view) for child in children}
    managers = [
        child for child, pids in below.items() if pids and (is_group or _is_manager(child.pid, manager.pid, view))
    ]
    others = below.keys() - set(managers)
    if not managers or any(is_group or _may_serve(child.pid, [manager, *managers], view) for child in others):
        return ()
    names = {child: _name(child.pid, view) for child in managers}
    return tuple(Nested(child, names[child], len(below[child])) for child in managers)


def _is_manager(pid: int, above: int, view: Source) -> bool:
    return if_readable(lambda: looks_like_manager(pid, above, view), None) is True


def _may_serve(pid: int, managers: Iterable[ProcessId], view: Source) -> bool:
    """Whether it shares a socket with one of these; where that may not be read, whether it is called like one."""
    for manager in managers:
        try:
            if set(sockets.inodes(pid).values()) & set(sockets.inodes(manager.pid).values()):
                return True
        except ProcessLookupError:
            pass  # one of them has just ended
        except PermissionError:
            if _name(pid, view) == _name(manager.pid, view):
                return True
    return False


def _name(pid: int, view: Source) -> str:
    return if_readable(lambda: view.names(pid).comm, "")


def _children(pid: int, view: Source) -> list[int]:
    """Empty for a process that has just ended: that is no evidence about the process in question."""
    return if_readable(lambda: view.children(pid), [])
