"""When the workers of a pool end, and whether those that held lost requests had been signalled."""

from __future__ import annotations

import contextlib
import os
import select
import time
from collections import Counter
from collections.abc import Collection, Iterable, Mapping

from servers_report import NOT_SIGNALLED, SIGNALLED, UNKNOWN
from support import stack
from support.driver import workers_below

# Seconds between a loss and the end of its worker, as they are noted on a busy machine: up to 8 ms were measured.
LATE = 0.02
# Seconds between two looks for new workers.
LOOKS = 0.02


class Ends(stack.Watch):
    """In a `with` block: when the workers of a pool end. The kernel says so at once, by their pidfds."""

    def __init__(self, pool: stack.Pool):
        super().__init__(pool)
        self.at: dict[int, float] = {}
        """When each worker ended (monotonic), by its pid."""

    def _run(self) -> None:
        pids: dict[int, int] = {}
        with select.epoll() as ends:
            while not self._stop.is_set():
                for pid in workers_below(self._manager) - {*pids.values()}:
                    with contextlib.suppress(ProcessLookupError):
                        pidfd = os.pidfd_open(pid)
                        pids[pidfd] = pid
                        ends.register(pidfd, select.EPOLLIN)
                for pidfd, _ in ends.poll(LOOKS):
                    self.at[pids.pop(pidfd)] = time.monotonic()
                    ends.unregister(pidfd)  # the child of an attempt may have a copy of it, so that close does not
                    os.close(pidfd)
            for pidfd in pids:
                os.close(pidfd)


def lost_in(losses: Iterable[float], ends: Mapping[int, float], signalled: Collection[int]) -> Counter[str]:
    """For how many lost requests the worker that held it had been signalled by us.

    A request is lost when the worker that holds its connection ends: it is the one that ended just then. UNKNOWN: none
    did, or some that were signalled and some that were not.
    """
    counts: Counter[str] = Counter()
    for lost in losses:
        kinds = {SIGNALLED if pid in signalled else NOT_SIGNALLED for pid, at in ends.items() if abs(at - lost) < LATE}
        counts[kinds.pop() if len(kinds) == 1 else UNKNOWN] += 1
    return counts
