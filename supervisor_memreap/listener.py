"""Door 1, [eventlistener:memreap]: answers supervisord's events, and looks at the pools on each TICK.

supervisord sends `header\\npayload`, the listener answers RESULT, and says READY for the next. OK is answered as soon
as the event is read, before anything is done about it: whatever happens then, supervisord waits for nothing and
delivers no event twice (FAIL is redelivered for ever, 283,242 times in 8 s).
"""

from __future__ import annotations

import json
import os
import re
import select
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable

from supervisor_memreap import __version__
from supervisor_memreap.core.command import TYPE, Command, CommandError, id_of, named, parse
from supervisor_memreap.core.model import Ending, ProcessId, Program
from supervisor_memreap.core.quote import quote
from supervisor_memreap.core.settings import Sections, SettingsError, resolve
from supervisor_memreap.host import lock, orphans, processes
from supervisor_memreap.reaper import Reaper, States
from supervisor_memreap.record import log, report
from supervisor_memreap.record.announcements import Announcements
from supervisor_memreap.record.answers import Answers
from supervisor_memreap.record.statefile import StateFile
from supervisor_memreap.record.status import VERSION
from supervisor_memreap.supervisord import configfile
from supervisor_memreap.supervisord.client import Client, ShuttingDown, Unavailable, connect
from supervisor_memreap.supervisord.protocol import Event, Protocol

# Event names of supervisord and the seconds between two of them.
PERIODS = {"TICK_5": 5, "TICK_60": 60, "TICK_3600": 3600}
# A listener that starts late gets up to 10 old ticks in a row: those are answered and not acted on.
STALE = 30.0
# Seconds: several ticks that come together, as after a wait or of TICK_5 with TICK_60, are one look.
TOGETHER = 0.5
# Seconds that doctor may take: it needs one or two, and more where Perl is slow to start.
CONSULTATION = 30.0
# What supervisord's events say of how a program ended.
_ENDINGS = {
    "PROCESS_STATE_STOPPING": Ending.STOPPED,
    "PROCESS_STATE_STOPPED": Ending.STOPPED,
    "PROCESS_STATE_EXITED": Ending.EXITED,
    "PROCESS_STATE_BACKOFF": Ending.EXITED,
}


class Consultation:
    """A `memreap doctor` at work. Raises OSError."""

    def __init__(self, command: list[str], id: str):
        self.id = id
        self.deadline = time.monotonic() + CONSULTATION
        self._said = b""
        null = subprocess.DEVNULL
        self._process = subprocess.Popen(
            command, stdin=null, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True
        )
        assert self._process.stdout
        self.fd = self._process.stdout.fileno()
        os.set_blocking(self.fd, False)

    def has_ended(self) -> bool:
        """Whether it has said all, or has had its time."""
        try:
            chunk = os.read(self.fd, 65536)
        except BlockingIOError:
            return time.monotonic() > self.deadline
        self._said += chunk
        return not chunk

    def result(self) -> tuple[bool, str]:
        """Whether it found no problems, and what it said."""
        text = self._said.decode(errors="replace").replace("memreap: ", "").strip()
        status = self.end()
        if status not in (0, 1):
            return False, f"{text}\ndoctor did not come to an end".strip()
        return status == 0, text

    def end(self) -> int:
        """Its exit status; by force where it has not ended."""
        assert self._process.stdout
        self._process.stdout.close()
        try:
            return self._process.wait(0.1 if time.monotonic() < self.deadline else 0)
        except subprocess.TimeoutExpired:
            # Not waited for yet, so that its pid is its own; and whatever it has started goes with it.
            os.killpg(self._process.pid, signal.SIGKILL)
            return self._process.wait()


