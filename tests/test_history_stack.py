"""The history and observe=yes on a real supervisord: recorded beside its log, and continued after a restart."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
from pathlib import Path

from support import stack
from support.doctor import BIN, assert_found, doctor, needs_root, running
from support.driver import POOL, eventually
from support.operated import Operated, assert_status

from supervisor_memreap.history import historyfile

TEXT = f"""\
[program:myapp]
command={sys.executable} {POOL} 3 40
[memreap]
min_age=1s
settle=1s
[memreap:myapp]
limit=1GB
[eventlistener:memreap]
command={BIN}/memreap listen
events=TICK_5,REMOTE_COMMUNICATION
stderr_logfile=WHERE/memreap.log
environment=TMPDIR="WHERE"
{stack.PLUGIN}{stack.INTERFACE}"""


def operated(where: Path) -> Operated:
    return Operated(where, sys.executable, f"unix://{where}/s.sock", "", "")


def assert_recorded(where: Path, reaps: int = 0) -> None:
    try:
        (history,) = historyfile.load(f"{where}/memreap.sqlite")
    except (historyfile.HistoryError, ValueError) as error:
        raise AssertionError(str(error)) from None
    assert len(history.workers) >= 3
    assert history.readings[-1].workers == 3
    assert history.reaps >= reaps


def assert_reaps(where: Path, count: int) -> None:
    (pool,) = operated(where).rpc().memreap.getPools()
    assert pool.get("reaps") == count, (pool, operated(where).log()[-1000:])


def assert_continued(where: Path, before: dict, shown: list) -> dict:
    (after,) = operated(where).rpc().memreap.getPools()
    shown.append(after.get("reaps"))
    assert after["since"] > before["since"], "it is still the answer of the previous listener"
    for key in ("reaps", "given_back_bytes"):
        assert after.get(key) == before[key]
    return after


def test_it_is_beside_the_log_of_supervisord_and_the_counters_continue_after_a_restart(where):
    with running(where, TEXT):
        eventually(lambda: assert_recorded(where))
        for count in (1, 2):
            assert operated(where).ctl("memreap", "reap", "myapp").returncode == 0
            eventually(lambda count=count: assert_reaps(where, count))
            eventually(lambda count=count: assert_recorded(where, count))
            (before,) = operated(where).rpc().memreap.getPools()
            assert operated(where).ctl("restart", "memreap").returncode == 0
            shown = []
            after = eventually(lambda before=before, shown=shown: assert_continued(where, before, shown))
            assert set(shown) <= {None, count}, "never that nothing has been counted"
        assert after["counted_since"] == before["counted_since"]
        assert "\nReaps are counted since " in operated(where).ctl("memreap", "status").stdout
        (history,) = historyfile.load(f"{where}/memreap.sqlite")
        assert [event.name for event in history.events if event.name in ("Signalled", "Left")] == [
            "Signalled",
            "Left",
        ] * 2
        listener = stack.listener_in(where)
        (child,) = (each for each in listener.children() if each.name() == "memreap history")
        listener.kill()
        eventually(lambda: assert_gone(child))
        eventually(lambda: assert_reaps(where, 2))
        assert "internal error" not in operated(where).log()


def assert_gone(process) -> None:
    assert not process.is_running()


def test_an_observed_pool_is_recorded_reported_and_never_signalled(where):
    """The first step of the README for a new user; here with a limit that every worker is over."""
    text = TEXT.replace("limit=1GB", "limit=10MB\nobserve=yes")
    with running(where, text):
        eventually(lambda: assert_recorded(where))
        eventually(lambda: assert_observed_workers_logged(where, 3))
        workers = operated(where).workers()
        eventually(lambda: assert_status(operated(where), r"myapp +OBSERVED +10 MiB uss +3 "))
        assert operated(where).ctl("memreap", "status").returncode == 0
        refused = operated(where).ctl("memreap", "roll", "myapp")
        assert (refused.returncode, "myapp is only observed (observe=yes)" in refused.stdout) == (1, True)
        once = subprocess.run(
            [BIN / "memreap", "once", "-c", f"{where}/supervisord.conf"], capture_output=True, text=True, check=False
        )
        assert once.returncode == 0, once.stdout + once.stderr
        assert "myapp: it is only observed (observe=yes): nothing is sent" in once.stdout
        assert operated(where).workers() == workers
        assert "HUP sent" not in operated(where).log()
        (history,) = historyfile.load(f"{where}/memreap.sqlite")
        assert [event.name for event in history.events if event.pid] == ["WouldReap"] * 3


def assert_observed_workers_logged(where: Path, count: int) -> None:
    log = operated(where).log()
    assert log.count("it would be replaced now; nothing sent (observe=yes)") == count, log
    assert "watching myapp (only observed, limit 10 MiB uss)" in log


def test_a_pool_can_be_observed_without_a_limit(where):
    with running(where, TEXT.replace("limit=1GB", "observe=yes")):
        eventually(lambda: assert_recorded(where))
        assert "watching myapp (only observed)" in operated(where).log()
        eventually(lambda: assert_status(operated(where), "myapp +OBSERVED"))


@needs_root
def test_doctor_reports_a_history_that_the_user_of_the_listener_cannot_write(where):
    (where / "closed").mkdir(0o755)
    command = stack.python_for("www-data", where)
    text = TEXT.replace(f"{BIN}/memreap listen", f"{command} listen\nuser=www-data")
    text = text.replace("[memreap]\n", f"[memreap]\nhistory={where}/closed/history.sqlite\n")
    http = f"[unix_http_server]\nfile={where}/s.sock\nchown=www-data\n"
    with running(where, text, http=http):
        expression = (
            f"history: note: nothing is recorded: cannot create a file in {where}/closed, for the listener's user"
            r" www-data: set history=PATH in \[memreap\] to a file in a directory of that user, or off"
        )
        eventually(lambda: assert_found(where, expression, 1))


def test_doctor_reports_that_supervisord_logs_to_no_file(where):
    text = TEXT.replace("[memreap]\n", "[memreap]\nhistory=WHERE/no/history.sqlite\n")
    with running(where, text):
        eventually(lambda: assert_found(where, rf"history: note: .*there is no directory {where}/no", 0))


def test_recording_and_export_problems_are_shown_by_every_view_although_the_pool_is_well(where):
    """Another process has the port, and the directory of the history is missing."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        lines = f"[memreap]\nhistory=WHERE/no/history.sqlite\nmetrics=127.0.0.1:{port}\n"
        with running(where, TEXT.replace("[memreap]\n", lines)):
            eventually(
                lambda: assert_found(where, rf"metrics: note: cannot listen on 127.0.0.1:{port}: .*still replaced", 0)
            )
            # Of the two lines about the history, the one with the remedy.
            assert doctor(where).stdout.count("history:") == 1
            for line in ("memreap: history: ", f"memreap: metrics: cannot listen on 127.0.0.1:{port}: "):
                eventually(lambda line=line: assert_shown(where, line))
            values = json.loads(operated(where).ctl("memreap", "status", "--json").stdout)
            assert "history: " in values["warning"]
            assert "metrics: " in values["warning"]
            shown = subprocess.run(
                [BIN / "memreap", "status", "-c", f"{where}/supervisord.conf"],
                capture_output=True,
                text=True,
                check=False,
            )
            assert (shown.returncode, shown.stderr.count("still replaced")) == (0, 2), shown.stdout + shown.stderr


def test_with_invalid_settings_status_shows_the_pools_and_the_error_and_the_log_reports_its_end(
    where,
):
    conf = where / "supervisord.conf"
    with running(where, TEXT):
        eventually(lambda: assert_status(operated(where), "myapp +QUIET"))
        right = conf.read_text()
        conf.write_text(right.replace("limit=1GB", "limit=150 monkeys"))
        shown = subprocess.run([BIN / "memreap", "status", "-c", conf], capture_output=True, text=True, check=False)
        assert re.search(r"myapp +QUIET +1.0 GiB uss +3 ", shown.stdout), shown.stdout + shown.stderr
        assert (shown.returncode, shown.stderr.count("monkeys")) == (1, 1)
        eventually(lambda: assert_log(where, "the earlier settings stay in force"))
        conf.write_text(right)
        eventually(lambda: assert_log(where, "the configuration is valid again and in force"))


def assert_log(where: Path, text: str) -> None:
    assert operated(where).log().count(text) == 1


def assert_shown(where: Path, line: str) -> None:
    result = operated(where).ctl("memreap", "status")
    assert line in result.stdout
    assert (result.returncode, "QUIET" in result.stdout) == (0, True), result.stdout
