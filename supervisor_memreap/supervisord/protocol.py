"""supervisord's event protocol on two descriptors; supervisor.childutils fails at EOF and at a torn header."""

from __future__ import annotations

import codecs
import os
from collections.abc import Iterator
from typing import NamedTuple


class Event(NamedTuple):
    name: str
    payload: str


class Protocol:
    def __init__(self, stdin: int, stdout: int):
        self._stdin = stdin
        self._stdout = os.fdopen(stdout, "w", encoding="ascii")
        # `len` in the header counts characters, not bytes: supervisord takes the length before it encodes.
        self._decode = codecs.getincrementaldecoder("utf-8")("surrogateescape").decode
        self._pieces: list[str] = []
        self._missing: int | None = None
        """Characters of the event whose header was read; None: no header was read."""

    def ready(self) -> None:
        self._answer("READY\n")

    def ok(self) -> None:
        self._answer("RESULT 2\nOK")

    def _answer(self, text: str) -> None:
        self._stdout.write(text)
        self._stdout.flush()

    def feed(self) -> Iterator[Event]:
        """Read what is there, and yield the events that are whole. Raises EOFError."""
        chunk = os.read(self._stdin, 65536)
        if not chunk:
            raise EOFError
        piece = self._decode(chunk)
        self._pieces.append(piece)
        # An event of 40 MB comes in 600 pieces: joined once, when it is whole, and not at each of them.
        if self._missing is None:
            if "\n" not in piece:
                return
        else:
            self._missing -= len(piece)
            if self._missing > 0:
                return
        text = "".join(self._pieces)
        start, self._missing = 0, None
        while self._missing is None:
            end = text.find("\n", start)
            if end < 0:
                break
            name, count = _read_header(text[start:end])
            if end + 1 + count > len(text):
                self._missing = end + 1 + count - len(text)
                break
            yield Event(name, text[end + 1 : end + 1 + count])
            start = end + 1 + count
        self._pieces = [text[start:]]


def _read_header(header: str) -> tuple[str, int]:
    """The name of the event and the length of its payload; not by childutils.get_headers: the identifier in `server:`
    may hold spaces and colons."""
    length = header.rpartition(" len:")[2]
    name = header.rpartition(" eventname:")[2] if " eventname:" in header else ""
    # A torn header has no length that could be read; 9 digits are a gigabyte.
    is_length = " len:" in header and length.isascii() and length.isdigit() and len(length) <= 9
    return name.partition(" ")[0], int(length) if is_length else 0
