"""\
See the main job on this machine, without root, Perl or a web server: a private supervisord in
a temporary folder, a pool of workers that leak, load on it, and the real listener, which reaps
each one that is over its limit. The table shows what each worker holds against the limit.

It ends by itself, or with Ctrl-C, and leaves no process and no file behind. The exit status is
0 if workers were reaped and no request was lost.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

from supervisor_memreap.core.model import Pool, Program
from supervisor_memreap.core.settings import PoolSettings
from supervisor_memreap.demo import fastcgi
from supervisor_memreap.demo.pool import end_with_parent
from supervisor_memreap.host import processes
from supervisor_memreap.record import report
from supervisor_memreap.supervisord.client import Client, Unavailable

LIMIT_MB = 40
# Each of two threads asks so often: 40 requests a second together, a fraction of what two cores can serve.
_LOADERS, _BETWEEN = 2, 0.05
_START = 20.0
# In a run of this length workers reach the limit; in a shorter one they may not.
_LONG_ENOUGH = 30
_SENT = re.compile(r"worker (\d+) .* sent")
_LEFT = re.compile(r"worker (\d+) left after")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--seconds", type=_seconds, default=60, metavar="N", help="end after so long (default: 60)")
    parser.add_argument("--workers", type=_workers, default=4, metavar="N", help="workers of the pool (default: 4)")
    parser.add_argument(
        "--pool",
        choices=("auto", "perl", "python"),
        default="auto",
        help="perl: the real FCGI::ProcManager; python: a small manager like it (default: perl where it is installed)",
    )


def _seconds(text: str) -> int:
    if not text.isdigit() or not 10 <= int(text) <= 86400:
        raise argparse.ArgumentTypeError(f"{text}: not a number of seconds from 10 to 86400")
    return int(text)


def _workers(text: str) -> int:
    if not text.isdigit() or not 1 <= int(text) <= 20:
        raise argparse.ArgumentTypeError(f"{text}: not a number of workers from 1 to 20")
    return int(text)


def run(args: argparse.Namespace) -> int:
    """0: workers were reaped and no request was lost."""
    perl = _has_perl()
    if args.pool == "perl" and not perl:
        print("memreap demo: no perl with FCGI and FCGI::ProcManager here; try --pool python", file=sys.stderr)
        return 2
    kind = "perl" if perl and args.pool != "python" else "python"
    signal.signal(signal.SIGTERM, _interrupt)
    load = Load()
    log = Log()
    started = ended = 0.0
    try:
        with _folder() as folder, _supervisord(folder, kind, args.workers) as process:
            log.path = folder / "memreap.log"
            load.path = str(folder / "pool.sock")
            name = "FCGI::ProcManager" if kind == "perl" else "a small manager like FCGI::ProcManager"
            print(f"A pool of {args.workers} leaking workers under {name}, limit {LIMIT_MB} MB each, under load,")
            print(
                f"and the real listener on a private supervisord in {folder}. Ends in {args.seconds} s, or with Ctrl-C."
            )
            print(flush=True)
            if not _starts(folder, process):
                return 1
            started = time.monotonic()
            try:
                with load:
                    _show(folder, load, log, started + args.seconds)
            except KeyboardInterrupt:
                print("\nstopping …", flush=True)
            ended = time.monotonic()
            log.read()
    except KeyboardInterrupt:
        return 130  # before anything ran, or a second time while it was ending
    print(
        f"\n{log.reaped} {'worker' if log.reaped == 1 else 'workers'} reaped, {load.answered:,} requests answered,"
        f" {load.lost} requests lost{'' if not load.lost else f' ({load.why})'}"
    )
    none_though_long = not log.reaped and ended - started >= _LONG_ENOUGH
    if none_though_long:
        print("No worker was reaped, which should not be. The end of the listener's log:", *log.last(5), sep="\n")
    return 1 if load.lost or none_though_long else 0


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def _has_perl() -> bool:
    try:
        command = ["perl", "-MFCGI", "-MFCGI::ProcManager", "-e1"]
        return subprocess.run(command, stderr=subprocess.DEVNULL, check=False).returncode == 0
    except OSError:
        return False


@contextlib.contextmanager
def _folder() -> Iterator[Path]:
    """A temporary folder, with a path that leaves room for a unix socket's 107 bytes.

    And without a %: supervisor 4.3.0 expands the names of log files twice, so that no escape of it survives.
    """
    usual = tempfile.gettempdir()
    short = None if len(usual) < 70 and "%" not in usual else "/tmp"
    with tempfile.TemporaryDirectory(prefix="memreap-demo-", dir=short) as name:
        yield Path(name)


@contextlib.contextmanager
def _supervisord(folder: Path, kind: str, workers: int) -> Iterator[subprocess.Popen[bytes]]:
    """The private supervisord; at the end it and all below it are gone."""
    here = Path(__file__).parent
    pool = ["perl", str(here / "pool.pl")] if kind == "perl" else [sys.executable, "-m", "supervisor_memreap.demo.pool"]
    interface = "supervisor.rpcinterface:make_main_rpcinterface"
    conf = f"""\
