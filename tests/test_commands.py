"""Commands and announcements where supervisord discards events, the listener hangs, or there are many pools."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import pytest
from support import stack
from support.driver import (
    POOL,
    an_hour_tick,
    assert_in,
    assert_matches,
    eventually,
    listening,
    stopped,
    supervisord,
    until,
)
from support.operated import Operated, assert_logged, assert_status, operating
from support.sections import BIN, LISTEN, program

from supervisor_memreap.core.events import Left, Resumed
from supervisor_memreap.core.model import ProcessId
from supervisor_memreap.outputs.publisher import Announcements

POOLS = [f"p{number:02}" for number in range(12)]


def test_every_view_reports_unsaved_state_and_no_worker_is_signalled_even_after_a_restart(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    (tmp_path / "memreap").touch()
    metrics = f"[memreap]\nmetrics_file={tmp_path}/m.prom\n"
    settings = "[memreap:myapp]\nlimit=30MB\nmin_age=1s\nsettle=1s\n"
    trouble = f"no worker is signalled, since the state cannot be saved: {tmp_path}/memreap is not"
    # With more than one worker, the limit would be detected as too low.
    with operating(program("myapp", 1, 40) + metrics + settings) as operated:
        eventually(lambda: assert_logged(operated, trouble))
        eventually(lambda: assert_status(operated, "OVERDUE"))
        assert operated.rpc().memreap.getPool("myapp")["hindrance"]["kind"] == "unsaved"
        before = operated.workers()
        views = operated.ctl("memreap", "status"), operated.memreap("status"), operated.memreap("doctor")
        for result in views:
            shown = " ".join(result.stdout.split() + result.stderr.split())
            assert trouble in shown
            assert shown.count(f"{tmp_path}/memreap is not") == 1
            assert result.returncode == 1
        assert trouble in json.loads(operated.memreap("status", "--json").stdout)["trouble"]
        for words in (("pause", "myapp"), ("resume", "all"), ("reap", "myapp"), ("roll", "myapp")):
            result = operated.ctl("memreap", *words)
            assert "nothing was done, since it cannot be saved" in result.stdout + result.stderr
            assert result.returncode == 1
        eventually(lambda: assert_in('memreap_lasting_error{kind="not_saved"} 1.0', (tmp_path / "m.prom").read_text()))
        operated.listener().kill()
        eventually(lambda: assert_logged(operated, trouble, 2))  # by the next one, when a worker was due
        assert operated.workers() == before
        assert "HUP sent" not in operated.log()
        (tmp_path / "memreap").unlink()
        eventually(lambda: assert_logged(operated, "HUP sent"))
        assert_logged(operated, "can be saved again", 1)
        eventually(lambda: assert_in('memreap_lasting_error{kind="not_saved"} 0.0', (tmp_path / "m.prom").read_text()))


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


@pytest.fixture(scope="module")
def quiet() -> Iterator[Operated]:
    """Three pools of which no worker is replaced; the configuration is named before the listener's command."""
    many = program("many", 1, 5, more="numprocs=2\nprocess_name=%(program_name)s_%(process_num)02d\n")
    settings = "[memreap:many]\n[memreap:myapp]\n[memreap]\nlimit=1GB\nmin_age=1h\n"
    command = f"{BIN}/memreap -c %(here)s/supervisord.conf listen"
    with operating(many + program("myapp", 2, 5) + settings, command) as operated:
        eventually(lambda: assert_status(operated, r"many:many_01\s+QUIET(?s:.*)myapp\s+QUIET"))
        yield operated


def logged_since(operated: Operated, before: str, text: str) -> int:
    return operated.log()[len(before) :].count(text)


def test_a_listener_with_the_configuration_before_its_command_is_recognised(quiet):
    assert quiet.rpc().memreap.getListener()["name"] == "memreap:memreap"
    assert "there is none: add [eventlistener:memreap]" not in quiet.memreap("doctor").stdout


