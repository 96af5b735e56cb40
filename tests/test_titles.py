"""Real servers whose processes change their titles, and children of a manager that are managers themselves."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from support import needs, stack
from support.driver import eventually, workers_below

from supervisor_memreap.core import policy
from supervisor_memreap.core.events import LooksLikeManager
from supervisor_memreap.core.model import Pool, Program, Worker
from supervisor_memreap.core.servers import UNRECOGNISABLE
from supervisor_memreap.core.settings import PoolSettings, Watch
from supervisor_memreap.host import look, procfs

STARMAN = "starman --workers 2 --listen 127.0.0.1:{port} -E deployment {apps}/titled.psgi"
UWSGI = (
    "uwsgi --master --die-on-term --need-app --disable-logging --processes 2 --plugin psgi --procname myapp"
    " --http-socket 127.0.0.1:{port} --psgi {apps}/titled.psgi"
)
GUNICORN = f"{sys.executable} -m gunicorn --workers 2 --bind 127.0.0.1:{{port}} --no-control-socket titled:application"


@contextlib.contextmanager
def running(command: str, where: Path) -> Iterator[tuple[int, int]]:
    """The pid of what this command starts, and the port on which it listens."""
    needs.skip_without_programs(f"command={command}")
    if not shutil.which(command.split(maxsplit=1)[0]):
        pytest.skip(f"{command.split(maxsplit=1)[0]} is not there: tests/run installs it")
    shutil.copy(stack.APPS / "titled.py", where)
    port = stack.free_port()
    words = command.format(port=port, apps=stack.APPS).split()
    # gunicorn has the socket of its dirty arbiter in the temporary directory: of its path the kernel takes 107 bytes.
    environment, nowhere = {**os.environ, "TMPDIR": str(where)}, subprocess.DEVNULL
    with subprocess.Popen(words, cwd=where, env=environment, stdout=nowhere, stderr=nowhere) as process:
        try:
            yield process.pid, port
        finally:
            below = psutil.Process(process.pid).children(recursive=True)
            process.kill()
            for each in below:
                each.kill()


def seen(manager: int) -> Pool:
    return look.look(Watch(Program("myapp", "myapp", "RUNNING", manager), PoolSettings(limit=1)), procfs.source())


def ask(port: int) -> None:
    try:
        urllib.request.urlopen(f"http://127.0.0.1:{port}/gunicorn", timeout=10).close()
    except urllib.error.URLError as error:
        raise AssertionError from error  # it does not listen yet


def assert_titled(manager: int, port: int, title: str) -> None:
    """All of its workers have that title, which they take at their first request."""
    ask(port)
    titles = [" ".join([process.name(), *process.cmdline()]) for process in psutil.Process(manager).children()]
    assert len(titles) == 2
    assert [each for each in titles if title not in each] == []


@pytest.mark.parametrize(
    ("command", "title", "server"),
    [(STARMAN, "myapp /gunicorn", "Starman"), (UWSGI, "myapp", "uWSGI"), (GUNICORN, "myapp", "gunicorn")],
    ids=["Starman", "uWSGI", "gunicorn"],
)
def test_workers_with_a_changed_title_belong_to_the_same_server(command, title, server, tmp_path):
    with running(command, tmp_path) as (manager, port):
        eventually(lambda: assert_titled(manager, port, title))
        pool = seen(manager)
        assert [worker.detail.server for worker in pool.workers] == [server, server]
        assert [worker.detail.looks_like_manager for worker in pool.workers] == [False, False]


@pytest.mark.parametrize(
    ("argument", "server"), [("", "FCGI::ProcManager"), (" a", UNRECOGNISABLE)], ids=["manager", "both"]
)
def test_a_server_is_recognised_when_manager_and_workers_have_other_titles(argument, server, tmp_path):
    with running(f"perl {{apps}}/titled.pl{argument}", tmp_path) as (manager, _):
        eventually(lambda: assert_called(manager, "worker of" if argument else "perl-fcgi", 2))
        assert {worker.detail.server for worker in seen(manager).workers} == {server}


def assert_called(above: int, title: str, count: int) -> list[psutil.Process]:
    called = [process for process in psutil.Process(above).children() if title in " ".join(process.cmdline())]
    assert len(called) == count
    return called


def test_the_dirty_arbiter_of_gunicorn_with_the_name_of_its_siblings_is_never_signalled(where):
    (where / "gunicorn.conf.py").write_text("dirty_apps = ['titled:Waits']\ndirty_workers = 2\n")
    with running(GUNICORN, where) as (manager, port):
        arbiter = eventually(lambda: assert_has_arbiter(manager))
        # Without setproctitle, only its children distinguish it from the workers.
        names = {tuple(psutil.Process(pid).cmdline()) for pid in workers_below(manager)}
        assert len(names) == 1
        eventually(lambda: assert_vetoed(manager, [arbiter]))
        ask(port)


def assert_has_arbiter(manager: int) -> int:
    workers = workers_below(manager)
    assert len(workers) == 3
    try:
        arbiters = [pid for pid in workers if len(workers_below(pid)) == 2]
    except psutil.NoSuchProcess as error:
        raise AssertionError from error  # it is still starting
    assert len(arbiters) == 1
    return arbiters[0]


def assert_vetoed(manager: int, expected: list[int]) -> None:
    """These of its children, and no others, are not signalled since they may be managers."""
    pool = seen(manager)
    vetoed = [worker.id.pid for worker in pool.workers if may_be_manager(pool, worker)]
    assert vetoed == expected
    others = [worker for worker in pool.workers if worker.id.pid not in expected]
    assert [worker.detail.looks_like_manager for worker in others] == [False] * len(others)


def may_be_manager(pool: Pool, worker: Worker) -> bool:
    return isinstance(policy.veto(pool, worker), LooksLikeManager)
