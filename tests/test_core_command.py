"""Commands: what is one, what is none, and what each makes of a pool."""

from __future__ import annotations

from dataclasses import replace

import pytest

from supervisor_memreap.core.command import Command, CommandError, carry_out, parse
from supervisor_memreap.core.model import Pool, ProcessId, Worker
from supervisor_memreap.core.policy import Leaving, PoolState, Suspension

MANAGER = ProcessId(1, 0.5)
WORKERS = tuple(Worker(ProcessId(pid, 1.0), 60.0, pid * 1024**2) for pid in (11, 13, 12))
POOL = Pool("myapp", "RUNNING", "", MANAGER, 60.0, WORKERS)


@pytest.mark.parametrize(
    ("text", "command"),
    [
        ("pause myapp", Command("pause", "myapp")),
        ("resume all id=1a-2B", Command("resume", "all", 0, "1a-2B")),
        ("reap group:name 4242", Command("reap", "group:name", 4242)),
        ("  roll\tmyapp\n", Command("roll", "myapp")),
    ],
)
def test_what_is_a_command(text, command):
    assert parse(text) == command


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "'' is no command; there are pause, resume, reap, roll"),
        ("id=1", "'' is no command"),
        ("Pause myapp", "'Pause' is no command"),
        ("pause", "no pool; write pause NAME or all"),
        ("reap", "no pool; write reap NAME"),
        ("reap all", "one pool, not all"),
        ("roll all", "one pool, not all"),
        ("reap myapp 0", "'0' is no pid"),
        ("reap myapp 99999999999", "is no pid"),
        ("reap myapp 1 2", "'1' is too much"),
        ("pause myapp now", "'now' is too much"),
        ("pause a=b", "no pool"),
        ("pause :", "no pool"),
        ("x" * 100_000, "is no command"),
    ],
)
def test_what_is_none_is_one_line(text, said):
    with pytest.raises(CommandError) as caught:
        parse(text)
    assert said in str(caught.value)
    assert len(str(caught.value)) < 200


def test_reap_asks_for_the_largest_or_the_one_that_is_named():
    assert carry_out(parse("reap myapp"), POOL, PoolState())[0].asked == {ProcessId(13, 1.0)}
    assert carry_out(parse("reap myapp 11"), POOL, PoolState())[0].asked == {ProcessId(11, 1.0)}


def test_roll_asks_for_all():
    state, said = carry_out(parse("roll myapp"), POOL, PoolState())
    assert state.asked == {worker.id for worker in WORKERS}
    assert said == "all 3 workers are to be replaced, one at a time"


def test_a_pause_takes_back_what_was_asked_for():
    state, _ = carry_out(parse("roll myapp"), POOL, PoolState())
    state, _ = carry_out(parse("pause myapp"), POOL, state)
    assert (state.paused, state.asked) == (True, frozenset())
    assert not carry_out(parse("resume myapp"), POOL, state)[0].paused


@pytest.mark.parametrize(
    ("pool", "state", "said"),
    [
        (POOL, PoolState(paused=True), "myapp is paused: memreap resume myapp first"),
        (POOL, PoolState(suspended=Suspension("its limit is too low", MANAGER)), "suspended (its limit is too low)"),
        (Pool("myapp", "STOPPED"), PoolState(), "myapp has no workers: it is STOPPED"),
    ],
)
@pytest.mark.parametrize("text", ["reap myapp", "roll myapp"])
def test_where_nobody_may_go_that_is_said(pool, state, said, text):
    with pytest.raises(CommandError) as caught:
        carry_out(parse(text), pool, state)
    assert said in str(caught.value)


def test_a_worker_that_is_not_there_is_refused_with_those_that_are():
    with pytest.raises(CommandError, match="myapp has no worker 99; there are 11, 13, 12"):
        carry_out(parse("reap myapp 99"), POOL, PoolState())


def test_reap_without_a_pid_never_means_one_that_was_signalled_already():
    eleven, thirteen, twelve = (worker.id for worker in WORKERS)
    state = PoolState(leaving=Leaving(thirteen, 0.0, frozenset()), stuck=(Leaving(twelve, 0.0, frozenset()),))
    after, said = carry_out(parse("reap myapp"), POOL, state)
    assert (said, after.asked) == ("worker 11 is to be replaced", {eleven})
    with pytest.raises(CommandError, match="all of its workers have been signalled already"):
        carry_out(parse("reap myapp"), replace(POOL, workers=WORKERS[1:]), state)


def test_a_worker_that_was_signalled_already_is_not_asked_for_again_by_its_pid_nor_by_roll():
    thirteen = WORKERS[1].id
    state = PoolState(stuck=(Leaving(thirteen, 0.0, frozenset()),))
    with pytest.raises(CommandError, match="worker 13 has been signalled already"):
        carry_out(parse("reap myapp 13"), POOL, state)
    after, said = carry_out(parse("roll myapp"), POOL, state)
    assert said == "all 2 workers are to be replaced, one at a time"
    assert {one.pid for one in after.asked} == {11, 12}
