"""What happened in one pool since the last look. The rules are those at the head of core.policy. Pure."""

from __future__ import annotations

from collections.abc import Collection

from supervisor_memreap.core import delay, events, hindrance, policy, reasons
from supervisor_memreap.core.events import Event
from supervisor_memreap.core.frozen import replace
from supervisor_memreap.core.model import Ending, InitialSize, Pool, ProcessId, Worker
from supervisor_memreap.core.policy import Look, PoolInLook
from supervisor_memreap.core.reasons import Circumstances, OverLimit
from supervisor_memreap.core.servers import named
from supervisor_memreap.core.settings import PoolSettings
from supervisor_memreap.core.state import TRANSITIONS, Cause, Phase, PoolState, Reap, Roll, Seen, Suspension


def follow(
    pool: Pool, settings: PoolSettings, state: PoolState, now: float, may_suspend: bool = True, counts: bool = True
) -> tuple[PoolState, tuple[Event, ...]]:
    """What happened in one pool since the last look. `now` is monotonic, in seconds.

    Not `may_suspend`: a single look at new workers is not enough to call a setting wrong. Not `counts`: a look between
    two ticks is not one of the consecutive `checks`.
    """
    following = _Following(Look(pool, settings, state), now)
    following.follow(may_suspend, counts)
    return following.state, tuple(following.events)


class _Rolling(PoolInLook):
    def follow_roll(self) -> None:
        """Rule 12: whether it may go on, and all are replaced."""
        roll = self.state.rolling
        if roll is None:
            return
        held = delay.held_back(self.settings, self.state)
        if held:
            self.end_roll(f"the pool is {held.text}")
        elif not roll.workers & policy.to_replace(self.state):
            self._end_rolled(roll)

    def _end_rolled(self, roll: Roll) -> None:
        """None is left to be signalled: a worker of it may have stayed, or have left by itself and not be replaced."""
        pool, state, population = self.pool, self.state, self.state.population
        stayed = ", ".join(str(worker.pid) for worker in sorted(policy.not_replaced(pool, state)))
        wanted = 0 if population.shrinks else min(len(roll.workers), max(population.peaks) - len(pool.stopped))
        serving = sum(policy.served_for(each, state, self.now) >= self.settings.settle for each in pool.workers)
        since = self.now if roll.rolled is None else roll.rolled
        if stayed:
            self.end_roll(f"not replaced: {stayed}; the log says why")
        elif serving >= wanted:
            self.end_roll()
        elif self.now - since >= self.settings.grace:
            why = f"only {serving} of {wanted} workers serve: see the program's own log for why"
            self.end_roll(why, missing=wanted - serving)
        else:
            self.set(roll=replace(roll, rolled=since))

    def end_roll(self, failure: str = "", missing: int = 0) -> None:
        """The roll that goes on, if there is one; `missing`: of all that have left, so many are not replaced."""
        roll = self.state.rolling
        if roll is None:
            return
        number, left = len(roll.workers), missing or len(policy.not_replaced(self.pool, self.state))
        stamp = self.pool.stamp
        self.say(
            events.RollStopped(*stamp, number - left, number, failure) if failure else events.Rolled(*stamp, number)
        )
        over = replace(roll, is_over=True, left=left, failure=failure)
        self.set(requested=self.state.requested - roll.workers, roll=over)


