"""A pool that goes out of sight is not forgotten, not even across a restart of the listener."""

from __future__ import annotations

import functools
import json
import sys
from pathlib import Path

import pytest
from support import stack
from support.driver import POOL, assert_have_served, eventually, listening_in, supervisord

PROGRAM = (
    f"[program:myapp]\ncommand={sys.executable} {POOL} 3 40 stuck\nstopwaitsecs=5\n[include]\nfiles=pools/*.conf\n"
)
# With several checks nothing is signalled before the pause is logged.
CHECKS = 3
SECTION = f"[memreap:myapp]\nlimit=30MB\nmin_age=1s\nsettle=0s\nchecks={CHECKS}\n"


@pytest.fixture
def section(tmp_path):
    """The included file with the pool's section."""
    (tmp_path / "pools").mkdir()
    path = tmp_path / "pools/myapp.conf"
    path.write_text(SECTION)
    return path


@pytest.fixture
def listening_to(tmp_path, section):
    """Starts a listener of a supervisord whose pool has served for a while, with the section that it has by then."""
    with supervisord(tmp_path, PROGRAM + stack.recorder(tmp_path)):
        (manager,) = stack.left_in(tmp_path, words=POOL.name, children=3)
        eventually(lambda: assert_have_served(manager.pid, settle=0.0))
        yield functools.partial(listening_in, tmp_path, XDG_RUNTIME_DIR=str(tmp_path))


def command(listener, text: str) -> None:
    listener.event("REMOTE_COMMUNICATION", f"type:memreap-command\n{text}")
    listener.expect(b"RESULT 2\nOK")
    listener.expect(b"READY\n")


def _assert_one_is_reaped(directory) -> int:
    """The pid of the worker that was signalled."""
    (event,) = (event for event in stack.announced(directory) if event["event"] == "reap")
    return event["pid"]


def mistype(path) -> None:
    path.write_text("[memreap:myapp\n")  # supervisord itself would not start with it


def return_after_a_look(listener, section, out_of_sight, is_killed: bool = False) -> None:
    """The section is away for a look, and then there for so many that a worker over the limit is signalled."""
    out_of_sight(section)
    if is_killed:
        listener.listener().kill()
        listener.expect(b"READY\n")
    listener.tick()
    section.write_text(SECTION)
    for _ in range(CHECKS):
        listener.tick()


def test_a_pause_and_a_leaving_worker_are_kept_while_their_section_is_missing(listening_to, section, tmp_path):
    """Also where a listener is started meanwhile, which reads no section, or not even a whole file."""
    with listening_to() as listener:
        command(listener, "pause myapp")
        return_after_a_look(listener, section, Path.unlink)
        for out_of_sight in (Path.unlink, mistype):
            return_after_a_look(listener, section, out_of_sight, is_killed=True)
        assert "HUP sent" not in listener.text()
        command(listener, "resume myapp")
        pid = eventually(lambda: listener.tick() and _assert_one_is_reaped(tmp_path))
        return_after_a_look(listener, section, Path.unlink)
        assert _assert_one_is_reaped(tmp_path) == pid
        (statefile,) = (tmp_path / "memreap").iterdir()
        leaving = json.loads(statefile.read_text())["pools"]["myapp"]["reap"]
        assert (leaving["worker"][0], leaving["phase"]) == (pid, "signalled")


def test_no_pool_is_looked_at_before_the_file_was_read_completely(listening_to, tmp_path, section):
    mistype(section)
    with listening_to("myapp=30MB") as listener:
        for _ in range(CHECKS):
            listener.tick()
        assert "nothing is watched until it is corrected" in listener.text()
        assert "HUP sent" not in listener.text()
        section.write_text(SECTION)
        section.chmod(0o600)
        eventually(lambda: listener.tick() and _assert_one_is_reaped(tmp_path))
