"""Memory that is short, at run time: the only owner of what is known about it between two looks."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from supervisor_memreap.core import oomkills, pace, poolevents, reasons, selection, shortage, unmet
from supervisor_memreap.core.events import Event
from supervisor_memreap.core.frozen import replace
from supervisor_memreap.core.model import Pool, ProcessId
from supervisor_memreap.core.policy import Candidate, Choice, Look
from supervisor_memreap.core.selection import Decision
from supervisor_memreap.core.settings import Watch
from supervisor_memreap.core.shortage import Episodes, Kind
from supervisor_memreap.core.state import PoolState
from supervisor_memreap.host.machine import Machine
from supervisor_memreap.outputs.lasting import Lasting


class MemoryWatch:
    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self.episodes: Episodes = {}
        self._wanted: tuple[float | None, float | None] = None, None
        """`headroom` and `pressure`, which are the same for all pools."""
        self.readings: tuple[pace.Reading, ...] = ()
        """Those of the last two looks, the older first."""
        self._unrelieved: Lasting[tuple[Kind, str]] = Lasting()
        """A line for each shortage about which nothing is done."""
        self._unexplained: dict[str, int] = {}
        """Kills by the OOM killer for which no process was seen to leave yet, by scope."""
        self._gone: list[oomkills.Gone] = []
        """By pool, at this look."""

    def begin(self, watches: Iterable[Watch]) -> bool:
        """Whether a setting needs what limits the memory of processes at this look."""
        wanted = {(watch.settings.headroom, watch.settings.pressure) for watch in watches}
        self._wanted = next((each for each in wanted if each != (None, None)), (None, None))
        self._gone = []
        return self._wanted != (None, None)

    def note(self, before: Pool, after: Pool, state: PoolState) -> None:
        """Note the workers gone from a pool since the last look; `state` is that before this look."""
        self._gone.append(oomkills.gone(before, after, state))

    def follow(self, looks: Sequence[Look], now: float) -> tuple[Event, ...]:
        """Update the shortages after all pools were read; the events about those that have ended."""
        reading = pace.reading(((look.pool, look.settings) for look in looks), now)
        self.readings = (*self.readings[-1:], reading)
        self.episodes, log = selection.follow_memory(looks, self.episodes, now, self._machine.time())
        self._unrelieved.keep_only(self.episodes)
        return (*log, *self._follow_oom_kills(looks, now))

    def _follow_oom_kills(self, looks: Sequence[Look], now: float) -> tuple[Event, ...]:
        scopes, kills = self._machine.oom_kills({look.pool.name: _a_process(look.pool) for look in looks}, now)
        log, self._unexplained = oomkills.follow(self._gone, scopes, kills, self._unexplained, self._machine.time())
        return log

    def take(self, decision: Decision, looks: Sequence[Look]) -> list[Event]:
        """Accept what was decided about shortages; the events, completed with what only the machine knows."""
        self.episodes = decision.episodes
        log = [self._complete(event, looks) for event in decision.events]
        self._note_unrelieved(event for event in log if isinstance(event, poolevents.NotRelieved))
        return log

    def note_sent(self, candidate: Candidate, now: float) -> None:
        """Count the signal that was sent to this candidate."""
        key = reasons.shortage_of(candidate.reason)
        if key and key in self.episodes:
            freed = reasons.given_back(candidate.reason) or 0
            self.episodes = shortage.after_reap(self.episodes, key, freed, now)
            self._unrelieved.note(key, "")

    def end(self, pools: Sequence[tuple[Look, Choice]], now: float) -> tuple[Event, ...]:
        """After the signals of a look: the events about what could not be signalled."""
        self.episodes, log = unmet.report(pools, self.episodes, now, self._machine.time())
        self._note_unrelieved(log)
        return log

    def _note_unrelieved(self, happened: Iterable[poolevents.NotRelieved | poolevents.NotMet]) -> None:
        for event in happened:
            self._unrelieved.note(event.shortage.key, event.text)

    def set_alarm(self) -> str:
        """Be woken when memory runs short, except by shortages about which nothing is done. As Machine.set_alarm."""
        ignored = {
            scope
            for (kind, scope), episode in self.episodes.items()
            if episode.given_up is not None and kind is not Kind.TOTAL
        }
        return self._machine.set_alarm(*self._wanted, ignored)

    def troubles(self) -> list[str]:
        """The shortages about which nothing is done, a line for each."""
        return self._unrelieved.texts()

    def _complete(self, event: Event, looks: Sequence[Look]) -> Event:
        if not isinstance(event, poolevents.NotRelieved):
            return event
        if event.pool:
            pool = next(seen.pool for seen in looks if seen.pool.name == event.pool)
            return replace(event, holders=self._machine.holders(pool))
        return replace(event, holders=self._machine.holders_in(event.shortage.scope))


def _a_process(pool: Pool) -> ProcessId | None:
    """One whose control groups are the pool's: with target=self, supervisord may be in others."""
    if pool.is_group:
        return min((worker.id for worker in pool.workers), default=None)
    return pool.manager
