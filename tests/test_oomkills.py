"""Workers that the kernel's OOM killer ends: a real one in a real control group, and recorded counters."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from support import cgroup
from support.driver import pool
from support.reaping import Reaping

from supervisor_memreap.core.model import HOST, ProcessId
from supervisor_memreap.core.oomkills import Kills
from supervisor_memreap.core.poolevents import OomKilled
from supervisor_memreap.host import procfs
from supervisor_memreap.host.oomcounters import OomKills

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
MIB = 1024**2
WEB = "control group /web"
PROCESS, OTHER = ProcessId(7, 1.0), ProcessId(8, 1.0)
V1 = "35 20 0:32 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"
V2 = "30 20 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n"
VMSTAT = "nr_free_pages 5\nunevictable_pgs_munlocked 0\noom_kill {}\nnuma_pte_updates 1\n"
# Files that count, by what the machine has; {} is the number.
COUNTERS = {
    "version 1": ("4:memory:/web", V1, "sys/fs/cgroup/memory/web/memory.oom_control", "under_oom 0\noom_kill {}\n"),
    "version 2": ("0::/web", V2, "sys/fs/cgroup/web/memory.events.local", "oom 3\noom_kill {}\noom_group_kill 0\n"),
    "version 2 before Linux 5.2": ("0::/web", V2, "sys/fs/cgroup/web/memory.events", "oom 3\noom_kill {}\n"),
    "version 2, where a group above it controls memory": (
        "0::/web/app",
        V2,
        "sys/fs/cgroup/web/memory.events.local",
        "oom 3\noom_kill {}\n",
    ),
}


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def record(where: Path, group: str, mounts: str) -> None:
    write(where / "proc/7/cgroup", group)
    write(where / "proc/8/cgroup", group)
    write(where / "proc/self/mountinfo", mounts)
    write(where / "proc/vmstat", VMSTAT.format(9))


@pytest.mark.parametrize(("group", "mounts", "file", "text"), COUNTERS.values(), ids=COUNTERS)
def test_kills_in_the_group_of_the_process_count_from_the_first_look(tmp_path, group, mounts, file, text):
    record(tmp_path, group, mounts)
    write(tmp_path / file, text.format(4))
    kills = OomKills(str(tmp_path))
    try:
        assert kills.look({"myapp": PROCESS}, 0.0) == ({}, [])
        assert kills.look({"myapp": PROCESS}, 5.0) == (
            {"myapp": "control group /web"},
            [Kills(WEB, 0)],
        )
        write(tmp_path / file, text.format(6))
        assert kills.look({"myapp": PROCESS}, 10.0)[1] == [Kills(WEB, 2)]
        assert kills.look({"myapp": PROCESS}, 15.0)[1] == [Kills(WEB, 0)]
        write(tmp_path / file, text.format(7))
        # The manager was ended too, and supervisord has started another one.
        assert kills.look({"myapp": OTHER}, 20.0) == ({"myapp": WEB}, [Kills(WEB, 1)])
        write(tmp_path / file, text.format(8))
        assert kills.look({"myapp": None}, 25.0)[1] == [Kills(WEB, 1)]
    finally:
        kills.close()


def test_the_counter_of_the_host_is_used_if_no_group_has_one(tmp_path):
    record(tmp_path, "4:memory:/other/container", "")
    kills = OomKills(str(tmp_path))
    try:
        kills.look({"myapp": PROCESS}, 0.0)
        write(tmp_path / "proc/vmstat", "nr_zone 12345\n" * 1000 + VMSTAT.format(11))
        assert kills.look({"myapp": PROCESS}, 5.0) == ({"myapp": HOST}, [Kills(HOST, 2)])
    finally:
        kills.close()


def test_a_recreated_group_counts_from_its_present_value(tmp_path):
    group, mounts, file, text = COUNTERS["version 1"]
    record(tmp_path, group, mounts)
    write(tmp_path / file, text.format(4))
    kills = OomKills(str(tmp_path))
    descriptors = len(os.listdir("/proc/self/fd"))
    try:
        kills.look({"myapp": PROCESS}, 0.0)
        write(tmp_path / file, "")  # as if it had become unreadable
        assert kills.look({"myapp": PROCESS}, 5.0)[1] == [Kills(WEB, 0)]
        (tmp_path / file).unlink()
        write(tmp_path / file, text.format(1))
        kills.look({"myapp": PROCESS}, 65.0)
        write(tmp_path / file, text.format(2))
        assert kills.look({"myapp": PROCESS}, 70.0)[1] == [Kills(WEB, 1)]
        assert len(os.listdir("/proc/self/fd")) == descriptors + 1
        assert kills.look({}, 75.0) == ({}, [])
    finally:
        kills.close()
    assert len(os.listdir("/proc/self/fd")) == descriptors


def test_a_machine_without_counters_is_not_an_error(tmp_path):
    kills = OomKills(str(tmp_path))
    for now in (0.0, 5.0):
        assert [each.risen for each in kills.look({"myapp": PROCESS}, now)[1]] in ([], [0])
    kills.close()


def test_a_worker_ended_by_the_kernel_is_named_at_the_next_look_even_without_headroom():
    program = "import sys; sys.stdin.readline(); held = bytearray(60 << 20); print('held', flush=True)"
    with cgroup.made(140 * MIB) as group:

        def enter() -> None:
            (group.directory / "cgroup.procs").write_text("0")

        quiet = {"limit": "1000MB"}
        with pool(2, 45, preexec_fn=enter) as manager, Reaping(manager, **quiet) as reaping:
            first, second = procfs.source().children(manager)
            for worker in (first, second):
                Path(f"/proc/{worker}/oom_score_adj").write_text("1000")
            reaping.tick()
            counted = group.oom_kills
            command = [sys.executable, "-c", program]
            with subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, preexec_fn=enter
            ) as eater:
                assert eater.communicate("go\n", timeout=60)[0] == "held\n"
            killed = group.oom_kills - counted
            assert killed >= 1
            event = reaping.until(OomKilled)
            assert event.scope == f"control group /{group.directory.name}"
            assert (event.pool, event.size, event.killed) == ("myapp", 140 * MIB, len(event.workers))
            assert {worker.pid for worker in event.workers} <= {first, second}
            assert event.held >= 45 * MIB
            assert sum(each.killed for each in reaping.all_of(OomKilled)) <= killed
