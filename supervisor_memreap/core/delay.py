"""Why nothing is sent in a pool, and workers that are due while none could be signalled for too long. Pure.

Some waits are right and short: for the worker that was signalled last and for its replacement, for `min_age` and
`checks`, for new workers to grow old enough, and for `idle_wait` where the worker may be signalled after that.
"""

from __future__ import annotations

from collections.abc import Mapping

from supervisor_memreap.core import events, hindrance, policy
from supervisor_memreap.core.frozen import replace
from supervisor_memreap.core.hindrance import Hindrance, Kind
from supervisor_memreap.core.model import Result, Standing, Worker
from supervisor_memreap.core.policy import Choice, Look
from supervisor_memreap.core.reasons import Reason
from supervisor_memreap.core.servers import Moment, may_signal_busy, named
from supervisor_memreap.core.settings import PoolSettings
from supervisor_memreap.core.shortage import Episodes
from supervisor_memreap.core.state import Delay, DueSince, PoolState, Reap, Wait

# Seconds, two ticks of TICK_5, and looks after the first one, two ticks whatever their interval is: a worker that has
# been due for longer is overdue.
OVERDUE, LOOKS = 10.0, 2
# Seconds by which an attempt may begin after the look for it.
LATE = 1.0
# Seconds after which the log repeats the hindrance.
REPEAT = 600.0

_RIGHT = (Kind.OBSERVED, Kind.PAUSED, Kind.SUSPENDED, Kind.LEAVING, Kind.SETTLING)

Due = Mapping[Worker, tuple[Reason, ...]]


def held_back(settings: PoolSettings, state: PoolState) -> Hindrance | None:
    """What keeps every worker of this pool from being signalled, whatever is found of it; None: nothing."""
    if policy.only_observes(settings, state):
        return hindrance.OBSERVED
    if state.paused:
        return hindrance.PAUSED
    return hindrance.suspended(state.suspended.text) if state.suspended else None


def hindrance_in(look: Look, choice: Choice, due: Due, now: float) -> Hindrance | None:
    """Why nothing is sent in this pool, and what ends that; None: nothing is known to stand in the way.

    Of several causes the one counts that must end first: until then, the end of the others changes nothing. So what a
    user set comes first (observed, paused): only the user ends it. Then what memreap decided itself (suspended). Then
    what is in progress, which ends without anyone (a worker leaves, its replacement settles, an attempt is made). Last,
    what stands in the way of the workers that have to go: of the one that may go first what its last attempt found
    (locked, not permitted, busy); if none may go, of all of them that they are stuck, must never be signalled, do not
    serve, are too young, or that too few others serve.
    """
    pool, settings, state = look
    held = held_back(settings, state)
    if held:
        return held
    if state.leaving:
        return _leaving(state.leaving, settings, now)
    if choice.candidates:
        attempted, detail = state.attempted, choice.candidates[0].worker.detail
        if state.refusal is None and attempted and now - attempted.signalled >= OVERDUE - LATE:
            return hindrance.of_attempt(Result.BUSY, detail, settings)  # a long attempt
        return state.refusal
    stuck = {leaving.worker for leaving in state.stuck}
    free = [worker for worker in due if worker.id not in stuck]
    if due and not free:
        return hindrance.STUCK
    vetoes = [veto for worker in free for veto in (policy.veto(pool, worker),) if veto]
    if free and len(vetoes) == len(free):
        return Hindrance(Kind.REFUSED, vetoes[0].text)
    waiting = free or [each.worker for each in choice.pending]
    if waiting and not any(policy.serves(worker, state) for worker in waiting):
        return hindrance.UNREAD if all(worker.id in pool.unread for worker in waiting) else hindrance.NOT_SERVING
    if waiting and not any(policy.is_grown(worker, settings, state) for worker in waiting):
        return hindrance.young(settings)
    if not free or state.too_few_since is None:
        return None
    return hindrance.too_few(settings, policy.waits_for_replacements(pool, settings, state))


def _leaving(leaving: Reap, settings: PoolSettings, now: float) -> Hindrance:
    """Of the worker that was signalled last."""
    pid = leaving.worker.pid
    if leaving.left is None:
        return hindrance.leaving(pid)
    if now - leaving.left < settings.grace + max(settings.settle, named(leaving.server).pace):
        return hindrance.settling(pid, leaving.replaced_by is not None)
    return hindrance.not_replaced(pid)


