"""The candidates of one pool that wait for an attempt, in the order of their turns."""

from __future__ import annotations

from collections.abc import Collection

from supervisor_memreap.core.model import ProcessId
from supervisor_memreap.core.policy import Candidate


class Turns:
    def __init__(self) -> None:
        self.first: ProcessId | None = None
        """The most urgent one of the last look: it determines the hindrance."""
        self.waiting: list[Candidate] = []
        """Those of the last look for which no attempt was made since."""
        self._not_before: dict[ProcessId, float] = {}
        """When the next attempt may be made on workers that were stopped without a signal."""

    def offer(self, candidates: Collection[Candidate], but: ProcessId | None, now: float) -> None:
        """Those that may be signalled after a look, the most urgent first; on `but` an attempt is being made."""
        self._not_before = {worker: until for worker, until in self._not_before.items() if until > now}
        # One that is always busy does not keep the others from their turn, however urgent it is; and one may be there
        # for another reason too.
        by_turn = sorted(candidates, key=lambda each: each.attempts)
        once = {each.worker.id: each for each in reversed(by_turn)}
        self.waiting = [each for each in by_turn if once[each.worker.id] is each and self._may_go(each, but)]
        self.first = next((each.worker.id for each in candidates), None)

    def _may_go(self, candidate: Candidate, but: ProcessId | None) -> bool:
        return candidate.worker.id != but and candidate.worker.id not in self._not_before

    def clear(self) -> None:
        self.waiting = []

    def pause(self, worker: ProcessId, until: float) -> None:
        """Make no attempt on it before this time (monotonic)."""
        self._not_before[worker] = until
