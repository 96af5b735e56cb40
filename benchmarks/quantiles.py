"""Quantiles of counts, as benchmarks record them: how often something took a number of milliseconds. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping


def quantile(counts: Mapping[int, int] | Mapping[str, int], share: float) -> float:
    """The time that this share did not exceed, in seconds. In JSON, the milliseconds are texts."""
    ordered = sorted((int(ms), count) for ms, count in counts.items())
    rest = share * sum(count for _, count in ordered)
    for ms, count in ordered:
        rest -= count
        if rest <= 0:
            return ms / 1000
    return ordered[-1][0] / 1000 if ordered else math.nan


def longest(counts: Mapping[int, int] | Mapping[str, int]) -> float:
    """In seconds."""
    return quantile(counts, 1.0)
