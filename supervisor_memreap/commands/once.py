"""\
Replace every worker that has to go, one at a time: signal it between two requests where that can be
arranged (docs/safety.md), wait until it has left and another one has taken its place, then reap the
next. For cron and by hand.

    memreap once                              all pools that have a [memreap:NAME] section
    memreap once myapp limit=150MB            one pool, with another limit
    memreap once --pid 4242 limit=104857600   a manager that supervisord does not run
    memreap once --pidfile /run/myapp.pid limit=100MB

If a listener or another `once` is reaping in a pool, this one waits: one at a time.
"""

from __future__ import annotations

import argparse
import functools
import os
import sys
import textwrap
import time
from pathlib import Path

from supervisor_memreap.commands.arguments import add_configuration
from supervisor_memreap.core.failed import Failed
from supervisor_memreap.core.model import Ending, Program, ProgramState
from supervisor_memreap.core.settings import (
    COMMAND_LINE,
    POOL_KEYS,
    Given,
    SettingsError,
    has_reason,
    no_reason,
    overlay,
    resolve,
)
from supervisor_memreap.core.text import quote
from supervisor_memreap.host import procfs
from supervisor_memreap.host.thismachine import HowEnded, ThisMachine
from supervisor_memreap.listener import oneshot
from supervisor_memreap.listener.statefile import BesideListener
from supervisor_memreap.outputs import eventlog, words
from supervisor_memreap.supervisord.configured import configured

EPILOG = f"""\
settings: {textwrap.fill(", ".join(POOL_KEYS), 85)}

exit status: 0 no worker that has to go is left, or --dry-run shows what would be reaped; 1 one is
left, and the output says why, NAME or a section names no program, or supervisord does not answer; 2
bad usage or configuration; 130 Ctrl-C.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--pid", type=int, help="pid of the pool's manager")
    which.add_argument("--pidfile", metavar="FILE", help="file with the pid of the manager")
    parser.add_argument("-n", "--dry-run", action="store_true", help="send nothing, print what would be done")
    parser.add_argument("--json", action="store_true", help="print JSON, one event per line; see docs/interfaces.md")
    parser.add_argument("words", nargs="*", metavar="NAME|KEY=VALUE", help="only these programs; settings for this run")
    add_configuration(parser)


def run(args: argparse.Namespace) -> int:
    """The exit status, as above."""
    names = [argument for argument in args.words if "=" not in argument]
    pairs = [argument.partition("=") for argument in args.words if "=" in argument]
    given = {key: Given(value, COMMAND_LINE) for key, _, value in pairs}
    emit = eventlog.sink(sys.stdout, args.json)
    how_ended: HowEnded = ended_by_itself
    has_commands = False
    contents = None
    if args.pid is not None or args.pidfile is not None:
        if names or args.configuration:
            excess = "no -c" if args.configuration else f"not {quote(names[0])}"
            text = f"--pid and --pidfile take only settings, such as limit=100MB, and {excess}"
            raise SettingsError(f"{COMMAND_LINE}: {text}")
        if not has_reason(given):
            raise no_reason(COMMAND_LINE)
        if given.get("target", Given("", "")).value.lower() == "self":
            raise SettingsError(f"{COMMAND_LINE} target=self: not allowed with --pid, which names a manager")
        pid = args.pid if args.pid is not None else _pid_in(args.pidfile)
        since = None if args.pidfile is None else os.stat(args.pidfile).st_mtime
        name = f"pid-{pid}"
        settings = resolve(overlay({name: {}}, given))
        try:
            programs = of_pid(pid, name, since)
        except ProcessLookupError:
            raise Failed(f"there is no process {pid}") from None
        except ValueError as error:
            raise SettingsError(str(error)) from None
    else:
        used = configured(args.configuration, names, given)
        settings, programs = used.settings, used.client.programs
        how_ended, contents = used.client.how_ended, used.contents
        has_commands = words.has_commands(contents.has_plugin, used.client.listener())
    beside = functools.partial(BesideListener, contents=contents)
    return oneshot.run(ThisMachine(how_ended), programs, beside, settings, names, args.dry_run, emit, has_commands)


def _pid_in(path: str) -> int:
    try:
        text = Path(path).read_text(errors="replace").strip()
    except OSError as error:
        raise SettingsError(f"{path}: cannot be read: {error.strerror}") from None
    if not text.isascii() or not text.isdigit():
        raise SettingsError(f"{path}: contains {text[:40]!r}, not a pid")
    return int(text)


def of_pid(pid: int, name: str, written: float | None = None) -> oneshot.Programs:
    """The manager with this pid, while it is the same process, as if supervisord ran it.

    Raises ProcessLookupError if there is none, ValueError if memreap itself runs under it, or if it was started after
    its pid was `written` to the file, in seconds since the epoch: then the pid was that of another process.
    """
    view = procfs.source()
    process = view.process(pid)
    manager = process.id
    if written is not None and time.time() - process.age > written + 2:
        raise ValueError(f"process {pid} is younger than the pidfile, which another process left behind")
    above = os.getpid()
    while above > 1:
        above = view.process(above).parent
        if above == pid:
            raise ValueError(f"memreap itself runs under process {pid}, so that is not the manager of a pool")

    def programs() -> list[Program]:
        try:
            process = procfs.source().process(pid)
            if process.id == manager and not process.ended:
                return [Program(name, name, ProgramState.RUNNING.value, pid)]
        except ProcessLookupError:
            pass  # it has ended: EXITED
        return [Program(name, name, ProgramState.EXITED.value, 0)]

    return programs


def ended_by_itself(_program: Program, _since: float) -> Ending:
    """A manager that supervisord does not run cannot be stopped through supervisord either."""
    return Ending.EXITED
