"""How much memory is available to a process: recorded trees of proc and sys, and this machine's own."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import psutil
import pytest
from support import cgroup
from support.driver import eventually

from supervisor_memreap.core.model import HOST, Holder, MemoryScope
from supervisor_memreap.host.memory import Memory

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
MIB = 1024**2
PAGE = os.sysconf("SC_PAGE_SIZE")
NO_LIMIT = str(2**63 - PAGE)
V2 = "30 20 0:26 {root} /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n"
V1 = "35 20 0:32 {root} /sys/fs/cgroup/memory rw,relatime shared:9 - cgroup cgroup rw,memory\n"
# Mounted as a host has them.
ALL_V2, ALL_V1 = V2.format(root="/"), V1.format(root="/")
UNIFIED = "41 20 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw\n"
# Others that each machine has.
OTHER_MOUNTS = (
    "22 27 0:21 / /proc rw,relatime - proc proc rw\n"
    "32 31 0:29 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu,cpuacct\n"
)
PRESSURE = "some avg10=12.50 avg60=1.00 avg300=0.00 total=123\nfull avg10=3.00 avg60=0.00 avg300=0.00 total=45\n"
CALM = "some avg10=0.00 avg60=0.00 avg300=0.00 total=123\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=45\n"


def memory(where: Path, group: str, mounts: str, files: dict[str, str]) -> Memory:
    """That of a recorded tree in which process 7 is in this group; the paths of `files` are below sys/fs/cgroup."""
    tree = {
        "proc/7/cgroup": group,
        "proc/self/mountinfo": OTHER_MOUNTS + mounts,
        **{f"sys/fs/cgroup/{name}": text for name, text in files.items()},
    }
    for name, text in tree.items():
        path = where / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text.encode("latin-1"))
    return Memory(str(where))


def v2(group: str, size: str, used: int, inactive: int = 0, high: str = "max", pressure: str = CALM) -> dict[str, str]:
    """The files of a group of version 2; `used` and `inactive` in MiB."""
    return {
        f"{group}/memory.max": f"{size}\n",
        f"{group}/memory.high": f"{high}\n",
        f"{group}/memory.current": f"{used * MIB}\n",
        f"{group}/memory.stat": f"anon 4096\nfile 8192\ninactive_file {inactive * MIB}\nactive_file 0\n",
        f"{group}/memory.pressure": pressure,
    }


def v1(group: str, size: str, used: int, inactive: int = 0) -> dict[str, str]:
    """The files of a group of version 1, of which another group below it holds half of the inactive pages."""
    return {
        f"memory{group}/memory.limit_in_bytes": f"{size}\n",
        f"memory{group}/memory.usage_in_bytes": f"{used * MIB}\n",
        f"memory{group}/memory.stat": (
            f"cache 8192\ninactive_file {inactive * MIB // 2}\nhierarchical_memory_limit {NO_LIMIT}\n"
            f"total_cache 8192\ntotal_inactive_file {inactive * MIB}\n"
        ),
    }


def mib(*scopes: MemoryScope) -> list[tuple[str, int | None, int | None]]:
    """Their names without `control group `, sizes and available memory, in MiB."""

    def in_mib(size: int | None) -> int | None:
        return None if size is None else size // MIB

    return [
        (scope.name.removeprefix("control group "), in_mib(scope.size), in_mib(scope.available)) for scope in scopes
    ]


def size(in_mib: int) -> str:
    return str(in_mib * MIB)


class Tree(NamedTuple):
    """A recorded one, and the scopes of the process."""

    group: str
    mounts: str
    files: dict[str, str]
    expected: list[tuple[str, int | None, int | None]]


TREES = {
    "version 2: a limit less what is used, but for inactive file pages": Tree(
        "0::/web", ALL_V2, v2("web", size(500), 300, inactive=120), [("/web", 500, 320)]
    ),
    "version 2: memory.high is a limit too": Tree(
        "0::/web", ALL_V2, v2("web", size(500), 300, high=size(400)), [("/web", 400, 100)]
    ),
    "version 2: over memory.high nothing is available": Tree(
        "0::/web", ALL_V2, v2("web", "max", 450, high=size(400)), [("/web", 400, 0)]
    ),
    "version 2: more inactive pages than usage": Tree(
        "0::/web", ALL_V2, v2("web", size(500), 100, inactive=120), [("/web", 500, 500)]
    ),
    "version 2: without a limit it has a pressure only": Tree(
        "0::/web", ALL_V2, v2("web", "max", 300), [("/web", None, None)]
    ),
    "version 2: each group above counts too": Tree(
        "0::/a/b/c",
        ALL_V2,
        {**v2("a/b/c", "max", 100), **v2("a/b", size(900), 150), **v2("a", size(200), 180)},
        [("/a/b/c", None, None), ("/a/b", 900, 750), ("/a", 200, 20)],
    ),
    "version 2: the top of a host is no group": Tree(
        "0::/", ALL_V2, {"memory.pressure": PRESSURE, "memory.stat": "inactive_file 0\n"}, []
    ),
    "version 2: the top of a container with a namespace of its own is one": Tree(
        "0::/", ALL_V2, v2("", size(512), 300, inactive=10), [("/", 512, 222)]
    ),
    "version 2: a group below the top of such a container": Tree(
        "0::/init.scope",
        ALL_V2,
        {**v2("init.scope", "max", 200), **v2("", size(512), 300)},
        [("/init.scope", None, None), ("/", 512, 212)],
    ),
    "version 2: a container without a namespace of its own": Tree(
        "0::/system.slice/docker-1.scope/web",
        V2.format(root="/system.slice/docker-1.scope"),
        {**v2("web", size(300), 200), **v2("", size(512), 300)},
        [("/system.slice/docker-1.scope/web", 300, 100), ("/system.slice/docker-1.scope", 512, 212)],
    ),
    "version 2: the pages of the group are not reported": Tree(
        "0::/web", ALL_V2, {"web/memory.max": size(500), "web/memory.current": size(300)}, [("/web", 500, 200)]
    ),
    "version 2: the usage is not reported": Tree("0::/web", ALL_V2, {"web/memory.max": size(500)}, []),
    "version 2: the group was removed, and those above are there": Tree(
        "0::/a/gone (deleted)", ALL_V2, v2("a", size(200), 180), [("/a", 200, 20)]
    ),
    "version 2: a group whose name begins with two dots": Tree(
        "0::/..a", ALL_V2, v2("..a", size(200), 180), [("/..a", 200, 20)]
    ),
    "version 1: a limit less what is used, but for inactive file pages of all below": Tree(
        "9:name=systemd:/x\n4:memory:/web\n1:cpu,cpuacct:/y\n",
        ALL_V1,
        {**v1("/web", size(500), 300, inactive=120), **v1("", NO_LIMIT, 900)},
        [("/web", 500, 320)],
    ),
    "version 1: each group above counts too": Tree(
        "4:memory:/a/b",
        ALL_V1,
        {**v1("/a/b", size(500), 100), **v1("/a", size(200), 180), **v1("", NO_LIMIT, 900)},
        [("/a/b", 500, 400), ("/a", 200, 20)],
    ),
    "version 1: no limit at all": Tree(
        "4:memory:/a/b", ALL_V1, {**v1("/a/b", NO_LIMIT, 100), **v1("/a", NO_LIMIT, 180), **v1("", NO_LIMIT, 900)}, []
    ),
    "version 1: memory together with another controller": Tree(
        "4:cpu,memory:/web",
        "35 20 0:32 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,cpu,memory\n",
        v1("/web", size(500), 300),
        [("/web", 500, 200)],
    ),
    "version 1: Docker without a namespace": Tree(
        "4:memory:/docker/1f2e/web\n0::/docker/1f2e",
        V1.format(root="/docker/1f2e"),
        {**v1("/web", size(300), 200), **v1("", size(512), 300)},
        [("/docker/1f2e/web", 300, 100), ("/docker/1f2e", 512, 212)],
    ),
    "version 1: Docker with a namespace": Tree("4:memory:/", ALL_V1, v1("", size(512), 300), [("/", 512, 212)]),
    "version 1: another container": Tree(
        "4:memory:/docker/other", V1.format(root="/docker/1f2e"), v1("", size(512), 300), []
    ),
    "version 1: a container whose name begins as ours does": Tree(
        "4:memory:/docker/1f2e7", V1.format(root="/docker/1f2e"), v1("", size(512), 300), []
    ),
    "version 1: a group outside of our namespace": Tree(
        "5:cpu,memory:/../other", ALL_V1, {**v1("", size(512), 300), **v1("/../other", size(64), 1)}, []
    ),
    "a namespace of its own, and the mounts of the host": Tree(
        "0::/", V2.format(root="/../.."), v2("", size(512), 300), []
    ),
    "mounted twice: at first only another container": Tree(
        "4:memory:/docker/1f2e",
        V1.format(root="/docker/other").replace("/memory ", "/other ") + ALL_V1,
        {**v1("/docker/1f2e", size(512), 300), **v1("", NO_LIMIT, 900)},
        [("/docker/1f2e", 512, 212)],
    ),
    "hybrid: version 2 has no memory": Tree(
        "4:memory:/process_api/82c1\n1:cpu:/\n0::/\n",
        ALL_V1 + UNIFIED,
        {
            **v1("/process_api/82c1", NO_LIMIT, 300),
            **v1("/process_api", size(512), 300),
            **v1("", NO_LIMIT, 900),
            "unified/cgroup.procs": "7\n",
        },
        [("/process_api", 512, 212)],
    ),
    "not mounted": Tree("4:memory:/web\n0::/web", "", v2("web", size(500), 300), []),
    "garbage": Tree(
        "x\n\n4:memory\n::\n0::web\n\xff\xfe\n4:memory:/web",
        "x\n - cgroup\n1 2 - cgroup2\n\xff - \xff\n" + ALL_V1,
        {**v1("/web", "\xff\xfe", 300), **v1("", "-5", 900), "memory/web/memory.stat": "x\ny z\n\xb2 \xb2\n"},
        [],
    ),
    "garbage beside a limit": Tree(
        "0::/web",
        ALL_V2,
        {
            **v2("web", size(500), 300, high="\xb2"),
            "web/memory.stat": "inactive_file \xb2\n",
            "web/memory.pressure": "x",
        },
        [("/web", 500, 200)],
    ),
}


@pytest.mark.parametrize(("group", "mounts", "files", "expected"), TREES.values(), ids=TREES.keys())
def test_the_scopes_of_a_process(tmp_path, group, mounts, files, expected):
    assert mib(*memory(tmp_path, group, mounts, files).scopes(7)) == expected


def test_the_pressure_in_a_group_is_the_share_of_the_last_10_s(tmp_path):
    files = {**v2("a/b", "max", 1, pressure=PRESSURE), **v2("a", size(900), 1, pressure="")}
    scopes = memory(tmp_path, "0::/a/b", ALL_V2, files).scopes(7)
    assert [(scope.name, scope.pressure) for scope in scopes] == [
        ("control group /a/b", 12.5),
        ("control group /a", None),
    ]


@pytest.mark.parametrize("text", ["some avg60=1.00", "some avg10=x", "full avg10=3.00", "\0", "some", "some avg10"])
def test_an_invalid_pressure_is_unknown(tmp_path, text):
    files = v2("a", size(900), 1, pressure=text)
    (scope,) = memory(tmp_path, "0::/a", ALL_V2, files).scopes(7)
    assert scope.pressure is None


def test_in_a_hybrid_hierarchy_v1_has_the_limit_and_v2_the_pressure(tmp_path):
    files = {**v1("/web", size(500), 300), **v1("", NO_LIMIT, 900), "unified/web/memory.pressure": PRESSURE}
    scopes = memory(tmp_path, "4:memory:/web\n0::/web\n", ALL_V1 + UNIFIED, files).scopes(7)
    assert scopes == (MemoryScope("control group /web", 500 * MIB, 200 * MIB, 12.5),)


def test_the_host_has_the_values_of_meminfo_and_its_own_pressure(tmp_path):
    recorded = memory(tmp_path, "0::/", ALL_V2, {})
    (tmp_path / "proc/meminfo").write_text("MemTotal:  2048 kB\nMemFree: 1 kB\nMemAvailable:  1024 kB\nHugePages: 0\n")
    assert recorded.scopes(7) == (MemoryScope(HOST, 2 * MIB, MIB, None),)
    (tmp_path / "proc/pressure").mkdir()
    (tmp_path / "proc/pressure/memory").write_text(PRESSURE)
    assert Memory(str(tmp_path)).scopes(7) == (MemoryScope(HOST, 2 * MIB, MIB, 12.5),)


@pytest.mark.parametrize("meminfo", ["", "MemTotal: 2048 kB\n", "MemTotal: x kB\nMemAvailable: 7 kB\n"])
def test_a_host_that_reports_no_memory_is_omitted(tmp_path, meminfo):
    recorded = memory(tmp_path, "0::/", ALL_V2, {})
    (tmp_path / "proc/meminfo").write_text(meminfo)
    assert recorded.scopes(7) == ()


def test_a_process_that_is_gone_has_only_the_host():
    assert [scope.name for scope in Memory().scopes(2**22 + 1)] == [HOST]


@pytest.mark.parametrize(
    ("group", "mounts", "expected"),
    [
        ("4:memory:/docker/other\n0::/", V1.format(root="/docker/1f2e") + UNIFIED, ["/docker/other"]),
        ("4:memory:/../other\n0::/../other", ALL_V1 + UNIFIED, ["/../other"]),
        ("0::/../other", ALL_V2, ["/../other"]),
        ("0::/system.slice/web", "", ["/system.slice/web"]),
        ("4:memory:/web\n0::/elsewhere", ALL_V1, []),
        ("0::/web", ALL_V2, []),
        ("0::/", "", []),
        ("", ALL_V2, []),
    ],
)
def test_the_hidden_groups_of_a_process_are_listed(tmp_path, group, mounts, expected):
    assert memory(tmp_path, group, mounts, {}).hidden_groups(7) == expected


def recorded_process(where: Path, pid: int, name: str, pages: int) -> None:
    (where / f"proc/{pid}").mkdir(parents=True, exist_ok=True)
    (where / f"proc/{pid}/comm").write_text(f"{name}\n")
    (where / f"proc/{pid}/statm").write_text(f"9999 {pages} 1 1 0 1 0\n")


def with_processes(where: Path, root: str) -> Memory:
    """Of a hybrid tree: process 7 is directly in a group, 8 in one below, 9 in none; 6 has ended."""
    for pid, name, pages in ((7, "small", 10), (8, "large", 30), (9, "other", 20)):
        recorded_process(where, pid, name, pages)
    files = {"memory/cgroup.procs": "9\n", "memory/a/cgroup.procs": "7\n6\n", "memory/a/b/cgroup.procs": "8\n0\nx\n"}
    files.update({"unified/a/cgroup.procs": "7\n8\n"})
    return memory(where, f"4:memory:{root.rstrip('/')}/a\n0::/a", V1.format(root=root) + UNIFIED, files)


def test_the_largest_holders_on_the_host(tmp_path):
    recorded = with_processes(tmp_path, "/")
    recorded_process(tmp_path, 10, "fourth", 5)
    of_three = Holder(8, "large", 30 * PAGE), Holder(9, "other", 20 * PAGE), Holder(7, "small", 10 * PAGE)
    assert recorded.holders(HOST) == of_three


@pytest.mark.parametrize("root", ["/", "/docker/1f2e"])
def test_the_largest_holders_in_a_group_and_its_subgroups(tmp_path, root):
    recorded = with_processes(tmp_path, root)
    holders = recorded.holders(f"control group {root.rstrip('/')}/a")
    assert holders == (Holder(8, "large", 30 * PAGE), Holder(7, "small", 10 * PAGE))
    top = recorded.holders(f"control group {root}")
    assert [holder.name for holder in top] == ["large", "other", "small"]


@pytest.mark.parametrize("scope", ["control group /gone", "control group /docker/other", "control group /../other"])
def test_an_invisible_group_has_no_known_holders(tmp_path, scope):
    assert with_processes(tmp_path, "/docker/1f2e").holders(scope) == ()


# This machine.


def test_this_host_has_the_values_of_meminfo():
    def assert_agrees() -> None:
        scope, known = Memory().scopes(os.getpid())[0], psutil.virtual_memory()
        assert (scope.name, scope.size) == (HOST, known.total)
        assert scope.available == pytest.approx(known.available, abs=16 * MIB)

    eventually(assert_agrees)


def test_the_largest_holders_on_this_host_are_real_processes():
    for holder in Memory().holders(HOST):
        with contextlib.suppress(psutil.NoSuchProcess):
            assert psutil.Process(holder.pid).name().startswith(holder.name[:15])


@pytest.fixture
def group() -> Iterator[cgroup.Group]:
    with cgroup.made(200 * MIB) as group:
        yield group


def test_in_a_real_group_available_memory_decreases_as_a_process_allocates(group):
    # Allocates as many bytes as each line says.
    program = "import sys; held = [(bytearray(int(line)), print('held', flush=True)) for line in sys.stdin]"
    command = [*group.command, sys.executable, "-c", program]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin
        assert process.stdout

        def hold(in_mib: int) -> MemoryScope:
            process.stdin.write(f"{in_mib * MIB}\n")
            process.stdin.flush()
            assert process.stdout.readline() == "held\n"
            return next(scope for scope in Memory().scopes(process.pid) if scope.name.endswith(group.directory.name))

        try:
            before, after = hold(1), hold(100)
            assert before.size == after.size == 200 * MIB
            assert before.available - after.available == pytest.approx(100 * MIB, abs=5 * MIB)
            (holder,) = Memory().holders(after.name)
            assert holder.pid == process.pid
            assert holder.resident > 100 * MIB
        finally:
            process.stdin.close()
