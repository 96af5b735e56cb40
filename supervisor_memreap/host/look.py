"""The sizes of a pool's processes, at every tick; exact figures only for workers that need them."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace

from supervisor_memreap.core.model import Pool, ProcessId, Worker, WorkerDetail
from supervisor_memreap.core.servers import UNRECOGNISABLE, recognise
from supervisor_memreap.core.settings import PoolSettings, Watch
from supervisor_memreap.host import roster
from supervisor_memreap.host.reader import is_blocked
from supervisor_memreap.host.roster import Roster
from supervisor_memreap.host.signals import number
from supervisor_memreap.host.source import Source
from supervisor_memreap.host.statm import Statm

NeedsDetail = Callable[[Worker], bool]


def always(_worker: Worker) -> bool:
    """Exact figures of each worker, whatever it holds."""
    return True


def look(
    watch: Watch,
    view: Source,
    needs_detail: NeedsDetail = always,
    expected: Collection[ProcessId] = (),
    statm: Statm | None = None,
) -> Pool:
    """One reading of a pool; `expected` is as in host.roster. `statm` knows quiet workers from the last look."""
    members = roster.of(watch, expected, view)
    pool = Pool(members.name, members.state, members.not_visible, is_group=members.is_group, at=time.time())
    if members.manager is None:
        return pool
    manager, settings = members.manager.id, watch.settings
    workers = [
        (statm and _quiet_worker(pid, members, settings, statm, needs_detail))
        or _worker(pid, members, settings, view, needs_detail, statm)
        for pid in sorted(members.pids)
    ]
    return replace(
        pool,
        manager=manager,
        manager_age=members.manager.age,
        workers=tuple(worker for worker in workers if worker),
        stopped=members.stopped,
        child_faults=members.manager.child_faults,
    )


def _quiet_worker(
    pid: int, members: Roster, settings: PoolSettings, statm: Statm, needs_detail: NeedsDetail
) -> Worker | None:
    """A worker for which no reason can apply, even if all the swap in use were its own; None: it must be read."""
    assert members.manager
    known = statm.known(pid, members.manager.id)
    if known is None:
        return None
    bound = known.size if settings.metric == "vms" else known.resident + statm.swap_in_use
    worker = Worker(known.id, known.age, bound, None, members.slots.get(pid, ""))
    return None if needs_detail(worker) else worker


def _worker(
    pid: int,
    members: Roster,
    settings: PoolSettings,
    view: Source,
    needs_detail: NeedsDetail,
    statm: Statm | None,
) -> Worker | None:
    """None: it is gone, or none of this pool."""
    assert members.manager
    manager = members.manager.id.pid
    try:
        process = statm.keep(pid, members.manager.id, view) if statm else view.process(pid)
        if process.ended or process.parent != manager:
            return None
        sizes = view.sizes(pid)
        bound = sizes.size if settings.metric == "vms" else sizes.bound
        worker = Worker(process.id, process.age, bound, slot=members.slots.get(pid, ""))
        return replace(worker, detail=_detail(worker, members, settings, view)) if needs_detail(worker) else worker
    except (ProcessLookupError, PermissionError):
        return None


def _detail(worker: Worker, members: Roster, settings: PoolSettings, view: Source) -> WorkerDetail:
    """Raises ProcessLookupError. What may not be read is unknown: the worker is there all the same."""
    assert members.manager
    pid = worker.id.pid
    used = _measure(worker, settings.metric, view)
    is_locked = used is None and is_blocked(pid)
    try:
        caught = view.catches(pid, number(settings.signal))
        server = recognise(*view.name_and_argv(pid))
        # One that supervisord runs, and that has children, may be anything: a manager, a shell.
        manager = members.manager.id.pid
        is_manager = bool(view.children(pid)) if members.is_group else roster.looks_like_manager(pid, manager, view)
    except PermissionError:
        return WorkerDetail(None, None, UNRECOGNISABLE, is_locked=is_locked)
    return WorkerDetail(used, caught, server, is_manager, is_locked)


def _measure(worker: Worker, metric: str, view: Source) -> int | None:
    """The exact metric in bytes; None where it may not be read: a bound is never taken for it."""
    try:
        if metric == "uss":
            return view.uss(worker.id.pid)
        if metric == "pss":
            return view.pss(worker.id.pid)
    except PermissionError:
        return None
    return worker.bound


def measure(
    pool: Pool, settings: PoolSettings, view: Source, deadline: float, known: Mapping[ProcessId, int]
) -> dict[ProcessId, int]:
    """The metric of each worker, in bytes, as far as it may be read; until `deadline` (monotonic) those not `known`."""
    used = {}
    for worker in pool.workers:
        try:
            size = worker.used if worker.used is not None else known.get(worker.id)
            if size is None and time.monotonic() < deadline:
                size = _measure(worker, settings.metric, view)
            if size is not None and view.process(worker.id.pid).id == worker.id:
                used[worker.id] = size
        except (ProcessLookupError, PermissionError):
            pass  # it has just left
    return used


def private_memory(process: ProcessId, view: Source) -> int | None:
    """What comes back when this process leaves, in bytes; None if it is gone or may not be read."""
    try:
        return view.uss(process.pid) if view.process(process.pid).id == process else None
    except (ProcessLookupError, PermissionError):
        return None


def activity(process: ProcessId, view: Source) -> str:
    """What this process does at this moment, for a reader; empty if it is gone."""
    try:
        return view.activity(process.pid) if view.process(process.pid).id == process else ""
    except (ProcessLookupError, PermissionError):
        return ""
