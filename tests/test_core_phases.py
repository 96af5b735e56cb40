"""The phases of a reap: from the attempt to the replacement, and what a restart or an older file makes of each."""

from __future__ import annotations

from dataclasses import replace

import pytest
from test_core_policy import BOOT, SETTINGS, Film

from supervisor_memreap.core import policy
from supervisor_memreap.core.model import ProcessId
from supervisor_memreap.core.state import TRANSITIONS, Phase, PoolState, Reap, decode, encode, restored

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


@pytest.mark.parametrize("after", Phase)
@pytest.mark.parametrize("before", Phase)
def test_a_reap_goes_only_where_the_table_lets_it(before, after):
    if after in TRANSITIONS[before]:
        reap = a_reap(before).to(after, 9.0, left=8.0)
        assert (reap.phase, reap.since, reap.signalled, reap.left) == (after, 9.0, 5.0, 8.0)
    else:
        with pytest.raises(AssertionError, match=f"{before.value} to {after.value}"):
            a_reap(before).to(after, 9.0)


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


def test_a_worker_that_is_there_after_all_was_reported_as_gone_and_is_not_signalled_again():
    film = Film()
    film.look({11: 300, 12: 20})
    film.look({12: 20})
    assert film.look({11: 300, 12: 20}, after=policy.AGAIN).again is None
    assert (film.state.reap.phase, film.state.reap.left) == (Phase.GONE, None)
    assert film.look({12: 20}).events == ()


@pytest.mark.parametrize("phase", Phase)
def test_after_a_restart_an_attempt_counts_as_sent_and_all_else_is_as_it_was(phase):
    state = restored(decode(encode(PoolState(reap=a_reap(phase)))))
    assert state.attempted is None
    assert state.leaving == a_reap(Phase.UNKNOWN if phase is Phase.ATTEMPTED else phase)


@pytest.mark.parametrize(
    ("flags", "phase"),
    [
        ({"sent": False}, Phase.UNKNOWN),
        ({}, Phase.SIGNALLED),
        ({"again": True}, Phase.AGAIN),
        ({"again": True, "forced": 7.0}, Phase.FORCED),
        ({"forced": 7.0, "left": 8.0}, Phase.FORCED),
        ({"forced": 7.0, "left": 8.0, "reported": True}, Phase.GONE),
        ({"left": 8.0, "reported": True, "replaced_by": [13, BOOT]}, Phase.REPLACED),
    ],
)
def test_a_file_of_an_older_version_is_read_and_its_reap_goes_on(flags, phase):
    values = encode(PoolState())
    del values["reap"]
    state = decode({**values, "leaving": {**OLDER, **flags}})
    reap = state.leaving
    assert reap
    assert (reap.phase, reap.worker, reap.since) == (phase, WORKER, 7.0 if "forced" in flags else 5.0)
    assert (reap.left, reap.replaced_by is not None) == (flags.get("left"), phase is Phase.REPLACED)
