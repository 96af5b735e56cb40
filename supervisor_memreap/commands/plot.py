"""\
Draw the history of a pool: above, the memory of each worker over time, the limit, and a mark for
each worker that was replaced; below, the total of the pool. Times are in this machine's zone.

    memreap plot myapp -o myapp.svg              the last 24 hours
    memreap plot myapp -o myapp.png --days 30

Needs matplotlib: the extra `plot`, or Debian's python3-matplotlib

exit status: 0 the file is written; 1 nothing was recorded in that time, no such pool, or the file
cannot be written; 2 bad usage or configuration, or no matplotlib; 130 Ctrl-C.
"""

from __future__ import annotations

import argparse
import os
import time

from supervisor_memreap.commands.arguments import add_configuration, add_history, count
from supervisor_memreap.core.failed import Failed
from supervisor_memreap.core.text import quote
from supervisor_memreap.history import query
from supervisor_memreap.reports import chart, wholefile

_HOUR = 3600


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help="the pool")
    parser.add_argument("-o", "--output", required=True, type=_output, metavar="FILE", help="FILE.svg or FILE.png")
    add_history(parser)
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--hours", type=count(24 * query.DAYS), metavar="N", help="the last N hours (default: 24)")
    length.add_argument("--days", type=count(query.DAYS), metavar="N", help="the last N days")
    add_configuration(parser)


def _output(text: str) -> str:
    if os.path.splitext(text)[1].lower() not in (".svg", ".png"):
        raise argparse.ArgumentTypeError(f"{quote(text)}: must end in .svg or .png")
    return text


def run(args: argparse.Namespace) -> int:
    """The exit status, as above."""
    until = time.time()
    since = until - (args.hours or 24 * (args.days or 1)) * _HOUR
    draw = chart.png if args.output.lower().endswith(".png") else chart.svg
    chart.require()
    histories = list(query.pools(args.configuration, [args.name], since, args.history))
    if len(histories) > 1:
        names = ", ".join(each.name for each in histories)
        raise Failed(f"'{quote(args.name)}' matches {len(histories)} pools; name one of them: {names}")
    picture = draw(histories[0], since, until)
    wholefile.write(args.output, picture if isinstance(picture, bytes) else picture.encode())
    return 0
