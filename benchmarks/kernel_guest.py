"""What benchmarks/kernel.sh runs on a kernel of its own, as root: what holds there and that no container can show.

Each check makes its condition (Yama, hidepid, control groups, capabilities), reads back that it is really there, runs
the real code of memreap under it, and undoes it. A function of CHECKS is a check: its name says what holds, and what it
returns is printed beside it. It fails by an exception, which ends no other check.
"""

from __future__ import annotations

import contextlib
import io
import os
import platform
import select
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

from kernel_conditions import (
    MIB,
    OTHER,
    OWNER,
    OWNER_WITH,
    PATIENCE,
    POOL_USER,
    QUICK,
    ROOT,
    ROOT_WITHOUT,
    Group,
    Hog,
    Identity,
    enter_new_control_group_namespace,
    hidepid,
    run_as,
    wait_until,
    yama,
)

from supervisor_memreap import demo
from supervisor_memreap.commands import cli
from supervisor_memreap.core.model import HOST, MemoryScope, Pool, ProcessId, Program, Worker
from supervisor_memreap.core.oomkills import Kills
from supervisor_memreap.core.settings import PoolSettings, Watch
from supervisor_memreap.demo import fastcgi, load
from supervisor_memreap.doctor import attach, rights
from supervisor_memreap.host import alarm, attempt, boundary, look, procfs, reader
from supervisor_memreap.host.alarm import Alarm
from supervisor_memreap.host.attempt import Attempt
from supervisor_memreap.host.machine import Locked, Order, Outcome
from supervisor_memreap.host.memory import Memory
from supervisor_memreap.host.oomcounters import OomKills
from supervisor_memreap.host.procfile import status
from supervisor_memreap.host.thismachine import ThisMachine

LONGEST_CHECK = 1800
"""Seconds."""
MIN_AGE = 5.0
"""Seconds for which a worker is a newborn here, as everything is slow."""
REAPS = 20
SOCKETS = Path("/run/pools")


class ServedPool:
    """The demo's pool of FCGI::ProcManager, with 3 workers of a user of its own."""

    def __init__(self, group: Group | None = None):
        SOCKETS.mkdir(exist_ok=True)
        os.chown(SOCKETS, POOL_USER, POOL_USER)
        self.socket = str(SOCKETS / f"{time.monotonic()}.sock")
        command = ["perl", str(Path(demo.__file__).parent / "pool.pl"), self.socket, "3"]
        self._process = subprocess.Popen(
            command, stderr=subprocess.DEVNULL, user=POOL_USER, group=POOL_USER, extra_groups=[]
        )
        self.manager = self._process.pid
        if group:
            group.add(self.manager)

    def __enter__(self) -> ServedPool:
        wait_until(self.answers)
        return self

    def __exit__(self, *_: object) -> None:
        pids = [*procfs.source().children(self.manager), self.manager]
        self._process.kill()  # first, or it would replace them
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._process.wait()

    def answers(self, query: bytes = b"") -> bool:
        return fastcgi.get(self.socket, PATIENCE, query).endswith(b"ok")

    @property
    def watch(self) -> Watch:
        return Watch(Program("pool", "pool", "RUNNING", self.manager), PoolSettings(min_age=1))

    def look(self) -> Pool:
        return look.look(self.watch, procfs.source())

    def is_complete(self) -> bool:
        return [worker.age > MIN_AGE for worker in self.look().workers] == [True] * 3

    def attempt(self, identity: Identity, patience: float) -> Tried:
        """As the listener would: the look, the lock, the attempt, each with the rights of `identity`."""
        wait_until(self.is_complete)
        tried = Tried(*run_as(identity, lambda: _tried(self.watch, patience)))
        if tried.outcome.startswith("sent"):
            wait_until(lambda: not os.path.exists(f"/proc/{tried.worker}"))
        return tried


class Tried(NamedTuple):
    outcome: str
    """Such as `sent held`, `busy, not held`; or why there was none."""
    worker: int = 0
    lock: str = ""
    """Why it could not be taken."""


