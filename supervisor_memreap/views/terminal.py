"""The terminal: its alternate screen, its keys, its size, and signals. Whatever happens, it is restored."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import termios
import tty
from collections.abc import Iterator, Sequence

from rich.console import Console
from rich.text import Text

_ENDS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
_KEYS, _SWITCHES = b"qQ", b"mM"


class Terminal:
    """`ended_by` is the signal that asked for the end; None: none has. A key switches to the second page and back."""

    def __init__(self) -> None:
        self.ended_by: int | None = None
        self.quit = False
        self.is_second_page = False
        self._suspend = False
        self._console = Console(
            highlight=False,
            markup=False,
            emoji=False,
            no_color=bool(os.environ.get("NO_COLOR")),  # older releases of rich obey an empty one
        )
        self._keys = sys.stdin.fileno() if sys.stdin is not None and sys.stdin.isatty() else None
        self._saved_mode = None if self._keys is None else termios.tcgetattr(self._keys)
        self._reading, self._writing = os.pipe()
        for fd in (self._reading, self._writing):
            os.set_blocking(fd, False)

    @property
    def has_keys(self) -> bool:
        return self._keys is not None

    @property
    def is_over(self) -> bool:
        return self.quit or self.ended_by is not None

    @contextlib.contextmanager
    def entered(self) -> Iterator[None]:
        """With the alternate screen, without the cursor, and without echo; signals are noted."""
        before = {signum: signal.getsignal(signum) for signum in (*_ENDS, signal.SIGTSTP, signal.SIGWINCH)}
        for signum, handler in before.items():
            if handler != signal.SIG_IGN:  # nohup, or a job in a shell's background
                signal.signal(signum, self._note)
        try:
            self._enter()
            yield
        finally:
            self._leave()
            for signum, handler in before.items():
                signal.signal(signum, handler)
            os.close(self._reading)
            os.close(self._writing)

    def size(self) -> tuple[int, int]:
        """Columns and rows. Not by COLUMNS and LINES: those do not follow the window."""
        columns, rows = os.get_terminal_size(sys.stdout.fileno())
        return columns or 80, rows or 24

    def draw(self, lines: Sequence[Text]) -> None:
        """Over what is there; never more than the screen holds."""
        self._console.width = self.size()[0]
        with self._console.capture() as captured:
            for line in lines:
                self._console.print(line, no_wrap=True, overflow="crop", crop=True)
        text = captured.get().removesuffix("\n")
        self._write("\033[H" + text.replace("\n", "\033[K\r\n") + "\033[K\033[J")

    def wake(self) -> None:
        """End a wait; from any thread."""
        with contextlib.suppress(OSError):  # full, or closed: it is over
            os.write(self._writing, b".")

    def wait(self, duration: float) -> None:
        """Until a key, a signal, or `wake`, and not longer."""
        waited = [self._reading, *([] if self._keys is None else [self._keys])]
        ready = select.select(waited, [], [], max(0.0, duration))[0]
        if self._reading in ready:
            with contextlib.suppress(BlockingIOError):
                os.read(self._reading, 4096)
        if self._keys in ready and self._keys is not None:
            self._read_keys(self._keys)
        if self._suspend:
            self._suspend = False
            self._stop()

    def _read_keys(self, keys: int) -> None:
        try:
            typed = os.read(keys, 4096)
        except OSError:
            typed = b""
        if not typed:  # the terminal is gone
            self.ended_by = self.ended_by or signal.SIGHUP
        self.quit = self.quit or any(key in typed for key in _KEYS)
        self.is_second_page ^= sum(map(_SWITCHES.__contains__, typed)) % 2 == 1

    def _note(self, signum: int, _frame: object) -> None:
        if signum in _ENDS:
            self.ended_by = self.ended_by or signum
        self._suspend = self._suspend or signum == signal.SIGTSTP
        self.wake()

    def _stop(self) -> None:
        """Ctrl-Z: the shell gets its terminal as it was, and we ours after `fg`."""
        self._leave()
        os.kill(os.getpid(), signal.SIGSTOP)  # until SIGCONT
        self._enter()

    def _enter(self) -> None:
        if self._keys is not None:
            tty.setcbreak(self._keys, termios.TCSADRAIN)
        self._write("\033[?1049h\033[?25l\033[H\033[2J")

    def _leave(self) -> None:
        self._write("\033[0m\033[2J\033[?1049l\033[?25h")
        if self._keys is not None and self._saved_mode is not None:
            with contextlib.suppress(termios.error):  # it is gone
                termios.tcsetattr(self._keys, termios.TCSADRAIN, self._saved_mode)

    def _write(self, text: str) -> None:
        data = text.encode(self._console.encoding, errors="replace")
        try:
            while data:
                data = data[os.write(sys.stdout.fileno(), data) :]
        except OSError:
            self.ended_by = self.ended_by or signal.SIGHUP  # the terminal is gone
