"""Asks the Perl of a running manager which FCGI::ProcManager it has; for `memreap doctor` alone."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Mapping

from supervisor_memreap.doctor.rights import of

_PERL = re.compile(r"perl[0-9.]*$")
_ASK = ("-MFCGI::ProcManager", "-e", "print FCGI::ProcManager->VERSION")


def is_perl(pid: int) -> bool:
    """Whether this process runs Perl, as far as that may be read; one of which it may not be may be."""
    try:
        return bool(_PERL.match(os.path.basename(os.readlink(f"/proc/{pid}/exe"))))
    except OSError:
        return True


def procmanager_version(
    pid: int, command: str, environment: Mapping[str, str], timeout: float
) -> tuple[int, ...] | None:
    """(0, 28) of 0.28; None where this process is no Perl, or does not answer within `timeout` seconds.

    `command` and `environment` are its own. Run as the manager's user, never as ours: the modules are that user's.
    """
    try:
        perl, directory, rights = os.readlink(f"/proc/{pid}/exe"), os.readlink(f"/proc/{pid}/cwd"), of(pid)
        if not _PERL.match(os.path.basename(perl)):
            return None
        include = [argument for argument in command.split() if re.match(r"-I.", argument)]
        user, group = rights.users[1], rights.groups[1]
        is_root = os.geteuid() == 0
        if not is_root and os.geteuid() != user:
            return None
        answer = subprocess.run(
            [perl, *include, *_ASK],
            cwd=directory,
            env={"PATH": os.environ.get("PATH", os.defpath), **environment},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=True,
            user=user if is_root else None,
            group=group if is_root else None,
            extra_groups=() if is_root else None,
        ).stdout
    except (OSError, ValueError, subprocess.SubprocessError):
        return None
    version = re.fullmatch(r"v?([0-9]+)\.([0-9]+)\S*", answer)
    return (int(version[1]), int(version[2])) if version else None
