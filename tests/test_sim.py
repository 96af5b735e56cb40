"""The real reaper on a simulated machine: no invariant is broken, and what would break one is found."""

from __future__ import annotations

from typing import Any

import pytest
from sim import faults, reader
from sim.__main__ import main
from sim.processes import Growth
from sim.run import Run
from sim.script import Action, Load, PoolScript, Script, draw
from sim.shrink import play, shrink
from sim.sweep import base, kinds, sweep

from supervisor_memreap.core import choosing, following, policy, resting, serving, state
from supervisor_memreap.core.events import Event, Forced, ManagerLost, Signalled, SignalledAgain, Stuck
from supervisor_memreap.core.frozen import replace
from supervisor_memreap.listener import attemptqueue, attempts, statefile
from supervisor_memreap.listener.attempts import Trial
from supervisor_memreap.listener.followed import Followed, FollowedWorkers
from supervisor_memreap.listener.memorywatch import MemoryWatch
from supervisor_memreap.listener.poolstate import StatefulPool
from supervisor_memreap.listener.reaper import Reaper

MIB = 1024**2
TICKS = 100


@pytest.mark.parametrize("ten", range(10))
def test_no_invariant_is_broken(ten):
    reports = [play(draw(f"suite {ten}.{number}", TICKS)) for number in range(10)]
    assert {report.script.seed: report.broken for report in reports if report.broken} == {}
    assert sum(report.ticks for report in reports) > 5 * TICKS


@pytest.mark.parametrize(("call", "how"), kinds())
def test_no_fault_breaks_an_invariant(call, how):
    """At some calls; `python -m tests.sim --sweep` has all."""
    every = 331 if call in ("", "emit", "read", "write") else 41
    reports = list(sweep(call, how, base(), every))
    assert {report.script.faults: report.broken for report in reports if report.broken} == {}
    assert reports
    assert all(report.faults for report in reports)


@pytest.mark.parametrize(
    ("call", "number", "how"), [("child", 1, faults.KILLED), ("programs", 26, "refused"), ("load", 2, "torn")]
)
def test_a_fault_that_a_whole_sweep_found_breaks_no_invariant(call, number, how):
    report = play(replace(base(), faults=(faults.Fault(call, number, how),)))
    assert (report.faults, report.broken) == (1, [])


def test_a_sweep_of_what_is_never_called_is_refused_with_what_is(capsys):
    with pytest.raises(SystemExit):
        main(["--sweep", "measured"])
    assert "makes no call measured; it makes: attempt, child, " in capsys.readouterr().err


def test_a_once_that_runs_sends_no_signal_in_a_pool_that_is_paused_meanwhile():
    actions = (Action(400.0, "once", "", (300.0,)), Action(450.0, "pause", "pool0"))
    report = play(replace(leaking(*actions), tick=3600.0))
    assert report.broken == []
    assert report.signals > 0


def test_the_same_seed_gives_the_same_events():
    def events_of(seed: str) -> list[str]:
        texts: list[str] = []
        Run(draw(seed, TICKS), lambda event: texts.append(event.text)).play()
        return texts

    assert events_of("same") == events_of("same") != []


def leaking(
    *actions: Action, kind: str = "procmanager", starts: float = 0.2, days: float = 0.015, **settings
) -> Script:
    """A pool whose workers reach their limit every 100 s."""
    growth = Growth(fresh=10 * MIB, leak=MIB)
    pool = PoolScript("pool0", kind, Load(), growth, starts, {"limit": 100 * MIB, **settings})
    return Script("leaking", days, (pool,), actions)


def test_all_workers_that_leak_are_replaced_one_at_a_time():
    report = play(leaking())
    assert report.broken == []
    assert report.signals > 30


def test_a_worker_that_does_not_leave_is_signalled_again_and_then_forced():
    emitted: list[Event] = []
    run = Run(leaking(Action(60.0, "hangs", "pool0"), grace=20.0, stuck="KILL"), emitted.append)
    assert run.play().broken == []
    said = [each for each in emitted if isinstance(each, (SignalledAgain, Stuck, Forced))]
    assert [type(each) for each in said] == [SignalledAgain, Stuck, Forced]
    assert len({each.worker for each in said}) == 1
    assert [each.activity for each in said if isinstance(each, Stuck)] == ["in a system call"]
    assert [worker.ended_by for worker in run.world.ended].count("killed") == 1