def follow(look: Look, choice: Choice, episodes: Episodes, now: float) -> Choice:
    """The choice, with the hindrance if no worker could be signalled for too long."""
    look = look._replace(state=choice.state)
    if look.pool.manager is None:
        return choice
    due = policy.due_workers(look, look.circumstances(episodes, now))
    if not due and not any(policy.is_grown(each.worker, look.settings, look.state) for each in choice.pending):
        return _without_delay(look, choice, now)
    obstacle = hindrance_in(look, choice, due, now)
    if _is_right(look, choice, obstacle, now):
        return _without_delay(look, choice, now)
    state = _count(look.state, due, now)
    overdue = {worker: due[worker] for worker in due if _is_overdue(state.due[worker.id], obstacle, look.settings, now)}
    if obstacle and (state.delay or overdue):
        since = state.delay.since if state.delay else min(state.due[worker.id].since for worker in overdue)
        if state.delay is None or state.delay.hindrance != obstacle:
            state = replace(state, delay=Delay(since, obstacle))
    choice = replace(choice, state=state)
    # The hindrance that an earlier listener reported stays until this one has tried.
    return _delayed(look, choice, state.delay, overdue or due, now) if state.delay else choice


def _is_right(look: Look, choice: Choice, obstacle: Hindrance | None, now: float) -> bool:
    """Whether what is waited for is right, and short or wanted by a user."""
    settings, state = look.settings, look.state
    if obstacle and obstacle.kind in _RIGHT:
        return True
    few = state.too_few_since
    if few is not None and now - few < max(policy.LONG_WAIT, 2 * settings.min_age):
        return True
    is_busy = state.refusal is not None and state.refusal.kind in (Kind.BUSY, Kind.KEPT)
    servers = (each.worker.detail.server for each in choice.candidates if each.worker.detail)
    return is_busy and any(may_go_busy(server, settings, state) for server in servers)


def may_go_busy(server: str, settings: PoolSettings, state: PoolState) -> bool:
    """Whether a worker of this server is signalled as soon as `idle_wait` has expired, busy or not."""
    is_kept = state.refusal is not None and state.refusal.kind is Kind.KEPT
    if settings.idle_wait == float("inf") or (is_kept and named(server).moment is not Moment.ANY):
        return False
    return may_signal_busy(server, policy.has_boundary(settings, state))


def is_in_vain(choice: Choice, settings: PoolSettings, state: PoolState, now: float) -> bool:
    """Whether a due worker was tried for so long, or can be signalled so little, that waiting longer is useless."""
    patience = policy.LONG_WAIT if settings.idle_wait == float("inf") else max(policy.LONG_WAIT, settings.idle_wait)
    if state.refusal and state.refusal.kind in (Kind.CANNOT_HOLD, Kind.DEAF):
        # Attempts take no time there, so their seconds do not count up.
        return bool(state.delay and now - state.delay.since >= patience)
    return any(
        state.waits.get(worker.id, Wait()).seconds >= patience
        and worker.detail is not None
        and not may_go_busy(worker.detail.server, settings, state)
        for worker in (each.worker for each in choice.candidates)
    )


def _count(state: PoolState, due: Due, now: float) -> PoolState:
    first = DueSince(now, 0)
    before = {worker.id: state.due.get(worker.id) for worker in due}
    after = {id: first if since is None else replace(since, looks=since.looks + 1) for id, since in before.items()}
    return replace(state, due=after)


def _is_overdue(since: DueSince, obstacle: Hindrance | None, settings: PoolSettings, now: float) -> bool:
    # Pools of one group take turns.
    turn = settings.grace if obstacle and obstacle.kind is Kind.GROUP else 0.0
    return since.looks >= LOOKS and now - since.since >= OVERDUE + turn


def _delayed(look: Look, choice: Choice, delay: Delay, overdue: Due, now: float) -> Choice:
    pool, settings, _ = look
    # Where memory is short, any worker will do.
    own = [worker for worker, reasons in overdue.items() if any(reason.is_about_worker for reason in reasons)]
    number = len(own) or 1
    standing = Standing.BLIND if choice.standing is Standing.BLIND else Standing.OVERDUE
    choice = replace(choice, standing=standing, overdue=number)
    logged_at = choice.state.delay_told
    if logged_at is not None and now - logged_at < REPEAT:
        return choice
    largest = max((worker.used for worker in overdue if worker.used is not None), default=None)
    lasts = now - delay.since
    event = events.Overdue(*pool.stamp, number, largest, settings.limit, settings.metric, lasts, delay.hindrance)
    return replace(choice, state=replace(choice.state, delay_told=now), events=(*choice.events, event))


def _without_delay(look: Look, choice: Choice, now: float) -> Choice:
    state = choice.state
    if not state.due and state.delay is None and state.refusal is None:
        return choice
    delay, logged_at = state.delay, state.delay_told
    is_busy = state.refusal if choice.candidates else None
    choice = replace(choice, state=replace(state, due={}, delay=None, refusal=is_busy))
    if delay is None or logged_at is None or logged_at < delay.since:
        return choice  # it was never logged
    return replace(choice, events=(*choice.events, events.OverdueEnded(*look.pool.stamp, now - delay.since)))
