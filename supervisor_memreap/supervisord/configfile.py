"""Finds supervisord.conf, follows [include] as supervisord does, and reads the [memreap…] sections out of it."""

from __future__ import annotations

import configparser
import contextlib
import difflib
import errno
import glob
import io
import math
import os
import platform
import re
import stat
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from supervisor_memreap.core.listeners import is_listener, words_of_listener
from supervisor_memreap.core.model import Program
from supervisor_memreap.core.settings import KEYS, Given, Sections, Settings, SettingsError, parse_name_size, resolve
from supervisor_memreap.core.text import memory, quote, seconds
from supervisor_memreap.host import apart
from supervisor_memreap.supervisord import ancestor

if TYPE_CHECKING:
    from supervisor.options import UnhosedConfigParser

# supervisor's parser, with its imports, takes 5 MB: it is imported where it is used. The listener reads apart.

_KINDS = ("program", "fcgi-program", "eventlistener", "group", "ctlplugin", "rpcinterface")
_HEADER = re.compile(rf"\[(memreap(?::[^]]+)?|(?:{'|'.join(_KINDS)}):[^]]+)\]")
_DEFAULT, _HERE = "DEFAULT", "%(here)s"
# The maximum number of processes of one program whose names are expanded.
_MAX_PROCESSES = 10_000
# Seconds for what another process writes to a pipe: the listener waits for it at each look.
_PIPE = 2.0
# Bytes of one file: supervisord reads no log or archive either that stands beside its configuration.
_MOST = 16 * 1024**2
# Seconds that a process may take to read it all, for which a look waits. It takes 0.06 s.
_PATIENCE = 5.0
# Seconds after which a file with an error is read again though it has not changed: each time costs 58 ms of CPU.
_AGAIN = 30.0


@dataclass(frozen=True)
class Section:
    """A section that is supervisor's own."""

    kind: str
    """program, fcgi-program, eventlistener, group, ctlplugin or rpcinterface."""
    name: str
    path: str
    """The first file that has the section."""
    options: Mapping[str, str]
    """Expanded as for the first process of a program; without those that only supervisord can expand."""
    processes: tuple[str, ...] = ()
    """The names of the processes of a program or listener."""
    written: str = ""
    """Its command, nothing expanded."""
    paths: Mapping[str, str] = field(default_factory=dict)
    """The file of each key that is in another."""

    @property
    def where(self) -> str:
        return self.where_of("")

    def where_of(self, key: str) -> str:
        """The section, and the file whose value of this key counts."""
        return f"{self.paths.get(key, self.path)} [{self.kind}:{quote(self.name)}]"

    @property
    def listens(self) -> bool:
        """Whether this is a listener of memreap."""
        return self.kind == "eventlistener" and is_listener(self.written)

    @property
    def environment(self) -> dict[str, str]:
        from supervisor.datatypes import dict_of_key_value_pairs

        try:
            environment: dict[str, Any] = dict_of_key_value_pairs(self.options.get("environment", ""))
        except ValueError:
            return {}
        return {str(key): str(value) for key, value in environment.items()}

    def is_on(self, key: str) -> bool:
        return self.options.get(key, "").lower() in ("true", "yes", "on", "t", "y", "1")

    def is_off(self, key: str) -> bool:
        return self.options.get(key, "").lower() in ("false", "no", "off", "f", "n", "0")


