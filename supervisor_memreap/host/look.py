"""The sizes of a pool's processes, at every tick; exact figures only for workers that need them."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Collection, Mapping, Sequence

from supervisor_memreap.core import servers
from supervisor_memreap.core.frozen import replace
from supervisor_memreap.core.model import Holder, MemoryScope, Pool, ProcessId, ProcessMemory, Worker, WorkerDetail
from supervisor_memreap.core.servers import UNRECOGNISABLE, signal_for
from supervisor_memreap.core.settings import PoolSettings, Watch
from supervisor_memreap.host import roster
from supervisor_memreap.host.kept import Kept
from supervisor_memreap.host.machine import Asked, Gate, NeedsDetail
from supervisor_memreap.host.memory import Memory, largest
from supervisor_memreap.host.reader import Blocked, NoReader
from supervisor_memreap.host.roster import Roster
from supervisor_memreap.host.signalling import number
from supervisor_memreap.host.source import Source, if_readable

# The metrics that a look does not read of every worker.
_EXACT = ("uss", "pss")


def always(_pool: Pool) -> NeedsDetail:
    """A gate for exact figures of every worker."""
    return lambda _worker: True


def never(_pool: Pool) -> NeedsDetail:
    """A gate for no exact figures."""
    return lambda _worker: False


def look(
    watch: Watch,
    view: Source,
    gate: Gate = always,
    expected: Collection[ProcessId] = (),
    kept: Kept | None = None,
    memory: Memory | None = None,
    reads_structure: bool = False,
    probe: bool = False,
    began: float | None = None,
) -> Pool:
    """One reading of a pool; `expected` is as in host.roster. `probe`: also learn whether sizes may be read.

    `kept` knows what the last look has read. `memory` knows what limits the memory of processes; None: no setting
    needs that. `reads_structure`: read whether the pool is below one of the children. `began`: when the first pool of
    this look was read (monotonic); None: now.
    """
    members = roster.of(watch, expected, view, kept)
    if members.manager is None:
        return Pool(members.name, members.state, members.not_visible, is_group=members.is_group, at=time.time())
    reading = _Reading(members, watch.settings, view)
    scopes, is_total_unreadable = reading.scopes(memory)
    pool = Pool(
        members.name,
        members.state,
        members.not_visible,
        members.manager.id,
        members.manager.age,
        stopped=members.stopped,
        child_faults=members.manager.child_faults,
        is_group=members.is_group,
        at=time.time(),
        scopes=scopes,
        is_total_unreadable=is_total_unreadable,
    )
    try:
        workers = reading.workers(kept, gate(pool))
        workers = reading.probed(workers) if probe else workers
    except PermissionError:
        return Pool(members.name, members.state, roster.HIDDEN, is_group=members.is_group, at=time.time())
    pool = replace(pool, workers=workers, late=0.0 if began is None else max(0.0, time.monotonic() - began))
    # Only where it counts: no quiet worker is read for it.
    is_asked = not workers or (len(workers) == 1 and workers[0].detail)
    if is_asked and servers.named(server_of(pool, view) or "").forks_on_demand:
        pool = replace(pool, forks_on_demand=view.watches_own(members.manager.id.pid))
    if not reads_structure:
        return pool
    children = [worker.id for worker in workers]
    return replace(pool, nested=roster.nested(members.manager.id, children, view, pool.is_group))


class _Reading:
    """The reading of one pool at one look."""

    def __init__(self, members: Roster, settings: PoolSettings, view: Source):
        assert members.manager
        self._manager = members.manager.id
        self._members = members
        self._processes = len(members.pids) + 1
        self._settings = settings
        self._view = view
        self._exact: dict[int, ProcessMemory] = {}
        """The exact figures that this look has read already."""

    def scopes(self, memory: Memory | None) -> tuple[tuple[MemoryScope, ...], bool]:
        """What limits its memory, as far as its settings need that; and whether `total` is set and cannot be read."""
        settings = self._settings
        scopes: list[MemoryScope] = []
        if memory and (settings.headroom is not None or settings.pressure is not None):
            scopes += memory.scopes(self._a_process())
        is_unreadable = False
        if settings.total is not None:
            try:
                held = self._held(settings.total)
                scopes.append(MemoryScope(self._members.name, settings.total, settings.total - held))
            except PermissionError:
                is_unreadable = True
        return tuple(scopes), is_unreadable

    def _a_process(self) -> int:
        """A process whose control groups are the pool's: with target=self, supervisord may be in others."""
        return min(self._members.pids, default=self._manager.pid) if self._members.is_group else self._manager.pid

    def _held(self, total: int) -> int:
        """Bytes that the pool's processes hold together; an upper bound if even that is within `total`.

        Raises PermissionError.
        """
        pids = {*self._members.pids, *(() if self._members.is_group else (self._manager.pid,))}
        bounds = [size for size in map(self._bound, pids) if size is not None]
        if sum(bounds) <= total:
            return sum(bounds)  # shared pages count for each process here, so the exact figure is smaller
        held = 0
        for pid in pids:
            try:
                exact = self._exact[pid] = self._view.memory(pid)
                held += exact.share
            except ProcessLookupError:
                pass  # it has just left
        return held

    def _bound(self, pid: int) -> int | None:
        try:
            sizes = self._view.sizes(pid)
            return sizes.bound + sizes.uncounted
        except ProcessLookupError:
            return None

    def workers(self, kept: Kept | None, needs_detail: NeedsDetail) -> tuple[Worker, ...]:
        """All of them; one to which no reason can apply, even if all the swap in use were its own, as `kept` has it.

        Raises PermissionError: all are hidden by now from this user.
        """
        pids = sorted(self._members.pids)
        quiet = kept.workers(pids, self._manager, self._settings.metric == "vms") if kept else {}
        slots, workers = self._members.slots, []
        for pid in pids:
            worker = quiet.get(pid)
            if worker is None or needs_detail(worker):
                worker = self._worker(pid, kept, needs_detail)
            if worker:
                workers.append(worker._replace(slot=slots.get(pid, "")) if slots else worker)
        return tuple(workers)

    def _worker(self, pid: int, kept: Kept | None, needs_detail: NeedsDetail) -> Worker | None:
        """None: it is gone, or not a worker of this pool."""
        try:
            process = kept.keep(pid, self._manager, self._view) if kept else self._view.process(pid)
            if process.ended or process.parent != self._manager.pid:
                return None
            worker = Worker(process.id, process.age, _bound(pid, self._settings.metric, self._view))
            return worker._replace(detail=self._detail(worker)) if needs_detail(worker) else worker
        except ProcessLookupError:
            return None
        except PermissionError:
            self._require_manager()
            return None

    def _require_manager(self) -> None:
        """Raises PermissionError where the manager is hidden, too: what is read of it may be by a kept descriptor."""
        with contextlib.suppress(ProcessLookupError):
            self._view.process(self._manager.pid)

    def probed(self, workers: tuple[Worker, ...]) -> tuple[Worker, ...]:
        """At least one of them read in full. Raises as `workers`."""
        if any(worker.detail for worker in workers):
            return workers
        for place, worker in enumerate(workers):
            try:
                # That of `kept` is an upper bound.
                read = worker._replace(bound=_bound(worker.id.pid, self._settings.metric, self._view))
                read = read._replace(detail=self._detail(read))
            except ProcessLookupError:
                continue  # it has just left
            except PermissionError:
                self._require_manager()
                continue
            return (*workers[:place], read, *workers[place + 1 :])
        return workers

    def _detail(self, worker: Worker) -> WorkerDetail:
        """Raises ProcessLookupError. Values that may not be read are unknown, but the worker counts."""
        pid, manager, view = worker.id.pid, self._manager.pid, self._view
        exact, is_late = self._exact.get(pid), False
        try:
            exact = exact or view.memory(pid)
        except (Blocked, NoReader):
            is_late = True
        except PermissionError:
            pass
        used = _used(worker.bound, self._settings.metric, exact, self._processes)
        try:
            is_group = self._members.is_group
            server = _server_of(pid, None if is_group else manager, view)
            signal = signal_for(server, self._settings.signal)
            caught = view.catches(pid, number(signal))
            # A process of supervisord that has children may be anything: a manager, a shell.
            is_manager = bool(view.children(pid)) if is_group else roster.looks_like_manager(pid, manager, view)
        except PermissionError as error:
            is_late = is_late or isinstance(error, (Blocked, NoReader))
            signal = signal_for(UNRECOGNISABLE, self._settings.signal)
            return WorkerDetail(None, None, UNRECOGNISABLE, signal, is_late=is_late)
        own_swap = exact.own_swap(self._processes) if exact else 0
        return WorkerDetail(used, caught, server, signal, is_manager, is_late, exact, own_swap)


