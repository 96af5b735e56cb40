"""Whose view `memreap status` and `memreap top` show: the listener's; if it cannot be asked, a look of our own.

The two would contradict each other: a look does not know of a pause or of leaving workers, and a listener's look is
some seconds old. So the command shows one of the two, and names it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from supervisor_memreap.core.listeners import ListenerState
from supervisor_memreap.core.settings import Settings, SettingsError
from supervisor_memreap.outputs.view import View, of_listener
from supervisor_memreap.supervisord import configfile
from supervisor_memreap.supervisord.client import Client, Unavailable, connect_as_supervisorctl
from supervisor_memreap.supervisord.configfile import Contents
from supervisor_memreap.supervisord.configured import configured

if TYPE_CHECKING:
    from supervisor_memreap.views.ownlook import OwnLook

_NO_INTERFACE = "supervisord has no [rpcinterface:memreap], so the listener cannot be asked"
_NO_LISTENER = "there is no listener"
_NO_LISTENER_TROUBLE = "there is no listener, so no pool is watched, and only memreap once reaps: run memreap doctor"


class Viewer:
    """Looks as often as asked. `contents` are those of the configuration."""

    def __init__(self, client: Client, settings: Settings, contents: Contents):
        self.client = client
        self._settings = settings
        self._contents = contents
        self._listeners = [name for section in contents.others if section.listens for name in section.processes]
        self._own: OwnLook | None = None

    def look(self) -> View:
        """Raises Unavailable."""
        seen = self.client.seen_by_listener()
        if not self._listeners and (seen is None or seen[1]["listener_state"] == ListenerState.NONE):
            return self._own_look(_NO_LISTENER, _NO_LISTENER_TROUBLE)
        if seen is None:
            return self._own_look(_NO_INTERFACE)
        view = of_listener(*seen, self._contents.has_plugin)
        return view if view.is_watched else self._own_look("the listener is not looking at the pools", view.troubles[0])

    def _own_look(self, why: str, trouble: str | None = None) -> View:
        if self._own is None:
            # Here, since it loads all of a look, which takes longer than to ask the listener.
            from supervisor_memreap.views.ownlook import OwnLook

            self._own = OwnLook(self.client, self._settings, self._contents, self._listeners)
        return self._own.look(why, trouble)

    def close(self) -> None:
        if self._own:
            self._own.close()


class Remote:
    """The listener's view only: of another machine's pools, or while the settings have an error."""

    def __init__(self, client: Client, trouble: str = "", has_plugin: bool = False):
        """`trouble` is one that the listener may not have reported yet."""
        self.client = client
        self._has_plugin = has_plugin
        self._trouble = trouble

    def look(self) -> View:
        """Raises Unavailable."""
        seen = self.client.seen_by_listener()
        if seen is None:
            raise Unavailable(
                f"supervisord at {self.client.shown_url} has no [rpcinterface:memreap], so its listener cannot be"
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