def _tried(watch: Watch, patience: float, hold: bool = True) -> Tried:
    machine = ThisMachine()
    pool = look.look(watch, procfs.source())
    worker = min(pool.workers, key=_start, default=None)
    if pool.manager is None or worker is None or worker.detail is None:
        return Tried(pool.not_visible or "no worker is seen")
    others = frozenset(each.id.pid for each in pool.workers if each != worker)
    server, signame = worker.detail.server, worker.detail.signal
    order = Order(worker.id, pool.manager, 4, server, signame, hold, patience=patience, siblings=others)
    lock, trouble = None, ""
    try:
        lock = machine.lock(pool.manager, is_group=False)
    except Locked as error:
        trouble = str(error)
    outcome = _ended(machine, machine.attempt(order, lock))
    return Tried(_shown(outcome), worker.id.pid, trouble)


def _start(worker: Worker) -> tuple[float, int]:
    """The oldest one is attempted. Its age differs by when it is read."""
    return worker.id.start_time, worker.id.pid


def _ended(machine: ThisMachine, attempt: Attempt) -> Outcome:
    while (outcome := attempt.outcome()) is None:
        machine.wait({attempt.fd: select.POLLIN}, max(0.0, attempt.deadline - machine.now()) + 0.001)
    return outcome


def _shown(outcome: Outcome) -> str:
    moment = f" {outcome.moment.value}" if outcome.moment else ""
    return f"{outcome.result.value}{moment}{', not held' if outcome.unheld else ''}{outcome.error}"


def _equal(seen: object, expected: object) -> None:
    assert seen == expected, f"{seen}, expected {expected}"


# The checks: attempts.


def workers_under_load_are_signalled_at_their_boundary_and_no_request_is_lost() -> str:
    outcomes: Counter[str] = Counter()
    with ServedPool() as pool, load.Load(pool.socket) as requests:
        while outcomes["sent held"] < REAPS:
            outcomes[pool.attempt(ROOT, PATIENCE).outcome] += 1
            assert set(outcomes) <= {"sent held", "busy"}, outcomes
    assert not requests.lost, f"{requests.lost} lost: {requests.why}"
    return f"{dict(outcomes)}; 0 of {requests.answered} requests lost"


# Each reports when it waits, catches HUP, and records it.
_CHILD = """
import signal, socket, sys, time
signal.signal(signal.SIGHUP, lambda *_: print("HUP", flush=True))
signal.siginterrupt(signal.SIGHUP, False)
print("ready", flush=True)
"""
_BUSY = {
    "sleeps": "time.sleep(3600)",
    "reads": "ours, theirs = socket.socketpair(); ours.recv(1)",
    "runs": "while True: pass",
}


def processes_that_wait_for_no_connection_get_no_signal() -> str:
    outcomes: Counter[str] = Counter()
    with socket.socket(socket.AF_UNIX) as listening:  # which they have too, as workers do
        listening.bind(f"/run/{time.monotonic()}")
        listening.listen()
        for what, code in _BUSY.items():
            command, passed = [sys.executable, "-c", _CHILD + code], (listening.fileno(),)
            with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, pass_fds=passed) as child:
                assert child.stdout
                try:
                    assert child.stdout.readline() == "ready\n"
                    time.sleep(1)
                    worker, manager = (procfs.source().process(pid).id for pid in (child.pid, os.getpid()))
                    machine = ThisMachine()
                    for _ in range(4):
                        order = Order(worker, manager, 2, "Starman", "HUP", patience=2.0)
                        outcomes[f"{what}: {_shown(_ended(machine, machine.attempt(order, None)))}"] += 1
                    assert not select.select([child.stdout], [], [], 2.0)[0], f"one that {what} got the signal"
                finally:
                    child.kill()
    assert all(outcome.endswith(": busy") for outcome in outcomes), outcomes
    return f"{sum(outcomes.values())} attempts"


