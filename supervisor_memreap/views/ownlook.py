"""The look of a command that cannot ask the listener: what a listener would see, and what is wrong with that one."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence

from supervisor_memreap.core import events
from supervisor_memreap.core.model import UP, Program, supervisord_of
from supervisor_memreap.core.settings import Settings
from supervisor_memreap.host.machine import States
from supervisor_memreap.host.thismachine import ThisMachine
from supervisor_memreap.listener import statedirectory
from supervisor_memreap.listener.reaper import Reaper
from supervisor_memreap.listener.statefile import BesideListener, Unread
from supervisor_memreap.outputs import statusrows
from supervisor_memreap.outputs.view import View, listener_is_down
from supervisor_memreap.supervisord.client import Client
from supervisor_memreap.supervisord.configfile import Contents

_WRITTEN = "pauses, suspensions and leaving workers are as last saved by a listener of this user"


def _is_of_this_user(pid: int) -> bool:
    try:
        return os.stat(f"/proc/{pid}").st_uid == os.geteuid()
    except OSError:
        return False  # it has ended, or this is not Linux


class OwnLook:
    """Looks as often as asked. `contents` are those of the configuration, `listeners` the names of its listeners."""

    def __init__(self, client: Client, settings: Settings, contents: Contents, listeners: Sequence[str]):
        self._client = client
        self._settings = settings
        self._contents = contents
        self._listeners = listeners
        self._reaper: Reaper | None = None
        self._unread = ""

    def look(self, why: str, trouble: str | None = None) -> View:
        """`why` it is made; `trouble` is what is wrong with the listener, in a line; None: ask supervisord."""
        programs = self._client.programs()
        if self._reaper is None:
            known: States = {}
            try:
                known = BesideListener(programs, self._contents).known(time.monotonic())
            except Unread as error:
                self._unread = str(error)
            self._reaper = Reaper(ThisMachine(), dry_run=True, states=known)
        self._reaper.tick(programs, self._settings, time.monotonic())
        on_demand = {pool.name for pool in self._reaper.pools if pool.pool.forks_on_demand}
        pools = statusrows.of_look(self._reaper.status(), on_demand)
        note = f"This command read the pools itself, once: {why}; {_WRITTEN}."
        trouble = self._trouble_of_listener(programs) if trouble is None else trouble
        # A misspelt section watches nothing, while everything else may look well.
        missing = events.ProgramsMissing.of(self._settings.unmatched(programs), programs, time.time())
        problems = trouble, self._unread, self._unsaved(programs), missing.text if missing else ""
        troubles = *problems, *self._reaper.memory.troubles()
        return View(pools, "look", note, tuple(filter(None, troubles)), None, why, is_watched=not trouble)

    def _trouble_of_listener(self, programs: Sequence[Program]) -> str:
        """What is wrong with the listener, judging only by its process state in supervisord."""
        known = [program for program in programs if program.name in self._listeners]
        if not known:
            return (
                "supervisord has not read the listener's section yet, so no pool is watched: run supervisorctl update"
            )
        for program in known:
            if program.state not in UP:
                return listener_is_down(program.namespec, program.state, program.spawnerr)
        return ""

    def _unsaved(self, programs: Sequence[Program]) -> str:
        """Why the listener can save nothing, and so signals no worker; empty too if it runs as another user."""
        listeners = [program.pid for program in programs if program.name in self._listeners and program.pid]
        supervisord = supervisord_of(programs)
        if not supervisord or not listeners or not all(map(_is_of_this_user, listeners)):
            return ""
        trouble = statedirectory.trouble(statedirectory.candidates(supervisord, self._contents))
        return events.NotSaved("", time.time(), trouble).text if trouble else ""

    def close(self) -> None:
        if self._reaper:
            self._reaper.close()