def server_of(pool: Pool, view: Source) -> str | None:
    """The name of the pool's server in core.servers, empty if it is none of those.

    None: there is no worker to read, nor a manager that calls itself the manager of one of these servers.
    """
    manager = pool.manager.pid if pool.manager and not pool.is_group else None
    for worker in pool.workers if pool.manager else ():
        try:
            # The last look may not have read it in full.
            return worker.detail.server if worker.detail else _server_of(worker.id.pid, manager, view)
        except (ProcessLookupError, PermissionError):
            pass  # it has just left
    names = if_readable(lambda: view.names(manager), None) if manager else None
    return servers.recognise(names) if names and servers.manages(names) else None


def _server_of(worker: int, manager: int | None, view: Source) -> str:
    """As core.servers.server_of. Raises ProcessLookupError, PermissionError."""
    names = view.names(worker)
    if manager is None:
        return servers.server_of(names, None, None)
    server = servers.server_of(names, view.names(manager), view.is_fork(worker, manager))
    return servers.with_loop(server, view.loop(worker, manager)) if servers.has_loops(server) else server


def _bound(pid: int, metric: str, view: Source) -> int:
    """As that of a Worker. Raises ProcessLookupError, PermissionError."""
    sizes = view.sizes(pid)
    if metric in _EXACT:
        return sizes.bound + sizes.uncounted
    return sizes.size if metric == "vms" else sizes.bound


