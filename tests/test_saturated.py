"""Pools with more clients than workers where ptrace is not used: no worker is seen idle, and they are still reaped."""

from __future__ import annotations

import re
import sys

import psutil
import pytest
from support import servers, stack
from support.driver import eventually, until
from support.load import Load
from support.looking import only_wchan, reap

from supervisor_memreap.core.model import Pool as Seen
from supervisor_memreap.core.model import Program
from supervisor_memreap.core.servers import signal_while_busy
from supervisor_memreap.core.settings import PoolSettings, Watch
from supervisor_memreap.host import look
from supervisor_memreap.host.connections import Clients
from supervisor_memreap.host.procfs import Procfs

CLIENTS = 8
# Seconds that each request takes. With quicker ones, nginx and the clients keep two CPUs busy, and workers are idle.
TAKES = 0.1
LIMIT_MB = 30
SETTINGS = PoolSettings(limit=1, hold=False)


def memreap(where, more: str = "") -> str:
    return stack.recorder(where) + (
        f"[memreap:myapp]\nlimit={LIMIT_MB}MB\nmin_age=1s\nsettle=1s\nhold=no\nidle_wait=2s\n{more}"
        f"[eventlistener:memreap]\ncommand={sys.executable} -m supervisor_memreap listen\n"
        f"events=TICK_5\nbuffer_size=100\nstderr_logfile={where}/memreap.log\n"
    )


def test_never_idle_workers_get_the_cheapest_signal_and_no_request_is_lost(where):
    server = servers.named("FCGI::ProcManager")
    with servers.running(server, where, memreap(where)) as pool:
        with Load(pool.port, "/myapp/", CLIENTS, pause=0.0, takes=TAKES) as load:
            large = pool.grow(2, 40)
            eventually(lambda: stack.assert_in_turn(where, 2), timeout=60)
        reaps = stack.announced(where)[0::2]
        assert {event["pid"] for event in reaps} == large
        busy = [event for event in reaps if "USR1 sent while busy, since it was not seen" in event["message"]]
        assert busy
        for event in reaps:  # on a busy machine a glance may also not be in time
            assert re.search("HUP sent while idle$|USR1 sent(; could not tell| while busy)", event["message"])
            assert event["signal"] in event["message"]
        assert load.tally.lost == {}
        assert load.tally.answered > 200


class NeverIdle(Procfs):
    """A view in which no idle moment is ever seen, but connections are."""

    def idle(self, pid: int) -> bool | None:
        return None


class Blind(NeverIdle):
    """As a root without CAP_SYS_PTRACE sees the workers of another user, which a container has by default."""

    def clients(self, pid: int) -> Clients:
        raise PermissionError


def workers_of(pool: stack.Pool) -> Seen:
    return look.look(Watch(Program("myapp", "myapp", "RUNNING", pool.manager().pid), SETTINGS), Procfs())


def assert_all_are_there(pool: stack.Pool) -> None:
    seen = workers_of(pool)
    assert len(seen.workers) == servers.WORKERS
    assert all(worker.age > 0.5 for worker in seen.workers)


@pytest.mark.timeout(240)
@pytest.mark.parametrize("server", ["FCGI::ProcManager", "php-fpm", "Apache prefork"])
def test_busy_workers_are_signalled_and_lose_nothing_but_not_where_connections_are_kept(where, server):
    """Also as seen with fewer rights: that takes one of the servers, and Apache where nothing is seen."""
    set_up = servers.named(server)
    with servers.running(set_up, where) as pool:
        kept = servers.kept(set_up, pool)
        if server == "Apache prefork":
            blind_to_kept_connections(pool)
        leave(pool, NeverIdle(), 2.0, 2)
        stay(pool, kept)
        if server == "FCGI::ProcManager":
            with pytest.MonkeyPatch.context() as patched:
                only_wchan(patched)
                leave(pool, NeverIdle(), 2.0, 1)
                stay(pool, kept)
            leave(pool, Blind(), 0.1, 2)


def leave(pool: stack.Pool, view: NeverIdle, watch: float, count: int) -> None:
    """`count` busy workers get their signal and leave without a lost request."""
    with Load(pool.port, f"/{pool.name}/", CLIENTS, pause=0.0, takes=TAKES) as load:
        for _ in range(count):
            eventually(lambda: assert_all_are_there(pool))
            seen = workers_of(pool)
            worker = seen.workers[0]
            outcome = reap(seen, worker, SETTINGS, view, watch, idle_wait_expired=True)
            expected = signal_while_busy(worker.detail.server, None)
            assert (outcome.result, outcome.moment, outcome.signal) == ("sent", "unknown", expected)
            until(lambda pid=worker.id.pid: not psutil.pid_exists(pid))
    assert load.tally.lost == {}


def stay(pool: stack.Pool, kept: stack.Pool) -> None:
    """No busy worker is signalled where connections are kept, and wait a moment between two requests."""
    with Load(pool.port, f"/{kept.name}/", CLIENTS, 20, pause=0.02, takes=TAKES) as load:
        eventually(lambda: assert_all_are_there(pool))
        seen = workers_of(pool)
        for worker in seen.workers[:2]:
            until(lambda pid=worker.id.pid: Procfs().clients(pid).connections)
            outcome = reap(seen, worker, SETTINGS, NeverIdle(), 5.0, idle_wait_expired=True)
            assert (outcome.result, outcome.is_kept) == ("busy", True)
    assert load.tally.lost == {}


def blind_to_kept_connections(pool: stack.Pool) -> None:
    """Of Apache, whose clients keep connections by default: it is not signalled while busy where nothing is seen."""
    eventually(lambda: assert_all_are_there(pool))
    seen = workers_of(pool)
    outcome = reap(seen, seen.workers[0], SETTINGS, Blind(), 0.1, idle_wait_expired=True)
    assert (outcome.result, outcome.may_be_kept) == ("busy", True)
