"""How fast workers grow, and when the next one reaches its limit: readings in, values out. Pure.

1. A worker's first minute does not count, since it only warms up.
2. A worker's growth is unknown until it was watched for 10 minutes, with 5 samples. Growth is the Theil-Sen slope (the
   median over all pairs of samples) of the whole series or of one of its halves, so that a single large request does
   not count.
3. A pool's growth is the sum over its workers. Workers whose growth is unknown count as if they grew like the others.
   It is unknown while fewer than half of the workers are known.
4. The forecast uses the recent half of a series. Growth that levels off, as copy on write does, is expected to go on
   slowing down, so it may never reach the limit. There is no forecast for more than a week.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import NamedTuple

from supervisor_memreap.core.frozen import replace
from supervisor_memreap.core.model import ProcessId, Worker

# Seconds of a worker's life that do not count.
WARM_UP = 60.0
# Minimum seconds between two samples.
APART = 30.0
# Maximum samples of a worker: their slopes take 0.1 ms, once for each new sample.
MOST = 30
# A full series drops every other sample, and new samples are then twice as far apart. Once they are 4 minutes apart,
# it drops the oldest sample instead. So it covers the last 2 hours.
LONGEST_STRIDE = 8
# Minimum seconds and samples before growth is known.
WATCHED = 600.0
FEWEST = 5
# If the recent half grows at less than this share of the earlier half, growth levels off. A steady leak stays above
# that, even with noise.
STEADY = 0.8
# Maximum seconds of a forecast.
FARTHEST = 7 * 86400.0


class Sample(NamedTuple):
    at: float
    """Monotonic, in seconds."""
    used: int
    """The metric, in bytes."""


class Trend(NamedTuple):
    """The growth of one worker."""

    slope: float
    """Bytes per second, over the whole series."""
    now: float
    """Bytes per second, at the end of the series; 0 if it does not grow."""
    decay: float = math.inf
    """Seconds after which `now` is slower by the factor e; infinite: it stays the same."""

    def until(self, missing: int) -> float | None:
        """Seconds until the worker uses this many more bytes; None: never, as far as is known."""
        if self.now <= 0:
            return None
        if math.isinf(self.decay):
            return missing / self.now
        share = missing / (self.now * self.decay)
        return -self.decay * math.log(1 - share) if share < 1 else None


class Series(NamedTuple):
    """The samples of one worker."""

    samples: tuple[Sample, ...] = ()
    stride: int = 1
    """Minimum distance between two samples, in units of APART."""
    trend: Trend | None = None
    """None: it is too early to say."""

    def after(self, sample: Sample) -> Series:
        if self.samples and sample.at - self.samples[-1].at < APART * self.stride:
            return self
        samples, stride = (*self.samples, sample), self.stride
        if len(samples) > MOST:
            samples, stride = (samples[::-2][::-1], 2 * stride) if stride < LONGEST_STRIDE else (samples[1:], stride)
        return Series(samples, stride, _trend(samples))


@dataclass(frozen=True)
class Growth:
    """What is known about the growth of one pool."""

    metric: str = ""
    series: Mapping[ProcessId, Series] = field(default_factory=dict)
    """For each of its workers."""

    def after(self, workers: Iterable[Worker], metric: str, readings: Mapping[ProcessId, Sample]) -> Growth:
        """Add the readings since the last look, of the workers that were read."""
        before = self.series if metric == self.metric else {}
        series = {}
        for worker in workers:
            known = before.get(worker.id, Series())
            is_counted = worker.id in readings and worker.age >= WARM_UP
            series[worker.id] = known.after(readings[worker.id]) if is_counted else known
        return replace(self, metric=metric, series=series)

    def of_worker(self, worker: ProcessId) -> float | None:
        """Bytes per second; None: it is too early to say."""
        trend = self.series.get(worker, Series()).trend
        return trend.slope if trend else None

    @property
    def of_all(self) -> float | None:
        """Bytes per second of all workers together; None: it is too early to say."""
        known = [series.trend.slope for series in self.series.values() if series.trend]
        if not known or 2 * len(known) < len(self.series):
            return None
        return sum(known) * len(self.series) / len(known)

    def next_at_limit(self, limit: int, used: Mapping[ProcessId, int]) -> float | None:
        """Seconds until the next worker reaches the limit, of those below it; None: unknown, or never.

        `used` has the metric of each worker in bytes, as far as it is known.
        """
        if self.of_all is None:
            return None
        times = [
            series.trend.until(limit - used[worker])
            for worker, series in self.series.items()
            if series.trend and used.get(worker, limit) < limit
        ]
        first = min((time for time in times if time is not None), default=None)
        return first if first is not None and first <= FARTHEST else None


def _trend(samples: Sequence[Sample]) -> Trend | None:
    if len(samples) < FEWEST or samples[-1].at - samples[0].at < WATCHED:
        return None
    # With fewer than 5 samples, a single one can mislead the median.
    half = max(FEWEST, (len(samples) + 1) // 2)
    earlier, recent = samples[:half], samples[-half:]
    whole, before, after = slope(samples), slope(earlier), slope(recent)
    # A jump in the middle is in most pairs of the whole series, but in no pair of a half.
    steady = median((whole, before, after))
    if steady <= 0 or after <= 0:
        return Trend(steady, 0.0)
    between = (recent[0].at + recent[-1].at - earlier[0].at - earlier[-1].at) / 2
    if after >= STEADY * before or between <= 0:
        return Trend(steady, after)
    decay = between / math.log(before / after)
    return Trend(steady, after * math.exp((recent[0].at - recent[-1].at) / 2 / decay), decay)


def slope(samples: Sequence[Sample]) -> float:
    """Bytes per second: the median over all pairs of samples (Theil and Sen)."""
    return median(
        [
            (used - used_before) / (at - at_before)
            for number, (at_before, used_before) in enumerate(samples)
            for at, used in samples[number + 1 :]
        ]
    )
