"""Commands: what is one, what is none, and what each makes of a pool."""

from __future__ import annotations

from dataclasses import replace

import pytest

from supervisor_memreap.core import hindrance
from supervisor_memreap.core.carryout import carry_out, carry_out_in_all
from supervisor_memreap.core.command import (
    Command,
    CommandError,
    UnknownName,
    chosen,
    id_of,
    means,
    named,
    parse,
    unknown,
)
from supervisor_memreap.core.model import Pool, ProcessId, Worker, WorkerDetail
from supervisor_memreap.core.settings import PoolSettings
from supervisor_memreap.core.state import Cause, Delay, PoolState, Reap, Suspension

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
        ("roll all", Command("roll", "all")),
        ("pause many:*", Command("pause", "many:*")),
        ("pause all id=1 until=1700000000.5", Command("pause", "all", 0, "1", 1700000000.5)),
        ("pause all until=1700000000 id=1", Command("pause", "all", 0, "1", 1700000000.0)),
        ("doctor until=1", Command("doctor", "all", 0, "", 1.0)),
    ],
)
def test_valid_commands_are_parsed(text, command):
    assert parse(text) == command


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "unknown command ''; the commands are reap, roll, pause, resume, doctor"),
        ("id=1", "unknown command ''"),
        ("Pause myapp", "unknown command 'Pause'"),
        ("pause", "no pool given; use pause NAME or all"),
        ("roll", "no pool given; use roll NAME or all"),
        ("reap", "no pool given; use reap NAME [PID]"),
        ("reap all", "name one pool; for all workers of all pools, use roll all"),
        ("reap myapp 0", "'0' is not a pid"),
        ("reap myapp 99999999999", "is not a pid"),
        ("reap myapp 1 2", "unexpected argument '2'"),
        ("pause myapp now", "unexpected argument 'now'"),
        ("doctor myapp", "doctor: unexpected argument 'myapp'"),
        ("pause a=b", "no pool"),
        ("pause :", "no pool"),
        ("pause a until=soon", "'until=soon': not id=LETTERS-AND-DIGITS or until=SECONDS-SINCE-1970"),
        ("pause a id=<1>", "'id=<1>': not id="),
        ("x" * 100_000, "a command has at most 1000 characters, this one has 100000"),
        ("x" * 900, "unknown command"),
        (f"pause {'x' * 2000} id=1", "a command has at most 1000 characters, this one has 2011"),
    ],
)
def test_an_invalid_command_is_refused_in_one_line(text, expected):
    with pytest.raises(CommandError) as caught:
        parse(text)
    assert expected in str(caught.value)
    assert len(str(caught.value)) < 300
    assert "x" * 101 not in str(caught.value)


def test_the_sender_of_an_invalid_command_gets_an_answer_too():
    assert id_of("frobnicate id=1a") == "1a"
    assert id_of(f"pause {'x' * 100_000} id=1a until=1700000000") == "1a"
    assert id_of("pause myapp") == id_of("") == id_of("id=1 pause myapp all") == ""


POOLS = ["many:many_00", "many:many_01", "web", "web:api"]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("all", POOLS),
        ("many", POOLS[:2]),
        ("many:*", POOLS[:2]),
        ("many_01", POOLS[1:2]),
        ("many:many_01", POOLS[1:2]),
        ("web", POOLS[2:]),
        ("web:*", POOLS[2:]),
        ("web:web", POOLS[2:3]),
        ("api", POOLS[3:]),
        ("man", []),
        ("", []),
    ],
)
def test_a_name_matches_a_pool_a_process_or_a_whole_group(name, expected):
    assert named(name, POOLS) == expected


def test_an_unknown_name_is_answered_with_the_known_ones():
    assert unknown("x", ["a", "b"]) == "no pool 'x' is watched; there are: a, b"
    assert unknown("x", []) == "no pool 'x' is watched; there are: none"
    assert len(unknown("x" * 1000, [f"a{number}" for number in range(1000)])) < 300


def pools(**states: PoolState) -> dict[str, tuple[Pool, PoolState]]:
    return {name: (replace(POOL, name=name), state) for name, state in states.items()}


def test_roll_all_rolls_every_pool_it_can_and_reports_the_others():
    both = pools(a=PoolState(), b=PoolState(paused=True))
    first, second, third = carry_out_in_all(parse("roll all"), {**both, "c": (Pool("c", "STOPPED"), PoolState())})
    assert first.state.requested == {worker.id for worker in WORKERS}
    assert first.line == "a: all 3 workers will be replaced, one at a time"
    assert (second.state, second.refused, second.line) == (
        None,
        True,
        "b is paused: send resume b first",
    )
    assert (third.state, third.refused, third.line) == (None, False, "c: no workers to replace: it is STOPPED")


