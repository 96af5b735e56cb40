"""What processes are called, and the signals for which their servers have handlers."""

from __future__ import annotations

from typing import NamedTuple

from supervisor_memreap.core.servers import Names


class Called(NamedTuple):
    manager: Names
    worker: Names


def _alike(*argv: str, executable: str) -> Called:
    names = Names(executable[:15], argv, executable)
    return Called(names, names)


def _titled(manager: str, worker: str, executable: str) -> Called:
    """Both have a title, which hides the script that their interpreter runs."""
    return Called(Names(manager[:15], (manager,), executable), Names(worker[:15], (worker,), executable))


# By server, as in core.servers.
CALLED = {
    "": _alike("/srv/app", executable="app"),
    "FCGI::ProcManager": _titled("perl-fcgi-pm", "perl-fcgi", "perl"),
    "Starman": _titled("starman master", "starman worker", "perl"),
    "uWSGI": _alike("uwsgi", "--ini", "app.ini", executable="uwsgi"),
    "gunicorn": _alike("/usr/bin/python3", "/usr/bin/gunicorn", "app:app", executable="python3.11"),
    "php-fpm": _titled("php-fpm: master process", "php-fpm: pool www", "php-fpm8.2"),
    "unicorn": _titled("unicorn master -l 80", "unicorn worker[0] -l 80", "ruby3.1"),
    "Apache": _alike("/usr/sbin/apache2", "-k", "start", executable="apache2"),
    "fcgiwrap": _alike("/usr/sbin/fcgiwrap", executable="fcgiwrap"),
}
OTHERS = Names("sh", ("/bin/sh", "-c", "app"), "dash")
"""Of a process that is no part of a pool."""
CATCHES = {
    "FCGI::ProcManager": ("HUP", "TERM", "USR1"),
    "gunicorn": ("TERM", "QUIT", "INT", "USR1", "ABRT", "WINCH"),
    "unicorn": ("QUIT", "TERM", "INT", "USR1"),
    "php-fpm": ("QUIT", "TERM"),
}
"""The others catch all."""


def renamed(names: Names, title: str) -> Names:
    """As setproctitle, or an assignment to $0, does it; empty: unchanged."""
    return Names(title[:15], (title,), names.executable) if title else names
