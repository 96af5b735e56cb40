"""The picture of a pool's history: its workers, their limit and each reap above, the pool's total below.

Needs matplotlib, from the extra `plot`, which is imported only when something is drawn. The same history gives the same
file, whatever the user's own settings of matplotlib are.

1. Readable in black and white and by the colour-blind: the colours of Okabe and Ito, each with its own style of line,
   and a label at the line.
2. More workers than there are styles, or lifetimes too short to distinguish, are drawn as a band: the smallest, the
   middle half, the median and the largest.
"""

from __future__ import annotations

import contextlib
import io
import logging
import math
import re
import warnings
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from statistics import median, quantiles
from typing import Any, NamedTuple

from supervisor_memreap.advice import spans
from supervisor_memreap.advice.poolhistory import EventRecord, PoolHistory, WorkerHistory
from supervisor_memreap.advice.spans import Span
from supervisor_memreap.core.failed import Failed
from supervisor_memreap.core.text import MIB, memory, printable
from supervisor_memreap.host import packages
from supervisor_memreap.reports import timeaxis

INK, MUTED, GRID, PAPER = "#1f2328", "#57606a", "#d8dee4", "#ffffff"
_ON_PAPER = {"facecolor": PAPER, "edgecolor": "none", "alpha": 0.75, "pad": 1}
SOLID, LONG, DOTTED, SHORT = "solid", (0, (9, 3)), (0, (1.2, 1.8)), (0, (4, 2))
_LIMIT = (0, (6, 2))
# The colours of Okabe and Ito, without yellow, which is too pale as a line, and black, in which the limit is drawn.
STYLES: tuple[tuple[str, Any], ...] = (
    ("#0072b2", SOLID),
    ("#d55e00", LONG),
    ("#009e73", (0, (7, 2, 1.5, 2))),
    ("#cc79a7", DOTTED),
    ("#e69f00", SHORT),
    ("#56b4e9", (0, (5, 2, 1, 2, 1, 2))),
)
# Lifetimes in succession on one line: more cannot be distinguished on the width of a page.
_MOST_LIVES = 40
# Seconds between the last reading of a worker and the first one of its replacement.
_REPLACED = 3600
# Columns of a band.
_COLUMNS = 300
_IS_WIDE = 8
# Of the reasons that are about one worker; of grouped about memory that processes share, a dot.
_MARKERS = {"requested": "s", "limit": "v", "max_age": "D"}
_OTHER_MARKER = "o"


class NothingToDrawError(Failed):
    """Nothing was recorded in that time: one line."""


class Size(NamedTuple):
    """Inches; a label has 9 points."""

    width: float
    height: float
    has_title: bool = True


PAGE = Size(11, 6.2)
"""For a separate file."""
WIDE, NARROW = Size(11, 5.6, has_title=False), Size(4.4, 5.2, has_title=False)
"""For a page that has the title itself, on a screen and on a telephone."""


def svg(history: PoolHistory, since: float, until: float, size: Size = PAGE) -> str:
    """The picture as SVG, in which text is text. Raises MissingLibraryError and NothingToDrawError."""
    picture = _saved(history, since, until, size, "svg").decode()
    # A hundredth of a point is enough, and a third smaller.
    return re.sub(r' d="[^"]*"', lambda path: re.sub(r"(\.\d\d)\d+", r"\1", path[0]), picture)


def png(history: PoolHistory, since: float, until: float, size: Size = PAGE) -> bytes:
    """The picture as PNG. Raises as svg() does."""
    return _saved(history, since, until, size, "png")


def _saved(history: PoolHistory, since: float, until: float, size: Size, kind: str) -> bytes:
    with library():
        file = io.BytesIO()
        # Without these, the file would have the date and the version of matplotlib.
        nothing = dict.fromkeys(("Date", "Creator", "Format", "Type") if kind == "svg" else ("Software",))
        transparent = kind == "svg" and not size.has_title
        draw(history, since, until, size).savefig(file, format=kind, metadata=nothing, transparent=transparent, dpi=150)
        return file.getvalue()


def require() -> None:
    """Raise MissingLibraryError before any work is done."""
    # It reports, for example, that it cannot write its cache of fonts into this home, and uses a temporary directory.
    logging.getLogger("matplotlib").setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # an old one with newer libraries
            import matplotlib.figure  # noqa: F401
    except ImportError:
        remedy = packages.install_extra("plot")
        raise packages.MissingLibraryError(
            f"the pictures need matplotlib, which is not installed here: {remedy}"
        ) from None


