"""Real managers that grow and shrink their pools: a grown worker is replaced there too."""

from __future__ import annotations

import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest
from support import servers, stack
from support.driver import eventually, until
from support.servers import Server

# The number of workers while there is little to do, and the largest: more than twice as many, so that those which are
# left are less than half of the usual number.
LEFT, MOST = 2, 6
COMPLAINTS = ("has not settled", "of the usual", "has no workers", "suspended", "is stuck")


def with_file(server: Server, name: str, *replacements: tuple[str, str]) -> Server:
    """The server, with other lines in its own configuration."""
    text = server.files[name]
    for old, new in replacements:
        assert text.count(old) == 1
        text = text.replace(old, new)
    return replace(server, files={**server.files, name: text})


DYNAMIC = f"pm = dynamic\npm.max_children = {MOST}\npm.start_servers = {LEFT}\npm.min_spare_servers = {LEFT}\n"
ELASTIC = [
    with_file(
        servers.named("php-fpm"),
        "php-fpm.conf",
        ("pm = static\npm.max_children = 4\n", f"{DYNAMIC}pm.max_spare_servers = {LEFT}\n"),
    ),
    # Apache itself makes MaxSpareServers larger than MinSpareServers.
    with_file(
        servers.named("Apache prefork"),
        "apache.conf",
        ("StartServers 4\n", f"StartServers {LEFT}\n"),
        ("MinSpareServers 4\nMaxSpareServers 8\n", f"MinSpareServers {LEFT - 1}\nMaxSpareServers {LEFT}\n"),
        ("MaxRequestWorkers 4\nServerLimit 4\n", f"MaxRequestWorkers {MOST}\nServerLimit {MOST}\n"),
    ),
    replace(
        servers.named("FCGI::ProcManager"),
        name="FCGI::ProcManager::Dynamic",
        command=f"perl {stack.APPS}/dynamic.pl {{where}}/myapp.sock {LEFT} {MOST}",
    ),
]


def memreap(server: Server, where: Path) -> str:
    return stack.recorder(where) + (
        f"[memreap:myapp]\nlimit=50MB\nsignal={server.signal}\nmin_age=1s\nsettle=1s\ngrace=5s\n"
        f"[eventlistener:memreap]\ncommand={Path(sys.executable).parent}/memreap listen\n"
        f"events=TICK_5\nbuffer_size=100\nstderr_logfile={where}/memreap.log\n"
    )


def request_in_parallel(pool: stack.Pool) -> None:
    """Ask until the manager has forked as many workers as it may: each request keeps one of them for a while."""
    stop = threading.Event()

    def ask() -> None:
        while not stop.is_set():
            pool.ask("s=0.3")

    threads = [threading.Thread(target=ask) for _ in range(MOST)]
    for thread in threads:
        thread.start()
    try:
        until(lambda: len(pool.workers()), MOST)
    finally:
        stop.set()
        for thread in threads:
            thread.join()


@pytest.mark.parametrize("server", ELASTIC, ids=str)
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
        assert [line for line in pool.log().splitlines() if any(words in line for words in COMPLAINTS)] == []
