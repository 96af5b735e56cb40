"""What the sockets of one process show about it: is it a worker of its manager, and was it seen to serve? Linux only.

Runs in a child of memreap (host.reader), since the process can keep locked what is read here.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from supervisor_memreap.core.model import Fact
from supervisor_memreap.core.servers import Loop
from supervisor_memreap.host import procfile, sockets, waiting


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


def loop(pid: int, manager: int) -> Loop:
    """In what the process waits for connections on the sockets of its manager. Raises as `fact`."""
    own = sockets.inodes(pid)
    theirs = {*sockets.inodes(manager).values()}
    shared = sockets.listening(pid, {fd: inode for fd, inode in own.items() if inode in theirs})
    of_manager = waiting.epolls(manager)
    # Not those that it has since the fork, as of the thread in which gunicorn 25.1's manager serves its control socket.
    epolls = {fd: targets for fd, targets in waiting.epolls(pid).items() if targets != of_manager.get(fd)}
    for targets in epolls.values():
        if not shared.isdisjoint(each.fd for each in targets):
            return _loop_of(pid, targets, shared, own)
    # One that is not seen at this moment may be there, such as one that takes no more connections for a while.
    return Loop.HIDDEN if epolls and not waiting.selects(pid, shared) else Loop.NONE


def watches_own(pid: int) -> bool:
    """Whether it has a socket on which it listens in an epoll, as a manager has that forks a worker when a client asks.

    Raises as `fact`.
    """
    own = sockets.listening(pid, sockets.inodes(pid))
    return any(each.fd in own and each.events for targets in waiting.epolls(pid).values() for each in targets)


def _loop_of(pid: int, targets: Collection[waiting.Target], shared: Collection[int], own: Mapping[int, bytes]) -> Loop:
    """By what is in the epoll with these sockets."""
    if any(each.fd in shared and each.events & waiting.PRI for each in targets):
        return Loop.URGENT
    # A client's connection has the path or port of the socket, and one to a database the path of that.
    if sockets.pairs(pid, {each.fd: own[each.fd] for each in targets if each.fd in own}):
        return Loop.PAIR
    links = [procfile.link(pid, each.fd) for each in targets if each.fd not in own]
    if "anon_inode:[eventfd]" in links:
        return Loop.EVENTFD
    return Loop.PIPE if any(link.startswith("pipe:") for link in links) else Loop.BARE
