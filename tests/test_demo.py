"""`memreap demo`: it shows the main job anywhere, and leaves nothing behind."""

from __future__ import annotations

import os
import platform
import pty
import re
import select
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from driver import eventually, workers_below

from supervisor_memreap.demo import fastcgi

# The number of accept(2), as /proc/PID/syscall tells it.
ACCEPT = "202 " if platform.machine() == "aarch64" else "43 "
DEMO = [sys.executable, "-m", "supervisor_memreap", "demo"]


def left_of(folder) -> list[str]:
    """What still runs of a demo in that folder."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("TMPDIR") == str(folder):
                found.append(" ".join(process.cmdline()))
        except psutil.Error:
            pass  # it has ended, or is another user's
    return found


def assert_nothing_is_left(folder) -> None:
    assert left_of(folder) == []
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("kind", ["python", "perl"])
def test_workers_are_reaped_no_request_is_lost_and_nothing_is_left(tmp_path, kind):
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    result = subprocess.run(
        [*DEMO, "--seconds", "30", "--pool", kind], env=environment, capture_output=True, text=True, check=False
    )
    assert (result.returncode, result.stderr) == (0, "")
    closing = result.stdout.splitlines()[-1]
    numbers = re.fullmatch(r"(\d+) workers? reaped, ([\d,]+) requests answered, 0 requests lost", closing)
    assert int(numbers[1]) >= 1
    assert int(numbers[2].replace(",", "")) > 800
    assert result.stdout.count("HUP sent") >= int(numbers[1])
    assert_nothing_is_left(tmp_path)


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_ends_it_at_once_and_nothing_is_left(tmp_path, signum):
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    with subprocess.Popen([*DEMO, "--pool", "python"], env=environment, stdout=subprocess.PIPE, text=True) as process:
        while "workers hold" not in process.stdout.readline():
            assert process.poll() is None
        process.send_signal(signum)
        assert "0 requests lost" in process.stdout.read()
        assert process.wait(20) == 0
    assert_nothing_is_left(tmp_path)


def test_a_temporary_folder_with_a_percent_sign_is_no_obstacle(tmp_path):
    (tmp_path / "50%s").mkdir()
    environment = {**os.environ, "TMPDIR": str(tmp_path / "50%s")}
    with subprocess.Popen([*DEMO, "--pool", "python"], env=environment, stdout=subprocess.PIPE, text=True) as process:
        while "workers hold" not in process.stdout.readline():
            assert process.poll() is None
        process.terminate()
        assert "0 requests lost" in process.stdout.read()
    assert_nothing_is_left(tmp_path / "50%s")


def test_a_demo_that_is_killed_leaves_no_process(tmp_path):
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    with subprocess.Popen([*DEMO, "--pool", "python"], env=environment, stdout=subprocess.PIPE, text=True) as process:
        while "workers hold" not in process.stdout.readline():
            assert process.poll() is None
        process.kill()

    def gone():
        assert left_of(tmp_path) == []

    eventually(gone, timeout=20)


def test_a_terminal_gets_a_table_that_is_drawn_over_itself(tmp_path):
    ours, theirs = pty.openpty()
    environment = {**os.environ, "TMPDIR": str(tmp_path), "COLUMNS": "80", "LINES": "24", "PYTHONIOENCODING": "utf-8"}
    with subprocess.Popen([*DEMO, "--pool", "python", "--seconds", "10"], env=environment, stdout=theirs) as process:
        os.close(theirs)
        text, deadline = "", time.monotonic() + 40
        while select.select([ours], [], [], max(0, deadline - time.monotonic()))[0]:
            try:
                text += os.read(ours, 65536).decode()
            except OSError:
                break  # the other end is closed
        assert process.wait(20) == 0
    os.close(ours)
    assert "limit 40 MB" in text
    assert "░" in text
    assert len(re.findall(r"\033\[\d+A\033\[J", text)) > 5
    assert_nothing_is_left(tmp_path)


@pytest.mark.parametrize(
    ("args", "line"),
    [
        (["--seconds", "1"], "argument --seconds: 1: not a number of seconds from 10 to 86400"),
        (["--workers", "x"], "argument --workers: x: not a number of workers from 1 to 20"),
        (["--pool", "ruby"], "argument --pool: invalid choice: 'ruby'"),
    ],
)
def test_bad_usage_is_one_clear_line(args, line):
    result = subprocess.run([*DEMO, *args], capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout, result.stderr.count("\n")) == (2, "", 1)
    assert line in result.stderr


@pytest.fixture
def pool(tmp_path):
    """The small pool with two workers: its process and its socket."""
    path = str(tmp_path / "pool.sock")
    command = [sys.executable, "-m", "supervisor_memreap.demo.pool", path, "2"]
    with subprocess.Popen(command) as process:
        eventually(lambda: _assert_workers(process, 2))
        yield process, path
        process.terminate()


def _assert_workers(process, count, without=()) -> None:
    workers = workers_below(process.pid)
    assert len(workers) == count
    assert not workers & set(without)


def test_an_idle_worker_of_the_small_pool_leaves_at_hup_and_is_replaced(pool):
    process, path = pool
    assert fastcgi.get(path).endswith(b"ok")
    worker = min(workers_below(process.pid))
    os.kill(worker, signal.SIGHUP)
    eventually(lambda: _assert_workers(process, 2, without=[worker]))
    assert fastcgi.get(path).endswith(b"ok")


def test_no_worker_of_the_small_pool_outlives_its_manager(pool):
    process, _path = pool
    workers = workers_below(process.pid)
    process.kill()
    eventually(lambda: _all_gone(workers))


def _all_gone(pids) -> None:
    assert not [pid for pid in pids if psutil.pid_exists(pid)]


def test_a_worker_that_does_not_hear_the_end_of_the_pool_is_ended(pool):
    process, _path = pool
    workers = workers_below(process.pid)
    os.kill(min(workers), signal.SIGSTOP)
    process.terminate()
    assert process.wait(20) == 0
    eventually(lambda: _all_gone(workers))


def test_a_busy_worker_of_the_small_pool_finishes_its_request_first(pool):
    process, path = pool
    before = workers_below(process.pid)
    eventually(lambda: _all_in_accept(before))
    idle = {pid: _descriptors(pid) for pid in before}
    with socket.socket(socket.AF_UNIX) as half:
        half.connect(path)  # a request that is taken, and not there yet
        busy = eventually(lambda: _the_one_with_a_connection(idle))
        os.kill(busy, signal.SIGHUP)
        assert fastcgi.get(path).endswith(b"ok")
        assert busy in workers_below(process.pid)
        half.sendall(fastcgi.request())
        assert half.recv(4096)
    eventually(lambda: _assert_workers(process, 2, without=[busy]))


def _all_in_accept(workers) -> None:
    assert all(Path(f"/proc/{pid}/syscall").read_text().startswith(ACCEPT) for pid in workers)


def _descriptors(pid) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


def _the_one_with_a_connection(idle) -> int:
    # Not by its system call: the kernel may wake another one too, which finds nothing and goes back to accept.
    busy = [pid for pid, descriptors in idle.items() if _descriptors(pid) > descriptors]
    assert len(busy) == 1
    return busy[0]


def test_an_answer_that_is_cut_short_is_an_error(tmp_path):
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "s"))
        server.listen()
        client = subprocess.Popen(
            [
                sys.executable,
                "-c",
                f"from supervisor_memreap.demo import fastcgi; fastcgi.get({str(tmp_path / 's')!r})",
            ],
            stderr=subprocess.PIPE,
            text=True,
        )
        connection, _ = server.accept()
        connection.recv(4096)
        connection.sendall(b"\x01\x06\x00\x01\x00\x20\x00\x00half")
        connection.close()
        assert "cut in the middle of an answer" in client.communicate()[1]
