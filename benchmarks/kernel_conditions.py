"""The conditions of benchmarks/kernel_guest.py: who asks, Yama, hidepid, control groups of version 2.

Each is a context manager that reads back that it is really there, and undoes it.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import select
import signal
import socket
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from supervisor_memreap.host import procfs
from supervisor_memreap.host.procfile import status

MIB = 1024**2
PATIENCE = 120.0
"""Seconds for what must come: everything is some thirty times slower in the emulator."""
QUICK = 4.0
"""Seconds for what must not come."""
YAMA, CGROUPS = Path("/proc/sys/kernel/yama/ptrace_scope"), Path("/sys/fs/cgroup")
LONGEST = 600
"""Seconds for what a process of another identity does."""
POOL_USER, OTHER_USER = 33, 1000
_LIBC = ctypes.CDLL(None, use_errno=True)


class Identity(NamedTuple):
    user: int
    capabilities: int = 0


SYS_PTRACE = 1 << 19
ROOT = Identity(0, int(status(os.getpid(), b"CapEff")[0], 16))
# Docker's default. Later kernels let a root with CAP_PERFMON or CAP_SYS_ADMIN, which that lacks too, read smaps_rollup.
ROOT_WITHOUT = Identity(0, 0xA80425FB)
OWNER, OWNER_WITH, OTHER = Identity(POOL_USER), Identity(POOL_USER, SYS_PTRACE), Identity(OTHER_USER)


def _become(identity: Identity) -> None:
    """For good. Raises OSError."""
    _call(_LIBC.prctl, 8, 1, 0, 0, 0)  # PR_SET_KEEPCAPS
    os.setgroups([])
    os.setresgid(*[identity.user] * 3)
    os.setresuid(*[identity.user] * 3)
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)  # _LINUX_CAPABILITY_VERSION_3
    low, high = identity.capabilities & 0xFFFFFFFF, identity.capabilities >> 32
    _call(_LIBC.capset, header, (ctypes.c_uint32 * 6)(low, low, 0, high, high, 0))
    _call(_LIBC.prctl, 4, 1, 0, 0, 0)  # PR_SET_DUMPABLE: its own files in /proc stay its own
    assert os.getuid() == identity.user
    assert int(status(os.getpid(), b"CapEff")[0], 16) == identity.capabilities


def _call(function: Any, *arguments: Any) -> None:
    if function(*arguments) == -1:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def run_as(identity: Identity, function: Callable[[], Any]) -> Any:
    """What the function returns, as JSON, from a process of that identity."""
    readable, writable = os.pipe()
    child = os.fork()
    if child == 0:
        with contextlib.suppress(BaseException):
            try:
                signal.alarm(LONGEST)
                _become(identity)
                os.write(writable, json.dumps(function()).encode())
            except BaseException:
                traceback.print_exc()
        os._exit(0)
    os.close(writable)
    with open(readable, "rb") as pipe:
        answer = pipe.read()
    os.waitpid(child, 0)
    assert answer, "it failed, see above"
    return json.loads(answer)


@contextlib.contextmanager
def yama(scope: int) -> Iterator[None]:
    before = YAMA.read_text()
    YAMA.write_text(str(scope))
    try:
        assert YAMA.read_text().strip() == str(scope)
        yield
    finally:
        if scope != 3:  # of which there is no way back
            YAMA.write_text(before)


@contextlib.contextmanager
def hidepid(word: str) -> Iterator[None]:
    _remount(f"hidepid={word}")
    try:
        assert f"hidepid={word}" in Path("/proc/mounts").read_text()
        yield
    finally:
        _remount("hidepid=off")
        assert "hidepid=" not in Path("/proc/mounts").read_text()


def _remount(options: str) -> None:
    _mount("proc", "/proc", "proc", 32, options)  # MS_REMOUNT


def _mount(source: str, target: str, kind: str, flags: int, options: str = "") -> None:
    _call(_LIBC.mount, source.encode(), target.encode(), kind.encode(), ctypes.c_ulong(flags), options.encode())


def enter_new_control_group_namespace() -> None:
    """For good, as a container: its group becomes the top of what it sees in /sys/fs/cgroup."""
    _call(_LIBC.unshare, 0x02000000 | 0x00020000)  # CLONE_NEWCGROUP, CLONE_NEWNS
    _mount("none", "/", "none", 0x44000)  # MS_REC | MS_PRIVATE
    _call(_LIBC.umount2, str(CGROUPS).encode(), 2)  # MNT_DETACH
    _mount("cgroup2", str(CGROUPS), "cgroup2", 0)


class Group:
    """A group of version 2, with its controllers for those below it; removed at the end with all that is in it."""

    def __init__(self, path: str, **limits: int):
        self.path = f"/{path}"
        self.directory = CGROUPS / path
        for above in reversed(self.directory.relative_to(CGROUPS).parents):
            (CGROUPS / above / "cgroup.subtree_control").write_text("+memory")
        self.directory.mkdir()
        for key, value in limits.items():
            self.write(f"memory.{key}", str(value))
            assert int(self.read(f"memory.{key}")) == value

    def read(self, name: str) -> str:
        return (self.directory / name).read_text()

    def write(self, name: str, text: str) -> None:
        (self.directory / name).write_text(text)

    def events(self, name: str = "memory.events") -> dict[str, int]:
        return {key: int(value) for key, value in map(str.split, self.read(name).splitlines())}

    def add(self, pid: int) -> None:
        self.write("cgroup.procs", str(pid))
        assert Path(f"/proc/{pid}/cgroup").read_text().strip() == f"0::{self.path}"

    @contextlib.contextmanager
    def frozen(self) -> Iterator[None]:
        self.write("cgroup.freeze", "1")
        try:
            wait_until(lambda: self.events("cgroup.events")["frozen"] == 1)
            yield
        finally:
            self.write("cgroup.freeze", "0")

    def __enter__(self) -> Group:
        return self

    def __exit__(self, *_: object) -> None:
        self.write("cgroup.kill", "1")
        wait_until(self._is_removed)

    def _is_removed(self) -> bool:
        # Removal is refused as busy while processes of it still end.
        self.directory.rmdir()
        return True


class Hog:
    """A process in a group that takes as many MiB as it is asked for."""

    def __init__(self, group: Group):
        orders, self._orders = os.pipe()
        answers, answer = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            os.close(self._orders)
            held = []
            while size := os.read(orders, 1):
                held.append(bytearray(b"x") * (size[0] * MIB))
                os.write(answer, b".")
            os._exit(0)
        os.close(orders)
        os.close(answer)
        self._answers = answers
        self.id = procfs.source().process(self.pid).id
        group.add(self.pid)

    def take(self, size: int, patience: float = PATIENCE) -> bool:
        """Whether it has them, in time; False: not yet, or it was killed."""
        with contextlib.suppress(BrokenPipeError):
            os.write(self._orders, bytes([size]))
        readable, _, _ = select.select([self._answers], [], [], patience)
        return bool(readable) and bool(os.read(self._answers, 1))

    def __enter__(self) -> Hog:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._orders)
        os.close(self._answers)
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)


def wait_until(holds: Callable[[], object], patience: float = PATIENCE) -> None:
    deadline = time.monotonic() + patience
    while True:
        trouble = ""
        try:
            if holds():
                return
        except (OSError, socket.timeout) as error:
            trouble = str(error)
        assert time.monotonic() < deadline, f"not within {patience:.0f} s {trouble}"
        time.sleep(0.1)
