"""The workers of a pool: can they be signalled, may the listener do it, and does the limit make sense?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from supervisor_memreap.core import events, policy, shortage
from supervisor_memreap.core.model import MemoryScope, Pool, Sharing, Worker
from supervisor_memreap.core.reasons import OverLimit
from supervisor_memreap.core.servers import UNRECOGNISABLE, Moment, named
from supervisor_memreap.core.settings import PoolSettings, shown
from supervisor_memreap.core.text import memory as in_words
from supervisor_memreap.doctor import attach, ownrights, rights
from supervisor_memreap.doctor.finding import Case, Finding, note
from supervisor_memreap.host import lock, memory
from supervisor_memreap.host.memory import Memory


def is_fresh(worker: Worker, settings: PoolSettings) -> bool:
    """Whether it has just begun to serve: what it holds is not a leak yet."""
    return worker.age < settings.settle + policy.LATE


def check(case: Case, pool: Pool, workers: list[Worker], settings: PoolSettings) -> Iterator[Finding]:
    """`workers` are those that have had time to start up."""
    assert pool.manager
    yield from _vetoes(pool, workers)
    if pool.sharing is Sharing.NONE:
        yield note("", events.ServingUnknown(*pool.stamp, False).text)
    yield from _rights(case, pool, workers, settings)
    yield from check_limit(workers, settings, ownrights.remedy(case, [worker.id.pid for worker in workers]))
    yield from check_memory(settings, len(pool.workers), memory.size_for(pool.manager.pid))


def _vetoes(pool: Pool, workers: list[Worker]) -> Iterator[Finding]:
    reported = set()
    for worker in workers:
        veto = policy.veto(pool, worker)
        # A wrong signal is for doctor.server to report, which knows where it is set; if none suits, it is for this.
        if isinstance(veto, events.WrongSignal) and veto.graceful:
            continue
        if veto and type(veto) not in reported:
            reported.add(type(veto))
            yield Finding("", veto.text)


def _rights(case: Case, pool: Pool, workers: list[Worker], settings: PoolSettings) -> Iterator[Finding]:
    """What the listener may do to a worker, tried with the listener's rights, not with ours."""
    actor = ownrights.rights_of_running_listener(case)
    if actor is None or not workers:
        return
    assert pool.manager
    access = rights.access(actor, [pool.manager.pid, *(worker.id.pid for worker in workers)])
    if access is None:
        text = f"what the listener (user {actor.users[1]}) may do to its workers could not be tested from here"
        yield note("", f"{text}{ownrights.remedy(case, [])}")
        return
    manager = access.get(pool.manager.pid)
    if manager and not manager.locks and not pool.is_group:
        text = f"the listener (user {actor.users[1]}) may not take the lock of the manager, so it sends nothing"
        remedy = "set or remove user= in its section, then run supervisorctl update, which restarts only memreap"
        yield Finding("", f"{text}: run it as {lock.users(pool.manager.pid)}: {remedy}")
        return
    # One finding is enough: the other workers are alike.
    for worker in workers:
        may = access.get(worker.id.pid)
        if may is None:
            continue
        finding = check_access(worker, settings, actor.users[1], may)
        if finding is None and settings.hold and not may.holds:
            finding = _check_attach(case, worker, settings, actor)
        if finding is None and not settings.hold:
            finding = not_to_hold(worker, settings)
        if finding:
            yield finding
            break
    if any(not may.reads for may in access.values()):
        yield note("", events.ServingUnknown(*pool.stamp, True).text)


def _check_attach(case: Case, worker: Worker, settings: PoolSettings, actor: rights.Rights) -> Finding:
    listener = case.running_listener
    assert listener
    attaching = attach.of(actor, worker.id.pid, listener.supervisord, f"eventlistener:{listener.group}")
    return not_attached(attaching, worker, settings)


def not_attached(attaching: attach.Attaching, worker: Worker, settings: PoolSettings) -> Finding:
    """What the listener does to workers to which it may not attach, and what gives it that right."""
    server = worker.detail.server if worker.detail else UNRECOGNISABLE
    subject = f"the listener (user {attaching.actor.users[1]})"
    text = f"{subject} has no permission to hold workers between two requests (ptrace), so "
    text += f"{attach.what_remains(server, settings)}; {attach.remedy(attaching)}"
    return Finding("", text, named(server).moment is Moment.HELD)