def test_every_command_accepts_the_name_of_a_group_or_of_a_program_with_numprocs(quiet):
    names = ["many:many_00", "many:many_01"]
    for name in ("many", "many:*"):
        shown = quiet.ctl("memreap", "status", name)
        assert (shown.returncode, re.findall(r"^(?! )\S+", shown.stdout, re.MULTILINE)) == (0, names)
        assert re.findall(r"^many\S+", quiet.memreap("status", name).stdout, re.MULTILINE) == names
    assert quiet.ctl("memreap", "workers", "many").stdout.count("many:many_0") == 2
    paused = quiet.ctl("memreap", "pause", "many")
    assert (paused.returncode, paused.stdout.count("paused: no worker")) == (0, 2)
    assert_status(quiet, r"many:many_00\s+PAUSED(?s:.*)many:many_01\s+PAUSED(?s:.*)myapp\s+[^P]")
    reap = quiet.ctl("memreap", "reap", "many")
    assert (reap.returncode, "name one of them: many:many_00, many:many_01\n" in reap.stdout) == (1, True)
    partly = quiet.ctl("memreap", "roll", "all")
    assert partly.returncode == 1
    assert re.search(r"^myapp: all 2 workers will be replaced", partly.stdout, re.MULTILINE)
    assert "many:many_00 is paused: send resume many:many_00 first" in partly.stdout
    assert quiet.ctl("memreap", "resume", "many_00").stdout == "many:many_00: resumed\n"
    assert quiet.ctl("memreap", "resume", "all").returncode == 0
    rolled = quiet.ctl("memreap", "roll", "all")
    assert (rolled.returncode, rolled.stdout.count("will be replaced")) == (0, 3)
    assert quiet.ctl("memreap", "pause", "all").returncode == 0  # which withdraws the requests
    assert quiet.ctl("memreap", "resume", "all").returncode == 0


def test_a_command_that_supervisord_discards_is_resent_and_carried_out_once(quiet):
    before = quiet.log()
    with stopped(quiet.listener().pid):
        command = subprocess.Popen(quiet.command("memreap", "pause", "myapp"), stdout=subprocess.PIPE, text=True)
        until(lambda: quiet.rpc().memreap.getListener()["events_waiting"])
        for _ in range(12):
            quiet.rpc().supervisor.sendRemoteCommEvent("noise", "")
        assert "overflowed" in (quiet.directory / "s.log").read_text()
    output, _ = command.communicate()
    assert (command.returncode, output.startswith("myapp: paused")) == (0, True)
    assert logged_since(quiet, before, "myapp: paused") == 1
    assert quiet.ctl("memreap", "resume", "all").returncode == 0


def test_ctrl_c_ends_the_wait_for_an_answer_with_a_line_and_the_command_is_carried_out(quiet):
    with stopped(quiet.listener().pid), mock.patch("time.sleep", side_effect=KeyboardInterrupt):
        interrupted = quiet.ctl("memreap", "pause", "myapp")
    assert interrupted.returncode == 1
    assert_matches("^memreap: no longer waiting: the listener carries out what it was sent", interrupted.stdout)
    eventually(lambda: assert_status(quiet, r"myapp\s+PAUSED"))
    assert quiet.ctl("memreap", "resume", "all").returncode == 0


def test_a_command_that_arrives_twice_is_carried_out_once_and_each_time_if_it_has_no_time(quiet):
    before = quiet.log()
    for _ in range(3):
        quiet.send(f"roll myapp id=1 until={time.time() + 600:.0f}")
        quiet.send("pause myapp id=2")
    quiet.send("resume all id=3")
    eventually(lambda: assert_in("myapp: resumed", quiet.log()[len(before) :]))
    assert logged_since(quiet, before, "will be replaced") == 1
    assert logged_since(quiet, before, "paused: no worker") == 3


