"""Synthetic pools whose true behaviour is known, for suggest.py.

The pool's load has a daily cycle, and differs from day to day. Its workers share it; some serve more requests than
others. With the requests that it serves a worker grows: by a leak, by copy on write (which levels off), or by single
large requests whose memory stays, is leaked each time, or is returned after some minutes. A nightly batch may be such a
request for all of them at once, a weekend may have less traffic, and a deployment may change the leak. What a worker
holds is read with noise, since each reading is taken in a different request.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from statistics import NormalDist

import numpy as np

from supervisor_memreap.advice.poolhistory import PoolHistory, PoolReading, Reading, WorkerHistory

MIB = 1024**2
HOUR, DAY = 3600.0, 86400.0
# Seconds between two looks of the listener.
LOOK = 5.0
# The earliest time at which watching begins, in seconds since 1970.
EPOCH = 1_790_000_000.0
_SAMPLES = 4096


@dataclass(frozen=True)
class Pool:
    """The truth about a pool. Sizes in MiB, rates by hour of mean load of a worker."""

    kind: str
    seed: int
    workers: int
    baseline: float
    noise: float
    """Standard deviation of a reading."""
    leak: float = 0.0
    request_leak: float = 0.01
    """What a request leaks, on average."""
    shared: float = 0.0
    """What copy on write unshares in the end."""
    unsharing: float = 1.0
    """Hours in which it unshares 63 % of that."""
    spikes: float = 0.0
    """Large requests."""
    spike_size: float = 0.0
    spike_stays: str = "max"
    """max: the next one uses the same memory again; add: it is leaked; no: it is returned after 3 to 10 minutes."""
    unequal: float = 0.0
    """Standard deviation of the logarithm of the workers' shares of the load."""
    is_fixed: bool = True
    """Whether the share belongs to the place of a worker rather than to the worker."""
    cycle: float = 0.0
    """Amplitude of the daily cycle of the load, as a share of its mean."""
    phase: float = 0.0
    days: float = 2.0
    """For which it was watched."""
    earlier: float = 0.0
    """Days that it ran before."""
    limit: float | None = None
    """In force while it was watched."""
    late: float = 0.0
    """Seconds for which a worker over that limit has no idle moment."""
    begin: float = EPOCH
    """When watching began, in seconds since 1970."""
    deploys: tuple[float, ...] = ()
    """When the whole pool is restarted, in days."""
    changes: float = 1.0
    """By which factor each of these changes the leak."""
    batch: float = 0.0
    """What a nightly batch takes of each worker at once; it stays as that of spikes does."""
    weekend: float = 1.0
    """The load on Saturdays and Sundays, as a share of that of other days."""
    gaps: tuple[tuple[float, float], ...] = ()
    """From when to when nothing was recorded, in days."""


# Of a normal distribution, what 95 of 100 are below.
_MOST = 1.645


def leaks(pool: Pool) -> bool:
    return bool(pool.leak or ((pool.spikes or pool.batch) and pool.spike_stays == "add"))


def needs(pool: Pool) -> float:
    """What a worker uses, in MiB: fresh, with all that it unshares and a large request, but nothing that it leaked."""
    large = (pool.batch or pool.spike_size * bool(pool.spikes)) * math.exp(0.4 * _MOST)
    return pool.baseline * (1 + 0.03 * _MOST) + pool.shared + pool.noise + (large if pool.spike_stays != "add" else 0.0)


def about_life(pool: Pool, limit: float) -> float | None:
    """About how long a worker lives with a limit in bytes, in seconds; None: it does not grow steadily."""
    jumps = pool.spikes * pool.spike_size + pool.batch / 24 if pool.spike_stays == "add" else 0.0
    if not pool.leak + jumps:
        return None
    return max(60.0, (limit / MIB - pool.baseline - pool.shared) / (pool.leak + jumps) * HOUR)


