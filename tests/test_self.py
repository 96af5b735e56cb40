"""target=self: what supervisord runs is itself the worker, and its group is the pool."""

from __future__ import annotations

import re
import subprocess
import sys
import threading
from pathlib import Path

import psutil
import pytest
from support import stack
from support.driver import POOL, assert_matches, eventually, listening, supervisord
from support.stack import INTERFACE, PLUGIN

LIMIT_MB = 100
LISTENER = (
    f"{INTERFACE}{PLUGIN}[eventlistener:memreap]\ncommand={Path(sys.executable).parent}/memreap listen\nevents=TICK_5\n"
)


def bare(where: Path, section: str, names: tuple[str, ...] = ("myapp",)) -> str:
    """A bare libfcgi worker in each of three processes: without a manager Plack serves what descriptor 0 is."""
    pools = "".join(
        f"[memreap:{name}]\nlimit={LIMIT_MB}MB\nmin_age=1s\nsettle=1s\ntarget=self\n{section}" for name in names
    )
    return (
        f"[fcgi-program:myapp]\nsocket=unix://{where}/myapp.sock\nsocket_mode=0777\n"
        f"command=plackup -E deployment -s FCGI --manager '' --keep-stderr 1 {stack.APPS}/leaky.psgi\n"
        f"numprocs=3\nprocess_name=%(program_name)s_%(process_num)02d\nautorestart=true\nstopwaitsecs=70\n"
        f'{pools}{LISTENER}stderr_logfile={where}/memreap.log\nenvironment=TMPDIR="{where}"\n{stack.recorder(where)}'
    )


def processes(where: Path) -> set[int]:
    return {process.pid for process in stack.left_in(where, words="plackup")}


def test_of_a_group_only_the_process_that_grows_is_replaced_and_no_request_is_lost(sock):
    where = sock.parent
    with stack.running(bare(where, "signal=TERM\n"), "myapp", where) as pool:
        lost, answered, stop = [], [], threading.Event()

        def ask() -> None:
            while not stop.wait(0.01):
                try:
                    answered.append(pool.ask()[0])
                except OSError as error:
                    lost.append(str(error))

        before = processes(where)
        assert len(before) == 3
        (grown,) = pool.grow(1, LIMIT_MB + 50)
        thread = threading.Thread(target=ask)
        thread.start()
        try:
            eventually(lambda: stack.assert_in_turn(where, 1))
            eventually(lambda: assert_matches("3", str(len(processes(where)))))
        finally:
            stop.set()
            thread.join()
        reap, left = stack.announced(where)
        assert reap["pid"] == left["pid"] == grown
        assert "TERM sent between two requests" in reap["message"]
        assert "watching myapp (limit 100 MiB uss)" in pool.log()
        assert (before - processes(where), lost) == ({grown}, [])
        assert len(answered) > 10


@pytest.mark.parametrize(
    "names", [("myapp",), ("myapp_00", "myapp_01", "myapp_02")], ids=["one section", "a section for each"]
)
def test_two_processes_that_grow_are_replaced_one_after_the_other(sock, names):
    where = sock.parent
    with stack.running(bare(where, "signal=TERM\n", names), "myapp", where) as pool:
        grown = pool.grow(2, LIMIT_MB + 50)
        eventually(lambda: stack.assert_in_turn(where, 2))
        assert {event["pid"] for event in stack.announced(where)} == grown


def test_stopping_a_group_by_hand_while_a_worker_leaves_is_not_a_lost_manager(sock):
    where = sock.parent
    with stack.running(bare(where, "signal=TERM\nsettle=1h\n"), "myapp", where) as pool:
        pool.grow(1, LIMIT_MB + 50)
        eventually(lambda: stack.assert_in_turn(where, 1))
        assert control(where, "stop", "myapp:*") == 0
        # The listener has looked since: it accepts commands for a pool that it watches, and reports its state.
        eventually(lambda: assert_matches("myapp +STOPPED", asked(where, "status")))
        assert "suspended" not in pool.log()
        stack.assert_in_turn(where, 1)


def control(where: Path, *words: str) -> int:
    command = [sys.executable, "-m", "supervisor.supervisorctl", "-c", f"{where}/supervisord.conf"]
    return subprocess.run([*command, *words], capture_output=True, check=False).returncode


def asked(where: Path, *words: str) -> str:
    command = [sys.executable, "-m", "supervisor.supervisorctl", "-c", f"{where}/supervisord.conf", "memreap"]
    return subprocess.run([*command, *words], capture_output=True, text=True, check=False).stdout


