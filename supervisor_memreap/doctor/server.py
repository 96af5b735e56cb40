"""Which server a pool runs, which signal that means, and what else replaces its workers."""

from __future__ import annotations

import glob
import os
import re
import shlex
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from supervisor_memreap.core.model import Pool
from supervisor_memreap.core.servers import UNRECOGNISABLE, graceful, known, recognise, signal_for
from supervisor_memreap.core.settings import Watch
from supervisor_memreap.doctor.finding import Case, Finding, good, note
from supervisor_memreap.host import look
from supervisor_memreap.supervisord.configfile import Section


def check(case: Case, watch: Watch, pool: Pool, section: Section) -> Iterator[Finding]:
    server = look.server_of(pool, case.view)
    if server is None:
        return
    yield from _signal(case, watch, pool, server)
    if not graceful(server):
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
    signal, safe = signal_for(server, settings.signal), graceful(server)
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
    elif known(server) is None and not settings.signal and _is_caught(pool):
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
        return f"{server} shrinks its pool on its own ({found.setting}{where}): a reaped worker may not be replaced"
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
        return f"{change} from {option} in {section.where}, then run supervisorctl update, which restarts {name}"
    return f"{change} there; it takes effect at the next restart of {name}"


def _started(case: Case, pool: Pool, section: Section) -> Started:
    """How the manager was started, as far as that can be read."""
    assert pool.manager
    pid, options = pool.manager.pid, section.options
    try:
        argv = case.view.names(pid).argv
    except (ProcessLookupError, PermissionError):
        argv = []
    try:
        own = case.view.environ(pid)
    except OSError:
        own = {}
    words = [*argv, *_split(options.get("command", ""))]
    return Started(words, {**own, **section.environment}, _directory(pid, options), argv[0] if argv else "")


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


# How a server is configured to recycle its workers: from its command line, its environment and its own files.
# Each server's options were read in its documentation, and tried with the version that core.servers names.


# Replaces grown workers: Starman's own default, if --max-requests is missing or 0.
STARMAN_REQUESTS = 1000
# A file of settings is shorter; what is longer is something else.
_MAX_CHARACTERS = 1_000_000
_MAX_FILES = 100
# Of uWSGI 2.0; its memory is in MiB.
_UWSGI = (
    *("max-requests", "max-worker-lifetime", "reload-on-rss", "reload-on-as", "reload-on-uss", "reload-on-pss"),
    *("evil-reload-on-rss", "evil-reload-on-as"),
)
_APACHE = re.compile(r"\s*(?:MaxConnectionsPerChild|MaxRequestsPerChild)\s+([0-9]+)\s*", re.IGNORECASE)
_PHP_TITLE = re.compile(r"php-fpm: master process \((.+)\)")

Read = Callable[[str], str]


class Started(NamedTuple):
    """How a manager was started."""

    words: Sequence[str]
    """Of its command line."""
    environ: Mapping[str, str]
    directory: str
    """In which it was started; empty: unknown."""
    title: str = ""
    """What the manager calls itself."""


class Recycling(NamedTuple):
    setting: str
    """As it is written, such as `--max-requests 1000`."""
    place: str = ""
    """The file, or what else it is in; empty: the command line."""
    shrinks: bool = False
    """It does not replace workers, but lets the pool become smaller."""


def detect(server: str, started: Started, read: Read) -> list[Recycling]:
    """What replaces this server's workers besides memreap. `read` returns a file's text, empty if it has none."""
    find = _FINDERS.get(server)
    return [*find(started, read)] if find else []


def starman_requests(words: Sequence[str]) -> int:
    """After how many requests Starman replaces a worker: it always does."""
    given = [int(value) for _, value in options(words, ("--max-requests",)) if value.isdigit() and int(value)]
    return given[-1] if given else STARMAN_REQUESTS


def options(words: Sequence[str], names: Iterable[str]) -> Iterator[tuple[str, str]]:
    """The name and value of each of these options: `--name value`, `--name=value`, `-R value`, `-R1000`."""
    for word, following in zip(words, [*words[1:], ""]):
        for name in names:
            if word == name:
                yield name, following
            elif name.startswith("--") and word.startswith(f"{name}="):
                yield name, word[len(name) + 1 :]
            elif not name.startswith("--") and word.startswith(name):
                yield name, word[len(name) :]


def text_of(path: str) -> str:
    """The text of a regular file; empty if it may not be read."""
    try:
        if not os.path.isfile(path):  # a pipe would block
            return ""
        with Path(path).open(errors="replace") as file:
            return file.read(_MAX_CHARACTERS)
    except (OSError, ValueError):
        return ""


def _is_on(value: str) -> bool:
    """Whether a number, perhaps with a unit, is above 0."""
    number = re.match(r"\s*([0-9]+)", value)
    return bool(number and int(number[1]))


