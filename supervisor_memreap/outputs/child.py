"""A child process for an output that may have to wait, such as for a disk. The listener never waits for it.

The listener writes messages into a pipe, a line of JSON each. What the pipe does not take is kept, up to a bound, and
what is beyond that is lost, which the listener reports.
"""

from __future__ import annotations

import json
import os
import select
import signal
import sys
import time
from collections import deque
from collections.abc import Collection
from typing import NoReturn

from supervisor_memreap.core.recording import Recording
from supervisor_memreap.core.rows import as_json
from supervisor_memreap.host import forked
from supervisor_memreap.outputs.inbox import Message

# Bytes that may wait for the child: looks up to the first, events, few and more important, up to the second. A look
# at 1,000 workers has 150 KB.
_MOST_LOOKS, _MOST_EVENTS = 2 * 1024**2, 4 * 1024**2
# Seconds for which the child may take nothing before that is a trouble: a busy disk takes seconds.
PATIENCE = 30.0
# Seconds that the listener waits, when it exits, for a child that has everything: it needs some milliseconds.
_FAREWELL = 0.5
# `sys` is built in, and all that is imported after it is found in the path of the listener.
_PROGRAM = (
    "import sys; name, received, reports, *sys.path[:] = sys.argv[1:];"
    " from supervisor_memreap.outputs import inbox; inbox.serve(name, int(received), int(reports))"
)
# It is this very Python, also where an upgrade has replaced or removed its file.
_SELF = "/proc/self/exe"
# What limits from where Python itself imports, before that.
_FLAGS = {"isolated": "I", "ignore_environment": "E", "no_user_site": "s", "no_site": "S"}


def _python() -> str:
    """Asked when the listener starts: later, sys.executable may be another version. It is empty if PATH lacked it."""
    try:
        return _SELF if not sys.executable or os.path.samefile(_SELF, sys.executable) else sys.executable
    except OSError:
        return sys.executable


_PYTHON = _python()


class Child:
    """`name` is what ps shows after memreap; `consume`, MODULE:FUNCTION, is what it does, as inbox.Consume.

    `fd` is readable when the child has reported something, or has ended. Raises OSError if no process can be made.
    """

    def __init__(self, name: str, consume: str, recording: Recording):
        with forked.two_pipes() as (received, reports, self._out, self.fd):
            for fd in (self._out, self.fd):
                os.set_blocking(fd, False)
            _wait_for(_ended)
            self._pid = os.fork()
            if self._pid == 0:
                _run(name, received, reports)
        self._waiting: deque[bytes] = deque()
        self._size = 0
        self._stalled: float | None = None
        """Since when the pipe has been full (monotonic)."""
        self._partial_line = b""
        self.lost = 0
        """Messages for which there was no room."""
        self.send({"consume": consume, "recording": recording}, is_event=True)

    def send(self, message: Message, is_event: bool) -> None:
        """Never waits."""
        line = as_json(message).encode() + b"\n"
        if self._size + len(line) > (_MOST_EVENTS if is_event else _MOST_LOOKS):
            self.lost += 1
            return
        self._waiting.append(line)
        self._size += len(line)
        self.flush()

    def flush(self) -> None:
        """Hand over what waits, as far as there is room."""
        while self._waiting:
            line = self._waiting[0]
            try:
                count = os.write(self._out, line)
            except BlockingIOError:
                self._stalled = time.monotonic() if self._stalled is None else self._stalled
                return
            except OSError:
                return  # it has ended, which `read` finds
            self._stalled = None
            self._size -= count
            if count < len(line):
                self._waiting[0] = line[count:]
            else:
                self._waiting.popleft()

    def wants(self) -> int | None:
        """The descriptor to wait for until it is writable; None: nothing waits."""
        return self._out if self._waiting else None

    def stalled(self) -> float:
        """Seconds for which the child has taken nothing of what waits; 0: it keeps up."""
        return 0.0 if self._stalled is None else time.monotonic() - self._stalled

    def read(self) -> list[Message] | None:
        """What the child has reported; None: it has ended."""
        try:
            chunk = os.read(self.fd, 1 << 20)
        except BlockingIOError:
            return []
        if not chunk:
            return None
        *lines, self._partial_line = (self._partial_line + chunk).split(b"\n")
        return [json.loads(line) for line in lines]

    def close(self) -> None:
        """Let it finish. It is waited for only a moment: where a disk hangs, it ends when that comes back."""
        deadline = time.monotonic() + _FAREWELL
        self._hand_over(deadline)
        os.close(self._out)
        poll = select.poll()
        poll.register(self.fd, select.POLLIN)
        try:
            while poll.poll(max(0.0, deadline - time.monotonic()) * 1000) and self.read() is not None:
                pass
            _ended.add(self._pid)
            while _wait_for({self._pid}) and time.monotonic() < deadline:
                time.sleep(0.001)
        finally:
            os.close(self.fd)

    def _hand_over(self, deadline: float) -> None:
        """What waits, as far as the child takes it until then (monotonic)."""
        room = select.poll()
        room.register(self._out, select.POLLOUT)
        self.flush()
        while self._waiting:
            before = self._size
            if not room.poll(max(0.0, deadline - time.monotonic()) * 1000):
                return
            self.flush()
            if self._size == before:
                return  # it has ended


_ended: set[int] = set()
"""Children that are ending, and that the kernel keeps until they are waited for."""


def _wait_for(pids: Collection[int]) -> bool:
    """Whether any of these is still there."""
    for pid in list(pids):
        try:
            if os.waitpid(pid, os.WNOHANG)[0]:
                _ended.discard(pid)
        except ChildProcessError:
            _ended.discard(pid)  # a library ignores SIGCHLD in this process: then the kernel has waited for it
    return not _ended.isdisjoint(pids)


def _run(name: str, received: int, reports: int) -> NoReturn:
    """Become a Python that has loaded nothing yet: a fork would soon hold a copy of all that the listener touches.

    It imports from where the listener does, and from nowhere else, such as its current directory.
    """
    ended = {signal.SIGTERM, signal.SIGINT, signal.SIGHUP}
    try:
        forked.settle(f"memreap {name}"[:15], (received, reports), ended, with_parent=False)
        for fd in (received, reports):
            os.set_inheritable(fd, True)
        flags = [f"-{letter}" for flag, letter in _FLAGS.items() if getattr(sys.flags, flag)]
        own = [f"memreap {name}", str(received), str(reports)]
        os.execv(_PYTHON, [sys.executable or "python3", *flags, "-c", _PROGRAM, *own, *sys.path])  # noqa: S606
    except (OSError, TypeError, ValueError) as error:
        trouble = f"{_PYTHON} could not be started: {getattr(error, 'strerror', None) or error}"
        os.write(reports, json.dumps({"trouble": trouble}).encode() + b"\n")
    finally:
        os._exit(0)
