"""`memreap doctor` in its own process: it may ask Perl, and the listener must not wait for it."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Collection

from supervisor_memreap.core.command import ASKED_BY_SUPERVISORCTL

# Seconds that it may take: it needs one or two, and more if Perl is slow to start.
PATIENCE = 30.0


class DoctorProcess:
    """`id` is that of the command that started it. Raises OSError."""

    def __init__(self, configuration: str, id: str):
        # With the script that started us: with -m, Python would import modules from the current directory.
        command = [sys.executable, sys.argv[0], "doctor", *(("-c", configuration) if configuration else ())]
        self.id = id
        self._deadline = time.monotonic() + PATIENCE
        self._output = b""
        self._is_complete = False
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env={**os.environ, ASKED_BY_SUPERVISORCTL: "yes"},
        )
        assert self._process.stdout
        self._fd = self._process.stdout.fileno()
        os.set_blocking(self._fd, False)

    def fds(self) -> dict[int, int]:
        return {self._fd: select.POLLIN}

    def patience(self) -> float:
        return self._deadline - time.monotonic()

    def wake(self, readable: Collection[int]) -> None:
        """Read what it has written."""
        if self._fd in readable:
            with contextlib.suppress(BlockingIOError):
                chunk = os.read(self._fd, 65536)
                self._output += chunk
                self._is_complete = not chunk

    def has_ended(self) -> bool:
        """Whether it has written everything, or its time is up."""
        return self._is_complete or time.monotonic() > self._deadline

    def result(self) -> tuple[bool, str]:
        """Whether it reported no problems, and its output."""
        text = self._output.decode(errors="replace").replace("memreap: ", "").strip()
        status = self.end()
        if status not in (0, 1):
            return False, f"{text}\ndoctor did not finish".strip()
        return status == 0, text

    def end(self) -> int:
        """Its exit status. Kills it if it has not ended."""
        assert self._process.stdout
        self._process.stdout.close()
        try:
            return self._process.wait(0.1 if time.monotonic() < self._deadline else 0)
        except subprocess.TimeoutExpired:
            # It was not waited for yet, so its pid is still its own. This also ends all that it has started.
            os.killpg(self._process.pid, signal.SIGKILL)
            return self._process.wait()
