"""Entry point 2, [ctlplugin:memreap]: `supervisorctl memreap …`, also for a supervisord on another machine.

    [ctlplugin:memreap]
    supervisor.ctl_factory = supervisor_memreap.ctlplugin:make_ctlplugin

The section must be in the main file: supervisorctl does not read included ones. The plugin shows what
[rpcinterface:memreap] has, and sends commands to the listener through supervisord; it signals no process itself. A
plugin that cannot be imported would break every call of supervisorctl, so all other modules are imported when used.
"""

from __future__ import annotations

import json
import time
import uuid
import xmlrpc.client
from typing import TYPE_CHECKING, Any

from supervisor.supervisorctl import ControllerPluginBase, LSBInitExitStatuses
from supervisor.xmlrpc import Faults

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from supervisor_memreap.core.command import Verb
    from supervisor_memreap.core.rows import ListenerRow
    from supervisor_memreap.outputs.view import View

# Seconds in which the listener must start a command; then it expires. The listener starts it after the current tick:
# within a second, but a busy machine may need longer.
PATIENCE = 10.0
# Seconds after that in which the answer to a command that was started in time may still arrive.
LATE = 3.0
# And this much longer for doctor, which is a separate process.
DOCTOR_PATIENCE = 30.0
# Seconds between two checks whether supervisord has discarded the command.
ASK_AGAIN = 1.0

HELP = """\
memreap status [NAME ...]   show the state and the last message of each pool
memreap workers NAME        list the workers of a pool, the largest first
memreap memory [NAME ...]   show what each program holds, watched or not, with
                            all its processes; only on supervisord's machine
                            (these three: --json)
memreap reap NAME [PID]     replace a worker now, over its limit or not: the
                            one with this pid, or the largest
memreap roll NAME|all       replace all workers of a pool, one at a time
memreap pause NAME|all      stop signalling workers
memreap resume NAME|all     end a pause, or a suspension by memreap itself
memreap doctor              check for anything that would stop memreap or make
                            it unsafe, and suggest how to fix it
memreap help                show this

NAME is a pool, or a group or a program with numprocs: then all of its pools.
The listener carries commands out, and signals a worker while it serves no
request; see its log (tail memreap stderr). Sizes are in the pool's metric.
memory needs no listener: supervisorctl itself reads it, with its user's rights.
Exit status: 0; 1 something is wrong, a pool is suspended, OVERDUE or not
watched, or the command was refused; 2 bad usage.
"""


_JSON = "--json"


