"""\
Show what each program of supervisord holds, watched by memreap or not: the number of processes, and
their memory together, of the process that supervisord started and all below it; and of supervisord
itself. Needs no listener. Signals no process.

    memreap memory                all programs, the largest first
    memreap memory myapp web:*    some programs or groups
    memreap memory --json         as JSON

uss is the memory that no other process has. pss is that and a share of the memory that processes
have in common: what a pool of forked workers holds as a whole. Both are without swap. A process
that has left its program, as one that daemonizes, is not counted.

Run it as root, or as the programs' user, on the machine and in the container of supervisord. A size
that cannot be read is "-", and a sum that lacks some processes begins with ">"; a line says why.

exit status: 0 all was read; 1 something could not be read, supervisord does not answer or runs
elsewhere, or it has no program NAME; 2 bad usage or configuration; 130 Ctrl-C.
"""

from __future__ import annotations

import argparse
import json
import sys

from supervisor_memreap.commands.arguments import add_configuration, add_json
from supervisor_memreap.host import trees
from supervisor_memreap.outputs import log, memorytable
from supervisor_memreap.supervisord import configfile
from supervisor_memreap.supervisord.client import connect_as_supervisorctl


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_json(parser)
    parser.add_argument("names", nargs="*", metavar="NAME", help="only these programs or groups")
    add_configuration(parser)


def run(args: argparse.Namespace) -> int:
    """The exit status, as above."""
    contents = configfile.ConfigFile(configfile.find(args.configuration)).read()
    held = trees.read(connect_as_supervisorctl(contents.server).programs(), args.names)
    print(json.dumps(memorytable.values(held), indent=2) if args.json else memorytable.text(held))
    lines = memorytable.troubles(memorytable.ordered(held))
    for line in lines:
        log.to(sys.stderr)(line)
    return 1 if lines else 0
