"""Entry point 3, [rpcinterface:memreap]: XML-RPC methods inside supervisord that return the state of the pools.

    [rpcinterface:memreap]
    supervisor.rpcinterface_factory = supervisor_memreap.rpcinterface:make_rpcinterface

All of this runs in supervisord itself. So it imports very little, opens nothing, waits for nothing, and fails only with
RPC faults: it returns what the listener has published after its last tick.
"""

from __future__ import annotations

import base64
import json
import math
import re
import time
import zlib
from typing import TYPE_CHECKING, Any, cast

from supervisor.datatypes import RestartUnconditionally, RestartWhenExitUnexpected
from supervisor.events import RemoteCommunicationEvent, Tick5Event, Tick60Event, Tick3600Event
from supervisor.states import (
    EventListenerStates,
    ProcessStates,
    getEventListenerStateDescription,
    getProcessStateDescription,
)
from supervisor.xmlrpc import Faults, RPCError

from supervisor_memreap import __version__
from supervisor_memreap.core.listeners import ListenerState, is_listener

if TYPE_CHECKING:
    from supervisor_memreap.core.rows import ListenerRow, PoolRow

# The status of ten thousand workers is 800 kB.
_MAX_CHARACTERS = 4_000_000
# XML-RPC integers have only 32 bits; larger numbers, and all sizes, are sent as doubles.
_INTEGER = 2**31
# The pools, one of them, its workers, one of them, a value of that one.
_DEEPEST = 5
# No number of memreap has more digits, and Python's int() needs minutes for a million.
_MAX_DIGITS = 40
# Characters that XML 1.0 cannot carry: they would break the whole answer.
_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
# Of what the listener publishes, the parts that others get as they are.
_HANDED_ON = ("pools", "answers", "troubles", "warnings")
_TICKS = (Tick5Event, Tick60Event, Tick3600Event)
# What reading values raises that no listener has published.
_NOT_OURS = (ValueError, TypeError, KeyError, AttributeError, RecursionError, OverflowError, zlib.error)


