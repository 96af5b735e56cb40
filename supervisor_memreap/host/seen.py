"""What the sockets of one process show about it: is it a worker of its manager, and was it seen to serve? Linux only.

Runs in a child of memreap (host.reader), since the process can keep locked what is read here.
"""

from __future__ import annotations

from supervisor_memreap.core.model import Fact
from supervisor_memreap.host import sockets, waiting


def fact(pid: int, manager: int) -> Fact:
    """Raises ProcessLookupError where one of them is gone, PermissionError where their sockets may not be read."""
    own = sockets.inodes(pid)
    theirs = {*sockets.inodes(manager).values()}
    shared = sockets.listening(pid, {fd: inode for fd, inode in own.items() if inode in theirs})
    # Before all the others are asked, of which there may be 18,000.
    waits = waiting.waits_for(pid, shared) if shared else None
    if waits is Fact.SERVES:
        return waits
    every = sockets.of(pid)
    if not every.listening:
        return Fact.NONE
    if not shared:
        return Fact.APART
    others = every.listening - shared
    # Where it listens on no other one, all of its clients are of these.
    if (sockets.of(pid, shared) if others else every).has_client:
        return Fact.SERVES
    if others and waiting.waits_for(pid, others) is Fact.SERVES:
        return Fact.ELSEWHERE
    return waits or Fact.HOLDS
