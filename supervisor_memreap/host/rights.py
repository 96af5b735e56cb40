"""What a process may do to another one, worked out from what the kernel says of both. Linux only."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

# Bits of CapEff, of <linux/capability.h>.
_KILL, _SYS_PTRACE = 1 << 5, 1 << 19
YAMA = Path("/proc/sys/kernel/yama/ptrace_scope")


class Rights(NamedTuple):
    """Of the process that is to act."""

    users: tuple[int, ...]
    """Real, effective, saved and file-system user."""
    groups: tuple[int, ...]
    capabilities: int


def of(pid: int) -> Rights:
    """Raises OSError where the process is gone, or this is not Linux."""
    fields = dict(
        line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text("latin-1").split("\n") if ":" in line
    )
    users, groups = (tuple(map(int, fields[key].split())) for key in ("Uid", "Gid"))
    return Rights(users, groups, int(fields["CapEff"], 16))


def may_signal(actor: Rights, target: Rights) -> bool:
    """kill(2): the sender's real or effective user is the target's real or saved one."""
    return bool(actor.capabilities & _KILL) or bool(set(actor.users[:2]) & {target.users[0], target.users[2]})


def may_read(actor: Rights, target: Rights) -> bool:
    """ptrace(2), of reading: the actor's user and group are all of the target's, which has no right that it has not."""
    if actor.capabilities & _SYS_PTRACE:
        return True
    same = set(target.users[:3]) == {actor.users[3]} and set(target.groups[:3]) == {actor.groups[3]}
    return same and not target.capabilities & ~actor.capabilities


def may_hold(actor: Rights, target: Rights) -> bool:
    """ptrace(2), of attaching: as reading, and as Yama lets it."""
    has = bool(actor.capabilities & _SYS_PTRACE)
    try:
        scope = int(YAMA.read_text())
    except (OSError, ValueError):
        scope = 0
    return may_read(actor, target) and (scope == 0 or (scope in (1, 2) and has))