def test_after_an_attempt_the_next_one_begins_in_the_same_look(monkeypatch):
    monkeypatch.setattr(attemptqueue, "MOST", 1)
    pools = [replace(leaking().pools[0], name=f"pool{number}") for number in range(3)]
    emitted: list[Event] = []
    run, others = Run(replace(leaking(), pools=tuple(pools), tick=60.0), emitted.append), set()
    run.world.when_attempted = lambda by, _order, _worker: others.add(len(by.attempts))
    run.play()
    assert others == {0}
    at = {event.pool: event.at for event in reversed(emitted) if isinstance(event, Signalled)}
    assert len(at) == 3
    assert max(at.values()) - min(at.values()) < 20.0


def test_supervisord_is_asked_how_a_manager_has_ended():
    emitted: list[Event] = []
    Run(leaking(*KILLED, kind="fragile"), emitted.append).play()
    assert next(event.is_certain for event in emitted if isinstance(event, ManagerLost))


def test_commands_that_change_nothing_are_no_events():
    actions = ((20.0, "resume"), (21.0, "pause"), (22.0, "roll"))
    report = play(leaking(*(Action(at, what, "pool0") for at, what in actions)))
    assert (report.events["ResumedByUser"], report.events["Paused"], report.events["WorkersRequested"]) == (0, 1, 0)


@pytest.mark.parametrize("announce", [True, False])
def test_a_reaper_says_which_pools_it_has_seen_and_whose_events_are_announced(announce):
    run = Run(leaking(announce=announce))
    run.play()
    reaper = run.listener.reaper
    assert reaper
    assert [reaper.announces(name) for name in ("pool0", "other")] == [announce, True]
    assert [reaper.has_seen(names) for names in ((), ("pool0",), ("pool0", "other"))] == [True, True, False]


def assert_found(script: Script, text: str) -> None:
    broken = {each.what for each in play(script).broken}
    assert any(text in what for what in broken), broken


PAUSED = (Action(600.0, "pause", "pool0"), Action(900.0, "crash worker", "pool0"), Action(950.0, "kill memreap"))


IN_A_GROUP = ("/outer", 400 * MIB), ("/outer/inner", 150 * MIB)


def in_a_group(**script) -> Script:
    """Four workers that have filled the inner group 140 s after the start, between two looks."""
    before = leaking(limit=1000 * MIB, headroom=0.3)
    pools = (replace(before.pools[0], growth=Growth(fresh=10 * MIB, leak=MIB / 4), group="/outer/inner"),)
    return replace(before, pools=pools, groups=IN_A_GROUP, tick=3600.0, **script)


@pytest.mark.parametrize("cgroups", [1, 2])
def test_it_is_woken_when_memory_runs_short_in_a_control_group(cgroups):
    run = Run(in_a_group(days=0.02, cgroups=cgroups))
    report = run.play()
    assert report.broken == []
    assert report.signals > 10
    assert sum(run.world.memory.kills.values()) == 0


def test_the_kernel_ends_the_largest_where_it_is_not_woken():
    run = Run(in_a_group(days=0.05, wakes=False))
    report = run.play()
    assert report.broken == []
    assert dict(run.world.memory.kills)["/outer/inner"] >= 8
    assert report.events["OomKilled"] + report.events["OomKilledOther"] > 0


def test_a_signal_in_a_paused_pool_is_found_and_what_is_not_needed_for_it_is_left_out(monkeypatch):
    monkeypatch.setattr(policy, "sends_nothing", lambda _settings, _state: False)
    script = leaking(*PAUSED)
    assert_found(script, "the pool is paused")
    assert [action.what for action in shrink(script).actions] == ["pause"]


def let_any_go(monkeypatch) -> None:
    """Two rules keep a worker from going while another one starts."""
    monkeypatch.setattr(choosing._Choosing, "_are_too_few", lambda _self: False)
    monkeypatch.setattr(following._Reap, "_follow_gone", lambda self, leaving: self.set(reap=None))


def let_siblings_lack(monkeypatch) -> None:
    order = attempts._order
    monkeypatch.setattr(attempts, "_order", lambda *given: replace(order(*given), may_lack=3))


def let_none_go(monkeypatch) -> None:
    monkeypatch.setattr(choosing._Choosing, "_candidates", lambda _self, _circumstances: ((), ()))


def save_nothing(monkeypatch) -> None:
    monkeypatch.setattr(StatefulPool, "cannot_save", lambda self, state: self.update(state, save=False))


def take_all_for_workers(monkeypatch) -> None:
    monkeypatch.setattr(serving, "sort_out", lambda pool, *_: pool)


def forget(name: str):
    lost = {name: getattr(state.PoolState(), name)}

    def encode(each):
        return state.encode(replace(each, **lost))

    return lambda monkeypatch: monkeypatch.setattr(statefile, "encode", encode)