def test_a_command_that_no_pool_can_carry_out_is_refused():
    with pytest.raises(CommandError, match="a is paused: send resume a first; b is paused"):
        carry_out_in_all(parse("roll all"), pools(a=PoolState(paused=True), b=PoolState(paused=True)))


def test_reap_of_a_group_needs_one_pool_or_a_pid():
    both = pools(**{"g:a": PoolState(), "g:b": PoolState()})
    with pytest.raises(CommandError, match="reap: 'g' matches 2 pools; name one of them: g:a, g:b"):
        carry_out_in_all(parse("reap g"), both)
    with pytest.raises(CommandError, match="'g' has no worker 99"):
        carry_out_in_all(parse("reap g 99"), both)
    other = {"g:c": (replace(POOL, name="g:c", workers=(Worker(ProcessId(21, 1.0), 60.0, 1),)), PoolState())}
    (only,) = carry_out_in_all(parse("reap g 21"), {**both, **other})
    assert only.line == "g:c: worker 21 will be replaced"


def test_reap_of_a_pool_named_as_its_group_means_the_pool():
    (only,) = carry_out_in_all(parse("reap web"), pools(**{"web": PoolState(), "web:api": PoolState()}))
    assert only.pool == "web"


def test_a_pause_reports_the_requests_that_it_drops():
    state, answer = carry_out(parse("pause myapp"), POOL, carry_out(parse("roll myapp"), POOL, PoolState())[0])
    assert state.requested == frozenset()
    assert answer == (
        "paused: no worker is signalled until the command resume myapp; 3 requested workers will not"
        " be replaced: reap or roll again afterwards"
    )


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("roll myapp", "all 3 workers will be replaced, one at a time; 3 of them not before min_age=2 min"),
        ("reap myapp 11", "worker 11 will be replaced; not before min_age=2 min"),
    ],
)
def test_a_request_reports_that_a_young_worker_must_reach_min_age(text, answer):
    assert carry_out(parse(text), POOL, PoolState(settings=PoolSettings(min_age=120.0)))[1] == answer


def test_reap_requests_the_largest_worker_or_the_one_with_the_pid():
    assert carry_out(parse("reap myapp"), POOL, PoolState())[0].requested == {ProcessId(13, 1.0)}
    assert carry_out(parse("reap myapp 11"), POOL, PoolState())[0].requested == {ProcessId(11, 1.0)}


def test_roll_requests_all_workers():
    state, answer = carry_out(parse("roll myapp"), POOL, PoolState())
    assert state.requested == {worker.id for worker in WORKERS}
    assert answer == "all 3 workers will be replaced, one at a time"


def test_a_pause_withdraws_requests():
    state, _ = carry_out(parse("roll myapp"), POOL, PoolState())
    state, _ = carry_out(parse("pause myapp"), POOL, state)
    assert (state.paused, state.requested) == (True, frozenset())
    assert not carry_out(parse("resume myapp"), POOL, state)[0].paused


def test_a_resume_where_nothing_was_held_says_so():
    assert carry_out(parse("resume myapp"), POOL, PoolState()) == (PoolState(), "was neither paused nor suspended")
    assert carry_out(parse("resume myapp"), POOL, PoolState(paused=True))[1] == "resumed"


NOT_REPLACED = Reap(ProcessId(10, 1.0), 0.0, frozenset(), left=1.0, overdue=True)


@pytest.mark.parametrize(
    ("state", "answer"),
    [
        (PoolState(reap=NOT_REPLACED), "goes on without the replacement of worker 10"),
        (PoolState(reap=NOT_REPLACED, paused=True), "resumed; goes on without the replacement of worker 10"),
        (
            PoolState(delay=Delay(1.0, hindrance.too_few(PoolSettings()))),
            "takes the present number of workers as the usual one",
        ),
        (PoolState(manager_losses=2), "the exits of its manager so far no longer count"),
    ],
)
def test_a_resume_says_what_it_ends(state, answer):
    after, text = carry_out(parse("resume myapp"), POOL, state)
    assert (after.reap, after.manager_losses, text) == (None, 0, answer)


def test_a_resume_that_ends_nothing_counts_as_carried_out_and_is_no_news():
    leaving = Reap(ProcessId(10, 1.0), 0.0, frozenset(), left=1.0)
    held, free = carry_out_in_all(parse("resume all"), pools(a=PoolState(paused=True), b=PoolState(reap=leaving)))
    assert (held.state, held.is_news, free.is_news) == (PoolState(), True, False)
    assert (free.state, free.line) == (PoolState(reap=leaving), "b: was neither paused nor suspended")


