"""The table and the page of suggest.py. Pure except `machine`."""

from __future__ import annotations

import importlib.metadata
import math
import os
import platform
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

from supervisor_memreap.advice.suggestion import Why

MIB = 1024**2
# Seconds: a worker with a shorter life has cold caches for much of it.
SHORT = 6 * 3600.0
_INTRODUCTION = """\
# How often `memreap suggest` is right, and what other rules say

`python benchmarks/suggest.py` wrote this page. It asks `memreap suggest` for a limit of pools whose growth is known,
by what the listener recorded of them, and then simulates such a pool under that limit for a long time, in steps of
30 s to 30 minutes, by the largest of the 5 s looks within each step. A suggestion is *right* if the reaps a day that
it promises are within 25 % of the true ones, or both are below one a day. If it promises an upper bound only
(`less than 3`), it is right if the true figure is below that.
"""
_SYNTHETIC = """\
## Synthetic pools

Chosen by chance: 1 to 30 workers of 15 to 200 MiB, whose readings have noise of 0.2 % to 2 % of that; a load with a
daily cycle, that differs from day to day, and that the workers share unequally; watched for 1 to 7 days, with a
reading a minute for the last day and one each 15 minutes before. Some pools ran before the watching began, so that the
youth of their workers is unknown; some have a limit in force that replaces workers, at once or minutes later, when
they are idle; some were restarted as a whole, by a deployment that changed nothing; in some the listener was down for
hours. The pools are the same each time.
"""
_RECORDED = """\
## Recorded pools

`python benchmarks/suggest_record.py` ran {pools} pools at once, in fast motion: a second for {speed:.0f}, so 40 hours
in 17 minutes, and a look each second. Supervisord, the servers, their workers, the requests, the sizes, the restarts,
and what memreap replaced are real; the application does what each request says, so its leak is known, and not measured.
What a fresh worker holds is that of a pool of the same server that does not grow. {answered:,} requests were answered,
{lost} were not; all pools held {highest:,} MiB (PSS) at most. Their histories are in `suggest_recorded.json.gz`. They
are more regular than those of users: one application in seven servers, whose requests are alike.
"""
_RULES = """\
## Other rules, on the same pools

VPA is the rule of Kubernetes' Vertical Pod Autoscaler: the 90th percentile of each worker's daily peaks, whose weights
halve in 24 hours, and 15 %. KRR is Robusta's: the largest reading, and 5 % (its first versions; now 15 %).
`benchmarks/suggest_rules.py` has the sources. VPA's smallest answer is 11.5 MB, more than many recorded workers use.
Both size containers, which are killed beyond their limit; here each worker is one. Without {too_short}.

"""
_RULES_LEGEND = """\
- *coverage*: for how many pools the rule has an answer.
- *too low*: the limit is below what a worker uses without any leak: fresh, all that it unshares, and a large request
  (as large as 95 of 100 are). *Short lives*: a worker lives for less than 6 hours on average, with cold caches for
  much of it.
- *slack*: the memory above what a worker uses, as a share of the limit; the median of the limits that are not too low.
  As in Google's Autopilot (Rzadca et al., EuroSys 2020), whose jobs had 23 %.
- *life*, *reaps*: of pools that leak, the medians of a worker's true life and of the true reaps of a pool in a day.
- *leak?*: whether the pool is said to leak. `suggest`: a steady leak, or a leak and growth of other kinds; no growth,
  and growth that levels off, are none. Mann-Kendall: the trend test by which studies of software aging tell a leak.
"""
_FINDINGS = """\
## What this shows

- Where nothing leaks, VPA and KRR are better: their limits have much less slack, and they always answer. `suggest`
  keeps room of at least the size of a fresh worker, and says that no limit is needed.
- Where workers leak, VPA and KRR take what has leaked for what is needed, so their limits are the higher the longer a
  pool was watched: the slack is larger, and a worker lives longer. They do not say how many workers a limit replaces.
- Mann-Kendall misses fewer leaks, since it always has an answer; but it takes many pools for leaking that do not, such
  as those whose growth levels off. Machida et al. found the same ("highly vulnerable to creating false positives").

## Terms and sources

*Software aging*: a process that runs for long gets worse, mostly since it holds more memory. *Rejuvenation*: to end it
gracefully and start it anew, before that does harm. The limit of memreap is a policy of rejuvenation by a threshold.

- Y. Huang, C. Kintala, N. Kolettis, N. D. Fulton: Software Rejuvenation: Analysis, Module and Applications. FTCS-25,
  1995. <https://doi.org/10.1109/FTCS.1995.466961>
- D. Cotroneo, R. Natella, R. Pietrantuono, S. Russo: A Survey of Software Aging and Rejuvenation Studies. ACM JETC 10
  (1), 2014. <https://doi.org/10.1145/2539117>
- F. Machida, A. Andrzejak, R. Matias, E. Vicente: On the Effectiveness of Mann-Kendall Test for Detection of Software
  Aging. ISSRE Workshops, 2013. <https://doi.org/10.1109/ISSREW.2013.6688905>
- K. Rzadca et al.: Autopilot: Workload Autoscaling at Google. EuroSys 2020. <https://doi.org/10.1145/3342195.3387524>
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
- *observe*: of those not answered, those for which it says what to observe: which worker made the largest jump, and
  when, to look up its request in the access log.
- *recognised as*: what `suggest` says of the growth. Where copy on write unshares little, or takes some minutes
  only, it looks like a steady leak or like no growth.

Spikes are seldom answered: a rate can be told within 25 % only after more than 40 of them have crossed the limit,
and a worker that keeps its memory shows one.
"""


