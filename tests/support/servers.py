"""Pre-forking servers as a supervisord runs them: in the foreground, their own recycling turned off.

SERVERS have 4 workers each, ELASTIC from LEFT to MOST, as many as they want.

Each runs the application of tests/apps/growing.*, which grows when it is asked to.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from support import stack
from support.driver import repeating

WORKERS = 4
# The number of workers of an elastic pool while there is little to do, and the largest: more than twice as many, so
# that those which are left are less than half of the usual number.
LEFT, MOST = 2, 6
# As root, servers that can do so run their workers as another user; else these lines would be refused.
_USER = "User www-data\nGroup www-data\n" if os.getuid() == 0 else ""
# Requests on a connection that nginx keeps: a worker is idle only when its connection has ended.
_KEPT = "upstream kept { server unix:FOLDER/myapp.sock; keepalive 2; keepalive_requests 10; keepalive_timeout 2s; }\n"
_PASS = "fastcgi_pass unix:FOLDER/$pool.sock;"


@dataclass(frozen=True)
class Server:
    """How one server is set up. In its texts {where} is the test's directory and {port} where it listens."""

    name: str
    command: str
    app: str
    """The file of tests/apps that it serves; it is copied to {where}."""
    signal: str
    packages: tuple[str, ...] = ()
    """Of Debian, as tests/run installs them; without one: it comes from PyPI."""
    front: str = ""
    """How nginx passes requests to {where}/myapp.sock; empty: the server speaks HTTP itself, at {port}."""
    section: str = "program"
    """Of supervisord: program or fcgi-program."""
    options: str = ""
    """More lines of that section."""
    files: dict[str, str] = field(default_factory=dict)
    """Its own configuration, by the names of files in {where}."""
    keeps_connections: bool = False
    """Whether its workers keep a connection for the next request, if the client (or nginx) wants that."""
    workers: int = WORKERS
    """How many there are at least while clients ask."""
    threads: int = 1
    """How many requests each of them serves at a time."""

    def __str__(self) -> str:
        return self.name

    @property
    def executable(self) -> str:
        return self.command.split()[0]

    @property
    def program(self) -> str:
        return f"[{self.section}:myapp]\ncommand={self.command}\n{self.options}"


def _plackup(handler: str, package: str, options: str = "") -> Server:
    listen = f"--listen {{where}}/myapp.sock --nproc {WORKERS} --keep-stderr 1"
    command = f"plackup -E deployment -s {handler} {listen}{options} {{where}}/growing.psgi"
    packages = (package, "libplack-perl", "nginx-light")
    return Server(handler, command, "growing.psgi", "HUP", packages, _PASS, keeps_connections=True)


PHP = """\
[global]
error_log = {where}/php-fpm.log
daemonize = no
[www]
user = www-data
group = www-data
listen = {where}/myapp.sock
listen.mode = 0666
pm = static
pm.max_children = 4
pm.max_requests = 0
php_admin_value[ffi.enable] = 1
"""
UNICORN = """\
worker_processes 4
listen '127.0.0.1:{port}'
"""
APACHE = f"""\
ServerRoot {{where}}
ServerName localhost
DefaultRuntimeDir {{where}}
PidFile apache.pid
ErrorLog {{where}}/apache.log
Listen 127.0.0.1:{{port}}
{_USER}\
LoadModule mpm_prefork_module /usr/lib/apache2/modules/mod_mpm_prefork.so
LoadModule authz_core_module /usr/lib/apache2/modules/mod_authz_core.so
LoadModule lua_module /usr/lib/apache2/modules/mod_lua.so
StartServers 4
# Apache replaces a worker only while fewer than this are idle.
MinSpareServers 4
MaxSpareServers 8
MaxRequestWorkers 4
ServerLimit 4
MaxConnectionsPerChild 0
LuaScope thread
LuaMapHandler / {{where}}/growing.lua handle
"""
# A worker of Starman leaves after 1000 requests by default.
_STARMAN = "starman --workers 4 --listen 127.0.0.1:{port} --max-requests 1000000000 -E deployment {where}/growing.psgi"
_BIN = Path(sys.executable).parent
_GUNICORN = f"{_BIN}/gunicorn --workers 4 --bind 127.0.0.1:{{port}} --max-requests 0"
_GRANIAN = f"{_BIN}/granian --workers 4 --port {{port}} --interface"
_UWSGI = "uwsgi --master --die-on-term --need-app --disable-logging"


