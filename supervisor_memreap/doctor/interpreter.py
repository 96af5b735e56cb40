"""Asks the Python of the running supervisord, or of supervisorctl, what it can import and how it reads a configuration.

A section such as [rpcinterface:memreap] makes supervisord import supervisor_memreap. It often runs in another
environment than we do: Debian's packaged supervisor beside memreap in a venv. Where that import fails, supervisord does
not start. So that very interpreter is asked: as the same user, with its flags, its environment and its directory.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from supervisor_memreap import __version__
from supervisor_memreap.doctor import rights
from supervisor_memreap.host import packages
from supervisor_memreap.host.procfile import variables

_QUESTION = Path(__file__).with_name("question.py")
_MODULES = {"supervisord": "supervisor_memreap.rpcinterface", "supervisorctl": "supervisor_memreap.ctlplugin"}
# Flags of Python that take no value, and those that do.
_FLAG = re.compile(r"-[bBdEhiIOPqRsSuvVx?]+$")
_FLAG_WITH_VALUE = re.compile(r"-[bBdEiIOPqRsSuvx]*[WX](.*)$")
# Characters of a message, which may quote a value of any length.
_LONGEST = 500
_PYTHON = re.compile(r"(python|pypy)[0-9.]*$")


class Unknown(Exception):
    """It could not be asked; why."""


# From the source, as docs/install.md has it.
_SOURCE = f"DIRECTORY, the source of memreap {__version__}"


@dataclass(frozen=True)
class Answer:
    """The answer of an interpreter. With `unknown` nothing else is known."""

    program: str
    """supervisord or supervisorctl, with its path where that is known."""
    python: str = ""
    unknown: str = ""
    """Why it could not be asked."""
    version: str = ""
    """Of the supervisor_memreap that it imports; empty where it cannot."""
    error: str = ""
    """Of that import."""
    managed: bool = False
    """pip refuses to install into it (PEP 668)."""
    pip: bool = True
    refused: str = ""
    """Why supervisor's own parser does not take the configuration."""
    processes: Sequence[Mapping[str, Any]] | None = None
    """The configuration, as supervisor.getAllConfigInfo returns it; None where that is not known."""
    serverurl: str = ""
    """supervisord's address for its programs, from the configuration."""

    @property
    def can_import(self) -> bool:
        """Whether it has a supervisor_memreap of this version."""
        return self.version == __version__

    @property
    def remedy(self) -> str:
        """How to make `can_import` true."""
        by_system = (
            "install the Debian package supervisor-memreap, or run supervisor itself from a venv that holds both"
            f" (pip install {_SOURCE})"
        )
        python = packages.Python(self.python, self.managed, self.pip)
        return packages.install(python, f"memreap {__version__}", _SOURCE, by_system)

    @property
    def lacks(self) -> str:
        """Why it cannot import memreap, in a clause."""
        has = f"has supervisor_memreap {self.version}, not {__version__}"
        return f"{self.python} {has if self.version else f'cannot import supervisor_memreap ({self.error})'}"


@dataclass(frozen=True)
class _Start:
    """How an interpreter is started."""

    python: str
    flags: tuple[str, ...]
    first: str
    """The first directory of its sys.path; empty: it would be the current one, from which nothing is imported."""
    directory: str
    environ: Mapping[str, str]
    user: rights.Rights | None = None
    """None: ours."""


def of_supervisord(pid: int, files: Sequence[str], timeout: float) -> Answer:
    """Ask the Python of the supervisord with this pid about a configuration: its main file, then the included ones."""
    try:
        start = _start_of(pid)
    except (Unknown, OSError, ValueError) as error:
        return Answer("supervisord", unknown=_reason(error))
    return _ask(start, "supervisord", "supervisord", files, timeout)


def of_script(kind: str, script: str, files: Sequence[str], environ: Mapping[str, str], timeout: float) -> Answer:
    """Ask the Python of the script supervisord or supervisorctl (`kind`), started by us in this environment."""
    try:
        words = _shebang(script)
        python = _resolve(words[0], os.getcwd(), environ)
        first = os.path.dirname(os.path.realpath(script))
        start = _Start(python, tuple(_flags(words[1:])), first, os.getcwd(), environ)
    except (Unknown, OSError, ValueError) as error:
        return Answer(script, unknown=_reason(error))
    return _ask(start, kind, script, files, timeout)


def script_beside(pid: int, name: str) -> str | None:
    """The script of this name in the directory of the script that process `pid` runs; None: there is none."""
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="surrogateescape").split("\0")
        directory = os.readlink(f"/proc/{pid}/cwd")
    except OSError:
        return None
    scripts = (
        os.path.join(directory, argument) for argument in words[:8] if os.path.basename(argument) == "supervisord"
    )
    beside = (os.path.join(os.path.dirname(script), name) for script in scripts if os.path.isfile(script))
    return next((script for script in beside if os.path.isfile(script) and os.access(script, os.X_OK)), None)


