"""A deployment right after a reap: a manager that a user stops or restarts has not exited on its own."""

from __future__ import annotations

import re
import time

import pytest
from support import stack
from support.driver import eventually, listening, supervisord
from support.operated import Operated
from support.sections import program

from supervisor_memreap.core.model import Ending, Program
from supervisor_memreap.supervisord.client import Client

PROGRAM = program("myapp", 3, 40, "stuck", "fresh", more="stopwaitsecs=5\nautorestart=true\n")
QUICK = "[memreap:myapp]\nlimit=30MB\nmin_age=1s\nsettle=0s\nchecks=3\n"


def control(directory):
    return Operated.of(directory).rpc().supervisor


@pytest.fixture
def listener(tmp_path):
    """A listener that receives ticks only, of a supervisord whose pool has a worker that is leaving."""
    url = f"unix://{tmp_path}/s.sock"
    # On a busy machine supervisord takes longer than the second for which memreap waits for it.
    (tmp_path / "sitecustomize.py").write_text(
        "from supervisor_memreap.supervisord.client import Client\nClient.__init__.__defaults__ = (None, None, 20.0)\n"
    )
    with supervisord(tmp_path, PROGRAM + QUICK + stack.recorder(tmp_path)):
        options = {
            "log": tmp_path / "listener.log",
            "SUPERVISOR_SERVER_URL": url,
            "TMPDIR": str(tmp_path),
            "PYTHONPATH": str(tmp_path),
        }
        with listening("-c", f"{tmp_path}/supervisord.conf", **options) as listener:
            eventually(lambda: listener.tick() and _assert_announced(tmp_path, "reap"))
            yield listener


def _assert_announced(directory, *kinds: str) -> None:
    assert [event["event"] for event in stack.announced(directory)] == list(kinds)


def _assert_runs(directory) -> int:
    info = control(directory).getProcessInfo("myapp")
    assert info["statename"] == "RUNNING"
    return info["pid"]


def remove_and_add(directory) -> None:
    control(directory).stopProcess("myapp")
    control(directory).removeProcessGroup("myapp")
    control(directory).addProcessGroup("myapp")


def stop_and_start_later(directory) -> None:
    control(directory).stopProcess("myapp")
    time.sleep(1.1)  # supervisord's log has whole seconds
    control(directory).startProcess("myapp")


def test_a_restart_by_the_user_right_after_a_reap_suspends_nothing(listener, tmp_path):
    for count, deploy in enumerate((remove_and_add, stop_and_start_later), 2):
        before = _assert_runs(tmp_path)
        deploy(tmp_path)
        assert eventually(lambda: _assert_runs(tmp_path)) != before
        for _ in range(2):
            listener.tick()
        assert "suspended" not in listener.text()
        # A worker of the new manager, so that the next restart is right after a reap too.
        eventually(lambda count=count: listener.tick() and _assert_announced(tmp_path, *["reap"] * count))


def test_subscribed_events_are_used_where_the_log_has_no_entry(listener, tmp_path):
    log = tmp_path / "s.log"
    pid = _assert_runs(tmp_path)
    control(tmp_path).stopProcess("myapp")
    log.write_text("")
    listener.tick(
        name="PROCESS_STATE_STOPPING", payload=f"processname:myapp groupname:myapp from_state:RUNNING pid:{pid}"
    )
    control(tmp_path).startProcess("myapp")
    eventually(lambda: _assert_runs(tmp_path))
    for _ in range(2):
        listener.tick()
    assert "suspended" not in listener.text()


def test_the_pool_is_suspended_for_a_minute_if_the_cause_of_the_end_is_unknown(listener, tmp_path):
    control(tmp_path).stopProcess("myapp")
    (tmp_path / "s.log").write_text("")
    control(tmp_path).startProcess("myapp", False)
    eventually(lambda: listener.tick() and _assert_announced(tmp_path, "reap", "suspended"))
    _, suspended = stack.announced(tmp_path)
    assert re.search(r"; resumes when .* has run for 60 s", suspended["message"])


ENTRIES = [
    (["INFO stopped: myapp (exit status 0)"], Ending.STOPPED),
    (["WARN exited: myapp (terminated by SIGKILL; not expected)"], Ending.EXITED),
    (["INFO exited: other (exit status 0; expected)"], Ending.UNKNOWN),
    (["INFO stopped: myapp (exit status 0)", "INFO exited: myapp (exit status 0; expected)"], Ending.STOPPED),
    ([], Ending.UNKNOWN),
]


def test_the_first_entry_in_the_log_of_supervisord_counts(tmp_path):
    with supervisord(tmp_path, PROGRAM):
        client = Client(f"unix://{tmp_path}/s.sock")
        old = "2001-01-01 00:00:00,000 INFO exited: myapp (exit status 0; expected)\n"
        for lines, ending in ENTRIES:
            stamp = time.strftime("%Y-%m-%d %H:%M:%S,000")
            (tmp_path / "s.log").write_text(old + "".join(f"{stamp} {line}\n" for line in lines))
            assert client.how_ended(Program("myapp", "myapp", "RUNNING", 1), time.time() - 60) is ending, lines