[supervisord]
logfile={folder}/supervisord.log
pidfile={folder}/supervisord.pid
childlogdir={folder}
[unix_http_server]
file={folder}/s.sock
[rpcinterface:supervisor]
supervisor.rpcinterface_factory={interface}
[program:demo]
command={_quoted(*pool, f"{folder}/pool.sock", str(workers))}
startsecs=0
stopwaitsecs=10
stdout_logfile=NONE
stderr_logfile={folder}/pool.log
[memreap:demo]
limit={LIMIT_MB}MB
min_age=1s
settle=1s
[eventlistener:memreap]
command={_quoted(sys.executable, "-m", "supervisor_memreap", "listen")}
events=TICK_5
stdout_logfile=NONE
stderr_logfile={folder}/memreap.log
"""
    (folder / "supervisord.conf").write_text(conf)
    command = [sys.executable, "-m", "supervisor.supervisord", "-n", "-c", str(folder / "supervisord.conf")]
    # A session of its own: Ctrl-C in the terminal is for us alone, and we end the rest in order.
    process = subprocess.Popen(
        command,
        cwd=folder,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        preexec_fn=lambda: end_with_parent(signal.SIGTERM),
        # From a checkout that is not installed it is the folder of the package that makes it importable.
        env={**os.environ, "PYTHONPATH": f"{here.parent.parent}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"},
    )
    try:
        yield process
    finally:
        below = _below(process)
        process.terminate()
        try:
            process.wait(15)
        except (subprocess.TimeoutExpired, KeyboardInterrupt):
            process.kill()
            process.wait()
        for one in below:
            with contextlib.suppress(psutil.NoSuchProcess):
                one.kill()  # psutil looks at its birth first: no other process with that pid


def _quoted(*words: str) -> str:
    return " ".join('"' + word.replace("%", "%%") + '"' for word in words)


def _below(process: subprocess.Popen[bytes]) -> list[psutil.Process]:
    try:
        return psutil.Process(process.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def _starts(folder: Path, process: subprocess.Popen[bytes]) -> bool:
    """Whether the pool answers and the listener has begun; if not, say what the logs say."""
    deadline = time.monotonic() + _START
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(OSError):
            if (folder / "memreap.log").read_text() and fastcgi.get(str(folder / "pool.sock")).endswith(b"ok"):
                return True
        time.sleep(0.1)
    print(f"memreap demo: the pool or the listener did not start within {_START:.0f} s:", file=sys.stderr)
    for log in ("supervisord.log", "pool.log", "memreap.log"):
        with contextlib.suppress(OSError):
            print(*(folder / log).read_text().splitlines()[-5:], sep="\n", file=sys.stderr)
    return False


class Load:
    """Requests, one after the other in each of a few threads; counts what came of them."""

    def __init__(self) -> None:
        self.path = ""
        self.answered = 0
        self.lost = 0
        self.why = ""
        self._stop = threading.Event()
        self._count = threading.Lock()
        self._threads = [threading.Thread(target=self._ask) for _ in range(_LOADERS)]

    def _ask(self) -> None:
        while not self._stop.wait(_BETWEEN):
            try:
                answer = fastcgi.get(self.path)
                why = "" if answer.endswith(b"\r\n\r\nok") else f"a wrong answer: {answer[:80]!r}"
            except OSError as error:
                why = str(error)
            with self._count:
                self.lost += bool(why)
                self.answered += not why
                self.why = why or self.why

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()


class Log:
    """The listener's log, as far as it has been read."""

    def __init__(self) -> None:
        self.path: Path | None = None
        self.reaped = 0
        self.leaving: set[int] = set()
        self._lines: list[str] = []

    def read(self) -> list[str]:
        """The lines that are new."""
        text = self.path.read_text() if self.path else ""
        new = text.splitlines()[len(self._lines) :] if text.endswith("\n") else []
        self._lines += new
        for line in new:
            sent, left = _SENT.search(line), _LEFT.search(line)
            if sent:
                self.leaving.add(int(sent[1]))
            if left:
                self.leaving.discard(int(left[1]))
                self.reaped += 1
        return new

    def last(self, count: int) -> list[str]:
        return self._lines[-count:]


