"""The picture of a pool: its content, that it is deterministic, and the message if there is none."""

from __future__ import annotations

import dataclasses
import functools
import math
import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any
from xml.etree import ElementTree

import pytest
from support import sawtooth, stack
from support.sawtooth import DAY, HOUR, UNTIL

from supervisor_memreap.advice.poolhistory import PoolHistory
from supervisor_memreap.core.reasons import REASONS
from supervisor_memreap.reports import chart

SINCE = UNTIL - DAY


@pytest.fixture(scope="module", autouse=True)
def _utc():
    with sawtooth.time_zone("UTC0"):
        yield


@pytest.fixture
def library():
    with chart.library():
        yield


@functools.cache
def svg(make: Callable[[], PoolHistory]) -> str:
    """The picture of this history's last day."""
    return chart.svg(make(), SINCE, UNTIL)


@functools.cache
def axes(make: Callable[[], PoolHistory]) -> tuple[PoolHistory, Any, Any]:
    """The history, and what is drawn of it above and below; for a test that has the library."""
    history = make()
    return (history, *chart.draw(history, SINCE, UNTIL).axes)


def texts(svg: str) -> list[str]:
    """All text of the picture, which is text in it, not shapes of letters."""
    return ["".join(each.itertext()) for each in ElementTree.fromstring(svg).iter("{http://www.w3.org/2000/svg}text")]


def lines(axes, **wanted):
    return [line for line in axes.get_lines() if all(getattr(line, f"get_{key}")() == wanted[key] for key in wanted)]


def marks(axes) -> dict[str, list[float]]:
    """The times of the marks, by the text that explains them."""
    return {line.get_label(): list(line.get_xdata()) for line in axes.get_lines() if line.get_label()[0] != "_"}


def test_it_names_pool_metric_and_time_with_units_and_zone():
    elements = texts(svg(sawtooth.pool))
    for text in (
        "myapp",
        "memory of its workers (uss), from 27 Nov 00:00 to 28 Nov 2025 00:00 (UTC+00:00)",
        "uss of a worker (MiB)",
        "total of the pool (MiB)",
        "time (UTC+00:00)",
        "limit 150 MiB",
        "12:00",
    ):
        assert text in elements
    assert sum(text.startswith("pid ") for text in elements) == 5


def test_sizes_of_gigabytes_are_in_gib():
    assert "total of the pool (GiB)" in texts(chart.svg(sawtooth.pool(workers=30), SINCE, UNTIL))


def test_each_reap_is_a_mark_for_its_reason_at_the_worker(library):
    history, above, _ = axes(sawtooth.troubled)
    reaps = [event for event in history.events if event.name == "Signalled"]
    by_reason = {
        reason: [event.at for event in reaps if event.values["reason"] == reason] for reason in ("limit", "max_age")
    }
    elements = marks(above)
    assert elements["reaped: limit (12)"] == by_reason["limit"]
    assert elements["reaped: max_age (1)"] == by_reason["max_age"]
    assert len(elements["stuck (1)"]) == 1
    (limit,) = lines(above, label="reaped: limit (12)")
    assert max(limit.get_ydata()) == pytest.approx(150, rel=0.02)


def test_what_observe_would_have_reaped_is_a_hollow_mark(library):
    history = sawtooth.observed()
    above, _ = chart.draw(history, SINCE, UNTIL).axes
    (mark,) = lines(above, label="would be reaped: limit (5)")
    assert list(mark.get_xdata()) == [event.at for event in history.events]
    assert (mark.get_markerfacecolor(), mark.get_markeredgecolor()) == (chart.PAPER, chart.INK)
    assert min(mark.get_ydata()) >= 150


def test_the_line_of_a_worker_ends_where_it_left(library):
    history, above, _ = axes(sawtooth.pool)
    drawn = {(line.get_xdata()[0], line.get_xdata()[-1]) for line in lines(above, linewidth=1.4)}
    assert drawn == {(worker.readings[0].at, worker.readings[-1].at) for worker in history.workers}


