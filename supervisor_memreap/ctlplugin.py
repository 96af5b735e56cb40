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

    from supervisor_memreap.core.rows import ListenerRow
    from supervisor_memreap.outputs.view import View

HELP = """\
memreap status [NAME ...]   show the state and the last message of each pool
memreap workers NAME        list the workers of a pool, the largest first
memreap memory [NAME ...]   show what each program holds, watched or not, with
                            all its processes; only on supervisord's machine
                            (these three: --json)
memreap reap NAME [PID]     replace a worker now, over its limit or not: the
                            one with this pid, or the largest
memreap roll NAME|all       replace all workers of a pool, one at a time; stop
                            at the first that is not replaced within grace
                            (--wait: until it is over, with its progress)
memreap pause NAME|all      stop signalling workers
memreap resume NAME|all     end a pause, or a suspension by memreap itself
memreap doctor              check for anything that would stop memreap or make
                            it unsafe, and suggest how to fix it
memreap help                show this

NAME is a pool, or a group or a program with numprocs: then all of its pools.
The listener carries commands out, and signals a worker between two requests
where that can be arranged (docs/safety.md); see its log (tail memreap stderr).
Sizes are in the pool's metric.
memory needs no listener: supervisorctl itself reads it, with its user's rights.
exit status: 0 memreap watches all pools, or did what was asked; 1 a pool is
suspended, OVERDUE, FATAL or not watched (BLIND), something is wrong with the
listener, the command was refused or not answered, or the roll stopped; 2 bad
usage.
"""


_JSON, _WAIT = "--json", "--wait"


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
        option = {**dict.fromkeys(acts, _JSON), "roll": _WAIT}.get(verb)
        if any(word.startswith("-") and word != option for word in words):
            self._fail(f"unknown option; {', '.join(acts)} have {_JSON}, and roll has {_WAIT}", usage=True)
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
        except KeyboardInterrupt:
            what = "the listener carries out what it was sent; to stop a roll, pause the pool"
            self._fail(f"no longer waiting: {what}" if act == self._command else "interrupted")

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
        from supervisor_memreap.supervisord import remotecommand

        is_to_wait, words = _WAIT in words, [word for word in words if word != _WAIT]
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
        id = uuid.uuid4().hex
        try:
            answer = remotecommand.answer(self.ctl.get_supervisor(), self._memreap(), words, verb, listener, id)
        except remotecommand.NoAnswer as error:
            self._fail(str(error))
            return
        if answer["ok"] or verb == "doctor" or "\n" in answer["text"]:
            # A command that was carried out in only some pools has a line for each.
            self.ctl.output(answer["text"])
            if not answer["ok"]:
                self.ctl.exitstatus = LSBInitExitStatuses.GENERIC
        else:
            self._fail(answer["text"])
            return
        if is_to_wait:
            self._wait(id)

    def _wait(self, id: str) -> None:
        """Until the roll that this command began is over in all pools, and show its progress."""
        from supervisor_memreap.outputs.rollprogress import RollProgress
        from supervisor_memreap.supervisord.remotecommand import PATIENCE

        progress, heard = RollProgress(id), time.monotonic()
        while True:
            view = self._look()
            for line in progress.lines(view.pools):
                (self._fail if line.is_failure else self.ctl.output)(line.text)
            self.ctl.stdout.flush()  # it may be a pipe
            if progress.is_over:
                return
            if view.is_watched:
                heard = time.monotonic()
            elif time.monotonic() - heard > PATIENCE:
                self._fail(f"no longer waiting: {'; '.join(view.troubles)}")
                return
            time.sleep(1.0)  # an answer has all pools: with 200 of 16 workers supervisord makes it in 0.07 s

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


def make_ctlplugin(controller: Any, **config: str) -> MemreapControllerPlugin:
    """The function that supervisorctl calls for [ctlplugin:memreap]; it has no settings."""
    return MemreapControllerPlugin(controller)
