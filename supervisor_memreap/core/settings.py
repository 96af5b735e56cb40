"""The keys of `[memreap]` and `[memreap:NAME]`, and which settings a program gets.

A key is one line of the table at the end. Nothing is half applied: `resolve` raises SettingsError for the first
error, and the caller keeps the earlier settings.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

from supervisor_memreap.core.failed import Failed
from supervisor_memreap.core.model import Program, ProgramState
from supervisor_memreap.core.recording import Address, Recording
from supervisor_memreap.core.text import MIB, quote, shown_size
from supervisor_memreap.core.values import at_least, choice, duration, either, size

METRICS = ("uss", "pss", "rss", "vms")
# Signals on which some pre-forking server finishes its work; on KILL and STOP none can.
SIGNALS = ("HUP", "TERM", "QUIT", "INT", "USR1", "USR2", "WINCH")

_PERCENT = re.compile(r"([0-9]{1,3}(?:\.[0-9]{1,3})?)\s*%")
_SECTION_NAME = re.compile(r"[^\s:/]+(?::[^\s:/]+)?")
# No machine has more memory: a larger value is a mistake, and would be shown as 1e+39.
_MAX_BYTES = 1024 * 1024**4
# A history that is smaller than this keeps no whole day of a pool of 100 workers.
_MIN_HISTORY, _MAX_HISTORY = 4 * MIB, 1024**4


class SettingsError(Failed, ValueError):
    """One line: where, what, and what is allowed."""

    exit_status = 2


class Given(NamedTuple):
    """A value as the user wrote it."""

    value: str
    where: str
    """Such as `/etc/supervisor/conf.d/myapp.conf [memreap:myapp]`."""


COMMAND_LINE = "command line"
"""Where a value of the command line was set."""
Sections = dict[str, dict[str, Given]]
"""The values as written, by the name of the section; the name of `[memreap]` is ''."""


@dataclass(frozen=True)
class PoolSettings:
    limit: int | None = None
    """Bytes a worker may use before it is reaped; None: no limit."""
    max_age: float | None = None
    """Seconds a worker may live before it is reaped; None: no limit."""
    total: int | None = None
    """Bytes that the manager and its workers may use together (PSS) before a worker is reaped; None: no limit."""
    headroom: float | None = None
    """What must stay available on the host and in each control group: bytes, or a share of its memory if below 1."""
    pressure: float | None = None
    """% of the last 10 s for which some process may wait for memory before a worker is reaped; None: no limit."""
    yields: bool = True
    """Whether workers of this pool may be reaped for `headroom` and `pressure`."""
    metric: str = "uss"
    signal: str | None = None
    """None: the one on which the server finishes its requests (core.servers)."""
    checks: int = 1
    """Consecutive looks over the limit."""
    min_age: float = 30.0
    settle: float = 10.0
    grace: float = 300.0
    stuck: str = "report"
    """What to do about a worker that does not leave within `grace`: report it, or send it TERM or KILL."""
    idle_wait: float = 60.0
    """Seconds to try in vain before a busy worker is signalled, where that is permitted; infinite: never."""
    hold: bool = True
    """Whether a worker is brought to its boundary."""
    announce: bool = True
    """Whether events are announced to other listeners of supervisord."""
    depth: int = 1
    """1: workers are children of what supervisord started; 2: there is a wrapper between."""
    target: str = "workers"
    """workers: of a manager that supervisord started; self: the process that supervisord started is the worker."""
    observe: bool = False
    """Whether the pool is only watched and recorded: no worker is ever signalled."""

    @property
    def relieves(self) -> bool:
        """Whether workers of this pool may be reaped for memory that is short on the host."""
        return self.yields and not self.observe


def _limit(text: str) -> int:
    limit = size(text)
    if limit < 1024**2:  # no process fits in 1 MiB: the unit is missing
        raise ValueError(f"that is {limit} bytes, and the minimum is 1MB; is a unit missing, as in 150MB?")
    if limit > _MAX_BYTES:
        raise ValueError("more memory than any machine has; the maximum is 1024TB")
    return limit


def _headroom(text: str) -> float:
    match = _PERCENT.fullmatch(text.strip())
    if match:
        if not 0 < float(match[1]) <= 90:
            raise ValueError("must be more than 0% and at most 90%")
        return float(match[1]) / 100
    try:
        return _limit(text)
    except ValueError as error:
        raise ValueError(f"{error}, or 10%") from None


def _pressure(text: str) -> float:
    match = _PERCENT.fullmatch(text.strip())
    if not match or not 1 <= float(match[1]) <= 100:
        raise ValueError("not a percentage from 1% to 100%, such as 20%")
    return float(match[1])


def _signal(names: Sequence[str], why: str) -> Callable[[str], str]:
    """A parser of one of these signals, with SIG before it or not; `why` is the error of any other text."""

    def parse(text: str) -> str:
        name = text.upper().removeprefix("SIG")
        if name not in names:
            raise ValueError(why)
        return name

    return parse


def _stuck(text: str) -> str:
    signal = _signal(("REPORT", "TERM", "KILL"), "must be report (send nothing more), TERM or KILL")(text)
    return "report" if signal == "REPORT" else signal


def _yes(text: str) -> bool:
    return choice(("yes", "no", "true", "false", "on", "off"), "must be yes or no")(text) in ("yes", "true", "on")


def _checks(text: str) -> int:
    if not re.fullmatch("[0-9]{1,4}", text) or int(text) < 1:
        raise ValueError("must be a number from 1 to 9999")
    return int(text)


def _depth(text: str) -> int:
    if text not in ("1", "2"):
        raise ValueError("must be 1 (workers are children of what supervisord started) or 2 (with a wrapper between)")
    return int(text)


def _path(text: str) -> str:
    # Of a relative path it would not be clear where it begins: supervisord changes its directory.
    if not text.startswith("/") or text.endswith("/") or "\0" in text:
        raise ValueError("not the absolute path of a file, such as /var/lib/memreap/history.sqlite")
    return text


def _history_size(text: str) -> int:
    value = size(text)
    if not _MIN_HISTORY <= value <= _MAX_HISTORY:
        raise ValueError("must be from 4MB to 1TB")
    return value


def _address(text: str) -> Address:
    match = re.fullmatch(r"(?:\[([0-9a-fA-F:.]+)\]|([^\s:/\[\]]+)):([0-9]{1,5})", text)
    if not match or not 0 < int(match[3]) < 65536:
        raise ValueError("not an address and a port, such as 127.0.0.1:9402 or [::1]:9402")
    return Address(match[1] or match[2], int(match[3]))


def _prom_file(text: str) -> str:
    # node_exporter reads only files with this ending.
    if not text.startswith("/") or not text.endswith(".prom") or text.endswith("/.prom") or "\0" in text:
        raise ValueError("not the absolute path of a .prom file, such as /var/lib/node_exporter/memreap.prom")
    return text


def shown(settings: PoolSettings, key: str) -> str:
    """The value of a key as a user may write it, such as `150MB` or `5min`."""
    value = getattr(settings, field_of(key))
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if key == "pressure" or (key == "headroom" and value < 1):
        return f"{value * (1 if key == 'pressure' else 100):g}%"
    if key in ("limit", "total", "headroom"):
        return shown_size(value)
    if isinstance(value, float):
        if value == float("inf"):
            return "never"
        # 60s, not 1min, as in the documentation.
        fitting = (each for each in _SHOWN_DURATIONS if value > each[1] and value % each[1] == 0)
        unit, seconds = next(fitting, ("s", 1))
        return f"{value / seconds:g}{unit}"
    return str(value)


_SHOWN_DURATIONS = (("d", 86400), ("h", 3600), ("min", 60))
_KEYS: Mapping[str, Callable[[str], Any]] = {
    "limit": _limit,
    # Many applications take longer to start: with a shorter one the pool would do nothing but start.
    "max_age": at_least("1min", "it is the age at which a worker is replaced"),
    "total": _limit,
    "headroom": _headroom,
    "pressure": _pressure,
    "yield": _yes,
    "metric": choice(METRICS, f"not a metric; must be one of {', '.join(METRICS)}"),
    "signal": _signal(SIGNALS, f"not a signal on which a worker can finish; must be one of {', '.join(SIGNALS)}"),
    "checks": _checks,
    # See the newborn hazard in core/policy.py, rule 4.
    "min_age": at_least("1s", "a new worker still runs its manager's signal handlers"),
    "settle": duration,
    "grace": at_least("1s", "it is the time that a worker has to finish its request"),
    "stuck": _stuck,
    "idle_wait": either("never", float("inf"), duration),
    "hold": _yes,
    "announce": _yes,
    "depth": _depth,
    "target": choice(
        ("workers", "self"), "must be workers (of a manager that supervisord runs) or self (what it runs is the worker)"
    ),
    "observe": _yes,
}
RECORDING_KEYS: Mapping[str, Callable[[str], Any]] = {
    "history": either("off", None, _path),
    "history_size": _history_size,
    "summary": choice(("daily", "off"), "must be daily or off"),
    "metrics": either("off", None, _address),
    "metrics_file": either("off", None, _prom_file),
    "log": choice(("text", "json"), "must be text or json"),
}
# Without one of these no worker would ever be due.
_REASON_KEYS = ("limit", "max_age", "total", "headroom", "pressure")
# They are about all pools of a host or container, so they belong in [memreap] only.
_FOR_ALL = ("headroom", "pressure")
POOL_KEYS = tuple(_KEYS)
KEYS = (*POOL_KEYS, *RECORDING_KEYS)


def field_of(key: str) -> str:
    """The field of a key: `yield` is a keyword of Python, so its field has another name."""
    return "yields" if key == "yield" else key


def key_of(field: str) -> str:
    """The key of a field, as a user writes it."""
    return "yield" if field == "yields" else field


assert list(map(field_of, _KEYS)) == [field.name for field in fields(PoolSettings)]
assert list(RECORDING_KEYS) == list(Recording._fields)
REASON_KEYS_TEXT = f"{', '.join(f'{key}=' for key in _REASON_KEYS[:-1])} or {_REASON_KEYS[-1]}="


def has_reason(keys: Iterable[str]) -> bool:
    """Whether one of these keys is a reason for which a worker has to go."""
    return not set(_REASON_KEYS).isdisjoint(keys)


def no_reason(where: str, places: str = "") -> SettingsError:
    """The error for settings without a reason; `places` names where one may be written."""
    return SettingsError(
        f"{where}: no {REASON_KEYS_TEXT}{places}; add one, such as limit=100MB, or observe=yes to only watch"
    )


def parse(key: str, given: Given) -> Any:
    """The value of one key. Raises SettingsError."""
    if key not in KEYS:
        near = difflib.get_close_matches(quote(key), KEYS, 1)
        hint = f"did you mean {near[0]}?" if near else f"the keys are {', '.join(KEYS)}"
        raise SettingsError(f"{given.where} {quote(key)}={quote(given.value)}: unknown key; {hint}")
    try:
        return (_KEYS.get(key) or RECORDING_KEYS[key])(given.value.strip())
    except ValueError as error:
        raise SettingsError(f"{given.where} {key}={quote(given.value)}: {error}") from None


class Watch(NamedTuple):
    """A pool to watch."""

    program: Program
    settings: PoolSettings
    members: tuple[Program, ...] = ()
    """With target=self: the processes that are the workers; `program` represents them all, with supervisord's pid."""