_HELD, _IDLE, _SENT_TO_NONE = "sent held", "sent idle, not held", "busy, not held"
RIGHTS: dict[Identity, tuple[str, ...]] = {
    ROOT: (_HELD, _HELD, _HELD, _IDLE),
    OWNER_WITH: (_HELD, _HELD, _HELD, _IDLE),
    OWNER: (_HELD, _IDLE, _IDLE, _IDLE),
    ROOT_WITHOUT: (_SENT_TO_NONE,) * 4,
    OTHER: ("not permitted",) * 4,
}
"""What comes of an attempt, by ptrace_scope."""


def _rights_under(scope: int) -> str:
    with yama(scope), ServedPool() as pool, load.Load(pool.socket) as requests:
        for identity, outcomes in RIGHTS.items():
            expected = outcomes[scope]
            _equal(
                _according_to_doctor(pool, identity, scope), (expected == _HELD, identity not in (ROOT_WITHOUT, OTHER))
            )
            tried = pool.attempt(identity, PATIENCE if expected.startswith("sent") else QUICK)
            assert tried.outcome == expected, f"{identity}: {tried}, expected {expected}"
            assert bool(tried.lock) is (identity is OTHER), f"{identity}: {tried}"
    assert not requests.lost, f"{requests.lost} lost: {requests.why}"
    return f"0 of {requests.answered} requests lost"


def _according_to_doctor(pool: ServedPool, identity: Identity, scope: int) -> tuple[bool, bool]:
    """Whether it may hold a worker, and read its memory; doctor says what stands in the way."""
    ids = (identity.user,) * 4
    actor = rights.Rights(ids, ids, (), identity.capabilities, identity.capabilities)
    wait_until(pool.is_complete)
    worker = pool.look().workers[0].id.pid
    access = (rights.access(actor, [worker]) or {})[worker]
    _equal(access.signals, identity != OTHER)
    if not access.holds and identity != OTHER:
        remedy = attach.remedy(attach.of(actor, worker, os.getpid(), "eventlistener:memreap"))
        lacks = (
            "this root lacks CAP_SYS_PTRACE" if identity == ROOT_WITHOUT and scope < 3 else "kernel.yama.ptrace_scope"
        )
        assert remedy.startswith(lacks), remedy
    return access.holds, access.reads


def under_yama_0_root_and_the_pools_user_hold_a_worker_at_its_boundary() -> str:
    return _rights_under(0)


def under_yama_1_the_pools_user_needs_cap_sys_ptrace_and_else_waits_for_an_idle_moment() -> str:
    return _rights_under(1)


def under_yama_2_the_pools_user_needs_cap_sys_ptrace_and_else_waits_for_an_idle_moment() -> str:
    return _rights_under(2)


def with_hidepid_others_learn_that_the_pool_is_hidden_and_nothing_is_sent() -> str:
    hidden = "its processes are hidden from this user"
    with ServedPool() as pool, load.Load(pool.socket) as requests:
        manager = pool.look().manager
        assert manager
        # The group of root may see all, but what it cannot trace where only that is shown.
        for word, to_root_without in (
            ("noaccess", _SENT_TO_NONE),
            ("invisible", _SENT_TO_NONE),
            ("ptraceable", hidden),
        ):
            with hidepid(word):
                for identity in (ROOT, OWNER):
                    _equal(pool.attempt(identity, PATIENCE).outcome, _HELD)
                _equal(pool.attempt(ROOT_WITHOUT, QUICK).outcome, to_root_without)
                _equal(pool.attempt(OTHER, QUICK).outcome, hidden)
                assert run_as(OTHER, lambda: ThisMachine().may_exist(manager)), "it counts as gone"
    assert not requests.lost, f"{requests.lost} lost: {requests.why}"
    return f"0 of {requests.answered} requests lost"


