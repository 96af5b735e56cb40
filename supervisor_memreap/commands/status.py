"""\
Show the state of the pools. Signals no worker.

    memreap status                   all pools that have a [memreap:NAME] section
    memreap status myapp --watch     one pool, every 2 seconds, until Ctrl-C
    memreap status --json            as JSON

Shows the listener's view, read through [rpcinterface:memreap]. If the listener cannot be asked, the
command reads the pools itself, once. The last line says which view is shown.

exit status: 0 memreap watches all pools; 1 a pool is suspended, OVERDUE, FATAL or not watched
(BLIND), something is wrong with the listener, a section or NAME names no watched program, or
supervisord does not answer; 2 bad usage or configuration; 130 Ctrl-C.
"""

from __future__ import annotations

import argparse
import json
import sys
import time

from supervisor_memreap.commands.arguments import add_configuration, add_json, interval
from supervisor_memreap.outputs import log
from supervisor_memreap.views.viewer import open_viewer


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_json(parser)
    parser.add_argument(
        "--watch", type=interval, nargs="?", const=2.0, metavar="SECONDS", help="repeat every SECONDS (default: 2)"
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="only these programs")
    add_configuration(parser)


def run(args: argparse.Namespace) -> int:
    """The exit status, as above."""
    viewer = open_viewer(args.configuration, args.names)
    print_line = log.to(sys.stderr)
    try:
        while True:
            whole = viewer.look()
            whole.require(args.names)
            shown = whole.only(args.names)
            if args.json:
                print(json.dumps(shown.values(), indent=None if args.watch else 2), flush=True)
            else:
                clear = "\x1b[H\x1b[J" if args.watch and sys.stdout.isatty() else ""
                print(f"{clear}{shown.text(time.time())}", flush=True)
            for line in (*shown.troubles, *shown.warnings):
                print_line(line)
            if not args.watch:
                return 0 if shown.is_well() else 1
            time.sleep(args.watch)
    finally:
        viewer.close()
