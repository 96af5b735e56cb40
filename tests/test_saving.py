"""What cannot be saved is not begun; and where it is saved, no other user can put anything."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from support import stack
from support.driver import POOL, eventually, pool, supervisord, workers_below
from support.reaping import Reaping

from supervisor_memreap.core import events, policy
from supervisor_memreap.core.command import Command, CommandError
from supervisor_memreap.core.frozen import replace
from supervisor_memreap.core.model import ProcessId
from supervisor_memreap.core.state import Phase, PoolState, Reap
from supervisor_memreap.host.machine import Locked
from supervisor_memreap.host.thismachine import ThisMachine
from supervisor_memreap.listener import loop, statedirectory
from supervisor_memreap.listener.reaper import Reaper
from supervisor_memreap.listener.savedstates import SavedStates
from supervisor_memreap.listener.statefile import StateFile
from supervisor_memreap.outputs.lasting import Once
from supervisor_memreap.supervisord.configfile import ConfigFile, Contents

SUPERVISORD = ProcessId(4_000_000, 1.5)
PAUSED = {"myapp": PoolState(paused=True, looked=1.0)}
AS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="only root can act for two users")


@pytest.fixture
def directory(tmp_path) -> Path:
    path = tmp_path / "memreap"
    path.mkdir(mode=0o700)
    return path


def break_it(directory: Path) -> None:
    directory.chmod(0o777)


def mend(directory: Path) -> None:
    directory.chmod(0o700)


@contextlib.contextmanager
def reaping_with(directory: Path, manager: int, **settings: str) -> Iterator[Reaping]:
    with Reaping(manager, **settings) as reaping:
        take = reaping.events.append
        saved_states = SavedStates(ThisMachine(), StateFile(SUPERVISORD, [str(directory)]), take, Once(take))
        reaping.reaper = Reaper(ThisMachine(), (take,), keep=saved_states.save)
        yield reaping


@pytest.fixture
def full(tmp_path):
    """A directory on a separate disk that is full."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "none", disk], check=False, stderr=-3).returncode:
        pytest.skip("only root may mount a file system")
    try:
        (disk / "memreap").mkdir(mode=0o700)
        with contextlib.suppress(OSError), (disk / "all").open("wb", buffering=0) as file:
            while file.write(bytes(4096)):
                pass
        yield disk / "memreap"
    finally:
        subprocess.run(["umount", disk], check=True)


def test_with_a_full_disk_nothing_is_signalled_and_one_line_reports_its_begin_and_one_its_end(full):
    with pool(2, 40) as manager, reaping_with(full, manager) as reaping:
        before = workers_below(manager)
        reaping.until(events.NotSaved)
        for _ in range(5):
            last = reaping.tick()
            assert last.choice.standing == "due"
        (event,) = reaping.all_of(events.NotSaved)
        path = full / f"memreap-{os.geteuid()}-4000000-1.50.json"
        assert event.text == (
            "no worker is signalled, since the state cannot be saved: "
            f"{path}: No space left on device; free space in that directory"
        )
        # What an overdue pool says then needs no other line.
        assert last.state.refusal.text in event.text
        assert not reaping.signalled()
        assert workers_below(manager) == before
        assert list(full.iterdir()) == []
        (full.parent / "all").unlink()
        reaping.until(events.Signalled)
        assert len(reaping.all_of(events.NotSaved)) == len(reaping.all_of(events.SavedAgain)) == 1
        reaping.until(events.Left)


def test_a_second_signal_waits_until_it_can_be_saved(directory):
    with pool(1, 40, "gap") as manager, reaping_with(directory, manager) as reaping:
        first = reaping.until(events.Signalled)
        break_it(directory)
        reaping.later = policy.AGAIN
        for _ in range(10):
            assert reaping.tick().choice.again
        assert not reaping.all_of(events.SignalledAgain)
        assert psutil.pid_exists(first.pid)
        mend(directory)
        assert reaping.until(events.SignalledAgain).worker == first.worker
        reaping.until(events.Left)


def test_a_stronger_signal_waits_until_it_can_be_saved(directory):
    with pool(2, 40, "stuck") as manager, reaping_with(directory, manager, stuck="KILL") as reaping:
        worker = reaping.until(events.Signalled).worker
        break_it(directory)
        reaping.later = 300.0
        reaping.until(events.Stuck)
        for _ in range(5):
            reaping.tick()
        assert not reaping.all_of(events.Forced)
        assert len(reaping.all_of(events.Stuck)) == 1
        assert psutil.pid_exists(worker.pid)
        mend(directory)
        assert reaping.until(events.Forced).worker == worker
        reaping.until(events.Left)


