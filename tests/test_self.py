"""target=self: what supervisord runs is itself the worker, and its group is the pool."""

from __future__ import annotations

import re
import subprocess
import sys
import threading
from pathlib import Path

from support import stack
from support.driver import POOL, assert_matches, eventually, listening_in, supervisord, until
from support.stack import INTERFACE, PLUGIN

LIMIT_MB = 100
LISTENER = (
    f"{INTERFACE}{PLUGIN}[eventlistener:memreap]\ncommand={Path(sys.executable).parent}/memreap listen\nevents=TICK_5\n"
)


def group(where: Path, name: str = "myapp", more: str = "autorestart=true\n", processes: int = 3) -> str:
    """A bare libfcgi worker in each of its processes: without a manager Plack serves what descriptor 0 is."""
    return (
        f"[fcgi-program:{name}]\nsocket=unix://{where}/{name}.sock\nsocket_mode=0777\n"
        f"command=plackup -E deployment -s FCGI --manager '' --keep-stderr 1 {stack.APPS}/leaky.psgi\n"
        f"numprocs={processes}\nprocess_name=%(program_name)s_%(process_num)02d\nstopwaitsecs=70\n{more}"
    )


def watched(name: str = "myapp", more: str = "signal=TERM\n") -> str:
    return f"[memreap:{name}]\nlimit={LIMIT_MB}MB\nmin_age=1s\nsettle=1s\ntarget=self\n{more}"


def memreap(where: Path) -> str:
    return f'{LISTENER}stderr_logfile={where}/memreap.log\nenvironment=TMPDIR="{where}"\n{stack.recorder(where)}'


def processes(where: Path) -> set[int]:
    return {process.pid for process in stack.left_in(where, words="plackup")}


def test_of_a_group_only_the_process_that_grows_is_replaced_and_no_request_is_lost(sock):
    """And stopping the group by hand afterwards, before its settle has passed, is not a lost manager."""
    where = sock.parent
    text = group(where) + watched().replace("settle=1s", "settle=1h") + memreap(where)
    with stack.running(text, "myapp", where) as pool:
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
            until(lambda: len(processes(where)), 3)
            until(lambda: len(answered) > 10)
        finally:
            stop.set()
            thread.join()
        reap, left = stack.announced(where)
        assert reap["pid"] == left["pid"] == grown
        assert "TERM sent between two requests" in reap["message"]
        assert "watching myapp (limit 100 MiB uss)" in pool.log()
        assert (before - processes(where), lost) == ({grown}, [])
        stack.control(where).stopProcessGroup("myapp")
        # The listener has looked since: its status has the new state.
        until(lambda: [pool["state"] for pool in stack.rpc(where).memreap.getPools()], ["STOPPED"])
        assert "suspended" not in pool.log()
        stack.assert_in_turn(where, 1)


def test_two_processes_that_grow_are_replaced_one_after_the_other(sock):
    """In a group with a section for each process."""
    where = sock.parent
    text = group(where, "each") + "".join(watched(f"each_0{number}") for number in range(3)) + memreap(where)
    with stack.running(text, "each", where) as pool:
        grown = pool.grow(2, LIMIT_MB + 50)
        eventually(lambda: stack.assert_in_turn(where, 2))
        assert {event["pid"] for event in stack.announced(where)} == grown


# More in the section of the program, and in that of its pool; the line.
REFUSED = {
    "deaf": (
        "autorestart=true\n",
        "",
        r"HUP would kill worker \d+ \(no handler\): .* \(FastCGI without a manager: TERM\)",
    ),
    "never": ("", "signal=TERM\n", "supervisord must restart the process .* set autorestart=true"),
    "unexpected": ("autorestart=unexpected\nexitcodes=0,2\n", "signal=TERM\n", "set autorestart=true"),
}


def test_nothing_is_sent_if_it_would_end_a_request_or_the_program(sock):
    """The signal is not caught; supervisord would not start the process again, by default or after status 0."""
    where = sock.parent
    text = "".join(group(where, name, more, 2) + watched(name, own) for name, (more, own, _) in REFUSED.items())
    with stack.running(text + memreap(where), "never", where) as pool:
        nothing_is_sent(pool, {name: line for name, (*_, line) in REFUSED.items()})


def test_nothing_is_sent_if_supervisord_cannot_say_whether_it_restarts_the_process(sock):
    where = sock.parent
    text = group(where) + watched() + memreap(where).replace(INTERFACE, "")
    with stack.running(text, "myapp", where) as pool:
        nothing_is_sent(pool, {"myapp": "must report whether it restarts the process .*: memreap doctor shows"})


def nothing_is_sent(pool: stack.Pool, lines: dict[str, str]) -> None:
    where = pool.directory
    before = processes(where)
    for name, line in lines.items():
        pool.another(name).grow(1, LIMIT_MB + 50)
        eventually(lambda name=name, line=line: assert_matches(f" {name}: .*{line}", pool.log()))
    assert not re.search("(?<!nothing) sent", pool.log())
    assert stack.announced(where) == []
    assert processes(where) == before


def test_the_settings_supervisord_runs_with_count_not_the_changed_file(sock):
    where = sock.parent
    with stack.running(group(where, more="") + watched() + memreap(where), "myapp", where) as pool:
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
        command = [sys.executable, "-m", "supervisor.supervisorctl", "-c", str(conf), "update", "myapp"]
        subprocess.run(command, check=True, capture_output=True)
        until(lambda: len(processes(where) - before), 3)
        (grown,) = pool.grow(1, LIMIT_MB + 50)
        eventually(lambda: stack.assert_in_turn(where, 1))
        assert {event["pid"] for event in stack.announced(where)} == {grown}


def test_a_manager_is_not_taken_for_a_worker_with_a_wrong_target_self(tmp_path):
    """And an exit status that counts as unexpected works like autorestart."""
    ways = {"myapp": "autorestart=true\n", "again": "autorestart=unexpected\nexitcodes=2\n"}
    text = INTERFACE + "".join(
        f"[program:{name}]\ncommand={sys.executable} {POOL} 2 5\n{way}"
        f"[memreap:{name}]\nlimit=1MB\nmetric=rss\nmin_age=1s\ntarget=self\n"
        for name, way in ways.items()
    )
    with supervisord(tmp_path, text), listening_in(tmp_path) as listener:
        for name in ways:
            manager = stack.Pool(tmp_path, 0, name).manager()
            line = f"{name}: worker {manager.pid} has children of its own and may be a manager"
            listener.until(line)
            assert len(manager.children()) == 2
        assert "not watched" not in listener.text()
        assert "sent" not in listener.text().replace("nothing sent", "")