@contextlib.contextmanager
def library() -> Iterator[None]:
    """matplotlib with its own defaults and ours, and silent. Raises MissingLibraryError."""
    require()
    import matplotlib

    ours: dict[Any, Any] = {
        "svg.fonttype": "none",
        "svg.hashsalt": "memreap",
        "font.size": 9,
        "font.sans-serif": ["DejaVu Sans"],  # the one that matplotlib has with it
        "text.parse_math": False,  # a pool may have a $ in its name
        "hatch.linewidth": 0.6,
        "path.simplify_threshold": 0.3,
        **dict.fromkeys(("text.color", "axes.labelcolor", "xtick.labelcolor", "ytick.labelcolor"), INK),
        **dict.fromkeys(("axes.edgecolor", "xtick.color", "ytick.color"), MUTED),
        **dict.fromkeys(("axes.spines.top", "axes.spines.right"), False),
    }
    with matplotlib.rc_context(matplotlib.rcParamsDefault), matplotlib.rc_context(ours), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a letter of a name that its font does not have
        yield


def draw(history: PoolHistory, since: float, until: float, size: Size = PAGE) -> Any:
    """The picture as a matplotlib Figure; within `library()`. Raises NothingToDrawError."""
    from matplotlib.figure import Figure

    picture = _Picture(history, since, until)
    if not picture.readings:
        raise NothingToDrawError(f"{history.name}: nothing was recorded {timeaxis.span_text(since, until)}: no picture")
    figure = Figure(figsize=(size.width, size.height))
    above, below = figure.subplots(2, 1, sharex=True, gridspec_kw={"height_ratios": (2.6, 1), "hspace": 0.16})
    labels = {above: _draw_workers(above, picture), below: _draw_total(below, picture)}
    for axes in labels:
        _finish(axes, picture)
    rows = _write_key(above, columns=5 if size.width > _IS_WIDE else 2)
    # Fixed margins, in inches: fitting ones would depend on the fonts of the machine.
    top = 0.15 + 0.19 * rows + (0.6 if size.has_title else 0)
    figure.subplots_adjust(
        left=0.72 / size.width, right=1 - 1.5 / size.width, top=1 - top / size.height, bottom=0.55 / size.height
    )
    for axes, texts in labels.items():
        axes.yaxis.set_label_coords(-0.52 / (size.width - 2.22), 0.5)
        _write_labels(axes, texts)
    if size.has_title:
        _write_title(figure, picture, size)
    _write_times(below, picture, most=9 if size.width > _IS_WIDE else 5)
    return figure


class _Picture:
    """What is drawn: a history from `since` to `until`."""

    def __init__(self, history: PoolHistory, since: float, until: float):
        times = [reading.at for reading in history.readings if reading.at <= until]
        # What was before the first reading is not worth its place, but a picture has the width of a minute.
        since = max(since, min((*times[:1], until - 60)))
        self.history, self.since, self.until = history, since, until
        self.recorded = spans.recorded(times, until)
        self.readings = [reading for reading in history.readings if since <= reading.at <= until]
        self.suspended = [each.span.within(since, until) for each in spans.suspensions(history.events, until)]
        self.lives = [life for life in (_within(worker, since, until) for worker in history.workers) if life.readings]
        self.reaps = self._events("Signalled")
        self.observed = self._events("WouldReap")
        self.stuck = self._events("Stuck")

    def _events(self, name: str) -> list[EventRecord]:
        return [each for each in self.history.events if each.name == name and self.since <= each.at <= self.until]

    @property
    def gaps(self) -> list[Span]:
        return spans.gaps(self.recorded, self.since, self.until)

    def broken(self, points: Sequence[tuple[float, float]]) -> tuple[list[float], list[float]]:
        """The points as two lists, with a break where nothing was recorded."""
        starts = [span.start for span in self.recorded]
        xs, ys = [], []
        for number, (x, y) in enumerate(points):
            if number and bisect_right(starts, x) != bisect_right(starts, points[number - 1][0]):
                xs.append(points[number - 1][0])
                ys.append(math.nan)
            xs.append(x)
            ys.append(y)
        return xs, ys


def _within(worker: WorkerHistory, since: float, until: float) -> WorkerHistory:
    readings = worker.readings
    first, last = bisect_left(readings, (since,)), bisect_right(readings, (until, math.inf))
    return WorkerHistory(worker.pid, worker.started, readings[first:last], worker.was_reaped)


