"""The lines that the log gets from the history: a summary of each day, and the right limit of an observed pool."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Iterator
from typing import TYPE_CHECKING, Protocol

from supervisor_memreap.host import apart

if TYPE_CHECKING:
    from supervisor_memreap.advice.poolhistory import PoolHistory

DAY = 86400.0
# Seconds between two times at which a limit is looked for; and until a line about that is repeated.
ASKED_EVERY, REPEATED = 3600.0, DAY
# Seconds that a process may take for all pools.
_PATIENCE = 600.0
# Seconds of recording that a suggestion is made from.
_LOOKED_BACK = 7 * DAY

Line = dict[str, str]
"""kind (summary or suggestion), pool and text."""


class Marks(Protocol):
    """What is remembered in the file from one listener to the next."""

    def mark(self, name: str) -> float | None: ...

    def set_mark(self, name: str, value: float) -> None: ...


class Daily:
    """`load` is historyfile.each. Both may raise HistoryError."""

    def __init__(self, is_summarised: bool, load: Callable[[float, Iterable[str] | None], Iterable[PoolHistory]]):
        self._is_summarised = is_summarised
        self._load = load
        self._asked = time.monotonic()

    def lines(self, marks: Marks, observed: Collection[str], now: float) -> Iterator[Line]:
        """What is due; `observed` are the pools that are only observed."""
        if self._is_summarised:
            yield from self._summaries(marks, now)
        if observed and time.monotonic() - self._asked >= ASKED_EVERY:
            self._asked = time.monotonic()
            yield from self._suggestions(marks, observed, now)

    # Both are made apart: what is loaded for them takes up to 200 MB.

    def _summaries(self, marks: Marks, now: float) -> Iterator[Line]:
        """At the first look of each day, by this machine's clock."""
        midnight = time.mktime((*time.localtime(now)[:3], 0, 0, 0, 0, 0, -1))
        last = marks.mark("summary")
        if last == midnight:
            return
        marks.set_mark("summary", midnight)
        if last is None or last > midnight:
            return  # it has only begun, or the clock was set back

        def lines() -> Iterator[Line]:
            from supervisor_memreap.reports.summary import summary_line

            for history in self._load(last, None):
                if history.readings or any(event.at >= last for event in history.events):
                    yield {"kind": "summary", "pool": history.name, "text": summary_line(history, last, midnight)}

        yield from apart.made(lambda: [*lines()], _PATIENCE)

    def _suggestions(self, marks: Marks, observed: Collection[str], now: float) -> Iterator[Line]:
        def is_due(name: str) -> bool:
            # If a limit is known, nothing is calculated until it is repeated.
            reported_at = marks.mark(f"suggestion of {name}")
            return reported_at is None or reported_at < 0 or now - reported_at >= REPEATED

        names = [*filter(is_due, sorted(observed))]

        def lines() -> Iterator[tuple[str, bool, str]]:
            from supervisor_memreap.advice.suggestion import suggest
            from supervisor_memreap.reports import advicetext

            for history in self._load(now - _LOOKED_BACK, names):
                suggested = suggest(history, now)
                yield history.name, suggested.limit is not None, advicetext.line(suggested)

        for name, is_known, text in apart.made(lambda: [*lines()], _PATIENCE) if names else ():
            # When it was reported; negative if none was known.
            mark = f"suggestion of {name}"
            reported_at = marks.mark(mark)
            is_news = reported_at is None or now - abs(reported_at) >= REPEATED or (is_known and reported_at < 0)
            if not is_news:
                continue
            marks.set_mark(mark, now if is_known else -now)
            yield {"kind": "suggestion", "pool": name, "text": text}