@pytest.mark.parametrize(
    ("pool", "state", "expected"),
    [
        (POOL, PoolState(paused=True), "myapp is paused: send resume myapp first"),
        (
            POOL,
            PoolState(suspended=Suspension(Cause.WRONG_SETTING, MANAGER, setting="limit")),
            "suspended (its limit is too low)",
        ),
        (Pool("myapp", "STOPPED"), PoolState(), "myapp has no workers: it is STOPPED"),
    ],
)
@pytest.mark.parametrize("text", ["reap myapp", "roll myapp"])
def test_a_command_reports_that_no_worker_may_be_replaced(pool, state, expected, text):
    with pytest.raises(CommandError) as caught:
        carry_out(parse(text), pool, state)
    assert expected in str(caught.value)


def test_an_unknown_pid_is_refused_with_the_existing_ones():
    with pytest.raises(CommandError, match="myapp has no worker 99; its workers are 11, 13, 12"):
        carry_out(parse("reap myapp 99"), POOL, PoolState())


def test_reap_without_a_pid_skips_workers_already_signalled():
    eleven, thirteen, twelve = (worker.id for worker in WORKERS)
    state = PoolState(reap=Reap(thirteen, 0.0, frozenset()), stuck=(Reap(twelve, 0.0, frozenset()),))
    after, answer = carry_out(parse("reap myapp"), POOL, state)
    assert (answer, after.requested) == ("worker 11 will be replaced", {eleven})
    with pytest.raises(CommandError, match="all of its workers have already been signalled"):
        carry_out(parse("reap myapp"), replace(POOL, workers=WORKERS[1:]), state)


def test_a_worker_already_signalled_is_not_requested_again_by_pid_or_roll():
    thirteen = WORKERS[1].id
    state = PoolState(stuck=(Reap(thirteen, 0.0, frozenset()),))
    with pytest.raises(CommandError, match="worker 13 has already been signalled"):
        carry_out(parse("reap myapp 13"), POOL, state)
    after, answer = carry_out(parse("roll myapp"), POOL, state)
    assert answer == "all 2 workers will be replaced, one at a time"
    assert {worker.pid for worker in after.requested} == {11, 12}


YOUNG = PoolState(settings=PoolSettings(min_age=120.0))


@pytest.mark.parametrize(
    ("workers", "answer"),
    [
        (WORKERS[:1], "worker 11 will be replaced; not before min_age=2 min"),
        (
            (WORKERS[0], WORKERS[1]._replace(age=200.0)),
            "all 2 workers will be replaced, one at a time; 1 of them not before min_age=2 min",
        ),
    ],
)
def test_a_roll_of_few_workers_says_how_many(workers, answer):
    assert carry_out(parse("roll myapp"), replace(POOL, workers=workers), YOUNG)[1] == answer


def test_a_roll_of_two_pools_is_no_failure_where_one_has_no_workers():
    both = {**pools(a=PoolState()), "b": (Pool("b", "STOPPED"), PoolState())}
    assert [result.refused for result in carry_out_in_all(parse("roll all"), both)] == [False, False]


def test_the_largest_worker_is_the_one_that_uses_most_not_the_one_that_may():
    large, small = (
        Worker(ProcessId(pid, 1.0), 60.0, bound, WorkerDetail(used, True))
        for pid, bound, used in ((1, 50, 20), (2, 90, 10))
    )
    _, answer = carry_out(parse("reap myapp"), replace(POOL, workers=(small, large)), PoolState())
    assert answer == "worker 1 will be replaced"


def test_a_roll_of_one_pool_without_workers_is_refused_with_its_state():
    with pytest.raises(CommandError, match="b has no workers: it is STOPPED"):
        carry_out_in_all(parse("roll b"), {"b": (Pool("b", "STOPPED"), PoolState())})


def test_names_choose_among_the_pools_in_their_order_and_without_names_all_are_chosen():
    pools = ["shop:web", "myapp", "shop:api"]
    assert chosen([], pools) == pools
    assert chosen(["myapp", "shop:*"], pools) == pools
    assert chosen(["api", "web"], pools) == ["shop:web", "shop:api"]
    assert [means(names, "myapp") for names in ([], ["shop"], ["shop", "myapp"])] == [True, False, True]


def test_a_name_that_chooses_nothing_is_refused_though_others_choose_something():
    with pytest.raises(UnknownName, match="no program 'myap' in supervisord; there are: myapp"):
        chosen(["myapp", "myap"], ["myapp"], "in supervisord", "program")
