"""How a server is configured to recycle its workers: from its command line, its environment and its own files.

Each server's options were read in its documentation, and tried with the version that core.servers names.
"""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

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
# To its master, a worker that has accepted a connection and not begun to read is idle. If that is the one that it ends,
# the worker answers one request, and drops the next one on this connection; nginx sends only a GET again.
_PHP_DYNAMIC = (
    "where nginx keeps connections (fastcgi_keep_conn on), it may drop a POST when it ends a worker, with or without"
    " memreap"
)
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
    loses: str = ""
    """Where and when that loses requests, as a clause; empty: it was not seen to lose any."""


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
                loses = _PHP_DYNAMIC if value == "dynamic" else ""
                yield Recycling(f"{key} = {value}", f"{path} [{section}]", shrinks=True, loses=loses)


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
    "gunicorn gthread": _gunicorn,
    "gunicorn of an unknown worker class": _gunicorn,
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