@dataclass
class Contents:
    """What memreap uses of the file and its includes."""

    sections: Sections = field(default_factory=dict)
    """By name; that of `[memreap]` is ''."""
    places: dict[str, str] = field(default_factory=dict)
    """The first file with each of them, and the section, by name."""
    warnings: list[str] = field(default_factory=list)
    repeated: list[str] = field(default_factory=list)
    """Sections of supervisor that stand twice, or lack a ], a line each: supervisord merges them without a word."""
    server: dict[str, str] = field(default_factory=dict)
    """Of `[supervisorctl]`: serverurl, username, password, as far as they are there."""
    logfile: str = ""
    """Of `[supervisord]`; empty: it is not set."""
    pidfile: str = ""
    """The same."""
    others: list[Section] = field(default_factory=list)
    """The sections of supervisor that doctor must know of, in their order."""
    main: str = ""
    """The path of the main file."""

    def own_sections(self, kind: str) -> list[Section]:
        """The sections of this kind, ctlplugin or rpcinterface, that name memreap."""
        return [
            section
            for section in self.others
            if section.kind == kind and any("supervisor_memreap" in value for value in section.options.values())
        ]

    @property
    def plugins(self) -> list[Section]:
        """The sections [ctlplugin:memreap] that supervisorctl reads: those of the main file."""
        main = os.path.realpath(self.main)
        return [each for each in self.own_sections("ctlplugin") if os.path.realpath(each.path) == main]

    @property
    def has_plugin(self) -> bool:
        """Whether supervisorctl has the command memreap."""
        return bool(self.plugins)

    def section_of(self, program: Program) -> Section | None:
        """The section that this process comes from; None if there is none, as after a change without an update."""
        for section in self.others:
            is_program = section.kind in ("program", "fcgi-program")
            if is_program and program.name in section.processes and program.group in self._groups_of(section):
                return section
        return None

    def command_of(self, program: Program) -> str:
        """The command of this process; empty where its section is not known."""
        section = self.section_of(program)
        return section.options.get("command", "") if section else ""

    def programs(self) -> list[Program]:
        """What supervisord would run, of which nothing else is known."""
        return [
            Program(group, name, "", 0)
            for section in self.others
            if section.kind in ("program", "fcgi-program")
            for group in self._groups_of(section)
            for name in section.processes
        ]

    def _groups_of(self, section: Section) -> list[str]:
        groups = [
            group.name
            for group in self.others
            if group.kind == "group" and section.name in _words(group.options.get("programs", ""))
        ]
        return groups or [section.name]

    def settings(self) -> Settings:
        """What is set here, with the limits in the command of the listener. Raises SettingsError."""
        return resolve(merge(self.sections, self.limits()), self.places)

    def limits(self) -> Sections:
        """The limits in the command of the listener, as in `memreap listen myapp=150MB`. Raises SettingsError."""
        sections: Sections = {}
        for section in self.others:
            if section.listens and "command" in section.options:
                words = words_of_listener(section.options["command"])
                sections.update(parse_name_size(_without_options(words), f"{section.where_of('command')} command"))
        return sections


def _words(text: str) -> list[str]:
    return text.replace(",", " ").split()


def _without_options(words: list[str]) -> list[str]:
    return [
        argument
        for before, argument in zip(["", *words], words)
        if argument[0] != "-" and before not in ("-c", "--configuration")
    ]


def find(explicit: str | None, search: Callable[[], list[str]] | None = None) -> str:
    """The path that was given, else that of the supervisord above us, else where supervisorctl looks.

    `search` answers as `searched`. Raises SettingsError if there is none.
    """
    if explicit:
        return os.path.abspath(explicit)
    supervisord = ancestor.find()
    start = ancestor.directory(supervisord) if supervisord else os.getcwd()
    given = ancestor.option(supervisord, "-c", "--configuration") if supervisord else None
    if given:
        return os.path.join(start, given)
    paths = (search or searched)()
    for path in paths:
        if os.path.exists(os.path.join(start, path)):
            return os.path.join(start, path)
    raise SettingsError(f"no supervisord.conf in {', '.join(paths)}; specify it with -c")


def searched() -> list[str]:
    """Where supervisorctl looks."""
    from supervisor.options import ClientOptions

    return list(ClientOptions().searchpaths)


