"""Times, and the wording of the state of pools. Events have their own wording."""

from __future__ import annotations

import time
from collections.abc import Mapping
from datetime import datetime, timezone
from typing import Any

from supervisor_memreap.core.rows import ListenerRow, SuspensionRow

# The keys of JSON that are seconds since 1970.
_TIMES = {"since", "until", "counted_since", "message_at", "read_at", "peak_largest_at", "peak_total_at"}


def clock(moment: float) -> str:
    """`07:30:06` if it was today, else `11-23 07:30`, by this machine's wall clock."""
    then, today = time.localtime(moment), time.localtime()
    return time.strftime("%H:%M:%S" if then[:3] == today[:3] else "%m-%d %H:%M", then)


def time_text(at: float) -> str:
    """Seconds since 1970 as `2026-11-28T07:30:06+01:00`, by this machine's time zone."""
    return datetime.fromtimestamp(at, timezone.utc).astimezone().isoformat(timespec="seconds")


def timed(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values, with a text and its time zone beside each time in seconds since 1970: `since_time` of `since`."""
    texts: dict[str, Any] = {}
    for key, value in values.items():
        texts[key] = timed(value) if isinstance(value, dict) else round(value, 3) if key in _TIMES else value
        if key in _TIMES:
            texts[f"{key.removesuffix('_at')}_time"] = time_text(value)
    return texts


def paused(pool: str, has_commands: bool) -> str:
    """Of a pool that a user has paused, and what ends that. `has_commands` is as in has_commands()."""
    where = "" if has_commands else " (not set up here: see memreap doctor)"
    return f"paused: nothing is sent until supervisorctl memreap resume {pool}{where}"


def suspended(pool: str, suspension: SuspensionRow, has_commands: bool) -> str:
    """Of a pool that memreap has suspended, why, and what ends that. A changed setting does everywhere."""
    since = f" since {clock(suspension['since'])}" if "since" in suspension else ""
    end = suspension.get("until")
    ends = [] if suspension.get("settings_changed") else ["its settings change"]
    ends += [f"supervisorctl memreap resume {pool}"] if has_commands else []
    ends = ends if end is None else [clock(end), *ends]
    until = " or ".join(filter(None, (", ".join(ends[:-1]), ends[-1])))
    return f"suspended{since}, nothing is sent until {until}: {suspension.get('reason') or 'the log has the reason'}"


def has_commands(has_plugin: bool, listener: ListenerRow | None) -> bool:
    """Whether supervisorctl has the command memreap, and the listener, which getListener returned, gets it."""
    return has_plugin and listener is not None and bool(listener.get("takes_commands"))
