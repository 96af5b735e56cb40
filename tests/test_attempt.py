"""An attempt is made by a child process; its outcome is known, or it counts as sent."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import sys
import time
from dataclasses import replace

import psutil
import pytest
from support.driver import eventually, exactly, is_alive, pool, until, workers_below
from support.looking import ended, look_in_full, order_of

from supervisor_memreap.core.model import SentMoment
from supervisor_memreap.core.servers import Loop, with_loop
from supervisor_memreap.host import attempt, boundary, lock
from supervisor_memreap.host.attempt import Attempt
from supervisor_memreap.host.machine import Locked
from supervisor_memreap.host.procfs import Procfs
from supervisor_memreap.host.thismachine import ThisMachine

pytestmark = pytest.mark.skipif(not boundary.is_usable(), reason=f"not on {sys.platform}")


@contextlib.contextmanager
def ordered(*words: str, patience: float = 30.0):
    """The pid of the only worker of a pool, and the order to signal it."""
    with pool(1, 40, *words) as manager:
        seen = look_in_full(manager)
        (worker,) = seen.workers
        yield worker.id.pid, order_of(seen, worker, watch=patience)


def made(order) -> Attempt:
    return Attempt(order, Procfs(), None, None)


def test_the_outcome_is_what_the_child_reports():
    with ordered() as (worker, order):
        outcome = ended(made(order))
        assert (outcome.result, outcome.moment, outcome.unheld) == ("sent", SentMoment.HELD, False)
        assert outcome.private > 40 * 1024**2
        until(lambda: not is_alive(worker))


def test_what_may_fail_in_the_parent_comes_before_the_child_and_leaves_no_descriptor(monkeypatch):
    """OSError means that nothing was sent, so no child may run then."""

    def refused(*_args):
        raise OSError

    with ordered() as (worker, order):
        machine, before = ThisMachine(), os.listdir("/proc/self/fd")
        monkeypatch.setattr(os, "set_blocking", refused)
        monkeypatch.setattr(os, "fork", lambda: pytest.fail("a child was started"))
        with pytest.raises(OSError):  # noqa: PT011
            machine.attempt(order, None)
        assert os.listdir("/proc/self/fd") == before
        assert is_alive(worker)


def test_an_attempt_with_a_lock_of_another_kind_opens_no_descriptor():
    class Other:
        def fileno(self) -> int:
            return 0

    with ordered() as (_worker, order):
        machine, before = ThisMachine(), os.listdir("/proc/self/fd")
        with pytest.raises(AssertionError):
            machine.attempt(order, Other())  # type: ignore[arg-type]
        assert os.listdir("/proc/self/fd") == before


def test_an_attempt_has_no_outcome_while_it_runs_and_sends_nothing_when_cancelled():
    with ordered("busy") as (worker, order):
        one = made(order)
        assert one.outcome() is None
        assert one.cancel().result == "busy"
        assert psutil.pid_exists(worker)


def test_a_child_ended_before_it_installs_its_handlers_does_not_wake_its_parent():
    """The listener ends on TERM, which reaches it through a pipe that the child has too."""
    with ordered("busy") as (_worker, order):
        parent = os.fork()
        if parent == 0:
            woken, wake = os.pipe()
            os.set_blocking(wake, False)
            os.set_blocking(woken, False)
            signal.set_wakeup_fd(wake)
            signal.signal(signal.SIGTERM, lambda *_: None)
            for _ in range(30):
                made(order).cancel()
            try:
                os._exit(len(os.read(woken, 100)))
            except BlockingIOError:
                os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(parent, 0)[1]) == 0


def test_an_attempt_with_little_time_left_is_not_shortened_since_it_may_end_with_a_busy_signal():
    with ordered("busy", patience=5.0) as (_worker, order):
        one = made(order)
        before = one.deadline
        one.shorten(5.0)
        assert one.deadline == before
        one.shorten(1.0)
        assert one.deadline < before - 3
        one.cancel()


def test_a_child_has_its_own_session_so_ctrl_z_does_not_stop_it():
    with ordered("busy") as (_worker, order):
        one = made(order)
        until(lambda: os.getsid(one.child), one.child)
        one.cancel()


def test_nothing_is_sent_if_another_worker_has_left_meanwhile():
    with ordered() as (worker, order):
        outcome = ended(made(replace(order, siblings=frozenset({worker, 1}))))
        assert (outcome.result, outcome.unheld) == ("busy", False)
        assert psutil.pid_exists(worker)


def test_a_child_that_ends_after_announcing_its_signal_may_have_sent_it(monkeypatch):
    monkeypatch.setattr(attempt, "send_to_main_thread", lambda *_: os.kill(os.getpid(), signal.SIGKILL))
    with ordered() as (_worker, order):
        outcome = ended(made(order))
    assert (outcome.result, outcome.moment) == ("sent", SentMoment.UNKNOWN)


def test_a_child_ended_after_signalling_has_signalled_even_if_that_was_read_late(monkeypatch):
    with ordered(patience=2.0) as (worker, order):
        monkeypatch.setattr(attempt, "_OVERRUN", 0.0)
        one = made(order)
        until(lambda: not is_alive(worker))  # this process did not run while the child did all of it
        assert ended(one).result == "sent"


def test_a_child_that_hangs_is_ended_in_time(monkeypatch):
    monkeypatch.setattr(attempt, "_OVERRUN", 0.1)
    monkeypatch.setattr(attempt, "has_changed", lambda *_: time.sleep(1000))
    with ordered(patience=0.1) as (worker, order):
        outcome = ended(made(order))
        assert (outcome.result, outcome.unheld) == ("busy", False)
        assert psutil.pid_exists(worker)


def test_a_child_killed_for_calling_ptrace_shows_that_it_is_not_permitted(monkeypatch):
    # As a seccomp filter does that kills who calls ptrace.
    monkeypatch.setattr(boundary.Tracer, "steps", lambda *_: os.kill(os.getpid(), signal.SIGSYS))
    with ordered() as (worker, order):
        outcome = ended(made(order))
        assert (outcome.result, outcome.unheld) == ("busy", True)
        assert psutil.pid_exists(worker)


def test_where_ptrace_is_refused_an_idle_moment_is_waited_for_until_the_end_of_the_attempt(monkeypatch):
    def refused(*_args):
        raise PermissionError(errno.EPERM, "ptrace")

    monkeypatch.setattr(boundary, "_ptrace", refused)
    monkeypatch.setattr(boundary, "FROZEN", 0.1)
    monkeypatch.setattr(Procfs, "idle", lambda *_: False)
    with ordered(patience=1.0) as (worker, order):
        outcome = ended(made(order))
        assert (outcome.result, outcome.unheld, outcome.stopped) == ("busy", True, 0.0)
        assert psutil.pid_exists(worker)


def test_a_child_killed_by_another_signal_proves_nothing(monkeypatch):
    monkeypatch.setattr(boundary.Tracer, "steps", lambda *_: os.kill(os.getpid(), signal.SIGKILL))
    with ordered() as (worker, order):
        outcome = ended(made(order))
        assert (outcome.result, outcome.unheld) == ("busy", False)
        assert psutil.pid_exists(worker)


@pytest.fixture
def _children_are_not_waited_for():
    """As inherited from a shell with `trap '' CHLD`, or from a job runner in Perl."""
    before = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    yield
    signal.signal(signal.SIGCHLD, before)


@pytest.mark.usefixtures("_children_are_not_waited_for")
def test_the_report_of_the_child_counts_where_sigchld_is_ignored():
    with ordered() as (worker, order):
        assert ended(made(order)).result == "sent"
        until(lambda: not is_alive(worker))


def test_a_child_ends_with_its_parent_and_holds_the_lock_until_then():
    with pool(1, 40, "busy") as manager:
        seen = look_in_full(manager)
        (worker,) = seen.workers
        parent = os.fork()
        if parent == 0:
            try:
                Attempt(order_of(seen, worker, watch=60.0), Procfs(), None, lock.take(seen.manager))
                time.sleep(60)
            finally:
                os._exit(0)
        (child,) = eventually(lambda: exactly(1, workers_below(parent)))
        with pytest.raises(Locked):
            lock.take(seen.manager)
        os.kill(parent, signal.SIGKILL)
        os.waitpid(parent, 0)
        until(lambda: not psutil.pid_exists(child))
        os.close(lock.take(seen.manager))
        assert psutil.pid_exists(worker.id.pid)


class SeenIn(Procfs):
    """Each reading shows the worker in the next of these loops."""

    def __init__(self, *loops: Loop):
        self._loops = iter(loops)

    def loop(self, pid: int, manager: int) -> Loop:
        return next(self._loops)


@pytest.mark.parametrize(
    ("loops", "result"),
    [((Loop.NONE, Loop.EVENTFD), "sent"), ((Loop.NONE, Loop.PAIR), "changed"), ((Loop.PIPE,), "changed")],
)
def test_a_busy_worker_whose_loop_is_another_than_at_the_look_is_not_signalled(loops, result):
    with ordered("busy", "term", patience=0.3) as (worker, order):
        order = replace(order, server="gunicorn", signal="TERM", busy_signal="TERM", hold=False, may_be_busy=True)
        assert ended(Attempt(order, SeenIn(*loops), None, None)).result == result
        if result == "sent":
            until(lambda: not is_alive(worker))
        else:
            assert is_alive(worker)


@pytest.mark.parametrize(
    ("loops", "result"),
    [
        ((Loop.PAIR,), "changed"),
        ((Loop.HIDDEN, Loop.HIDDEN, Loop.PAIR), "changed"),
        ((Loop.HIDDEN, Loop.HIDDEN, Loop.NONE), "sent"),
        ((Loop.NONE, Loop.HIDDEN, Loop.NONE), "sent"),
    ],
)
def test_a_worker_of_which_the_loop_was_hidden_is_not_signalled_at_its_boundary_if_that_loop_loses(loops, result):
    """As where asyncio took no connections for a while, since descriptors were exhausted."""
    with ordered("term", patience=20.0) as (worker, order):
        order = replace(order, server=with_loop("gunicorn", Loop.HIDDEN), signal="TERM")
        assert ended(Attempt(order, SeenIn(*loops), None, None)).result == result
        if result == "sent":
            until(lambda: not is_alive(worker))
        else:
            assert is_alive(worker)