def _uwsgi(name: str, options: str, **changes: Any) -> Server:
    """Behind nginx."""
    command = f"{_UWSGI} --plugin python3 --socket {{where}}/myapp.sock --chmod-socket=666"
    return Server(
        name,
        f"{command} --wsgi-file {{where}}/growing.py {options}",
        "growing.py",
        "HUP",
        ("uwsgi-core", "uwsgi-plugin-python3", "nginx-light"),
        "include /etc/nginx/uwsgi_params; uwsgi_pass unix:FOLDER/$pool.sock;",
        **changes,
    )


SERVERS = (
    replace(_plackup("FCGI", "libfcgi-procmanager-perl"), name="FCGI::ProcManager"),
    # Without a file for its pid it does not start.
    _plackup("FCGI::Engine", "libfcgi-engine-perl", " --pid {where}/engine.pid"),
    Server("Starman", _STARMAN, "growing.psgi", "HUP", ("starman",), keeps_connections=True),
    # Its workers take turns: one waits in select, the others in flock.
    Server(
        "Starman with two addresses",
        f"{_STARMAN} --listen {{where}}/other.sock",
        "growing.psgi",
        "HUP",
        ("starman",),
    ),
    Server("gunicorn sync", f"{_GUNICORN} growing:application", "growing.py", "TERM"),
    Server(
        "gunicorn gthread",
        f"{_GUNICORN} --worker-class gthread --threads 2 growing:application",
        "growing.py",
        "TERM",
        keeps_connections=True,
        threads=2,
    ),
    _uwsgi("uWSGI", "--processes 4"),
    _uwsgi("uWSGI with threads", "--processes 4 --threads 2", threads=2),
    Server(
        "gunicorn gevent",
        f"{_GUNICORN} --worker-class gevent growing:application",
        "growing.py",
        "TERM",
        keeps_connections=True,
        threads=8,  # greenlets: as many as clients ask at the same time
    ),
    Server(
        "uWSGI with two sockets",
        f"{_UWSGI} --processes 4 --plugin psgi --http-socket 127.0.0.1:{{port}} --psgi {{where}}/growing.psgi"
        " --socket {where}/other.sock",
        "growing.psgi",
        "HUP",
        ("uwsgi-core", "uwsgi-plugin-psgi"),
    ),
    Server(
        "php-fpm",
        "/usr/sbin/php-fpm8.2 --nodaemonize --fpm-config {where}/php-fpm.conf",
        "growing.php",
        "QUIT",
        ("php8.2-fpm", "nginx-light"),
        f"fastcgi_param SCRIPT_FILENAME FOLDER/growing.php; {_PASS}",
        options="stopsignal=QUIT\n",
        files={"php-fpm.conf": PHP},
        keeps_connections=True,
    ),
    Server(
        "unicorn",
        "unicorn -E none -c {where}/unicorn.rb {where}/growing.ru",
        "growing.ru",
        "QUIT",
        ("unicorn",),
        options="stopsignal=QUIT\n",
        files={"unicorn.rb": UNICORN},
    ),
    Server(
        "Apache prefork",
        "/usr/sbin/apache2 -DFOREGROUND -f {where}/apache.conf",
        "growing.lua",
        "USR1",
        ("apache2-bin",),
        options="stopsignal=WINCH\n",
        files={"apache.conf": APACHE},
        keeps_connections=True,
    ),
    Server(
        "Net::Server::PreFork",
        f"perl {stack.APPS}/netserver.pl {{where}}/growing.psgi --port 127.0.0.1:{{port}} --min_servers 4"
        " --max_servers 4 --min_spare_servers 1 --max_spare_servers 3 --max_requests 1000000000",
        "growing.psgi",
        "HUP",
        ("libnet-server-perl",),
        options="stopsignal=QUIT\n",
    ),
)


