"""What every event has, and what its class says of it; the events themselves are in core.events. Pure."""

from __future__ import annotations

import string
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Literal

from supervisor_memreap.core.frozen import Frozen
from supervisor_memreap.core.model import ProcessId
from supervisor_memreap.core.reasons import Reason
from supervisor_memreap.core.text import memory, seconds

Announcement = Literal["", "reap", "left", "stuck", "suspended", "resumed", "short", "relieved"]

_UNITS: Mapping[str, Callable[[Any], str]] = {"memory": memory, "seconds": seconds, "lines": "; ".join}


class Event(Frozen):
    """Something that happened. The class attributes say what it means for the outputs: no list elsewhere does."""

    pool: str
    """Its name; empty if the event is about memreap itself."""
    at: float
    """Seconds since 1970."""

    wording: ClassVar[str]
    """The text, with the event's own attributes in braces: `worker {pid}`, `{after:seconds}`, `{limit:memory}`; and
    `{is_sent:was|may have been}`, the first if the attribute is true, in which other attributes may be.
    """
    announced_as: ClassVar[Announcement] = ""
    """Its name as a supervisord event; empty: it is not announced."""
    is_reported_once: ClassVar[bool] = False
    """It is reported only once for the same manager and settings."""
    told_apart_by: ClassVar[str] = ""
    """What two such events of one class must differ in for both to be reported, like `wording`; empty: no two are."""
    fails: ClassVar[bool] = False
    """It makes `memreap once` exit with 1."""
    ends_wait: ClassVar[bool] = False
    """It makes `memreap once` stop waiting for this pool."""
    refusal: ClassVar[str] = ""
    """Why nothing was sent to a worker that had to go, in a few words of a report. Empty: it does not say that."""
    trouble: ClassVar[str] = ""
    """Other trouble that a report has, in a few words. Empty: it is none."""
    is_error: ClassVar[bool] = False
    """memreap itself does not work as it should: the metrics count it."""
    may_last: ClassVar[bool] = False
    """An error that may last for a while, so that the metrics also say whether it does."""
    in_status: ClassVar[Literal["", "troubles", "warnings"]] = ""
    """Where the status has its text while it lasts: troubles are those in which something is not watched."""

    @property
    def text(self) -> str:
        """One line for the log: the numbers, the cause and the remedy."""
        return _FORMATTER.format(self.wording, self)

    @property
    def key(self) -> str:
        """Of two events with the same key, only one is reported, if `is_reported_once`."""
        name = type(self).__name__
        return f"{name}: {_FORMATTER.format(self.told_apart_by, self)}" if self.told_apart_by else name

    @property
    def asked_by(self) -> str:
        """The setting for which a worker goes, or `requested`; empty if the event is not about that."""
        return ""

    @property
    def pid(self) -> int:
        """Of the worker; 0 if the event is about the pool."""
        return 0


class _Formatter(string.Formatter):
    """Takes the values from the attributes of an object; see Event.wording."""

    def get_value(self, key: int | str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        return getattr(args[0], str(key))

    def format_field(self, value: Any, format_spec: str) -> str:
        if "|" in format_spec:
            yes, no = format_spec.split("|")
            return yes if value else no
        return _UNITS[format_spec](value) if format_spec else str(value)


_FORMATTER = _Formatter()


class AboutWorker(Event):
    worker: ProcessId

    @property
    def pid(self) -> int:
        return self.worker.pid


class AboutDueWorker(AboutWorker):
    """About a worker that has to go."""

    reason: Reason

    @property
    def asked_by(self) -> str:
        return self.reason.setting or "requested"

    @property
    def due_worker(self) -> str:
        """The worker and why it has to go: how the text begins."""
        return f"worker {self.pid} {self.reason.text}"


class Over(Event):
    """The end of a lasting state that was reported."""

    ends: ClassVar[type[Event]]
    """The state."""
