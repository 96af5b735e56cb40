"""The servers' own ways of replacing workers that grow, and memreap, as peers.py sets them up."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

from support.servers import WORKERS, Server, named

MIB = 1024**2
# Bytes by which a worker may grow, beyond what one holds that has served.
ROOM = 24 * MIB


class Load(NamedTuple):
    name: str
    clients: int
    takes: float
    """Seconds that each request takes, at least."""
    pause: float
    """Seconds that a client waits after each answer."""
    kb: int
    """KiB by which a request that leaks lets its worker grow."""
    one_in: int = 1
    """Of how many requests one leaks."""

    @property
    def requests(self) -> int:
        """What a worker answers on average until it has grown by ROOM."""
        return ROOM // 1024 * self.one_in // self.kb


LOADS = (
    Load("8 clients, each request leaks 48 KiB", 8, 0.04, 0.0, 48),
    Load("2 clients, each request leaks 80 KiB", 2, 0.02, 0.02, 80),
    Load("8 clients, one request of 80 leaks 3,840 KiB", 8, 0.04, 0.0, 3840, 80),
)
# For what replaces a worker after 60 s at the earliest: in that time one answers about 1,500 requests.
SLOW = Load("8 clients, each request leaks 16 KiB", 8, 0.04, 0.0, 16)


class Limits(NamedTuple):
    """In bytes: what a worker holds that has served, and ROOM; by what each way looks at."""

    uss: int
    rss: int
    vms: int
    pool: int
    """RSS of all workers at their limit."""
    manager: int
    """Its RSS."""
    group: int
    """What the control group of the pool holds then; 0: there is none."""
    requests: int
    """What a worker answers on average until it is at its limit."""

    @property
    def mib(self) -> int:
        return round(self.rss / MIB)


class Way(NamedTuple):
    name: str
    server: Server
    set_up: Callable[[Server, Limits], tuple[Server, str]]
    """The server with this way turned on, and how it is set."""
    metric: str = "uss"
    """Of what the limit is: a field of Limits."""
    package: str = ""
    """Of Debian, if it comes with one of its own."""
    section: Callable[[Limits], str] = lambda _: ""
    """More of supervisord's configuration."""


MEMREAP = "memreap"
# As quick as may be where fresh workers are sound; supervisord sends a TICK_5 each second here.
SETTINGS = "min_age=1s, settle=1s"


def memreap(server: Server) -> Way:
    def section(limits: Limits) -> str:
        lines = "\n".join([f"limit={limits.uss}", *SETTINGS.split(", ")])
        command = f"{sys.executable} -m supervisor_memreap listen"
        return f"[memreap:myapp]\n{lines}\n[eventlistener:memreap]\ncommand={command}\nevents=TICK_5\nbuffer_size=100\n"

    def set_up(server: Server, limits: Limits) -> tuple[Server, str]:
        return server, f"`limit={limits.uss // MIB}MB, {SETTINGS}`"

    return Way(MEMREAP, server, set_up, section=section)


