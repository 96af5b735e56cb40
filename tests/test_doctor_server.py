"""`memreap doctor` on the server of a pool: which one it is, with which signal, and what else replaces its workers.

The command lines are written by hand, as /proc/PID/cmdline has them; test_doctor_stack.py has real servers.
"""

from __future__ import annotations

import shlex

import pytest
from support.doctor import SOUND, assert_finds, changed, examined, pool

from supervisor_memreap.doctor.recycling import (
    STARMAN_REQUESTS,
    Recycling,
    Started,
    detect,
    options,
    starman_requests,
    text_of,
)

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


def detected_in(server: str, command: str, environ: dict[str, str] | None = None, title: str = ""):
    """What is detected if the directory is /srv and the files are those above."""
    started = Started(shlex.split(command), environ or {}, "/srv", title)
    return [tuple(each)[:3] for each in detect(server, started, lambda path: FILES.get(path, ""))]


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
def test_an_option_is_read_in_every_notation(words, expected):
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
def test_recycling_is_detected_on_the_command_line(server, command, expected):
    assert [setting for setting, *_ in detected_in(server, command)] == expected


@pytest.mark.parametrize(("mode", "loses"), [("dynamic", True), ("ondemand", False)])
def test_only_the_dynamic_pool_of_php_fpm_is_known_to_lose_requests(mode, loses):
    started = Started(["php-fpm8.2", "-y", "/srv/php.conf"], {}, "")
    (found,) = detect("php-fpm", started, lambda _: f"[www]\npm = {mode}\n")
    assert ("fastcgi_keep_conn" in found.loses, found.shrinks) == (loses, True)


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
def test_recycling_is_detected_in_the_file_named_by_the_command(server, command, expected):
    assert detected_in(server, command) == expected


def test_the_title_of_php_fpm_names_its_file_if_the_command_does_not():
    detected_by_title = detected_in("php-fpm", "php-fpm8.2 -F", title=f"php-fpm: master process ({PHP_CONF})")
    assert detected_by_title == [("pm = dynamic", f"{PHP_CONF} [www]", True)]


def test_a_relative_file_is_not_opened_in_the_directory_of_doctor():
    read: list[str] = []
    detect("uWSGI", Started(["uwsgi", "app.ini"], {}, ""), lambda path: read.append(path) or "")
    assert read == [""]
    assert text_of("") == ""


def test_recycling_is_detected_in_the_environment():
    assert detected_in("gunicorn", "gunicorn a:b", {"GUNICORN_CMD_ARGS": "-w 4 --max-requests=9"}) == [
        ("--max-requests 9", "GUNICORN_CMD_ARGS", False)
    ]
    assert detected_in("FCGI::ProcManager", "", {"PM_MAX_REQUESTS": "100", "PM_MAX_SIZE": "0"}) == [
        ("PM_MAX_REQUESTS=100", "its environment", False)
    ]


def test_files_included_by_php_fpm_are_read_too(tmp_path):
    (tmp_path / "pool.d").mkdir()
    (tmp_path / "pool.d/a.conf").write_text("[a]\npm = ondemand\npm.max_requests = 9\n")
    (tmp_path / "main.conf").write_text(f"[global]\ninclude={tmp_path}/pool.d/*.conf\n")
    started = Started(["php-fpm8.2", "-y", f"{tmp_path}/main.conf"], {}, "")
    place = f"{tmp_path}/pool.d/a.conf [a]"
    expected = [Recycling("pm = ondemand", place, True), Recycling("pm.max_requests = 9", place)]
    assert detect("php-fpm", started, text_of) == expected


def test_an_irregular_or_unreadable_file_has_no_text(tmp_path):
    assert text_of(str(tmp_path)) == text_of(str(tmp_path / "none")) == text_of("/dev/zero") == ""
    (tmp_path / "raw").write_bytes(b"\xff[uwsgi]\x00")
    assert "[uwsgi]" in text_of(str(tmp_path / "raw"))


