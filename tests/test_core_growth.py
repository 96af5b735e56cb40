"""Film strips of workers that grow, level off, jump, shrink and are replaced. No process here."""

from __future__ import annotations

import math
import random
import sys

import pytest

from supervisor_memreap.advice import growth
from supervisor_memreap.advice.growth import Growth, Sample
from supervisor_memreap.core.model import ProcessId, Worker

MIB = 1024**2
HOUR = 3600.0
LIMIT = 150


class Strip:
    """Plays readings of a pool, one each 30 s; sizes are in MiB, and a worker is forked when it is seen first."""

    def __init__(self, every: float = 30.0):
        self.every = every
        self.now = 10_000.0
        self.growth = Growth()
        self.forked: dict[int, float] = {}
        self.used: dict[ProcessId, int] = {}

    def play(self, minutes: float, **sizes) -> Strip:
        """`w11` is the size of worker 11 by its age in minutes; a number is a size that stays."""
        end = self.now + 60 * minutes
        while self.now < end:
            self.now += self.every
            workers, self.used = [], {}
            for name, size in sizes.items():
                pid = int(name[1:])
                age = self.now - self.forked.setdefault(pid, self.now)
                worker = Worker(ProcessId(pid, self.forked[pid]), age, 0)
                workers.append(worker)
                self.used[worker.id] = int((size(age / 60) if callable(size) else size) * MIB)
            readings = {id: Sample(self.now, used) for id, used in self.used.items()}
            self.growth = self.growth.after(workers, readings)
        return self

    @property
    def mib_per_hour(self) -> float | None:
        per_second = self.growth.of_all
        return None if per_second is None else per_second * HOUR / MIB

    def of_worker(self, pid: int) -> float | None:
        per_second = self.growth.of_worker(ProcessId(pid, self.forked[pid]))
        return None if per_second is None else per_second * HOUR / MIB

    def minutes_to_limit(self, limit: float = LIMIT) -> float | None:
        seconds = self.growth.next_at_limit(int(limit * MIB), self.used)
        return None if seconds is None else seconds / 60


def leak(per_hour: float, start: float = 50.0):
    return lambda minutes: start + per_hour * minutes / 60


def noisy(size, of: float, seed: int = 1):
    generator = random.Random(seed)
    return lambda minutes: size(minutes) + generator.uniform(-of, of)


def levelling_off(start: float = 20.0, by: float = 100.0, within: float = 20.0):
    """As copy on write does: in `minutes` minutes all but 1/e of what the worker will ever unshare."""
    return lambda minutes: start + by * (1 - math.exp(-minutes / within))


@pytest.mark.parametrize("minutes", [12, 30, 60, 300, 1000])
def test_a_steady_leak_is_measured_to_the_byte_for_any_time_watched(minutes):
    strip = Strip().play(minutes, w11=leak(3), w12=leak(6))
    assert strip.mib_per_hour == pytest.approx(9, rel=0.001)
    assert (strip.of_worker(11), strip.of_worker(12)) == pytest.approx((3, 6), rel=0.001)
    left = (LIMIT - leak(6)(minutes)) / 6 * 60
    if left > 0:
        assert strip.minutes_to_limit() == pytest.approx(left, abs=1)


@pytest.mark.parametrize("seed", range(10))
def test_a_leak_with_noise_is_measured_nearly_as_well(seed):
    strip = Strip().play(60, w11=noisy(leak(30), of=1, seed=seed))
    assert strip.mib_per_hour == pytest.approx(30, rel=0.1)
    assert strip.minutes_to_limit() == pytest.approx((LIMIT - 80) / 30 * 60, rel=0.2)
    strip = Strip().play(60, w11=noisy(leak(30), of=3, seed=seed))
    assert strip.mib_per_hour == pytest.approx(30, rel=0.2)


