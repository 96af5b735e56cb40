"""Takes the place of supervisord's event side, to send a real `memreap listen` what a supervisord seldom sends."""

from __future__ import annotations

import contextlib
import os
import re
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Collection, Container, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import psutil
from supervisor.xmlrpc import SupervisorTransport

from supervisor_memreap.core import policy
from supervisor_memreap.host import procfs
from support import needs

READY = b"READY\n"
POOL = Path(__file__).with_name("pool.py")
PROMPT = Path(__file__).parent / "prompt/supervisord"
OK = b"RESULT 2\nOK"
ValuesT = TypeVar("ValuesT", bound=Collection[Any])


@contextlib.contextmanager
def repeating(ask: Callable[[], object], clients: int) -> Iterator[None]:
    """Meanwhile so many threads call this, again and again."""
    is_over = threading.Event()

    def go_on() -> None:
        while not is_over.is_set():
            ask()

    threads = [threading.Thread(target=go_on) for _ in range(clients)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        is_over.set()
        for thread in threads:
            thread.join()


class Transport(SupervisorTransport):
    """What supervisorctl speaks through, which leaves its connection open. This one closes it when it is not needed."""

    def __del__(self):
        self.close()


class Driver:
    def __init__(self, *args: str, env: dict[str, str], log, through: Sequence[str] = ()):
        self.log = log
        self._received = b""
        self._serial = 0
        self._ticked = 0.0
        # A process between, named so that the listener recognises it as its supervisord: a new one for every test. Like
        # supervisord it starts a listener again that was ended by force. A shell takes no time to start.
        between = 'while "$@"; status=$?; [ $status = 137 ]; do :; done; exit $status'
        listen = [*through, sys.executable, "-m", "supervisor_memreap", "listen", *args]
        with log.open("wb") as stderr:
            self.process = subprocess.Popen(
                ["sh", "-c", between, "supervisord", *listen],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                env={**os.environ, "SUPERVISOR_ENABLED": "1", **env},
            )

    def expect(self, expected: bytes, within: float = 30.0) -> float:
        """The seconds until exactly this was written to stdout; fails on anything else."""
        start = time.monotonic()
        while not self._received.startswith(expected):
            assert expected.startswith(self._received), f"{self._received!r} on stdout, {expected!r} was due"
            left = start + within - time.monotonic()
            assert left > 0, f"only {self._received!r} on stdout after {within} s, {expected!r} was due"
            if select.select([self.process.stdout], [], [], left)[0]:
                chunk = os.read(self.process.stdout.fileno(), 4096)
                assert chunk, f"stdout was closed, {expected!r} was due; the log: {self.text()}"
                self._received += chunk
        self._received = self._received[len(expected) :]
        return time.monotonic() - start

    def send(self, data: bytes) -> None:
        self.process.stdin.write(data)
        self.process.stdin.flush()

    def event(self, name: str = "TICK_5", payload: str | None = None, server: str = "supervisor") -> None:
        self._serial += 1
        self._ticked = time.monotonic()
        if payload is None:
            payload = f"when:{int(time.time())}"
        header = f"ver:3.0 server:{server} serial:{self._serial} pool:memreap poolserial:{self._serial}"
        self.send(f"{header} eventname:{name} len:{len(payload)}\n{payload}".encode())

    def listener(self) -> psutil.Process:
        (process,) = psutil.Process(self.process.pid).children()
        return process

    def tick(self, **options) -> float:
        """One tick that is looked at; the seconds that it took until OK."""
        time.sleep(max(0.0, self._ticked + 0.6 - time.monotonic()))  # ticks that come together are one look
        self.event(**options)
        took = self.expect(OK)
        self.expect(READY)
        return took

    def until(self, expression: str) -> None:
        """Tick until the log has this."""
        eventually(lambda: self.tick() and assert_matches(expression, self.text()))

    def text(self) -> str:
        return self.log.read_text()

    def lines(self) -> list[str]:
        """The log without its times."""
        return [line.split(" memreap: ", 1)[1] for line in self.text().splitlines()]


@contextlib.contextmanager
def supervisord(
    directory,
    programs: str,
    http: str | None = None,
    rpc: bool = True,
    python: str = sys.executable,
    within: Sequence[str] = (),
    gives_up: bool = False,
    prompt: bool = True,
):
    """A real supervisord without a listener; its process. Its socket is directory/s.sock unless `http` names another.

    Its programs are RUNNING, and each pool of tests/support/pool.py has all its workers; with `gives_up` they are to
    become FATAL. `within` is a command that it is started by. It has a TICK_5 each second, as
    tests/support/prompt/supervisord says; without `prompt`, each 5 s.
    """
    if http is None:
        http = f"[unix_http_server]\nfile={directory}/s.sock\n"
    needs.skip_without_programs(programs)
    interface = "supervisor.rpcinterface_factory=supervisor.rpcinterface:make_main_rpcinterface"
    (directory / "supervisord.conf").write_text(
        f"[supervisord]\nlogfile={directory}/s.log\npidfile={directory}/s.pid\nchildlogdir={directory}\n"
        f"{http}[supervisorctl]\nserverurl=unix://{directory}/s.sock\n"
        + (f"[rpcinterface:supervisor]\n{interface}\n" if rpc else "")
        + programs
    )
    script = [str(PROMPT)] if prompt else ["-m", "supervisor.supervisord"]
    command = [*within, python, *script, "-n", "-c", str(directory / "supervisord.conf")]
    with started(command, directory, gives_up) as process:
        if not gives_up:
            eventually(lambda: _assert_pools_are_ready(process.pid, directory))
        yield process


@contextlib.contextmanager
def started(command: Sequence[str], directory: Path, gives_up: bool = False, **options):
    """The process of a supervisord that this command starts, in the foreground, with directory/s.log as its log."""
    # A session of its own: Ctrl-C is for us, and we end it last.
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, cwd=directory, start_new_session=True, **options)
    try:
        eventually(
            lambda: _assert_gave_up(directory / "s.log") if gives_up else _assert_entered_running(directory / "s.log")
        )
        yield process
    finally:
        tree = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(signal.SIGCONT)
        process.terminate()
        if command[0] == "unshare":  # which ignores that; its child is supervisord
            for child in psutil.Process(process.pid).children():
                child.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(10)
        for descendant in tree:
            with contextlib.suppress(psutil.NoSuchProcess):
                descendant.kill()
        process.kill()
        process.wait()
        eventually(lambda: _end_newborns(directory))