def _show(folder: Path, load: Load, log: Log, deadline: float) -> None:
    """Draw the pool until the deadline: a table in a terminal, else a line every 5 s and the log as it comes."""
    client = Client(f"unix://{folder}/s.sock")
    drawn, spoken = 0, 0.0
    while (left := deadline - time.monotonic()) > 0:
        new = log.read()
        pool = _look(client)
        numbers = f"{log.reaped} reaped, {load.answered:,} requests answered, {load.lost} lost, {left:.0f} s to go"
        if sys.stdout.isatty():
            drawn = _draw([*_table(pool, log), "", numbers, "", *log.last(4)], drawn)
        else:
            print(*new, sep="\n", end="\n" if new else "")
            if time.monotonic() - spoken >= 5:
                spoken = time.monotonic()
                holds = ", ".join(report.memory(worker.used or 0) for worker in pool.workers)
                print(f"workers hold {holds}; {numbers}", flush=True)
        time.sleep(min(0.5, left))


def _look(client: Client) -> Pool:
    try:
        programs = [one for one in client.programs() if one.name == "demo"]
    except Unavailable:
        programs = [Program("demo", "demo", "unknown", 0)]
    # A limit of nothing: here the exact figure of every worker is wanted.
    (pool,) = processes.look([processes.Watched(programs[0], PoolSettings(limit=0))], processes.source())
    return pool


def _table(pool: Pool, log: Log) -> list[str]:
    width = max(10, min(60, shutil.get_terminal_size().columns - 44))
    full, empty = ("█", "░") if "utf" in (sys.stdout.encoding or "").lower() else ("#", ".")
    lines = [f"worker      holds  {'limit ' + str(LIMIT_MB) + ' MB':>{width}}    age"]
    for worker in pool.workers:
        used = worker.used or 0
        filled = min(width, round(width * used / (LIMIT_MB * 1024**2)))
        word = "leaving" if worker.id.pid in log.leaving else "over" if used > LIMIT_MB * 1024**2 else ""
        bar = _coloured(full * filled, word) + empty * (width - filled)
        lines.append(f"{worker.id.pid:>6} {report.memory(used):>10}  {bar}  {worker.age:>3.0f} s  {word}")
    return lines


def _coloured(bar: str, word: str) -> str:
    if "NO_COLOR" in os.environ:
        return bar
    return f"\033[{ {'': 32, 'over': 31, 'leaving': 33}[word] }m{bar}\033[0m"


def _draw(lines: list[str], drawn: int) -> int:
    """Write over what was drawn before; how many lines there are now."""
    columns = shutil.get_terminal_size().columns
    up = f"\033[{drawn}A" if drawn else ""
    cut = [line if "\033" in line else line[: columns - 1] for line in lines]
    print(up + "\033[J" + "\n".join(cut), flush=True)
    return len(lines)
