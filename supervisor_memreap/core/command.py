"""The commands that a user may send to a listener, as text; they are carried out in core.carryout. Pure.

The text is the data of a REMOTE_COMMUNICATION event, so only users who may control supervisord can send it:
`pause myapp`, `resume all`, `reap myapp`, `reap myapp 4242`, `roll myapp`, `doctor`. Two options may follow.
`id=1a2b3c`: the sender fetches the answer by it. `until=SECONDS`, in seconds since 1970: when the command expires.
supervisord keeps events for a listener that hangs, and a `reap` that was given up long ago must not be carried out
when the listener recovers. A command with both is carried out once, however often it is sent.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple, get_args

from supervisor_memreap.core.failed import Failed
from supervisor_memreap.core.text import quote

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
ASKED_BY_SUPERVISORCTL = "MEMREAP_ASKED_BY_SUPERVISORCTL"
"""In the environment of a `memreap doctor` that such a command started."""
MAX_NAMES = 20
"""At most this many names are listed in a message."""


class CommandError(ValueError):
    """One line: what is wrong with the command, and what is allowed."""


class UnknownName(Failed):
    """One line: the name, and the names that there are."""


class Command(NamedTuple):
    verb: Verb
    name: str
    """Of a pool, a program or a group; or `all`."""
    pid: int = 0
    """0: none was given."""
    id: str = ""
    until: float | None = None
    """When it expires, in seconds since 1970; None: never."""


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
        raise CommandError(f"unknown command {quote(written)!r}; the commands are {', '.join(VERBS)}")
    if verb == "doctor":
        name, rest = "all", ["", *rest]
    elif not rest or not _NAME.fullmatch(rest[0]):
        usage = "NAME [PID]" if verb == "reap" else "NAME or all"
        raise CommandError(f"{verb}: no pool given; use {verb} {usage}")
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


def unknown(name: str, pools: Sequence[str], where: str = "is watched", kind: str = "pool") -> str:
    """The line for a name that matches no pool, or none of another `kind`."""
    more = f", and {len(pools) - MAX_NAMES} more" if len(pools) > MAX_NAMES else ""
    names = ", ".join(pools[:MAX_NAMES]) or "none"
    return f"no {kind} '{quote(name)}' {where}; there are: {names}{more}"


def chosen(names: Sequence[str], pools: Sequence[str], where: str = "is watched", kind: str = "pool") -> list[str]:
    """The pools that these names mean; without names, all. Raises UnknownName if one of them matches no pool."""
    for name in names:
        if not named(name, pools):
            raise UnknownName(unknown(name, pools, where, kind))
    return [pool for pool in pools if means(names, pool)]


def means(names: Sequence[str], pool: str) -> bool:
    """Whether these names mean this pool, among others; without names, all are meant."""
    return not names or any(named(name, [pool]) for name in names)
