"""How much memory is available to a process: on this host, and in each memory control group that it is in. Linux only.

A group's available memory is counted as kubelet does: its limit less its working set, which is its usage without the
inactive file pages that the kernel takes back first.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import NamedTuple

from supervisor_memreap.core.model import HOST, Holder, MemoryScope

# Limits from here on are none: version 1 says 2**63 less a page where there is no limit.
_UNLIMITED = 1 << 60
_PAGE = os.sysconf("SC_PAGE_SIZE")


class _Mount(NamedTuple):
    """A hierarchy of control groups."""

    root: str
    """The group that is seen at `point`: in a container, that of the container."""
    point: str
    version: int


class Group(NamedTuple):
    """A memory control group, as it was at this look."""

    version: int
    directory: str
    scope: MemoryScope | None
    """None: it limits nothing, and the kernel does not tell the pressure in it."""
    usage: int | None
    """Bytes, file pages included."""


class Memory:
    """One look's view: each file is read once. `root` is a directory that holds proc and sys, for recorded ones."""

    def __init__(self, root: str = "") -> None:
        self._root = root
        self._read: dict[str, str] = {}
        self._mounts: list[_Mount] | None = None
        self.groups: dict[str, Group] = {}
        """Those of all processes that were asked about, by directory."""

    def scopes(self, pid: int) -> tuple[MemoryScope, ...]:
        """What limits the memory of this process: the host, and its control groups from the innermost on.

        A group without a limit counts only where the kernel tells the pressure in it. What cannot be read is left out.
        """
        host = self._host()
        groups = [self._note_group(mount, directory) for mount, directory in self._directories(pid)]
        return (*([host] if host else []), *(group.scope for group in groups if group.scope))

    def directories(self, pid: int) -> list[tuple[int, str]]:
        """The directories of its control groups, each with the version of its hierarchy."""
        return [(mount.version, self._root + directory) for mount, directory in self._directories(pid)]

    def _host(self) -> MemoryScope | None:
        values = _table(self._text("/proc/meminfo"))
        if "MemTotal" not in values or "MemAvailable" not in values:
            return None
        pressure = _pressure(self._text("/proc/pressure/memory"))
        return MemoryScope(HOST, values["MemTotal"] * 1024, values["MemAvailable"] * 1024, pressure)

    def _note_group(self, mount: _Mount, directory: str) -> Group:
        usage = "memory.current" if mount.version == 2 else "memory.usage_in_bytes"
        scope, used = self._group(mount, directory), _number(self._text(f"{directory}/{usage}"))
        group = self.groups[directory] = Group(mount.version, self._root + directory, scope, used)
        return group

    def _group(self, mount: _Mount, directory: str) -> MemoryScope | None:
        name = f"control group {directory[len(mount.point) :] or mount.root}"
        stat = _table(self._text(f"{directory}/memory.stat"))
        if mount.version == 2:
            limits = [_number(self._text(f"{directory}/memory.{name}")) for name in ("max", "high")]
            usage = _number(self._text(f"{directory}/memory.current"))
            cache = stat.get("inactive_file", 0)
            pressure = _pressure(self._text(f"{directory}/memory.pressure"))
        else:
            limits = [_number(self._text(f"{directory}/memory.limit_in_bytes"))]
            usage = _number(self._text(f"{directory}/memory.usage_in_bytes"))
            cache = stat.get("total_inactive_file", stat.get("inactive_file", 0))
            pressure = None
        size = min((limit for limit in limits if limit is not None), default=None)
        if size is None or usage is None:
            return None if pressure is None else MemoryScope(name, None, None, pressure)
        return MemoryScope(name, size, max(0, size - max(0, usage - cache)), pressure)

    def _directories(self, pid: int) -> Iterator[tuple[_Mount, str]]:
        """Of the groups that this process is in, as they are seen here, the innermost first."""
        for line in self._text(f"/proc/{pid}/cgroup").splitlines():
            _, controllers, path = line.split(":", 2)
            version = 2 if controllers == "" else 1 if "memory" in controllers.split(",") else 0
            mount = next((mount for mount in self._all_mounts() if mount.version == version), None)
            below = None if mount is None else _below(mount.root, path)
            if mount is None or below is None:
                continue
            while True:
                directory = mount.point + below
                if directory != mount.point or mount.root != "/" or version == 1:
                    yield mount, directory
                elif self._text(f"{directory}/memory.max"):
                    yield mount, directory  # the top of a container with a namespace of its own
                if not below:
                    break
                below = below.rpartition("/")[0]

    def _all_mounts(self) -> list[_Mount]:
        if self._mounts is None:
            self._mounts = []
            for line in self._text("/proc/self/mountinfo").splitlines():
                before, _, after = line.partition(" - ")
                kind, _source, options = [*after.split(), "", "", ""][:3]
                version = 2 if kind == "cgroup2" else 1 if kind == "cgroup" and "memory" in options.split(",") else 0
                if version:
                    root, point = before.split()[3:5]
                    self._mounts.append(_Mount(root, point.rstrip("/"), version))
        return self._mounts

    def _text(self, path: str) -> str:
        if path not in self._read:
            try:
                with open(self._root + path, "rb", buffering=0) as file:
                    self._read[path] = file.read().decode(errors="replace")
            except OSError:
                self._read[path] = ""
        return self._read[path]

    def holders(self, scope: str, most: int = 3) -> tuple[Holder, ...]:
        """The processes that hold most memory in this scope, the largest first: for a reader."""
        held = []
        for pid in self._pids(scope):
            try:
                directory = f"{self._root}/proc/{pid}"
                with open(f"{directory}/statm", "rb") as statm, open(f"{directory}/comm", errors="replace") as comm:
                    held.append(Holder(pid, comm.read().strip(), int(statm.read().split()[1]) * _PAGE))
            except (OSError, ValueError, IndexError):
                pass  # it has just ended
        return tuple(sorted(held, key=lambda holder: -holder.resident)[:most])

    def _pids(self, scope: str) -> Iterator[int]:
        if scope == HOST:
            yield from (int(name) for name in os.listdir(f"{self._root}/proc") if name.isdigit())
            return
        for mount in self._all_mounts():
            top = f"{self._root}{mount.point}{_below(mount.root, scope.partition('control group ')[2]) or ''}"
            for directory, _, files in os.walk(top):
                if "cgroup.procs" in files:
                    with open(f"{directory}/cgroup.procs") as file:
                        yield from map(int, file.read().split())


