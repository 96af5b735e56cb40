"""The `memreap` command."""

from __future__ import annotations

import argparse
import errno
import json
import os
import signal
import sys
import textwrap
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple, NoReturn

from supervisor_memreap import __version__, completion, listener, once, plot, report, suggest, top
from supervisor_memreap.core.command import VERBS, named, unknown
from supervisor_memreap.core.model import Program, supervisord_of
from supervisor_memreap.core.recording import Recording
from supervisor_memreap.core.settings import (
    COMMAND_LINE,
    POOL_KEYS,
    REASON_KEYS_TEXT,
    Given,
    Sections,
    Settings,
    SettingsError,
    has_reason,
    no_reason,
    overlay,
    resolve,
)
from supervisor_memreap.core.text import quote
from supervisor_memreap.core.values import duration
from supervisor_memreap.demo import run as demo
from supervisor_memreap.host import look, packages, procfs
from supervisor_memreap.reaper import HowEnded
from supervisor_memreap.record import historypath, inforce, log, words
from supervisor_memreap.supervisord import configfile
from supervisor_memreap.supervisord.client import Client, Unavailable, connect_as_supervisorctl
from supervisor_memreap.view import Remote, Viewer

_LISTEN = """\
Watch the pools of the supervisord that started this command, from a section such as

    [eventlistener:memreap]
    command=memreap listen
    events=TICK_5
    buffer_size=100

Set limits beside the programs, in supervisord.conf or a file that it includes:

    [memreap:myapp]
    limit=150MB

or in the command: `command=memreap listen myapp=150MB web=200MB`. A changed file is read
at the next tick. The log is this process's stderr (supervisorctl tail memreap stderr);
stdout carries the event protocol.
"""

_ONCE = """\
Reap every worker that is over its limit, one at a time: signal it while it serves no request, wait
until it has left and another one has taken its place, then reap the next. For cron and by hand.

    memreap once                              all pools that have a [memreap:NAME] section
    memreap once myapp limit=150MB            one pool, with another limit
    memreap once --pid 4242 limit=104857600   a manager that supervisord does not run
    memreap once --pidfile /run/myapp.pid limit=100MB

If a listener or another `once` is reaping in a pool, this one waits: one at a time.
"""

_STATUS = """\
Show the state of the pools. Signals no worker.

    memreap status                   all pools that have a [memreap:NAME] section
    memreap status myapp --watch     one pool, every 2 seconds, until Ctrl-C
    memreap status --json            for programs

Shows the listener's view, read through [rpcinterface:memreap]. If the listener cannot be asked, the
command reads the pools itself, once. The last line says which of the two it shows.

exit status: 0 all pools are watched; 1 a pool is suspended, OVERDUE or not watched (BLIND), there
is no listener or it does not look, a section names no program, supervisord does not answer, or
NAME is not watched; 2 bad usage or configuration; 130 Ctrl-C.
"""

_DOCTOR = """\
Check for anything that would stop memreap on this machine or make it unsafe, and say what to do
about it: the configuration, and whether supervisord and supervisorctl can load what it names; the
listener and its rights; the watched programs and their workers. Signals no process and changes
nothing. Asks the Pythons of supervisord and supervisorctl what they can import, and the managers'
Perl which FCGI::ProcManager it has.

    memreap doctor                     as root it can check more
    memreap doctor --json              for programs
    supervisorctl memreap doctor       the same, run by the listener, also from another machine

A line with "note:" is about something that works but could work better, or that is unknown.

exit status: 0 no problems found; 1 problems found; 2 no configuration, or bad usage; 70 internal
error.
"""

_EFFECTIVE = """\
Show the settings in force for each pool, and where each value was set: the file and its section,
the listener's command, or nowhere (default). For each setting, the most specific section wins:
[memreap:group:name], [memreap:name], [memreap:group], then [memreap] for all pools.

    memreap settings
    memreap settings myapp
    memreap settings --json          for programs

If supervisord does not answer, the programs in the configuration are shown.

exit status: 0; 1 NAME is not watched, or nothing is; 2 bad usage or configuration.
"""

