"""The state that must survive a restart of the listener: leaving and stuck workers, pauses, suspensions.

One small file for each supervisord and user, and for each `memreap once`, only while there is something to remember.
Its times are monotonic, the same for every process of this boot; they also show if the file is from another boot.
"""

from __future__ import annotations

import contextlib
import errno
import glob
import json
import os
import re
import stat
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from supervisor_memreap.core.failed import Failed
from supervisor_memreap.core.frozen import replace
from supervisor_memreap.core.model import ProcessId, Program, supervisord_of
from supervisor_memreap.core.state import (
    PoolState,
    decode,
    encode,
    is_worth_keeping,
    persistent_part_differs,
    process_id,
    restored,
)
from supervisor_memreap.host import lock, procfs
from supervisor_memreap.host.machine import Locked, Unlockable
from supervisor_memreap.listener import statedirectory
from supervisor_memreap.listener.statedirectory import Refused
from supervisor_memreap.supervisord.configfile import Contents

# A thousand pools of a hundred workers, each with one leaving, take less than this.
_MAX_BYTES = 16 * 1024**2
# Seconds since the last change after which an unused file is removed: a week.
_OLD = 7 * 86400.0
# Seconds after which the file is rewritten even if nothing changed: temporary directories are cleared by age.
_RENEWED = 86400.0
_REMEDIES = {
    errno.ENOSPC: "free space in that directory",
    errno.EDQUOT: "free space, or raise the quota",
    errno.EFBIG: "raise the limit on the size of files (ulimit -f)",
}
# Seconds in which the listener may save since the look of a `memreap once` began.
_MEANWHILE = 60.0

# In the name of the file of a `memreap once`.
_ONCE = "once-"


class _Saved(NamedTuple):
    """What is in a file."""

    owner: ProcessId
    written: float
    pools: dict[str, dict[str, Any]]


class Encoded(NamedTuple):
    """A state, and its text in the file."""

    state: PoolState
    text: str