def _draw_workers(axes: Any, picture: _Picture) -> list[_Label]:
    """The workers, their limit and their reaps; the labels of all these."""
    lines = _lines(picture.lives)
    is_band = len(lines) > len(STYLES) or any(len(line) > _MOST_LIVES for line in lines)
    largest = max((reading.largest for reading in picture.readings), default=0)
    limits = [reading.limit for reading in picture.readings if reading.limit is not None]
    highest = max((largest, *limits))
    unit = _unit(highest)
    labels = _draw_band(axes, picture, unit) if is_band else _draw_lines(axes, picture, lines, unit)
    _draw_limit(axes, picture, unit, labels)
    _draw_reaps(axes, picture, unit, is_band)
    axes.set_ylabel(f"{picture.history.metric} of a worker ({unit.name})")
    # A band has the marks of its reaps above it.
    axes.set_ylim(0, highest / unit.bytes * (1.14 if is_band else 1.06) or 1)
    return labels


class _Unit(NamedTuple):
    name: str
    bytes: int


def _unit(largest: float) -> _Unit:
    return _Unit("GiB", 1024 * MIB) if largest >= 1024 * MIB else _Unit("MiB", MIB)


class _Label(NamedTuple):
    """A text at the right end of a line."""

    y: float
    text: str
    color: str
    style: Any = SOLID


def _lines(lives: Sequence[WorkerHistory]) -> list[list[WorkerHistory]]:
    """A worker goes on the line of one that left before it came, as its replacement does."""
    lines: list[list[WorkerHistory]] = []
    for life in sorted(lives, key=lambda each: each.readings[0].at):
        free = (line for line in lines if line[-1].readings[-1].at < life.readings[0].at)
        line = max(free, key=lambda line: line[-1].readings[-1].at, default=None)
        if line is None:
            lines.append(line := [])
        line.append(life)
    return lines


def _draw_lines(axes: Any, picture: _Picture, lines: list[list[WorkerHistory]], unit: _Unit) -> list[_Label]:
    labels = []
    last = picture.readings[-1].at
    for line, (color, style) in zip(lines, STYLES):
        for life in line:
            points = [(reading.at, reading.used / unit.bytes) for reading in life.readings]
            marker = "." if len(points) < 5 else ""  # a line needs two points to be seen
            axes.plot(*picture.broken(points), color=color, linestyle=style, linewidth=1.4, marker=marker)
        _draw_drops(axes, line, color, unit)
        end = line[-1].readings[-1]
        if end.at >= last:
            labels.append(_Label(end.used / unit.bytes, f"pid {line[-1].pid}", color, style))
    return labels


def _draw_drops(axes: Any, line: list[WorkerHistory], color: str, unit: _Unit) -> None:
    """A thin line from each worker that was reaped to the one that took its place."""
    for before, after in zip(line, line[1:]):
        (at, used), (later, fresh) = before.readings[-1], after.readings[0]
        if before.was_reaped and later - at < _REPLACED:
            axes.plot([at, later], [used / unit.bytes, fresh / unit.bytes], color=color, linewidth=0.6, alpha=0.5)


def _draw_band(axes: Any, picture: _Picture, unit: _Unit) -> list[_Label]:
    columns = [column for column in _columns(picture) if column[1]]
    if not columns:
        return []
    rows = []
    for at, sizes in columns:
        low, high = (sizes[0], sizes[0]) if len(sizes) == 1 else quantiles(sizes, n=4, method="inclusive")[::2]
        rows.append((at, *(size / unit.bytes for size in (min(sizes), low, median(sizes), high, max(sizes)))))
    xs, _ = picture.broken([(row[0], 0) for row in rows])
    least, lower, middle, upper, most = (
        picture.broken([(row[0], row[part]) for row in rows])[1] for part in range(1, 6)
    )
    color = STYLES[0][0]
    axes.fill_between(xs, least, most, color=color, alpha=0.15, linewidth=0)
    axes.fill_between(xs, lower, upper, color=color, alpha=0.3, linewidth=0)
    labels = []
    for ys, style, text in ((most, SHORT, "largest"), (middle, SOLID, "median"), (least, DOTTED, "smallest")):
        axes.plot(xs, ys, color=color, linestyle=style, linewidth=1.1)
        labels.append(_Label(ys[-1], text, color, style))
    return labels


