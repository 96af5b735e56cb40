"""Film strips of pools in which workers are due and none can be signalled."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from test_core_policy import BOOT, HIDDEN, MIB, SETTINGS, STAMP, Film, events, reaped

from supervisor_memreap.core import delay, hindrance, policy
from supervisor_memreap.core.events import Overdue, OverdueEnded, SignalOfServer, TooFewWorkers
from supervisor_memreap.core.hindrance import Hindrance, Kind
from supervisor_memreap.core.model import Pool, ProcessId, Result, WorkerDetail
from supervisor_memreap.core.reasons import OverLimit
from supervisor_memreap.core.servers import UNRECOGNISABLE
from supervisor_memreap.core.state import (
    Cause,
    Delay,
    PoolState,
    Reap,
    Suspension,
    decode,
    encode,
    is_worth_keeping,
    restored,
)

FCGI = "FCGI::ProcManager"


def attempt(film: Film, workers, result: Result = Result.BUSY, **how):
    """The verdict of the next look; the attempt that follows has this result."""
    verdict = film.look(workers, signal=False, waited=5.0 if result is Result.BUSY else None, **how)
    if verdict.candidates:
        detail = verdict.candidates[0].worker.detail
        film.state = policy.not_sent(film.state, hindrance.of_attempt(result, detail, film.settings))
    return verdict


def saturated(film: Film, *sizes: float, server: str = FCGI):
    return {11 + number: film.worker(11 + number, mib, server=server) for number, mib in enumerate(sizes)}


def standings(film: Film, looks: int, result: Result = Result.BUSY, server: str = FCGI, after: float = 5.0):
    return [attempt(film, saturated(film, 300, 200, server=server), result, after=after) for _ in range(looks)]


@pytest.mark.parametrize("after", [5.0, 60.0])
def test_always_busy_workers_are_overdue_after_two_ticks_of_any_interval(after):
    film = Film()
    looks = standings(film, 4, after=after)
    assert [look.standing for look in looks] == ["due", "due", "overdue", "overdue"]
    assert [look.overdue for look in looks] == [0, 0, 2, 2]
    assert film.state.delay.hindrance.kind is Kind.BUSY


def test_workers_that_are_hidden_for_a_moment_are_overdue_all_the_same():
    film = Film()
    standings(film, 4)
    before = film.state.delay
    assert events(film.decide(HIDDEN, film.now + 5), OverdueEnded) == []
    assert film.state.delay is before is not None


def test_looks_between_two_ticks_make_no_worker_overdue():
    looks = standings(Film(), 9, after=1.0)
    assert {look.standing for look in looks} == {"due"}


def test_the_log_repeats_an_overdue_pool_every_10_minutes_and_its_end_once():
    film = Film()
    reported = [(film.now, event) for look in standings(film, 250) for event in events(look, Overdue)]
    assert [event.lasts for _, event in reported] == [10.0, 610.0, 1210.0]
    assert {(event.workers, event.largest, event.limit) for _, event in reported} == {(2, 300 * MIB, SETTINGS.limit)}
    lasted = film.now + 5 - film.state.delay.since
    verdict = film.look({11: 20, 12: 20})
    assert events(verdict, OverdueEnded) == [OverdueEnded(*STAMP, lasted)]
    assert (verdict.standing, verdict.overdue, film.state.delay) == ("quiet", 0, None)
    assert events(film.look({11: 20, 12: 20}), OverdueEnded) == []


def test_a_pool_that_is_idle_now_and_then_logs_at_most_two_lines_in_10_minutes():
    film = Film()
    reported, began = [], film.now
    for pid in range(20, 40):
        due = {11: 20, 12: 20, 13: 20, pid: film.worker(pid, 200, server=FCGI)}
        for _ in range(4):
            reported += attempt(film, {**due, pid: film.worker(pid, 200, server=FCGI)}).events
        assert reaped(film.look({**due, pid: film.worker(pid, 200, server=FCGI)})) == pid
        film.fork(pid + 1)
        for _ in range(4):
            reported += film.look({11: 20, 12: 20, 13: 20, pid + 1: 20}, after=30).events
    overdue = [event for event in reported if isinstance(event, (Overdue, OverdueEnded))]
    assert 2 <= len(overdue) <= 2 * (1 + (film.now - began) / delay.REPEAT)


def test_due_workers_of_a_pool_whose_state_cannot_be_saved_are_overdue_with_the_cause():
    film = Film()
    for _ in range(4):
        look = film.look(saturated(film, 300, 200), signal=False)
        film.state = policy.not_sent(film.state, hindrance.unsaved("No space left on device"))
    assert look.standing == "overdue"
    assert film.state.delay.hindrance == Hindrance(Kind.UNSAVED, "the state cannot be saved: No space left on device")


@pytest.mark.parametrize(
    ("result", "kind", "text"),
    [
        (Result.NOT_PERMITTED, Kind.NOT_PERMITTED, "no permission to signal them"),
        (Result.CHANGED, Kind.CHANGED, "a worker, or the loop it waits in, changed after it was measured"),
        (Result.NOT_SHARED, Kind.NOT_SHARED, "let the manager open one socket for all of them"),
        (Result.FAILED, Kind.OUT_OF_RESOURCES, "out of resources"),
        (
            Result.BUSY,
            Kind.BUSY,
            "FCGI::ProcManager can lose requests on HUP at any other moment; if",
        ),
    ],
)
def test_the_hindrance_is_reported(result, kind, text):
    film = Film()
    *_, last = standings(film, 3, result)
    (event,) = events(last, Overdue)
    assert event.hindrance.kind is kind
    assert text in event.text
    assert event.text.startswith("2 workers are due (the largest holds 300 MiB uss, limit 150 MiB) and none could be")
    assert "keep" not in event.text


def test_kept_connections_are_mentioned_only_if_one_was_seen():
    detail = WorkerDetail(300 * MIB, True, FCGI)
    kept = hindrance.of_attempt(Result.BUSY, detail, SETTINGS, hindrance.Seen(is_kept=True))
    assert (kept.kind, "keepalive_requests" in kept.text) == (Kind.KEPT, True)
    assert "keep" not in hindrance.of_attempt(Result.BUSY, detail, SETTINGS).text


@pytest.mark.parametrize(
    ("settings", "remedy"),
    [(SETTINGS, "CAP_SYS_PTRACE"), (replace(SETTINGS, hold=False), "set hold=yes")],
)
def test_a_server_whose_workers_must_be_held_but_cannot_be_is_not_called_busy(settings, remedy):
    detail = WorkerDetail(300 * MIB, True, "Starman")
    why = hindrance.of_attempt(Result.BUSY, detail, settings, hindrance.Seen(has_boundary=False))
    assert (why.kind, remedy in why.text) == (Kind.CANNOT_HOLD, True)


def test_no_worker_is_overdue_during_idle_wait_if_it_is_signalled_afterwards():
    film = Film(replace(SETTINGS, idle_wait=60))
    looks = standings(film, 14, server="gunicorn")
    assert {look.standing for look in looks} == {"due"}
    assert looks[-1].candidates[0].idle_wait_expired
    *_, last = standings(film, 5, Result.NOT_PERMITTED, "gunicorn")
    assert last.standing == "overdue"


def test_idle_wait_applies_too_where_ptrace_is_not_permitted():
    film = Film()
    for _ in range(6):
        verdict = attempt(film, saturated(film, 300, 200))
        film.state = policy.tried(film.state, has_boundary=False)
    assert verdict.standing == "due"


@pytest.mark.parametrize("seen", [hindrance.Seen(False, is_kept=True), hindrance.Seen(False, may_be_kept=True)])
def test_a_worker_that_must_not_be_signalled_while_busy_is_overdue_once_a_kept_connection_was_seen(seen):
    """Also one that hangs in a request: its connection may be kept, and it would be due for ever."""
    film = Film(replace(SETTINGS, hold=False))
    kept = hindrance.of_attempt(Result.BUSY, WorkerDetail(0, True, FCGI), film.settings, seen)
    assert "keepalive_requests" in kept.text
    for _ in range(5):
        verdict = attempt(film, saturated(film, 300, 200))
        film.state = policy.not_sent(film.state, kept)
    assert verdict.standing == "overdue"
    assert film.state.delay.hindrance.kind is Kind.KEPT


@pytest.mark.parametrize(
    ("server", "said"),
    [
        ("", ", and memreap does not know whether its server loses requests"),
        (UNRECOGNISABLE, ", and the server cannot be identified (let the manager keep the title"),
        ("unicorn", "between two requests; if requests take that long"),
    ],
)
def test_it_is_said_whether_the_server_of_busy_workers_is_known(server, said):
    assert said in hindrance.of_attempt(Result.BUSY, WorkerDetail(0, True, server), SETTINGS).text


def test_without_ptrace_the_signal_for_busy_workers_and_its_cost_are_reported():
    detail = WorkerDetail(0, True, FCGI)
    why = hindrance.of_attempt(Result.BUSY, detail, SETTINGS, hindrance.Seen(has_boundary=False))
    assert "after idle_wait=60 s, busy workers are sent USR1 too (0 of 300" in why.text
    assert "CAP_SYS_PTRACE" in why.text
    deaf = hindrance.of_attempt(Result.BUSY, detail, SETTINGS, hindrance.Seen(has_boundary=False, is_deaf=True))
    assert "workers have no handler for USR1" in deaf.text


@pytest.mark.parametrize("server", ["gunicorn", FCGI])
def test_with_idle_wait_never_a_busy_worker_of_any_server_is_overdue_and_that_is_reported_once_in_10_minutes(server):
    film = Film(replace(SETTINGS, idle_wait=float("inf")))
    reported = [event for look in standings(film, 40, server=server) for event in look.events]
    (event,) = [event for event in reported if not isinstance(event, SignalOfServer)]
    assert isinstance(event, Overdue)
    assert "none of them was seen between two requests (idle_wait=never)" in event.text


def test_workers_that_wait_for_their_turn_are_not_overdue_unless_the_pool_never_settles():
    film = Film()
    assert reaped(film.look({11: 300, 12: 200, 13: 250})) == 11
    film.look({12: 200, 13: 250})
    for faults in range(int(SETTINGS.grace + SETTINGS.settle) // 5 - 1):  # those that come end at once
        assert film.look({12: 200, 13: 250}, child_faults=faults).standing == "settling"
    for faults in range(100, 104):
        verdict = film.look({12: 200, 13: 250}, child_faults=faults)
    assert (verdict.standing, verdict.overdue) == ("overdue", 2)
    assert film.state.delay.hindrance.kind is Kind.NOT_REPLACED
    film.state = policy.resume(film.state)
    assert reaped(film.look({12: 200, 13: 250, 14: 20})) == 13
    assert film.look({12: 200, 13: 250, 14: 20}).standing == "leaving"


def test_a_worker_that_must_never_be_signalled_is_overdue_and_the_reason_is_reported():
    film = Film()
    for _ in range(3):
        verdict = film.look({11: film.worker(11, 300, caught=False), 12: 20})
    assert (verdict.standing, verdict.overdue) == ("overdue", 1)
    assert (film.state.delay.hindrance.kind, "HUP would kill" in film.state.delay.hindrance.text) == (
        Kind.REFUSED,
        True,
    )


def test_a_permanently_stuck_worker_is_overdue_and_another_worker_is_reaped():
    film = Film()
    film.look({11: 300, 12: 20})
    film.look({11: 300, 12: 20}, after=300)
    for _ in range(4):
        verdict = film.look({11: 300, 12: 20})
    assert (verdict.standing, film.state.delay.hindrance.kind) == ("overdue", Kind.STUCK)
    assert reaped(film.look({11: 300, 12: 200})) == 12


def test_the_due_worker_is_overdue_after_a_minute_with_too_few_serving():
    film = Film()
    film.look({11: 20, 12: 20, 13: 20, 14: 20})
    looks = []
    for pid in range(100, 130):  # new ones die all the time
        for newborn in (pid, pid + 100, pid + 200):
            film.fork(newborn)
        looks.append(film.look({11: 300, pid: 20, pid + 100: 20, pid + 200: 20}))
    assert {look.standing for look in looks[:12]} == {"due"}
    assert (looks[-1].standing, film.state.delay.hindrance.kind) == ("overdue", Kind.TOO_FEW)


def test_too_few_are_waited_for_twice_as_long_as_a_worker_needs_to_grow_old_enough():
    film = Film(replace(SETTINGS, min_age=60.0))
    film.look({11: 20, 12: 20, 13: 20, 14: 20})
    looks = []
    for pid in range(100, 140):
        film.fork(pid)
        looks.append(film.look({11: 300, pid: 20}).standing)
    assert looks.index("overdue") * 5 == 2 * 60 + delay.OVERDUE


def test_where_only_replacements_are_too_young_the_program_is_not_blamed():
    film = Film(replace(SETTINGS, min_age=120.0))
    workers, next_pid = dict.fromkeys((11, 12, 13, 14), 300), 100
    film.look(dict.fromkeys(workers, 20), after=300)
    texts = set()
    for _ in range(60):
        verdict = film.look(workers)
        pid = reaped(verdict)
        if pid:
            del workers[pid]
            film.fork(next_pid)
            workers[next_pid] = 20
            next_pid += 1
        if film.state.too_few_since is not None:
            due = {each: () for each in verdict.pool.workers if each.id.pid < 100}
            look = policy.Look(verdict.pool, film.settings, film.state)
            texts.add(delay.hindrance_in(look, verdict, due, film.now).text)
    assert next_pid == 104
    assert texts == {"waiting until the workers that replaced others are older than min_age=2 min"}
    assert film.of(TooFewWorkers) == []


@pytest.mark.parametrize("how", [{"paused": True}, {"settings": "observe"}])
def test_no_worker_is_overdue_where_the_user_wants_no_signals(how):
    film = Film(replace(SETTINGS, observe="settings" in how))
    film.state = replace(film.state, paused="paused" in how)
    assert {look.standing for look in standings(film, 5)} <= {"paused", "observed"}
    assert film.state.delay is None


def test_a_new_listener_and_a_single_look_know_the_earlier_hindrance():
    film = Film(replace(SETTINGS, checks=3))
    standings(film, 6)
    since = film.state.delay.since
    assert is_worth_keeping(film.state)
    film.state = restored(decode(encode(film.state)))
    verdict = film.look(saturated(film, 300, 200), signal=False, waited=None)
    assert (verdict.standing, film.state.delay.since, film.state.delay.hindrance.kind) == ("overdue", since, Kind.BUSY)
    assert film.look({11: 20, 12: 20}).standing == "quiet"


def test_without_an_attempt_as_in_a_dry_run_no_worker_is_overdue():
    film = Film()
    looks = [film.look(saturated(film, 300, 200), signal=False, waited=None) for _ in range(20)]
    assert {look.standing for look in looks} == {"due"}


def test_a_new_manager_ends_the_delay():
    film = Film()
    standings(film, 4)
    for pid in (21, 22):
        film.fork(pid)
    verdict = film.look({21: 20, 22: 20}, manager=2, start_time=film.now)
    assert (verdict.standing, len(events(verdict, OverdueEnded))) == ("quiet", 1)


def test_pools_of_a_group_wait_for_their_turn_for_up_to_grace():
    film = Film()
    for _ in range(80):
        verdict = attempt(film, saturated(film, 300, 200))
        film.state = policy.not_sent(film.state, hindrance.GROUP)
        assert verdict.standing == "due"
        if film.now - film.state.due[ProcessId(11, film.started[11])].since >= SETTINGS.grace - 5:
            break
    for _ in range(5):
        verdict = attempt(film, saturated(film, 300, 200))
        film.state = policy.not_sent(film.state, hindrance.GROUP)
    assert (verdict.standing, film.state.delay.hindrance.kind) == ("overdue", Kind.GROUP)


@pytest.mark.parametrize(
    ("server", "kind", "goes"),
    [("gunicorn", Kind.KEPT, True), (FCGI, Kind.KEPT, False), (FCGI, Kind.BUSY, True)],
)
def test_a_kept_connection_matters_only_for_a_server_that_loses_requests_on_it(server, kind, goes):
    without_ptrace = policy.not_sent(policy.tried(PoolState(), has_boundary=False), Hindrance(kind, ""))
    assert delay.may_go_busy(server, SETTINGS, without_ptrace) is goes
    assert not delay.may_go_busy(server, replace(SETTINGS, idle_wait=float("inf")), without_ptrace)


@pytest.mark.parametrize(
    ("server", "signal"),
    [(FCGI, "HUP"), ("Starman", "HUP"), ("uWSGI", "HUP"), ("Apache", "USR1")],
)
def test_a_server_that_loses_requests_at_any_moment_is_waited_for_and_that_is_reported_once(server, signal):
    film = Film(replace(SETTINGS, signal=signal))
    (event,) = [event for look in standings(film, 40, server=server) for event in events(look, Overdue)]
    assert f"{server} can lose requests on {signal} at any other moment" in event.text
    assert film.state.delay


def test_without_ptrace_a_worker_that_may_be_signalled_after_idle_wait_is_not_overdue():
    film = Film()
    standings(film, 1)
    film.state = policy.tried(film.state, has_boundary=False)
    assert [events(look, Overdue) for look in standings(film, 40)] == [[]] * 40


def in_vain(film: Film, verdict) -> bool:
    return delay.is_in_vain(verdict, film.settings, film.state, film.now)


@pytest.mark.parametrize(
    ("idle_wait", "patience"),
    [(60.0, 60.0), (5.0, 60.0), (600.0, 600.0), (float("inf"), 60.0)],
)
def test_once_gives_up_on_a_worker_after_attempts_of_idle_wait_and_of_at_least_a_minute(idle_wait, patience):
    film = Film(replace(SETTINGS, idle_wait=idle_wait))
    *_, last = standings(film, int(patience / 5) - 1)
    assert not in_vain(film, last)
    last = standings(film, 2)[-1]
    assert in_vain(film, last)


def test_once_gives_up_on_a_worker_that_is_always_busy_whatever_becomes_of_a_more_urgent_one():
    film = Film()
    for _ in range(20):
        film.look(saturated(film, 300, 200), signal=False, waited=5.0)
        last = attempt(film, saturated(film, 300, 200), Result.CHANGED)
    assert film.state.delay.hindrance.kind is Kind.CHANGED
    assert in_vain(film, last)


@pytest.mark.parametrize("how", [hindrance.Seen(has_boundary=False), hindrance.Seen(False, is_deaf=True)])
def test_once_gives_up_after_a_minute_where_workers_cannot_be_signalled_at_all(how):
    film, server = Film(), FCGI if how.is_deaf else "Starman"
    why = hindrance.of_attempt(Result.BUSY, WorkerDetail(0, True, server), film.settings, how)
    film.state = policy.tried(film.state, has_boundary=False)
    for looks in range(20):
        verdict = film.look(saturated(film, 300, 200, server=server), signal=False)
        film.state = policy.not_sent(film.state, why)
        assert in_vain(film, verdict) is (bool(film.state.delay) and film.now - film.state.delay.since >= 60), looks
    assert verdict.standing == "overdue"
    assert in_vain(film, verdict)


def test_failed_attempts_of_a_listener_do_not_count_for_a_run_of_once():
    film = Film()
    standings(film, 20)
    film.state = restored(decode(encode(film.state)))
    verdict = film.look(saturated(film, 300, 200), signal=False)
    assert film.state.delay
    assert not in_vain(film, verdict)


@pytest.mark.parametrize("result", [Result.CHANGED, Result.FAILED])
def test_what_may_end_at_any_moment_is_waited_for(result):
    film = Film()
    *_, last = standings(film, 100, result)
    assert film.state.delay
    assert not in_vain(film, last)


# Of one worker that has to go, the least of all causes first.
CAUSES: tuple[tuple[Kind | None, str, dict[str, object]], ...] = (
    (None, "state", {}),
    (Kind.TOO_FEW, "state", {"too_few_since": BOOT}),
    (Kind.NOT_SERVING, "worker", {"serving": False}),
    (Kind.REFUSED, "worker", {"detail": WorkerDetail(300 * MIB, False)}),
    (Kind.STUCK, "state", {"stuck": (Reap(ProcessId(11, BOOT), BOOT, frozenset()),)}),
    (Kind.LOCKED, "state", {"refusal": hindrance.of_lock("locked by 4711")}),
    (Kind.NOT_REPLACED, "state", {"reap": Reap(ProcessId(12, BOOT), BOOT, frozenset(), left=BOOT + 3290)}),
    (Kind.SETTLING, "state", {"reap": Reap(ProcessId(12, BOOT), BOOT, frozenset(), left=BOOT + 3290.1)}),
    (Kind.LEAVING, "state", {"reap": Reap(ProcessId(12, BOOT), BOOT, frozenset())}),
    (Kind.SUSPENDED, "state", {"suspended": Suspension(Cause.MANAGER_LOST, ProcessId(1, BOOT))}),
    (Kind.PAUSED, "state", {"paused": True}),
    (Kind.OBSERVED, "settings", {"observe": True}),
)


def test_of_several_causes_the_one_counts_that_must_end_first():
    values: dict[str, Any] = {"worker": Film().worker(11, 300), "settings": SETTINGS, "state": PoolState()}
    candidates: tuple[policy.Candidate, ...] = ()
    for kind, what, changes in CAUSES:
        values[what] = values[what]._replace(**changes) if what == "worker" else replace(values[what], **changes)
        worker = values["worker"]
        if kind is Kind.LOCKED:  # it may go: only then what an attempt has found counts
            candidates = (policy.Candidate(worker, OverLimit(300, 150, "uss")),)
        pool = Pool("myapp", "RUNNING", "", ProcessId(1, BOOT), 3600.0, (worker,))
        look = policy.Look(pool, values["settings"], values["state"])
        choice = policy.Choice(pool, policy.Standing.DUE, look.state, candidates=candidates)
        why = delay.hindrance_in(look, choice, {worker: ()}, BOOT + 3600)
        assert (why.kind if why else None) is kind


def test_workers_none_of_which_both_serves_and_is_old_enough_are_too_young():
    film = Film()
    film.fork(11)
    pending = tuple(
        policy.Candidate(worker, OverLimit(300, 150, "uss"))
        for worker in (film.worker(11, 300), film.worker(12, 300)._replace(serving=False))
    )
    pool = Pool("myapp", "RUNNING", "", ProcessId(1, BOOT), 3600.0, tuple(each.worker for each in pending))
    choice = policy.Choice(pool, policy.Standing.DUE, film.state, pending=pending)
    assert delay.hindrance_in(policy.Look(pool, SETTINGS, film.state), choice, {}, film.now).kind is Kind.YOUNG
    choice = replace(choice, pending=pending[1:])
    assert delay.hindrance_in(policy.Look(pool, SETTINGS, film.state), choice, {}, film.now).kind is Kind.NOT_SERVING


def test_another_hindrance_takes_the_place_of_the_first_and_the_delay_goes_on():
    film = Film()
    standings(film, 6)
    assert film.state.delay.hindrance.kind is Kind.BUSY
    since = film.state.delay.since
    standings(film, 2, Result.NOT_PERMITTED)
    assert (film.state.delay.hindrance.kind, film.state.delay.since) == (Kind.NOT_PERMITTED, since)


def test_the_hindrance_has_its_present_cause():
    film = Film()
    standings(film, 6)
    since = film.state.delay.since
    for why in ("/a: No space left on device", "/b: Read-only file system"):
        film.state = policy.not_sent(film.state, hindrance.unsaved(why))
        film.look(saturated(film, 300, 200), signal=False)
        assert film.state.delay == Delay(since, hindrance.unsaved(why))


@pytest.mark.parametrize(("replaced_by", "missing"), [(None, "none has come in its place"), (12, "has not settled")])
def test_while_a_pool_settles_the_hindrance_says_whether_a_replacement_has_come(replaced_by, missing):
    gone = Reap(ProcessId(11, BOOT), BOOT, frozenset(), left=BOOT + 1, replaced_by=replaced_by and ProcessId(12, BOOT))
    film = Film()
    why = delay._leaving(gone, film.settings, BOOT + 2)
    assert why
    assert (why.kind, missing in why.text) == (Kind.SETTLING, True)


def test_a_first_attempt_that_takes_long_is_itself_what_stands_in_the_way():
    film = Film()
    verdict = film.look(saturated(film, 300, 200), signal=False, waited=None)
    film.state = policy.attempted(verdict.pool, verdict.candidates[0], film.state, film.now)
    look = policy.Look(verdict.pool, film.settings, film.state)
    due = {each.worker: (each.reason,) for each in verdict.candidates}
    for seconds, kind in ((delay.OVERDUE - delay.LATE - 0.1, None), (delay.OVERDUE - delay.LATE, Kind.BUSY)):
        why = delay.hindrance_in(look, verdict, due, film.now + seconds)
        assert (why and why.kind) is kind


def test_workers_that_are_due_only_now_count_in_a_delay_that_goes_on():
    film = Film()
    standings(film, 6)
    others = {pid: film.worker(pid, 250, server=FCGI) for pid in (13, 14)}
    verdict = attempt(film, {11: 20, 12: 20, **others})
    assert (verdict.standing, verdict.overdue) == ("overdue", 2)