class Listener:
    """What lives from one event to the next: the settings in force and the reaper."""

    def __init__(
        self,
        file: configfile.ConfigFile | None,
        command_line: Sections,
        tell: Callable[[str], None],
        statefile: StateFile | None = None,
    ):
        self._file = file
        self._command_line = command_line
        self._tell = tell
        self._once = log.Once(tell)
        # Should the file never be readable, what the command says is in force.
        self._settings = resolve(command_line)
        self._contents = configfile.Contents()
        self._starts: dict[str, tuple[str, int]] = {}
        """State and pid of each watched program when its orphans were last looked for."""
        self._has_settings = file is None
        """Whether the file was ever read whole: before that no pool is looked at."""
        self._endings: dict[tuple[str, str], tuple[float, Ending]] = {}
        """By group and name: when (wall clock) and how a program ended last, as far as it was told."""
        self._last_tick: float | None = None
        self._looked: float | None = None
        """When the pools were last looked at, in seconds since 1970: an answer that is published is not a look."""
        self._answers = Answers()
        self._announcements = Announcements()
        self._consultation: Consultation | None = None
        # Until it is known that supervisord has no [rpcinterface:memreap]: it gets one only when it starts anew, and
        # then so do we.
        self._is_read = True
        self._statefile = statefile
        self.reaper = Reaper(tell, states=self._remember(), keep=self._keep, how_ended=self._how_ended)

    def heed(self, event: Event) -> None:
        """Act on one event: on a tick that is not long past, and on a command. Never raises."""
        if event.name.startswith("PROCESS_STATE_"):
            self._note_ending(event)
            return
        period = PERIODS.get(event.name)
        kind, _, data = event.payload.partition("\n")
        is_command = event.name == "REMOTE_COMMUNICATION" and kind == f"type:{TYPE}"
        if not is_command and (period is None or self._is_past(event, period)):
            return
        self._guard(lambda: self._obey(data) if is_command else self.tick())

    def _note_ending(self, event: Event) -> None:
        """Remember how a program ended, from an event of supervisord, for those who subscribe to them."""
        ending = _ENDINGS.get(event.name)
        match = re.match(r"processname:(\S+) groupname:(\S+) ", event.payload)
        if ending and match:
            self._endings[match[2], match[1]] = (time.time(), ending)

    def _how_ended(self, program: Program, since: float) -> Ending:
        at, ending = self._endings.get((program.group, program.name), (0.0, Ending.UNKNOWN))
        if at >= since:
            return ending
        try:
            return self._client().how_ended(program, since)
        except Unavailable:
            return Ending.UNKNOWN

    def _guard(self, act: Callable[[], None]) -> None:
        """Whatever happens is a line in the log, and the listener goes on."""
        try:
            act()
            self._once.clear("fault")
        except Unavailable as error:
            self._once("supervisord", f"{error}; trying again at every tick")
        except Exception as error:
            # A listener that exits with an event in hand gets it again about every 2 s, and nobody would look.
            at = traceback.extract_tb(error.__traceback__)[-1]
            place = f"{os.path.basename(at.filename)}:{at.lineno}"
            self._once("fault", f"a fault of memreap itself, please report it: {error!r} at {place}")

    def _is_past(self, event: Event, period: int) -> bool:
        when = re.search(r"\bwhen:([0-9]{1,12})", event.payload)
        if when and time.time() - int(when[1]) > max(STALE, 2 * period):
            return True
        now = time.monotonic()
        if self._last_tick is not None and now - self._last_tick < TOGETHER:
            return True
        self._last_tick = now
        return False

    def _remember(self) -> States:
        """What the listener before this one knew: a worker that it signalled may still be leaving."""
        if self._statefile is None:
            return {}
        now = time.monotonic()
        states, trouble = self._statefile.read(now)
        if trouble:
            self._tell(report.forgotten(trouble))
        for name, state in states.items():
            if state.leaving:
                self._tell(f"{name}: {report.remembered(state.leaving.worker, now - state.leaving.signalled)}")
        return states

    def forget_if_all_ends(self) -> None:
        """On TERM: it may be for this listener alone, or for supervisord with all its programs."""
        try:
            self._client().programs()
        except ShuttingDown:
            # It may be a reload: who was leaving is gone with its manager, and what somebody paused stays paused.
            self._keep(self.reaper.paused())
        except Unavailable:
            pass  # who is leaving may be there tomorrow

    def forget(self) -> None:
        """Remove what is kept for the next listener: there will be none."""
        if self._statefile:
            self._statefile.remove()

    def _keep(self, states: States) -> None:
        trouble = self._statefile.write(states, time.monotonic()) if self._statefile else ""
        self._once("statefile", trouble and report.forgotten(trouble))

    def tick(self) -> None:
        """Read what changed, look, decide, act. Raises Unavailable."""
        self._refresh_settings()
        if not self._has_settings:
            return  # half of the settings may be in a file with a mistake; and what is remembered stays remembered
        client = self._client()
        programs = client.programs()
        if self._once.clear("supervisord"):
            self._tell("supervisord answers again")
        there = ", ".join(sorted({program.namespec for program in programs}))
        unmatched = [
            f"no program or group '{quote(name)}' in supervisord" for name in self._settings.unmatched(programs)
        ]
        self._once("unmatched", f"{'; '.join(unmatched)}; there are: {there}" if unmatched else "")
        watched = [(one, its) for one in programs for its in (self._settings.of(one),) if its]
        pools = [(one.program.namespec, one.settings) for one in self._settings.pools(programs)]
        self._once("watching", report.watching(pools))
        self.reaper.tick(programs, self._settings, time.monotonic())
        self._looked = time.time()
        self._publish(client)
        self._look_for_orphans([one for one, _ in watched], client.programs)

    def _look_for_orphans(self, watched: list[Program], ask: Callable[[], list[Program]]) -> None:
        """Tell what a daemonized start of a program has left behind; looked for after each of its starts and ends."""
        starts = {one.namespec: (one.state, one.pid) for one in watched}
        changed = [one for one in watched if starts[one.namespec] != self._starts.get(one.namespec)]
        if not changed:
            return
        sought = {one: self._command_of(one) for one in changed}
        found = orphans.find(sought, ask, os.environ, processes.source())
        self._starts = starts
        for one in changed:
            topic, its = f"orphans of {one.namespec}", found.get(one)
            # While supervisord tries again and again, one line will do; when it has given up, they are counted again.
            if one.state not in ("STARTING", "BACKOFF") or not self._once.has_told(topic):
                self._once(
                    topic, f"{one.namespec}: {report.orphans(its.roots, its.memory, its.daemonizes)}" if its else ""
                )

    def _command_of(self, program: Program) -> str:
        section = self._contents.section_of(program)
        return section.options.get("command", "") if section else ""

    def _obey(self, data: str) -> None:
        """Do what a user asks for, at once, and keep the answer for the sender. Raises Unavailable."""
        id, is_done = id_of(data), False
        try:
            command = parse(data)
            # One that comes again was sent again, since its answer had not reached supervisord.
            is_done = self._answers.begin(command) and self._carry_out(command)
        except CommandError as error:
            self._tell(f"a command was refused: {error}")
            self._answers.give(id, False, str(error))
        except Unavailable as error:
            self._answers.give(id, False, f"{error}; nothing was done")
            raise
        if is_done:
            self.tick()
        else:
            # Not a look: `checks` counts looks, and a refused command changes nothing.
            self._publish(self._client())

    def _carry_out(self, command: Command) -> bool:
        """Whether something was done in a pool that is watched by now.

        Raises CommandError and Unavailable, and then nothing was.
        """
        if command.until is not None and time.time() > command.until:
            late = report.seconds(time.time() - command.until)
            raise CommandError(f"{command.verb} {command.name} came {late} after its time and was not carried out")
        if command.verb == "doctor":
            self._consult(command.id)
            return False
        self._refresh_settings()
        if not self._has_settings:
            raise CommandError("no pool is watched, since the configuration has a mistake: see the listener's log")
        watched = sorted(pool.program.namespec for pool in self._settings.pools(self._client().programs()))
        # Which workers there are says a look. A pause needs none, and one before it would be too late.
        if command.verb in ("reap", "roll") and not self.reaper.has_seen(named(command.name, watched)):
            self.tick()
        results = self.reaper.command(command, watched)
        done = not any(result.refused for result in results)
        self._answers.give(command.id, done, "\n".join(result.line for result in results))
        return True

    def _consult(self, id: str) -> None:
        """Have `memreap doctor` look, with our rights, in a process of its own: it may ask Perl, and we do not wait."""
        if self._consultation:
            raise CommandError("doctor is at work already")
        # By the script that we were started by: with -m Python would take modules from the folder that it is in.
        command = [sys.executable, sys.argv[0], "doctor", *(("-c", self._file.path) if self._file else ())]
        try:
            self._consultation = Consultation(command, id)
        except OSError as error:
            raise CommandError(f"doctor could not be started: {error.strerror}") from None

    def consultation(self) -> Consultation | None:
        """The one that is under way."""
        return self._consultation

    def hear_doctor(self) -> None:
        """Some of what it says is there, or its time is up. Never raises."""
        self._guard(self._hear_doctor)

    def _hear_doctor(self) -> None:
        done = self._consultation
        if done is None or not done.has_ended():
            return
        self._consultation = None
        self._answers.give(done.id, *done.result())
        self._publish(self._client())

    def close(self) -> None:
        """Let go of everything, and leave no process behind."""
        if self._consultation:
            self._consultation.end()
        self.reaper.close()

    def _publish(self, client: Client) -> None:
        """Tell supervisord how the pools stand and what happened; when all that is to be done has been done."""
        for happening in self.reaper.happenings():
            if happening.announce:
                self._announcements.add(*happening[:4], time.time())
        trouble = ""
        for step in (self._publish_status, self._announce):
            try:
                step(client)
            except Unavailable as error:
                trouble = f"could not publish the status: {error}"
        self._once("publish", trouble)

    def _publish_status(self, client: Client) -> None:
        if self._is_read:
            status = {
                "version": VERSION,
                "memreap": __version__,
                "looked": self._looked,
                "pools": self.reaper.status(),
                "answers": self._answers.values(),
            }
            self._is_read = client.publish(json.dumps(status))

    def _announce(self, client: Client) -> None:
        self._announcements.send(client.announce)

    def _refresh_settings(self) -> None:
        """Take a changed file as a whole, or not at all."""
        if self._file is None or not self._file.has_changed():
            return
        try:
            contents = self._file.read()
            self._settings = resolve(configfile.merge(contents.sections, self._command_line))
        except SettingsError as error:
            left = "what was in force stays" if self._has_settings else "nothing is watched until it is corrected"
            self._once("settings", f"{error} ({left})")
            return
        self._contents = contents
        self._has_settings = True
        self._once("settings", "; ".join(contents.warnings))

    def _client(self) -> Client:
        url = os.environ.get("SUPERVISOR_SERVER_URL")
        if not url:
            raise Unavailable("supervisord has no http server to ask: add [unix_http_server] to its configuration")
        return connect(url, self._contents.server)