class StateFile:
    """`owner` is the supervisord whose pools are remembered, or the `memreap once` that remembers them.

    `directories` are as in statedirectory.candidates. Never raises: errors are returned as text.
    """

    def __init__(self, owner: ProcessId, directories: Sequence[str], kind: str = ""):
        self._owner = owner
        self._directories = directories
        # With its start time: containers that share a directory may each have a supervisord with the pid 1.
        self._name = f"{_prefix()}{kind}{owner.pid}-{owner.start_time:.2f}.json"
        self._path = ""
        """Where it was written last."""
        self._written: dict[str, Encoded] | None = None
        self._when = 0.0
        self._unsaved = ""
        """The text that could not be saved, until it can be."""
        self.unread = ""
        """Why a file that is ours could not be read in whole at the last reading; empty: none, or it was."""

    def sweep(self) -> None:
        """Remove the files of processes that no longer exist, and that were not used for long."""
        for path in _glob(_trusted_files(self._directories), "*.json*"):
            name = os.path.basename(path)[len(_prefix()) :]
            match = re.fullmatch(rf"(?:{_ONCE})?([0-9]+)-[0-9.]+\.json(\.new)?", name)
            try:
                # A fresh file may belong to another container, whose processes cannot be seen from here.
                if match and not _exists(int(match[1])) and time.time() - os.stat(path).st_mtime > _OLD:
                    _remove(path)
            except OSError:
                pass  # it does no harm

    def read(self, now: float) -> tuple[dict[str, PoolState], str]:
        """The states of the last listener, by pool; and an error if the file could not be read, else empty."""
        directories = _trusted_files(self._directories)
        newest: _Saved | None = None
        troubles: list[str] = []
        self.unread = ""
        for path in (os.path.join(directory, self._name) for directory in directories):
            try:
                saved = _load(path, now)
            except (OSError, ValueError) as error:
                troubles.append(f"{path}: {getattr(error, 'strerror', None) or error}")
                self.unread = troubles[-1] if _is_ours(path) else self.unread
                continue
            # Not of another process with that pid.
            if saved and saved.owner == self._owner and (newest is None or saved.written > newest.written):
                newest, self._path = saved, path
        if newest is None:
            return {}, "; ".join(troubles)
        states, unreadable = _states(newest)
        self._written, self._when = None if unreadable else encoded(states, {}), newest.written
        if unreadable:
            troubles.append(f"{self._path}: parts of it were written by another version")
            self.unread = troubles[-1]
        return states, "; ".join(troubles)

    def write(self, states: Mapping[str, PoolState], now: float) -> str:
        """Save what is worth keeping, or remove the file if nothing is. Returns an error, or an empty text."""
        kept = encoded(states, self._written or {})
        path = ""
        try:
            path = os.path.join(statedirectory.usable(self._directories), self._name)
            if self._unsaved:
                _write_new(path, self._unsaved)  # a smaller text may have room where this one had none
                _remove(_new(path))
                self._unsaved = ""
            # A user may have removed the file, and the pauses with it.
            is_there = path == self._path and os.path.exists(path) and now - self._when < _RENEWED
            if kept == self._written and (not kept or is_there):
                return ""
            if kept:
                pools = ", ".join(f"{json.dumps(name)}: {each.text}" for name, each in kept.items())
                self._unsaved = f'{{"supervisord": {json.dumps(self._owner)}, "written": {now}, "pools": {{{pools}}}}}'
                _write_new(path, self._unsaved)
                os.replace(_new(path), path)
                self._unsaved = ""
            # What is elsewhere is older: a file of an earlier version, or of a listener with another environment.
            self._remove_all(but=path if kept else "")
        except OSError as error:
            return str(error) if isinstance(error, Refused) else _explained(path or error.filename, error)
        self._written, self._when, self._path = kept, now, path
        return ""

    def leaving_elsewhere(self, now: float) -> dict[str, PoolState]:
        """The pools in which a `memreap once` of this user signalled a worker, as far as it saved that."""
        states: dict[str, PoolState] = {}
        for path in _glob(_trusted_files(self._directories), f"{_ONCE}*.json"):
            with contextlib.suppress(OSError, ValueError):
                saved = _load(path, now)
                states.update(_states(saved)[0] if saved else {})
        return {name: state for name, state in states.items() if state.leaving}

    def remove(self) -> None:
        """Forget everything: this supervisord has ended."""
        with contextlib.suppress(OSError):  # then the next listener removes it
            self._remove_all()

    def _remove_all(self, but: str = "") -> None:
        for path in (os.path.join(directory, self._name) for directory in _trusted_files(self._directories)):
            if path != but and _is_ours(path):
                _remove(path)


class Unread(Failed):
    """What the listener has saved is there, and cannot be read."""


class BesideListener:
    """What a command of this user needs to know of the listener, and to save: `contents` as the listener read them."""

    def __init__(self, programs: Iterable[Program], contents: Contents | None):
        above, view = supervisord_of(programs) or 0, procfs.source()
        directories = statedirectory.candidates(above, contents)
        try:
            supervisord = view.process(above).id if above else None
        except PermissionError:
            supervisord = ProcessId(above, 0.0)  # hidden from this user, and so from its listener
        except OSError:
            supervisord = None
        self._listeners = StateFile(supervisord, directories) if supervisord else None
        self.file = StateFile(view.process(os.getpid()).id, directories, _ONCE)
        """Of this process, if it is a `memreap once`: the next memreap must know which worker it signalled."""

    def _saved(self, now: float) -> dict[str, PoolState]:
        """The states that the listener has saved, as they are, also after `now`. Raises Unread."""
        if self._listeners is None:
            return {}
        states, _ = self._listeners.read(now + _MEANWHILE)
        if self._listeners.unread:
            raise Unread(
                "which pools are paused or suspended cannot be read, so nothing is sent; restart the listener, which"
                f" writes it anew, or remove the file if there is none: {self._listeners.unread}"
            )
        return states

    def paused(self, now: float) -> Collection[str]:
        """The pools that a user has paused, as the listener has saved it by now."""
        return {name for name, state in self._saved(now).items() if state.paused}

    def leaving(self, now: float) -> dict[str, PoolState]:
        """The pools in which a worker is leaving, according to the listener or another `once`."""
        by_listener: dict[str, PoolState] = {}
        with contextlib.suppress(Unread):  # then nothing is sent at the next tick
            by_listener = {name: each for name, each in self._saved(now).items() if each.leaving}
        return {**self.file.leaving_elsewhere(now), **by_listener}

    def known(self, now: float) -> dict[str, PoolState]:
        """Which workers are leaving or stuck, and which pools paused or suspended, as the listener has saved it."""
        return {
            name: replace(state, reap=None) if _is_being_signalled(state) else state
            for name, state in self._saved(now).items()
        }


