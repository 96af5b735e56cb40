"""Film strips of memory that is short: on the host, in a control group, and in a pool with `total`. No real process."""

from __future__ import annotations

from dataclasses import replace

import pytest

from supervisor_memreap.core import following, hindrance, policy, reasons, selection, shortage, unmet
from supervisor_memreap.core.events import NotMet, NotRelieved, Outgrown, Relieved, WrongSetting
from supervisor_memreap.core.model import HOST, MemoryScope, Pool, ProcessId, ProcessMemory, Worker, WorkerDetail
from supervisor_memreap.core.policy import Look
from supervisor_memreap.core.reasons import OverLimit, OverTotal, ShortOfHeadroom, UnderPressure
from supervisor_memreap.core.settings import PoolSettings
from supervisor_memreap.core.state import Cause, Phase, PoolState, Population, Reap, Suspension

MIB = 1024**2
BOOT = 10_000.0
SIZE = 8000 * MIB
CONTAINER = "control group /docker/1"
HEADROOM = PoolSettings(headroom=500 * MIB, min_age=30, settle=10)


class Host:
    """Plays looks at pools; workers are `pid: private MiB`, as old as the manager unless `fork` started them."""

    def __init__(self, settings: PoolSettings = HEADROOM, **others: PoolSettings):
        self.settings = {"a": settings, **others}
        self.states = dict.fromkeys(self.settings, PoolState())
        self.episodes: shortage.Episodes = {}
        self.now = BOOT + 3600
        self.started: dict[int, float] = {}
        self.used: dict[int, int] = {}
        """The metric, if it differs from the private memory of a worker."""

    def worker(self, pid: int, mib: float) -> Worker:
        start_time = self.started.setdefault(pid, BOOT)
        private = int(mib * MIB)
        detail = WorkerDetail(self.used.get(pid, private), True, memory=ProcessMemory(private, 0, private))
        return Worker(ProcessId(pid, start_time), self.now - start_time, private, detail)

    def look(self, pools, available=None, pressure=None, scopes=(), after=5.0, signal=True, total=None):
        """The decision of the next look, and the pids of those signalled; `available` is that of the host, in MiB."""
        self.now += after
        host = () if available is None and pressure is None else (self.host(available, pressure),)
        looks, log = [], []
        for name, workers in pools.items():
            present = tuple(self.worker(pid, mib) for pid, mib in sorted(workers.items()))
            own = () if total is None else (MemoryScope(name, total * MIB, int((total - sum(workers.values())) * MIB)),)
            manager = ProcessId(ord(name), BOOT)
            pool = Pool(name, "RUNNING", "", manager, self.now - BOOT, present, scopes=(*host, *scopes, *own))
            state, followed = following.follow(pool, self.settings[name], self.states[name], self.now)
            log += followed
            looks.append(Look(pool, self.settings[name], state))
        self.episodes, ended = selection.follow_memory(looks, self.episodes, self.now, 0.0)
        decision = selection.choose(looks, self.now, self.episodes)
        self.episodes = decision.episodes
        signalled = self._signal(decision) if signal else []
        choices = [
            (look._replace(state=self.states[look.pool.name] if signal else look.state), choice)
            for look in looks
            for choice in decision.choices
            if choice.pool.name == look.pool.name
        ]
        self.episodes, unmet_events = unmet.report(choices, self.episodes, self.now, 0.0)
        self.events = [
            *log,
            *ended,
            *decision.events,
            *unmet_events,
            *(event for choice in decision.choices for event in choice.events),
        ]
        return decision, signalled

    def host(self, available, pressure=None) -> MemoryScope:
        return MemoryScope(HOST, SIZE, None if available is None else int(available * MIB), pressure)

    def _signal(self, decision) -> list[int]:
        """Signal as the reaper does: one worker of each pool, only one of all pools for the host."""
        signalled, may_relieve = [], True
        for choice in decision.choices:
            name = choice.pool.name
            self.states[name] = choice.state
            candidates = [each for each in choice.candidates if may_relieve or not reasons.is_host_wide(each.reason)]
            if not candidates:
                continue
            first = candidates[0]
            attempted = policy.attempted(choice.pool, first, choice.state, self.now)
            self.states[name] = policy.signalled(choice.pool, first, attempted, self.now)
            key = reasons.shortage_of(first.reason)
            if key:
                self.episodes = shortage.after_reap(self.episodes, key, first.worker.private, self.now)
            may_relieve = may_relieve and not reasons.is_host_wide(first.reason)
            signalled.append(first.worker.id.pid)
            self.reason = first.reason
        return signalled

    def fork(self, pid: int, ago: float = 0.0) -> None:
        self.started[pid] = self.now - ago

    def of(self, kind):
        return [event for event in self.events if isinstance(event, kind)]