def run(config: str | None, command_line: Sections) -> int:
    """Serve supervisord until it closes the pipe or sends TERM. 0 then, and for a second listener; 2: bad usage."""
    if sys.stderr is None:
        os.open(os.devnull, os.O_WRONLY)  # is 2 then; else supervisord's pipe or our lock would be, open to any library
    tell = log.to(sys.stderr, stamped=True)
    if "SUPERVISOR_ENABLED" not in os.environ:
        tell("listen is started by supervisord, from an [eventlistener:memreap] section; by hand there is memreap once")
        return 2
    above = _supervisord(tell)
    if not _is_alone(above, tell):
        tell(
            "another listener of this supervisord watches already, and two would not be one at a time:"
            " this one ends; have one [eventlistener:memreap], with numprocs=1"
        )
        # Not a failure: where starting took longer than startsecs (1 s), supervisord would begin again, for ever. An
        # exit before that is tried again startretries times, and is FATAL then, whatever its status.
        return 0
    try:
        file = configfile.ConfigFile(configfile.find(config))
    except SettingsError as error:
        tell(str(error))
        file = None
    try:
        listener = Listener(file, command_line, tell, StateFile(above))
    except SettingsError as error:
        tell(str(error))
        return 2
    tell(f"version {__version__}, configuration {file.path if file else 'from the command alone'}")
    stdin, stdout = _keep_protocol_apart()
    try:
        _serve(Protocol(stdin, stdout), stdin, listener)
        listener.forget_if_all_ends()
    except (EOFError, BrokenPipeError):
        # supervisord has closed the pipe: that is how it says goodbye, and its pools are nobody's from now on.
        listener.forget()
    listener.close()
    return 0


