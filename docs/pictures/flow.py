"""From TICK to settled: who does what, in a sequence diagram."""

from __future__ import annotations

from collections.abc import Iterator

import svg

NEEDS = "nothing"
SECONDS = 0
WIDTH = 480
SUPERVISORD, LISTENER, WORKER, MANAGER = 52, 172, 312, 428
NAMES = {SUPERVISORD: "supervisord", LISTENER: "listener", WORKER: "worker", MANAGER: "manager"}
TOP, END = 52, 606
# When the worker is there, when it is held, and when the next one is forked.
HELD, RELEASED, GONE, FORKED = 298, 374, 444, 478


def record() -> None:
    """Nothing is measured."""


def draw(_values: None) -> str:
    return svg.document(
        "From TICK to settled",
        "supervisord sends TICK to the listener, which answers OK at once. The listener looks at the size of every"
        " worker and chooses the largest one over its limit. A child process of it follows that worker by ptrace to the"
        " end of its request, where it will wait for its next connection, sends HUP there, and lets it go. The worker"
        " leaves, the manager forks another one, and when that one serves and has settled the next worker may be"
        " chosen.",
        (WIDTH, END + 14),
        [*_lifelines(), *_steps()],
    )


def _lifelines() -> Iterator[str]:
    for x, name in NAMES.items():
        bottom = GONE if x == WORKER else END
        yield svg.path([(x, TOP - 8), (x, bottom)], "edge line", ' stroke-dasharray="3 3"')
        yield svg.rect(x - 44, TOP - 36, 88, 26, "panel edge line", ' rx="5"')
        yield svg.text(x, TOP - 18, name, "text bold", "middle")
    # What the worker does: it serves a request, is followed to its end, and is stopped between two requests.
    yield svg.rect(WORKER - 4, TOP - 8, 8, HELD - TOP + 8, "blue")
    yield svg.rect(WORKER - 4, HELD, 8, RELEASED - HELD, "amber")
    yield svg.rect(WORKER - 4, RELEASED, 8, GONE - RELEASED, "panel edge line")
    yield svg.text(WORKER + 10, 150, "serves a request", "blue small")
    yield svg.text(WORKER + 10, 264, "is followed to", "dim small")
    yield svg.text(WORKER + 10, 278, "the request's end", "dim small")
    yield svg.text(WORKER + 10, 340, "between two", "amber small")
    yield svg.text(WORKER + 10, 354, "requests", "amber small")
    yield svg.rect(WORKER - 4, FORKED, 8, END - FORKED, "green")
    yield svg.text(WORKER + 10, FORKED + 22, "a fresh worker", "green small")
    yield svg.text(WORKER + 10, FORKED + 36, "serves requests", "green small")


def _steps() -> Iterator[str]:
    yield from _arrow(SUPERVISORD, LISTENER, 76, "TICK")
    yield from _arrow(LISTENER, SUPERVISORD, 104, "OK, at once")
    yield from _note(136, "look", "read every worker's size")
    yield from _note(184, "choose", "the largest over its limit")
    yield from _arrow(LISTENER, WORKER, 244, "attach (ptrace)")
    yield from _arrow(LISTENER, WORKER, HELD, "boundary", "amber")
    yield from _arrow(LISTENER, WORKER, 336, "HUP", "red")
    yield from _arrow(LISTENER, WORKER, RELEASED, "let go")
    yield svg.text(WORKER - 10, 416, "runs its handler", "dim small", "end")
    yield from _arrow(WORKER, MANAGER, GONE, "leaves")
    yield from _arrow(MANAGER, WORKER, FORKED, "")
    yield svg.text((WORKER + MANAGER) / 2 + 4, FORKED - 5, "fork", "text", "middle")
    yield from _note(500, "see it gone", "and replaced: log the MiB freed")
    yield from _note(552, "settle", "it serves: now the next")


def _arrow(start: float, end: float, y: float, label: str, classes: str = "text") -> Iterator[str]:
    step = 1 if end > start else -1
    tip = end - step * (6 if WORKER in (start, end) else 2)
    begin = start + step * 5
    yield svg.path([(begin, y), (tip, y)], f"{classes} line")
    yield svg.path([(tip - step * 6, y - 4), (tip, y), (tip - step * 6, y + 4)], f"{classes} line")
    if label:
        yield svg.text((start + end) / 2, y - 5, label, classes, "middle")


def _note(y: float, title: str, text: str) -> Iterator[str]:
    """What the listener does on its own."""
    width = 14 + 6.2 * max(len(text), len(title))
    left = LISTENER - width / 2
    yield svg.rect(left, y - 14, width, 36, "panel edge line", ' rx="5"')
    yield svg.text(LISTENER, y, title, "text bold", "middle")
    yield svg.text(LISTENER, y + 15, text, "dim small", "middle")