def _columns(picture: _Picture) -> list[tuple[float, list[int]]]:
    """The time of each column in which something was recorded, and the largest size of each worker in it."""
    width = (picture.until - picture.since) / _COLUMNS
    columns: list[list[int]] = [[] for _ in range(_COLUMNS)]
    for life in picture.lives:
        sizes: dict[int, int] = {}
        for reading in life.readings:
            column = min(_COLUMNS - 1, int((reading.at - picture.since) / width))
            sizes[column] = max(sizes.get(column, 0), reading.used)
        size = 0
        for column in range(min(sizes), max(sizes) + 1):
            size = sizes.get(column, size)  # its readings may be farther apart than two columns
            columns[column].append(size)
    times = (picture.since + (number + 0.5) * width for number in range(_COLUMNS))
    return [
        (at, sizes)
        for at, sizes in zip(times, columns)
        if any(span.start <= at <= span.end + width / 2 for span in picture.recorded)
    ]


def _draw_limit(axes: Any, picture: _Picture, unit: _Unit, labels: list[_Label]) -> None:
    points = [
        (reading.at, math.nan if reading.limit is None else reading.limit / unit.bytes) for reading in picture.readings
    ]
    points.append((picture.until, points[-1][1]))
    axes.plot(*picture.broken(points), color=INK, linewidth=1.6, linestyle=_LIMIT, drawstyle="steps-post")
    before: int | None = None
    for reading in picture.readings:
        if reading.limit not in (before, picture.readings[-1].limit) and reading.limit is not None:
            axes.annotate(
                f"limit {memory(reading.limit)}",
                (reading.at, reading.limit / unit.bytes),
                (2, 5),
                textcoords="offset points",
                fontweight="bold",
                bbox=_ON_PAPER,
            )
        before = reading.limit
    if before is not None:
        labels.append(_Label(before / unit.bytes, f"limit {memory(before)}", INK, _LIMIT))


def _draw_reaps(axes: Any, picture: _Picture, unit: _Unit, is_band: bool) -> None:
    """A mark for each reap, and a hollow one for each that there would have been without observe=yes."""
    for number, (done, drawn) in enumerate((("reaped", picture.reaps), ("would be reaped", picture.observed))):
        if is_band and drawn:
            # Above the band, where there is room for thousands, as one path.
            top = 0.995 - 0.05 * number
            xs = [x for event in drawn for x in (event.at, event.at, math.nan)]
            ys = [y for _ in drawn for y in (top - 0.04, top, math.nan)]
            axes.plot(xs, ys, transform=axes.get_xaxis_transform(), color=INK, linewidth=0.5)
            axes.plot([], [], "|", color=INK, markersize=9, label=f"each tick: a worker {done} ({len(drawn):,})")
            continue
        reasons: dict[str, list[EventRecord]] = {}
        for event in drawn:
            reasons.setdefault(str(event.values.get("reason", "")) or "unknown", []).append(event)
        inside, edge = (PAPER, INK) if number else (INK, PAPER)
        for reason, grouped in sorted(reasons.items()):
            marker = _MARKERS.get(reason, _OTHER_MARKER)
            _draw_marks(axes, picture, unit, grouped, f"{done}: {reason}", marker, (inside, edge))
    if picture.stuck:
        _draw_marks(axes, picture, unit, picture.stuck, "stuck", "X", ("#d55e00", PAPER))


def _draw_marks(
    axes: Any,
    picture: _Picture,
    unit: _Unit,
    drawn: Sequence[EventRecord],
    text: str,
    marker: str,
    colors: tuple[str, str],
) -> None:
    """A mark where the worker of each event was; its inside and its edge have these colours."""
    axes.plot(
        [event.at for event in drawn],
        [_used(picture, event) / unit.bytes for event in drawn],
        marker,
        color=colors[0],
        markeredgecolor=colors[1],
        markersize=8 if marker == "X" else 6,
        label=f"{text} ({len(drawn):,})",
        zorder=5,
    )


def _used(picture: _Picture, event: EventRecord) -> float:
    """What the worker of this event used by then, in bytes; else the largest one."""
    evidence = event.values.get("evidence")
    if isinstance(evidence, dict) and isinstance(evidence.get("used"), int):
        return float(evidence["used"])
    for life in picture.lives:
        if life.pid == event.pid:
            before = [reading.used for reading in life.readings if reading.at <= event.at]
            if before:
                return before[-1]
    return next((each.largest for each in reversed(picture.readings) if each.at <= event.at), 0)


