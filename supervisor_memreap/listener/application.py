"""The listener's work: it handles the events of supervisord. The protocol and the waiting are in loop.py."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Collection, Iterator

from supervisor_memreap.core import events
from supervisor_memreap.core.command import NEED_WORKERS, TYPE, Command, CommandError, id_of, named, parse
from supervisor_memreap.core.model import Program, ProgramState
from supervisor_memreap.core.rows import PoolRow
from supervisor_memreap.core.settings import Sections, Settings, SettingsError, resolve
from supervisor_memreap.core.text import seconds
from supervisor_memreap.host import orphans, procfs
from supervisor_memreap.host.thismachine import ThisMachine
from supervisor_memreap.host.whoserves import PATIENCE
from supervisor_memreap.listener.doctorprocess import DoctorProcess
from supervisor_memreap.listener.reaper import Reaper
from supervisor_memreap.listener.savedstates import SavedStates
from supervisor_memreap.listener.slowoutputs import SlowOutputs
from supervisor_memreap.listener.statefile import StateFile
from supervisor_memreap.listener.timing import Timing
from supervisor_memreap.listener.wakeable import Wakeable
from supervisor_memreap.outputs.guard import Guard
from supervisor_memreap.outputs.lasting import Once
from supervisor_memreap.outputs.publisher import Publisher
from supervisor_memreap.supervisord import configfile
from supervisor_memreap.supervisord.client import Client, ShuttingDown, Unavailable, connect
from supervisor_memreap.supervisord.configfile import ConfigFile, Contents
from supervisor_memreap.supervisord.endings import Endings
from supervisor_memreap.supervisord.protocol import Event


class Application:
    """The state that is kept from one event to the next."""

    def __init__(
        self,
        file: ConfigFile | None,
        command_line: Sections,
        emit: events.Sink,
        statefile: StateFile | None = None,
        apply: Callable[[Settings], None] = lambda _: None,
    ):
        """`apply` is as in LiveSettings."""
        self._log = emit
        self._once = Once(self._emit)
        self._live = LiveSettings(file, command_line, self._once, apply)
        self._orphans = OrphanWatch(self._once)
        self._endings = Endings(self._client)
        self.machine = ThisMachine(self._endings.of, PATIENCE)
        self.saved_states = SavedStates(self.machine, statefile, self._emit, self._once)
        self._slow_outputs = SlowOutputs(self._emit, self._once)
        self._rows: list[PoolRow] = []
        """The status of the pools at the last look."""
        saved, sinks = self.saved_states, (self._emit, self._announce)
        self.reaper = Reaper(self.machine, sinks, False, saved.read(), saved.save, saved.leaving_elsewhere)
        self._timing = Timing(self.machine, self.reaper.memory, self._once)
        self._publisher = Publisher(lambda: self._rows, self._once, self.reaper.memory.troubles)
        self._doctor: DoctorProcess | None = None
        """The one that runs; None: none does."""

    def handle(self, event: Event) -> None:
        """Act on one event: on a tick that is not long past, and on a command. Never raises."""
        if event.name.startswith("PROCESS_STATE_"):
            self._endings.note(event)
            return
        kind, _, data = event.payload.partition("\n")
        is_command = event.name == "REMOTE_COMMUNICATION" and kind == f"type:{TYPE}"
        if not is_command and not self._timing.is_for_a_look(event):
            return
        with self._guard():
            if is_command:
                self._handle_command(data)
            else:
                self.tick()

    def _emit(self, event: events.Event) -> None:
        """Everything that happens comes by here."""
        self._log(event)
        self._slow_outputs.take(event)

    def _announce(self, event: events.Event) -> None:
        if event.announced_as and self.reaper.announces(event.pool):
            self._publisher.announcements.add(event)

    @contextlib.contextmanager
    def _guard(self) -> Iterator[None]:
        """Any error becomes a line in the log, and the listener continues."""
        # A listener that exits while it handles an event gets it again about every 2 s, and none would look.
        with Guard(self._once):
            try:
                yield
                self._once.clear(events.InternalError)
            except Unavailable as error:
                self._once(events.SupervisordUnavailable("", time.time(), str(error)))

    # For the loop of the listener.

    def parts(self) -> list[Wakeable]:
        """What may have to be woken, in this order."""
        return [self._timing, self._slow_outputs, self.reaper, *([self._doctor] if self._doctor else [])]

    def wake(self, readable: Collection[int]) -> None:
        """Wake each of its parts, as Wakeable. Never raises."""
        for part in self.parts():
            with Guard(self._once):
                part.wake(readable)
        self._publish_totals()
        doctor = self._doctor
        if doctor and doctor.has_ended():
            self._doctor = None
            with self._guard():
                self._publisher.answers.give(doctor.id, *doctor.result())
                self._publisher.publish(self._client())

    def _publish_totals(self) -> None:
        """If the history has just been read: until then the reaps of earlier listeners are unknown. Never raises."""
        if self._slow_outputs.has_new_totals():
            self._rows = self._slow_outputs.with_totals(self._rows)
            # A supervisord that hangs would have to be waited for. Not with _guard, which would end what lasts.
            if self._rows and not self._once.has_passed(events.SupervisordUnavailable):
                with Guard(self._once):
                    self._publisher.publish(self._client())

    def look_between_ticks(self) -> None:
        """If that is due. Never raises."""
        if self._timing.is_due():
            with self._guard():
                self.tick(counts=False)

    def forget_if_all_ends(self) -> None:
        """On TERM, which may end only this listener, or supervisord with all its programs."""
        try:
            self._client().programs()
        except ShuttingDown:
            # It may be a reload: leaving workers ended with their managers, and paused pools stay paused.
            self.reaper.attempts.end_all()  # what becomes of them is saved, and is not to be saved later
            self.saved_states.save(self.reaper.pools.paused())
        except Unavailable:
            pass  # a leaving worker may outlive this listener

    # Ticks.

    def tick(self, counts: bool = True) -> None:
        """Read what changed, look, decide, act; not `counts`: between two ticks. Raises Unavailable."""
        self._timing.begin()
        try:
            self._look(counts)
        finally:
            self._timing.end()

    def _look(self, counts: bool) -> None:
        self._live.refresh()
        if self._live.are_known:
            self._slow_outputs.apply(self._live.settings.recording, self._live.contents)
        client, settings = self._client(), self._live.settings
        if not self._live.are_known:
            # Half of the settings may be in a file with a mistake; and what is remembered stays remembered.
            self._publisher.publish(client)
            return
        programs = client.programs()
        self._once.end(events.SupervisordAvailable, time.time())
        _report_names(settings, programs, self._once)
        self.reaper.tick(programs, settings, time.monotonic(), counts)
        whole = self._publisher.is_read or self._slow_outputs.want_workers()
        if whole or self._slow_outputs.want_a_look() or self.reaper.is_measuring:
            self._rows = self._slow_outputs.with_totals(self.reaper.status(whole))
        self._slow_outputs.look(self._rows, self._timing.period(), whole)
        self._publisher.note_look()
        self._publisher.publish(client)
        watched = [program for program in programs if settings.of(program)]
        self._orphans.look(watched, client.programs, self._live.contents.command_of)

    # Commands.

    def _handle_command(self, data: str) -> None:
        """Carry out a user's command at once, and keep the answer for the sender. Raises Unavailable."""
        answers = self._publisher.answers
        id, is_done = id_of(data), False
        try:
            command = parse(data)
            # A sender repeats a command whose answer has not reached supervisord.
            is_done = answers.begin(command) and self._carry_out(command)
        except CommandError as error:
            self._emit(events.CommandRefused("", time.time(), str(error)))
            answers.give(id, False, str(error))
        except Unavailable as error:
            answers.give(id, False, f"{error}; nothing was done")
            raise
        if is_done:
            self.tick()
        else:
            # Not a look: `checks` counts looks, and a refused command changes nothing.
            self._publisher.publish(self._client())

    def _carry_out(self, command: Command) -> bool:
        """Whether anything was done in a pool that is watched now.

        Raises CommandError and Unavailable if nothing was done.
        """
        _refuse_if_late(command)
        if command.verb == "doctor":
            self._doctor = _start_doctor(self._live.path, command.id, self._doctor)
            return False
        self._live.refresh()
        if not self._live.are_known:
            raise CommandError("no pool is watched, since the configuration has an error: see the listener's log")
        programs = self._client().programs()
        watched = sorted(watch.program.namespec for watch in self._live.settings.pools(programs))
        # These need a look, to know the workers. A pause needs none, and must come before the next look.
        if command.verb in NEED_WORKERS and not self.reaper.has_seen(named(command.name, watched)):
            self.tick()
        results = self.reaper.command(command, watched)
        done = not any(result.refused for result in results)
        self._publisher.answers.give(command.id, done, "\n".join(result.line for result in results))
        return True

    def close(self) -> None:
        """Release everything, and leave no process behind."""
        if self._doctor:
            self._doctor.end()
        self.reaper.close()
        self._slow_outputs.close()

    def _client(self) -> Client:
        url = os.environ.get("SUPERVISOR_SERVER_URL")
        if not url:
            raise Unavailable("supervisord has no HTTP server: add [unix_http_server] to its configuration")
        return connect(url, self._live.contents.server)


