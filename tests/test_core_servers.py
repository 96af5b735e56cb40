"""Servers are recognised by the names that their workers really have; the pairs were read from running ones."""

from __future__ import annotations

import pytest

from supervisor_memreap.core.servers import (
    DEFAULT_SIGNAL,
    SERVERS,
    UNRECOGNISABLE,
    Loop,
    Moment,
    Names,
    cost_while_busy,
    has_loops,
    is_unsure,
    manages,
    may_signal_busy,
    named,
    permits,
    recognise,
    script,
    server_of,
    signal_for,
    signal_while_busy,
    with_loop,
)


@pytest.mark.parametrize(
    ("comm", "argv", "server"),
    [
        ("perl-fcgi", ["perl-fcgi"], "FCGI::ProcManager"),
        ("perl-fcgi-pm [M", ["perl-fcgi-pm [MyApp]"], "FCGI::ProcManager"),
        ("starman worker ", ["starman worker --workers 2 --listen :7001 app.psgi"], "Starman"),
        ("uwsgi", ["uwsgi", "--ini", "app.ini"], "uWSGI"),
        ("uwsgi_python3", ["uwsgi_python3", "--master"], "uWSGI"),
        ("gunicorn", ["/srv/venv/bin/python3", "/srv/venv/bin/gunicorn", "-w", "2", "app:application"], "gunicorn"),
        ("gunicorn: worke", ["gunicorn: worker [app]"], "gunicorn"),
        ("python3", ["/usr/bin/python3", "/srv/venv/bin/gunicorn", "app:application"], "gunicorn"),
        ("python3.11", ["python3.11", "-m", "gunicorn", "app:application"], "gunicorn"),
        ("uvicorn", ["/srv/venv/bin/python3", "/srv/venv/bin/uvicorn", "--workers", "4", "app:application"], "uvicorn"),
        ("python3", ["python3", "-m", "uvicorn", "--workers", "4", "app:application"], "uvicorn"),
        ("python3", ["python3", "-c", "from multiprocessing.spawn import", "--multiprocessing-fork"], UNRECOGNISABLE),
        (
            "hypercorn",
            ["/srv/venv/bin/python3", "/srv/venv/bin/hypercorn", "--workers", "2", "app:application"],
            "hypercorn",
        ),
        ("puma: cluster w", ["puma: cluster worker 0: 4242 [myapp]"], "Puma"),
        ("granian wsgi 12", ["granian wsgi 127.0.0.1:8000 app:application worker-1"], "Granian"),
        ("granian", ["/srv/venv/bin/python3", "/srv/venv/bin/granian", "--workers", "2", "app:application"], "Granian"),
        ("php-fpm8.2", ["php-fpm: pool www"], "php-fpm"),
        ("unicorn", ["unicorn worker[0] -l 7003 config.ru"], "unicorn"),
        ("ruby3.1", ["ruby3.1", "/usr/bin/unicorn_rails", "-p", "7003"], "unicorn"),
        ("apache2", ["/usr/sbin/apache2", "-k", "start"], "Apache"),
        ("httpd", ["/usr/sbin/httpd", "-DFOREGROUND"], "Apache"),
        ("fcgiwrap", ["fcgiwrap", "-c", "2"], "fcgiwrap"),
        ("multiwatch", ["/usr/bin/multiwatch", "-f", "4", "--", "/usr/sbin/fcgiwrap"], "multiwatch"),
        ("perl", ["/usr/bin/perl", "/srv/myapp/script/myapp_fastcgi.pl"], ""),
        ("python3", ["python3", "/srv/unicorns.py"], ""),
        ("python3", ["python3", "-c", "import gunicorn"], UNRECOGNISABLE),
        ("python3", ["python3"], UNRECOGNISABLE),
        ("python3", ["gunicorn: worker [app]"], "gunicorn"),
        ("perl", ["perl", "-X", "-W", "-C", "/usr/bin/starman", "--disable-proctitle"], "Starman"),
        ("python3", ["python3", "-I", "/usr/bin/gunicorn", "app:application"], "gunicorn"),
        ("python3", ["python3", "-E", "/usr/bin/gunicorn", "app:application"], "gunicorn"),
        ("ruby3.1", ["ruby3.1", "-W", "-E", "UTF-8", "unicorn", "-p", "7003"], "unicorn"),
        ("perl5.36-x86_64", ["perl5.36-x86_64-linux-gnu", "/usr/bin/starman"], "Starman"),
        ("python3.11-dbg", ["python3.11-dbg", "-m", "gunicorn"], "gunicorn"),
        ("truffleruby", ["truffleruby", "unicorn"], "unicorn"),
        ("perl", ["perl", "-Ilib", "/usr/bin/starman", "--disable-proctitle"], "Starman"),
        ("perl", ["perl", "-I", "lib", "-w", "/usr/bin/starman"], "Starman"),
        ("python3", ["python3", "-u", "-X", "dev", "-m", "gunicorn", "app:application"], "gunicorn"),
        ("ruby3.1", ["ruby3.1", "-Ilib", "unicorn", "-p", "7003"], "unicorn"),
        ("plackup", ["/usr/bin/perl", "/usr/bin/plackup", "-s", "Starman", "--disable-proctitle"], "Starman"),
        ("perl", ["/usr/bin/perl", "/usr/bin/plackup", "--server=Starman", "app.psgi"], "Starman"),
        ("perl", ["/usr/bin/perl", "/usr/bin/plackup", "-s", "FCGI", "app.psgi"], ""),
        ("perl", ["perl", "-e", "gunicorn"], UNRECOGNISABLE),
        # What an interpreter runs may not be read: it may be any of them.
        ("perl", [], UNRECOGNISABLE),
        ("python3", ["", ""], UNRECOGNISABLE),
        ("", [], UNRECOGNISABLE),
    ],
)
def test_a_server_is_recognised_by_its_own_name_or_the_script_of_its_interpreter(comm, argv, server):
    assert recognise(Names(comm, argv)) == server