def once_reaps_grown_workers_under_yama_0_and_1_and_says_what_it_lacks() -> str:
    for scope, identity, expected_status, expected in (
        (0, OWNER, 0, ["between two requests"]),
        (1, OWNER, 0, ["while idle", "kernel.yama.ptrace_scope=0"]),
        (0, ROOT_WITHOUT, 1, ["CAP_SYS_PTRACE"]),
    ):
        with yama(scope), ServedPool() as pool:
            wait_until(pool.is_complete)
            fresh = max(worker.used or 0 for worker in pool.look().workers)
            with load.Load(pool.socket) as requests:
                wait_until(lambda: min(worker.used or 0 for worker in pool.look().workers) > fresh + 3 * MIB)  # noqa: B023
            _equal(requests.lost, 0)
            words = ["once", "--pid", str(pool.manager), f"limit={fresh + 2 * MIB}", "min_age=2s", "settle=1s"]
            ended, text = run_as(identity, lambda: _command(words))  # noqa: B023
        assert ended == expected_status, f"{identity}: {ended}, {text}"
        assert all(part in text for part in expected), f"{identity}: {text}"
    return "as the pool's user, and as root without CAP_SYS_PTRACE"


def _command(words: list[str]) -> tuple[int, str]:
    out = io.StringIO()
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
            ended = cli.main(words)
    except SystemExit as exit:
        ended = int(exit.code or 0)
    except TimeoutError:
        print(out.getvalue(), flush=True)
        raise
    return ended, out.getvalue()


# The freezer.


def a_frozen_worker_gets_no_signal_and_goes_on_when_it_is_thawed() -> str:
    with ServedPool() as pool, Group("frozen") as group:
        wait_until(pool.is_complete)
        worker = min(pool.look().workers, key=_start).id
        group.add(worker.pid)
        with group.frozen():
            tried = pool.attempt(ROOT, QUICK)
            _equal(tried, Tried("busy", worker.pid))
            assert all(pool.answers() for _ in range(10)), "the others do not serve"
        before = _switches(worker)
        wait_until(lambda: pool.answers() and _switches(worker) > before)  # it serves again
        _equal(pool.attempt(ROOT, PATIENCE), Tried(_HELD, worker.pid))
    return "and is signalled at its boundary then"


def _switches(worker: ProcessId) -> int:
    """Voluntary context switches."""
    return int(status(worker.pid, b"voluntary_ctxt_switches")[0])


def a_frozen_worker_that_is_signalled_unheld_leaves_when_it_is_thawed_and_no_request_is_lost() -> str:
    with ServedPool() as pool, Group("frozen") as group, load.Load(pool.socket) as requests:
        wait_until(pool.is_complete)
        worker = min(pool.look().workers, key=_start).id
        group.add(worker.pid)
        with group.frozen():
            tried = run_as(ROOT, lambda: _tried(pool.watch, QUICK, hold=False))
            is_there = os.path.exists(f"/proc/{worker.pid}")
        # It may have been frozen in the middle of a request.
        assert tried in (["sent idle", worker.pid, ""], ["busy", worker.pid, ""]), tried
        assert is_there
        if tried[0] != "busy":
            wait_until(lambda: not os.path.exists(f"/proc/{worker.pid}"))
    assert not requests.lost, f"{requests.lost} lost: {requests.why}"
    return f"{tried[0]}; 0 of {requests.answered} requests lost"


def a_pool_that_is_frozen_whole_loses_no_request_by_an_attempt() -> str:
    with Group("pool") as group, ServedPool(group) as pool:
        wait_until(pool.is_complete)
        asked: list[bool] = []
        asker = threading.Thread(target=lambda: asked.append(pool.answers()), daemon=True)
        with group.frozen():
            asker.start()
            _equal(pool.attempt(ROOT, QUICK).outcome, "busy")
            _equal(asked, [])
        asker.join(PATIENCE)
        _equal(asked, [True])
        _equal(pool.attempt(ROOT, PATIENCE).outcome, _HELD)
    return "and is reaped when it is thawed"


