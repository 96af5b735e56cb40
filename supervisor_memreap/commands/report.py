"""\
Show what happened in each pool: the workers replaced, by reason and day, memory freed, time to
leave, what was refused, suspensions, growth, the largest worker, the pool's total, gaps in the
recording, and the limit that memreap suggest would set.

    memreap report                       all pools, the last 24 hours
    memreap report myapp --days 7
    memreap report --month --html report.html

--html writes one file that needs nothing else: no network and no script. It has a picture of each
pool, and needs matplotlib for that: the extra `plot`, or Debian's python3-matplotlib

exit status: 0 it is shown or written; 1 there is no history, no such pool, or the file cannot be
written; 2 bad usage or configuration, or no matplotlib for --html; 130 Ctrl-C.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Iterator

from supervisor_memreap import __version__
from supervisor_memreap.advice.poolhistory import PoolHistory
from supervisor_memreap.advice.suggestion import RECENT, suggest
from supervisor_memreap.commands.arguments import add_configuration, add_history, add_json, count
from supervisor_memreap.history import query
from supervisor_memreap.reports import advicetext, chart, htmlpage, summary, wholefile
from supervisor_memreap.reports.summary import PoolReport

_DAY = 86400
_MONTH = 30


def add_arguments(parser: argparse.ArgumentParser) -> None:
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--days", type=count(query.DAYS), metavar="N", help="the last N days (default: 1)")
    length.add_argument("--month", action="store_const", const=_MONTH, dest="days", help=f"the last {_MONTH} days")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--html", type=_file, metavar="FILE", help="write a page with pictures to FILE")
    add_json(form)
    add_history(parser)
    parser.add_argument("names", nargs="*", metavar="NAME", help="only these pools")
    add_configuration(parser)


def _file(text: str) -> str:
    if text == "-":
        raise argparse.ArgumentTypeError("-: must be a file, such as report.html")
    return text


def run(args: argparse.Namespace) -> int:
    """The exit status, as above."""
    until = time.time()
    since = until - (args.days or 1) * _DAY
    if args.html is not None:
        _write_page(args, since, until)
        return 0
    reports = [_of(each, since, until) for each in _histories(args, since, until)]
    if args.json:
        print(json.dumps({"version": summary.VERSION, "pools": [summary.values(each) for each in reports]}, indent=2))
    else:
        print("\n\n".join(map(summary.text, reports)))
    return 0


def _write_page(args: argparse.Namespace, since: float, until: float) -> None:
    chart.require()
    pools = [htmlpage.pool(history, _of(history, since, until)) for history in _histories(args, since, until)]
    html = htmlpage.html(pools, platform.node(), since, until, f"memreap {__version__}")
    wholefile.write(args.html, html.encode())


def _histories(args: argparse.Namespace, since: float, until: float) -> Iterator[PoolHistory]:
    """With what a suggestion needs, which is more than a day."""
    return query.pools(args.configuration, args.names, min(since, until - RECENT), args.history)


def _of(history: PoolHistory, since: float, until: float) -> PoolReport:
    return summary.of(history, since, until, advicetext.line(suggest(history, until)))
