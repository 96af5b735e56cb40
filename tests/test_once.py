"""`memreap once`: kidreaper's successor, as cron and people call it."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import psutil
import pytest
from support import stack
from support.driver import POOL, assert_have_served, eventually, pool, supervisord
from support.driver import workers_below as pids
from support.inprocess import memreap
from support.looking import look
from support.reaping import shorten_times

from supervisor_memreap.core import policy
from supervisor_memreap.core.hindrance import Hindrance, Kind
from supervisor_memreap.core.model import Pool, ProcessId, Program, Standing, Worker, WorkerDetail
from supervisor_memreap.core.policy import Candidate, Choice
from supervisor_memreap.core.reasons import OverLimit
from supervisor_memreap.core.settings import REASON_KEYS_TEXT, resolve
from supervisor_memreap.core.state import Cause, Delay, Phase, PoolState, Reap, Suspension, Wait
from supervisor_memreap.host import lock, procfs, reader
from supervisor_memreap.host.thismachine import ThisMachine
from supervisor_memreap.listener import oneshot, statedirectory
from supervisor_memreap.listener.pool import WatchedPool
from supervisor_memreap.listener.statefile import BesideListener, StateFile
from supervisor_memreap.supervisord.configfile import ConfigFile

SETTLE, MIN_AGE = 0.1, 1.0
QUICK = (f"min_age={MIN_AGE:.0f}s", f"settle={SETTLE}s")


def command(*args: object) -> list[str]:
    return [sys.executable, "-m", "supervisor_memreap", "once", *map(str, args)]


@pytest.fixture(autouse=True)
def _saves_here(tmp_path, monkeypatch):
    """One that is ended leaves a file, of the worker that it signalled."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    # On a busy machine a size is not read within half a second, which would be a line as well.
    monkeypatch.setattr(reader, "PATIENCE", 10.0)
    shorten_times(monkeypatch)


def once(*args: object) -> subprocess.CompletedProcess[str]:
    """In this process; a run that is ended, or shares the pool with another one, has its own."""
    return memreap("once", *map(str, args))


def test_every_worker_over_the_limit_is_reaped_one_at_a_time():
    with pool(3, 40) as pid:
        eventually(lambda: assert_have_served(pid, SETTLE))
        before = pids(pid)
        result = once("--pid", pid, "limit=31457280", *QUICK)
        assert (result.returncode, result.stderr) == (0, "")
        after = pids(pid)
        assert not before & after
        assert len(after) == 3
    lines = result.stdout.splitlines()
    assert [" left after " in line for line in lines[:9]] == [False, True, False] * 3
    _assert_each_in_one_line(before, "HUP sent between two requests", lines[:9:3])
    _assert_each_in_one_line(before, " left after ", lines[1:9:3])
    _assert_each_in_one_line(after, " has settled in place of ", lines[2:9:3])
    assert lines[9:] == [f"memreap: pid-{pid}: 3 workers, 3 reaped, none over the limit of 30 MiB"]


def test_the_manager_may_be_given_by_its_pidfile(tmp_path):
    with pool(1, 40) as pid:
        (tmp_path / "myapp.pid").write_text(f"{pid}\n")
        assert once("--pidfile", tmp_path / "myapp.pid", "limit=30MB", *QUICK).returncode == 0
        assert [worker.used for worker in look(pid).workers] == [None]


def test_with_json_each_line_is_an_event():
    with pool(2, 40) as pid:
        eventually(lambda: assert_have_served(pid, MIN_AGE))
        before = pids(pid)
        dry = once("--json", "-n", "--pid", pid, "limit=31457280", *QUICK)
        planned = [json.loads(line) for line in dry.stdout.splitlines()]
        assert [each["event"] for each in planned] == ["planned", "planned", "noted"]
        assert {each["pid"] for each in planned[:2]} == before
        assert planned[0]["evidence"]["limit"] == 31457280
        assert planned[2]["note"] == "2 workers, 2 to replace"
        result = once("--pid", pid, "limit=31457280", *QUICK, "--json")
        assert (result.returncode, result.stderr) == (0, "")
        *events, last = [json.loads(line) for line in result.stdout.splitlines()]
        assert [each["event"] for each in events] == ["reap", "left", "settled"] * 2
        assert (last["pool"], last["message"]) == (f"pid-{pid}", "2 workers, 2 reaped, none over the limit of 30 MiB")


