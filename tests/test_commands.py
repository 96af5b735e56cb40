"""Commands and announcements where supervisord discards events, the listener hangs, or there are many pools."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from support import stack
from support.driver import POOL, an_hour_tick, assert_in, eventually, listening, stop, supervisord
from support.operated import Operated, assert_status, look

from supervisor_memreap.core.events import Left, Resumed
from supervisor_memreap.core.model import ProcessId
from supervisor_memreap.outputs.announcements import Announcements

LISTEN = f"{Path(sys.executable).parent}/memreap listen"
POOLS = [f"p{number:02}" for number in range(12)]


def listener(where: Path, events: str = "TICK_5,REMOTE_COMMUNICATION") -> str:
    return (
        f"[eventlistener:memreap]\ncommand={LISTEN}\nevents={events}\n"
        f'stderr_logfile={where}/memreap.log\nenvironment=TMPDIR="{where}"\n{stack.PLUGIN}{stack.INTERFACE}'
    )


def program(name: str, workers: int, mib: int, more: str = "") -> str:
    return f"[program:{name}]\ncommand={sys.executable} {POOL} {workers} {mib}\n{more}"


@contextlib.contextmanager
def operating(text: str, events: str = "TICK_5,REMOTE_COMMUNICATION", prompt: bool = True) -> Iterator[Operated]:
    where = stack.directory()
    try:
        with supervisord(where, text + listener(where, events) + stack.recorder(where), prompt=prompt):
            yield Operated(where, sys.executable, f"unix://{where}/s.sock", "", "")
    finally:
        shutil.rmtree(where)


def test_every_view_reports_unsaved_state_and_no_worker_is_signalled_even_after_a_restart(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    (tmp_path / "memreap").touch()
    metrics = f"[memreap]\nmetrics_file={tmp_path}/m.prom\n"
    settings = "[memreap:myapp]\nlimit=30MB\nmin_age=1s\nsettle=1s\n"
    trouble = f"no worker is signalled, since the state cannot be saved: {tmp_path}/memreap is not"
    # With more than one worker, the limit would be detected as too low.
    with operating(program("myapp", 1, 40) + metrics + settings) as operated:
        eventually(lambda: assert_in(trouble, operated.log()))
        eventually(lambda: assert_status(operated, "OVERDUE"))
        assert_status(operated, "memreap status and the log say why")
        before = operated.workers()
        for result in (operated.ctl("memreap", "status"), look(operated), look(operated, command="doctor")):
            assert trouble in " ".join(result.stdout.split() + result.stderr.split())
            assert result.returncode == 1
        assert trouble in json.loads(look(operated, "--json").stdout)["trouble"]
        for words in (("pause", "myapp"), ("resume", "all"), ("reap", "myapp"), ("roll", "myapp")):
            result = operated.ctl("memreap", *words)
            assert "nothing was done, since it cannot be saved" in result.stdout + result.stderr
            assert result.returncode == 1
        eventually(lambda: assert_in('memreap_lasting_error{kind="not_saved"} 1.0', (tmp_path / "m.prom").read_text()))
        process_of(operated).kill()
        eventually(lambda: _assert_count(2, trouble, operated.log()))
        eventually(lambda: assert_status(operated, "OVERDUE"))
        assert operated.workers() == before
        assert "HUP sent" not in operated.log()
        (tmp_path / "memreap").unlink()
        eventually(lambda: assert_in("HUP sent", operated.log()))
        assert operated.log().count("can be saved again") == 1
        eventually(lambda: assert_in('memreap_lasting_error{kind="not_saved"} 0.0', (tmp_path / "m.prom").read_text()))


def _assert_count(count: int, text: str, log: str) -> None:
    assert log.count(text) == count


def process_of(operated: Operated) -> psutil.Process:
    return psutil.Process(operated.rpc().memreap.getListener()["pid"])


def assert_waiting(operated: Operated, count: int) -> None:
    assert operated.rpc().memreap.getListener()["events_waiting"] >= count


def test_no_event_is_discarded_when_many_pools_reap_at_once():
    """With supervisord's default buffer of 10 events, and 12 workers signalled in one tick."""
    sections = "".join(program(name, 1, 25) + f"[memreap:{name}]\n" for name in POOLS)
    with operating(sections + "[memreap]\nlimit=20MB\nmin_age=1s\nsettle=1s\n") as operated:

        def all_have_left() -> None:
            left = {event["pool"] for event in operated.announced() if event["event"] == "left"}
            assert left == set(POOLS), operated.log()[-1000:]

        eventually(all_have_left)
        assert operated.ctl("memreap", "pause", "all").returncode == 0
        assert "overflowed" not in (operated.directory / "s.log").read_text()
        assert sorted(event["pool"] for event in operated.announced() if event["event"] == "reap") == POOLS


def test_a_command_that_supervisord_discards_is_resent_and_carried_out_once():
    with operating(program("myapp", 2, 5) + "[memreap:myapp]\nlimit=1GB\nmin_age=1s\n") as operated:
        eventually(lambda: assert_status(operated, "myapp +QUIET"))
        process = process_of(operated)
        stop(process.pid)
        try:
            command = subprocess.Popen(operated.command("memreap", "roll", "all"), stdout=subprocess.PIPE, text=True)
            eventually(lambda: assert_waiting(operated, 1))
            for _ in range(12):
                operated.rpc().supervisor.sendRemoteCommEvent("noise", "")
            assert "overflowed" in (operated.directory / "s.log").read_text()
        finally:
            process.send_signal(signal.SIGCONT)
        output, _ = command.communicate()
        assert command.returncode == 0
        assert output.startswith("myapp: all 2 workers are going to be replaced, one at a time")
        assert operated.log().count("are to be replaced") == 1


def test_a_command_that_arrives_twice_is_carried_out_once_and_each_time_if_it_has_no_time():
    with operating(program("myapp", 2, 5) + "[memreap:myapp]\nlimit=1GB\nmin_age=1h\n") as operated:
        eventually(lambda: assert_status(operated, "myapp +QUIET"))
        send = operated.rpc().supervisor.sendRemoteCommEvent
        for _ in range(3):
            send("memreap-command", f"roll myapp id=1 until={time.time() + 600:.0f}")
            send("memreap-command", "pause myapp id=2")
        send("memreap-command", "resume all id=3")
        eventually(lambda: assert_in("resumed", operated.log()))
        assert operated.log().count("are to be replaced") == 1
        assert operated.log().count("paused: no worker") == 3


def test_an_expired_command_is_not_carried_out():
    text = program("myapp", 2, 5) + "[memreap:myapp]\nlimit=1GB\nmin_age=1s\n"
    # With a tick each second, they alone would fill supervisord's buffer of 10 events until the commands expire.
    with operating(text, prompt=False) as operated:
        eventually(lambda: assert_status(operated, "myapp +QUIET"))
        before = operated.workers()
        process = process_of(operated)
        stop(process.pid)
        try:
            both = [
                subprocess.Popen(operated.command("memreap", verb, "myapp"), stdout=subprocess.PIPE, text=True)
                for verb in ("reap", "pause")
            ]
            for command in both:
                output, _ = command.communicate()
                assert command.returncode == 1
                assert re.match(r"memreap: no answer within 10 s, the listener is [A-Z]+ and \d+ events wait", output)
                assert "it will not be carried out" in output
            eventually(lambda: assert_blind(operated))
            own = look(operated)
            assert own.returncode == 1
            assert "the listener last looked at the pools" in own.stderr
            assert "This command read the pools itself, once: the listener does not look" in own.stdout
            assert max(map(len, own.stdout.splitlines())) <= 80
            assert re.search("myapp +QUIET", own.stdout)
        finally:
            process.send_signal(signal.SIGCONT)
        eventually(lambda: assert_in("reap myapp came ", operated.log()))
        eventually(lambda: assert_in("pause myapp came ", operated.log()))
        assert "after it had expired and was not carried out" in operated.log()
        eventually(lambda: assert_status(operated, "myapp +QUIET"))
        assert operated.workers() == before


