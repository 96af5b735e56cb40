"""The history in force, for the commands that read it: of the supervisord whose configuration is used."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

from supervisor_memreap.advice.poolhistory import PoolHistory
from supervisor_memreap.core.command import chosen
from supervisor_memreap.core.model import supervisord_of
from supervisor_memreap.history import historypath
from supervisor_memreap.history.historypath import HistoryError, NoHistoryError
from supervisor_memreap.supervisord import configfile
from supervisor_memreap.supervisord.client import Unavailable, connect_as_supervisorctl
from supervisor_memreap.supervisord.configfile import Contents

# Seconds of readings before the time that is asked for: gaps are detected by their neighbours.
_BEFORE = 86400.0
DAYS = 31
"""The history keeps no older ones."""


def pools(
    configuration: str | None, names: Sequence[str], since: float, file: str | None = None
) -> Iterator[PoolHistory]:
    """Those that these names mean, or all that were recorded since then: readings from a day before, and all events.

    `since` is in seconds since 1970. `file` is the history; None: that of the configuration.

    Raises SettingsError for the configuration, UnknownName, and HistoryError.
    """
    from supervisor_memreap.history import historyfile  # SQLite, which no other command needs

    file = file or _in_force(configuration)
    existing = historyfile.names(file)
    if not existing:
        raise NoHistoryError(f"{file}: no pool is recorded yet: try again a minute after the listener has started")
    # Pools that were removed or renamed are shown only if they are named.
    shown = chosen(names, existing, f"in {file}") if names else historyfile.names(file, since)
    if not shown:
        raise HistoryError(f"{file}: nothing was recorded in the last {(time.time() - since) / 86400:.0f} days")
    yield from historyfile.each(file, since - _BEFORE, shown)


def _in_force(configuration: str | None) -> str:
    path = configfile.find(configuration)
    contents = configfile.ConfigFile(path).read()
    recording = contents.settings().recording
    file = historypath.in_force(recording, contents, None if recording.history else _supervisord(contents))
    if file is None:
        raise NoHistoryError(f"{path}: there is no history: history=off in [memreap]")
    return file


def _supervisord(contents: Contents) -> int | None:
    """The pid of the supervisord that runs here; None: it does not answer."""
    try:
        return supervisord_of(connect_as_supervisorctl(contents.server).programs())
    except Unavailable:
        return None