def _draw_total(axes: Any, picture: _Picture) -> list[_Label]:
    """The total of the pool; its label."""
    peak = max(picture.readings, key=lambda reading: reading.total)
    unit = _unit(peak.total)
    points = [(reading.at, reading.total / unit.bytes) for reading in picture.readings]
    xs, ys = picture.broken(points)
    axes.fill_between(xs, ys, color=MUTED, alpha=0.18, linewidth=0)
    axes.plot(xs, ys, color=INK, linewidth=1.2, marker="." if len(points) < 5 else "")
    axes.plot([peak.at], [peak.total / unit.bytes], "o", color=INK, markersize=4)
    is_late = peak.at > (picture.since + picture.until) / 2
    axes.annotate(
        f"peak {memory(peak.total)}",
        (peak.at, peak.total / unit.bytes),
        (-5 if is_late else 5, 5),
        textcoords="offset points",
        ha="right" if is_late else "left",
        bbox=_ON_PAPER,
    )
    axes.set_ylabel(f"total of the pool ({unit.name})")
    axes.set_ylim(0, peak.total / unit.bytes * 1.25 or 1)
    return [_Label(points[-1][1], memory(picture.readings[-1].total), INK)]


def _finish(axes: Any, picture: _Picture) -> None:
    """What both parts have: when nothing was recorded, suspensions, and a grid."""
    for number, gap in enumerate(picture.gaps):
        axes.axvspan(*gap, color=GRID, alpha=0.8, linewidth=0, zorder=0, label="" if number else "not recorded")
    for number, span in enumerate(span for span in picture.suspended if span.length):
        label = "" if number else "suspended"
        axes.axvspan(*span, facecolor="none", edgecolor=MUTED, hatch="////", linewidth=0, zorder=0.5, label=label)
    axes.grid(axis="y", color=GRID, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.set_xlim(picture.since, picture.until)
    axes.tick_params(length=3)


def _write_key(axes: Any, columns: int) -> int:
    """What the marks and areas mean, above the picture; the number of rows that it takes."""
    handles, texts = axes.get_legend_handles_labels()
    if not handles:
        return 0
    axes.legend(
        handles,
        texts,
        loc="lower left",
        bbox_to_anchor=(0, 1),
        ncols=columns,
        frameon=False,
        borderaxespad=0.2,
        handletextpad=0.4,
        columnspacing=1.2,
        handlelength=1.4,
    )
    return math.ceil(len(handles) / columns)


def _write_labels(axes: Any, labels: list[_Label]) -> None:
    """Labels at the right end of their lines, moved apart where they would overlap."""
    low, high = axes.get_ylim()
    height = axes.figure.get_figheight() * axes.get_position().height * 72
    apart = 11 * (high - low) / height  # a label has 9 points
    placed: list[float] = []
    ordered = sorted((label for label in labels if not math.isnan(label.y)), key=lambda label: label.y)
    for label in ordered:
        placed.append(max(label.y, placed[-1] + apart) if placed else label.y)
    # If that pushed them out above, back down again.
    for number in range(len(placed) - 1, -1, -1):
        ceiling = high if number == len(placed) - 1 else placed[number + 1] - apart
        placed[number] = min(placed[number], ceiling)
    width = axes.figure.get_figwidth() * axes.get_position().width
    # A sample of the line joins them, since a text in its colour would be too pale.
    start, end = 1 + 0.06 / width, 1 + 0.38 / width
    for label, y in zip(ordered, placed):
        axes.plot(
            (start, end),
            (y, y),
            transform=axes.get_yaxis_transform(),
            clip_on=False,
            color=label.color,
            linestyle=label.style,
            linewidth=1.5,
        )
        axes.annotate(
            label.text,
            (end, y),
            (3, 0),
            xycoords=("axes fraction", "data"),
            textcoords="offset points",
            va="center",
            fontweight="bold" if label.style is _LIMIT else "normal",
            annotation_clip=False,
        )


def _write_title(figure: Any, picture: _Picture, size: Size) -> None:
    left, height = 0.1 / size.width, size.height
    name = printable(picture.history.name)
    name = name if len(name) <= 90 else f"{name[:87]}..."
    figure.text(left, 1 - 0.12 / height, name, fontsize=13, fontweight="bold", va="top")
    what = f"memory of its workers ({picture.history.metric}), {timeaxis.span_text(picture.since, picture.until)}"
    figure.text(left, 1 - 0.38 / height, what, color=MUTED, va="top")


def _write_times(axes: Any, picture: _Picture, most: int) -> None:
    ticks = timeaxis.ticks(picture.since, picture.until, most)
    axes.set_xticks([tick.at for tick in ticks], [tick.text for tick in ticks])
    axes.set_xlabel(f"time ({timeaxis.zone(picture.until)})")