def test_each_server_of_the_table_is_recognised_by_names_of_a_running_one():
    (pairs,) = (
        mark.args[1] for mark in test_a_server_is_recognised_by_its_own_name_or_the_script_of_its_interpreter.pytestmark
    )
    assert {each.name for each in SERVERS} <= {server for *_, server in pairs}


@pytest.mark.parametrize(
    ("names", "server"),
    [
        (Names("bash", ["bash", "gunicorn"], "bash"), ""),
        (Names("myserver", ["/srv/myserver"], "myserver"), ""),
        # It may be a title as well.
        (Names("myserver", ["/srv/myserver"]), UNRECOGNISABLE),
        (Names("myapp", ["myapp"], "uwsgi-core"), "uWSGI"),
        (Names("myapp", ["myapp"], "php-fpm8.2"), "php-fpm"),
        (Names("myapp", ["myapp"], "apache2"), "Apache"),
        (Names("myapp GET /a", ["myapp GET /a", ""], "perl"), UNRECOGNISABLE),
        # The path of a request is not evidence.
        (Names("myapp GET /unic", ["myapp GET /unicorn"], "perl"), UNRECOGNISABLE),
        (Names("myapp GET /perl", ["myapp GET /perl", "/srv/myapp.pl"], "perl"), UNRECOGNISABLE),
        (Names("/gunicorn", ["/gunicorn"], "perl"), UNRECOGNISABLE),
        (Names("/perl", ["/perl", " ", ""], "perl"), UNRECOGNISABLE),
        # A title over the arguments, without an end to what they were.
        (Names("myapp", ["myapp", "bin/perl", "/srv/myapp.pl"], "perl"), UNRECOGNISABLE),
        (Names("myapp", ["python3", "/srv/bin/gunicorn", "app:application"], "python3.11"), "gunicorn"),
        (Names("myapp", ["python3", "/srv/myapp.py"], "python3.11"), ""),
        (Names("myapp.pl", ["/usr/bin/perl", "/srv/myapp.pl"], "perl"), ""),
    ],
)
def test_the_executable_identifies_the_server_of_a_process_with_a_changed_title(names, server):
    assert recognise(names) == server


REFUSED = {"fcgiwrap", "multiwatch", "uvicorn", "Puma", "hypercorn", "Granian"}
STARMAN = Names("starman master ", ["starman master --workers 4 app.psgi"], "perl")
SPAWNED = Names("python3", ["python3", "-c", "from multiprocessing.spawn import spawn_main"], "python3.11")
CUSTOM = Names("perl", ["perl", "/srv/myserver.pl"], "perl")
TITLED = Names("myapp GET /a", ["myapp GET /a"], "perl")