class _Manager(_Rolling):
    """The settings and the manager, and what they begin and end."""

    def note_observe(self) -> None:
        """Rule 13: whether it is only observed, though it was so at one look alone."""
        gone = self.state.observe_gone
        if self.settings.observe:
            gone = float("inf")
        elif gone is not None:
            gone = min(gone, self.now)
            gone = None if self.now - gone >= policy.STABLE_SETTINGS else gone
        if gone != self.state.observe_gone:
            self.set(observe_gone=gone)

    def apply_settings(self) -> None:
        state, now = self.state, self.now
        if self.settings == state.settings:
            if state.changed_settings:
                self.set(changed_settings=None)
            return
        if state.changed_settings is None or state.changed_settings[0] != self.settings:
            # What was counted under other settings does not count under these.
            self.set(changed_settings=(self.settings, now), seen={}, started_over=(), fast=())
        assert self.state.changed_settings
        since = self.state.changed_settings[1]
        if state.settings is not None and now - since < policy.STABLE_SETTINGS:
            return
        suspended = state.suspended
        if suspended and ends_by_change(self.state) is None:
            self.set(settings=self.settings, changed_settings=None, reported=frozenset())  # it is about these
            return
        if suspended:
            self.say(events.Resumed(*self.pool.stamp, "its settings changed"))
        # The user who changed them has dealt with the cause: forget suspensions and what led to them.
        settings = self.settings
        self.set(settings=settings, changed_settings=None, suspended=None, manager_losses=0, reported=frozenset())

    def apply_manager(self) -> None:
        """Rule 10, rule 11: whether this is the manager of the last look, and a suspension that was about that one.

        With another manager, what was set before this call is lost: so it comes before all that remembers of a look.
        """
        pool, manager = self.pool, self.pool.manager
        if pool.not_visible:
            return  # it may still be there, and so may the leaving worker
        if manager is None or (self.state.manager and manager != self.state.manager):
            self._forget_manager()
        if manager is None:
            return
        if self.state.manager != manager or not self.state.manager_seen:
            self.set(manager=manager, manager_seen=True)
        suspended = self.state.suspended
        if suspended and manager != suspended.manager and pool.manager_age >= (suspended.needs_age or 0):
            self.say(events.Resumed(*pool.stamp, f"its new manager {manager.pid} keeps running"))
            self.set(suspended=None)
        elif suspended and manager == suspended.manager and suspended.needs_age is not None:
            self.say(events.Resumed(*pool.stamp, f"its manager {manager.pid} is still running"))
            losses = max(0, self.state.manager_losses - 1)
            self.set(suspended=None, reap=suspended.leaving, manager_losses=losses)

    def _forget_manager(self) -> None:
        """Rule 10: it may have ended because a worker was signalled."""
        if self.state.manager:
            self.end_roll(f"manager {self.state.manager.pid} is no longer there")
        pool, before = self.pool, self.state
        self.state = PoolState(
            settings=before.settings,
            suspended=before.suspended,
            manager_losses=before.manager_losses,
            paused=before.paused,
            delay=before.delay,
            delay_told=before.delay_told,
            observe_gone=before.observe_gone,
            roll=before.roll,
        )
        if not policy.asks_how_it_ended(pool, before) or pool.ending is Ending.STOPPED:
            return
        leaving, manager = before.leaving, before.manager
        assert leaving
        assert manager
        certain = pool.ending is Ending.EXITED
        needs_age = (policy.TRUSTED_AFTER if certain else policy.TRUSTED_AFTER_UNKNOWN) * 2**before.manager_losses
        after = self.now - leaving.signalled
        self.say(events.ManagerLost(*pool.stamp, leaving.worker, manager, needs_age, after, certain))
        suspended = Suspension(Cause.MANAGER_LOST, manager, needs_age, leaving, self.now)
        self.set(suspended=suspended, manager_losses=before.manager_losses + 1)

    def apply_group_restart(self) -> None:
        """With target=self the manager is supervisord, and stays: a restarted group has only new workers."""
        state, last = self.state, self.state.population.last_workers
        workers = frozenset(worker.id for worker in self.pool.workers)
        if workers and last and not workers & last and not state.leaving:
            if state.suspended:
                self.say(events.Resumed(*self.pool.stamp, "all of its processes are new"))
            self.set(suspended=None, started_over=(), reported=frozenset())
        self.note(last_workers=workers or last)

    def end_suspension(self) -> None:
        """Rule 9: a setting that was wrong is tried again."""
        suspended = self.state.suspended
        if suspended is None or suspended.until is None or self.now < suspended.until:
            return
        self.say(events.Resumed(*self.pool.stamp, f"its {suspended.setting} is tried again"))
        # Only new workers can show whether it is still wrong.
        self.set(suspended=None, started_over=(), initial={}, reported=frozenset())


