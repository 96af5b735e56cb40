"""What one worker does from moment to moment: it waits for a connection, or has one in hand."""

from __future__ import annotations

import enum
import itertools
import random
from collections import deque
from dataclasses import dataclass


class Doing(enum.Enum):
    WAITS = "waits"
    """For a connection, with none in hand: at its boundary."""
    WORKS = "works"
    """On a request."""
    KEEPS = "keeps"
    """A client's connection between two requests."""


@dataclass(frozen=True)
class Load:
    """The requests that come to each worker of a pool; seconds."""

    pause: float = 1.0
    """Between two requests, on average; 0: the next one waits already, as with more clients than workers."""
    work: float = 0.05
    """A request takes, on average."""
    long: float = 0.0
    """The share of requests that take a hundred times as long."""
    keeps: float = 0.0
    """For which a client keeps its connection after a request."""


class Requests:
    """Those of one worker, drawn as they are asked about: most are never looked at."""

    def __init__(self, load: Load, chance: random.Random, begins: float):
        self.load = load
        self._chance = chance
        self._now = deque([(Doing.WAITS, begins)])
        """What it does, with the time of its end, and what it will do then, as far as that was asked for."""
        self.connected = float("inf")
        """Since when it has the connection that it has now; infinite: it has none."""
        self.stuck_since: float | None = None
        """It never ends the request that it had then."""

    def doing(self, at: float) -> Doing:
        """`at` never goes back."""
        self._advance(at)
        return self._now[0][0]

    def boundary(self, at: float) -> float:
        """When it next waits for a connection with none in hand; now, if it does; infinite: never."""
        self._advance(at)
        for place in itertools.count():
            if place == len(self._now):
                self._draw()
            doing, until = self._now[place]
            if doing is Doing.WAITS or at == float("inf"):
                break
            at = until
        return at

    def ends(self, at: float) -> float:
        """When the request in hand ends; now, if there is none."""
        self._advance(at)
        doing, until = self._now[0]
        return until if doing is Doing.WORKS else at

    def hang(self, at: float, seconds: float) -> None:
        """Now it gets a request that takes so long."""
        self._now, self.connected = deque([(Doing.WORKS, at + seconds)]), at

    def _advance(self, at: float) -> None:
        load, now = self.load, self._now
        if at - now[-1][1] > 100 * (load.pause + load.work + load.keeps):
            # Nobody looked for long: begin anew here.
            self._now = now = deque([(now[-1][0], at)])
            self.connected = float("inf")
        while now[0][1] <= at:
            if len(now) == 1:
                self._draw()
            doing, ended = now.popleft()
            if now[0][0] is Doing.WAITS:
                self.connected = float("inf")
            elif doing is Doing.WAITS:
                self.connected = ended

    def _draw(self) -> None:
        """What it does after all that is known."""
        self._now.append(self._next(*self._now[-1]))

    def _next(self, doing: Doing, at: float) -> tuple[Doing, float]:
        load, chance = self.load, self._chance
        if doing is Doing.WAITS:
            if self.stuck_since is not None and at >= self.stuck_since:
                return Doing.WORKS, float("inf")
            work = chance.expovariate(1 / load.work)
            return Doing.WORKS, at + work * (100 if chance.random() < load.long else 1)
        if doing is Doing.WORKS and load.keeps and chance.random() < 0.8:
            return Doing.KEEPS, at + chance.uniform(0, 2 * load.keeps)
        if doing is Doing.KEEPS and chance.random() < 0.5:
            return Doing.WORKS, at + chance.expovariate(1 / load.work)
        return Doing.WAITS, at + (chance.expovariate(1 / load.pause) if load.pause else 0.0)