@pytest.mark.parametrize(
    ("words", "requests"),
    [
        (["starman", "--workers", "4"], STARMAN_REQUESTS),
        (["starman", "--max-requests", "0"], STARMAN_REQUESTS),
        (["starman", "--max-requests", "50"], 50),
        (["plackup", "-s", "Starman", "--max-requests=70"], 70),
    ],
)
def test_starman_always_replaces_its_workers(words, requests):
    assert starman_requests(words) == requests


SHOP = pool("gunicorn", "gunicorn")


def test_the_signal_in_use_is_reported_as_ok_with_where_it_is_set():
    assert_finds(r"myapp: ok: gunicorn: .* TERM \(signal= is not set\)$", examined(processes=SHOP))
    output = examined(with_signal("TERM"), processes=SHOP)
    assert_finds(r"myapp: ok: gunicorn: .* TERM \(set in .*supervisord.conf \[memreap:myapp\]\)$", output)


def with_signal(name: str) -> str:
    return changed(("limit=150MB", f"limit=150MB\nsignal={name}"))


def test_a_wrong_signal_is_reported_with_the_line_to_write_and_its_place():
    expression = (
        r"myapp: gunicorn drops its requests on signal=sighup \(set in .*supervisord.conf \[memreap:myapp\]\): nothing"
        r" is sent; under \[memreap:myapp\], write signal=TERM; it takes effect at the next tick$"
    )
    assert_finds(expression, examined(with_signal("sighup"), processes=SHOP))


def test_a_wrong_signal_set_for_all_pools_is_corrected_for_this_pool_alone():
    output = examined(f"{SOUND}[memreap]\nsignal=HUP\n", processes=SHOP)
    assert_finds(r"myapp: .* \(set in .*supervisord.conf \[memreap\]\): .* under \[memreap:myapp\], write", output)


def test_an_unknown_server_without_a_signal_gets_advice_on_what_to_check():
    unknown = pool("python3 /srv/shop", "python3 /srv/shop")
    expression = r"myapp: note: memreap does not know its server, so it uses HUP: check .* \[memreap:myapp\]$"
    assert_finds(expression, examined(processes=unknown))
    assert "does not know" not in examined(with_signal("HUP"), processes=unknown)


def test_a_server_without_a_graceful_signal_is_a_problem():
    output = examined(processes=pool("fcgiwrap", "fcgiwrap"))
    assert_finds(r"myapp: worker \d+ belongs to fcgiwrap, which drops requests on every signal: nothing sent", output)
    assert "ok:" not in output


def test_recycling_by_starman_is_reported_and_not_a_problem():
    output = examined(processes=pool("starman master", "starman worker"))
    expression = "myapp: ok: Starman itself replaces each worker after 1000 requests, which is harmless$"
    assert_finds(expression, output)


def test_an_option_that_stands_in_the_command_is_to_be_removed_there():
    text = changed(("-n 2 -e", "--max-requests 1000"))
    remedy = (
        r"remove --max-requests from command= in .*\[program:myapp\], then run supervisorctl update, which restarts"
    )
    expression = (
        rf"myapp: note: gunicorn also replaces workers on its own \(--max-requests 1000 in its command\): .*; {remedy}"
    )
    assert_finds(f"{expression} myapp$", examined(text, processes=SHOP))


@pytest.mark.parametrize(("mode", "is_found"), [("ondemand", False), ("static", True)])
def test_a_pool_that_may_be_empty_while_no_client_asks_is_no_fault(tmp_path, mode, is_found):
    (tmp_path / "fpm.conf").write_text(f"[www]\npm = {mode}\n")
    text = changed(("/srv/myapp_fastcgi.pl", f"php-fpm8.2 -F -y {tmp_path}/fpm.conf"))
    output = examined(text, processes=pool("php-fpm8.2", pids=[]))
    assert ("has no workers" in output) is is_found
