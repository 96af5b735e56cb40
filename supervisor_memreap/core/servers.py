"""Common pre-forking servers: what their processes are called, and the signals on which a worker finishes and leaves.

A signal that is caught is not always graceful: uWSGI and Starman catch TERM, gunicorn QUIT and Apache HUP, and drop the
request. So if the server is known, this table decides. Measured with each: FCGI::ProcManager 0.28, uWSGI 2.0.21,
Starman 0.4016, gunicorn 27.0.1 (26.2 and 23.0 where that is said), uvicorn 0.54, Puma 5.6, php-fpm 8.2, unicorn 6.0,
Apache 2.4, fcgiwrap 1.1, multiwatch 1.0, hypercorn 0.18, Granian 2.8.9.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Callable, Sequence
from typing import NamedTuple


class Moment(enum.Enum):
    """When a worker may be signalled while it is busy, once `idle_wait` has expired; its boundary comes first."""

    ANY = "any"
    UNLESS_KEPT = "unless kept"
    """Where ptrace is not permitted, unless a client's connection was seen that is kept between requests."""
    IF_FRESH = "if fresh"
    """Where ptrace is not permitted, if it was seen that connections are not kept."""
    HELD = "held"
    """Never: only at its boundary."""


class Loop(enum.Enum):
    """In what a worker waits for connections on a socket of its manager, and what else wakes it there."""

    NONE = "none"
    """In no epoll."""
    PIPE = "pipe"
    """In an epoll, in which a pipe wakes it."""
    EVENTFD = "eventfd"
    PAIR = "pair"
    """One end of a pair of sockets wakes it, as in asyncio, also where that is in C (uvloop)."""
    BARE = "bare"
    """Nothing but connections does."""
    URGENT = "urgent"
    """It waits for urgent data too, as eventlet does."""
    HIDDEN = "hidden"
    """That may not be read, or is not seen at this moment."""


class Names(NamedTuple):
    """What a process is called."""

    comm: str
    """The kernel's name of it: of the file that it was started from, or what it called itself since."""
    argv: Sequence[str]
    """Its arguments, or the title that it gave itself; empty where they may not be read."""
    executable: str = ""
    """The name of the file that the kernel runs, which no title changes; empty where it may not be read."""


class WhileBusy(NamedTuple):
    """The signal that costs least while a worker is busy, and what it costs."""

    signal: str
    lost: str
    """Requests lost, of signals sent at any moment."""
    lost_kept: str = ""
    """The same where connections are kept between requests; empty: the server keeps none."""


class Server(NamedTuple):
    name: str
    graceful: tuple[str, ...] | None
    """The signals on which it finishes its work, the recommended one first; empty if every signal drops requests. None:
    not known, since the server is not in the table.
    """
    moment: Moment
    """The moment at which a worker of it may be signalled."""
    while_busy: WhileBusy | None
    """None: never signalled while busy."""
    process_name: re.Pattern[str]
    """The name of its processes, of their executable, or of the script that their interpreter runs."""
    pace: float = 0.0
    """The minimum time in seconds from the start of a replacement to the next signal in its pool."""
    refusal: str = ""
    """Why no signal suits, as text that follows the server's name and `which`."""
    takes_turns: bool = False
    """Whether its workers may wait for a lock that they share until it is their turn to wait for a connection."""
    threads_take_turns: bool = False
    """Whether the threads of a worker do so too: while its main thread waits, none of them accepts a connection."""
    forks_on_demand: bool = False
    """Whether its manager may wait for connections too, and fork a worker if there is none: then there may be none."""

    @property
    def is_known(self) -> bool:
        """Whether it is in the table."""
        return self.graceful is not None


