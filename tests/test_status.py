"""What status shows of pools and of a listener, and what one process may do to another: values in, values out."""

from __future__ import annotations

import json
import re
import time
from dataclasses import replace
from typing import Any

import pytest
from supervisor.states import EventListenerStates, ProcessStates

from supervisor_memreap import __version__
from supervisor_memreap.commands import showsettings
from supervisor_memreap.core import following, policy, selection
from supervisor_memreap.core.counters import Counters, Reaps
from supervisor_memreap.core.events import Left
from supervisor_memreap.core.listeners import ListenerState
from supervisor_memreap.core.model import Pool, ProcessId, ProgramState, Worker, WorkerDetail
from supervisor_memreap.core.policy import Look
from supervisor_memreap.core.settings import Given, PoolSettings
from supervisor_memreap.core.state import PoolState
from supervisor_memreap.outputs import statusrows, statustable, view, words
from supervisor_memreap.outputs.view import View, age_of_listener, of_listener, trouble_of_listener


def names(states: type) -> set[str]:
    return {name for name in vars(states) if name.isupper()}


def test_the_states_match_those_of_supervisor():
    assert {state.value for state in ProgramState} == names(ProcessStates)
    assert {state.value for state in ListenerState} == names(EventListenerStates) | {"NONE"}


WELL: Any = {
    "name": "memreap:memreap",
    "state": "RUNNING",
    "listener_state": "READY",
    "age_seconds": 3.0,
    "version": "0.10.0",
    "count": 1,
}


def test_a_healthy_listener_is_not_mentioned():
    assert (trouble_of_listener(WELL), age_of_listener(WELL, "0.9.5")) == ("", "")


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"listener_state": "NONE"}, "supervisord has no memreap listener: add [eventlistener:memreap]"),
        (
            {"state": "FATAL"},
            "the listener memreap:memreap is FATAL: see its log, then supervisorctl start memreap:memreap",
        ),
        (
            {"state": "FATAL", "spawnerr": "can't find command 'memreap'"},
            "is FATAL (can't find command 'memreap'): set command= in its section to the full path of memreap,",
        ),
        (
            {"state": "BACKOFF", "spawnerr": "Exited too quickly (process log may have details)"},
            "is BACKOFF (Exited too quickly (process log may have details)): see its log",
        ),
        ({"listener_state": "UNKNOWN"}, "broke the event protocol and gets no more events: restart"),
        ({"age_seconds": None}, "has not looked at the pools yet: wait for the next tick"),
        (
            {"age_seconds": 126.0, "period_seconds": 60},
            "last looked at the pools 126 s ago: restart memreap:memreap, and see its log",
        ),
        (
            {"age_seconds": 16.0, "period_seconds": 5},
            "last looked at the pools 16 s ago: restart memreap:memreap, and see its log",
        ),
    ],
)
def test_a_problem_of_the_listener_is_reported_with_its_remedy(change, expected):
    assert expected in trouble_of_listener({**WELL, **change})


def test_a_listener_with_rare_ticks_is_not_called_silent_between_two_ticks():
    rare = {**WELL, "period_seconds": 3600}
    assert trouble_of_listener({**rare, "age_seconds": 7200.0}) == ""
    assert "looked at the pools 7206 s ago" in trouble_of_listener({**rare, "age_seconds": 7206.0})


def test_a_listener_older_than_the_command_is_reported():
    assert age_of_listener(WELL, "0.11.0") == (
        "the listener memreap:memreap is memreap 0.10.0, older than this memreap 0.11.0: restart memreap:memreap"
    )


def test_a_second_listener_is_a_warning_since_one_of_them_works():
    recent = {**WELL, "version": __version__}
    one, two = (of_listener([], {**recent, "count": count, "warnings": ["history: x"]}, True) for count in (1, 2))
    assert one.warnings == ("history: x",)
    assert two.warnings == (
        "supervisord has 2 listeners of memreap, of which one works: keep one, with numprocs=1, then run supervisorctl"
        " update",
        "history: x",
    )
    assert one.is_well()
    assert two.is_well()


MIB = 1024**2
MANAGER = ProcessId(1, 0.5)
SETTINGS = PoolSettings(100 * MIB)
NOW = int(time.time())