def size_for(pid: int) -> tuple[int, str] | None:
    """The most memory that a process can have, in bytes, and what sets that: `machine` or `container`.

    None where this system does not tell.
    """
    scopes = [scope for scope in Memory().scopes(pid) if scope.size is not None]
    tightest = min(scopes, key=lambda scope: scope.size or 0, default=None)
    if tightest is None or tightest.size is None:
        return None
    return tightest.size, "machine" if tightest.name == HOST else "container"


def _below(root: str, path: str) -> str | None:
    """The path of a group below what is mounted; None: it is outside of that, as of another container."""
    top = root.rstrip("/")
    if path.startswith("/.."):
        return None
    return path[len(top) :].rstrip("/") if f"{path}/".startswith(f"{top}/") else None


def _table(text: str) -> dict[str, int]:
    """`Name: 12 kB` or `name 12`, a line each."""
    values = {}
    for line in text.splitlines():
        words = line.replace(":", " ").split()
        if len(words) >= 2 and words[1].isdigit():
            values[words[0]] = int(words[1])
    return values


def _number(text: str) -> int | None:
    value = text.strip()
    return int(value) if value.isdigit() and int(value) < _UNLIMITED else None


def _pressure(text: str) -> float | None:
    """The `avg10` of `some`: % of the last 10 s in which some task waited for memory."""
    for line in text.splitlines():
        kind, *words = line.split() or [""]
        for word in words:
            name, _, value = word.partition("=")
            if kind == "some" and name == "avg10":
                try:
                    return float(value)
                except ValueError:
                    return None
    return None
