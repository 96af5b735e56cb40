"""A command on a real pty, and what is to be seen there."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import select
import struct
import subprocess
import termios
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pyte


class Screen:
    """The command runs from the start, as a shell would start it: the terminal belongs to its session."""

    def __init__(
        self, command: Sequence[str], columns: int = 80, rows: int = 24, cwd: Path | None = None, **environment: str
    ):
        self.raw = b""
        self._screen = pyte.Screen(columns, rows)
        self._stream = pyte.ByteStream(self._screen)
        self.master, self._slave = pty.openpty()
        self._size(columns, rows)
        self.saved_mode = termios.tcgetattr(self._slave)
        path = os.ttyname(self._slave)
        usual = {"TERM": "xterm", "PYTHONIOENCODING": "utf-8", "NO_COLOR": "", "COLUMNS": "", "LINES": ""}
        self.process = subprocess.Popen(
            command,
            stdin=self._slave,
            stdout=self._slave,
            stderr=self._slave,
            start_new_session=True,
            cwd=cwd,
            preexec_fn=lambda: os.close(os.open(path, os.O_RDWR)),  # so it belongs to this session
            env={**os.environ, **usual, **environment},
        )

    def __enter__(self) -> Screen:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        os.close(self.master)
        os.close(self._slave)

    def _size(self, columns: int, rows: int) -> None:
        fcntl.ioctl(self._slave, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def resize(self, columns: int, rows: int) -> None:
        """The kernel sends SIGWINCH."""
        self._screen.resize(rows, columns)
        self._size(columns, rows)

    def types(self, keys: bytes) -> None:
        os.write(self.master, keys)

    def read(self, seconds: float) -> bool:
        """Read what is written, waiting up to `seconds`; whether there was anything."""
        if not select.select([self.master], [], [], max(0.0, seconds))[0]:
            return False
        chunk = os.read(self.master, 65536)
        self.raw += chunk
        self._stream.feed(chunk)
        return True

    def lines(self) -> list[str]:
        return [line.rstrip() for line in self._screen.display]

    def text(self) -> str:
        return "\n".join(self.lines())

    def cells(self) -> list[list[pyte.screens.Char]]:
        """Each row's characters, with their colours."""
        return [
            [self._screen.buffer[row][column] for column in range(self._screen.columns)]
            for row in range(self._screen.lines)
        ]

    def until(self, holds: Callable[[str], object], seconds: float = 60) -> str:
        """The text, as soon as it is as wanted."""
        deadline = time.monotonic() + seconds
        while True:
            while self.read(0.05):  # what is drawn comes in pieces
                pass
            if holds(self.text()):
                return self.text()
            assert time.monotonic() < deadline, f"after {seconds} s:\n{self.text()}"
            self.read(0.1)

    def ends(self, seconds: float = 30) -> int:
        """The exit status; by then all is read that it has written."""
        deadline = time.monotonic() + seconds
        while self.process.poll() is None:
            assert time.monotonic() < deadline, self.text()
            self.read(0.05)
        while self.read(0.05):
            pass
        return self.process.returncode

    def attributes(self) -> list:
        """Of the terminal, as termios.tcgetattr has them."""
        return termios.tcgetattr(self._slave)

    def is_stopped(self) -> bool:
        """Whether the process was stopped, as by Ctrl-Z."""
        with contextlib.suppress(OSError), open(f"/proc/{self.process.pid}/stat", "rb") as stat:
            return stat.read().rpartition(b") ")[2].startswith(b"T")
        return False