def ends_by_change(state: PoolState) -> float | None:
    """When its changed settings, if they stay as they are, end a suspension; None: they do not end one."""
    suspended, changed = state.suspended, state.changed_settings
    if not suspended or not changed or suspended.since >= changed[1]:
        return None
    return changed[1] + policy.STABLE_SETTINGS if _may_end(suspended, state.settings, changed[0]) else None


def _may_end(suspended: Suspension, before: PoolSettings | None, after: PoolSettings) -> bool:
    """Whether these settings may be an answer to what the pool is suspended for."""
    if suspended.cause is Cause.MANAGER_LOST or before is None:
        return True
    about = (suspended.setting, "metric", "settle", "min_age", "checks")
    return any(getattr(before, name) != getattr(after, name) for name in about)


class _Workers(PoolInLook):
    """How many workers there are, since when each serves, and what they use."""

    def note_serving(self) -> None:
        """Rule 4: who serves, and since when."""
        pool, now, looked, population = self.pool, self.now, self.state.looked, self.state.population
        # Of one that was there before and that could not be read in time, it is not known whether it still starts.
        known = population.workers - population.starting if looked is not None else pool.unread
        starting = frozenset(each.id for each in pool.workers if each.serving is False) - (pool.unread & known)
        new = [worker for worker in pool.workers if worker.serving and worker.id not in population.serving]
        if not new and starting == population.starting:
            return
        before = population.workers - population.starting
        # Of one that was there before, and not seen when it did not serve yet, it is not known when it began: it may be
        # old, and large.
        is_known = {worker.id: looked is not None and worker.id not in before for worker in new}
        began = {worker.id: now if is_known[worker.id] else now - worker.age for worker in new}
        present = {worker.id for worker in pool.workers}
        kept = {id: since for id, since in population.serving.items() if id in present}
        gap = now - looked if looked is not None else 0.0
        late = {worker.id for worker in new if min(worker.age, gap) > policy.LATE + policy.READ}
        self.note(serving={**kept, **began}, starting=starting, seen_late=population.seen_late & present | late)

    def note_changes(self) -> None:
        """How many workers this pool usually has, and since when none has come or left (rule 1)."""
        pool, now = self.pool, self.now
        if not pool.is_group:  # supervisord starts each of its processes again, however many they are
            self._note_elasticity()
        population, workers = self.state.population, frozenset({worker.id for worker in pool.workers})
        if workers == population.workers:
            workers = population.workers  # not the same twice, in `nested_of` too
        # A child that came and left between two looks shows in the page faults alone.
        is_calm = workers == population.workers and pool.child_faults == population.child_faults
        if pool.nested is not None:
            self.set(nested=pool.nested, nested_read=now, nested_of=workers)
        peaks, since, empty_since = population.peaks, population.peak_since, population.no_workers_since
        never_served = (each.serving is False and not policy.serves(each, self.state) for each in pool.workers)
        number = len(workers) - sum(never_served)
        if since is None or now - since >= policy.USUAL:
            peaks, since = (number, peaks[0]), now
        elif is_calm and workers and population.calm_since is not None and number <= peaks[0]:
            return  # at nearly every look of nearly every pool: a copy costs 8 us
        self.note(
            workers=workers,
            child_faults=pool.child_faults,
            calm_since=population.calm_since if is_calm and population.calm_since is not None else now,
            peaks=(max(peaks[0], number), peaks[1]),
            peak_since=since,
            had_more=population.had_more or len(workers) > 1,
            no_workers_since=None if workers else now if empty_since is None else empty_since,
        )

    def _note_elasticity(self) -> None:
        """Whether the manager makes its pool larger and smaller by itself, as far as the looks before this show it."""
        state, population, settle = self.state, self.state.population, self.settings.settle
        looked = state.looked if state.looked is not None else 0.0
        serve = (policy.served_for(each, state, self.now) >= settle for each in self.pool.workers)
        served = population.served or any(serve)
        is_smaller = len(population.workers) < max(population.peaks)
        # An empty pool may also have a manager that no longer forks workers, until it does.
        is_alive = bool(population.workers or self.pool.workers)
        has_shrunk = served and is_smaller and is_alive and not state.leaving
        may_shrink = has_shrunk or (self.pool.forks_on_demand and not self.pool.workers)
        shrinks = population.shrinks or (may_shrink and policy.is_long_calm(self.settings, state, looked))
        replaces = population.replaces
        times = (policy.served_for(worker, state, self.now) for worker in self.pool.workers)
        just_settled = (settle <= time < settle + self.now - looked for time in times)
        if replaces is False and not state.leaving and any(just_settled):
            replaces = None  # it had more than it needed when it did not replace that one
        if (served, shrinks, replaces) != (population.served, population.shrinks, population.replaces):
            self.note(served=served, shrinks=shrinks, replaces=replaces)

    def count(self, counts: bool) -> None:
        """Rule 3: in how many consecutive looks a reason has applied."""
        seen = {}
        for worker in self.pool.detailed:
            for reason in reasons.applying(worker, Circumstances(self.settings)):
                key = worker.id, reason.setting
                before = self.state.seen.get(key)
                seen[key] = Seen(before.looks + int(counts), before.age) if before else Seen(1, worker.age)
        if seen or self.state.seen:
            self.set(seen=seen)

    def note_initial_sizes(self, gap: float, no_more: Collection[ProcessId]) -> None:
        """What workers hold that begin to serve (rule 9), and those to which a reason applies `no_more`.

        No worker is read in full for that: if it was not, its bound is within the limit.
        """
        state, limit = self.state, self.settings.limit
        if limit is None:
            return
        begin = [worker for worker in self._just_settled(gap) if worker.id not in state.initial]
        if not (begin or no_more):
            return
        new = {worker.id: self._size(worker) for worker in begin}
        changed = {
            worker.id: min(state.initial[worker.id], self._size(worker))
            for worker in self.pool.workers
            if worker.id in no_more and worker.id in state.initial
        }
        present = {worker.id for worker in self.pool.workers}
        kept = {id: size for id, size in state.initial.items() if id in present}
        over = [OverLimit(size.size, limit, size.metric).applied_to(size) for size in new.values()]
        started_over = state.started_over
        if False in over:
            started_over = ()
        elif True in over:
            largest = max(size.size for size in new.values())
            started_over = (*started_over, largest)[-policy.STARTED_OVER :]
        self.set(initial={**kept, **new, **changed}, started_over=started_over)

    def _just_settled(self, gap: float) -> list[Worker]:
        """The workers that have served for `settle` since the last look, `gap` seconds ago."""
        state, now, settle = self.state, self.now, self.settings.settle
        serving = state.population.serving
        before = settle + min(gap, policy.LATE) + min(gap, policy.READ)
        # Most are older, and a call for each of 500 costs 0.1 ms.
        late = state.population.seen_late
        may_be = [
            each for each in self.pool.workers if serving.get(each.id, now) >= now - before and each.id not in late
        ]
        return [worker for worker in may_be if settle <= policy.served_for(worker, state, now) <= before]

    def _size(self, worker: Worker) -> InitialSize:
        is_exact = worker.used is not None
        size = worker.bound if worker.used is None else worker.used
        return InitialSize(size, is_exact, self.settings.metric, worker.age)

    def suspend_wrong_limit(self) -> None:
        """Rule 9: all workers were over the limit when they began to serve, or all that began to serve of late."""
        state = self.state
        if state.suspended or not state.seen:
            return
        over = [
            (state.initial[worker.id], reason)
            for worker in self.pool.detailed
            for reason in reasons.applying(worker, Circumstances(self.settings))
            if isinstance(reason, OverLimit) and reason.applied_to(state.initial.get(worker.id))
            if policy.is_ready(worker, reason, self.settings, state)
        ]
        are_all = len(over) == len(self.pool.workers) > 1  # one alone may be a spike
        if not over or not (are_all or len(state.started_over) >= policy.STARTED_OVER):
            return
        assert state.manager
        (least, reason) = min(over, key=lambda each: each[0])
        usable = OverLimit.usable([*state.started_over, *(size.size for size, _ in over)])
        baseline = replace(reason, used=least.size)
        self.say(events.WrongSetting(*self.pool.stamp, baseline, usable, least.age, policy.RETRY_SETTING))
        cause, until = Cause.WRONG_SETTING, self.now + policy.RETRY_SETTING
        suspended = Suspension(cause, state.manager, since=self.now, until=until, setting=reason.setting, usable=usable)
        self.set(suspended=suspended, started_over=())


