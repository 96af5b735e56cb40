"""`memreap demo`: it shows the main job anywhere, and leaves nothing behind."""

from __future__ import annotations

import fcntl
import json
import os
import platform
import pty
import random
import re
import select
import shutil
import signal
import socket
import struct
import subprocess
import sys
import termios
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest
from support import needs, stack
from support.driver import eventually, until, workers_below
from support.inprocess import memreap

from supervisor_memreap.core import events
from supervisor_memreap.core.model import Pool, ProcessId, SentMoment
from supervisor_memreap.core.reasons import OverLimit
from supervisor_memreap.core.text import MIB
from supervisor_memreap.demo import fastcgi
from supervisor_memreap.demo.progress import Tally
from supervisor_memreap.outputs import fields

# The number of accept(2), as /proc/PID/syscall shows it.
ACCEPT = "202 " if platform.machine() == "aarch64" else "43 "
DEMO = [sys.executable, "-m", "supervisor_memreap", "demo"]
SIGNALS = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT]
KINDS = ["python", "perl"]


@pytest.fixture
def place():
    """A directory with a short path: for a long one, the demo would use /tmp itself."""
    path = stack.directory()
    yield path
    shutil.rmtree(path)


class Demo:
    """A running demo, with its own temporary directory; `words` are its arguments."""

    def __init__(self, directory: Path, *words: str, stdout=subprocess.PIPE, preexec_fn=None, **environment: str):
        if "perl" in words:
            needs.skip_without("FCGI::ProcManager")
        self.directory = directory
        directory.mkdir(exist_ok=True)
        self.process = subprocess.Popen(
            [*DEMO, *words],
            env={**os.environ, "TMPDIR": str(directory), **environment},
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            preexec_fn=preexec_fn,
        )

    def until(self, text: str) -> None:
        for line in self.process.stdout:
            if text in line:
                return
        pytest.fail(f"it ended without {text!r}: {self.process.stderr.read()}")

    def closes(self) -> list[str]:
        """Its output from now on; afterwards it has left nothing behind."""
        with self.process:
            output, errors = self.process.communicate(timeout=30)
        assert errors == ""
        self.assert_nothing_is_left()
        return output.splitlines()

    def assert_nothing_is_left(self) -> None:
        # At once: what is there for a moment after its end is left.
        assert (self.running(), list(self.directory.iterdir())) == ([], [])

    def running(self) -> list[tuple[int, str]]:
        """Its processes: each has its directory as its own, or in its environment, which Perl writes over."""
        running = []
        for process in psutil.process_iter():
            try:
                place = f"{process.cwd()}/"
                temporary = process.environ().get("TMPDIR", "") + "/"
                if place.startswith(f"{self.directory}/") or temporary.startswith(f"{self.directory}/"):
                    running.append((process.pid, f"{process.status()} {process.cmdline()}"))
            except psutil.Error:
                pass  # it has ended, or is another user's
        return running


def assert_closing(output: str, least_answered: int) -> int:
    """The last lines say how much was reaped and freed, and that no request was lost; the number of workers reaped."""
    amount = r"(\d+(?:\.\d)?) MiB"
    closing = (
        r"(\d+) workers? reaped, ([\d,]+) requests answered, 0 requests lost"
        rf" The pool holds {amount}\. Without memreap it would hold {amount}: .* freed {amount}, .* with {amount}\.$"
    )
    reaped, answered, *sizes = re.search(closing, " ".join(output.split())).groups()
    now, without, freed, fresh = map(float, sizes)
    assert int(reaped) >= 1
    assert int(answered.replace(",", "")) > least_answered
    assert without == pytest.approx(now + freed - int(reaped) * fresh, abs=3)
    assert freed >= 40 * int(reaped)
    return int(reaped)


def test_the_memory_freed_is_the_sum_of_what_the_lines_of_the_log_say(tmp_path):
    one, two, three = (ProcessId(pid, 1.0) for pid in (11, 12, 13))
    over, moment = OverLimit(42 * MIB, 40 * MIB, "uss"), SentMoment.HELD
    happened = [
        *(events.Signalled("demo", 1.0, each, over, "HUP", moment, 60.0) for each in (one, two)),
        *(events.Left("demo", 2.0, each, 1.0, three, 41 * MIB, MIB, 42 * MIB, "uss") for each in (one, two)),
        events.Started("", 0.0, "0.1", ""),
    ]
    log = tmp_path / "memreap.log"
    log.write_text("a warning of Python\n" + "".join(f"{json.dumps(fields.of(event))}\n" for event in happened))
    tally = Tally(log)
    lines = tally.update(Pool("demo", "RUNNING", manager=ProcessId(10, 1.0)))
    assert (tally.reaped, tally.freed, len(lines)) == (2, 82 * MIB, 4)
    assert sum(int(re.search(r"(\d+) MiB freed", line)[1]) for line in lines[2:]) == 82


