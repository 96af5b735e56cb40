"""The side of the child process of outputs.child: it gets messages, and reports to the listener."""

from __future__ import annotations

import importlib
import json
import math
import os
import select
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NoReturn

from supervisor_memreap.core.recording import Recording

Message = Mapping[str, Any]
"""`{"kind": "event", …}` with outputs.fields, or `{"kind": "look", "at": seconds since 1970, "pools": […],
"lasting": […], "period": seconds}` with outputs.statusrows, the kinds of the events whose states last, and the time
between two ticks.
"""
Tell = Callable[[Message], None]
"""Sends a message back to the listener: {"trouble": a line, or empty when it is over}, {"note": a line about what is
over already}, and what else the output has.
"""
Consume = Callable[["Inbox", Tell, Recording], None]
"""What the child does, until the messages end."""


class Inbox:
    """The messages, in their order; the iteration ends with the listener."""

    def __init__(self, fd: int):
        self._fd = fd
        self._lines: deque[bytes] = deque()
        self._rest = b""

    def __iter__(self) -> Iterator[Message]:
        while True:
            while self._lines:
                yield json.loads(self._lines.popleft())
            chunk = os.read(self._fd, 1 << 20)
            if not chunk:
                return
            *lines, self._rest = (self._rest + chunk).split(b"\n")
            self._lines.extend(lines)

    def has_more(self, timeout: float = 0.0) -> bool:
        """Whether a message, or the end, arrives within `timeout` seconds."""
        if self._lines:
            return True
        poll = select.poll()  # not select(2), which ends at descriptor 1023: the listener has one for each worker
        poll.register(self._fd, select.POLLIN)
        return bool(poll.poll(math.ceil(timeout * 1000)))


def serve(name: str, received: int, reports: int) -> NoReturn:
    """All that the process does. The listener ends it when it closes the pipe; a signal for their group does not."""

    def tell(message: Message) -> None:
        try:
            os.write(reports, json.dumps(message).encode() + b"\n")
        except OSError:
            pass  # the listener has ended, and so will the messages

    try:
        with open("/proc/self/comm", "w") as comm:  # what ps shows
            comm.write(name)
    except OSError:
        pass  # no Linux
    try:
        messages = Inbox(received)
        first = next(iter(messages))
        module, _, function = first["consume"].partition(":")
        consume: Consume = getattr(importlib.import_module(module), function)
        consume(messages, tell, Recording(*first["recording"]))
    except Exception as error:
        from supervisor_memreap.outputs.guard import internal_error  # it loads all events

        tell({"trouble": internal_error(error).text})
    finally:
        os._exit(0)
