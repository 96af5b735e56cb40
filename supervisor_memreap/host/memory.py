"""How much memory is available to a process: on this host, and in each of its memory control groups. Linux only.

A group's available memory is counted as kubelet does: its limit minus its working set, which is its usage without the
inactive file pages, since the kernel takes those back first.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from supervisor_memreap.core.frozen import replace
from supervisor_memreap.core.model import HOST, Holder, MemoryScope

# Values from here on mean no limit: version 1 shows 2**63 minus a page if there is none.
_UNLIMITED = 1 << 60
_PAGE = os.sysconf("SC_PAGE_SIZE")
# The start of the name of a scope that is a control group; then comes its path as in /proc/PID/cgroup.
_GROUP = "control group "
_ROW = re.compile(r"^([^\s:]+):?[^\S\n]+([0-9]+)(?=\s|$)", re.MULTILINE)
_AVG10 = re.compile(r"^some (?:.* )?avg10=([0-9]+(?:\.[0-9]+)?)(?=\s|$)", re.MULTILINE)


class _Mount(NamedTuple):
    """A hierarchy of control groups."""

    root: str
    """The group mounted at `point`: in a container, the container's group."""
    point: str
    version: int


class Group(NamedTuple):
    """A memory control group at this look."""

    version: int
    directory: str
    scope: MemoryScope | None
    """None: it limits nothing, and the kernel does not report its pressure."""
    usage: int | None
    """Bytes, file pages included."""


class Memory:
    """The view of one look: each file is read once. `root` holds recorded proc and sys."""

    def __init__(self, root: str = "") -> None:
        self._root = root
        self._read: dict[str, str] = {}
        self._mounts: list[_Mount] | None = None
        self.groups: dict[str, Group] = {}
        """The groups of all processes that were asked about, by directory."""

    def scopes(self, pid: int) -> tuple[MemoryScope, ...]:
        """What limits the memory of this process: the host, then its control groups, the innermost first.

        A group without a limit counts only if the kernel reports its pressure. What cannot be read is left out.
        """
        host = self._host()
        scopes: dict[str, MemoryScope] = {}
        for mount, directory in self._directories(pid):
            scope = self._note_group(mount, directory).scope
            if scope:
                # If both versions are in use, 1 has the limit, and 2 the pressure of the group with the same path.
                scopes[scope.name] = _merged(scopes.get(scope.name, scope), scope)
        return (*([host] if host else []), *scopes.values())

    def directories(self, pid: int) -> list[tuple[int, str]]:
        """The directories of this process's control groups, each with the version of its hierarchy."""
        return [(mount.version, self._root + directory) for mount, directory in self._directories(pid)]

    def oom_counter(self, pid: int) -> tuple[str, int | None, str]:
        """Where the kernel counts it if its OOM killer ends this process: the scope, its own limit in bytes, the file.

        That is the innermost group which controls memory, whatever was short. In version 2 memory.events has the groups
        below too; memory.events.local (Linux 5.2) has not.
        """
        for mount, directory in self._directories(pid):
            names = ("memory.oom_control",) if mount.version == 1 else ("memory.events.local", "memory.events")
            for name in names:
                if "oom_kill" in _table(self._text(f"{directory}/{name}")):
                    scope = self._limit_and_usage(mount, directory)[0]
                    return _name(mount, directory), scope.size if scope else None, f"{self._root}{directory}/{name}"
        return HOST, None, f"{self._root}/proc/vmstat"

    def hidden_groups(self, pid: int) -> list[str]:
        """The paths of its memory control groups that are not visible here, such as those of another container."""
        paths = self._paths(pid)
        version = 1 if 1 in paths else 2  # version 2 has memory only if 1 has not
        path = paths.get(version, "/")
        return [path] if path != "/" and self._visible(version, path) is None else []

    def _host(self) -> MemoryScope | None:
        values = _table(self._text("/proc/meminfo"))
        if "MemTotal" not in values or "MemAvailable" not in values:
            return None
        pressure = _pressure(self._text("/proc/pressure/memory"))
        return MemoryScope(HOST, values["MemTotal"] * 1024, values["MemAvailable"] * 1024, pressure)

    def _note_group(self, mount: _Mount, directory: str) -> Group:
        scope, usage = self._limit_and_usage(mount, directory)
        group = self.groups[directory] = Group(mount.version, self._root + directory, scope, usage)
        return group

    def _limit_and_usage(self, mount: _Mount, directory: str) -> tuple[MemoryScope | None, int | None]:
        """What limits this group, if anything does, and the bytes that it uses."""
        name = _name(mount, directory)
        stat = _table(self._text(f"{directory}/memory.stat"))
        if mount.version == 2:
            limits = [_number(self._text(f"{directory}/memory.{key}")) for key in ("max", "high")]
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
            return (None if pressure is None else MemoryScope(name, None, None, pressure)), usage
        return MemoryScope(name, size, max(0, size - max(0, usage - cache)), pressure), usage

    def _directories(self, pid: int) -> Iterator[tuple[_Mount, str]]:
        """The directories of this process's groups, as visible here, the innermost first."""
        for version, path in self._paths(pid).items():
            visible = self._visible(version, path)
            if visible is None:
                continue
            mount, below = visible
            while True:
                directory = mount.point + below
                # The top of version 2 is a group only in a container with its own namespace; otherwise it is the host.
                if below or mount.root != "/" or version == 1 or self._text(f"{directory}/memory.max"):
                    yield mount, directory
                if not below:
                    break
                below = below.rpartition("/")[0]

    def _paths(self, pid: int) -> dict[int, str]:
        """The path of this process's group in each hierarchy that may control memory, by version."""
        paths = {}
        for line in self._text(f"/proc/{pid}/cgroup").splitlines():
            _, controllers, path = [*line.split(":", 2), "", ""][:3]
            if path.startswith("/") and (controllers == "" or "memory" in controllers.split(",")):
                paths[1 if controllers else 2] = path
        return paths

    def _visible(self, version: int, path: str) -> tuple[_Mount, str] | None:
        """Where this group is mounted, and its path below that; None: it is not visible here."""
        for mount in self._all_mounts():
            below = _below(mount.root, path)
            if mount.version == version and below is not None:
                return mount, below
        return None

    def _all_mounts(self) -> list[_Mount]:
        if self._mounts is None:
            self._mounts = []
            for line in self._text("/proc/self/mountinfo").splitlines():
                before, _, after = line.partition(" - ")
                root, point = [*before.split(), "", "", "", "", ""][3:5]
                kind, _source, options = [*after.split(), "", "", ""][:3]
                version = 2 if kind == "cgroup2" else 1 if kind == "cgroup" and "memory" in options.split(",") else 0
                if version:
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

    def holders(self, scope: str) -> tuple[Holder, ...]:
        """The processes that hold most memory in this scope, as `largest`."""
        held = []
        for pid in self._pids(scope):
            try:
                directory = f"{self._root}/proc/{pid}"
                with open(f"{directory}/statm", "rb") as statm, open(f"{directory}/comm", errors="replace") as comm:
                    held.append(Holder(pid, comm.read().strip(), int(statm.read().split()[1]) * _PAGE))
            except (OSError, ValueError, IndexError):
                pass  # it has just ended
        return largest(held)

    def _pids(self, scope: str) -> Iterator[int]:
        if scope == HOST:
            yield from (int(name) for name in os.listdir(f"{self._root}/proc") if name.isdigit())
            return
        pids: set[int] = set()  # if both versions are in use, a process is in a group of each
        for mount in self._all_mounts():
            below = _below(mount.root, scope[len(_GROUP) :])
            for directory, _, _ in os.walk(f"{self._root}{mount.point}{below}") if below is not None else ():
                words = self._text(f"{directory[len(self._root) :]}/cgroup.procs").split()
                pids.update(int(pid) for pid in words if pid.isdecimal())
        yield from pids