def test_a_signal_ends_it_at_once_and_no_process_or_file_remains(place):
    demo = Demo(place / "tmp", "--pool", "python")
    demo.until("workers hold")
    demo.process.terminate()
    output = demo.closes()
    assert demo.process.returncode == 0
    assert "stopping" in output
    assert "0 requests lost" in output[-2]
    assert re.fullmatch(r"The pool holds .* MiB, as it would without memreap\.", output[-1])


@pytest.mark.parametrize(("kind", "count"), [("python", 4), ("perl", 4)])
def test_no_process_or_file_remains_whenever_one_or_two_signals_arrive(place, kind, count):
    """From 0.3 s on, when Python has begun, to 3 s; side by side, so that they meet a busy machine as well.

    In every run of the tests they arrive at other moments.
    """
    with ThreadPoolExecutor(5) as at_a_time:
        tries = [at_a_time.submit(_signal_after, place, kind, number, count) for number in range(count)]
        for attempt in tries:
            attempt.result()


def _signal_after(place: Path, kind: str, number: int, count: int) -> None:
    delay, gap = 0.3 + (number + random.random()) * 2.7 / count, [None, 0.0, 0.05, 0.3][number % 4]
    first = SIGNALS[(number + number // 4) % 4]  # each of them, alone and before another one
    second = random.choice([signum for signum in SIGNALS if signum != first])
    demo = Demo(place / str(number), "--pool", kind)
    time.sleep(delay)
    demo.process.send_signal(first)
    if gap is not None:
        time.sleep(gap)
        demo.process.send_signal(second)
    with demo.process:
        output, errors = demo.process.communicate(timeout=30)
    demo.assert_nothing_is_left()
    # On a busy machine Python is still beginning: then the signal ends it before any output.
    begun = output.count("stopping") == 1 and errors == ""
    assert begun or output == "", (delay, first, gap, second, output, errors)


def test_an_ignored_signal_stays_ignored_and_the_temporary_directory_may_have_a_percent_sign(place):
    demo = Demo(place / "50%s", "--pool", "python", preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN))
    demo.until("workers hold")
    demo.process.send_signal(signal.SIGHUP)  # as to one that nohup started
    demo.until("workers hold")
    demo.process.terminate()
    output = demo.closes()
    assert output.count("stopping") == 1
    assert "0 requests lost" in output[-2]


def test_a_killed_demo_leaves_no_process_and_the_next_demo_removes_its_directory(place):
    killed = [Demo(place / "tmp", "--pool", kind) for kind in KINDS]
    for demo in killed:
        demo.until("Ends in")
        with demo.process:
            demo.process.kill()
    until(demo.running, [])  # both have this directory
    left = list(demo.directory.iterdir())
    assert left
    (demo.directory / "memreap-demo-but-a-file").touch()
    running = [Demo(demo.directory, "--pool", "python") for _ in range(2)]
    for after in running:
        after.until("workers hold")
    assert not any(path.exists() for path in left)
    assert len([path for path in demo.directory.iterdir() if path.is_dir()]) == 2
    for after in running:
        after.process.terminate()
        with after.process:
            after.process.communicate(timeout=30)
    (demo.directory / "memreap-demo-but-a-file").unlink()
    demo.assert_nothing_is_left()


def test_a_demo_reports_that_its_supervisord_was_ended_by_another_process(place):
    demo = Demo(place / "tmp", "--pool", "perl")
    demo.until("workers hold")
    below = psutil.Process(demo.process.pid).children()
    (supervisord,) = (process for process in below if os.getsid(process.pid) == process.pid)
    supervisord.kill()
    with demo.process:
        output, errors = demo.process.communicate(timeout=30)
    assert (demo.process.returncode, errors) == (1, "memreap demo: another process ended its supervisord\n")
    assert "reaped" in output
    demo.assert_nothing_is_left()


def test_a_demo_whose_output_is_closed_ends_and_leaves_nothing(place):
    demo = Demo(place / "tmp", "--pool", "python")
    demo.until("Ends in")
    demo.process.stdout.close()
    with demo.process:
        assert demo.process.stderr.read() == ""
    demo.assert_nothing_is_left()


class Terminal:
    """A demo in a terminal of 80 columns and 24 rows, as a shell would start it, and what is to be seen there."""

    def __init__(self, directory: Path, *words: str, **environment: str):
        self.text = ""
        self._master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
        environment = {"TERM": "xterm", "PYTHONIOENCODING": "utf-8", "NO_COLOR": "", **environment}
        size = {"COLUMNS": "", "LINES": ""}  # those of the user who runs the tests
        path = os.ttyname(slave)

        def open_it() -> None:
            os.close(os.open(path, os.O_RDWR))  # so it belongs to this session

        self.demo = Demo(directory, *words, stdout=slave, preexec_fn=open_it, **size, **environment)
        os.close(slave)

    def until(self, *texts: str, seconds: float = 60) -> None:
        """Wait until all of these have appeared, in this order."""
        deadline = time.monotonic() + seconds
        expression = re.compile(".*".join(map(re.escape, texts)), re.DOTALL)
        while not expression.search(self.text):
            assert self._read(deadline), f"no {texts!r} in {self.text!r}"

    def closes(self) -> None:
        while self._read(time.monotonic() + 60):
            pass
        with self.demo.process:
            assert self.demo.process.stderr.read() == ""
        self.demo.assert_nothing_is_left()
        os.close(self._master)

    def types(self, keys: bytes) -> None:
        os.write(self._master, keys)

    def is_closed(self) -> None:
        os.close(self._master)

    def rows(self) -> list[str]:
        """All that is to be seen, and what has moved out at the top."""
        rows, row = [""], 0
        for part in re.split(r"(\033\[\d*[A-Za-z]|\r|\n)", self.text):
            if match := re.fullmatch(r"\033\[(\d+)A", part):
                row -= int(match[1])
            elif part == "\033[J":
                del rows[row + 1 :]
                rows[row] = ""
            elif part == "\n":
                row += 1
                rows += [""] * (row + 1 - len(rows))
            elif part == "\r":
                pass  # a line is always written from its start
            elif part and not re.fullmatch(r"\033\[\d+m", part):
                rows[row] += part
        return rows

    def _read(self, deadline: float) -> bool:
        if not select.select([self._master], [], [], max(0.0, deadline - time.monotonic()))[0]:
            return False
        try:
            self.text += os.read(self._master, 65536).decode()
        except OSError:
            return False  # the other end is closed
        return True


def test_workers_are_reaped_no_request_is_lost_and_the_table_with_its_counter_fits_80_columns_and_24_rows(place):
    """Of FCGI::ProcManager. At its end no process or file remains."""
    terminal = Terminal(place / "tmp", "--pool", "perl", "--seconds", "45")
    terminal.until("Without memreap")
    terminal.closes()
    assert terminal.demo.process.returncode == 0
    rows = terminal.rows()
    assert max(map(len, rows)) < 80
    table = next(number for number, row in enumerate(rows) if row.startswith(" worker "))
    assert rows[table].endswith("limit 40 MiB    age")
    workers = rows[table + 1 : table + 5]
    assert all(re.fullmatch(r" *\d+ +[\d.]+ MiB  [█░]{36} +\d+ s(  over|  leaving)?", row) for row in workers)
    _, counter, _, *rest = rows[table + 5 :]
    log = rest[: rest.index("")]
    assert 1 + len(workers) + 3 + len(log) <= 23
    # Each line of the log has the time of day; what is too long goes on below it.
    lines = re.split(r"\n(?=\d\d:)", "\n".join(log))
    sent = [" ".join(line.split()) for line in lines if "HUP" in line]
    assert all(re.fullmatch(r"[\d:]{8} worker \d+ holds .* HUP sent between two requests", line) for line in sent)
    leaving = sum(row.endswith("leaving") for row in workers)
    # Those of the beginning may have scrolled off.
    signalled = set(re.findall(r"worker (\d+) holds", terminal.text))
    assert counter.startswith(f"{len(signalled) - leaving} reaped, ")
    assert terminal.text.count("\033[J") > 20
    assert "saturated: 8 clients on 4 workers, none is ever idle" in " ".join(terminal.text.split())
    shown = "\n".join(rows)
    assert_closing(shown, least_answered=800)
    saturated = r" With 8 clients on 4 .* idle: (\d+) reaped, ([\d,]+) requests answered, 0 lost\."
    reaped, answered = re.search(saturated, " ".join(shown.split())).groups()
    assert int(reaped) >= 1
    assert int(answered.replace(",", "")) > 300


def test_ctrl_c_is_answered_below_the_table_which_stays_as_it_was(place):
    terminal = Terminal(place / "tmp", "--pool", "python", NO_COLOR="1")
    terminal.until("to go", "to go")
    terminal.types(b"\x03")
    terminal.until("stopping")
    terminal.closes()
    assert not re.search(r"\033\[\d+m", terminal.text)
    text = "\n".join(terminal.rows())
    assert text.count("stopping") == 1
    assert text.count(" worker ") == 1
    assert re.search(r"\n0 reaped, .* 0 lost\n(.*\n)*\nstopping\n\n0 workers reaped, .*\nThe pool holds .*\n", text)


def test_a_closed_terminal_ends_it_and_no_process_or_file_remains(place):
    terminal = Terminal(place / "tmp", "--pool", "perl")
    terminal.until("to go")
    terminal.is_closed()
    with terminal.demo.process:
        assert terminal.demo.process.stderr.read() == ""
    terminal.demo.assert_nothing_is_left()


def test_a_dumb_terminal_gets_plain_lines(place):
    terminal = Terminal(place / "tmp", "--pool", "python", TERM="dumb")
    terminal.until("workers hold")
    terminal.types(b"\x03")
    terminal.closes()
    assert "\033" not in terminal.text
    assert max(map(len, terminal.rows())) < 80


@pytest.mark.parametrize(
    ("args", "line"),
    [
        (["--seconds", "x"], "argument --seconds: x: not a number of seconds from 1 to 86400"),
        (["--seconds", "24"], "--seconds 24 is too short to see a worker reaped: with 4 workers, at least 25"),
        (["--seconds", "1", "--workers", "1"], "with a single worker, at least 15"),
        (["--seconds", "60", "--workers", "20"], "with 20 workers, at least 95"),
        (["--workers", "x"], "argument --workers: x: not a number of workers from 1 to 20"),
        (["--pool", "ruby"], "argument --pool: invalid choice: 'ruby'"),
    ],
)
def test_bad_usage_is_reported_in_one_line(args, line):
    result = memreap("demo", *args)
    assert (result.returncode, result.stdout, result.stderr.count("\n")) == (2, "", 1)
    assert line in result.stderr


@pytest.fixture
def pool(tmp_path):
    """The small pool with two workers: its process and its socket."""
    path = str(tmp_path / "pool.sock")
    command = [sys.executable, "-m", "supervisor_memreap.demo.prefork", path, "2"]
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
    until(lambda: _all_in_accept(workers))  # until then, they may not have asked the kernel to be ended with it
    process.kill()
    until(lambda: [*filter(psutil.pid_exists, workers)], [])


def test_a_worker_that_misses_the_end_of_the_pool_is_ended(pool):
    process, _path = pool
    workers = workers_below(process.pid)
    os.kill(min(workers), signal.SIGSTOP)
    process.terminate()
    assert process.wait(20) == 0
    until(lambda: [*filter(psutil.pid_exists, workers)], [])


def test_a_busy_worker_of_the_small_pool_finishes_its_request_first(pool):
    process, path = pool
    before = workers_below(process.pid)
    until(lambda: _all_in_accept(before))
    idle = {pid: _descriptors(pid) for pid in before}
    with socket.socket(socket.AF_UNIX) as half:
        half.connect(path)  # a request that is taken, and not there yet
        busy = eventually(lambda: _worker_with_a_connection(idle))
        os.kill(busy, signal.SIGHUP)
        assert fastcgi.get(path).endswith(b"ok")
        assert busy in workers_below(process.pid)
        half.sendall(fastcgi.request())
        assert half.recv(4096)
    eventually(lambda: _assert_workers(process, 2, without=[busy]))


def _all_in_accept(workers) -> bool:
    return all(Path(f"/proc/{pid}/syscall").read_text().startswith(ACCEPT) for pid in workers)


def _descriptors(pid) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


def _worker_with_a_connection(idle) -> int:
    # Not by its system call: the kernel may wake another one too, which finds nothing and goes back to accept.
    busy = [pid for pid, descriptors in idle.items() if _descriptors(pid) > descriptors]
    assert len(busy) == 1
    return busy[0]


def test_a_truncated_answer_is_an_error(tmp_path):
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
