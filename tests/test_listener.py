"""The listener as seen by supervisord: the protocol, faults of supervisord, and the log lines about them."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

import psutil
import pytest
from support import stack
from support.driver import (
    OK,
    POOL,
    READY,
    Driver,
    assert_have_served,
    assert_in,
    eventually,
    listening,
    listening_in,
    stop,
    supervisord,
    until,
    workers_below,
)

from supervisor_memreap.supervisord.protocol import Protocol

QUICK = "min_age=1s\nsettle=1s\n"


def program(workers: int = 2, mib: int = 40, *words: str, name: str = "myapp") -> str:
    command = " ".join([sys.executable, str(POOL), str(workers), str(mib), *words])
    return f"[program:{name}]\ncommand={command}\nautorestart=false\nstopasgroup=true\nkillasgroup=true\n"


@pytest.fixture
def log(tmp_path):
    return tmp_path / "listener.log"


def url(directory: Path) -> str:
    return f"unix://{directory}/s.sock"


@pytest.fixture(scope="module")
def bare(tmp_path_factory) -> Iterator[Driver]:
    """A listener that knows no supervisord, for the protocol alone."""
    with listening(log=tmp_path_factory.mktemp("bare") / "listener.log") as listener:
        yield listener


class World(NamedTuple):
    """A real supervisord for several tests: each has a listener and a configuration of its own."""

    process: subprocess.Popen[bytes]
    directory: Path
    port: int
    """Of its HTTP server, for `admin` with the password `s3cret`."""

    def manager(self, name: str) -> psutil.Process:
        (pid,) = re.findall(rf"spawned: '{name}' with pid ([0-9]+)", (self.directory / "s.log").read_text())
        return psutil.Process(int(pid))

    def workers(self, name: str) -> set[int]:
        return workers_below(self.manager(name).pid)

    @contextlib.contextmanager
    def listening(self, where: Path, text: str, *args: str, **env: str) -> Iterator[Driver]:
        """A listener with this text as its configuration."""
        conf = where / "own.conf"
        conf.write_text(f"[memreap]\nhistory=off\n{text}")
        environment = {"SUPERVISOR_SERVER_URL": url(self.directory), **env}
        with listening("-c", str(conf), *args, log=where / "listener.log", **environment) as listener:
            yield listener


# Each of the pools whose workers are over a limit of 30 MB is for one test.
DUE = {"reaped": ("fresh",), "stale": (), "together": (), "changed": ()}


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Iterator[World]:
    """Its pools have served for so long that a listener may signal a worker at its first look."""
    directory, port = tmp_path_factory.mktemp("world"), stack.free_port()
    http = f"[unix_http_server]\nfile={directory}/s.sock\n"
    http += f"[inet_http_server]\nport=127.0.0.1:{port}\nusername=admin\npassword=s3cret\n"
    programs = program(2, 5) + "".join(program(2, 40, *words, name=name) for name, words in DUE.items())
    with supervisord(directory, programs, http) as process:
        world = World(process, directory, port)
        for name in DUE:
            eventually(lambda name=name: assert_have_served(world.manager(name).pid, settle=1.0))
        yield world


def test_every_kind_of_event_is_answered_with_ok_at_once(bare):
    for name in ("TICK_5", "TICK_60", "TICK_3600", "PROCESS_STATE_EXITED", "REMOTE_COMMUNICATION", "NEW_IN_5_0"):
        took = []
        for _ in range(3):  # a busy machine may be late, but not each time
            bare.event(name)
            took.append(bare.expect(OK))
            bare.expect(READY)
        assert min(took) < 1


def test_an_event_is_read_by_its_length_in_any_pieces(bare):
    payload = "type:n\u00e4chtlich\n\u4e16\u754c \U0001f600"
    text = f"ver:3.0 server:my super:visor serial:1 pool:m poolserial:1 eventname:X len:{len(payload)}\n{payload}"
    for byte in text.encode():
        bare.send(bytes([byte]))
    bare.expect(OK + READY)
    bare.tick()


def event(name: str, payload: str) -> bytes:
    header = f"ver:3.0 server:s serial:1 pool:m poolserial:1 eventname:{name} len:{len(payload)}"
    return f"{header}\n{payload}".encode()


def test_an_event_of_10_mb_is_read_and_the_next_one_too(bare):
    bare.send(event("REMOTE_COMMUNICATION", "type:memreap-command\nroll " + "x" * 10_000_000) + event("X", "ab"))
    bare.expect((OK + READY) * 2)
    assert "a command has at most 1000 characters, this one has 10000005" in bare.text()


@pytest.mark.parametrize("size", [1, 2, 3, 7, 100, 65536])
def test_events_are_the_same_in_any_pieces(size):
    events = [("A", ""), ("B", "n\u00e4chtlich\n" * 20), ("C", "x"), ("D", "\U0001f600" * 30)]
    data = b"torn\n" + b"".join(event(*values) for values in events) + b"ver:3.0 serv"
    reading, writing = os.pipe()
    protocol = Protocol(reading, writing)  # nothing is answered here; it closes that one
    received = []
    for start in range(0, len(data), size):
        os.write(writing, data[start : start + size])
        received += protocol.feed()
    protocol._stdout.close()
    with pytest.raises(EOFError):
        next(protocol.feed())
    os.close(reading)
    assert received == [("", ""), *events]


def test_two_events_in_one_piece_get_two_answers(bare):
    bare.send(event("X", "ab") * 2)
    bare.expect((OK + READY) * 2)


def test_a_torn_header_is_answered_and_the_listener_continues(bare):
    bare.send(b"len\n")
    bare.expect(OK + READY)
    bare.tick()


@pytest.mark.parametrize("torn", [b"", b"ver:3.0 serv", b"ver:3.0 eventname:TICK_5 len:99\nwhen:"])
def test_the_end_of_supervisord_ends_it_with_0(log, torn):
    with listening(log=log) as listener:
        listener.send(torn)
        listener.process.stdin.close()
        assert listener.process.wait(10) == 0


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_term_ends_it_with_0(log, signum):
    with listening(log=log) as listener:
        listener.listener().send_signal(signum)
        assert listener.process.wait(10) == 0


def test_hup_does_not_end_it(bare):
    bare.listener().send_signal(signal.SIGHUP)
    bare.tick()


def test_what_a_library_prints_does_not_reach_supervisord(log, tmp_path):
    (tmp_path / "sitecustomize.py").write_text(
        "import os, sys, time\n"
        "class Loud:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.startswith('supervisor_memreap.listener.loop'): sys.meta_path.remove(self); hook()\n"
        "def hook():\n"
        "    import select, selectors\n"  # which tries poll() when it is imported
        "    quiet = select.poll\n"
        "    def loud():\n"
        "        if sys._getframe(1).f_globals['__name__'] == 'supervisor_memreap.host.thismachine':\n"  # in the loop
        "            print('printed'); os.write(1, b'written to 1\\n'); os.system('echo by a program')\n"
        "        return quiet()\n"
        "    select.poll = loud\n"
        "sys.meta_path.insert(0, Loud())\n"
    )
    with listening(log=log, PYTHONPATH=str(tmp_path)) as listener:
        listener.tick()
        listener.tick()
    for text in ("printed", "written to 1", "by a program"):
        assert text in listener.text()


def test_without_supervisord_it_explains_its_purpose():
    environment = {key: value for key, value in os.environ.items() if not key.startswith("SUPERVISOR_")}
    result = subprocess.run(
        [sys.executable, "-m", "supervisor_memreap", "listen"],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (result.returncode, result.stdout) == (2, "")
    assert "supervisord starts memreap listen" in result.stderr


def test_it_reaps_the_worker_over_the_limit_and_logs_it(world, tmp_path):
    before = world.workers("reaped")
    with world.listening(tmp_path, f"[memreap:reaped]\nlimit=30MB\n{QUICK}") as listener:
        until(lambda: listener.tick() and " left after " in listener.text())
    (reaped,), (new,) = before - world.workers("reaped"), world.workers("reaped") - before
    first, watching, sent, left = listener.lines()
    assert re.fullmatch(r"version [0-9.]+, configuration .*own\.conf", first)
    assert watching == "watching reaped (limit 30 MiB uss)"
    assert re.fullmatch(
        rf"reaped: worker {reaped} holds 4\d MiB \(uss\), limit 30 MiB: HUP sent between two requests", sent
    )
    took, back = r"[0-9.]+ m?s", r"\d+ MiB"
    assert re.fullmatch(rf"reaped: worker {reaped} left after {took}, {back} freed, {new} took its place", left)


def test_names_unknown_to_supervisord_are_reported_with_the_known_ones_and_then_it_is_silent(world, tmp_path):
    with world.listening(tmp_path, "[memreap:myapp]\nlimit=100MB\n[memreap:myap]\nlimit=50MB\n") as listener:
        for _ in range(3):
            listener.tick()
    names = ", ".join(sorted(["myapp", *DUE]))
    assert listener.lines()[1:] == [
        f"no program or group 'myap' in supervisord; there are: {names}",
        "watching myapp (limit 100 MiB uss)",
    ]


def test_old_ticks_are_answered_and_not_acted_on(world, tmp_path):
    with world.listening(tmp_path, f"[memreap:stale]\nlimit=30MB\n{QUICK}") as listener:
        for age in range(90, 30, -6):
            listener.event(payload=f"when:{int(time.time()) - age}")
        listener.expect((OK + READY) * 10)
        assert len(listener.lines()) == 1
        # Of TICK_60 the last one is 60 s old. On a busy machine the first look may not learn in time who serves.
        old = partial(listener.tick, name="TICK_60")
        until(lambda: old(payload=f"when:{int(time.time()) - 60}") and "HUP sent" in listener.text())


def test_ticks_that_arrive_together_are_one_look(world, tmp_path):
    with world.listening(tmp_path, f"[memreap:together]\nlimit=30MB\nchecks=3\n{QUICK}") as listener:
        for _ in range(10):
            listener.event()
        listener.expect((OK + READY) * 10)
        assert "sent" not in listener.text()
        listener.tick()
        listener.tick()
        eventually(lambda: assert_in("sent", listener.text()))


def test_a_hanging_supervisord_is_one_line_and_the_listener_stays_in_time(world, tmp_path):
    with world.listening(tmp_path, "[memreap:myapp]\nlimit=100MB\n") as listener:
        stop(world.process.pid)
        try:
            # A busy machine may be late, but not each time.
            assert min(listener.tick() for _ in range(3)) < 1
        finally:
            world.process.send_signal(signal.SIGCONT)
        listener.tick()
    _, hangs, again, *_ = listener.lines()
    assert hangs.startswith("supervisord did not answer within 1 s at unix:///")
    assert again == "supervisord answers again"


def test_a_supervisord_that_shuts_down_gets_one_line(tmp_path):
    (tmp_path / "slow.py").write_text("import signal, time\nsignal.signal(15, lambda *_: None)\nwhile 1: time.sleep(1)")
    slow = f"[program:slow]\ncommand={sys.executable} {tmp_path}/slow.py\nstopwaitsecs=5\n"
    with (
        supervisord(tmp_path, slow + "[memreap:slow]\nlimit=300MB\n") as process,
        listening_in(tmp_path) as listener,
    ):
        listener.tick()
        process.terminate()
        eventually(lambda: assert_in("received SIGTERM", (tmp_path / "s.log").read_text()))
        listener.tick()
        listener.tick()
    assert listener.lines()[2:] == ["supervisord is shutting down or restarting; trying again at every tick"]


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, "supervisord has no HTTP server: add [unix_http_server]"),
        (
            {"SUPERVISOR_SERVER_URL": "unix:///nowhere/s.sock"},
            "supervisord does not answer at unix:///nowhere/s.sock: No such file",
        ),
        ({"SUPERVISOR_SERVER_URL": "gopher://x"}, "gopher://x: not an address of supervisord"),
    ],
)
def test_a_supervisord_without_an_address_is_one_line(log, environment, expected):
    with listening("myapp=50MB", log=log, **environment) as listener:
        listener.tick()
        listener.tick()
    (line,) = (line for line in listener.lines() if "trying again" in line)
    assert line.startswith(expected)


def test_another_kind_of_server_is_one_line(log):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with listening("myapp=50MB", log=log, SUPERVISOR_SERVER_URL=f"http://127.0.0.1:{port}") as listener:
            listener.event()
            connection, _ = server.accept()
            connection.recv(65536)  # what is closed unread would be a reset
            connection.sendall(b"220 mail.example.com ESMTP\r\n")
            connection.close()
            listener.expect(OK + READY)
    assert "does not answer like supervisord" in listener.text()


def test_a_supervisord_without_an_rpc_interface_gets_one_line(log, tmp_path):
    with (
        supervisord(tmp_path, program(1, 5), rpc=False),
        listening("myapp=50MB", log=log, SUPERVISOR_SERVER_URL=url(tmp_path)) as listener,
    ):
        listener.tick()
    assert "supervisord has no XML-RPC interface: add [rpcinterface:supervisor]" in listener.text()


@pytest.mark.parametrize(
    ("ini", "environment", "works"),
    [
        ("", {}, False),
        ("", {"SUPERVISOR_USERNAME": "admin", "SUPERVISOR_PASSWORD": "wr0ng"}, False),
        ("", {"SUPERVISOR_USERNAME": "admin", "SUPERVISOR_PASSWORD": "s3cret"}, True),
        ("username=admin\npassword=s3cret\n", {}, True),
    ],
)
def test_credentials_are_used_and_never_logged(world, tmp_path, ini, environment, works):
    text = f"[supervisorctl]\n{ini}[memreap:myapp]\nlimit=50MB\n"
    environment = {"SUPERVISOR_SERVER_URL": f"http://127.0.0.1:{world.port}", **environment}
    with world.listening(tmp_path, text, **environment) as listener:
        listener.tick()
    assert ("watching myapp" in listener.text()) is works
    assert ("requires a user name and password" in listener.text()) is not works
    assert not re.search("s3cret|wr0ng", listener.text())


def test_a_second_listener_does_nothing_and_says_so_until_the_first_has_ended(tmp_path):
    """Nor is it started again and again; and the status is about the first."""
    block = (
        f"[eventlistener:memreap]\ncommand={sys.executable} -m supervisor_memreap listen\nevents=TICK_5\n"
        f"numprocs=2\nprocess_name=%(process_num)d\nstderr_logfile={tmp_path}/%(process_num)d.log\n"
        f"{stack.INTERFACE}[memreap]\nhistory=off\n"
    )
    watches, waits = "configuration", "this one does nothing until that one ends"
    with supervisord(tmp_path, block):
        rpc = stack.rpc(tmp_path)

        def assert_one_waits() -> int:
            texts = [(tmp_path / f"{number}.log").read_text() for number in range(2)]
            assert sorted((watches in text, text.count(waits)) for text in texts) == [(False, 1), (True, 0)]
            first = [watches in text for text in texts].index(True)
            listener = rpc.memreap.getListener()
            assert listener.get("age_seconds", 99) < 5
            assert (listener["name"], listener["count"]) == (f"memreap:{first}", 2)
            return first

        first = eventually(assert_one_waits)
        rpc.supervisor.stopProcess(f"memreap:{first}")

        def assert_the_other_watches() -> None:
            text = (tmp_path / f"{1 - first}.log").read_text()
            assert text.index(waits) < text.index(watches)
            listener = rpc.memreap.getListener()
            assert (listener["name"], listener["listener_state"]) == (f"memreap:{1 - first}", "READY")
            assert listener.get("age_seconds", 99) < 5

        eventually(assert_the_other_watches)
        rpc.supervisor.startProcess(f"memreap:{first}")  # returns once it gets events
        eventually(lambda: assert_in(waits, (tmp_path / f"{first}.log").read_text().rpartition(watches)[2]))
        began = time.time()

        def assert_it_still_looks() -> None:
            listener = rpc.memreap.getListener()
            assert listener["name"] == f"memreap:{1 - first}"
            assert listener["time"] - listener.get("age_seconds", 99) > began + 0.1  # it is rounded

        eventually(assert_it_still_looks)  # supervisord sends each event to the first that is READY
    assert (tmp_path / "s.log").read_text().count("spawned: ") == 3


def test_a_changed_file_is_read_at_the_next_tick_and_a_bad_one_is_refused_completely(world, tmp_path):
    """The file is a new one, of an [include]."""
    section = tmp_path / "changed.ini"
    with world.listening(tmp_path, "[include]\nfiles=*.ini\n") as listener:
        listener.tick()
        section.write_text("[memreap:changed]\nlimit=100MB\n" + QUICK)
        listener.tick()
        section.write_text("[memreap:changed]\nlimit=30 monkeys\nsettle=1s\n")
        listener.tick()
        listener.tick()
        assert "sent" not in listener.text()
        section.write_text("[memreap:changed]\nlimit=30MB\n" + QUICK)
        listener.tick()
        eventually(lambda: assert_in("sent", listener.text()))
    _, none, first, refused, accepted, second, sent = listener.lines()
    assert none.startswith("watching nothing: no program has a [memreap:PROGRAM] section")
    assert first == "watching changed (limit 100 MiB uss)"
    assert refused == (
        f"{section} [memreap:changed] limit=30 monkeys: not a size, such as 150MB (the earlier settings stay in force)"
    )
    assert accepted == "the configuration is valid again and in force"
    assert second == "watching changed (limit 30 MiB uss)"
    assert "sent" in sent


def test_an_internal_error_is_one_line_and_the_listener_continues(world, tmp_path):
    (tmp_path / "sitecustomize.py").write_text(
        "import supervisor_memreap.listener.reaper as r\n"
        "def tick(*_): raise RuntimeError('made for the test')\n"
        "r.Reaper.tick = tick\n"
    )
    with world.listening(tmp_path, "", "myapp=50MB", PYTHONPATH=str(tmp_path)) as listener:
        listener.tick()
        listener.tick()
    (line,) = (line for line in listener.lines() if "internal error" in line)
    assert line.startswith("internal error, please report it: RuntimeError('made for the test')")


TROUBLES = {
    "deaf": r"HUP would kill worker \d+ \(no handler\): nothing sent; set signal= .*",
    "stuck": r"worker \d+ has not left .* after HUP: stuck \(state S, in \w+\); nothing more is sent to it.*",
    "once": r"worker \d+ left .* ago and the pool has not settled since \(0 of 1 workers\).*",
    "falls": r"suspended: the manager \d+ ended .* after worker \d+ was signalled: it exited on its own; .*",
}


def test_each_problem_has_its_own_line_and_is_reported_once(tmp_path):
    programs = "".join(program(1, 40, behaviour, name=behaviour) + f"[memreap:{behaviour}]\n" for behaviour in TROUBLES)
    with (
        supervisord(tmp_path, programs + f"[memreap]\nlimit=30MB\ngrace=2s\n{QUICK}"),
        listening_in(tmp_path) as listener,
    ):
        eventually(lambda: listener.tick() and _assert_logged_once(listener))
        for _ in range(3):
            listener.tick()
        _assert_logged_once(listener)


def _assert_logged_once(listener) -> None:
    for behaviour, expression in TROUBLES.items():
        assert len([line for line in listener.lines() if re.fullmatch(f"{behaviour}: {expression}", line)]) == 1