def test_max_age_alone_is_enough_for_a_manager_given_by_its_pid():
    with pool(1, 5) as pid:
        result = once("--pid", pid, "--dry-run", "max_age=6h")
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.endswith(": 1 worker, none to replace\n")


def test_with_no_worker_over_the_limit_cron_has_no_output_to_mail():
    with pool(2, 5) as pid:
        result = once("--pid", pid, "limit=300MB")
        assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


def test_a_dry_run_reports_what_would_be_done_and_does_nothing():
    with pool(2, 40) as pid:
        before = pids(pid)
        eventually(lambda: assert_have_served(pid, MIN_AGE))
        result = once("--pid", pid, "--dry-run", "limit=30MB", *QUICK)
        assert result.returncode == 0
        assert pids(pid) == before
    *lines, summary = result.stdout.splitlines()
    for line in lines:
        assert re.search(r" holds 4\d MiB \(uss\), limit 30 MiB: HUP would be sent$", line)
    _assert_each_in_one_line(before, "HUP would be sent", lines)
    assert summary.endswith(": 2 workers, 2 to replace")


def test_the_signal_of_the_server_is_used_by_default_and_reported_once(tmp_path):
    script = Path(shutil.copy(POOL, tmp_path / "gunicorn"))
    expected = "gunicorn finishes its requests on TERM, so TERM is used (signal= is not set)"
    with pool(2, 40, "term", script=script) as pid:
        eventually(lambda: assert_have_served(pid, MIN_AGE))
        before = pids(pid)
        dry = once("--pid", pid, "--dry-run", "limit=30MB", *QUICK)
        first, *lines, _ = dry.stdout.splitlines()
        assert first == f"memreap: pid-{pid}: {expected}"
        _assert_each_in_one_line(before, "TERM would be sent", lines)
        set_by_hand = once("--pid", pid, "--dry-run", "limit=30MB", "signal=HUP", *QUICK)
        assert (
            "belongs to gunicorn, which drops its request on HUP: nothing sent; set signal=TERM" in set_by_hand.stdout
        )
        assert pids(pid) == before
        result = once("--pid", pid, "limit=30MB", *QUICK)
        assert (result.returncode, result.stderr) == (0, "")
        assert not before & pids(pid)
    assert result.stdout.count(expected) == 1
    _assert_each_in_one_line(
        before, "TERM sent between two requests", [line for line in result.stdout.splitlines() if "sent" in line]
    )


def test_a_dry_run_with_workers_younger_than_min_age_reports_it_and_exits_0():
    with pool(2, 40) as pid:
        before = pids(pid)
        result = once("--pid", pid, "-n", "limit=30MB", "min_age=1h")
        assert (result.returncode, result.stderr) == (0, "")
    *lines, summary = result.stdout.splitlines()
    for line in lines:
        assert re.search(r" holds 4\d MiB \(uss\), limit 30 MiB: it is .* old and would be reaped at", line)
    _assert_each_in_one_line(before, "would be reaped at", lines)
    assert summary.endswith(": 2 workers, 2 to replace")
    assert "suspend" not in result.stdout


def _assert_each_in_one_line(workers: set[int], text: str, lines: list[str]) -> None:
    """There is one line with this text for each worker, and no other line."""
    assert [text in line for line in lines] == [True] * len(workers), lines
    assert [sum(f": worker {pid} " in line for line in lines) for pid in workers] == [1] * len(workers), lines


@pytest.mark.parametrize(
    ("behaviour", "line"),
    [
        ("deaf", "HUP would kill"),
        ("stuck", "nothing more is sent to it"),
        ("falls", "suspended: the manager"),
        ("once", "the pool has not settled since"),
    ],
)
def test_a_worker_that_could_not_be_reaped_is_reported_and_the_exit_status_is_1(behaviour, line):
    with pool(1, 40, behaviour) as pid:
        result = once("--pid", pid, "limit=30MB", "grace=1s", *QUICK)
    assert (result.returncode, result.stdout.count(line)) == (1, 1)