def test_with_enough_memory_no_worker_is_reaped():
    host = Host()
    assert host.look({"a": {11: 300, 12: 20}}, available=500)[1] == []
    assert host.episodes == {}


def test_short_of_headroom_the_worker_that_frees_most_in_all_pools_is_reaped():
    host = Host(b=HEADROOM)
    decision, signalled = host.look({"a": {11: 100, 12: 20}, "b": {21: 200, 22: 20}}, available=450)
    assert signalled == [21]
    assert isinstance(host.reason, ShortOfHeadroom)
    assert host.reason.text == ("holds 200 MiB of its own, and this host has 450 MiB available, headroom 500 MiB")
    (shown,) = (each for choice in decision.choices for each in choice.pending)
    assert shown.worker.id.pid == 21


def test_the_memory_of_a_signalled_worker_is_waited_for():
    host = Host(b=HEADROOM)
    pools = {"a": {11: 100, 12: 20}, "b": {21: 200, 22: 20}}
    assert host.look(pools, available=450)[1] == [21]
    assert host.look(pools, available=450)[1] == []  # 200 MiB are still expected back
    assert host.look(pools, available=450)[1] == [11]  # it is in a long request: the next pool's turn


def test_if_one_worker_is_not_enough_the_next_is_reaped_at_the_next_look():
    host = Host(b=HEADROOM)
    pools = {"a": {11: 100, 12: 20}, "b": {21: 200, 22: 20}}
    assert host.look(pools, available=100)[1] == [21]
    assert host.look(pools, available=100)[1] == [11]


def test_a_shortage_ends_somewhat_above_the_setting():
    host = Host()
    host.look({"a": {11: 100, 12: 20}}, available=450)
    host.fork(13)
    host.look({"a": {12: 20, 13: 10}}, available=550)
    assert list(host.episodes) == [(shortage.Kind.HEADROOM, HOST)]
    host.look({"a": {12: 20, 13: 10}}, available=600)
    (event,) = host.of(Relieved)
    assert (event.available, event.freed, event.after) == (600 * MIB, 100 * MIB, 10.0)
    assert host.episodes == {}
    assert host.look({"a": {12: 300, 13: 10}}, available=550)[1] == []


def test_a_pool_that_does_not_yield_keeps_its_workers():
    host = Host(b=replace(HEADROOM, yields=False))
    assert host.look({"a": {11: 100, 12: 20}, "b": {21: 200, 22: 20}}, available=450)[1] == [11]


def test_a_newborn_is_never_reaped_for_memory():
    host = Host()
    host.fork(11)
    assert host.look({"a": {11: 300, 12: 100, 13: 20}}, available=450)[1] == [12]


@pytest.mark.parametrize("present", [{"a": {11: 100, 12: 80}}, {"a": {11: 100, 12: 80}, "b": {21: 90, 22: 70}}])
def test_if_others_hold_the_memory_each_worker_is_reaped_once_and_that_is_reported(present):
    host = Host(b=HEADROOM)
    gone, reported, fresh = [], [], 100
    for _ in range(200):
        _, signalled = host.look(present, available=300)
        reported += host.of(NotRelieved)
        for pid in signalled:
            name = next(name for name in present if pid in present[name])
            gone.append(pid)
            fresh += 1
            host.fork(fresh)
            present = {
                **present,
                name: {**{each: mib for each, mib in present[name].items() if each != pid}, fresh: 20},
            }
    assert sorted(gone) == sorted(pid for pid in (11, 12, 21, 22) if pid in gone)
    assert len(gone) == sum(len(workers) for workers in present.values())
    (event,) = reported
    assert (event.reaps, event.shortage.scope) == (len(gone), HOST)


