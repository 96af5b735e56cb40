"""Entry point 1, [eventlistener:memreap]: answers supervisord's events.

supervisord sends `header\\npayload`; the listener answers RESULT, and READY for the next event. It answers OK as soon
as it has read the event, before it acts on it: whatever happens then, supervisord does not wait, and delivers no event
twice (after FAIL it redelivers endlessly, 283,242 times in 8 s).
"""

from __future__ import annotations

import os
import select
import signal
import sys
import time
from collections.abc import Sequence

from supervisor_memreap import __version__
from supervisor_memreap.core import events
from supervisor_memreap.core.model import ProcessId
from supervisor_memreap.core.settings import COMMAND_LINE, SettingsError, parse, parse_name_size, resolve
from supervisor_memreap.host import lock, procfs
from supervisor_memreap.listener import statedirectory
from supervisor_memreap.listener.application import Application
from supervisor_memreap.listener.statefile import StateFile
from supervisor_memreap.outputs import log
from supervisor_memreap.supervisord import ancestor, configfile
from supervisor_memreap.supervisord.protocol import Protocol


def run(config: str | None, limits: Sequence[str]) -> int:
    """Serve supervisord until it closes the pipe or sends TERM. Returns 0, also for a second listener; 2: bad usage.

    `limits` are the NAME=SIZE words of the command.
    """
    is_started = "SUPERVISOR_ENABLED" in os.environ
    emit = log.Log(sys.stderr, is_json=is_started and _asks_for_json(config))
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
    if not _is_alone(above, emit):
        # Not a failure: if starting took longer than startsecs (1 s), supervisord would restart it endlessly. After an
        # exit before that it retries startretries times, then calls it FATAL, whatever the status.
        return 0
    try:
        file = configfile.ConfigFile(configfile.find(config))
    except SettingsError as error:
        emit(events.SettingsRefused("", time.time(), str(error), None))
        file = None
    application = Application(file, command_line, emit, _statefile(above, file), emit.apply)
    emit(events.Started("", time.time(), __version__, file.path if file else ""))
    stdin, stdout = _keep_protocol_apart()
    try:
        _serve(Protocol(stdin, stdout), stdin, application)
        application.forget_if_all_ends()
    except (EOFError, BrokenPipeError):
        # supervisord closes the pipe when it exits, and its pools end with it.
        application.reaper.attempts.end_all()  # what becomes of them is saved, and is not to be saved later
        application.remembered.forget()
    application.close()
    return 0


def _statefile(above: ProcessId, file: configfile.ConfigFile | None) -> StateFile:
    try:
        # Not `file` itself: the first look asks it what has changed since it was read.
        contents = configfile.ConfigFile(file.path).read() if file else None
    except SettingsError:
        contents = None  # reported at the first look
    return StateFile(above, statedirectory.candidates(above.pid, contents, os.environ))


def _asks_for_json(config: str | None) -> bool:
    """Whether the file has log=json, to be known before the first line; also if the file has an error elsewhere."""
    try:
        asked = configfile.ConfigFile(configfile.find(config)).read().sections.get("", {}).get("log")
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


def _is_alone(above: ProcessId, emit: events.Sink) -> bool:
    """Take the lock of the supervisord that we run under, until we exit."""
    try:
        try:
            lock.take(above)
        except lock.Unlockable:
            # We do not run as supervisord's user. A file that others may open would let each of them keep us from
            # starting.
            lock.take_file(above, "listener", 0o600)
    except lock.Unlockable as trouble:
        emit(events.OtherListenersUnknown("", time.time(), str(trouble)))
    except lock.Locked as trouble:
        emit(events.AnotherListener("", time.time(), str(trouble)))
        return False
    except ProcessLookupError:
        pass  # supervisord has just ended
    return True


def _keep_protocol_apart() -> tuple[int, int]:
    """Descriptors for supervisord only; from now on, anything printed to stdout goes to stderr."""
    stdin, stdout = os.dup(0), os.dup(1)
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(2, 1)
    os.close(null)
    sys.stdout = sys.stderr
    return stdin, stdout


def _serve(protocol: Protocol, stdin: int, application: Application) -> None:
    """Until TERM. Raises EOFError, BrokenPipeError."""
    woken, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.set_wakeup_fd(wake)
    for signum in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        # The handler does nothing: the current tick finishes, then the byte in the pipe is seen.
        signal.signal(signum, lambda *_: None)
    protocol.ready()
    while True:
        poll = select.poll()
        doctor = application.doctor
        workers, attempts = application.reaper.pools.pidfds(), application.reaper.attempts.fds()
        for fd in (stdin, woken, *workers, *attempts, *((doctor.fd,) if doctor else ())):
            poll.register(fd, select.POLLIN)
        for fd, wanted in (*application.timing.fds().items(), *application.recorders.fds().items()):
            poll.register(fd, wanted)
        readable = [fd for fd, _ in poll.poll(_patience(application))]
        application.timing.wake(readable)
        application.recorders.wake(readable)
        application.publish_totals()
        now = time.monotonic()
        for fd in readable:
            if fd == woken and set(os.read(woken, 512)) & {signal.SIGTERM, signal.SIGINT}:
                return
            if fd in application.reaper.pools.pidfds():
                application.reaper.exited(fd, now)
        application.reaper.attempts.wake(time.monotonic())
        if doctor and (doctor.fd in readable or not readable):
            application.read_doctor()
        if stdin in readable:
            for event in protocol.feed():
                protocol.ok()
                application.handle(event)
                protocol.ready()
        application.look_between_ticks()


def _patience(application: Application) -> float | None:
    """The milliseconds after which something is to be done even if nothing comes; None: nothing is."""
    doctor, look, attempts = application.doctor, application.timing.patience(), application.reaper.attempts.patience()
    waits = [] if doctor is None else [max(0.0, doctor.deadline - time.monotonic())]
    waits += [each for each in (look, attempts) if each is not None]
    return min(waits) * 1000 + 1 if waits else None