def assert_blind(operated: Operated) -> None:
    result = operated.ctl("memreap", "status")
    assert re.search(r"(?s)myapp +BLIND.*memreap: the listener last looked at the pools \d+ s ago", result.stdout)
    assert result.returncode == 1


def test_a_refused_command_is_not_a_look_and_a_pause_precedes_the_first_look():
    text = program("myapp", 1, 40) + "[memreap:myapp]\nlimit=30MB\nmin_age=1s\n"
    with operating(text, f"{an_hour_tick()},REMOTE_COMMUNICATION") as operated:
        eventually(lambda: assert_in("READY", operated.rpc().memreap.getListener()["listener_state"]))
        for words in (("pause", "nowhere"), ("reap", "nowhere")):
            refused = operated.ctl("memreap", *words)
            assert (refused.returncode, refused.stdout) == (
                1,
                "memreap: no pool 'nowhere' is watched; there are: myapp\n",
            )
        listener = operated.rpc().memreap.getListener()
        assert "age_seconds" not in listener
        assert operated.rpc().memreap.getPools() == []
        assert operated.ctl("memreap", "pause", "all").returncode == 0
        assert_status(operated, "myapp +PAUSED")
        assert "HUP sent" not in operated.log()


def test_a_refused_command_does_not_count_towards_checks():
    text = program("myapp", 1, 40) + "[memreap:myapp]\nlimit=30MB\nmin_age=1s\nchecks=3\n"
    with operating(text, f"{an_hour_tick()},REMOTE_COMMUNICATION") as operated:
        eventually(lambda: assert_in("READY", operated.rpc().memreap.getListener()["listener_state"]))
        assert operated.ctl("memreap", "resume", "all").returncode == 0  # one look
        age = operated.rpc().memreap.getListener()["age_seconds"]
        for _ in range(4):
            assert operated.ctl("memreap", "reap", "myapp", "1").returncode == 1
        assert operated.rpc().memreap.getListener()["age_seconds"] > age
        assert "HUP sent" not in operated.log()


def test_a_command_is_refused_until_the_configuration_was_read_completely():
    with operating(program("myapp", 1, 5) + "[memreap:myapp]\nlimit=1 monkey\n") as operated:
        eventually(lambda: assert_in("not a size", operated.log()))
        refused = operated.ctl("memreap", "pause", "all")
        assert (refused.returncode, refused.stdout) == (
            1,
            "memreap: no pool is watched, since the configuration has an error: see the listener's log\n",
        )


def test_every_command_accepts_the_name_of_a_group_or_of_a_program_with_numprocs():
    many = program("many", 1, 5, "numprocs=2\nprocess_name=%(program_name)s_%(process_num)02d\n")
    sections = "[memreap:many]\n[memreap:myapp]\n[memreap]\nlimit=1GB\n"
    with operating(many + program("myapp", 1, 5) + sections) as operated:
        eventually(lambda: assert_status(operated, r"many:many_01\s+QUIET"))
        for name in ("many", "many:*"):
            shown = operated.ctl("memreap", "status", name)
            assert (shown.returncode, re.findall(r"^(?! )\S+", shown.stdout, re.MULTILINE)) == (
                0,
                ["many:many_00", "many:many_01"],
            )
            assert re.findall(r"^many\S+", look(operated, name).stdout, re.MULTILINE) == [
                "many:many_00",
                "many:many_01",
            ]
        assert operated.ctl("memreap", "workers", "many").stdout.count("many:many_0") == 2
        paused = operated.ctl("memreap", "pause", "many")
        assert (paused.returncode, paused.stdout.count("paused: no worker")) == (0, 2)
        assert_status(operated, r"many:many_00\s+PAUSED(?s:.*)many:many_01\s+PAUSED(?s:.*)myapp\s+[^P]")
        reap = operated.ctl("memreap", "reap", "many")
        assert (reap.returncode, reap.stdout) == (
            1,
            "memreap: reap: 'many' is 2 pools; name one of them: many:many_00, many:many_01\n",
        )
        partly = operated.ctl("memreap", "roll", "all")
        assert partly.returncode == 1
        assert re.search(r"^myapp: worker \d+ is going to be replaced", partly.stdout, re.MULTILINE)
        assert "many:many_00 is paused: supervisorctl memreap resume many:many_00 first" in partly.stdout
        assert operated.ctl("memreap", "resume", "many_00").stdout == "many:many_00: resumed\n"
        assert operated.ctl("memreap", "resume", "all").returncode == 0
        rolled = operated.ctl("memreap", "roll", "all")
        assert (rolled.returncode, rolled.stdout.count("to be replaced")) == (0, 3)


