"""One tick: look, decide, act, tell. The only place where the steps meet."""

from __future__ import annotations

import functools
import os
import time
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from supervisor_memreap.core import policy
from supervisor_memreap.core.command import Command, CommandError, Result, carry_out_in_all, named, unknown
from supervisor_memreap.core.model import Ending, Pool, ProcessId, Program, Worker
from supervisor_memreap.core.settings import PoolSettings, Settings
from supervisor_memreap.core.verdict import Event, Fell, Left, Resumed, Stuck, Verdict, WrongLimit
from supervisor_memreap.host import lock, processes
from supervisor_memreap.host.lock import Locked
from supervisor_memreap.host.source import Source
from supervisor_memreap.record import report
from supervisor_memreap.record.status import Tally, of_pool

# Seconds in which a tick watches for idle moments, over all pools: the listener must be back for the next event.
WATCH = 0.3

# Seconds between two readings of all workers' metric for the status, and how long one may take: 36 ms for 500 workers
# of 20 MiB, and more where they are larger.
MEASURE = 30.0
MEASURING = 0.1

# Seconds for which a pool that is not watched any more is remembered although its manager has ended: its section, its
# program or its group may come back, and with it a pause that a user set.
REMEMBERED = 24 * 3600.0

Tell = Callable[[str], None]
States = Mapping[str, policy.PoolState]
# Asks supervisord how the last process of a program ended, after this time of the wall clock.
HowEnded = Callable[[Program, float], Ending]


@dataclass
class Departure:
    """What is kept open for one worker that is leaving."""

    worker: ProcessId
    manager: ProcessId
    shared: bool
    """The lock is that of supervisord, for all pools with target=self."""
    private: int | None
    pidfd: int | None
    lock: int | None

    def release(self) -> None:
        for fd in (self.pidfd, self.lock):
            if fd is not None:
                os.close(fd)
        self.pidfd = self.lock = None


class Happening(NamedTuple):
    """What others may want to know of at once."""

    kind: str
    """reap, left, stuck, suspended or resumed."""
    pool: str
    pid: int
    """Of the worker; 0 where it is about the pool."""
    text: str
    announce: bool


# The events of the policy that are happenings.
_KINDS: Mapping[type, str] = {
    Left: "left",
    Stuck: "stuck",
    WrongLimit: "suspended",
    Fell: "suspended",
    Resumed: "resumed",
}


@dataclass
class Standing:
    """How one pool stands after a tick."""

    pool: Pool
    settings: PoolSettings
    verdict: Verdict
    state: policy.PoolState


