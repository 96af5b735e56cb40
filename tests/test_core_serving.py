"""Which children are workers and which serve, as far as sockets show; and how the policy uses that."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from test_core_policy import BOOT, MIB, SETTINGS, STAMP, Film, events, reaped

from supervisor_memreap.core import following, hindrance, policy, serving
from supervisor_memreap.core.counters import Counters
from supervisor_memreap.core.events import (
    NeverServed,
    NoReplacement,
    NotShared,
    Overdue,
    ServingUnknown,
    Settled,
    TooFewWorkers,
)
from supervisor_memreap.core.model import Fact, Pool, ProcessId, Sharing, Worker
from supervisor_memreap.core.policy import Look
from supervisor_memreap.core.state import PoolState, decode, encode, restored

SERVES, HOLDS, ELSEWHERE, APART, NONE, HIDDEN, UNREAD, TURN = Fact
MANAGER = ProcessId(1, BOOT)


def children(*facts: Fact | None, is_shared: bool = False) -> Pool:
    """A pool whose children 11, 12, … have these facts; None: nothing had to be read."""
    ids = [ProcessId(11 + number, BOOT) for number in range(len(facts))]
    workers = tuple(Worker(id, 60.0, 20 * MIB) for id in ids)
    known = {id: fact for id, fact in zip(ids, facts) if fact}
    return serving.sort_out(Pool("myapp", "RUNNING", manager=MANAGER, workers=workers), known, is_shared)


def judged(pool: Pool) -> dict[int, bool | None]:
    return {worker.id.pid: worker.serving for worker in pool.workers}


def test_a_child_seen_at_the_socket_of_the_pool_serves_and_one_that_only_holds_it_does_not_yet():
    pool = children(SERVES, HOLDS)
    assert (judged(pool), pool.helpers, pool.sharing) == ({11: True, 12: False}, (), Sharing.SHARED)


@pytest.mark.parametrize("fact", [APART, NONE])
def test_a_child_without_the_socket_of_the_pool_is_a_helper(fact):
    pool = children(SERVES, fact)
    assert (judged(pool), pool.helpers) == ({11: True}, (ProcessId(12, BOOT),))


@pytest.mark.parametrize("fact", [APART, NONE])
def test_a_helper_is_a_helper_even_if_all_others_are_known_to_serve(fact):
    pool = children(None, fact, is_shared=True)
    assert (judged(pool), pool.helpers) == ({11: None}, (ProcessId(12, BOOT),))


def test_children_with_a_socket_each_are_workers_that_must_not_be_signalled():
    pool = children(APART, APART)
    assert (judged(pool), pool.helpers, pool.sharing) == ({11: None, 12: None}, (), Sharing.APART)


def test_the_age_decides_where_no_worker_listens():
    pool = children(NONE, NONE)
    assert (judged(pool), pool.sharing) == ({11: None, 12: None}, Sharing.NONE)


def test_the_age_decides_where_sockets_are_unreadable():
    pool = children(HIDDEN, HIDDEN)
    assert (judged(pool), pool.sharing) == ({11: None, 12: None}, Sharing.HIDDEN)


def test_a_worker_not_read_in_time_does_not_serve_and_does_not_affect_the_others():
    pool = children(UNREAD, NONE)
    assert (judged(pool), pool.helpers, pool.sharing) == ({11: False, 12: None}, (), Sharing.NONE)


def test_a_worker_not_read_in_time_may_have_served_for_long_when_it_is_read():
    state, unread, read = PoolState(), children(UNREAD, HOLDS), children(SERVES, SERVES)
    for now, pool in ((BOOT + 600, unread), (BOOT + 605, read)):
        workers = tuple(worker._replace(age=now - BOOT) for worker in pool.workers)
        state, _ = following.follow(replace(pool, workers=workers), SETTINGS, state, now)
    # The other one was seen not to serve at the look before.
    assert state.population.serving == {ProcessId(11, BOOT): BOOT, ProcessId(12, BOOT): BOOT + 605}


def test_a_worker_with_a_shared_socket_that_waits_elsewhere_is_a_helper():
    pool = children(HOLDS, ELSEWHERE)
    assert (judged(pool), [helper.pid for helper in pool.helpers], pool.sharing) == ({11: False}, [12], Sharing.SHARED)


def test_an_old_worker_that_was_unknown_at_first_did_not_just_begin_to_serve():
    """Its size is not that of a fresh one."""
    film = Film()
    film.look({11: 300, 12: 300})
    film = served_from_now_on(film)
    for _ in range(6):
        film.look({11: 300, 12: 300})
    assert film.state.suspended is None


def served_from_now_on(film: Film) -> Served:
    served = Served()
    served.__dict__.update(film.__dict__ | {"starting": set(), "sharing": Sharing.SHARED})
    return served


class Served(Film):
    """Workers serve, but those `starting` do not yet."""

    def __init__(self, settings=SETTINGS):
        super().__init__(settings)
        self.starting: set[int] = set()
        self.unread: set[int] = set()
        self.sharing = Sharing.SHARED

    def worker(self, pid, mib, *args, **options):
        serving = pid not in self.starting | self.unread
        return super().worker(pid, mib, *args, **options)._replace(serving=serving)

    def decide(self, pool, now):
        unread = frozenset(worker.id for worker in pool.workers if worker.id.pid in self.unread)
        return super().decide(replace(pool, sharing=self.sharing, unread=unread), now)


def in_its_place(film: Served) -> None:
    """12 has left, and 14 is forked in its place, which does not serve yet."""
    assert reaped(film.look({11: 200, 12: 300, 13: 40})) == 12
    film.fork(14)
    film.starting = {14}


@pytest.mark.parametrize("what", ["starting", "unread"])  # unread: it could not be read in time at first
def test_settle_starts_when_the_replacement_was_first_seen_serving(what):
    film = Served()
    in_its_place(film)
    film.starting = set()
    setattr(film, what, {14})
    for _ in range(9):  # an import of 45 s
        verdict = film.look({11: 200, 13: 40, 14: 20})
        assert (reaped(verdict), verdict.standing) == (None, "settling")
    setattr(film, what, set())
    assert reaped(film.look({11: 200, 13: 40, 14: 20})) is None
    assert reaped(film.look({11: 200, 13: 40, 14: 20}, after=9.9)) is None
    assert reaped(film.look({11: 200, 13: 40, 14: 20}, after=0.1)) == 11


def test_a_due_worker_not_read_in_time_is_not_reported_as_never_serving():
    film = Served()
    film.unread = {11, 12}
    verdicts = [film.look({11: 200, 12: 40}, after=60) for _ in range(5)]
    assert [event for verdict in verdicts for event in events(verdict, NeverServed)] == []
    overdue = events(verdicts[-1], Overdue) or [each for verdict in verdicts for each in events(verdict, Overdue)]
    assert overdue[0].hindrance is hindrance.UNREAD


def test_the_settled_event_names_both_workers_and_the_seconds_until_serving():
    film = Served()
    in_its_place(film)
    film.look({11: 200, 13: 40, 14: 20}, after=8)
    film.starting = set()
    film.look({11: 200, 13: 40, 14: 20}, after=1)
    (settled,) = events(film.look({11: 200, 13: 40, 14: 20}, after=10), Settled)
    assert settled == Settled(*STAMP, ProcessId(12, BOOT), ProcessId(14, film.started[14]), 9.0)
    assert settled.text == "worker 14 has settled in place of 12; first seen serving 9.0 s after its start"


def test_the_settled_event_has_no_serving_time_where_the_age_decides():
    film = Film()
    film.look({11: 200, 12: 40})
    film.fork(13)
    film.look({12: 40, 13: 20})
    (settled,) = events(film.look({12: 40, 13: 20}, after=10), Settled)
    assert (settled.to_serve, settled.text) == (None, "worker 13 has settled in place of 11")


def test_a_worker_that_a_look_misses_serves_since_when_it_did_before():
    film = Served()
    film.look({11: 40, 12: 40})
    before = film.state.population.serving
    film.look({12: 40})
    film.look({11: 40, 12: 40})
    assert film.state.population.serving == before


def test_a_worker_seen_serving_is_not_read_again():
    film = Served()
    film.look({11: 40, 12: 40})
    film.starting = {11, 12}
    assert reaped(film.look({11: 200, 12: 40})) == 11


def test_a_worker_that_does_not_serve_yet_is_not_signalled_at_any_age():
    film = Served()
    film.starting = {13}
    film.fork(13, ago=100)
    verdict = film.look({11: 40, 12: 40, 13: 300})
    assert (reaped(verdict), verdict.standing) == (None, "due")
    assert [each.worker.id.pid for each in verdict.pending] == [13]


def test_another_worker_must_serve_not_just_be_old():
    film = Served()
    film.starting = {12}
    film.fork(12, ago=100)
    assert reaped(film.look({11: 300, 12: 40})) is None
    film.starting = set()
    assert reaped(film.look({11: 300, 12: 40})) == 11


def test_no_worker_of_three_is_reaped_while_another_starts_on_its_own():
    film = Served()
    film.look({11: 40, 12: 40, 13: 40})
    film.fork(14)
    film.starting = {14}
    assert reaped(film.look({11: 300, 12: 40, 14: 20})) is None
    film.starting = set()
    assert reaped(film.look({11: 300, 12: 40, 14: 20}, after=30)) == 11


def test_in_a_large_pool_a_worker_is_reaped_while_few_others_start():
    film = Served()
    others = dict.fromkeys(range(20, 27), 40)
    film.starting = {99}
    film.fork(99)
    assert reaped(film.look({11: 300, **others, 99: 20})) == 11


def test_children_that_come_and_go_without_serving_do_not_block_reaping_forever():
    film = Served()
    film.starting = set(range(100, 200))
    reaps = []
    for pid in range(100, 160):
        film.fork(pid)
        reaps.append(reaped(film.look({11: 300, 12: 40, 13: 40, pid: 20})))
    first = reaps.index(11)
    assert 5.0 * first == pytest.approx(2 * policy.STARTS, abs=5)


def test_the_last_process_of_a_group_that_serves_is_kept_while_supervisord_starts_others_again_and_again():
    film = Served(replace(SETTINGS, target="self", signal="TERM"))
    film.is_group = True
    film.slots = {11: "a", **{pid: "bc"[pid % 2] for pid in range(100, 200)}}
    film.starting = set(range(100, 200))
    for pid in range(100, 200, 2):  # as after a broken deployment, before which this memreap was not there
        film.fork(pid, pid + 1)
        assert reaped(film.look({11: 300, pid: 20, pid + 1: 20})) is None
    for _ in range(3):  # in BACKOFF
        assert reaped(film.look({11: 300}, after=1)) is None


def test_a_child_that_has_not_served_for_very_long_blocks_no_reap():
    film = Served()
    film.starting = {13}  # it has the pool's socket, and takes no part
    assert reaped(film.look({11: 300, 12: 40, 13: 40})) == 11


def test_a_due_worker_that_never_served_is_reported_once_and_blocks_the_pool():
    film = Served()
    film.starting = {13}
    verdicts = [film.look({11: 40, 12: 40, 13: 300}) for _ in range(4)]
    (reported,) = [event for verdict in verdicts for event in events(verdict, NeverServed)]
    assert "was never seen waiting for a connection or handling one: nothing sent" in reported.text
    (overdue,) = [event for verdict in verdicts for event in events(verdict, Overdue)]
    assert overdue.hindrance == hindrance.NOT_SERVING


def test_where_too_few_serve_no_worker_is_reaped_and_the_line_counts_the_serving_ones():
    film = Served()
    film.look({11: 40, 12: 40, 13: 40, 14: 40})
    for pid in (22, 23, 24):
        film.fork(pid, ago=50)
    film.starting = {22, 23, 24}
    reported = []
    for _ in range(14):
        verdict = film.look({11: 300, 22: 20, 23: 20, 24: 20})
        assert reaped(verdict) is None
        reported += events(verdict, TooFewWorkers)
    (few,) = reported
    assert few.text.startswith(
        "too few workers serve and are older than min_age=30 s (1 of the usual 4): nothing is sent"
    )


def test_a_replacement_that_starts_for_longer_than_grace_is_not_missing():
    film = Served(replace(SETTINGS, grace=20))
    in_its_place(film)
    for _ in range(9):
        verdict = film.look({11: 200, 13: 40, 14: 20})
        assert (reaped(verdict), events(verdict, NoReplacement)) == (None, [])


def test_workers_with_a_socket_each_are_not_signalled_and_one_line_names_the_remedy():
    film = Served()
    film.sharing = Sharing.APART
    verdicts = [film.look({11: 300, 12: 300}) for _ in range(3)]
    assert [reaped(verdict) for verdict in verdicts] == [None] * 3
    (reported,) = [event for verdict in verdicts for event in events(verdict, NotShared)]
    assert reported.text.startswith("worker 11 listens on its own socket")
    assert "let the manager open one socket for all its workers" in reported.text


def test_with_target_self_and_a_port_each_the_line_names_fcgi_program():
    assert "[fcgi-program], socket=" in NotShared(*STAMP, ProcessId(11, BOOT), True).text


@pytest.mark.parametrize(
    ("sharing", "why"),
    [
        (Sharing.NONE, "none of its workers listens"),
        (Sharing.HIDDEN, "no permission to read the sockets of its processes"),
    ],
)
def test_where_serving_is_unknown_workers_are_reaped_by_age_and_a_line_reports_it_once(sharing, why):
    film = Film()
    reported = []
    for _ in range(3):
        film.now += 5
        present = tuple(film.worker(pid, mib) for pid, mib in {11: 300, 12: 300, 13: 40}.items())
        pool = Pool("myapp", "RUNNING", "", MANAGER, film.now - BOOT, present, sharing=sharing)
        verdict = film.decide(pool, film.now)
        assert reaped(verdict) == 11
        reported += events(verdict, ServingUnknown)
    (unknown,) = reported
    assert unknown.text.startswith(why)
    assert "goes by its age" in unknown.text


def test_a_helper_that_leaves_needs_no_replacement():
    film = Served()
    assert reaped(film.look({11: 300, 12: 40, 13: 40})) == 11  # of 13 it is not known yet that it is a helper
    film.fork(14)
    helper = ProcessId(13, BOOT)
    for _ in range(3):
        film.now += 5
        present = tuple(film.worker(pid, 40) for pid in (12, 14))
        pool = Pool("myapp", "RUNNING", "", MANAGER, film.now - BOOT, present, helpers=(helper,))
        verdict = film.decide(pool, film.now)
    assert events(verdict, Settled)


def test_the_time_since_workers_serve_survives_a_restart_of_the_listener():
    film = Served()
    in_its_place(film)
    film.starting = set()
    film.look({11: 200, 13: 40, 14: 20})
    film.state = restored(decode(json.loads(json.dumps(encode(film.state)))), film.now)
    film.starting = {11, 13, 14}  # busy at that moment: nothing more is to be seen
    assert reaped(film.look({11: 200, 13: 40, 14: 20}, after=9.9)) is None
    assert reaped(film.look({11: 200, 13: 40, 14: 20}, after=0.1)) == 11


def test_a_state_file_of_an_older_version_has_no_serving_times():
    values = encode(PoolState(paused=True))
    del values["serving"]
    assert decode(values).population.serving == {}


def test_workers_that_serve_at_the_first_look_have_settled_long_ago():
    film = Served()
    (look,) = [Look(Pool("myapp", "RUNNING"), SETTINGS, film.state)]
    assert look.state.population.serving == {}
    film.look({11: 40, 12: 40})
    assert [policy.served_for(film.worker(pid, 40), film.state, film.now) for pid in (11, 12)] == [3605.0] * 2


def test_the_status_still_shows_the_freed_memory_when_the_replacement_settles():
    film = Served()
    in_its_place(film)
    film.starting = set()
    counters = Counters()
    for _ in range(3):
        for event in film.look({11: 200, 13: 40, 14: 20}).events:
            counters = counters.after(event)
    assert counters.message.startswith("worker 12 left after")
    assert counters.reaps.count == 1


@pytest.mark.parametrize("takes_turns", [False, True])
def test_a_worker_that_waits_for_a_lock_serves_only_where_its_server_takes_turns(takes_turns):
    worker = Worker(ProcessId(11, BOOT), 60.0, 20 * MIB)
    pool = Pool("myapp", "RUNNING", manager=MANAGER, workers=(worker,))
    sorted_out = serving.sort_out(pool, {worker.id: TURN}, True, lambda: takes_turns)
    assert judged(sorted_out) == {11: None if takes_turns else False}


def test_where_nothing_had_to_be_read_the_pool_is_as_it_was():
    before = replace(children(SERVES), sharing=Sharing.SHARED)
    assert serving.sort_out(before, {}, is_shared=True) == before
