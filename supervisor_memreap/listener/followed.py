"""What is kept open for signalled workers: the pool's lock, and a descriptor that shows when a worker is gone."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from supervisor_memreap.core.model import Pool, ProcessId
from supervisor_memreap.core.state import PoolState
from supervisor_memreap.host.machine import Handle, Lock, Locked, Machine

# Takes the lock of a manager, with target=self that of supervisord. Raises Locked, ProcessLookupError, OSError.
TakeLock = Callable[[ProcessId, bool], Lock]


class Followed:
    """One worker; `pool` is its pool in the look in which it was signalled, or in the first look after a restart."""

    def __init__(
        self,
        worker: ProcessId,
        pool: Pool,
        handle: Handle | None,
        lock: Lock | None,
        private: int | None = None,
        used: int | None = None,
        metric: str = "",
    ):
        assert pool.manager
        self.worker = worker
        self.manager = pool.manager
        self.is_group = pool.is_group
        """Whether the lock is that of supervisord, for all pools with target=self."""
        self.private = private
        """Bytes that it had for itself when it was signalled; None: unknown."""
        self.used = used
        """The metric at that time, in bytes; None: unknown."""
        self.metric = metric
        self.handle = handle
        self.lock = lock

    def unlock(self) -> None:
        if self.lock:
            self.lock.close()
            self.lock = None

    def close(self) -> None:
        self.unlock()
        if self.handle:
            self.handle.close()
            self.handle = None


class FollowedWorkers:
    """Those of one pool."""

    def __init__(self, machine: Machine, take_lock: TakeLock):
        self._machine = machine
        self._take_lock = take_lock
        self._all: list[Followed] = []

    def add(self, followed: Followed) -> None:
        self._all.append(followed)

    def fds(self) -> Iterator[int]:
        """Descriptors that become readable when a worker is gone."""
        return (each.handle.fileno() for each in self._all if each.handle)

    def exited(self, fd: int) -> ProcessId | None:
        """Close this descriptor; returns the worker that it referred to."""
        for each in self._all:
            if each.handle and each.handle.fileno() == fd:
                each.handle.close()
                each.handle = None
                return each.worker
        return None

    def of(self, worker: ProcessId) -> Followed | None:
        """What is known of this worker; None: nothing."""
        return next((each for each in self._all if each.worker == worker), None)

    def group_lock(self, manager: ProcessId) -> Lock | None:
        """The lock that all pools with target=self share, if it is held here."""
        held = (each.lock for each in self._all if each.is_group and each.manager == manager)
        return next((lock for lock in held if lock is not None), None)

    def holds_group_lock(self) -> bool:
        return any(each.is_group and each.lock is not None for each in self._all)

    def unlock(self) -> None:
        for each in self._all:
            each.unlock()

    def close(self) -> None:
        """Release everything that is held."""
        for each in self._all:
            each.close()
        self._all = []

    def release(self, state: PoolState) -> None:
        """Close what is held for workers that are no longer followed; a stuck or overdue worker keeps no lock."""
        leaving = state.leaving
        stuck = {each.worker for each in state.stuck}
        kept = []
        for each in self._all:
            is_leaving = leaving is not None and each.worker == leaving.worker
            if not is_leaving and each.worker not in stuck:
                each.close()
                continue
            if not is_leaving or (leaving and leaving.overdue):
                each.unlock()
            kept.append(each)
        self._all = kept

    def is_ours(self, worker: ProcessId) -> bool:
        """Whether this memreap follows the worker; if another one does, that one acts."""
        for each in self._all:
            if each.worker == worker and each.lock is None:
                try:
                    each.lock = self._take_lock(each.manager, each.is_group)
                except (Locked, OSError):
                    return False  # another memreap follows it; or the manager has just ended
            if each.worker == worker:
                return each.lock is not None
        return False

    def take_over(self, pool: Pool, state: PoolState) -> None:
        """Hold what the previous memreap held for workers that are still leaving."""
        if pool.manager is None:
            return
        for worker in signalled(state):
            if self.of(worker):
                continue
            lock = None
            if state.leaving and state.leaving.worker == worker:
                try:
                    lock = self._take_lock(pool.manager, pool.is_group)
                except (Locked, OSError):
                    pass  # another memreap follows it; or it has just ended, and so has what the lock is for
            self.add(Followed(worker, pool, self._machine.follow(worker), lock))


def signalled(state: PoolState) -> tuple[ProcessId, ...]:
    """The workers that were signalled and have not left, as far as known."""
    leaving = (state.leaving,) if state.leaving else ()
    return tuple(each.worker for each in (*leaving, *state.stuck) if each.left is None)