class Reaper:
    """`states` are those of the reaper before this one; `keep` gets all of them before each signal and after a tick."""

    def __init__(
        self,
        tell: Tell,
        dry_run: bool = False,
        states: States | None = None,
        keep: Callable[[States], None] = lambda _: None,
        how_ended: HowEnded = lambda _program, _since: Ending.UNKNOWN,
    ):
        self._tell = tell
        self._dry_run = dry_run
        self._keep = keep
        self._how_ended = how_ended
        self._states: dict[str, policy.PoolState] = dict(states or {})
        self._departures: dict[str, list[Departure]] = {}
        self._standings: dict[str, Standing] = {}
        self._tallies: dict[str, Tally] = {}
        self._used: dict[str, dict[ProcessId, int]] = {}
        self._measured = float("-inf")
        self._happened: list[Happening] = []

    def tick(self, programs: Iterable[Program], settings: Settings, now: float) -> list[Standing]:
        """One look at all watched pools, at most one signal in each. `now` is monotonic, in seconds."""
        view = processes.source()
        programs = list(programs)
        watched = []
        for pool in settings.pools(programs):
            state = self._states.setdefault(pool.program.namespec, policy.PoolState())
            watched.append(processes.Watched(*pool, _expected(state), state.asked))
        self._set_aside({its.program.namespec for its in watched}, now, view)
        standings = [one for its in watched if (one := self._look_and_judge(its, programs, view, now))]
        due = [one for one in standings if one.verdict.reap and not self._dry_run]
        for one in due:
            if self._waits_for_its_group(one):
                continue
            # Its share of the time: no pool that is never idle takes the others' moments.
            self._guard(one.pool.name, functools.partial(self._act, one, view, now, WATCH / len(due)))
        self._keep(self._states)
        self._record(standings)
        return standings

    def _look_and_judge(
        self, its: processes.Watched, programs: Sequence[Program], view: Source, now: float
    ) -> Standing | None:
        """How one pool stands, and what its signalled worker gets; None after a fault."""
        standings: list[Standing] = []

        def act() -> None:
            (pool,) = processes.look([its], view)
            pool = self._with_ending(pool, its.program, programs, now)
            standings.append(self._judge(pool, its.settings, view, now))
            self._follow_up(standings[0], view)

        self._guard(its.program.namespec, act)
        return standings[0] if standings else None

    def _guard(self, name: str, act: Callable[[], None]) -> None:
        """A fault in one pool is a line in the log, and the others are looked at all the same."""
        try:
            act()
        except Exception as error:
            place = traceback.extract_tb(error.__traceback__)[-1]
            text = f"internal error, please report it: {error!r} at {os.path.basename(place.filename)}:{place.lineno}"
            first, self._states[name] = policy.say_once(text, self._states.get(name, policy.PoolState()))
            if first:
                self._tell_of(name, text)

    def _with_ending(self, pool: Pool, program: Program, programs: Sequence[Program], now: float) -> Pool:
        """The pool, and how its last manager ended, where that makes a difference."""
        state = self._states[pool.name]
        if not policy.asks_how_it_ended(pool, state):
            return pool
        # supervisord's log has the name without the group.
        if sum(one.name == program.name for one in programs) > 1:
            return pool
        assert state.looked is not None
        return replace(pool, ending=self._how_ended(program, time.time() - (now - state.looked)))

    def _act(self, one: Standing, view: Source, now: float, watch: float) -> None:
        one.state = self._states[one.pool.name] = self._reap(one, view, now, watch)

    def reaped(self, name: str) -> int:
        """Workers of this pool that left after our signal."""
        return self._tally(name).reaps

    def status(self) -> list[dict[str, Any]]:
        """How the pools stood at the last tick, as record.status has it; measures workers, all of them now and then."""
        now = time.monotonic()
        if now - self._measured >= MEASURE:
            self._measured, self._used = now, {}
        view = processes.source()
        for name, one in self._standings.items():
            known = self._used.get(name, {})
            self._used[name] = processes.measure(one.pool, one.settings, view, now + MEASURING, known)
        boot = time.time() - now
        return [
            of_pool(one.pool, one.settings, self._states[name], self._tally(name), self._used.get(name, {}), boot)
            for name, one in sorted(self._standings.items())
        ]

    def paused(self) -> States:
        """The pools that somebody paused, and nothing else of them."""
        return {name: policy.PoolState(paused=True) for name, state in self._states.items() if state.paused}

    def happenings(self) -> list[Happening]:
        """What has happened since this was asked last."""
        happened, self._happened = self._happened, []
        return happened

    def command(self, command: Command, watched: Sequence[str]) -> list[Result]:
        """Do what a user asks for, in all of the `watched` pools that the command names. Raises CommandError."""
        names = named(command.name, watched)
        if not names:
            raise CommandError(unknown(command.name, watched))
        pools = {
            # One that was not looked at yet can be paused: before it is looked at, and a worker signalled.
            name: (self._standings[name].pool if name in self._standings else Pool(name, "not looked at yet"), state)
            for name in names
            for state in (self._states.get(name, policy.PoolState()),)
        }
        results = carry_out_in_all(command, pools)
        for result in results:
            if result.state:
                self._states[result.pool] = result.state
                self._tell_of(result.pool, result.text)
        self._keep(self._states)
        return results

    def has_seen(self, names: Iterable[str]) -> bool:
        """Whether all of these pools were there at the last tick."""
        return set(names) <= set(self._standings)

    def pidfds(self) -> dict[int, tuple[str, ProcessId]]:
        """Descriptors that become readable when a worker that was signalled is gone: its pool and itself."""
        return {
            one.pidfd: (name, one.worker)
            for name, holds in self._departures.items()
            for one in holds
            if one.pidfd is not None
        }

    def exited(self, pidfd: int, now: float) -> None:
        """The kernel told that this worker is gone."""
        name, worker = self.pidfds()[pidfd]
        self._states[name] = policy.exited(worker, self._states[name], now)
        for one in self._departures[name]:
            if one.pidfd == pidfd:
                os.close(pidfd)
                one.pidfd = None

    def close(self) -> None:
        """Let go of everything that is held."""
        for departures in self._departures.values():
            for one in departures:
                one.release()
        self._departures.clear()

    def _judge(self, pool: Pool, settings: PoolSettings, view: Source, now: float) -> Standing:
        verdict, state = policy.decide(pool, settings, self._states[pool.name], now, not self._dry_run)
        self._states[pool.name] = state
        for event in verdict.events:
            self._say(pool, event, settings, view)
        self._release(pool.name, state)
        self._follow_those_of_before(pool, settings, state, view)
        return Standing(pool, settings, verdict, state)

    def _reap(self, one: Standing, view: Source, now: float, watch: float) -> policy.PoolState:
        pool, settings, state = one.pool, one.settings, one.state
        assert pool.manager
        began = time.monotonic()
        try:
            held = self._lock(pool.manager, settings)
        except ProcessLookupError:
            return self._refused("changed", one.verdict.reap[0], one)
        except Locked as trouble:
            worker = one.verdict.reap[0]
            word = "locked" if processes.may_signal(worker.id) else "not permitted"
            return self._refused(word, worker, one, str(trouble))
        for worker in one.verdict.reap:
            about = policy.signalled(pool, worker, settings, state, now, sent=False)
            try:
                # Whoever is ended between the signal and the end of the tick must find it in the file.
                self._keep({**self._states, pool.name: about})
                outcome = processes.reap(pool, worker, settings, view, watch, worker.id in one.verdict.insist)
            except BaseException:
                # It is not known whether the signal went out, so it counts as sent.
                os.close(held)
                self._states[pool.name] = policy.signalled(pool, worker, settings, state, now)
                raise
            if outcome.word == "sent":
                break
            state = one.state = self._refused(outcome.word, worker, one)
            state = one.state = self._tell_next_best(one, outcome)
            watch = 0.0  # the others are taken if they are idle just now
        else:
            os.close(held)
            return state
        # From here on nothing may fail before it is known that a worker is leaving.
        shared = settings.target == "self"
        departure = Departure(worker.id, pool.manager, shared, outcome.private, outcome.pidfd, held)
        self._departures.setdefault(pool.name, []).append(departure)
        at = now + time.monotonic() - began
        state = self._states[pool.name] = policy.signalled(pool, worker, settings, state, at)
        self._keep(self._states)
        text = report.sent(worker, settings, outcome.moment)
        self._tell_of(pool.name, text)
        self._happened.append(Happening("reap", pool.name, worker.id.pid, text, settings.announce))
        one.state = state
        return self._tell_next_best(one, outcome)

    def _tell_next_best(self, one: Standing, outcome: processes.Outcome) -> policy.PoolState:
        """Why the surest moment is not to be had here, once."""
        state = one.state
        for what, is_so in (("unheld", outcome.unheld), ("unknown", outcome.unreadable)):
            if is_so:
                first, state = policy.say_once(what, state)
                if first:
                    self._tell_of(one.pool.name, report.NEXT_BEST[what])
        return state

    def _follow_up(self, one: Standing, view: Source) -> None:
        """What a worker gets that was signalled and is still there."""
        pool, settings = one.pool, one.settings
        worker = one.verdict.again or one.verdict.force
        if worker is None:
            return
        if not self._is_ours(pool, worker.id, settings):
            if one.verdict.force:
                self._give_up(one)
            return
        if one.verdict.again:
            assert one.state.leaving
            sent = one.state.leaving.sent
            # Written down first, as the first one is: whoever is ended here must not have a third one sent.
            self._keep({**self._states, pool.name: policy.signalled_again(one.state, sent=False)})
            try:
                outcome = processes.reap_again(pool, one.verdict.again, settings, view)
            except BaseException:
                # It is not known whether the signal went out, so it counts as sent: there is no third one.
                one.state = self._states[pool.name] = policy.signalled_again(one.state)
                raise
            if outcome.word == "sent":
                one.state = self._states[pool.name] = policy.signalled_again(one.state)
                self._tell_of(pool.name, report.sent_again(one.verdict.again, settings, outcome.moment, sent))
        if one.verdict.force:
            self._keep(self._states)
            outcome = processes.force(pool, one.verdict.force, settings.stuck, view)
            self._tell_of(pool.name, report.forced(outcome.word, one.verdict.force, settings))
            if outcome.word in ("not permitted", "failed"):
                self._give_up(one)

    def _give_up(self, one: Standing) -> None:
        """A stuck worker gets nothing from us; the next one may go, as soon as the pool's lock is free."""
        one.state = self._states[one.pool.name] = policy.not_forced(one.state)
        self._release(one.pool.name, one.state)

    def _refused(self, word: str, worker: Worker, one: Standing, trouble: str = "") -> policy.PoolState:
        """Nothing was sent; a busy worker is no news."""
        if word == "busy":
            return one.state
        first, state = policy.say_once(word, one.state)
        if first or word in ("gone", "changed"):
            self._tell_of(one.pool.name, report.outcome(word, worker, one.settings, trouble))
        return state

    def _say(self, pool: Pool, event: Event, settings: PoolSettings, view: Source) -> None:
        came_back = None
        if isinstance(event, Left):
            came_back = self._came_back(pool.name, event, view)
            self._tallies[pool.name] = self._tally(pool.name).reaped(came_back)
        doing = processes.doing(event.worker, view) if isinstance(event, Stuck) else ""
        text = report.line(event, settings, came_back, doing)
        self._tell_of(pool.name, text)
        kind = _KINDS.get(type(event))
        if kind:
            worker = getattr(event, "worker", None)
            pid = worker.pid if isinstance(worker, ProcessId) else 0
            self._happened.append(Happening(kind, pool.name, pid, text, settings.announce))

    def _came_back(self, name: str, left: Left, view: Source) -> int | None:
        """What was the worker's own, less what its replacement has made its own by now."""
        departures = self._departures.get(name, ())
        private = next((one.private for one in departures if one.worker == left.worker), None)
        if private is None:
            return None
        taken = processes.private_memory(left.replaced_by, view) if left.replaced_by else None
        return max(0, private - (taken or 0))

    def _tell_of(self, name: str, text: str) -> None:
        self._tallies[name] = self._tally(name).says(text, time.time())
        self._tell(f"{name}: {text}")

    def _tally(self, name: str) -> Tally:
        return self._tallies.get(name, Tally())

    def _record(self, standings: list[Standing]) -> None:
        self._standings = {one.pool.name: one for one in standings}
        for name, one in self._standings.items():
            self._tallies[name] = self._tally(name).stands(one.verdict.standing, time.time())

    def _release(self, name: str, state: policy.PoolState) -> None:
        """Close what is held for workers that are not followed any more; a stuck or an overdue one keeps no lock."""
        leaving = {state.leaving.worker} if state.leaving else set()
        stuck = {one.worker for one in state.stuck}
        kept = []
        for one in self._departures.pop(name, []):
            if one.worker in leaving and not (state.leaving and state.leaving.overdue):
                kept.append(one)
            elif one.worker in leaving | stuck:
                if one.lock is not None:
                    os.close(one.lock)
                    one.lock = None
                kept.append(one)
            else:
                one.release()
        if kept:
            self._departures[name] = kept

    def _waits_for_its_group(self, one: Standing) -> bool:
        """Whether a worker of another pool of this group is leaving: with target=self some may have their own."""
        group = one.pool.name.partition(":")[0]
        return one.settings.target == "self" and any(
            departure.shared and departure.lock is not None
            for name, departures in self._departures.items()
            for departure in departures
            if name.partition(":")[0] == group
        )

    def _lock(self, manager: ProcessId, settings: PoolSettings) -> int:
        """A descriptor with the lock of this manager. Raises Locked, ProcessLookupError."""
        if settings.target == "workers":
            return lock.take(manager)
        # All pools with target=self have one manager, supervisord, and so one lock; those of this reaper share it.
        for departures in self._departures.values():
            for one in departures:
                if one.shared and one.manager == manager and one.lock is not None:
                    return os.dup(one.lock)
        return lock.take_file(manager)  # a user that runs the pool may not open the files of root's supervisord

    def _is_ours(self, pool: Pool, worker: ProcessId, settings: PoolSettings) -> bool:
        """Whether it is we who follow this worker: another memreap that does will do what is to be done."""
        assert pool.manager
        for one in self._departures.get(pool.name, ()):
            if one.worker == worker and one.lock is None:
                try:
                    one.lock = self._lock(pool.manager, settings)
                except (Locked, OSError):
                    return False  # another memreap follows it; or the manager has just ended
            if one.worker == worker:
                return one.lock is not None
        return False

    def _follow_those_of_before(
        self, pool: Pool, settings: PoolSettings, state: policy.PoolState, view: Source
    ) -> None:
        """Hold what the reaper before this one held for workers that are still leaving."""
        if pool.manager is None:
            return
        followed = {one.worker for one in self._departures.get(pool.name, ())}
        for worker in set(_signalled(state)) - followed:
            held = None
            if state.leaving and state.leaving.worker == worker:
                try:
                    held = self._lock(pool.manager, settings)
                except (Locked, OSError):
                    pass  # another memreap follows it; or it has just ended, and so has what the lock is for
            pidfd = processes.follow(worker, view)
            departure = Departure(worker, pool.manager, settings.target == "self", None, pidfd, held)
            self._departures.setdefault(pool.name, []).append(departure)

    def _set_aside(self, watched: set[str], now: float, view: Source) -> None:
        """Keep what is known of pools that are not watched now: a section may be gone for one look only."""
        for name in set(self._states) - watched:
            state = self._states[name]
            if policy.is_worth_keeping(state) and not self._is_outdated(state, now, view):
                if state.leaving is None or state.leaving.left is not None:
                    self._release_locks(name)
                continue
            del self._states[name]
            for one in self._departures.pop(name, []):
                one.release()

    def _is_outdated(self, state: policy.PoolState, now: float, view: Source) -> bool:
        if state.looked is None or now - state.looked < REMEMBERED:
            return False
        try:
            return state.manager is None or view.process(state.manager.pid).id != state.manager
        except ProcessLookupError:
            return True
        except OSError:
            return False  # it may be there

    def _release_locks(self, name: str) -> None:
        for one in self._departures.get(name, ()):
            if one.lock is not None:
                os.close(one.lock)
                one.lock = None


def _signalled(state: policy.PoolState) -> tuple[ProcessId, ...]:
    leaving = (state.leaving,) if state.leaving else ()
    return tuple(one.worker for one in (*leaving, *state.stuck) if one.left is None)


def _expected(state: policy.PoolState) -> tuple[ProcessId, ...]:
    return (*_signalled(state), *state.asked)
