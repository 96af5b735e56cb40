"""Reaps every worker that is due, one at a time, then ends: `memreap once`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence

from supervisor_memreap.core import delay, events, hindrance, policy, reasons
from supervisor_memreap.core.command import means, named
from supervisor_memreap.core.events import Event, Sink
from supervisor_memreap.core.frozen import replace
from supervisor_memreap.core.hindrance import Kind
from supervisor_memreap.core.model import Program, Standing
from supervisor_memreap.core.policy import Candidate, Choice, Look
from supervisor_memreap.core.reasons import REASONS, OverLimit
from supervisor_memreap.core.settings import REASON_KEYS_TEXT, PoolSettings, Settings
from supervisor_memreap.core.state import Cause, PoolState
from supervisor_memreap.core.text import count, memory, seconds
from supervisor_memreap.host.machine import Beside, Machine, States
from supervisor_memreap.listener.pool import WatchedPool
from supervisor_memreap.listener.pools import Keep
from supervisor_memreap.listener.reaper import Reaper
from supervisor_memreap.listener.savedstates import SavedStates
from supervisor_memreap.listener.wakeable import wait
from supervisor_memreap.outputs import statusrows, words
from supervisor_memreap.outputs.lasting import Once

# Seconds between two looks: short compared with the second in which FCGI::ProcManager replaces a worker.
INTERVAL = 0.2
# Seconds after which a wait is reported, and reported again.
PATIENCE = 5.0
_OBSERVED = "it is only observed (observe=yes): nothing is sent"

Programs = Callable[[], list[Program]]


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
    machine: Machine,
    programs: Programs,
    beside: Callable[[Sequence[Program]], Beside],
    settings: Settings,
    names: Sequence[str],
    dry_run: bool,
    emit: Sink,
    has_commands: bool = False,
) -> int:
    """Reap in the programs with these names; without names, in all that have settings.

    `beside` is asked once, for these programs. `has_commands` is as in outputs.words.

    0: no worker is left that is due; 1: one could not be reaped, or a name or a section matches no program;
    130: Ctrl-C. Raises Unavailable.
    """
    listed = programs()
    missing = events.ProgramsMissing.of(_missing(names, settings, listed), listed, machine.time())
    if missing:
        emit(missing)
        if names:
            return 1  # a typo in a command: do nothing
    chosen = _chosen(names, listed)
    run = _Run(machine, settings, dry_run, emit, beside(chosen), has_commands)
    return run.exit_status(chosen, lambda: _chosen(names, programs())) or (1 if missing else 0)


class _Run:
    def __init__(
        self, machine: Machine, settings: Settings, dry_run: bool, emit: Sink, beside: Beside, has_commands: bool
    ):
        self._machine = machine
        self._settings = settings
        self._dry_run = dry_run
        self._emit = emit
        self._has_commands = has_commands
        self._beside = beside
        self._verdicts = _Verdicts()
        saved_states = SavedStates(machine, None if dry_run else beside.file, self._take, Once(self._take))
        # How long a listener has tried in vain says nothing of this run.
        known = {name: replace(state, delay=None) for name, state in beside.known(machine.now()).items()}
        leaving = lambda: beside.leaving(machine.now())  # noqa: E731
        self._reaper = Reaper(machine, (self._take,), dry_run, known, _keep_in(saved_states), leaving)

    def _take(self, event: Event) -> None:
        self._emit(event)
        self._verdicts(event)

    def exit_status(self, listed: list[Program], programs: Programs) -> int:
        """Reap, and report what is left; `listed` is the latest result of `programs`."""
        try:
            pools = self._tick(listed)
            for pool in pools:
                if held := self._held_back(pool):
                    self._note(pool.name, held)
            if not pools:
                text = "none of the programs has a [memreap:NAME] section; name a program, followed by "
                self._note("", text + REASON_KEYS_TEXT)
                return 1
            if self._dry_run:
                for pool in pools:
                    self._plan(pool)
                return 1 if self._verdicts.has_failed else 0
            waits = _Waits(self._machine, self._emit, self._verdicts)
            while waits.has_any(pools):
                _pause(self._machine, self._reaper)
                pools = self._tick(programs())
        except KeyboardInterrupt:
            self._note("", "stopped; a worker that was already signalled still finishes its request and leaves")
            return 130
        finally:
            self._reaper.close()
        is_left = False
        for pool in pools:
            left = bool(pool.choice and pool.choice.to_go)
            is_left = is_left or (left and not policy.only_observes(pool.settings, pool.state))
            # cron mails every output, so print nothing if nothing happened.
            if pool.choice and (pool.counters.reaps.count or left or sys.stdout.isatty()):
                self._note(pool.name, summary(pool.choice, pool.settings, pool.counters.reaps.count))
        return 1 if self._verdicts.has_failed or is_left else 0

    def _tick(self, programs: list[Program]) -> list[WatchedPool]:
        now = self._machine.now()
        for name in self._reaper.take_pauses(self._beside.paused(now), now):
            self._note(name, words.paused(name, self._has_commands))
        return self._reaper.tick(programs, self._settings, now)

    def _held_back(self, pool: WatchedPool) -> str:
        """Why nothing is sent in this pool; empty if it may be."""
        held = delay.held_back(pool.settings, pool.state)
        if held is None or held.kind is Kind.OBSERVED:
            return _OBSERVED if held else ""
        if held.kind is Kind.PAUSED:
            return words.paused(pool.name, self._has_commands)
        boot = self._machine.time() - self._machine.now()
        suspension = statusrows.suspension(pool.pool, pool.state, boot) if held.kind is Kind.SUSPENDED else None
        return words.suspended(pool.name, suspension, self._has_commands) if suspension else held.text

    def _plan(self, pool: WatchedPool) -> None:
        assert pool.choice
        for candidate in () if self._held_back(pool) else pool.choice.pending:
            action = planned_action(candidate, pool.settings)
            planned = self._machine.time(), candidate.worker.id, candidate.reason, action
            self._emit(events.Planned(pool.name, *planned))
        self._note(pool.name, summary(pool.choice, pool.settings, None))

    def _note(self, pool: str, text: str) -> None:
        self._emit(events.Noted(pool, self._machine.time(), text))


def _keep_in(saved_states: SavedStates) -> Keep:
    """Saves who is leaving: the next memreap follows that worker. All else is the listener's, or of this run alone."""

    def keep(states: States) -> str:
        reaped = {name: state for name, state in states.items() if state.reap}
        return saved_states.save(
            {name: PoolState(manager=state.manager, reap=state.reap) for name, state in reaped.items()}
        )

    return keep


