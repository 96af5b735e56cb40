"""A real control group with a limit on its memory, of version 1 or 2, made for one test."""

from __future__ import annotations

import contextlib
import os
import signal
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from support.driver import eventually

# Version 2 has a freezer also where version 1 controls the memory.
UNIFIED = Path("/sys/fs/cgroup/unified")
V1, V2 = Path("/sys/fs/cgroup/memory"), Path("/sys/fs/cgroup")
CANNOT = "no control group with a limit on memory can be made here: "


class Group:
    def __init__(self, directory: Path):
        self.directory = directory
        self.version = 1 if directory.is_relative_to(V1) else 2

    @property
    def command(self) -> list[str]:
        """What runs the command behind it in this group."""
        return ["/bin/sh", "-c", 'echo $$ > "$0/cgroup.procs" && exec "$@"', str(self.directory)]

    @property
    def oom_kills(self) -> int:
        """Processes in it that the kernel has ended since there was no memory left."""
        text = (self.directory / ("memory.oom_control" if self.version == 1 else "memory.events")).read_text()
        return int(dict(line.split() for line in text.splitlines())["oom_kill"])

    def pids(self) -> list[int]:
        return list(map(int, (self.directory / "cgroup.procs").read_text().split()))

    def remove(self) -> None:
        """With all that is still in it."""
        for pid in self.pids():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        eventually(self._assert_removed)

    def _assert_removed(self) -> None:
        try:
            self.directory.rmdir()
        except OSError as error:
            raise AssertionError(f"{error}; in it: {self.pids()}") from None


@contextlib.contextmanager
def made(limit: int, may_swap: bool = False) -> Iterator[Group]:
    """One with this limit, in bytes; skips where none can be made. What is still in it at the end is ended by force."""
    is_v1 = (V1 / "memory.limit_in_bytes").exists()
    try:
        directory = Path(tempfile.mkdtemp(prefix="memreap-tests-", dir=V1 if is_v1 else V2))
    except OSError as error:
        pytest.skip(f"{CANNOT}{error.strerror}")
    group = Group(directory)
    try:
        try:
            (directory / ("memory.limit_in_bytes" if is_v1 else "memory.max")).write_text(str(limit))
            without_swap = directory / ("memory.swappiness" if is_v1 else "memory.swap.max")
            if without_swap.exists() and not may_swap:  # not there where the kernel has no swap
                without_swap.write_text("0")
        except OSError as error:
            pytest.skip(f"{CANNOT}{error.strerror}")
        yield group
    finally:
        group.remove()


@contextlib.contextmanager
def freezer() -> Iterator[Callable[[], None]]:
    """Freezes the process that calls it, in a group of version 2; skips where none can be made."""
    try:
        directory = Path(tempfile.mkdtemp(prefix="memreap-tests-", dir=UNIFIED if UNIFIED.exists() else V2))
    except OSError as error:
        pytest.skip(f"no control group can be made here: {error.strerror}")
    group = Group(directory)
    try:
        if not (directory / "cgroup.freeze").exists():
            pytest.skip("no control group of version 2 with a freezer can be made here")

        def freeze() -> None:
            (directory / "cgroup.freeze").write_text("0")
            (directory / "cgroup.procs").write_text("0")
            (directory / "cgroup.freeze").write_text("1")

        yield freeze
    finally:
        group.remove()
