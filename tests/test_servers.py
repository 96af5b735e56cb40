"""Real servers under a real supervisord and load: grown workers are replaced one at a time, and no request is lost."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest
from support import servers, stack
from support.boundary import attempt
from support.driver import assert_in, eventually, stop, until, workers_below
from support.load import Load, expected
from support.servers import REFUSED, SERVERS, WORKERS, Server

from supervisor_memreap.core.model import Program
from supervisor_memreap.core.settings import PoolSettings, Watch
from supervisor_memreap.host import look, procfs, waiting
from supervisor_memreap.host.boundary import tgkill
from supervisor_memreap.host.waiting import Kind

GROWTH_MB = 40
LIMIT_MB = 30
BODY = b"x" * 2048


REFUSALS = {
    "fcgiwrap": "belongs to fcgiwrap, which drops requests on every signal: nothing sent, and no setting helps",
    "multiwatch": "belongs to multiwatch, which gives up a worker that ends 4 times within 10 s of its start",
    "uvicorn": "belongs to uvicorn, which accepts connections for a while after TERM, and drops them",
    "gunicorn with uvicorn's workers": "belongs to gunicorn with asyncio, which drops connections after TERM",
    "gunicorn asgi": "belongs to gunicorn with asyncio, which drops connections after TERM",
    "gunicorn tornado": "belongs to gunicorn with asyncio, which drops connections after TERM",
    "Puma": "belongs to Puma, which closes connections on TERM of which it has not read a request yet",
    "hypercorn": "belongs to hypercorn, which ends as a whole when a worker ends by a signal",
    "Granian with WSGI": "belongs to Granian, which ends as a whole when a worker leaves by a signal",
    "Granian with ASGI": "belongs to Granian, which ends as a whole when a worker leaves by a signal",
}


def memreap(where: Path) -> str:
    """Without signal=: the server's own is the default."""
    return stack.recorder(where) + (
        f"[memreap:myapp]\nlimit={LIMIT_MB}MB\nmin_age=1s\nsettle=0s\nidle_wait=never\n"
        f"[eventlistener:memreap]\ncommand={Path(sys.executable).parent}/memreap listen\n"
        f"events=TICK_5\nbuffer_size=100\nstderr_logfile={where}/memreap.log\n"
    )


def assert_all_are_there(pool: stack.Pool) -> set[int]:
    """Old enough that the server no longer replaces one on its own."""
    workers = pool.workers()
    assert len(workers) == WORKERS
    assert time.time() - max(psutil.Process(pid).create_time() for pid in workers) > 1
    return workers


def assert_reaped_while_idle(pool: stack.Pool, count: int, signal: str) -> set[int]:
    """`count` workers have left in turn, each held while idle; the pids of the last two."""
    stack.assert_in_turn(pool.directory, count)
    events = stack.announced(pool.directory)
    for event in events[0::2]:
        assert re.search(rf": {signal} sent between two requests$", event["message"]), event["message"]
    return {event["pid"] for event in events[-4:]}


@pytest.mark.timeout(240)
@pytest.mark.parametrize("server", SERVERS, ids=str)
def test_grown_workers_are_replaced_one_at_a_time_and_no_request_or_queued_connection_is_lost(server, where):
    with servers.running(server, where, memreap(where)) as pool:
        reaps_without_loss(server, pool, pool, per_connection=1)
        if server.keeps_connections:
            reaps_without_loss(server, pool, servers.kept(server, pool), per_connection=20)
        stack.control(where).stopProcess("memreap")
        serves_a_queued_connection(server, pool)


def reaps_without_loss(server: Server, pool: stack.Pool, asked: stack.Pool, per_connection: int) -> None:
    """Of two workers that have grown; `asked` is the address of the clients."""
    before = eventually(lambda: assert_all_are_there(pool))
    reaps = len(stack.announced(pool.directory)) // 2 + 2
    # 50 requests a second. Each wakes all workers that wait in select or poll: with more, they are seldom idle on a
    # host with many busy processes.
    asking = Load(pool.port, f"/{asked.name}/", per_connection=per_connection, pause=0.03)
    with stack.Watch(pool) as watch, asking as load:
        large = asked.grow(2, GROWTH_MB)
        reaped = eventually(lambda: assert_reaped_while_idle(pool, reaps, server.signal), timeout=80)
    assert reaped == large
    assert load.tally.lost == {}
    assert load.tally.answered > 50
    assert (load.tally.answered / load.tally.connections > 10) is (per_connection > 1)
    # Apache forks a worker once a second, if at all.
    after = eventually(lambda: assert_all_are_there(pool))
    assert before - after == before & large
    assert after.isdisjoint(large)
    assert watch.fewest >= WORKERS - 1
    assert watch.most_gone_together == 1
    assert len(watch.managers) == 1
    assert pool.largest() < LIMIT_MB


