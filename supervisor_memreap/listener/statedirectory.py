"""Which directory the state files are in: one of our own, which no other user can make first or write to.

The listener, `once`, `status` and `doctor` must come to the same one, whatever shell or cron job they run from: so it
follows from the environment of the listener, or else of supervisord, and from supervisord's configuration.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Mapping, Sequence

import psutil

from supervisor_memreap.core.listeners import is_listener
from supervisor_memreap.host import procfs
from supervisor_memreap.supervisord import mainlog
from supervisor_memreap.supervisord.configfile import Contents

REMEDY = "set XDG_RUNTIME_DIR in the listener's environment= to a directory of its user with mode 0700"
# Group and others.
_MAY_WRITE, _MAY_ANYTHING = 0o022, 0o077


class Refused(OSError):
    """One line: the directory, what is wrong with it, and what to do."""


def candidates(supervisord: int, contents: Contents | None, environ: Mapping[str, str] | None = None) -> list[str]:
    """The directories that may serve, the best first; the last one is in the temporary directory.

    `supervisord` is a pid; 0: there is none. `environ` is that of the listener; None: find it.
    """
    environ = environment(supervisord) if environ is None else environ
    user, runtime = os.geteuid(), environ.get("XDG_RUNTIME_DIR", "")
    paths = [os.path.join(runtime, "memreap")] if _is_private(runtime, (user,), _MAY_ANYTHING) else []
    if user == 0:
        system = next((path for path in ("/run", "/var/run") if os.path.isdir(path)), "")
        paths += [os.path.join(system, "memreap")] if _is_private(system, (0,), _MAY_WRITE) else []
    for beside in mainlog.directories(contents, supervisord) if contents and supervisord else ():
        paths += [os.path.join(beside, "memreap-state")] if _is_private(beside, (0, user), _MAY_WRITE) else []
    return [*dict.fromkeys(paths), os.path.join(_temporary(environ), f"memreap-{user}")]


def usable(directories: Sequence[str]) -> str:
    """The first of these that is, or could be made, a directory of ours alone. Raises OSError, Refused."""
    for path in directories:
        try:
            with contextlib.suppress(FileExistsError):
                os.mkdir(path, 0o700)
        except OSError:
            if path == directories[-1]:
                raise
            continue
        check(path)
        return path
    raise AssertionError("there is always a last one")


def trouble(directories: Sequence[str]) -> str:
    """Why nothing could be saved in them, without making any; empty: nothing is known against it."""
    for path in directories:
        is_there = os.path.lexists(path)
        place = path if is_there else os.path.dirname(path)
        if not is_there and not os.access(place, os.W_OK | os.X_OK):
            continue
        try:
            if is_there:
                check(path)
            if not os.access(place, os.W_OK | os.X_OK):
                return f"{path} is not writable: make it writable for its user"
            return "" if os.statvfs(place).f_bavail else f"{path}: no space left on device: free some"
        except OSError as error:
            return str(error)
    return f"{directories[-1]} cannot be created: {REMEDY}"


def check(path: str) -> None:
    """Raises Refused where another user may have made this directory, or may write to it; OSError."""
    status, user = os.lstat(path), os.geteuid()
    above = os.stat(os.path.dirname(path))
    wrong = ""
    if not stat.S_ISDIR(status.st_mode):
        wrong = "is a symbolic link" if stat.S_ISLNK(status.st_mode) else "is not a directory"
    elif status.st_uid != user:
        wrong = f"belongs to user {status.st_uid}, not to user {user}"
    elif status.st_mode & _MAY_WRITE:
        wrong = f"is writable by other users (mode {status.st_mode & 0o7777:04o})"
    elif above.st_uid not in (0, user) or (above.st_mode & stat.S_IWOTH and not above.st_mode & stat.S_ISVTX):
        wrong = "is in a directory in which another user may replace it"
    if wrong:
        raise Refused(f"{path} {wrong}: remove it, or {REMEDY}")


def _is_private(path: str, owners: Sequence[int], unwanted: int) -> bool:
    """Whether this is a directory of one of these users, without any of these rights for others."""
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return False
    is_ours = stat.S_ISDIR(status.st_mode) and status.st_uid in owners and not status.st_mode & unwanted
    return os.path.isabs(path) and is_ours


def _temporary(environ: Mapping[str, str]) -> str:
    """As tempfile finds it, but for any process."""
    named = (environ.get(key, "") for key in ("TMPDIR", "TEMP", "TMP"))
    return next((path for path in named if os.path.isabs(path) and os.path.isdir(path)), "/tmp")


def environment(supervisord: int) -> Mapping[str, str]:
    """That of the listener below this supervisord, else of supervisord, else ours: as far as we may read it."""
    view = procfs.source()
    listeners = []
    with contextlib.suppress(OSError):
        for pid in view.children(supervisord) if supervisord else ():
            with contextlib.suppress(OSError):
                if is_listener(" ".join(view.names(pid).argv)):
                    listeners.append(pid)
    for pid in (*listeners, supervisord) if supervisord else ():
        with contextlib.suppress(psutil.Error, OSError):
            # Whole, since it is no process of a pool, which could keep it locked: host.reader has its beginning only.
            return os.environ if pid == os.getpid() else psutil.Process(pid).environ()
    return os.environ
