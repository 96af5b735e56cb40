"""Entry point 1, [eventlistener:memreap]: answers supervisord's events.

supervisord sends `header\\npayload`; the listener answers RESULT, and READY for the next event. It answers OK as soon
as it has read the event, before it acts on it: whatever happens later, supervisord does not wait, and delivers no event
twice (after FAIL it redelivers endlessly, 283,242 times in 8 s).
"""

from __future__ import annotations

import ctypes
import functools
import gc
import os
import select
import signal
import sys
import time
from collections.abc import Callable, Collection, Sequence

from supervisor_memreap import __version__
from supervisor_memreap.core import events
from supervisor_memreap.core.model import ProcessId
from supervisor_memreap.core.settings import COMMAND_LINE, SettingsError, parse, parse_name_size, resolve
from supervisor_memreap.host import apart, lock, procfs, reader
from supervisor_memreap.host.machine import Locked, Unlockable
from supervisor_memreap.listener import statedirectory
from supervisor_memreap.listener.application import Application
from supervisor_memreap.listener.statefile import StateFile
from supervisor_memreap.listener.wakeable import Wakeable, wait
from supervisor_memreap.outputs.eventlog import Log
from supervisor_memreap.outputs.lasting import Once
from supervisor_memreap.supervisord import ancestor, configfile
from supervisor_memreap.supervisord.protocol import Event, Protocol

# Seconds in which the configuration must be found, and read, at the start: it names the directory of the state. No pool
# is watched yet, so this may take longer than later.
_PATIENCE = 60.0
# Seconds after which a listener without events looks again whether another one still runs.
_ALONE = 2.0


def run(config: str | None, limits: Sequence[str]) -> int:
    """Serve supervisord until it closes the pipe or sends TERM. Returns 0; 2: bad usage.

    `limits` are the NAME=SIZE words of the command.
    """
    is_started = "SUPERVISOR_ENABLED" in os.environ
    contents = _contents(config) if is_started else None
    emit = Log(sys.stderr, is_json=_asks_for_json(contents))
    try:
        command_line = parse_name_size(limits, COMMAND_LINE)
        resolve(command_line)
    except SettingsError as error:
        emit(events.SettingsRefused("", time.time(), str(error), None))
        return 2
    if not is_started:
        emit(events.NotUnderSupervisord("", time.time()))
        return 2
    above = _supervisord(emit)
    stdin, stdout = _keep_protocol_apart()
    protocol = Protocol(stdin, stdout)
    try:
        if _wait_until_alone(above, emit, protocol, stdin):
            contents = _contents(config)  # where the other one has saved its state
    except (EOFError, BrokenPipeError):
        return 0
    try:
        file = _file(config)
    except SettingsError as error:
        emit(events.SettingsRefused("", time.time(), str(error), None))
        file = None
    emit(events.Started("", time.time(), __version__, file.path if file else ""))
    application = Application(file, command_line, emit, _statefile(above, contents), emit.apply)
    collect_seldom()
    _return_memory()
    try:
        _serve(protocol, stdin, application)
        application.forget_if_all_ends()
    except (EOFError, BrokenPipeError):
        # supervisord closes the pipe when it exits, and its pools end with it.
        application.reaper.attempts.end_all()  # what becomes of them is saved, and is not to be saved later
        application.saved_states.forget()
    application.close()
    return 0


def collect_seldom() -> None:
    """Let Python look for garbage in cycles less often, and never in what was there at the start.

    Each look makes some values for each worker, none of them in a cycle: by default, looking through them and all else
    takes a fifth of the time of a tick.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000)


def _return_memory() -> None:
    """Give back to the system what the imports have freed, 0.5 MB; glibc keeps it otherwise."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim:
        trim(0)


def _statefile(above: ProcessId, contents: configfile.Contents | None) -> StateFile:
    states = StateFile(above, statedirectory.candidates(above.pid, contents, os.environ))
    states.sweep()
    return states


def _file(config: str | None) -> configfile.ConfigFile:
    """Raises SettingsError."""
    try:
        search = functools.partial(apart.made_or_here, configfile.searched, _PATIENCE)
        return configfile.ConfigFile(configfile.find(config, search))
    except TimeoutError as error:
        raise SettingsError(f"supervisord.conf was not found: {error.strerror}") from None


def _contents(config: str | None) -> configfile.Contents | None:
    """Of the configuration at the start; None: it has an error, which is reported at the first look."""
    try:
        return _file(config).read_apart(_PATIENCE)
    except SettingsError:
        return None