class MemreapNamespaceRPCInterface:
    def __init__(self, supervisord: Any):
        self._supervisord = supervisord
        # supervisord makes such an object for each of its http servers, and the listener speaks to one of them.
        self._published: dict[str, Any] = vars(supervisord).setdefault("memreap_published", {})

    def getVersion(self) -> str:
        """Return the version of memreap that supervisord runs

        @return string version
        """
        return __version__

    def getPools(self) -> list[PoolRow]:
        """Get the state of each pool at the last tick

        Sizes are in bytes, growth in bytes per hour, `since`, `counted_since` and `message_at` in seconds of the clock
        of supervisord's machine; unknown values are left out. An empty array if the listener has not looked yet.

        @return array result  An array of structs, as of getPool
        """
        return self._pools()

    def getPool(self, name: str) -> PoolRow:
        """Get the state of one pool at the last tick

        @param string name    The name of the pool, as of its program: group:name, or name
        @return struct result A struct: name, state (of the program), standing, since, paused (boolean), metric,
                              limit_bytes, signal, signal_is_set (boolean), server, workers (structs with pid,
                              age_seconds, used_bytes, growth_bytes_per_hour, over, note, reason), reaps,
                              given_back_bytes, counted_since, message, message_at, manager_pid, helpers (pids),
                              unreadable_workers, largest_bytes, total_bytes, total_limit_bytes, pool_bytes,
                              growth_bytes_per_hour, next_at_limit_seconds, due, overdue, hindrance (a struct:
                              kind, text, since), not_visible (why it is not watched), suspension (a struct:
                              cause, reason, since, until, settings_changed), roll (a struct: id, workers, left,
                              is_over, failure). docs/interfaces.md says what each is
        """
        for pool in self._pools():
            if pool.get("name") == name:
                return pool
        raise RPCError(Faults.BAD_NAME, str(name))

    def getListener(self) -> ListenerRow:
        """Get the state of the listener itself

        supervisord also calls a listener RUNNING that has not answered for hours. `listener_state` is READY, BUSY,
        ACKNOWLEDGED, UNKNOWN (it broke the protocol and gets no more events) or NONE (there is none).

        @return struct result A struct: name, state, listener_state, pid, count (of listeners), events_waiting,
                              takes_commands, period_seconds (of its ticks), time (now, in seconds since 1970),
                              spawnerr (why it does not run, as in supervisor.getProcessInfo),
                              and of its last look: age_seconds, version, troubles (strings: settings that it does
                              not apply), warnings (strings: why the history or the metrics are missing)
        """
        now = time.time()
        listener, known = _no_listener(now), self._published.get("pid")
        listeners = self._listeners()
        listener["count"] = len(listeners)
        # Of several one watches; the others do nothing until it ends.
        listeners.sort(key=lambda each: (each[1].pid == known, each[1].pid > 0))
        for group, process in listeners[-1:]:
            wanted = tuple(getattr(group.config, "pool_events", ()))
            periods = [tick.period for tick in _TICKS if issubclass(tick, wanted)]
            if periods:
                listener["period_seconds"] = min(periods)
            unknown = EventListenerStates.UNKNOWN
            state = unknown if process.listener_state is None else process.listener_state
            listener["name"] = f"{group.config.name}:{process.config.name}"
            listener["state"] = getProcessStateDescription(process.get_state())
            listener["listener_state"] = getEventListenerStateDescription(state)
            listener["pid"] = process.pid
            listener["spawnerr"] = process.spawnerr or None
            listener["events_waiting"] = len(getattr(group, "event_buffer", ()))
            listener["takes_commands"] = issubclass(RemoteCommunicationEvent, wanted)
        if self._published:
            looked = self._published.get("looked", self._published["received"])
            if looked is not None:
                listener["age_seconds"] = round(max(0.0, now - looked), 1)
            listener["version"] = str(self._published.get("memreap", ""))
            listener["troubles"] = self._published.get("troubles", [])
            listener["warnings"] = self._published.get("warnings", [])
        return cast("ListenerRow", {key: value for key, value in listener.items() if value is not None})

    def getRestarted(self) -> list[str]:
        """Get the processes that supervisord restarts after exit status 0

        As supervisord runs them, even if the file has changed since. With target=self the listener signals no others.

        @return array result  An array of strings, group:name
        """
        return [
            f"{group.config.name}:{process.config.name}"
            for group, process in self._processes()
            if _is_restarted(process.config)
        ]

    def getPending(self) -> dict[str, list[str]]:
        """Get the process groups whose new configuration supervisord has read but does not run yet

        As after `supervisorctl reread` without `update`. It reads no file, and changes nothing.

        @return struct result A struct: added, changed, removed (arrays of names of groups)
        """
        names = [[group.name for group in groups] for groups in self._supervisord.diff_to_active()]
        return dict(zip(("added", "changed", "removed"), names))

    def getAnswer(self, id: str) -> dict[str, Any]:
        """Get what the listener answered to a command

        A command is sent with supervisor.sendRemoteCommEvent("memreap-command", "reap myapp id=1a2b3c"); the sender
        chooses the id.

        @param string id      The id of the command
        @return struct result A struct: ok (boolean), text; an empty one if there is no answer yet
        """
        answer = self._published.get("answers", {}).get(str(id), {})
        return dict(answer)

    def publish(self, text: str) -> bool:
        """Publish the state of the pools; for the listener only

        @param string text    JSON, as the listener writes it
        @return boolean       True
        """
        try:
            values = _loads(text)
            # The listener packs them, and they are unpacked when they are asked for: supervisord reads 4 kB at a time,
            # and looks at all its programs each time, so 4,000 workers took 140 ms at each tick.
            if not isinstance(values["pools"], str):
                _check_pools(values["pools"])
            for answer in values["answers"].values():
                if {key: type(value) for key, value in answer.items()} != {"ok": bool, "text": str}:
                    raise ValueError("not an answer")
            if any(type(line) is not str for key in ("troubles", "warnings") for line in values.get(key, ())):
                raise ValueError("not a line")
            if not isinstance(values.get("looked", 0.0), (int, float, type(None))):
                raise ValueError("not a time")
            handed_on = {key: _marshalled(values[key]) for key in _HANDED_ON if key in values}
        except _NOT_OURS:
            raise RPCError(Faults.INCORRECT_PARAMETERS, "text") from None
        self._published.clear()
        self._published.update({**values, **handed_on, "received": time.time()})
        return True

    def _pools(self) -> list[PoolRow]:
        """Those that are published."""
        pools = self._published.get("pools", [])
        if isinstance(pools, str):
            try:
                packed = base64.b64decode(pools, validate=True)
                pools = _loads(zlib.decompressobj().decompress(packed, _MAX_CHARACTERS + 1).decode())
                _check_pools(pools)
                pools = _marshalled(pools)
            except _NOT_OURS:
                raise RPCError(Faults.FAILED, "no listener has published these pools") from None
            self._published["pools"] = pools
        return list(pools)

    def _processes(self) -> list[tuple[Any, Any]]:
        """All processes of supervisord, each with its group."""
        return [
            (group, process)
            for _, group in sorted(self._supervisord.process_groups.items())
            for _, process in sorted(group.processes.items())
        ]

    def _listeners(self) -> list[tuple[Any, Any]]:
        """The process groups and processes that run memreap's listener."""
        return [
            (group, process)
            for group, process in self._processes()
            if hasattr(group, "event_buffer") and is_listener(str(process.config.command))
        ]


def _no_listener(now: float) -> dict[str, Any]:
    """The state of the listener where there is none; `now` is in seconds since 1970."""
    return {
        "name": "",
        "state": getProcessStateDescription(ProcessStates.STOPPED),
        "pid": 0,
        "count": 0,
        "listener_state": ListenerState.NONE.value,  # XML-RPC carries plain strings only
        "events_waiting": 0,
        "takes_commands": False,
        "time": now,
    }


def _is_restarted(config: Any) -> bool:
    if config.autorestart is RestartWhenExitUnexpected:
        return 0 not in config.exitcodes
    return config.autorestart is RestartUnconditionally


def _check_pools(values: Any) -> None:
    """Raises one of _NOT_OURS."""
    for pool in values:
        if not isinstance(pool, dict) or not isinstance(pool["name"], str):
            raise ValueError("not a pool")


def _loads(text: str) -> Any:
    """JSON that XML-RPC can carry. Raises ValueError, RecursionError."""

    def number(digits: str) -> float:
        value = float(digits) if len(digits) <= _MAX_DIGITS else math.inf
        if not math.isfinite(value):
            raise ValueError("no number of ours")
        return value

    def integer(digits: str) -> int:
        return int(digits) if number(digits) else 0

    if len(text) > _MAX_CHARACTERS:
        raise ValueError("too long")
    values = json.loads(text, parse_int=integer, parse_float=number, parse_constant=number)
    if "\\u" in text or not text.isascii():
        json.dumps(values, ensure_ascii=False).encode()  # half a character could not be returned
    return values


def _marshalled(value: Any, depth: int = 0) -> Any:
    """The value as XML-RPC can carry it. Raises ValueError if it is nested too deeply."""
    if depth > _DEEPEST:
        raise ValueError("too deep")
    if isinstance(value, dict):
        return {
            key: part
            if type(part) in (bool, float)  # most of a worker's: supervisord has 4,000 workers at each look
            else (float(part) if "_bytes" in key and isinstance(part, int) else _marshalled(part, depth + 1))
            for key, part in value.items()
            if part is not None
        }
    if isinstance(value, list):
        return [_marshalled(part, depth + 1) for part in value if part is not None]
    if isinstance(value, int) and not -_INTEGER <= value < _INTEGER:
        return float(value)
    if isinstance(value, str):
        return _NOT_XML.sub("?", value)
    return value


def make_rpcinterface(supervisord: Any, **config: str) -> MemreapNamespaceRPCInterface:
    """What supervisord calls for [rpcinterface:memreap]; it has no settings."""
    return MemreapNamespaceRPCInterface(supervisord)