def _used(bound: int, metric: str, exact: ProcessMemory | None, processes: int) -> int | None:
    """The metric in bytes; None if it may not be read: a bound never takes its place.

    `processes` is the number of processes in the pool, which share memory.
    """
    if metric not in _EXACT:
        return bound
    if exact is None or (metric == "pss" and exact.pss is None):
        return None
    return exact.private + exact.own_swap(processes) if metric == "uss" else exact.share


def measure(
    asked: Sequence[Asked], view: Source, deadline: float, kept: Kept | None = None
) -> list[Mapping[ProcessId, int]]:
    """The metric of each worker in bytes, if it may be read; reads those not known until `deadline` (monotonic).

    Where there is nothing new, what is known itself.
    """
    unknown = [
        [each for each in pool.workers if each.id not in known and (each.detail is None or each.used is None)]
        for pool, _, known in asked
    ]
    needed = [
        worker.id.pid
        for (_, settings, _), workers in zip(asked, unknown)
        if settings.metric in _EXACT
        for worker in workers
    ]
    exact = view.memories(needed, deadline) if needed else {}
    return [_measured(each, workers, exact, view, kept, deadline) for each, workers in zip(asked, unknown)]


def _measured(
    asked: Asked,
    unknown: Collection[Worker],
    exact: Mapping[int, ProcessMemory],
    view: Source,
    kept: Kept | None,
    deadline: float,
) -> Mapping[ProcessId, int]:
    pool, settings, known = asked
    is_exact = settings.metric in _EXACT
    # `detail` first: that of nearly all is None, and `used` takes longer.
    if is_exact and not any(
        (worker.detail and worker.used is not None) or worker.id.pid in exact for worker in pool.workers
    ):
        return known
    used = {worker.id: known[worker.id] for worker in pool.workers if worker.id in known}
    used |= {worker.id: worker.used for worker in pool.workers if worker.used is not None}
    read = {}
    for pid in (worker.id.pid for worker in unknown):
        size: int | None = None
        if is_exact:
            size = _used(0, settings.metric, exact.get(pid), len(pool.workers) + 1)
        elif time.monotonic() < deadline:
            with contextlib.suppress(OSError):  # it has just left, or may not be read
                size = _bound(pid, settings.metric, view)
        if size is not None:
            read[pid] = size
    # Those that are still there had their pids meanwhile.
    there = kept.workers(read, pool.manager, by_size=False) if kept and pool.manager else {}
    for worker in unknown:
        pid, same = worker.id.pid, there.get(worker.id.pid)
        if pid in read and (same.id == worker.id if same else _is(worker.id, view)):
            used[worker.id] = read[pid]
    return used


def _is(process: ProcessId, view: Source) -> bool:
    """Whether it is there; not where that cannot be read, as without a free descriptor."""
    try:
        return view.process(process.pid).id == process
    except OSError:
        return False


def private_memory(process: ProcessId, processes: int, view: Source) -> int | None:
    """Bytes that come back when this process leaves a pool of `processes`; None: it is gone or may not be read."""
    try:
        exact = view.memory(process.pid)
        own = exact.private + exact.own_swap(processes)
        return own if view.process(process.pid).id == process else None
    except (ProcessLookupError, PermissionError):
        return None


def holders(pool: Pool, view: Source) -> tuple[Holder, ...]:
    """The processes of this pool that hold most memory (pss), as `largest`."""
    held = []
    for process in (*(() if pool.is_group else (pool.manager,)), *(worker.id for worker in pool.workers)):
        if process is None:
            continue
        try:
            size = view.memory(process.pid).share
            name = "manager" if process == pool.manager else "worker"
            held.append(Holder(process.pid, name, size))
        except (ProcessLookupError, PermissionError):
            pass  # it has just left
    return largest(held)


def activity(process: ProcessId, view: Source) -> str:
    """What this process is doing now, as text for a user; empty if it is gone."""
    return if_readable(lambda: view.activity(process.pid) if view.process(process.pid).id == process else "", "")
