"""Common pre-forking servers: what their processes are called, and the signals on which a worker finishes and leaves.

That a signal is caught is no proof that it is graceful: TERM to a worker of uWSGI or Starman, QUIT to one of gunicorn
and HUP to one of Apache are caught, and drop the request. So where the server is known, this table decides. Measured
with each: FCGI::ProcManager 0.28, uWSGI 2.0.21, Starman 0.4016, gunicorn 27.0.1, php-fpm 8.2, unicorn 6.0, Apache 2.4,
fcgiwrap 1.1.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Sequence
from typing import NamedTuple


class Moment(enum.Enum):
    """At which moment a worker may be signalled at all. A held one is idle, and an idle one is waited for first."""

    ANY = "any"
    IDLE_IF_SEEN = "idle if seen"
    """Idle, where that can be seen; where it cannot, at any moment after idle_wait."""
    IDLE = "idle"
    HELD = "held"


class Server(NamedTuple):
    name: str
    graceful: tuple[str, ...]
    """The one to recommend first; none where every signal drops requests."""
    moment: Moment
    """What it takes that a graceful signal loses no request."""
    process_name: re.Pattern[str]
    """The name of a process of it, or the script that its interpreter runs."""


# Lost requests of signals sent (facts of each in docs/safety.md): Starman at any moment 43 of 248, seen idle 38 of 181,
# held 0 of 113; uWSGI 2 of 204, 3 of 164, 0 of 179; Apache 0 of 143 and, with kept connections, 15 of 151, seen idle 0
# of 192; gunicorn, php-fpm and unicorn 0 of 280, 316 and 248 at any moment. FCGI::ProcManager loses 17 of 5,265 at any
# moment, but 19 of 43 where nginx keeps the connections and the worker is busy; and even at full load an idle moment
# comes sooner or later, so that is waited for wherever it can be seen.
SERVERS = (
    Server("FCGI::ProcManager", ("HUP", "TERM", "USR1"), Moment.IDLE_IF_SEEN, re.compile(r"perl-fcgi(-pm)?\b")),
    Server("Starman", ("HUP",), Moment.HELD, re.compile(r"starman\b")),
    Server("uWSGI", ("HUP",), Moment.HELD, re.compile(r"uwsgi(_\w+)?\b")),
    Server("gunicorn", ("TERM",), Moment.ANY, re.compile(r"gunicorn\b")),
    Server("php-fpm", ("QUIT",), Moment.ANY, re.compile(r"php-fpm[0-9.]*\b")),
    Server("unicorn", ("QUIT",), Moment.ANY, re.compile(r"unicorn(_rails)?\b")),
    Server("Apache", ("USR1",), Moment.IDLE, re.compile(r"(apache2|httpd)$")),
    Server("fcgiwrap", (), Moment.HELD, re.compile(r"fcgiwrap$")),
)
# A manager that says so in its title; FCGI::ProcManager's workers are called perl-fcgi. The kernel keeps 15 characters.
_MANAGER = re.compile(r"perl-fcgi-pm\b|(starman|gunicorn:|php-fpm:|unicorn(_rails)?) maste")
_INTERPRETER = re.compile(r"(perl|python|pypy|ruby)[0-9.]*$")


def recognise(comm: str, argv: Sequence[str]) -> str:
    """The name of the server that a process belongs to; empty where it is none of the table.

    `comm` is the kernel's name of the process. Where that is an interpreter's, the script in `argv` counts.
    """
    program = script(comm, argv)
    return next((server.name for server in SERVERS if server.process_name.match(program)), "")


def script(comm: str, argv: Sequence[str]) -> str:
    """What a process runs: its name; where that is an interpreter's, that of the script or module."""
    words = [argument for argument in argv[1:4] if argument != "-m"] if _INTERPRETER.match(comm) else []
    return words[0].rpartition("/")[2] if words else comm


def manages(comm: str, argv: Sequence[str]) -> bool:
    """Whether a process calls itself the manager of one of these servers."""
    return any(map(_MANAGER.match, (comm, *argv[:1])))


def graceful(server: str) -> tuple[str, ...] | None:
    """The signals on which this server finishes its work; None where the table does not have it."""
    return next((known.graceful for known in SERVERS if known.name == server), None)


def moment_of(server: str) -> Moment:
    """At which moment a worker of this server may be signalled; a server that is not in the table, at any."""
    return next((known.moment for known in SERVERS if known.name == server), Moment.ANY)


def may_signal_busy(server: str, idleness_is_visible: bool) -> bool:
    """Whether a worker of this server may be signalled while it is busy, once `idle_wait` has expired (rule 6).

    `idleness_is_visible`: it can be seen here whether a worker is idle.
    """
    moment = moment_of(server)
    return moment is Moment.ANY or (moment is Moment.IDLE_IF_SEEN and not idleness_is_visible)
