"""`memreap once`: reap every worker over the limit, one at a time, for cron and by hand."""

from __future__ import annotations

import os
import select
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

from supervisor_memreap.core import policy
from supervisor_memreap.core.model import Ending, Program, Worker
from supervisor_memreap.core.quote import quote
from supervisor_memreap.core.settings import Settings
from supervisor_memreap.core.verdict import (
    Fell,
    NeverIdle,
    NotCaught,
    NotReplaced,
    Stuck,
    TooFewWorkers,
    Unreadable,
    Unseen,
    Wrapped,
    WrongLimit,
    WrongSignal,
)
from supervisor_memreap.host import processes
from supervisor_memreap.reaper import HowEnded, Reaper, Standing, States
from supervisor_memreap.record import report
from supervisor_memreap.record.statefile import StateFile

# Between two looks: short beside the second within which FCGI::ProcManager replaces a worker.
INTERVAL = 0.2
# A wait is told of when it has lasted so long, and again each time it has lasted so much longer.
PATIENCE = 5.0
_FAILURES = (
    Fell,
    NeverIdle,
    NotCaught,
    NotReplaced,
    Stuck,
    TooFewWorkers,
    Unreadable,
    Unseen,
    Wrapped,
    WrongLimit,
    WrongSignal,
)
# What has been said of a pool in which nothing more will come of waiting.
_GIVEN_UP = {"not permitted", "never idle", "too few"}

Tell = Callable[[str], None]
Programs = Callable[[], list[Program]]


def of_pid(pid: int, name: str, written: float | None = None) -> Programs:
    """The manager with this pid, as long as it is that very process, as if supervisord ran it.

    Raises ProcessLookupError if there is none, ValueError if memreap itself runs under it, or if it was born after
    its pid was `written` down, in seconds since the epoch: then that pid was another process's.
    """
    view = processes.source()
    process = view.process(pid)
    manager = process.id
    if written is not None and time.time() - process.age > written + 2:
        raise ValueError(f"process {pid} is younger than the pidfile: that was left by another one")
    above = os.getpid()
    while above > 1:
        above = view.process(above).parent
        if above == pid:
            raise ValueError(f"memreap itself runs under process {pid}: that is not the manager of a pool")

    def programs() -> list[Program]:
        try:
            process = processes.source().process(pid)
            if process.id == manager and not process.ended:
                return [Program(name, name, "RUNNING", pid)]
        except ProcessLookupError:
            pass  # it has ended, and that is what EXITED says
        return [Program(name, name, "EXITED", 0)]

    return programs


def ended_by_itself(_program: Program, _since: float) -> Ending:
    """A manager that supervisord does not run is not stopped through it either."""
    return Ending.EXITED


def run(
    programs: Programs,
    settings: Settings,
    names: Sequence[str],
    dry_run: bool,
    tell: Tell,
    how_ended: HowEnded,
) -> int:
    """0: nothing is left over the limit; 1: something could not be reaped; 130: Ctrl-C. Raises Unavailable."""
    listed = programs()
    states = known_to_the_listener(listed)
    reaper = Reaper(tell, dry_run, states=states, how_ended=how_ended)
    try:
        standings = reaper.tick(listed, settings, time.monotonic())
        for one in standings:
            if one.state.paused or one.state.suspended:
                tell(f"{one.pool.name}: {_held_back(one)}")
        if not standings:
            tell(f"supervisord runs none of {', '.join(map(quote, names))}")
            return 1
        failed = _has_failed(standings)
        if dry_run:
            for one in standings:
                _tell_what_would_be(one, tell)
            return 1 if failed else 0
        waits = _Waits(tell)
        while waits.has_any(standings):
            _pause(reaper)
            standings = reaper.tick(programs(), settings, time.monotonic())
            failed = _has_failed(standings) or failed
    except KeyboardInterrupt:
        tell("stopped; a worker that has been signalled still finishes its request and leaves")
        return 130
    finally:
        reaper.close()
    for one in standings:
        left = _over(one)
        failed = failed or bool(left)
        # Nothing to tell is nothing to mail, for cron.
        if reaper.reaped(one.pool.name) or left or sys.stdout.isatty():
            tell(f"{one.pool.name}: {report.summary(one.pool, one.settings, reaper.reaped(one.pool.name), len(left))}")
    return 1 if failed else 0


