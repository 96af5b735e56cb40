"""The lines that `roll --wait` shows."""

from __future__ import annotations

from typing import Any

from supervisor_memreap.outputs.rollprogress import Line, RollProgress


def row(name: str, left: int, is_over: bool = False, failure: str = "", id: str = "7", **more: Any) -> Any:
    return {
        "name": name,
        "roll": {"id": id, "workers": 3, "left": left, "is_over": is_over, "failure": failure},
        **more,
    }


def test_each_change_has_a_line_until_all_pools_are_done():
    progress = RollProgress("7")
    other: Any = {"name": "other"}
    assert [*progress.lines([row("a", 3), row("b", 3), other])] == [
        Line("a: 0 of 3 workers replaced", False),
        Line("b: 0 of 3 workers replaced", False),
    ]
    assert [*progress.lines([row("a", 3), row("b", 2), other])] == [Line("b: 1 of 3 workers replaced", False)]
    assert not progress.is_over
    assert [*progress.lines([row("a", 0, True), row("b", 2), other])] == [Line("a: 3 of 3 workers replaced", False)]
    assert not progress.is_over
    stopped = Line("b: 1 of 3 workers replaced; the roll stopped: the pool is paused", True)
    assert [*progress.lines([row("a", 0, True), row("b", 2, True, "the pool is paused"), other])] == [stopped]
    assert progress.is_over


def test_what_stands_in_the_way_is_shown_while_it_does():
    progress = RollProgress("7")
    hindrance = {"kind": "busy", "text": "never idle"}
    (line,) = progress.lines([row("a", 3, hindrance=hindrance)])
    assert line == Line("a: 0 of 3 workers replaced; what stands in the way: never idle", False)
    (line,) = progress.lines([row("a", 0, True, hindrance=hindrance)])
    assert line == Line("a: 3 of 3 workers replaced", False)


def test_a_roll_that_is_no_longer_known_is_a_failure():
    progress = RollProgress("7")
    [*progress.lines([row("a", 3)])]
    assert [line.is_failure for line in progress.lines([row("a", 3, id="8")])] == [True]
    assert progress.is_over


def test_a_roll_of_which_nothing_is_known_is_a_failure():
    progress = RollProgress("7")
    other: Any = {"name": "a"}
    assert [line.is_failure for line in progress.lines([other])] == [True]
    assert progress.is_over


def test_a_pool_that_cannot_be_seen_says_so():
    progress = RollProgress("7")
    (line,) = progress.lines([row("a", 3, not_visible="its processes are hidden")])
    assert line.text.endswith("what stands in the way: its processes are hidden")
