"""Finds what a daemonized start of a program has left behind: trees of processes that supervisord does not know.

With -d the process that supervisord started forks and exits at once; supervisord sees it end and starts another one:
a full pool is orphaned at each retry (3 of them in 3 s). They serve, hold memory and their socket, and nobody watches
them. Nothing is ever signalled from here.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import psutil

from supervisor_memreap.core.model import Program
from supervisor_memreap.host.source import Source

# How Catalyst, Plack and their like are told where to listen.
_LISTEN = re.compile(r"(?:^|\s)(?:-l|--listen|--socket|-s)[\s=]+(?:unix:)?(\S+)")


class Strays(NamedTuple):
    """What a program has left behind."""

    roots: tuple[int, ...]
    """The pid at the top of each tree."""
    memory: int
    """What all of them hold, in bytes; shared memory counts once."""


def find(
    sought: Mapping[Program, str], programs: Iterable[Program], environ: Mapping[str, str], view: Source
) -> dict[Program, Strays]:
    """The strays of each program in `sought`, with its command, among all processes of this machine.

    `programs` is all that supervisord runs, `environ` that of a process of this supervisord. A stray is known by the
    program's name in its environment. Perl overwrites the environment when it sets $0, as FCGI::ProcManager does: then
    by the address in the program's command, on which it listens.
    """
    parents = {one.pid: one.info["ppid"] for one in psutil.process_iter(["ppid"])}
    known = {one.pid for one in programs if one.pid} | {os.getpid()}
    above = set(_chain(os.getpid(), parents))
    loose = {pid for pid in parents if pid not in above and not known & set(_chain(pid, parents))}
    found: dict[Program, Strays] = {}
    names = {(one.group, one.name): one for one in sought}
    of: dict[int, Program] = {}
    for pid in loose:
        said = _environ(pid)
        if said is None:
            continue
        program = names.get((said.get("SUPERVISOR_GROUP_NAME", ""), said.get("SUPERVISOR_PROCESS_NAME", "")))
        if said:
            url = said.get("SUPERVISOR_SERVER_URL")
            if program and url == environ.get("SUPERVISOR_SERVER_URL", url):
                of[pid] = program
            continue
        listening = _listening(pid)
        owners = (one for one, command in sought.items() if _addresses(command) & listening)
        of.update((pid, owner) for owner in owners)
    for program in sought:
        its = {pid for pid, one in of.items() if one == program}
        roots = tuple(sorted(pid for pid in its if parents[pid] not in its))
        if roots:
            trees = {pid for pid in parents if set(roots) & set(_chain(pid, parents))}
            found[program] = Strays(roots, sum(_memory(pid, view) for pid in trees))
    return found


def _chain(pid: int, parents: Mapping[int, int]) -> list[int]:
    """The process and all above it."""
    chain: list[int] = []
    while pid in parents and pid not in chain:
        chain.append(pid)
        pid = parents[pid]
    return chain


def _environ(pid: int) -> dict[str, str] | None:
    """Empty where the process has overwritten it; None where it may not be read."""
    try:
        return psutil.Process(pid).environ()
    except (psutil.Error, OSError, ValueError):
        return None


def _listening(pid: int) -> set[str]:
    """The addresses on which this process listens: paths of unix sockets, ports of TCP."""
    addresses = set()
    try:
        process = psutil.Process(pid)
        # Its name before psutil 6.
        ask = process.net_connections if hasattr(process, "net_connections") else process.connections
        for one in ask("all"):
            if isinstance(one.laddr, str):
                addresses.add(one.laddr)
            elif one.laddr and one.status == psutil.CONN_LISTEN:
                addresses.add(str(one.laddr[1]))
    except (psutil.Error, OSError):
        pass  # what may not be seen is not said of anybody
    return addresses - {""}


def _addresses(command: str) -> set[str]:
    """Where the program is to listen, as `_listening` writes it."""
    words = _LISTEN.findall(command)
    return {word if "/" in word else word.rpartition(":")[2] for word in words}


def _memory(pid: int, view: Source) -> int:
    try:
        return view.pss(pid)
    except ProcessLookupError:
        return 0
    except PermissionError:
        pass
    try:
        return view.sizes(pid).bound
    except (ProcessLookupError, PermissionError):
        return 0
