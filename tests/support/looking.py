"""One look at a pool of support/pool.py, and one signal."""

from __future__ import annotations

import select
import time

import pytest

from supervisor_memreap.core import reasons
from supervisor_memreap.core.model import Pool, Program, Result
from supervisor_memreap.core.servers import signal_while_busy
from supervisor_memreap.core.settings import PoolSettings, Watch
from supervisor_memreap.host import look as host_look
from supervisor_memreap.host import procfs, signalling, waiting
from supervisor_memreap.host.attempt import Attempt
from supervisor_memreap.host.machine import Order, Outcome
from supervisor_memreap.host.thismachine import Descriptor
from support.driver import eventually

MIB = 1024**2
SETTINGS = PoolSettings(limit=30 * MIB)


def not_permitted(*_: object) -> None:
    raise PermissionError


def only_wchan(monkeypatch: pytest.MonkeyPatch) -> None:
    """As under kernel.yama.ptrace_scope=1: syscall may not be read, wchan may. This kernel has no Yama to turn on."""
    monkeypatch.setattr(waiting, "_system_call", not_permitted)


def look(pid: int, settings: PoolSettings = SETTINGS, view=None, **options):
    def gate(_pool):
        return reasons.detail_needed(reasons.Circumstances(settings))

    watch = Watch(Program("myapp", "myapp", "RUNNING", pid), settings)
    return host_look.look(watch, view or procfs.source(), gate, **options)


def look_in_full(pid: int) -> Pool:
    """The same, as soon as each worker is read in full: those of pool.py take their memory after they were forked."""

    def assert_read() -> Pool:
        seen = look(pid)
        assert all(worker.detail for worker in seen.workers), seen
        return seen

    return eventually(assert_read)


def order_of(seen, worker, settings=SETTINGS, watch=5.0, idle_wait_expired=False) -> Order:
    return Order(
        worker.id,
        seen.manager,
        len(seen.workers) + 1,
        worker.detail.server,
        settings.signal or worker.detail.signal,
        settings.hold,
        idle_wait_expired,
        signal_while_busy(worker.detail.server, settings.signal),
        watch,
    )


def ended(attempt: Attempt) -> Outcome:
    """What came of it, when it has ended."""
    while (outcome := attempt.outcome()) is None:
        select.select([attempt.fd], [], [], max(0.0, attempt.deadline - time.monotonic()) + 0.001)
    return outcome


def reap(seen, worker, settings=SETTINGS, view=None, watch=5.0, idle_wait_expired=False) -> Outcome:
    """One attempt, and what came of it."""
    order = order_of(seen, worker, settings, watch, idle_wait_expired)
    handle = None
    try:
        pidfd = signalling.open_pidfd(worker.id.pid)
        handle = None if pidfd is None else Descriptor(pidfd)
        return ended(Attempt(order, view or procfs.source(), handle, None))
    except ProcessLookupError:
        return Outcome(Result.GONE)
    except OSError:
        return Outcome(Result.FAILED)
    finally:
        if handle:
            handle.close()