def a_memreap_that_is_frozen_while_it_traces_a_worker_lets_go_of_it() -> str:
    with ServedPool() as pool, Group("memreap") as group:
        wait_until(pool.is_complete)
        asked: list[bool] = []
        asker = threading.Thread(target=lambda: asked.append(pool.answers(b"s=10")), daemon=True)
        asker.start()
        wait_until(lambda: _busy_one(pool))
        worker, manager = _busy_one(pool), pool.look().manager
        assert worker
        assert manager
        machine = ThisMachine()
        made = machine.attempt(Order(worker, manager, 4, "FCGI::ProcManager", "HUP", patience=60.0), None)
        wait_until(lambda: status(worker.pid, b"TracerPid") == [b"%d" % made.child])
        time.sleep(2)  # it has interrupted it by then, and waits for the next stop
        group.add(made.child)
        assert not asked, "too slow: the request has ended before"
        with group.frozen():
            asker.join(30)
            _equal(asked, [True])
        shown = _shown(_ended(machine, made))
        _equal(shown, "busy")
    return "its request is answered"


def _busy_one(pool: ServedPool) -> ProcessId | None:
    view = procfs.source()
    return next((each.id for each in pool.look().workers if view.clients(each.id.pid).connections), None)


# Memory.


def _scopes(pid: int) -> dict[str, MemoryScope]:
    return {scope.name: scope for scope in Memory().scopes(pid)}


def the_bound_of_a_worker_is_never_below_what_it_holds() -> str:
    worst, view = 0, procfs.source()
    with Group("pool") as group, Hog(group) as hog:
        for number in range(40):
            os.sched_setaffinity(hog.pid, {number % (os.cpu_count() or 1)})  # each counts for itself
            assert hog.take(1)
            rollup = Path(f"/proc/{hog.pid}/smaps_rollup").read_text()
            sizes, exact = view.sizes(hog.pid), int(rollup.partition("Rss:")[2].split()[0]) * 1024
            worst = max(worst, exact - sizes.bound)
            assert sizes.bound + sizes.uncounted >= exact, f"{sizes}, and it holds {exact}"
    with mock.patch("os.cpu_count", return_value=64):
        of_many = procfs.uncounted.__wrapped__()
    allowed = f"{sizes.uncounted // 1024} allowed for, {of_many // 1024} if it were so with 64 CPUs"
    return f"up to {worst // 1024} KiB were not counted yet, and {allowed}"


def headroom_counts_the_tightest_of_nested_groups_and_their_memory_high() -> str:
    with (
        Group("web", max=300 * MIB) as web,
        Group("web/apps"),
        Group("web/apps/shop", high=100 * MIB, max=200 * MIB) as shop,
        Hog(shop) as hog,
    ):
        assert hog.take(60)
        scopes = _scopes(hog.pid)
        names = [HOST, *(f"control group /{path}" for path in ("web/apps/shop", "web/apps", "web"))]
        _equal([*scopes], names)
        _equal([scopes[name].size for name in names[1:]], [100 * MIB, None, 300 * MIB])
        for group, size in ((shop, 100 * MIB), (web, 300 * MIB)):
            used = int(group.read("memory.current"))
            available = scopes[f"control group {group.path}"].available
            assert available is not None
            assert abs(size - used - available) < 2 * MIB, f"{available} of {size}, used {used}"
        assert all(scope.pressure is not None for scope in scopes.values()), scopes
        tightest = min(scopes.values(), key=lambda scope: scope.available or 1 << 60)
        _equal(tightest.name, "control group /web/apps/shop")
    return f"{(tightest.available or 0) // MIB} MiB of 100 MiB available"


def in_a_container_the_top_of_its_control_groups_limits_it() -> str:
    def inside() -> Any:
        container.add(os.getpid())
        enter_new_control_group_namespace()
        memory = Memory()
        return [(scope.name, scope.size) for scope in memory.scopes(os.getpid())], memory.hidden_groups(hog.pid)

    with Group("container", max=100 * MIB) as container, Group("other") as other, Hog(other) as hog:
        scopes, hidden = run_as(ROOT, inside)
        _equal(scopes[1:], [["control group /", 100 * MIB]])
        _equal(hidden, ["/../other"])
    return "and a group of another container is hidden"