def test_if_no_worker_holds_more_than_a_fresh_one_none_is_reaped_and_that_is_reported_once():
    host = Host()
    host.states["a"] = PoolState(baseline=20 * MIB)
    reported = []
    for _ in range(1000):
        assert host.look({"a": {11: 22, 12: 21}}, available=300)[1] == []
        reported += host.of(NotRelieved)
    assert [event.reaps for event in reported] == [0]


def test_reaping_that_does_not_help_recycles_a_leaking_pool_at_most_twice_in_ten_minutes():
    host = Host(replace(HEADROOM, min_age=1, settle=1))
    workers, reaps, fresh = {11: 100, 12: 100}, [], 100
    for _ in range(240):  # 20 min
        workers = {pid: mib + 10 for pid, mib in workers.items()}
        _, signalled = host.look({"a": workers}, available=100)
        for pid in signalled:
            reaps.append(host.now)
            del workers[pid]
            fresh += 1
            host.fork(fresh)
            workers[fresh] = 5
    assert len(reaps) <= 2 * shortage.REAPS_PER_WORKER * 2
    assert len(reaps) >= shortage.REAPS_PER_WORKER * 2


def test_the_tighter_of_host_and_container_decides_for_its_own_pools_only():
    host = Host(b=HEADROOM)
    inside = (MemoryScope(CONTAINER, 1000 * MIB, 300 * MIB),)
    host.now += 5
    state = host.states
    looks = []
    for name, workers, scopes in (("a", {11: 300, 12: 20}, ()), ("b", {21: 100, 22: 20}, inside)):
        present = tuple(host.worker(pid, mib) for pid, mib in workers.items())
        pool = Pool(name, "RUNNING", "", ProcessId(ord(name), BOOT), 3600.0, present, scopes=(host.host(4000), *scopes))
        looks.append(Look(pool, HEADROOM, following.follow(pool, HEADROOM, state[name], host.now)[0]))
    episodes, _ = selection.follow_memory(looks, {}, host.now, 0.0)
    choices = selection.choose(looks, host.now, episodes).choices
    assert [each.worker.id.pid for choice in choices for each in choice.candidates] == [21]


def test_a_share_is_a_share_of_the_size_of_each_scope():
    settings = replace(HEADROOM, headroom=0.1)
    host = Host(settings)
    inside = (MemoryScope(CONTAINER, 1000 * MIB, 120 * MIB),)
    assert host.look({"a": {11: 300, 12: 20}}, available=900, scopes=inside)[1] == []
    inside = (MemoryScope(CONTAINER, 1000 * MIB, 90 * MIB),)
    assert host.look({"a": {11: 300, 12: 20}}, available=900, scopes=inside)[1] == [11]


def test_under_pressure_one_worker_is_reaped_per_ten_seconds():
    host = Host(replace(HEADROOM, headroom=None, pressure=20.0), b=replace(HEADROOM, headroom=None, pressure=20.0))
    pools = {"a": {11: 100, 12: 20}, "b": {21: 200, 22: 20}}
    assert host.look(pools, pressure=20.0)[1] == []
    assert host.look(pools, pressure=25.0)[1] == [21]
    assert isinstance(host.reason, UnderPressure)
    assert host.reason.text == "holds 200 MiB of its own, and this host has a memory pressure of 25 %, pressure 20 %"
    assert host.look(pools, pressure=25.0)[1] == []
    assert host.look(pools, pressure=15.0)[1] == [11]  # it began above 20 %, and ends below 10 %
    host.look(pools, pressure=9.0)
    assert host.episodes == {}


TOTAL = PoolSettings(total=400 * MIB, min_age=30, settle=10)


def test_a_pool_over_its_total_is_reaped_one_worker_at_a_time_until_it_fits():
    host = Host(TOTAL)
    workers = {11: 150, 12: 160, 13: 170}
    assert host.look({"a": workers}, total=400)[1] == [13]
    assert isinstance(host.reason, OverTotal)
    assert host.reason.text == "holds 170 MiB of its own, and the pool holds 480 MiB, total 400 MiB"
    host.fork(14)
    workers = {11: 150, 12: 160, 14: 100}
    assert [host.look({"a": workers}, total=400)[1] for _ in range(4)] == [[], [12], [], []]
    host.fork(15)
    host.look({"a": {11: 150, 14: 100, 15: 20}}, total=400)
    assert host.of(Relieved)


def test_while_the_large_worker_is_busy_no_worker_as_small_as_a_fresh_one_is_reaped_instead():
    host = Host(TOTAL)
    for _ in range(3):  # no fresh worker was seen yet
        decision, _ = host.look({"a": {11: 380, 12: 20, 13: 22, 14: 60}}, total=400, signal=False)
        assert [each.worker.id.pid for each in decision.choices[0].candidates] == [11, 14]


def test_if_all_workers_have_grown_alike_the_largest_is_reaped():
    host = Host(TOTAL)
    assert host.look({"a": {11: 150, 12: 148, 13: 149}}, total=400)[1] == [11]


def test_a_total_below_fresh_workers_is_reported_with_numbers_and_stops_no_other_reaping():
    settings = replace(TOTAL, total=100 * MIB, limit=200 * MIB)
    host = Host(settings)
    workers, reported, fresh, reaps = {11: 80, 12: 80}, [], 100, 0
    for _ in range(100):
        _, signalled = host.look({"a": workers}, total=100)
        reported += host.of(NotRelieved)
        for pid in signalled:
            reaps += 1
            del workers[pid]
            fresh += 1
            host.fork(fresh)
            workers[fresh] = 60
    assert reaps == 2
    (event,) = reported
    assert (event.shortage.measured, event.shortage.wanted, event.pool) == (120 * MIB, 100 * MIB, "a")
    assert host.states["a"].suspended is None
    assert host.look({"a": {101: 60, 102: 300}}, total=100)[1] == [102]
    assert isinstance(host.reason, OverLimit)


GROWTH = {
    "begins over it": lambda _age: 150,
    "crosses it after 5 s": lambda age: 20 if age < 5 else 150,
    "crosses it after 40 s": lambda age: 6 * age,
}


@pytest.mark.parametrize("settings", [TOTAL, HEADROOM], ids=["total", "headroom"])
@pytest.mark.parametrize("growth", GROWTH)
def test_reaping_continues_if_fresh_workers_would_fit_however_fast_they_grow(settings, growth):
    host = Host(settings)
    host.now, workers, reaps, log = BOOT, [11, 12, 13, 14], [], []
    for pid in workers:
        host.fork(pid)
    for _ in range(240):  # 20 min
        held = {pid: GROWTH[growth](host.now + 5 - host.started[pid]) for pid in workers}
        _, signalled = host.look({"a": held}, available=900 - sum(held.values()), total=400)
        log += host.events
        for pid in signalled:
            reaps.append(host.now)
            host.fork(1000 + len(reaps))
            workers[workers.index(pid)] = 1000 + len(reaps)
    reported = [event for event in log if isinstance(event, (NotRelieved, Outgrown))]
    if growth == "crosses it after 40 s":
        (outgrown,) = reported
        assert isinstance(outgrown, Outgrown)
        assert 0.0 < outgrown.after < 240 * 5.0
        assert len(reaps) > 60
        assert max(later - before for before, later in zip(reaps, reaps[1:])) <= 20
    else:
        assert set(map(type, reported)) == {NotRelieved}
        assert len(reaps) <= 2 * shortage.REAPS_PER_WORKER * 4


def test_a_total_that_was_not_read_at_a_look_does_not_end_the_shortage():
    host = Host(TOTAL)
    host.look({"a": {11: 300, 12: 160}}, total=400, signal=False)
    assert list(host.episodes) == [(shortage.Kind.TOTAL, "a")]
    host.look({"a": {11: 300, 12: 160}}, signal=False)
    assert list(host.episodes) == [(shortage.Kind.TOTAL, "a")]


ALL = PoolSettings(limit=150 * MIB, max_age=60.0, total=300 * MIB, headroom=500 * MIB, pressure=20.0)


def test_if_several_reasons_apply_to_a_worker_the_most_urgent_is_reported():
    host = Host(ALL)
    _, signalled = host.look({"a": {11: 200, 12: 180, 13: 20}}, available=450, pressure=30.0, total=300)
    assert signalled == [11]
    assert isinstance(host.reason, ShortOfHeadroom)