@pytest.mark.parametrize(
    ("section", "old", "new", "line"),
    [
        (
            "",
            "",
            "",
            r"HUP would kill worker \d+ \(no handler\): .* \(FastCGI without a manager: TERM\)",
        ),
        ("signal=TERM\n", "autorestart=true\n", "", "supervisord must restart the process .* set autorestart=true"),
        ("signal=TERM\n", "autorestart=true", "autorestart=unexpected\nexitcodes=0,2", "set autorestart=true"),
        ("signal=TERM\n", INTERFACE, "", r"must report whether it restarts the process .*: memreap doctor shows"),
    ],
    ids=["the signal is not caught", "not started again, by default", "not started again after 0", "unknown"],
)
def test_nothing_is_sent_if_it_would_end_a_request_or_the_program(sock, section, old, new, line):
    where = sock.parent
    text = bare(where, section)
    assert old in text
    text = text.replace(old, new, 1) if old else text
    with stack.running(text, "myapp", where) as pool:
        before = processes(where)
        pool.grow(1, LIMIT_MB + 50)
        eventually(lambda: assert_matches(line, pool.log()))
        assert not re.search("(?<!nothing) sent", pool.log())
        assert stack.announced(where) == []
        assert processes(where) == before


def test_the_settings_supervisord_runs_with_count_not_the_changed_file(sock):
    where = sock.parent
    text = bare(where, "signal=TERM\n").replace("autorestart=true\n", "")
    with stack.running(text, "myapp", where) as pool:
        before = processes(where)
        pool.grow(1, LIMIT_MB + 50)
        eventually(
            lambda: assert_matches("set autorestart=true in its section, then run supervisorctl update", pool.log())
        )
        conf = where / "supervisord.conf"
        conf.write_text(conf.read_text().replace("numprocs=3\n", "numprocs=3\nautorestart=true\n"))
        # Changed settings are applied, and what was reported once is reported again.
        conf.write_text(conf.read_text().replace("settle=1s", "settle=2s"))
        eventually(lambda: assert_matches("(supervisord must restart the process(?s:.*)){2}", pool.log()))
        assert processes(where) == before
        assert control(where, "update", "myapp") == 0
        eventually(lambda: assert_matches(r"3", str(len(processes(where) - before))))
        (grown,) = pool.grow(1, LIMIT_MB + 50)
        eventually(lambda: stack.assert_in_turn(where, 1))
        assert {event["pid"] for event in stack.announced(where)} == {grown}


def test_an_exit_status_that_counts_as_unexpected_works_like_autorestart(tmp_path):
    with watched(tmp_path, "autorestart=unexpected\nexitcodes=2\n") as listener:
        assert "watching" in listener.text()
        assert "not watched" not in listener.text()


def test_a_manager_is_not_taken_for_a_worker_with_a_wrong_target_self(tmp_path):
    with watched(tmp_path, "autorestart=true\n") as listener:
        (manager,) = stack.left_in(tmp_path, words="pool.py", children=2)
        eventually(
            lambda: assert_logged(listener, f"worker {manager.pid} has children of its own and may be a manager")
        )
        assert "sent" not in listener.text().replace("nothing sent", "")
        assert len(manager.children()) == 2
        assert psutil.pid_exists(manager.pid)


def assert_logged(listener, text: str) -> None:
    listener.tick()
    assert text in listener.text()


class watched:
    """A listener of a supervisord that runs a pool with a manager, and calls that a worker."""

    def __init__(self, where: Path, options: str):
        text = (
            f"{INTERFACE}[program:myapp]\ncommand={sys.executable} {POOL} 2 5\n{options}"
            "[memreap:myapp]\nlimit=1MB\nmetric=rss\nmin_age=1s\ntarget=self\n"
        )
        environment = {"SUPERVISOR_SERVER_URL": f"unix://{where}/s.sock"}
        self._supervisord = supervisord(where, text)
        self._listening = listening("-c", f"{where}/supervisord.conf", log=where / "l.log", **environment)

    def __enter__(self):
        self._supervisord.__enter__()
        try:
            listener = self._listening.__enter__()
            listener.tick()
        except BaseException:
            self._supervisord.__exit__(*sys.exc_info())
            raise
        return listener

    def __exit__(self, *error):
        try:
            self._listening.__exit__(*error)
        finally:
            self._supervisord.__exit__(*error)
