"""\
Show what happened in each pool: the workers replaced, by reason and day, memory returned, time to
leave, what was refused, suspensions, growth, the largest worker, the pool's total, gaps in the
recording, and the limit that memreap suggest would set.

    memreap report                       all pools, the last 24 hours
    memreap report myapp --days 7
    memreap report --month --html report.html

--html writes one file that needs nothing else: no network and no script. It has a picture of each
pool, and needs matplotlib for that: the extra `plot`, or Debian's python3-matplotlib

exit status: 0; 1 there is no history, no such pool, or the file cannot be written; 2 bad usage or
configuration, or no matplotlib for --html; 130 Ctrl-C.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from supervisor_memreap import __version__, recorded
from supervisor_memreap.core.history import PoolHistory
from supervisor_memreap.record import log
from supervisor_memreap.record.historypath import HistoryError

if TYPE_CHECKING:
    from supervisor_memreap.record.report import PoolReport

_DAY = 86400
_MONTH = 30


def add_arguments(parser: argparse.ArgumentParser) -> None:
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--days", type=recorded.count(recorded.DAYS), metavar="N", help="the last N days (1)")
    length.add_argument("--month", action="store_const", const=_MONTH, dest="days", help=f"the last {_MONTH} days")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--html", type=_file, metavar="FILE", help="write a page with pictures to FILE")
    form.add_argument("--json", action="store_true", help="for programs; docs/operating.md describes it")
    recorded.add_argument(parser)
    parser.add_argument("names", nargs="*", metavar="NAME", help="only these pools")


def _file(text: str) -> str:
    if text == "-":
        raise argparse.ArgumentTypeError("-: must be a file, such as report.html")
    return text


def run(args: argparse.Namespace) -> int:
    """The exit status, as above."""
    from supervisor_memreap.record import plot, report, wholefile  # the listener has no use for them

    print_line = log.to(sys.stderr)
    until = time.time()
    since = until - (args.days or 1) * _DAY
    try:
        if args.html is not None:
            _write_page(args, since, until)
            return 0
        reports = [_of(each, since, until) for each in _histories(args, since, until)]
    except (HistoryError, plot.MissingLibraryError, wholefile.NotWrittenError) as error:
        print_line(str(error))
        return 2 if isinstance(error, plot.MissingLibraryError) else 1
    if args.json:
        print(json.dumps({"version": report.VERSION, "pools": [report.values(each) for each in reports]}, indent=2))
    else:
        print("\n\n".join(map(report.text, reports)))
    return 0


def _write_page(args: argparse.Namespace, since: float, until: float) -> None:
    import platform

    from supervisor_memreap.record import page, plot, wholefile

    plot.require()
    pools = [page.pool(history, _of(history, since, until)) for history in _histories(args, since, until)]
    html = page.html(pools, platform.node(), since, until, f"memreap {__version__}")
    wholefile.write(args.html, html.encode())


def _histories(args: argparse.Namespace, since: float, until: float) -> Iterator[PoolHistory]:
    """With what a suggestion needs, which is more than a day."""
    from supervisor_memreap.core.suggestion import RECENT

    return recorded.pools(args.configuration, args.names, min(since, until - RECENT), args.history)


def _of(history: PoolHistory, since: float, until: float) -> PoolReport:
    from supervisor_memreap.core.suggestion import suggest
    from supervisor_memreap.record import report, suggestion

    return report.of(history, since, until, suggestion.line(suggest(history, until)))
