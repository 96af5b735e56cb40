"""Reaps every worker that is due, one at a time, then ends: `memreap once`."""

from __future__ import annotations

import functools
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

from supervisor_memreap.core import delay, events, hindrance, policy, reasons
from supervisor_memreap.core.command import named
from supervisor_memreap.core.events import Event, Sink
from supervisor_memreap.core.hindrance import Kind
from supervisor_memreap.core.model import Ending, Program, ProgramState
from supervisor_memreap.core.policy import Look
from supervisor_memreap.core.settings import REASON_KEYS_TEXT, Settings
from supervisor_memreap.core.state import PoolState
from supervisor_memreap.core.text import seconds
from supervisor_memreap.host import procfs
from supervisor_memreap.host.machine import Machine, States
from supervisor_memreap.host.thismachine import HowEnded, ThisMachine
from supervisor_memreap.listener.pool import WatchedPool
from supervisor_memreap.listener.pools import Keep
from supervisor_memreap.listener.reaper import Reaper
from supervisor_memreap.listener.savedstates import SavedStates
from supervisor_memreap.listener.statefile import BesideListener
from supervisor_memreap.listener.wakeable import wait
from supervisor_memreap.outputs import statusrows, words
from supervisor_memreap.outputs.lasting import Once
from supervisor_memreap.supervisord.configfile import Contents

# Seconds between two looks: short compared with the second in which FCGI::ProcManager replaces a worker.
INTERVAL = 0.2
# Seconds after which a wait is reported, and reported again.
PATIENCE = 5.0

Programs = Callable[[], list[Program]]


def of_pid(pid: int, name: str, written: float | None = None) -> Programs:
    """The manager with this pid, while it is the same process, as if supervisord ran it.

    Raises ProcessLookupError if there is none, ValueError if memreap itself runs under it, or if it was started after
    its pid was `written` to the file, in seconds since the epoch: then the pid was that of another process.
    """
    view = procfs.source()
    process = view.process(pid)
    manager = process.id
    if written is not None and time.time() - process.age > written + 2:
        raise ValueError(f"process {pid} is younger than the pidfile, which another process left behind")
    above = os.getpid()
    while above > 1:
        above = view.process(above).parent
        if above == pid:
            raise ValueError(f"memreap itself runs under process {pid}, so that is not the manager of a pool")

    def programs() -> list[Program]:
        try:
            process = procfs.source().process(pid)
            if process.id == manager and not process.ended:
                return [Program(name, name, ProgramState.RUNNING.value, pid)]
        except ProcessLookupError:
            pass  # it has ended: EXITED
        return [Program(name, name, ProgramState.EXITED.value, 0)]

    return programs


def ended_by_itself(_program: Program, _since: float) -> Ending:
    """A manager that supervisord does not run cannot be stopped through supervisord either."""
    return Ending.EXITED


class _Verdicts:
    """A sink: notes what events mean for this run."""

    def __init__(self) -> None:
        self.has_failed = False
        self.given_up: set[str] = set()
        """Pools in which waiting longer is useless."""

    def __call__(self, event: Event) -> None:
        self.has_failed = self.has_failed or event.fails
        if event.ends_wait:
            self.given_up.add(event.pool)


def run(
    programs: Programs,
    settings: Settings,
    names: Sequence[str],
    dry_run: bool,
    emit: Sink,
    how_ended: HowEnded,
    has_commands: bool = False,
    contents: Contents | None = None,
) -> int:
    """Reap in the programs with these names; without names, in all that have settings.

    `has_commands` is as in outputs.words.

    0: no worker is left that is due; 1: one could not be reaped, or a name or a section matches no program;
    130: Ctrl-C. `contents` are of the configuration; None: there is none. Raises Unavailable.
    """
    listed = programs()
    missing = events.ProgramsMissing.of(_missing(names, settings, listed), listed, time.time())
    if missing:
        emit(missing)
        if names:
            return 1  # a typo in a command: do nothing
    held_back = functools.partial(_held_back, has_commands=has_commands)
    chosen = _chosen(names, listed)
    beside = BesideListener(chosen, contents)
    look = lambda: _chosen(names, programs())  # noqa: E731
    exit_status = _run(chosen, look, settings, dry_run, emit, how_ended, held_back, beside)
    return exit_status or (1 if missing else 0)


def _run(
    listed: list[Program],
    programs: Programs,
    settings: Settings,
    dry_run: bool,
    emit: Sink,
    how_ended: HowEnded,
    held_back: Callable[[WatchedPool], str],
    beside: BesideListener,
) -> int:
    """`listed` is the latest result of `programs`."""
    verdicts = _Verdicts()
    keep = _keep_in(SavedStates(None if dry_run else beside.file, emit, Once(_both(emit, verdicts))))
    # How long a listener has tried in vain says nothing of this run.
    known = {name: replace(state, delay=None) for name, state in beside.known().items()}
    machine = ThisMachine(how_ended)
    reaper = Reaper(machine, (emit, verdicts), dry_run, known, keep, beside.leaving)
    try:
        pools = reaper.tick(listed, settings, time.monotonic())
        for pool in pools:
            if held_back(pool):
                _note(emit, pool.name, held_back(pool))
        if not pools:
            text = f"none of the programs has a [memreap:NAME] section; name a program, followed by {REASON_KEYS_TEXT}"
            _note(emit, "", text)
            return 1
        if dry_run:
            for pool in pools:
                _plan(pool, emit, bool(held_back(pool)))
            return 1 if verdicts.has_failed else 0
        waits = _Waits(emit, verdicts)
        while waits.has_any(pools):
            _pause(machine, reaper)
            pools = reaper.tick(programs(), settings, time.monotonic())
    except KeyboardInterrupt:
        _note(emit, "", "stopped; a worker that was already signalled still finishes its request and leaves")
        return 130
    finally:
        reaper.close()
    is_left = False
    for pool in pools:
        left = bool(pool.choice and pool.choice.to_go)
        is_left = is_left or (left and not policy.only_observes(pool.settings, pool.state))
        # cron mails every output, so print nothing if nothing happened.
        if pool.choice and (pool.counters.reaps.count or left or sys.stdout.isatty()):
            _note(emit, pool.name, words.summary(pool.choice, pool.settings, pool.counters.reaps.count))
    return 1 if verdicts.has_failed or is_left else 0


