"""What `memreap top` shows: pools in, lines out."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.text import Text

from supervisor_memreap.core.rows import Held, known
from supervisor_memreap.outputs.view import View
from supervisor_memreap.views.page import ASCII, UNICODE, Frame, Message, memory_page, page

MIB = 1024**2
NOW = 1_800_000_000.0


def worker(pid: int, mib: float | None, **more) -> dict:
    used = {} if mib is None else {"used_bytes": int(mib * MIB), "over": mib > 100}
    return {"pid": pid, "age_seconds": 3600.0, **used, **more}


def pool(name: str, *workers: dict, **more) -> Any:
    known = [each["used_bytes"] for each in workers if "used_bytes" in each]
    sizes = {"largest_bytes": max(known), "total_bytes": sum(known)} if known else {}
    history = {"since": NOW, "reaps": 12, "given_back_bytes": 1229 * MIB, "growth_bytes_per_hour": 41 * MIB}
    fixed = {"state": "RUNNING", "standing": "quiet", "paused": False, "metric": "uss", "limit_bytes": 100 * MIB}
    return {"name": name, **fixed, **sizes, **history, "workers": list(workers), **more}


def frame(*pools: Any, trouble: str = "", messages: tuple[Message, ...] = (), **of_view) -> Frame:
    view = View(list(pools), **{"whose": "listener", "note": "", "age": 2.0, **of_view})
    return Frame("web1", view, trouble, NOW - 1, NOW, messages, "q: quit")


def shown(whole: Frame, columns: int = 80, rows: int | None = 24) -> list[str]:
    return [line.plain.rstrip() for line in page(whole, columns, rows, UNICODE)]


def test_a_pool_and_its_workers():
    mine = pool(
        "myapp",
        worker(4242, 120, growth_bytes_per_hour=12 * MIB, note="leaving"),
        worker(4243, None),
        worker(4244, 50, growth_bytes_per_hour=-3 * MIB),
        standing="leaving",
        next_at_limit_seconds=7200,
    )
    head, seen, *rest = shown(frame(mine, messages=(Message(NOW, "myapp", "worker 4242 holds 120 MiB"),)))
    assert head.startswith("memreap top  web1  1 pool, 3 workers, 170 MiB")
    assert head.endswith("  q: quit")
    assert seen == "seen by the listener 3 s ago, sizes up to 30 s old; a full bar is the limit"
    assert rest[:-1] == [
        "",
        "                limit        workers  total    growth    reaps  freed",
        "myapp  LEAVING  100 MiB uss  3        170 MiB  41 MiB/h  12     1.2 GiB",
        "  the next worker reaches its limit in about 2 h",
        f"     4242   120 MiB {'█' * 23}  60 min   12 MiB/h  leaving",
        f"     4244    50 MiB {'█' * 12}{'░' * 11}  60 min -3.0 MiB/h",
        f"     4243         - {'░' * 23}  60 min          -",
        "",
    ]
    assert rest[-1].endswith("myapp: worker 4242 holds 120 MiB")


def test_the_largest_workers_are_shown_and_the_others_counted():
    lines = shown(frame(pool("myapp", *(worker(100 + mib, mib) for mib in range(1, 61)))), rows=12)
    assert len(lines) == 12
    assert [line.split()[0] for line in lines[4:11]] == ["160", "159", "158", "157", "156", "155", "154"]
    assert lines[11] == "    … 53 more workers not shown, each 53 MiB or less"


def test_each_pool_gets_its_share():
    lines = shown(
        frame(pool("a", *(worker(pid, 9) for pid in range(30))), pool("b", *(worker(pid, 9) for pid in range(30))))
    )
    assert sum("not shown" in line for line in lines) == 2
    assert sum(line.startswith(("    … 22 more", "    … 21 more")) for line in lines) == 2


def test_of_too_many_pools_the_troubled_ones_are_shown_and_the_others_counted():
    pools = [pool(f"pool{number}", worker(number, 5)) for number in range(30)]
    pools[25]["standing"] = "blind"
    pools[27].update(standing="suspended", suspension={"reason": "its limit is too low", "since": NOW})
    lines = shown(frame(*pools))
    text = "\n".join(lines)
    assert len(lines) == 24
    assert "pool25  BLIND" in text
    assert "its limit is too low" in " ".join(text.split())
    hidden = 30 - sum(line.startswith("pool") for line in lines)
    assert lines[-1] == f"{hidden} pools do not fit on the screen: {hidden} QUIET"


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (
            {"trouble": "supervisord does not answer at http://web1:9001: refused"},
            "TROUBLE: supervisord does not answer",
        ),
        ({"is_watched": False, "troubles": ("there is no listener",)}, "TROUBLE: there is no listener"),
    ],
)
def test_an_unwatched_pool_never_looks_fine(options, line):
    text = "\n".join(shown(frame(pool("myapp", worker(1, 5)), **options)))
    assert line in text
    assert "myapp  BLIND" in text
    assert "QUIET" not in text


def test_without_pools_it_reports_that_no_pool_is_watched():
    assert "TROUBLE: no pool is watched: run memreap doctor" in shown(frame())


def test_control_characters_are_not_passed_on():
    evil = "a\033[2Jb\nc"
    text = "\n".join(
        shown(
            frame(
                pool(evil, worker(1, 5, note=evil), not_visible=evil),
                trouble=evil,
                troubles=(evil,),
                messages=(Message(NOW, evil, evil),),
            )._replace(where=evil),
            rows=None,
        )
    )
    assert "\033" not in text
    assert text.count("a?[2Jb?c") >= 5


def test_without_a_limit_the_largest_worker_has_a_full_bar():
    mine = pool("myapp", worker(1, 40), worker(2, 20))
    del mine["limit_bytes"]
    lines = shown(frame(mine))
    assert "a full bar is the limit or, without one, the largest worker" in " ".join(" ".join(lines[1:3]).split())
    assert lines[5].split()[:3] == ["myapp", "QUIET", "-"]
    assert [line.count("█") for line in lines[6:8]] == [34, 17]


NAMES = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=60)
NOTES = ("", "leaving", "pool over its total")
POOLS = st.builds(
    lambda name, count, mib, note, more: pool(
        name, *(worker(4_194_304 - pid, mib and mib / (pid + 1), note=note) for pid in range(count)), **more
    ),
    NAMES,
    st.integers(0, 40),
    st.none() | st.floats(0, 2_000_000),
    st.sampled_from(NOTES),
    st.fixed_dictionaries({}, optional={"message": NAMES, "not_visible": NAMES, "paused": st.just(True)}),
)


@given(
    st.lists(POOLS, max_size=12),
    st.integers(1, 200),
    st.integers(1, 80),
    st.sampled_from([UNICODE, ASCII]),
    st.lists(st.builds(Message, st.floats(0, NOW), NAMES, NAMES), max_size=20),
    NAMES | st.just(""),
)
def test_it_fits_every_terminal(pools, columns, rows, glyphs, messages, trouble):
    whole = frame(*pools, messages=tuple(messages), trouble=trouble)
    lines: list[Text] = page(whole, columns, rows, glyphs)
    assert len(lines) <= rows
    assert all(cell_len(line.plain) < max(21, columns) for line in lines)
    assert all(char.isprintable() for line in lines for char in line.plain)


def held(*sizes: int | None, unknown: str | None = None) -> Held:
    """What programs of these MiB hold, and why that is not known of those that have None."""
    rows: list[Any] = []
    for number, mib in enumerate(sizes):
        of_size = dict.fromkeys(("uss_bytes", "pss_bytes", "swap_bytes"), None if mib is None else mib * MIB)
        why = unknown if mib is None else None
        rows.append(known({"name": f"p{number}", "state": "RUNNING", "processes": 1, **of_size, "unknown": why}))
    return Held(rows, None)


def memory_shown(what: Held | str | None, rows: int = 24, trouble: str = "") -> list[str]:
    return [line.plain.rstrip() for line in memory_page(frame(trouble=trouble), what, 80, rows, UNICODE)]


def test_the_second_page_has_the_largest_programs_and_the_sum_of_all():
    first, seen, head, *lines = memory_shown(held(*range(100, 130)), rows=10)
    assert first.startswith("memreap top  web1  30 programs ")
    assert first.endswith("  q: quit")
    assert seen == "seen by this command 1 s ago; the largest uss first"
    assert head.split() == ["processes", "uss", "pss", "swap"]
    assert [line.split()[0] for line in lines] == ["p29", "p28", "p27", "p26", "p25", "…", "total"]
    assert lines[-2] == "… 25 more not shown"
    assert lines[-1].split()[:3] == ["total", "30", "3.4"]
    assert len(memory_shown(held(1, 2))) == 6


def test_the_second_page_says_why_something_is_not_known():
    lines = memory_shown(held(5, None, unknown="hidden"), trouble="supervisord does not answer")
    assert lines[2:4] == ["TROUBLE: supervisord does not answer", "TROUBLE: p1: hidden"]
    assert memory_shown("elsewhere")[2:] == ["TROUBLE: elsewhere"]
    assert memory_shown(None)[2:] == ["reading the memory of all programs"]


@given(st.lists(st.none() | st.integers(0, 10**6), max_size=30), st.integers(1, 120), st.integers(1, 40))
def test_the_second_page_never_exceeds_the_screen(sizes, columns, rows):
    lines = memory_page(frame(), held(*sizes, unknown="x" * 90), columns, rows, ASCII)
    assert len(lines) <= rows
    assert all(cell_len(line.plain) < max(21, columns) for line in lines)


def test_the_title_leaves_out_what_it_has_no_room_for():
    pools = [pool("myapp", worker(1, 50))]
    assert "1 pool, 1 worker, 50 MiB " in shown(frame(*pools), 80)[0]
    assert "1 pool, 1 worker  " in shown(frame(*pools), 62)[0]
    assert "pool" not in shown(frame(*pools), 50)[0]
