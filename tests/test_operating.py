"""supervisorctl, XML-RPC and events against the real stack: seeing and steering memreap through supervisord."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import re
import select
import shutil
import socket
import subprocess
import sys
import time
import xmlrpc.client
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from support import stack
from support.driver import POOL, an_hour_tick, assert_in, eventually, supervisord
from support.operated import Operated, assert_status, look

from supervisor_memreap.core.outputsettings import RECORDING_KEYS
from supervisor_memreap.core.settings import POOL_KEYS
from supervisor_memreap.listener import doctorprocess as process
from supervisor_memreap.listener.wakeable import wait
from supervisor_memreap.outputs.fields import COMMON, time_text
from supervisor_memreap.supervisord.client import Client, Unavailable

PASSWORD = "to%%pse:cret@"  # as it is written in the file: a % is doubled there


def configuration(where: Path, python: str, sections: str = "") -> str:
    bin = Path(python).parent
    return (
        f"[program:myapp]\ncommand={sys.executable} {POOL} 3 40\n"
        f"[program:other]\ncommand={sys.executable} {POOL} 1 5\nautorestart=true\n"
        "[memreap]\nlimit=1GB\nmin_age=1s\nsettle=1s\n[memreap:myapp]\n[memreap:other]\nannounce=no\n"
        f"[eventlistener:memreap]\ncommand={bin}/memreap listen\nevents=TICK_5,REMOTE_COMMUNICATION\n"
        f'stderr_logfile={where}/memreap.log\nenvironment=TMPDIR="{where}"\n{sections}'
        f"{stack.recorder(where)}{stack.PLUGIN}{stack.INTERFACE}"
    )


PAIRS = list(zip(stack.ENVIRONMENTS, ("unix", "http")))
OTHER_PAIRS = list(zip(stack.ENVIRONMENTS, ("http", "unix")))


def pair_name(param: tuple[str, str]) -> str:
    return "-".join(param)


@pytest.fixture(scope="module", params=PAIRS, ids=pair_name)
def operated(request) -> Iterator[Operated]:
    with operating(*request.param) as operated:
        yield operated


@contextlib.contextmanager
def operating(version: str, kind: str, prompt: bool = True) -> Iterator[Operated]:
    python = stack.python_with(version)
    where = stack.directory()
    if kind == "unix":
        http, url, name, password, credentials = None, f"unix://{where}/s.sock", "", "", ""
    else:
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        url, name, password = f"http://127.0.0.1:{port}", "me", PASSWORD.replace("%%", "%")
        http = f"[inet_http_server]\nport=127.0.0.1:{port}\nusername=me\npassword={PASSWORD}\n"
        credentials = f'environment=SUPERVISOR_USERNAME="me",SUPERVISOR_PASSWORD="{PASSWORD}",TMPDIR="{where}"\n'
    text = configuration(where, python)
    if credentials:
        text = text.replace(f'environment=TMPDIR="{where}"\n', credentials)
    try:
        with supervisord(where, text, http, python=python, prompt=prompt):
            operated = Operated(where, python, url, name, password)
            eventually(lambda: assert_status(operated, r"myapp +QUIET(?s:.*)\nother +QUIET"))
            yield operated
    finally:
        shutil.rmtree(where)


@pytest.mark.parametrize("pair", OTHER_PAIRS, ids=pair_name)
def test_each_version_is_read_and_controlled_over_each_transport(pair):
    """The other half of what all tests of `operated` are run with: one walk through all doors."""
    with operating(*pair) as operated:
        test_a_worker_is_replaced_on_request(operated)
        test_pools_are_structs_with_units_in_the_names(operated)
        test_the_doctor_of_the_listener_reports_no_problems(operated)
        assert operated.ctl("memreap", "pause", "all").returncode == 0
        eventually(lambda: assert_status(operated, "myapp +PAUSED"))
        assert operated.ctl("memreap", "resume", "all").returncode == 0
        assert operated.ctl("memreap", "frobnicate").returncode == 2


def test_status_is_a_table_with_all_pools(operated):
    # A listener that has just started does not know yet how much earlier ones reaped.
    eventually(lambda: assert_status(operated, r"myapp .* \d+ +[0-9.]+ \S+\n"))
    result = operated.ctl("memreap", "status")
    assert result.returncode == 0
    head, *lines = result.stdout.strip("\n").splitlines()
    assert head.split() == ["limit", "workers", "largest", "total", "growth", "reaps", "since"]
    mine, other = (line for line in lines if line[0] != " ")
    assert re.match(r"myapp +\w+ +1.0 GiB uss +3 +\d+ MiB +\d+ MiB +(-|-?[0-9.]+ [MG]iB/h) +\d+ ", mine)
    assert re.match(r"other +\w+ +1.0 GiB uss +1 +", other)
    assert max(map(len, lines)) <= 80
    only = operated.ctl("memreap", "status", "other")
    assert "myapp" not in only.stdout


def test_the_workers_of_a_pool_are_listed(operated):
    result = operated.ctl("memreap", "workers", "myapp")
    assert result.returncode == 0
    eventually(lambda: assert_same_pids(operated))


def assert_same_pids(operated) -> None:
    rows = operated.ctl("memreap", "workers", "myapp").stdout.splitlines()[1:]
    assert {int(row.split()[0]) for row in rows if row} == operated.workers()


def test_a_worker_is_replaced_on_request(operated):
    before = operated.workers()
    pid = max(before)
    result = operated.ctl("memreap", "reap", "myapp", str(pid))
    assert result.returncode == 0
    assert result.stdout.startswith(f"myapp: worker {pid} is going to be replaced")  # perhaps not before `min_age`
    reap, _ = eventually(lambda: assert_reaped(operated, pid))
    assert re.match(rf"worker {pid} was requested by a user, holds .*: HUP sent between two requests", reap["message"])
    after = operated.workers()
    assert (len(after), before - after) == (3, {pid})


def assert_reaped(operated, pid: int) -> list[dict]:
    """What was announced of this worker."""
    events = [event for event in operated.announced() if event["pid"] == pid]
    assert [event["event"] for event in events] == ["reap", "left"]
    return events


def test_events_are_announced_except_where_announce_is_off(operated):
    (pid,) = operated.workers("other")
    assert operated.ctl("memreap", "reap", "other").returncode == 0
    eventually(lambda: assert_in(f"other: worker {pid} left after", operated.log()))
    pid = min(operated.workers())
    assert operated.ctl("memreap", "reap", "myapp", str(pid)).returncode == 0

    for event in eventually(lambda: assert_reaped(operated, pid)):
        assert list(event)[: len(COMMON)] == list(COMMON)
        assert (event["version"], event["pool"]) == (1, "myapp")
        assert f"worker {pid}" in event["message"]
    assert not [event for event in operated.announced() if event["pool"] == "other"]


def test_a_roll_replaces_all_workers_one_at_a_time(operated):
    before = operated.workers()
    assert operated.ctl("memreap", "roll", "myapp").stdout.startswith("myapp: all 3 workers are to be replaced")
    fewest = 3

    def assert_all_are_new() -> None:
        nonlocal fewest
        now = operated.workers()
        fewest = min(fewest, len(now))
        assert not before & now

    eventually(assert_all_are_new, timeout=60)
    assert fewest >= 2


def test_a_pause_survives_a_restart_of_the_listener_and_is_ended_by_resume(operated):
    assert operated.ctl("memreap", "pause", "myapp").returncode == 0
    eventually(lambda: assert_status(operated, "myapp +PAUSED"))  # who is leaving is followed first
    assert not re.search("other +PAUSED", operated.ctl("memreap", "status").stdout)
    refused = operated.ctl("memreap", "reap", "myapp")
    assert refused.returncode == 1
    assert "myapp is paused: supervisorctl memreap resume myapp first" in refused.stdout
    pid = operated.rpc().memreap.getListener()["pid"]
    psutil.Process(pid).kill()
    eventually(lambda: assert_another_listener(operated, pid))
    eventually(lambda: assert_status(operated, "myapp +PAUSED"))
    assert operated.ctl("memreap", "resume", "all").returncode == 0
    eventually(lambda: assert_status(operated, "myapp +QUIET"))


def assert_another_listener(operated, pid: int) -> None:
    listener = operated.rpc().memreap.getListener()
    assert listener["pid"] not in (0, pid)
    assert listener["age_seconds"] < 3  # it is the new one that has looked


@pytest.mark.parametrize(
    ("words", "status", "expected"),
    [
        (["status", "nowhere"], 1, "no pool 'nowhere' is watched; there are: myapp, other"),
        (["workers", "nowhere"], 1, "no pool 'nowhere' is watched; there are: myapp, other"),
        (["workers"], 2, "write memreap workers NAME"),
        (["reap", "nowhere"], 1, "no pool 'nowhere' is watched; there are: myapp, other"),
        (["reap", "myapp", "1"], 1, "myapp has no worker 1; there are "),
        (["reap", "myapp", "x"], 2, "'x' is not a pid"),
        (["reap", "all"], 2, "reap: name one pool"),
        (["reap"], 2, "no pool given; write reap NAME"),
        (["pause", "x" * 2000], 2, "a command has at most 1000 characters, this one has 2006"),
        (["frobnicate"], 2, "unknown command 'frobnicate'; there are status,"),
        ([], 2, "no command given"),
    ],
)
def test_each_problem_is_one_line_and_an_exit_status(operated, words, status, expected):
    result = operated.ctl("memreap", *words)
    assert expected in result.stdout
    assert result.returncode == status
    assert "Traceback" not in result.stdout + result.stderr


def test_help_exists_and_the_help_of_other_commands_is_unchanged(operated):
    own = operated.ctl("memreap", "help")
    assert own.returncode == 0
    assert "memreap status [NAME ...]" in own.stdout
    assert max(map(len, own.stdout.splitlines())) <= 80
    assert "memreap roll NAME|all" in operated.ctl("help", "memreap").stdout
    assert "No help on" not in operated.ctl("help", "memreap").stdout
    assert "No help on" not in operated.ctl("help", "status").stdout
    assert "memreap commands (type help <topic>):" in operated.ctl("help").stdout


def test_it_works_at_a_terminal_too(operated):
    pid, terminal = pty.fork()
    if pid == 0:
        access = ["-u", operated.username, "-p", operated.password] if operated.username else []
        conf = f"{operated.directory}/supervisord.conf"
        command = [operated.python, "-m", "supervisor.supervisorctl", "-i", "-c", conf, "-s", operated.url, *access]
        os.chdir(operated.directory)
        os.execv(operated.python, command)
    try:
        seen = read_until(terminal, "supervisor> ")
        os.write(terminal, b"memreap status\n")
        seen = read_until(terminal, "supervisor> ")
        assert re.search("myapp +[A-Z]+ +1.0 GiB uss", seen)
        os.write(terminal, b"help memreap\n")
        seen = read_until(terminal, "supervisor> ")
        assert "memreap pause NAME|all" in seen
        assert "No help on" not in seen
    finally:
        os.write(terminal, b"exit\n")
        os.waitpid(pid, 0)
        os.close(terminal)


def read_until(terminal: int, end: str) -> str:
    seen = ""
    deadline = time.monotonic() + 20
    while not seen.endswith(end):
        assert select.select([terminal], [], [], max(0.0, deadline - time.monotonic()))[0], seen
        seen += os.read(terminal, 4096).decode()
    return seen


def test_the_methods_are_documented_like_those_of_supervisor(operated):
    rpc = operated.rpc()
    names = [name for name in rpc.system.listMethods() if name.startswith("memreap.")]
    assert names == sorted(f"memreap.{method}" for method in METHODS)
    for name in names:
        assert "@return" in rpc.system.methodHelp(name)
        assert rpc.system.methodSignature(name)[0] in ("string", "array", "struct", "boolean")


METHODS = ("getAnswer", "getListener", "getPending", "getPool", "getPools", "getRestarted", "getVersion", "publish")


def test_pools_are_structs_with_units_in_the_names(operated):
    rpc = operated.rpc()
    eventually(lambda: assert_status(operated, "myapp +QUIET"))  # a worker may just be being replaced
    mine = eventually(lambda: assert_same_in_both(rpc))  # the listener may look between the two calls
    assert mine["limit_bytes"] == float(1024**3)
    eventually(lambda: assert_same_workers(operated))  # one may just have been replaced
    with pytest.raises(xmlrpc.client.Fault, match="BAD_NAME: nowhere"):
        rpc.memreap.getPool("nowhere")
    listener = rpc.memreap.getListener()
    assert (listener["name"], listener["state"], listener["count"], listener["takes_commands"]) == (
        "memreap:memreap",
        "RUNNING",
        1,
        True,
    )


def assert_same_in_both(rpc) -> dict[str, Any]:
    (mine,) = [pool for pool in rpc.memreap.getPools() if pool["name"] == "myapp"]
    assert mine == {**rpc.memreap.getPool("myapp"), "message": mine["message"], "since": mine["since"]}
    return mine


def assert_same_workers(operated) -> None:
    (mine,) = [pool for pool in operated.rpc().memreap.getPools() if pool["name"] == "myapp"]
    assert {worker["pid"] for worker in mine["workers"]} == operated.workers()


def test_programs_that_supervisord_restarts_are_listed(operated):
    assert operated.rpc().memreap.getRestarted() == ["other:other"]


def test_the_doctor_of_the_listener_reports_no_problems(operated):
    result = operated.ctl("memreap", "doctor")
    *notes, last = result.stdout.splitlines()
    assert (result.returncode, last) == (0, "no problems found")
    assert [note for note in notes if "note: memreap does not know its server, so it uses HUP" not in note] == []
    too_much = operated.ctl("memreap", "doctor", "myapp")
    assert (too_much.returncode, too_much.stdout) == (2, "memreap: doctor: unexpected argument 'myapp'\n")


def test_a_problem_reported_by_the_doctor_of_the_listener_is_returned_and_the_listener_continues(tmp_path):
    where = stack.directory()
    text = configuration(where, sys.executable).replace(
        # However long the doctor takes, the worker is fresh.
        "[memreap:other]",
        "[memreap:other]\nlimit=1MB\nmetric=rss\nchecks=9999\nsettle=5min",
    )
    try:
        with supervisord(where, text):
            operated = Operated(where, sys.executable, f"unix://{where}/s.sock", "", "")
            eventually(lambda: assert_status(operated, "myapp +QUIET"))
            asked = [
                subprocess.Popen(operated.command("memreap", "doctor"), stdout=subprocess.PIPE, text=True) for _ in "ab"
            ]
            outputs = [each.communicate()[0] for each in asked]
            assert [each.returncode for each in asked] == [1, 1]
            assert any("over the limit of 1.0 MiB" in each for each in outputs), outputs
            assert all("other: " in each or "doctor is already running" in each for each in outputs), outputs
            result = operated.ctl("memreap", "pause", "all")
            assert result.returncode == 0
            listener = stack.listener_in(where)
            assert {each.name() for each in listener.children()} <= {"memreap history", "memreap reader"}
    finally:
        shutil.rmtree(where)


def test_a_listener_older_than_supervisorctl_is_reported():
    # Between two ticks there must be time for a command.
    with operating(*PAIRS[0], prompt=False) as operated:
        memreap = operated.rpc().memreap

        def assert_older_listener_reported() -> None:
            # As that listener would; the real one hands in its own after each tick.
            old = {"version": 1, "memreap": "0.0.9", "pools": memreap.getPools(), "answers": {}}
            for words in (["status"], ["workers", "myapp"]):
                memreap.publish(json.dumps(old))
                result = operated.ctl("memreap", *words)
                assert "memreap: the listener memreap:memreap is memreap 0.0.9, older than " in result.stdout
                assert result.returncode == 1

        eventually(assert_older_listener_reported)


def test_a_listener_with_hourly_ticks_is_recognised_and_accepts_commands_before_its_first_tick():
    where = stack.directory()
    text = configuration(where, sys.executable).replace("events=TICK_5,", f"events={an_hour_tick()},")
    try:
        with supervisord(where, text):
            operated = Operated(where, sys.executable, f"unix://{where}/s.sock", "", "")
            eventually(lambda: assert_in("has not looked at the pools yet", operated.ctl("memreap", "status").stdout))
            listener = operated.rpc().memreap.getListener()
            assert (listener["period_seconds"], listener["takes_commands"]) == (3600, True)
            result = operated.ctl("memreap", "pause", "all")
            assert (result.returncode, len(result.stdout.splitlines())) == (0, 2)
            assert_status(operated, "myapp +PAUSED")
    finally:
        shutil.rmtree(where)


def test_a_pool_whose_section_was_removed_is_no_longer_watched_and_accepts_no_commands():
    with operating(*PAIRS[0]) as operated:
        conf = operated.directory / "supervisord.conf"
        text = conf.read_text()
        start, end = text.index("[memreap]"), text.index("[eventlistener:memreap]")
        conf.write_text(text[:start] + text[end:])
        eventually(lambda: assert_in("no pool is watched", operated.ctl("memreap", "status").stdout))
        assert "watching nothing" in operated.log()
        before = operated.workers()
        refused = operated.ctl("memreap", "roll", "myapp")
        assert (refused.returncode, refused.stdout) == (1, "memreap: no pool 'myapp' is watched; there are: none\n")
        conf.write_text(text)
        eventually(lambda: assert_status(operated, "myapp +QUIET"))
        assert operated.workers() == before


def test_a_hanging_doctor_is_ended_with_all_its_children(monkeypatch, tmp_path):
    script = tmp_path / "memreap"
    script.write_text("import os; os.system('sleep 1000 & echo $!; wait')")
    monkeypatch.setattr(process, "PATIENCE", 0.5)
    monkeypatch.setattr(sys, "argv", [str(script)])
    doctor = process.DoctorProcess("", "1")

    def assert_ended() -> None:
        doctor.wake(wait(doctor))  # as the listener does
        assert doctor.has_ended()

    eventually(assert_ended)
    ok, text = doctor.result()
    pid, reason = text.splitlines()
    assert (ok, reason) == (False, "doctor did not finish")
    eventually(lambda: assert_true(not psutil.pid_exists(int(pid)) or psutil.Process(int(pid)).status() == "zombie"))


def assert_true(value: bool) -> None:
    assert value


def test_settings_are_shown_with_their_origin(operated):
    result = look(operated, "myapp", command="settings")
    assert result.returncode == 0
    assert re.search(rf"^  limit +1GB +{operated.directory}/supervisord.conf \[memreap\]$", result.stdout, re.MULTILINE)
    assert re.search(r"^  signal +HUP +default$", result.stdout, re.MULTILINE)
    assert "[other]" not in result.stdout
    both = look(operated, command="settings")
    assert re.search(
        rf"\[other\](?s:.*)announce +no +{operated.directory}/supervisord.conf \[memreap:other\]\n", both.stdout
    )
    assert re.search(
        rf"^  history +{operated.directory}/memreap.sqlite +default: beside the log of supervisord$",
        both.stdout,
        re.MULTILINE,
    )
    missing = look(operated, "nowhere", command="settings")
    assert (missing.returncode, missing.stdout) == (1, "")
    assert missing.stderr == "memreap: no pool 'nowhere' is watched; there are: myapp, other\n"


# What XML-RPC has no form for; the last would keep Python busy for minutes.
NO_NUMBERS = ["9" * 400, "-" + "9" * 400, "9" * 400 + ".5", "1e999", "NaN", "Infinity", "-Infinity", "9" * 3_900_000]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"pools": 1}',
        '{"pools": [1], "answers": {}}',
        '{"pools": [], "answers": {"a": {"ok": 1, "text": "x"}}}',
        '{"pools": [], "answers": {"a": {"ok": true, "text": ["x"]}}}',
        '{"pools": [{"name": "a\\ud800"}], "answers": {}}',
        f'{{"pools": [{{"name": "a", "x": {"[" * 500}{"]" * 500}}}], "answers": {{}}}}',
        "x" * 5_000_000,
        *(f'{{"pools": [{{"name": "a", "total_bytes": {number}}}], "answers": {{}}}}' for number in NO_NUMBERS),
        f'{{"pools": [], "answers": {{}}, "looked": {"9" * 400}}}',
        '{"pools": [], "answers": {}, "looked": "now"}',
    ],
    ids=range(20),
)
def test_values_that_no_listener_publishes_are_refused(operated, text):
    with pytest.raises(xmlrpc.client.Fault, match="INCORRECT_PARAMETERS"):
        operated.rpc().memreap.publish(text)
    assert [pool["name"] for pool in operated.rpc().memreap.getPools()] == ["myapp", "other"]


def test_a_refused_status_does_not_count_as_published(operated):
    client = Client(operated.url, operated.username, operated.password)
    with pytest.raises(Unavailable, match="INCORRECT_PARAMETERS"):
        client.publish("none")


@pytest.mark.parametrize(
    "data", ["", "kill -9 1", "reap myapp 1 2 3", "reap \u009b31m", "pause", "x" * 100_000, "reap 世"]
)
def test_an_invalid_command_is_one_line_and_changes_nothing(operated, data):
    before = operated.workers()
    lines = len(operated.log().splitlines())
    operated.rpc().supervisor.sendRemoteCommEvent("memreap-command", data)
    eventually(lambda: assert_more_lines(operated, lines))
    (line,) = operated.log().splitlines()[lines:]
    assert " memreap: a command was refused: " in line
    assert operated.workers() == before


def assert_more_lines(operated, lines: int) -> None:
    assert len(operated.log().splitlines()) > lines


def test_a_missing_interface_or_event_subscription_is_reported(tmp_path):
    python = sys.executable
    where = stack.directory()
    text = configuration(where, python).replace("REMOTE_COMMUNICATION\nstderr", "PROCESS_STATE\nstderr")
    text = text.replace("TICK_5,REMOTE_COMMUNICATION", "TICK_5")
    without = re.sub(r"\[rpcinterface:memreap\]\n.*\n", "", text)
    try:
        with supervisord(where, without):
            result = Operated(where, python, f"unix://{where}/s.sock", "", "").ctl("memreap", "status")
            assert result.returncode == 1
            assert "supervisord has no [rpcinterface:memreap]: run memreap doctor" in result.stdout
        for path in where.iterdir():
            path.unlink()
        with supervisord(where, text):
            operated = Operated(where, python, f"unix://{where}/s.sock", "", "")
            early = operated.ctl("memreap", "pause", "all")
            assert early.returncode == 1
            assert "nothing was done: the listener " in early.stdout
            eventually(lambda: assert_status(operated, "myapp +QUIET"))
            deaf = operated.ctl("memreap", "pause", "all")
            assert deaf.returncode == 1
            assert "set events=TICK_5,REMOTE_COMMUNICATION" in deaf.stdout
            operated.ctl("stop", "memreap:*")
            stopped = operated.ctl("memreap", "status")
            assert stopped.returncode == 1
            assert "the listener memreap:memreap is STOPPED" in stopped.stdout
    finally:
        shutil.rmtree(where)


@pytest.mark.parametrize(("module", "brings"), [("rpcinterface", ["core", "core.listeners"]), ("ctlplugin", [])])
def test_what_supervisor_imports_loads_next_to_nothing(module, brings):
    listed = "*[name for name in sys.modules if name.startswith(('supervisor_memreap', 'psutil'))]"
    code = f"import sys, supervisor_memreap.{module}; print({listed})"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    names = ["supervisor_memreap", *(f"supervisor_memreap.{name}" for name in (*brings, module))]
    assert sorted(result.stdout.split()) == sorted(names)


def test_characters_invalid_in_xml_do_not_break_the_answer():
    with operating(*PAIRS[0]) as operated:
        memreap = operated.rpc().memreap

        def assert_replaced() -> None:
            # As a listener would; the real one hands in its own after each tick.
            memreap.publish(
                '{"pools": [{"name": "a\\u0000\\u001b"}], "answers": {"1": {"ok": true, "text": "\\ufffe"}}}'
            )
            assert (memreap.getPools(), memreap.getAnswer("1")) == ([{"name": "a??"}], {"ok": True, "text": "?"})

        eventually(assert_replaced)


def test_the_status_command_shows_the_view_of_the_listener(operated):
    result = look(operated)
    assert (result.returncode, result.stderr) == (0, "")
    head, *lines = result.stdout.rstrip().splitlines()
    assert head.split() == ["limit", "workers", "largest", "total", "growth", "reaps", "since"]
    assert [line.split()[0] for line in lines if line[0] != " " and not line.startswith("Reaps ")] == [
        "myapp",
        "other",
        "This",
    ]
    assert re.fullmatch(r"This is what the listener saw [0-9.]+ m?s ago\.", lines[-1])
    assert operated.ctl("memreap", "pause", "other").returncode == 0
    assert re.search("other +PAUSED", look(operated).stdout)
    assert operated.ctl("memreap", "resume", "other").returncode == 0


def test_status_as_json_has_units_in_the_names(operated):
    eventually(lambda: assert_status(operated, "myapp +QUIET"))
    values = json.loads(look(operated, "--json", "myapp").stdout)
    (pool,) = values["pools"]
    assert (values["version"], values["view"], pool["name"]) == (1, "listener", "myapp")
    assert (pool["standing"], pool["limit_bytes"]) == ("quiet", 1024**3)
    assert isinstance(pool["limit_bytes"], int)
    assert isinstance(pool["workers"][0]["used_bytes"], int)
    assert {worker["pid"] for worker in pool["workers"]} == operated.workers()
    assert pool["largest_bytes"] == max(worker["used_bytes"] for worker in pool["workers"])
    assert pool["total_bytes"] == sum(worker["used_bytes"] for worker in pool["workers"])


def test_supervisorctl_prints_the_same_as_json(operated):
    eventually(lambda: assert_status(operated, "myapp +QUIET"))
    for words in (["status", "--json", "myapp"], ["workers", "myapp", "--json"]):
        result = operated.ctl("memreap", *words)
        values = json.loads(result.stdout)
        (pool,) = values["pools"]
        assert (result.returncode, values["version"], values["view"]) == (0, 1, "listener")
        assert values["age_seconds"] < 30
        times = {key.removesuffix("_at") for key, value in pool.items() if type(value) is int and 1e9 < value < 4e9}
        assert times >= {"since", "counted_since"}
        assert {key.removesuffix("_time") for key in pool if key.endswith("_time")} == times - {"limit_bytes"}
        assert pool["since_time"] == time_text(pool["since"])
        assert isinstance(pool["limit_bytes"], int)
        assert {worker["pid"] for worker in pool["workers"]} == operated.workers()
    both = json.loads(operated.ctl("memreap", "status", "--json").stdout)
    assert [pool["name"] for pool in both["pools"]] == ["myapp", "other"]


@pytest.mark.parametrize("words", [["status", "myapp", "wbe", "--json"], ["workers", "wbe", "--json"]])
def test_an_unknown_name_is_one_line_and_no_json_in_supervisorctl(operated, words):
    result = operated.ctl("memreap", *words)
    assert (result.returncode, result.stdout) == (
        1,
        "memreap: no pool 'wbe' is watched; there are: myapp, other\n",
    )


def test_supervisorctl_reports_problems_in_json(operated):
    operated.ctl("stop", "memreap:*")
    try:
        result = operated.ctl("memreap", "status", "--json")
        values = json.loads(result.stdout)
        assert (result.returncode, {pool["standing"] for pool in values["pools"]}) == (1, {"blind"})
        assert values["trouble"].startswith("the listener memreap:memreap is STOPPED: see its log")
    finally:
        operated.ctl("start", "memreap:*")
        eventually(lambda: assert_status(operated, "myapp +QUIET"))


def test_settings_as_json_have_values_texts_and_origins(operated):
    result = look(operated, "--json", "other", command="settings")
    values = json.loads(result.stdout)
    conf = f"{operated.directory}/supervisord.conf"
    (pool,) = values["pools"]
    assert (result.returncode, values["version"], values["configuration"], pool["name"]) == (0, 1, conf, "other")
    assert list(pool["settings"]) == list(POOL_KEYS)
    assert list(values["listener"]) == list(RECORDING_KEYS)
    assert pool["settings"]["limit"] == {"value": 1024**3, "text": "1GB", "where": f"{conf} [memreap]"}
    assert pool["settings"]["announce"] == {"value": False, "text": "no", "where": f"{conf} [memreap:other]"}
    assert pool["settings"]["grace"] == {"value": 300.0, "text": "5min", "where": "default"}
    assert pool["settings"]["max_age"] == {"value": None, "text": "-", "where": "default"}
    assert values["listener"]["log"] == {"value": "text", "text": "text", "where": "default"}


def test_doctor_as_json_has_the_same_findings(operated):
    result, text = look(operated, "--json", command="doctor"), look(operated, command="doctor")
    values = json.loads(result.stdout)
    assert result.returncode == text.returncode
    problems = [finding for finding in values["findings"] if finding["kind"] == "problem"]
    assert (values["version"], values["problems"]) == (1, len(problems))
    start = {"problem": "", "note": "note: ", "ok": "ok: "}
    lines = [f"memreap: {each['subject']}: {start[each['kind']]}{each['text']}" for each in values["findings"]]
    assert lines == text.stdout.splitlines()[:-1]
    assert len(lines) > 1


@pytest.mark.parametrize(
    ("words", "status", "expected"),
    [
        (["nowhere"], 1, "no pool 'nowhere' is watched; there are: myapp, other"),
        (["--watch", "often"], 2, "not a duration"),
        (["--watch", "0.1"], 2, "at least 0.5s"),
    ],
)
def test_an_impossible_look_is_reported_in_one_line(operated, words, status, expected):
    result = look(operated, *words)
    assert result.returncode == status
    assert expected in result.stderr
    assert len(result.stderr.splitlines()) == 1