def _prefix() -> str:
    return f"memreap-{os.geteuid()}-"


def _trusted_files(directories: Sequence[str]) -> list[str]:
    """Those that are ours alone, and the temporary directory itself, in which earlier versions had the file."""
    ours = []
    for directory in directories:
        with contextlib.suppress(OSError):
            statedirectory.check(directory)
            ours.append(directory)
    return [*ours, os.path.dirname(directories[-1])]


def _is_being_signalled(state: PoolState) -> bool:
    """Whether a listener is about to signal this worker: it holds the pool's lock then.

    Where that is free, the listener has ended in between, and the signal may have gone out: the worker is leaving.
    """
    if state.leaving is None or state.leaving.is_sent or state.manager is None:
        return False
    try:
        # A worker with a slot is one of a group, whose lock is another one than that of supervisord itself.
        os.close(lock.take_file(state.manager) if state.leaving.slot else lock.take(state.manager))
    except Unlockable:
        return False  # not known
    except Locked:
        return True
    except ProcessLookupError:
        pass
    return False


def _load(path: str, now: float) -> _Saved | None:
    """None: there is no file, or it is from before the last boot. Raises OSError, ValueError."""
    try:
        text = _read(path)
    except FileNotFoundError:
        return None
    try:
        data = json.loads(text)
        owner, written = process_id(data["supervisord"]), float(data["written"])
        pools = {str(name): dict(values) for name, values in data["pools"].items()}
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise ValueError("not written by a listener") from None
    return _Saved(owner, written, pools) if written <= now else None


def _states(saved: _Saved) -> tuple[dict[str, PoolState], bool]:
    """By pool; and whether a part is of another version."""
    states, is_foreign = {}, False
    for name, values in saved.pools.items():
        try:
            states[name] = restored(decode(values), saved.written)
        except (ValueError, TypeError, KeyError, AttributeError):
            # Perhaps from another version. A pause must not be lost.
            states[name] = PoolState(paused=values.get("paused") is True, looked=saved.written)
            is_foreign = True
    return states, is_foreign


def _read(path: str) -> str:
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(fd, encoding="ascii", errors="replace") as file:
        # Every user may write to the temporary directory: ignore what another user wrote.
        if not _is_of_this_user(os.fstat(fd)):
            raise OSError("writable by other users")
        return file.read(_MAX_BYTES)


def _is_of_this_user(status: os.stat_result) -> bool:
    return stat.S_ISREG(status.st_mode) and status.st_uid == os.geteuid() and not status.st_mode & 0o022


def _is_ours(path: str) -> bool:
    try:
        return _is_of_this_user(os.lstat(path))
    except OSError:
        return False


def _new(path: str) -> str:
    return f"{path}.new"


def _write_new(path: str, text: str) -> None:
    """Beside the file, so that a listener that is killed in the middle leaves either the old file or the new one."""
    new = _new(path)
    _remove(new)  # left by a listener that was killed in the middle
    fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with open(fd, "w", encoding="ascii") as file:
            file.write(text)
    except OSError:
        _remove(new)
        raise


def _remove(path: str) -> None:
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass


def _explained(path: str, error: OSError) -> str:
    return f"{path}: {error.strerror or error}; {_REMEDIES.get(error.errno or 0, statedirectory.REMEDY)}"


def _glob(directories: Sequence[str], pattern: str) -> list[str]:
    return [
        path
        for directory in directories
        for path in glob.glob(f"{glob.escape(os.path.join(directory, _prefix()))}{pattern}")
    ]


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        pass
    return True


def encoded(states: Mapping[str, PoolState], before: Mapping[str, Encoded]) -> dict[str, Encoded]:
    """What is worth keeping; of what has not changed, the one of `before`: an encoding takes 0.1 ms."""
    return {
        name: before[name]
        if name in before and not persistent_part_differs(state, before[name].state)
        else Encoded(state, json.dumps(encode(state)))
        for name, state in states.items()
        if is_worth_keeping(state)
    }
