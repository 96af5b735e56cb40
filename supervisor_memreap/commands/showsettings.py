"""\
Show the settings in force for each pool, and where each value was set: the file and its section,
the listener's command, or nowhere (default). For each setting, the most specific section wins:
[memreap:group:name], [memreap:name], [memreap:group], then [memreap] for all pools.

    memreap settings
    memreap settings myapp
    memreap settings --json          as JSON

If supervisord does not answer, the programs in the configuration are shown.

exit status: 0; 1 NAME is not watched, or nothing is; 2 bad usage or configuration.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence

from supervisor_memreap.commands.arguments import add_configuration, add_json
from supervisor_memreap.core.command import chosen
from supervisor_memreap.core.failed import Failed
from supervisor_memreap.core.model import Program, supervisord_of
from supervisor_memreap.core.settings import Recording, resolve
from supervisor_memreap.core.text import quote
from supervisor_memreap.history import historypath
from supervisor_memreap.host import look, procfs
from supervisor_memreap.outputs import inforce, log
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
    names = chosen(args.names, watched)
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
        if watch.program.namespec in names
    ]
    if not shown:
        raise Failed(f"{path}: no program has a [memreap:PROGRAM] section")
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