@pytest.mark.parametrize(
    ("available", "pressure", "total", "reason"),
    [
        (900, 30.0, 300, UnderPressure),
        (900, 1.0, 300, OverTotal),
        (900, 1.0, 500, OverLimit),
    ],
)
def test_reasons_in_the_order_of_their_urgency(available, pressure, total, reason):
    host = Host(ALL)
    settings = replace(ALL, total=total * MIB)
    host.settings["a"] = settings
    _, signalled = host.look({"a": {11: 200, 12: 180, 13: 20}}, available=available, pressure=pressure, total=total)
    assert signalled == [11]
    assert type(host.reason) is reason


def test_a_worker_over_its_own_limit_is_reaped_while_another_pool_relieves_the_host():
    host = Host(replace(HEADROOM, limit=90 * MIB), b=HEADROOM)
    _, signalled = host.look({"a": {11: 100, 12: 20}, "b": {21: 200, 22: 20}}, available=450)
    assert signalled == [21, 11]
    assert isinstance(host.reason, OverLimit)


def test_a_wrong_limit_does_not_keep_memreap_from_relieving_the_host():
    host = Host(replace(HEADROOM, limit=50 * MIB))
    host.now = BOOT
    for pid in (11, 12):
        host.fork(pid)
    host.look({"a": {11: 60, 12: 70}}, available=900, after=10)
    assert host.of(WrongSetting)
    assert host.look({"a": {11: 90, 12: 70}}, available=900, after=60)[1] == []
    assert host.look({"a": {11: 90, 12: 70}}, available=300)[1] == [11]


def test_neither_of_two_shortages_is_given_up_while_a_worker_would_relieve_both():
    both = replace(HEADROOM, pressure=20.0)
    host = Host(both, b=both)
    pools = {"a": {11: 100, 12: 20}, "b": {21: 200, 22: 20}}
    for signalled in ([21], []):
        assert host.look(pools, available=450, pressure=30.0)[1] == signalled
        assert host.of(NotRelieved) == []
    assert all(episode.given_up is None for episode in host.episodes.values())


def test_neither_host_nor_container_is_given_up_while_a_worker_would_relieve_both():
    host = Host()
    inside = (MemoryScope(CONTAINER, 1000 * MIB, 100 * MIB),)
    assert host.look({"a": {11: 300, 12: 20}}, available=400, scopes=inside)[1] == [11]
    assert host.of(NotRelieved) == []
    assert len(host.episodes) == 2


def test_a_worker_requested_by_a_user_relieves_the_total_too():
    host = Host(TOTAL)
    host.look({"a": {11: 100, 12: 20}}, total=400)
    host.states["a"] = policy.request([ProcessId(11, BOOT)], host.states["a"])
    assert host.look({"a": {11: 450, 12: 20}}, total=400)[1] == [11]
    assert host.of(NotRelieved) == []


def test_a_shortage_that_lasts_past_its_setting_reports_where_it_ends():
    host = Host()
    host.look({"a": {11: 300, 12: 20}}, available=450)
    host.look({"a": {11: 300, 12: 20}}, available=590)
    (episode,) = host.episodes.values()
    assert episode.shortage.text == "this host has 590 MiB available, headroom 500 MiB (until 600 MiB are available)"
    host.look({"a": {11: 300, 12: 20}}, available=600)
    assert host.episodes == {}
    pressed = Host(replace(HEADROOM, headroom=None, pressure=20.0))
    for pressure in (25.0, 12.0):
        pressed.look({"a": {11: 300, 12: 20}}, pressure=pressure)
    (episode,) = pressed.episodes.values()
    assert episode.shortage.text == "this host has a memory pressure of 12 %, pressure 20 % (until below 10 %)"


def test_a_headroom_of_nearly_all_memory_can_end():
    host = Host(replace(HEADROOM, headroom=0.9))
    host.look({"a": {11: 300, 12: 20}}, available=0.89 * SIZE / MIB)
    assert host.episodes
    host.look({"a": {11: 300, 12: 20}}, available=0.96 * SIZE / MIB)
    assert host.episodes == {}


def test_a_headroom_larger_than_a_group_is_ignored_there():
    host = Host(replace(HEADROOM, headroom=2000 * MIB))
    inside = (MemoryScope(CONTAINER, 1000 * MIB, 900 * MIB),)
    assert host.look({"a": {11: 30, 12: 10}}, available=4000, scopes=inside)[1] == []
    assert host.episodes == {}
    assert host.look({"a": {11: 30, 12: 10}}, available=1000, scopes=inside)[1] == [11]


