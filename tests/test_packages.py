"""What a message recommends to install: a package that exists for the Python that runs memreap."""

from __future__ import annotations

import configparser
import importlib.util
import os
import re
import shlex
import subprocess
import sys

import pytest
from support.stack import ROOT

from supervisor_memreap.host import packages
from supervisor_memreap.host.packages import Python

DEBIAN = "/usr/bin/python3"


def extras() -> dict[str, tuple[str, str]]:
    """Library and oldest version of each extra in setup.cfg."""
    parser = configparser.RawConfigParser()
    parser.read(ROOT / "setup.cfg")
    methods = {}
    for extra, value in parser["options.extras_require"].items():
        if extra != "test":
            library, _, version = value.strip().partition(">=")
            methods[extra] = library, version
    return methods


def test_the_extras_match_the_package():
    assert extras() == packages.EXTRAS


def test_debians_package_suggests_each_library():
    suggests = re.search("^Suggests: (.*)$", (ROOT / "debian/control").read_text(), re.MULTILINE)
    assert set(suggests[1].split(", ")) == {f"python3-{library}" for library, _ in packages.EXTRAS.values()}


def test_pip_is_named_only_where_it_can_install():
    ours = ("rich", "'rich>=12'", "apt install python3-rich")
    assert packages.install(Python("/opt/a b/python", False, True), *ours) == (
        "'/opt/a b/python' -m pip install 'rich>=12'"
    )
    assert packages.install(Python("/usr/bin/python3", True, True), *ours) == "apt install python3-rich"
    assert packages.install(Python("/x", False, False), *ours) == "install rich for /x, which has no pip"


def test_in_a_venv_the_pip_of_the_venv_is_named(monkeypatch):
    monkeypatch.setattr(sys, "prefix", f"{sys.base_prefix}/venv")
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: sys.__spec__)
    expected = f"{shlex.quote(sys.executable)} -m pip install 'matplotlib>=3.6'"
    assert packages.install_extra("plot") == expected


@pytest.mark.skipif(not os.path.exists("/etc/debian_version"), reason="not Debian")
@pytest.mark.parametrize(("library", "oldest"), packages.EXTRAS.values())
def test_with_the_python_of_debian_the_debian_package_is_named(library, oldest):
    extra = next(extra for extra, (name, _) in packages.EXTRAS.items() if name == library)
    code = f"from supervisor_memreap.host import packages; print(packages.install_extra({extra!r}))"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    shown = subprocess.run([DEBIAN, "-c", code], capture_output=True, text=True, check=True, env=environment).stdout
    assert shown == f"apt install python3-{library} ({oldest} or later), or run memreap from a venv\n"
