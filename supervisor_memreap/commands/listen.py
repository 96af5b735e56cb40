"""\
Watch the pools of the supervisord that started this command, from a section such as

    [eventlistener:memreap]
    command=memreap listen
    events=TICK_5
    buffer_size=100
    autorestart=true

Set limits beside the programs, in supervisord.conf or a file that it includes:

    [memreap:myapp]
    limit=150MB

or in the command: `command=memreap listen myapp=150MB web=200MB`. A changed file is read
at the next tick. The log is this process's stderr (supervisorctl tail memreap stderr);
stdout carries the event protocol.

exit status: 0 supervisord ended or stopped it; 2 bad usage, or supervisord did not start it.
"""

from __future__ import annotations

import argparse

from supervisor_memreap.commands.arguments import add_configuration
from supervisor_memreap.listener import loop


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("limits", nargs="*", metavar="NAME=SIZE", help="a program or group and its limit")
    add_configuration(parser)


def run(args: argparse.Namespace) -> int:
    """As loop.run."""
    return loop.run(args.configuration, args.limits)
