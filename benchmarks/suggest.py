"""How often `memreap suggest` is right, and what other rules say: on synthetic pools, and on recorded ones.

python benchmarks/suggest.py              measure, ten minutes on two CPUs, and write benchmarks/results/suggest.*
python benchmarks/suggest.py --pools 5    5 of each kind, print the tables only
python benchmarks/suggest.py --report     only write the page again, from the results

The recorded pools are those of suggest_record.py, the other rules those of suggest_rules.py.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import os
import random
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import suggest_recorded
import suggest_rules
from pages import RESULTS, read
from suggest_pools import EPOCH, Pool, about_life, afterwards, history, leaks, needs, reaps_a_day
from suggest_report import machine, markdown, tables

from supervisor_memreap.advice.evidence import DAY, Kind
from supervisor_memreap.advice.poolhistory import PoolHistory
from supervisor_memreap.advice.suggestion import suggest
from supervisor_memreap.reports import advicetext

POOLS = 30
# core.suggestion was tuned on those before it, so they predict less about other pools.
FIRST = 4000
KINDS = (
    "steady leak",
    "steady leak, unequal workers",
    "steady leak, strong daily cycle",
    "copy on write",
    "leak on top of copy on write",
    "spikes",
    "leak and spikes",
    "no growth",
    "leak and nightly batch",
    "leak, less traffic at weekends",
    "leak that a deployment changed",
)
TOO_SHORT = "watched for too short a time"
REAL = "recorded"
OWN = "suggest"


RULES: dict[str, Callable[[PoolHistory], int]] = {"VPA": suggest_rules.vpa, "KRR": suggest_rules.krr}


class Limit(NamedTuple):
    """What a rule says, and what it does."""

    limit: int
    """Bytes."""
    actual: float
    """Reaps a day."""


class Outcome(NamedTuple):
    kind: str
    number: int
    result: str
    """The kind that was recognised."""
    why: str
    limit: int | None
    predicted: float | None
    """Reaps a day."""
    below: int | None
    """The predicted upper bound of reaps a day, if there is no better prediction."""
    actual: float | None
    seconds: float
    server: str = ""
    """Empty: the pool is synthetic."""
    workers: int = 1
    needs: float = 0.0
    """What a worker uses, in MiB."""
    leaks: bool = False
    is_needed: bool | None = None
    """Whether `suggest` says that a limit is needed; None: it suggests none."""
    observe: str = ""
    """What it says that one has to observe, if it suggests none."""
    trend: bool | None = None
    """Whether the Mann-Kendall test finds a leak; None: too little was watched."""
    rules: dict[str, Limit] | None = None
    """What other rules say; None: they were not asked."""

    @property
    def is_answered(self) -> bool:
        return self.limit is not None

    @property
    def is_right(self) -> bool:
        """Within 25 %; or both less than one a day; or less than the bound that is promised."""
        if self.actual is None:
            return False
        if self.predicted is None:
            return self.actual < (self.below or 0)
        return abs(self.predicted - self.actual) <= 0.25 * self.actual or max(self.predicted, self.actual) < 1

    @property
    def limits(self) -> dict[str, Limit]:
        """Of all rules that have an answer."""
        own = {} if self.limit is None or self.actual is None else {OWN: Limit(self.limit, self.actual)}
        return {**own, **(self.rules or {})}

    @property
    def said(self) -> bool | None:
        """Whether `suggest` says that the pool leaks; None: it does not say."""
        return {
            Kind.STEADY.value: True,
            Kind.MIXED.value: True,
            Kind.NONE.value: False,
            Kind.LEVELS_OFF.value: False,
        }.get(self.result)


def pool(kind: str, number: int) -> Pool:
    """A pool of this kind, by chance."""
    chance = random.Random(f"{kind} {number}")
    baseline = _between(chance, 15, 200)
    values: dict[str, object] = {
        "kind": kind,
        "seed": number + 1000 * len(kind),
        "workers": chance.choice((1, 2, 3, 4, 5, 5, 6, 8, 10, 12, 16, 20, 30)),
        "baseline": baseline,
        "noise": baseline * _between(chance, 0.002, 0.02),
        "unequal": chance.choice((0.0, 0.1, 0.2)),
        "cycle": chance.uniform(0, 0.4),
        "phase": chance.uniform(0, 2 * math.pi),
        "days": chance.choice((1.0, 1.0, 1.3, 1.6, 2.0, 3.0, 4.5, 7.0)),
        "earlier": chance.choice((0.0, 0.0, 0.02, 0.2, 1.0)),
    }
    days = float(str(values["days"]))
    values |= _growth(kind, baseline, chance)
    if kind == TOO_SHORT:
        values["days"] = days = chance.uniform(0.01, 0.7)
    if chance.random() < (0.6 if "spikes" in kind else 0.3) and kind != "no growth":
        values["limit"] = max(2, round(baseline * chance.uniform(1.8, 3.5)))
    if "deployment" in kind:
        before = chance.uniform(1.5, 3)
        days = before + chance.uniform(1, 1.6)
        values |= {"days": days, "deploys": (before,), "changes": chance.choice((0.25, 0.4, 2.5, 4.0))}
    elif chance.random() < 0.3:
        values["deploys"] = tuple(sorted(chance.uniform(0, days) for _ in range(chance.choice((1, 1, 2)))))
    if chance.random() < 0.2:
        start = chance.uniform(0, days)
        values["gaps"] = ((start, start + chance.uniform(0.02, 0.12)),)
    values["begin"] = EPOCH + chance.uniform(0, 7 * DAY if "weekends" in kind else DAY)
    if "limit" in values:
        values["late"] = chance.choice((0.0, 0.0, 120.0, 600.0))
    return Pool(**values)  # type: ignore[arg-type]


def _between(chance: random.Random, low: float, high: float) -> float:
    return math.exp(chance.uniform(math.log(low), math.log(high)))


def _growth(kind: str, baseline: float, chance: random.Random) -> dict[str, object]:
    """How workers of this kind grow."""
    values: dict[str, object] = {}
    leak = baseline / _between(chance, 3, 120)
    if kind.startswith(("steady", "leak")) or kind == TOO_SHORT:
        values |= {"leak": leak, "request_leak": _between(chance, 0.001, 0.2)}
    if "unequal" in kind:
        values |= {"unequal": chance.uniform(0.3, 0.7), "is_fixed": chance.random() < 0.5}
    if "cycle" in kind:
        values |= {"cycle": chance.uniform(0.5, 0.9)}
    if "copy" in kind:
        values |= {"shared": baseline * chance.uniform(0.3, 1.5), "unsharing": _between(chance, 0.3, 4)}
    if "spikes" in kind:
        values |= {
            "spikes": 1 / _between(chance, 3, 40),
            "spike_size": baseline * chance.uniform(0.4, 2),
            "spike_stays": chance.choice(("max", "max", "add", "no")),
        }
    if "weekends" in kind:
        values["weekend"] = chance.uniform(0.3, 0.8)
    if "batch" in kind:
        values |= {"batch": baseline * chance.uniform(0.2, 1.5), "spike_stays": chance.choice(("max", "add", "no"))}
    return values


def judge(job: tuple[str, int]) -> Outcome:
    """What is suggested for a pool, and whether it is right."""
    kind, number = job
    if kind == REAL:
        recorded = suggest_recorded.pools()[number]
        return _judged(number, recorded.truth, recorded.history, recorded.until, recorded.server)
    actual = pool(kind, number)
    return _judged(number, actual, history(actual), actual.begin + actual.days * DAY)


def _judged(number: int, actual: Pool, recorded: PoolHistory, until: float, server: str = "") -> Outcome:
    begin = time.process_time()
    result = suggest(recorded, until)
    seconds = time.process_time() - begin
    chosen, truth = result.suggested, afterwards(actual)
    outcome = Outcome(
        actual.kind,
        number,
        result.kind.value,
        result.why.value,
        result.limit,
        chosen.reaps if chosen else None,
        chosen.below if chosen else None,
        reaps_a_day(truth, chosen.limit, chosen.life) if chosen else None,
        round(seconds, 2),
        server,
        actual.workers,
        round(needs(truth), 1),
        leaks(truth),
        result.is_needed,
        "" if chosen or not result.jumps else advicetext.why_not(result),
    )
    if TOO_SHORT in actual.kind:
        return outcome
    limits = {name: rule(recorded) for name, rule in RULES.items()}
    rules = {
        name: Limit(limit, round(reaps_a_day(truth, limit, about_life(truth, limit)), 2))
        for name, limit in limits.items()
    }
    return outcome._replace(trend=suggest_rules.leaks(recorded), rules=rules)


def run(pools: int, kinds: Sequence[str] = (*KINDS, TOO_SHORT), processes: int | None = None) -> list[Outcome]:
    # Of what a deployment changed, a third more.
    numbers = {kind: range(pools * 4 // 3 if "deployment" in kind else pools) for kind in kinds}
    jobs = [(kind, FIRST + number) for kind in kinds for number in numbers[kind]]
    jobs += [(REAL, number) for number in range(len(suggest_recorded.pools()))]
    with multiprocessing.get_context("spawn").Pool(processes or min(2, os.cpu_count() or 1)) as workers:
        return workers.map(judge, jobs, chunksize=4)


def saved(file: Path) -> tuple[str, list[Outcome]]:
    """When and with what these results were measured, and the outcomes."""
    first, *lines = read(file)
    return first["measured"], [_outcome(line) for line in lines]


def _outcome(line: Mapping[str, Any]) -> Outcome:
    rules = line["rules"] and {name: Limit(*each) for name, each in line["rules"].items()}
    return Outcome(**{**line, "rules": rules})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pools", type=int, metavar="N", help=f"of each kind (default: {POOLS})")
    parser.add_argument("--wrong", action="store_true", help="list those that are wrong")
    parser.add_argument("--report", action="store_true", help="only write the page again")
    args = parser.parse_args()
    results = RESULTS / "suggest.jsonl"
    measured, outcomes = saved(results) if args.report else (machine(), run(args.pools or POOLS))
    print("\n".join(tables(outcomes)))
    for outcome in outcomes if args.wrong else []:
        if outcome.is_answered and not outcome.is_right:
            print(outcome)
    if args.pools is None:
        if not args.report:
            lines = (json.dumps(line) for line in ({"measured": measured}, *(each._asdict() for each in outcomes)))
            results.write_text("".join(f"{line}\n" for line in lines))
        (RESULTS / "suggest.md").write_text(markdown(outcomes, suggest_recorded.contents()["made"], measured))


if __name__ == "__main__":
    main()
