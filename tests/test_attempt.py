"""An attempt is made by a child process, and whatever becomes of that, it is known or counts as sent."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from dataclasses import replace

import psutil
import pytest
from support.driver import eventually, pool, workers_below
from support.looking import ended, look, order_of

from supervisor_memreap.core.model import SentMoment
from supervisor_memreap.host import attempt, boundary, lock
from supervisor_memreap.host.attempt import Attempt
from supervisor_memreap.host.procfs import Procfs

pytestmark = pytest.mark.skipif(not boundary.is_usable(), reason=f"not on {sys.platform}")


@contextlib.contextmanager
def ordered(*words: str, patience: float = 30.0):
    """The pid of the only worker of a pool, and the order to signal it."""
    with pool(1, 40, *words) as manager:
        seen = look(manager)
        (worker,) = seen.workers
        yield worker.id.pid, order_of(seen, worker, watch=patience)


def made(order) -> Attempt:
    return Attempt(order, Procfs(), None, None)


def _assert_gone(pid: int) -> None:
    with contextlib.suppress(psutil.NoSuchProcess):
        assert psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def test_what_the_child_says_is_what_came_of_it():
    with ordered() as (worker, order):
        outcome = ended(made(order))
        assert (outcome.result, outcome.moment, outcome.unheld) == ("sent", SentMoment.HELD, False)
        assert outcome.private > 40 * 1024**2
        eventually(lambda: _assert_gone(worker))


def test_while_it_goes_on_nothing_is_known_and_when_it_is_cancelled_nothing_was_sent():
    with ordered("busy") as (worker, order):
        one = made(order)
        assert one.outcome() is None
        assert one.cancel().result == "busy"
        assert psutil.pid_exists(worker)


def test_a_child_that_is_ended_before_it_has_handlers_of_its_own_does_not_wake_its_parent():
    """The listener ends itself on TERM, of which it hears by a pipe that the child has too."""
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


def test_one_that_has_no_more_time_than_that_is_not_shortened_as_it_may_signal_a_busy_worker_at_its_end():
    with ordered("busy", patience=5.0) as (_worker, order):
        one = made(order)
        before = one.deadline
        one.shorten(5.0)
        assert one.deadline == before
        one.shorten(1.0)
        assert one.deadline < before - 3
        one.cancel()


def test_a_child_is_in_a_session_of_its_own_so_that_ctrl_z_does_not_stop_it():
    with ordered("busy") as (_worker, order):
        one = made(order)
        eventually(lambda: _assert_own_session(one.child))
        one.cancel()


def _assert_own_session(child: int) -> None:
    assert os.getsid(child) == child


def test_where_another_worker_has_left_meanwhile_nothing_is_sent():
    with ordered() as (worker, order):
        outcome = ended(made(replace(order, siblings=frozenset({worker, 1}))))
        assert (outcome.result, outcome.unheld) == ("busy", False)
        assert psutil.pid_exists(worker)


def test_a_child_that_ends_after_it_said_that_it_signals_may_have_done_so(monkeypatch):
    monkeypatch.setattr(attempt, "send_to_main_thread", lambda *_: os.kill(os.getpid(), signal.SIGKILL))
    with ordered() as (_worker, order):
        outcome = ended(made(order))
    assert (outcome.result, outcome.moment) == ("sent", SentMoment.UNKNOWN)


def test_a_child_that_is_ended_after_it_signalled_has_done_so_even_if_that_was_not_read_in_time(monkeypatch):
    with ordered(patience=2.0) as (worker, order):
        monkeypatch.setattr(attempt, "_OVERRUN", 0.0)
        one = made(order)
        eventually(lambda: _assert_gone(worker))  # this process did not run while the child did all of it
        assert ended(one).result == "sent"


def test_a_child_that_hangs_is_ended_in_time(monkeypatch):
    monkeypatch.setattr(attempt, "_OVERRUN", 0.1)
    monkeypatch.setattr(attempt, "has_changed", lambda *_: time.sleep(1000))
    with ordered(patience=0.1) as (worker, order):
        outcome = ended(made(order))
        assert (outcome.result, outcome.unheld) == ("busy", False)
        assert psutil.pid_exists(worker)


def test_a_child_that_is_ended_at_once_means_that_ptrace_is_not_permitted(monkeypatch):
    # As a seccomp filter does that kills who calls ptrace.
    monkeypatch.setattr(boundary.Tracer, "steps", lambda *_: os.kill(os.getpid(), signal.SIGSYS))
    with ordered() as (worker, order):
        outcome = ended(made(order))
        assert (outcome.result, outcome.unheld) == ("busy", True)
        assert psutil.pid_exists(worker)


def test_a_child_that_is_killed_by_anything_else_means_nothing(monkeypatch):
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
def test_where_sigchld_is_ignored_what_the_child_said_counts():
    with ordered() as (worker, order):
        assert ended(made(order)).result == "sent"
        eventually(lambda: _assert_gone(worker))


def test_a_child_ends_with_its_parent_and_holds_the_lock_until_then():
    with pool(1, 40, "busy") as manager:
        seen = look(manager)
        (worker,) = seen.workers
        parent = os.fork()
        if parent == 0:
            try:
                Attempt(order_of(seen, worker, watch=60.0), Procfs(), None, lock.take(seen.manager))
                time.sleep(60)
            finally:
                os._exit(0)
        (child,) = eventually(lambda: _assert_one_below(parent))
        with pytest.raises(lock.Locked):
            lock.take(seen.manager)
        os.kill(parent, signal.SIGKILL)
        os.waitpid(parent, 0)
        eventually(lambda: _assert_ended(child))
        os.close(lock.take(seen.manager))
        assert psutil.pid_exists(worker.id.pid)


def _assert_one_below(parent: int) -> set[int]:
    below = workers_below(parent)
    assert len(below) == 1
    return below


def _assert_ended(pid: int) -> None:
    assert not psutil.pid_exists(pid)