def worker(pid: int, bound: int, used: int | None = None) -> Worker:
    """In MiB; its size is asked for where its bound is over the limit."""
    detail = WorkerDetail(None if used is None else used * MIB, True) if bound > 100 else None
    return Worker(ProcessId(pid, 1.0), 60.0, bound * MIB, detail)


def shown(*workers: Worker, **more) -> Any:
    """A pool after a look, as the listener publishes it."""
    pool = Pool("myapp", "RUNNING", "", MANAGER, 60.0, workers)
    left = Left("myapp", NOW, ProcessId(12, 1.0), 0.4, None, 301 * MIB)
    choice = look_at(pool)
    counters = replace(Counters().after(left), reaps=Reaps()).with_standing(choice.standing.value, NOW - 34)
    used = {each.id: each.used for each in workers if each.used is not None}
    return {**statusrows.of_pool(choice, SETTINGS, choice.state, counters, used), **more}


def look_at(pool: Pool) -> policy.Choice:
    state, _ = following.follow(pool, SETTINGS, PoolState(), 100.0)
    ((choice,), *_) = selection.choose([Look(pool, SETTINGS, state)], 100.0)
    return choice


def below(table: str) -> list[str]:
    """The lines below the first pool, without their indent."""
    return [line.strip() for line in table.splitlines()[2:] if line.startswith(" ")]


def test_the_start_of_the_counters_is_shown_once_and_only_on_the_first_day():
    """Later it is omitted; memreap report has it."""
    young, other = NOW - 3600, NOW - 7200
    pools = [shown(worker(11, 80), name=name, reaps=3, counted_since=young) for name in ("myapp", "web")]
    line = f"Reaps are counted since {words.clock(young)}."
    assert statustable.table(pools, NOW, True).splitlines()[-1] == line
    assert "ounted since" not in statustable.table([{**pools[0], "counted_since": NOW - 86400}], NOW, True)
    assert "ounted since" not in statustable.table([{**pools[0], "reaps": 0}], NOW, True)
    assert statustable.table([pools[0], {**pools[1], "counted_since": other}], NOW, True).splitlines()[-1] == (
        f"Reaps are counted since {words.clock(young)} (myapp); {words.clock(other)} (web)."
    )


@pytest.mark.parametrize(
    ("server", "chosen", "expected"),
    [
        ("gunicorn", None, ("TERM", False, "gunicorn")),
        ("gunicorn", "QUIT", ("QUIT", True, "gunicorn")),
        ("", None, ("HUP", False, None)),
        (None, None, (None, False, None)),
        (None, "QUIT", ("QUIT", True, None)),
    ],
)
def test_the_signal_and_whether_it_is_set_are_in_the_values(server, chosen, expected):
    settings = replace(SETTINGS, signal=chosen)
    choice = look_at(Pool("myapp", "RUNNING", "", MANAGER, 60.0, (worker(11, 50),)))
    values = statusrows.of_pool(choice, settings, choice.state, Counters(), {}, server=server)
    assert (values.get("signal"), values["signal_is_set"], values.get("server")) == expected


@pytest.mark.parametrize(
    ("server", "given", "line"),
    [
        ("gunicorn", {}, "signal TERM default for gunicorn"),
        ("gunicorn", {"signal": Given("QUIT", "file [memreap:myapp]")}, "signal QUIT file [memreap:myapp]"),
        ("fcgiwrap", {}, "signal - fcgiwrap drops requests on every signal"),
        ("", {}, "signal HUP default"),
        (None, {}, "signal - default: depends on the server; no running worker is known"),
    ],
)
def test_the_table_of_settings_shows_the_signal_in_use(server, given, line):
    settings = replace(SETTINGS, signal=given["signal"].value if given else None)
    table = showsettings.table([showsettings.of_pool("myapp", settings, given, server)])
    assert line in [" ".join(each.split()) for each in table.splitlines()]


def test_a_pool_is_one_line_with_its_last_message_below():
    head, line, message = statustable.table([shown(worker(11, 50), worker(12, 60))], NOW, True).splitlines()
    assert head.split() == ["limit", "workers", "largest", "total", "growth", "reaps", "since"]
    assert line.split() == ["myapp", "QUIET", "100", "MiB", "uss", "2", "-", "-", "-", "0", "34", "s"]
    assert message.endswith(" worker 12 left after 0.4 s, 301 MiB freed")
    assert message.startswith("  ")