def test_a_listener_with_the_configuration_before_its_command_is_recognised(monkeypatch):
    monkeypatch.setattr(
        f"{__name__}.LISTEN", f"{Path(sys.executable).parent}/memreap -c %(here)s/supervisord.conf listen"
    )
    with operating(program("myapp", 1, 5) + "[memreap:myapp]\nlimit=1GB\n") as operated:
        eventually(lambda: assert_status(operated, "myapp +QUIET"))
        assert operated.rpc().memreap.getListener()["name"] == "memreap:memreap"
        assert "there is none: add [eventlistener:memreap]" not in look(operated, command="doctor").stdout


@pytest.fixture
def shown_to_all() -> Iterator[Path]:
    where = stack.directory()
    yield where
    shutil.rmtree(where)


@pytest.mark.skipif(os.getuid() != 0, reason="only root can take a right away from itself")
def test_unreadable_sizes_make_the_status_blind_and_the_exit_status_1(monkeypatch, shown_to_all):
    # What matters here of the rights that root has in a container of Docker's.
    blindfold = "setpriv --bounding-set=-all,+kill,+dac_override,+setuid,+setgid"
    monkeypatch.setattr(f"{__name__}.LISTEN", f"{blindfold} {LISTEN}")
    pool = shutil.copy(POOL, shown_to_all)  # our own Python and checkout may be hidden from other users
    text = f"[program:myapp]\ncommand=/usr/bin/python3 {pool} 1 40\nuser=nobody\n[memreap:myapp]\nlimit=30MB\n"
    with operating(text) as operated:
        eventually(lambda: assert_status(operated, "myapp +BLIND"))
        result = operated.ctl("memreap", "status")
        assert result.returncode == 1
        assert "1 of 1 workers: no permission to read uss; run memreap as their user" in result.stdout
        assert look(operated).returncode == 1
        values = json.loads(look(operated, "--json").stdout)
        assert values["pools"][0]["standing"] == "blind"


def test_unreadable_sizes_make_the_status_blind_even_if_no_worker_is_near_its_limit(monkeypatch, shown_to_all):
    blindfold = "setpriv --bounding-set=-all,+kill,+dac_override,+setuid,+setgid"
    monkeypatch.setattr(f"{__name__}.LISTEN", f"{blindfold} {LISTEN}")
    pool = shutil.copy(POOL, shown_to_all)
    text = (
        f"[program:myapp]\ncommand=/usr/bin/python3 {pool} 3 1\nuser=nobody\n[memreap:myapp]\nlimit=1GB\nmin_age=1s\n"
    )
    with operating(text) as operated:
        eventually(lambda: assert_in("no permission to read the uss of worker", operated.log()))
        eventually(lambda: assert_status(operated, "myapp +BLIND"))
        result = operated.ctl("memreap", "status")
        assert result.returncode == 1
        assert "at least 1 of 3 workers: no permission to read uss; run memreap as their user" in result.stdout


