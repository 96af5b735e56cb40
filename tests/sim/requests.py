"""What one worker does from moment to moment: it waits for a connection, or has one in hand."""

from __future__ import annotations

import enum
import random
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
        self._doing, self._until = Doing.WAITS, begins
        self.stuck_since: float | None = None
        """It never ends the request that it had then."""

    def doing(self, at: float) -> Doing:
        """`at` never goes back."""
        self._advance(at)
        return self._doing

    def boundary(self, at: float) -> float:
        """When it next waits for a connection with none in hand; now, if it does; infinite: never."""
        self._advance(at)
        while self._doing is not Doing.WAITS:
            if self._until == float("inf"):
                return self._until
            at = self._until
            self._step(at)
        return at

    def ends(self, at: float) -> float:
        """When the request in hand ends; now, if there is none."""
        self._advance(at)
        return self._until if self._doing is Doing.WORKS else at

    def _advance(self, at: float) -> None:
        load = self.load
        if at - self._until > 100 * (load.pause + load.work + load.keeps):
            self._until = at  # nobody looked for long: begin anew here
        while self._until <= at:
            self._step(self._until)

    def _step(self, at: float) -> None:
        load, chance = self.load, self._chance
        if self._doing is Doing.WAITS:
            if self.stuck_since is not None and at >= self.stuck_since:
                self._doing, self._until = Doing.WORKS, float("inf")
                return
            work = chance.expovariate(1 / load.work)
            self._doing, self._until = Doing.WORKS, at + work * (100 if chance.random() < load.long else 1)
        elif self._doing is Doing.WORKS and load.keeps and chance.random() < 0.8:
            self._doing, self._until = Doing.KEEPS, at + chance.uniform(0, 2 * load.keeps)
        elif self._doing is Doing.KEEPS and chance.random() < 0.5:
            self._doing, self._until = Doing.WORKS, at + chance.expovariate(1 / load.work)
        else:
            self._doing = Doing.WAITS
            self._until = at + (chance.expovariate(1 / load.pause) if load.pause else 0.0)
