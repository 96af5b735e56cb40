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
import sys
import time

from supervisor_memreap import recorded
from supervisor_memreap.core.text import quote
from supervisor_memreap.record import log
from supervisor_memreap.record.historypath import HistoryError

_HOUR = 3600


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help="the pool")
    parser.add_argument("-o", "--output", required=True, type=_output, metavar="FILE", help="FILE.svg or FILE.png")
    recorded.add_argument(parser)
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--hours", type=recorded.count(24 * recorded.DAYS), metavar="N", help="the last N hours (24)")
    length.add_argument("--days", type=recorded.count(recorded.DAYS), metavar="N", help="the last N days")


def _output(text: str) -> str:
    if os.path.splitext(text)[1].lower() not in (".svg", ".png"):
        raise argparse.ArgumentTypeError(f"{quote(text)}: must end in .svg or .png")
    return text


def run(args: argparse.Namespace) -> int:
    """The exit status, as above."""
    from supervisor_memreap.record import plot, wholefile  # the listener has no use for them

    print_line = log.to(sys.stderr)
    until = time.time()
    since = until - (args.hours or 24 * (args.days or 1)) * _HOUR
    draw = plot.png if args.output.lower().endswith(".png") else plot.svg
    try:
        plot.require()
        histories = list(recorded.pools(args.configuration, [args.name], since, args.history))
        if len(histories) > 1:
            names = ", ".join(each.name for each in histories)
            print_line(f"'{quote(args.name)}' is {len(histories)} pools; name one of them: {names}")
            return 1
        picture = draw(histories[0], since, until)
        wholefile.write(args.output, picture if isinstance(picture, bytes) else picture.encode())
    except (HistoryError, plot.MissingLibraryError, plot.NothingToDrawError, wholefile.NotWrittenError) as error:
        print_line(str(error))
        return 2 if isinstance(error, plot.MissingLibraryError) else 1
    return 0
