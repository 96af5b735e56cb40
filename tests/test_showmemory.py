"""`memreap memory` and `supervisorctl memreap memory`: what the programs of a real supervisord hold."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator

import psutil
import pytest
from support import stack
from support.driver import POOL, processes_in, supervisord
from support.operated import Operated
from support.sections import INTERFACES, program

from supervisor_memreap.core.model import ProcessMemory, Program
from supervisor_memreap.host import procfs, reader, trees
from supervisor_memreap.host.source import Source
from supervisor_memreap.supervisord.client import Client

# A program that leaves its tree, as one that daemonizes does: its own process ends only later.
LEAVES = "(setsid sleep 1000 &); exec sleep 1000"
PROGRAMS = (
    program("myapp", 3, 20)
    + "[program:plain]\ncommand=sleep 1000\n"
    + "[program:down]\ncommand=sleep 1000\nautostart=false\n"
    + f"[program:shell]\ncommand=sh -c '{sys.executable} {POOL} 1 24 | cat'\n"
    + f"[program:leaves]\ncommand=sh -c '{LEAVES}'\n"
    + "[program:many]\ncommand=sleep 1000\nnumprocs=2\nprocess_name=%(program_name)s_%(process_num)02d\n"
)
IS_ROOT = os.geteuid() == 0
if IS_ROOT:
    PROGRAMS += "[program:foreign]\ncommand=sleep 1000\nuser=nobody\n"
NAMES = ["down", *(["foreign"] if IS_ROOT else []), "leaves", "many:many_00", "many:many_01", "myapp", "plain", "shell"]
# Pages that a process touches, or shares with another one, between two readings.
NEAR = 1024**2


@pytest.fixture(scope="module")
def operated() -> Iterator[Operated]:
    where, port = stack.directory(), stack.free_port()
    http = f"[unix_http_server]\nfile={where}/s.sock\n[inet_http_server]\nport=127.0.0.1:{port}\n"
    try:
        with supervisord(where, PROGRAMS + INTERFACES, http):
            yield Operated.of(where)
    finally:
        for process in processes_in(where):  # the one that has left
            process.kill()
        shutil.rmtree(where)


def tree_of(pid: int) -> list[psutil.Process]:
    process = psutil.Process(pid)
    return [process, *process.children(recursive=True)]


def test_the_sums_are_those_of_psutil_over_each_whole_tree(operated):
    values = json.loads(operated.memreap("memory", "--json").stdout)
    pids = {info["name"]: info["pid"] for info in operated.rpc().supervisor.getAllProcessInfo()}
    shown = {row["name"]: row for row in values["programs"]}
    assert sorted(shown) == NAMES
    for name, row in shown.items():
        pid = pids[name.rpartition(":")[2]]
        infos = [process.memory_full_info() for process in tree_of(pid)] if pid else []
        assert row["processes"] == len(infos), name
        assert row["uss_bytes"] == pytest.approx(sum(info.uss for info in infos), abs=NEAR), name
        assert row["pss_bytes"] == pytest.approx(sum(info.pss for info in infos), abs=NEAR), name
        assert row["swap_bytes"] <= sum(info.swap for info in infos), name
    assert {name: row["processes"] for name, row in shown.items()} == {
        **dict.fromkeys(NAMES, 1),
        "down": 0,
        "myapp": 4,
        "shell": 4,
    }
    assert (shown["down"]["state"], shown["down"]["uss_bytes"]) == ("STOPPED", 0)
    assert shown["myapp"]["uss_bytes"] > 60 * 1024**2
    rows = [*shown.values(), values["supervisord"]]
    assert values["supervisord"]["processes"] == 1
    for key, total in values["total"].items():
        assert total == sum(row[key] for row in rows)


def test_all_are_in_a_table_that_begins_with_the_largest(operated):
    result = operated.memreap("memory")
    assert (result.returncode, result.stderr) == (0, "")
    head, *lines = result.stdout.splitlines()
    assert head.split() == ["processes", "uss", "pss", "swap"]
    names = [line.split()[0] for line in lines]
    assert names[:2] == ["myapp", "shell"]
    assert sorted(names[: names.index("total")]) == sorted([*NAMES, "supervisord"])
    assert names[names.index("total") - 1] == "down"
    assert max(map(len, lines)) <= 80


def test_names_choose_programs_and_groups_of_which_each_must_exist(operated):
    values = json.loads(operated.memreap("memory", "--json", "many", "plain").stdout)
    assert sorted(row["name"] for row in values["programs"]) == ["many:many_00", "many:many_01", "plain"]
    assert (values["total"]["processes"], "supervisord" in values) == (3, False)
    wrong = operated.memreap("memory", "plain", "nope")
    assert (wrong.returncode, wrong.stdout) == (1, "")
    assert wrong.stderr == f"memreap: no program or group 'nope' in supervisord; there are: {', '.join(NAMES)}\n"


def test_supervisorctl_shows_the_same(operated):
    table = operated.ctl("memreap", "memory", "myapp", "down")
    assert (table.returncode, table.stderr) == (0, "")
    assert [line.split()[0] for line in table.stdout.splitlines()[1:4]] == ["myapp", "down", "total"]
    values = json.loads(operated.ctl("memreap", "memory", "--json").stdout)
    assert sorted(row["name"] for row in values["programs"]) == NAMES
    wrong = operated.ctl("memreap", "memory", "nope")
    assert (wrong.returncode, wrong.stdout.count("\n")) == (1, 1)
    assert wrong.stdout.startswith("memreap: no program or group 'nope' in supervisord; there are: ")
    assert operated.ctl("memreap", "memory", "-x").returncode == 2


def test_a_supervisord_that_does_not_answer_is_one_line(operated):
    result = operated._replace(url="unix:///nowhere/s.sock").memreap("memory")
    assert (result.returncode, result.stdout, result.stderr.count("\n")) == (1, "", 1)
    assert "supervisord does not answer at unix:///nowhere/s.sock" in result.stderr


def programs_of(operated: Operated) -> list[Program]:
    return Client(operated.url).programs()


def over_http(operated: Operated, **changes) -> list[Program]:
    """The same, as of a supervisord whose pids may mean other processes here."""
    programs = programs_of(operated)
    now = time.time()
    ages = [now - psutil.Process(each.pid).create_time() if each.pid else 0.0 for each in programs]
    return [_with(each, age=age, **changes) for each, age in zip(programs, ages)]


def _with(each: Program, **changes) -> Program:
    return Program(**{**vars(each), **changes})


def test_over_a_port_a_program_is_known_by_its_parent_and_its_start_time(operated):
    assert trees.read(over_http(operated)).supervisord is not None
    mistaken = [_with(each, age=1e6) if each.name == "plain" else each for each in over_http(operated)]
    (row,) = (row for row in trees.read(mistaken).programs if row["name"] == "plain")
    assert "another start time than in supervisord" in (row["unknown"] or "")
    assert "processes" not in row


@pytest.mark.parametrize("supervisord", [2**22 + 1, 1])
def test_a_supervisord_of_another_machine_is_recognised(operated, supervisord):
    """Also where its pids are those of processes here."""
    with pytest.raises(trees.NotHere, match="runs on another machine or in another container"):
        trees.read(over_http(operated, supervisord=supervisord))


def test_supervisorctl_says_that_it_cannot_read_another_machine(operated, monkeypatch):
    programs = over_http(operated, supervisord=1)
    monkeypatch.setattr(Client, "programs", lambda _: programs)
    result = operated.ctl("memreap", "memory")
    assert (result.returncode, result.stdout.count("\n")) == (1, 1)
    assert result.stdout.startswith("memreap: no process of that supervisord can be seen here")


@pytest.fixture
def failing(monkeypatch):
    """Reading these pids raises this."""
    errors: dict[int, Exception] = {}
    read = reader.read

    def fail(path: str) -> bytes:
        error = errors.get(int(path.split("/")[2]))
        if error:
            raise error
        return read(path)

    monkeypatch.setattr(reader, "read", fail)
    return errors


def test_a_process_that_cannot_be_read_is_unknown_with_the_reason_and_the_others_count(operated, failing):
    pids = {each.name: each.pid for each in programs_of(operated)}
    failing[max(operated.workers())] = reader.Blocked(13, "its memory map is locked")
    failing[pids["plain"]] = PermissionError(13, "Permission denied")
    failing[pids["leaves"]] = ProcessLookupError()
    rows = {row["name"]: row for row in trees.read(programs_of(operated)).programs}
    assert (rows["myapp"]["processes"], rows["myapp"]["unreadable_processes"]) == (4, 1)
    assert (rows["myapp"]["uss_bytes"] or 0) > 40 * 1024**2
    assert "keeps its memory map locked" in (rows["myapp"]["unknown"] or "")
    assert "uss_bytes" not in rows["plain"]
    assert "as root with CAP_SYS_PTRACE" in (rows["plain"]["unknown"] or "")
    assert (rows["leaves"]["processes"], "unknown" in rows["leaves"]) == (0, False)  # it has just ended
    result = operated.memreap("memory", "myapp")
    assert (result.returncode, result.stderr.count("\n")) == (1, 1)
    assert result.stderr.startswith("memreap: 1 of 4 processes of myapp: not read in time: ")
    assert operated.ctl("memreap", "memory", "myapp", "--json").returncode == 1


def test_no_more_is_read_when_the_time_is_over(operated):
    held = trees.read(programs_of(operated), patience=0.0)
    assert {row.get("unknown", "")[:9] for row in held.programs if row["processes"]} == {"not read:"}


# As root: without this right, the memory of another user's processes may not be read.
WITHOUT_PTRACE = ("setpriv", "--bounding-set=-sys_ptrace,-perfmon,-sys_admin")
HIDDEN = ("unshare", "--mount", "sh", "-c", 'mount -t proc -o hidepid=2 proc /proc && exec "$@"', "sh")
# hidepid hides nothing from the group of root.
OTHER_GROUP = ("--regid=65534", "--clear-groups")


@pytest.mark.skipif(not IS_ROOT, reason="runs a program as another user")
@pytest.mark.parametrize(
    ("through", "processes", "text"),
    [
        (
            WITHOUT_PTRACE,
            "1",
            "1 of 1 processes of foreign: no permission to read their memory; run memreap as their user or as root with"
            " CAP_SYS_PTRACE",
        ),
        ((*HIDDEN, *WITHOUT_PTRACE, *OTHER_GROUP), "-", "foreign: its processes are hidden from this user"),
    ],
    ids=["unreadable", "hidden"],
)
def test_what_this_user_may_not_read_is_unknown_and_one_line_says_why(operated, through, processes, text):
    try:
        subprocess.run([*through, "true"], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"cannot be run here: {error}")
    command = [
        *through,
        sys.executable,
        "-m",
        "supervisor_memreap",
        "-c",
        str(operated.conf),
        "memory",
        "foreign",
        "down",
    ]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (result.returncode, result.stderr) == (1, f"memreap: {text}\n")
    rows = {name: cells for name, *cells in map(str.split, result.stdout.splitlines()[1:])}
    assert rows["foreign"] == ["RUNNING", processes, "-", "-", "-"]
    assert rows["down"][:3] == ["STOPPED", "0", "0.0"]


def test_other_systems_are_read_through_psutil(operated, monkeypatch):
    expected = trees.read(programs_of(operated)).programs
    monkeypatch.setattr(procfs, "_IS_USABLE", False)
    rows = trees.read(programs_of(operated)).programs
    assert [row["processes"] for row in rows] == [row["processes"] for row in expected]
    assert [row["uss_bytes"] for row in rows] == pytest.approx([row["uss_bytes"] for row in expected], abs=NEAR)
    monkeypatch.setattr(Source, "memory", lambda *_: ProcessMemory(7, 0, None))  # as on macOS
    (row,) = trees.read(programs_of(operated), ["plain"]).programs
    assert (row["uss_bytes"], "pss_bytes" in row, row["swap_bytes"]) == (7, False, 0)


def test_a_system_without_uss_is_called_so(operated, monkeypatch):
    def memory(*_):
        raise PermissionError("this system does not report uss")  # the BSDs

    monkeypatch.setattr(procfs, "_IS_USABLE", False)
    monkeypatch.setattr(Source, "memory", memory)
    (row,) = trees.read(programs_of(operated), ["plain"]).programs
    assert row["unknown"] == "this system does not report uss"


def test_each_process_is_asked_about_once(operated, monkeypatch):
    """Whatever the number of programs: one walk for the trees, and one reading for each size."""
    asked: list[str] = []
    read = reader.read
    monkeypatch.setattr(reader, "read", lambda path: asked.append(path) or read(path))
    walked: list[int] = []
    process = procfs.Procfs.process
    monkeypatch.setattr(procfs.Procfs, "process", lambda self, pid: walked.append(pid) or process(self, pid))
    held = trees.read(programs_of(operated))
    assert len(walked) == len(set(walked))
    assert len(asked) == len(set(asked)) == 1 + sum(row["processes"] or 0 for row in held.programs)
