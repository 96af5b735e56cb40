"""\
Show memreap at work on this machine, without root, Perl or a web server: a private supervisord in
a temporary directory, a pool of leaking workers under load, and the real listener, which reaps
each worker that is over its limit. The table shows each worker's size against the limit. In the
last half minute there are twice as many clients as workers: none is idle, and reaping continues.

It ends on its own, or with Ctrl-C, and leaves no process and no file behind. (If it is killed by
SIGKILL, its directory stays, and the next demo removes it.)

exit status: 0 workers were reaped and no request was lost, or you stopped it before; 1 no worker
was reaped, a request was lost, or its supervisord ended; 2 bad usage; 128 plus the signal's number:
you stopped it before the pool ran.
"""

from __future__ import annotations

import argparse

from supervisor_memreap.commands.arguments import count
from supervisor_memreap.demo import run as demo


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--seconds",
        type=count(86400, " of seconds"),
        metavar="N",
        help=f"end after N seconds (default: {demo.DEFAULT}, or more if many workers grow more slowly)",
    )
    workers = count(20, " of workers")
    parser.add_argument("--workers", type=workers, default=4, metavar="N", help="number of workers (default: 4)")
    parser.add_argument(
        "--pool",
        choices=("auto", "perl", "python"),
        default="auto",
        help="perl: the real FCGI::ProcManager; python: a small manager like it (default: perl if it is installed)",
    )


def run(args: argparse.Namespace) -> int:
    """The exit status, as above."""
    if args.configuration:
        args.parser.error("unexpected argument -c: demo has its own configuration")
    return demo.run(args)