class ConfigFile:
    """One supervisord.conf with all that it includes."""

    def __init__(self, path: str):
        self.path = path
        self._patterns: list[str] = []
        self._read: dict[str, tuple[int, ...]] = {}
        """What was last read: each file as it was right before it was read."""
        self._again = 0.0
        """When an unchanged file is read again (monotonic), since it could not be read."""

    def has_changed(self) -> bool:
        """Whether the file, an included one, or the list of included ones is not as it was last read.

        Also now and then while it has an error: that of a pipe or of a missing parser may end without a change.
        """
        return time.monotonic() >= self._again or self._read != {path: _stat(path) for path in self.files()}

    def files(self) -> tuple[str, ...]:
        """Its own path, and those of what it includes."""
        return (self.path, *self._included())

    def read(self) -> Contents:
        """Raises SettingsError: one line with the file and the cause."""
        contents = Contents(main=self.path)
        self._patterns = []
        self._note([self.path])
        headers: dict[str, list[str]] = {}
        merged: dict[tuple[str, str], _Written] = {}
        main = _parse(self.path, headers)
        self._add(self.path, main, contents, merged)
        if main.has_section("include"):
            section = next((each for each in ("include", _DEFAULT) if main.has_option(each, "files")), "")
            files = _get(main, section, "files", self.path) if section else ""
            base = os.path.dirname(self.path)
            self._patterns = [os.path.join(base, pattern) for pattern in files.split()]
        paths = list(self._included())
        self._read.update({path: _stat(path) for path in paths})
        for path in paths:  # also twice, as supervisord does
            why = _why_ignored(path)
            if why is None:
                self._add(path, _parse(path, headers), contents, merged)
            elif why:
                contents.warnings.append(f"{path}: ignored, as supervisord does: {why}")
        _finish(contents, merged, main.expansions)
        for section, line in _repeated(headers, self.path):
            (contents.warnings if section.startswith("memreap") else contents.repeated).append(line)
        contents.warnings, contents.repeated = (
            list(dict.fromkeys(lines)) for lines in (contents.warnings, contents.repeated)
        )
        self._again = math.inf
        return contents

    def read_apart(self, patience: float = _PATIENCE) -> Contents:
        """As `read`, in a process of its own. Raises SettingsError."""

        def read() -> tuple[Contents | SettingsError, dict[str, Any]]:
            try:
                return self.read(), self.__dict__
            except SettingsError as error:
                return error, self.__dict__
            except Exception as error:  # as MemoryError: with the settings that it has, the listener goes on
                return SettingsError(f"{self.path}: cannot be read: {quote(repr(error))}"), self.__dict__

        try:
            contents, after = apart.made_or_here(read, patience)
        except TimeoutError as error:
            self._note(self.files())
            raise SettingsError(f"{self.path}: cannot be read: {error.strerror}") from None
        self.__dict__.update(after)
        if isinstance(contents, SettingsError):
            raise contents
        return contents

    def _note(self, paths: Iterable[str]) -> None:
        """That these files are read now, as they are."""
        self._read = {path: _stat(path) for path in paths}
        self._again = time.monotonic() + _AGAIN

    def _included(self) -> Iterator[str]:
        for pattern in self._patterns:
            yield from sorted(glob.glob(pattern))

    def _add(
        self, path: str, parser: UnhosedConfigParser, contents: Contents, merged: dict[tuple[str, str], _Written]
    ) -> None:
        for section in parser.sections():
            kind, _, name = section.partition(":")
            _note_unclosed(parser, section, path, contents)
            if section in ("supervisord", "supervisorctl", _DEFAULT) or kind in _KINDS:
                # supervisorctl merges nothing: it reads the main file alone.
                alone = path if kind in ("supervisorctl", "ctlplugin") else ""
                written = merged.setdefault((section, alone), _Written(path))
                written.add(parser.items(section, raw=True), path, _here(parser) if section != _DEFAULT else "")
                if section == _DEFAULT:
                    contents.warnings += [
                        f"{path} [{section}] {key}: ignored; use [memreap] for all pools"
                        for key in KEYS
                        if parser.has_option(section, key)
                    ]
            elif section == "memreap" or kind == "memreap":
                if section != "memreap" and not name:
                    raise SettingsError(f"{path} [{section}]: no name; use [memreap] or [memreap:PROGRAM]")
                given, where = contents.sections.setdefault(name, {}), f"{path} [{quote(section)}]"
                contents.places.setdefault(name, where)
                for key in parser.options(section):
                    given[key] = Given(_get(parser, section, key, path), where)
            elif difflib.get_close_matches(re.split(r"[\s:.]", section)[0], ["memreap"], cutoff=0.8):
                contents.warnings.append(f"{path} [{quote(section)}]: ignored; use [memreap] or [memreap:PROGRAM]")
        _expand_defaults(path, parser, merged)


@dataclass
class _Written:
    """What files have in a section, as supervisord merges it: of a key in two the later counts."""

    path: str
    values: dict[str, str] = field(default_factory=dict)
    paths: dict[str, str] = field(default_factory=dict)

    def add(self, items: Iterable[tuple[str, str]], path: str, here: str) -> None:
        """Without `here`, %(here)s stays."""
        for key, value in items:
            self.values[key] = value.replace(_HERE, here or _HERE)
            self.paths[key] = path