# What each moment costs was measured (benchmarks/results/servers.md); at its boundary, no server lost a request.
# Starman loses requests at any moment, and also right after it was seen idle: 45 of 300 and 60 of 300; uWSGI now and
# then: seen idle 3 of 164, 1 of 300 and none of 300. So they are signalled only at their boundary.
# While busy: the most that was lost with 3 or 8 clients on 4 workers. Of FCGI::ProcManager, HUP lost up to 1 of 300 and
# on kept connections 142 of 300, USR1, which is libfcgi's own, 0 of 300 and 47 of 300. Apache's clients keep their
# connections unless it is told otherwise (KeepAlive), those of FastCGI do not: where nothing can be seen, only the
# latter count as not kept.
#
# Pace. uWSGI's master sleeps 2 s (forkbomb-delay), during which it replaces no worker, if more workers than it has come
# back in a row, each in the same second of the clock as the last or the next one (core/master.c: tv_sec <=
# respawn_delta + check_interval). Measured with 4 workers and 12 HUPs: one each 0.5 or 1 s, 2 sleeps; each 1.5 to 4 s,
# none. From 2 s on there can be none. Apache's parent looks once a second: an idle worker left 0.7 s after USR1, and
# another came 1.0 s later. The others replace a worker at once, and 10 signals, 0.3 s after each replacement, caused no
# warning and no wait: FCGI::ProcManager, Starman, unicorn, gunicorn 20.1 and 27.0.1. php-fpm's
# emergency_restart_threshold counts exits by SIGSEGV and SIGBUS alone: with a threshold of 1, 12 QUITs in 2.5 s did
# nothing, and one SIGSEGV restarted the pool. multiwatch does not fork a child again that ended 4 times, each less than
# 10 s after its start, and ends when it has none.
SERVERS = (
    Server(
        "FCGI::ProcManager",
        ("HUP", "TERM", "USR1"),
        Moment.UNLESS_KEPT,
        WhileBusy("USR1", "0 of 300", "47 of 300"),
        re.compile(r"perl-fcgi(-pm)?\b"),
    ),
    Server("Starman", ("HUP",), Moment.HELD, None, re.compile(r"starman\b"), takes_turns=True),
    Server(
        "uWSGI",
        ("HUP",),
        Moment.HELD,
        None,
        re.compile(r"uwsgi(_\w+)?\b"),
        pace=2.0,
        takes_turns=True,
        threads_take_turns=True,
    ),
    Server("gunicorn", ("TERM",), Moment.ANY, WhileBusy("TERM", "0 of 300", "0 of 300"), re.compile(r"gunicorn\b")),
    # A worker looks for its signal 10 times a second and accepts connections until then: TERM lost requests also at its
    # boundary, where it had none (20 of 100).
    Server(
        "uvicorn",
        (),
        Moment.HELD,
        None,
        re.compile(r"uvicorn\b"),
        refusal="accepts connections for a while after TERM, and drops them; its own --limit-max-requests replaces"
        " workers",
    ),
    # Its main thread never waits for a connection, so its workers have no boundary. TERM at any moment: 10 of 40.
    Server(
        "Puma",
        (),
        Moment.HELD,
        None,
        re.compile(r"puma\b"),
        refusal="closes connections on TERM of which it has not read a request yet",
    ),
    Server(
        "php-fpm",
        ("QUIT",),
        Moment.UNLESS_KEPT,
        WhileBusy("QUIT", "0 of 300", "105 of 300"),
        re.compile(r"php-fpm[0-9.]*\b"),
        forks_on_demand=True,
    ),
    Server("unicorn", ("QUIT",), Moment.ANY, WhileBusy("QUIT", "0 of 300"), re.compile(r"unicorn(_rails)?\b")),
    Server(
        "Apache",
        ("USR1",),
        Moment.IF_FRESH,
        WhileBusy("USR1", "0 of 300", "38 of 300"),
        re.compile(r"(apache2|httpd)$"),
        pace=1.0,
        takes_turns=True,
    ),
    Server("fcgiwrap", (), Moment.HELD, None, re.compile(r"fcgiwrap$"), refusal="drops requests on every signal"),
    Server(
        "multiwatch",
        (),
        Moment.HELD,
        None,
        re.compile(r"multiwatch$"),
        refusal="gives up a worker that ends 4 times within 10 s of its start",
    ),
    Server(
        "hypercorn",
        (),
        Moment.HELD,
        None,
        re.compile(r"hypercorn\b"),
        refusal="ends as a whole when a worker ends by a signal; its own --max-requests replaces workers",
    ),
    Server(
        "Granian",
        (),
        Moment.HELD,
        None,
        re.compile(r"granian\b"),
        refusal="ends as a whole when a worker leaves by a signal; its own --workers-max-rss replaces workers",
    ),
)
# A manager by its title, or always a manager; FCGI::ProcManager's workers are called perl-fcgi. gunicorn's
# dirty arbiter has workers of its own. The kernel keeps 15 characters.
_MANAGER = re.compile(r"perl-fcgi-pm\b|(starman|gunicorn:|php-fpm:|unicorn(_rails)?) maste|gunicorn: dirty|multiwatch$")
DEFAULT_SIGNAL = "HUP"
# By interpreter: the options whose value is an argument of its own, and those whose value is the program itself.
_INTERPRETERS = {
    "perl": (frozenset(("-I",)), frozenset(("-e", "-E"))),
    "python": (frozenset(("-X", "-W", "--check-hash-based-pycs")), frozenset(("-c",))),
    "ruby": (frozenset(("-I", "-r", "-C", "-E", "--encoding")), frozenset(("-e",))),
}
_INTERPRETER = re.compile(r"(?:pypy|(?:truffle|j)?(perl|python|ruby))[0-9.]*(?:-.*)?$")
# plackup runs one of several servers.
_PLACKUP = re.compile(r"plackup$")
UNRECOGNISABLE = "unknown"
"""The server of a process whose script is hidden, by its title or since it may not be read: any of the table."""
_NEVER = re.compile("(?!)")
# gunicorn's worker classes have the same names and handlers, and different loops. Measured (benchmarks/results): sync
# (NONE) and gevent (EVENTFD) lose no request at any moment. gthread before 27.0.1, which no fact distinguishes, loses
# those on kept connections (26.2: 80 with 97 signals); before 24 it accepts one more after TERM, and drops it.
_INSTEAD = "gunicorn's --max-requests, with --max-requests-jitter, replaces workers"
_BY_LOOP = {
    "gunicorn": {
        Loop.PIPE: Server(
            "gunicorn gthread", ("TERM",), Moment.IF_FRESH, WhileBusy("TERM", "0 of 300", "80 of 97"), _NEVER
        ),
        Loop.BARE: Server(
            "gunicorn gthread before version 24",
            (),
            Moment.HELD,
            None,
            _NEVER,
            refusal=f"drops the next connection after TERM; {_INSTEAD}, and later versions do not",
        ),
        Loop.PAIR: Server(
            "gunicorn with asyncio",
            (),
            Moment.HELD,
            None,
            _NEVER,
            refusal="drops connections after TERM (the worker classes asgi, tornado, and those of uvicorn and aiohttp);"
            f" {_INSTEAD}",
        ),
        Loop.URGENT: Server(
            "gunicorn eventlet", (), Moment.HELD, None, _NEVER, refusal=f"drops connections after TERM; {_INSTEAD}"
        ),
        Loop.HIDDEN: Server("gunicorn of an unknown worker class", ("TERM",), Moment.HELD, None, _NEVER),
    }
}
# What Python's multiprocessing starts runs what its parent tells it to.
_SPAWNED = "from multiprocessing.spawn import "
_OTHER = Server("", None, Moment.ANY, None, _NEVER, takes_turns=True)
LINES = (*SERVERS, *(line for lines in _BY_LOOP.values() for line in lines.values()))
"""Those that names do not tell apart too."""
_BASES = {name: base for base, lines in _BY_LOOP.items() for name in (base, *(line.name for line in lines.values()))}
"""By each of these: how its names call it."""
_BY_NAME = {
    **{line.name: line for line in LINES},
    UNRECOGNISABLE: Server(UNRECOGNISABLE, None, Moment.HELD, None, _NEVER, takes_turns=True),
}