def test_a_limit_below_fresh_workers_reaps_no_worker_and_the_exit_status_is_1():
    with pool(2, 40) as pid:
        before = pids(pid)
        result = once("--pid", pid, "limit=30MB", "min_age=1h", "settle=5s")
        assert pids(pid) == before
    assert result.returncode == 1
    assert "suspended: even a fresh worker holds 4" in result.stdout
    assert "set limit=" in result.stdout


def test_it_waits_while_another_memreap_reaps_in_the_pool():
    with pool(1, 40) as pid:
        held = lock.take(look(pid).manager)
        with subprocess.Popen(
            command("--pid", pid, "limit=30MB", *QUICK), stdout=subprocess.PIPE, text=True
        ) as process:
            assert "another memreap (listener or once) is replacing workers in this pool" in process.stdout.readline()
            assert process.poll() is None
            os.close(held)
            assert process.wait(20) == 0
            assert "HUP sent" in process.stdout.read()


def test_two_runs_at_once_still_reap_one_at_a_time():
    with pool(4, 40) as pid:
        eventually(lambda: assert_have_served(pid, SETTLE))
        before = pids(pid)
        both = [
            subprocess.Popen(command("--pid", pid, "limit=30MB", *QUICK), stdout=subprocess.PIPE, text=True)
            for _ in range(2)
        ]
        fewest = 4
        while any(process.poll() is None for process in both):
            fewest = min(fewest, len(pids(pid)))
            time.sleep(0.01)
        texts = [process.communicate()[0] for process in both]
        assert [process.returncode for process in both] == [0, 0], texts
        assert fewest >= 3
        _assert_each_in_one_line(before, "HUP sent", _lines_with("HUP sent", "".join(texts)))


def _lines_with(text: str, output: str) -> list[str]:
    return [line for line in output.splitlines() if text in line]


def test_where_sigchld_is_ignored_it_still_reaps_one_at_a_time():
    """As inherited from `trap '' CHLD`, or from a job runner in Perl."""
    with pool(5, 40) as pid:
        eventually(lambda: assert_have_served(pid, SETTLE))
        before = pids(pid)
        shell = ["sh", "-c", "trap '' CHLD; exec \"$@\"", "sh", *command("--pid", pid, "limit=30MB", *QUICK)]
        fewest = 5
        with subprocess.Popen(shell, stdout=subprocess.PIPE, text=True) as process:
            while process.poll() is None:
                fewest = min(fewest, len(pids(pid)))
                time.sleep(0.01)
            text = process.stdout.read()
        assert process.returncode == 0, text
        assert fewest >= 4
        assert "failed" not in text
        for event in ("HUP sent", " left after "):
            _assert_each_in_one_line(before, event, _lines_with(event, text))


def test_ctrl_c_ends_it_and_leaves_no_worker_stopped():
    with (
        pool(1, 40, "stuck") as pid,
        subprocess.Popen(command("--pid", pid, "limit=30MB", *QUICK), stdout=subprocess.PIPE, text=True) as process,
    ):
        assert "HUP sent" in process.stdout.readline()
        process.send_signal(signal.SIGINT)
        assert "stopped" in process.stdout.read()
        assert process.wait() == 130
        held = lock.take(look(pid).manager)
        assert held is not None
        os.close(held)


def test_a_worker_signalled_by_an_interrupted_run_is_followed_and_no_other_is_reaped():
    with pool(2, 40, "stuck") as pid:
        eventually(lambda: assert_have_served(pid, SETTLE))
        with subprocess.Popen(command("--pid", pid, "limit=30MB", *QUICK), stdout=subprocess.PIPE, text=True) as first:
            signalled = int(re.search(r"worker (\d+) holds .*HUP sent", first.stdout.readline())[1])
            first.kill()
        with subprocess.Popen(command("--pid", pid, "limit=30MB", *QUICK), stdout=subprocess.PIPE, text=True) as second:
            line = second.stdout.readline()
            assert f"worker {signalled} was signalled by a memreap that has ended" in line
            psutil.Process(signalled).kill()
            lines = [second.stdout.readline() for _ in range(3)]
            assert f"worker {signalled} left" in lines[0]
            assert f"has settled in place of {signalled}" in lines[1]
            assert "HUP sent" in lines[2]
            second.terminate()