def _here(parser: UnhosedConfigParser) -> str:
    return str(parser.expansions["here"])


def _expand_defaults(path: str, parser: UnhosedConfigParser, merged: dict[tuple[str, str], _Written]) -> None:
    """As supervisord after each file: %(here)s of [DEFAULT] is the directory of the file that it reads then."""
    default = merged.get((_DEFAULT, ""))
    items = [(key, value) for key, value in default.values.items() if _HERE in value] if default else []
    if items:
        sections = [name for name, _ in merged] if parser.has_section(_DEFAULT) else parser.sections()
        for section in sections:
            written = merged.get((section, ""))
            if written and section != _DEFAULT:
                missing = [(key, value) for key, value in items if key not in written.values]
                written.add(missing, path, _here(parser))


def _finish(contents: Contents, merged: Mapping[tuple[str, str], _Written], expansions: Mapping[str, str]) -> None:
    default = merged.get((_DEFAULT, ""), _Written(""))
    for (section, _), written in merged.items():
        whole = _Written(written.path, {**default.values, **written.values}, {**default.paths, **written.paths})
        kind, _, name = section.partition(":")
        if section == "supervisord":
            options = _expanded(whole.values, expansions)
            contents.logfile, contents.pidfile = options.get("logfile", ""), options.get("pidfile", "")
        elif section == "supervisorctl" and not contents.server:  # of an include only if the main file has none
            _add_server(whole, contents, expansions)
        elif kind in _KINDS:
            contents.others.append(_section(kind, name, whole, expansions))


def _note_unclosed(parser: UnhosedConfigParser, section: str, path: str, contents: Contents) -> None:
    """A header without its ] is a key of the section before."""
    for key in parser.options(section):
        if key.startswith("["):
            lines = contents.warnings if key.startswith("[memreap") else contents.repeated
            lines.append(f"{path} [{quote(section)}] has the key {quote(key)}: is that a header without ]?")


def _add_server(written: _Written, contents: Contents, expansions: Mapping[str, str]) -> None:
    options = _expanded(written.values, expansions)
    for key in ("serverurl", "username", "password"):
        if key in options:
            contents.server[key] = options[key]
        elif key in written.values:  # the value may be a password
            path = written.paths[key]
            contents.warnings.append(f"{path} [supervisorctl] {key}: ignored, its % is not an expansion")


def _expanded(values: Mapping[str, str], expansions: Mapping[str, object]) -> dict[str, str]:
    """Without those that only supervisord can expand, or that are of no use to it, as no path has a NUL."""
    from supervisor.options import expand

    options = {}
    for key, value in values.items():
        with contextlib.suppress(ValueError):
            options[key] = str(expand(value, expansions, key))
    return {key: value for key, value in options.items() if "\0" not in value}


def _section(kind: str, name: str, written: _Written, expansions: Mapping[str, str]) -> Section:
    values, digits = written.values, written.values.get("numprocs", "1")
    numprocs = int(digits) if re.fullmatch("[0-9]{1,9}", digits) else 1
    known = {**expansions, "program_name": name, "group_name": name, "process_num": 0, "numprocs": numprocs}
    options = _expanded(values, known)
    processes: tuple[str, ...] = (name,)
    if "process_name" in options:
        # supervisord itself checks this; what it would refuse is nothing that runs.
        with contextlib.suppress(ValueError, KeyError):
            first, count = int(options.get("numprocs_start", "0")), int(options.get("numprocs", "1"))
            written_name = {"": values["process_name"]}
            processes = tuple(
                _expanded(written_name, {**known, "process_num": number})[""]
                for number in range(first, first + min(count, _MAX_PROCESSES))
            )
    paths = {key: path for key, path in written.paths.items() if path != written.path}
    return Section(kind, name, written.path, options, processes, values.get("command", ""), paths)


def _stat(path: str) -> tuple[int, ...]:
    try:
        status = os.stat(path)
    except OSError:
        return ()
    return status.st_mtime_ns, status.st_ctime_ns, status.st_size, status.st_ino


def _why_ignored(path: str) -> str | None:
    """Why supervisord reads nothing of an included path, and goes on; empty: it is a directory. None: it reads it."""
    try:
        mode = os.stat(path).st_mode
    except OSError as error:
        return error.strerror if error.errno in (errno.ENOENT, errno.ELOOP) else None
    if stat.S_ISDIR(mode):
        return ""
    return os.strerror(errno.ENXIO) if stat.S_ISSOCK(mode) else None