def test_a_replacement_keeps_the_line_style_of_its_predecessor(library):
    history, above, _ = axes(sawtooth.pool)
    assert len({line.get_color() for line in lines(above, linewidth=1.4)}) == 5
    assert len(history.workers) == 16


def test_without_colour_the_lines_still_differ(library):
    _, above, _ = axes(sawtooth.pool)
    patterns = {(line.get_color(), str(line._unscaled_dash_pattern)) for line in lines(above, linewidth=1.4)}
    assert len(patterns) == len({pattern for _, pattern in patterns}) == 5
    assert len({str(style) for _, style in chart.STYLES}) == len({color for color, _ in chart.STYLES}) == 6


def test_a_gap_in_the_recording_is_a_gap_in_every_line(library):
    _, above, below = axes(sawtooth.troubled)
    start, end = UNTIL - 15 * HOUR, UNTIL - 13 * HOUR
    crossing = 0
    for line in (*lines(above, linewidth=1.4), *lines(below, linewidth=1.2), *lines(above, linewidth=1.6)):
        points = list(zip(line.get_xdata(), line.get_ydata()))
        for (x, y), (later, after) in zip(points, points[1:]):
            if x <= start and later >= end:
                assert math.isnan(y) or math.isnan(after)
                crossing += 1
    assert crossing == 5 + 1 + 1
    assert "not recorded" in texts(svg(sawtooth.troubled))


def test_a_limit_that_changed_is_a_step_with_both_labels(library):
    _, above, _ = axes(sawtooth.troubled)
    (limit,) = lines(above, linewidth=1.6)
    assert limit.get_drawstyle() == "steps-post"
    assert sorted({y for y in limit.get_ydata() if not math.isnan(y)}) == [120, 150]
    assert {"limit 120 MiB", "limit 150 MiB"} <= set(texts(svg(sawtooth.troubled)))


def test_without_a_limit_there_is_no_line_for_it():
    elements = texts(chart.svg(sawtooth.pool(limit=None), SINCE, UNTIL))
    assert not any(text.startswith("limit") for text in elements)


def test_the_pools_total_is_below_with_its_peak(library):
    history, _, below = axes(sawtooth.pool)
    (total,) = lines(below, linewidth=1.2)
    assert len(total.get_xdata()) == len(history.readings)
    assert any(text.startswith("peak ") for text in texts(svg(sawtooth.pool)))


@pytest.mark.parametrize(("workers", "days"), [(30, 30), (30, 1), (5, 30)])
def test_too_many_workers_or_lifetimes_are_drawn_as_a_band(workers, days):
    history = sawtooth.pool(workers=workers, days=days)
    picture = chart.svg(history, UNTIL - days * DAY, UNTIL)
    elements = texts(picture)
    assert {"largest", "median", "smallest", "limit 150 MiB"} <= set(elements)
    reaps = sum(event.name == "Signalled" and event.at <= UNTIL for event in history.events)
    assert f"each tick: a worker reaped ({reaps:,})" in elements
    assert len(picture) < 400_000


def test_the_band_spans_the_smallest_to_the_largest_worker(library):
    history = sawtooth.pool(workers=30, days=30)
    above, _ = chart.draw(history, UNTIL - 30 * DAY, UNTIL).axes
    most, middle, least = (list(line.get_ydata()) for line in lines(above, linewidth=1.1))
    assert all(low <= median <= high for low, median, high in zip(least, middle, most))
    assert max(most) == pytest.approx(max(reading.largest for reading in history.readings) / 1024**2)
    assert min(least) < 45


