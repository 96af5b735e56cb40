"""Signals by their names in the settings."""

from __future__ import annotations

import signal


def number(name: str) -> int:
    """Of `HUP` and its like."""
    return int(getattr(signal, f"SIG{name}"))
