"""Descriptors that are kept from look to look: each means one process forever, and none is left open."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable

import psutil
import pytest
from support.driver import eventually, pool, stop, until, workers_below
from support.reaping import Reaping
from support.stack import ROOT

from supervisor_memreap.core import events
from supervisor_memreap.core.model import Program
from supervisor_memreap.core.settings import PoolSettings, Settings, Watch
from supervisor_memreap.host import kept, procfs
from supervisor_memreap.host import look as host_look
from supervisor_memreap.host.roster import HIDDEN
from supervisor_memreap.host.thismachine import ThisMachine
from supervisor_memreap.listener.reaper import Reaper

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
needs_root = pytest.mark.skipif(os.getuid() != 0, reason="mounts, and becomes another user")
NOBODY = 65534
PATH = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
MIB = 1024**2
SETTINGS = PoolSettings(limit=500 * MIB)


def look(manager: int, table: kept.Kept | None, needs_detail=lambda _worker: False, settings=SETTINGS):
    watch = Watch(Program("myapp", "myapp", "RUNNING", manager), settings)
    if table:
        table.begin()
    try:
        return host_look.look(watch, procfs.source(), lambda _pool: needs_detail, kept=table)
    finally:
        if table:
            table.end()


@pytest.fixture
def table():
    table = kept.Kept()
    yield table
    table.close()


def open_descriptors() -> int:
    return sum("/statm" in os.readlink(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd") if is_open(fd))


def is_open(fd: str) -> bool:
    return os.path.lexists(f"/proc/self/fd/{fd}")


@pytest.mark.parametrize("metric", ["uss", "vms"])
def test_a_look_with_kept_descriptors_equals_one_without(table, metric, monkeypatch):
    settings = PoolSettings(limit=500 * MIB, metric=metric)
    monkeypatch.setattr(kept, "_swap_in_use", lambda: 0)  # a test beside this one may switch a swap file on
    with pool(3, 40) as manager:
        for _ in range(3):
            known, plain = (look(manager, each, settings=settings).workers for each in (table, None))
            assert [worker.id for worker in known] == [worker.id for worker in plain]
            for worker, expected in zip(known, plain):
                assert worker.bound == pytest.approx(expected.bound, abs=MIB)
                assert worker.age == pytest.approx(expected.age, abs=1)
        assert open_descriptors() == 3


def test_a_gone_worker_is_detected_by_its_descriptor_and_a_new_one_is_seen(table):
    with pool(2, 5) as manager:
        (first, second) = sorted(worker.id.pid for worker in look(manager, table).workers)
        os.kill(first, signal.SIGKILL)

        def assert_replaced() -> None:
            pids = {worker.id.pid for worker in look(manager, table).workers}
            assert second in pids
            assert len(pids - {first}) == 2

        eventually(assert_replaced)
        assert open_descriptors() == 2


def test_a_zombie_is_not_a_worker(table):
    with pool(2, 5) as manager:
        look(manager, table)
        victim = min(workers_below(manager))
        stop(manager)
        try:
            os.kill(victim, signal.SIGKILL)
            until(psutil.Process(victim).status, psutil.STATUS_ZOMBIE)
            assert victim not in {worker.id.pid for worker in look(manager, table).workers}
        finally:
            os.kill(manager, signal.SIGCONT)


def test_a_pid_below_another_manager_is_opened_again(table):
    with pool(1, 5) as manager:
        (worker,) = look(manager, table).workers
        other = worker.id._replace(pid=manager + 1)
        assert table.workers([worker.id.pid], other, by_size=False) == {}


def test_a_manager_is_read_by_descriptors_that_mean_it_forever(table):
    view = procfs.source()
    with pool(3, 5) as manager:
        for _ in range(2):
            process, children = table.family(manager, view)
            plain, expected = view.family(manager)
            assert (process.id, process.parent, sorted(children)) == (plain.id, plain.parent, sorted(expected))
        assert len(table._managers) == 1
    with pytest.raises(ProcessLookupError):
        table.family(manager, view)
    assert not table._managers


THREAD_WITH_A_CHILD = """
import subprocess, threading, time
threading.Thread(target=subprocess.call, args=(["sleep", "1000"],), daemon=True).start()
time.sleep(1000)
"""


def test_children_of_each_thread_of_a_manager_are_seen(table):
    with subprocess.Popen([sys.executable, "-c", THREAD_WITH_A_CHILD]) as manager:
        try:

            def assert_seen() -> None:
                (child,) = psutil.Process(manager.pid).children()
                assert table.family(manager.pid, procfs.source())[1] == [child.pid]

            eventually(assert_seen)
            assert_seen()
        finally:
            (child,) = psutil.Process(manager.pid).children()
            child.kill()
            manager.kill()


def test_pools_that_come_and_go_leave_no_descriptor_open():
    reaper = Reaper(ThisMachine())
    settings = Settings({"myapp": {"limit": 500 * MIB}})
    for _ in range(3):
        with pool(2, 5) as manager:
            reaper.tick([Program("myapp", "myapp", "RUNNING", manager)], settings, time.monotonic())
            assert open_descriptors() == 2
        reaper.tick([], settings, time.monotonic())
        assert open_descriptors() == 0
    reaper.close()


def test_without_a_free_descriptor_every_file_is_opened_again(table):
    table._most = 1
    with pool(3, 5) as manager:
        for _ in range(2):
            assert len(look(manager, table).workers) == 3
        assert open_descriptors() == 1


HIDING = """
import os, subprocess, sys
from test_kept import MIB, kept, look
manager, nobody, table = int(sys.argv[1]), int(sys.argv[2]), kept.Kept()
os.setgroups([])
for limit in 500, 500, 1:
    os.setegid(nobody)
    os.seteuid(nobody)
    seen = look(manager, table, lambda worker: worker.bound > limit * MIB)
    print(len(seen.workers), seen.not_visible)
    os.seteuid(0)
    os.setegid(0)
    subprocess.run(["mount", "-o", "remount,hidepid=2", "/proc"], check=True)