def test_two_readings_are_enough_and_fill_the_picture(library):
    history = sawtooth.pool(days=1 / 1440)
    assert len(history.readings) == 2
    above, _ = chart.draw(history, SINCE, UNTIL).axes
    assert above.get_xlim() == (history.readings[0].at, UNTIL)
    assert all(line.get_marker() == "." for line in lines(above, linewidth=1.4))
    chart.svg(sawtooth.pool(days=0), SINCE, UNTIL)


def test_a_pool_without_known_workers_has_its_total_and_limit():
    history = dataclasses.replace(sawtooth.pool(), workers=())
    assert {"limit 150 MiB", "time (UTC+00:00)"} <= set(texts(chart.svg(history, SINCE, UNTIL)))


def test_without_a_reading_one_line_reports_it():
    with pytest.raises(
        chart.NothingToDrawError, match=r"^myapp: nothing was recorded from 28 Nov 00:00 to 29 Nov 2025 00:00"
    ):
        chart.svg(sawtooth.pool(until=UNTIL - 60), UNTIL, UNTIL + DAY)


@pytest.mark.parametrize("name", ["$\\frac{1}{2}$", "<b>&amp;", "a:b%s", "\N{SNOWMAN}\N{CJK UNIFIED IDEOGRAPH-6C34}"])
def test_a_name_is_shown_literally(name):
    assert name in texts(chart.svg(sawtooth.pool(name), SINCE, UNTIL))


def test_a_name_with_control_characters_or_surrogates_is_still_drawn():
    assert "a?b??c" in texts(chart.svg(sawtooth.pool("a\nb\x1b\udcffc"), SINCE, UNTIL))


SCRIPT = """
import sys
from support import sawtooth
from supervisor_memreap.reports import chart
sys.stdout.write(chart.svg(sawtooth.pool(), sawtooth.UNTIL - sawtooth.DAY, sawtooth.UNTIL))
"""


def drawn(script: str = SCRIPT, **environment: str) -> subprocess.CompletedProcess[str]:
    variables = {**os.environ, "PYTHONPATH": f"{stack.ROOT}:{stack.ROOT}/tests", "TZ": "UTC0", **environment}
    return subprocess.run([sys.executable, "-c", script], env=variables, capture_output=True, text=True, check=True)


def test_the_same_history_gives_the_same_file_with_any_user_style(tmp_path):
    style = tmp_path / "matplotlibrc"
    style.write_text("font.size: 20\nlines.linewidth: 9\nbackend: TkAgg\n")
    first, second = drawn(), drawn(MATPLOTLIBRC=str(style), PYTHONHASHSEED="7", LC_ALL="C")
    assert first.stdout == second.stdout
    assert first.stdout == svg(sawtooth.pool)


def test_it_contains_no_date_and_loads_nothing():
    picture = svg(sawtooth.pool)
    root = ElementTree.fromstring(picture)
    assert not list(root.iter("{http://www.w3.org/2000/svg}metadata"))
    assert all(
        value.startswith("#") for each in root.iter() for key, value in each.attrib.items() if key.endswith("href")
    )
    assert "url(http" not in picture
    assert "@" not in picture


def test_an_unwritable_home_directory_does_no_harm(tmp_path):
    # Not even root can make a directory below a file.
    variables = {"HOME": "/dev/null/home", "TMPDIR": str(tmp_path), "XDG_CONFIG_HOME": "", "XDG_CACHE_HOME": ""}
    result = drawn(**variables)
    assert (result.stderr, result.stdout[:5]) == ("", "<?xml")
    assert list(tmp_path.iterdir()) == []


def test_a_png_has_the_picture_too():
    assert chart.png(sawtooth.pool(), SINCE, UNTIL).startswith(b"\x89PNG")


def test_each_reason_that_is_about_one_worker_has_a_mark_of_its_own():
    assert set(chart._MARKERS) == {reason.setting or "requested" for reason in REASONS if reason.is_about_worker}
    assert len({*chart._MARKERS.values(), chart._OTHER_MARKER, "X"}) == len(chart._MARKERS) + 2