def server_of(worker: Names, manager: Names | None, is_fork: bool | None) -> str:
    """The server of a worker: by its own names, or else its manager's, since an application may change its title.

    Empty: not in the table; UNRECOGNISABLE: it may be any. `manager`: None with target=self, where each worker
    is a server of its own. `is_fork`: whether the worker runs the same program as its manager; None: not known.
    """
    own = recognise(worker)
    if manager is None:
        return own
    above = recognise(manager)
    if named(above).refusal:
        return above
    if named(own).is_known:
        return UNRECOGNISABLE if named(above).is_known and above != own else own
    is_spawned = any(word.startswith(_SPAWNED) for word in worker.argv)
    if own == UNRECOGNISABLE and (is_fork is not False or is_spawned):
        return above if is_fork else above or own
    return above if own != UNRECOGNISABLE and named(above).is_known else own


def has_loops(server: str) -> bool:
    """Whether its workers may have different loops, of which some lose requests."""
    return server in _BY_LOOP


def is_unsure(server: str) -> bool:
    """Whether it may turn out to be another one at the next reading."""
    return server == UNRECOGNISABLE or server in {lines[Loop.HIDDEN].name for lines in _BY_LOOP.values()}


def permits(server: str, loop: Callable[[], Loop]) -> bool:
    """Whether a worker that was taken for one of this server may be signalled so with the loop that it has now."""
    base = _BASES.get(server)
    if base is None:
        return True
    now = with_loop(base, loop())
    # Where more is signalled than at its boundary alone, and nothing told the class but what was not there.
    return now == server if server == base else not named(now).refusal


