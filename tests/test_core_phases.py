"""The phases of a reap: from the attempt to the replacement, and what a restart or an older file makes of each."""

from __future__ import annotations

from dataclasses import replace

import pytest
from test_core_policy import BOOT, SETTINGS, Film

from supervisor_memreap.core import policy
from supervisor_memreap.core.events import Stuck
from supervisor_memreap.core.model import ProcessId
from supervisor_memreap.core.state import (
    TRANSITIONS,
    Phase,
    PoolState,
    Population,
    Reap,
    decode,
    encode,
    is_worth_keeping,
    persistent_part_differs,
    restored,
)

WORKER = ProcessId(11, BOOT)
# What a version without phases saved of a worker that it had signalled.
OLDER = {
    "worker": [11, BOOT],
    "signalled": 5.0,
    "before": [[11, BOOT]],
    "started_after": 0.5,
    "sent": True,
    "again": False,
    "forced": None,
    "left": None,
    "reported": False,
    "replaced_by": None,
    "overdue": False,
    "slot": "",
}


def a_reap(phase: Phase) -> Reap:
    return Reap(WORKER, 5.0, frozenset([WORKER]), phase=phase, since=5.0)


def test_the_next_phase_keeps_the_data_and_the_time_of_the_previous_one():
    reap = a_reap(Phase.SIGNALLED).to(Phase.GONE, 9.0, left=8.0)
    assert (reap.phase, reap.since, reap.signalled, reap.left) == (Phase.GONE, 9.0, 5.0, 8.0)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("ATTEMPTED", "AGAIN"),
        ("ATTEMPTED", "FORCED"),
        ("ATTEMPTED", "GONE"),
        ("SIGNALLED", "ATTEMPTED"),
        ("FORCED", "SIGNALLED"),
        ("GONE", "AGAIN"),
        ("GONE", "FORCED"),
        ("REPLACED", "FORCED"),
        ("REPLACED", "GONE"),
    ],
)
def test_no_signal_follows_in_a_phase_that_forbids_it(before, after):
    with pytest.raises(AssertionError, match=f"{before.lower()} to {after.lower()}"):
        a_reap(Phase[before]).to(Phase[after], 9.0)


def test_every_phase_has_its_line_in_the_table_and_is_reached():
    assert TRANSITIONS.keys() == set(Phase)
    assert {Phase.ATTEMPTED}.union(*TRANSITIONS.values()) == set(Phase)


def test_a_reap_goes_through_all_phases_and_is_over_when_its_replacement_has_settled():
    film = Film(replace(SETTINGS, stuck="TERM"))
    phases = []

    def look(*pids: int, after: float = 5.0, signal: bool = True) -> None:
        film.look({pid: 300 if pid == 11 else 20 for pid in pids}, after=after, signal=signal)
        phases.append(film.state.reap and film.state.reap.phase)

    look(11, 12)
    film.state = policy.signalled_again(film.state, film.now)
    look(11, 12)
    look(11, 12, after=SETTINGS.grace)
    look(12)
    film.fork(13)
    look(12, 13)
    look(12, 13, after=SETTINGS.settle)
    assert phases == [Phase.SIGNALLED, Phase.AGAIN, Phase.FORCED, Phase.GONE, Phase.REPLACED, None]


@pytest.mark.parametrize("is_sent", [True, False])
def test_a_worker_that_reappears_after_it_was_reported_gone_is_not_signalled_again(is_sent):
    film = Film(replace(SETTINGS, stuck="KILL"))
    film.look({11: 300, 12: 20})
    film.state = replace(film.state, reap=replace(film.state.reap, is_sent=is_sent))
    film.look({12: 20})
    assert film.look({11: 300, 12: 20}, after=policy.AGAIN).again is None
    assert (film.state.reap.phase, film.state.reap.left) == (Phase.GONE, None)
    verdict = film.look({11: 300, 12: 20}, after=SETTINGS.grace, signal=False)
    assert (verdict.force, film.state.leaving) == (None, None)
    assert [type(event) for event in verdict.events] == [Stuck] * is_sent


def test_a_worker_that_may_have_missed_its_signal_is_not_forced_when_a_second_attempt_starts_at_grace():
    film = Film(replace(SETTINGS, stuck="KILL"))
    film.look({11: 300, 12: 20})
    film.state = replace(film.state, reap=replace(film.state.reap, is_sent=False))
    assert film.look({11: 300, 12: 20}, after=SETTINGS.grace - 1).again
    film.state = policy.signalled_again(film.state, film.now)
    verdict = film.look({11: 300, 12: 20}, after=2, signal=False)
    assert (verdict.force, film.state.leaving.phase) == (None, Phase.AGAIN)  # it may be sent now
    verdict = film.look({11: 300, 12: 20}, after=policy.AGAIN, signal=False)
    assert (verdict.force, film.state.leaving, verdict.events) == (None, None, ())


