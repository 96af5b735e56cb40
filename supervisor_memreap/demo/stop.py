"""The end that a signal asks for. Nothing is raised: so no signal can come at a wrong moment, not even a second one."""

from __future__ import annotations

import contextlib
import os
import select
import signal
from collections.abc import Iterator

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)


class Stop:
    """`signum` is the signal that asked for the end, or 0."""

    def __init__(self) -> None:
        self.signum = 0
        self._announced = self._silent = False
        self._reading, self._writing = os.pipe()
        os.set_blocking(self._writing, False)

    def catch_signals(self) -> None:
        """From now on. One that is ignored already stays ignored: nohup, or a job in a shell's background."""
        for signum in SIGNALS:
            if signal.getsignal(signum) != signal.SIG_IGN:
                signal.signal(signum, self._handle)

    def ignore_signals(self) -> None:
        """When all is over: Python's own end restores what it finds caught, and one that comes then would kill."""
        for signum in SIGNALS:
            signal.signal(signum, signal.SIG_IGN)

    def wait(self, seconds: float) -> bool:
        """Wait, but not beyond a signal; whether the end was asked for."""
        return bool(select.select([self._reading], [], [], seconds)[0])

    def request(self, signum: int) -> None:
        """Ask for the end without a word."""
        self.signum = self.signum or signum
        with contextlib.suppress(BlockingIOError):
            os.write(self._writing, b".")

    @contextlib.contextmanager
    def silent(self) -> Iterator[None]:
        """While something is drawn, which a word in the middle would spoil: it follows right after."""
        self._silent = True
        try:
            yield
        finally:
            self._silent = False
            self._announce()

    def _handle(self, signum: int, _frame: object) -> None:
        self.request(signum)
        self._announce()

    def _announce(self) -> None:
        if not self.signum or self._silent or self._announced:
            return
        self._announced = True
        # Not by print: this may run in the middle of one. The terminal may be closed: that is what SIGHUP means.
        with contextlib.suppress(OSError):
            os.write(1, b"\nstopping\n")
