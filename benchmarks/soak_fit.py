"""Whether a figure grows, from its samples over a run. Pure."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Literal, NamedTuple

# The share of a run in which what a start loads comes to be there: its samples do not count.
WARM_UP = 0.25
BLOCKS = 12
"""Samples near each other are alike. So their medians count, of so many parts of the run."""
# Of Student's t for 95 %, both sides, by degrees of freedom.
_T = (12.71, 4.30, 3.18, 2.78, 2.57, 2.45, 2.36, 2.31, 2.26, 2.23)

Verdict = Literal["no", "yes", "not certain"]


class Fit(NamedTuple):
    """A straight line through the medians of the blocks."""

    first: float
    last: float
    """The medians of the first and the last block after the warm-up."""
    largest: float
    """Of all samples."""
    slope: float
    """A unit of `at`."""
    bound: float
    """The slope is within this of the true one, at 95 %."""


def fit(samples: Sequence[tuple[float, float]], warm_up: float = WARM_UP) -> Fit:
    """The samples are pairs of when and how much, in their order. Raises ValueError if there are fewer than 4."""
    if len(samples) < 4:
        raise ValueError(f"{len(samples)} samples: at least 4 are needed")
    begin, end = samples[0][0], samples[-1][0]
    warm = [each for each in samples if each[0] >= begin + warm_up * (end - begin)]
    blocks = [_middle(block) for block in _split(warm, min(BLOCKS, len(warm)))]
    slope, bound = _line(blocks)
    return Fit(blocks[0][1], blocks[-1][1], max(value for _, value in samples), slope, bound)


def _split(samples: Sequence[tuple[float, float]], parts: int) -> list[Sequence[tuple[float, float]]]:
    edges = [round(number * len(samples) / parts) for number in range(parts + 1)]
    return [samples[start:end] for start, end in zip(edges, edges[1:])]


def _middle(block: Sequence[tuple[float, float]]) -> tuple[float, float]:
    return statistics.median(at for at, _ in block), statistics.median(value for _, value in block)


def _line(points: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Slope and its bound."""
    count = len(points)
    if count < 3:
        return 0.0, float("inf")
    x, y = statistics.fmean(at for at, _ in points), statistics.fmean(value for _, value in points)
    spread = sum((at - x) ** 2 for at, _ in points)
    slope = sum((at - x) * (value - y) for at, value in points) / spread
    rest = sum((value - y - slope * (at - x)) ** 2 for at, value in points)
    deviation = (rest / (count - 2) / spread) ** 0.5
    return slope, _T[min(count - 3, len(_T) - 1)] * deviation


def grows(line: Fit, allowed: float, least: float) -> Verdict:
    """Whether it grows by more than `allowed` a unit, and has grown by more than `least`, which a short run needs."""
    if line.slope - line.bound > allowed and line.last - line.first > least:
        return "yes"
    return "no" if line.slope + line.bound <= allowed else "not certain"