def named(name: str) -> Server:
    (server,) = (server for server in (*SERVERS, *ELASTIC, *REFUSED) if server.name == name)
    return server


def _with_file(server: Server, name: str, file: str, *replacements: tuple[str, str]) -> Server:
    """The server, with other lines in its own configuration."""
    text = server.files[file]
    for old, new in replacements:
        assert text.count(old) == 1
        text = text.replace(old, new)
    return replace(server, name=name, files={**server.files, file: text}, workers=LEFT)


_FIXED = {server.name: server for server in SERVERS}
_PM = "pm = static\npm.max_children = 4\n"
ELASTIC = (
    _with_file(
        _FIXED["php-fpm"],
        "php-fpm dynamic",
        "php-fpm.conf",
        (
            _PM,
            f"pm = dynamic\npm.max_children = {MOST}\npm.start_servers = {LEFT}\npm.min_spare_servers = {LEFT}\n"
            f"pm.max_spare_servers = {LEFT}\n",
        ),
    ),
    replace(
        _with_file(
            _FIXED["php-fpm"],
            "php-fpm ondemand",
            "php-fpm.conf",
            (_PM, f"pm = ondemand\npm.max_children = {MOST}\npm.process_idle_timeout = 3s\n"),
        ),
        workers=0,
    ),
    # Every second its master looks whether one was always idle, or none at all.
    _uwsgi("uWSGI with cheaper", f"--processes {MOST} --cheaper {LEFT} --cheaper-overload 1", workers=LEFT),
    # Apache itself makes MaxSpareServers larger than MinSpareServers.
    _with_file(
        _FIXED["Apache prefork"],
        "Apache prefork elastic",
        "apache.conf",
        ("StartServers 4\n", f"StartServers {LEFT}\n"),
        ("MinSpareServers 4\nMaxSpareServers 8\n", f"MinSpareServers {LEFT - 1}\nMaxSpareServers {LEFT}\n"),
        ("MaxRequestWorkers 4\nServerLimit 4\n", f"MaxRequestWorkers {MOST}\nServerLimit {MOST}\n"),
    ),
    replace(
        _FIXED["FCGI::ProcManager"],
        name="FCGI::ProcManager elastic",
        command=f"perl {stack.APPS}/dynamic.pl {{where}}/myapp.sock {LEFT} {MOST}",
        workers=LEFT,
    ),
)


def _fcgiwrap(name: str, command: str, *packages: str) -> Server:
    front = f"fastcgi_param SCRIPT_FILENAME FOLDER/refused.cgi; {_PASS}"
    options = "socket=unix://{where}/myapp.sock\nsocket_mode=0777\nstopasgroup=true\n"
    return Server(name, command, "refused.cgi", "TERM", packages, front, "fcgi-program", options)


