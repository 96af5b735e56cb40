"""Film strips: frames of (now, pool) in, the decisions of the policy out. No process, no clock."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace

import pytest

from supervisor_memreap.core import delay, following, policy, selection
from supervisor_memreap.core.events import (
    FastLeak,
    Left,
    LooksLikeManager,
    ManagerLost,
    NoReplacement,
    NotCaught,
    NotReplaced,
    NotVisible,
    NoWorkers,
    Replaced,
    Resumed,
    SignalOfServer,
    SizesUnreadable,
    Stuck,
    TooFewWorkers,
    TotalUnreadable,
    Unreadable,
    Wrapped,
    WrongSetting,
    WrongSignal,
)
from supervisor_memreap.core.model import (
    Ending,
    InitialSize,
    Nested,
    Pool,
    ProcessId,
    ProcessMemory,
    Worker,
    WorkerDetail,
)
from supervisor_memreap.core.policy import Candidate, Look
from supervisor_memreap.core.reasons import OverLimit, Requested, TooOld
from supervisor_memreap.core.servers import named, signal_for
from supervisor_memreap.core.settings import PoolSettings
from supervisor_memreap.core.state import (
    Cause,
    Phase,
    PoolState,
    Population,
    Suspension,
    decode,
    encode,
    restored,
)
from supervisor_memreap.outputs import statusrows

pytestmark = pytest.mark.dear
STAMP = ("myapp", 0.0)
"""The pool and the time of all events here."""
MIB = 1024**2
LIMIT = 150 * MIB
SETTINGS = PoolSettings(limit=LIMIT, min_age=30, settle=10, grace=300)
BOOT = 10_000.0
"""The `now` at which the manager was start_time, by default."""
HIDDEN = Pool("myapp", "RUNNING", "its processes are hidden from this user")


class Film:
    """Plays looks at one pool; workers are `pid: MiB`, `pid: (MiB, age)` or a Worker, started with the manager."""

    def __init__(self, settings: PoolSettings = SETTINGS, now: float = BOOT + 3600):
        self.settings = settings
        self.state = PoolState()
        self.now = now
        self.log: list[object] = []
        self.started: dict[int, float] = {}
        self.slots: dict[int, str] = {}
        self.is_group = False

    def worker(
        self, pid: int, mib: float, caught: bool | None = True, readable: bool = True, server: str = ""
    ) -> Worker:
        start_time = self.started.setdefault(pid, BOOT)
        used = int(mib * MIB)
        is_over = self.settings.limit is not None and used > self.settings.limit
        signal = signal_for(server, self.settings.signal)
        detail = WorkerDetail(used if readable else None, caught, server, signal) if is_over else None
        return Worker(ProcessId(pid, start_time), self.now - start_time, used, detail, self.slots.get(pid, ""))

    def look(
        self,
        workers=None,
        *,
        after=5.0,
        manager=1,
        start_time=BOOT,
        state="RUNNING",
        signal=True,
        stopped=(),
        ending=Ending.EXITED,
        child_faults=0,
        waited=5.0,
        nested=None,
        forks_on_demand=False,
    ):
        """The verdict of the next look, `after` seconds later; the signal that it asks for goes out.

        Not `signal`: attempts failed, and each `waited` for this many seconds.
        """
        self.now += after
        if workers is None:
            pool = Pool("myapp", state)
        else:
            present = tuple(
                worker_or_size if isinstance(worker_or_size, Worker) else self.worker(pid, worker_or_size)
                for pid, worker_or_size in sorted(workers.items())
            )
            pool = Pool(
                "myapp", state, "", ProcessId(manager, start_time), self.now - start_time, present, frozenset(stopped)
            )
        pool = replace(pool, ending=ending, child_faults=child_faults, is_group=self.is_group, nested=nested)
        pool = replace(pool, forks_on_demand=forks_on_demand)
        verdict = self.decide(pool, self.now)
        for candidate in verdict.candidates[: 1 if signal else None]:
            self.state = policy.attempted(pool, candidate, self.state, self.now)
            if signal:
                self.state = policy.signalled(pool, candidate, self.state, self.now)
            else:
                self.state = policy.not_signalled(self.state, waited)
        return verdict

    def decide(self, pool: Pool, now: float):
        """The result of `follow` and `choose`: a Choice with the events of both."""
        self.state, followed = following.follow(pool, self.settings, self.state, now)
        ((choice,), *_) = selection.choose([Look(pool, self.settings, self.state)], now)
        self.state = choice.state
        self.log += (*followed, *choice.events)
        return replace(choice, events=(*followed, *choice.events))

    def fork(self, *pids: int, ago: float = 0.0) -> None:
        """From the next look on, these are processes that started `ago` seconds before now."""
        self.started.update(dict.fromkeys(pids, self.now - ago))

    def restart(self) -> None:
        """Of the listener: it knows what was saved."""
        self.state = restored(decode(json.loads(json.dumps(encode(self.state)))), self.now)

    def of(self, kind):
        """All that has happened of this kind."""
        return [event for event in self.log if isinstance(event, kind)]


def reaped(verdict):
    return verdict.candidates[0].worker.id.pid if verdict.candidates else None


def expired(verdict):
    return {each.worker.id.pid for each in verdict.candidates if each.idle_wait_expired}


def events(verdict, kind):
    return [event for event in verdict.events if isinstance(event, kind)]


def after_a_reap(settings: PoolSettings = SETTINGS) -> Film:
    film = Film(settings)
    assert reaped(film.look({11: 300, 12: 20})) == 11
    return film


def test_a_pool_within_its_limit_is_left_alone():
    film = Film()
    for _ in range(3):
        verdict = film.look({11: 40, 12: 150})
        assert (reaped(verdict), verdict.standing, verdict.events) == (None, "quiet", ())


def test_only_the_worker_over_the_limit_is_reaped():
    assert reaped(Film().look({11: 40, 12: 151})) == 12


def test_a_worker_exactly_at_the_limit_is_not_over_it():
    assert reaped(Film().look({11: 150})) is None


@pytest.mark.parametrize("settings", [SETTINGS, replace(SETTINGS, max_age=1e6)])
def test_only_workers_that_may_have_to_go_are_read_in_full_and_replacements_of_one_that_frees_memory(settings):
    film = Film(settings)
    before = film.look({11: 300, 12: 40}).pool
    leaving = film.state.reap
    film.fork(13)
    workers = {pid: film.worker(pid, mib) for pid, mib in ((11, 300), (12, 40), (13, 20))}
    for private, read in ((300 * MIB, {11, 13}), (0, {11})):
        state = replace(film.state, reap=replace(leaving, private=private))
        is_needed = selection.detail_needed(Look(replace(before, workers=()), settings, state), {}, film.now)
        assert {pid for pid, worker in workers.items() if is_needed(worker)} == read
    is_needed = selection.detail_needed(Look(before, settings, replace(film.state, reap=None)), {}, film.now)
    assert {pid for pid, worker in workers.items() if is_needed(worker)} == {11}


def test_the_worker_that_frees_most_is_reaped_first():
    assert reaped(Film().look({11: 200, 12: 300, 13: 250})) == 12


def test_the_next_worker_is_chosen_only_after_the_last_replacement_has_settled():
    film = Film()
    assert reaped(film.look({11: 200, 12: 300, 13: 250})) == 12
    busy = film.look({11: 200, 12: 300, 13: 250})
    assert (reaped(busy), busy.standing) == (None, "leaving")
    gone = film.look({11: 200, 13: 250})
    assert (reaped(gone), gone.standing) == (None, "settling")
    film.fork(14)
    new = film.look({11: 200, 13: 250, 14: 20}, after=5)
    assert (reaped(new), new.standing) == (None, "settling")
    assert reaped(film.look({11: 200, 13: 250, 14: 20}, after=4.9)) is None
    assert reaped(film.look({11: 200, 13: 250, 14: 20}, after=0.1)) == 13


def test_a_worker_that_left_is_reported_once_with_time_and_replacement():
    film = Film()
    film.look({11: 200, 12: 40})
    film.fork(13, ago=-1)
    verdict = film.look({12: 40, 13: 20})
    assert verdict.events == (Left(*STAMP, ProcessId(11, BOOT), 5.0, ProcessId(13, film.started[13])),)
    assert film.look({12: 40, 13: 20}).events == ()


def test_the_time_of_leaving_is_the_first_one_from_the_kernel_not_from_the_look():
    film = Film()
    film.look({11: 200, 12: 40})
    stuck = replace(film.state.reap, worker=ProcessId(12, BOOT))
    film.state = replace(film.state, stuck=(stuck,))
    for after in (0.4, 0.6):
        film.state = policy.exited(ProcessId(11, BOOT), film.state, film.now + after)
    assert film.state.stuck == (stuck,)
    (left,) = film.look({12: 40}).events
    assert left.after == pytest.approx(0.4)


def test_a_late_replacement_is_reported_when_it_appears():
    film = Film()
    film.look({11: 200, 12: 40})
    (left,) = film.look({12: 40}).events
    assert left.replaced_by is None
    film.fork(13)
    (replaced,) = film.look({12: 40, 13: 20}, after=3).events
    assert replaced == Replaced(*STAMP, ProcessId(11, BOOT), 3.0, ProcessId(13, film.started[13]))


def test_replacements_that_exit_at_once_never_settle_and_the_old_workers_stay():
    film = Film()
    film.look({11: 200, 12: 300})
    for pid in range(100, 180):  # a broken deployment: each look finds another newborn in the place of 12
        film.fork(pid)
        assert reaped(film.look({11: 200, pid: 20})) is None
    (late,) = film.of(NotReplaced)
    assert late.after == pytest.approx(300)
    film.fork(180)
    film.look({11: 200, 180: 20}, after=9)
    assert reaped(film.look({11: 200, 180: 20}, after=1)) == 11


def test_a_pool_made_smaller_continues_after_grace():
    film = Film()
    film.look({11: 200, 12: 300, 13: 20, 14: 20})
    film.fork(15)
    assert reaped(film.look({11: 200, 13: 20, 15: 20}, after=60)) is None
    assert reaped(film.look({11: 200, 13: 20, 15: 20}, after=239)) is None
    assert reaped(film.look({11: 200, 13: 20, 15: 20}, after=61)) == 11


AGED = PoolSettings(max_age=6 * 3600.0, min_age=30, settle=10, grace=300)


def of_age(film: Film, *pids: int) -> dict[int, Worker]:
    """Workers within any limit, read in full, as a worker is that may be too old."""
    return {pid: film.worker(pid, 40)._replace(detail=WorkerDetail(40 * MIB, True)) for pid in pids}


def test_a_worker_that_is_too_old_is_reaped_without_a_limit_and_the_reason_has_its_age():
    film = Film(AGED)
    film.fork(11, ago=5 * 3600)
    film.fork(12, ago=6 * 3600 + 1)
    verdict = film.look(of_age(film, 11, 12))
    assert reaped(verdict) == 12
    assert verdict.candidates[0].reason == TooOld(6 * 3600 + 1.0, 6 * 3600.0)


def test_workers_that_were_forked_together_do_not_become_too_old_together():
    film = Film(AGED)
    pids = range(1000, 1020)
    film.fork(*pids)
    due_at = {}
    for minutes in range(5 * 60, 6 * 60 + 1):
        film.now = film.started[1000] + minutes * 60 - 5
        for each in film.look(of_age(film, *pids), signal=False).candidates:
            due_at.setdefault(each.worker.id.pid, minutes)
    assert set(due_at) == set(pids)  # none is older than max_age
    assert min(due_at.values()) >= 0.9 * 360
    assert len(set(due_at.values())) > 15


def test_the_limit_is_more_urgent_than_the_age_and_one_reason_is_reported():
    film = Film(replace(AGED, limit=LIMIT))
    film.fork(11, ago=7 * 3600)
    film.fork(12, ago=7 * 3600)
    film.fork(13, ago=60)
    workers = {**of_age(film, 11), 12: film.worker(12, 200), 13: film.worker(13, 160)}
    verdict = film.look(workers)
    reasons_ = [(each.worker.id.pid, type(each.reason)) for each in verdict.candidates]
    assert reasons_ == [(12, OverLimit), (13, OverLimit), (11, TooOld)]


def test_a_spike_is_not_a_leak():
    film = Film(replace(SETTINGS, checks=3))
    strip = [200, 200, 40, 200, 200]
    assert [reaped(film.look({11: mib, 12: 20})) for mib in strip] == [None] * 5
    assert reaped(film.look({11: 200, 12: 20})) == 11


def test_checks_are_counted_by_start_time_not_by_pid():
    film = Film(replace(SETTINGS, checks=2))
    film.look({11: 200, 12: 20})
    film.fork(11, ago=60)  # the pid came back for another process
    assert reaped(film.look({11: 200, 12: 20})) is None
    assert reaped(film.look({11: 200, 12: 20})) == 11


def test_a_newborn_is_not_signalled():
    film = Film()
    film.fork(12)
    assert reaped(film.look({11: 20, 12: 200}, after=29.9)) is None
    assert reaped(film.look({11: 20, 12: 200}, after=0.1)) == 12


def test_a_worker_without_a_handler_is_not_signalled_and_that_is_reported_once():
    film = Film()
    deaf = film.worker(11, 300, caught=False)
    verdict = film.look({11: deaf, 12: 20})
    assert (reaped(verdict), verdict.events) == (None, (NotCaught(*STAMP, deaf.id, "HUP", False),))
    assert film.look({11: deaf, 12: 20}).events == ()


def test_what_comes_after_a_signal_is_a_replacement_also_where_the_look_took_long_to_read_the_pool():
    film = Film()
    verdict = film.look({11: 300, 12: 20}, signal=False)
    began, film.now = film.now, film.now + 8.0
    pool = replace(verdict.pool, workers=(film.worker(11, 300), film.worker(12, 20)), late=film.now - began)
    for step in (policy.attempted, policy.signalled):
        film.state = step(pool, verdict.candidates[0], film.state, film.now)
    film.fork(13)
    (left,) = film.look({12: 20, 13: 20}).events
    assert (left.worker.pid, left.replaced_by.pid) == (11, 13)


def test_a_worker_that_was_signalled_and_has_no_handler_any_more_is_not_reported():
    film = Film()
    assert reaped(film.look({11: 300, 12: 20})) == 11
    assert film.look({11: film.worker(11, 300, caught=False), 12: 20}).events == ()


@pytest.mark.parametrize(
    ("server", "signal", "goes"),
    [
        ("gunicorn", "QUIT", False),  # caught, and drops the request
        ("gunicorn", "TERM", True),
        ("uWSGI", "TERM", False),
        ("fcgiwrap", "TERM", False),
        ("multiwatch", "TERM", False),
        ("uvicorn", "TERM", False),
        ("FCGI::ProcManager", "HUP", True),
    ],
)
def test_the_table_of_servers_decides_before_the_handler(server, signal, goes):
    film = Film(replace(SETTINGS, signal=signal))
    worker = film.worker(11, 300, server=server)
    verdict = film.look({11: worker, 12: 20})
    assert reaped(verdict) == (11 if goes else None)
    assert events(verdict, WrongSignal) == (
        [] if goes else [WrongSignal(*STAMP, worker.id, server, signal, named(server).graceful)]
    )
    assert not events(film.look({11: worker, 12: 20}), WrongSignal)


@pytest.mark.parametrize(
    ("server", "signal"), [("gunicorn", "TERM"), ("php-fpm", "QUIT"), ("unicorn", "QUIT"), ("Apache", "USR1")]
)
def test_the_signal_of_the_server_is_used_by_default_and_reported_once(server, signal):
    film = Film()
    for _ in range(3):
        verdict = film.look({11: film.worker(11, 300, server=server), 12: 20}, signal=False)
        assert reaped(verdict) == 11
        assert verdict.candidates[0].worker.detail.signal == signal
    assert film.of(SignalOfServer) == [SignalOfServer(*STAMP, server, signal)]
    film.look({11: film.worker(11, 300, server=server), 12: 20})
    assert (film.state.leaving.signal, film.state.leaving.server) == (signal, server)


def test_the_signal_of_the_server_is_reported_again_for_a_new_manager():
    film = Film()
    for manager in (1, 2, 2):
        film.look({11: film.worker(11, 300, server="gunicorn"), 12: 20}, manager=manager, signal=False)
    assert len(film.of(SignalOfServer)) == 2


@pytest.mark.parametrize(("server", "chosen"), [("uWSGI", None), ("", None), ("gunicorn", "TERM")])
def test_hup_and_a_configured_signal_are_not_reported(server, chosen):
    film = Film(replace(SETTINGS, signal=chosen))
    verdict = film.look({11: film.worker(11, 300, server=server), 12: 20})
    assert (reaped(verdict), verdict.events) == (11, ())
    assert film.state.leaving.signal == (chosen or "HUP")


def test_a_young_worker_does_not_cause_a_report_of_the_signal():
    film = Film()
    film.fork(11)
    assert film.look({11: film.worker(11, 300, server="gunicorn"), 12: 20}).events == ()


@pytest.mark.parametrize(("server", "seconds"), [("uWSGI", 2.0), ("Apache", 1.0), ("Starman", 0.0)])
def test_the_next_worker_is_chosen_only_when_the_replacement_has_the_age_of_the_pace(server, seconds):
    assert named(server).pace == seconds
    film = Film(replace(SETTINGS, settle=0.0, min_age=1))
    grown = {pid: film.worker(pid, 300, server=server) for pid in (11, 12)}
    assert reaped(film.look({**grown, 13: 20})) == 11
    film.now += 5
    film.fork(14)
    still = film.worker(12, 300, server=server)
    if seconds:
        # The pace holds also for a listener that was restarted in between, and for a worker that a user asked for.
        film.restart()
        film.state = policy.request([still.id], film.state)
        assert reaped(film.look({12: still, 13: 20, 14: 20}, after=seconds - 0.1)) is None
        assert film.state.leaving
        assert reaped(film.look({12: film.worker(12, 300, server=server), 13: 20, 14: 20}, after=0.1)) == 12
    else:
        assert reaped(film.look({12: still, 13: 20, 14: 20}, after=0.1)) == 12


def test_a_pace_shorter_than_settle_changes_nothing():
    film = Film(replace(SETTINGS, settle=10.0))
    assert reaped(film.look({11: film.worker(11, 300, server="uWSGI"), 12: film.worker(12, 200, server="uWSGI")})) == 11
    film.fork(14)
    assert reaped(film.look({12: film.worker(12, 200, server="uWSGI"), 14: 20}, after=9.9)) is None
    assert reaped(film.look({12: film.worker(12, 200, server="uWSGI"), 14: 20}, after=0.1)) == 12


def test_a_total_that_cannot_be_read_is_said_once_and_the_pool_is_not_watched_for_it():
    film = Film()
    pool = replace(film.look({11: 20, 12: 20}).pool, is_total_unreadable=True)
    verdict = film.decide(pool, film.now + 5)
    assert (verdict.standing, verdict.events) == ("blind", (TotalUnreadable(*STAMP),))
    assert film.decide(pool, film.now + 10).events == ()


def test_nothing_is_held_against_a_worker_that_was_not_read_in_full():
    film = Film()
    pool = film.look({11: 20}).pool
    assert policy.veto(pool, pool.workers[0]._replace(detail=None)) is None


def test_the_signal_is_sent_where_handlers_cannot_be_read():
    film = Film()
    assert reaped(film.look({11: film.worker(11, 300, caught=None), 12: 20})) == 11


@pytest.mark.parametrize("is_late", [False, True])
def test_a_bound_never_replaces_an_unreadable_metric(is_late):
    film = Film()
    hidden = film.worker(11, 300)._replace(detail=WorkerDetail(None, True, is_late=is_late))
    verdict = film.look({11: hidden, 12: 20})
    assert reaped(verdict) is None
    assert verdict.events == (Unreadable(*STAMP, hidden.id, 300 * MIB, LIMIT, "uss", is_late),)
    assert film.look({11: hidden, 12: 20}).events == ()


def test_a_stuck_worker_is_reported_once_signalled_once_and_the_next_may_be_reaped():
    film = Film()
    assert reaped(film.look({11: 300, 12: 200})) == 11
    assert film.look({11: 300, 12: 200}, after=299).events == ()
    verdict = film.look({11: 300, 12: 200}, after=1)
    assert verdict.events == (Stuck(*STAMP, ProcessId(11, BOOT), 300.0, "HUP"),)
    assert reaped(verdict) == 12
    film.fork(13)
    for _ in range(5):
        assert reaped(film.look({11: 300, 13: 20})) is None
    (left,) = events(film.look({13: 20}), Left)
    assert left.worker.pid == 11


def again(verdict):
    return verdict.again.id.pid if verdict.again else None


def test_a_worker_still_running_long_after_the_signal_gets_a_second_one_but_no_third():
    film = Film()
    assert again(film.look({11: 300, 12: 20})) is None
    assert again(film.look({11: 300, 12: 20}, after=9)) is None
    assert again(film.look({11: 300, 12: 20}, after=1)) == 11
    assert again(film.look({11: 300, 12: 20})) == 11  # it was busy, and the second one has not gone out
    film.state = policy.signalled_again(film.state, film.now)
    for _ in range(5):
        assert again(film.look({11: 300, 12: 20})) is None


def test_no_second_signal_is_sent_after_grace():
    film = after_a_reap(replace(SETTINGS, grace=12))
    assert again(film.look({11: 300, 12: 20}, after=6)) == 11
    assert again(film.look({11: 300, 12: 20}, after=6)) is None


def forced(verdict):
    return verdict.force.id.pid if verdict.force else None


@pytest.mark.parametrize("stuck", ["TERM", "KILL"])
def test_a_stuck_worker_is_forced_once_if_configured_and_the_next_waits_for_it(stuck):
    film = Film(replace(SETTINGS, stuck=stuck))
    film.look({11: 300, 12: 200})
    verdict = film.look({11: 300, 12: 200}, after=300)
    assert (forced(verdict), reaped(verdict)) == (11, None)
    assert verdict.events == (Stuck(*STAMP, ProcessId(11, BOOT), 300.0, "HUP", next=stuck),)
    verdict = film.look({11: 300, 12: 200}, after=299)
    assert (forced(verdict), again(verdict), reaped(verdict), verdict.events) == (None, None, None, ())
    verdict = film.look({11: 300, 12: 200}, after=1)
    assert verdict.events == (Stuck(*STAMP, ProcessId(11, BOOT), 600.0, "HUP", forced=stuck),)
    assert (forced(verdict), reaped(verdict)) == (None, 12)


def test_a_worker_that_leaves_when_forced_is_replaced_before_the_next_is_reaped():
    film = Film(replace(SETTINGS, stuck="KILL"))
    film.look({11: 300, 12: 200})
    film.look({11: 300, 12: 200}, after=300)
    film.fork(13)
    assert reaped(film.look({12: 200, 13: 20})) is None
    assert reaped(film.look({12: 200, 13: 20})) == 12


def wrong(mib: float, age: float, usable: str) -> WrongSetting:
    return WrongSetting(*STAMP, OverLimit(int(mib * MIB), LIMIT, "uss"), usable, age, policy.RETRY_SETTING)


def test_a_pool_whose_workers_all_start_over_the_limit_is_suspended_before_any_is_reaped():
    film = Film(now=BOOT)
    assert film.look({11: 160, 12: 161, 13: 160}).events == ()  # not known to serve yet
    verdict = film.look({11: 160, 12: 161, 13: 160})
    assert verdict.events == (wrong(160, 10.0, "limit=330MB"),)
    assert verdict.standing == "suspended"
    for _ in range(20):
        later = film.look({11: 160, 12: 170, 13: 165}, after=60)
        assert (reaped(later), later.events) == (None, ())


def test_a_dry_run_suspends_nothing():
    film = Film(now=BOOT)
    film.look({11: 160, 12: 170})
    before = film.state
    verdict = film.look({11: 160, 12: 170})
    assert verdict.standing == "suspended"
    state, emitted = following.follow(verdict.pool, SETTINGS, before, film.now, may_suspend=False)
    assert (state.suspended, emitted) == (None, ())


def test_what_workers_held_when_they_began_to_serve_is_known_while_they_are_there():
    film = Film(now=BOOT)
    for _ in range(2):
        film.look({11: 40, 12: 50})
    film.fork(13)
    for _ in range(2):
        film.look({12: 60, 13: 70})
    assert {worker.pid: size.size // MIB for worker, size in film.state.initial.items()} == {12: 50, 13: 70}


def test_a_pool_that_new_settings_suspend_at_once_stays_suspended():
    film = Film(replace(SETTINGS, limit=1000 * MIB), now=BOOT)
    film.look({11: 160, 12: 170})
    film.settings = SETTINGS
    assert [film.look({11: 160, 12: 170}).standing for _ in range(5)] == ["suspended"] * 5
    assert film.of(Resumed) == []


def test_one_worker_that_starts_over_the_limit_is_not_a_wrong_limit():
    film = Film(now=BOOT)
    for _ in range(3):
        assert film.look({11: 160, 12: 40}).events == ()


class Growth(Film):
    """A pool whose workers hold `mib(age)`, look after look; each that is signalled has a new one in its place."""

    def __init__(self, mib: Callable[[float], float], count: int = 4, settings: PoolSettings = SETTINGS):
        super().__init__(settings, now=BOOT)
        self.mib = mib
        self.present = list(range(11, 11 + count))
        self.reaps = 0

    def play(self, minutes: float, tick: float = 5.0) -> Growth:
        for _ in range(int(minutes * 60 / tick)):
            now = self.now + tick
            verdict = self.look({pid: self.mib(now - self.started.get(pid, BOOT)) for pid in self.present}, after=tick)
            if verdict.candidates:
                self.reaps += 1
                self.present.remove(reaped(verdict))
                self.present.append(1000 + self.reaps)
                self.fork(self.present[-1])
        return self


@pytest.mark.parametrize("count", [1, 2, 4, 10])
def test_a_limit_below_the_size_of_fresh_workers_suspends_the_pool(count):
    pool = Growth(lambda _age: 160, count).play(20)
    assert pool.of(WrongSetting) == [wrong(160, 10.0, "limit=320MB")]
    assert pool.reaps == (2 if count == 1 else 0)
    assert pool.of(FastLeak) == []


@pytest.mark.parametrize("count", [1, 2, 4, 10])
def test_a_wrong_limit_is_detected_by_a_listener_that_starts_later(count):
    pool = Growth(lambda _age: 160, count)
    pool.now += 3600
    pool.play(20)
    assert len(pool.of(WrongSetting)) == 1
    assert pool.reaps <= policy.STARTED_OVER


@pytest.mark.parametrize("settle", [10, 2])
def test_a_worker_over_the_limit_within_five_seconds_was_over_it_before_it_served(settle):
    settings = replace(SETTINGS, settle=settle)
    pool = Growth(lambda age: 20 if age < 5 else 160, 2, settings).play(4, tick=1)
    assert len(pool.of(WrongSetting)) == (settle == 10)
    assert len(pool.of(FastLeak)) == (settle == 2)
    assert bool(pool.reaps) == (settle == 2)


@pytest.mark.parametrize("count", [1, 4])
def test_a_leak_that_reaches_the_limit_in_forty_seconds_is_reported_once_and_reaping_continues(count):
    pool = Growth(lambda age: 4 * age, count).play(20)
    assert pool.of(WrongSetting) == []
    (event,) = pool.of(FastLeak)
    assert (event.limit, event.ages) == (LIMIT, (40.0, 40.0, 40.0))
    assert pool.reaps > 20
    assert pool.state.suspended is None


def test_with_long_ticks_the_size_of_fresh_workers_is_unknown_but_not_their_age():
    pool = Growth(lambda _age: 160).play(60, tick=60)
    assert pool.of(WrongSetting) == []
    assert len(pool.of(FastLeak)) == 1
    assert pool.reaps > 20


def test_a_look_for_a_command_soon_after_a_long_tick_does_not_show_the_size_of_fresh_workers():
    film, log = Film(), []
    film.look({1: 40})
    for number in range(1, 8):
        pids = range(100 * number, 100 * number + 4)
        for pid in pids:
            film.fork(pid, ago=-1)
        for after, mib in ((60, 40), (15, 160)):  # first seen to serve 59 s after their start
            film.now += after
            present = {pid: film.worker(pid, mib)._replace(serving=True) for pid in pids}
            log += film.look(present, after=0).events
    assert [event for event in log if isinstance(event, WrongSetting)] == []


def test_workers_that_reach_the_limit_in_two_minutes_are_not_a_fast_leak():
    pool = Growth(lambda age: 1.3 * age).play(20)
    assert (pool.of(WrongSetting), pool.of(FastLeak)) == ([], [])
    assert pool.reaps > 20


@pytest.mark.parametrize(("initial", "fast"), [(20 * MIB, ()), (None, (5.0, 6.0))])
def test_a_worker_that_grew_slowly_ends_a_row_of_fast_ones_and_one_that_was_not_watched_does_not(initial, fast):
    film = Film()
    pool = film.look({11: 20, 12: 20}).pool
    sizes = {} if initial is None else {pool.workers[0].id: InitialSize(initial, True, "uss", 10.0)}
    film.state = replace(film.state, fast=(5.0, 6.0), initial=sizes)
    assert reaped(film.look({11: 300, 12: 20})) == 11
    assert film.state.fast == fast


def test_the_first_size_of_workers_older_than_the_listener_is_unknown():
    film = Film()
    film.now = BOOT + 10
    for _ in range(3):
        assert film.look({11: 160, 12: 170}).events == ()
    assert reaped(film.look({11: 160, 12: 170})) == 12


def test_a_worker_not_watched_from_its_start_is_not_evidence():
    pool = Growth(lambda _age: 160, 1).play(1)
    assert len(pool.state.started_over) == 2
    for pid in range(2000, 2010):
        pool.fork(pid, ago=30)
        pool.state = replace(pool.state, reap=None)
        assert reaped(pool.look({pid: 160})) == pid
    assert len(pool.state.started_over) == 2
    assert pool.state.suspended is None


def test_a_wrong_limit_is_detected_although_the_listener_restarts_after_each_reap():
    pool = Growth(lambda _age: 160, 1)
    for _ in range(6):
        pool.play(0.75)
        pool.restart()
    assert len(pool.of(WrongSetting)) == 1
    assert pool.reaps <= policy.STARTED_OVER


def test_a_fast_leak_suspends_nothing_although_the_listener_restarts_after_each_reap():
    pool = Growth(lambda age: 4 * age)
    for _ in range(20):
        pool.play(0.75)
        pool.restart()
    assert pool.of(WrongSetting) == []
    assert pool.reaps > 10


def test_early_reaps_saved_by_older_versions_are_not_evidence():
    values = encode(PoolState())
    del values["started_over"]
    assert decode({**values, "early_reaps": [["limit", 1.0]] * 3}).started_over == ()


@pytest.mark.parametrize(("raised", "suspended"), [(155, True), (165, False)])
def test_a_raised_limit_is_compared_with_the_size_of_fresh_workers(raised, suspended):
    pool = Growth(lambda age: 160 + age / 60, 4).play(2)
    assert pool.state.suspended
    pool.settings = replace(SETTINGS, limit=raised * MIB)
    pool.log.clear()
    pool.play(20)
    assert [event.because for event in pool.of(Resumed)] == ["its settings changed"]
    assert len(pool.of(WrongSetting)) == suspended
    assert bool(pool.reaps) == (not suspended)


def test_a_worker_that_held_less_after_it_began_to_serve_is_not_evidence():
    pool = Growth(lambda age: 160 if age < 12 or age > 600 else 40, 2, replace(SETTINGS, checks=3)).play(60)
    assert pool.of(WrongSetting) == []
    assert pool.reaps > 5


@pytest.mark.parametrize(("mib", "is_wrong"), [(150, False), (150.1, True)])
def test_a_worker_that_began_exactly_at_its_limit_was_not_over_it(mib, is_wrong):
    began = InitialSize(int(mib * MIB), True, "uss", 10.0)
    assert OverLimit(int(160 * MIB), LIMIT, "uss").applied_to(began) is is_wrong


def test_another_metric_is_not_evidence_of_the_size_of_fresh_workers():
    pool = Growth(lambda _age: 160, 2, replace(SETTINGS, metric="pss", limit=500 * MIB)).play(1)
    pool.settings = SETTINGS
    pool.play(0.1)
    assert (pool.of(WrongSetting), pool.reaps) == ([], 1)


@pytest.mark.parametrize(
    ("change", "then"), [({"limit": 200 * MIB}, []), ({"checks": 2}, [WrongSetting]), ({"metric": "pss"}, [])]
)
def test_a_suspension_ends_when_the_settings_change(change, then):
    film = Film(now=BOOT)
    film.look({11: 160, 12: 170}, after=SETTINGS.settle)
    film.settings = replace(SETTINGS, **change)
    waiting = film.look({11: 160, 12: 170}, after=60)
    assert waiting.events == ()
    shown = statusrows.suspension(waiting.pool, waiting.state, 0.0)
    assert "too low" in shown["reason"]
    assert shown["reason"].endswith("; its settings have changed, and it ends once they stay so for 10 s")
    assert shown["settings_changed"] is True
    assert shown["until"] == film.now + policy.STABLE_SETTINGS
    resumed, *others = film.look({11: 160, 12: 170}, after=policy.STABLE_SETTINGS).events
    assert resumed == Resumed(*STAMP, "its settings changed")
    assert [type(event) for event in others] == then  # the limit is as wrong as before


def test_unrelated_settings_do_not_end_a_suspension():
    film = Film(now=BOOT)
    film.look({11: 160, 12: 170}, after=SETTINGS.settle)
    film.settings = replace(SETTINGS, announce=False, grace=60.0)
    for _ in range(3):
        choice = film.look({11: 160, 12: 170}, after=policy.STABLE_SETTINGS)
        assert choice.events == ()
        assert "its limit is too low" in statusrows.suspension(choice.pool, choice.state, 0.0)["reason"]
    assert (film.state.suspended.setting, film.state.settings) == ("limit", film.settings)


def test_any_settings_end_the_suspension_of_a_pool_that_has_lost_its_manager():
    film = after_a_reap()
    film.look(state="EXITED")
    assert film.state.suspended.cause is Cause.MANAGER_LOST
    film.settings, start_time = replace(SETTINGS, announce=False), film.now
    film.fork(21, 22)
    for is_suspended in (True, False):
        film.look({21: 20, 22: 20}, manager=2, start_time=start_time, after=policy.STABLE_SETTINGS)
        assert bool(film.state.suspended) is is_suspended


def test_a_suspension_caused_by_new_settings_is_not_ended_by_them():
    settings = replace(SETTINGS, settle=2.0)
    film = Film(replace(settings, limit=500 * MIB))
    film.look({11: 160, 12: 170})
    film.settings = settings
    film.look({11: 20, 12: 20})
    film.fork(21, 22)
    assert events(film.look({21: 160, 22: 170}, after=3), WrongSetting)
    assert film.look({21: 160, 22: 170}, after=policy.STABLE_SETTINGS).events == ()
    assert film.state.suspended


@pytest.mark.parametrize("lost", [False, True])
def test_a_half_written_file_at_one_look_ends_no_suspension(lost):
    film = after_a_reap()
    if lost:
        film.look(state="BACKOFF")
        film.fork(21, 22)
        film.look({21: 20, 22: 20}, manager=2, start_time=film.now)
    else:
        film.now, film.started = BOOT, {}
        film.state = PoolState()
        film.look({11: 160, 12: 170}, after=SETTINGS.settle)
    manager = {"manager": 2, "start_time": film.now} if lost else {}
    before = film.state
    assert before.suspended
    for settings in (replace(SETTINGS, settle=11), SETTINGS, replace(SETTINGS, limit=15 * MIB), SETTINGS):
        film.settings = settings
        assert film.look({21: 20, 22: 20} if lost else {11: 160, 12: 170}, **manager).events == ()
    assert (film.state.suspended, film.state.manager_losses) == (before.suspended, before.manager_losses)


def test_a_wrong_limit_is_forgotten_with_its_manager():
    film = Film(now=BOOT)
    film.look({11: 160, 12: 170}, after=SETTINGS.settle)
    film.fork(21)
    verdict = film.look({21: 40}, manager=2, start_time=film.now)
    assert [type(event) for event in verdict.events] == [Resumed]


def test_a_manager_lost_right_after_a_reap_suspends_the_pool_until_the_next_manager_has_run_long_enough():
    film = after_a_reap()
    verdict = film.look(state="EXITED")
    assert verdict.events == (
        ManagerLost(*STAMP, ProcessId(11, BOOT), ProcessId(1, BOOT), policy.TRUSTED_AFTER, 5.0, True),
    )
    start_time = film.now
    film.fork(21)
    assert reaped(film.look({21: 300}, manager=2, start_time=start_time, after=300)) is None
    verdict = film.look({21: 300}, manager=2, start_time=start_time, after=300)
    assert [type(event) for event in verdict.events] == [Resumed]
    assert reaped(verdict) == 21


def test_after_a_second_loss_the_manager_must_run_twice_as_long():
    film = after_a_reap()
    film.look(state="BACKOFF")
    start_time = film.now
    film.fork(21)
    assert reaped(film.look({21: 300, 22: 20}, manager=2, start_time=start_time, after=policy.TRUSTED_AFTER)) == 21
    (lost,) = film.look({31: 20}, manager=3, start_time=film.now).events
    assert lost.resumes_after == 2 * policy.TRUSTED_AFTER


def test_a_new_manager_right_after_a_reap_counts_as_a_lost_manager():
    film = after_a_reap()
    assert events(film.look({21: 20}, manager=2, start_time=film.now), ManagerLost)


def test_a_restart_of_memreap_and_of_the_program_together_is_not_a_lost_manager():
    film = after_a_reap()
    film.state = replace(film.state, looked=None)  # what is kept over a restart knows of no look
    assert film.look({21: 20}, manager=2, start_time=film.now).events == ()


def test_a_program_stopped_by_a_user_is_not_a_lost_manager():
    film = after_a_reap()
    verdict = film.look(state="STOPPING")
    assert (verdict.events, verdict.standing) == ((), "not running")
    film.look(state="STOPPED")
    film.fork(21, ago=60)
    assert reaped(film.look({21: 300, 22: 20}, manager=2, start_time=film.now - 60)) == 21


def test_a_manager_restarted_while_no_worker_leaves_is_just_a_new_manager():
    film = Film()
    film.look({11: 40})
    film.look({21: 40}, manager=2, start_time=film.now)
    assert film.look({21: 40}, manager=2, start_time=film.now - 5).events == ()


def test_without_a_manager_nothing_is_signalled():
    assert reaped(Film().look(state="STARTING")) is None


def test_a_worker_that_exits_on_its_own_between_looks_is_not_an_event():
    film = Film(replace(SETTINGS, checks=2))
    film.look({11: 300, 12: 20})
    assert film.look({12: 20}).events == ()


def test_an_idle_moment_is_waited_for_until_idle_wait_and_no_longer():
    film = Film(replace(SETTINGS, idle_wait=20))
    looks = [film.look({11: 300, 12: 20}, after=60, signal=False, waited=waited) for waited in (5, 10, 4, 1, 5)]
    assert [expired(look) for look in looks] == [set(), set(), set(), set(), {11}]


def test_only_failed_attempts_count_towards_idle_wait():
    film = Film(replace(SETTINGS, idle_wait=60))
    verdicts = [film.look({11: 300, 12: 20}, after=60, signal=False, waited=None) for _ in range(14)]
    assert expired(verdicts[-1]) == set()


def test_idle_wait_restarts_with_each_reap_and_when_no_worker_is_due():
    film = Film(replace(SETTINGS, idle_wait=10))
    film.look({11: 300, 12: 20}, signal=False, waited=10)
    assert expired(film.look({11: 300, 12: 20}))
    film.fork(13)
    assert not expired(film.look({12: 300, 13: 20}, after=60, signal=False))
    film.look({12: 20, 13: 20}, after=60)
    assert not expired(film.look({12: 300, 13: 20}, after=60))


def test_an_infinite_idle_wait_never_expires():
    film = Film(replace(SETTINGS, idle_wait=float("inf")))
    for _ in range(100):
        assert not expired(film.look({11: 300}, after=1e6, signal=False))


def test_a_signal_that_was_not_sent_leaves_no_worker_leaving():
    film = Film()
    assert reaped(film.look({11: 300, 12: 20}, signal=False)) == 11
    assert reaped(film.look({11: 300, 12: 20}, signal=False)) == 11


def test_all_due_workers_are_candidates_the_largest_first():
    assert [each.worker.id.pid for each in Film().look({11: 200, 12: 300, 13: 40, 14: 250}).candidates] == [12, 14, 11]


def test_each_worker_has_its_own_idle_wait():
    film = Film(replace(SETTINGS, idle_wait=10))
    film.look({11: 200, 12: 20}, signal=False, waited=10)
    verdict = film.look({11: 200, 12: 300}, after=10, signal=False)
    assert reaped(verdict) == 12
    assert expired(verdict) == {11}


def test_workers_that_take_turns_do_not_each_wait_for_idle_wait():
    film = Film(replace(SETTINGS, idle_wait=20))
    busy = {11: 300, 12: 290, 13: 280, 14: 270}
    film.look(busy, signal=False, waited=4)
    assert expired(film.look(busy, signal=False, waited=4)) == set()
    assert expired(film.look(busy, signal=False, waited=4)) == {11, 12, 13, 14}


def test_a_worker_that_exits_on_its_own_meanwhile_needs_a_settled_replacement_too():
    film = Film()
    assert reaped(film.look({11: 300, 12: 250, 13: 20})) == 11
    film.fork(14)
    film.look({11: 300, 12: 250, 14: 20}, after=30)  # 13 has died, and 14 is there for it
    film.fork(15)
    assert reaped(film.look({12: 250, 14: 20, 15: 20}, after=0.2)) is None
    assert reaped(film.look({12: 250, 14: 20, 15: 20}, after=9.9)) == 12


def test_the_replacement_is_the_youngest_worker():
    film = after_a_reap()
    film.fork(13)
    film.look({11: 300, 13: 20}, after=60)
    film.fork(14)
    (left,) = film.look({13: 20, 14: 20}).events
    assert left.replaced_by.pid == 14


def test_a_manager_that_ran_on_after_the_worker_left_is_not_lost():
    film = after_a_reap()
    for _ in range(20):
        film.look({12: 20})
    assert events(film.look(state="EXITED"), ManagerLost) == []


def test_a_successful_reap_resets_the_losses():
    film = after_a_reap()
    film.look(state="EXITED")
    assert film.state.manager_losses == 1
    start_time = film.now
    film.fork(21)
    assert reaped(film.look({21: 300, 23: 20}, manager=2, start_time=start_time, after=policy.TRUSTED_AFTER)) == 21
    film.fork(22)
    film.look({22: 20, 23: 20}, manager=2, start_time=start_time, after=5)
    film.look({22: 20, 23: 20}, manager=2, start_time=start_time, after=5)
    assert film.state.manager_losses == 0


def test_what_looks_like_a_manager_below_a_wrapper_is_not_signalled():
    film = Film()
    manager = film.worker(11, 300)._replace(detail=WorkerDetail(300 * MIB, True, looks_like_manager=True))
    verdict = film.look({11: manager})
    assert (reaped(verdict), verdict.events) == (None, (LooksLikeManager(*STAMP, manager.id, False),))
    assert reaped(film.look({11: manager, 12: 20})) is None
    for _ in range(2):  # each request is answered, and it is not requested any longer
        film.state = policy.request([manager.id], film.state)
        verdict = film.look({11: manager, 12: 20})
        assert reaped(verdict) is None
        assert events(verdict, LooksLikeManager) == [LooksLikeManager(*STAMP, manager.id, False)]
        assert film.state.requested == frozenset()


def test_a_worker_that_has_just_forked_is_neither_signalled_nor_taken_for_a_manager():
    film = Film()
    forking = film.worker(11, 300)._replace(detail=WorkerDetail(300 * MIB, True, looks_like_manager=None))
    film.state = policy.request([forking.id], film.state)
    verdict = film.look({11: forking, 12: 20})
    assert (reaped(verdict), verdict.events) == (None, ())
    assert reaped(film.look({11: 300, 12: 20})) == 11


def test_a_running_program_that_cannot_be_looked_at_is_reported_once():
    film = Film()
    for now in range(3):
        film.decide(HIDDEN, now)
    assert film.log == [NotVisible(*STAMP, HIDDEN.not_visible)]


def asking(film, *pids):
    film.state = policy.request([ProcessId(pid, film.started[pid]) for pid in pids], film.state)


def test_a_requested_worker_is_reaped_first_over_its_limit_or_not():
    film = Film()
    asked = film.worker(12, 20)._replace(detail=WorkerDetail(20 * MIB, True))
    assert reaped(film.look({11: 20, 12: asked})) is None
    asking(film, 12)
    assert film.look({11: 20, 12: asked}, signal=False).standing == "requested"
    verdict = film.look({11: 300, 12: asked})
    assert [each.worker.id.pid for each in verdict.candidates] == [12, 11]
    assert film.state.requested == frozenset()


def test_all_requested_workers_are_reaped_one_at_a_time():
    film = Film()
    asked = {pid: film.worker(pid, pid)._replace(detail=WorkerDetail(pid * MIB, True)) for pid in (11, 12, 13)}
    workers: dict[int, Worker | int] = {**asked}
    film.look(workers)
    asking(film, 11, 12, 13)
    gone = []
    for new in (21, 22, 23):
        gone.append(reaped(film.look(workers, after=30)))
        del workers[gone[-1]]
        film.fork(new)
        workers[new] = 20
        assert reaped(film.look(workers)) is None
    assert gone == [13, 12, 11]
    assert film.look(workers, after=60).standing == "quiet"


def test_a_requested_worker_without_a_handler_is_not_reaped():
    film = Film()
    deaf = film.worker(11, 20)._replace(detail=WorkerDetail(20 * MIB, False))
    film.look({11: deaf, 12: 20})
    asking(film, 11)
    verdict = film.look({11: deaf, 12: 20})
    assert (reaped(verdict), verdict.events) == (None, (NotCaught(*STAMP, deaf.id, "HUP", False),))


def test_a_requested_newborn_waits_for_min_age():
    film = Film()
    film.fork(11)
    young = film.worker(11, 20)._replace(detail=WorkerDetail(20 * MIB, True))
    film.look({11: young, 12: 20})
    asking(film, 11)
    assert reaped(film.look({11: young._replace(age=29.0), 12: 20})) is None
    assert reaped(film.look({11: young._replace(age=30.0), 12: 20})) == 11


def test_a_paused_pool_is_not_reaped_and_a_leaving_worker_is_followed():
    film = Film()
    assert reaped(film.look({11: 300, 12: 200})) == 11
    film.state = policy.pause(film.state)
    film.fork(13)
    assert events(film.look({12: 200, 13: 20}), Left)
    verdict = film.look({12: 200, 13: 20}, after=60)
    assert (reaped(verdict), verdict.standing) == (None, "paused")
    film.state = policy.resume(film.state)
    assert reaped(film.look({12: 200, 13: 20})) == 12


def test_a_pause_survives_a_new_manager():
    film = Film()
    film.look({11: 300})
    film.state = policy.pause(film.state)
    film.look(state="STOPPED")
    film.fork(21, ago=60)
    assert film.look({21: 300}, manager=2, start_time=film.now - 60).standing == "paused"


def test_a_suspension_ends_when_a_user_resumes_the_pool():
    film = Film(now=BOOT)
    film.look({11: 160, 12: 170}, after=SETTINGS.settle)
    film.state = policy.resume(film.state)
    assert reaped(film.look({11: 160, 12: 170}, after=60)) == 12


def unsent(film: Film, pool_of: dict) -> None:
    """The look that chooses 11, by a listener that was killed before it could save that the signal was sent."""
    assert reaped(film.look(pool_of, signal=False)) == 11
    worker = film.worker(11, pool_of[11])
    pool = Pool("myapp", "RUNNING", "", ProcessId(1, BOOT), 60, (worker,))
    attempted = policy.attempted(pool, Candidate(worker, Requested(None, "uss")), film.state, film.now)
    film.state = restored(attempted)


@pytest.mark.parametrize("stuck", ["report", "TERM", "KILL"])
def test_a_worker_that_may_have_missed_the_signal_is_neither_stuck_nor_forced_but_chosen_again(stuck):
    film = Film(replace(SETTINGS, stuck=stuck))
    unsent(film, {11: 300, 12: 20})
    assert film.look({11: 300, 12: 20}).standing == "leaving"
    verdict = film.look({11: 300, 12: 20}, after=300, signal=False)
    assert (verdict.force, verdict.events) == (None, ())
    assert reaped(verdict) == 11


def test_a_worker_that_may_have_missed_the_signal_gets_it_when_idle_and_then_counts_as_signalled():
    film = Film()
    unsent(film, {11: 300, 12: 20})
    verdict = film.look({11: 300, 12: 20}, after=policy.AGAIN)
    assert verdict.again.id.pid == 11
    film.state = policy.was_signalled_again(policy.signalled_again(film.state, film.now))
    (event,) = film.look({11: 300, 12: 20}, after=300).events
    assert isinstance(event, Stuck)


def test_no_worker_of_a_paused_pool_gets_a_second_or_stronger_signal():
    film = after_a_reap(replace(SETTINGS, stuck="KILL"))
    film.state = policy.pause(film.state)
    for after in (policy.AGAIN, 300, 300):
        verdict = film.look({11: 300, 12: 20}, after=after)
        assert (verdict.again, verdict.force, verdict.events) == (None, None, ())
    film.state = policy.resume(film.state)
    assert film.look({11: 300, 12: 20}).force.id.pid == 11


def set_nothing(film: Film) -> None:
    pass


def set_paused(film: Film) -> None:
    film.state = policy.pause(film.state)


def set_observed(film: Film) -> None:
    film.settings = replace(film.settings, observe=True)


def set_observed_before(film: Film) -> None:
    """The setting is gone, but not for long enough."""
    film.state = replace(film.state, settings=replace(film.settings, observe=True), changed_settings=None)


def set_manager_lost(film: Film) -> None:
    lost = Suspension(Cause.MANAGER_LOST, ProcessId(9, BOOT), needs_age=float("inf"))
    film.state = replace(film.state, suspended=lost)


def set_wrong_limit(film: Film) -> None:
    wrong = Suspension(Cause.WRONG_SETTING, ProcessId(1, BOOT), setting="limit")
    film.state = replace(film.state, suspended=wrong)


ALL_SIGNALS = {"signal", "second", "second in an attempt", "stronger", "stronger when the worker was found stuck"}


def sent_after(hold: Callable[[Film], None]) -> set[str]:
    """Which of all signals are sent, if before the look for each the pool is held like this."""

    def look_at_held(after: float):
        hold(film)
        verdict = film.look({11: 300, 12: 20}, after=after)
        held = delay.held_back(film.settings, film.state)
        assert bool(held) == (hold is not set_nothing)
        assert verdict.overdue == 0
        return verdict

    film = Film(replace(SETTINGS, stuck="KILL"))
    film.look({11: 20, 12: 20})
    sent = {"signal"} if reaped(look_at_held(5)) else set()
    film = after_a_reap(replace(SETTINGS, stuck="KILL"))
    if again(look_at_held(policy.AGAIN)):
        sent.add("second")
    if policy.may_signal_again(ProcessId(11, BOOT), film.settings, film.state):
        sent.add("second in an attempt")
    before = film.state
    verdict = look_at_held(SETTINGS.grace)
    if forced(verdict) or events(verdict, Stuck):  # the event announces the signal
        sent.add("stronger")
    # The state in which the look before has found it stuck, had the pool not been held yet.
    assert before.reap
    film.state = replace(before, reap=before.reap.to(Phase.FORCED, film.now + 5))
    if forced(look_at_held(5)):
        sent.add("stronger when the worker was found stuck")
    return sent


@pytest.mark.parametrize(
    "hold",
    [set_paused, set_observed, set_observed_before, set_manager_lost],
    ids=["paused", "observed", "observed shortly before", "suspended since its manager exited"],
)
def test_nothing_at_all_is_sent_in_a_pool_that_is_held(hold):
    assert sent_after(hold) == set()


def test_a_pool_suspended_for_a_wrong_setting_sends_no_first_signal_for_it_but_follows_up_an_earlier_one():
    assert sent_after(set_wrong_limit) == ALL_SIGNALS - {"signal"}
    assert sent_after(set_nothing) == ALL_SIGNALS


def test_a_stronger_signal_that_failed_is_not_reported_as_sent_and_the_next_may_be_reaped():
    film = Film(replace(SETTINGS, stuck="KILL"))
    assert reaped(film.look({11: 300, 12: 200})) == 11
    assert film.look({11: 300, 12: 200}, after=300).force.id.pid == 11
    film.state = policy.not_forced(film.state, film.now)
    verdict = film.look({11: 300, 12: 200}, after=300)
    assert (reaped(verdict), verdict.events) == (12, ())


def test_a_manager_that_cannot_be_looked_at_for_a_while_is_not_lost():
    film = Film()
    assert reaped(film.look({11: 300, 12: 200})) == 11
    film.now += 5
    verdict = film.decide(HIDDEN, film.now)
    assert [type(event) for event in verdict.events] == [NotVisible]
    assert film.look({11: 300, 12: 200}).standing == "leaving"
    film.fork(13)
    assert events(film.look({12: 200, 13: 20}), Left)


@pytest.mark.parametrize("losses", [0, 1])
def test_a_manager_that_reappears_is_not_lost(losses):
    film = after_a_reap()
    film.state = replace(film.state, manager_losses=losses)
    assert events(film.look(state="gone"), ManagerLost)
    back = film.look({11: 300, 12: 200})
    assert (back.events, back.standing) == ((Resumed(*STAMP, "its manager 1 is still running"),), "leaving")
    assert film.state.manager_losses == losses
    assert reaped(film.look({11: 300, 12: 200})) is None  # 11 is still leaving
    film.fork(13)
    film.look({12: 200, 13: 20})
    assert reaped(film.look({12: 200, 13: 20}, after=10)) == 12


def test_a_worker_missing_from_an_earlier_list_of_children_is_not_a_replacement():
    film = after_a_reap()
    missed = {12: 20, 13: 20}  # 13 is as old as its manager
    (left,) = film.look(missed).events
    assert left.replaced_by is None
    assert film.look(missed, after=60).standing == "settling"
    film.fork(14, ago=20)
    assert film.look({**missed, 14: 20}, after=0).standing == "quiet"


def test_a_replacement_that_starts_within_the_same_clock_tick_counts():
    film = after_a_reap()
    film.fork(13, ago=0.009)  # forked 1 ms after the signal, with a start time 9 ms before it
    (left,) = film.look({12: 20, 13: 20}).events
    assert left.replaced_by.pid == 13
    assert film.look({12: 20, 13: 20}, after=5).standing == "quiet"


def test_workers_that_aged_unwatched_are_not_fresh():
    film = Film()
    film.look({11: 20, 12: 20, 13: 20, 14: 20})
    for _ in range(60):
        film.now += 60
        film.decide(HIDDEN, film.now)
    for pid in (11, 12, 13, 14):
        film.fork(pid, ago=3000)  # all were replaced meanwhile
    verdict = film.look({11: 300, 12: 300, 13: 300, 14: 300})
    assert reaped(verdict)
    assert film.state.initial == {}


def test_a_new_manager_long_after_the_worker_left_is_not_a_loss_even_if_unwatched():
    film = after_a_reap()
    film.fork(13)
    assert events(film.look({12: 20, 13: 20}), Left)
    for _ in range(10):
        film.now += 5
        film.decide(HIDDEN, film.now)
    film.fork(21)
    assert events(film.look({21: 20}, manager=2, start_time=film.now), ManagerLost) == []


SELF = replace(SETTINGS, target="self", signal="TERM")


def single(settings: PoolSettings = SELF) -> Film:
    """Two processes of a group, each a worker."""
    film = Film(settings)
    film.slots = {11: "a", 12: "b", 13: "a", 14: "b"}
    film.is_group = True
    return film


def test_a_worker_leaving_a_slot_that_a_user_stopped_is_not_waited_for():
    film = single()
    assert reaped(film.look({11: 300, 12: 200})) == 11
    assert reaped(film.look({12: 200}, stopped=["a"])) is None  # it may be a restart
    verdict = film.look({12: 200}, after=SELF.settle, stopped=["a"])
    assert (reaped(verdict), verdict.standing) == (12, "due")


def test_a_process_that_supervisord_cannot_start_again_keeps_the_others_from_going():
    film = single()
    film.slots[15] = "c"
    assert reaped(film.look({11: 300, 12: 200, 15: 200})) == 11
    for _ in range(200):
        assert reaped(film.look({12: 200, 15: 200})) is None  # FATAL: it gave up
    assert (len(film.of(NotReplaced)), film.of(NoReplacement)) == (1, [])
    film.fork(13)
    assert reaped(film.look({12: 200, 13: 20, 15: 200})) is None
    assert reaped(film.look({12: 200, 13: 20, 15: 200}, after=60)) in (12, 15)


def test_a_worker_leaving_a_slot_that_runs_again_is_waited_for_while_another_slot_is_stopped():
    film = single()
    film.look({11: 300, 12: 200})
    for _ in range(3):
        verdict = film.look({12: 200}, after=SELF.settle, stopped=["c"])
        assert (reaped(verdict), verdict.standing) == (None, "settling")


@pytest.mark.parametrize("stuck", ["report", "KILL"])
def test_a_worker_being_stopped_gets_no_second_or_stronger_signal(stuck):
    film = single(replace(SELF, stuck=stuck))
    assert reaped(film.look({11: 300, 12: 40})) == 11
    for _ in range(70):
        verdict = film.look({11: 300, 12: 40}, stopped=["a"])
        assert (verdict.again, verdict.force) == (None, None)
    assert film.state.stuck or film.state.leaving


def test_a_restart_of_the_whole_group_clears_a_suspension_and_reported_states():
    film = single()
    film.fork(11, 12)
    (suspended,) = events(film.look({11: 200, 12: 200}, after=SELF.settle), WrongSetting)
    assert suspended.usable
    assert film.look({11: 200, 12: 200}).standing == "suspended"
    film.fork(13)
    film.look({11: 200, 13: 40})  # one of them is not a restart
    assert film.state.suspended
    film.fork(14)
    film.look({13: 40})
    film.slots[15] = film.slots[16] = "a"
    film.fork(15, 16)
    verdict = film.look({15: 40, 16: 40})
    assert (verdict.events, verdict.standing) == ((Resumed(*STAMP, "all of its processes are new"),), "quiet")


def test_a_restart_of_a_group_that_is_not_suspended_is_no_event():
    film = single()
    film.look({11: 40, 12: 40})
    film.look({})
    film.fork(13, 14)
    verdict = film.look({13: 40, 14: 40})
    assert (verdict.events, verdict.standing, film.state.started_over) == ((), "quiet", ())


def test_replacing_one_worker_is_not_a_restart_of_its_group():
    film = single(replace(SELF, min_age=1))
    pid = 11
    film.fork(pid)
    for _ in range(40):
        if reaped(film.look({pid: 200})):
            pid += 1
            film.look({})
            film.fork(pid)
    assert len(film.of(WrongSetting)) == 1


def test_a_paused_and_suspended_pool_shows_both_and_resume_ends_both():
    film = Film()
    film.fork(11, 12)
    film.look({11: 200, 12: 200})
    film.state = policy.pause(film.state)
    assert film.look({11: 200, 12: 200}).standing == "paused"
    assert film.state.suspended
    film.state = policy.resume(film.state)
    assert (film.state.paused, film.state.suspended) == (False, None)


def test_resume_ends_only_the_wait_for_an_overdue_replacement():
    film = Film()
    film.look({11: 300, 12: 200})
    film.look({12: 200})
    assert policy.resume(film.state).leaving
    film.look({12: 200}, after=SETTINGS.grace, child_faults=1)
    assert film.state.leaving.overdue
    film.state = policy.resume(film.state)
    assert reaped(film.look({12: 200}, child_faults=1, after=15)) == 12


@pytest.mark.parametrize("then", [{"workers": None, "state": "STARTING"}, {"workers": {21: 20}, "manager": 2}])
def test_a_manager_that_a_user_stopped_or_restarted_right_after_a_reap_suspends_nothing(then):
    film = after_a_reap()
    film.fork(21)
    verdict = film.look(**then, ending=Ending.STOPPED)
    assert (events(verdict, ManagerLost), film.state.suspended) == ([], None)


def test_an_unexplained_end_of_the_manager_suspends_the_pool_for_a_shorter_time():
    film = after_a_reap()
    (lost,) = film.look(state="STARTING", ending=Ending.UNKNOWN).events
    assert (lost.is_certain, lost.resumes_after) == (False, policy.TRUSTED_AFTER_UNKNOWN)
    start_time = film.now
    film.fork(21, ago=-1)
    assert film.state.suspended.since == film.now
    assert film.look({21: 20}, manager=2, start_time=start_time, after=policy.TRUSTED_AFTER_UNKNOWN).standing == "quiet"


def test_supervisord_is_asked_how_the_manager_ended_only_if_it_matters():
    film = after_a_reap()
    gone = Pool("myapp", "STARTING")
    assert policy.asks_how_it_ended(gone, film.state)
    assert not policy.asks_how_it_ended(Pool("myapp", "STOPPED"), film.state)
    assert not policy.asks_how_it_ended(Pool("myapp", "RUNNING", "hidden"), film.state)
    assert not policy.asks_how_it_ended(gone, replace(film.state, reap=None))
    assert not policy.asks_how_it_ended(gone, replace(film.state, looked=None))


def test_the_line_on_a_lost_manager_has_the_seconds_since_the_signal():
    film = after_a_reap()
    film.look({11: 300, 12: 20}, after=230)
    (lost,) = film.look(state="STARTING").events
    assert lost.after == 235


def test_without_a_replacement_the_next_may_be_reaped_after_grace_if_the_others_are_stable():
    film = Film()
    assert reaped(film.look({11: 400, 12: 300, 13: 250, 14: 20})) == 11
    looks = (reaped(film.look({12: 300, 13: 250, 14: 20})) for _ in range(70))
    assert next(filter(None, looks)) == 12
    assert film.of(NotReplaced) == []
    (event,) = film.of(NoReplacement)
    assert event.after == pytest.approx(SETTINGS.grace, abs=5)


def test_a_pool_whose_workers_come_and_go_between_two_looks_is_not_stable():
    film = Film()
    assert reaped(film.look({11: 400, 12: 300, 13: 20})) == 11
    for count in range(200):
        verdict = film.look({12: 300, 13: 20}, child_faults=count)
        assert reaped(verdict) is None
        assert events(verdict, NoReplacement) == []


@pytest.mark.parametrize("usual", [2, 3, 4, 5])
def test_the_last_serving_worker_is_never_reaped_while_all_others_exit_at_every_look(usual):
    film = Film()
    film.look(dict.fromkeys(range(11, 11 + usual), 20))
    for count in range(250):
        newborns = range(1000 + count * usual, 1000 + count * usual + usual - 1)
        film.fork(*newborns)
        assert reaped(film.look({11: 300, **dict.fromkeys(newborns, 20)}, after=9)) is None
    assert film.of(TooFewWorkers) == [TooFewWorkers(*STAMP, 1, usual, 30)]


def test_half_of_the_usual_workers_must_be_old_enough():
    film = Film()
    film.look(dict.fromkeys(range(11, 17), 20))
    for pid in (13, 14, 15, 16):
        film.fork(pid + 100)
    few = {11: 300, 12: 20, 113: 20, 114: 20, 115: 20, 116: 20}
    assert reaped(film.look(few, after=15)) is None
    assert reaped(film.look(few, after=20)) == 11


def test_a_pool_made_smaller_counts_as_smaller_after_an_hour():
    film = Film()
    film.look(dict.fromkeys(range(11, 31), 20))
    assert reaped(film.look({11: 300, 12: 20}, after=600)) is None
    for _ in range(12):
        film.look({11: 20, 12: 20}, after=300)
    assert reaped(film.look({11: 300, 12: 20})) == 11


def shrink(film: Film, usual: int, left: int) -> None:
    """A pool of workers, from 11 on, that its manager shrinks by one a second until a number is left."""
    for count in range(usual, left - 1, -1):
        film.look(dict.fromkeys(range(11, 11 + count), 20), after=1, child_faults=usual - count)


def test_a_pool_shrunk_by_its_manager_is_reaped_once_no_worker_has_come_or_left_for_a_while():
    film = Film()
    shrink(film, usual=20, left=3)
    calm = [reaped(film.look({11: 300, 12: 20, 13: 20}, child_faults=17)) for _ in range(13)]
    assert calm == [None] * 12 + [11]  # twice min_age, and a look


def test_a_pool_that_grows_for_bursts_is_reaped_between_two_bursts():
    film = Film()
    usual = {11: 20, 12: 20, 13: 20}
    for burst in range(10):
        newborns = range(1000 + 20 * burst, 1020 + 20 * burst)
        film.fork(*newborns)
        film.look({**usual, **dict.fromkeys(newborns, 20)}, child_faults=20 * burst)
        usual[11] = 20 if burst < 9 else 300
        for _ in range(13):
            verdict = film.look(usual, child_faults=20 * burst + 20)
            if reaped(verdict):
                break
    assert (reaped(verdict), film.of(TooFewWorkers)) == (11, [])


def test_a_shrunken_pool_is_not_reaped_while_workers_come_and_go_between_two_looks():
    film = Film()
    shrink(film, usual=8, left=3)
    for count in range(100):
        assert reaped(film.look({11: 300, 12: 20, 13: 20}, child_faults=100 + count)) is None


def test_a_manager_that_replaces_a_worker_late_may_shrink_its_pool():
    film = Film()
    workers = dict.fromkeys(range(11, 21), 20)
    assert reaped(film.look({**workers, 11: 300})) == 11
    del workers[11]
    for _ in range(70):
        film.look(workers)
    assert film.state.population.replaces is False
    film.fork(30)
    for _ in range(4):  # it settles
        film.look({**workers, 30: 20})
    shrink(film, usual=9, left=3)
    calm = [reaped(film.look({11: 300, 12: 20, 13: 20}, child_faults=6)) for _ in range(13)]
    assert calm[11] == 11


def test_an_empty_pool_without_load_is_neither_blind_nor_unreplaced():
    """Once its manager has shown that it is not wedged: the first time, an empty pool is not shown as fine."""
    film = Film()
    film.look({11: 20, 12: 20})
    first = [film.look({}, child_faults=1).standing for _ in range(20)]
    assert first == ["quiet"] * 12 + ["blind"] * 8
    film.fork(13)
    film.look({13: 20}, child_faults=1)
    assert [film.look({}, child_faults=1, after=60).standing for _ in range(70)] == ["quiet"] * 70
    film.fork(21, 22)
    film.look({21: 20, 22: 20}, child_faults=1)
    assert reaped(film.look({21: 300, 22: 20}, after=31, child_faults=1)) == 21
    film.restart()
    film.log.clear()
    for _ in range(100):
        film.look({}, child_faults=2)
    assert [type(event) for event in film.log] == [Left, NoReplacement]
    assert film.state.leaving is None


def test_a_replacement_need_not_settle_where_workers_leave_when_idle():
    film = Film()
    film.look({11: 20, 12: 20})
    for _ in range(13):
        film.look({}, child_faults=1)
    film.fork(21, 22)
    film.look({21: 20, 22: 20}, child_faults=1)
    assert reaped(film.look({21: 300, 22: 20}, after=31, child_faults=1)) == 21
    film.log.clear()
    for number in range(40):  # each request is served by a new worker, which leaves 10 s after it
        film.fork(100 + number)
        for _ in range(4):
            film.look({100 + number: 20}, child_faults=2 + number)
        film.look({}, child_faults=3 + number)
    assert [type(event) for event in film.log] == [Left]
    assert film.state.leaving is None


@pytest.mark.parametrize("goes", [True, False])
def test_the_worker_that_is_left_of_several_goes_where_the_manager_forks_one_when_a_client_asks(goes):
    film, server = Film(), "php-fpm"
    shrink(film, usual=6, left=1)

    def look(pid: int, faults: int):
        left = {pid: film.worker(pid, 300, server=server)}
        return reaped(film.look(left, child_faults=faults, forks_on_demand=goes))

    calm = [look(11, 5) for _ in range(13)]
    assert calm == [None] * 12 + [11 if goes else None]
    film.log.clear()
    if goes:
        verdicts = [film.look({}, child_faults=6, forks_on_demand=True) for _ in range(70)]
        assert [type(event) for event in film.log] == [Left, NoReplacement]
        assert verdicts[-1].standing == "quiet"
        film.fork(30)
        assert 30 in [look(30, 6) for _ in range(14)]


@pytest.mark.parametrize("forks_on_demand", [False, True])
def test_the_last_worker_stays_where_its_manager_replaced_none(forks_on_demand):
    """As that of php-fpm which hangs, since nobody reads its log."""
    film = Film()
    for pid in (11, 12):
        film.fork(pid)
    went: list[int | None] = []
    left = [11, 12]
    for _ in range(5000):
        now = {pid: film.worker(pid, 300, server="php-fpm") for pid in left}
        went.append(reaped(film.look(now, forks_on_demand=forks_on_demand and len(left) == 1)))
        left = [pid for pid in left if pid != went[-1]]
    assert [pid for pid in went if pid] == [11]


@pytest.mark.parametrize("looks", [2, 24], ids=["all the time", "every two minutes"])
@pytest.mark.parametrize("shrinks", [False, True])
def test_old_workers_stay_while_replacements_exit_at_once_even_in_a_pool_that_shrinks_on_its_own(looks, shrinks):
    """As after a broken deployment. If the pool is calm in between, none goes when fewer than half are left."""
    film = Film()
    old = dict.fromkeys(range(11, 21), 300)
    film.look(dict.fromkeys(old, 20))
    film.state = replace(film.state, population=Population(shrinks=shrinks, served=True))
    for count in range(350):
        newborn = {}
        if len(old) < 10 and count % looks == 0:
            film.fork(1000 + count)
            newborn = {1000 + count: 20}
        pid = reaped(film.look({**old, **newborn}, child_faults=count // looks))
        old.pop(pid, None)
    assert len(old) >= (9 if looks == 2 else 4)


def test_a_single_worker_is_reaped_once_no_others_are_known_to_come_and_go():
    film = Film()
    assert reaped(film.look({11: 300})) is None
    assert reaped(film.look({11: 300}, after=9)) is None
    assert reaped(film.look({11: 300}, after=1)) == 11


def test_frequent_looks_do_not_make_a_pool_calm():
    film = Film()
    for count in range(200):  # a new worker every 2 s, which dies at once
        assert reaped(film.look({11: 300}, after=0.2, child_faults=count // 10)) is None


def test_a_stuck_worker_does_not_count_as_serving_where_none_is_replaced():
    film = Film(replace(SETTINGS, grace=20))
    assert reaped(film.look({11: 300, 12: 200, 13: 100})) == 11
    for _ in range(20):  # it leaves, and none comes
        verdict = film.look({12: 200, 13: 100})
        if reaped(verdict):
            break
    assert reaped(verdict) == 12
    for _ in range(20):  # it is stuck
        assert reaped(film.look({12: 200, 13: 300})) is None


def test_the_last_worker_is_kept_if_the_manager_never_replaces_workers():
    film = Film()
    present = {11: 300, 12: 300, 13: 300, 14: 300}
    for _ in range(4 * 60):
        present.pop(reaped(film.look(dict(present), after=60)) or 0, None)
    assert len(present) == 1
    assert film.of(TooFewWorkers)
    film.restart()
    assert [reaped(film.look(dict(present), after=60)) for _ in range(20)] == [None] * 20


@pytest.mark.parametrize("restarts", [False, True])
def test_the_only_remaining_worker_is_kept_while_others_come_and_go_between_two_looks(restarts):
    film = Film()
    for _ in range(20):
        film.look(dict.fromkeys(range(11, 15), 20), after=30)
    for count in range(240):
        if restarts and count == 3:
            film.restart()
        assert reaped(film.look({11: 300}, child_faults=count + 1, after=30)) is None


def test_a_pool_made_smaller_is_reaped_to_its_last_worker_if_each_is_replaced():
    film = after_a_reap()
    for _ in range(3):
        film.fork(13)
        film.look({12: 20, 13: 20}, after=60)
    for _ in range(12):
        film.look({12: 20}, after=600)
    assert reaped(film.look({12: 300})) == 12


def test_with_long_ticks_a_limit_reached_after_a_while_is_not_wrong():
    film = Film()
    for hour in range(24):
        film.fork(100 + hour, ago=2700)
        verdict = film.look({11: 20, 12: 20, 100 + hour: 653}, after=3600)
        film.started[100 + hour] = film.now - 2700
        assert events(verdict, WrongSetting) == []
    assert film.state.suspended is None


def test_a_wrong_limit_is_tried_again_after_some_hours():
    film = Film()
    film.fork(11, 12)
    assert events(film.look({11: 300, 12: 300}, after=SETTINGS.settle), WrongSetting)
    assert film.look({11: 20, 12: 300}, after=policy.RETRY_SETTING - 1).standing == "suspended"
    verdict = film.look({11: 20, 12: 300}, after=1)
    assert events(verdict, Resumed)
    assert reaped(verdict) == 12


def test_a_request_survives_a_look_that_sees_no_workers():
    film = Film()
    film.look({11: 20, 12: 20})
    asking(film, 11, 12)
    film.look(state="RUNNING", manager=1)
    assert film.state.requested == frozenset()


def test_a_worker_not_seen_at_one_look_is_still_leaving():
    film = Film()
    assert reaped(film.look({11: 300, 12: 250, 13: 20})) == 11
    film.look({12: 250, 13: 20})
    film.fork(14)
    for _ in range(5):
        verdict = film.look({11: 300, 12: 250, 13: 20, 14: 20}, after=30)
        assert (reaped(verdict), verdict.standing) == (None, "leaving")


def test_a_program_without_workers_for_long_is_not_shown_as_fine():
    film = Film()
    for _ in range(30):
        verdict = film.look({})
    assert film.of(NoWorkers) == [NoWorkers(*STAMP, ProcessId(1, BOOT))]
    assert verdict.standing == "blind"
    assert film.look({11: 20}).standing == "quiet"


def test_a_pool_whose_manager_forks_a_worker_when_a_client_asks_is_fine_without_workers():
    film = Film()
    film.look({}, forks_on_demand=True)
    assert not film.state.population.shrinks  # it may just have been started, with a fixed number of workers
    assert [film.look({}, forks_on_demand=True).standing for _ in range(30)] == ["quiet"] * 30
    assert (film.log, film.state.population.shrinks) == ([], True)


def test_a_pool_whose_workers_are_below_a_child_is_not_shown_as_fine():
    film = Film()
    below = Nested(ProcessId(11, BOOT), "perl-fcgi-pm", 5)
    assert film.look({11: 20, 12: 20}, nested=()).standing == "quiet"
    verdict = film.look({11: 20, 12: 20}, nested=(below,))
    assert (verdict.standing, verdict.events) == ("blind", (Wrapped(*STAMP, (below,), 1),))
    verdict = film.look({11: 20, 12: 20})  # it was not read again: what was seen stays so
    assert (verdict.standing, verdict.events) == ("blind", ())
    assert verdict.unwatched.endswith("use exec in the program's command, or set depth=2")
    assert film.look({11: 20, 12: 20}, nested=()).standing == "quiet"


def test_with_target_self_a_process_with_children_is_not_shown_as_fine():
    film = Film()
    film.is_group = True
    below = Nested(ProcessId(11, BOOT), "sh", 1)
    verdict = film.look({11: 20}, nested=(below,))
    assert (verdict.standing, verdict.events) == ("blind", (LooksLikeManager(*STAMP, below.id, True),))


def test_grandchildren_are_read_again_after_each_change_and_every_minute():
    film = Film()

    def is_due(after: float = 0.0) -> bool:
        return policy.is_structure_due(film.state, film.now + after, is_group=False)

    assert is_due()
    film.look({11: 20, 12: 20}, nested=())
    assert (is_due(), is_due(0.3)) == (False, True)  # the workers may come a moment later than their manager
    film.look({11: 20, 12: 20}, nested=(), after=policy.LONG_WAIT)
    assert (is_due(59), is_due(60)) == (False, True)
    film.look({11: 20, 13: 20})
    assert is_due()
    film.look({11: film.worker(11, 20)._replace(serving=True), 13: 20})
    assert not is_due(60)  # one that serves is a worker, and so are the others
    assert policy.is_structure_due(film.state, film.now + 60, is_group=True)


def test_grandchildren_of_a_large_pool_are_read_seldom_however_often_they_change():
    film = Film()
    film.look(dict.fromkeys(range(11, 311), 20), nested=())
    film.look(dict.fromkeys(range(12, 312), 20))
    assert not policy.is_structure_due(film.state, film.now + 24, is_group=False)
    assert policy.is_structure_due(film.state, film.now + 26, is_group=False)


def unreadable(worker: Worker) -> Worker:
    """It was read, and memreap lacks the right to read its size."""
    return worker._replace(detail=WorkerDetail(None, True))


def test_a_pool_with_unreadable_sizes_is_blind_at_the_first_look_and_reported_once_old_enough():
    film = Film()
    film.fork(11, ago=0)
    verdict = film.look({11: unreadable(film.worker(11, 20)), 12: 20})
    assert (verdict.standing, verdict.unreadable, verdict.events) == ("blind", 1, ())  # it may still change its user
    for _ in range(20):
        film.look({11: unreadable(film.worker(11, 20)), 12: 20})
    assert film.log == [SizesUnreadable(*STAMP, ProcessId(11, film.started[11]), "uss")]
    readable = film.worker(11, 20)._replace(detail=WorkerDetail(20 * MIB, True, memory=ProcessMemory(20 * MIB, 0, 0)))
    assert film.look({11: readable, 12: 20}).standing == "quiet"
    assert film.look({11: 20, 12: 20}).standing == "quiet"


def test_readability_of_sizes_is_tested_at_the_first_look_then_seldom_and_at_every_look_while_they_are_unreadable():
    film = Film()
    readable = film.worker(11, 20)._replace(detail=WorkerDetail(20 * MIB, True, memory=ProcessMemory(20 * MIB, 0, 0)))
    assert policy.needs_probe(SETTINGS, film.state, film.now)
    film.look({11: readable})
    assert not policy.needs_probe(SETTINGS, film.state, film.now + policy.PROBE - 1)
    assert policy.needs_probe(SETTINGS, film.state, film.now + policy.PROBE)
    film.look({11: unreadable(film.worker(11, 20))})
    assert policy.needs_probe(SETTINGS, film.state, film.now)
    film.look({11: readable})
    film.look({11: 20}, manager=2, start_time=film.now)
    assert policy.needs_probe(SETTINGS, film.state, film.now)  # of another manager


@pytest.mark.parametrize(
    ("settings", "needs"),
    [
        (PoolSettings(limit=LIMIT, metric="rss"), False),
        (PoolSettings(limit=LIMIT, metric="pss"), True),
        (PoolSettings(max_age=36000), False),
        (PoolSettings(max_age=36000, headroom=LIMIT), True),
        (PoolSettings(max_age=36000, headroom=LIMIT, yields=False), False),
    ],
)
def test_only_settings_that_need_exact_sizes_make_a_pool_blind_without_them(settings, needs):
    film = Film(settings)
    assert policy.needs_probe(settings, film.state, film.now) is needs
    worker = film.worker(11, 20)._replace(detail=WorkerDetail(20 * MIB if settings.metric == "rss" else None, True))
    assert film.look({11: worker}).standing == ("blind" if needs else "quiet")


def test_resume_forgets_how_many_workers_there_were_and_not_what_the_manager_is_like():
    known = Population(replaces=False, shrinks=True, served=True, had_more=True, peaks=(9, 8), peak_since=BOOT)
    resumed = policy.resume(PoolState(population=known))
    assert resumed.population == Population(shrinks=True, served=True)


def test_of_a_new_manager_nothing_is_known():
    film = Film()
    film.look({11: 20, 12: 20}, after=SETTINGS.settle)
    assert film.state.population.had_more
    film.fork(21)
    film.look({21: 20}, manager=2, start_time=film.now)
    assert (film.state.population.had_more, film.state.population.peaks) == (False, (1, 0))


def test_the_replacement_of_a_worker_signalled_between_two_looks_started_after_the_signal():
    film = Film()
    verdict = film.look({11: 300, 12: 20}, signal=False)
    film.state = policy.attempted(verdict.pool, verdict.candidates[0], film.state, film.now + 3)
    assert film.state.reap
    assert film.state.reap.started_after == film.now + 3 - policy.START_STEP


def test_the_last_of_two_stays_although_the_manager_replaced_one_before():
    film = after_a_reap()
    film.fork(13)
    film.look({12: 20, 13: 20})
    film.look({12: 20, 13: 20}, after=30)
    assert film.state.population.replaces is True
    for _ in range(20):
        assert reaped(film.look({12: 300})) is None


def test_a_worker_whose_exact_size_is_the_limit_is_not_over_it():
    film = Film()
    exact = film.worker(11, 150)._replace(detail=WorkerDetail(LIMIT, True))
    assert film.look({11: exact}).pending == ()


def test_settings_that_come_back_within_a_tick_are_no_change():
    film = Film()
    film.look({11: 20})
    film.settings = replace(SETTINGS, limit=100 * MIB)
    film.look({11: 20})
    assert film.state.changed_settings
    film.settings = SETTINGS
    film.look({11: 20})
    assert film.state.changed_settings is None


def test_a_stuck_worker_that_leaves_has_its_time_since_the_signal():
    film = after_a_reap()
    film.look({11: 300, 12: 20}, after=SETTINGS.grace)
    (left,) = events(film.look({12: 20}, after=60), Left)
    assert left.after == SETTINGS.grace + 60


def test_the_usual_number_is_that_of_the_last_two_periods():
    film = Film()
    film.look({11: 20, 12: 20, 13: 20})
    film.look({11: 20}, after=policy.USUAL - 1)
    assert film.state.population.peaks == (3, 0)
    film.look({11: 20}, after=1)
    assert film.state.population.peaks == (1, 3)


def test_a_replacement_that_settles_shows_that_the_manager_survives_its_workers():
    film = Film()
    film.state = replace(film.state, manager_losses=2)
    assert reaped(film.look({11: 300, 12: 20})) == 11
    film.fork(13)
    film.look({12: 20, 13: 20})
    film.look({12: 20, 13: 20}, after=30)
    assert (film.state.reap, film.state.manager_losses) == (None, 0)


def test_a_pool_left_without_workers_is_not_watched_although_a_replacement_is_waited_for():
    film = Film()
    while not reaped(film.look({11: 300})):
        pass
    assert film.look({}).standing == "settling"
    for _ in range(3):
        last = film.look({}, after=SETTINGS.grace)
    assert (len(film.of(NotReplaced)), last.standing) == (1, "blind")