_SETTINGS = f"""\
settings: {textwrap.fill(", ".join(POOL_KEYS), 85)}

exit status: 0 no worker is left over the limit; 1 a worker could not be reaped, and the output
says why; 2 bad usage or configuration; 130 Ctrl-C.
"""


# Errors of a write to a full or broken disk.
_OUTPUT_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)
_CONFIGURATION = "supervisord.conf (default: as supervisorctl)"


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """One clear line, not a screen of usage."""
        verb = next((verb for verb in (*VERBS, "workers") if f"invalid choice: '{verb}'" in message), "")
        if verb:
            message = f"{verb} is a command of supervisorctl: supervisorctl memreap {verb}; memreap doctor says how"
        self.exit(2, f"{self.prog}: {' '.join(map(quote, message.split()))} (see {self.prog} --help)\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; the exit status."""
    # If it was inherited as ignored, as from a shell with `trap '' CHLD`, every wait for our own children would fail.
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    _open_standard_descriptors()
    whole = parser()
    args, rest = whole.parse_known_args(argv)
    # `once myapp -n limit=1MB`: argparse takes no further argument of a list that an option has ended.
    positional = next((key for key in ("words", "names") if hasattr(args, key)), "")
    if rest and (not positional or any(argument.startswith("-") for argument in rest)):
        whole.error(f"unrecognized arguments: {' '.join(rest)}")
    if rest:
        setattr(args, positional, [*getattr(args, positional), *rest])
    if not hasattr(args, "run"):
        whole.print_help()
        return 2
    if args.configuration and args.run is demo.run:
        whole.error("unexpected argument -c: demo has its own configuration")
    try:
        exit_status = int(args.run(args))
        sys.stdout.flush()
    except BrokenPipeError:
        # What reads our output has ended, such as head. Nothing more is written, not even at the exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except OSError as error:
        if error.errno not in _OUTPUT_FULL:
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        log.to(sys.stderr)(f"cannot write the output: {error.strerror}")
        return 1
    except (SettingsError, Unavailable) as error:
        log.to(sys.stderr)(str(error))
        return 2 if isinstance(error, SettingsError) else 1
    except KeyboardInterrupt:
        return 130
    return exit_status


def _open_standard_descriptors() -> None:
    """If a shell has closed 0, 1 or 2 (`<&-`), one of our pipes would get that number."""
    for fd in (0, 1, 2):
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest number that is free
    for name in ("stdin", "stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "r+"))  # noqa: SIM115 # for as long as we run


def parser() -> argparse.ArgumentParser:
    """The whole command line."""
    whole = _Parser(
        prog="memreap",
        description="Keeps pools of pre-forked FastCGI workers under supervisord small, without cutting a request.",
    )
    whole.add_argument("--version", action="version", version=f"memreap {__version__}")
    whole.add_argument("-c", "--configuration", metavar="FILE", help=f"{_CONFIGURATION}; also after the command")
    commands = whole.add_subparsers(title="commands", metavar="COMMAND")

    def add(name: str, summary: str, description: str, epilog: str = "") -> argparse.ArgumentParser:
        return commands.add_parser(
            name,
            help=summary,
            description=description,
            epilog=epilog,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )

    _add_own_commands(add)
    show = add("demo", "see it work, on a private supervisord in a temporary directory", demo.__doc__ or "")
    demo.add_arguments(show)
    show.set_defaults(run=demo.run)
    complete = add("completion", "print a script with which a shell completes memreap's commands", completion.HELP)
    completion.add_arguments(complete)
    complete.set_defaults(run=lambda args: completion.run(args, whole))
    return whole


def _add_own_commands(add: Callable[..., argparse.ArgumentParser]) -> None:
    """Those that this file carries out."""
    listen = add("listen", "watch the pools; supervisord starts this", _LISTEN)
    listen.add_argument("limits", nargs="*", metavar="NAME=SIZE", help="a program or group and its limit")
    listen.set_defaults(run=_listen)

    single = add("once", "reap workers that are over their limit now, then exit", _ONCE, _SETTINGS)
    which = single.add_mutually_exclusive_group()
    which.add_argument("--pid", type=int, help="the manager of the pool")
    which.add_argument("--pidfile", metavar="FILE", help="a file with the manager's pid")
    single.add_argument("-n", "--dry-run", action="store_true", help="send nothing, say what would be done")
    single.add_argument("--json", action="store_true", help="for programs: an event a line; see docs/events.md")
    single.add_argument("words", nargs="*", metavar="NAME|KEY=VALUE", help="only these programs; settings for this run")
    single.set_defaults(run=_once)

    views = _add_views(add)
    check = add("doctor", "check for anything that would stop memreap or make it unsafe", _DOCTOR)
    _add_json(check)
    check.set_defaults(run=_doctor)

    effective = add("settings", "the settings in force, and where each was set", _EFFECTIVE)
    _add_json(effective)
    effective.add_argument("names", nargs="*", metavar="NAME", help="only these programs")
    effective.set_defaults(run=_settings)

    for command in (listen, single, *views, *_add_reports(add), effective, check):
        _add_configuration(command)


def _add_views(add: Callable[[str, str, str], argparse.ArgumentParser]) -> list[argparse.ArgumentParser]:
    """The commands that show the state of the pools."""
    state = add("status", "the state of the pools", _STATUS)
    _add_json(state)
    state.add_argument("--watch", type=_interval, nargs="?", const=2.0, metavar="SECONDS", help="repeat it (every 2 s)")
    state.add_argument("names", nargs="*", metavar="NAME", help="only these programs")
    state.set_defaults(run=_status)

    live = add("top", "the pools live, in a terminal", top.__doc__ or "")
    top.add_arguments(live, _interval)
    live.set_defaults(run=_top)
    return [state, live]


def _add_reports(add: Callable[[str, str, str], argparse.ArgumentParser]) -> list[argparse.ArgumentParser]:
    """The commands that show the history."""
    happened = add("report", "what happened in a day or a month, as text or as a page", report.__doc__ or "")
    report.add_arguments(happened)
    happened.set_defaults(run=report.run)

    advise = add("suggest", "which limit is right for a pool", suggest.__doc__ or "")
    suggest.add_arguments(advise)
    advise.set_defaults(run=suggest.run)

    picture = add("plot", "the history of a pool as a picture", plot.__doc__ or "")
    plot.add_arguments(picture)
    picture.set_defaults(run=plot.run)
    return [happened, advise, picture]


def _add_configuration(command: argparse.ArgumentParser) -> None:
    # Without a default, which would override a -c before the command.
    command.add_argument("-c", "--configuration", metavar="FILE", default=argparse.SUPPRESS, help=_CONFIGURATION)


def _add_json(command: argparse.ArgumentParser) -> None:
    command.add_argument("--json", action="store_true", help="for programs; docs/operating.md describes it")


def _interval(text: str) -> float:
    try:
        seconds = duration(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{quote(text)}: {error}") from None
    if seconds < 0.5:
        raise argparse.ArgumentTypeError(f"{text}: at least 0.5s")
    return seconds


def _listen(args: argparse.Namespace) -> int:
    return listener.run(args.configuration, args.limits)


def _once(args: argparse.Namespace) -> int:
    names = [argument for argument in args.words if "=" not in argument]
    pairs = [argument.partition("=") for argument in args.words if "=" in argument]
    given = {key: Given(value, COMMAND_LINE) for key, _, value in pairs}
    emit = log.sink(sys.stdout, args.json)
    how_ended: HowEnded = once.ended_by_itself
    has_commands = False
    contents = None
    if args.pid is not None or args.pidfile is not None:
        if names or args.configuration:
            raise SettingsError(f"{COMMAND_LINE}: --pid and --pidfile take only settings, such as limit=100MB")
        if not has_reason(given):
            raise no_reason(COMMAND_LINE)
        if given.get("target", Given("", "")).value.lower() == "self":
            raise SettingsError(f"{COMMAND_LINE} target=self: not allowed with --pid, which names a manager")
        pid = args.pid if args.pid is not None else _pid_in(args.pidfile)
        since = None if args.pidfile is None else os.stat(args.pidfile).st_mtime
        name = f"pid-{pid}"
        settings = resolve(overlay({name: {}}, given))
        try:
            programs = once.of_pid(pid, name, since)
        except ProcessLookupError:
            log.to(sys.stderr)(f"there is no process {pid}")
            return 1
        except ValueError as error:
            raise SettingsError(str(error)) from None
    else:
        configured = _configured(args.configuration, names, given)
        settings, programs = configured.settings, configured.client.programs
        how_ended, contents = configured.client.how_ended, configured.contents
        has_commands = words.has_commands(contents.has_plugin, configured.client.listener())
    return once.run(programs, settings, names, args.dry_run, emit, how_ended, has_commands, contents)


class _Configured(NamedTuple):
    contents: configfile.Contents
    settings: Settings
    """The settings in force; those of the command line override all others."""
    client: Client


def _configured(configuration: str | None, names: Sequence[str], given: dict[str, Given]) -> _Configured:
    path = configfile.find(configuration)
    contents = configfile.ConfigFile(path).read()
    added: Sections = {name.removesuffix(":*"): {} for name in names if has_reason(given)}
    sections = configfile.merge(contents.sections, contents.limits(), added)
    settings = resolve(overlay(sections, given))
    if not settings.names:
        text = f"add one with observe=yes, {REASON_KEYS_TEXT}, or name a program here"
        near = "".join(f"; {warning}" for warning in contents.warnings)
        raise SettingsError(f"{path}: no [memreap:PROGRAM] section; {text}{near}")
    client = connect_as_supervisorctl(contents.server)
    return _Configured(contents, settings, client)


def _status(args: argparse.Namespace) -> int:
    viewer = _viewer(args)
    print_line = log.to(sys.stderr)
    try:
        while True:
            whole = viewer.look()
            pools = [pool["name"] for pool in whole.pools]
            missing = [name for name in args.names if not named(name, pools)]
            if missing:
                print_line(unknown(missing[0], pools))
                return 1
            view = whole.only(args.names)
            if args.json:
                print(json.dumps(view.values(), indent=None if args.watch else 2), flush=True)
            else:
                clear = "\x1b[H\x1b[J" if args.watch and sys.stdout.isatty() else ""
                print(f"{clear}{view.text(time.time())}", flush=True)
            for line in (*view.troubles, *view.warnings):
                print_line(line)
            if not args.watch:
                return 0 if view.is_well() else 1
            time.sleep(args.watch)
    finally:
        viewer.close()


def _viewer(args: argparse.Namespace) -> Viewer | Remote:
    """Of our own; while the settings have an error, what the listener says, who goes on with the earlier ones."""
    try:
        return _own_viewer(args)
    except SettingsError as error:
        viewer = _listeners_viewer(args, error)
        if viewer is None:
            raise
        return viewer


def _listeners_viewer(args: argparse.Namespace, error: SettingsError) -> Remote | None:
    """None: no listener looks, as far as is known."""
    try:
        contents = configfile.ConfigFile(configfile.find(args.configuration)).read()
        viewer = Remote(connect_as_supervisorctl(contents.server), str(error), contents.has_plugin)
        return viewer if viewer.look().is_watched else None
    except (SettingsError, Unavailable):
        return None


def _own_viewer(args: argparse.Namespace) -> Viewer:
    configured = _configured(args.configuration, args.names, {})
    return Viewer(configured.client, configured.settings, configured.contents)


def _top(args: argparse.Namespace) -> int:
    try:
        from supervisor_memreap.top import run
    except ModuleNotFoundError:
        remedy = packages.install_extra("top")
        raise SettingsError(f"memreap top needs rich, which is not installed: {remedy}") from None
    if args.url is None:
        viewer: Viewer | Remote = _viewer(args)
        shown = None
    else:
        username, password = _credentials(args.configuration)
        client = run.client_of(args.url, username, password)
        viewer, shown = Remote(client), client.shown_url
    try:
        return run.run(viewer, args.names, args.interval, shown)
    finally:
        viewer.close()


def _settings(args: argparse.Namespace) -> int:
    path = configfile.find(args.configuration)
    contents = configfile.ConfigFile(path).read()
    settings = resolve(configfile.merge(contents.sections, contents.limits()))
    print_line = log.to(sys.stderr)
    for warning in contents.warnings:
        print_line(warning)
    try:
        programs = connect_as_supervisorctl(contents.server).programs()
        for name in settings.unmatched(programs):
            print_line(f"no program or group '{quote(name)}' in supervisord")
    except Unavailable as error:
        programs = contents.programs()
        print_line(f"{error}: these are the programs in {path}")
    pools = settings.pools(programs)
    watched = [pool.program.namespec for pool in pools]
    chosen = {pool for name in args.names or ["all"] for pool in named(name, watched)}
    view = procfs.source()
    # By one of its processes, since its sections may be named after that.
    shown = [
        inforce.of_pool(
            watch.program.namespec,
            watch.settings,
            settings.origins(watch.members[0] if watch.members else watch.program),
            look.server_of(look.look(watch, view, gate=look.never), view),
        )
        for watch in pools
        if watch.program.namespec in chosen
    ]
    missing = [name for name in args.names if not named(name, watched)]
    if missing or not shown:
        print_line(unknown(missing[0], watched) if missing else f"{path}: no program has a [memreap:PROGRAM] section")
        return 1
    listener_settings = inforce.of_listener(
        settings.recording, settings.origins_for_all, *_default_history(contents, programs)
    )
    if args.json:
        print(json.dumps(inforce.document(path, listener_settings, shown), indent=2))
    else:
        print(inforce.table([*([] if args.names else [listener_settings]), *shown]))
    return 0


def _default_history(contents: configfile.Contents, programs: Sequence[Program]) -> tuple[str | None, str]:
    """The path of the history if none is set; None: there is none, or it is unknown, and why."""
    supervisord = supervisord_of(programs)
    if supervisord is None:
        return None, "beside the log of the supervisord that runs"
    try:
        return historypath.in_force(Recording(), contents, supervisord), ""
    except historypath.HistoryError as error:
        return None, f"nothing is recorded: {error}"


def _doctor(args: argparse.Namespace) -> int:
    from supervisor_memreap import doctor  # 2 MB that the listener never needs

    path = configfile.find(args.configuration)
    try:
        if not args.json:
            return doctor.run(path, connect_as_supervisorctl, log.to(sys.stdout))
        found = doctor.document(path, connect_as_supervisorctl)
        print(json.dumps(found, indent=2))
        return 1 if found["problems"] else 0
    except Exception:
        # 1 would mean that problems were found.
        traceback.print_exc()
        return os.EX_SOFTWARE


def _credentials(configuration: str | None) -> tuple[str | None, str | None]:
    """The user name and password for --url, which needs no configuration unless one is named."""
    try:
        server = configfile.ConfigFile(configfile.find(configuration)).read().server
    except SettingsError:
        if configuration is not None:
            raise
        server = {}
    username = os.environ.get("SUPERVISOR_USERNAME", server.get("username"))
    return username, os.environ.get("SUPERVISOR_PASSWORD", server.get("password"))


def _pid_in(path: str) -> int:
    try:
        text = Path(path).read_text(errors="replace").strip()
    except OSError as error:
        raise SettingsError(f"{path}: cannot be read: {error.strerror}") from None
    if not text.isascii() or not text.isdigit():
        raise SettingsError(f"{path}: contains {text[:40]!r}, not a pid")
    return int(text)
