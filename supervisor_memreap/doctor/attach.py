"""Why the listener may not attach to a worker (ptrace), and what gives it the right.

The kernel permits it (ptrace(2), "Ptrace access mode checking") with CAP_SYS_PTRACE; or to the same user, if the worker
has no capability that the listener lacks, and has not changed its user since it started its program, as the workers of
php-fpm and Apache do, and if Yama does not forbid that (kernel.yama.ptrace_scope, 1 on Ubuntu).
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from supervisor_memreap.core.servers import Moment, cost_while_busy, named, signal_while_busy
from supervisor_memreap.core.settings import PoolSettings
from supervisor_memreap.core.text import seconds
from supervisor_memreap.doctor import rights
from supervisor_memreap.doctor.rights import Rights

_YAMA = Path("/proc/sys/kernel/yama/ptrace_scope")
_IN_CONTAINER = (
    "start the container with it: docker run --cap-add SYS_PTRACE; in Compose cap_add: [SYS_PTRACE]; in Kubernetes"
    " securityContext.capabilities.add: [SYS_PTRACE]"
)


class Attaching(NamedTuple):
    """What decides whether one process may attach to another."""

    actor: Rights
    worker: Rights | None
    """None: not known."""
    has_changed_user: bool
    """The worker has changed its user since it started its program."""
    yama: int
    """kernel.yama.ptrace_scope; 0 also where there is no Yama."""
    may_be_root: bool
    """Whether supervisord could run the listener as root."""
    section: str = "eventlistener:memreap"
    """Of the listener."""


def of(actor: Rights, worker: int, supervisord: int, section: str) -> Attaching:
    try:
        theirs = rights.of(worker)
        # The kernel gives these files to root as soon as the process may not be attached to by its own user.
        has_changed_user = Path(f"/proc/{worker}/stat").stat().st_uid != theirs.users[1]
    except OSError:
        theirs, has_changed_user = None, False
    try:
        may_be_root = rights.of(supervisord).users[1] == 0
    except OSError:
        may_be_root = False
    return Attaching(actor, theirs, has_changed_user, yama(), may_be_root, section)


def yama() -> int:
    try:
        return int(_YAMA.read_text())
    except (OSError, ValueError):
        return 0


def remedy(attaching: Attaching) -> str:
    """Why it may not, and a way that restarts no program but the listener, if there is one."""
    actor, worker, has_changed_user, scope, may_be_root, section = attaching
    if scope >= 3:
        return f"kernel.yama.ptrace_scope={scope} forbids that for all processes until the next boot"
    if rights.has(actor, "CAP_SYS_PTRACE"):
        return "it has CAP_SYS_PTRACE, so a debugger, a seccomp filter, AppArmor or SELinux (deny_ptrace) forbids it"
    if actor.users[1] == 0:
        return f"this root lacks CAP_SYS_PTRACE: {_IN_CONTAINER}"
    if worker and worker.users != actor.users:
        why = f"it runs as user {actor.users[1]}, the worker as user {worker.users[1]}"
    elif has_changed_user:
        why = "the worker once ran as root, so its user is not allowed to attach to it"
    elif scope:
        why = f"kernel.yama.ptrace_scope={scope}"
    else:
        why = "the worker has capabilities that it lacks, or a seccomp filter, AppArmor or SELinux forbids it"
    if may_be_root:
        return f"{why}: remove user= from [{section}] and run supervisorctl update, which restarts only memreap"
    if why.startswith("kernel"):
        return (
            f"{why}: run supervisord as root, or set kernel.yama.ptrace_scope=0, which restarts nothing but lets the"
            " processes of one user attach to each other on the whole host"
        )
    return f"{why}: run supervisord as root, with CAP_SYS_PTRACE"


def what_remains(server: str, settings: PoolSettings) -> str:
    """How workers of this server are signalled without that right, as a clause."""
    if named(server).moment is Moment.HELD:
        which = f"workers of {server} lose requests otherwise" if server else "the server cannot be identified"
        return f"nothing is sent, since {which}"
    if settings.idle_wait == float("inf"):
        return "they are signalled only when seen idle (idle_wait=never)"
    signal = signal_while_busy(server, settings.signal)
    after = f"after idle_wait={seconds(settings.idle_wait)}"
    return f"they are signalled when seen idle, and {after} while busy, by {signal} ({cost_while_busy(server, signal)})"