def known_to_the_listener(programs: Sequence[Program]) -> States:
    """Who is leaving or stuck, and what is paused or suspended, as the listener of the same user wrote it down."""
    above = next((one.supervisord for one in programs if one.supervisord), 0)
    try:
        supervisord = processes.source().process(above).id if above else None
    except OSError:
        supervisord = None
    if supervisord is None:
        return {}
    states, _ = StateFile(supervisord).read(time.monotonic())
    # One that is only about to be signalled is nobody that leaves: a listener that does it has the pool's lock.
    return {
        name: replace(state, leaving=None) if state.leaving and not state.leaving.sent else state
        for name, state in states.items()
    }


def _held_back(one: Standing) -> str:
    return report.PAUSED if one.state.paused else f"{one.verdict.standing}; {report.SUSPENDED}"


def _over(one: Standing) -> list[Worker]:
    return [worker for worker in one.pool.workers if worker.used is not None and worker.used > one.settings.limit]


def _has_failed(standings: list[Standing]) -> bool:
    return any(
        one.state.said & _GIVEN_UP or any(isinstance(event, _FAILURES) for event in one.verdict.events)
        for one in standings
    )


def _tell_what_would_be(one: Standing, tell: Tell) -> None:
    over = _over(one)
    leaving = {each.worker for each in (one.state.leaving, *one.state.stuck) if each}
    due = [] if one.state.paused or one.state.suspended else [each for each in over if each.id not in leaving]
    for worker in sorted(due, key=lambda each: each.used or 0, reverse=True):
        # A newborn has not set its handlers yet, so its veto says nothing.
        is_young = worker.age < one.settings.min_age
        if is_young or policy.veto(one.pool, worker, one.settings) is None:
            tell(f"{one.pool.name}: {report.outcome('young' if is_young else 'would', worker, one.settings)}")
    tell(f"{one.pool.name}: {report.summary(one.pool, one.settings, None, len(over))}")


class _Waits:
    """What is still waited for, told when it takes long."""

    def __init__(self, tell: Tell):
        self._tell = tell
        self._what = ""
        self._since = 0.0
        self._told = 0.0

    def has_any(self, standings: list[Standing]) -> bool:
        waits = [f"{one.pool.name}: {what}" for one in standings for what in (_waits_for(one),) if what]
        now = time.monotonic()
        what = "; ".join(waits)
        if what != self._what:
            self._what, self._since, self._told = what, now, now
        elif waits and now - self._told >= PATIENCE:
            self._told = now
            self._tell(f"{what} ({report.seconds(now - self._since)})")
        return bool(waits)


def _waits_for(one: Standing) -> str:
    """What `once` still has to wait for in this pool; empty if nothing."""
    leaving, stuck = one.state.leaving, {each.worker for each in one.state.stuck}
    state = one.state
    if one.pool.manager is None or state.suspended or state.paused or state.said & _GIVEN_UP:
        return ""
    if leaving and leaving.overdue:
        return ""
    if leaving and leaving.left is None:
        return f"waiting for worker {leaving.worker.pid} to finish its request"
    if leaving and leaving.replaced_by is None:
        return f"waiting for a worker in the place of {leaving.worker.pid}"
    if leaving:  # also after the last one: whoever reaps next in this pool must find it settled
        return f"waiting for the worker in the place of {leaving.worker.pid} to settle"
    due = [worker for worker in one.pool.workers if worker.id not in stuck and _is_due(worker, one)]
    if not due:
        return ""
    if all(worker.age < one.settings.min_age for worker in due):
        return f"waiting for {len(due)} over the limit to reach min_age={report.seconds(one.settings.min_age)}"
    return f"{len(due)} to reap"


def _is_due(worker: Worker, one: Standing) -> bool:
    """Whether this worker is, or may turn out to be, one to reap: a newborn has not set its handlers yet."""
    if worker.detail is None or (worker.used is not None and worker.used <= one.settings.limit):
        return False
    if worker.age < one.settings.min_age:
        return True
    return worker.used is not None and policy.veto(one.pool, worker, one.settings) is None


def _pause(reaper: Reaper) -> None:
    """Until the next look, or until a worker that was signalled is gone."""
    poll = select.poll()
    for fd in reaper.pidfds():
        poll.register(fd, select.POLLIN)
    gone = [fd for fd, _ in poll.poll(INTERVAL * 1000)]
    for fd in gone:
        reaper.exited(fd, time.monotonic())
    if gone:
        select.poll().poll(INTERVAL * 1000 / 4)  # the manager needs a moment to fork the replacement