def a_pool_over_memory_high_has_no_headroom_and_a_reap_at_the_boundary_gives_it_back() -> str:
    with Group("pool") as group, ServedPool(group) as pool:
        wait_until(pool.is_complete)
        high = int(group.read("memory.current")) + 4 * MIB
        group.write("memory.high", str(high))
        with load.Load(pool.socket) as requests:
            wait_until(lambda: group.events()["high"] > 20)
            scope = _scopes(pool.manager)["control group /pool"]
            _equal(scope.size, group_size := int(group.read("memory.high")))
            assert scope.available is not None
            assert scope.available < MIB, scope
            tried = pool.attempt(ROOT, PATIENCE)
            _equal(tried.outcome, _HELD)
            group.write("memory.high", "max")  # the rest is not to take hours
        assert not requests.lost, f"{requests.lost} lost: {requests.why}"
    return f"0 of {group_size // MIB} MiB available; 0 of {requests.answered} requests lost"


def a_worker_that_the_kernel_kills_for_memory_is_counted_in_its_own_group() -> str:
    kills = OomKills()
    with contextlib.closing(kills), Group("web", max=60 * MIB) as web, Group("web/shop") as shop:
        name = "control group /web/shop"
        with Hog(shop) as hog:
            kills.look({"shop": hog.id}, 0.0)
            _equal(kills.look({"shop": hog.id}, 5.0), ({"shop": name}, [Kills(name, 0)]))
            assert not hog.take(100), "it was not killed"
            _equal(shop.events()["oom_kill"], 1)
            _equal(kills.look({"shop": None}, 10.0), ({"shop": name}, [Kills(name, 1)]))
        web.write("memory.oom.group", "1")
        with Hog(shop) as hog, Hog(shop) as other:
            assert other.take(5)
            assert not hog.take(100), "it was not killed"
            wait_until(lambda: not other.take(1))
            risen = kills.look({"shop": None}, 15.0)[1][0].risen
            # The one that the kernel chooses is counted once more as a member of the group, if it still has its memory.
            assert risen in (2, 3), risen
    return f"one; with memory.oom.group and two processes, {risen}"


def the_kernel_wakes_memreap_by_a_stall_and_by_a_limit_in_a_group() -> str:
    with Group("web", high=40 * MIB, max=100 * MIB) as web, Hog(web) as hog:
        memory = Memory()
        memory.scopes(hog.pid)
        wakers = alarm.wakers(memory.groups.values(), 10 * MIB, 5.0, ())
        _equal(
            sorted((waker.kind, waker.place) for waker in wakers),
            [
                ("limit", f"{web.directory}/memory.events"),
                ("stall", "/proc/pressure/memory"),
                ("stall", f"{web.directory}/memory.pressure"),
            ],
        )
        with contextlib.ExitStack() as stack:
            alarms = {waker.place: stack.enter_context(contextlib.closing(Alarm())) for waker in wakers}
            for waker in wakers:
                alarms[waker.place].set([waker])
                _equal(alarms[waker.place].refused, "")
            assert not any(_rings(each, QUICK) for each in alarms.values()), "it rings without a cause"
            hog.take(80, 0.0)
            for place, each in alarms.items():
                assert _rings(each, PATIENCE), f"{place} does not ring"
            wait_until(lambda: (_scopes(hog.pid)["control group /web"].pressure or 0) > 0)
            os.kill(hog.pid, signal.SIGKILL)
            wait_until(lambda: all(_is_quiet(each) for each in alarms.values()))
    return ", ".join(alarms)


def _rings(each: Alarm, patience: float) -> bool:
    poll = select.poll()
    for fd, events in each.fds().items():
        poll.register(fd, events)
    return bool(poll.poll(patience * 1000))


def _is_quiet(each: Alarm) -> bool:
    each.acknowledge()
    return not _rings(each, 2.5)


