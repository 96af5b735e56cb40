"""What the listener must not forget when it is restarted: who is leaving, who is stuck, what is suspended.

One small file in the temporary directory for each supervisord and user, only while there is something to remember.
Times in it are monotonic, the same for every process of this boot; a file of another boot is seen by that.
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
from supervisor_memreap.host import procfs
from supervisor_memreap.host.lock import temporary_directory

# A thousand pools that each have a worker leaving from among a hundred take less than this.
_MAX_BYTES = 16 * 1024**2
# Seconds since the last change after which a file that no process seems to need is removed: a week.
_OLD = 7 * 86400.0
# Seconds after which it is written anew though nothing has changed: a cleaner of temporary directories goes by age.
_RENEWED = 86400.0


class StateFile:
    """`supervisord` is the process whose pools are remembered. Never raises: OSError and its like come as a text."""

    def __init__(self, supervisord: ProcessId):
        self._supervisord = supervisord
        # With its start time: containers that share a temporary directory may each have a supervisord with the pid 1.
        name = f"memreap-{os.geteuid()}-{supervisord.pid}-{supervisord.start_time:.2f}.json"
        self._path = os.path.join(temporary_directory(), name)
        self._written: object = None
        self._when = 0.0

    def read(self, now: float) -> tuple[dict[str, PoolState], str]:
        """The states of the last listener, by pool; and why there are none although there is a file."""
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
                return {}, ""  # of another process with that pid, or of before the last boot
            kept = {str(name): dict(values) for name, values in data["pools"].items()}
            written = float(data["written"])
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            return {}, f"{self._path}: not what a listener wrote"
        states = {}
        unreadable = []
        for name, values in kept.items():
            try:
                states[name] = restored(decode(values), written)
            except (ValueError, TypeError, KeyError, AttributeError):
                # Of another version, say. A pause of all things must not be lost.
                states[name] = PoolState(paused=values.get("paused") is True, looked=written)
                unreadable.append(name)
        self._written, self._when = None if unreadable else _worth_keeping(states), written
        return states, f"{self._path}: not all of it was written by this version" if unreadable else ""

    def write(self, states: Mapping[str, PoolState], now: float) -> str:
        """Keep what is worth it, or remove the file if nothing is; why that was not possible, else empty."""
        kept = _worth_keeping(states)
        # A user may have removed it, and with it what is paused.
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
        """Forget all: this supervisord has ended."""
        try:
            _remove(self._path)
        except OSError:
            pass  # then it is swept by the next listener


def known_to_the_listener(programs: Iterable[Program]) -> dict[str, PoolState]:
    """Who is leaving or stuck, and what is paused or suspended, as the listener of the same user wrote it down."""
    above = next((program.supervisord for program in programs if program.supervisord), 0)
    try:
        supervisord = procfs.source().process(above).id if above else None
    except PermissionError:
        supervisord = ProcessId(above, 0.0)  # hidden from this user, and so from its listener
    except OSError:
        supervisord = None
    if supervisord is None:
        return {}
    states, _ = StateFile(supervisord).read(time.monotonic())
    # A worker that is only about to be signalled is none that leaves: a listener that does it has the pool's lock.
    return {
        name: replace(state, leaving=None) if state.leaving and not state.leaving.sent else state
        for name, state in states.items()
    }


def _read(path: str) -> str:
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(fd, encoding="ascii", errors="replace") as file:
        status = os.fstat(fd)
        # The directory is everybody's: what another user wrote there says nothing to us.
        if not stat.S_ISREG(status.st_mode) or status.st_uid != os.geteuid() or status.st_mode & 0o022:
            raise OSError("not a file of this user alone")
        return file.read(_MAX_BYTES)


def _replace(path: str, text: str) -> None:
    """A listener that is ended in the middle of this leaves the file as it was, or as it is to be."""
    new = f"{path}.new"
    _remove(new)  # of one that was ended in the middle
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
    """Remove what listeners of supervisords that are no more have left."""
    prefix = os.path.join(temporary_directory(), f"memreap-{os.geteuid()}-")
    for path in glob.glob(f"{glob.escape(prefix)}*.json*"):
        match = re.fullmatch(r"([0-9]+)-[0-9.]+\.json(\.new)?", path[len(prefix) :])
        try:
            # A fresh one may be of another container, whose processes cannot be seen from here.
            if match and not _exists(int(match[1])) and time.time() - os.stat(path).st_mtime > _OLD:
                _remove(path)
        except OSError:
            pass  # it is not in the way


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
