"""What the metrics are made of: messages in, numbers out."""

from __future__ import annotations

import pytest
from support.messages import LIMIT, MIB, event, left, look, reap, row, signalled, watching, worker
from test_core_events import EXAMPLES

from supervisor_memreap.core import events
from supervisor_memreap.core.model import ProcessId
from supervisor_memreap.core.reasons import REASONS
from supervisor_memreap.core.shortage import Kind, Shortage
from supervisor_memreap.outputs import fields
from supervisor_memreap.outputs.tally import BUCKETS, ERRORS, REFUSED, PoolTally, Tally, is_blind

EVENTS: list[events.Event] = [happened for happened, _ in EXAMPLES]


def tally_of(*messages) -> Tally:
    tally = Tally()
    for message in messages:
        tally.take(message, 0.0)
    return tally


def pool_of(*messages) -> PoolTally:
    return tally_of(look(row()), *messages).pools()["myapp"]


def counted(counter) -> dict[str, int]:
    return {key: count for key, count in counter.items() if count}


def test_all_counters_of_a_watched_pool_start_at_0_so_that_rate_sees_the_first():
    pool = pool_of()
    assert set(pool.reaps) == {*(reason.setting or "requested" for reason in REASONS), "unknown"}
    assert set(pool.refused) == set(REFUSED)
    assert not any((*pool.reaps.values(), *pool.refused.values(), pool.freed, pool.stuck, *pool.left))
    assert tally_of(watching("shop")).pools() == {"shop": PoolTally()}


def test_a_reap_counts_when_the_worker_has_left_by_the_reason_of_its_signal():
    assert counted(pool_of(signalled()).reaps) == {}
    assert counted(pool_of(*reap()).reaps) == {"limit": 1}


def test_a_worker_that_was_signalled_before_the_restart_is_reaped_for_an_unknown_reason():
    assert counted(pool_of(left()).reaps) == {"unknown": 1}


def test_a_reused_pid_has_the_reason_of_its_own_time():
    assert counted(pool_of(*reap(7), left(7)).reaps) == {"limit": 1, "unknown": 1}


def test_the_reasons_of_workers_that_never_leave_do_not_accumulate():
    pool = pool_of(*(signalled(pid) for pid in range(1, 1001)), left(1000), left(1))
    assert counted(pool.reaps) == {"limit": 1, "unknown": 1}
    assert len(pool._leaving) < 200


def test_returned_is_freed_minus_taken_and_never_negative():
    assert pool_of(left(freed=300, taken=100), left(freed=5, taken=100)).freed == 200 * MIB
    unknown = events.Left("myapp", 1.0, worker(), 0.1, None)
    assert pool_of(event(unknown)).freed == 0


@pytest.mark.parametrize(
    ("after", "bucket"), [(0.0, 0), (0.01, 0), (0.011, 1), (300.0, len(BUCKETS) - 1), (301.0, len(BUCKETS))]
)
def test_the_time_to_leave_is_in_the_first_bucket_that_holds_it(after, bucket):
    pool = pool_of(left(after=after))
    assert [number for number, count in enumerate(pool.left) if count] == [bucket]
    assert pool.leaving_took == after


def test_a_stuck_worker_counts_once_even_if_a_stronger_signal_did_not_help():
    stuck = events.Stuck("myapp", 1.0, worker(), 300.0, "HUP", next="TERM")
    again = events.Stuck("myapp", 1.0, worker(), 600.0, "HUP", forced="TERM")
    assert pool_of(event(stuck), event(again)).stuck == 1


def test_would_be_reaped_is_counted_by_reason():
    assert counted(pool_of(event(events.WouldReap("myapp", 1.0, worker(), LIMIT))).would_reap) == {"limit": 1}


@pytest.mark.parametrize("happened", EVENTS, ids=lambda each: type(each).__name__)
def test_each_event_of_a_due_worker_to_which_nothing_is_sent_is_a_refused_signal(happened):
    others = (events.LeftByItself, events.WouldReap)  # nothing is wrong
    says = any(words in happened.text for words in ("nothing sent", "nothing is sent", "could not be sent"))
    refuses = says and not isinstance(happened, others)
    pool = tally_of(event(happened)).pools().get(happened.pool, PoolTally())
    assert sum(pool.refused.values()) == (1 if refuses else 0), happened.text