@pytest.mark.parametrize("what", ["paused", "suspended"])
def test_without_the_interface_status_is_one_look_plus_the_saved_state(monkeypatch, what):
    monkeypatch.setattr(stack, "INTERFACE", "")
    mib = 40 if what == "suspended" else 5
    with operating(program("myapp", 2, mib) + "[memreap:myapp]\nlimit=30MB\nmin_age=1h\n") as operated:
        if what == "paused":
            operated.rpc().supervisor.sendRemoteCommEvent("memreap-command", "pause all")
            eventually(lambda: assert_in("paused: no worker", operated.log()))
        else:
            eventually(lambda: assert_in("suspended: even a fresh worker", operated.log()))
        result = look(operated)
        assert re.search(rf"myapp +{what.upper()}  30 MiB uss  2        {2 if mib == 40 else 0}     ", result.stdout)
        assert " ".join(result.stdout.split()).endswith(
            "This command read the pools itself, once: supervisord has no [rpcinterface:memreap] to ask the listener"
            " through; pauses, suspensions and leaving workers are those that a listener of this user has saved."
        )
        assert result.returncode == (1 if what == "suspended" else 0)
        values = json.loads(look(operated, "--json").stdout)
        assert (values["view"], "age_seconds" in values) == ("look", False)
        assert not {"reaps", "given_back_bytes", "since"} & set(values["pools"][0])
        operated.ctl("stop", "memreap:*")
        stopped = look(operated)
        assert (stopped.returncode, stopped.stderr) == (
            1,
            "memreap: the listener memreap is STOPPED: see its log, then supervisorctl start memreap\n",
        )


def test_newborn_workers_over_the_limit_do_not_make_a_single_look_report_suspended(tmp_path):
    with supervisord(tmp_path, program("myapp", 2, 40) + "[memreap:myapp]\nlimit=30MB\nmin_age=1h\n"):
        result = look(Operated(tmp_path, sys.executable, f"unix://{tmp_path}/s.sock", "", ""))
    assert re.search("myapp +DUE  30 MiB uss  2        2     ", result.stdout)
    assert "itself, once: there is no listener; pauses" in " ".join(result.stdout.split())


def test_without_a_listener_status_reports_that_no_pool_is_watched(tmp_path):
    with supervisord(tmp_path, program("myapp", 1, 1) + "[memreap:myapp]\nlimit=30MB\n"):
        result = look(Operated(tmp_path, sys.executable, f"unix://{tmp_path}/s.sock", "", ""))
    assert (result.returncode, result.stderr) == (
        1,
        "memreap: there is no listener, so no pool is watched, and only memreap once reaps: run memreap doctor\n",
    )


def test_a_listener_not_yet_read_by_supervisord_watches_nothing_and_status_reports_it(tmp_path):
    with supervisord(tmp_path, program("myapp", 1, 1) + "[memreap:myapp]\nlimit=30MB\n"):
        path = tmp_path / "supervisord.conf"
        path.write_text(f"{path.read_text()}[eventlistener:memreap]\ncommand=memreap listen\nevents=TICK_5\n")
        result = look(Operated(tmp_path, sys.executable, f"unix://{tmp_path}/s.sock", "", ""))
    assert (result.returncode, result.stderr) == (
        1,
        "memreap: supervisord has not read the listener's section yet, so no pool is watched: run"
        " supervisorctl update\n",
    )


@pytest.mark.parametrize("interface", ["", stack.INTERFACE], ids=["look", "listener"])
def test_a_section_without_a_program_fails_whatever_the_other_pools_are(monkeypatch, interface):
    monkeypatch.setattr(stack, "INTERFACE", interface)
    text = program("myapp", 1, 1) + program("web", 1, 1) + "[memreap:myapp]\nlimit=30MB\n[memreap:wbe]\nlimit=30MB\n"
    with operating(text) as operated:
        if interface:
            eventually(lambda: assert_status(operated, "myapp +QUIET"))
        result = look(operated)
        assert "myapp  QUIET" in result.stdout
        assert re.fullmatch(
            r"memreap: no program or group 'wbe' in supervisord; there are: .*myapp, .*web\n", result.stderr
        )
        assert result.returncode == 1
        assert "wbe" in json.loads(look(operated, "--json").stdout)["trouble"]
        if interface:
            shown = operated.ctl("memreap", "status")
            assert (shown.returncode, shown.stdout.splitlines()[-1]) == (1, result.stderr.strip())


