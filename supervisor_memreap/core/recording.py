"""The settings of the outputs that may have to wait, apart from all others: their processes load no more. Pure."""

from __future__ import annotations

from typing import NamedTuple

from supervisor_memreap.core.text import MIB, shown_size


class Address(NamedTuple):
    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class Recording(NamedTuple):
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
