"""What other rules say of the same histories, for suggest.py. Pure.

- Kubernetes' Vertical Pod Autoscaler (VPA), as its recommender calculates the target for memory by default (in
  kubernetes/autoscaler, vertical-pod-autoscaler/pkg/recommender: logic/recommender.go, model/aggregations_config.go,
  model/container.go, util/histogram.go): the peak of each worker in each 24 hours goes into a histogram whose weights
  halve every 24 hours; its 90th percentile, and 15 %. Without the 250 MiB that are its least for a pod.
- Robusta KRR, strategy `simple` (robusta_krr/strategies/simple.py): the largest reading, and 5 %, as in its first
  versions. Now it is 15 %.
- The Mann-Kendall test for a trend, by which studies of software aging tell a leak: of the means of each hour of each
  worker, one-sided, at 5 %. A pool leaks if more than half of the workers do that were watched for 10 hours.

VPA and KRR see containers, and so a whole pool; here each worker is one, since the limit is one of a worker.
"""

from __future__ import annotations

import math
from collections import defaultdict

import numpy as np

from supervisor_memreap.advice.poolhistory import PoolHistory, WorkerHistory

DAY = 86400.0
_HALF_LIFE, _PERCENTILE, _MARGIN = DAY, 0.9, 0.15
# The first bucket of the histogram, in bytes; each one is larger than that before by this share.
_FIRST, _GROWTH = 1e7, 0.05
KRR_MARGIN = 0.05
# The one-sided 95 % of a normal distribution; and the least hours of a worker.
_Z, _HOURS = 1.645, 10


def vpa(history: PoolHistory) -> int:
    """Bytes."""
    weights: defaultdict[int, float] = defaultdict(float)
    for worker in history.workers:
        first = worker.readings[0].at
        peaks: dict[int, int] = {}
        for at, used in worker.readings:
            day = int((at - first) // DAY)
            peaks[day] = max(peaks.get(day, 0), used)
        for day, peak in peaks.items():
            end = first + (day + 1) * DAY
            weights[_bucket(peak)] += 2 ** ((end - history.since) / _HALF_LIFE)
    threshold, seen = _PERCENTILE * sum(weights.values()), 0.0
    for bucket in sorted(weights):
        seen += weights[bucket]
        if seen >= threshold:
            break
    return round(_start(bucket + 1) * (1 + _MARGIN))


def _bucket(value: float) -> int:
    return 0 if value < _FIRST else int(math.log(value * _GROWTH / _FIRST + 1) / math.log(1 + _GROWTH))


def _start(bucket: int) -> float:
    return _FIRST * ((1 + _GROWTH) ** bucket - 1) / _GROWTH


def krr(history: PoolHistory) -> int:
    """Bytes."""
    return round(max(used for worker in history.workers for _, used in worker.readings) * (1 + KRR_MARGIN))


def leaks(history: PoolHistory) -> bool | None:
    """Whether there is a leak, by the Mann-Kendall test; None: no worker was watched for long enough."""
    hours = [_hours(worker) for worker in history.workers]
    trends = [bool(mann_kendall(each) > _Z) for each in hours if len(each) >= _HOURS]
    return 2 * sum(trends) > len(trends) if trends else None


def _hours(worker: WorkerHistory) -> list[float]:
    """The mean of each hour."""
    sizes: defaultdict[int, list[int]] = defaultdict(list)
    for at, used in worker.readings:
        sizes[int(at // 3600)].append(used)
    return [sum(held) / len(held) for _, held in sorted(sizes.items())]


def mann_kendall(values: list[float]) -> float:
    """The normal statistic of the test, with ties."""
    held, number = np.array(values), len(values)
    statistic = float(np.sign(held[None, :] - held[:, None])[np.triu_indices(number, 1)].sum())
    _, ties = np.unique(held, return_counts=True)
    variance = (number * (number - 1) * (2 * number + 5) - (ties * (ties - 1) * (2 * ties + 5)).sum()) / 18
    return 0.0 if variance <= 0 else (statistic - np.sign(statistic)) / math.sqrt(variance)