def not_to_hold(worker: Worker, settings: PoolSettings) -> Finding | None:
    """What hold=no does where that is more than a later signal."""
    server = worker.detail.server if worker.detail else UNRECOGNISABLE
    if named(server).moment is not Moment.HELD:
        return None
    return Finding("", f"hold=no: {attach.what_remains(server, settings)}: remove hold=no")


def check_access(worker: Worker, settings: PoolSettings, user: int, may: rights.Access) -> Finding | None:
    """What the listener, which runs as `user`, must do to this worker and may not."""
    subject, which = f"the listener (user {user})", f"worker {worker.id.pid}{_user_of(worker.id.pid)}"
    if not may.signals:
        text = f"{subject} has no permission to signal {which}"
        return Finding("", f"{text}: run it as the pool's user (user= in its section) or as root")
    # The size counts for the limit alone; and a worker that is below it now may exceed it later.
    if settings.limit is not None and settings.metric in ("uss", "pss") and not may.reads:
        text = f"{subject} has no permission to read the {settings.metric} of {which}"
        text += ", and sends nothing where it may be over the limit"
        remedy = "run it as the pool's user, or as root with CAP_SYS_PTRACE (in Docker: --cap-add SYS_PTRACE)"
        return Finding("", f"{text}: {remedy}, or set metric=rss")
    return None


def _user_of(pid: int) -> str:
    try:
        return f" (user {rights.of(pid).users[1]})"
    except OSError:
        return ""


def check_limit(workers: Sequence[Worker], settings: PoolSettings, remedy: str = "") -> Iterator[Finding]:
    """A limit that fresh workers exceed. `remedy` is for sizes that may not be read."""
    if settings.limit is None:
        return
    measured = [worker for worker in workers if worker.used is not None]
    if workers and not measured:
        text = f"its limit was not checked: no permission to read the {settings.metric} of its workers from here"
        yield note("", f"{text}{remedy}")
    fresh = [worker.used or 0 for worker in measured if is_fresh(worker, settings)]
    # One alone may be a spike.
    if fresh and min(fresh) > settings.limit:
        yield Finding(
            "",
            f"even a fresh worker holds {in_words(min(fresh))} ({settings.metric}), over the limit of"
            f" {in_words(settings.limit)}: every worker would be reaped; set {OverLimit.usable(fresh)} or higher",
        )


def check_memory(settings: PoolSettings, workers: int, available: tuple[int, str] | None) -> Iterator[Finding]:
    """A limit above the memory that is available, for one worker or for all together."""
    if available is None or settings.limit is None or settings.metric == "vms":
        return
    size, owner = available
    has = f"the memory of this {owner} ({in_words(size)})"
    limit = in_words(settings.limit)
    if settings.limit > size:
        text = f"its limit of {limit} is above {has}: memory runs out before any worker is reaped"
        yield Finding("", f"{text}; set a limit= low enough for all workers together")
    elif workers * settings.limit > size:
        text = f"{workers} workers of up to {limit} each add up to more than {has}: the limit alone does not protect it"
        yield note("", f"{text}; a limit= of {max(1, size // workers // 1024**2)}MB or less would")


# Memory that processes share: can `headroom`, `pressure` and `total` work here?


class Held(NamedTuple):
    """What a pool holds, in bytes."""

    private: int
    """What its workers hold of their own: reaping can free only this."""
    rest: int
    """What its manager holds, and what manager and workers share."""
    swapped: int


def check_shared(case: Case, pool: Pool, settings: PoolSettings) -> Iterator[Finding]:
    assert pool.manager
    held = _held(case, pool)
    if settings.total is not None:
        pids = [pool.manager.pid, *(worker.id.pid for worker in pool.workers)]
        yield from check_total(pool, settings, held, "" if held else ownrights.remedy(case, pids))
    if settings.headroom is None and settings.pressure is None:
        return
    # With target=self, supervisord may be in other control groups than the workers.
    pid = pool.workers[0].id.pid if pool.is_group and pool.workers else pool.manager.pid
    reader = Memory()
    scopes = reader.scopes(pid)
    yield from check_headroom(scopes, settings, held)
    yield from check_pressure(scopes, settings)
    yield from check_visibility(reader.hidden_groups(pid))


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
