"""`memreap doctor` on a supervisord of its own."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from support import stack
from support.driver import POOL, eventually, supervisord

BIN = Path(sys.executable).parent
# Quick to start, for where the pool is not what is at stake.
SMALL_POOL = f"""\
[program:myapp]
command={sys.executable} {POOL} 2 5
[memreap:myapp]
limit=1GB
[eventlistener:memreap]
command={BIN}/memreap listen
events=TICK_5,REMOTE_COMMUNICATION
environment=TMPDIR="WHERE"
"""


needs_root = pytest.mark.skipif(os.getuid() != 0, reason="runs processes as another user")


def doctor(where: Path, *more: str, within: tuple[str, ...] = (), **options) -> subprocess.CompletedProcess[str]:
    """`within` is a command that runs the one behind it, such as setpriv."""
    command = [*within, sys.executable, "-m", "supervisor_memreap", "doctor", "-c", f"{where}/supervisord.conf", *more]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60, **options)


@contextlib.contextmanager
def running(where: Path, text: str, **options):
    with supervisord(where, text.replace("WHERE", str(where)), **options) as process:
        try:
            yield process
        finally:
            # As an administrator ends it, so that the pool ends too. Not reaped here: driver.supervisord does that.
            os.kill(process.pid, 15)
            with contextlib.suppress(AssertionError):
                eventually(lambda: stack.assert_none_left(where), timeout=5)
            # FCGI::ProcManager spins for a minute where its whole group got TERM, as below a shell.
            for process in stack.left_in(where):
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()


def assert_found(where: Path, expression: str, status: int = 1, **options) -> None:
    result = doctor(where, **options)
    assert re.search(expression, result.stdout), result.stdout + result.stderr
    assert result.returncode == status, result.stdout
    assert "Traceback" not in result.stdout + result.stderr
