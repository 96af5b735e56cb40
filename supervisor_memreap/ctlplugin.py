"""Door 2, [ctlplugin:memreap]: `supervisorctl memreap …`, also against a supervisord on another machine.

    [ctlplugin:memreap]
    supervisor.ctl_factory = supervisor_memreap.ctlplugin:make_ctlplugin

It must stand in the main file: supervisorctl does not read included ones. It shows what [rpcinterface:memreap] has, and
sends commands to the listener through supervisord; it signals nobody itself. A plugin that cannot be imported would
break every call of supervisorctl, so all but this file is imported when it is used.
"""

from __future__ import annotations

import time
import uuid
import xmlrpc.client
from collections.abc import Callable
from typing import Any

from supervisor.supervisorctl import ControllerPluginBase, LSBInitExitStatuses
from supervisor.xmlrpc import Faults

from supervisor_memreap import __version__

# The listener answers when the tick that it is at is over: within a second, but a busy machine may need longer.
PATIENCE = 10.0
# And this much longer for doctor, of which it has a part of its own at work.
CONSULTATION = 30.0

HELP = """\
memreap status [NAME …]     how the pools stand, and what was said last
memreap workers NAME        the workers of a pool, the largest first
memreap reap NAME [PID]     replace a worker now, over its limit or not: the largest, or this one
memreap roll NAME           replace all workers of a pool, one at a time
memreap pause NAME|all      signal nobody any more
memreap resume NAME|all     go on, also where memreap has suspended a pool by itself
memreap doctor              what would stop memreap there or make it unsafe, and what to do

All of it is done by the listener, at a moment when the worker serves no request; see the log
(tail memreap stderr). Sizes are those of the pool's metric. Exit status: 0, or 1 if something
is wrong or was refused, 2 for bad usage.
"""


class MemreapControllerPlugin(ControllerPluginBase):  # type: ignore[misc] # supervisor has no types
    name = "memreap"

    def __init__(self, controller: Any):
        super().__init__(controller)
        self._answer_for_others()

    def _answer_for_others(self) -> None:
        """`help memreap` asks every plugin, and those that have no such topic would say so."""
        for plugin in self.ctl.options.plugins:
            if plugin is not self:
                plugin.help_memreap = lambda: None

    def do_help(self, arg: str) -> None:
        """Only of what is ours: other topics have been answered by others."""
        self._answer_for_others()  # also for those that came after us
        if arg.strip() == "memreap":
            self.help_memreap()
        elif not arg:
            super().do_help(arg)

    def help_memreap(self) -> None:
        self.ctl.output(HELP)

    def do_memreap(self, arg: str) -> None:
        words = arg.split()
        verb = words[0] if words else ""
        known: dict[str, Callable[[list[str]], None]] = {
            "status": self._status,
            "workers": self._workers,
        }
        if verb in known:
            act = known[verb]
        elif verb in ("reap", "roll", "pause", "resume", "doctor"):
            act = self._command
        else:
            what = f"no command '{verb}'" if verb else "no command given"
            self._fail(f"{what}; there are status, workers, reap, roll, pause, resume, doctor", usage=True)
            return
        if not self.ctl.upcheck():
            return
        try:
            act(words)
        except xmlrpc.client.Fault as fault:
            if fault.faultCode == Faults.UNKNOWN_METHOD:
                self._fail(
                    "supervisord has no memreap interface ([rpcinterface:memreap]): run memreap doctor on its machine,"
                    " which says how to add it safely"
                )
            elif fault.faultCode == Faults.SHUTDOWN_STATE:
                self._fail("supervisord is shutting down or restarting")
            else:
                self._fail(f"supervisord refused: {fault.faultString}")

    def _status(self, words: list[str]) -> None:
        from supervisor_memreap.record import status

        found = self._memreap().getPools()
        names = words[1:]
        unknown = [name for name in names if name not in {one["name"] for one in found}]
        if unknown:
            self._fail(f"no pool '{unknown[0]}' is watched; there are: {_names(found)}")
        shown = [one for one in found if not names or one["name"] in names]
        if shown:
            self.ctl.output(status.table(shown, time.time()))
        if not self._tell_of_the_listener(self._memreap().getListener()) and not found:
            self.ctl.output("no pool is watched: no program has a [memreap:PROGRAM] section, or none was looked at yet")

    def _workers(self, words: list[str]) -> None:
        from supervisor_memreap.record import status

        if len(words) != 2:
            self._fail("workers: one pool; write memreap workers NAME", usage=True)
            return
        found = self._memreap().getPools()
        shown = [one for one in found if one["name"] == words[1]]
        if shown:
            self.ctl.output(status.workers_table(shown[0]))
        else:
            self._fail(f"no pool '{words[1]}' is watched; there are: {_names(found)}")
        self._tell_of_the_listener(self._memreap().getListener())

    def _tell_of_the_listener(self, its: dict[str, Any]) -> bool:
        """Whether something is wrong with it, so that what is shown may be old."""
        from supervisor_memreap.record import status

        trouble = status.trouble_of_listener(its) or status.age_of_listener(its, __version__)
        if trouble:
            self._fail(trouble)
        return bool(trouble)

    def _command(self, words: list[str]) -> None:
        from supervisor_memreap.core.command import TYPE, CommandError, parse
        from supervisor_memreap.record.status import trouble_of_listener

        id = uuid.uuid4().hex
        text = f"{' '.join(words)} id={id}"
        try:
            parse(text)
        except CommandError as error:
            self._fail(str(error), usage=True)
            return
        listener = self._memreap().getListener()
        # One that has not looked yet, as with TICK_3600, looks when it gets a command.
        trouble = trouble_of_listener({"age_seconds": 0.0, **listener})
        if trouble:
            here = "; memreap doctor on that machine says more" if words[0] == "doctor" else ""
            self._fail(f"nothing was done: {trouble}{here}")
            return
        if not listener["takes_commands"]:
            self._fail(
                "nothing was done: the listener does not hear commands: write events=TICK_5,REMOTE_COMMUNICATION in its"
                " [eventlistener:…] section, and supervisorctl update"
            )
            return
        self.ctl.get_supervisor().sendRemoteCommEvent(TYPE, text)
        patience = PATIENCE + (CONSULTATION if words[0] == "doctor" else 0.0)
        deadline = time.monotonic() + patience
        while time.monotonic() < deadline:
            answer = self._memreap().getAnswer(id)
            if answer:
                if words[0] == "doctor":
                    self.ctl.output(answer["text"])
                    if not answer["ok"]:
                        self.ctl.exitstatus = LSBInitExitStatuses.GENERIC
                elif answer["ok"]:
                    self.ctl.output(answer["text"])
                else:
                    self._fail(answer["text"])
                return
            time.sleep(0.1)
        self._fail(f"the listener has not answered within {patience:.0f} s; see memreap status, and its log")

    def _memreap(self) -> Any:
        return self.ctl.get_server_proxy("memreap")

    def _fail(self, text: str, usage: bool = False) -> None:
        self.ctl.output(f"memreap: {text}")
        self.ctl.exitstatus = LSBInitExitStatuses.INVALID_ARGS if usage else LSBInitExitStatuses.GENERIC


def _names(pools: list[dict[str, Any]]) -> str:
    return ", ".join(one["name"] for one in pools) or "none"


def make_ctlplugin(controller: Any, **config: str) -> MemreapControllerPlugin:
    """What supervisorctl calls for [ctlplugin:memreap]; it has no settings."""
    return MemreapControllerPlugin(controller)
