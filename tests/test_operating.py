"""supervisorctl, XML-RPC and events against the real stack: seeing and steering memreap through supervisord."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import pty
import re
import select
import subprocess
import sys
import time
import xmlrpc.client
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from supervisor.xmlrpc import RPCError
from support import stack
from support.driver import assert_in, eventually, is_alive, until
from support.messages import row
from support.operated import Operated, assert_logged, assert_status, operating
from support.sections import program

from supervisor_memreap.core.events import Event
from supervisor_memreap.core.settings import POOL_KEYS, RECORDING_KEYS
from supervisor_memreap.host.thismachine import ThisMachine
from supervisor_memreap.listener import doctorprocess as process
from supervisor_memreap.listener.wakeable import wait
from supervisor_memreap.outputs.fields import COMMON
from supervisor_memreap.outputs.lasting import Once
from supervisor_memreap.outputs.publisher import Publisher
from supervisor_memreap.outputs.words import time_text
from supervisor_memreap.rpcinterface import make_rpcinterface
from supervisor_memreap.supervisord.client import Client, Refused, Unavailable

PASSWORD = "to%%pse:cret@"  # as it is written in the file: a % is doubled there
POOLS = (
    program("myapp", 3, 40)
    + program("other", 1, 5, more="autorestart=true\n")
    + "[memreap]\nlimit=1GB\nmin_age=1s\nsettle=1s\n[memreap:myapp]\n[memreap:other]\nannounce=no\n"
)
ALL_QUIET = r"myapp +QUIET(?s:.*)\nother +QUIET"


@pytest.fixture(scope="module")
def operated() -> Iterator[Operated]:
    """Each test leaves both pools watched, unpaused and with the settings of the start."""
    with operating(POOLS) as operated:
        eventually(lambda: assert_status(operated, ALL_QUIET))
        yield operated


@contextlib.contextmanager
def through_a_port(version: str) -> Iterator[Operated]:
    """The same, of another supervisor, and with a login."""
    python = stack.python_with(version)
    command = f"{Path(python).parent}/memreap listen"
    port = stack.free_port()
    http = f"[inet_http_server]\nport=127.0.0.1:{port}\nusername=me\npassword={PASSWORD}\n"
    login = f',SUPERVISOR_USERNAME="me",SUPERVISOR_PASSWORD="{PASSWORD}"'
    with operating(POOLS, command, environment=login, http=http, python=python) as operated:
        yield Operated(operated.directory, python, f"http://127.0.0.1:{port}", "me", PASSWORD.replace("%%", "%"))


def test_the_oldest_version_is_read_and_controlled_through_a_port_with_a_login():
    """One walk through all doors; commands are processes of that version. All else: the newest, by a socket."""
    with through_a_port("4.2.5") as operated:
        eventually(lambda: assert_status(operated, ALL_QUIET))
        assert re.search(ALL_QUIET, output(operated, "status"))
        test_pools_are_structs_with_units_in_the_names(operated)
        assert output(operated, "doctor").endswith("no problems found\n")
        assert "paused" in output(operated, "pause", "all")
        assert_status(operated, "myapp +PAUSED")
        assert operated.ctl("memreap", "resume", "all").returncode == 0
        pid = max(operated.workers())
        assert f"worker {pid} will be replaced" in output(operated, "reap", "myapp", str(pid))
        eventually(lambda: assert_reaped(operated, pid))
        output(operated, "frobnicate", status=2)
        operated.send("reap 世")
        eventually(lambda: assert_logged(operated, REFUSED, 1))
        test_what_is_no_status_is_refused_and_does_not_count_as_published(operated)


def output(operated: Operated, *words: str, status: int = 0) -> str:
    """What the supervisorctl of that supervisor prints."""
    result = operated.process("memreap", *words)
    assert (result.returncode, result.stderr) == (status, ""), result
    return result.stdout


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
    assert "myapp" not in operated.ctl("memreap", "status", "other").stdout


def test_the_workers_of_a_pool_are_listed(operated):
    def assert_same_pids() -> None:
        result = operated.ctl("memreap", "workers", "myapp")
        rows = result.stdout.splitlines()[1:]
        assert {int(row.split()[0]) for row in rows if row} == operated.workers()
        assert result.returncode == 0

    eventually(assert_same_pids)


def test_a_worker_is_replaced_on_request(operated):
    before = operated.workers()
    pid = max(before)
    result = operated.ctl("memreap", "reap", "myapp", str(pid))
    assert result.returncode == 0
    assert result.stdout.startswith(f"myapp: worker {pid} will be replaced")  # perhaps not before `min_age`
    reap, _ = eventually(lambda: assert_reaped(operated, pid))
    assert (reap["reason"], reap["moment"]) == ("requested", "held")
    after = operated.workers()
    assert (len(after), before - after) == (3, {pid})


def assert_reaped(operated: Operated, pid: int) -> list[dict]:
    """What was announced of this worker."""
    events = [event for event in operated.announced() if event["pid"] == pid]
    assert [event["event"] for event in events] == ["reap", "left"]
    return events


def test_events_are_announced_except_where_announce_is_off(operated):
    (pid,) = operated.workers("other")
    assert operated.ctl("memreap", "reap", "other").returncode == 0
    eventually(lambda: assert_logged(operated, f"other: worker {pid} left after"))
    pid = min(operated.workers())
    assert operated.ctl("memreap", "reap", "myapp", str(pid)).returncode == 0

    for event in eventually(lambda: assert_reaped(operated, pid)):
        assert list(event)[: len(COMMON)] == list(COMMON)
        assert (event["version"], event["pool"]) == (1, "myapp")
        assert f"worker {pid}" in event["message"]
    assert not [event for event in operated.announced() if event["pool"] == "other"]


def test_a_roll_replaces_all_workers_one_at_a_time(operated):
    before = operated.workers()
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(operated.ctl, "memreap", "roll", "myapp", "--wait")
        fewest = 3
        while not waiting.done():
            fewest = min(fewest, len(operated.workers()))
            time.sleep(0.05)
    result = waiting.result()
    assert result.returncode == 0, result
    first, *progress = result.stdout.splitlines()
    assert first.startswith("myapp: all 3 workers will be replaced, one at a time")
    assert progress == [f"myapp: {number} of 3 workers replaced" for number in range(4)]
    assert fewest >= 2
    assert not before & operated.workers()
    assert "the roll is done: workers replaced: 3" in operated.log()


def test_a_pause_survives_a_restart_of_the_listener_and_is_ended_by_resume(operated):
    assert operated.ctl("memreap", "pause", "myapp").returncode == 0
    eventually(lambda: assert_status(operated, "myapp +PAUSED"))  # who is leaving is followed first
    assert not re.search("other +PAUSED", operated.ctl("memreap", "status").stdout)
    assert operated.ctl("memreap", "reap", "myapp").returncode == 1
    assert re.search("myapp +PAUSED", operated.memreap("status").stdout)
    killed = operated.listener()
    killed.kill()
    eventually(lambda: assert_another_listener(operated, killed.pid))
    eventually(lambda: assert_status(operated, "myapp +PAUSED"))
    assert operated.ctl("memreap", "resume", "all").returncode == 0
    eventually(lambda: assert_status(operated, "myapp +QUIET"))


def assert_another_listener(operated: Operated, pid: int) -> None:
    listener = operated.rpc().memreap.getListener()
    assert listener["pid"] not in (0, pid)
    assert listener["age_seconds"] < 3  # it is the new one that has looked


@pytest.mark.parametrize(
    ("words", "status", "expected"),
    [
        (["status", "nowhere"], 1, "no pool 'nowhere' is watched; there are: myapp, other"),
        (["status", "myapp", "wbe", "--json"], 1, "no pool 'wbe' is watched; there are: myapp, other"),
        (["workers", "wbe", "--json"], 1, "no pool 'wbe' is watched; there are: myapp, other"),
        (["workers"], 2, "workers: name one pool; write memreap workers NAME"),
        (["reap", "nowhere"], 1, "no pool 'nowhere' is watched; there are: myapp, other"),
        (["reap", "myapp", "1"], 1, "myapp has no worker 1; its workers are "),
        (["reap", "all"], 2, "reap: name one pool"),
        (["doctor", "myapp"], 2, "doctor: unexpected argument 'myapp'"),
        (["pause", "x" * 2000], 2, "a command has at most 1000 characters, this one has 2006"),
        (["frobnicate"], 2, "unknown command 'frobnicate'; the commands are status,"),
        ([], 2, "no command given"),
    ],
)
def test_each_problem_is_one_line_and_an_exit_status(operated, words, status, expected):
    result = operated.ctl("memreap", *words)
    assert result.stdout.startswith(f"memreap: {expected}")
    assert (result.returncode, result.stdout.count("\n"), result.stderr) == (status, 1, "")


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
    command = operated.command()
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(operated.directory)
        os.execv(command[0], [*command, "-i"])
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
    until(lambda: {each["pid"] for each in rpc.memreap.getPool("myapp")["workers"]} == operated.workers())
    with pytest.raises(xmlrpc.client.Fault, match="BAD_NAME: nowhere"):
        rpc.memreap.getPool("nowhere")
    assert rpc.memreap.getRestarted() == ["other:other"]
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


def test_the_doctor_of_the_listener_reports_no_problems(operated):
    result = operated.ctl("memreap", "doctor")
    *notes, last = result.stdout.splitlines()
    assert (result.returncode, last) == (0, "no problems found")
    assert [note for note in notes if "note: memreap does not know its server, so it uses HUP" not in note] == []


@contextlib.contextmanager
def changed(operated: Operated, old: str, new: str) -> Iterator[None]:
    """Where another file is there, which the listener reads at its next look; later that of before."""
    text = operated.conf.read_text()
    assert text.count(old) == 1
    operated.conf.write_text(text.replace(old, new))
    try:
        yield
    finally:
        operated.conf.write_text(text)
        eventually(lambda: assert_status(operated, ALL_QUIET))


def test_a_problem_reported_by_the_doctor_of_the_listener_is_returned_and_the_listener_continues(operated):
    # However long the doctor takes, the worker is fresh.
    low = "[memreap:other]\nlimit=1MB\nmetric=rss\nchecks=9999\nsettle=30min\n"
    with changed(operated, "[memreap:other]\n", low):
        until(lambda: operated.rpc().memreap.getPool("other")["limit_bytes"], 1024**2)
        asked = [
            subprocess.Popen(operated.command("memreap", "doctor"), stdout=subprocess.PIPE, text=True) for _ in "ab"
        ]
        outputs = [each.communicate()[0] for each in asked]
        assert [each.returncode for each in asked] == [1, 1]
        assert any("over the limit of 1.0 MiB" in each for each in outputs), outputs
        assert all("other: " in each or "doctor is already running" in each for each in outputs), outputs
        assert operated.ctl("memreap", "pause", "all").returncode == 0
        eventually(lambda: assert_children(operated, "memreap history"))
        assert operated.ctl("memreap", "resume", "all").returncode == 0


def assert_children(operated: Operated, *names: str) -> None:
    """Those of the listener. What reads the sizes of workers ends after each look."""
    assert sorted(each.name() for each in stack.listener_in(operated.directory).children()) == sorted(names)


def test_a_listener_older_than_supervisorctl_is_reported(operated):
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


def test_a_pool_whose_section_was_removed_is_no_longer_watched_and_accepts_no_commands(operated):
    text = operated.conf.read_text()
    before = operated.workers()
    with changed(operated, text[text.index("[memreap]") : text.index("[eventlistener:memreap]")], ""):
        eventually(lambda: assert_in("no pool is watched", operated.ctl("memreap", "status").stdout))
        assert_logged(operated, "watching nothing")
        refused = operated.ctl("memreap", "roll", "myapp")
        assert (refused.returncode, refused.stdout) == (1, "memreap: no pool 'myapp' is watched; there are: none\n")
    assert operated.workers() == before


def test_a_listener_without_commands_is_reported_with_the_remedy(operated):
    events = "events=TICK_5,REMOTE_COMMUNICATION\n"
    with changed(operated, events, "events=TICK_5\n"):
        assert "memreap: updated process group" in operated.ctl("update").stdout
        refused = operated.ctl("memreap", "pause", "all")
        assert refused.returncode == 1
        assert "nothing was done: the listener " in refused.stdout
        assert f"set {events.strip()}" in refused.stdout
    assert "memreap: updated process group" in operated.ctl("update").stdout
    eventually(lambda: assert_status(operated, ALL_QUIET))


def test_a_hanging_doctor_is_ended_with_all_its_children(monkeypatch, tmp_path):
    script = tmp_path / "memreap"
    script.write_text("import os; os.system('sleep 1000 & echo $!; wait')")
    monkeypatch.setattr(process, "PATIENCE", 0.5)
    monkeypatch.setattr(sys, "argv", [str(script)])
    doctor = process.DoctorProcess("", "1")

    while not doctor.has_ended():
        doctor.wake(wait(ThisMachine(), doctor))  # as the listener does
    ok, text = doctor.result()
    pid, reason = text.splitlines()
    assert (ok, reason) == (False, "doctor did not finish")
    until(lambda: is_alive(int(pid)), False)


def test_settings_are_shown_with_their_origin(operated):
    result = operated.memreap("settings", "myapp")
    assert result.returncode == 0
    assert re.search(rf"^  limit +1GB +{operated.conf} \[memreap\]$", result.stdout, re.MULTILINE)
    assert re.search(r"^  signal +HUP +default$", result.stdout, re.MULTILINE)
    assert "[other]" not in result.stdout
    both = operated.memreap("settings").stdout
    assert re.search(rf"\[other\](?s:.*)announce +no +{operated.conf} \[memreap:other\]\n", both)
    history = rf"^  history +{operated.directory}/memreap.sqlite +default: beside the log of supervisord$"
    assert re.search(history, both, re.MULTILINE)
    missing = operated.memreap("settings", "nowhere")
    assert (missing.returncode, missing.stdout) == (1, "")
    assert missing.stderr == "memreap: no pool 'nowhere' is watched; there are: myapp, other\n"


# What XML-RPC has no form for; the last would keep Python busy for minutes.
NO_NUMBERS = ["9" * 400, "-" + "9" * 400, "9" * 400 + ".5", "1e999", "NaN", "Infinity", "-Infinity", "9" * 3_900_000]
NO_STATUS = [
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
]


@pytest.mark.parametrize("text", NO_STATUS, ids=range(len(NO_STATUS)))
def test_values_that_no_listener_publishes_are_refused(text):
    interface = make_rpcinterface(SimpleNamespace())
    interface.publish('{"pools": [{"name": "myapp"}], "answers": {}}')
    with pytest.raises(RPCError, match="INCORRECT_PARAMETERS"):
        interface.publish(text)
    assert interface.getPools() == [{"name": "myapp"}]


def packed(pools: str) -> str:
    return base64.b64encode(zlib.compress(pools.encode("utf-8", "surrogatepass"))).decode()


def test_packed_pools_are_what_they_would_be_without():
    odd = {"name": "a\x00é", "total_bytes": 3 << 30, "workers": [{"pid": 1, "over": None}]}
    pools = json.dumps([odd, {"name": "b"}])
    plain, other = make_rpcinterface(SimpleNamespace()), make_rpcinterface(SimpleNamespace())
    plain.publish(f'{{"pools": {pools}, "answers": {{}}}}')
    other.publish(json.dumps({"pools": packed(pools), "answers": {"1": {"ok": True, "text": "done"}}}))
    assert other.getAnswer("1") == {"ok": True, "text": "done"}
    assert other.getPools() == plain.getPools() == other.getPools()
    assert [type(size) for size in (other.getPool("b")["name"], other.getPools()[0]["total_bytes"])] == [str, float]


NO_PACKED_POOLS = [
    "none",
    base64.b64encode(b"[]").decode(),
    *map(packed, ("1", "[1]", "{}[", '[{"name": 1}]', '[{"name": "a\\ud800"}]', '[{"name": "a\ud800"}]')),
    packed(f'[{{"name": "a", "x": {"[" * 500}{"]" * 500}}}]'),
    packed("[" + " " * 5_000_000 + "]"),
    *(packed(f'[{{"name": "a", "total_bytes": {number}}}]') for number in NO_NUMBERS),
]


@pytest.mark.parametrize("pools", NO_PACKED_POOLS, ids=range(len(NO_PACKED_POOLS)))
def test_packed_pools_that_no_listener_publishes_are_refused_whenever_they_are_asked_for(pools):
    interface = make_rpcinterface(SimpleNamespace())
    interface.publish(json.dumps({"pools": pools, "answers": {}}))
    for ask in (interface.getPools, interface.getPools, lambda: interface.getPool("a")):
        with pytest.raises(RPCError, match="FAILED: no listener has published these pools"):
            ask()
    interface.publish(json.dumps({"pools": packed('[{"name": "myapp"}]'), "answers": {}}))
    assert interface.getPools() == [{"name": "myapp"}]


def test_an_older_interface_which_cannot_unpack_the_pools_gets_them_plain_from_then_on():
    got: list[object] = []
    emitted: list[Event] = []

    class Older(Client):
        def publish(self, text: str) -> bool:
            got.append(json.loads(text)["pools"])
            if isinstance(got[-1], str):
                raise Refused("supervisord refused: INCORRECT_PARAMETERS: text")
            return True

    publisher = Publisher(lambda: [row()], Once(emitted.append))
    for _ in range(2):
        publisher.publish(Older("unix:///nowhere"))
    assert (type(got[0]), got[1:], emitted) == (str, [[row()]] * 2, [])
    assert publisher.is_read


def test_pools_are_packed_again_once_what_even_an_older_interface_would_refuse_has_passed():
    got: list[object] = []

    class Refusing(Client):
        def publish(self, text: str) -> bool:
            got.append(json.loads(text)["pools"])
            if len(got) <= 2:
                raise Refused("supervisord refused: INCORRECT_PARAMETERS: text")
            return True

    publisher = Publisher(lambda: [row()], Once(lambda _: None))
    for _ in range(2):
        publisher.publish(Refusing("unix:///nowhere"))
    assert [type(pools) for pools in got] == [str, list, str]


def test_what_is_no_status_is_refused_and_does_not_count_as_published(operated):
    with pytest.raises(Unavailable, match="INCORRECT_PARAMETERS"):
        Client(operated.url, operated.username, operated.password).publish("none")
    memreap = operated.rpc().memreap
    with pytest.raises(xmlrpc.client.Fault, match="INCORRECT_PARAMETERS"):
        memreap.publish(f'{{"pools": [{{"name": "a", "total_bytes": {NO_NUMBERS[-1]}}}], "answers": {{}}}}')
    assert [pool["name"] for pool in memreap.getPools()] == ["myapp", "other"]


REFUSED = " memreap: a command was refused: "


@pytest.mark.parametrize("data", ["", "reap \u009b31m", "reap 世"])
def test_an_invalid_command_is_one_line_and_changes_nothing(operated, data):
    before, count = operated.workers(), operated.log().count(REFUSED)
    operated.send(data)
    eventually(lambda: assert_logged(operated, REFUSED, count + 1))
    assert all(" memreap: " in line for line in operated.log().splitlines())
    assert operated.workers() == before


@pytest.mark.parametrize(("module", "brings"), [("rpcinterface", ["core", "core.listeners"]), ("ctlplugin", [])])
def test_what_supervisor_imports_loads_next_to_nothing(module, brings):
    listed = "*[name for name in sys.modules if name.startswith(('supervisor_memreap', 'psutil'))]"
    code = f"import sys, supervisor_memreap.{module}; print({listed})"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    names = ["supervisor_memreap", *(f"supervisor_memreap.{name}" for name in (*brings, module))]
    assert sorted(result.stdout.split()) == sorted(names)


def test_characters_invalid_in_xml_do_not_break_the_answer():
    interface = make_rpcinterface(SimpleNamespace())
    interface.publish('{"pools": [{"name": "a\\u0000\\u001b"}], "answers": {"1": {"ok": true, "text": "\\ufffe"}}}')
    answer = xmlrpc.client.dumps((interface.getPools(), interface.getAnswer("1")))
    assert xmlrpc.client.loads(answer)[0] == ([{"name": "a??"}], {"ok": True, "text": "?"})


def test_the_status_command_shows_the_view_of_the_listener(operated):
    result = operated.memreap("status")
    assert (result.returncode, result.stderr) == (0, "")
    head, *lines = result.stdout.rstrip().splitlines()
    assert head.split() == ["limit", "workers", "largest", "total", "growth", "reaps", "since"]
    names = [line.split()[0] for line in lines if line[0] != " " and not line.startswith("Reaps ")]
    assert names == ["myapp", "other", "This"]
    assert re.fullmatch(r"This is what the listener saw [0-9.]+ m?s ago\.", lines[-1])


def test_status_as_json_has_units_and_texts_of_times_through_each_door(operated):
    def assert_json(result: subprocess.CompletedProcess[str]) -> None:
        values = json.loads(result.stdout)
        (pool,) = values["pools"]
        assert (result.returncode, values["version"], values["view"]) == (0, 1, "listener")
        assert values["age_seconds"] < 30
        assert (pool["name"], pool["standing"], pool["limit_bytes"]) == ("myapp", "quiet", 1024**3)
        assert {type(size) for size in (pool["limit_bytes"], pool["workers"][0]["used_bytes"])} == {int}
        assert {worker["pid"] for worker in pool["workers"]} == operated.workers()
        assert pool["largest_bytes"] == max(worker["used_bytes"] for worker in pool["workers"])
        assert pool["total_bytes"] == sum(worker["used_bytes"] for worker in pool["workers"])
        times = {key.removesuffix("_at") for key, value in pool.items() if type(value) is int and 1e9 < value < 4e9}
        assert times >= {"since", "counted_since"}
        assert {key.removesuffix("_time") for key in pool if key.endswith("_time")} == times - {"limit_bytes"}
        assert pool["since_time"] == time_text(pool["since"])

    eventually(lambda: assert_status(operated, "myapp +QUIET"))
    assert_json(operated.memreap("status", "--json", "myapp"))
    assert_json(operated.ctl("memreap", "status", "--json", "myapp"))
    assert_json(operated.ctl("memreap", "workers", "myapp", "--json"))
    both = json.loads(operated.ctl("memreap", "status", "--json").stdout)
    assert [pool["name"] for pool in both["pools"]] == ["myapp", "other"]


def test_supervisorctl_reports_a_stopped_listener_in_text_and_json(operated):
    operated.ctl("stop", "memreap:*")
    try:
        text, result = operated.ctl("memreap", "status"), operated.ctl("memreap", "status", "--json")
        values = json.loads(result.stdout)
        assert (text.returncode, "the listener memreap:memreap is STOPPED" in text.stdout) == (1, True)
        assert (result.returncode, {pool["standing"] for pool in values["pools"]}) == (1, {"blind"})
        assert values["trouble"].startswith("the listener memreap:memreap is STOPPED: see its log")
    finally:
        operated.ctl("start", "memreap:*")
        eventually(lambda: assert_status(operated, "myapp +QUIET"))


def test_settings_as_json_have_values_texts_and_origins(operated):
    result = operated.memreap("settings", "--json", "other")
    values = json.loads(result.stdout)
    conf = str(operated.conf)
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
    result, text = operated.memreap("doctor", "--json"), operated.memreap("doctor")
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
    result = operated.memreap("status", *words)
    assert result.returncode == status
    assert expected in result.stderr
    assert len(result.stderr.splitlines()) == 1