def test_a_command_that_cannot_be_saved_is_refused_and_changes_no_pool(directory):
    file = StateFile(SUPERVISORD, [str(directory)])
    reaper = Reaper(ThisMachine(), states={"a": PoolState(paused=True)}, keep=lambda states: file.write(states, 2.0))
    reaper.pools.write_down()
    names = ["a", "b", "c"]
    for verb in ("pause", "resume"):
        break_it(directory)
        with pytest.raises(
            CommandError, match=rf"^{verb} all: nothing was done, .* {directory} is writable by other users"
        ):
            reaper.command(Command(verb, "all"), names)
        assert [reaper.pools.named(name).state.paused for name in names] == [True, False, False]
        mend(directory)
        assert file.read(3.0)[0].keys() == {"a"}
    reaper.command(Command("pause", "all"), names)
    assert file.read(3.0)[0].keys() == {*names}


@pytest.mark.parametrize("verb", ["reap", "roll"])
def test_a_requested_worker_is_not_replaced_if_the_request_cannot_be_saved(directory, verb):
    with pool(2, 5) as manager, reaping_with(directory, manager) as reaping:
        reaping.tick()
        break_it(directory)
        with pytest.raises(CommandError, match="nothing was done, since it cannot be saved"):
            reaping.reaper.command(Command(verb, "myapp"), ["myapp"])
        assert reaping.tick().choice.standing == "quiet"
        assert not reaping.all_of(events.WorkersRequested)


def test_a_smaller_state_that_fits_does_not_end_the_problem(full):
    file = StateFile(SUPERVISORD, [str(full)])
    (full.parent / "all").unlink()
    (full.parent / "all").write_bytes(bytes(40_960))
    many = {f"pool{number}": PoolState(paused=True) for number in range(200)}
    assert "No space left" in file.write(many, 1.0)
    assert "No space left" in file.write(PAUSED, 2.0)
    assert "No space left" in file.write({}, 3.0)
    (full.parent / "all").unlink()
    assert file.write({}, 4.0) == ""
    assert list(full.iterdir()) == []


def test_a_partial_write_leaves_the_earlier_file(full):
    file = StateFile(SUPERVISORD, [str(full)])
    (full.parent / "all").unlink()
    assert file.write(PAUSED, 1.0) == ""
    (full.parent / "all").write_bytes(bytes(40_960))
    many = {f"pool{number}": PoolState(paused=True) for number in range(200)}
    assert "No space left" in file.write(many, 2.0)
    assert file.read(3.0) == ({"myapp": PoolState(paused=True, looked=1.0)}, "")
    assert len(list(full.iterdir())) == 1


# Where it is.


def test_a_user_gets_the_directory_of_the_login_if_it_is_private(tmp_path):
    environ = {"XDG_RUNTIME_DIR": str(tmp_path), "TMPDIR": str(tmp_path)}
    assert statedirectory.candidates(0, None, environ)[0] == f"{tmp_path}/memreap"
    for mode in (0o755, 0o770):
        tmp_path.chmod(mode)
        assert f"{tmp_path}/memreap" not in statedirectory.candidates(0, None, environ)
    environ["XDG_RUNTIME_DIR"] = "."
    assert "./memreap" not in statedirectory.candidates(0, None, environ)


@AS_ROOT
def test_only_root_has_a_directory_in_run(tmp_path):
    assert statedirectory.candidates(0, None, {})[0] == "/run/memreap"
    assert as_user(65534, lambda: statedirectory.candidates(0, None, {})) == ["/tmp/memreap-65534"]


def test_the_directory_of_the_log_or_pid_file_is_used_if_no_other_user_may_write_there(tmp_path):
    for name in ("log", "pid"):
        (tmp_path / name).mkdir(mode=0o755)
    contents = Contents(logfile=f"{tmp_path}/log/s.log", pidfile=f"{tmp_path}/pid/s.pid")
    paths = statedirectory.candidates(os.getpid(), contents, {})
    assert paths[-3:-1] == [f"{tmp_path}/log/memreap-state", f"{tmp_path}/pid/memreap-state"]
    (tmp_path / "log").chmod(0o775)
    assert statedirectory.candidates(os.getpid(), contents, {})[-2] == f"{tmp_path}/pid/memreap-state"
    device = Contents(logfile="/dev/stdout", pidfile=f"{tmp_path}/pid/s.pid")
    assert "/dev/memreap-state" not in statedirectory.candidates(os.getpid(), device, {})


def test_the_configuration_defines_the_place_of_the_pid_file(tmp_path):
    (tmp_path / "s.conf").write_text("[supervisord]\nlogfile=%(here)s/a/s.log\npidfile=%(here)s/b/s.pid\n")
    contents = ConfigFile(str(tmp_path / "s.conf")).read()
    assert (contents.logfile, contents.pidfile) == (f"{tmp_path}/a/s.log", f"{tmp_path}/b/s.pid")


