"""Lines for the user of a command, to a stream that may be closed or full. Imports no events: all commands load it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import TextIO

from supervisor_memreap.core.text import printable


def to(stream: TextIO | None) -> Callable[[str], None]:
    """A function that writes one line, for commands."""
    return lambda text: write(stream, line(text))


def write(stream: TextIO | None, whole: str) -> None:
    """This line, as it is."""
    with contextlib.suppress(OSError, ValueError):  # the reader is gone; the work continues
        if stream is not None:
            print(whole, file=stream, flush=True)


def line(text: str) -> str:
    """The text as memreap's: it may come from a configuration or a process, and one event must stay one line."""
    return f"memreap: {printable(text)}"