class Settings:
    """All settings: the values of each section, by its name; the name of `[memreap]` is ''."""

    def __init__(
        self,
        values: Mapping[str, Mapping[str, Any]],
        given: Mapping[str, Mapping[str, Given]] | None = None,
        recording: Recording | None = None,
        places: Mapping[str, str] | None = None,
    ):
        """`places` are as in resolve."""
        self._values = values
        self._given = given or {}
        self._places = places or {}
        self.recording = recording or Recording()
        self._of: dict[tuple[str, str], PoolSettings | None] = {}
        """By group and name, as far as they were asked for."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Settings) and self._values == other._values and self.recording == other.recording

    __hash__ = None  # type: ignore[assignment]

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(sorted(name for name in self._values if name))

    def of(self, program: Program) -> PoolSettings | None:
        """The settings of a program, each from the most specific section that has it; None: not watched."""
        key = program.group, program.name
        if key not in self._of:
            merged: dict[str, Any] = {}
            for name in ("", *reversed(names_of(program))):
                merged.update(self._values.get(name, {}))
            is_watched = any(name in self._values for name in names_of(program))
            self._of[key] = PoolSettings(**merged) if is_watched else None
        return self._of[key]

    def pools(self, programs: Iterable[Program]) -> list[Watch]:
        """The pools to watch: each a program, or with target=self the processes of a group, or some of them."""
        watched: list[Watch] = []
        groups: dict[tuple[str, PoolSettings], list[Program]] = {}
        for program in programs:
            settings = self.of(program)
            if settings and settings.target == "self":
                groups.setdefault((program.group, settings), []).append(program)
            elif settings:
                watched.append(Watch(program, settings))
        for (group, settings), members in groups.items():
            # Under the group's name, unless a process has a section of its own with other settings.
            whole = settings == self.of(Program(group, group, "", 0))
            named = [members] if whole else [[member] for member in members]
            for some in named:
                name = group if whole else some[0].name
                states = [member.state for member in some]
                state = next((each.value for each in _STATES if each in states), states[0])
                # supervisord has the manager's role: it is the parent, and restarts them.
                watched.append(Watch(Program(group, name, state, some[0].supervisord), settings, tuple(some)))
        return watched

    def origins(self, program: Program) -> dict[str, Given]:
        """The values written for this program, by key; a missing key has its default."""
        merged: dict[str, Given] = {}
        for name in ("", *reversed(names_of(program))):
            merged.update(self._given.get(name, {}))
        return merged

    @property
    def origins_for_all(self) -> Mapping[str, Given]:
        """The values written in `[memreap]`, by key."""
        return self._given.get("", {})

    def where(self, name: str) -> str:
        """The section of this name, with its file."""
        return _where(name, self._given.get(name, {}), self._places)

    def unmatched(self, programs: Iterable[Program]) -> tuple[str, ...]:
        """The section names that match no program or group of supervisord."""
        known = {name for program in programs for name in names_of(program)}
        return tuple(name for name in self.names if name not in known)


# A pool of several processes is in the first of these states in which one of them is.
_STATES = (
    *(ProgramState.RUNNING, ProgramState.STARTING, ProgramState.BACKOFF, ProgramState.EXITED),
    *(ProgramState.FATAL, ProgramState.STOPPING, ProgramState.STOPPED),
)


def names_of(program: Program) -> tuple[str, ...]:
    """The section names that match a program, the most specific first."""
    return (f"{program.group}:{program.name}", program.name, program.group)


def _refuse_keys_for_all(name: str, given: Mapping[str, Given]) -> None:
    for key in (*_FOR_ALL, *RECORDING_KEYS):
        if name and key in given:
            where = f"{given[key].where} {key}={quote(given[key].value)}"
            why = (
                "it applies to all pools of the host or container; yield=no exempts this pool"
                if key in _FOR_ALL
                else "it applies to the listener"
            )
            raise SettingsError(f"{where}: belongs in [memreap], since {why}")


def _where(name: str, given: Mapping[str, Given], places: Mapping[str, str]) -> str:
    """The section, with its file if it has one."""
    return next(iter(given.values())).where if given else places.get(name, f"[memreap:{quote(name)}]")


def resolve(sections: Mapping[str, Mapping[str, Given]], places: Mapping[str, str] | None = None) -> Settings:
    """Check every name, key and value. Raises SettingsError, one line about the first error.

    `places`: sections with their files, by name, for those without a key.
    """
    places = places or {}
    for name, given in sections.items():
        if name and not _SECTION_NAME.fullmatch(name):
            where = _where(name, given, places)
            raise SettingsError(f"{where}: '{quote(name)}' is not a program, a group, or group:name")
    values = {
        name: {field_of(key): parse(key, value) for key, value in given.items()} for name, given in sections.items()
    }
    for name in values:
        _refuse_keys_for_all(name, sections[name])
        in_force: dict[str, Any] = {}
        for lender in ("", *name.split(":"), name):
            in_force.update(values.get(lender, {}))
        if name and not has_reason(in_force) and not in_force.get("observe"):
            raise no_reason(_where(name, sections[name], places), ", here or in [memreap]")
    for_all = values.get("", {})
    recording = Recording(**{key: for_all.pop(key) for key in RECORDING_KEYS if key in for_all})
    return Settings(values, sections, recording, places)


def overlay(sections: Mapping[str, Mapping[str, Given]], given: Mapping[str, Given]) -> Sections:
    """The sections, each with these values above its own; those that are about all pools go to `[memreap]` alone."""
    for_all = {key: value for key, value in given.items() if key in _FOR_ALL}
    own = {key: value for key, value in given.items() if key not in _FOR_ALL}
    return {"": {**sections.get("", {}), **for_all}, **{name: {**sections[name], **own} for name in sections if name}}


def parse_name_size(words: Iterable[str], where: str) -> Sections:
    """The sections of `NAME=SIZE` words, as in `memreap listen myapp=150MB`. Raises SettingsError."""
    sections: Sections = {}
    for pair in words:
        name, equals, limit = pair.partition("=")
        if not equals or not name:
            raise SettingsError(f"{where} {quote(pair)}: not NAME=SIZE, such as myapp=150MB")
        if name in KEYS:
            raise SettingsError(
                f"{where} {quote(pair)}: only NAME=SIZE is allowed here; write settings in [memreap:PROGRAM]"
            )
        sections[name] = {"limit": Given(limit, f"{where} {quote(name)}:")}
    return sections
