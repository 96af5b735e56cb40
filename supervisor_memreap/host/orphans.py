"""Finds what a daemonized start of a program has left behind: trees of processes that supervisord does not know.

With -d the process that supervisord started forks and exits at once; supervisord sees it end and starts another one:
each retry orphans a full pool (3 of them in 3 s). They serve, hold memory and their socket, and are not watched.
Nothing is ever signalled from here.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import psutil

from supervisor_memreap.core.events import OrphansFound
from supervisor_memreap.core.model import Program, supervisord_of
from supervisor_memreap.core.servers import recognise, script
from supervisor_memreap.host.source import Source

# How the address is written in the commands of Catalyst, Plack and their like.
_LISTEN = re.compile(r"(?:^|\s)(?:-l|--listen|--socket|-s)[\s=]+(?:unix:)?(\S+)")
# How Catalyst, Plack, Starman, gunicorn, uWSGI and unicorn are sent into the background; PHP's -d has KEY=VALUE behind.
_DAEMON = re.compile(r"(?:^|\s)(?:-d|-D|--?daemon(?:ize)?)(?:[\s=]|$)(?!\s*[^\s=-]+=)")


def find(
    sought: Mapping[Program, str], ask: Callable[[], Iterable[Program]], environ: Mapping[str, str], view: Source
) -> dict[Program, OrphansFound]:
    """The orphans of each program in `sought`, with its command, among all processes of this machine.

    `ask` gets what supervisord runs, `environ` is that of a process of this supervisord. An orphan is a process whose
    parent has ended, in the control group of supervisord (a service of systemd has another one), older than what
    supervisord runs now under its name, and of the same kind: not what a healthy program has detached. It is known by
    the program's name in its environment. Perl overwrites the environment when it sets $0, as FCGI::ProcManager does:
    then by the address in the program's command, on which it listens. What `ask` raises, this raises.
    """
    # The process that looks may be in another place than they are, as doctor is in a shell: supervisord never is.
    supervisord = supervisord_of(sought) or os.getpid()
    above = _chain(supervisord, lambda pid: _parent(pid, view))
    # A machine may have tens of thousands of processes: only those are kept that count.
    below = [pid for pid in view.pids() if pid not in above and _parent(pid, view) in above]
    # Asked after all processes were read: one that supervisord has just started is not an orphan.
    known = {program.pid for program in ask() if program.pid} | {os.getpid()}
    orphans = [pid for pid in below if pid not in known]
    names = {(program.group, program.name): program for program in sought}
    addresses = {program: _addresses(command) for program, command in sought.items()}
    roots: dict[Program, list[int]] = {}
    for pid in sorted(orphans):
        program = _owner(pid, names, addresses, environ, view)
        if program and _cgroup(pid) == _cgroup(supervisord) and _is_left_over(pid, program, sought[program], view):
            roots.setdefault(program, []).append(pid)
    left_behind = {}
    # Not by psutil.process_iter, which keeps an object of each: 6 MB for 4,000.
    parents = {pid: _parent(pid, view) for pid in view.pids()} if roots else {}
    for program, tops in roots.items():
        trees = {pid for pid in parents if set(tops) & set(_chain(pid, parents.get))}
        held = sum(_memory(pid, view) for pid in trees)
        is_daemonized = daemonizes(sought[program])
        left_behind[program] = OrphansFound(program.namespec, time.time(), tuple(tops), held, is_daemonized)
    return left_behind


def daemonizes(command: str) -> bool:
    """Whether this command makes the program move to the background, judging by its arguments."""
    return bool(_DAEMON.search(command))


def _owner(
    pid: int,
    names: Mapping[tuple[str, str], Program],
    addresses: Mapping[Program, set[str]],
    environ: Mapping[str, str],
    view: Source,
) -> Program | None:
    try:
        variables = view.environ(pid)
    except OSError:
        return None
    if variables:
        url = variables.get("SUPERVISOR_SERVER_URL", "")
        is_ours = _resolved(url) == _resolved(environ.get("SUPERVISOR_SERVER_URL", url))
        name = variables.get("SUPERVISOR_GROUP_NAME", ""), variables.get("SUPERVISOR_PROCESS_NAME", "")
        return names.get(name) if is_ours else None
    listening = _listening(pid) if any(addresses.values()) else set()
    return next((program for program, where in addresses.items() if where & listening), None)


def _resolved(url: str) -> str:
    """The address of a supervisord; its socket may have several paths, such as /run and /var/run."""
    scheme = "unix://"
    return os.path.realpath(url[len(scheme) :]) if url.startswith(scheme) else url


def _is_left_over(pid: int, program: Program, command: str, view: Source) -> bool:
    """Whether this process is there, is older than what supervisord runs under that name now, and runs the same."""
    try:
        process = view.process(pid)
        if process.ended or (program.pid and view.process(program.pid).id.start_time <= process.id.start_time):
            return False
        names = view.names(pid)
        # Other programs that it has started may be meant to outlive it.
        return bool(recognise(names)) or script(names.comm, names.argv) in [*map(os.path.basename, command.split())]
    except ProcessLookupError:
        return False  # it has ended; or what supervisord ran has, and then there will be another look
    except PermissionError:
        return False


def _cgroup(pid: int) -> str:
    """The kernel's name of its control group; the same for all if there are none, or they may not be read."""
    try:
        return Path(f"/proc/{pid}/cgroup").read_text()
    except OSError:
        return ""


def _parent(pid: int, view: Source) -> int | None:
    """None if it has ended, or may not be read."""
    try:
        return view.process(pid).parent
    except (ProcessLookupError, PermissionError):
        return None


def _chain(pid: int, parent_of: Callable[[int], int | None]) -> list[int]:
    """The process and all its ancestors; not what is no process, as 0, the parent of the first."""
    chain: list[int] = []
    while pid not in chain and (parent := parent_of(pid)) is not None:
        chain.append(pid)
        pid = parent
    return chain


def _listening(pid: int) -> set[str]:
    """The addresses on which this process listens: paths of unix sockets, ports of TCP."""
    addresses = set()
    try:
        process = psutil.Process(pid)
        # Its name before psutil 6.
        ask = process.net_connections if hasattr(process, "net_connections") else process.connections
        for connection in ask("all"):
            if isinstance(connection.laddr, str):
                addresses.add(connection.laddr)
            elif connection.laddr and connection.status == psutil.CONN_LISTEN:
                addresses.add(str(connection.laddr[1]))
    except (psutil.Error, OSError):
        pass  # do not claim what cannot be read
    return addresses - {""}


def _addresses(command: str) -> set[str]:
    """Where the program is to listen, as `_listening` writes it."""
    words = _LISTEN.findall(command)
    return {argument if "/" in argument else argument.rpartition(":")[2] for argument in words}


def _memory(pid: int, view: Source) -> int:
    try:
        return view.memory(pid).share
    except ProcessLookupError:
        return 0
    except PermissionError:
        pass
    try:
        return view.sizes(pid).bound
    except (ProcessLookupError, PermissionError):
        return 0
