"""Hostile input: names of processes, broken configurations; and supervisord that reloads or stops in the middle."""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st
from support import stack
from support.driver import POOL, eventually, listening, supervisord, workers_below
from support.reaping import Reaping

from supervisor_memreap import doctor
from supervisor_memreap.core import events
from supervisor_memreap.core.settings import SettingsError, resolve
from supervisor_memreap.outputs import log
from supervisor_memreap.supervisord import configfile
from supervisor_memreap.supervisord.client import Unavailable

FORGED = b"x) R 1 (\nSigCgt:\tffffffffffffffff\nPPid:\t1\n\x1b[31m\xff"


@contextlib.contextmanager
def hostile_pool(name: bytes):
    """The pid of the manager; it and its workers have this name, and forged arguments and environment."""
    environment = {os.fsencode(key): os.fsencode(value) for key, value in os.environ.items()}
    environment.update({b"SUPERVISOR_PROCESS_NAME": b"myapp\n", b"EVIL\x1b": FORGED})
    code = (
        f"import runpy, sys; open('/proc/self/comm', 'wb').write({name!r});"
        f" sys.argv = ['pool.py', '2', '40']; runpy.run_path({str(POOL)!r}, run_name='__main__')"
    )
    command = [os.fsencode(sys.executable), b"-c", code.encode(), FORGED]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment, start_new_session=True) as process:
        try:
            assert process.stdout.readline().startswith(b"ready")
            yield process.pid
        finally:
            os.killpg(process.pid, signal.SIGKILL)


def test_a_pool_with_hostile_names_arguments_and_environment_is_reaped_like_any_other():
    bystander = subprocess.Popen(["sleep", "99"], env={"SUPERVISOR_PROCESS_NAME": "myapp"})
    with hostile_pool(b"x) R 1 (\nSig") as manager:
        before = workers_below(manager)
        with Reaping(manager) as reaping:

            def assert_both_left() -> None:
                reaping.tick()
                assert len(reaping.all_of(events.Left)) == 2

            eventually(assert_both_left)
        assert reaping.signalled() == before
        assert not before & workers_below(manager)
    assert bystander.poll() is None
    bystander.kill()
    bystander.wait()


def test_a_name_that_looks_like_another_server_only_prevents_the_signal():
    with hostile_pool(b"gunicorn\nx)\xff") as manager:
        workers = workers_below(manager)
        with Reaping(manager) as reaping:
            event = reaping.until(events.NotCaught)
            for _ in range(3):
                reaping.tick()
        assert reaping.all_of(events.NotCaught) == [event]
        assert not reaping.all_of(events.Signalled)
        assert event.pid in workers
        assert event.signal == "TERM"
        assert workers_below(manager) == workers


VALID = """\
[supervisord]
logfile=/dev/null
[program:myapp]
command=/srv/myapp_fastcgi.pl -l /run/myapp.sock -n 5
[memreap]
checks=2
metric=uss
[memreap:myapp]
limit=150MB
signal=HUP
idle_wait=60s
stuck=report
[eventlistener:memreap]
command=memreap listen
events=TICK_5
[include]
files=conf.d/*.conf
"""
# What a hand or a disk does to a file: something cut out, something put in, a line twice.
PIECES = st.one_of(
    st.text(max_size=20),
    st.binary(max_size=20).map(lambda data: data.decode("latin-1")),
    st.sampled_from(["%", "%(here)s", "%(ENV_NONE)s", "[memreap:", "]", "[", "=", "\n", "\0", "9" * 400, "-1"]),
    st.sampled_from(["nan", "inf", "[memreap:myapp]\nlimit=1\n", "limit=150 monkeys\n", "[include]\nfiles=*.conf\n"]),
)
EDITS = st.lists(st.tuples(st.integers(0, len(VALID)), st.integers(0, 30), PIECES), min_size=1, max_size=5)


def broken(edits) -> bytes:
    text = VALID
    for at, cut, piece in edits:
        text = text[:at] + piece + text[at + cut :]
    return text.encode("utf-8", "surrogatepass")


def no_answer(_server):
    raise Unavailable("supervisord does not answer")