def test_an_expired_command_is_not_carried_out():
    text = program("myapp", 2, 5) + "[memreap:myapp]\nlimit=1GB\nmin_age=1s\n"
    # With a tick each second, they alone would fill supervisord's buffer of 10 events until the commands expire.
    with operating(text, prompt=False) as operated:
        eventually(lambda: assert_status(operated, "myapp +QUIET"))
        before = operated.workers()
        with stopped(operated.listener().pid):
            both = [
                subprocess.Popen(operated.command("memreap", verb, "myapp"), stdout=subprocess.PIPE, text=True)
                for verb in ("reap", "pause")
            ]
            for command in both:
                output, _ = command.communicate()
                assert command.returncode == 1
                assert re.match(
                    r"memreap: no answer within 10 s, the listener is [A-Z]+ and \d+ events are waiting", output
                )
                assert "it will not be carried out" in output
            eventually(lambda: assert_blind(operated))
            own = operated.memreap("status")
            assert own.returncode == 1
            assert "the listener last looked at the pools" in own.stderr
            assert "This command read the pools itself, once: the listener is not looking" in own.stdout
            assert max(map(len, own.stdout.splitlines())) <= 80
            assert re.search("myapp +QUIET", own.stdout)
        for verb in ("reap", "pause"):
            refused = rf"a command was refused: {verb} myapp .* after it had expired and was not carried out"
            eventually(lambda refused=refused: assert_matches(refused, operated.log()))
        eventually(lambda: assert_status(operated, "myapp +QUIET"))
        assert operated.workers() == before


def assert_blind(operated: Operated) -> None:
    result = operated.ctl("memreap", "status")
    assert re.search(r"(?s)myapp +BLIND.*memreap: the listener last looked at the pools \d+ s ago", result.stdout)
    assert result.returncode == 1


def test_with_hourly_ticks_a_refused_command_is_no_look_and_a_pause_precedes_the_first_look():
    """Nor does a refused command count towards checks."""
    pools = program("myapp", 1, 40) + program("slow", 1, 40)
    settings = "[memreap]\nlimit=30MB\nmin_age=1s\n[memreap:myapp]\n[memreap:slow]\nchecks=4\n"
    with operating(pools + settings, events=f"{an_hour_tick()},REMOTE_COMMUNICATION") as operated:
        rpc = operated.rpc().memreap
        until(lambda: rpc.getListener()["listener_state"], "READY")
        assert_status(operated, "has not looked at the pools yet")
        for words in (("pause", "nowhere"), ("reap", "nowhere")):
            refused = operated.ctl("memreap", *words)
            line = "memreap: no pool 'nowhere' is watched; there are: myapp, slow\n"
            assert (refused.returncode, refused.stdout) == (1, line)
        listener = rpc.getListener()
        assert (listener["period_seconds"], listener["takes_commands"]) == (3600, True)
        assert ("age_seconds" in listener, rpc.getPools()) == (False, [])
        paused = operated.ctl("memreap", "pause", "all")
        assert (paused.returncode, len(paused.stdout.splitlines())) == (0, 2)
        assert_status(operated, "myapp +PAUSED(?s:.*)slow +PAUSED")
        assert operated.ctl("memreap", "resume", "slow").returncode == 0  # the second look
        age = rpc.getListener()["age_seconds"]
        for _ in range(5):
            assert operated.ctl("memreap", "reap", "slow", "1").returncode == 1
        assert rpc.getListener()["age_seconds"] > age
        assert "HUP sent" not in operated.log()