def test_if_it_cannot_save_the_state_it_signals_no_worker_and_exits_1(tmp_path):
    (tmp_path / "memreap").touch()
    with pool(2, 40) as pid:
        eventually(lambda: assert_have_served(pid, SETTLE))
        before = pids(pid)
        result = once("--pid", pid, "limit=30MB", *QUICK)
        assert pids(pid) == before
    assert result.returncode == 1
    line, summary = result.stdout.splitlines()
    assert line.startswith(
        "memreap: no worker is signalled, since the state cannot be saved:"
        f" {tmp_path}/memreap is not a directory: remove it, or set XDG_RUNTIME_DIR"
    )
    assert summary.endswith("2 workers, 0 reaped, 2 to replace")


@pytest.mark.parametrize(("busy_for", "waits"), [(59.0, True), (61.0, False)])
def test_it_does_not_wait_for_ever_for_workers_that_are_always_busy(busy_for, waits):
    worker = Worker(ProcessId(11, 1.0), 90.0, 300, WorkerDetail(0, True, "Starman"), serving=True)
    state, machine = PoolState(waits={worker.id: Wait(attempts=9, seconds=busy_for)}), ThisMachine()
    watched = WatchedPool(machine, "myapp", state, (), str, machine.lock)
    there = Pool("myapp", "RUNNING", "", ProcessId(1, 0.0), 90.0, (worker,))
    candidates = (Candidate(worker, OverLimit(300, 150, "uss")),)
    watched.choice = Choice(there, Standing.DUE, state, candidates=candidates, pending=candidates, to_go=1)
    assert oneshot._Waits(machine, print, oneshot._Verdicts()).has_any([watched]) is waits


def test_all_pools_of_the_configuration_are_looked_at(tmp_path):
    programs = "".join(
        f"[program:{name}]\ncommand={sys.executable} {POOL} 1 {mib}\nstopasgroup=true\nkillasgroup=true\n"
        for name, mib in (("web", 40), ("api", 40), ("shop", 20), ("off", 5))
    )
    programs = programs.replace("[program:off]", "[program:off]\nautostart=false")
    sections = (
        "[memreap]\nlimit=30MB\nmin_age=1s\nsettle=1s\n[memreap:web]\n[memreap:api]\nlimit=100MB\n[memreap:off]\n"
    )
    conf = tmp_path / "supervisord.conf"
    with supervisord(tmp_path, programs + sections) as process:
        managers = [psutil.Process(manager.pid) for manager in psutil.Process(process.pid).children()]
        workers = [pids(manager.pid) for manager in managers]

        def replaced() -> list[str]:
            """The pools whose worker is another one than before."""
            names = [manager.environ()["SUPERVISOR_PROCESS_NAME"] for manager in managers]
            return [name for name, manager, before in zip(names, managers, workers) if pids(manager.pid) != before]

        assert once("-c", conf).returncode == 0
        assert replaced() == ["web"]
        workers = [pids(manager.pid) for manager in managers]
        assert once("-c", conf, "shop", "limit=15MB").returncode == 0
        assert replaced() == ["shop"]
        nobody = once("-c", conf, "shpo", "limit=3MB")
        missing = "in supervisord; there are: api, off, shop, web\n"
        assert (nobody.returncode, nobody.stdout) == (1, f"memreap: no program or group 'shpo' {missing}")
        both = once("-c", conf, "-n", "web", "shpo", "limit=3MB")
        assert (both.returncode, both.stdout) == (1, nobody.stdout), "with a typo nothing is done"
        by_age = once("-c", conf, "-n", "shop", "max_age=6h")
        assert (by_age.returncode, by_age.stdout) == (0, "memreap: shop: 1 worker, none to replace\n")
        bare = once("-c", conf, "-n", "shop")
        assert (bare.returncode, "name a program, followed by limit=, max_age=" in bare.stdout) == (1, True)
        conf.write_text(conf.read_text() + "[memreap:wbe]\n")
        section = once("-c", conf)
        assert (section.returncode, section.stdout) == (1, f"memreap: no program or group 'wbe' {missing}")
    gone = once("-c", conf)
    assert gone.returncode == 1
    assert re.fullmatch(r"memreap: supervisord does not answer at unix://.*\n", gone.stderr)