@settings(max_examples=300, derandomize=True)
@given(EDITS)
def test_a_broken_configuration_is_always_one_line(edits):
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory, "supervisord.conf")
        file.write_bytes(broken(edits))
        try:
            contents = configfile.ConfigFile(str(file)).read()
            resolve(configfile.merge(contents.sections, contents.limits()))
            texts = contents.warnings
        except SettingsError as error:
            texts = [str(error)]
        doctor.run(str(file), no_answer, texts.append)
        stream = io.StringIO()
        for text in texts:
            log.to(stream)(text)
        lines = stream.getvalue().splitlines()
        assert len(lines) == len(texts)
        assert all(line.isprintable() and line.startswith("memreap: ") for line in lines)


def an_include_of_itself(file: Path) -> None:
    file.write_text("[include]\nfiles=supervisord.conf\n")


def a_directory(file: Path) -> None:
    file.unlink()
    file.mkdir()


def nothing(file: Path) -> None:
    file.unlink()


def a_pipe(file: Path) -> None:
    file.unlink()
    os.mkfifo(file)


def twice(file: Path) -> None:
    file.write_text(file.read_text() + "[memreap:myapp]\nlimit=1KB\n")


def garbage(file: Path) -> None:
    file.write_bytes(bytes(range(256)) * 100)


def huge(file: Path) -> None:
    file.write_text(file.read_text().replace("limit=30MB", f"limit={'9' * 5000}MB"))


def a_typo(file: Path) -> None:
    file.write_text(file.read_text().replace("limit=30MB", "limt=30MB"))


def test_whatever_happens_to_the_file_the_listener_answers_and_signals_no_worker(tmp_path):
    """One listener through all of them; the settings in force signal no worker: the limit is high."""
    text = f"[program:myapp]\ncommand={sys.executable} {POOL} 2 40\n[memreap:myapp]\nlimit=30MB\nmin_age=1s\n"
    file = tmp_path / "watched" / "supervisord.conf"
    file.parent.mkdir()
    with supervisord(tmp_path, text):
        good = (tmp_path / "supervisord.conf").read_text()
        file.write_text(good.replace("limit=30MB", "limit=1GB"))
        written = tmp_path / "l.log"
        environment = {"SUPERVISOR_SERVER_URL": f"unix://{tmp_path}/s.sock"}
        with listening("-c", str(file), log=written, **environment) as listener:
            listener.tick()
            for damage in (an_include_of_itself, twice, garbage, huge, a_typo, a_directory, a_pipe, nothing):
                if file.is_dir():
                    shutil.rmtree(file)
                file.unlink(missing_ok=True)
                file.write_text(good)
                damage(file)
                listener.tick()
            lines = listener.lines()
        assert "Traceback" not in written.read_text()
        assert not [line for line in lines if "sent" in line or "internal error" in line]
        assert len([line for line in lines if "supervisord.conf" in line]) >= 6


def test_a_supervisord_reloaded_and_stopped_during_a_reap_leaves_nothing_behind():
    where = stack.directory()
    memreap = f"{Path(sys.executable).parent}/memreap"
    text = (
        f"[program:myapp]\ncommand={sys.executable} {POOL} 3 40 stuck fresh\n"
        "[memreap:myapp]\nlimit=30MB\nmin_age=1s\nsettle=1s\nchecks=3\n"
        f"[eventlistener:memreap]\ncommand={memreap} listen\nevents=TICK_5\nstderr_logfile={where}/memreap.log\n"
        f'environment=TMPDIR="{where}"\n'
    ) + stack.recorder(where)

    def assert_announced(*kinds: str) -> None:
        assert [event["event"] for event in stack.announced(where)] == list(kinds)

    try:
        with supervisord(where, text) as process:
            bystander = subprocess.Popen(["sleep", "99"])
            eventually(lambda: assert_announced("reap"))
            process.send_signal(signal.SIGHUP)
            # Its programs are new: the leaving worker ended with its manager, and no lost manager is reported.
            eventually(lambda: assert_announced("reap", "reap"))
            os.kill(process.pid, signal.SIGTERM)  # and not waited for: that is the driver's
            eventually(lambda: stack.assert_none_left(where))
            text = (where / "memreap.log").read_text()
            assert "suspended" not in text
            assert "internal error" not in text
            assert {event["event"] for event in stack.announced(where)} == {"reap"}
            assert stack.statefiles(process.pid) == []  # no listener will read who was leaving
            assert bystander.poll() is None
            bystander.kill()
            bystander.wait()
    finally:
        shutil.rmtree(where)
