"""What `memreap memory` shows: rows in, lines and JSON out."""

from __future__ import annotations

from typing import Any

from supervisor_memreap.core.rows import Held
from supervisor_memreap.outputs import memorytable

MIB = 1024**2


def row(name: str, processes: int, uss: int | None, state: str = "RUNNING", **more) -> Any:
    """Of which pss is 1 MiB more than uss for each process, and swap half of it."""
    sizes = {} if uss is None else {"uss_bytes": uss * MIB, "pss_bytes": (uss + processes) * MIB}
    swap = {} if uss is None else {"swap_bytes": uss * MIB // 2}
    return {"name": name, "state": state, "processes": processes, **sizes, **swap, **more}


LOCKED = "not read in time"


def test_the_largest_is_first_and_the_last_line_is_the_sum():
    held = Held([row("down", 0, 0, "STOPPED"), row("web", 2, 30), row("db", 1, 400)], row("supervisord", 1, 12))
    assert memorytable.text(held).split("\n")[:6] == [
        "                      processes  uss      pss      swap",
        "db           RUNNING  1          400 MiB  401 MiB  200 MiB",
        "web          RUNNING  2          30 MiB   32 MiB   15 MiB",
        "supervisord  RUNNING  1          12 MiB   13 MiB   6.0 MiB",
        "down         STOPPED  0          0.0 MiB  0.0 MiB  0.0 MiB",
        "total                 4          442 MiB  446 MiB  221 MiB",
    ]
    assert memorytable.troubles(memorytable.ordered(held)) == []


def test_a_sum_that_lacks_a_process_is_at_least_so_much_and_a_line_says_why():
    held = Held(
        [
            row("part", 5, 40, unreadable_processes=2, unknown=LOCKED),
            row("none", 3, None, unreadable_processes=3, unknown=LOCKED),
            row("well", 1, 7),
        ],
        None,
    )
    _, *lines = memorytable.table(memorytable.ordered(held)).split("\n")
    assert [line.split()[:4] for line in lines] == [
        ["part", "RUNNING", "5", ">40"],
        ["well", "RUNNING", "1", "7.0"],
        ["none", "RUNNING", "3", "-"],
        ["total", "9", ">47", "MiB"],
    ]
    (trouble,) = memorytable.troubles(held.programs)
    assert trouble == f"5 of 8 processes of part, none: {LOCKED}"
    assert memorytable.values(held)["total"] == {
        "processes": 9,
        "uss_bytes": 47 * MIB,
        "pss_bytes": 53 * MIB,
        "swap_bytes": 23.5 * MIB,
        "unreadable_processes": 5,
        "unknown": trouble,
    }


def test_of_hidden_programs_nothing_is_known_and_a_line_names_some_of_them():
    hidden: list[Any] = [{"name": f"p{number}", "state": "RUNNING", "unknown": "hidden"} for number in range(7)]
    assert memorytable.troubles(hidden) == ["p0, p1, p2, p3, p4 and 2 more programs: hidden"]
    *_, last, total = memorytable.table(hidden).split("\n")
    assert last.split() == ["p6", "RUNNING", "-", "-", "-", "-"]
    assert total.split() == ["total", "-", "-", "-", "-"]


def test_without_pss_its_sum_is_unknown_too():
    """As on macOS; a stopped program has none anywhere."""
    mine = row("mine", 2, 30)
    del mine["pss_bytes"]
    assert "pss_bytes" not in memorytable.total([mine, row("down", 0, 0)])


def test_the_json_has_supervisord_apart_and_leaves_out_what_is_unknown():
    itself = row("supervisord", 1, 12)
    values = memorytable.values(Held([row("a", 1, 1), row("supervisord", 1, 50)], itself))
    assert [each["name"] for each in values["programs"]] == ["supervisord", "a"]
    assert (values["version"], values["supervisord"], values["total"]["uss_bytes"]) == (1, itself, 63 * MIB)
    assert "supervisord" not in memorytable.values(Held([], None))


def test_what_a_terminal_would_obey_is_not_printed():
    assert "\033" not in memorytable.table([row("a\033[2Jb", 1, 1)])
