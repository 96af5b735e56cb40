"""Sections of a supervisord.conf that many tests have."""

from __future__ import annotations

import sys
from pathlib import Path

from support import stack
from support.driver import POOL

BIN = Path(sys.executable).parent
LISTEN = f"{BIN}/memreap listen"


def program(name: str, workers: int, mib: int, *words: str, more: str = "") -> str:
    """A pool of tests/support/pool.py; `more` are lines of its section."""
    command = " ".join((sys.executable, str(POOL), str(workers), str(mib), *words))
    return f"[program:{name}]\ncommand={command}\n{more}"


def listener(
    where: Path | str = "WHERE", command: str = LISTEN, events: str = "TICK_5,REMOTE_COMMUNICATION", more: str = ""
) -> str:
    """The listener, whose log is where/memreap.log; `more` are further variables of its environment."""
    return (
        f"[eventlistener:memreap]\ncommand={command}\nevents={events}\nstderr_logfile={where}/memreap.log\n"
        f'environment=TMPDIR="{where}"{more}\n'
    )


# What supervisorctl and XML-RPC need. The two are not added where a test is about their absence.
INTERFACES = stack.PLUGIN + stack.INTERFACE
