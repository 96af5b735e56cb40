"""The settings in force, which follow the file."""

from __future__ import annotations

import time
from collections.abc import Callable

from supervisor_memreap.core import events
from supervisor_memreap.core.settings import Sections, Settings, SettingsError, resolve
from supervisor_memreap.outputs.lasting import Once
from supervisor_memreap.supervisord import configfile
from supervisor_memreap.supervisord.configfile import ConfigFile, Contents


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
            contents = self._file.read()
            self.settings = resolve(configfile.merge(contents.sections, self._command_line))
        except SettingsError as error:
            self._once(events.SettingsRefused("", time.time(), str(error), self.are_known))
            return
        self._apply(self.settings)
        self._once.end(events.SettingsAccepted("", time.time()))
        self.contents = contents
        self.are_known = True
        warned = events.SettingsWarned("", time.time(), tuple(contents.warnings)) if contents.warnings else None
        self._once.follow(events.SettingsWarned, warned)
