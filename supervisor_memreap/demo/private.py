"""A private supervisord in its own temporary directory; both are removed at the end, whatever happened.

The end is not asked for but made: all that runs in the session of that supervisord gets SIGKILL. Nothing there is worth
an orderly end, and that one can take long: workers of FCGI::ProcManager that are signalled right after their fork spin
for `die_timeout`, and a manager that is ended by force meanwhile leaves them behind.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

from supervisor_memreap.demo.prefork import end_with_parent

_PREFIX = "memreap-demo-"
_END = 10.0


@contextlib.contextmanager
def directory() -> Iterator[Path]:
    """A temporary directory, with a path that leaves room for a unix socket's 107 bytes.

    And without a %: supervisor 4.3.0 expands the names of log files twice, so that no escape of it survives. It is
    locked while the demo lives. Those of demos that were ended by SIGKILL, and could not remove theirs, are removed.
    """
    usual = tempfile.gettempdir()
    parent = usual if len(usual) < 70 and "%" not in usual else "/tmp"
    for old in Path(parent).glob(f"{_PREFIX}*"):
        _sweep(old)
    path, lock = _create(parent)
    try:
        yield path
    finally:
        try:
            shutil.rmtree(path)
        except OSError as error:
            print(f"memreap demo: {path} could not be removed: {error}", file=sys.stderr)
        os.close(lock)


def _create(parent: str) -> tuple[Path, int]:
    while True:
        path = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=parent))
        # Another demo that begins now may have taken it for one that was left.
        with contextlib.suppress(FileNotFoundError):
            lock = os.open(path, os.O_RDONLY)
            fcntl.flock(lock, fcntl.LOCK_EX)
            if path.exists():
                return path, lock
            os.close(lock)


def _sweep(path: Path) -> None:
    """Remove this directory if it is ours and no demo holds its lock."""
    try:
        if path.is_symlink() or path.stat().st_uid != os.geteuid():
            return
        lock = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError:
        return
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(path, ignore_errors=True)
    except OSError:
        pass  # in use
    finally:
        os.close(lock)


class Supervisord:
    """It runs from `with` on; at the end it and all below it are gone."""

    def __init__(self, directory: Path, conf: str) -> None:
        self._directory = directory
        (directory / "supervisord.conf").write_text(conf)

    def __enter__(self) -> Supervisord:
        _adopt_orphans()
        package = Path(__file__).parent.parent.parent
        parent = os.getpid()

        def end_with_demo() -> None:
            end_with_parent(signal.SIGTERM, parent)

        # A session of its own: Ctrl-C in the terminal is for the demo alone, and all its processes can be listed.
        # With -m, this Python and those below it import from their current directory: no other user may enter ours.
        self._process = subprocess.Popen(
            [sys.executable, "-m", "supervisor.supervisord", "-n", "-c", str(self._directory / "supervisord.conf")],
            cwd=self._directory,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            preexec_fn=end_with_demo,
            env={
                **os.environ,
                "TMPDIR": str(self._directory),
                "XDG_RUNTIME_DIR": str(self._directory),
                # From a checkout that is not installed it is the directory of the package that makes it importable.
                "PYTHONPATH": os.pathsep.join(filter(None, (str(package), os.environ.get("PYTHONPATH")))),
            },
        )
        return self

    def __exit__(self, *_: object) -> None:
        deadline = time.monotonic() + _END
        # Twice: what was forked while the first look went on, by a process that has ended meanwhile, is in the second.
        while left := self._left() or self._left():
            for process in left:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
            if time.monotonic() > deadline:
                pids = " ".join(str(process.pid) for process in left)
                print(f"memreap demo: could not end these processes: {pids}", file=sys.stderr)
                break
            time.sleep(0.01)
        self._process.wait(_END)

    def has_ended(self) -> bool:
        # Not by Popen.poll(): while it is not waited for, no other process gets its pid, and no session its number.
        return _is_zombie(psutil.Process(self._process.pid))

    def _left(self) -> list[psutil.Process]:
        """All processes of its session, but itself once it has ended. Those that were left to us are collected."""
        left = []
        for pid in psutil.pids():
            with contextlib.suppress(psutil.NoSuchProcess, ProcessLookupError, PermissionError):
                if os.getsid(pid) == self._process.pid:
                    process = psutil.Process(pid)
                    if not _is_zombie(process) or (pid != self._process.pid and not _collected(pid)):
                        left.append(process)
        return left


def _is_zombie(process: psutil.Process) -> bool:
    return bool(process.status() == psutil.STATUS_ZOMBIE)


def _collected(pid: int) -> bool:
    try:
        return os.waitpid(pid, os.WNOHANG)[0] == pid
    except ChildProcessError:
        return False  # of another parent


def _adopt_orphans() -> None:
    """On Linux: what loses its parent below us becomes our child, and is collected by us.

    Else it is by process 1, and in a container that may be a program that collects none.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER
