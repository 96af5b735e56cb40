"""What ends a command."""

from __future__ import annotations


class Failed(Exception):
    """One line: what is wrong, and what to do."""

    exit_status = 1
    """Of the command. 1: it could not be done; 2: bad usage or configuration, or something is not installed."""