def test_the_directory_is_private_with_any_umask(tmp_path):
    before = os.umask(0)
    try:
        path = statedirectory.usable([str(tmp_path / "memreap-0")])
    finally:
        os.umask(before)
    assert os.stat(path).st_mode & 0o7777 == 0o700


def test_the_next_directory_is_used_if_one_cannot_be_created(tmp_path):
    assert statedirectory.usable(["/proc/memreap", str(tmp_path / "memreap")]) == str(tmp_path / "memreap")


@pytest.mark.parametrize("kind", ["link", "file", "writable", "another user's", "below a user's"])
def test_a_directory_that_another_user_may_have_created_is_refused_with_a_line(tmp_path, directory, kind):
    if "user" in kind and os.geteuid():
        pytest.skip("only root can act for two users")
    file = StateFile(SUPERVISORD, [str(directory)])
    assert file.write(PAUSED, 1.0) == ""
    if kind == "link":
        directory.rename(tmp_path / "other")
        directory.symlink_to(tmp_path / "other")
        expected = "is a symbolic link"
    elif kind == "file":
        shutil.rmtree(directory)
        directory.touch()
        expected = "is not a directory"
    elif kind == "writable":
        directory.chmod(0o770)
        expected = r"is writable by other users \(mode 0770\)"
    elif kind == "another user's":
        os.chown(directory, 65534, 65534)
        expected = "belongs to user 65534, not to user 0"
    else:
        os.chown(tmp_path, 65534, 65534)
        expected = "is in a directory in which another user may replace it"
    trouble = file.write(PAUSED, 2.0)
    assert trouble.startswith(f"{directory} ")
    with pytest.raises(statedirectory.Refused, match=expected):
        statedirectory.check(str(directory))
    assert trouble.endswith(f": remove it, or {statedirectory.REMEDY}")
    assert statedirectory.trouble([str(directory)]) == trouble
    # And what lies there is not believed.
    assert file.read(3.0) == ({}, "")


@AS_ROOT
def test_another_user_who_creates_the_temporary_directory_first_only_prevents_its_use():
    where = stack.directory()
    where.chmod(0o1777)
    try:
        as_user(1, lambda: (where / "memreap-65534").mkdir(mode=0o777))
        environ = {"TMPDIR": str(where)}
        file_of = lambda: StateFile(SUPERVISORD, statedirectory.candidates(0, None, environ))  # noqa: E731
        trouble = as_user(65534, lambda: file_of().write(PAUSED, 1.0))
        assert trouble.startswith(f"{where}/memreap-65534 belongs to user 1, not to user 65534: remove it, or ")
        (where / "memreap-65534").rmdir()
        # The name that earlier versions used can be guessed as well.
        as_user(1, lambda: (where / "memreap-65534-4000000-1.50.json").mkdir())
        assert as_user(65534, lambda: file_of().write(PAUSED, 1.0)) == ""
        assert as_user(65534, lambda: [*file_of().read(2.0)[0]]) == ["myapp"]
        assert as_user(65534, lambda: file_of().write({}, 2.0)) == ""
    finally:
        shutil.rmtree(where)


def as_user(user: int, work):
    """What it returns as this user, in a child of our own."""
    readable, writable = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.setgroups([])
            os.setresgid(user, user, user)
            os.setresuid(user, user, user)
            os.write(writable, json.dumps(work()).encode())
            os._exit(0)
        finally:
            os._exit(1)
    os.close(writable)
    with open(readable, "rb") as file:
        text = file.read()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    return json.loads(text)