def serves_a_queued_connection(server: Server, pool: stack.Pool) -> None:
    """All others are stopped, so that none takes it before, and the worker is held when the connection comes.

    It is served by another one, by the one that takes its place, or by the worker itself before it leaves.
    """
    before = eventually(lambda: assert_all_are_there(pool))
    target = eventually(lambda: waiting_for_a_connection(pool, before))
    others = before - {target}
    try:
        for pid in others:
            stop(pid)
        with ThreadPoolExecutor(1) as threads:
            held, is_held = os.pipe()
            asked = threads.submit(ask_when_held, pool, held)
            outcome = attempt(target, lambda: signal_when_queued(pool, server, target, is_held))
            assert outcome == "sent"
            let_go(others)
            _, answer = asked.result()
            os.close(held)
            os.close(is_held)
    finally:
        let_go(others)
    assert answer == expected(BODY)
    until(lambda: not psutil.pid_exists(target))


def waiting_for_a_connection(pool: stack.Pool, workers: set[int]) -> int:
    """One whose main thread does so itself: workers, and threads, may take turns."""
    for pid in workers:
        wait = waiting.current(pid)
        if wait and wait.kind is not Kind.FLOCK and waiting.idle(pid):
            return pid
    pool.ask()  # it may be another thread's turn then
    raise AssertionError


def let_go(pids: set[int]) -> None:
    for pid in pids:
        os.kill(pid, signal.SIGCONT)


def ask_when_held(pool: stack.Pool, held: int) -> tuple[int, bytes]:
    os.read(held, 1)
    return pool.ask(body=BODY)


def signal_when_queued(pool: stack.Pool, server: Server, worker: int, is_held: int) -> None:
    """Runs in the process that holds the worker."""
    signal.setitimer(signal.ITIMER_REAL, 30)  # it holds none for more than 1 s, and a client may need longer
    os.write(is_held, b"h")
    eventually(lambda: assert_queued(pool, server))
    tgkill(worker, worker, signal.Signals[f"SIG{server.signal}"])


def assert_queued(pool: stack.Pool, server: Server) -> None:
    """There is a connection to the server that no process has accepted: it has no inode yet."""
    if server.front:
        rows = [line.split() for line in Path("/proc/net/unix").read_text().splitlines()]
        assert any(row[6:] == ["0", f"{pool.directory}/myapp.sock"] for row in rows)
    else:
        rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()]
        assert any(row[1].endswith(f":{pool.port:04X}") and row[3] == "01" and row[9] == "0" for row in rows[1:])


def test_the_new_manager_of_an_upgrade_is_never_taken_for_a_worker(where):
    """USR2 to gunicorn: the new manager is a child of the old one, and `python -m` calls all of them python."""
    shutil.copy(stack.APPS / "growing.py", where)
    command = [sys.executable, "-m", "gunicorn", "--workers", "2", "--bind", f"unix:{where}/s", "growing:application"]
    with subprocess.Popen(command, cwd=where, stderr=subprocess.DEVNULL) as process:
        try:
            workers = eventually(lambda: assert_forked(process.pid, 2))
            assert managers_among(process.pid) == []
            process.send_signal(signal.SIGUSR2)
            (manager,) = eventually(lambda: assert_forked(process.pid, 3)) - workers
            eventually(lambda: assert_forked(manager, 2))
            assert managers_among(process.pid) == [manager]
        finally:
            below = psutil.Process(process.pid).children(recursive=True)
            process.kill()
            for each in below:
                each.kill()


def assert_forked(manager: int, count: int) -> set[int]:
    pids = workers_below(manager)
    assert len(pids) == count
    return pids


def managers_among(manager: int) -> list[int]:
    """Those of its children that are not signalled since they look like managers."""
    watch = Watch(Program("myapp", "myapp", "RUNNING", manager), PoolSettings(limit=1))
    workers = look.look(watch, procfs.source()).workers
    return [worker.id.pid for worker in workers if worker.detail and worker.detail.looks_like_manager]


@pytest.mark.parametrize("server", REFUSED, ids=str)
def test_a_server_without_a_graceful_signal_is_refused_and_no_worker_is_signalled(server, where):
    # Its workers do not grow, but each has more address space than that.
    text = memreap(where).replace(f"limit={LIMIT_MB}MB", "limit=1MB\nmetric=vms")
    with servers.running(server, where, text) as pool:
        before = eventually(lambda: assert_forked(pool.manager().pid, WORKERS))
        eventually(lambda: assert_in(REFUSALS[server.name], pool.log()))
        ticks_later = time.time() + 2.5
        until(lambda: time.time() > ticks_later)
        # And not the number of all lines: a worker between fork and exec of its CGI script may be taken for a manager.
        assert pool.log().count(REFUSALS[server.name]) == 1
        assert [event for event in stack.announced(where) if event["event"] == "reap"] == []
        assert pool.workers() == before
        pool.ask()


def test_tests_run_installs_what_each_server_needs():
    (text,) = re.findall(r"^PACKAGES='(.*?)'", (stack.ROOT / "tests/run").read_text(), re.DOTALL | re.MULTILINE)
    needed = {package for server in (*SERVERS, *REFUSED) for package in server.packages}
    assert needed - set(text.split()) == set()
    own = {Path(server.executable).name for server in (*SERVERS, *REFUSED) if not server.packages}
    extra = (stack.ROOT / "setup.cfg").read_text()
    assert own == {"gunicorn", "uvicorn", "hypercorn", "granian"}
    # uvicorn-worker brings uvicorn; the others are what gunicorn's worker classes need.
    assert all(f"    {name}\n" in extra for name in ("uvicorn-worker", "gevent", "tornado", *own - {"uvicorn"}))