def _command(options: str, instead_of: str = "") -> Callable[[Server, Limits], tuple[Server, str]]:
    def set_up(server: Server, limits: Limits) -> tuple[Server, str]:
        words = options.format(limits=limits, low=limits.requests * 9 // 10, jitter=limits.requests // 5)
        command = server.command.replace(instead_of, words) if instead_of else f"{server.command} {words}"
        return replace(server, command=command), f"`{words}`"

    return set_up


def _php(server: Server, limits: Limits) -> tuple[Server, str]:
    words = f"pm.max_requests = {limits.requests}"
    files = {name: text.replace("pm.max_requests = 0", words) for name, text in server.files.items()}
    return replace(server, files=files), f"`{words}`"


def _unicorn(server: Server, limits: Limits) -> tuple[Server, str]:
    low, high = limits.rss - ROOM // 10, limits.rss + ROOM // 10
    use = f"require 'unicorn/worker_killer'\nuse Unicorn::WorkerKiller::Oom, {low}, {high}\n"
    files = {**server.files, "killed.ru": f"{use}instance_eval File.read('{{where}}/growing.ru')\n"}
    command = server.command.replace("growing.ru", "killed.ru")
    return replace(server, command=command, files=files), f"`Oom` from {low // MIB} to {high // MIB} MiB"


def _puma(server: Server, limits: Limits) -> tuple[Server, str]:
    words = f"ram = {round((limits.manager + limits.pool) / MIB)}; percent_usage = 1.0; frequency = 1"
    settings = "\n".join(f"    config.{word}" for word in [*words.split("; "), "rolling_restart_frequency = nil"])
    config = f"  PumaWorkerKiller.config do |config|\n{settings}\n  end\n  PumaWorkerKiller.start\n"
    killer = f"require 'puma_worker_killer'\nbefore_fork do\n{config}end\n"
    command = server.command.replace("puma ", "puma -C {where}/puma.rb ", 1)
    return replace(server, command=command, files={"puma.rb": killer}), f"`{words}`"


# The script of 2007. Between two workers it waited for 10 s, as memreap does by default (settle=10s).
_KIDREAPER = """\
while sleep 1; do
  ps -o pid=,vsz= --ppid $(pgrep -P $PPID perl-fcgi-pm) | while read pid vsz; do
    if [ $vsz -ge $1 ]; then kill -HUP $pid; sleep 1; fi
  done
done
"""


def _kidreaper(server: Server, limits: Limits) -> tuple[Server, str]:
    return replace(server, files={"kidreaper": _KIDREAPER}), f"VSZ {limits.vms // MIB} MiB, then `sleep 1`"


# Each worker serves one request at a time, as those of the others.
PUMA = replace(named("Puma"), command=named("Puma").command.replace("--threads 2:2", "--threads 1:1"))
# What tests/support/servers.py has no set-up of.
_GRANIAN = f"granian --interface wsgi --workers {WORKERS} --blocking-threads 1 --no-ws growing:application"
GRANIAN = Server("Granian", f"{_GRANIAN} --host 127.0.0.1 --port {{port}}", "growing.py", "TERM")
BEHIND_NGINX = replace(
    GRANIAN,
    name="Granian on a Unix socket",
    command=f"{_GRANIAN} --uds {{where}}/myapp.sock --uds-permissions 511",
    front="proxy_pass http://unix:FOLDER/myapp.sock;",
)
GUNICORN, UWSGI, PHP, UNICORN, PROCMANAGER = map(
    named, ("gunicorn sync", "uWSGI", "php-fpm", "unicorn", "FCGI::ProcManager")
)
_MAX_RSS = _command("--workers-max-rss {limits.mib} --rss-sample-interval 1")


class Comparison(NamedTuple):
    loads: tuple[Load, ...]
    ways: list[Way]
    """Measured side by side."""
    seconds: float = 0.0
    """At least so long."""
    spare: int | None = None
    """Bytes that the pool's control group has beyond what the pool holds when all workers are at their limit."""

    @property
    def is_apart(self) -> bool:
        """Whether it is under a load or a condition of its own."""
        return self.loads != LOADS


COMPARISONS = {
    "gunicorn": Comparison(
        LOADS,
        [
            Way(
                "--max-requests",
                GUNICORN,
                _command("--max-requests {low} --max-requests-jitter {jitter}", "--max-requests 0"),
            ),
            memreap(GUNICORN),
        ],
    ),
    "uWSGI": Comparison(
        LOADS,
        [Way("reload-on-rss", UWSGI, _command("--reload-on-rss {limits.mib}"), "rss"), memreap(UWSGI)],
    ),
    "Granian": Comparison(
        LOADS,
        [
            Way("--workers-max-rss", GRANIAN, _MAX_RSS, "rss"),
            Way("--workers-max-rss", BEHIND_NGINX, _MAX_RSS, "rss"),
            memreap(GUNICORN),
        ],
    ),
    "Granian by age": Comparison(
        (SLOW,),
        [Way("--workers-lifetime", GRANIAN, _command("--workers-lifetime 60")), memreap(GUNICORN)],
        seconds=200.0,
    ),
    "Granian short of memory": Comparison(
        LOADS[:1], [Way("--workers-max-rss", GRANIAN, _MAX_RSS, "rss"), memreap(GUNICORN)], spare=16 * MIB
    ),
    "php-fpm": Comparison(LOADS, [Way("pm.max_requests", PHP, _php), memreap(PHP)]),
    "unicorn": Comparison(
        LOADS,
        [Way("unicorn-worker-killer", UNICORN, _unicorn, "rss", "ruby-unicorn-worker-killer"), memreap(UNICORN)],
    ),
    "Puma": Comparison(
        LOADS,
        [Way("puma_worker_killer", PUMA, _puma, "pool", "ruby-puma-worker-killer")],  # memreap refuses Puma
    ),
    "FCGI::ProcManager": Comparison(
        LOADS,
        [
            Way(
                "kidreaper",
                PROCMANAGER,
                _kidreaper,
                "vms",
                section=lambda limits: f"[program:kidreaper]\ncommand=sh {{where}}/kidreaper {limits.vms // 1024}\n",
            ),
            memreap(PROCMANAGER),
        ],
    ),
}
