"""A memory control group of version 1 for a pool of its own: what that pool holds, by the kernel's own count."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from support.driver import eventually

HIERARCHY = Path("/sys/fs/cgroup/memory")


class MemoryGroup:
    def __init__(self, directory: Path):
        self.directory = directory

    def command(self, command: str) -> str:
        """The command that runs this one in the group, for supervisord."""
        return f"sh -c 'echo $$ > {self.directory}/cgroup.procs && exec {command}'"

    def usage(self) -> int:
        """Bytes that count against its limit: memory, page cache and the kernel's own, such as page tables."""
        return int((self.directory / "memory.usage_in_bytes").read_text())

    def anonymous(self) -> int:
        """Bytes that no file backs."""
        return self._stat("total_rss")

    def swapped(self) -> int:
        return self._stat("total_swap")

    def limit(self, size: int) -> None:
        """In bytes. What is over it goes to swap before this returns."""
        (self.directory / "memory.limit_in_bytes").write_text(str(size))

    def _stat(self, name: str) -> int:
        lines = (line.split() for line in (self.directory / "memory.stat").read_text().splitlines())
        return next(int(value) for key, value in lines if key == name)


def why_not() -> str:
    """Why this user can make none here; empty: it can."""
    try:
        with memory_group():
            return ""
    except OSError as error:
        return f"no memory control group of version 1 can be made here: {error.strerror}"


@contextlib.contextmanager
def memory_group() -> Iterator[MemoryGroup]:
    """Raises OSError. At the end its processes must have ended."""
    directory = _own() / f"memreap-{os.getpid()}"
    directory.mkdir()
    try:
        yield MemoryGroup(directory)
    finally:
        eventually(lambda: _remove(directory))


def _remove(directory: Path) -> None:
    try:
        directory.rmdir()
    except OSError as error:  # a process is still ending
        raise AssertionError(f"{directory}: {error}") from None


def _own() -> Path:
    """The group of this process, so that its limits hold for the new one too."""
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "memory" and (HIERARCHY / path.lstrip("/")).exists():
            return HIERARCHY / path.lstrip("/")
    return HIERARCHY