def test_a_pool_no_longer_watched_did_not_free_its_memory():
    host = Host(TOTAL, b=TOTAL)
    host.look({"a": {11: 300, 12: 160}}, total=400)
    host.look({"b": {21: 10, 22: 10}}, total=400)
    assert host.of(Relieved) == []
    assert host.episodes == {}


def test_a_paused_pool_frees_no_memory():
    host = Host()
    host.states["a"] = policy.pause(host.states["a"])
    for _ in range(20):
        assert host.look({"a": {11: 300, 12: 20}}, available=300)[1] == []
        assert host.of(NotRelieved) == []


def not_met(host: Host, *looks: int, **kwargs) -> list[str]:
    """The lines about it, over these looks."""
    lines = []
    for available in looks:
        host.look({"a": {11: 300, 12: 20}}, available=available, **kwargs)
        lines += [event.text for event in host.of(NotMet)]
    return lines


START = "this host has 450 MiB available, headroom 500 MiB, and no worker could be signalled for it now"


def test_busy_workers_during_a_shortage_are_reported_once_at_the_first_look():
    (line,) = not_met(Host(), 600, 450, 440, signal=False)
    assert line.startswith(f"{START} (a: none of them was seen between two requests")
    assert line.endswith("; trying again at each look")


def test_nothing_is_reported_if_a_worker_is_reaped_at_the_first_look():
    assert not_met(Host(), 450, 450) == []


def test_a_shortage_that_ends_and_begins_again_is_reported_again():
    assert len(not_met(Host(), 450, 700, 450, signal=False)) == 2


# It had nine workers.
LARGE = Population(peaks=(9, 9), peak_since=BOOT + 3600)
WRONG = Suspension(Cause.WRONG_SETTING, ProcessId(ord("a"), BOOT))
LOST = Suspension(Cause.MANAGER_LOST, ProcessId(ord("a"), BOOT))