class _Reap(_Rolling):
    """What became of the workers that were signalled."""

    def follow_stuck(self) -> None:
        """Rule 8: whether those that were stuck have left."""
        if not self.state.stuck:
            return
        still = []
        for stuck in self.state.stuck:
            if stuck.left is None and self.pool.worker(stuck.worker):
                still.append(stuck)
            else:
                left = self.now if stuck.left is None else stuck.left
                self.say(events.Left(*self.pool.stamp, stuck.worker, left - stuck.signalled, None))
        self.set(stuck=tuple(still))

    def follow_leaving(self) -> None:
        """Rule 1, rule 8: the worker that was signalled last."""
        leaving = self.state.leaving
        if leaving is None:
            return
        if self.pool.worker(leaving.worker):
            # Also one that seemed to have left, since it could not be seen for a moment.
            self._follow_present(replace(leaving, left=None))
        else:
            self._follow_gone(leaving if leaving.left is not None else replace(leaving, left=self.now))

    def _follow_present(self, leaving: Reap) -> None:
        """Rule 8: it was signalled, and has not left."""
        settings, now = self.settings, self.now
        self.set(reap=leaving)
        is_forced = leaving.phase is Phase.FORCED
        if now - (leaving.since if is_forced else leaving.signalled) < settings.grace:
            return
        if not leaving.is_sent:
            # It never got the signal, as far as is known; but an attempt at a second one may just be sending that.
            if leaving.phase is not Phase.AGAIN or now - leaving.since >= policy.AGAIN:
                self.set(reap=None)
            return
        may_not_force = self.state.is_unsaved or policy.sends_nothing(settings, self.state)
        if may_not_force and settings.stuck != "report":
            return
        forced = settings.stuck if is_forced else ""
        is_last = settings.stuck == "report" or Phase.FORCED not in TRANSITIONS[leaving.phase]
        after = now - leaving.signalled
        following = "" if is_last else settings.stuck
        self.say(events.Stuck(*self.pool.stamp, leaving.worker, after, leaving.signal, forced, following))
        if is_last:
            self.set(reap=None, stuck=(*self.state.stuck, leaving))
        else:
            self.set(reap=leaving.to(Phase.FORCED, now))

    def _follow_gone(self, leaving: Reap) -> None:
        """Rule 1: it has left; is the pool whole again, and settled?"""
        pool, settings, state = self.pool, self.settings, self.state
        assert leaving.left is not None
        gone_for = self.now - leaving.left
        newcomers = [
            worker
            for worker in pool.workers
            if worker.id not in leaving.before and worker.id.start_time >= leaving.started_after
        ]
        leaving = self._report_gone(leaving, newcomers)
        if leaving.slot in pool.stopped and gone_for >= settings.settle:
            self.set(reap=None)  # a user wants none in its place, and does not just restart it
            return
        old = max(settings.settle, named(leaving.server).pace)
        served = [worker for worker in newcomers if policy.served_for(worker, state, self.now) >= settings.settle]
        settled = [worker for worker in served if worker.age >= old]
        # Others may have exited on their own meanwhile: each of them needs a settled replacement too.
        gone = len(leaving.before - {worker.id for worker in pool.workers} - set(pool.helpers))
        # A pool may be made smaller on purpose (FCGI::ProcManager::Dynamic): after `grace` one settled newcomer will
        # do; or one that had settled and left, where workers leave that have nothing to do (php-fpm's ondemand).
        leaving = replace(leaving, has_settled=leaving.has_settled or bool(settled))
        came_and_left = state.population.shrinks and leaving.has_settled
        is_late = gone_for >= settings.grace
        if len(settled) >= gone or (is_late and (settled or came_and_left)):
            self._end_settled(leaving, settled)
            return
        present, before = len(pool.workers), len(leaving.before)
        all_serve = all(policy.serves(worker, state) for worker in newcomers)
        # supervisord never shrinks a group: one that it does not start again is broken, and so may be the next.
        if is_late and not pool.is_group and all_serve and self._is_stable():
            # The server shrinks its pool on its own (FCGI::ProcManager::Dynamic, uWSGI's cheaper, Apache).
            self.say(events.NoReplacement(*pool.stamp, leaving.worker, gone_for, present, before))
            if not state.population.shrinks:
                self.end_roll(f"no worker took the place of worker {leaving.worker.pid}")
            self.set(reap=None, manager_losses=0)
            self.note(replaces=False)
            return
        if is_late and leaving.overdue:
            # Not at the first late look: after a long tick it may be the first that sees the replacement serve.
            self.end_roll(hindrance.not_replaced(leaving.worker.pid).text)
        elif is_late:
            self.say(events.NotReplaced(*pool.stamp, leaving.worker, gone_for, present, before))
            leaving = replace(leaving, overdue=True)
        self.set(reap=leaving)

    def _report_gone(self, leaving: Reap, newcomers: Collection[Worker]) -> Reap:
        """That it has left and was replaced, each once."""
        stamp, worker, left = self.pool.stamp, leaving.worker, leaving.left
        assert left is not None
        youngest = min(newcomers, key=lambda each: each.age).id if newcomers else None
        if leaving.phase not in (Phase.GONE, Phase.REPLACED):
            self.say(events.Left(*stamp, worker, left - leaving.signalled, youngest))
            leaving = leaving.to(Phase.GONE, self.now)
        elif leaving.phase is Phase.GONE and youngest:
            self.say(events.Replaced(*stamp, worker, self.now - left, youngest))
        if leaving.phase is Phase.GONE and youngest:
            leaving = leaving.to(Phase.REPLACED, self.now, replaced_by=youngest)
        return leaving

    def _end_settled(self, leaving: Reap, settled: list[Worker]) -> None:
        """Its replacement has settled, or will never be needed: the next may go."""
        state = self.state
        if settled:
            worker = next((each for each in settled if each.id == leaving.replaced_by), settled[0])
            since = state.population.serving.get(worker.id)
            to_serve = None if since is None else max(0.0, since - (self.now - worker.age))
            self.say(events.Settled(*self.pool.stamp, leaving.worker, worker.id, to_serve))
            present = {each.id for each in self.pool.workers}
            self.set(replacements=state.replacements & present | {worker.id})
        baseline = min((worker.private for worker in settled if worker.private is not None), default=state.baseline)
        self.set(reap=None, manager_losses=0, baseline=baseline)
        self.note(replaces=True if settled else None)

    def _is_stable(self) -> bool:
        population = self.state.population
        is_calm = population.calm(self.now) >= max(policy.CALM, self.settings.settle)
        return is_calm and bool(self.pool.workers or population.shrinks)


class _Following(_Manager, _Workers, _Reap):
    def follow(self, may_suspend: bool, counts: bool) -> None:
        pool, now = self.pool, self.now
        gap = now - self.state.looked if self.state.looked is not None else 0.0
        self.note_observe()
        self.apply_settings()
        reported = self.state.reported
        self.apply_manager()
        if pool.manager is None:
            not_visible = events.NotVisible(*pool.stamp, pool.not_visible)
            self.set(looked=now, reported=reported & {not_visible.key})
            if pool.not_visible:
                self.say(not_visible)
            return
        if pool.is_group:
            self.apply_group_restart()
        self.note_serving()
        self.note_changes()
        self.follow_stuck()
        self.follow_leaving()
        self.follow_roll()
        before = self.state.seen
        self.count(counts)
        self.end_suspension()
        no_more = {worker for worker, _ in before.keys() - self.state.seen.keys()}
        self.note_initial_sizes(gap, no_more)
        if may_suspend and not policy.only_observes(self.settings, self.state):
            self.suspend_wrong_limit()
        self.set(looked=now)