def _end_newborns(directory: Path) -> None:
    """A newborn of FCGI::ProcManager that gets TERM before it has handlers of its own spins for a minute; no error."""
    here = processes_in(directory, "name")
    newborns = [process for process in here if (process.info["name"] or "").startswith("perl-fcgi")]
    for process in newborns:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    assert not newborns


def processes_in(directory: Path, *attributes: str) -> list[psutil.Process]:
    """Those with this working directory, with these attributes in `info`."""

    def is_here(process: psutil.Process) -> bool:
        try:
            return os.readlink(f"/proc/{process.pid}/cwd") == str(directory)
        except OSError:  # it has ended, or its own path is longer than a page
            return False

    return [process for process in psutil.process_iter([*attributes] or None) if is_here(process)]


@contextlib.contextmanager
def pool(workers: int, mib: int, *words: str, script: Path = POOL, **options):
    """The pid of the running manager of a tests/support/pool.py whose workers wait; its group is ended afterwards."""
    command = [sys.executable, str(script), str(workers), str(mib), *words]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True, **options) as process:
        try:
            line = process.stdout.readline()
            assert re.fullmatch(r"ready \(pid: [0-9]+\)\n", line)
            manager = int(line.split()[2][:-1])
            # A worker that is ready has still to run before it waits: on a busy machine it would seem busy.
            eventually(lambda: _assert_sleeping(manager))
            yield manager
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def _assert_sleeping(manager: int) -> None:
    assert {worker.status() for worker in psutil.Process(manager).children()} == {psutil.STATUS_SLEEPING}


def _assert_gave_up(log) -> None:
    assert log.exists()
    assert "entered FATAL state" in log.read_text()


def _assert_entered_running(log) -> None:
    text = log.read_text() if log.exists() else ""
    programs = text.count("spawned: ")
    assert programs
    assert text.count("entered RUNNING state, process has stayed up") == programs


def _assert_pools_are_ready(supervisord: int, directory: Path) -> None:
    """RUNNING only means that a manager has stayed up: on a busy machine it may have no worker yet."""
    below = psutil.Process(supervisord).children(recursive=True)
    try:
        of_pools = {process.pid: process.ppid() for process in below if _runs_pool(process)}
    except psutil.NoSuchProcess as error:
        raise AssertionError(str(error)) from None
    managers = [pid for pid, parent in of_pools.items() if parent not in of_pools]
    output = "".join(path.read_text() for path in directory.glob("*-stdout---*"))
    assert output.count("ready (pid: ") >= len(managers), output