def _missing(names: Sequence[str], settings: Settings, programs: Sequence[Program]) -> tuple[str, ...]:
    """The names, or without names the sections, that match no program."""
    if not names:
        return tuple(settings.unmatched(programs))
    return tuple(name for name in names if not named(name, [program.namespec for program in programs]))


def _chosen(names: Sequence[str], programs: list[Program]) -> list[Program]:
    """The programs that match one of the names; without names, all."""
    return [program for program in programs if means(names, program.namespec)]


class _Waits:
    """What `once` waits for, reported if it takes long."""

    def __init__(self, machine: Machine, emit: Sink, verdicts: _Verdicts):
        self._machine = machine
        self._emit = emit
        self._verdicts = verdicts
        self._what = ""
        self._since = 0.0
        self._reported = 0.0

    def has_any(self, pools: Sequence[WatchedPool]) -> bool:
        waits = [f"{pool.name}: {what}" for pool in pools for what in (self._of(pool),) if what]
        now = self._machine.now()
        what = "; ".join(waits)
        if what != self._what:
            self._what, self._since, self._reported = what, now, now
        elif waits and now - self._reported >= PATIENCE:
            self._reported = now
            self._emit(events.Noted("", self._machine.time(), f"{what} ({seconds(now - self._since)})"))
        return bool(waits)

    def _of(self, pool: WatchedPool) -> str:
        """What `once` still waits for in this pool; empty if nothing."""
        state, settings, choice, now = pool.state, pool.settings, pool.choice, self._machine.now()
        if choice is None or pool.pool.manager is None or delay.held_back(settings, state):
            return ""
        if {"", pool.name} & self._verdicts.given_up or (state.leaving and state.leaving.overdue):
            return ""
        if delay.is_in_vain(choice, settings, state, now):
            return ""
        look, pending = Look(pool.pool, settings, state), {each.worker for each in choice.pending}
        due = policy.due_workers(look, look.circumstances({}, now))
        due = {worker: each for worker, each in due.items() if worker in pending}
        why = delay.hindrance_in(look, choice, due, now)
        if why and state.leaving:  # also after the last one: the next to reap in this pool must find it settled
            return why.text
        if pending:
            # What an attempt has found may change with each.
            return f"{count(len(pending), 'worker')} to reap{f': {why.text}' if why and not choice.candidates else ''}"
        # A worker whose size may not be read is reported when it is old enough: a new one may still change its user.
        hidden = [worker for worker in pool.pool.workers if reasons.is_hidden(worker, settings)]
        young = sum(worker.age < settings.min_age for worker in hidden)
        return f"{count(young, 'worker')} that may be over the limit: {hindrance.young(settings).text}" if young else ""


def _pause(machine: Machine, reaper: Reaper) -> None:
    """Wait until the next look, or until a signalled worker is gone."""
    until = machine.now() + INTERVAL
    while (left := until - machine.now()) > 0:
        exits = reaper.exits
        reaper.wake(wait(machine, reaper, at_most=left))
        if reaper.exits > exits:
            until = machine.now() + INTERVAL / 4  # the manager needs a moment to fork the replacement


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
    if choice.standing is Standing.BLIND and not choice.to_go:
        return f"{count(len(pool.workers), 'worker')}{done}, and whether one is to go is unknown"
    return f"{count(len(pool.workers), 'worker')}{done}, {_to_replace(choice, settings)}"


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