def _parse(path: str, headers: dict[str, list[str]]) -> UnhosedConfigParser:
    """The file; adds to `headers` where each section begins, which a parser merges without a word."""
    try:
        from supervisor.options import UnhosedConfigParser
    except ImportError as error:  # as while it is upgraded: the listener goes on with the settings that it has
        raise SettingsError(f"{path}: cannot be read without supervisor's parser: {error}") from None

    parser = UnhosedConfigParser(default_section="")  # [DEFAULT] is merged as any other
    parser.expansions = {f"ENV_{key}": value for key, value in os.environ.items()}
    parser.expansions["host_node_name"] = platform.node()
    parser.expansions["here"] = os.path.dirname(path)
    try:
        text = _text(path)
        parser.read_string(text, path)
    except OSError as error:
        raise SettingsError(f"{path}: cannot be read: {error.strerror}") from None
    except configparser.Error as error:
        raise SettingsError(f"{path}: {_one_line(error)}") from None
    for number, line in enumerate(text.splitlines(), 1):
        header = _HEADER.match(line)
        if header:
            headers.setdefault(header[1], []).append(f"{path} line {number}")
    return parser


def _text(path: str) -> str:
    """The content of the file. Raises OSError; also for a pipe to which nothing is written, or without an end."""
    with open(path, "rb", opener=_open_at_once) as file:
        is_pipe = stat.S_ISFIFO(os.fstat(file.fileno()).st_mode)
        data = _from_pipe(file.fileno()) if is_pipe else file.read(_MOST + 1)
    if len(data) > _MOST:
        raise OSError(errno.EFBIG, f"it has more than {memory(_MOST)}")
    return io.TextIOWrapper(io.BytesIO(data), encoding="utf-8", errors="surrogateescape").read()


def _from_pipe(fd: int) -> bytes:
    """What is written to it until its writers have closed it, which may take _PIPE seconds. Raises OSError."""
    try:
        data = apart.all_of(fd, time.monotonic() + _PIPE, _MOST)
    except TimeoutError:
        text = f"it is a pipe, and who writes to it has not closed it within {seconds(_PIPE)}"
        raise OSError(errno.ETIMEDOUT, text) from None
    if not data:
        raise OSError(errno.EPIPE, "it is a pipe, and nothing writes to it")
    return bytes(data)


def _open_at_once(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)


def _repeated(headers: Mapping[str, Sequence[str]], main: str) -> Iterator[tuple[str, str]]:
    """The sections that stand twice, each with a line that says where."""
    for section, found in headers.items():
        places = list(dict.fromkeys(found))  # a file may be included by two patterns
        if section.startswith("ctlplugin:"):
            places = [place for place in places if place.rpartition(" line ")[0] == main]
        if len(places) > 1:
            where = f"{', '.join(places[:-1])} and {places[-1]}"
            yield (
                section,
                f"[{quote(section)}] appears at {where}: of a key in both the last one counts; keep one section",
            )


def _get(parser: UnhosedConfigParser, section: str, key: str, path: str) -> str:
    raw = str(parser.get(section, key, raw=True))
    if re.fullmatch("[^%]+%", raw):
        return raw  # a percentage, such as headroom=10%: no expansion looks like that
    try:
        return str(parser.saneget(section, key))
    except ValueError:
        value = quote(raw)
        raise SettingsError(
            f"{path} [{quote(section)}] {quote(key)}={value}: unknown expansion; use %(here)s, %(host_node_name)s"
            " or %(ENV_X)s for an X in the environment; write a percent sign as %%"
        ) from None


def _one_line(error: configparser.Error) -> str:
    """The message of the parser, without its third line, which quotes the whole line of the file."""
    lines = [" ".join(line.split()) for line in str(error).splitlines()[:3]]
    return " ".join(lines[:1] + [line if line.startswith("file:") else quote(line) for line in lines[1:]])


def merge(*layers: Sections) -> Sections:
    """Sections of several sources, key by key; a later source wins."""
    merged: Sections = {}
    for layer in layers:
        for name, given in layer.items():
            merged.setdefault(name, {}).update(given)
    return merged
