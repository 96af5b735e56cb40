"""Real managers that grow and shrink their pools: a grown worker is replaced there too."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from support import inprocess, servers, stack
from support.driver import eventually, until
from support.load import Load
from support.servers import ELASTIC, LEFT, MOST, Server

COMPLAINTS = ("has not settled", "of the usual", "has no workers", "suspended", "is stuck")


def memreap(server: Server, where: Path) -> str:
    return stack.recorder(where) + (
        f"[memreap:myapp]\nlimit=50MB\nsignal={server.signal}\nmin_age=1s\nsettle=1s\ngrace=5s\n"
        f"[eventlistener:memreap]\ncommand={Path(sys.executable).parent}/memreap listen\n"
        f"events=TICK_5\nbuffer_size=100\nstderr_logfile={where}/memreap.log\n"
    )


def complaints(pool: stack.Pool) -> list[str]:
    return [line for line in pool.log().splitlines() if any(words in line for words in COMPLAINTS)]


def request_in_parallel(pool: stack.Pool) -> None:
    """Until the manager has forked as many workers as it may."""
    with servers.requests(pool, 0.3):
        until(lambda: len(pool.workers()), MOST)


def test_php_fpm_that_forks_on_demand_may_be_empty_and_its_last_worker_is_replaced_when_a_client_asks(where):
    server = servers.named("php-fpm ondemand")
    with servers.running(server, where, memreap(server, where)) as pool:
        until(pool.workers, set())
        status = inprocess.memreap("status", "-c", f"{where}/supervisord.conf")
        assert (status.returncode, "BLIND" in status.stdout) == (0, False), status.stdout
        request_in_parallel(pool)
        # A worker leaves 3 to 4 s after its last request. Two that take turns have 5 s between theirs: one is left.
        with Load(pool.port, "/myapp/", clients=1, pause=2.5) as load:
            until(lambda: len(pool.workers()), 1)
            load.let_grow(60 * 1024)
            until(lambda: [event["event"] for event in stack.announced(where)][:2], ["reap", "left"])
            load.let_grow(0)
            until(lambda: pool.lines("took its place") or pool.lines("took the place of"))
        assert load.tally.lost == {}
        assert complaints(pool) == []


@pytest.mark.parametrize("server", [server for server in ELASTIC if server.workers], ids=str)
def test_a_worker_that_grows_is_replaced_although_its_manager_shrank_the_pool(server, where):
    with servers.running(server, where, memreap(server, where)) as pool:
        request_in_parallel(pool)
        until(lambda: len(pool.workers()), LEFT)
        with stack.Watch(pool) as watch:
            grown, _ = pool.ask("mb=60")
            eventually(lambda: stack.assert_in_turn(where, 1))
        assert [event["pid"] for event in stack.announced(where)] == [grown, grown]
        assert watch.fewest >= LEFT - 1
        assert watch.most_gone_together <= 1
        if not pool.lines("took its place"):  # Apache forks none in its place before there is more to do
            request_in_parallel(pool)
        until(lambda: pool.lines("took its place") or pool.lines("took the place of"))
        assert complaints(pool) == []
