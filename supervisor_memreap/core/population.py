"""What is known of how a manager keeps its workers. Pure.

A new manager starts anew: its program may be another one. Times are monotonic, in seconds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from supervisor_memreap.core.model import ProcessId


@dataclass(frozen=True)
class Population:
    replaces: bool | None = None
    """Whether the manager forked another worker in the place of the last one that was reaped; None: not known."""
    shrinks: bool = False
    """The manager has shrunk its pool on its own: it forks workers when they are needed."""
    serving: Mapping[ProcessId, float] = field(default_factory=dict)
    """Since when each worker serves that was seen to do so: it serves until it ends."""
    served: bool = False
    """A worker was seen that had settled."""
    had_more: bool = False
    """It was seen to have more than one worker."""
    peaks: tuple[int, int] = (0, 0)
    """The largest number of workers since `peak_since`, and in the period before."""
    peak_since: float | None = None
    workers: frozenset[ProcessId] = frozenset()
    """The workers of the last look."""
    last_workers: frozenset[ProcessId] = frozenset()
    """With target=self: the workers of the last look that had any."""
    starting: frozenset[ProcessId] = frozenset()
    """Workers that were seen in the last look not to serve yet."""
    child_faults: int | None = None
    """Of the last look, as in core.model."""
    calm_since: float | None = None
    """Since when no worker has come or left."""
    no_workers_since: float | None = None
    """Since when the manager has had none; None: it has some."""

    def calm(self, at: float) -> float:
        """Seconds for which no worker had come or left at this time."""
        return at - self.calm_since if self.calm_since is not None else 0.0

    def lasting(self) -> Population:
        """The part that survives a restart of the listener: what looks cannot soon show again."""
        return Population(self.replaces, self.shrinks, self.serving)

    def lasting_part_differs(self, other: Population) -> bool:
        return self is not other and self.lasting() != other.lasting()

    def without_expectations(self) -> Population:
        """A user says that the number of workers is right as it is.

        What the manager is like stays known: that it shrinks its pool, and that its workers come to serve.
        """
        return replace(self, replaces=None, peaks=(0, 0), peak_since=None, had_more=False)