def with_loop(server: str, loop: Loop) -> str:
    """The server of a worker of this server that has this loop."""
    line = _BY_LOOP.get(server, {}).get(loop)
    return line.name if line else server


def recognise(names: Names) -> str:
    """The server that a process belongs to by its own names.

    Empty: not in the table. UNRECOGNISABLE: it is one of an interpreter, or may be, and no script is to be seen.
    """
    title = names.argv[0] if names.argv else ""
    first = "" if " " in title else title.rpartition("/")[2]
    interpreter = next(filter(_INTERPRETER.match, (names.executable, first, names.comm)), None)
    program = script(interpreter, names.argv) if interpreter else names.comm
    # Of the title only its beginning: what follows may be the path of a request.
    called = [names.executable, names.comm, title, program or ""]
    if any(map(_PLACKUP.match, called)):
        called += _server_of_plackup(names.argv)
    matching = next((server.name for name in called for server in SERVERS if server.process_name.match(name)), None)
    if matching:
        return matching
    # Behind a title, `argv` may hold remains of the arguments.
    is_visible = bool(program and _INTERPRETER.match(first)) if interpreter else bool(names.executable)
    return "" if is_visible else UNRECOGNISABLE


def script(comm: str, argv: Sequence[str]) -> str | None:
    """What a process runs: its name; if that is an interpreter's, the script or module; None: none can be seen."""
    interpreter = _INTERPRETER.match(comm)
    if not interpreter:
        return comm
    with_value, with_program = _INTERPRETERS[interpreter[1] or "python"]
    arguments = iter(argv[1:])
    for argument in arguments:
        if argument in with_program:
            break
        if argument in with_value:
            next(arguments, "")
        elif argument.strip() and not argument.startswith("-"):  # behind a title, Perl leaves a space
            return argument.rpartition("/")[2]
    return None


def _server_of_plackup(argv: Sequence[str]) -> list[str]:
    """What `-s Starman`, `--server=Starman` names, as the processes are called."""
    words = [part for argument in argv for part in argument.split("=", 1)]
    return [name.lower() for option, name in zip(words, words[1:]) if option in ("-s", "--server")]


def manages(names: Names) -> bool:
    """Whether a process calls itself the manager of one of these servers."""
    return any(map(_MANAGER.match, (names.comm, *names.argv[:1])))


def named(server: str) -> Server:
    """The line of the table; of a server that is not in it, what is assumed of that."""
    return _BY_NAME.get(server, _OTHER)


def signal_for(server: str, chosen: str | None) -> str:
    """The signal for a worker of this server: the user's, or else the server's first graceful one, or else HUP."""
    return chosen or next(iter(named(server).graceful or ()), DEFAULT_SIGNAL)


def may_signal_busy(server: str, has_boundary: bool) -> bool:
    """Whether a worker of this server may be signalled while it is busy, once `idle_wait` has expired (rule 6).

    `has_boundary`: it may be brought to its boundary, and just does not get there.
    """
    # On their signal gunicorn and unicorn finish any request, as measured; of an unknown server nothing was measured.
    line = named(server)
    is_measured = line.is_known and line.moment is Moment.ANY
    return is_measured or (line.moment is not Moment.HELD and not has_boundary)


def signal_while_busy(server: str, chosen: str | None) -> str:
    """The signal for a worker of this server that is busy: the user's, or else the one that costs least."""
    while_busy = named(server).while_busy
    return chosen or (while_busy.signal if while_busy else signal_for(server, None))


def cost_while_busy(server: str, signal: str) -> str:
    """What it may cost to send this signal to a busy worker, as a clause."""
    while_busy = named(server).while_busy
    if while_busy is None or while_busy.signal != signal:
        return "the cost with this server was not measured"
    _, lost, lost_kept = while_busy
    return (
        f"{lost} such signals lost a request when measured{f', {lost_kept} on kept connections' if lost_kept else ''}"
    )
