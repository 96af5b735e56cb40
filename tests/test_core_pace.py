"""Film strips of when the listener looks again: frames of looks, each with the time of the next one."""

from __future__ import annotations

from dataclasses import replace

import pytest

from supervisor_memreap.core import following, pace, policy, selection
from supervisor_memreap.core.model import HOST, MemoryScope, Pool, ProcessId, Worker, WorkerDetail
from supervisor_memreap.core.settings import PoolSettings
from supervisor_memreap.core.shortage import Episode, Kind, Shortage
from supervisor_memreap.core.state import PoolState

MIB = 1024**2
SETTINGS = PoolSettings(headroom=500 * MIB)
TICK = 5.0
SIZES = {11: 200 * MIB, 12: 20 * MIB}


def reading(at: float, available: float | None, settings: PoolSettings = SETTINGS, size: int = 8000) -> pace.Reading:
    bytes_available = None if available is None else int(available * MIB)
    pool = Pool(
        "a", "RUNNING", scopes=(MemoryScope(HOST, size * MIB, bytes_available), MemoryScope("a", MIB, -5 * MIB))
    )
    return pace.reading([(pool, settings)], at)


def short(kind: Kind = Kind.HEADROOM, **others) -> dict:
    shortage = Shortage(kind, "a" if kind is Kind.TOTAL else HOST, 300.0 * MIB, 500.0 * MIB, 500.0 * MIB)
    return {shortage.key: Episode(shortage, **{"since": 0.0, **others})}


def film(*available: float, every: float = TICK) -> list[float | None]:
    """The seconds to the next look after each of these; None: the next tick."""
    readings = [reading(number * every, mib) for number, mib in enumerate(available)]
    return [
        None if due is None else due - last.at
        for number, last in enumerate(readings)
        for due in [pace.next_look(last.at, False, {}, readings[: number + 1][-2:], last.at + TICK)]
    ]


def test_without_events_the_next_look_is_at_the_next_tick():
    assert film(4000, 4000, 3990, 4010) == [None] * 4
    assert pace.next_look(7.0, False, {}, (), 12.0) is None


def test_after_a_wakeup_the_next_look_is_one_second_after_the_last():
    assert pace.next_look(7.0, True, {}, (), 12.0) == 8.0


def test_the_next_look_is_in_a_second_if_available_memory_would_reach_headroom_before_the_tick():
    # 4,000 MiB fall by 1,500 in 5 s: the next tick sees 1,000. Then by 1,400: the one after that would see none.
    assert film(4000, 2500, 1100) == [None, None, 1.0]


def test_with_an_hour_to_the_tick_it_looks_after_an_eighth_of_the_time_to_headroom():
    # 1 MiB a second: headroom is reached in 2,000 s. 0.5 a second would take longer than the hour.
    assert pace.next_look(60.0, False, {}, (reading(0.0, 2560), reading(60.0, 2500)), 3660.0) == 60.0 + 250
    assert pace.next_look(60.0, False, {}, (reading(0.0, 2530), reading(60.0, 2500)), 3660.0) is None


def test_memory_that_stopped_falling_causes_no_extra_looks():
    assert film(1100, 700, 700, every=1.0) == [None, 1.0, None]


def test_falling_memory_causes_no_extra_look_shortly_before_a_tick():
    readings = reading(0.0, 1100), reading(1.0, 1000)
    assert pace.next_look(1.0, False, {}, readings, 5.9) is None
    assert pace.next_look(1.0, False, {}, readings, 6.0) == 2.0


def test_memory_already_below_headroom_causes_no_extra_look():
    assert film(600, 400, 200) == [None, None, None]  # that is a shortage, and causes looks as such


def test_a_share_is_a_share_of_the_size_of_the_scope():
    settings = replace(SETTINGS, headroom=0.1)
    assert reading(0.0, 500, settings, 2000).spare == {HOST: 300 * MIB}


def test_unknown_or_unset_values_cause_no_look():
    assert reading(0.0, None).spare == {}
    assert reading(0.0, 300, PoolSettings(pressure=20.0)).spare == {}
    readings = reading(0.0, None), reading(5.0, 600)
    assert pace.next_look(5.0, False, {}, readings, 10.0) is None
    assert pace.next_look(5.0, False, {}, (reading(5.0, 600), reading(5.0, 550)), 10.0) is None


@pytest.mark.parametrize("kind", [Kind.HEADROOM, Kind.PRESSURE])
def test_while_memory_is_short_it_looks_every_second(kind):
    assert pace.next_look(3.0, False, short(kind), (), 8.0) == 4.0


def test_a_total_is_checked_only_at_ticks():
    assert pace.next_look(3.0, False, short(Kind.TOTAL), (), 8.0) is None


def test_a_shortage_that_was_given_up_causes_no_look():
    assert pace.next_look(3.0, False, short(given_up=2.0), (), 8.0) is None


def test_a_lasting_shortage_causes_no_extra_looks_until_a_worker_is_reaped_for_it():
    assert pace.next_look(pace.HURRY - 1, False, short(), (), 99.0) == pace.HURRY
    assert pace.next_look(pace.HURRY, False, short(), (), 99.0) is None
    assert pace.next_look(pace.HURRY, False, short(last=50.0), (), 99.0) == pace.HURRY + 1


def test_looks_between_two_ticks_do_not_count_towards_checks():
    settings = PoolSettings(limit=100 * MIB, checks=2)
    state, candidates = PoolState(), []
    for now, counts in ((5000.0, True), (5001.0, False), (5002.0, False), (5005.0, True)):
        workers = tuple(Worker(ProcessId(pid, 1.0), now, size, WorkerDetail(size, True)) for pid, size in SIZES.items())
        pool = Pool("a", "RUNNING", "", ProcessId(1, 0.0), now, workers)
        state, _ = following.follow(pool, settings, state, now, counts=counts)
        (choice,) = selection.choose([policy.Look(pool, settings, state)], now).choices
        state = choice.state
        candidates.append([each.worker.id.pid for each in choice.candidates])
    assert candidates == [[], [], [], [11]]


def test_only_the_last_two_readings_count():
    assert pace.next_look(10.0, False, {}, [reading(0.0, 9000), reading(5.0, 4000), reading(10.0, 4000)], 15.0) is None


def test_memory_that_is_just_at_headroom_is_a_shortage_already_and_needs_no_other_look_for_that():
    readings = [reading(0.0, 1000), reading(5.0, 500)]
    assert pace.next_look(5.0, False, {}, readings, 10.0) is None