def test_a_name_narrows_the_run_and_keeps_the_settings(tmp_path):
    programs = "".join(
        f"[program:{name}]\ncommand={sys.executable} {POOL} 1 40\nstopasgroup=true\nkillasgroup=true\n"
        for name in ("web", "api")
    )
    sections = "[group:shop]\nprograms=web,api\n[memreap:shop]\nlimit=100MB\nsignal=USR1\nmin_age=1s\n"
    conf = tmp_path / "supervisord.conf"
    with supervisord(tmp_path, programs + sections):
        for name in ("web", "shop:web"):
            result = once("-c", conf, name, "limit=30MB")
            assert result.returncode == 1
            assert "shop:web: USR1 would kill worker" in result.stdout
            assert "shop:api" not in result.stdout


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("stuck", ""),
        ("paused", "paused: nothing is sent until supervisorctl memreap resume paused"),
        (
            "suspended",
            "suspended since .*, nothing is sent until its settings change: its limit is too low; set limit=90MB or",
        ),
    ],
)
def test_the_state_saved_by_the_listener_counts(saved, name, shown):
    result = eventually(lambda: _assert_to_replace(saved.conf, name))
    assert result.returncode == 1
    assert "HUP sent" not in result.stdout
    assert re.search(shown, result.stdout)
    assert shown or not re.search("paused|suspended since", result.stdout)
    dry = once("-n", "-c", saved.conf, name)
    assert dry.returncode == 0
    assert "would be sent" not in dry.stdout


def test_nothing_is_sent_where_what_the_listener_saved_cannot_be_read_and_every_look_of_a_command_reports_it(saved):
    whole = saved.state.read_text()
    saved.state.write_text(whole[:-1])
    try:
        result, looked = once("-c", saved.conf), memreap("status", "-c", str(saved.conf))
    finally:
        saved.state.write_text(whole)
    unread = f"cannot be read, so nothing is sent; .*: {saved.state}: not written by a listener"
    assert (result.returncode, result.stdout) == (1, "")
    assert re.search(unread, result.stderr)
    assert (looked.returncode, bool(re.search(unread, looked.stderr))) == (1, True), looked


def test_a_worker_that_the_listener_signalled_is_waited_for_and_a_long_wait_is_reported(saved):
    worker = saved.workers["leaving"].pid
    with subprocess.Popen(command("-c", saved.conf, "leaving"), stdout=subprocess.PIPE, text=True) as waiting:
        assert f"worker {worker} was signalled and has not left yet" in waiting.stdout.readline()
        psutil.Process(worker).kill()
        assert "HUP sent" not in waiting.stdout.read()
        assert waiting.wait() == 0


class Saved(NamedTuple):
    conf: Path
    workers: dict[str, ProcessId]
    state: Path


@pytest.fixture
def saved(listened, monkeypatch) -> Saved:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(listened.conf.parent))
    return listened


@pytest.fixture(scope="module")
def listened(tmp_path_factory) -> Iterator[Saved]:
    """A supervisord whose pools have a worker over the limit each, and are what their names say in the saved state."""
    where = tmp_path_factory.mktemp("saved")
    names = ("stuck", "leaving", "paused", "suspended")
    text = "[memreap]\nlimit=30MB\nmin_age=1s\nsettle=1s\n" + "".join(
        f"[program:{name}]\ncommand={sys.executable} {POOL} 1 40 stuck\n[memreap:{name}]\n" for name in names
    )
    with supervisord(where, text) as process:
        view = procfs.source()
        managers = {name: stack.Pool(where, 0, name).manager().pid for name in names}
        workers = {name: view.process(*view.children(managers[name])).id for name in names}
        # A Python may take so long to start that a second signal would be due, if that had not been sent.
        signalled = {
            name: Reap(worker, time.monotonic(), frozenset([worker]), phase=Phase.AGAIN)
            for name, worker in workers.items()
        }
        conf = where / "supervisord.conf"
        program = Program("suspended", "suspended", "RUNNING", 1)
        about = view.process(managers["suspended"]).id
        states = {
            "stuck": PoolState(stuck=(signalled["stuck"],)),
            "leaving": PoolState(reap=signalled["leaving"]),
            "paused": PoolState(paused=True),
            "suspended": PoolState(
                settings=resolve(ConfigFile(str(conf)).read().sections).of(program),
                suspended=Suspension(Cause.WRONG_SETTING, about, setting="limit", usable="limit=90MB"),
            ),
        }
        with pytest.MonkeyPatch.context() as patched:
            patched.setenv("XDG_RUNTIME_DIR", str(where))
            file = _listeners_file(view, process.pid)
            assert file.write(states, time.monotonic()) == ""
        yield Saved(conf, workers, Path(file._path))