class MemreapControllerPlugin(ControllerPluginBase):  # type: ignore[misc] # supervisor has no types
    name = "memreap"

    def __init__(self, controller: Any):
        super().__init__(controller)
        self._answer_for_others()

    def _answer_for_others(self) -> None:
        """`help memreap` asks every plugin, and each one without this topic would print an error."""
        for plugin in self.ctl.options.plugins:
            if plugin is not self:
                plugin.help_memreap = lambda: None

    def do_help(self, arg: str) -> None:
        """Only for our topic: other plugins have answered the others."""
        self._answer_for_others()  # also for plugins that were loaded after this one
        if arg.strip() == "memreap":
            self.help_memreap()
        elif not arg:
            super().do_help(arg)

    def help_memreap(self) -> None:
        self.ctl.output(HELP.rstrip())

    def do_memreap(self, arg: str) -> None:
        from supervisor_memreap.core.command import VERBS

        words = arg.split()
        verb = words[0] if words else ""
        if verb in ("help", "-h", "--help"):
            self.help_memreap()
            return
        acts: dict[str, Callable[[list[str]], None]] = {
            "status": self._status,
            "workers": self._workers,
            "memory": self._memory,
        }
        act = self._command if verb in VERBS else acts.get(verb)
        if act is None:
            what = f"unknown command {verb[:100]!r}" if verb else "no command given"
            self._fail(f"{what}; the commands are {', '.join((*acts, *VERBS))}, help", usage=True)
            return
        if any(word.startswith("-") and word != _JSON for word in words):
            self._fail(f"unknown option; only {', '.join(acts)} have {_JSON}", usage=True)
            return
        if not self.ctl.upcheck():
            return
        try:
            act(words)
        except xmlrpc.client.Fault as fault:
            if fault.faultCode == Faults.UNKNOWN_METHOD:
                # Do not recommend adding it: a supervisord that cannot import it would not start again.
                self._fail(
                    "supervisord has no [rpcinterface:memreap]: run memreap doctor on its machine, which shows whether"
                    " supervisord can load it, and how"
                )
            elif fault.faultCode == Faults.SHUTDOWN_STATE:
                self._fail("supervisord is shutting down or restarting")
            else:
                self._fail(f"supervisord refused: {fault.faultString}")

    def _status(self, words: list[str]) -> None:
        view = self._look()
        if not view.pools and not view.troubles:
            # If no pool is watched, that is a problem.
            text = "no pool is watched: no program has a [memreap:PROGRAM] section, or the listener has not looked yet"
            view = view._replace(troubles=(text,))
        if not view.only(_names(words)).is_well():
            self.ctl.exitstatus = LSBInitExitStatuses.GENERIC
        self._show(view, words, _status_lines)

    def _workers(self, words: list[str]) -> None:
        if len(_names(words)) == 1:
            self._show(self._look(), words, _workers_lines)
        else:
            self._fail("workers: name one pool; write memreap workers NAME", usage=True)

    def _memory(self, words: list[str]) -> None:
        """Not by supervisord or the listener: neither may wait for the memory map of a process."""
        from supervisor_memreap.core.failed import Failed
        from supervisor_memreap.host import reader, trees
        from supervisor_memreap.outputs import memorytable
        from supervisor_memreap.supervisord.client import Client

        options = self.ctl.options
        try:
            programs = Client(options.serverurl, options.username, options.password).programs()
            held = trees.read(programs, _names(words))
        except Failed as error:
            self._fail(str(error))
            return
        finally:
            reader.end()
        is_json = _JSON in words
        self.ctl.output(json.dumps(memorytable.values(held), indent=2) if is_json else memorytable.text(held))
        for trouble in memorytable.troubles(memorytable.ordered(held)):
            self.ctl.exitstatus = LSBInitExitStatuses.GENERIC
            if not is_json:  # which has it
                self._fail(trouble)

    def _show(self, view: View, words: list[str], lines_of: Callable[[View], Iterable[str]]) -> None:
        """The pools that are named, as lines or all of them as JSON, and what is wrong."""
        from supervisor_memreap.core.command import UnknownName

        shown = view.only(_names(words))
        if shown.troubles:
            self.ctl.exitstatus = LSBInitExitStatuses.GENERIC
        try:
            view.require(_names(words))
        except UnknownName as error:
            self._fail(str(error))
            if _JSON in words:
                return
        if _JSON in words:
            self.ctl.output(json.dumps(shown.values(), indent=2))
            return
        for line in lines_of(shown):
            self.ctl.output(line)
        for trouble in shown.troubles:
            self._fail(trouble)

    def _look(self) -> View:
        from supervisor_memreap.core.rows import of_xmlrpc
        from supervisor_memreap.outputs.view import of_listener

        pools = of_xmlrpc(self._memreap().getPools())
        listener: ListenerRow = self._memreap().getListener()
        return of_listener(pools, listener, has_plugin=True)._replace(note="", age=listener.get("age_seconds"))

    def _command(self, words: list[str]) -> None:
        from supervisor_memreap.core.command import CommandError, parse
        from supervisor_memreap.outputs.view import trouble_of_listener

        try:
            verb = parse(" ".join(words)).verb
        except CommandError as error:
            self._fail(str(error), usage=True)
            return
        listener: ListenerRow = self._memreap().getListener()
        # A listener that has not looked yet, as with TICK_3600, looks when it gets a command.
        trouble = trouble_of_listener({"age_seconds": 0.0, **listener})
        if trouble:
            here = "; run memreap doctor on that machine" if verb == "doctor" else ""
            self._fail(f"nothing was done: {trouble}{here}")
            return
        if not listener["takes_commands"]:
            self._fail(
                "nothing was done: the listener receives no commands: set events=TICK_5,REMOTE_COMMUNICATION in its"
                " [eventlistener:...] section, then run supervisorctl update"
            )
            return
        answer = self._answer(words, verb, listener)
        if answer is None:
            self.ctl.exitstatus = LSBInitExitStatuses.GENERIC
        elif answer["ok"] or verb == "doctor" or "\n" in answer["text"]:
            # A command that was carried out in only some pools has a line for each.
            self.ctl.output(answer["text"])
            if not answer["ok"]:
                self.ctl.exitstatus = LSBInitExitStatuses.GENERIC
        else:
            self._fail(answer["text"])

    def _answer(self, words: list[str], verb: Verb, listener: ListenerRow) -> dict[str, Any] | None:
        """The listener's answer; None if there is none, which has then been reported."""
        from supervisor_memreap.core.command import TYPE

        id = uuid.uuid4().hex
        # By the clock of supervisord's machine, which is also the listener's.
        until = listener["time"] + PATIENCE
        text = f"{' '.join(words)} id={id} until={until:.3f}"
        patience = PATIENCE + LATE + (DOCTOR_PATIENCE if verb == "doctor" else 0.0)
        start = asked = time.monotonic()
        self.ctl.get_supervisor().sendRemoteCommEvent(TYPE, text)
        while time.monotonic() - start < patience:
            is_due = time.monotonic() - asked > ASK_AGAIN
            now = self._memreap().getListener() if is_due else listener
            answer = self._memreap().getAnswer(id)
            if answer:
                return dict(answer)
            if is_due:
                asked = time.monotonic()
                # In this order: if the listener was ready, it has answered all earlier commands by now.
                if asked - start < PATIENCE and _is_ready(now) and now["pid"] == listener["pid"]:
                    # supervisord has discarded it: its buffer holds 10 events by default. Send it with the same id and
                    # time: the listener carries it out once, however often it arrives.
                    self.ctl.get_supervisor().sendRemoteCommEvent(TYPE, text)
            time.sleep(0.1)
        self._fail(_without_answer(self._memreap().getListener(), listener["pid"], until))
        return None

    def _memreap(self) -> Any:
        return self.ctl.get_server_proxy("memreap")

    def _fail(self, text: str, usage: bool = False) -> None:
        self.ctl.output(f"memreap: {text}")
        self.ctl.exitstatus = LSBInitExitStatuses.INVALID_ARGS if usage else LSBInitExitStatuses.GENERIC