def test_each_kind_of_refused_signal_and_error_is_an_event_class():
    assert {*REFUSED, *ERRORS} <= {fields.of(happened)["event"] for happened in EVENTS}


@pytest.mark.parametrize("happened", EVENTS, ids=lambda each: type(each).__name__)
def test_every_event_is_accepted(happened):
    tally_of(event(happened), look(row()))


def test_errors_are_errors_of_memreap_even_in_a_pool():
    tally = tally_of(look(row()), event(events.InternalError("myapp", 1.0, "KeyError", "a.py:1")))
    assert counted(tally.errors) == {"internal_error": 1}
    assert set(tally.errors) == set(ERRORS)


def test_an_error_lasts_until_a_look_clears_it_and_is_unknown_without_looks():
    tally = Tally()
    assert tally.lasting_errors(0.0) == {}
    tally.take(look(lasting=("settings_refused", "memory_short")), 0.0)
    lasting = tally.lasting_errors(1.0)
    assert [kind for kind, lasts in lasting.items() if lasts] == ["settings_refused"]
    assert set(lasting) < set(ERRORS)
    tally.take(look(), 5.0)
    assert not any(tally.lasting_errors(6.0).values())
    assert tally.lasting_errors(10_000.0) == {}


def test_an_unrelieved_shortage_belongs_to_its_pool_or_to_the_host():
    def short(pool: str, kind: Kind):
        return event(events.NotRelieved(pool, 1.0, Shortage(kind, pool or "the host", 2.0, 1.0, 1.0), 0, 0, 600.0))

    tally = tally_of(look(row()), short("myapp", Kind.TOTAL), short("", Kind.HEADROOM))
    assert counted(tally.pools()["myapp"].not_relieved) == {"total": 1}
    assert counted(tally.of_no_pool.not_relieved) == {"headroom": 1}


def test_oom_kills_belong_to_their_pool_or_to_none():
    worker = ProcessId(7, 1.0)
    killed = event(events.OomKilled("myapp", 1.0, "the host", None, 3, (worker,), None, MIB, 1, 1))
    tally = tally_of(look(row()), killed, killed, event(events.OomKilledOther("", 1.0, "the host", None, 2)))
    assert (tally.pools()["myapp"].oom_killed, tally.of_no_pool.oom_killed) == (2, 2)


def test_a_removed_pool_disappears_and_starts_over_when_it_returns():
    tally = tally_of(watching("myapp", "shop"), look(row("myapp"), row("shop")), *reap(pool="shop"))
    for message in (watching("myapp"), look(row("myapp"))):
        tally.take(message, 1.0)
    assert set(tally.pools()) == {"myapp"}
    tally.take(look(row("shop")), 2.0)
    assert counted(tally.pools()["shop"].reaps) == {}


# What must never look fine.


def test_a_watched_pool_missing_from_the_look_is_blind():
    tally = tally_of(watching("myapp", "shop"), look(row("myapp")))
    assert not is_blind(tally.row("myapp", 1.0))
    assert is_blind(tally.row("shop", 1.0))


def test_a_pool_is_blind_before_the_first_look():
    assert is_blind(tally_of(watching("myapp")).row("myapp", 0.0))


@pytest.mark.parametrize("period", [5.0, 60.0, 3600.0])
def test_a_pool_is_blind_after_two_ticks_without_a_look_and_not_before(period):
    tally = tally_of(look(row(), period=period))
    assert not is_blind(tally.row("myapp", period * 2 + 4))
    assert is_blind(tally.row("myapp", period * 2 + 6))
    tally.take(look(row(), period=period), 10_000.0)
    assert not is_blind(tally.row("myapp", 10_001.0))


def test_before_the_first_tick_the_period_is_not_known_and_a_pool_is_blind_after_two_minutes():
    tally = tally_of(look(row(), period=None))
    assert not tally.is_old(2 * 60.0)
    assert tally.is_old(2 * 60.0 + 6)


def test_a_blind_pool_is_blind_in_a_fresh_look():
    assert is_blind(row(standing="blind"))
    assert not is_blind(row(standing="suspended"))