def _asks_for_json(contents: configfile.Contents | None) -> bool:
    """Whether the file has log=json, to be known before the first line; also if the file has an error elsewhere."""
    asked = contents.sections.get("", {}).get("log") if contents else None
    try:
        return asked is not None and parse("log", asked) == "json"
    except SettingsError:
        return False  # reported at the first look


def _supervisord(emit: events.Sink) -> ProcessId:
    """The supervisord that we run under."""
    pid = ancestor.pid()
    try:
        return procfs.source().process(pid).id
    except OSError:
        emit(events.SupervisordHidden("", time.time(), pid))
        return ProcessId(pid, 0.0)


def _wait_until_alone(above: ProcessId, emit: events.Sink, protocol: Protocol, stdin: int) -> bool:
    """As long as another listener runs, act on no event. Whether one ran. Raises EOFError, BrokenPipeError.

    One that ended would be started again at once, endlessly, where starting takes longer than startsecs (1 s).
    """
    once = Once(emit)
    has_waited = False
    while other := _other_listener(above, once):
        has_waited = True
        if _has_own_events(other.pid):
            # Answered: supervisord would keep them until this one works, a command to the other among them.
            protocol.ready()
            while not [*protocol.feed()]:
                pass
            protocol.ok()
        elif select.select([stdin], [], [], _ALONE)[0]:
            [*protocol.feed()]  # its end: there are no events before READY
    return has_waited


def _has_own_events(other: int) -> bool:
    """Whether supervisord sends each event to this listener too; with numprocs=2, it sends it to one that is READY."""
    group = "SUPERVISOR_GROUP_NAME"
    try:
        theirs = procfs.source().environ(other).get(group) if other else None
        return theirs is not None and theirs != os.environ.get(group)
    except OSError:
        return False  # not known
    finally:
        reader.end()


def _other_listener(above: ProcessId, emit: events.Sink) -> Locked | None:
    """Take the lock of the supervisord that we run under, until we exit. The listener that has it; None: we do."""
    try:
        try:
            lock.take(above)
        except Unlockable:
            # We do not run as supervisord's user. A file that others may open would let each of them keep us from
            # starting.
            lock.take_file(above, "listener", 0o600)
    except Unlockable as trouble:
        emit(events.OtherListenersUnknown("", time.time(), str(trouble)))
    except Locked as trouble:
        emit(events.AnotherListener("", time.time(), str(trouble)))
        return trouble
    except ProcessLookupError:
        pass  # supervisord has just ended
    return None


def _keep_protocol_apart() -> tuple[int, int]:
    """Descriptors for supervisord only; from now on, anything printed to stdout goes to stderr."""
    stdin, stdout = os.dup(0), os.dup(1)
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(2, 1)
    os.close(null)
    sys.stdout = sys.stderr
    return stdin, stdout


class _Signals(Wakeable):
    """Signals to us, as bytes in a pipe. Their handlers do nothing: the current tick finishes first."""

    def __init__(self) -> None:
        self._woken, wake = os.pipe()
        self.is_ending = False
        """Whether TERM or INT has come."""
        os.set_blocking(wake, False)
        signal.set_wakeup_fd(wake)
        for signum in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(signum, lambda *_: None)

    def fds(self) -> dict[int, int]:
        return {self._woken: select.POLLIN}

    def wake(self, readable: Collection[int]) -> None:
        if self._woken in readable and set(os.read(self._woken, 512)) & {signal.SIGTERM, signal.SIGINT}:
            self.is_ending = True


class _Events(Wakeable):
    """The events of supervisord, each of which is answered before it is handled."""

    def __init__(self, protocol: Protocol, stdin: int, handle: Callable[[Event], None]):
        self._protocol = protocol
        self._stdin = stdin
        self._handle = handle

    def fds(self) -> dict[int, int]:
        return {self._stdin: select.POLLIN}

    def wake(self, readable: Collection[int]) -> None:
        """Raises EOFError, BrokenPipeError."""
        for event in self._protocol.feed() if self._stdin in readable else ():
            self._protocol.ok()
            self._handle(event)
            self._protocol.ready()


def _serve(protocol: Protocol, stdin: int, application: Application) -> None:
    """Until TERM. Raises EOFError, BrokenPipeError."""
    signals, supervisord = _Signals(), _Events(protocol, stdin, application.handle)
    protocol.ready()
    while True:
        # A fork that goes on answers soon shares nothing with its parent any more, and holds 11 MB.
        reader.end()
        readable = wait(application.machine, signals, supervisord, *application.parts())
        signals.wake(readable)
        if signals.is_ending:
            return
        application.wake(readable)
        supervisord.wake(readable)
        application.look_between_ticks()