def test_settings_that_the_listener_did_not_apply_are_shown_by_supervisorctl():
    with operating(program("myapp", 1, 1) + "[memreap:myapp]\nlimit=30MB\n") as operated:
        eventually(lambda: assert_status(operated, "myapp +QUIET"))
        path = operated.directory / "supervisord.conf"
        path.write_text(path.read_text().replace("limit=30MB", "limit=30 monkeys"))
        line = r"memreap: .* limit=30 monkeys: not a size, such as 150MB \(the earlier settings stay in force\)"
        eventually(lambda: assert_status(operated, line))
        assert operated.ctl("memreap", "status").returncode == 1
        assert operated.ctl("memreap", "pause", "myapp").returncode == 0


def test_a_failed_announcement_is_sent_again_with_the_next_ones():
    waiting, sent = Announcements(), []

    def fails(lines) -> None:
        raise TimeoutError

    waiting.add(Resumed("myapp", 1.0, "first"))
    with pytest.raises(TimeoutError):
        waiting.send(fails)
    waiting.add(Resumed("myapp", 2.0, "second"))
    waiting.send(sent.extend)
    assert [json.loads(line)["message"] for line in sent] == ["resumed: first", "resumed: second"]
    waiting.send(fails)  # the queue is empty


def test_the_queue_of_announcements_is_bounded_and_keeps_the_newest():
    waiting, sent = Announcements(), []
    for number in range(5000):
        waiting.add(Left("myapp", 0.0, ProcessId(number, 1.0), 0.0, None))
    waiting.send(sent.extend)
    assert [json.loads(line)["pid"] for line in sent] == [*range(4000, 5000)]


class Deaf:
    """A proxy of supervisord that does not answer the first call with `marker` in it."""

    def __init__(self, to: Path, marker: bytes):
        self._to = str(to)
        self._marker = marker
        self._server = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._server.getsockname()[1]}"
        self.swallowed = threading.Event()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._server.accept()
                with connection:
                    self._handle(connection)

    def _handle(self, connection: socket.socket) -> None:
        request = b""
        while b"</methodCall>" not in request:
            request += connection.recv(65536)
        if self._marker in request and not self.swallowed.is_set():
            self.swallowed.set()
            connection.recv(1)  # until the caller has given up
            return
        with socket.socket(socket.AF_UNIX) as real:
            real.connect(self._to)
            real.sendall(request)
            while b"</methodResponse>" not in (chunk := real.recv(65536)):
                connection.sendall(chunk)
            connection.sendall(chunk)

    def __enter__(self) -> Deaf:
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()
        self._thread.join()


def assert_swallowed(driver, deaf: Deaf) -> None:
    driver.tick()
    assert deaf.swallowed.is_set()


@pytest.mark.parametrize("marker", [b"memreap.publish", b"sendRemoteCommEvent"])
def test_an_announcement_survives_a_call_that_times_out(tmp_path, marker):
    text = program("myapp", 1, 40) + "[memreap:myapp]\nlimit=30MB\nmin_age=1s\nsettle=1s\n"
    with (
        supervisord(tmp_path, text + stack.INTERFACE + stack.recorder(tmp_path)),
        Deaf(tmp_path / "s.sock", marker) as deaf,
        listening("-c", f"{tmp_path}/supervisord.conf", log=tmp_path / "log", SUPERVISOR_SERVER_URL=deaf.url) as driver,
    ):
        eventually(lambda: assert_reaped(driver))
        eventually(lambda: assert_swallowed(driver, deaf))  # what came of an attempt is announced at the next tick
        driver.tick()
        eventually(lambda: assert_in("reap", [event["event"] for event in stack.announced(tmp_path)]))


def assert_reaped(driver) -> None:
    driver.tick()
    assert "HUP sent" in driver.text()
