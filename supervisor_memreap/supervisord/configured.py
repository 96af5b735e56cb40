"""The configuration that a command uses, and the supervisord that it names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from supervisor_memreap.core.settings import (
    REASON_KEYS_TEXT,
    Given,
    Sections,
    Settings,
    SettingsError,
    has_reason,
    overlay,
    resolve,
)
from supervisor_memreap.supervisord import configfile
from supervisor_memreap.supervisord.client import Client, connect_as_supervisorctl


class Configured(NamedTuple):
    contents: configfile.Contents
    settings: Settings
    """The settings in force; those of the command line override all others."""
    client: Client


def configured(configuration: str | None, names: Sequence[str], given: Mapping[str, Given]) -> Configured:
    """`given` are the settings of the command line. Raises SettingsError."""
    path = configfile.find(configuration)
    contents = configfile.ConfigFile(path).read()
    added: Sections = {name.removesuffix(":*"): {} for name in names if has_reason(given)}
    sections = configfile.merge(contents.sections, contents.limits(), added)
    settings = resolve(overlay(sections, given), contents.places)
    if not settings.names:
        text = f"add one with observe=yes, {REASON_KEYS_TEXT}, or name a program here"
        near = "".join(f"; {warning}" for warning in contents.warnings)
        raise SettingsError(f"{path}: no [memreap:PROGRAM] section; {text}{near}")
    client = connect_as_supervisorctl(contents.server)
    return Configured(contents, settings, client)
