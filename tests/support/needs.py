"""What tests need that a machine may lack: without it they are skipped, and say how to have it."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess

import pytest

# Commands and modules of Perl, each with the Debian packages that have it. `sh tests/run` installs them as root.
PACKAGES = {
    "FCGI::Engine": "libfcgi-engine-perl",
    "FCGI::ProcManager": "libfcgi-procmanager-perl libfcgi-perl",
    "Starman": "starman",
    "catalyst.pl": "libcatalyst-perl libcatalyst-devel-perl",
    "chromium-headless-shell": "chromium-headless-shell",
    "msmtp": "msmtp-mta",
    "nginx": "nginx-light",
    "plackup": "libplack-perl",
    "prometheus": "prometheus",
    "tcsh": "tcsh",
    "uwsgi": "uwsgi-core uwsgi-plugin-python3",
    "zsh": "zsh",
}
# Who runs a command with one of these words needs that.
WORDS = {
    "sbin/nginx ": "nginx",
    "plackup ": "plackup",
    "perl ": "FCGI::ProcManager",
    "-s FCGI ": "FCGI::ProcManager",
    "-s FCGI::Engine ": "FCGI::Engine",
    "-s Starman ": "Starman",
}


def skip_without(*names: str) -> None:
    for name in names:
        if not is_here(name):
            packages = PACKAGES.get(name, name)
            pytest.skip(f"no {name} here: sh tests/run as root on Debian, or apt-get install {packages}")


def skip_without_programs(configuration: str) -> None:
    """What the programs of a supervisord with this configuration need."""
    commands = [line for line in configuration.splitlines() if line.startswith("command=")]
    for word, name in WORDS.items():
        if any(word in line for line in commands):
            skip_without(name)


@functools.cache
def is_here(name: str) -> bool:
    if not name[0].isupper():
        return bool(shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin"))
    return is_here("perl") and not subprocess.run(["perl", f"-M{name}", "-e", "1"], capture_output=True).returncode
