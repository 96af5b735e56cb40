"""`memreap doctor` on the server of a pool: which one it is, with which signal, and what else replaces its workers.

The command lines are written by hand, as /proc/PID/cmdline has them; a gunicorn and a php-fpm really run.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import sys
import time
from pathlib import Path

import pytest
from support import stack
from support.doctor import BIN, assert_found, doctor, running
from support.driver import POOL, eventually

from supervisor_memreap.doctor import recycling
from supervisor_memreap.doctor.program import _STARTING
from supervisor_memreap.doctor.recycling import Recycling, Started, found, options, starman_requests, text_of

PHP_CONF = "/etc/php/8.2/fpm/php-fpm.conf"
PHP_STATIC = ("pm.max_requests = 500", "/srv/static.conf [www]", False)
FILES = {
    "/srv/app.ini": "[uwsgi]\nmaster = true\n;max-requests = 7\nmax-requests = 500 ; a comment\nreload-on-rss=0\n",
    "/srv/two.ini": "[other]\nreload-on-as = 300\n[uwsgi]\nmax-requests = 500\n",
    "/srv/cheap.ini": "[uwsgi]\nprocesses = 8\ncheaper = 2\n",
    "/srv/conf.py": "workers = 4\nmax_requests = 1000\nmax_requests_jitter = 50\n",
    PHP_CONF: "[global]\nerror_log = /x\n[www]\npm = dynamic\npm.max_requests = 0\n",
    "/srv/static.conf": "[www]\npm = static\npm.max_children = 4\npm.max_requests = 500\n",
}


def found_in(server: str, command: str, environ: dict[str, str] | None = None, title: str = ""):
    """What is found where the directory is /srv, and the files are those above."""
    started = Started(shlex.split(command), environ or {}, "/srv", title)
    return [tuple(each) for each in found(server, started, lambda path: FILES.get(path, ""))]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--max-requests", "1000"], [("--max-requests", "1000")]),
        (["--max-requests=1000"], [("--max-requests", "1000")]),
        (["-R", "1000"], [("-R", "1000")]),
        (["-R1000"], [("-R", "1000")]),
        (["--max-requests-jitter", "50"], []),
        (["--max-requests"], [("--max-requests", "")]),
        ([], []),
    ],
)
def test_an_option_is_read_in_each_way_that_it_may_be_written(words, expected):
    assert list(options(words, ("--max-requests", "-R"))) == expected


@pytest.mark.parametrize(
    ("server", "command", "expected"),
    [
        ("gunicorn", "gunicorn -w 4 app:application", []),
        ("gunicorn", "gunicorn --max-requests 1000 --max-requests-jitter=50 a:b", ["--max-requests 1000"]),
        ("gunicorn", "gunicorn --max-requests=0 a:b", []),
        ("uWSGI", "uwsgi --master -R 500 --reload-on-rss 200", ["-R 500", "--reload-on-rss 200"]),
        ("uWSGI", "uwsgi --evil-reload-on-as=400", ["--evil-reload-on-as 400"]),
        ("uWSGI", "uwsgi --max-worker-lifetime 3600", ["--max-worker-lifetime 3600"]),
        ("uWSGI", "uwsgi --processes 8 --cheaper 2", ["--cheaper 2"]),
        ("uWSGI", "uwsgi --master --processes 4", []),
        ("Apache", "apache2 -DFOREGROUND -c 'MaxConnectionsPerChild 100'", ["MaxConnectionsPerChild 100"]),
        ("Apache", "apache2 -DFOREGROUND -c 'MaxConnectionsPerChild 0'", []),
        ("Apache", "apache2 -DFOREGROUND -f /etc/apache2/apache2.conf", []),
        ("unicorn", "unicorn --max-requests 5", []),
        ("", "anything --max-requests 5", []),
    ],
)
def test_what_replaces_workers_is_found_on_the_command_line(server, command, expected):
    assert [setting for setting, *_ in found_in(server, command)] == expected


@pytest.mark.parametrize(
    ("server", "command", "expected"),
    [
        ("uWSGI", "uwsgi app.ini", [("max-requests = 500", "/srv/app.ini", False)]),
        ("uWSGI", "uwsgi --ini /srv/app.ini", [("max-requests = 500", "/srv/app.ini", False)]),
        ("uWSGI", "uwsgi --ini=two.ini:other", [("reload-on-as = 300", "/srv/two.ini", False)]),
        ("uWSGI", "uwsgi two.ini", [("max-requests = 500", "/srv/two.ini", False)]),
        ("uWSGI", "uwsgi cheap.ini", [("cheaper = 2", "/srv/cheap.ini", True)]),
        ("gunicorn", "gunicorn -c conf.py a:b", [("max_requests = 1000", "/srv/conf.py", False)]),
        ("php-fpm", "php-fpm8.2 -F -y /srv/static.conf", [PHP_STATIC]),
        ("php-fpm", "php-fpm8.2 -F --fpm-config=static.conf", [PHP_STATIC]),
        ("php-fpm", "php-fpm8.2 -F", []),
    ],
)
def test_what_replaces_workers_is_found_in_the_file_that_the_command_names(server, command, expected):
    assert found_in(server, command) == expected


def test_the_title_of_php_fpm_names_its_file_where_the_command_does_not():
    found_by_title = found_in("php-fpm", "php-fpm8.2 -F", title=f"php-fpm: master process ({PHP_CONF})")
    assert found_by_title == [("pm = dynamic", f"{PHP_CONF} [www]", True)]


def test_a_relative_file_is_not_looked_for_in_the_directory_of_doctor():
    read: list[str] = []
    found("uWSGI", Started(["uwsgi", "app.ini"], {}, ""), lambda path: read.append(path) or "")
    assert read == [""]
    assert text_of("") == ""


def test_what_replaces_workers_is_found_in_the_environment():
    assert found_in("gunicorn", "gunicorn a:b", {"GUNICORN_CMD_ARGS": "-w 4 --max-requests=9"}) == [
        ("--max-requests 9", "GUNICORN_CMD_ARGS", False)
    ]
    assert found_in("FCGI::ProcManager", "", {"PM_MAX_REQUESTS": "100", "PM_MAX_SIZE": "0"}) == [
        ("PM_MAX_REQUESTS=100", "its environment", False)
    ]


def test_files_that_php_fpm_includes_are_read_too(tmp_path):
    (tmp_path / "pool.d").mkdir()
    (tmp_path / "pool.d/a.conf").write_text("[a]\npm = ondemand\npm.max_requests = 9\n")
    (tmp_path / "main.conf").write_text(f"[global]\ninclude={tmp_path}/pool.d/*.conf\n")
    started = Started(["php-fpm8.2", "-y", f"{tmp_path}/main.conf"], {}, "")
    place = f"{tmp_path}/pool.d/a.conf [a]"
    expected = [Recycling("pm = ondemand", place, True), Recycling("pm.max_requests = 9", place)]
    assert found("php-fpm", started, text_of) == expected


def test_a_file_that_is_no_file_or_may_not_be_read_has_no_text(tmp_path):
    assert text_of(str(tmp_path)) == text_of(str(tmp_path / "none")) == text_of("/dev/zero") == ""
    (tmp_path / "raw").write_bytes(b"\xff[uwsgi]\x00")
    assert "[uwsgi]" in text_of(str(tmp_path / "raw"))


@pytest.mark.parametrize(
    ("words", "requests"),
    [
        (["starman", "--workers", "4"], recycling.STARMAN_REQUESTS),
        (["starman", "--max-requests", "0"], recycling.STARMAN_REQUESTS),
        (["starman", "--max-requests", "50"], 50),
        (["plackup", "-s", "Starman", "--max-requests=70"], 70),
    ],
)
def test_starman_always_replaces_its_workers(words, requests):
    assert starman_requests(words) == requests


TEXT = f"""\
[program:shop]
command={sys.executable} WHERE/NAME 2 5 term
[memreap:shop]
limit=1GB
min_age=1s
[eventlistener:memreap]
command={BIN}/memreap listen
events=TICK_5
environment=TMPDIR="WHERE"
"""


def named(where: Path, name: str) -> str:
    """A pool whose processes are called as those of this server, and leave on TERM."""
    shutil.copy(POOL, where / name)
    return TEXT.replace("NAME", name)


def test_which_server_it_is_and_which_signal_is_used_is_said_as_what_is_in_order(where):
    with running(where, named(where, "gunicorn")):
        expression = r"shop: ok: gunicorn: workers are reaped with TERM \(signal= is not set\)\n.*no problems found\n\Z"
        eventually(lambda: assert_found(where, expression, 0))
    with running(where, named(where, "gunicorn").replace("limit=1GB", "limit=1GB\nsignal=TERM")):
        expression = r"shop: ok: gunicorn: .* TERM \(set in .*supervisord.conf \[memreap:shop\]\)\n"
        eventually(lambda: assert_found(where, expression, 0))


def test_a_wrong_signal_is_found_with_the_line_to_write_and_where(where):
    with running(where, named(where, "gunicorn").replace("limit=1GB", "limit=1GB\nsignal=sighup")):
        expression = (
            r"shop: gunicorn drops its requests on signal=sighup \(set in .*supervisord.conf \[memreap:shop\]\):"
            r" nothing is sent; under \[memreap:shop\], write signal=TERM; it takes effect at the next tick\n"
        )
        eventually(lambda: assert_found(where, expression))


def test_where_the_wrong_signal_is_one_for_all_pools_it_is_set_right_for_this_one_alone(where):
    with running(where, named(where, "gunicorn") + "[memreap]\nsignal=HUP\n"):
        expression = (
            r"shop: gunicorn drops its requests on signal=HUP \(set in .*supervisord.conf \[memreap\]\):"
            r" nothing is sent; under \[memreap:shop\], write signal=TERM;"
        )
        eventually(lambda: assert_found(where, expression))


def test_where_the_server_is_unknown_and_no_signal_is_set_doctor_says_what_to_check(where):
    text = named(where, "shop_fastcgi").replace(" term", "")
    with running(where, text):
        expression = r"shop: note: memreap does not know its server, so it uses HUP: check .* \[memreap:shop\]\n"
        eventually(lambda: assert_found(where, expression, 0))
    with running(where, text.replace("limit=1GB", "limit=1GB\nsignal=HUP")):
        eventually(lambda: assert_found(where, r"no problems found\n\Z", 0))
        assert "does not know" not in doctor(where).stdout


def test_a_pool_whose_server_no_signal_suits_is_a_problem(where):
    with running(where, named(where, "fcgiwrap")):
        expression = r"shop: worker \d+ belongs to fcgiwrap, which drops requests on every signal: nothing sent"
        eventually(lambda: assert_found(where, expression))
        assert "ok:" not in doctor(where).stdout


# Beside our Python, where tests/run installs it, or Debian's.
GUNICORN = shutil.which("gunicorn", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")


@pytest.mark.skipif(not GUNICORN, reason="gunicorn is not installed")
def test_what_a_real_gunicorn_replaces_by_itself_is_a_note_with_what_that_restarts(where):
    (where / "app.py").write_text("def application(environ, start_response):\n    return []\n")
    (where / "conf.py").write_text("max_requests = 300\n")
    command = f"{GUNICORN} --chdir WHERE -w 2 -b unix:WHERE/g.sock --max-requests 1000 -c conf.py app:application"
    text = re.sub(r"command=.* term", f"command={command}\ndirectory=WHERE", TEXT)
    with running(where, text):
        on_the_command_line = (
            r"shop: note: gunicorn replaces workers by itself too \(--max-requests 1000 in its command\): more than.*;"
            r" remove --max-requests from command= in .*\[program:shop\], then run supervisorctl update, which restarts"
            r" shop\n"
        )
        eventually(lambda: assert_found(where, on_the_command_line, 0))
        assert_found(where, r"shop: ok: gunicorn: workers are reaped with TERM", 0)
        assert doctor(where).stdout.count("by itself") == 1  # the command line overrides the file


@pytest.mark.skipif(not shutil.which("php-fpm8.2"), reason="php-fpm is not installed")
def test_a_pool_that_is_empty_while_nobody_asks_is_no_fault(where):
    user = "user=www-data\ngroup=www-data\n" if os.getuid() == 0 else ""
    pool = f"[www]\n{user}listen={where}/php.sock\npm=ondemand\npm.max_children=4\n"
    (where / "fpm.conf").write_text(f"[global]\nerror_log={where}/php.log\n{pool}")
    text = re.sub(r"command=.* term", "command=php-fpm8.2 -F -y fpm.conf\ndirectory=WHERE", TEXT)
    with running(where, text):
        eventually(lambda: assert_has_started(where))
        eventually(lambda: assert_found(where, "memreap: no problems found", 0))


def assert_has_started(where: Path) -> None:
    """It is so old that doctor would miss its workers."""
    (manager,) = stack.left_in(where, "php-fpm")
    assert time.time() - manager.create_time() > _STARTING + 1


@pytest.mark.skipif(not shutil.which("php-fpm8.2"), reason="php-fpm is not installed")
def test_that_a_real_php_fpm_makes_its_pool_smaller_by_itself_is_a_note(where):
    user = "user=www-data\ngroup=www-data\n" if os.getuid() == 0 else ""
    (where / "pool.conf").write_text(
        f"[www]\n{user}listen={where}/php.sock\npm=dynamic\npm.max_children=4\npm.start_servers=2\n"
        "pm.min_spare_servers=1\npm.max_spare_servers=2\npm.max_requests=500\n"
    )
    (where / "fpm.conf").write_text(f"[global]\nerror_log={where}/php.log\ninclude={where}/pool.conf\n")
    text = re.sub(r"command=.* term", "command=php-fpm8.2 -F -y fpm.conf\ndirectory=WHERE", TEXT)
    with running(where, text):
        eventually(lambda: assert_found(where, r"shop: ok: php-fpm: workers are reaped with QUIT", 0))
        place = rf"{where}/pool.conf \[www\]"
        remedy = "set pm = static and pm.max_children to the number that may always run there"
        shrinks = rf"makes its pool smaller by itself \(pm = dynamic in {place}\): .*; {remedy}"
        assert_found(where, rf"shop: note: php-fpm {shrinks}", 0)
        assert_found(where, rf"too \(pm.max_requests = 500 in {place}\).*; remove pm.max_requests there", 0)
