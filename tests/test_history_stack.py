"""The history and observe=yes on a real supervisord: recorded beside its log, and continued after a restart."""

from __future__ import annotations

import json
import re
import socket
import subprocess
from pathlib import Path

from support.doctor import assert_found, doctor, running
from support.driver import assert_matches, eventually, until
from support.operated import Operated, assert_logged, assert_status
from support.sections import BIN, INTERFACES, listener, program

from supervisor_memreap.history import historyfile

TEXT = (
    program("myapp", 3, 40) + "[memreap]\nmin_age=1s\nsettle=1s\n[memreap:myapp]\nlimit=1GB\n" + listener() + INTERFACES
)


# A worker whose size could not be read in time, on a busy machine, is recorded a minute later.
RECORDED_WITHIN = 100


def assert_recorded(where: Path, reaps: int = 0, pools: int = 1) -> None:
    try:
        histories = historyfile.load(f"{where}/memreap.sqlite")
    except historyfile.HistoryError as error:
        raise AssertionError(str(error)) from None
    assert len(histories) == pools
    for history in histories:
        assert len(history.workers) >= 3
        assert history.readings[-1].workers == 3
        assert history.reaps >= reaps


def assert_reaps(where: Path, count: int) -> None:
    (pool,) = Operated.of(where).rpc().memreap.getPools()
    assert pool.get("reaps") == count, (pool, Operated.of(where).log()[-1000:])


def assert_continued(where: Path, before: dict, shown: list) -> dict:
    (after,) = Operated.of(where).rpc().memreap.getPools()
    shown.append(after.get("reaps"))
    assert after["since"] > before["since"], "it is still the answer of the previous listener"
    for key in ("reaps", "given_back_bytes"):
        assert after.get(key) == before[key]
    return after


def test_it_is_beside_the_log_of_supervisord_and_the_counters_continue_after_a_restart(where):
    with running(where, TEXT):
        eventually(lambda: assert_recorded(where), timeout=RECORDED_WITHIN)
        for count in (1, 2):
            assert Operated.of(where).ctl("memreap", "reap", "myapp").returncode == 0
            eventually(lambda count=count: assert_reaps(where, count))
            eventually(lambda count=count: assert_recorded(where, count))
            (before,) = Operated.of(where).rpc().memreap.getPools()
            assert Operated.of(where).ctl("restart", "memreap").returncode == 0
            shown = []
            after = eventually(lambda before=before, shown=shown: assert_continued(where, before, shown))
            assert set(shown) <= {None, count}, "never that nothing has been counted"
        assert after["counted_since"] == before["counted_since"]
        assert "\nReaps are counted since " in Operated.of(where).ctl("memreap", "status").stdout
        (history,) = historyfile.load(f"{where}/memreap.sqlite")
        assert [event.name for event in history.events if event.name in ("Signalled", "Left")] == [
            "Signalled",
            "Left",
        ] * 2
        killed = Operated.of(where).listener()
        (child,) = (each for each in killed.children() if each.name() == "memreap history")
        killed.kill()
        until(child.is_running, False)
        eventually(lambda: assert_reaps(where, 2))
        assert "internal error" not in Operated.of(where).log()


def test_observed_pools_are_recorded_reported_and_never_signalled_with_and_without_a_limit(where):
    """The first step of the README for a new user; here with a limit that every worker is over."""
    text = TEXT.replace("limit=1GB\n", "limit=10MB\nobserve=yes\n[memreap:unlimited]\nobserve=yes\n")
    observed = Operated.of(where)
    with running(where, text + program("unlimited", 3, 5)):
        eventually(lambda: assert_recorded(where, pools=2), timeout=RECORDED_WITHIN)
        eventually(lambda: assert_logged(observed, "it would be replaced now; nothing sent (observe=yes)", 3))
        assert_logged(observed, "watching myapp (only observed, limit 10 MiB uss), unlimited (only observed)")
        workers = observed.workers()
        eventually(lambda: assert_status(observed, r"myapp +OBSERVED +10 MiB uss +3 (?s:.*)unlimited +OBSERVED"))
        assert observed.ctl("memreap", "status").returncode == 0
        refused = observed.ctl("memreap", "roll", "myapp")
        assert (refused.returncode, "myapp is only observed (observe=yes)" in refused.stdout) == (1, True)
        once = subprocess.run(
            [BIN / "memreap", "once", "-c", observed.conf], capture_output=True, text=True, check=False
        )
        assert once.returncode == 0, once.stdout + once.stderr
        assert "myapp: it is only observed (observe=yes): nothing is sent" in once.stdout
        assert observed.workers() == workers
        assert "HUP sent" not in observed.log()
        (history,) = (each for each in historyfile.load(f"{where}/memreap.sqlite") if each.events)
        assert [event.name for event in history.events if event.pid] == ["WouldReap"] * 3


def test_recording_and_export_problems_are_shown_by_every_view_although_the_pool_is_well(where):
    """Another process has the port, and the directory of the history is missing."""
    operated = Operated.of(where)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        settings = f"[memreap]\nhistory=WHERE/no/history.sqlite\nmetrics=127.0.0.1:{port}\n"
        with running(where, TEXT.replace("[memreap]\n", settings)):
            for line in ("memreap: history: ", f"memreap: metrics: cannot listen on 127.0.0.1:{port}: "):
                eventually(lambda line=line: assert_status(operated, f"myapp +QUIET(?s:.*){line}"))
            shown = operated.ctl("memreap", "status", "--json")
            warning = json.loads(shown.stdout)["warning"]
            assert (shown.returncode, "history: " in warning, "metrics: " in warning) == (0, True, True)
            command = [f"{BIN}/memreap", "status", "-c", str(operated.conf)]
            own = subprocess.run(command, capture_output=True, text=True, check=False)
            lines = re.findall(r"(?m)^memreap: (\w+): ", own.stderr)
            assert (own.returncode, sorted(lines)) == (0, ["history", "metrics"]), own.stdout + own.stderr
            eventually(lambda: assert_found(where, rf"metrics: note: cannot listen on 127.0.0.1:{port}: ", 0))
            # Of the two lines about the history, the one with the remedy.
            (line,) = (line for line in doctor(where).stdout.splitlines() if "history:" in line)
            assert_matches(f"history: note: .*there is no directory {where}/no", line)