def _runs_pool(process: psutil.Process) -> bool:
    return any(word.endswith(f"/{POOL.name}") for word in process.cmdline())


def assert_in(text: str, whole: Container[str]) -> None:
    assert text in whole, whole


def assert_matches(expression: str, whole: str) -> None:
    assert re.search(expression, whole), whole


def an_hour_tick() -> str:
    """TICK_3600, with a minute in which none comes: supervisord sends them at each full hour of the clock."""
    until = 3600 - time.time() % 3600
    if until < 60:
        time.sleep(until + 1)
    return "TICK_3600"


def eventually(assertion, timeout: float = 60.0):
    """The result of the assertion, tried again until it holds; at the end its own failure is what is reported.

    The time is for a busy machine: where 3 runs of these tests share 2 cores, a Python takes 5 s to start, and memreap
    leaves a process alone for 4, 8, 16 s whose size it could not read in time.
    """
    start = time.monotonic()
    while True:
        began = time.monotonic()
        try:
            return assertion()
        # ValueError: `(worker,) = …` asserts how many there are; the others: one of them has ended meanwhile.
        except (AssertionError, ValueError, ProcessLookupError, psutil.NoSuchProcess):
            now = time.monotonic()
            if now > start + timeout:
                raise
            # One that reads all of /proc takes 5 ms: asking it all the time took a third of the CPU of all tests. What
            # has been waited for in vain for 2 s may be late by a tenth of that.
            time.sleep(min(0.2, max(0.02, 5 * (now - began), (now - start) / 10)))


def until(value, expected: object = ..., timeout: float = 60.0) -> None:
    """Wait until the value is this, or without `expected` until it is true."""

    def assertion() -> None:
        now = value()
        assert now if expected is ... else now == expected

    eventually(assertion, timeout)


def exactly(count: int, values: ValuesT) -> ValuesT:
    """The values; raises AssertionError where there are more or fewer."""
    assert len(values) == count, values
    return values


def stop(pid: int) -> None:
    """Stop the process. On a busy machine it may run on for a while after the signal: return when it does not."""
    os.kill(pid, signal.SIGSTOP)
    until(lambda: psutil.Process(pid).status(), psutil.STATUS_STOPPED)


@contextlib.contextmanager
def stopped(pid: int) -> Iterator[None]:
    """As long as the process does not run."""
    stop(pid)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def workers_below(manager: int) -> set[int]:
    """The pids of its children that have not ended; none where it has itself. psutil would read all processes.

    But for the one with which Python's multiprocessing cleans up, where it spawns them.
    """
    try:
        pids = procfs.source().children(manager)
    except ProcessLookupError:
        return set()
    return {pid for pid in pids if is_alive(pid) and not cleans_up(pid)}


def cleans_up(pid: int) -> bool:
    try:
        return b"multiprocessing.resource_tracker" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False  # it has just ended


def is_alive(pid: int) -> bool:
    """Whether there is such a process, and it is no zombie."""
    try:
        return not procfs.source().process(pid).ended
    except ProcessLookupError:
        return False


def assert_have_served(manager: int, settle: float) -> None:
    """Each worker is so old that a first look from now on takes none for one that begins to serve.

    Workers that are over the limit then would be no growth but a wrong limit (rule 9 of core.policy).
    """
    view = procfs.source()
    try:
        youngest = min(view.process(pid).age for pid in view.children(manager))
    except ProcessLookupError as error:
        raise AssertionError(f"a worker has just ended: {error}") from None
    assert youngest > settle + policy.READ


@contextlib.contextmanager
def listening(*args: str, log, through: Sequence[str] = (), within=30.0, **env: Any):
    """A real `memreap listen` that is ready `within` so many seconds, and ends in a third of them.

    `through` is a command that runs the one behind it, such as setpriv.
    """
    driver = Driver(*args, env=env, log=log, through=through)
    try:
        driver.expect(READY, within)
        yield driver
    finally:
        driver.process.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            driver.process.wait(within / 3)
        driver.process.kill()
        driver.process.stdout.close()
        driver.process.wait()


def listening_in(directory: Path, *args: str, **options: Any):
    """A listener of the supervisord in this directory, by its configuration; its log is directory/listener.log."""
    options = {"log": directory / "listener.log", "SUPERVISOR_SERVER_URL": f"unix://{directory}/s.sock", **options}
    return listening("-c", f"{directory}/supervisord.conf", *args, **options)