@pytest.mark.parametrize(
    ("worker", "manager", "is_fork", "server"),
    [
        (TITLED, STARMAN, True, "Starman"),
        (TITLED, STARMAN, None, "Starman"),
        (TITLED, CUSTOM, True, ""),
        (TITLED, CUSTOM, None, UNRECOGNISABLE),
        (TITLED, TITLED, True, UNRECOGNISABLE),
        (TITLED, TITLED, None, UNRECOGNISABLE),
        # What runs below a wrapper is not of the wrapper's server.
        (TITLED, CUSTOM, False, UNRECOGNISABLE),
        (TITLED, STARMAN, False, UNRECOGNISABLE),
        (TITLED, Names("sh", ["sh", "-c", "perl a.pl"], "dash"), False, UNRECOGNISABLE),
        (Names("perl-fcgi", ["perl-fcgi"], "perl"), TITLED, True, "FCGI::ProcManager"),
        (CUSTOM, TITLED, True, ""),
        (Names("cat", ["cat"], "cat"), STARMAN, False, "Starman"),
        (TITLED, Names("myapp", ["myapp"], "uwsgi-core"), None, "uWSGI"),
        # An application that calls itself like another server.
        (Names("unicorn", ["unicorn"], "perl"), STARMAN, True, UNRECOGNISABLE),
        (CUSTOM, Names("multiwatch", ["multiwatch"], "multiwatch"), False, "multiwatch"),
        # Spawned, not forked, by the same Python.
        (SPAWNED, Names("uvicorn", ["python3", "/srv/bin/uvicorn", "--workers", "4"], "python3.11"), False, "uvicorn"),
        (SPAWNED, Names("hypercorn", ["python3", "/srv/bin/hypercorn"], "python3.11"), False, "hypercorn"),
        (SPAWNED, CUSTOM, False, UNRECOGNISABLE),
        # With target=self.
        (TITLED, None, None, UNRECOGNISABLE),
        (CUSTOM, None, None, ""),
    ],
)
def test_a_worker_with_unknown_names_belongs_to_the_server_of_its_manager(worker, manager, is_fork, server):
    assert server_of(worker, manager, is_fork) == server


def test_an_unidentified_server_is_signalled_only_at_the_moment_safe_for_all():
    assert named(UNRECOGNISABLE).moment is Moment.HELD
    assert named("").moment is Moment.ANY


@pytest.mark.parametrize(
    ("server", "with_ptrace", "without"),
    [
        ("", False, True),
        ("gunicorn", True, True),
        ("FCGI::ProcManager", False, True),
        ("Apache", False, True),
        ("Starman", False, False),
        ("fcgiwrap", False, False),
        (UNRECOGNISABLE, False, False),
    ],
)
def test_a_busy_worker_may_be_signalled_where_that_costs_little_and_no_better_way_exists(server, with_ptrace, without):
    assert may_signal_busy(server, True) is with_ptrace
    assert may_signal_busy(server, False) is without


def test_the_signal_for_a_busy_worker_is_the_cheapest_unless_the_user_chose_another():
    assert signal_while_busy("FCGI::ProcManager", None) == "USR1"
    assert signal_while_busy("FCGI::ProcManager", "TERM") == "TERM"
    assert signal_while_busy("php-fpm", None) == "QUIT"
    assert signal_while_busy("", None) == "HUP"


def test_the_cost_of_a_signal_to_a_busy_worker_is_reported_if_measured():
    cost = cost_while_busy("FCGI::ProcManager", "USR1")
    assert cost == "0 of 300 such signals lost a request when measured, 47 of 300 on kept connections"
    assert "not measured" in cost_while_busy("FCGI::ProcManager", "HUP")
    assert "not measured" in cost_while_busy("", "HUP")


def test_a_server_that_may_be_signalled_while_busy_has_a_graceful_signal_for_it():
    for server in SERVERS:
        assert (server.while_busy is None) is (server.moment is Moment.HELD)
        assert server.while_busy is None or server.while_busy.signal in server.graceful


def test_only_servers_of_the_table_are_known():
    assert named("").graceful is None
    assert named("fcgiwrap").graceful == ()
    assert [server.name for server in SERVERS if named(server.name).graceful != server.graceful] == []


@pytest.mark.parametrize(
    ("server", "chosen", "used"),
    [
        ("gunicorn", None, "TERM"),
        ("gunicorn", "QUIT", "QUIT"),
        ("php-fpm", None, "QUIT"),
        ("Apache", None, "USR1"),
        ("FCGI::ProcManager", None, "HUP"),
        ("FCGI::ProcManager", "TERM", "TERM"),
        ("fcgiwrap", None, DEFAULT_SIGNAL),
        (UNRECOGNISABLE, None, DEFAULT_SIGNAL),
        ("", None, DEFAULT_SIGNAL),
        ("", "TERM", "TERM"),
    ],
)
def test_the_signal_is_the_configured_one_else_the_first_graceful_one_else_hup(server, chosen, used):
    assert signal_for(server, chosen) == used


def test_a_server_without_a_graceful_signal_has_a_reason_and_others_have_none():
    assert {server.name for server in SERVERS if not server.graceful} == REFUSED
    assert [server.name for server in SERVERS if bool(named(server.name).refusal) is bool(server.graceful)] == []
    assert named("").refusal == named(UNRECOGNISABLE).refusal == ""


