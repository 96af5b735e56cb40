"""Film strips of a pool that is only observed: nothing is ever sent, and the log reports what would have been."""

from __future__ import annotations

from dataclasses import replace

import pytest
from test_core_policy import BOOT, MIB, SETTINGS, Film, events, reaped

from supervisor_memreap.core import choosing, policy, shortage
from supervisor_memreap.core.carryout import carry_out
from supervisor_memreap.core.command import CommandError, parse
from supervisor_memreap.core.events import Stuck, Watching, WouldReap, WrongSetting
from supervisor_memreap.core.model import HOST, MemoryScope, Pool, ProcessId, WorkerDetail
from supervisor_memreap.core.policy import Look
from supervisor_memreap.core.reasons import OverTotal
from supervisor_memreap.core.settings import PoolSettings
from supervisor_memreap.core.shortage import Kind, Shortage

OBSERVED = replace(SETTINGS, observe=True)


def test_each_worker_that_would_be_reaped_is_reported_once_and_not_signalled():
    film = Film(OBSERVED)
    reported = []
    for _ in range(5):
        verdict = film.look({11: 200, 12: 300, 13: 20})
        assert (verdict.candidates, verdict.again, verdict.force, verdict.standing) == ((), None, None, "observed")
        reported += events(verdict, WouldReap)
    assert [(event.worker.pid, event.asked_by) for event in reported] == [(12, "limit"), (11, "limit")]


def test_a_worker_that_reuses_a_pid_is_reported_too():
    film = Film(OBSERVED)
    film.look({11: 200})
    film.look({12: 20})
    film.fork(11, ago=100)
    assert len(events(film.look({11: 200}), WouldReap)) == 1
    assert film.state.observed == {ProcessId(11, film.started[11])}


def test_a_pool_without_a_limit_can_be_observed():
    verdict = Film(PoolSettings(observe=True)).look({11: 200, 12: 300})
    assert (verdict.candidates, verdict.events, verdict.standing) == ((), (), "observed")


def test_a_worker_signalled_earlier_is_followed_but_not_signalled_again():
    film = Film(replace(SETTINGS, stuck="KILL"))
    assert reaped(film.look({11: 300, 12: 20})) == 11
    film.settings = replace(film.settings, observe=True)
    for _ in range(200):
        verdict = film.look({11: 300, 12: 20})
        assert (verdict.again, verdict.force, verdict.candidates) == (None, None, ())
        assert verdict.standing == "observed"
        assert events(verdict, Stuck) == []


def test_an_observed_worker_is_signalled_only_ten_seconds_after_observe_is_removed():
    film = Film(OBSERVED)
    film.look({11: 300, 12: 20})
    film.settings = SETTINGS
    assert reaped(film.look({11: 300, 12: 20}, after=5)) is None
    assert reaped(film.look({11: 300, 12: 20}, after=5)) is None
    assert reaped(film.look({11: 300, 12: 20}, after=5)) == 11


def test_a_limit_that_fresh_workers_exceed_suspends_nothing():
    film = Film(OBSERVED, now=BOOT)
    for _ in range(5):
        verdict = film.look({11: 300, 12: 300})
        assert (events(verdict, WrongSetting), verdict.standing) == ([], "observed")


def test_observed_workers_do_not_relieve_the_host():
    host = MemoryScope(HOST, 1000 * MIB, 10 * MIB)
    pool = Pool("myapp", "RUNNING", manager=ProcessId(1, 1.0), scopes=(host,))
    for settings, relieves in (
        (PoolSettings(headroom=100 * MIB), 1),
        (PoolSettings(headroom=100 * MIB, observe=True), 0),
    ):
        episodes = shortage.follow([(pool, settings)], {}, 5.0)
        assert len(shortage.to_relieve(pool, settings, episodes)) == relieves


@pytest.mark.parametrize("command", ["reap myapp", "roll myapp"])
def test_a_user_cannot_have_a_worker_of_an_observed_pool_replaced(command):
    film = Film(OBSERVED)
    pool = film.look({11: 200, 12: 300}).pool
    with pytest.raises(CommandError, match=r"myapp is only observed \(observe=yes\): no worker is signalled"):
        carry_out(parse(command), pool, film.state)


def test_a_worker_requested_before_observe_is_not_signalled():
    film = Film()

    def look():
        detailed = film.worker(11, 20)._replace(detail=WorkerDetail(20 * MIB, True, "", "HUP"))
        return film.look({11: detailed, 12: 20}).candidates

    look()
    film.state = policy.request([ProcessId(11, film.started[11])], film.state)
    assert look() != ()
    film.settings = OBSERVED
    assert [look() for _ in range(5)] == [()] * 5
    # Nor is it kept until observe is off.
    film.settings = SETTINGS
    assert [look() for _ in range(9)] == [()] * 9


def test_one_of_the_workers_that_would_be_reaped_for_a_total_is_reported():
    film = Film(OBSERVED)
    pool = film.look({11: 20, 12: 20, 13: 20}).pool
    reason = OverTotal(Shortage(Kind.TOTAL, "myapp", 120 * MIB, 100 * MIB, 100 * MIB), 40 * MIB)
    choosing_ = choosing._Choosing(Look(pool, OBSERVED, film.state), film.now)
    choosing_.report_observed([policy.Candidate(worker, reason) for worker in pool.workers])
    assert [event.pid for event in choosing_.events] == [11]


def test_the_log_reports_that_a_pool_is_only_observed():
    watching = Watching("", 0.0, (("myapp", OBSERVED), ("web", PoolSettings(observe=True))))
    assert watching.text == "watching myapp (only observed, limit 150 MiB uss), web (only observed)"


def test_a_pool_that_was_observed_at_one_look_only_is_observed_for_ten_seconds_more():
    film = Film()
    film.look({11: 20, 12: 20})
    film.settings = OBSERVED
    assert reaped(film.look({11: 300, 12: 20})) is None
    film.settings = SETTINGS  # perhaps half a file, without its last line
    assert reaped(film.look({11: 300, 12: 20})) is None
    assert reaped(film.look({11: 300, 12: 20})) is None
    assert reaped(film.look({11: 300, 12: 20})) == 11