def table(outcomes: Sequence[Any]) -> list[str]:
    """A row for each kind of pool, as Markdown."""
    lines = [
        "| pools | number | answered | right | not known: unsure | no fresh worker | observe | recognised as |",
        "|---|--:|--:|--:|--:|--:|--:|---|",
    ]
    for kind in dict.fromkeys(outcome.kind for outcome in outcomes):
        of_kind = [outcome for outcome in outcomes if outcome.kind == kind]
        answered = [outcome for outcome in of_kind if outcome.is_answered]
        right = sum(outcome.is_right for outcome in answered)
        no_fresh = sum(outcome.why == Why.NO_FRESH.value for outcome in of_kind)
        unsure = len(of_kind) - len(answered) - no_fresh
        observe = sum(bool(outcome.observe) for outcome in of_kind)
        kinds_found = Counter(outcome.result for outcome in of_kind)
        kinds = ", ".join(f"{name} {count}" for name, count in kinds_found.most_common())
        cells = (kind, len(of_kind), len(answered), right, unsure, no_fresh, observe, kinds)
        lines.append("| {} |".format(" | ".join(map(str, cells))))
    return lines


def summary(outcomes: Sequence[Any]) -> str:
    answered = [outcome for outcome in outcomes if outcome.is_answered]
    right = sum(outcome.is_right for outcome in answered)
    share = right / max(1, len(answered))
    bounds = sum(outcome.predicted is None for outcome in answered)
    return (
        f"Of {len(outcomes)} pools, {len(answered)} are answered ({bounds} by an upper bound only), and {right} of"
        f" these are right ({share:.0%})."
        f" {_unneeded(outcomes)}"
    )


def _unneeded(outcomes: Sequence[Any]) -> str:
    """Of those that need no limit."""
    said = [outcome for outcome in outcomes if outcome.is_needed is False]
    sound = [outcome for outcome in outcomes if not outcome.leaks]
    return (
        f"It says that no limit is needed for {len(said)}, of which {sum(outcome.leaks for outcome in said)} leak;"
        f" {len(sound)} of all do not leak."
    )