def test_a_delay_saved_by_the_listener_does_not_end_a_run_before_it_has_tried(tmp_path):
    conf = tmp_path / "supervisord.conf"
    program = f"[program:myapp]\ncommand={sys.executable} {POOL} 1 40\nstopasgroup=true\nkillasgroup=true\n"
    with supervisord(tmp_path, f"{program}[memreap:myapp]\nlimit=30MB\nmin_age=1s\nsettle=1s\n") as process:
        delay = Delay(time.monotonic() - 3600, Hindrance(Kind.BUSY, "none of them was seen between two requests"))
        file = _listeners_file(procfs.source(), process.pid)
        assert file.write({"myapp": PoolState(delay=delay)}, time.monotonic()) == ""
        result = once("-c", conf)
    assert "HUP sent between two requests" in result.stdout
    assert result.returncode == 0


def test_a_pool_that_a_user_pauses_meanwhile_gets_no_more_signals(tmp_path):
    program = f"[program:myapp]\ncommand={sys.executable} {POOL} 4 40\n"
    with supervisord(tmp_path, f"{program}[memreap:myapp]\nlimit=30MB\nmin_age=1s\nsettle=3s\n") as process:
        file = _listeners_file(procfs.source(), process.pid)
        with subprocess.Popen(
            command("-c", tmp_path / "supervisord.conf"), stdout=subprocess.PIPE, text=True
        ) as running:
            first = next(line for line in running.stdout if "HUP sent" in line)
            assert file.write({"myapp": PoolState(paused=True)}, time.monotonic()) == ""
            rest = running.stdout.read()
            assert running.wait() == 1, first + rest
    assert "HUP sent" not in rest
    assert "myapp: paused: nothing is sent until supervisorctl memreap resume myapp" in rest


def _assert_to_replace(conf: Path, name: str) -> subprocess.CompletedProcess:
    """On a busy machine a size may not be read in time."""
    result = once("-c", conf, name)
    assert "1 to replace" in result.stdout, result.stdout
    return result


def _listeners_file(view, supervisord: int) -> StateFile:
    return StateFile(view.process(supervisord).id, statedirectory.candidates(supervisord, None))


def test_a_worker_that_a_killed_listener_may_have_signalled_is_leaving(tmp_path):
    settings = "limit=30MB\nmin_age=1s\nsettle=1s\n"
    text = f"[program:myapp]\ncommand={sys.executable} {POOL} 1 40\n[memreap:myapp]\n{settings}"
    with supervisord(tmp_path, text) as process:
        view = procfs.source()
        (manager,) = (child.pid for child in psutil.Process(process.pid).children() if child.children())
        (worker,) = (view.process(pid).id for pid in view.children(manager))
        # Long enough ago that it is sent at the first look, and far less than `grace`, after which the worker is stuck.
        about = Reap(worker, time.monotonic() - policy.AGAIN, frozenset([worker]), is_sent=False)
        file, above = _listeners_file(view, process.pid), view.process(manager).id
        assert file.write({"myapp": PoolState(manager=above, reap=about)}, time.monotonic()) == ""
        programs = [Program("myapp", "myapp", "RUNNING", manager, process.pid)]
        assert BesideListener(programs, None).known(time.monotonic())["myapp"].leaving == about
        held = lock.take(above)  # a listener that is at it
        assert BesideListener(programs, None).known(time.monotonic())["myapp"].leaving is None
        os.close(held)
        _assert_group_lock_shows_the_leaving_worker(file, above, about, programs)
        result = once("-c", tmp_path / "supervisord.conf")
        assert result.returncode == 0
        _assert_each_in_one_line({worker.pid}, "HUP sent", _lines_with("HUP sent", result.stdout))
        assert not psutil.pid_exists(worker.pid)
        assert "memreap was killed before it could signal it; HUP sent" in result.stdout


