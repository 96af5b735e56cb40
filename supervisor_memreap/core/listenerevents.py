"""The events about the listener itself: `pool` is empty, but for an internal error in one pool. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

from supervisor_memreap.core.event import Event, Over
from supervisor_memreap.core.model import Program
from supervisor_memreap.core.settings import PoolSettings, shown
from supervisor_memreap.core.text import memory, quote, seconds

# Its start.


class Started(Event):
    memreap: str
    """Its version."""
    configuration: str
    """Path of the file; empty if there is none."""

    @property
    def text(self) -> str:
        return f"version {self.memreap}, configuration {self.configuration or 'from the command line only'}"


class NotUnderSupervisord(Event):
    """A user runs the listener by hand."""

    wording = "supervisord starts memreap listen, from [eventlistener:memreap]; to reap by hand, use memreap once"


class AnotherListener(Event):
    """Another listener of the same supervisord is running: this one waits for its end."""

    wording = (
        "another listener of this supervisord is already running ({holder}): this one does nothing until that one ends;"
        " keep one [eventlistener:memreap], with numprocs=1"
    )
    holder: str


class OtherListenersUnknown(Event):
    """memreap cannot find out whether another listener of the same supervisord is running."""

    wording = "{why}: cannot tell whether another listener of this supervisord is running; keep only one"
    why: str


class SupervisordHidden(Event):
    """The supervisord that started the listener is hidden from the listener's user."""

    wording = (
        "supervisord (process {supervisord}) is hidden from this user (by hidepid= on /proc?): pools of other users"
        " cannot be seen, and the saved state may be that of an earlier supervisord; run the listener as root, or mount"
        " /proc with the gid= of one of its groups"
    )
    supervisord: int


class NoAlarm(Event):
    """`headroom` or `pressure` is set, but the kernel cannot wake the listener between two ticks."""

    wording = (
        "the kernel offers no wake-up when memory is short ({why}): a sudden shortage is noticed only at the next tick"
    )
    why: str
    """The kernel's error."""


# Settings and commands.


class Watching(Event):
    """What the listener watches, at its start and after each change."""

    pools: tuple[tuple[str, PoolSettings], ...]

    @property
    def text(self) -> str:
        if not self.pools:
            return "watching nothing: no program has a [memreap:PROGRAM] section"
        return f"watching {', '.join(f'{name} ({_bounds(settings)})' for name, settings in self.pools)}"


def _bounds(settings: PoolSettings) -> str:
    limit = "" if settings.limit is None else f"limit {memory(settings.limit)} {settings.metric}"
    max_age = "" if settings.max_age is None else f"max_age {seconds(settings.max_age)}"
    total = "" if settings.total is None else f"total {memory(settings.total)}"
    keys = ("headroom", "pressure") if settings.relieves else ()
    shared = (f"{key} {shown(settings, key)}" for key in keys if getattr(settings, key) is not None)
    return ", ".join(filter(None, ("only observed" if settings.observe else "", limit, max_age, total, *shared)))


class SettingsRefused(Event):
    """The settings have an error, and none of them is applied."""

    is_error = may_last = True
    in_status = "troubles"
    error: str
    are_known: bool | None
    """Whether earlier settings are in force; None: the listener exits, or has only those of its command."""

    @property
    def text(self) -> str:
        if self.are_known is None:
            return self.error
        consequence = (
            "the earlier settings stay in force" if self.are_known else "nothing is watched until it is corrected"
        )
        return f"{self.error} ({consequence})"


class SettingsAccepted(Over):
    """A mistake in the settings was corrected."""

    ends = SettingsRefused
    wording = "the configuration is valid again and in force"


class SettingsWarned(Event):
    in_status = "troubles"
    wording = "{warnings:lines}"
    warnings: tuple[str, ...]


class ProgramsMissing(Event):
    """Settings or a command name programs that supervisord does not have."""

    is_error = may_last = True
    in_status = "troubles"
    names: tuple[str, ...]
    existing: tuple[str, ...]

    @classmethod
    def of(cls, names: Iterable[str], programs: Iterable[Program], at: float) -> ProgramsMissing | None:
        """None: no name is missing."""
        missing = tuple(names)
        return cls("", at, missing, tuple(sorted({program.namespec for program in programs}))) if missing else None

    @property
    def text(self) -> str:
        missing = "; ".join(f"no program or group '{quote(name)}' in supervisord" for name in self.names)
        return f"{missing}; there are: {', '.join(self.existing)}"


class CommandRefused(Event):
    wording = "a command was refused: {error}"
    error: str


# What it needs: supervisord, and its saved state.


class SupervisordUnavailable(Event):
    is_error = may_last = True
    wording = "{error}; trying again at every tick"
    error: str


class SupervisordAvailable(Over):
    ends = SupervisordUnavailable
    wording = "supervisord answers again"


class NotPublished(Event):
    """supervisord did not accept the status."""

    is_error = may_last = True
    wording = "could not publish the status: {error}"
    error: str


class NotRemembered(Event):
    """What the last listener saved could not be read."""

    is_error = may_last = True
    wording = "{why}: the state that an earlier listener saved there, such as a pause, is lost; pause those pools again"
    why: str


class NotSaved(Event):
    """What must survive a restart cannot be saved."""

    fails = ends_wait = is_error = may_last = True
    in_status = "troubles"
    wording = "no worker is signalled, since the state cannot be saved: {why}"
    why: str


class SavedAgain(Over):
    """What must survive a restart can be saved again."""

    ends = NotSaved
    wording = "the state can be saved again: signalling resumed"


# Its outputs.


class OutputFailed(Event):
    """An output that has a process of its own does not work."""

    is_error = may_last = True
    in_status = "warnings"
    wording = "{output}: {error} (reaping does not depend on this)"
    output: ClassVar[str]
    error: str


class OutputWorks(Over):
    """Such an output works again."""

    ends: ClassVar[type[OutputFailed]]
    activity: ClassVar[str]
    wording = "{ends.output}: {activity} resumed"


class NotRecorded(OutputFailed):
    """The history cannot be written."""

    output = "history"


class RecordedAgain(OutputWorks):
    ends = NotRecorded
    activity = "recording"


class NotExposed(OutputFailed):
    """The metrics cannot be offered."""

    output = "metrics"


class ExposedAgain(OutputWorks):
    ends = NotExposed
    activity = "export"


class LinesMissing(Event):
    """Lines of the log were dropped, since nothing read it."""

    wording = "{count} log lines lost: nothing was reading the log"
    count: int


class InternalError(Event):
    """A bug in memreap, in this pool or in the listener; the other pools are handled as usual."""

    is_reported_once = is_error = True
    told_apart_by = "{error} at {place}"
    trouble = "internal error"
    wording = "internal error, please report it: {error} at {place}"
    error: str
    place: str