def rules_table(outcomes: Sequence[Any]) -> list[str]:
    """A row for each rule."""
    lines = [
        "| rule | coverage | too low | short lives | slack, with a leak | without | life | reaps |",
        "|---|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for rule in dict.fromkeys(rule for outcome in outcomes for rule in outcome.limits):
        found = [(outcome, outcome.limits[rule]) for outcome in outcomes if rule in outcome.limits]
        low = sum(limit.limit < outcome.needs * MIB for outcome, limit in found)
        short = sum(_life(outcome, limit) < SHORT for outcome, limit in found)
        leaking = [(outcome, limit) for outcome, limit in found if outcome.leaks]
        life = median(_life(outcome, limit) for outcome, limit in leaking) / 3600
        reaps = median(limit.actual for _, limit in leaking)
        cells = (
            rule,
            f"{len(found)} of {len(outcomes)} ({len(found) / len(outcomes):.0%})",
            _share(low, len(found)),
            _share(short, len(found)),
            _slack(found, leaks=True),
            _slack(found, leaks=False),
            f"{life:.0f} h",
            f"{reaps:.1f}",
        )
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _slack(found: Sequence[tuple[Any, Any]], leaks: bool) -> str:
    """The median share of the limits that is more than a worker uses."""
    shares = [1 - outcome.needs * MIB / limit.limit for outcome, limit in found if outcome.leaks is leaks]
    sound = [share for share in shares if share >= 0]
    return f"{median(sound):.0%}" if sound else "-"


def _share(part: int, whole: int) -> str:
    return f"{part} ({part / whole:.0%})"


def _life(outcome: Any, limit: Any) -> float:
    """Of a worker, in seconds."""
    return outcome.workers * 86400 / limit.actual if limit.actual else math.inf


def leak_table(outcomes: Sequence[Any]) -> list[str]:
    lines = [
        "| leak? | pools that leak: yes | no | no answer | pools that do not: yes | no | no answer |",
        "|---|--:|--:|--:|--:|--:|--:|",
    ]
    for name, said in (("suggest", "said"), ("Mann-Kendall", "trend")):
        cells = [
            sum(getattr(outcome, said) is answer for outcome in outcomes if outcome.leaks is leaks)
            for leaks in (True, False)
            for answer in (True, False, None)
        ]
        lines.append(f"| {name} | {' | '.join(map(str, cells))} |")
    return lines


def tables(outcomes: Sequence[Any]) -> list[str]:
    """All of them."""
    synthetic, recorded = _split(outcomes)
    lines = [*table(synthetic), "", summary(synthetic), ""]
    if recorded:
        lines += [*table(recorded), "", summary(recorded), ""]
    return [*lines, *_compared(synthetic, recorded)]


def _split(outcomes: Sequence[Any]) -> tuple[list[Any], list[Any]]:
    return [each for each in outcomes if not each.server], [each for each in outcomes if each.server]


def _compared(*groups: Sequence[Any]) -> list[str]:
    lines = []
    for name, outcomes in zip(("Synthetic", "Recorded"), groups):
        judged = [outcome for outcome in outcomes if outcome.rules]
        if judged:
            lines += [f"{name}:", "", *rules_table(judged), "", *leak_table(judged), ""]
    return lines


def machine() -> str:
    """When and with what it is measured now."""
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("supervisor_memreap", "numpy"))
    return (
        f"Measured on {time.strftime('%Y-%m-%d')}: {versions}, Python {platform.python_version()},"
        f" Linux {platform.release()} {platform.machine()},"
        f" {os.cpu_count()} CPUs."
    )


def markdown(outcomes: Sequence[Any], made: Mapping[str, Any], measured: str) -> str:
    """The page; `measured` is the line of machine() when the outcomes were measured."""
    synthetic, recorded = _split(outcomes)
    times = f"The longest suggestion took {max(outcome.seconds for outcome in outcomes):.1f} s of CPU."
    values = {**made, "highest": made["highest_mib"], "pools": len(recorded)}
    left_out = ("answered", "lost", "highest_mib", "speed", "at")
    versions = ", ".join(f"{name} {version}" for name, version in made.items() if name not in left_out)
    kinds = dict.fromkeys(outcome.kind for outcome in synthetic if not outcome.rules)
    return "\n".join(
        [
            _INTRODUCTION,
            _SYNTHETIC,
            *table(synthetic),
            "",
            summary(synthetic),
            "",
            _LEGEND,
            _RECORDED.format(**values),
            *table(recorded),
            "",
            summary(recorded),
            "",
            f"Recorded on {made['at']}: {versions}.",
            "",
            _RULES.format(too_short=" and ".join(f"those {kind}" for kind in kinds)),
            *_compared(synthetic, recorded),
            _RULES_LEGEND,
            _FINDINGS,
            f"{measured} {times}",
            "",
        ]
    )
