"""A memory control group for one pool: what that pool holds, by the kernel's own count."""

from __future__ import annotations

import contextlib
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from support import cgroup
from support.driver import eventually

_UNLIMITED = 1 << 62
# By version: the files and the key of memory.stat.
_USAGE = {1: "memory.usage_in_bytes", 2: "memory.current"}
_PEAK = {1: "memory.max_usage_in_bytes", 2: "memory.peak"}
_LIMIT = {1: "memory.limit_in_bytes", 2: "memory.max"}
_ANONYMOUS = {1: "total_rss", 2: "anon"}


class MemoryGroup(cgroup.Group):
    def running(self, command: str) -> str:
        """The command that runs this one in the group, for supervisord."""
        return f"{shlex.join(self.command)} {command}"

    def usage(self) -> int:
        """Bytes that count against its limit: memory, page cache and the kernel's own, such as page tables."""
        return int((self.directory / _USAGE[self.version]).read_text())

    def peak(self) -> int:
        """The most that `usage` ever was."""
        return int((self.directory / _PEAK[self.version]).read_text())

    def anonymous(self) -> int:
        """Bytes that no file backs."""
        lines = (line.split() for line in (self.directory / "memory.stat").read_text().splitlines())
        return next(int(value) for key, value in lines if key == _ANONYMOUS[self.version])

    @contextlib.contextmanager
    def limited(self, size: int) -> Iterator[None]:
        """With this limit, in bytes. What is over it is in swap then."""
        file = self.directory / _LIMIT[self.version]
        eventually(lambda: _write(file, size))
        try:
            yield
        finally:
            file.write_text(str(_UNLIMITED))


def _write(file: Path, size: int) -> None:
    try:
        file.write_text(str(size))
    except OSError as error:  # the kernel has not yet pushed enough into swap
        raise AssertionError(str(error)) from None


def why_not() -> str:
    """Why this user can make none here; empty: it can."""
    try:
        with memory_group():
            return ""
    except pytest.skip.Exception as reason:
        return str(reason)


@contextlib.contextmanager
def memory_group() -> Iterator[MemoryGroup]:
    """Raises as support.cgroup.made does."""
    with cgroup.made(_UNLIMITED, may_swap=True) as group:
        yield MemoryGroup(group.directory)
