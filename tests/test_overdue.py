"""A pool in which no worker can be signalled, by every way in which memreap is asked."""

from __future__ import annotations

import contextlib
import json
import re
import socket
from collections.abc import Iterator

from support import servers
from support.driver import assert_have_served, eventually, pool, workers_below
from support.operated import Operated, assert_have_been_seen_serving, assert_status
from support.reaping import Reaping
from support.sections import INTERFACES, listener

from supervisor_memreap.core import events
from supervisor_memreap.core.hindrance import Kind

PROCMANAGER = servers.named("FCGI::ProcManager")


@contextlib.contextmanager
def requests(port: int, count: int) -> Iterator[None]:
    """Requests in which a worker grows by 60 MB and then is busy to the end."""
    with contextlib.ExitStack() as clients:
        for _ in range(count):
            client = clients.enter_context(socket.create_connection(("127.0.0.1", port)))
            client.sendall(b"GET /myapp/?mb=60&s=600 HTTP/1.0\r\nHost: x\r\n\r\n")
        yield


def test_a_pool_that_is_never_idle_is_overdue_with_the_reason_and_exit_status_1(where):
    more = listener(where) + INTERFACES + "[memreap:myapp]\nlimit=40MB\nmin_age=1s\nsettle=1s\n"
    operated = Operated.of(where)
    with servers.running(PROCMANAGER, where, more) as served:
        eventually(lambda: assert_have_been_seen_serving(operated, settle=1.0))
        with requests(served.port, servers.WORKERS):
            eventually(lambda: assert_status(operated, r"myapp +OVERDUE(?s:.*)\b4\s+workers\s+are\s+due"))
            for shown in (operated.ctl("memreap", "status"), operated.memreap("status")):
                text = " ".join(shown.stdout.split())
                assert re.search(r"4 workers are due and none could be signalled since [0-9:]+: ", text)
                assert "keep" not in text.partition("This is what")[0]
                assert shown.returncode == 1
            (row,) = json.loads(operated.memreap("status", "--json").stdout)["pools"]
            assert (row["overdue"], row["hindrance"]["kind"]) == (4, "busy")
            assert operated.rpc().memreap.getPool("myapp")["hindrance"]["kind"] == "busy"
            assert re.search(
                "workers are due, and none could be signalled since .*: ", operated.memreap("doctor").stdout
            )
            # On a busy machine one worker may have grown long before the others: then the line is about that one.
            (line,) = served.lines(" due (the largest holds")
            assert re.search(r"limit 40 MiB\) and (none could|could not) be signalled for", line)


def test_the_lock_of_another_memreap_is_reported_as_the_hindrance():
    with pool(2, 40) as manager, Reaping(manager) as first, Reaping(manager, grace="1h") as second:
        signalled = first.until(events.Signalled).pid
        second.until(events.Locked)
        # Else half of the workers may be too young, which is a hindrance too.
        eventually(lambda: assert_replaced(manager, signalled))

        def assert_overdue():
            second.later += 5
            watched = second.tick()
            assert watched.choice.standing == "overdue"
            return watched

        watched = eventually(assert_overdue)
        assert watched.state.delay.hindrance.kind is Kind.LOCKED
        (overdue,) = second.all_of(events.Overdue)
        assert "holds its lock" in overdue.text


def assert_replaced(manager: int, pid: int) -> None:
    workers = workers_below(manager)
    assert len(workers) == 2
    assert pid not in workers
    assert_have_served(manager, settle=0.0)