def test_a_second_signal_is_only_for_the_worker_that_is_leaving_and_has_not_left():
    leaving = a_reap(Phase.SIGNALLED)
    states = (PoolState(reap=leaving), PoolState(reap=leaving, paused=True), PoolState(reap=replace(leaving, left=9.0)))
    assert [policy.may_signal_again(WORKER, SETTINGS, state) for state in states] == [True, False, False]
    assert not policy.may_signal_again(ProcessId(12, BOOT), SETTINGS, states[0])
    assert not policy.may_signal_again(WORKER, SETTINGS, PoolState())


def test_a_second_signal_counts_as_the_first_if_the_first_was_uncertain():
    film = Film(replace(SETTINGS, stuck="KILL"))
    film.look({11: 300, 12: 20})
    film.state = replace(film.state, reap=replace(film.state.reap, is_sent=False))
    film.state = policy.was_signalled_again(policy.signalled_again(film.state, film.now))
    assert film.look({11: 300, 12: 20}, after=SETTINGS.grace).force.id.pid == 11


@pytest.mark.parametrize("phase", Phase)
def test_after_a_restart_an_attempt_counts_as_sent_and_the_other_phases_are_unchanged(phase):
    state = restored(decode(encode(PoolState(reap=a_reap(phase)))))
    assert state.attempted is None
    if phase is Phase.ATTEMPTED:
        assert state.leaving == replace(a_reap(Phase.SIGNALLED), is_sent=False)
    else:
        assert state.leaving == a_reap(phase)


@pytest.mark.parametrize(
    ("flags", "phase"),
    [
        ({"sent": False}, Phase.SIGNALLED),
        ({}, Phase.SIGNALLED),
        ({"again": True}, Phase.AGAIN),
        ({"again": True, "forced": 7.0}, Phase.FORCED),
        ({"forced": 7.0, "left": 8.0}, Phase.FORCED),
        ({"forced": 7.0, "left": 8.0, "reported": True}, Phase.GONE),
        ({"left": 8.0, "reported": True, "replaced_by": [13, BOOT]}, Phase.REPLACED),
    ],
)
def test_a_state_file_of_an_older_version_is_read_and_its_reap_continues(flags, phase):
    values = encode(PoolState())
    del values["reap"]
    state = decode({**values, "leaving": {**OLDER, **flags}})
    reap = state.leaving
    assert reap
    assert reap.is_sent == flags.get("sent", True)
    assert (reap.phase, reap.worker, reap.since) == (phase, WORKER, 7.0 if "forced" in flags else 5.0)
    assert (reap.left, reap.replaced_by is not None) == (flags.get("left"), phase is Phase.REPLACED)


def test_an_attempt_saved_by_a_version_without_phases_may_have_sent_its_signal():
    values = encode(PoolState())
    del values["reap"]
    reap = decode({**values, "leaving": None, "attempted": {**OLDER, "sent": False}}).leaving
    assert (reap.worker, reap.phase, reap.is_sent) == (WORKER, Phase.SIGNALLED, False)


def test_what_differs_in_the_population_alone_is_saved():
    shrinks = replace(PoolState(), population=Population(shrinks=True))
    assert persistent_part_differs(PoolState(), shrinks)
    assert not persistent_part_differs(PoolState(), replace(PoolState(), looked=1.0))


@pytest.mark.parametrize(("replaces", "is_kept"), [(False, True), (True, False), (None, False)])
def test_that_a_manager_does_not_replace_its_workers_is_kept(replaces, is_kept):
    assert is_worth_keeping(replace(PoolState(), population=Population(replaces=replaces))) is is_kept


def test_the_settings_of_a_version_with_other_keys_count_as_changed():
    saved = encode(PoolState(settings=SETTINGS))
    assert decode(saved).settings == SETTINGS
    assert decode({**saved, "settings": {**saved["settings"], "colour": "red"}}).settings is None


def test_an_attempt_that_ended_without_a_word_counts_as_signalled_and_a_state_without_one_stays():
    after = policy.unknown(PoolState(reap=a_reap(Phase.ATTEMPTED)), 9.0)
    assert after.reap == replace(a_reap(Phase.SIGNALLED), since=9.0, is_sent=False)
    for other in (PoolState(), PoolState(reap=a_reap(Phase.GONE))):
        assert policy.unknown(other, 9.0) is other


def test_a_worker_that_cannot_be_forced_before_the_state_is_saved_is_not_forced_until_then():
    film = Film(replace(SETTINGS, stuck="KILL"))
    film.look({11: 300, 12: 40})
    due = film.look({11: 300, 12: 40}, after=SETTINGS.grace)
    assert due.force
    film.state = policy.force_later(film.state, film.now)
    assert film.look({11: 300, 12: 40}).force is None
    film.state = replace(film.state, is_unsaved=False)
    assert film.look({11: 300, 12: 40}).force