LONG_NAME = "a-group-of-shops:shop_of_the_north_west_00"


@pytest.mark.parametrize("name", ["myapp", "group:process_00", LONG_NAME])
@pytest.mark.parametrize("standing", ["quiet", "settling", "suspended"])
def test_a_table_is_80_columns_wide_with_any_content(name, standing):
    largest = shown(
        name=name,
        standing=standing,
        limit_bytes=1023 * MIB,
        workers=[{"pid": 1, "age_seconds": 1.0}] * 1000,
        largest_bytes=1023 * MIB,
        total_bytes=1023 * MIB,
        reaps=99_999,
        given_back_bytes=1023 * MIB,
        since=NOW - 86399 * 2,
        message="worker 4242 may hold up to 176 MiB, limit 150 MiB, but its uss cannot be read: nothing sent; run it"
        * 3,
        suspension={"reason": "its manager exited", "since": NOW - 60, "until": NOW + 540},
    )
    table = statustable.table([shown(worker(11, 50)), largest], NOW, True)
    assert max(map(len, table.splitlines())) <= 80
    assert name in table


def test_a_worker_with_an_unreadable_size_makes_its_pool_blind():
    pool = shown(worker(11, 150), worker(12, 50), worker(13, 150, 120))
    assert (pool["standing"], pool["unreadable_workers"]) == ("blind", 1)
    table = statustable.table([pool], NOW, True)
    assert "myapp  BLIND  " in table
    text = " ".join(below(table))
    assert "1 of 3 workers: no permission to read uss" in text
    assert "if it may signal them, metric=rss is enough" in text  # a user who may not would get no further by that
    assert not view.is_well(pool)
    assert view.is_well(shown(worker(12, 50), worker(13, 150, 120)))


def test_a_worker_with_a_bound_below_the_limit_is_not_blind_even_if_its_size_is_unknown():
    assert shown(worker(11, 50))["standing"] == "quiet"


def test_a_running_program_that_cannot_be_looked_at_is_blind():
    pool = Pool("myapp", "RUNNING", "its processes are hidden from this user")
    choice = look_at(pool)
    assert choice.standing == "blind"
    values = statusrows.of_pool(choice, SETTINGS, choice.state, Counters().with_standing("blind", NOW), {})
    table = statustable.table([values], NOW, True)
    assert below(table) == ["not watched: its processes are hidden from this user"]


@pytest.mark.parametrize(
    ("state", "is_well"), [("STOPPED", True), ("STARTING", True), ("EXITED", True), ("FATAL", False)]
)
def test_a_program_that_supervisord_could_not_start_is_not_well_but_one_that_ended_is(state, is_well):
    choice = look_at(Pool("myapp", state))
    assert choice.standing == "not running"
    counters = Counters().with_standing(choice.standing.value, NOW)
    values = statusrows.of_pool(choice, SETTINGS, choice.state, counters, {})
    table = statustable.table([values], NOW, True)
    assert f"myapp  {state}  " in table
    assert view.is_well(values) is is_well
    assert ("see the program's own log" in " ".join(below(table))) is not is_well


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        (
            {"suspension": {"reason": "its manager exited", "since": NOW - 60, "until": NOW + 540}},
            "suspended since CLOCK, nothing is sent until CLOCK, its settings change or supervisorctl memreap resume"
            " myapp: its manager exited",
        ),
        (
            {"suspension": {"reason": "its limit is too low; set limit=90MB or higher", "since": NOW - 60}},
            "suspended since CLOCK, nothing is sent until its settings change or supervisorctl memreap resume myapp:"
            " its limit is too low; set limit=90MB or higher",
        ),
        (
            {"suspension": {"reason": "why", "since": NOW - 60, "until": NOW + 40, "settings_changed": True}},
            "suspended since CLOCK, nothing is sent until CLOCK or supervisorctl memreap resume myapp: why",
        ),
    ],
)
@pytest.mark.parametrize("paused", [False, True])
def test_a_suspended_pool_is_shown_with_reason_since_and_until_and_fails(paused, more, expected):
    pool = shown(worker(11, 50), standing="suspended", paused=paused, **more)
    table = statustable.table([pool], NOW, True)
    text = " ".join(below(table))
    for clock in ({"since": pool["since"]}, more.get("suspension", {})):
        for key in ("since", "until"):
            if key in clock:
                text = text.replace(words.clock(clock[key]), "CLOCK")
    assert text.startswith(expected)
    assert "SUSPENDED" in table
    assert ("paused: nothing is sent until supervisorctl memreap resume myapp" in text) is paused
    assert not view.is_well(pool)


