"""How something is installed into a Python. All messages about that are made here."""

from __future__ import annotations

import importlib.util
import os
import shlex
import sys
import sysconfig
from typing import NamedTuple

from supervisor_memreap.core.failed import Failed

# Of each extra, its library and the oldest version that does, as in setup.cfg.
EXTRAS = {
    "top": ("rich", "12"),
    "plot": ("matplotlib", "3.6"),
    "metrics": ("prometheus-client", "0.16"),
    "completion": ("shtab", "1.5.6"),
}
# Where Debian's own packages are, such as ours.
_PACKAGED = "/usr/lib/python3/dist-packages"


class MissingLibraryError(Failed):
    """A library that an extra brings is not installed: one line that names the extra."""

    exit_status = 2


class Python(NamedTuple):
    path: str
    is_managed: bool
    """Its libraries are packages of the system: pip refuses to install into it (PEP 668), or should."""
    has_pip: bool


def install(python: Python, library: str, argument: str, package: str) -> str:
    """The remedy for a library that this Python lacks: `argument` is what pip installs, `package` the system's way."""
    if python.is_managed:
        return package
    if not python.has_pip:
        return f"install {library} for {python.path}, which has no pip"
    return f"{shlex.quote(python.path)} -m pip install {argument}"


def install_extra(extra: str) -> str:
    """For the Python that runs memreap: the pip of a shell may be another one's."""
    library, oldest = EXTRAS[extra]
    how = f"install {library} as a package of this system"
    if os.path.exists("/etc/debian_version"):
        how = f"apt install python3-{library}"
    package = f"{how} ({oldest} or later), or run memreap from a venv"
    return install(_own(), library, f"'{library}>={oldest}'", package)


def _own() -> Python:
    marker = os.path.join(sysconfig.get_path("stdlib"), "EXTERNALLY-MANAGED")
    is_of_system = os.path.exists(marker) or __file__.startswith(f"{_PACKAGED}/")
    is_venv = sys.prefix != sys.base_prefix
    has_pip = importlib.util.find_spec("pip") is not None
    return Python(sys.executable or "python3", is_of_system and not is_venv, has_pip)
