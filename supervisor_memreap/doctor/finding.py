"""The input of a check, and its output."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from supervisor_memreap.core.model import Program
from supervisor_memreap.core.rows import ListenerRow
from supervisor_memreap.core.settings import Settings
from supervisor_memreap.doctor.interpreter import Answer
from supervisor_memreap.host.source import Source
from supervisor_memreap.outputs import words
from supervisor_memreap.supervisord.client import Client, Unavailable
from supervisor_memreap.supervisord.configfile import Contents

_NOT_ASKED = Answer("", unknown="it was not asked")


class Finding(NamedTuple):
    subject: str
    """A pool, a section or supervisord."""
    text: str
    """What is wrong, and the remedy; or what is as it should be."""
    harms: bool = True
    """False: memreap works, but could work better."""
    is_good: bool = False
    """It reports what is in order."""

    @property
    def rank(self) -> int:
        """Problems come first, and what is as it should be last."""
        return int(not self.harms) + int(self.is_good)


def note(subject: str, text: str) -> Finding:
    """What does no harm, but could be better."""
    return Finding(subject, text, harms=False)


def good(subject: str, text: str) -> Finding:
    """What is as it should be."""
    return Finding(subject, text, harms=False, is_good=True)


@dataclass
class Case:
    """What the checks look at."""

    contents: Contents
    files: Sequence[str]
    """The paths of the main file, and of the files that it includes."""
    settings: Settings
    environ: Mapping[str, str]
    view: Source
    ask_until: float
    """The time after which no interpreter is asked (monotonic)."""
    refused: str = ""
    """Why the settings of the file cannot be used; empty: they can."""
    programs: list[Program] = field(default_factory=list)
    supervisord: Answer = _NOT_ASKED
    """The answer of the Python of the running supervisord."""
    supervisorctl: Answer = _NOT_ASKED
    """The answer of the Python of the supervisorctl on the PATH."""
    listener: ListenerRow | None = None
    """The listener as reported by supervisord; None: it has no [rpcinterface:memreap], or was not asked."""
    _client: Client | None = None

    @property
    def main(self) -> str:
        """The path of the main file."""
        return self.files[0]

    @property
    def client(self) -> Client:
        """Raises Unavailable."""
        if self._client is None:
            raise Unavailable("there is no supervisord to ask")
        return self._client

    @client.setter
    def client(self, client: Client) -> None:
        self._client = client

    @property
    def time_left(self) -> float:
        """Seconds in which an interpreter may still be asked."""
        return max(0.0, self.ask_until - time.monotonic())

    @property
    def has_commands(self) -> bool:
        """Whether supervisorctl memreap reaches the listener, as far as known."""
        return words.has_commands(self.contents.has_plugin, self.listener)

    def listeners(self) -> list[Program]:
        """The configured listeners of memreap that supervisord runs."""
        names = {name for section in self.contents.others if section.listens for name in section.processes}
        return [program for program in self.programs if program.name in names]

    @property
    def running_listener(self) -> Program | None:
        """The one that has a process; None: none has."""
        return next((program for program in self.listeners() if program.pid), None)