def _refuse_if_late(command: Command) -> None:
    """Raises CommandError."""
    if command.until is not None and time.time() > command.until:
        late = seconds(time.time() - command.until)
        raise CommandError(f"{command.verb} {command.name} arrived {late} after it had expired and was not carried out")


def _start_doctor(configuration: str, id: str, running: DoctorProcess | None) -> DoctorProcess:
    """`running` is the one that runs, if one does. Raises CommandError."""
    if running:
        raise CommandError("doctor is already running")
    try:
        return DoctorProcess(configuration, id)
    except OSError as error:
        raise CommandError(f"doctor could not be started: {error.strerror}") from None


def _report_names(settings: Settings, programs: list[Program], once: Once) -> None:
    """Report what is watched, and which names do not exist."""
    once.follow(events.ProgramsMissing, events.ProgramsMissing.of(settings.unmatched(programs), programs, time.time()))
    pools = tuple((watch.program.namespec, watch.settings) for watch in settings.pools(programs))
    once(events.Watching("", time.time(), pools))


class LiveSettings:
    """`command_line` overrides the file. Raises SettingsError if it has an error.

    `apply` is called with the settings whenever they have changed, before any event is emitted.
    """

    def __init__(
        self,
        file: ConfigFile | None,
        command_line: Sections,
        once: Once,
        apply: Callable[[Settings], None] = lambda _: None,
    ):
        self._file = file
        self._command_line = command_line
        self._once = once
        self._apply = apply
        # If the file can never be read, the settings of the command are in force.
        self.settings = resolve(command_line)
        self.contents = Contents()
        self.are_known = file is None
        """Whether the file was ever read without error: before that no pool is looked at."""

    @property
    def path(self) -> str:
        """Of the file; empty if there is none."""
        return self._file.path if self._file else ""

    def refresh(self) -> None:
        """Take a changed file as a whole, or not at all."""
        if self._file is None or not self._file.has_changed():
            return
        try:
            contents = self._file.read_apart()
            self.settings = resolve(configfile.merge(contents.sections, self._command_line), contents.places)
        except SettingsError as error:
            self._once(events.SettingsRefused("", time.time(), str(error), self.are_known))
            return
        self._apply(self.settings)
        self._once.end(events.SettingsAccepted, time.time())
        self.contents = contents
        self.are_known = True
        warned = events.SettingsWarned("", time.time(), tuple(contents.warnings)) if contents.warnings else None
        self._once.follow(events.SettingsWarned, warned)


class OrphanWatch:
    """Reports what a daemonized start of a program has left behind."""

    def __init__(self, once: Once):
        self._once = once
        self._starts: dict[str, tuple[str, int]] = {}
        """State and pid of each watched program in the last search for orphans."""

    def look(
        self, watched: list[Program], ask: Callable[[], list[Program]], command_of: Callable[[Program], str]
    ) -> None:
        """To be called after each tick; searches after each start or end of a program.

        `ask` returns what supervisord runs; raises what `ask` raises.
        """
        starts = {program.namespec: (program.state, program.pid) for program in watched}
        changed = [each for each in watched if starts[each.namespec] != self._starts.get(each.namespec)]
        if not changed:
            return
        sought = {program: command_of(program) for program in changed}
        left_behind = orphans.find(sought, ask, os.environ, procfs.source())
        self._starts = starts
        for program in changed:
            # While supervisord keeps restarting the program, one line is enough; when it gives up, count them again.
            is_trying = program.state in (ProgramState.STARTING, ProgramState.BACKOFF)
            if not (is_trying and self._once.has_passed(events.OrphansFound, program.namespec)):
                self._once.follow(events.OrphansFound, left_behind.get(program), program.namespec)