@pytest.mark.skipif(os.getuid() != 0, reason="only root can take a right away from itself")
def test_unreadable_sizes_make_the_status_blind_and_the_exit_status_1_whatever_the_limit(where):
    # What matters here of the rights that root has in a container of Docker's.
    blindfold = "setpriv --bounding-set=-all,+kill,+dac_override,+setuid,+setgid"
    pool = f"/usr/bin/python3 {shutil.copy(POOL, where)}"  # our Python and checkout may be hidden from other users
    text = (
        f"[program:near]\ncommand={pool} 1 40\nuser=nobody\n[memreap:near]\nlimit=30MB\n"
        f"[program:far]\ncommand={pool} 3 1\nuser=nobody\n[memreap:far]\nlimit=1GB\nmin_age=1s\n"
    )
    with operating(text, f"{blindfold} {LISTEN}") as operated:
        eventually(lambda: assert_status(operated, "far +BLIND(?s:.*)near +BLIND"))
        eventually(lambda: assert_logged(operated, "far: no permission to read the uss of worker"))
        result = operated.ctl("memreap", "status")
        assert result.returncode == 1
        assert "  1 of 1 workers: no permission to read uss; run memreap as their user" in result.stdout
        assert "  at least 1 of 3 workers: no permission to read uss; run memreap as their user" in result.stdout
        for name in ("near", "far"):
            shown = operated.memreap("status", "--json", name)
            assert (shown.returncode, json.loads(shown.stdout)["pools"][0]["standing"]) == (1, "blind")


def test_without_the_interface_status_is_one_look_plus_the_saved_state():
    pools = program("calm", 2, 5) + program("low", 2, 40)
    settings = "[memreap]\nlimit=30MB\nmin_age=1h\n[memreap:calm]\n[memreap:low]\n"
    with operating(pools + settings, doors=stack.PLUGIN) as operated:
        operated.send("pause calm")
        eventually(lambda: assert_logged(operated, "calm: paused: no worker"))
        eventually(lambda: assert_logged(operated, "low: suspended: "))
        result = operated.memreap("status")
        assert re.search(r"calm +PAUSED +30 MiB uss  2        0     ", result.stdout)
        assert re.search(r"low +SUSPENDED +30 MiB uss  2        2     ", result.stdout)
        note = r"This command read the pools itself, once: supervisord has no \[rpcinterface:memreap\].* saved by"
        assert_matches(note, " ".join(result.stdout.split()))
        assert (result.returncode, operated.memreap("status", "calm").returncode) == (1, 0)
        values = json.loads(operated.memreap("status", "--json").stdout)
        assert (values["view"], "age_seconds" in values) == ("look", False)
        assert not {"reaps", "given_back_bytes", "since"} & set(values["pools"][0])
        through = operated.ctl("memreap", "status")
        assert through.returncode == 1
        assert "supervisord has no [rpcinterface:memreap]: run memreap doctor" in through.stdout
        operated.ctl("stop", "memreap:*")
        stopped = operated.memreap("status")
        assert (stopped.returncode, stopped.stderr) == (
            1,
            "memreap: the listener memreap is STOPPED: see its log, then supervisorctl start memreap\n",
        )
        operated.conf.write_text(f"{operated.conf.read_text()}[memreap:wbe]\nlimit=30MB\n")
        assert_reports_wbe(operated, "calm +PAUSED")


def assert_reports_wbe(operated: Operated, other: str) -> str:
    """A section without a program fails whatever the other pools are; the line about it."""
    result = operated.memreap("status")
    line = r"(?m)^memreap: no program or group 'wbe' in supervisord; there are: .*$"
    assert (result.returncode, bool(re.search(other, result.stdout))) == (1, True)
    assert_matches(line, result.stderr)
    assert "wbe" in json.loads(operated.memreap("status", "--json").stdout)["trouble"]
    return re.findall(line, result.stderr)[0]