class Run:
    """`copies` of a pool, step by step."""

    def __init__(self, pool: Pool, copies: int = 1, seed: int = 0) -> None:
        self.pool = pool
        self.random = np.random.default_rng([pool.seed, seed])
        self.shape = (copies, pool.workers)
        self.shares = self._shares()
        self.started = np.zeros(self.shape)
        self.days: dict[int, np.ndarray] = {}
        self._highest: dict[int, np.ndarray] = {}
        self.zero = self._zeros()
        self.base, self.work, self.leaked, self.spike, self.spike_end = (np.zeros(self.shape) for _ in range(5))
        self.fork(np.ones(self.shape, bool), -1e9 * np.ones(self.shape))

    def _zeros(self) -> np.ndarray:
        return np.zeros(self.shape)

    def _shares(self) -> np.ndarray:
        return np.exp(self.random.normal(0, self.pool.unequal, self.shape))

    def fork(self, which: np.ndarray, now: np.ndarray | float) -> None:
        """Fresh workers in these places."""
        self.started = np.where(which, now, self.started)
        self.base = np.where(which, self.pool.baseline * self.random.normal(1, 0.03, self.shape), self.base)
        for name in ("work", "leaked", "spike", "spike_end"):
            setattr(self, name, np.where(which, 0.0, getattr(self, name)))
        if not self.pool.is_fixed:
            self.shares = np.where(which, self._shares(), self.shares)

    def load(self, now: float) -> np.ndarray:
        """Of each copy, as a share of the mean."""
        day = int(now // DAY)
        if day not in self.days:
            self.days[day] = np.exp(self.random.normal(0, 0.08, (self.shape[0], 1)))
        is_weekend = int((self.pool.begin + now) // DAY) % 7 in (2, 3)  # 1970 began on a Thursday
        share = self.pool.weekend if is_weekend else 1.0
        return share * self.days[day] * (1 + self.pool.cycle * float(np.sin(2 * np.pi * now / DAY + self.pool.phase)))

    def step(self, now: float, seconds: float) -> None:
        """Serve the requests of this many seconds until `now`."""
        pool = self.pool
        served = self.load(now) * seconds / HOUR * self.shares / self.shares.mean(axis=1, keepdims=True)
        self.work += served
        if pool.leak:
            self.leaked += self.random.gamma(served * pool.leak / pool.request_leak, pool.request_leak)
        if pool.spikes:
            self._spike(self.random.poisson(served * pool.spikes) > 0, now)
        if pool.batch and (pool.begin + now) % DAY < seconds:
            self._spike(np.ones(self.shape, bool), now)
        if pool.spike_stays == "no":
            self.spike = np.where(self.spike_end < now - seconds, 0.0, self.spike)

    def _spike(self, hit: np.ndarray, now: float) -> None:
        pool = self.pool
        if not hit.any():
            return
        size = np.where(hit, (pool.batch or pool.spike_size) * np.exp(self.random.normal(0, 0.4, self.shape)), 0.0)
        if pool.spike_stays == "add":
            self.spike += size
        else:
            self.spike = np.maximum(self.spike, size)
            self.spike_end = np.where(hit, now + self.random.uniform(180, 600, self.shape), self.spike_end)

    def sizes(self, now: float, looks: int = 1) -> np.ndarray:
        """What each worker holds, in MiB; the largest of several looks."""
        pool = self.pool
        warm = 1 - 0.4 * np.exp(-(now - self.started) / 60)
        held = self.base * warm + self.leaked + self.spike
        if pool.shared:
            held = held + pool.shared * (1 - np.exp(-self.work / pool.unsharing))
        return held + pool.noise * self._noise(looks)

    def _noise(self, looks: int) -> np.ndarray:
        if looks not in self._highest:
            normal = NormalDist()
            levels = (np.arange(_SAMPLES) + 0.5) / _SAMPLES
            self._highest[looks] = np.array([normal.inv_cdf(level ** (1 / looks)) for level in levels])
        return self._highest[looks][self.random.integers(0, _SAMPLES, self.shape)]


def history(pool: Pool) -> PoolHistory:
    """What the listener would have recorded: a reading a minute for the last day, one each 15 minutes before."""
    run = Run(pool)
    end = pool.days * DAY
    now = -pool.earlier * DAY
    run.fork(np.ones(run.shape, bool), now)
    records: list[WorkerHistory | None] = []
    readings: list[PoolReading] = []
    open_: list[list[Reading]] = [[] for _ in range(pool.workers)]
    pids = list(range(1000, 1000 + pool.workers))
    deploys = list(pool.deploys)

    def close(slot: int, was_reaped: bool) -> None:
        if open_[slot]:
            started = pool.begin + float(run.started[0, slot])
            records.append(WorkerHistory(pids[slot], started, tuple(open_[slot]), was_reaped))
        open_[slot] = []
        pids[slot] += 1000

    next_reading, over_for = 0.0, np.zeros(pool.workers)
    while now < end:
        step = 60.0 if now >= end - DAY or pool.limit else 300.0
        now += step
        run.step(now, step)
        if deploys and now >= deploys[0] * DAY:
            deploys.pop(0)
            run.pool = replace(run.pool, leak=run.pool.leak * pool.changes)
            for slot in range(pool.workers):
                close(slot, False)
            run.fork(np.ones(run.shape, bool), now - run.random.uniform(0, step, run.shape))
        if pool.limit:
            over = run.sizes(now, int(step / LOOK))[0] > pool.limit
            over &= now - run.started[0] > 30
            over_for = np.where(over, over_for + step, 0.0)
            over &= over_for > pool.late
            if over.any():
                for slot in np.nonzero(over)[0].tolist():
                    close(slot, True)
                run.fork(over[None, :], now - run.random.uniform(0, step, run.shape))
        if now < next_reading or now < 0 or any(first <= now / DAY < last for first, last in pool.gaps):
            continue
        next_reading = now + (60 if now >= end - DAY else 900) - 1
        used: list[int] = (run.sizes(now)[0] * MIB).astype(int).tolist()
        for slot, size in enumerate(used):
            open_[slot].append(Reading(pool.begin + now, size))
        limit = int(pool.limit * MIB) if pool.limit else None
        readings.append(PoolReading(pool.begin + now, pool.workers, limit, sum(used), max(used)))
    for slot in range(pool.workers):
        close(slot, False)
    return PoolHistory(pool.kind, "uss", pool.begin, tuple(readings), tuple(record for record in records if record))


def afterwards(pool: Pool) -> Pool:
    """What is true of it after its last deployment."""
    return replace(pool, leak=pool.leak * pool.changes ** len(pool.deploys))


def reaps_a_day(pool: Pool, limit: int, life: float | None) -> float:
    """The truth: how many workers a limit (bytes) replaces in a day. `life`: about how long one lives, in seconds."""
    copies = max(2, min(40, 400 // pool.workers))
    run = Run(replace(pool, days=0), copies, seed=1)
    step = 600.0 if life is None else LOOK * round(min(1800.0, max(30.0, life / 100)) / LOOK)
    begin = 5 * DAY if life is None else max(DAY / 4, 1.2 * life)
    days = 12 if life is None else max(1, round(min(3 * life, 20 * DAY) / DAY))
    if pool.weekend != 1:
        days = 7 * math.ceil(days / 7)
    end = begin + days * DAY
    run.fork(np.ones(run.shape, bool), 0.0)
    # So that not all are as old as each other.
    first = run.random.uniform(0, begin, run.shape) if life is not None else begin + 0 * run.shares
    now, reaps = 0.0, 0
    while now < end:
        now += step
        run.step(now, step)
        over = (run.sizes(now, int(step / LOOK)) * MIB > limit) & (now - run.started > 30)
        if now > begin:
            reaps += int(over.sum())
        else:
            over |= (first <= now) & (first > now - step) & (now < begin)
        if over.any():
            run.fork(over, now - run.random.uniform(0, step, run.shape))
    return reaps / copies / days