def test_every_command_uses_the_environment_of_supervisord_not_its_own(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    with subprocess.Popen(["sleep", "600"]) as supervisord:
        monkeypatch.setenv("XDG_RUNTIME_DIR", "/nowhere")
        try:
            assert statedirectory.candidates(supervisord.pid, None)[0] == f"{tmp_path}/memreap"
        finally:
            supervisord.kill()


def test_state_saved_by_an_earlier_version_is_read_once_and_moved(tmp_path):
    now = time.monotonic()
    old = StateFile(SUPERVISORD, [str(tmp_path / "memreap-0")])
    old.write(PAUSED, now - 2)
    (path,) = (tmp_path / "memreap-0").iterdir()
    path.rename(tmp_path / path.name)
    runtime = tmp_path / "run"
    runtime.mkdir(mode=0o700)
    file = StateFile(SUPERVISORD, [f"{runtime}/memreap", str(tmp_path / "memreap-0")])
    states, trouble = file.read(now)
    assert (states["myapp"].paused, trouble) == (True, "")
    assert file.write(states, now) == ""
    assert [each.name for each in (runtime / "memreap").iterdir()] == [path.name]
    assert not (tmp_path / path.name).exists()
    assert file.read(now)[0]["myapp"].paused


def test_the_newer_of_two_files_counts_and_the_other_is_removed(tmp_path):
    first, second = (str(tmp_path / name) for name in ("a", "b"))
    StateFile(SUPERVISORD, [first]).write(PAUSED, 1.0)
    StateFile(SUPERVISORD, [second]).write({"other": PoolState(paused=True)}, 2.0)
    file = StateFile(SUPERVISORD, [first, second])
    states, _ = file.read(3.0)
    assert states.keys() == {"other"}
    assert file.write(states, 3.0) == ""
    assert (len(os.listdir(first)), os.listdir(second)) == (1, [])
    assert file.write({}, 4.0) == ""
    assert os.listdir(first) == []


def test_status_reports_unsaved_state_even_if_the_listener_cannot_be_asked(tmp_path, monkeypatch):
    (tmp_path / "run").mkdir(mode=0o700)
    (tmp_path / "run/memreap").touch()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "run"))
    memreap = f"{Path(sys.executable).parent}/memreap"
    text = (
        f"[program:myapp]\ncommand={sys.executable} {POOL} 1 5\n[memreap:myapp]\nlimit=1GB\n"
        f"[eventlistener:memreap]\ncommand={memreap} listen\nevents=TICK_5\n"
    )
    with supervisord(tmp_path, text):

        def assert_unsaved_reported() -> None:
            command = [memreap, "status", "-c", f"{tmp_path}/supervisord.conf"]
            result = subprocess.run(command, capture_output=True, text=True, check=False)
            assert "cannot be saved" in " ".join(result.stderr.split()), result
            assert result.returncode == 1

        eventually(assert_unsaved_reported)


def test_the_next_listener_waits_for_workers_that_have_not_left_and_for_no_others(directory):
    states = StateFile(SUPERVISORD, [str(directory)])
    stays = Reap(ProcessId(4_000_001, 1.5), 1.0, frozenset())
    left = replace(stays, phase=Phase.GONE, left=2.0)
    assert states.write({"stays": PoolState(reap=stays), "left": PoolState(reap=left)}, 3.0) == ""
    emitted: list[events.Event] = []
    assert set(SavedStates(ThisMachine(), states, emitted.append, Once(emitted.append)).read()) == {"stays", "left"}
    assert [(type(event), event.pool) for event in emitted] == [(events.Remembered, "stays")]


def test_the_log_of_a_listener_begins_with_its_version_and_configuration(directory, tmp_path, monkeypatch, capfd):
    class Begun(Exception):
        pass

    def begun():
        raise Begun

    states = StateFile(SUPERVISORD, [str(directory)])
    states.write({"myapp": PoolState(reap=Reap(ProcessId(4_000_001, 1.5), 1.0, frozenset()))}, 3.0)
    (tmp_path / "s.conf").write_text("[supervisord]\n")
    monkeypatch.setenv("SUPERVISOR_ENABLED", "1")
    monkeypatch.setattr(loop, "_other_listener", lambda *_: None)
    monkeypatch.setattr(loop, "_statefile", lambda *_: states)
    monkeypatch.setattr(loop, "_keep_protocol_apart", lambda: (0, 1))
    monkeypatch.setattr(loop, "Protocol", lambda *_: None)
    monkeypatch.setattr(loop, "collect_seldom", begun)
    with pytest.raises(Begun):
        loop.run(str(tmp_path / "s.conf"), [])
    started, remembered = capfd.readouterr().err.splitlines()
    assert f"configuration {tmp_path}/s.conf" in started
    assert "waiting for it to leave" in remembered


def test_a_listener_that_has_waited_looks_for_the_state_where_the_one_before_it_has_saved_it(tmp_path, monkeypatch):
    """The configuration may have changed meanwhile: the pauses of the users would be forgotten."""
    file, given = tmp_path / "s.conf", []
    file.write_text("[memreap]\nlimit=%(unknown)s\n")

    def others() -> Iterator[Locked | None]:
        yield Locked("process 4 holds its lock")
        file.write_text("[supervisord]\nlogfile=/x/y.log\n")
        yield None

    def begun(_: object, contents: Contents | None) -> StateFile:
        given.append(contents)
        raise KeyboardInterrupt

    monkeypatch.setenv("SUPERVISOR_ENABLED", "1")
    turns = others()
    monkeypatch.setattr(loop, "_other_listener", lambda *_: next(turns))
    monkeypatch.setattr(loop, "_statefile", begun)
    monkeypatch.setattr(loop, "_ALONE", 0.0)
    asks, tells = os.pipe()
    monkeypatch.setattr(loop, "_keep_protocol_apart", lambda: (asks, tells))
    monkeypatch.setattr(loop, "Protocol", lambda *_: None)
    with pytest.raises(KeyboardInterrupt):
        loop.run(str(file), [])
    os.close(asks)
    os.close(tells)
    assert [contents and contents.logfile for contents in given] == ["/x/y.log"]