"""


@needs_root
def test_a_pool_that_is_hidden_meanwhile_is_not_taken_for_one_without_workers():
    mounted = ["unshare", "--mount", "sh", "-c", 'mount -t proc proc /proc && exec "$@"', "sh"]
    with pool(2, 5) as manager:
        command = [*mounted, sys.executable, "-c", HIDING, str(manager), str(NOBODY)]
        result = subprocess.run(command, capture_output=True, text=True, check=True, env={"PYTHONPATH": PATH})
    assert result.stdout.splitlines() == ["2 ", "2 ", f"0 {HIDDEN}"]


LESS_SWAP = """
import subprocess, sys
from test_kept import kept
before = kept._swap_in_use()
subprocess.run(["mount", "--bind", sys.argv[1], "/proc/meminfo"], check=True)
print(before < kept._swap_in_use() == kept._UNKNOWN)
"""


@needs_root
def test_what_lxcfs_shows_as_the_swap_of_a_container_is_no_bound_for_that_of_its_processes(tmp_path):
    (tmp_path / "meminfo").write_text("SwapTotal: 0 kB\nSwapFree: 0 kB\n")
    command = ["unshare", "--mount", sys.executable, "-c", LESS_SWAP, str(tmp_path / "meminfo")]
    result = subprocess.run(command, capture_output=True, text=True, check=True, env={"PYTHONPATH": PATH})
    assert result.stdout == "True\n"


def test_swap_that_may_belong_to_a_worker_is_read(table, monkeypatch):
    monkeypatch.setattr(kept, "_swap_in_use", lambda: 450 * MIB)

    def over(worker) -> bool:
        return worker.bound > SETTINGS.limit

    with pool(1, 60) as manager:
        for _ in range(3):
            (worker,) = look(manager, table, over).workers
            assert (worker.detail, worker.bound < 100 * MIB) == (None, True)  # 60 MiB, read with its own swap: none


@pytest.mark.parametrize(("metric", "is_read"), [("uss", True), ("rss", False)])
def test_what_the_kernel_may_not_have_counted_yet_makes_a_worker_read_in_full(table, monkeypatch, metric, is_read):
    monkeypatch.setattr(procfs, "uncounted", lambda: 450 * MIB)

    def over(worker) -> bool:
        return worker.bound > SETTINGS.limit

    with pool(1, 60) as manager:
        for _ in range(3):
            (worker,) = look(manager, table, over, settings=PoolSettings(limit=SETTINGS.limit, metric=metric)).workers
            assert bool(worker.detail) == is_read
            assert worker.detail is None or worker.detail.used < 100 * MIB


def counted(batch: int, before: int) -> Callable[[], int]:
    """What a kernel shows that adds pages once so many wait, with one more page at each reading."""
    state = [0, before]

    def read() -> int:
        if state[1] >= batch:
            state[:] = [state[0] + state[1], 0]
        state[1] += 1
        return state[0]

    return read


@pytest.mark.parametrize(
    ("batch", "cpus", "expected"),
    [(1, 64, 0), (32, 2, 4 * 32 * 2), (32, 16, 4 * 32 * 16), (128, 64, 4 * 128 * 64), (65, 64, 4 * 64), (65, 2, 256)],
    ids=["exact", "2 CPUs", "16 CPUs", "64 CPUs", "threads on 64 CPUs", "threads on 2 CPUs"],
)
@pytest.mark.parametrize("before", [0, 20])
def test_a_kernel_that_counts_late_is_known_by_pages_that_were_just_touched(monkeypatch, batch, cpus, expected, before):
    monkeypatch.setattr(procfs, "_resident_pages", counted(batch, before))
    monkeypatch.setattr(os, "cpu_count", lambda: cpus)
    assert procfs.uncounted.__wrapped__() == expected * procfs._PAGE


def test_a_worker_that_grows_between_two_looks_is_reaped():
    with pool(2, 5) as manager, Reaping(manager, limit="500MB") as reaping:
        reaping.tick()
        assert open_descriptors() == 2
        reaping.settings = Settings({"myapp": {"limit": 4 * MIB, "min_age": 1.0, "settle": 0.0}})
        reaping.until(events.Left)
