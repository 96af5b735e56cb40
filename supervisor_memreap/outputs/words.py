"""The wording of the state of pools. Events have their own wording."""

from __future__ import annotations

import time

from supervisor_memreap.core.policy import Candidate, Choice
from supervisor_memreap.core.reasons import REASONS, OverLimit
from supervisor_memreap.core.rows import ListenerRow, SuspensionRow
from supervisor_memreap.core.settings import PoolSettings
from supervisor_memreap.core.state import Cause
from supervisor_memreap.core.text import memory, seconds

OBSERVED = "it is only observed (observe=yes): nothing is sent"


def clock(moment: float) -> str:
    """`07:30:06` if it was today, else `11-23 07:30`, by this machine's wall clock."""
    then, today = time.localtime(moment), time.localtime()
    return time.strftime("%H:%M:%S" if then[:3] == today[:3] else "%m-%d %H:%M", then)


def paused(pool: str, has_commands: bool) -> str:
    """Of a pool that a user has paused, and what ends that. `has_commands` is as in has_commands()."""
    where = "" if has_commands else " (not set up here: see memreap doctor)"
    return f"paused: nothing is sent until supervisorctl memreap resume {pool}{where}"


def suspended(pool: str, suspension: SuspensionRow, has_commands: bool) -> str:
    """Of a pool that memreap has suspended, why, and what ends that. A changed setting does everywhere."""
    since = f" since {clock(suspension['since'])}" if "since" in suspension else ""
    end = suspension.get("until")
    ends = ["its settings change", *([f"supervisorctl memreap resume {pool}"] if has_commands else [])]
    ends = ends if end is None else [clock(end), *ends]
    until = " or ".join(filter(None, (", ".join(ends[:-1]), ends[-1])))
    return f"suspended{since}, nothing is sent until {until}: {suspension.get('reason') or 'the log has the reason'}"


def has_commands(has_plugin: bool, listener: ListenerRow | None) -> bool:
    """Whether supervisorctl has the command memreap, and the listener, which getListener returned, gets it."""
    return has_plugin and listener is not None and bool(listener.get("takes_commands"))


def planned_action(candidate: Candidate, settings: PoolSettings) -> str:
    """What a run without --dry-run would do with this worker."""
    worker = candidate.worker
    if worker.serving is False:
        return "it does not serve yet"
    if worker.age < settings.min_age:
        return f"it is {seconds(worker.age)} old and would be reaped at min_age={seconds(settings.min_age)}"
    assert worker.detail
    return f"{worker.detail.signal} would be sent"


def summary(choice: Choice, settings: PoolSettings, reaped: int | None) -> str:
    """The state of a pool at the end of a run."""
    pool = choice.pool
    if pool.manager is None:
        return f"not watched, {pool.not_visible}" if pool.not_visible else f"not running ({pool.state})"
    done = "" if reaped is None else f", {reaped} reaped"
    return f"{len(pool.workers)} workers{done}, {_to_replace(choice, settings)}"


def _to_replace(choice: Choice, settings: PoolSettings) -> str:
    set_reasons = [each for each in REASONS if each.setting and getattr(settings, each.setting) is not None]
    if choice.to_go == 0 and settings.limit is not None and set_reasons == [OverLimit]:
        return f"none over the limit of {memory(settings.limit)}"
    suspended = choice.state.suspended
    held = (
        ", and nothing is sent" if choice.state.paused or (suspended and suspended.cause is Cause.MANAGER_LOST) else ""
    )
    held = held or (f", and nothing is sent for its {suspended.setting}" if suspended else "")
    return f"{choice.to_go or 'none'} to replace{held if choice.to_go else ''}"
