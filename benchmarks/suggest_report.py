"""The table and the page of suggest.py. Pure except `machine`."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

from supervisor_memreap.advice.suggestion import Why

_INTRODUCTION = """\
# How often `memreap suggest` is right

`python benchmarks/suggest.py` wrote this page. It makes synthetic pools whose growth is known, and what the
listener would have recorded of each: 1 to 7 days, a reading a minute for the last day and one each 15 minutes
before. It asks `memreap suggest` for a limit, and then lets the same pool run under that limit for a long time,
with a look every 5 s. A suggestion is *right* if the reaps a day that it promises are within 25 % of the true ones,
or both are below one a day. If it promises an upper bound only (`less than 3`), it is right if the true figure is
below that.

The pools are chosen by chance: 1 to 30 workers of 15 to 200 MiB, whose readings have noise of 0.2 % to 2 % of that;
a load with a daily cycle, that differs from day to day, and that the workers share unequally. Some pools ran before
the watching began, so that the youth of their workers is unknown; some have a limit in force that replaces workers,
at once or minutes later, when they are idle; some were restarted as a whole, by a deployment that changed nothing; in
some the listener was down for hours. The pools are the same each time. They are simpler than real ones: the workers
share one load, and each hour of one day is much like the same hour of another.
"""
_LEGEND = """\
- *pools*: what is true of them. In a *strong daily cycle*, the load at its lowest is 10 % to 50 % of the mean.
  *Unequal workers*: the busiest serves several times the requests of the others. *Spikes*: single requests take
  40 % to 200 % of a worker's size, once in 3 to 40 hours. Their memory stays and is used again, is leaked each time,
  or is returned after some minutes. *Nightly batch*: once a day such a request for all workers at once, of 20 % to
  150 % of their size. *Weekends*: watching begins on any day of a week in which Saturday and Sunday have 30 % to 80 %
  of the load; the true figure is that of whole weeks. *Deployment*: all workers are new after 1.5 to 3 days, the leak
  is 0.25, 0.4, 2.5 or 4 times what it was, and 1 to 1.6 days follow; the true figure is that after the deployment.
- *answered*: a limit is suggested. Otherwise it says why not: a promise would be too uncertain; too little came after
  a deployment; or no fresh worker was watched and all are too old to calculate back what one holds.
- *right*: of those that are answered.
- *not known*: of all, because no promise would be sure enough, or because no fresh worker was watched.
- *recognised as*: what `suggest` says of the growth. Where copy on write unshares little, or takes some minutes
  only, it looks like a steady leak or like no growth.

Spikes are seldom answered: a rate can be told within 25 % only after more than 40 of them have crossed the limit,
and a worker that keeps its memory shows one.
"""


def table(outcomes: Sequence[Any]) -> list[str]:
    """A row for each kind of pool, as Markdown."""
    lines = [
        "| pools | number | answered | right | not known: unsure | no fresh worker | recognised as |",
        "|---|--:|--:|--:|--:|--:|---|",
    ]
    for kind in dict.fromkeys(outcome.kind for outcome in outcomes):
        of_kind = [outcome for outcome in outcomes if outcome.kind == kind]
        answered = [outcome for outcome in of_kind if outcome.is_answered]
        right = sum(outcome.is_right for outcome in answered)
        no_fresh = sum(outcome.why == Why.NO_FRESH.value for outcome in of_kind)
        unsure = len(of_kind) - len(answered) - no_fresh
        kinds_found = Counter(outcome.result for outcome in of_kind)
        kinds = ", ".join(f"{name} {count}" for name, count in kinds_found.most_common())
        lines.append(f"| {kind} | {len(of_kind)} | {len(answered)} | {right} | {unsure} | {no_fresh} | {kinds} |")
    return lines


def summary(outcomes: Sequence[Any]) -> str:
    answered = [outcome for outcome in outcomes if outcome.is_answered]
    right = sum(outcome.is_right for outcome in answered)
    share = right / max(1, len(answered))
    return f"Of {len(outcomes)} pools, {len(answered)} are answered, and {right} of these are right ({share:.0%})."


def machine() -> str:
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("supervisor_memreap", "numpy"))
    return (
        f"Measured on {time.strftime('%Y-%m-%d')}: {versions}, Python {platform.python_version()},"
        f" Linux {platform.release()} {platform.machine()},"
        f" {os.cpu_count()} CPUs."
    )


def markdown(outcomes: Sequence[Any]) -> str:
    times = f"The longest suggestion took {max(outcome.seconds for outcome in outcomes):.1f} s of CPU."
    return "\n".join([_INTRODUCTION, *table(outcomes), "", summary(outcomes), "", _LEGEND, f"{machine()} {times}", ""])