def test_without_the_plugin_no_line_recommends_its_command():
    """A changed setting ends a suspension everywhere; for a pause doctor reports what is missing."""
    suspension = {"reason": "its limit is too low; set limit=90MB or higher", "since": NOW, "until": NOW + 60}
    (line,) = statustable.details(shown(worker(11, 50), standing="suspended", suspension=suspension), False)
    assert "until CLOCK or its settings change: its limit" in line.replace(words.clock(NOW + 60), "CLOCK")
    (line,) = statustable.details(shown(worker(11, 50), standing="paused", paused=True), False)
    assert line.endswith("until supervisorctl memreap resume myapp (not set up here: see memreap doctor)")
    assert not list(
        statustable.details(shown(worker(11, 50), standing="paused", paused=True), True)
    )  # the message has it


@pytest.mark.parametrize(
    ("has_plugin", "listener", "expected"),
    [
        (True, {"takes_commands": True}, True),
        (True, {"takes_commands": False}, False),
        (True, None, False),
        (False, {"takes_commands": True}, False),
    ],
)
def test_supervisorctl_memreap_needs_the_plugin_the_interface_and_a_listener_that_receives_commands(
    has_plugin, listener, expected
):
    assert words.has_commands(has_plugin, listener) is expected


def test_the_view_of_a_listener_that_no_longer_looks_is_not_called_quiet():
    (pool,) = view.unwatched([shown(worker(11, 50))])
    assert not view.is_well(pool)
    assert "BLIND" in statustable.table([pool], NOW, True)


def test_a_look_omits_what_it_does_not_know():
    (pool,) = statusrows.of_look([shown(worker(11, 50), worker(12, 150, 120), worker(13, 150))])
    values = json.loads(json.dumps(View([pool], "look", "one look").values()))
    assert set(values) == {"version", "view", "note", "pools"}
    assert not [key for key in values["pools"][0] if key.endswith("_time")]
    assert not {"reaps", "given_back_bytes", "since", "message", "message_at"} & set(values["pools"][0])
    assert ["over" in row for row in pool["workers"]] == [True, True, False]
    head, line, *_ = statustable.table([pool], NOW, True).splitlines()
    assert head.split() == ["limit", "workers", "over", "largest", "total"]
    assert line.split() == ["myapp", "BLIND", "100", "MiB", "uss", "3", "-", "120", "MiB", "120", "MiB"]


@pytest.mark.parametrize(("on_demand", "standing"), [({"myapp"}, "quiet"), (set(), "blind")])
def test_a_look_takes_an_empty_pool_for_fine_only_if_its_manager_forks_on_demand_whatever_its_server(
    on_demand, standing
):
    empty = shown(server="php-fpm", standing="quiet", state="RUNNING")
    (pool,) = statusrows.of_look([empty], on_demand)
    assert pool["standing"] == standing


def test_in_json_each_time_also_has_a_text_with_the_zone():
    suspension = {"cause": "manager lost", "reason": "x", "since": 1_700_000_000, "until": 1_700_000_600}
    whole = View([shown(suspension=suspension)], "listener", "", age=1.5).values()
    (pool,) = whole["pools"]
    texts = {key: value for key, value in pool.items() if key.endswith("_time")}
    assert texts == {
        "since_time": words.time_text(pool["since"]),
        "message_time": words.time_text(pool["message_at"]),
    }
    assert pool["suspension"] == {
        **suspension,
        "since_time": words.time_text(1_700_000_000),
        "until_time": words.time_text(1_700_000_600),
    }
    assert re.fullmatch(r"2023-11-1[45]T\d\d:\d\d:20[+-]\d\d:\d\d", pool["suspension"]["since_time"])
    assert whole["age_seconds"] == 1.5


def test_a_view_can_be_narrowed_to_a_group():
    pools = [shown(name=name) for name in ("g:a", "g:b", "web")]
    view = View(pools, "listener", "")
    assert [pool["name"] for pool in view.only(["g"]).pools] == ["g:a", "g:b"]
    assert view.only([]) == view