def _reason(error: Exception) -> str:
    if isinstance(error, PermissionError):
        return f"it is another user's process{rights.lack()}: {rights.needed() or 'run memreap doctor on its host'}"
    if isinstance(error, (FileNotFoundError, ProcessLookupError)):
        return "its process cannot be seen from here"
    return (error.strerror if isinstance(error, OSError) else None) or str(error)


def _start_of(pid: int) -> _Start:
    if not sys.platform.startswith("linux"):
        raise Unknown("this system does not show how it was started")
    words = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="surrogateescape").split("\0")[:-1]
    if not any("supervisord" in argument for argument in words[:8]):
        where = "in another container or on another machine: run doctor there"
        raise Unknown(f"process {pid} here is not supervisord, which runs {where}")
    user = rights.of(pid)
    if os.geteuid() not in (0, user.users[1]):
        raise PermissionError(pid)
    directory, executable = os.readlink(f"/proc/{pid}/cwd"), os.readlink(f"/proc/{pid}/exe")
    environ = variables(Path(f"/proc/{pid}/environ").read_bytes())
    python = _resolve(words[0], directory, environ)
    # After an upgrade it runs a deleted file; the next start uses the new file at that path.
    if os.path.realpath(python) != executable.replace(" (deleted)", ""):
        raise Unknown(f"it runs {executable}, but was started as {words[0]}")
    flags = list(_flags(words[1:]))
    rest = words[1 + len(flags) :]
    is_script = bool(rest) and not rest[0].startswith("-")
    first = os.path.dirname(os.path.realpath(os.path.join(directory, rest[0]))) if is_script else ""
    return _Start(python, tuple(flags), first, directory, environ, None if os.geteuid() == user.users[1] else user)


def _resolve(argument: str, directory: str, environ: Mapping[str, str]) -> str:
    """The path with which an interpreter was started, not that of the file behind it, which knows no venv."""
    if not _PYTHON.match(os.path.basename(argument)):
        raise Unknown(f"{argument} is not a Python interpreter")
    if "/" in argument:
        return os.path.join(directory, argument)
    path = shutil.which(argument, path=environ.get("PATH", os.defpath))
    if path is None:
        raise Unknown(f"there is no {argument} on its PATH")
    return path


def _flags(words: Sequence[str]) -> Iterator[str]:
    """The options of Python itself, before the script."""
    takes = False
    for argument in words:
        value = _FLAG_WITH_VALUE.match(argument)
        if not takes and not _FLAG.match(argument) and not value:
            return
        takes = not takes and value is not None and not value[1]
        yield argument


def _shebang(script: str) -> list[str]:
    with open(script, "rb") as file:
        lines = file.read(1024).decode(errors="replace").splitlines()
    if not lines or not lines[0].startswith("#!"):
        raise Unknown(f"{script} is not a Python script")
    words = shlex.split(lines[0][2:])
    # pip writes this if the path is long or has a space: #!/bin/sh, then '''exec' "/path/python" "$0" "$@".
    if words[:1] == ["/bin/sh"] and len(lines) > 1 and lines[1].startswith("'''exec' "):
        words = shlex.split(lines[1][len("'''exec' ") :])[:1]
    if words and os.path.basename(words[0]) == "env":
        words = [argument for argument in words[1:] if argument not in ("-S", "--split-string")]
    if not words:
        raise Unknown(f"{script} is not a Python script")
    return words


def _ask(start: _Start, kind: str, program: str, files: Sequence[str], timeout: float) -> Answer:
    # -B: write nothing, not even a compiled module. Not -I: supervisord imports from PYTHONPATH and from its user's own
    # packages, so these count. What does not is the current directory, which question.py leaves out before it imports.
    arguments = [kind, _MODULES[kind], start.first, *map(os.path.abspath, files)]
    words = [start.python, *start.flags, "-B", "-c", _QUESTION.read_text(), *arguments]
    try:
        answer = json.loads(rights.run(words, start.directory, start.environ, start.user, timeout))
    except subprocess.TimeoutExpired:
        return Answer(program, start.python, unknown=f"{start.python} did not answer within {timeout:.0f} s")
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        return Answer(program, start.python, unknown=f"{start.python}: {_reason(error)}")
    if "unread" in answer:
        return Answer(program, start.python, unknown=f"{start.python}: {_line(answer['unread'])}")
    return Answer(
        program,
        start.python,
        version=str(answer.get("version", "")),
        error=_line(answer.get("error", "")),
        managed=bool(answer["managed"]),
        pip=bool(answer["pip"]),
        refused=_line(answer.get("refused", "")),
        processes=answer.get("processes"),
        serverurl=str(answer.get("serverurl") or ""),
    )


def _line(text: object) -> str:
    line = " ".join(str(text).split())
    return line if len(line) <= _LONGEST else f"{line[:_LONGEST]}..."
