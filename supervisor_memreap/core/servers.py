"""Common pre-forking servers: what their processes are called, and the signals on which a worker finishes and leaves.

That a signal is caught is no proof that it is graceful: TERM to a worker of uWSGI or Starman, QUIT to one of gunicorn
and HUP to one of Apache are caught, and drop the request. So where the server is known, this table decides. Measured
with each: FCGI::ProcManager 0.28, uWSGI 2.0.21, Starman 0.4016, gunicorn 27.0.1, php-fpm 8.2, unicorn 6.0, Apache 2.4,
fcgiwrap 1.1.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple


class Server(NamedTuple):
    name: str
    graceful: tuple[str, ...]
    """The one to recommend first; none where every signal drops requests."""
    called: re.Pattern[str]
    """The name of a process of it, or the script that its interpreter runs."""


SERVERS = (
    Server("FCGI::ProcManager", ("HUP", "TERM", "USR1"), re.compile(r"perl-fcgi(-pm)?\b")),
    Server("Starman", ("HUP",), re.compile(r"starman\b")),
    Server("uWSGI", ("HUP",), re.compile(r"uwsgi(_\w+)?\b")),
    Server("gunicorn", ("TERM",), re.compile(r"gunicorn\b")),
    Server("php-fpm", ("QUIT",), re.compile(r"php-fpm[0-9.]*\b")),
    Server("unicorn", ("QUIT",), re.compile(r"unicorn(_rails)?\b")),
    Server("Apache", ("USR1",), re.compile(r"(apache2|httpd)$")),
    Server("fcgiwrap", (), re.compile(r"fcgiwrap$")),
)
# A manager that says so in its title; FCGI::ProcManager's workers are called perl-fcgi. The kernel keeps 15 characters.
_MANAGER = re.compile(r"perl-fcgi-pm\b|(starman|gunicorn:|php-fpm:|unicorn(_rails)?) maste")
_INTERPRETER = re.compile(r"(perl|python|pypy|ruby)[0-9.]*$")


def recognise(comm: str, argv: Sequence[str]) -> str:
    """The name of the server that a process belongs to; empty where it is none of the table.

    `comm` is the kernel's name of the process. Where that is an interpreter's, the script in `argv` counts.
    """
    called = script(comm, argv)
    return next((server.name for server in SERVERS if server.called.match(called)), "")


def script(comm: str, argv: Sequence[str]) -> str:
    """What a process runs: its name; where that is an interpreter's, that of the script or module."""
    words = [word for word in argv[1:4] if word != "-m"] if _INTERPRETER.match(comm) else []
    return words[0].rpartition("/")[2] if words else comm


def manages(comm: str, argv: Sequence[str]) -> bool:
    """Whether a process calls itself the manager of one of these servers."""
    return any(map(_MANAGER.match, (comm, *argv[:1])))


def graceful(server: str) -> tuple[str, ...] | None:
    """The signals on which this server finishes its work; None where the table does not have it."""
    return next((one.graceful for one in SERVERS if one.name == server), None)
