"""\
Show the settings in force for each pool, and where each value was set: the file and its section,
the listener's command, or nowhere (default). For each setting, the most specific section wins:
[memreap:group:name], [memreap:name], [memreap:group], then [memreap] for all pools.

    memreap settings
    memreap settings myapp
    memreap settings --json          as JSON

If supervisord does not answer, the programs in the configuration are shown.

exit status: 0 they are shown; 1 NAME is not watched, or nothing is; 2 bad usage or configuration;
130 Ctrl-C.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from supervisor_memreap.commands.arguments import add_configuration, add_json
from supervisor_memreap.core.command import chosen
from supervisor_memreap.core.failed import Failed
from supervisor_memreap.core.model import Program, supervisord_of
from supervisor_memreap.core.recording import Recording
from supervisor_memreap.core.servers import named, signal_for
from supervisor_memreap.core.settings import (
    POOL_KEYS,
    RECORDING_KEYS,
    Given,
    PoolSettings,
    field_of,
    shown,
)
from supervisor_memreap.core.text import aligned, quote
from supervisor_memreap.history import historypath
from supervisor_memreap.host import look, procfs
from supervisor_memreap.outputs import fields, log
from supervisor_memreap.supervisord import configfile
from supervisor_memreap.supervisord.client import Unavailable, connect_as_supervisorctl


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_json(parser)
    parser.add_argument("names", nargs="*", metavar="NAME", help="only these programs")
    add_configuration(parser)


def run(args: argparse.Namespace) -> int:
    """The exit status, as above."""
    path = configfile.find(args.configuration)
    contents = configfile.ConfigFile(path).read()
    settings = contents.settings()
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
    names = chosen(args.names, watched)
    view = procfs.source()
    # By one of its processes, since its sections may be named after that.
    groups = [
        of_pool(
            watch.program.namespec,
            watch.settings,
            settings.origins(watch.members[0] if watch.members else watch.program),
            look.server_of(look.look(watch, view, gate=look.never), view),
        )
        for watch in pools
        if watch.program.namespec in names
    ]
    if not groups:
        raise Failed(f"{path}: no program has a [memreap:PROGRAM] section")
    listener_settings = of_listener(settings.recording, settings.origins_for_all, *_default_history(contents, programs))
    if args.json:
        print(json.dumps(document(path, listener_settings, groups), indent=2))
    else:
        print(table([*([] if args.names else [listener_settings]), *groups]))
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


# The settings in force, and where each value was set.


VERSION = 1
"""The version of the JSON; increased when a key is removed or changes its meaning, not when one is added."""


class Row(NamedTuple):
    key: str
    value: Any
    """None: there is none."""
    text: str
    """As a user writes it."""
    where: str


class Group(NamedTuple):
    """The settings of a pool, or those of the listener itself."""

    name: str
    rows: tuple[Row, ...]


def of_pool(name: str, settings: PoolSettings, origins: Mapping[str, Given], server: str | None) -> Group:
    """`server` is as in host.look.server_of."""
    rows = []
    for key in POOL_KEYS:
        if key == "signal" and key not in origins:
            rows.append(_default_signal(server))
        else:
            rows.append(Row(key, getattr(settings, field_of(key)), shown(settings, key), _where(key, origins)))
    return Group(name, tuple(rows))


def of_listener(recording: Recording, origins: Mapping[str, Given], history: str | None, why: str) -> Group:
    """`history` is the path of the history if none is set; None: there is none, or it is unknown, and `why`."""
    rows = []
    for key in RECORDING_KEYS:
        if key == "history" and recording.history == "":
            rows.append(Row(key, history, history or "-", f"default: {why or 'beside the log of supervisord'}"))
        else:
            rows.append(Row(key, getattr(recording, key), recording.shown(key), _where(key, origins)))
    return Group("memreap", tuple(rows))


def _where(key: str, origins: Mapping[str, Given]) -> str:
    return origins[key].where.rstrip(":") if key in origins else "default"


def _default_signal(server: str | None) -> Row:
    """The signal that is used if none is set, and why."""
    if server is None:
        return Row("signal", None, "-", "default: depends on the server; no running worker is known")
    if named(server).refusal:
        return Row("signal", None, "-", f"{server} {named(server).refusal}")
    signal = signal_for(server, None)
    return Row("signal", signal, signal, f"default for {server}" if named(server).graceful else "default")


def table(groups: Iterable[Group]) -> str:
    rows: list[tuple[str, ...]] = []
    for group in groups:
        rows += [(f"[{group.name}]", "", ""), *((f"  {row.key}", row.text, row.where) for row in group.rows)]
    return aligned(rows)


def document(configuration: str, listener: Group, pools: Iterable[Group]) -> dict[str, Any]:
    """As JSON. `configuration` is the path of the file."""
    return {
        "version": VERSION,
        "configuration": configuration,
        "listener": dict(_values(listener)),
        "pools": [{"name": pool.name, "settings": dict(_values(pool))} for pool in pools],
    }


def _values(group: Group) -> Iterator[tuple[str, dict[str, Any]]]:
    for row in group.rows:
        yield row.key, {"value": fields.plain(row.value), "text": row.text, "where": row.where}
