"""Reads Linux's /proc: children, sizes, signals that are caught.

Every function takes a pid and raises ProcessLookupError if that process is gone, which is a normal case here. One file
is one answer of the kernel; two files are two answers.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import mmap
import os
import sys
import time
from collections.abc import Collection, Iterator
from pathlib import Path

from supervisor_memreap.core.model import ProcessId, ProcessMemory
from supervisor_memreap.core.servers import Loop, Names
from supervisor_memreap.host import reader, waiting
from supervisor_memreap.host.connections import Clients
from supervisor_memreap.host.procfile import listed, read, stat, status, variables
from supervisor_memreap.host.source import Process, Sizes, Source

_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")


def is_usable() -> bool:
    """Whether this is Linux with a /proc that lists children (CONFIG_PROC_CHILDREN)."""
    return sys.platform == "linux" and Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").exists()


@functools.cache
def uncounted() -> int:
    """Bytes that a process may have beyond what statm and VmRSS show, as proc_pid_statm(5) warns; 0 on most kernels.

    Linux 6.2 to 6.15 counts on each CPU, and adds that once it is max(32, 2 CPUs) pages: of each of four kinds of pages
    32 MiB may be missing with 64 CPUs. Before, each thread adds its own after 64 faults: 1 MiB for a worker with one.
    """
    # A kernel that adds all up shows just the pages that were touched. Another one shows none, or all that waited.
    if any(_growth_shown(8)[-1] == 8 for _ in range(4)):
        return 0
    cpus = os.cpu_count() or 1
    batch = max(32, 2 * cpus)
    # Distributions change kernels without changing their version. Where the two differ much, how many pages in a row
    # were not shown is what distinguishes them.
    by_thread = batch > 80 and max(_runs(_growth_shown(3 * batch))) <= 72
    return 4 * _PAGE * (64 if by_thread else batch * max(2, cpus))


def _growth_shown(touched: int) -> list[int]:
    """By how many pages this process is shown to have grown, after each page that it has touched."""
    shown = []
    with mmap.mmap(-1, touched * _PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as pages:
        with contextlib.suppress(OSError):  # a kernel that has no huge pages refuses it
            pages.madvise(mmap.MADV_NOHUGEPAGE)
        before = _resident_pages()
        for number in range(touched):
            pages[number * _PAGE] = 1
            shown.append(_resident_pages() - before)
    return shown


def _runs(values: list[int]) -> list[int]:
    """How many times in a row each of them comes."""
    return [len([*same]) for _, same in itertools.groupby(values)]


def _resident_pages() -> int:
    return int(read("/proc/self/statm").split()[1])


class Procfs(Source):
    """The view of one look. Nothing is cached: each answer is the kernel's at that moment."""

    def pids(self) -> Iterator[int]:
        # One after the other: a list of 16,000 would take 1 MB, which stays taken.
        with os.scandir("/proc") as entries:
            yield from (int(entry.name) for entry in entries if entry.name.isdecimal())

    def process(self, pid: int) -> Process:
        return process_of(pid, stat(pid))[0]

    def children(self, pid: int) -> list[int]:
        pids: list[int] = []
        for thread in listed(pid, "task"):
            try:
                pids.extend(map(int, read(f"/proc/{pid}/task/{thread}/children").split()))
            except (ProcessLookupError, PermissionError):
                pass  # that thread has ended; its children went to another one of the same process
        return pids

    def sizes(self, pid: int) -> Sizes:
        # Not statm: it has no swap, and a worker in swap is not smaller.
        values = status(pid, b"VmSize", b"VmRSS", b"VmSwap")
        size, resident, swapped = (int(value.split()[0]) * 1024 if value else 0 for value in values)
        return Sizes(size, resident + swapped, uncounted())

    def memory(self, pid: int) -> ProcessMemory:
        """This walks the page tables under the process's mmap lock, about 0.1 ms at 20 MB. Needs ptrace read rights."""
        return reader.memory(pid)

    def memories(self, pids: Collection[int], until: float) -> dict[int, ProcessMemory]:
        return reader.memories(pids, until)

    def catches(self, pid: int, signum: int) -> bool | None:
        (mask,) = status(pid, b"SigCgt")
        return bool(int(mask, 16) >> (signum - 1) & 1) if mask.strip() else None

    def idle(self, pid: int) -> bool | None:
        return waiting.idle(pid)

    def clients(self, pid: int) -> Clients:
        return waiting.clients(pid)

    def names(self, pid: int) -> Names:
        comm = read(f"/proc/{pid}/comm").decode(errors="replace").rstrip("\n")
        try:
            argv = reader.read(f"/proc/{pid}/cmdline").decode(errors="replace").split("\0")
        except PermissionError:
            argv = []
        return Names(comm, argv, _executable(pid))

    def environ(self, pid: int) -> dict[str, str]:
        return variables(reader.read(f"/proc/{pid}/environ"))

    def is_fork(self, pid: int, parent: int) -> bool | None:
        # Of proc_pid_stat(5): 26 startcode, 27 endcode, 28 startstack. A fork has its parent's; exec puts the stack at
        # a random place, and no title moves it. Without ptrace read rights it is 0.
        places = [stat(each)[23:26] for each in (pid, parent)]
        return None if any(place[2] == b"0" for place in places) else places[0] == places[1]

    def loop(self, pid: int, manager: int) -> Loop:
        return reader.loop(pid, manager)

    def watches_own(self, pid: int) -> bool:
        return reader.watches_own(pid)

    def activity(self, pid: int) -> str:
        state = stat(pid)[0].decode()
        try:
            place = read(f"/proc/{pid}/wchan").decode(errors="replace")
        except PermissionError:
            place = ""
        return f"state {state}" + (f", in {place}" if place not in ("", "0") else "")


def process_of(pid: int, fields: list[bytes]) -> tuple[Process, int]:
    """The process, and how many threads it has, by these fields of procfile.stat."""
    # Of proc_pid_stat(5): 4 parent, 11 cminflt, 20 threads, 22 start time. That one counts from the boot, so it never
    # jumps with the wall clock.
    start_time = int(fields[19]) / _TICKS
    age = max(0.0, time.clock_gettime(time.CLOCK_BOOTTIME) - start_time)
    process = Process(ProcessId(pid, start_time), int(fields[1]), age, fields[0] in (b"Z", b"X"), int(fields[8]))
    return process, int(fields[17])


def _executable(pid: int) -> str:
    """The name of the file that the process runs, also where an upgrade has replaced it; empty: it may not be read."""
    try:
        path = os.readlink(f"/proc/{pid}/exe")
    except OSError:
        return ""
    return path.rpartition("/")[2].partition(" (deleted)")[0]


_IS_USABLE = is_usable()


def source() -> Source:
    """A fresh view of this system, for one look."""
    return Procfs() if _IS_USABLE else Source()
