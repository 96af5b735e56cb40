"""The keys of `[memreap]` about what the listener records and offers to others, beside reaping. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

from supervisor_memreap.core.text import MIB, shown_size
from supervisor_memreap.core.values import size

# A history that is smaller than this keeps no whole day of a pool of 100 workers.
_MIN_HISTORY, _MAX_HISTORY = 4 * MIB, 1024**4


class Address(NamedTuple):
    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True)
class Recording:
    history: str | None = ""
    """Path of the history; empty: beside supervisord's log; None: there is none."""
    history_size: int = 64 * MIB
    """Bytes that the history may take on the disk."""
    summary: str = "off"
    """daily: a line in the log for each pool, once a day."""
    metrics: Address | None = None
    """Where Prometheus may fetch metrics; None: nowhere."""
    metrics_file: str | None = None
    """Path of a file for node_exporter's textfile collector; None: there is none."""
    log: str = "text"
    """json: a JSON object on each line of the log."""

    def shown(self, key: str) -> str:
        """The value of a key as a user may write it."""
        value = getattr(self, key)
        if key == "history" and not value:
            return "off" if value is None else "-"
        return "-" if value is None else shown_size(value) if key == "history_size" else str(value)


def _path(text: str) -> str:
    # Of a relative path it would not be clear where it begins: supervisord changes its directory.
    if not text.startswith("/") or text.endswith("/") or "\0" in text:
        raise ValueError("not the absolute path of a file, such as /var/lib/memreap/history.sqlite")
    return text


def _history(text: str) -> str | None:
    if text.lower() == "off":
        return None
    try:
        return _path(text)
    except ValueError as error:
        raise ValueError(f"{error}, or off") from None


def _history_size(text: str) -> int:
    value = size(text)
    if not _MIN_HISTORY <= value <= _MAX_HISTORY:
        raise ValueError("must be from 4MB to 1TB")
    return value


def _summary(text: str) -> str:
    if text.lower() not in ("daily", "off"):
        raise ValueError("must be daily or off")
    return text.lower()


def _metrics(text: str) -> Address | None:
    if text.lower() == "off":
        return None
    match = re.fullmatch(r"(?:\[([0-9a-fA-F:.]+)\]|([^\s:/\[\]]+)):([0-9]{1,5})", text)
    if not match or not 0 < int(match[3]) < 65536:
        raise ValueError("not an address and a port, such as 127.0.0.1:9402 or [::1]:9402, or off")
    return Address(match[1] or match[2], int(match[3]))


def _metrics_file(text: str) -> str | None:
    if text.lower() == "off":
        return None
    # node_exporter reads only files with this ending.
    if not text.startswith("/") or not text.endswith(".prom") or text.endswith("/.prom") or "\0" in text:
        raise ValueError("not the absolute path of a .prom file, such as /var/lib/node_exporter/memreap.prom, or off")
    return text


def _log(text: str) -> str:
    if text.lower() not in ("text", "json"):
        raise ValueError("must be text or json")
    return text.lower()


RECORDING_KEYS: Mapping[str, Callable[[str], Any]] = {
    "history": _history,
    "history_size": _history_size,
    "summary": _summary,
    "metrics": _metrics,
    "metrics_file": _metrics_file,
    "log": _log,
}
assert list(RECORDING_KEYS) == [field.name for field in fields(Recording)]
