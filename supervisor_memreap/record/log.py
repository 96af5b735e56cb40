"""The log: one line an event to a stream that may be closed or full, which never ends the listener."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TextIO


def to(stream: TextIO | None, stamped: bool) -> Callable[[str], None]:
    """A function that writes one line; supervisord puts no time on a listener's lines, so `stamped` does."""

    def tell(text: str) -> None:
        stamp = time.strftime("%Y-%m-%d %H:%M:%S ") if stamped else ""
        # What comes from a configuration or a process may hold anything: one event stays one line.
        line = "".join(char if char.isprintable() else "?" for char in text)
        try:
            if stream is not None:
                print(f"{stamp}memreap: {line}", file=stream, flush=True)
        except (OSError, ValueError):
            pass  # nobody reads any more; the work goes on

    return tell


class Once:
    """Tells a line again only after another one has been told under the same topic."""

    def __init__(self, tell: Callable[[str], None]):
        self._tell = tell
        self._last: dict[str, str] = {}

    def __call__(self, topic: str, text: str) -> None:
        if self._last.get(topic) != text:
            self._last[topic] = text
            if text:
                self._tell(text)

    def has_told(self, topic: str) -> bool:
        return bool(self._last.get(topic))

    def clear(self, topic: str) -> bool:
        """Forget what was told; whether there was anything."""
        return bool(self._last.pop(topic, None))
