"""\
Suggest a limit for a pool, from what the listener has recorded: what a fresh worker holds, how
workers grow, and, for several limits, how long a worker lives, how many are replaced in a day and
what the pool holds. Signals no worker and changes nothing.

    memreap suggest                 all pools
    memreap suggest myapp
    memreap suggest myapp --json    as JSON; see docs/interfaces.md

Start with observe=yes in [memreap:myapp]: then the pool is watched and no worker is signalled. Ask
a day later. The block at the end is for your configuration. A figure that cannot be predicted
within 25 % is "not known".

exit status: 0 each pool has a suggestion; 1 a pool has none yet, or there is no history or no such
pool; 2 bad usage or configuration; 130 Ctrl-C.
"""

from __future__ import annotations

import argparse
import json
import sys
import time

from supervisor_memreap.advice.suggestion import RECENT, suggest
from supervisor_memreap.commands.arguments import add_configuration, add_history, add_json
from supervisor_memreap.history import query
from supervisor_memreap.history.historypath import NoHistoryError
from supervisor_memreap.outputs import log
from supervisor_memreap.reports import advicetext

_NEEDS = "a suggestion needs a day of history: set observe=yes in [memreap:NAME], run the listener, and ask a day later"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_json(parser)
    add_history(parser)
    parser.add_argument("names", nargs="*", metavar="NAME", help="only these pools")
    add_configuration(parser)


def run(args: argparse.Namespace) -> int:
    """The exit status, as above."""
    now = time.time()
    try:
        histories = query.pools(args.configuration, args.names, now - RECENT, args.history)
        suggestions = [suggest(history, now) for history in histories]
    except NoHistoryError as error:
        for line in (str(error), _NEEDS):
            log.to(sys.stderr)(line)
        return error.exit_status
    if args.json:
        pools = [advicetext.values(each) for each in suggestions]
        print(json.dumps({"version": advicetext.VERSION, "pools": pools}, indent=2))
    else:
        print("\n\n".join(map(advicetext.text, suggestions)))
    return 0 if all(each.limit is not None for each in suggestions) else 1