@pytest.mark.parametrize(
    ("settings", "state", "cause"),
    [
        (replace(HEADROOM, yields=False), PoolState(), "yield=no"),
        (replace(HEADROOM, observe=True), PoolState(), "only observed (observe=yes)"),
        (HEADROOM, PoolState(paused=True), "paused"),
        (replace(HEADROOM, min_age=4000), PoolState(paused=True), "paused"),
        (replace(HEADROOM, min_age=4000), PoolState(), "they are younger than min_age=67 min"),
        (replace(HEADROOM, min_age=3605), PoolState(population=LARGE), "too few workers serve and are older than"),
        (HEADROOM, PoolState(suspended=LOST), "suspended (its manager exited)"),
        (replace(HEADROOM, min_age=4000), PoolState(suspended=WRONG), "they are younger than min_age=67 min"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_the_first_look_reports_why_no_worker_is_reaped(settings, state, cause):
    host = Host(settings)
    host.states["a"] = replace(state, settings=settings)
    (line,) = not_met(host, 450)
    assert line.startswith(f"{START} (a: {cause}")
    assert "supervisorctl" not in line  # the command may be missing there, and the shortage is no reason to resume


def test_what_the_last_attempt_has_found_is_the_cause():
    host = Host()
    host.states["a"] = PoolState(settings=HEADROOM, refusal=hindrance.of_lock("process 4711"))
    (line,) = not_met(host, 450, signal=False)
    assert line.startswith(f"{START} (a: process 4711")


@pytest.mark.parametrize("mib", [300, 21])
def test_where_all_workers_of_a_pool_are_young_that_is_the_cause_whatever_they_hold(mib):
    host = Host(b=HEADROOM)
    host.states["a"] = PoolState(settings=HEADROOM, baseline=20 * MIB)
    host.fork(11)
    host.fork(12)
    host.look({"a": {11: mib, 12: 20}, "b": {21: 300, 22: 20}}, available=450, signal=False)
    (event,) = host.of(NotMet)
    assert event.text.startswith(f"{START} (a: they are younger than min_age=30 s; b: none of them was seen")


def test_a_first_attempt_has_some_time_before_its_shortage_is_reported():
    host = Host()
    host.look({"a": {11: 300, 12: 20}}, available=600)
    worker = ProcessId(11, BOOT)
    attempted = Reap(worker, host.now + 5, frozenset([worker]), phase=Phase.ATTEMPTED)
    host.states["a"] = replace(host.states["a"], reap=attempted)
    assert not_met(host, 450, signal=False) == []
    host.states["a"] = replace(host.states["a"], reap=replace(attempted, signalled=host.now))
    (line,) = not_met(host, 450, signal=False)
    assert line.startswith(START)


def test_a_worker_of_which_nothing_may_be_read_is_not_reaped_for_memory():
    unread = Worker(ProcessId(11, BOOT), 3600.0, None, WorkerDetail(None, True))
    for kind in shortage.Kind:
        assert not shortage.is_worth_reaping(unread, kind, None, 60.0)


def test_a_signalled_worker_that_does_not_leave_is_reported_when_its_memory_is_due():
    host = Host()
    assert host.look({"a": {11: 300, 12: 20}}, available=450)[1] == [11]
    assert not_met(host, 450) == []
    (line,) = not_met(host, 450, 450)
    assert "(a: worker 11 was signalled 10 s ago and has not left)" in line


def test_right_after_a_reap_its_memory_is_waited_for_also_where_the_replacement_has_settled():
    host = Host(replace(HEADROOM, min_age=1, settle=1))
    assert host.look({"a": {11: 300, 12: 200}}, available=450)[1] == [11]
    host.states["a"] = policy.pause(host.states["a"])
    host.fork(13)
    for _ in range(3):
        host.look({"a": {12: 200, 13: 20}}, available=450, after=3.0)
        assert host.of(NotMet) == []
    assert host.states["a"].leaving is None
    host.look({"a": {12: 200, 13: 20}}, available=450, after=3.0)
    assert len(host.of(NotMet)) == 1


def test_a_shortage_ends_where_what_comes_back_is_exactly_enough():
    over = shortage.Shortage(shortage.Kind.TOTAL, "a", 500.0, 400.0, 400.0)
    below = shortage.Shortage(shortage.Kind.HEADROOM, HOST, 300.0, 350.0, 400.0)
    for short in (over, below):
        assert [shortage.ends_with(short, coming) for coming in (99, 100)] == [False, True]


def test_a_worker_that_a_user_requested_is_read_in_full_and_no_other_below_its_limit():
    workers = [Worker(ProcessId(pid, BOOT), 3600.0, 20 * MIB) for pid in (11, 12)]
    settings = PoolSettings(limit=150 * MIB)
    needed = reasons.detail_needed(reasons.Circumstances(settings, requested={workers[0].id}))
    assert [needed(worker) for worker in workers] == [True, False]


def test_while_memory_is_short_all_workers_are_read_in_full():
    host = Host(ALL)
    decision, _ = host.look({"a": {11: 20, 12: 20}}, available=450, signal=False)
    (choice,) = decision.choices
    needed = selection.detail_needed(Look(choice.pool, ALL, choice.state), host.episodes, host.now)
    assert all(needed(worker) for worker in choice.pool.workers)


def test_an_exceeded_total_has_its_own_lines():
    host = Host(replace(HEADROOM, headroom=None, total=100 * MIB))
    host.look({"a": {11: 300, 12: 20}}, total=100, signal=False)
    assert host.of(NotMet) == []


def test_a_pool_that_holds_exactly_its_total_is_not_over_it():
    host = Host(TOTAL)
    decision, signalled = host.look({"a": {11: 200, 12: 200}}, total=400)
    assert (decision.episodes, signalled) == ({}, [])
    assert shortage.headroom_in(MemoryScope("a", None, 5), 0.5) == 0.0


def test_what_fresh_workers_would_give_back_is_what_is_above_them():
    workers = [Worker(ProcessId(pid, BOOT), 60.0, 0, detail(mib * MIB)) for pid, mib in ((11, 100), (12, 20))]
    assert shortage.grown(workers, shortage.Kind.HEADROOM, 30 * MIB) == 70 * MIB
    assert shortage.grown(workers, shortage.Kind.HEADROOM, None) == 0


def detail(size: int) -> WorkerDetail:
    return WorkerDetail(size, True, memory=ProcessMemory(size, 0, size, 0))