def _assert_group_lock_shows_the_leaving_worker(file, above, about, programs) -> None:
    """With target=self: a listener that runs has the lock of supervisord itself all the time."""
    of_group = PoolState(manager=above, reap=replace(about, slot="myapp"))
    assert file.write({"myapp": of_group}, time.monotonic()) == ""
    held = lock.take(above)
    assert BesideListener(programs, None).known(time.monotonic())["myapp"].leaving == of_group.leaving
    os.close(held)
    held = lock.take_file(above)
    assert BesideListener(programs, None).known(time.monotonic())["myapp"].leaving is None
    os.close(held)
    assert file.write({"myapp": PoolState(manager=above, reap=about)}, time.monotonic()) == ""


def test_a_stale_pidfile_is_refused(tmp_path):
    with pool(1, 40) as pid:
        (tmp_path / "old.pid").write_text(str(pid))
        os.utime(tmp_path / "old.pid", (time.time() - 3600, time.time() - 3600))
        result = once("--pidfile", tmp_path / "old.pid", "limit=30MB", *QUICK)
        assert result.returncode == 2
        assert f"process {pid} is younger than the pidfile" in result.stderr


@pytest.mark.parametrize(
    ("args", "line"),
    [
        (
            ["--pid", "1"],
            f"command line: no {REASON_KEYS_TEXT}; add one, such as",
        ),
        (["--pid", "x"], "memreap once: argument --pid: invalid int value: 'x' (see memreap once --help)"),
        (["--pid", "1", "limit=1 monkey"], "command line limit=1 monkey: not a size, such as 150MB"),
        (["--pid", "1", "limt=1MB", "limit=1MB"], "command line limt=1MB: unknown key; did you mean limit?"),
        (["--pid", str(os.getppid()), "limit=10MB"], "memreap itself runs under process"),
        (
            ["--pid", "1", "myapp", "limit=10MB"],
            "command line: --pid and --pidfile take only settings, such as limit=100MB, and not myapp",
        ),
        (
            ["--pid", "1", "limit=10MB", "-c", "/dev/null"],
            "command line: --pid and --pidfile take only settings, such as limit=100MB, and no -c",
        ),
        (["--pidfile", "/nowhere", "limit=10MB"], "/nowhere: cannot be read: No such file or directory"),
        (["--pidfile", "/dev/null", "limit=10MB"], "/dev/null: contains '', not a pid"),
        (["-c", "/nowhere"], "/nowhere: cannot be read: No such file or directory"),
        (["-c", "/dev/null"], f"/dev/null: no [memreap:PROGRAM] section; add one with observe=yes, {REASON_KEYS_TEXT}"),
        (["--colour"], "memreap: unrecognized arguments: --colour"),
    ],
)
def test_bad_usage_is_reported_in_one_line_and_exits_2(args, line):
    result = once(*args)
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.count("\n") == 1
    assert line in result.stderr


def test_a_missing_manager_exits_1():
    with subprocess.Popen(["true"]) as process:
        process.wait()
    result = once("--pid", process.pid, "limit=10MB")
    assert (result.returncode, result.stderr) == (1, f"memreap: there is no process {process.pid}\n")


def test_a_closed_stdout_does_not_end_a_reap():
    with pool(1, 40) as pid:
        before = pids(pid)
        process = subprocess.Popen(command("--pid", pid, "limit=30MB", *QUICK), stdout=subprocess.PIPE)
        process.stdout.close()
        assert process.wait(60) == 0
        assert not before & pids(pid)


def test_with_stdin_closed_workers_are_still_measured():
    with pool(2, 40) as manager:
        words = [sys.executable, "-m", "supervisor_memreap", "once", "-n", "--pid", str(manager), "limit=30MB"]
        result = subprocess.run(["sh", "-c", '"$@" <&-', "sh", *words], capture_output=True, text=True, check=False)
        assert "2 to replace" in result.stdout
