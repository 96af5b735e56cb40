"""Memory that processes share: can `headroom`, `pressure` and `total` work here?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from supervisor_memreap.core import shortage
from supervisor_memreap.core.model import MemoryScope, Pool
from supervisor_memreap.core.settings import PoolSettings, shown
from supervisor_memreap.core.text import memory as in_words
from supervisor_memreap.doctor import ownrights
from supervisor_memreap.doctor.finding import Case, Finding, note
from supervisor_memreap.doctor.workers import is_fresh
from supervisor_memreap.host.memory import Memory


class Held(NamedTuple):
    """What a pool holds, in bytes."""

    private: int
    """What its workers hold of their own: reaping can free only this."""
    rest: int
    """What its manager holds, and what manager and workers share."""
    swapped: int


def check(case: Case, pool: Pool, settings: PoolSettings) -> Iterator[Finding]:
    assert pool.manager
    held = _held(case, pool)
    if settings.total is not None:
        pids = [pool.manager.pid, *(worker.id.pid for worker in pool.workers)]
        yield from check_total(pool, settings, held, "" if held else ownrights.remedy(case, pids))
    if settings.headroom is None and settings.pressure is None:
        return
    # With target=self, supervisord may be in other control groups than the workers.
    pid = pool.workers[0].id.pid if pool.is_group and pool.workers else pool.manager.pid
    memory = Memory()
    scopes = memory.scopes(pid)
    yield from check_headroom(scopes, settings, held)
    yield from check_pressure(scopes, settings)
    yield from check_visibility(memory.hidden_groups(pid))


def _held(case: Case, pool: Pool) -> Held | None:
    """None: it may not be read."""
    assert pool.manager
    workers = [worker.detail.memory if worker.detail else None for worker in pool.workers]
    try:
        managers = [] if pool.is_group else [case.view.memory(pool.manager.pid)]
    except (ProcessLookupError, PermissionError):
        return None
    known = [worker for worker in workers if worker]
    if len(known) < len(workers):
        return None
    every = [*managers, *known]
    private = sum(worker.private for worker in known)
    resident = sum(process.resident_share for process in every)
    return Held(private, resident - private, sum(process.swapped for process in every))


def check_total(pool: Pool, settings: PoolSettings, held: Held | None, remedy: str = "") -> Iterator[Finding]:
    """Find a total that is too small for the manager and fresh workers. `remedy` is for what may not be read."""
    total = settings.total
    assert total is not None
    if held is None:
        yield note("", f"its total was not checked: doctor cannot read the memory of its processes{remedy}")
        return
    all_of_it, over = sum(held), f"over its total of {in_words(total)}"
    if held.rest > total:
        text = f"its manager and the memory shared with its workers take {in_words(held.rest)}, {over}"
        yield Finding("", f"{text}, whatever is reaped: {_larger_total(held)}, or restart the program when convenient")
    elif all_of_it > total and all(is_fresh(worker, settings) for worker in pool.workers):
        text = f"its manager and {len(pool.workers)} fresh workers already hold {in_words(all_of_it)}, {over}"
        yield Finding("", f"{text}: reaping does not help; {_larger_total(held)}, or run fewer workers")
    elif all_of_it > total:
        yield note("", f"its manager and workers hold {in_words(all_of_it)}, {over}")


def _larger_total(held: Held) -> str:
    """Advice with room for twice what the workers hold of their own, rounded up to 10 MiB."""
    step = 10 * 1024**2
    return f"set total={-(-(held.rest + held.swapped + 2 * held.private) // step) * step // 1024**2}MB or higher"


def check_headroom(scopes: Sequence[MemoryScope], settings: PoolSettings, held: Held | None) -> Iterator[Finding]:
    """Find a headroom that the host or a control group can never have."""
    if settings.headroom is None:
        return
    rest = held.rest if held else 0
    for scope in scopes:
        wanted = int(shortage.headroom_in(scope, settings.headroom))
        if scope.size is None or wanted <= scope.size - rest:
            continue
        has = f"{scope.name} has {in_words(scope.size)}"
        if wanted <= scope.size:
            has += f", of which the manager and the memory shared with its workers take {in_words(rest)}"
        text = f"headroom={shown(settings, 'headroom')} can never be met: {has}"
        yield Finding("", f"{text}; set a smaller headroom=, such as 10%, or give it more memory")


def check_pressure(scopes: Sequence[MemoryScope], settings: PoolSettings) -> Iterator[Finding]:
    if settings.pressure is not None and all(scope.pressure is None for scope in scopes):
        value = shown(settings, "pressure")
        text = f"this kernel does not report memory pressure, so pressure={value} has no effect"
        yield note("", f"{text}: boot it with psi=1, or set headroom=")


def check_visibility(hidden: Sequence[str]) -> Iterator[Finding]:
    for path in hidden:
        text = f"its control group {path} is not visible from here, so its memory limit there is unknown"
        remedy = "run memreap in the pool's container, or with that container's /sys/fs/cgroup"
        yield note("", f"{text}: {remedy}")
