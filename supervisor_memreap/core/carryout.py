"""A user's command in the pools that it names: new states out, and a line about each. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from supervisor_memreap.core import delay, hindrance, policy
from supervisor_memreap.core.command import MAX_NAMES, Command, CommandError
from supervisor_memreap.core.frozen import Frozen
from supervisor_memreap.core.hindrance import Kind
from supervisor_memreap.core.model import Pool, Worker
from supervisor_memreap.core.settings import PoolSettings
from supervisor_memreap.core.state import PoolState
from supervisor_memreap.core.text import quote, seconds


class Result(Frozen):
    """The outcome of a command in one pool. It is logged too, so it names commands as they are sent, by supervisorctl
    or without."""

    pool: str
    state: PoolState | None
    """None: unchanged."""
    text: str
    refused: bool = False
    is_news: bool = True
    """False: it was carried out, and nothing has changed that a user knows of."""

    @property
    def line(self) -> str:
        return self.text if self.refused else f"{self.pool}: {self.text}"


def carry_out_in_all(command: Command, pools: Mapping[str, tuple[Pool, PoolState]]) -> list[Result]:
    """A result for each of these pools, which `command` names.

    Raises CommandError if it can be carried out in none of them; then nothing has changed.
    """
    if command.verb == "reap":
        pools = _pool_to_reap(command, pools)
    results = [_result(command, name, pool, state, len(pools) > 1) for name, (pool, state) in pools.items()]
    if not any(result.state for result in results):
        raise CommandError("; ".join(result.line for result in results))
    return results


def _pool_to_reap(
    command: Command, pools: Mapping[str, tuple[Pool, PoolState]]
) -> Mapping[str, tuple[Pool, PoolState]]:
    """The pool with this name, or with a worker of this pid."""
    meant = {
        name: (pool, state)
        for name, (pool, state) in pools.items()
        if (any(worker.id.pid == command.pid for worker in pool.workers) if command.pid else name == command.name)
    }
    if len(pools) == 1 or len(meant) == 1:
        return meant or pools
    if command.pid:
        raise CommandError(f"'{quote(command.name)}' has no worker {command.pid}")
    names = ", ".join([*pools][:MAX_NAMES])
    raise CommandError(f"reap: '{quote(command.name)}' matches {len(pools)} pools; name one of them: {names}")


def _result(command: Command, name: str, pool: Pool, state: PoolState, is_one_of_many: bool) -> Result:
    if command.verb == "roll" and is_one_of_many and not pool.workers:
        return Result(name, None, f"no workers to replace: it is {pool.state}")
    try:
        is_news = command.verb != "resume" or bool(_ended_by_resume(state))
        return Result(name, *carry_out(command, pool, state), is_news=is_news)
    except CommandError as error:
        return Result(name, None, str(error), refused=True)


def carry_out(command: Command, pool: Pool, state: PoolState) -> tuple[PoolState, str]:
    """The new state of one pool, and a line about it. Raises CommandError if nothing has changed."""
    if command.verb == "pause":
        text = f"paused: no worker is signalled until the command resume {pool.name}"
        dropped = len(state.requested)
        dropped_text = f"; {dropped} requested workers will not be replaced: reap or roll again afterwards"
        return policy.pause(state), text + dropped_text if dropped else text
    if command.verb == "resume":
        return policy.resume(state), "; ".join(_ended_by_resume(state)) or "was neither paused nor suspended"
    held = delay.held_back(state.settings or PoolSettings(), state)
    if held:
        remedy = "" if held.kind is Kind.OBSERVED else f": send resume {pool.name} first"
        raise CommandError(f"{pool.name} is {held.text}{remedy}")
    if pool.manager is None or not pool.workers:
        raise CommandError(f"{pool.name} has no workers: it is {pool.state}")
    signalled = {leaving.worker for leaving in (state.leaving, *state.stuck) if leaving}
    present = [worker for worker in pool.workers if worker.id not in signalled]
    if command.pid:
        worker = next((worker for worker in pool.workers if worker.id.pid == command.pid), None)
        if worker is None:
            pids = ", ".join(str(worker.id.pid) for worker in pool.workers)
            raise CommandError(f"{pool.name} has no worker {command.pid}; its workers are {pids}")
        if worker.id in signalled:
            raise CommandError(f"{pool.name}: worker {command.pid} has already been signalled")
    elif not present:
        raise CommandError(f"{pool.name}: all of its workers have already been signalled")
    elif command.verb == "roll":
        if state.reap and state.reap.overdue:
            why = hindrance.not_replaced(state.reap.worker.pid).text
            raise CommandError(f"{pool.name}: {why}; to go on without it, send resume {pool.name}")
        # A child that never serves is never signalled, and would keep the roll from its end.
        present = [each for each in present if policy.serves(each, state) or policy.is_starting(each, state)]
        if not present:
            raise CommandError(f"{pool.name}: none of its workers serves")
        all_ = f"all {len(present)} workers" if len(present) > 1 else f"worker {present[0].id.pid}"
        text = f"{all_} will be replaced{', one at a time' if len(present) > 1 else ''}"
        gone_soon = [worker.id for worker in pool.workers if worker.id in signalled]
        rolled = policy.roll(command.id, [each.id for each in present], gone_soon, state)
        return rolled, text + _young(present, state)
    else:
        worker = max(present, key=lambda worker: (worker.used or 0, worker.bound))
    text = f"worker {worker.id.pid} will be replaced"
    return policy.request([worker.id], state), text + _young([worker], state)


def _ended_by_resume(state: PoolState) -> list[str]:
    """What policy.resume ends of what was reported to a user; the rest only makes memreap expect less of the pool."""
    ended = ["resumed"] if state.paused or state.suspended else []
    if state.reap and state.reap.overdue:
        ended.append(f"goes on without the replacement of worker {state.reap.worker.pid}")
    if state.delay and state.delay.hindrance.kind is Kind.TOO_FEW:
        ended.append("takes the present number of workers as the usual one")
    if state.manager_losses and not ended:
        ended.append("the exits of its manager so far no longer count")
    return ended


def _young(workers: Sequence[Worker], state: PoolState) -> str:
    """That a worker must come of age first."""
    min_age = (state.settings or PoolSettings()).min_age
    young = sum(worker.age < min_age for worker in workers)
    if not young:
        return ""
    which = f"{young} of them " if len(workers) > 1 else ""
    return f"; {which}not before min_age={seconds(min_age)}"
