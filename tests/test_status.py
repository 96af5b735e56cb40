"""What is said of a listener, and what one process may do to another: values in, values out."""

from __future__ import annotations

import pytest

from supervisor_memreap.host import rights
from supervisor_memreap.host.rights import Rights
from supervisor_memreap.record.status import age_of_listener, trouble_of_listener

WELL = {
    "name": "memreap:memreap",
    "state": "RUNNING",
    "listener_state": "READY",
    "age_seconds": 3.0,
    "version": "0.10.0",
}


def test_of_a_listener_that_is_well_nothing_is_said():
    assert (trouble_of_listener(WELL), age_of_listener(WELL, "0.9.5")) == ("", "")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"listener_state": "NONE"}, "supervisord has no listener of memreap: add [eventlistener:memreap]"),
        ({"state": "FATAL"}, "the listener memreap:memreap is FATAL: see its log, then start memreap:memreap"),
        ({"listener_state": "UNKNOWN"}, "has broken the event protocol, and gets no events any more: restart"),
        ({"age_seconds": None}, "has not looked at the pools yet: wait for the next tick"),
        (
            {"age_seconds": 151.0, "period_seconds": 60},
            "looked at the pools 151 s ago, and not since: restart memreap:memreap, see its log",
        ),
    ],
)
def test_what_is_wrong_with_a_listener_is_said_with_the_remedy(change, said):
    assert said in trouble_of_listener({**WELL, **change})


def test_a_listener_of_rare_ticks_is_not_called_silent_between_two_of_them():
    rare = {**WELL, "period_seconds": 3600}
    assert trouble_of_listener({**rare, "age_seconds": 7000.0}) == ""
    assert "looked at the pools 9001 s ago" in trouble_of_listener({**rare, "age_seconds": 9001.0})


def test_a_listener_that_is_older_than_we_are_is_told():
    assert age_of_listener(WELL, "0.11.0") == (
        "the listener memreap:memreap is memreap 0.10.0, older than 0.11.0 here: restart memreap:memreap"
    )


ROOT, PTRACE, KILL = 0, 1 << 19, 1 << 5


def one(user: int, capabilities: int = 0, group: int | None = None) -> Rights:
    return Rights((user,) * 4, ((user if group is None else group),) * 4, capabilities)


@pytest.mark.parametrize(
    ("actor", "target", "signal", "read"),
    [
        (one(33), one(33), True, True),
        (one(33), one(0, KILL | PTRACE), False, False),
        (one(33), one(33, KILL), True, False),  # the target may do what we may not
        (one(33), one(33, group=7), True, False),
        (one(ROOT, KILL | PTRACE), one(33), True, True),
        (one(ROOT, KILL), one(33), True, False),
        (one(ROOT, PTRACE), one(33), False, True),
    ],
)
def test_who_may_signal_and_read_whom_is_what_the_kernel_says(actor, target, signal, read):
    assert (rights.may_signal(actor, target), rights.may_read(actor, target)) == (signal, read)


@pytest.mark.parametrize(
    ("scope", "same_user", "with_capability"),
    [("0", True, True), ("1", False, True), ("2", False, True), ("3", False, False), ("", True, True)],
)
def test_who_may_hold_whom_is_what_yama_says(tmp_path, monkeypatch, scope, same_user, with_capability):
    (tmp_path / "scope").write_text(scope)
    monkeypatch.setattr(rights, "YAMA", tmp_path / "scope")
    assert rights.may_hold(one(33), one(33)) is same_user
    assert rights.may_hold(one(ROOT, PTRACE), one(33)) is with_capability


def test_where_there_is_no_yama_reading_is_enough(tmp_path, monkeypatch):
    monkeypatch.setattr(rights, "YAMA", tmp_path / "none")
    assert rights.may_hold(one(33), one(33))