def largest(held: Iterable[Holder]) -> tuple[Holder, ...]:
    """Those three that hold most, the largest first: enough to know what to look at."""
    return tuple(sorted(held, key=lambda holder: -holder.resident)[:3])


def size_for(pid: int) -> tuple[int, str] | None:
    """The most memory that a process can have, in bytes, and what limits it: `machine` or `container`.

    None if this system does not report it.
    """
    scopes = [scope for scope in Memory().scopes(pid) if scope.size is not None]
    tightest = min(scopes, key=lambda scope: scope.size or 0, default=None)
    if tightest is None or tightest.size is None:
        return None
    return tightest.size, "machine" if tightest.name == HOST else "container"


def _name(mount: _Mount, directory: str) -> str:
    """The scope of this group."""
    return f"{_GROUP}{mount.root.rstrip('/') + directory[len(mount.point) :] or '/'}"


def _below(root: str, path: str) -> str | None:
    """The path of a group below the mounted one; None: it is outside, such as a group of another container."""
    top = root.rstrip("/")
    if f"{path}/".startswith("/../"):
        return None
    return path[len(top) :].rstrip("/") if f"{path}/".startswith(f"{top}/") else None


def _merged(scope: MemoryScope, other: MemoryScope) -> MemoryScope:
    """What two hierarchies report about one group."""
    limited, pressure = (other if scope.size is None else scope), (other if scope.pressure is None else scope).pressure
    return replace(limited, pressure=pressure)


def _table(text: str) -> dict[str, int]:
    """Parse lines such as `Name: 12 kB` or `name 12`."""
    return {name: int(value) for name, value in _ROW.findall(text)}


def _number(text: str) -> int | None:
    value = text.strip()
    return int(value) if value.isdecimal() and int(value) < _UNLIMITED else None


def _pressure(text: str) -> float | None:
    """The `avg10` of `some`: % of the last 10 s in which some task waited for memory."""
    match = _AVG10.search(text)
    return float(match[1]) if match else None
