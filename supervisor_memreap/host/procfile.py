"""Reads a file of /proc/PID, and distinguishes a process that is gone from a hidden one."""

from __future__ import annotations

import errno
import os


def read(path: str) -> bytes:
    """Return the whole file.

    Raises ProcessLookupError where the process is gone; PermissionError where the file may not be read, the kernel does
    not have it, the process is hidden from this user (hidepid of proc(5)), or only the thread is gone whose file it is.
    """
    try:
        with open(path, "rb", buffering=0) as file:
            return file.read()
    except FileNotFoundError:
        raise missing(int(path.split("/")[2]), path) from None
    except ProcessLookupError:
        # It ended since the file was opened: 53 of 42,516 readings of a worker that starts and ends threads.
        if "/task/" in path:
            raise missing(int(path.split("/")[2]), path) from None
        raise


def read_part(path: str, offset: int, length: int) -> bytes:
    """Return a part of the file; empty where it holds nothing there, as /proc/PID/mem. Raises as `read` does."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        raise missing(int(path.split("/")[2]), path) from None
    try:
        return os.pread(fd, length, offset) if offset < 1 << 63 else b""
    except OSError as error:
        if error.errno == errno.EIO:
            return b""
        raise
    finally:
        os.close(fd)


def listed(pid: int, directory: str) -> list[str]:
    """The names in a directory of /proc/PID, `task` or `fd`. Raises as `read` does."""
    path = f"/proc/{pid}/{directory}"
    try:
        return os.listdir(path)
    except FileNotFoundError:
        raise missing(pid, path) from None


def link(pid: int, fd: int) -> str:
    """What this descriptor is. Empty: it was closed since the list was read, or is a file with a path that is too long.

    Raises ProcessLookupError, PermissionError.
    """
    try:
        return os.readlink(f"/proc/{pid}/fd/{fd}")
    except FileNotFoundError:
        return ""
    except OSError as error:
        # Of a path of more than 4,096 bytes, as any process may have one.
        if error.errno == errno.ENAMETOOLONG:
            return ""
        raise


def stat(pid: int) -> list[bytes]:
    """The fields of proc_pid_stat(5) from the state on, which is the 3rd there. Raises as `read` does."""
    return fields(read(f"/proc/{pid}/stat"))


def fields(stat: bytes) -> list[bytes]:
    """Those of `stat` in the content of that file."""
    # The name is in parentheses and may contain parentheses, spaces and newlines: the fields follow the last one.
    return stat.rpartition(b")")[2].split()


def status(pid: int, *keys: bytes) -> list[bytes]:
    """The values of these keys in /proc/PID/status; empty for one that is not there. Raises as `read` does."""
    text = read(f"/proc/{pid}/status")
    values = []
    for key in keys:
        # At the beginning of a line: the kernel escapes newlines in Name, so no name can forge one.
        start = text.find(b"\n" + key + b":")
        values.append(text[start + len(key) + 2 : text.find(b"\n", start + 1)].strip() if start >= 0 else b"")
    return values


def variables(environ: bytes) -> dict[str, str]:
    """What /proc/PID/environ holds; empty where the process has overwritten it, as Perl does when it sets its title."""
    pairs = (entry.partition("=") for entry in os.fsdecode(environ).split("\0"))
    return {name: value for name, equals, value in pairs if name and equals}


def missing(pid: int, path: str) -> OSError:
    """Why this path of /proc/PID is not there: the error to raise."""
    if os.path.exists(f"/proc/{pid}"):
        return PermissionError(f"{path}: the thread is gone, or this kernel does not have it")
    try:
        os.kill(pid, 0)  # signal 0 asks whether the process is there, and sends nothing
    except ProcessLookupError:
        return ProcessLookupError(path)
    except OSError:
        pass
    return PermissionError(f"{path}: the process is hidden from this user")
