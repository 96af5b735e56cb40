"""What happens to a pool and its listener in a month: restarts, deploys, changed settings, processes that end."""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import shutil
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import ClassVar, NamedTuple

from support import stack
from support.driver import POOL, eventually, is_alive, workers_below

from supervisor_memreap.host import procfs

WORKERS = 4
LIMIT, OTHER_LIMIT = "limit=40MB", "limit=45MB"
SIZE, OTHER_SIZE = "history_size=4MB", "history_size=5MB"
# Seconds after the end of an action in which a request may still be lost by it.
LATE = 3.0
EXTRA = (
    f"[program:extra]\ncommand={sys.executable} {POOL} 2 5\nstopasgroup=true\nkillasgroup=true\n"
    "[memreap:extra]\nlimit=90MB\n"
)


class Window(NamedTuple):
    """When an action went on, in seconds (monotonic)."""

    name: str
    begin: float
    end: float
    cuts: bool
    """Whether it ends workers by itself, and so may lose requests."""
    trouble: str
    """Why it failed; empty: it did not."""


class Disturber:
    """`command` hands a text to the listener as supervisorctl does; `event` any event, where that can be done."""

    def __init__(
        self,
        pool: stack.Pool,
        listener: Callable[[], int],
        command: Callable[[str], None],
        event: Callable[[str, str], None] | None = None,
        seed: int = 1,
    ):
        self._pool, self._listener, self._command, self._event = pool, listener, command, event
        self._where = pool.directory
        self._chance = random.Random(seed)
        self._text = (self._where / "supervisord.conf").read_text()
        self._release = 0
        self._in_force: dict[str, str] = {}
        self.windows: list[Window] = []
        self._stop = threading.Event()

    ACTIONS: ClassVar[dict[str, tuple[str, bool]]] = {
        "restart": ("_restart", True),
        "deploy": ("_deploy", True),
        "manager killed": ("_crash", True),
        "worker killed": ("_crash_worker", True),
        "worker stopped": ("_stop_worker", True),
        "program added and removed": ("_add_and_remove", False),
        "limit changed": ("_change_limit", False),
        "wrong limit": ("_set_wrong", False),
        "history_size changed": ("_change_size", False),
        "metrics_file set and unset": ("_toggle_metrics", False),
        "process of the history killed": ("_kill_history", False),
        "process of the history stopped": ("_stop_history", False),
        "reader killed": ("_kill_reader", False),
        "supervisord stopped": ("_stop_supervisord", False),
        "pause and resume": ("_pause", False),
        "reap": ("_reap", False),
        "roll": ("_roll", False),
        "doctor": ("_doctor", False),
        "unknown command": ("_dance", False),
        "old ticks": ("_send_old_ticks", False),
        "other events": ("_send_others", False),
    }
    """By name, the method that does it, and whether it ends workers by itself, and so may lose requests."""

    def run(self, is_due: Callable[[], bool]) -> None:
        """One action after another, each as soon as one is due; until the end."""
        for name in self._in_any_order():
            while not is_due():
                if self._stop.wait(0.05):
                    return
            if self._stop.is_set():
                return
            self._act(name)

    def _in_any_order(self) -> Iterator[str]:
        for _ in itertools.count():
            names = [name for name in self.ACTIONS if self._event or name not in ("old ticks", "other events")]
            self._chance.shuffle(names)
            yield from names

    def _act(self, name: str) -> None:
        act, cuts = self.ACTIONS[name]
        begin, trouble = time.monotonic(), ""
        try:
            getattr(self, act)()
            if cuts:
                eventually(self._assert_whole, timeout=60)
        except Exception as error:
            trouble = repr(error)[:300]
        self.windows.append(Window(name, begin, time.monotonic(), cuts, trouble))

    def _assert_whole(self) -> None:
        stack.assert_answers(self._pool)
        assert len(self._workers()) == WORKERS

    def counts(self) -> Counter[str]:
        return Counter(window.name for window in self.windows)

    def troubles(self) -> list[str]:
        return [f"{window.name}: {window.trouble}" for window in self.windows if window.trouble]

    def caused(self, lost_at: float) -> bool:
        """Whether a request that was lost then (monotonic) may have been lost by an action that ends workers."""
        return any(each.cuts and each.begin <= lost_at <= each.end + LATE for each in self.windows)

    def restarts(self) -> list[tuple[float, float]]:
        """When all workers of a pool may have gone, in seconds since 1970."""
        since = time.time() - time.monotonic()
        return [(each.begin + since, each.end + since) for each in self.windows if each.cuts]

    @contextlib.contextmanager
    def going_on(self, is_due: Callable[[], bool]) -> Iterator[None]:
        thread = threading.Thread(target=self.run, args=(is_due,))
        thread.start()
        try:
            yield
        finally:
            self._stop.set()
            thread.join()

    # Programs.

    def _manager(self) -> int:
        pid = int(stack.control(self._where).getProcessInfo("myapp")["pid"])
        assert pid
        return pid

    def _workers(self) -> set[int]:
        return workers_below(self._manager())

    def _restart(self) -> None:
        control = stack.control(self._where)
        with self._whose_workers_end():
            control.stopProcess("myapp")
        control.startProcess("myapp")

    @contextlib.contextmanager
    def _whose_workers_end(self) -> Iterator[None]:
        """A newborn of FCGI::ProcManager that gets TERM spins for a minute: none is so young, or it is ended."""
        workers = self._workers()
        source = procfs.source()
        eventually(lambda: _assert_older(workers, 0.5))
        workers = self._workers()
        yield
        time.sleep(0.1)
        for pid in workers:
            if is_alive(pid) and source.process(pid).parent == 1:
                os.kill(pid, signal.SIGKILL)

    def _deploy(self) -> None:
        """A new directory with the application; reread and update, as supervisorctl does them."""
        self._release += 1
        release = self._where / f"release-{self._release}"
        release.mkdir()
        release.chmod(0o755)
        for path in self._where.glob("growing.*"):
            shutil.copy(path, release)
        self._write()
        self._update()
        shutil.rmtree(self._where / f"release-{self._release - 1}", ignore_errors=True)

    def _add_and_remove(self) -> None:
        self._change("", EXTRA)
        self._update()
        time.sleep(1.0)
        self._change("", "")
        self._update()

    def _update(self) -> None:
        control = stack.control(self._where)
        ((added, changed, removed),) = control.reloadConfig()
        for name in (*changed, *removed):
            guard = self._whose_workers_end() if name == "myapp" else contextlib.nullcontext()
            with guard:
                control.stopProcessGroup(name)
            control.removeProcessGroup(name)
        for name in (*changed, *added):
            control.addProcessGroup(name)

    def _crash(self) -> None:
        manager, workers = self._manager(), self._workers()
        for pid in (manager, *workers):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        eventually(lambda: self._assert_another(manager))

    def _assert_another(self, manager: int) -> None:
        assert self._manager() != manager

    def _crash_worker(self) -> None:
        os.kill(self._chance.choice(sorted(self._workers())), signal.SIGKILL)

    def _stop_worker(self) -> None:
        _stop_for_a_while(self._chance.choice(sorted(self._workers())), 2.0)

    # Settings.

    def _change(self, old: str, new: str) -> None:
        """From now on the configuration has `new` in place of `old`; where that is empty, at its end."""
        self._in_force[old] = new
        self._write()

    def _write(self) -> None:
        text = self._text
        if self._release:
            release = self._where / f"release-{self._release}"
            text = text.replace(" growing:application", f" --chdir {release} growing:application")
            text = text.replace(f"{self._where}/growing.psgi", f"{release}/growing.psgi")
        for old, new in self._in_force.items():
            text = text.replace(old, new) if old else text + new
        path = self._where / "supervisord.conf"
        path.with_suffix(".new").write_text(text)
        path.with_suffix(".new").rename(path)

    def _change_limit(self) -> None:
        self._change(LIMIT, LIMIT if self._in_force.get(LIMIT) == OTHER_LIMIT else OTHER_LIMIT)

    def _change_size(self) -> None:
        self._change(SIZE, SIZE if self._in_force.get(SIZE) == OTHER_SIZE else OTHER_SIZE)

    def _set_wrong(self) -> None:
        before = self._in_force.get(LIMIT, LIMIT)
        self._change(LIMIT, "limit=30 monkeys")
        time.sleep(1.0)
        self._change(LIMIT, before)

    def _toggle_metrics(self) -> None:
        file = f"metrics_file={self._where}/memreap.prom"
        for value in (f"[memreap]\n{file}", "[memreap]"):
            self._change("[memreap]", value)
            time.sleep(2.0)

    # Processes of memreap, and supervisord.

    def _kill_child(self, name: str) -> None:
        for pid in self._children(name):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def _children(self, name: str) -> list[int]:
        found = []
        for pid in procfs.source().children(self._listener()):
            with contextlib.suppress(OSError):
                if Path(f"/proc/{pid}/comm").read_text().strip() == name:
                    found.append(pid)
        return found

    def _stop_history(self) -> None:
        for pid in self._children("memreap history"):
            _stop_for_a_while(pid, 1.0)

    def _stop_supervisord(self) -> None:
        _stop_for_a_while(int((self._where / "s.pid").read_text()), 1.0)

    def _kill_history(self) -> None:
        self._kill_child("memreap history")

    def _kill_reader(self) -> None:
        self._kill_child("memreap reader")

    # Commands and events.

    def _reap(self) -> None:
        self._command("reap myapp")

    def _roll(self) -> None:
        self._command("roll myapp")

    def _doctor(self) -> None:
        self._command("doctor id=soak")

    def _dance(self) -> None:
        self._command("dance all")

    def _pause(self) -> None:
        self._command("pause all")
        time.sleep(1.0)
        self._command("resume all")

    def _send_old_ticks(self) -> None:
        assert self._event
        for age in range(90, 30, -6):
            self._event("TICK_5", f"when:{int(time.time()) - age}")

    def _send_others(self) -> None:
        assert self._event
        self._event("PROCESS_STATE_EXITED", "processname:x groupname:x from_state:RUNNING expected:0 pid:1")
        self._event("TICK_60", f"when:{int(time.time())}")
        self._event("REMOTE_COMMUNICATION", "type:another\n" + "x" * 100_000)
        self._event("NEW_IN_5_0", "")


def _assert_older(workers: set[int], seconds: float) -> None:
    source = procfs.source()
    for pid in workers:
        with contextlib.suppress(ProcessLookupError):
            assert source.process(pid).age > seconds


def _stop_for_a_while(pid: int, seconds: float) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGSTOP)
        try:
            time.sleep(seconds)
        finally:
            os.kill(pid, signal.SIGCONT)