def _names(words: list[str]) -> list[str]:
    """Those behind the verb."""
    return [word for word in words[1:] if word != _JSON]


def _status_lines(shown: View) -> Iterator[str]:
    table = shown.table(time.time())
    yield from [table] if table else []
    yield from (f"memreap: {line}" for line in shown.warnings)


def _workers_lines(shown: View) -> Iterator[str]:
    from supervisor_memreap.outputs import statustable

    for pool in shown.pools:
        title = f"{pool['name']}:\n" if len(shown.pools) > 1 else ""
        yield title + statustable.workers_table(pool)


def _is_ready(listener: ListenerRow) -> bool:
    """Whether it handles no event, and none waits for it."""
    from supervisor_memreap.core.listeners import ListenerState

    return bool(listener["listener_state"] == ListenerState.READY and not listener["events_waiting"])


def _without_answer(listener: ListenerRow, pid: int, until: float) -> str:
    """What is known about a command that got no answer in time."""
    if listener["pid"] != pid:
        return "no answer: the listener was restarted; see memreap status for what was done"
    # It handles events in order: if it has looked after the command expired, it would have answered. (Ages are
    # rounded to 0.1 s.)
    age = listener.get("age_seconds")
    if age is not None and listener["time"] - age > until + 0.1:
        return (
            "nothing was done: the command did not reach the listener in time. supervisord discards events when too"
            " many wait: set buffer_size=100 in the listener's [eventlistener:...] section"
        )
    return (
        f"no answer within {PATIENCE:.0f} s, the listener is {listener['listener_state']} and"
        f" {listener['events_waiting']} events are waiting. The command has expired: unless it was already started, it"
        " will not be carried out; see memreap status, and the listener's log"
    )


def make_ctlplugin(controller: Any, **config: str) -> MemreapControllerPlugin:
    """The function that supervisorctl calls for [ctlplugin:memreap]; it has no settings."""
    return MemreapControllerPlugin(controller)
