"""What somebody may ask of a listener: words in, a new state of the pool out. Pure.

The words travel as the data of a REMOTE_COMMUNICATION event, so whoever may control supervisord may send them, and
nobody else: `pause myapp`, `resume all`, `reap myapp`, `reap myapp 4242`, `roll myapp`, `doctor`; behind them `id=…`,
by which the one who sent them finds the answer.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from supervisor_memreap.core import policy
from supervisor_memreap.core.model import Pool
from supervisor_memreap.core.policy import PoolState

TYPE = "memreap-command"
"""The type of the events that bring commands."""
VERBS = ("pause", "resume", "reap", "roll", "doctor")
_NAME = re.compile(r"[^\s:=]+(?::[^\s:=]+)?")
_ID = re.compile(r"id=([0-9a-zA-Z-]{1,64})")


class CommandError(ValueError):
    """One line: what is wrong with it, and what is allowed."""


@dataclass(frozen=True)
class Command:
    verb: str
    name: str
    """Of a pool, or `all`."""
    pid: int = 0
    """0: none was named."""
    id: str = ""


def id_of(text: str) -> str:
    """By what whoever sent this finds the answer, be it a command or none; empty: nobody asks for one."""
    words = _words(text)
    found = _ID.fullmatch(words[-1]) if words else None
    return found[1] if found else ""


def _words(text: str) -> list[str]:
    return text[:1000].split()


def parse(text: str) -> Command:
    """Raises CommandError."""
    id = id_of(text)
    words = _words(text)[:-1] if id else _words(text)
    verb = words[0] if words else ""
    if verb not in VERBS:
        raise CommandError(f"{verb[:40]!r} is no command; there are {', '.join(VERBS)}")
    if verb == "doctor":
        if len(words) > 1:
            raise CommandError(f"{verb}: {words[1][:40]!r} is too much")
        return Command(verb, "all", 0, id)
    if len(words) < 2 or not _NAME.fullmatch(words[1]):
        raise CommandError(f"{verb}: no pool; write {verb} NAME" + (" or all" if verb in ("pause", "resume") else ""))
    if verb in ("reap", "roll") and words[1] == "all":
        raise CommandError(f"{verb}: one pool, not all")
    pid = 0
    if verb == "reap" and len(words) == 3:
        if not re.fullmatch("[1-9][0-9]{0,9}", words[2]):
            raise CommandError(f"{verb}: {words[2][:40]!r} is no pid")
        pid = int(words[2])
    elif len(words) > 2:
        raise CommandError(f"{verb}: {words[2][:40]!r} is too much")
    return Command(verb, words[1], pid, id)


def carry_out(command: Command, pool: Pool, state: PoolState) -> tuple[PoolState, str]:
    """The new state of one pool, and a line. Raises CommandError, and then nothing has changed."""
    if command.verb == "pause":
        return policy.pause(state), "paused: nobody is signalled until memreap resume"
    if command.verb == "resume":
        return policy.resume(state), "resumed"
    if pool.manager is None or not pool.workers:
        raise CommandError(f"{pool.name} has no workers: it is {pool.state}")
    if state.paused:
        raise CommandError(f"{pool.name} is paused: memreap resume {pool.name} first")
    if state.suspended:
        raise CommandError(f"{pool.name} is suspended ({state.suspended.word}): memreap resume {pool.name} first")
    gone = {one.worker for one in (state.leaving, *state.stuck) if one}
    there = [one for one in pool.workers if one.id not in gone]
    if command.pid:
        worker = next((one for one in pool.workers if one.id.pid == command.pid), None)
        if worker is None:
            pids = ", ".join(str(one.id.pid) for one in pool.workers)
            raise CommandError(f"{pool.name} has no worker {command.pid}; there are {pids}")
        if worker.id in gone:
            raise CommandError(f"{pool.name}: worker {command.pid} has been signalled already")
    elif not there:
        raise CommandError(f"{pool.name}: all of its workers have been signalled already")
    elif command.verb == "roll":
        state = policy.ask((worker.id for worker in there), state)
        return state, f"all {len(there)} workers are to be replaced, one at a time"
    else:
        worker = max(there, key=lambda one: (one.used or 0, one.bound))
    return policy.ask([worker.id], state), f"worker {worker.id.pid} is to be replaced"
