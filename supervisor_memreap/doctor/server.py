"""Which server a pool runs, which signal that means, and what else replaces its workers."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator, Mapping, Sequence

from supervisor_memreap.core.model import Pool
from supervisor_memreap.core.servers import UNRECOGNISABLE, named, recognise, signal_for
from supervisor_memreap.core.settings import Watch
from supervisor_memreap.doctor.finding import Case, Finding, good, note
from supervisor_memreap.doctor.recycling import Recycling, Started, detect, starman_requests, text_of
from supervisor_memreap.host import look
from supervisor_memreap.host.source import if_readable
from supervisor_memreap.supervisord.configfile import Section


def check(case: Case, watch: Watch, pool: Pool, section: Section) -> Iterator[Finding]:
    server = look.server_of(pool, case.view)
    if server is None:
        return
    yield from _signal(case, watch, pool, server)
    if not named(server).graceful:
        return
    started = _started(case, pool, section)
    for each in dict.fromkeys(detect(server, started, text_of)):
        yield note("", f"{_what(server, each)}; {_remedy(server, each, section, watch)}")
    if server == "Starman":
        requests = starman_requests(started.words)
        yield good("", f"Starman itself replaces each worker after {requests} requests, which is harmless")


def shrinks(case: Case, pool: Pool, section: Section) -> bool:
    """Whether the server ends workers that have nothing to do, so that a pool may be empty."""
    assert pool.manager
    try:
        server = recognise(case.view.names(pool.manager.pid))
    except (ProcessLookupError, PermissionError):
        return False
    found = detect(server, _started(case, pool, section), text_of)
    return any(each.shrinks for each in found)


def _signal(case: Case, watch: Watch, pool: Pool, server: str) -> Iterator[Finding]:
    settings = watch.settings
    signal, safe = signal_for(server, settings.signal), named(server).graceful
    member = watch.members[0] if watch.members else watch.program
    given = case.settings.origins(member).get("signal")
    if safe and signal in safe:
        how = f"set in {given.where}" if given else "signal= is not set"
        yield good("", f"{server}: workers are reaped with {signal} ({how})")
    elif safe and given:
        text = f"{server} drops its requests on signal={given.value} (set in {given.where}): nothing is sent; under"
        # Not where it is set: other pools may inherit that.
        remedy = f"[memreap:{watch.program.namespec}], write signal={safe[0]}; it takes effect at the next tick"
        yield Finding("", f"{text} {remedy}")
    elif not named(server).is_known and not settings.signal and _is_caught(pool):
        is_hidden = server == UNRECOGNISABLE
        which = "its process names do not identify the server" if is_hidden else "memreap does not know its server"
        text = f"{which}, so it uses {signal}: check that a worker that gets it finishes its request and is replaced,"
        remedy = f"then write signal={signal}, or the right signal, under [memreap:{watch.program.namespec}]"
        yield note("", f"{text} {remedy}")


def _is_caught(pool: Pool) -> bool:
    """Whether workers have a handler for the signal; without one they are never signalled, which is reported."""
    return not any(worker.detail and worker.detail.caught is False for worker in pool.workers)


def _what(server: str, found: Recycling) -> str:
    where = f" in {found.place}" if found.place else " in its command"
    if found.shrinks:
        text = f"{server} shrinks its pool on its own ({found.setting}{where}): a reaped worker may not be replaced"
        return f"{text}; {found.loses}" if found.loses else text
    return (
        f"{server} also replaces workers on its own ({found.setting}{where}): more than one may be missing at once, and"
        " memreap counts only its own"
    )


def _remedy(server: str, found: Recycling, section: Section, watch: Watch) -> str:
    """How to switch it off, and what that restarts."""
    name = watch.program.namespec
    if found.shrinks and server == "php-fpm":
        change = "set pm = static, and pm.max_children to the number of workers that may always run"
    else:
        change = f"remove {found.setting.partition(' ')[0].partition('=')[0]}"
    option = "command=" if not found.place else "environment="
    in_section = found.setting.split()[0].partition("=")[0] in section.options.get(option[:-1], "")
    if in_section and not found.place.startswith("/"):
        where = section.where_of(option[:-1])
        return f"{change} from {option} in {where}, then run supervisorctl update, which restarts {name}"
    return f"{change} there; it takes effect at the next restart of {name}"


def _started(case: Case, pool: Pool, section: Section) -> Started:
    """How the manager was started, as far as that can be read."""
    assert pool.manager
    pid = pool.manager.pid
    argv: Sequence[str] = if_readable(lambda: case.view.names(pid).argv, [])
    try:
        own = case.view.environ(pid)
    except OSError:
        own = {}
    words = [*argv, *_split(section.options.get("command", ""))]
    return Started(words, {**own, **section.environment}, _directory(pid, section.options), argv[0] if argv else "")


def _split(command: str) -> list[str]:
    try:
        return shlex.split(command)
    except ValueError:
        return command.split()


def _directory(pid: int, options: Mapping[str, str]) -> str:
    """That of its section: a server may have changed it since. Else that of the process."""
    try:
        return options.get("directory") or os.readlink(f"/proc/{pid}/cwd")
    except OSError:
        return ""