def test_a_server_missing_from_the_table_has_no_pace():
    assert (named("").pace, named(UNRECOGNISABLE).pace) == (0.0, 0.0)
    assert [server.name for server in SERVERS if named(server.name).pace != server.pace] == []


@pytest.mark.parametrize(
    ("comm", "argv", "answer"),
    [
        ("perl-fcgi-pm", ["perl-fcgi-pm"], True),
        ("perl-fcgi-pm [M", ["perl-fcgi-pm [MyApp]"], True),
        ("perl-fcgi", ["perl-fcgi"], False),
        ("starman master ", ["starman master --workers 2 app.psgi"], True),
        ("starman worker ", ["starman worker --workers 2 app.psgi"], False),
        ("gunicorn: maste", ["gunicorn: master [app]"], True),
        ("php-fpm8.2", ["php-fpm: master process (/etc/php/8.2/fpm/php-fpm.conf)"], True),
        ("php-fpm8.2", ["php-fpm: pool www"], False),
        ("unicorn", ["unicorn master -l 7003 config.ru"], True),
        ("gunicorn: dirty", ["gunicorn: dirty-arbiter"], True),
        ("multiwatch", ["/usr/bin/multiwatch", "-f", "4", "--", "/usr/sbin/fcgiwrap"], True),
        ("cat", ["cat"], False),
        ("", [], False),
    ],
)
def test_a_manager_is_recognised_by_its_title_if_it_has_one(comm, argv, answer):
    assert manages(Names(comm, argv)) is answer


@pytest.mark.parametrize(
    ("loop", "graceful", "moment"),
    [
        (Loop.NONE, ("TERM",), Moment.ANY),
        (Loop.EVENTFD, ("TERM",), Moment.ANY),
        (Loop.PIPE, ("TERM",), Moment.IF_FRESH),
        (Loop.BARE, (), Moment.HELD),
        (Loop.PAIR, (), Moment.HELD),
        (Loop.URGENT, (), Moment.HELD),
        (Loop.HIDDEN, ("TERM",), Moment.HELD),
    ],
)
def test_a_worker_of_gunicorn_is_signalled_as_its_loop_permits(loop, graceful, moment):
    server = named(with_loop("gunicorn", loop))
    assert (server.graceful, server.moment) == (graceful, moment)
    assert bool(server.refusal) is not bool(graceful)
    assert (server.while_busy is None) is (moment is Moment.HELD)
    assert recognise(Names(server.name, [server.name], "python3.11")) == "gunicorn"


def test_a_loop_makes_no_difference_for_other_servers():
    others = [server.name for server in SERVERS if server.name != "gunicorn"]
    assert not any(map(has_loops, others))
    assert [with_loop(name, Loop.PAIR) for name in others] == others


@pytest.mark.parametrize(
    ("then", "now", "permitted"),
    [
        (Loop.NONE, Loop.EVENTFD, True),
        (Loop.NONE, Loop.HIDDEN, False),
        (Loop.NONE, Loop.PIPE, False),
        (Loop.HIDDEN, Loop.NONE, True),
        (Loop.HIDDEN, Loop.PAIR, False),
        (Loop.HIDDEN, Loop.URGENT, False),
        (Loop.PIPE, Loop.HIDDEN, True),
    ],
)
def test_a_worker_is_not_signalled_if_its_loop_has_turned_out_to_be_one_that_permits_less(then, now, permitted):
    assert permits(with_loop("gunicorn", then), lambda: now) is permitted


def test_of_other_servers_no_loop_is_read_again():
    assert permits("uWSGI", lambda: pytest.fail("it was read"))


@pytest.mark.parametrize(
    ("comm", "argv", "runs"),
    [
        ("nginx", ["nginx: worker process"], "nginx"),
        ("perl", ["/usr/bin/perl", "-I", "lib", "-w", "script/myapp_fastcgi.pl", "-n", "5"], "myapp_fastcgi.pl"),
        ("python3.11", ["python3.11", "-m", "gunicorn"], "gunicorn"),
        ("perl", ["perl", "-e", "sleep"], None),
        ("ruby", ["ruby", " "], None),
    ],
)
def test_a_process_runs_its_own_program_or_the_script_of_its_interpreter(comm, argv, runs):
    assert script(comm, argv) == runs


def test_only_what_hides_its_name_or_its_loop_may_turn_out_to_be_another_server():
    names = [UNRECOGNISABLE, *(server.name for server in SERVERS), "gunicorn of an unknown worker class"]
    assert [*filter(is_unsure, names)] == [UNRECOGNISABLE, "gunicorn of an unknown worker class"]