def _from_options(words: Sequence[str], names: Sequence[str], place: str = "") -> Iterator[Recycling]:
    for name, value in options(words, names):
        if _is_on(value):
            yield Recycling(f"{name} {value}", place)


def _gunicorn(started: Started, read: Read) -> Iterator[Recycling]:
    """The command line overrides the environment, and that the file."""
    in_environment = started.environ.get("GUNICORN_CMD_ARGS", "").split()
    for words, place in ((started.words, ""), (in_environment, "GUNICORN_CMD_ARGS")):
        if [*options(words, ("--max-requests",))]:
            yield from _from_options(words, ("--max-requests",), place)
            return
    named = [name.removeprefix("file:") for _, name in options([*in_environment, *started.words], ("-c", "--config"))]
    path = _path((named or ["gunicorn.conf.py"])[-1], started)
    for value in re.findall(r"^max_requests\s*=\s*([0-9]+)", read(path), re.MULTILINE)[-1:]:
        if _is_on(value):
            yield Recycling(f"max_requests = {value}", path)


def _uwsgi(started: Started, read: Read) -> Iterator[Recycling]:
    yield from _from_options(started.words, ("-R", *(f"--{key}" for key in _UWSGI)))
    # `uwsgi app.ini` is short for `uwsgi --ini app.ini`; behind a colon is the name of a section.
    named = [word for word in started.words[1:] if re.search(r"\.ini(:[\w-]*)?$", word) and not word.startswith("-")]
    named += [value for _, value in options(started.words, ("--ini",))]
    for name in dict.fromkeys(named):
        file, _, section = name.partition(":")
        path = _path(file, started)
        for _, key, value in _ini(read(path), section or "uwsgi"):
            if key in _UWSGI and _is_on(value):
                yield Recycling(f"{key} = {value}", path)
            if key == "cheaper" and _is_on(value):
                yield Recycling(f"{key} = {value}", path, shrinks=True)
    for name, value in options(started.words, ("--cheaper",)):
        if _is_on(value):
            yield Recycling(f"{name} {value}", shrinks=True)


def _php_fpm(started: Started, read: Read) -> Iterator[Recycling]:
    title = _PHP_TITLE.match(started.title)
    named = [value for _, value in options(started.words, ("-y", "--fpm-config"))]
    paths = [_path((named or [title[1]] if title else named)[-1], started)] if named or title else []
    for path in _with_included(paths, started, read):
        for section, key, value in _ini(read(path)):
            if key == "pm.max_requests" and _is_on(value):
                yield Recycling(f"{key} = {value}", f"{path} [{section}]")
            if key == "pm" and value in ("dynamic", "ondemand"):
                yield Recycling(f"{key} = {value}", f"{path} [{section}]", shrinks=True)


def _with_included(paths: Sequence[str], started: Started, read: Read) -> list[str]:
    """The files, and those that their include= names."""
    included = [
        file
        for path in paths
        for _, key, value in _ini(read(path))
        if key == "include"
        for file in sorted(glob.glob(_path(value, started)))
    ]
    return [*paths, *included[:_MAX_FILES]]


def _apache(started: Started, _read: Read) -> Iterator[Recycling]:
    # In its files a directive may stand anywhere, also where it does not count.
    for _, directive in options(started.words, ("-c", "-C")):
        value = _APACHE.fullmatch(directive)
        if value and _is_on(value[1]):
            yield Recycling(directive.strip())


def _procmanager(started: Started, _read: Read) -> Iterator[Recycling]:
    # Only FCGI::ProcManager::Constrained reads them.
    for key in ("PM_MAX_REQUESTS", "PM_MAX_SIZE"):
        value = started.environ.get(key, "")
        if _is_on(value):
            yield Recycling(f"{key}={value}", "its environment")


_FINDERS: dict[str, Callable[[Started, Read], Iterator[Recycling]]] = {
    "gunicorn": _gunicorn,
    "uWSGI": _uwsgi,
    "php-fpm": _php_fpm,
    "Apache": _apache,
    "FCGI::ProcManager": _procmanager,
}


def _path(name: str, started: Started) -> str:
    """Empty for a relative path where the directory is unknown."""
    path = os.path.join(started.directory, name)
    return path if os.path.isabs(path) else ""


def _ini(text: str, only: str = "") -> Iterator[tuple[str, str, str]]:
    """Section, key and value of each line, as uWSGI and php-fpm write them; `only` those of one section."""
    section = ""
    for line in map(str.strip, text.splitlines()):
        key, equals, value = line.partition("=")
        if line.startswith("[") and line.endswith("]"):
            section = line[1:-1]
        elif equals and not line.startswith((";", "#")) and only in ("", section):
            yield section, key.strip(), value.partition(";")[0].strip().strip("\"'")