REFUSED = (
    _fcgiwrap("fcgiwrap", "/usr/sbin/fcgiwrap -c 4", "fcgiwrap"),
    _fcgiwrap("multiwatch", "/usr/bin/multiwatch -f 4 -- /usr/sbin/fcgiwrap", "multiwatch", "fcgiwrap"),
    Server(
        "Puma",
        "puma --workers 4 --threads 2:2 --environment none --bind tcp://127.0.0.1:{port} {where}/growing.ru",
        "growing.ru",
        "TERM",
        ("puma",),
    ),
    Server(
        "gunicorn asgi",
        f"{_GUNICORN} --worker-class asgi growing_asgi:application",
        "growing_asgi.py",
        "TERM",
    ),
    Server(
        "gunicorn tornado",
        f"{_GUNICORN} --worker-class tornado growing:application",
        "growing.py",
        "TERM",
    ),
    Server(
        "gunicorn with uvicorn's workers",
        f"{_GUNICORN} --worker-class uvicorn_worker.UvicornWorker growing_asgi:application",
        "growing_asgi.py",
        "TERM",
    ),
    Server(
        "uvicorn",
        f"{_BIN}/uvicorn --workers 4 --port {{port}} --no-access-log growing_asgi:application",
        "growing_asgi.py",
        "TERM",
    ),
    Server(
        "hypercorn",
        f"{_BIN}/hypercorn --workers 4 --bind 127.0.0.1:{{port}} growing_asgi:application",
        "growing_asgi.py",
        "TERM",
    ),
    Server("Granian with WSGI", f"{_GRANIAN} wsgi growing:application", "growing.py", "TERM"),
    Server("Granian with ASGI", f"{_GRANIAN} asgi growing_asgi:application", "growing_asgi.py", "TERM"),
)


@contextlib.contextmanager
def running(
    server: Server, where: Path, more: str = "", keep: bool = False, within: Sequence[str] = (), prompt: bool = True
) -> Iterator[stack.Pool]:
    """The pool `myapp` of this server below a supervisord, with `more` sections.

    `keep`: nginx keeps its connections to the workers, else only those for `kept`. `within` and `prompt` are those of
    driver.supervisord.
    """
    skip_without(server)
    shutil.copy(stack.APPS / server.app, where)
    port = stack.free_port()
    for name, text in server.files.items():
        (where / name).write_text(text.format(where=where, port=port))
    text = server.program.format(where=where, port=port) + more
    nginx_conf = front(server, where, keep) if server.front else None
    with stack.running(text, "myapp", where, nginx_conf=nginx_conf, within=within, port=port, prompt=prompt) as pool:
        yield pool


def skip_without(server: Server) -> None:
    if not shutil.which(server.executable):
        pytest.skip(f"{server.executable} is not there: tests/run installs {', '.join(server.packages) or 'it'}")


def front(server: Server, where: Path, keep: bool = False) -> Path:
    """The configuration of an nginx in front of it."""
    text = (stack.APPS / "nginx.conf").read_text()
    (location,) = re.findall(r"^ +location .*?^        \}\n", text, re.DOTALL | re.MULTILINE)
    assert location.count(_PASS) == 1
    plain = location.replace(_PASS, server.front)
    keeping = plain.replace(_PASS, "fastcgi_keep_conn on; fastcgi_pass kept;")
    if server.keeps_connections:
        text = text.replace("    server {", f"    {_KEPT}    server {{", 1)
    for_kept = keeping.replace("[a-z]+", "kept") if server.keeps_connections else ""
    path = where / "front.conf"
    path.write_text(text.replace(location, for_kept + (keeping if keep else plain)))
    return path


def in_front_of(programs: dict[str, Server], where: Path) -> Path:
    """The configuration of an nginx in front of several, by the names of their programs."""
    text = (stack.APPS / "nginx.conf").read_text()
    (location,) = re.findall(r"^ +location .*?^        \}\n", text, re.DOTALL | re.MULTILINE)
    locations = [
        location.replace(_PASS, server.front).replace("[a-z]+", name)
        for name, server in programs.items()
        if server.front
    ]
    path = where / "front.conf"
    path.write_text(text.replace(location, "".join(locations)))
    return path


def kept(server: Server, pool: stack.Pool) -> stack.Pool:
    """The same pool, by an address at which connections to its workers are kept, if the client wants that."""
    return pool.another("kept") if server.front else pool


@contextlib.contextmanager
def requests(pool: stack.Pool, seconds: float) -> Iterator[None]:
    """MOST clients ask without pause: each request keeps a worker for so long."""
    with repeating(lambda: pool.ask(f"s={seconds}"), MOST):
        yield