def without_cap_sys_resource_the_host_wakes_memreap_too_or_a_line_says_why_not() -> str:
    def armed() -> str:
        with contextlib.closing(Alarm()) as each:
            each.set(alarm.wakers((), None, 5.0, ()))
            return each.refused

    _equal(run_as(ROOT, armed), "")
    refused = run_as(OWNER, armed)
    # From Linux 6.4 on, and in Debian's 6.1, it does.
    assert not refused or refused.startswith("/proc/pressure/memory: "), refused
    return refused or "it does"


def under_yama_3_nothing_is_held_and_an_idle_moment_is_waited_for() -> str:
    return _rights_under(3)  # the last check: it cannot be undone


CHECKS: tuple[Callable[[], str], ...] = (
    processes_that_wait_for_no_connection_get_no_signal,
    under_yama_0_root_and_the_pools_user_hold_a_worker_at_its_boundary,
    under_yama_1_the_pools_user_needs_cap_sys_ptrace_and_else_waits_for_an_idle_moment,
    under_yama_2_the_pools_user_needs_cap_sys_ptrace_and_else_waits_for_an_idle_moment,
    with_hidepid_others_learn_that_the_pool_is_hidden_and_nothing_is_sent,
    once_reaps_grown_workers_under_yama_0_and_1_and_says_what_it_lacks,
    a_frozen_worker_gets_no_signal_and_goes_on_when_it_is_thawed,
    a_frozen_worker_that_is_signalled_unheld_leaves_when_it_is_thawed_and_no_request_is_lost,
    a_pool_that_is_frozen_whole_loses_no_request_by_an_attempt,
    a_memreap_that_is_frozen_while_it_traces_a_worker_lets_go_of_it,
    the_bound_of_a_worker_is_never_below_what_it_holds,
    headroom_counts_the_tightest_of_nested_groups_and_their_memory_high,
    in_a_container_the_top_of_its_control_groups_limits_it,
    a_pool_over_memory_high_has_no_headroom_and_a_reap_at_the_boundary_gives_it_back,
    a_worker_that_the_kernel_kills_for_memory_is_counted_in_its_own_group,
    the_kernel_wakes_memreap_by_a_stall_and_by_a_limit_in_a_group,
    without_cap_sys_resource_the_host_wakes_memreap_too_or_a_line_says_why_not,
    workers_under_load_are_signalled_at_their_boundary_and_no_request_is_lost,
    under_yama_3_nothing_is_held_and_an_idle_moment_is_waited_for,
)


def main() -> int:
    only = sys.argv[1] if len(sys.argv) > 1 else ""
    print(f"{platform.machine()}, Linux {platform.release()}, Python {platform.python_version()}", flush=True)
    assert boundary.is_usable()
    reader.read_here()
    # Half a second and the like are not enough where all is some thirty times slower.
    reader.PATIENCE = attempt._OVERRUN = PATIENCE
    boundary.STOPPED = boundary.FROZEN = 15.0
    rights._TIMEOUT = int(PATIENCE)
    signal.signal(signal.SIGALRM, _too_long)
    failed = ran = 0
    for check in CHECKS:
        if only in check.__name__:
            ran += 1
            failed += not _holds(check)
    print(f"{ran} checks, {failed} failed", flush=True)
    return 1 if failed or not ran else 0


def _holds(check: Callable[[], str]) -> bool:
    name, began = check.__name__.replace("_", " "), time.monotonic()
    signal.alarm(LONGEST_CHECK)
    try:
        text = check()
    except Exception:  # the others are to run
        traceback.print_exc()
        print(f"FAILED {name} ({time.monotonic() - began:.0f} s)", flush=True)
        return False
    finally:
        signal.alarm(0)
    print(f"ok {name}: {text} ({time.monotonic() - began:.0f} s)", flush=True)
    return True


def _too_long(_signum: int, _frame: object) -> None:
    raise TimeoutError(f"took longer than {LONGEST_CHECK} s")


if __name__ == "__main__":
    sys.exit(main())
