"""Time that passes only when nothing is left to do at this moment."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable

Act = Callable[[], None]


class Clock:
    """`now` is monotonic, in seconds; the wall clock may step."""

    def __init__(self, now: float):
        self.now = now
        self.offset = 1.7e9 - now
        """What the wall clock shows at 0."""
        self._queue: list[tuple[float, int, Act]] = []
        self._number = itertools.count()

    @property
    def wall(self) -> float:
        return self.now + self.offset

    def at(self, when: float, act: Act) -> None:
        """Do this then; what is due at one moment happens in the order in which it was asked for."""
        heapq.heappush(self._queue, (max(when, self.now), next(self._number), act))

    def after(self, seconds: float, act: Act) -> None:
        self.at(self.now + seconds, act)

    def next(self) -> float:
        """When something happens; infinite: never."""
        return self._queue[0][0] if self._queue else float("inf")

    def run(self, until: float) -> None:
        """Let everything happen that is due by then."""
        queue = self._queue
        while queue and queue[0][0] <= until:
            self.now, _, act = heapq.heappop(queue)
            act()
        self.now = max(self.now, until)
