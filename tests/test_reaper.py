"""The reaper on real pools, without supervisord: what a worker gets that was signalled and is still there."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import select
import shutil
import signal
import socket
import time
from pathlib import Path

import psutil
import pytest
from support.boundary import fastcgi_pool
from support.driver import POOL, eventually, pool, until, workers_below
from support.reaping import QUICK, Reaping, shorten_times

from supervisor_memreap.core import events, policy
from supervisor_memreap.core.command import Command, Verb
from supervisor_memreap.core.model import Ending, ProcessId, Program, Result
from supervisor_memreap.core.reasons import TooOld
from supervisor_memreap.core.settings import Given, Settings, resolve
from supervisor_memreap.core.state import Cause, Phase, PoolState, Reap, Suspension
from supervisor_memreap.host import lock, procfs, reader, signalling, sockets, thismachine
from supervisor_memreap.host import look as host_look
from supervisor_memreap.host.machine import Locked, Outcome, Unlockable
from supervisor_memreap.host.thismachine import ThisMachine
from supervisor_memreap.listener import attempts, statedirectory
from supervisor_memreap.listener.attempts import AGAIN
from supervisor_memreap.listener.memorywatch import MemoryWatch
from supervisor_memreap.listener.pool import WatchedPool
from supervisor_memreap.listener.pools import States
from supervisor_memreap.listener.reaper import Reaper
from supervisor_memreap.listener.sizes import Sizes
from supervisor_memreap.listener.statefile import StateFile


@pytest.fixture(autouse=True)
def _times_are_short(monkeypatch):
    shorten_times(monkeypatch)


def test_a_worker_signalled_between_a_request_and_accept_is_signalled_again_when_idle():
    with pool(1, 40, "gap") as manager, Reaping(manager) as reaping:
        first = reaping.until(events.Signalled)
        for _ in range(3):
            assert reaping.tick().choice.standing == "leaving"
        reaping.later = policy.AGAIN
        second = reaping.until(events.SignalledAgain)
        assert (second.worker, second.signal, second.first_was_sent) == (first.worker, "HUP", True)
        assert reaping.until(events.Left).worker == first.worker


def test_a_worker_that_is_too_old_is_replaced_at_any_size():
    with pool(2, 5) as manager, Reaping(manager) as reaping:
        # What may be written is a minute at least.
        reaping.settings = Settings({"myapp": {"max_age": 1.0, "min_age": 0.5, "settle": 0.0}})
        before = workers_below(manager)
        reaping.until(events.Left)
        first, *_ = reaping.all_of(events.Signalled)
        assert isinstance(first.reason, TooOld)
        assert first.pid in before


def test_a_worker_that_still_serves_gets_no_second_signal():
    with pool(1, 40, "gap", "busy") as manager, Reaping(manager, idle_wait="0s", hold="no") as reaping:
        reaping.until(events.Signalled)
        reaping.later = policy.AGAIN
        assert reaping.tick().choice.again
        reaping.wait(AGAIN + 1.0)
        assert reaping.tick().choice.again
        # On a busy machine there may be a line on a size that was not read in time.
        assert len(reaping.all_of(events.Signalled)) == 1
        assert not reaping.all_of(events.SignalledAgain)


@pytest.mark.parametrize("stuck", ["TERM", "KILL"])
def test_a_stuck_worker_is_reported_with_its_activity_and_sent_the_configured_signal(stuck):
    with pool(2, 40, "stuck") as manager, Reaping(manager, stuck=stuck) as reaping:
        worker = reaping.until(events.Signalled).worker
        reaping.later = 300.0
        report = reaping.until(events.Stuck)
        assert (report.worker, report.signal, report.forced, report.next) == (worker, "HUP", "", stuck)
        assert 300 <= report.after < 330
        assert re.fullmatch(r"state [SR](, in \w+)?", report.activity)
        forced = reaping.until(events.Forced)
        assert (forced.worker, forced.signal) == (worker, stuck)
        left = reaping.until(events.Left)
        assert left.worker == worker
        assert 300 <= left.after < 330


def test_by_default_a_stuck_worker_gets_nothing_more():
    # A worker that is as young when 300 s seem to have passed would seem to begin to serve with the default.
    with pool(2, 40, "stuck") as manager, Reaping(manager, settle="1h") as reaping:
        worker = reaping.until(events.Signalled).worker
        reaping.later = 300.0
        report = reaping.until(events.Stuck)
        assert (report.worker, report.next) == (worker, "")
        reaping.until(events.Signalled, lambda event: event.worker != worker)
        until(lambda: psutil.Process(worker.pid).status(), psutil.STATUS_SLEEPING)


@pytest.fixture
def states_in(tmp_path) -> Path:
    """The directory of the state files of these tests."""
    return tmp_path / "memreap-0"


@pytest.fixture
def statefile(states_in):
    me = psutil.Process()
    return StateFile(ProcessId(me.pid, me.create_time()), [str(states_in)])


@pytest.mark.parametrize("moment", ["before the signal", "right after it"])
def test_whenever_a_listener_is_killed_the_next_one_knows_who_may_be_leaving(statefile, moment):
    with pool(2, 40, "stuck") as manager:
        child = os.fork()
        if child == 0:
            _end_by_force(manager, statefile, moment)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
        states, trouble = statefile.read(time.monotonic())
        assert trouble == ""
        leaving = states["myapp"].leaving
        assert leaving.worker.pid in {process.pid for process in psutil.Process(manager).children()}
        with Reaping(manager) as reaping:
            reaping.reaper = Reaper(ThisMachine(), (reaping.events.append,), states=states)
            for _ in range(3):
                assert reaping.tick().choice.standing == "leaving"
            psutil.Process(leaving.worker.pid).kill()
            reaping.until(events.Left, lambda event: event.worker == leaving.worker)


def _end_by_force(manager: int, statefile: StateFile, moment: str) -> None:
    """Never returns."""
    try:
        reaping = Reaping(manager)

        def keep(states: States) -> None:
            statefile.write(states, time.monotonic())
            if moment == "before the signal" and states["myapp"].leaving:
                os.kill(os.getpid(), signal.SIGKILL)

        def emit(event: events.Event) -> None:
            if isinstance(event, events.Signalled):
                os.kill(os.getpid(), signal.SIGKILL)

        reaping.reaper = Reaper(ThisMachine(), (emit,), keep=keep)
        reaping.until(events.Left)  # never: the worker is stuck
    finally:
        os._exit(1)


def test_saved_state_is_restored_unchanged(statefile):
    worker, other = ProcessId(11, 0.1), ProcessId(12, 1 / 3)
    leaving = Reap(worker, 1.5, frozenset([worker, other]), 0.5, Phase.REPLACED, 2.5, False, 3.5, other, True)
    section = {"limit": Given("30MB", ""), "idle_wait": Given("never", "")}
    state = PoolState(
        settings=resolve({"myapp": section}).of(Program("myapp", "myapp", "RUNNING", 1)),
        manager=ProcessId(1, 0.05),
        reap=leaving,
        stuck=(Reap(other, 1.5, frozenset([other])),),
        started_over=(1, 2),
        suspended=Suspension(Cause.MANAGER_LOST, worker, 600.0, leaving, 1.0, 2.0),
        manager_losses=2,
        requested=frozenset([other]),
        looked=10.0,
    )
    assert statefile.write({"myapp": state, "quiet": PoolState()}, 10.0) == ""
    assert statefile.read(11.0) == ({"myapp": state}, "")
    assert statefile.read(9.0) == ({}, "")  # written later than now: before the last boot


def test_a_pause_is_saved(statefile):
    state = PoolState(paused=True, looked=1.0)
    statefile.write({"myapp": state}, 1.0)
    assert statefile.read(2.0) == ({"myapp": state}, "")


@pytest.fixture
def written(statefile, states_in) -> Path:
    """The file of a state that is worth to be kept."""
    statefile.write({"myapp": PoolState(started_over=(1,))}, 1.0)
    (path,) = states_in.iterdir()
    return path


def test_no_file_is_written_for_empty_state(statefile, states_in, written):
    assert written.stat().st_mode & 0o777 == 0o600
    statefile.write({"myapp": PoolState()}, 2.0)
    assert list(states_in.iterdir()) == []


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "null", '{"pools": 1}', '{"supervisord": [1, 2], "written": 0}', "\0" * 99, "[" * 100_000, "\xff"],
)
def test_a_foreign_file_is_reported_and_ignored(statefile, written, text):
    written.write_text(text, encoding="latin-1")
    states, trouble = statefile.read(2.0)
    assert states == {}
    assert trouble in ("", f"{written}: not written by a listener")


def test_a_file_of_another_process_with_that_pid_is_ignored(states_in, written):
    """Also under its name."""
    me = psutil.Process()
    other = StateFile(ProcessId(me.pid, me.create_time() - 1), [str(states_in)])
    assert other.read(2.0) == ({}, "")
    other.write({"myapp": PoolState(started_over=(1,))}, 1.0)
    (others,) = set(states_in.iterdir()) - {written}
    written.replace(others)
    assert other.read(2.0) == ({}, "")


@pytest.mark.parametrize("kind", ["link", "directory", "pipe", "writable"])
def test_a_file_that_another_user_could_have_created_is_ignored(statefile, written, kind):
    moved = written.rename(written.with_name("other"))
    if kind == "link":
        written.symlink_to(moved)
    elif kind == "directory":
        written.mkdir()
    elif kind == "pipe":
        os.mkfifo(written)
    else:
        moved.rename(written)
        written.chmod(0o666)
    states, trouble = statefile.read(2.0)
    assert states == {}
    assert trouble.startswith(f"{written}: ")


def test_a_directory_that_cannot_be_created_is_reported():
    me = psutil.Process()
    other = StateFile(ProcessId(me.pid, me.create_time()), ["/proc/memreap-0"])
    trouble = other.write({"myapp": PoolState(paused=True)}, 1.0)
    assert trouble == f"/proc/memreap-0: No such file or directory; {statedirectory.REMEDY}"


def test_files_of_ended_supervisords_are_removed(statefile, states_in):
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)
    StateFile(ProcessId(child, 1.0), [str(states_in)]).write({"myapp": PoolState(started_over=(1,))}, 1.0)
    (path,) = states_in.iterdir()
    statefile.sweep()
    assert path.exists()  # it may be of another container
    os.utime(path, (0, 0))
    statefile.sweep()
    assert list(states_in.iterdir()) == []


@pytest.mark.parametrize(("stuck", "kind"), [("report", events.SignalledAgain), ("KILL", events.Forced)])
def test_a_second_or_stronger_signal_is_saved_before_it_is_sent(monkeypatch, stuck, kind):
    kept: list[dict] = []

    def keeping(real):
        def act(*args):
            state = kept[-1]["myapp"]
            assert state.attempted or state.leaving.phase is (Phase.AGAIN if stuck == "report" else Phase.FORCED)
            return real(*args)

        return act

    monkeypatch.setattr(thismachine, "Attempt", keeping(thismachine.Attempt))
    monkeypatch.setattr(signalling, "force", keeping(signalling.force))
    words = ("gap",) if stuck == "report" else ("stuck", "busy")
    with pool(1, 40, *words) as manager, Reaping(manager, stuck=stuck, idle_wait="0s", hold="no") as reaping:
        reaping.reaper = Reaper(ThisMachine(), (reaping.events.append,), keep=lambda states: kept.append(dict(states)))
        reaping.until(events.Signalled)
        reaping.later = policy.AGAIN if stuck == "report" else 300.0
        assert reaping.until(kind).signal == ("HUP" if stuck == "report" else "KILL")


def test_a_resume_where_nothing_was_held_is_no_event():
    with pool(1, 40) as manager, Reaping(manager) as reaping:
        reaping.tick()
        verbs: tuple[Verb, ...] = ("resume", "pause", "resume", "resume")
        for verb in verbs:
            (result,) = reaping.reaper.command(Command(verb, "myapp"), ["myapp"])
            assert result.state
        told = [event for event in reaping.events if isinstance(event, (events.Paused, events.ResumedByUser))]
        assert [type(event) for event in told] == [events.Paused, events.ResumedByUser]


def test_a_worker_whose_listener_was_killed_before_the_signal_gets_it_from_the_next(statefile, monkeypatch):
    with pool(1, 40) as manager, Reaping(manager) as reaping:
        (worker,) = workers_below(manager)
        before = reaping.reaper
        assert not reaping.tick().choice.candidates  # whether it is the only one is not known at once
        reaping.later = policy.SINGLE_CALM
        monkeypatch.setattr(before.pools, "_keep", lambda states: statefile.write(states, time.monotonic()))

        def end_it(*_):
            monkeypatch.setattr(before.pools, "_keep", lambda _: None)  # one that is ended by force writes nothing more
            raise KeyboardInterrupt

        monkeypatch.setattr(thismachine, "Attempt", end_it)
        with pytest.raises(KeyboardInterrupt):
            until(lambda: not reaping.tick())
        monkeypatch.undo()
        before.close()
        states, _ = statefile.read(time.monotonic())
        assert (states["myapp"].leaving.worker.pid, states["myapp"].leaving.is_sent) == (worker, False)
        reaping.reaper = Reaper(ThisMachine(), (reaping.events.append,), states=states)
        assert reaping.tick().choice.standing == "leaving"
        reaping.later = policy.AGAIN
        event = reaping.until(events.SignalledAgain)
        assert (event.pid, event.first_was_sent) == (worker, False)
        assert reaping.until(events.Left).pid == worker


class Slow(ThisMachine):
    """A machine on which looks may take long."""

    takes = 0.0

    @contextlib.contextmanager
    def look(self, now, reads_scopes):
        time.sleep(self.takes)
        with super().look(now, reads_scopes) as reader:
            yield reader


def test_how_a_manager_ended_is_asked_since_the_last_look_however_long_this_one_takes():
    with pool(1, 40) as manager, pool(1, 1) as other, Reaping(manager) as reaping:
        asked: list[float] = []
        machine = Slow(lambda _program, since: asked.append(since) or Ending.STOPPED)
        reaping.reaper = Reaper(machine, (reaping.events.append,))
        reaping.until(events.Signalled)
        before, machine.takes = time.time(), 1.0
        reaping.programs = [Program("myapp", "myapp", "RUNNING", other)]
        reaping.tick()
    assert [since < before for since in asked] == [True]


def test_workers_that_begin_to_serve_over_the_limit_suspend_the_pool_before_any_is_signalled():
    with pool(2, 40) as manager, Reaping(manager, min_age="1h", settle="2s") as reaping:
        event = reaping.until(events.WrongSetting)
        assert (event.usable, 2.0 - policy.READ < event.age < 2.0 + policy.LATE) == ("limit=90MB", True)
        initial = reaping.reaper.pools.named("myapp").state.initial
        assert event.baseline.used == min(size.size for size in initial.values())
        assert reaping.signalled() == set()


def test_a_removed_file_is_written_again_and_a_week_old_one_is_renewed(statefile, states_in):
    states = {"myapp": PoolState(paused=True, looked=2.0)}
    statefile.write(states, 1.0)
    (path,) = states_in.iterdir()
    path.unlink()
    statefile.write(states, 2.0)
    assert statefile.read(3.0) == (states, "")
    os.utime(path, (0, 0))
    statefile.write(states, 2.0 + 7 * 86400)
    assert path.stat().st_mtime > 0


def test_a_pool_followed_by_another_memreap_is_not_signalled(statefile):
    """`once` beside a listener: both know who is stuck, and one of them sends what stuck= asks for."""
    with pool(1, 40, "stuck") as manager, Reaping(manager, stuck="TERM") as first:
        first.until(events.Signalled)
        states = {pool.name: pool.state for pool in first.reaper.pools}
        emitted: list[events.Event] = []
        other = Reaper(ThisMachine(), (emitted.append,), states=states)
        try:
            for _ in range(3):
                other.tick(first.programs, first.settings, time.monotonic() + 300)
            assert [event for event in emitted if isinstance(event, (events.Forced, events.NotForced))] == []
            assert [event for event in emitted if isinstance(event, events.Stuck) and event.forced] == []
            first.later = 300.0
            assert first.until(events.Forced).signal == "TERM"
        finally:
            other.close()


def test_a_sent_signal_is_saved_before_anything_else_is_done():
    kept: list[dict] = []
    with pool(1, 40) as manager, Reaping(manager) as reaping:
        phases: list[Phase] = []

        def emit(event: events.Event) -> None:
            if isinstance(event, events.Signalled):
                phases.append(kept[-1]["myapp"].leaving.phase)

        reaping.reaper = Reaper(
            ThisMachine(), (emit, reaping.events.append), keep=lambda states: kept.append(dict(states))
        )
        reaping.until(events.Signalled)
    assert phases == [Phase.SIGNALLED]
    assert any(states["myapp"].attempted for states in kept)


NOTHING = resolve({})


def test_a_pool_out_of_sight_keeps_its_leaving_worker_and_its_lock():
    with pool(3, 40, "stuck") as manager, Reaping(manager) as reaping:
        pid = reaping.until(events.Signalled).pid
        assert reaping.reaper.tick(reaping.programs, NOTHING, time.monotonic()) == []
        assert reaping.reaper.tick([], reaping.settings, time.monotonic()) == []
        with pytest.raises(Locked):
            lock.take(procfs.source().process(manager).id)
        reaping.later = 60.0
        for _ in range(3):
            reaping.tick()
        assert reaping.signalled() == {pid}


def test_a_pool_out_of_sight_is_released_when_its_worker_has_left():
    with pool(2, 40, "stuck") as manager, Reaping(manager) as reaping:
        os.kill(reaping.until(events.Signalled).pid, signal.SIGKILL)
        (fd,) = reaping.reaper.fds()
        assert select.select([fd], [], [], 5)[0]
        reaping.reaper.wake([fd])
        reaping.reaper.tick([], reaping.settings, time.monotonic())
        os.close(lock.take(procfs.source().process(manager).id))


@pytest.mark.parametrize("days", [0.5, 3])
def test_a_pause_survives_while_the_manager_of_a_pool_out_of_sight_lives_and_a_day_longer(days):
    with pool(1, 40) as manager, Reaping(manager) as reaping:
        reaping.tick()
        reaping.reaper.command(Command("pause", "myapp"), ["myapp"])
        reaping.reaper.tick([], NOTHING, time.monotonic() + days * 86400)
        assert reaping.reaper.pools.paused()
    until(lambda: not psutil.pid_exists(manager))
    reaping.reaper.tick([], NOTHING, time.monotonic() + days * 86400)
    assert bool(reaping.reaper.pools.paused()) is (days < 1)


# Where it fails, and the name of the pool that it is about.
STEPS = {
    "look": (host_look, "look", lambda watch, *_: watch.program.name),
    "take": (WatchedPool, "take", lambda pool, *_: pool.name),
    "row": (Sizes, "_row", lambda _sizes, pool, *_: pool.name),
}


@pytest.mark.parametrize(("owner", "step", "name_of"), STEPS.values(), ids=STEPS)
def test_an_error_in_any_step_of_one_pool_is_one_line_and_the_others_are_reaped(monkeypatch, owner, step, name_of):
    real = getattr(owner, step)

    def fails(*args):
        if name_of(*args) == "broken":
            raise RuntimeError("made for the test")
        return real(*args)

    monkeypatch.setattr(owner, step, fails)
    with pool(2, 40) as manager, pool(2, 40) as other, Reaping(manager) as reaping:
        reaping.settings = resolve({name: {**_given(QUICK)} for name in ("broken", "myapp")})
        reaping.programs.insert(0, Program("broken", "broken", "RUNNING", other))
        eventually(lambda: _assert_emitted(reaping, events.Signalled, "myapp"))
        for _ in range(3):
            reaping.reaper.tick(reaping.programs, reaping.settings, time.monotonic())
        assert [row["name"] for row in reaping.reaper.status()] == ["myapp"]
    (error,) = reaping.all_of(events.InternalError)
    assert (error.pool, error.error) == ("broken", "RuntimeError('made for the test')")
    if step != "_row":  # of its status alone: it is reaped all the same
        assert "broken" not in {event.pool for event in reaping.all_of(events.Signalled)}


def test_a_pool_with_a_total_that_is_no_longer_watched_does_not_end_the_tick(monkeypatch):
    with pool(2, 40) as manager, pool(2, 40) as other, Reaping(other), Reaping(manager) as reaping:
        given = _given({"total": "50MB", "min_age": "1s", "settle": "0s"})
        reaping.programs.append(Program("second", "second", "RUNNING", other))
        reaping.settings = resolve({"myapp": given, "second": _given({**QUICK, "limit": "1GB"})})
        eventually(lambda: _assert_emitted(reaping, events.Signalled, "myapp"))
        reaping.settings = resolve({"second": _given(QUICK)})
        before = len(reaping.all_of(events.Signalled))
        eventually(lambda: _assert_more_signalled(reaping, before))
    assert reaping.all_of(events.InternalError) == []


def _assert_more_signalled(reaping: Reaping, before: int) -> None:
    reaping.reaper.tick(reaping.programs, reaping.settings, time.monotonic())
    assert len(reaping.all_of(events.Signalled)) > before


def test_an_error_in_the_common_steps_is_one_line_and_each_pool_is_reaped(monkeypatch):
    def fails(*_):
        raise OSError(errno.EMFILE, "made for the test")

    monkeypatch.setattr(MemoryWatch, "follow", fails)
    with pool(2, 40) as manager, Reaping(manager) as reaping:
        reaping.until(events.Signalled)
    assert reaping.all_of(events.InternalError)


def test_a_signal_followed_by_an_error_counts_for_the_shortage():
    with pool(2, 40) as manager, Reaping(manager) as reaping:
        reaping.settings = resolve({"myapp": _given({"total": "50MB", "min_age": "1s", "settle": "0s"})})

        def fails(event: events.Event) -> None:
            if isinstance(event, events.Signalled):
                raise OSError("made for the test")

        reaping.reaper = Reaper(ThisMachine(), (reaping.events.append, fails))
        reaping.until(events.Signalled)
        (episode,) = reaping.reaper.memory.episodes.values()
        assert episode.reaps == 1


def test_a_worker_signalled_by_an_ended_memreap_is_followed_and_no_other_is_reaped():
    with pool(3, 40) as manager, Reaping(manager) as reaping:
        view = procfs.source()
        (first, *_) = (view.process(pid).id for pid in sorted(workers_below(manager)))
        leaving = Reap(first, time.monotonic(), frozenset([first]))
        saved = PoolState(manager=view.process(manager).id, reap=leaving)
        reaping.reaper = Reaper(ThisMachine(), (reaping.events.append,), saved=lambda: {"myapp": saved})
        until(lambda: reaping.tick().choice.standing, "leaving")  # as soon as they are old enough for an attempt
        assert reaping.all_of(events.Signalled) == []
        psutil.Process(first.pid).kill()
        assert reaping.until(events.Left).worker == first
        reaping.until(events.Signalled)


def _given(values: dict[str, str]) -> dict[str, Given]:
    return {key: Given(value, "test") for key, value in values.items()}


def _assert_emitted(reaping: Reaping, kind: type[events.Event], pool: str) -> None:
    reaping.reaper.tick(reaping.programs, reaping.settings, time.monotonic())
    assert pool in [event.pool for event in reaping.all_of(kind)]


def test_an_error_after_the_signal_may_have_been_sent_counts_as_sent(monkeypatch):
    def fails(*_):
        raise RuntimeError("made for the test")

    monkeypatch.setattr(attempts.PoolAttempts, "_follow", fails)
    with pool(3, 40, "stuck") as manager, Reaping(manager) as reaping:
        eventually(lambda: _assert_emitted(reaping, events.InternalError, "myapp"))
        monkeypatch.setattr(thismachine, "Attempt", lambda *_: pytest.fail("a second worker was asked for"))
        for _ in range(3):
            assert reaping.tick().state.leaving.phase is Phase.SIGNALLED


def test_an_error_after_the_second_signal_may_have_been_sent_counts_as_sent(monkeypatch):
    def fails(*_):
        raise RuntimeError("made for the test")

    with pool(2, 40, "stuck") as manager, Reaping(manager) as reaping:
        reaping.until(events.Signalled)
        reaping.later = policy.AGAIN
        monkeypatch.setattr(attempts, "_settle_again", fails)
        reaping.until(events.InternalError)
        monkeypatch.setattr(thismachine, "Attempt", lambda *_: pytest.fail("a third signal was asked for"))
        for _ in range(3):
            assert reaping.tick().state.leaving.phase is Phase.AGAIN


def test_without_the_lock_nothing_is_sent_and_the_line_gives_the_cause(monkeypatch):
    def fails(_process):
        raise Unlockable("the lock /proc/1/personality cannot be opened (Permission denied)")

    monkeypatch.setattr(lock, "take", fails)
    with pool(2, 40) as manager, Reaping(manager) as reaping:
        event = reaping.until(events.Locked)
        for _ in range(3):
            reaping.tick()
    assert reaping.all_of(events.Locked) == [event]
    assert not reaping.all_of(events.Signalled)
    assert event.holder == "the lock /proc/1/personality cannot be opened (Permission denied)"


def test_a_request_survives_one_incomplete_list_of_children(monkeypatch):
    with pool(3, 5, "busy") as manager, Reaping(manager, min_age="1h") as reaping:
        reaping.tick()
        reaping.reaper.command(Command("roll", "myapp"), ["myapp"])
        monkeypatch.setattr(procfs.Procfs, "children", lambda *_: [])
        assert len(reaping.tick().state.requested) == 3


def test_a_worker_whose_files_are_unreadable_for_a_moment_has_not_left(monkeypatch):
    with pool(3, 40, "stuck", "busy") as manager, Reaping(manager, idle_wait="0s", hold="no") as reaping:
        pid = reaping.until(events.Signalled).pid
        real = reader.read

        def blocked(path: str) -> bytes:
            if path.startswith(f"/proc/{pid}/"):
                raise reader.Blocked(errno.EACCES, "its memory map is locked", path)
            return real(path)

        monkeypatch.setattr(reader, "read", blocked)
        for _ in range(3):
            assert pid in {worker.id.pid for worker in reaping.tick().pool.workers}
        monkeypatch.undo()
        for _ in range(3):
            assert reaping.tick().choice.standing == "leaving"
        assert reaping.signalled() == {pid}


@pytest.mark.parametrize("stuck", ["report", "KILL"])
def test_a_dry_run_sends_no_second_or_stronger_signal(monkeypatch, stuck):
    for module, name in ((thismachine, "Attempt"), (signalling, "force")):
        monkeypatch.setattr(module, name, lambda *_: pytest.fail("a dry run has sent something"))
    with pool(2, 40, "stuck") as manager, Reaping(manager, stuck=stuck) as reaping:
        worker = procfs.source().process(min(workers_below(manager))).id
        signalled = Reap(worker, time.monotonic() - 1000, frozenset([worker]))
        state = PoolState(
            settings=reaping.settings.of(reaping.programs[0]),
            manager=procfs.source().process(manager).id,
            reap=signalled,
        )
        reaping.reaper = Reaper(ThisMachine(), (reaping.events.append,), dry_run=True, states={"myapp": state})
        for later in (0.0, 1000.0, 2000.0):
            reaping.later = later
            reaping.tick()


def test_one_pool_saved_by_another_version_loses_neither_the_others_nor_a_pause(statefile, states_in):
    leaving = Reap(ProcessId(11, 0.1), 1.5, frozenset([ProcessId(11, 0.1)]))
    statefile.write({"old": PoolState(paused=True), "new": PoolState(reap=leaving)}, 1.0)
    (path,) = states_in.glob("memreap-*.json")
    data = json.loads(path.read_text())
    data["pools"]["old"] = {"paused": True, "falls": 2}
    data["pools"]["new"]["settings"] = {"limit": 1, "colour": "red"}
    del data["pools"]["new"]["requested"]
    path.write_text(json.dumps(data))
    states, trouble = statefile.read(2.0)
    assert (states["old"].paused, states["new"].leaving, states["new"].settings) == (True, leaving, None)
    assert "parts of it were written by another version" in trouble


def test_the_status_of_a_quiet_pool_shows_its_server_and_signal(tmp_path):
    with pool(2, 5, "term", script=Path(shutil.copy(POOL, tmp_path / "gunicorn"))) as manager:
        with Reaping(manager, limit="1GB") as reaping:
            reaping.tick()
            (values,) = reaping.reaper.status()
        assert reaping.events == []
    assert (values["standing"], values["server"], values["signal"]) == ("quiet", "gunicorn", "TERM")
    assert values["signal_is_set"] is False


def test_the_second_signal_equals_the_first_even_if_the_settings_have_changed():
    with pool(1, 40, "gap") as manager, Reaping(manager) as reaping:
        first = reaping.until(events.Signalled)
        reaping.settings = reaping.with_settings(signal="TERM")
        reaping.later = policy.AGAIN
        second = reaping.until(events.SignalledAgain)
    assert (first.signal, second.signal, second.worker) == ("HUP", "HUP", first.worker)


def test_a_worker_that_never_reaches_its_boundary_does_not_delay_the_others(tmp_path):
    with fastcgi_pool(tmp_path, 2) as (manager, path), socket.socket(socket.AF_UNIX) as half:
        half.connect(path)  # its worker is never between two requests
        busy = eventually(lambda: _assert_one_serves(manager))
        with Reaping(manager, limit="1GB") as reaping:
            reaping.tick()
            reaping.reaper.command(Command("roll", "myapp"), ["myapp"])
            assert reaping.until(events.Signalled).pid != busy


def _assert_one_serves(manager: int) -> int:
    (serves,) = [pid for pid in workers_below(manager) if sockets.of(pid).has_client]
    return serves


def test_a_refused_ptrace_is_not_tried_again_at_each_look(monkeypatch):
    holds = []

    def refused(order, *_):
        holds.append(order.hold)
        return Refused()

    class Refused:
        fd, deadline, handle = os.open(os.devnull, os.O_RDONLY), 0.0, None

        def outcome(self):
            return Outcome(Result.BUSY, unheld=True)

        cancel = outcome

    monkeypatch.setattr(thismachine, "Attempt", refused)
    with pool(2, 40) as manager, Reaping(manager) as reaping:
        until(lambda: reaping.tick() and len(holds) >= 4)
    assert holds[0] is True
    assert not any(holds[1:])
    assert len(reaping.all_of(events.CannotHold)) == 1
    os.close(Refused.fd)
