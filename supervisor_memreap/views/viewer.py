"""Whose view `memreap status` and `memreap top` show: the listener's; if it cannot be asked, a look of our own.

The two would contradict each other: a look does not know of a pause or of leaving workers, and a listener's look is
some seconds old. So the command shows one of the two, and names it.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence

from supervisor_memreap.core import events
from supervisor_memreap.core.listeners import ListenerState
from supervisor_memreap.core.model import UP, Program, supervisord_of
from supervisor_memreap.core.settings import Settings, SettingsError
from supervisor_memreap.host.thismachine import ThisMachine
from supervisor_memreap.listener import statedirectory
from supervisor_memreap.listener.reaper import Reaper
from supervisor_memreap.listener.statefile import BesideListener
from supervisor_memreap.outputs import statusrows
from supervisor_memreap.outputs.view import View, of_listener
from supervisor_memreap.supervisord import configfile
from supervisor_memreap.supervisord.client import Client, Unavailable, connect_as_supervisorctl
from supervisor_memreap.supervisord.configfile import Contents
from supervisor_memreap.supervisord.configured import configured

_NO_INTERFACE = "supervisord has no [rpcinterface:memreap], so the listener cannot be asked"
_NO_LISTENER = "there is no listener"
_NO_LISTENER_TROUBLE = "there is no listener, so no pool is watched, and only memreap once reaps: run memreap doctor"
_WRITTEN = "pauses, suspensions and leaving workers are as last saved by a listener of this user"


def _is_of_this_user(pid: int) -> bool:
    try:
        return os.stat(f"/proc/{pid}").st_uid == os.geteuid()
    except OSError:
        return False  # it has ended, or this is not Linux


class Viewer:
    """Looks as often as asked. `contents` are those of the configuration."""

    def __init__(self, client: Client, settings: Settings, contents: Contents):
        self._client = client
        self._settings = settings
        self._contents = contents
        self._listeners = [name for section in contents.others if section.listens for name in section.processes]
        self._reaper: Reaper | None = None

    def look(self) -> View:
        """Raises Unavailable."""
        seen = self._client.seen_by_listener()
        if not self._listeners and (seen is None or seen[1]["listener_state"] == ListenerState.NONE):
            return self._own_look(_NO_LISTENER, _NO_LISTENER_TROUBLE)
        if seen is None:
            return self._own_look(_NO_INTERFACE)
        view = of_listener(*seen, self._contents.has_plugin)
        return view if view.is_watched else self._own_look("the listener is not looking at the pools", view.troubles[0])

    def _own_look(self, why: str, trouble: str | None = None) -> View:
        """`trouble` is what is wrong with the listener, in a line; None: ask supervisord for its state."""
        programs = self._client.programs()
        if self._reaper is None:
            known = BesideListener(programs, self._contents).known(time.monotonic())
            self._reaper = Reaper(ThisMachine(), dry_run=True, states=known)
        self._reaper.tick(programs, self._settings, time.monotonic())
        pools = statusrows.of_look(self._reaper.status())
        note = f"This command read the pools itself, once: {why}; {_WRITTEN}."
        trouble = self._trouble_of_listener(programs) if trouble is None else trouble
        # A misspelt section watches nothing, while everything else may look well.
        missing = events.ProgramsMissing.of(self._settings.unmatched(programs), programs, time.time())
        problems = trouble, self._unsaved(programs), missing.text if missing else ""
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
                return statusrows.listener_is_down(program.namespec, program.state, program.spawnerr)
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


class Remote:
    """The listener's view only: of another machine's pools, or while the settings have an error."""

    def __init__(self, client: Client, trouble: str = "", has_plugin: bool = False):
        """`trouble` is one that the listener may not have reported yet."""
        self._client = client
        self._has_plugin = has_plugin
        self._trouble = trouble

    def look(self) -> View:
        """Raises Unavailable."""
        seen = self._client.seen_by_listener()
        if seen is None:
            raise Unavailable(
                f"supervisord at {self._client.shown_url} has no [rpcinterface:memreap], so its listener cannot be"
                " asked: memreap doctor on that machine shows how to add it"
            )
        view = of_listener(*seen, self._has_plugin)
        if not self._trouble or any(self._trouble in trouble for trouble in view.troubles):
            return view
        return view._replace(troubles=(self._trouble, *view.troubles))

    def close(self) -> None:
        """Nothing is open."""


def open_viewer(configuration: str | None, names: Sequence[str]) -> Viewer | Remote:
    """Of our own; while the settings have an error, the view of the listener, which continues with the earlier ones.

    Raises SettingsError, Unavailable.
    """
    try:
        used = configured(configuration, names, {})
    except SettingsError as error:
        remote = _listeners_viewer(configuration, error)
        if remote is None:
            raise
        return remote
    return Viewer(used.client, used.settings, used.contents)


def _listeners_viewer(configuration: str | None, error: SettingsError) -> Remote | None:
    """None: no listener looks, as far as is known."""
    try:
        contents = configfile.ConfigFile(configfile.find(configuration)).read()
        viewer = Remote(connect_as_supervisorctl(contents.server), str(error), contents.has_plugin)
        return viewer if viewer.look().is_watched else None
    except (SettingsError, Unavailable):
        return None