def leave_open(monkeypatch) -> None:
    monkeypatch.setattr(Trial, "close", lambda _self: None)


def keep_locks(monkeypatch) -> None:
    monkeypatch.setattr(Followed, "unlock", lambda _self: None)


def release_nothing(monkeypatch) -> None:
    monkeypatch.setattr(FollowedWorkers, "close", lambda _self: None)


def remember_all_who_left(monkeypatch) -> None:
    begin = MemoryWatch.begin

    def keep(self, watches):
        gone, wanted = self._gone, begin(self, watches)
        self._gone = gone
        return wanted

    monkeypatch.setattr(MemoryWatch, "begin", keep)


def know_no_server(monkeypatch) -> None:
    monkeypatch.setattr(reader, "server_seen", lambda *_: "")


def show_none(monkeypatch) -> None:
    monkeypatch.setattr(Reaper, "status", lambda _self: [])


def measure_by_looking(monkeypatch) -> None:
    status = Reaper.status

    def look_first(self, *given):
        for pool in self.pools:
            pool.update(replace(pool.state, looked=0.0), save=False)
        return status(self, *given)

    monkeypatch.setattr(Reaper, "status", look_first)


def take_changes_for_rest(monkeypatch) -> None:
    monkeypatch.setattr(resting, "_has_changed", lambda *_: False)


BROKEN = (Action(300.0, "broken", "pool0", (True,)),)
FRESH_ARE_OVER: dict[str, Any] = {"limit": 5 * MIB, "settle": 1.0, "min_age": 1.0}
EARLY = (Action(26.0, "kill memreap"),)
KILLED = (Action(450.0, "kill memreap"),)
HANGING = (Action(60.0, "hangs", "pool0"), Action(200.0, "kill memreap"))
ROLLED = (Action(200.0, "roll", "pool0"), Action(210.0, "kill memreap"))


@pytest.mark.parametrize(
    ("plant", "script", "text"),
    [
        (let_any_go, lambda: leaking(starts=30.0), "was not replaced"),
        (let_any_go, lambda: leaking(*BROKEN), "the last one that serves"),
        (let_none_go, lambda: leaking(days=0.04), "is over its limit for"),
        (let_siblings_lack, lambda: leaking(), "3 of 4 may be missing"),
        (save_nothing, lambda: leaking(), "was not saved before"),
        (take_all_for_workers, lambda: leaking(kind="dirty"), "a helper was signalled"),
        (forget("paused"), lambda: leaking(*PAUSED), "the pause is forgotten"),
        (forget("stuck"), lambda: leaking(*HANGING, grace=20.0), "stuck is forgotten"),
        (forget("reap"), lambda: leaking(*HANGING), "reap is forgotten"),
        (forget("suspended"), lambda: leaking(*KILLED, kind="fragile"), "suspended is forgotten"),
        (forget("requested"), lambda: leaking(*ROLLED), "requested is forgotten"),
        (forget("started_over"), lambda: leaking(*EARLY, **FRESH_ARE_OVER), "started_over is forgotten"),
        (forget("delay"), lambda: leaking(*KILLED, kind="apart"), "delay is forgotten"),
        (leave_open, lambda: replace(leaking(), has_ptrace=False, sees_idle=False), "descriptors are open"),
        (keep_locks, leaking, "locks are held"),
        (release_nothing, lambda: leaking(*HANGING, Action(400.0, "restart memreap")), "after its end"),
        (take_changes_for_rest, leaking, "taken to be at rest"),
        (show_none, lambda: leaking(Action(200.0, "status")), "the status has only []"),
        (measure_by_looking, lambda: leaking(Action(200.0, "status")), "the status has changed a state"),
        (remember_all_who_left, leaking, "are remembered in reaper.memory._gone"),
        (take_all_for_workers, lambda: replace(leaking(kind="apart"), has_ptrace=False), "a socket of its own"),
        (
            know_no_server,
            lambda: replace(leaking(kind="starman"), has_ptrace=False),
            "at its boundary",
        ),
    ],
)
def test_what_would_break_an_invariant_is_found(monkeypatch, plant, script, text):
    plant(monkeypatch)
    assert_found(script(), text)


def test_memory_that_is_short_and_that_no_signal_may_relieve_is_said():
    held = replace(leaking(kind="uwsgi", headroom=0.9), has_ptrace=False, host=1024 * MIB)
    report = play(held)
    assert (report.broken, report.signals) == ([], 0)
    assert report.events["NotMet"] > 0
