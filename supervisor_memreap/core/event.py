"""What every event has; the events themselves are in core.events. Pure."""

from __future__ import annotations

import abc
from dataclasses import dataclass
from typing import ClassVar, Literal

from supervisor_memreap.core.model import ProcessId
from supervisor_memreap.core.reasons import Reason

Kind = Literal["", "reap", "left", "stuck", "suspended", "resumed", "short", "relieved"]


@dataclass(frozen=True)
class Base(abc.ABC):
    pool: str
    """Its name; empty if the event is about memreap itself."""
    at: float
    """Seconds since 1970."""

    announced_as: ClassVar[Kind] = ""
    """Its name as a supervisord event; empty: it is not announced."""
    is_reported_once: ClassVar[bool] = False
    """It is reported only once for the same manager and settings."""
    fails: ClassVar[bool] = False
    """It makes `memreap once` exit with 1."""
    ends_wait: ClassVar[bool] = False
    """It makes `memreap once` stop waiting for this pool."""

    @property
    @abc.abstractmethod
    def text(self) -> str:
        """One line for the log: the numbers, the cause and the remedy."""

    @property
    def key(self) -> str:
        """Of two events with the same key, only one is reported, if `is_reported_once`."""
        return type(self).__name__

    @property
    def asked_by(self) -> str:
        """The setting for which a worker goes, or `requested`; empty if the event is not about that."""
        reason = getattr(self, "reason", None)
        return (reason.setting or "requested") if isinstance(reason, Reason) else ""

    @property
    def pid(self) -> int:
        """Of the worker; 0 if the event is about the pool."""
        worker = getattr(self, "worker", None)
        return worker.pid if isinstance(worker, ProcessId) else 0