def _keep_in(saved_states: SavedStates) -> Keep:
    """Saves who is leaving: the next memreap follows that worker. All else is the listener's, or of this run alone."""

    def keep(states: States) -> str:
        reaped = {name: state for name, state in states.items() if state.reap}
        return saved_states.save(
            {name: PoolState(manager=state.manager, reap=state.reap) for name, state in reaped.items()}
        )

    return keep


def _both(first: Sink, second: Sink) -> Sink:
    def sink(event: Event) -> None:
        first(event)
        second(event)

    return sink


def _missing(names: Sequence[str], settings: Settings, programs: Sequence[Program]) -> tuple[str, ...]:
    """The names, or without names the sections, that match no program."""
    if not names:
        return tuple(settings.unmatched(programs))
    return tuple(name for name in names if not named(name, [program.namespec for program in programs]))


def _chosen(names: Sequence[str], programs: list[Program]) -> list[Program]:
    """The programs that match one of the names; without names, all."""
    if not names:
        return programs
    return [program for program in programs if any(named(name, [program.namespec]) for name in names)]


def _held_back(pool: WatchedPool, has_commands: bool) -> str:
    """Why nothing is sent in this pool; empty if it may be."""
    held = delay.held_back(pool.name, pool.settings, pool.state)
    if held is None or held.kind is Kind.OBSERVED:
        return words.OBSERVED if held else ""
    if held.kind is Kind.PAUSED:
        return words.paused(pool.name, has_commands)
    suspension = statusrows.suspension(pool.pool, pool.state, time.time() - time.monotonic())
    assert suspension
    return words.suspended(pool.name, suspension, has_commands)


def _note(emit: Sink, pool: str, text: str) -> None:
    emit(events.Noted(pool, time.time(), text))


def _plan(pool: WatchedPool, emit: Sink, is_held_back: bool) -> None:
    assert pool.choice
    if not is_held_back:
        for candidate in pool.choice.pending:
            action = words.planned_action(candidate, pool.settings)
            emit(events.Planned(pool.name, time.time(), candidate.worker.id, candidate.reason, action))
    _note(emit, pool.name, words.summary(pool.choice, pool.settings, None))


class _Waits:
    """What `once` waits for, reported if it takes long."""

    def __init__(self, emit: Sink, verdicts: _Verdicts):
        self._emit = emit
        self._verdicts = verdicts
        self._what = ""
        self._since = 0.0
        self._reported = 0.0

    def has_any(self, pools: Sequence[WatchedPool]) -> bool:
        waits = [f"{pool.name}: {what}" for pool in pools for what in (self._of(pool),) if what]
        now = time.monotonic()
        what = "; ".join(waits)
        if what != self._what:
            self._what, self._since, self._reported = what, now, now
        elif waits and now - self._reported >= PATIENCE:
            self._reported = now
            _note(self._emit, "", f"{what} ({seconds(now - self._since)})")
        return bool(waits)

    def _of(self, pool: WatchedPool) -> str:
        """What `once` still waits for in this pool; empty if nothing."""
        state, settings, choice, now = pool.state, pool.settings, pool.choice, time.monotonic()
        if choice is None or pool.pool.manager is None or delay.held_back(pool.name, settings, state):
            return ""
        if {"", pool.name} & self._verdicts.given_up or (state.leaving and state.leaving.overdue):
            return ""
        if delay.is_in_vain(choice, settings, state, now):
            return ""
        look, pending = Look(pool.pool, settings, state), {each.worker for each in choice.pending}
        due = policy.due_workers(look, look.circumstances({}, now))
        due = {worker: reasons for worker, reasons in due.items() if worker in pending}
        why = delay.hindrance_in(look, choice, due, now)
        if why and state.leaving:  # also after the last one: the next to reap in this pool must find it settled
            return why.text
        if pending:
            # What an attempt has found may change with each.
            return f"{len(pending)} to reap{f': {why.text}' if why and not choice.candidates else ''}"
        # A worker whose size may not be read is reported when it is old enough: a new one may still change its user.
        hidden = [worker for worker in pool.pool.workers if reasons.is_hidden(worker, settings)]
        young = sum(worker.age < settings.min_age for worker in hidden)
        return f"{young} that may be over the limit: {hindrance.young(settings).text}" if young else ""


def _pause(machine: Machine, reaper: Reaper) -> None:
    """Wait until the next look, or until a signalled worker is gone."""
    until = machine.now() + INTERVAL
    while (left := until - machine.now()) > 0:
        exits = reaper.exits
        reaper.wake(wait(machine, reaper, at_most=left))
        if reaper.exits > exits:
            until = machine.now() + INTERVAL / 4  # the manager needs a moment to fork the replacement