def test_without_a_listener_a_look_shows_the_pools_and_that_none_is_watched(tmp_path):
    """Newborn workers over their limit do not make a single look report suspended."""
    with supervisord(tmp_path, program("myapp", 2, 40) + "[memreap:myapp]\nlimit=30MB\nmin_age=1h\n"):
        operated = Operated.of(tmp_path)
        result = operated.memreap("status")
        assert re.search("myapp +DUE  30 MiB uss  2        2     ", result.stdout)
        assert "itself, once: there is no listener; pauses" in " ".join(result.stdout.split())
        assert (result.returncode, result.stderr) == (
            1,
            "memreap: there is no listener, so no pool is watched, and only memreap once reaps: run memreap doctor\n",
        )
        text = operated.conf.read_text()
        operated.conf.write_text(f"{text}[eventlistener:memreap]\ncommand=memreap listen\nevents=TICK_5\n")
        result = operated.memreap("status")
        assert (result.returncode, result.stderr) == (
            1,
            "memreap: supervisord has not read the listener's section yet, so no pool is watched: run"
            " supervisorctl update\n",
        )


def test_an_invalid_configuration_is_shown_by_every_view_until_it_is_valid_again():
    """Before it was read completely, no command is accepted; later the earlier settings stay in force."""
    with operating(program("myapp", 1, 1) + "[memreap:myapp]\nlimit=1 monkey\n") as operated:
        eventually(lambda: assert_logged(operated, "not a size"))
        refused = operated.ctl("memreap", "pause", "all")
        assert (refused.returncode, refused.stdout) == (
            1,
            "memreap: no pool is watched, since the configuration has an error: see the listener's log\n",
        )
        wrong = operated.conf.read_text()
        # Nor is that of a program that does not exist.
        without_program = wrong.replace("1 monkey", "30MB") + "[memreap:wbe]\nlimit=30MB\n"
        operated.conf.write_text(without_program)
        eventually(lambda: assert_status(operated, "myapp +QUIET(?s:.*)wbe"))
        line = assert_reports_wbe(operated, "myapp +QUIET")
        shown = operated.ctl("memreap", "status")
        assert (shown.returncode, shown.stdout.splitlines()[-1]) == (1, line)
        valid = wrong.replace("1 monkey", "30MB")
        operated.conf.write_text(valid)
        until(lambda: operated.ctl("memreap", "status").returncode, 0)
        operated.conf.write_text(wrong.replace("1 monkey", "30 monkeys"))
        line = r"memreap: .* limit=30 monkeys: not a size, such as 150MB \(the earlier settings stay in force\)"
        eventually(lambda: assert_status(operated, line))
        assert operated.ctl("memreap", "status").returncode == 1
        shown = operated.memreap("status")
        assert (shown.returncode, shown.stderr.count("monkeys")) == (1, 1)
        assert re.search("myapp +QUIET +30 MiB uss +1 ", shown.stdout)
        assert operated.ctl("memreap", "pause", "myapp").returncode == 0
        operated.conf.write_text(valid)
        until(lambda: operated.ctl("memreap", "status").returncode, 0)


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
    """A proxy of supervisord that does not answer the first call with each of `markers` in it."""

    def __init__(self, to: Path, *markers: bytes):
        self._to = str(to)
        self.markers = [*markers]
        """Those of the calls that it has still to swallow."""
        self._server = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._server.getsockname()[1]}"
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
        if swallowed := [marker for marker in self.markers if marker in request]:
            self.markers.remove(*swallowed)
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


def test_an_announcement_survives_a_call_that_times_out(tmp_path):
    text = program("myapp", 1, 40) + "[memreap:myapp]\nlimit=30MB\nmin_age=1s\nsettle=1s\n"
    with (
        supervisord(tmp_path, text + stack.INTERFACE + stack.recorder(tmp_path)),
        Deaf(tmp_path / "s.sock", b"memreap.publish", b"sendRemoteCommEvent") as deaf,
        listening("-c", f"{tmp_path}/supervisord.conf", log=tmp_path / "log", SUPERVISOR_SERVER_URL=deaf.url) as driver,
    ):
        until(lambda: driver.tick() and "HUP sent" in driver.text())
        until(lambda: driver.tick() and not deaf.markers)  # what came of an attempt is announced at the next tick
        driver.tick()
        eventually(lambda: assert_in("reap", [event["event"] for event in stack.announced(tmp_path)]))
