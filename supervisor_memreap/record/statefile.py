"""The state that must survive a restart of the listener: leaving and stuck workers, pauses, suspensions.

One small file in the temporary directory for each supervisord and user, only while there is something to remember.
Its times are monotonic, the same for every process of this boot; they also show if the file is from another boot.
"""

from __future__ import annotations

import glob
import json
import os
import re
import stat
import time
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from supervisor_memreap.core.model import ProcessId, Program
from supervisor_memreap.core.state import PoolState, decode, encode, is_worth_keeping, process_id, restored
from supervisor_memreap.host import lock, procfs
from supervisor_memreap.host.lock import temporary_directory

# A thousand pools of a hundred workers, each with one leaving, take less than this.
_MAX_BYTES = 16 * 1024**2
# Seconds since the last change after which an unused file is removed: a week.
_OLD = 7 * 86400.0
# Seconds after which the file is rewritten even if nothing changed: temporary directories are cleared by age.
_RENEWED = 86400.0


class StateFile:
    """`supervisord` is the process whose pools are remembered. Never raises: errors are returned as text."""

    def __init__(self, supervisord: ProcessId):
        self._supervisord = supervisord
        # With its start time: containers that share a temporary directory may each have a supervisord with the pid 1.
        name = f"memreap-{os.geteuid()}-{supervisord.pid}-{supervisord.start_time:.2f}.json"
        self._path = os.path.join(temporary_directory(), name)
        self._written: object = None
        self._when = 0.0

    def read(self, now: float) -> tuple[dict[str, PoolState], str]:
        """The states of the last listener, by pool; and an error if the file could not be read, else empty."""
        _sweep()
        try:
            text = _read(self._path)
        except FileNotFoundError:
            return {}, ""
        except OSError as error:
            return {}, f"{self._path}: {error.strerror or error}"
        try:
            data = json.loads(text)
            if process_id(data["supervisord"]) != self._supervisord or data["written"] > now:
                return {}, ""  # of another process with that pid, or from before the last boot
            kept = {str(name): dict(values) for name, values in data["pools"].items()}
            written = float(data["written"])
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            return {}, f"{self._path}: not written by a listener"
        states = {}
        unreadable = []
        for name, values in kept.items():
            try:
                states[name] = restored(decode(values), written)
            except (ValueError, TypeError, KeyError, AttributeError):
                # Perhaps from another version. A pause must not be lost.
                states[name] = PoolState(paused=values.get("paused") is True, looked=written)
                unreadable.append(name)
        self._written, self._when = None if unreadable else _worth_keeping(states), written
        return states, f"{self._path}: parts of it were not written by this version" if unreadable else ""

    def write(self, states: Mapping[str, PoolState], now: float) -> str:
        """Save what is worth keeping, or remove the file if nothing is. Returns an error, or an empty text."""
        kept = _worth_keeping(states)
        # A user may have removed the file, and the pauses with it.
        if kept == self._written and (not kept or (os.path.exists(self._path) and now - self._when < _RENEWED)):
            return ""
        try:
            if kept:
                data = {"supervisord": self._supervisord, "written": now, "pools": kept}
                _replace(self._path, json.dumps(data))
            else:
                _remove(self._path)
        except OSError as error:
            return f"{self._path}: {error.strerror or error}"
        self._written, self._when = kept, now
        return ""

    def remove(self) -> None:
        """Forget everything: this supervisord has ended."""
        try:
            _remove(self._path)
        except OSError:
            pass  # then the next listener removes it


def saved_by_the_listener(programs: Iterable[Program]) -> dict[str, PoolState]:
    """The states that a listener of this user has saved, as they are."""
    above = next((program.supervisord for program in programs if program.supervisord), 0)
    try:
        supervisord = procfs.source().process(above).id if above else None
    except PermissionError:
        supervisord = ProcessId(above, 0.0)  # hidden from this user, and so from its listener
    except OSError:
        supervisord = None
    return {} if supervisord is None else StateFile(supervisord).read(time.monotonic())[0]


def known_to_the_listener(programs: Iterable[Program]) -> dict[str, PoolState]:
    """Which workers are leaving or stuck, and which pools paused or suspended, as saved by a listener of this user."""
    states = saved_by_the_listener(programs)
    return {
        name: replace(state, leaving=None) if _is_being_signalled(state) else state for name, state in states.items()
    }


def _is_being_signalled(state: PoolState) -> bool:
    """Whether a listener is about to signal this worker: it holds the pool's lock then.

    Where that is free, the listener has ended in between, and the signal may have gone out: the worker is leaving.
    """
    if state.leaving is None or state.leaving.sent or state.manager is None:
        return False
    try:
        # A worker with a slot is one of a group, whose lock is another one than that of supervisord itself.
        os.close(lock.take_file(state.manager) if state.leaving.slot else lock.take(state.manager))
    except lock.Unlockable:
        return False  # not known
    except lock.Locked:
        return True
    except ProcessLookupError:
        pass
    return False


def _read(path: str) -> str:
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(fd, encoding="ascii", errors="replace") as file:
        status = os.fstat(fd)
        # Every user may write to the directory: ignore what another user wrote.
        if not stat.S_ISREG(status.st_mode) or status.st_uid != os.geteuid() or status.st_mode & 0o022:
            raise OSError("not a file that only this user may write")
        return file.read(_MAX_BYTES)


def _replace(path: str, text: str) -> None:
    """Atomic: a listener that is killed in the middle leaves either the old file or the new one."""
    new = f"{path}.new"
    _remove(new)  # left by a listener that was killed in the middle
    fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with open(fd, "w", encoding="ascii") as file:
        file.write(text)
    os.replace(new, path)


def _remove(path: str) -> None:
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass


def _sweep() -> None:
    """Remove the files of supervisords that no longer exist."""
    prefix = os.path.join(temporary_directory(), f"memreap-{os.geteuid()}-")
    for path in glob.glob(f"{glob.escape(prefix)}*.json*"):
        match = re.fullmatch(r"([0-9]+)-[0-9.]+\.json(\.new)?", path[len(prefix) :])
        try:
            # A fresh file may belong to another container, whose processes cannot be seen from here.
            if match and not _exists(int(match[1])) and time.time() - os.stat(path).st_mtime > _OLD:
                _remove(path)
        except OSError:
            pass  # it does no harm


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        pass
    return True


def _worth_keeping(states: Mapping[str, PoolState]) -> dict[str, Any]:
    return {name: encode(state) for name, state in states.items() if is_worth_keeping(state)}
