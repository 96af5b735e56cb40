"""The commands that a user may send to a listener: text in, new states of the pools out. Pure.

The text is the data of a REMOTE_COMMUNICATION event, so only users who may control supervisord can send it:
`pause myapp`, `resume all`, `reap myapp`, `reap myapp 4242`, `roll myapp`, `doctor`. Two options may follow.
`id=1a2b3c`: the sender fetches the answer by it. `until=SECONDS`, in seconds since 1970: when the command expires.
supervisord keeps events for a listener that hangs, and a `reap` that was given up long ago must not be carried out
when the listener recovers. A command with both is carried out once, however often it is sent.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from supervisor_memreap.core import policy
from supervisor_memreap.core.model import Pool, Worker
from supervisor_memreap.core.state import PoolState
from supervisor_memreap.core.text import quote, seconds

TYPE = "memreap-command"
"""The type of the events that carry commands."""
Verb = Literal["reap", "roll", "pause", "resume", "doctor"]
VERBS: tuple[Verb, ...] = get_args(Verb)
NEED_WORKERS: tuple[Verb, ...] = ("reap", "roll")
"""What can be done only where it is known which workers there are."""
# Several times the length of the longest sensible command.
_MAX_CHARACTERS = 1000
_NAME = re.compile(r"[^\s:=]+(?::[^\s:=]+)?")
_ID = re.compile(r"id=([0-9a-zA-Z-]{1,64})")
_UNTIL = re.compile(r"until=([0-9]{1,12}(?:\.[0-9]{1,6})?)")
# At most this many names are listed in a message.
_MAX_NAMES = 20


class CommandError(ValueError):
    """One line: what is wrong with the command, and what is allowed."""


@dataclass(frozen=True)
class Command:
    verb: Verb
    name: str
    """Of a pool, a program or a group; or `all`."""
    pid: int = 0
    """0: none was given."""
    id: str = ""
    until: float | None = None
    """When it expires, in seconds since 1970; None: never."""


@dataclass(frozen=True)
class Result:
    """The outcome of a command in one pool."""

    pool: str
    state: PoolState | None
    """None: unchanged."""
    text: str
    refused: bool = False

    @property
    def line(self) -> str:
        return self.text if self.refused else f"{self.pool}: {self.text}"


def id_of(text: str) -> str:
    """The id by which the sender fetches the answer, also of an invalid command; empty: no answer is wanted."""
    matches = (_ID.fullmatch(part) for part in text[-_MAX_CHARACTERS:].split()[-2:])
    return next((match[1] for match in matches if match), "")


def parse(text: str) -> Command:
    """Raises CommandError."""
    if len(text) > _MAX_CHARACTERS:
        raise CommandError(f"a command has at most {_MAX_CHARACTERS} characters, this one has {len(text)}")
    words = text.split()
    until = None
    while words and words[-1].startswith(("id=", "until=")):
        option = words.pop()
        match = _UNTIL.fullmatch(option)
        if match:
            until = float(match[1])
        elif not _ID.fullmatch(option):
            raise CommandError(f"{quote(option)!r}: not id=LETTERS-AND-DIGITS or until=SECONDS-SINCE-1970")
    written, *rest = words or [""]
    verb = next((known for known in VERBS if known == written), None)
    if verb is None:
        raise CommandError(f"unknown command {quote(written)!r}; there are {', '.join(VERBS)}")
    if verb == "doctor":
        name, rest = "all", ["", *rest]
    elif not rest or not _NAME.fullmatch(rest[0]):
        usage = "NAME [PID]" if verb == "reap" else "NAME or all"
        raise CommandError(f"{verb}: no pool given; write {verb} {usage}")
    else:
        name = rest[0]
    if verb == "reap" and name == "all":
        raise CommandError("reap: name one pool; for all workers of all pools, use roll all")
    pid = 0
    if verb == "reap" and len(rest) > 1:
        if not re.fullmatch("[1-9][0-9]{0,9}", rest[1]):
            raise CommandError(f"{verb}: {quote(rest[1])!r} is not a pid")
        pid, rest = int(rest[1]), rest[1:]
    if len(rest) > 1:
        raise CommandError(f"{verb}: unexpected argument {quote(rest[1])!r}")
    return Command(verb, name, pid, id_of(text), until)


def named(name: str, pools: Iterable[str]) -> list[str]:
    """The pools that a user means by `all`, or by the name of a pool, a process, a program with numprocs or a group."""
    return [pool for pool in pools if name == "all" or name in _names_of(pool)]


def _names_of(pool: str) -> tuple[str, ...]:
    group, _, name = pool.rpartition(":")
    return (pool, name, group, f"{group}:*") if group else (pool, f"{pool}:{pool}", f"{pool}:*")


def unknown(name: str, pools: Sequence[str]) -> str:
    """The line for a name that matches no pool."""
    more = f", and {len(pools) - _MAX_NAMES} more" if len(pools) > _MAX_NAMES else ""
    names = ", ".join(pools[:_MAX_NAMES]) or "none"
    return f"no pool '{quote(name)}' is watched; there are: {names}{more}"


def carry_out_in_all(command: Command, pools: Mapping[str, tuple[Pool, PoolState]]) -> list[Result]:
    """A result for each of these pools, which `command` names.

    Raises CommandError if it can be carried out in none of them; then nothing has changed.
    """
    if command.verb == "reap":
        pools = _pool_to_reap(command, pools)
    results = [_result(command, name, pool, state, len(pools) > 1) for name, (pool, state) in pools.items()]
    if not any(result.state for result in results):
        raise CommandError("; ".join(result.line for result in results))
    return results


def _pool_to_reap(
    command: Command, pools: Mapping[str, tuple[Pool, PoolState]]
) -> Mapping[str, tuple[Pool, PoolState]]:
    """The pool with this name, or with a worker of this pid."""
    meant = {
        name: (pool, state)
        for name, (pool, state) in pools.items()
        if (any(worker.id.pid == command.pid for worker in pool.workers) if command.pid else name == command.name)
    }
    if len(pools) == 1 or len(meant) == 1:
        return meant or pools
    if command.pid:
        raise CommandError(f"'{quote(command.name)}' has no worker {command.pid}")
    names = ", ".join([*pools][:_MAX_NAMES])
    raise CommandError(f"reap: '{quote(command.name)}' matches {len(pools)} pools; name one of them: {names}")


def _result(command: Command, name: str, pool: Pool, state: PoolState, is_one_of_many: bool) -> Result:
    if command.verb == "roll" and is_one_of_many and not pool.workers:
        return Result(name, None, f"no workers to replace: it is {pool.state}")
    try:
        return Result(name, *carry_out(command, pool, state))
    except CommandError as error:
        return Result(name, None, str(error), refused=True)


def carry_out(command: Command, pool: Pool, state: PoolState) -> tuple[PoolState, str]:
    """The new state of one pool, and a line about it. Raises CommandError if nothing has changed."""
    if command.verb == "pause":
        text = f"paused: no worker is signalled until supervisorctl memreap resume {pool.name}"
        dropped = len(state.requested)
        dropped_text = f"; {dropped} requested workers will not be replaced: reap or roll again afterwards"
        return policy.pause(state), text + dropped_text if dropped else text
    if command.verb == "resume":
        return policy.resume(state), "resumed"
    if state.settings and state.settings.observe:
        raise CommandError(f"{pool.name} is only observed (observe=yes): no worker is signalled")
    if pool.manager is None or not pool.workers:
        raise CommandError(f"{pool.name} has no workers: it is {pool.state}")
    if state.paused:
        raise CommandError(f"{pool.name} is paused: supervisorctl memreap resume {pool.name} first")
    if state.suspended:
        raise CommandError(
            f"{pool.name} is suspended ({state.suspended.text}): supervisorctl memreap resume {pool.name} first"
        )
    signalled = {leaving.worker for leaving in (state.leaving, *state.stuck) if leaving}
    present = [worker for worker in pool.workers if worker.id not in signalled]
    if command.pid:
        worker = next((worker for worker in pool.workers if worker.id.pid == command.pid), None)
        if worker is None:
            pids = ", ".join(str(worker.id.pid) for worker in pool.workers)
            raise CommandError(f"{pool.name} has no worker {command.pid}; there are {pids}")
        if worker.id in signalled:
            raise CommandError(f"{pool.name}: worker {command.pid} has already been signalled")
    elif not present:
        raise CommandError(f"{pool.name}: all of its workers have already been signalled")
    elif command.verb == "roll":
        all_ = f"all {len(present)} workers are" if len(present) > 1 else f"worker {present[0].id.pid} is"
        text = f"{all_} going to be replaced{', one at a time' if len(present) > 1 else ''}"
        return policy.request((each.id for each in present), state), text + _young(present, state)
    else:
        worker = max(present, key=lambda worker: (worker.used or 0, worker.bound))
    text = f"worker {worker.id.pid} is going to be replaced"
    return policy.request([worker.id], state), text + _young([worker], state)


def _young(workers: Sequence[Worker], state: PoolState) -> str:
    """That a worker must come of age first."""
    min_age = state.settings.min_age if state.settings else 0.0
    young = sum(worker.age < min_age for worker in workers)
    if not young:
        return ""
    which = f"{young} of them " if len(workers) > 1 else ""
    return f"; {which}not before min_age={seconds(min_age)}"
