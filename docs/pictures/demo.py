"""The demo, as it was to be seen on a terminal: frames of a real run."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Iterator
from html import escape
from typing import Any

import svg
from support.screen import Screen

NEEDS = "pyte, and perl with FCGI::ProcManager"
SECONDS = 70
COLUMNS, ROWS = 66, 24
# Of a cell, and of the window around them.
WIDTH, HEIGHT, MARGIN, BAR = 7.2, 16, 12, 26
# The speed-up of the run, its frames per second, and the seconds for which the end is shown.
SPEED, RATE, LAST = 3, 3, 5.0
_COLOURS = {"red": "red", "green": "green", "brown": "amber"}
_FULL, _EMPTY = "█", "░"


def record() -> dict[str, Any]:
    """A frame has the time in seconds and the rows that are new in it: their text, and the colour of their bar."""
    command = [sys.executable, "-m", "supervisor_memreap", "demo", "--pool", "perl"]
    frames: list[dict[str, Any]] = []
    before: list[list[str]] = [["", ""]] * ROWS
    with Screen(command, COLUMNS, ROWS, TMPDIR="/tmp") as screen:  # a long path would break the first lines
        start, over = time.monotonic(), False
        while not over:
            over = screen.process.poll() is not None
            while screen.read(0.05):
                pass
            rows = [[line, _colour(cells)] for line, cells in zip(screen.lines(), screen.cells())]
            new = {str(number): row for number, row in enumerate(rows) if row != before[number]}
            if new:
                frames.append({"at": round(time.monotonic() - start, 1), "rows": new})
            before = rows
        if screen.process.returncode:
            raise SystemExit(f"memreap demo failed:\n{screen.text()}")
    return {"frames": frames}


def _colour(cells: list[Any]) -> str:
    """That of the bar in a row."""
    return next((_COLOURS.get(cell.fg, "") for cell in cells if cell.data == _FULL), "")


def draw(values: dict[str, Any]) -> str:
    frames = list(_shown(values["frames"]))
    width, height = COLUMNS * WIDTH + 2 * MARGIN, ROWS * HEIGHT + 2 * MARGIN + BAR
    whole = len(frames) / RATE + LAST
    rows: dict[tuple[str, str], str] = {}
    strip = []
    for number, frame in enumerate(frames):
        used = [
            f'<use href="#{rows.setdefault((text, colour), f"r{len(rows)}")}" y="{row * HEIGHT}"/>'
            for row, (text, colour) in enumerate(frame)
            if text
        ]
        strip.append(f'<g transform="translate({number * width:g})">{"".join(used)}</g>')
    drawn = [f'<g id="{name}">{"".join(_row(text, colour))}</g>' for (text, colour), name in rows.items()]
    steps = "".join(
        f"{100 * number / RATE / whole:.2f}%{{transform:translateX({-number * width:g}px)}}"
        for number in range(len(frames))
    )
    last = f"translateX({-(len(frames) - 1) * width:g}px)"
    css = (
        f".m{{font:12px {svg.MONO}}}@keyframes run{{{steps}100%{{transform:{last}}}}}"
        f"#film{{transform:{last};animation:run {whole:.1f}s steps(1,end) infinite}}"
        "@media(prefers-reduced-motion:reduce){#film{animation:none}}"
    )
    ends = " ".join(text for text, _ in frames[-1] if text)
    return svg.document(
        "memreap demo in a terminal",
        f"A recording of memreap demo, {SPEED} times as fast. A table shows the size of four leaking workers against"
        " their limit. Each worker that grows over its limit gets HUP while it is idle, leaves, and a fresh one takes"
        " its place."
        f" The last lines: {ends[ends.rfind(' workers reaped') - 2 :].strip()}",
        (width, height),
        [
            f'<clipPath id="window"><rect width="{width:g}" height="{height:g}" rx="8"/></clipPath>',
            f"<defs>{''.join(drawn)}</defs>",
            svg.text(MARGIN, 19, "$ memreap demo", "text bold mono"),
            svg.text(width - MARGIN, 19, f"a real run, {SPEED} times as fast", "dim", "end"),
            svg.path([(0, BAR), (width, BAR)], "edge line"),
            f'<g clip-path="url(#window)"><g transform="translate({MARGIN} {BAR + MARGIN})">',
            f'<g id="film">{"".join(strip)}</g></g></g>',
        ],
        css,
    )


def _shown(frames: list[dict[str, Any]]) -> Iterator[list[tuple[str, str]]]:
    """All rows of each frame that is shown; a recorded one that lasted too briefly is not."""
    rows = [("", "")] * ROWS
    first, last = frames[0]["at"], frames[-1]["at"]
    left = list(frames)
    for number in range(round((last - first) * RATE / SPEED) + 1):
        until = first + number * SPEED / RATE
        while left and left[0]["at"] <= until + 0.05:
            for row, (text, colour) in left.pop(0)["rows"].items():
                rows[int(row)] = (text, colour)
        yield list(rows)


def _row(text: str, colour: str) -> Iterator[str]:
    """Its words, each run of them at its column whatever the font, and its bar."""
    for match in re.finditer(f"{_FULL}+|{_EMPTY}+|[^{_FULL}{_EMPTY} ]+(?: [^{_FULL}{_EMPTY} ]+)*", text):
        x, length = match.start() * WIDTH, len(match[0]) * WIDTH
        if match[0][0] in (_FULL, _EMPTY):
            yield svg.rect(x, 2, length, HEIGHT - 4, colour if match[0][0] == _FULL else "empty")
        else:
            state = {"over": "red", "leaving": "amber"}.get(match[0], "text")
            yield f'<text x="{x:g}" y="12" class="m {state}" textLength="{length:g}">{escape(match[0])}</text>'
