"""A pool that goes out of sight is not forgotten, not even across a restart of the listener."""

from __future__ import annotations

import contextlib
import json
import sys

import pytest
from support import stack
from support.driver import POOL, assert_have_served, assert_in, eventually, listening, supervisord

PROGRAM = (
    f"[program:myapp]\ncommand={sys.executable} {POOL} 3 40 stuck\nstopwaitsecs=5\n[include]\nfiles=pools/*.conf\n"
)
# With checks=4 nothing is signalled before the pause is logged.
SECTION = "[memreap:myapp]\nlimit=30MB\nmin_age=1s\nsettle=0s\nchecks=4\n"


@pytest.fixture
def section(tmp_path):
    """The included file with the pool's section."""
    (tmp_path / "pools").mkdir()
    path = tmp_path / "pools/myapp.conf"
    path.write_text(SECTION)
    return path


@pytest.fixture
def listener(tmp_path, section):
    options = {
        "log": tmp_path / "listener.log",
        "SUPERVISOR_SERVER_URL": f"unix://{tmp_path}/s.sock",
        "XDG_RUNTIME_DIR": str(tmp_path),
    }
    with (
        serving(tmp_path),
        listening("-c", f"{tmp_path}/supervisord.conf", **options) as listener,
    ):
        yield listener


@contextlib.contextmanager
def serving(directory):
    """A supervisord whose pool has served for a while; with the section that it has by then."""
    with supervisord(directory, PROGRAM + stack.recorder(directory)):
        (manager,) = stack.left_in(directory, words=POOL.name, children=3)
        eventually(lambda: assert_have_served(manager.pid, settle=0.0))
        yield


def command(listener, text: str) -> None:
    listener.event("REMOTE_COMMUNICATION", f"type:memreap-command\n{text}")
    listener.expect(b"RESULT 2\nOK")
    listener.expect(b"READY\n")


def _assert_one_is_reaped(directory) -> int:
    """The pid of the worker that was signalled."""
    (event,) = (event for event in stack.announced(directory) if event["event"] == "reap")
    return event["pid"]


def comment_out(path) -> None:
    path.write_text("".join(f";{line}\n" for line in SECTION.splitlines()))


def remove(path) -> None:
    path.unlink()


def truncate(path) -> None:
    path.write_text("")


def mistype(path) -> None:
    path.write_text("[memreap:myapp\n")


WAYS = [comment_out, remove, truncate, mistype]


@pytest.mark.parametrize("out_of_sight", WAYS)
def test_a_pause_survives_if_its_section_is_missing_for_a_look(listener, section, tmp_path, out_of_sight):
    command(listener, "pause myapp")
    out_of_sight(section)
    listener.tick()
    section.write_text(SECTION)
    for _ in range(4):
        listener.tick()
    assert "HUP sent" not in listener.text()
    command(listener, "resume myapp")
    eventually(lambda: listener.tick() and _assert_one_is_reaped(tmp_path))


@pytest.mark.parametrize("out_of_sight", WAYS)
def test_a_pause_survives_a_listener_started_while_its_section_is_missing(listener, section, tmp_path, out_of_sight):
    command(listener, "pause myapp")
    out_of_sight(section)
    before = listener.listener()
    before.kill()
    listener.expect(b"READY\n")
    listener.tick()
    section.write_text(SECTION)
    for _ in range(4):
        listener.tick()
    assert "HUP sent" not in listener.text()
    command(listener, "resume myapp")
    eventually(lambda: listener.tick() and _assert_one_is_reaped(tmp_path))


def test_a_leaving_worker_gets_no_second_signal_afterwards(listener, section, tmp_path):
    pid = eventually(lambda: listener.tick() and _assert_one_is_reaped(tmp_path))
    remove(section)
    listener.tick()
    section.write_text(SECTION)
    for _ in range(4):
        listener.tick()
    assert _assert_one_is_reaped(tmp_path) == pid
    (statefile,) = (tmp_path / "memreap").iterdir()
    leaving = json.loads(statefile.read_text())["pools"]["myapp"]["reap"]
    assert (leaving["worker"][0], leaving["phase"]) == (pid, "signalled")


def test_removing_the_only_included_file_before_the_second_tick_is_noticed(listener, section):
    listener.tick()
    remove(section)
    listener.tick()
    assert "watching nothing" in listener.text()


@contextlib.contextmanager
def mistyped(path):
    mistype(path)  # supervisord itself would not start with it
    yield


def test_no_pool_is_looked_at_before_the_file_was_read_completely(tmp_path, section):
    options = {
        "log": tmp_path / "listener.log",
        "SUPERVISOR_SERVER_URL": f"unix://{tmp_path}/s.sock",
        "XDG_RUNTIME_DIR": str(tmp_path),
    }
    arguments = ("-c", f"{tmp_path}/supervisord.conf", "myapp=30MB")
    with serving(tmp_path), mistyped(section), listening(*arguments, **options) as listener:
        for _ in range(6):
            listener.tick()
        assert "nothing is watched until it is corrected" in listener.text()
        assert "HUP sent" not in listener.text()
        section.write_text(SECTION)
        eventually(lambda: listener.tick() and _assert_one_is_reaped(tmp_path))


def test_a_file_made_readable_again_is_read(listener, section):
    listener.tick()
    mistype(section)
    listener.tick()
    section.write_text(SECTION.replace("30MB", "31MB"))
    section.chmod(0o600)
    eventually(lambda: listener.tick() and assert_in("limit 31 MiB", listener.text()))
