"""Whose processes the OOM killer may have ended: what is reported, and what is not."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from supervisor_memreap.core import oomkills
from supervisor_memreap.core.model import HOST, Pool, ProcessId, Worker
from supervisor_memreap.core.oomkills import Gone, Kills
from supervisor_memreap.core.poolevents import OomKilledOther
from supervisor_memreap.core.state import PoolState, Reap

MIB = 1024**2
MANAGER = ProcessId(1, 1.0)
WEB = "control group /web"


def pool(*pids: int, manager: ProcessId | None = MANAGER, state: str = "RUNNING") -> Pool:
    workers = tuple(Worker(ProcessId(pid, 1.0), 60.0, pid * MIB, slot=f"p{pid}") for pid in pids)
    return Pool("myapp", state, manager=manager, workers=workers)


def gone(before: Pool, after: Pool, state: PoolState | None = None) -> tuple[list[int], bool]:
    departed = oomkills.gone(before, after, state or PoolState())
    return [worker.id.pid for worker in departed.workers], departed.manager is not None


def test_a_worker_left_without_a_signal_only_if_neither_memreap_nor_supervisord_ended_it():
    assert gone(pool(11, 12), pool(12, 13)) == ([11], False)
    assert gone(pool(11, 12), pool(11, 12)) == ([], False)
    leaving = Reap(ProcessId(11, 1.0), 0.0, frozenset())
    assert gone(pool(11, 12), pool(12), PoolState(reap=leaving)) == ([], False)
    assert gone(pool(11, 12), pool(12), PoolState(stuck=(leaving,))) == ([], False)
    assert gone(pool(11, 12), replace(pool(12), stopped=frozenset({"p11"}))) == ([], False)
    assert gone(pool(11), pool(manager=None, state="STOPPING")) == ([], False)
    assert gone(pool(11), replace(pool(manager=None), not_visible="hidden")) == ([], False)
    assert gone(pool(11), pool(manager=None, state="EXITED")) == ([11], True)
    assert gone(Pool("myapp", "not looked at yet"), pool(11)) == ([], False)


class Film:
    """Looks in turn at pools that are all in one group."""

    def __init__(self):
        self.pending: dict[str, int] = {}

    def look(self, risen: int, **pids: list[int]) -> list[Any]:
        departed = [Gone(name, pool(*each).workers) for name, each in pids.items()]
        scopes = dict.fromkeys(pids, WEB)
        log, self.pending = oomkills.follow(departed, scopes, [Kills(WEB, risen, 450 * MIB)], self.pending, 7.0)
        return list(log)


def test_a_worker_gone_when_the_counter_rose_is_named_with_its_size():
    (event,) = Film().look(1, myapp=[40])
    assert (event.pool, event.pid, event.kills, event.killed) == ("myapp", 40, 1, 1)
    assert event.text == (
        "worker 40 (up to 40 MiB) left without a signal while the kernel's OOM killer ended 1 process in control group"
        " /web (limit 450 MiB): any request in progress was lost; give it more memory, or set headroom= or a"
        " lower limit="
    )


def test_a_worker_that_leaves_without_a_rise_of_the_counter_is_not_reported():
    assert Film().look(0, myapp=[40]) == []


def test_if_more_workers_left_than_were_killed_the_line_reports_the_doubt():
    first, second = Film().look(1, myapp=[40, 41], shop=[50])
    assert (first.pool, first.killed, second.pool, second.killed) == ("myapp", 1, "shop", 1)
    assert "workers 40, 41 (the largest up to 41 MiB) left" in first.text
    assert "unknown which of the 3 that left (others belong to shop): any request" in first.text


def test_a_worker_that_is_still_ending_when_the_counter_rises_is_named_at_the_next_look():
    film = Film()
    assert film.look(2, myapp=[40])[0].killed == 1
    assert film.look(0, myapp=[41])[0].pid == 41
    assert film.look(0, myapp=[42]) == []


def test_kills_of_other_processes_are_reported_once_at_the_next_look():
    film = Film()
    assert film.look(1, myapp=[]) == []
    (event,) = film.look(0, myapp=[])
    assert event == OomKilledOther("", 7.0, WEB, 450 * MIB, 1)
    assert film.look(0, myapp=[]) == []


def test_kills_in_another_group_do_not_concern_a_worker():
    log, pending = oomkills.follow([Gone("myapp", pool(40).workers)], {"myapp": WEB}, [Kills("other", 1)], {}, 7.0)
    assert (log, pending) == ((), {"other": 1})


def test_unexplained_kills_on_the_host_may_belong_to_any_container():
    _, pending = oomkills.follow([], {}, [Kills(HOST, 1)], {}, 7.0)
    assert oomkills.follow([], {}, [Kills(HOST, 0)], pending, 7.0) == ((), {})