def _supervisord(tell: Callable[[str], None]) -> ProcessId:
    """The supervisord that we run under."""
    above = configfile.supervisord()
    pid = above.pid if above else os.getppid()
    try:
        return processes.source().process(pid).id
    except OSError:
        tell(
            f"supervisord (process {pid}) is hidden from this user, as by hidepid= of /proc: pools of other users are"
            " not seen, and what is remembered over a restart may be of an earlier supervisord; run the listener as"
            " root, or mount /proc with the gid= of a group that it is in"
        )
        return ProcessId(pid, 0.0)


def _is_alone(above: ProcessId, tell: Callable[[str], None]) -> bool:
    """Take the lock of the supervisord that we run under, for as long as we live."""
    try:
        try:
            lock.take(above)
        except lock.Unlockable:
            lock.take_file(above, "listener")  # we are not of supervisord's user
    except lock.Unlockable as trouble:
        tell(f"{trouble}: whether another listener of this supervisord watches is not known; have only one")
    except (lock.Locked, ProcessLookupError) as trouble:
        return isinstance(trouble, ProcessLookupError)
    return True


def _keep_protocol_apart() -> tuple[int, int]:
    """Descriptors for supervisord alone; what anything prints to stdout goes to stderr from now on."""
    stdin, stdout = os.dup(0), os.dup(1)
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(2, 1)
    os.close(null)
    sys.stdout = sys.stderr
    return stdin, stdout


def _serve(protocol: Protocol, stdin: int, listener: Listener) -> None:
    """Until TERM. Raises EOFError, BrokenPipeError."""
    woken, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.set_wakeup_fd(wake)
    for signum in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        # The handler does nothing: a tick that is under way is finished, then the byte in the pipe is seen.
        signal.signal(signum, lambda *_: None)
    protocol.ready()
    while True:
        poll = select.poll()
        doctor = listener.consultation()
        for fd in (stdin, woken, *listener.reaper.pidfds(), *((doctor.fd,) if doctor else ())):
            poll.register(fd, select.POLLIN)
        patience = max(0.0, doctor.deadline - time.monotonic()) * 1000 + 1 if doctor else None
        readable = [fd for fd, _ in poll.poll(patience)]
        now = time.monotonic()
        for fd in readable:
            if fd == woken and set(os.read(woken, 512)) & {signal.SIGTERM, signal.SIGINT}:
                return
            if fd in listener.reaper.pidfds():
                listener.reaper.exited(fd, now)
        if doctor and (doctor.fd in readable or not readable):
            listener.hear_doctor()
        if stdin in readable:
            for event in protocol.feed():
                protocol.ok()
                listener.heed(event)
                protocol.ready()
