"""Which children of a real manager are workers: those that take connections from its sockets."""

from __future__ import annotations

import contextlib
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from support import doctor, driver
from support.driver import assert_in, eventually, until, workers_below
from support.load import Load
from support.reaping import Reaping, shorten_times
from support.stack import APPS, INTERFACE
from test_titles import GUNICORN, assert_has_arbiter, running

from supervisor_memreap.core import events
from supervisor_memreap.core.settings import Settings

SHARING = Path(__file__).parent / "support/sharing.py"


@pytest.fixture(autouse=True)
def _no_test_waits(monkeypatch):
    shorten_times(monkeypatch)


@contextlib.contextmanager
def reaping(manager: int, **settings: float) -> Iterator[Reaping]:
    """All of its children are due, again and again."""
    with Reaping(manager) as own:
        own.settings = Settings({"myapp": {"max_age": 0.6, "min_age": 0.3, "settle": 0.2, **settings}})
        yield own


def sharing(how: str):
    return driver.pool(2, 40, how, script=SHARING)


@pytest.mark.parametrize("how", ["closed", "other"])
def test_a_child_that_accepts_no_connections_of_the_pool_is_a_helper_and_never_signalled(how):
    with sharing(how) as manager, reaping(manager) as own:
        *workers, helper = sorted(workers_below(manager))
        eventually(lambda: assert_all_are_signalled(own, workers))
        assert helper not in own.signalled()
        assert psutil.pid_exists(helper)
        (status,) = own.reaper.status()
        assert status["helpers"] == [helper]
        assert helper not in [worker["pid"] for worker in status["workers"]]


def assert_settled(own: Reaping, number: int) -> None:
    own.tick()
    assert len(own.all_of(events.Settled)) >= number, own.events


def assert_all_are_signalled(own: Reaping, workers: list[int]) -> None:
    """And the next one could be signalled too."""
    assert_settled(own, 2)
    assert own.signalled() >= set(workers)


def test_a_logger_that_holds_the_socket_and_never_serves_is_not_signalled(monkeypatch):
    monkeypatch.setattr("supervisor_memreap.core.policy.STARTS", 3.0)
    with sharing("logger") as manager, reaping(manager) as own:
        *workers, logger = sorted(workers_below(manager))
        eventually(lambda: assert_all_are_signalled(own, workers))
        assert logger not in own.signalled()
        (reported,) = own.all_of(events.NeverServed)
        assert reported.pid == logger


def test_the_dirty_arbiter_of_gunicorn_is_a_helper(where):
    """And no request is lost while the workers that ask it are reaped."""
    for name in ("growing.py", "dirty.py"):
        shutil.copy(APPS / name, where)
    (where / "gunicorn.conf.py").write_text("dirty_apps = ['dirty:Echoes']\ndirty_workers = 2\n")
    with running(GUNICORN.replace("titled:", "dirty:"), where) as (manager, port):
        arbiter = eventually(lambda: assert_has_arbiter(manager))
        dirty = workers_below(arbiter)
        with reaping(manager) as own, Load(port, clients=4) as load:
            eventually(lambda: assert_settled(own, 3))
            until(lambda: own.tick() and own.reaper.status()[0].get("helpers"), [arbiter])
        assert own.signalled().isdisjoint({arbiter, *dirty})
        assert workers_below(arbiter) == dirty
    assert load.tally.lost == {}
    assert load.tally.answered > 10


def test_workers_that_are_passed_their_connections_are_reaped_by_age_and_a_line_reports_it():
    with sharing("handed") as manager, reaping(manager, idle_wait=0.1) as own:
        eventually(lambda: assert_settled(own, 2))
        (reported,) = own.all_of(events.ServingUnknown)
        assert reported.text.startswith("none of its workers listens")


def test_workers_with_a_socket_each_are_refused_with_one_line():
    with sharing("each") as manager, reaping(manager) as own:
        refused = own.until(events.NotShared)
        for _ in range(3):
            own.tick()
        assert own.all_of(events.NotShared) == [refused]
        assert refused.pid in workers_below(manager)
        assert own.signalled() == set()


LISTENER = f"{INTERFACE}[eventlistener:memreap]\ncommand={Path(sys.executable).parent}/memreap listen\nevents=TICK_5\n"
SERVER = """\
import http.server, signal, sys
signal.signal(signal.SIGTERM, lambda *_: sys.exit())
held = bytearray(60 << 20)
http.server.HTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler).serve_forever()
"""


def test_programs_with_a_port_each_are_refused_and_the_line_names_the_remedy(sock):
    where = sock.parent
    (where / "server.py").write_text(SERVER)
    section = (
        f"[program:myapp]\ncommand={sys.executable} {where}/server.py\nnumprocs=2\n"
        "process_name=%(program_name)s_%(process_num)02d\nautorestart=true\n"
        "[memreap:myapp]\nlimit=30MB\nmin_age=1s\nsettle=1s\ntarget=self\nsignal=TERM\n"
    )
    text = f'{section}{LISTENER}stderr_logfile={where}/memreap.log\nenvironment=TMPDIR="{where}"\n'
    with driver.supervisord(where, text):
        eventually(lambda: assert_in("listens on its own socket", (where / "memreap.log").read_text()))
        findings = doctor.doctor(where)  # which takes longer than a tick
        log = (where / "memreap.log").read_text()
        assert len(re.findall(r"myapp: worker \d+ listens on its own socket", log)) == 1
        assert "let supervisord hold one socket for all ([fcgi-program], socket=)" in log
        assert "sent between" not in log
        assert "listens on its own socket" in findings.stdout
        assert findings.returncode == 1
