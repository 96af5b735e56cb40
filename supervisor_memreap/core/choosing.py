"""Who goes next in one pool. The rules are those at the head of core.policy. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from supervisor_memreap.core import events, policy, poolevents, reasons
from supervisor_memreap.core.events import Event
from supervisor_memreap.core.frozen import replace
from supervisor_memreap.core.model import ProcessId, Sharing, Standing, Worker
from supervisor_memreap.core.policy import Candidate, Choice, Look, PoolInLook
from supervisor_memreap.core.reasons import Circumstances, OverLimit, Reason
from supervisor_memreap.core.servers import DEFAULT_SIGNAL
from supervisor_memreap.core.shortage import Episodes
from supervisor_memreap.core.state import Phase, Wait


def choose_in(look: Look, episodes: Episodes, now: float) -> Choice:
    """Who goes next in this pool, and why others do not. `now` is monotonic, in seconds."""
    if look.pool.manager is None:
        is_blind = look.pool.not_visible and look.pool.state == "RUNNING"
        return Choice(look.pool, Standing.BLIND if is_blind else Standing.NOT_RUNNING, look.state)
    return _Choosing(look, now).choose(look.circumstances(episodes, now))


class _Reports(PoolInLook):
    """What is said of workers that are due, and of what may not be read."""

    def report_unwatched(self) -> Event | None:
        """Why there is no worker that could ever be reaped, as far as is known, where that is to be shown."""
        state, stamp, population = self.state, self.pool.stamp, self.state.population
        empty_since = self.now if population.no_workers_since is None else population.no_workers_since
        may_be_empty = population.shrinks or self.pool.forks_on_demand or self.pool.is_group
        if self.now - empty_since >= policy.LONG_WAIT and not may_be_empty:
            assert self.pool.manager
            event: Event = events.NoWorkers(*stamp, self.pool.manager)
        elif state.nested and self.pool.is_group:
            event = events.LooksLikeManager(*stamp, state.nested[0].id, True)
        elif state.nested:
            event = events.Wrapped(*stamp, state.nested, self.settings.depth)
        else:
            return None
        self.say(event)
        return event

    def note_probe(self) -> int:
        """How many workers are known to have sizes that may not be read."""
        detailed, settings = self.pool.detailed, self.settings
        if not detailed:
            return 0
        unreadable = [worker for worker in detailed if reasons.is_unreadable(worker, settings)]
        hidden = sum(reasons.is_hidden(worker, settings) for worker in detailed)
        grown_up = [worker for worker in unreadable if worker.age >= settings.min_age]
        if grown_up and not hidden:  # a newborn may still run as another user
            # With another metric it is for headroom or pressure, by what workers hold of their own.
            metric = "pss" if settings.metric == "pss" else "uss"
            self.say(events.SizesUnreadable(*self.pool.stamp, grown_up[0].id, metric))
        self.set(probed=None if unreadable else self.now)
        return max(hidden, len(unreadable))

    def report_unreadable(self, worker: Worker) -> None:
        # A newborn may still run as another user.
        if worker.age >= self.settings.min_age and reasons.is_hidden(worker, self.settings):
            self.say(policy.unreadable_worker(self.pool, worker, self.settings))

    def report_never_served(self, worker: Worker, reason: Reason) -> None:
        """Rule 4: it has had the time to begin to serve."""
        state = self.state
        if not (policy.serves(worker, state) or policy.is_starting(worker, state) or worker.id in self.pool.unread):
            self.say(events.NeverServed(*self.pool.stamp, worker.id, reason, worker.age))

    def report_due(self, worker: Worker) -> None:
        """What is guessed of a worker that is due."""
        detail, sharing = worker.detail, self.pool.sharing
        if self.settings.signal is None and detail is not None and detail.signal != DEFAULT_SIGNAL:
            self.say(events.SignalOfServer(*self.pool.stamp, detail.server, detail.signal))
        if worker.id not in self.state.population.serving and sharing in (Sharing.NONE, Sharing.HIDDEN):
            self.say(events.ServingUnknown(*self.pool.stamp, sharing is Sharing.HIDDEN))

    def report_observed(self, due: Iterable[Candidate]) -> None:
        """Rule 13: what would have been done, once for each worker."""
        first: dict[ProcessId, Candidate] = {}
        shortages: set[object] = set()
        for candidate in due:
            # Of those that would go because memory is short, one goes at a time, and then there may be enough.
            key = reasons.shortage_of(candidate.reason)
            if key is None or key not in shortages:
                first.setdefault(candidate.worker.id, candidate)
            shortages.add(key)
        before = self.state.observed
        for candidate in first.values():
            if candidate.worker.id not in before:
                self.say(events.WouldReap(*self.pool.stamp, candidate.worker.id, candidate.reason))
        observed = (before & {worker.id for worker in self.pool.workers}) | set(first)
        if observed != before:
            self.set(observed=observed)

    def report_fast_leak(self, due: Iterable[Candidate]) -> None:
        """Rule 9: it is no reason to stop; without reaping, the pool would grow as fast."""
        reason = next((each.reason for each in due if isinstance(each.reason, OverLimit)), None)
        if reason is not None and len(self.state.fast) >= policy.FAST_REAPS:
            self.say(events.FastLeak(*self.pool.stamp, reason.limit, self.state.fast, policy.FAST))


class _Choosing(_Reports):
    """Who goes next."""

    def choose(self, circumstances: Circumstances) -> Choice:
        pool, settings = self.pool, self.settings
        pending, candidates = self._candidates(circumstances)
        due = {each.worker.id for each in candidates}
        if not due >= self.state.waits.keys():
            self.set(waits={worker: wait for worker, wait in self.state.waits.items() if worker in due})
        candidates = tuple(self._after_its_waits(each) for each in candidates)
        unwatched = self.report_unwatched()
        unreadable = self.note_probe()
        alone = Circumstances(settings, self.state.requested)
        individually_due = sum(any(reasons.applying(worker, alone)) for worker in pool.detailed)
        sends_nothing = policy.sends_nothing(settings, self.state)
        is_blind = bool(unreadable or pool.is_total_unreadable or unwatched)
        return Choice(
            pool,
            self._standing(candidates, is_blind),
            self.state,
            tuple(self.events),
            candidates,
            pending,
            unreadable=unreadable,
            again=None if sends_nothing else self._due_again(),
            force=None if sends_nothing else self._due_force(),
            individually_due=individually_due,
            to_go=individually_due,
            unwatched=unwatched.why if isinstance(unwatched, events.Wrapped) else "",
        )

    def _after_its_waits(self, candidate: Candidate) -> Candidate:
        """Rule 6: whether `idle_wait` has expired."""
        attempts = self.state.waits.get(candidate.worker.id, Wait()).attempts
        # They take turns: of 20 workers that are never idle, the first must not wait for 20 times as long.
        has_expired = attempts > 0 and policy.waited(self.state) >= self.settings.idle_wait
        return replace(candidate, attempts=attempts, idle_wait_expired=has_expired)

    def _candidates(self, circumstances: Circumstances) -> tuple[tuple[Candidate, ...], tuple[Candidate, ...]]:
        """All that have to go, and those of them that may go now; the most urgent first (rule 2)."""
        pool, settings = self.pool, self.settings
        stuck = {leaving.worker for leaving in self.state.stuck}
        if self.state.requested:
            # In an observed pool nothing is sent, not even weeks later, when observe is off again.
            is_observed = policy.only_observes(settings, self.state)
            present = frozenset() if is_observed else {worker.id for worker in pool.workers} - stuck
            self.set(requested=self.state.requested & present)
            circumstances = replace(circumstances, requested=self.state.requested)
        if pool.is_total_unreadable:
            self.say(poolevents.TotalUnreadable(*pool.stamp))
        pending, due = [], []
        leaving = self.state.leaving.worker if self.state.leaving else None
        for worker in pool.detailed:
            if worker.id in stuck:
                continue
            applying = list(reasons.applying(worker, circumstances))
            ready = [reason for reason in applying if policy.is_ready(worker, reason, settings, self.state)]
            is_due = bool(ready) and policy.is_grown(worker, settings, self.state)
            # One that is leaving may have put its handlers back already, as Python does before it exits.
            against = policy.veto(pool, worker) if is_due and worker.id != leaving else None
            if against:
                self.set(requested=self.state.requested - {worker.id})
                self.say(against)
            elif not applying:
                self.report_unreadable(worker)
            elif worker.id != leaving:
                pending.append(Candidate(worker, (ready or applying)[0], all_reasons=tuple(applying)))
                if ready:
                    self.report_never_served(worker, ready[0])
                if is_due:
                    self.report_due(worker)
                    due += [Candidate(worker, reason) for reason in _reasons_to_go(ready)]
        due.sort(key=policy.urgency)
        pending.sort(key=policy.urgency)
        return tuple(pending), self._that_may_go(due)

    def _that_may_go(self, due: list[Candidate]) -> tuple[Candidate, ...]:
        """Those of the due ones that may go now; they are sorted (rule 1, rule 9, rule 12, rule 13)."""
        state = self.state
        if policy.only_observes(self.settings, state):
            self.report_observed(due)
        if policy.sends_nothing(self.settings, state) or state.leaving or not due:
            return ()
        if state.suspended:
            # A wrong setting must not let the host run out of memory.
            due = [candidate for candidate in due if not candidate.reason.is_about_worker]
        self.report_fast_leak(due)
        return () if not due or self._are_too_few() else tuple(due)

    def _are_too_few(self) -> bool:
        """Rule 1: whether less than half of the usual workers, or only one of several, serve and are old enough.

        Nor does one go while another starts, but in a large pool. New ones may be dying all the time, as after a broken
        deployment: then the old ones are the pool.
        """
        pool, settings, state, now = self.pool, self.settings, self.state, self.now
        population = state.population
        # Where none comes in the place of another one, a stuck worker, which may serve nothing, must not be the last.
        stuck = {leaving.worker for leaving in state.stuck} if population.replaces is False else ()
        ages = [worker.age for worker in pool.workers if worker.id not in stuck and policy.serves(worker, state)]
        old_enough = sum(age >= settings.min_age for age in ages)
        # At least one other worker must serve.
        serving = sum(age >= min(settings.min_age, max(settings.settle, policy.CALM)) for age in ages)
        usual = max(population.peaks) - len(pool.stopped)
        enough_serve = serving >= 2 or (len(ages) == 1 and self._may_take_single(usual))
        may_be_smaller = population.shrinks and population.replaces is not False and not pool.is_group
        is_smaller_on_purpose = may_be_smaller and policy.is_long_calm(settings, state, now)
        starting = sum(policy.is_starting(worker, state) for worker in pool.workers)
        since = now if state.too_few_since is None else state.too_few_since
        # Some manager may start short-lived children all the time.
        lacks_none = not starting or policy.MOST_LACKING * (starting + 1) <= usual or now - since >= 2 * policy.STARTS
        if (2 * old_enough >= usual or is_smaller_on_purpose) and enough_serve and lacks_none:
            self.set(too_few_since=None)
            return False
        self.set(too_few_since=since)
        if now - since >= policy.LONG_WAIT and not policy.waits_for_replacements(pool, settings, state):
            self.say(events.TooFewWorkers(*pool.stamp, old_enough, usual, settings.min_age))
        return True

    def _may_take_single(self, usual: int) -> bool:
        """Rule 1: whether the only worker that serves may go, since another one must come in its place.

        One that is left of several is the last that serves, unless the manager has replaced the last one that was
        reaped; supervisord starts each again. Children that come and go all the time may be workers that end at once,
        which are in no look.
        """
        population, settings = self.state.population, self.settings
        if self.pool.forks_on_demand:
            return population.replaces is not False and policy.is_long_calm(settings, self.state, self.now)
        if usual > 1:
            return False
        needed = max(policy.SINGLE_CALM, min(policy.CALM, max(settings.min_age, settings.settle)))
        is_calm = population.calm(self.now) >= needed
        if self.pool.is_group:
            return is_calm or not population.had_more
        if population.replaces is not None:
            return population.replaces
        return not population.had_more and is_calm

    def _due_again(self) -> Worker | None:
        """Rule 7: the worker that is to be signalled a second time."""
        leaving, grace = self.state.leaving, self.settings.grace
        if leaving is None or leaving.left is not None or leaving.phase is not Phase.SIGNALLED:
            return None
        if leaving.slot in self.pool.stopped:
            return None  # supervisord is ending it
        is_due = min(policy.AGAIN, grace / 2) <= self.now - leaving.signalled < grace
        return self.pool.worker(leaving.worker) if is_due else None

    def _due_force(self) -> Worker | None:
        """Rule 8: only in the look that finds the worker stuck, whatever the outcome."""
        leaving = self.state.leaving
        if leaving is None or leaving.left is not None or leaving.slot in self.pool.stopped:
            return None
        is_due = (leaving.phase, leaving.since) == (Phase.FORCED, self.now)
        return self.pool.worker(leaving.worker) if is_due else None

    def _standing(self, candidates: tuple[Candidate, ...], is_blind: bool) -> Standing:
        """In the order of delay.hindrance_in; but a pool that cannot be seen is not observed either."""
        state = self.state
        if policy.only_observes(self.settings, state) and not is_blind:
            return Standing.OBSERVED
        if state.paused:
            return Standing.PAUSED
        if state.suspended:
            return Standing.SUSPENDED
        # Where a replacement is long overdue, that none will ever be seen is what counts.
        if state.leaving and not (is_blind and state.leaving.overdue):
            return Standing.SETTLING if state.leaving.left is not None else Standing.LEAVING
        if state.requested:
            return Standing.REQUESTED
        if is_blind:
            return Standing.BLIND
        return Standing.DUE if candidates or state.seen else Standing.QUIET


def _reasons_to_go(ready: list[Reason]) -> list[Reason]:
    """The most urgent reason; if any other worker would do for that, also the most urgent one about this worker."""
    own = next((reason for reason in ready if not reasons.is_host_wide(reason)), None)
    return [reason for reason in ready if reason is ready[0] or reason is own]
