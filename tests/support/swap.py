"""A swap file, switched on for a test and off again; and processes that are pushed into swap."""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

MIB = 1024**2
_SIZE = 512 * MIB
# The part of the disk that stays free.
_SPARE = 2048 * MIB
# Of <linux/mman.h>, and the number of the system call, the same on all architectures.
_MADV_PAGEOUT, _PROCESS_MADVISE = 21, 440


class CannotSwap(Exception):
    """Why no swap file can be switched on here."""


class _Range(ctypes.Structure):
    _fields_ = (("start", ctypes.c_void_p), ("length", ctypes.c_size_t))


@contextlib.contextmanager
def swap_file() -> Iterator[None]:
    """Raises CannotSwap. At the end all that is in it is read back into memory."""
    program = shutil.which("mkswap")
    if os.getuid() != 0 or not program:
        raise CannotSwap("only root can switch a swap file on, with mkswap")
    with _locked(program), _switched_on():
        yield


@contextlib.contextmanager
def _locked(path: str) -> Iterator[None]:
    """One such file at a time on this machine.

    The kernel chooses the file. With two, a worker of one test may be in the file of the other test, and comes back
    into memory when that one is switched off.
    """
    with open(path, "rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def _switched_on() -> Iterator[None]:
    directory = Path(tempfile.mkdtemp(prefix="memreap-swap-"))
    file = directory / "swap"
    try:
        if shutil.disk_usage(directory).free < _SIZE + _SPARE:
            raise CannotSwap("too little disk is free for a swap file")
        file.touch(0o600)
        with file.open("wb") as stream:
            for _ in range(_SIZE // MIB):
                stream.write(bytes(MIB))
        _run("mkswap", file)
        _run("swapon", file)
        try:
            yield
        finally:
            _run("swapoff", file)
    finally:
        shutil.rmtree(directory)


def _run(command: str, file: Path) -> None:
    result = subprocess.run([command, file], capture_output=True, text=True, check=False)
    if result.returncode:
        raise CannotSwap(f"no swap file can be switched on here: {result.stderr.strip()}")


def page_out(pid: int) -> None:
    """Push what this process holds for itself into swap. Raises OSError."""
    libc = ctypes.CDLL(None, use_errno=True)
    pidfd = os.pidfd_open(pid)
    try:
        for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
            start, end, rights, name = re.fullmatch(r"(\w+)-(\w+) (\S+) \w+ \S+ \d+ *(.*)", line).groups()
            if "w" not in rights or name.startswith("[v"):
                continue
            area = _Range(int(start, 16), int(end, 16) - int(start, 16))
            done = libc.syscall(
                _PROCESS_MADVISE, pidfd, ctypes.byref(area), ctypes.c_size_t(1), _MADV_PAGEOUT, ctypes.c_uint(0)
            )
            if done < 0:
                raise OSError(ctypes.get_errno(), f"process_madvise: {os.strerror(ctypes.get_errno())}")
    finally:
        os.close(pidfd)