def test_a_leak_in_steps_of_whole_requests_is_a_leak():
    strip = Strip().play(120, w11=lambda minutes: 50 + 5 * (minutes // 10))
    assert strip.mib_per_hour == pytest.approx(30, rel=0.1)


def test_growth_is_unknown_at_first():
    strip = Strip()
    assert (strip.mib_per_hour, strip.minutes_to_limit()) == (None, None)
    strip.play(10.5, w11=leak(30))
    assert (strip.mib_per_hour, strip.of_worker(11), strip.minutes_to_limit()) == (None, None, None)
    strip.play(1.5, w11=leak(30))
    assert strip.mib_per_hour == pytest.approx(30, rel=0.001)


def test_five_samples_are_needed_at_any_distance():
    strip = Strip(every=HOUR).play(300, w11=leak(3))
    assert len(strip.growth.series[ProcessId(11, strip.forked[11])].samples) == 4  # the first was of a newborn
    assert strip.mib_per_hour is None
    assert strip.play(60, w11=leak(3)).mib_per_hour == pytest.approx(3, rel=0.001)


def test_the_first_minute_of_a_worker_does_not_count():
    strip = Strip().play(15, w11=lambda minutes: 100 if minutes >= 1 else 100 * minutes)
    assert strip.mib_per_hour == 0


def test_copy_on_write_that_levels_off_predicts_no_time_to_limit():
    strip = Strip()
    shape = levelling_off(start=20, by=100)  # it ends at 120 MiB
    strip.play(10.5, w11=shape)
    while strip.forked[11] > strip.now - 10 * HOUR:
        strip.play(1, w11=shape)
        assert strip.minutes_to_limit(130) is None
    assert strip.mib_per_hour == pytest.approx(0, abs=0.1)


def test_copy_on_write_that_reaches_the_limit_before_it_levels_off_is_predicted():
    strip = Strip().play(20, w11=levelling_off(start=20, by=100))
    assert strip.minutes_to_limit(110) == pytest.approx(46 - 20, rel=0.15)  # 20 min * ln(100 / 10) in all


@pytest.mark.parametrize("at", range(2, 60, 3))
@pytest.mark.parametrize("lasts", [0.5, 3, 1000])
def test_one_large_request_is_not_continuing_growth(at, lasts):
    strip = Strip().play(10.5, w11=lambda minutes: 50 + 60 * (at <= minutes < at + lasts))
    for _ in range(80):
        strip.play(1, w11=lambda minutes: 50 + 60 * (at <= minutes < at + lasts))
        assert (strip.mib_per_hour, strip.minutes_to_limit()) == (0, None)


def test_no_growth_is_reported_as_zero():
    strip = Strip().play(60, w11=50, w12=60)
    assert (strip.mib_per_hour, strip.minutes_to_limit()) == (0, None)


def test_a_worker_that_shrinks_counts_as_negative_growth():
    strip = Strip().play(60, w11=leak(-12, start=100), w12=leak(2))
    assert strip.mib_per_hour == pytest.approx(-10, rel=0.001)
    assert strip.minutes_to_limit() == pytest.approx((LIMIT - 52) / 2 * 60, rel=0.01)
    shrinks = Strip().play(60, w11=leak(-12, start=100))
    assert shrinks.minutes_to_limit() is None


def test_a_replaced_worker_is_forgotten_and_its_replacement_counts():
    strip = Strip().play(60, w11=leak(12), w12=leak(12))
    strip.play(1, w12=leak(12), w21=leak(12))
    assert set(strip.growth.series) == {ProcessId(12, strip.forked[12]), ProcessId(21, strip.forked[21])}
    assert strip.mib_per_hour == pytest.approx(24, rel=0.001)
    assert (strip.of_worker(12), strip.of_worker(21)) == (pytest.approx(12, rel=0.001), None)


def test_growth_is_unknown_again_when_most_workers_are_new():
    strip = Strip().play(60, w11=leak(12), w12=leak(12), w13=leak(12))
    strip.play(1, w11=leak(12), w22=leak(12), w23=leak(12))
    assert (strip.mib_per_hour, strip.minutes_to_limit()) == (None, None)
    assert strip.of_worker(11) == pytest.approx(12, rel=0.001)
    strip.play(12, w11=leak(12), w22=leak(12), w23=leak(12))
    assert strip.mib_per_hour == pytest.approx(36, rel=0.001)


def test_workers_over_the_limit_are_skipped_when_the_next_one_is_predicted():
    strip = Strip().play(60, w11=leak(12, start=200), w12=leak(12, start=100))
    assert strip.minutes_to_limit() == pytest.approx((LIMIT - 112) / 12 * 60, rel=0.01)


def test_a_time_to_limit_of_more_than_a_week_is_not_predicted():
    strip = Strip().play(60, w11=leak(0.5))
    assert strip.mib_per_hour == pytest.approx(0.5, rel=0.001)
    assert strip.minutes_to_limit() is None


def test_old_samples_do_not_count():
    strip = Strip().play(600, w11=leak(6))
    strip.play(240, w11=110)
    assert strip.mib_per_hour == 0


def test_a_series_stays_small_and_covers_two_hours():
    strip = Strip(every=5.0).play(600, w11=leak(12))
    (series,) = strip.growth.series.values()
    assert len(series.samples) <= growth.MOST
    at = [sample[0] for sample in series.samples]
    assert min(later - earlier for earlier, later in zip(at, at[1:])) >= growth.APART
    assert at[-1] - at[0] == pytest.approx(2 * HOUR, rel=0.1)
    assert bytes_of(series) < 1000  # a listener may have 4,000 of them


def bytes_of(value) -> int:
    return sys.getsizeof(value) + sum(map(bytes_of, value if isinstance(value, tuple) else ()))


def test_samples_are_kept_exactly():
    sizes = (0, 1, 2**40 + 1, 2**62)
    series = growth.Series()
    for number, size in enumerate(sizes):
        series = series.after(Sample(0.1 + 1e6 * number, size))
    assert series.samples == [(0.1 + 1e6 * number, size) for number, size in enumerate(sizes)]
