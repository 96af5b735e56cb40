"""Every file in conf.d-examples/ is loaded and run by a real supervisord."""

from __future__ import annotations

import configparser
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest
from support import stack
from support.driver import eventually
from test_examples_of_servers import EXAMPLES as OTHER_SERVERS

EXAMPLES = stack.ROOT / "conf.d-examples"
FILES = sorted(EXAMPLES.glob("*.conf"))
TOGETHER = [file for file in FILES if file.stem not in OTHER_SERVERS]


class Expected(NamedTuple):
    workers: int
    limit_mb: int
    """Of `limit`, or of `total`, which the growth of one worker exceeds too."""


POOLS = {
    "admin": Expected(2, 150),
    "myapi": Expected(4, 150),
    "myapp": Expected(5, 150),
    "shop": Expected(5, 100),
    "web": Expected(5, 300),
}
# Of single.conf, in which there is no manager.
SINGLE = {"single": Expected(4, 150)}


def test_the_index_names_each_example():
    named = set(re.findall(r"conf\.d-examples/([a-z-]+\.conf)", (stack.ROOT / "docs/index.md").read_text()))
    expected = ("memreap", "catalyst", "plack", "fcgi-program", "single", "container", "notify", "mail")
    assert {file.name for file in FILES} == named == {f"{name}.conf" for name in (*expected, *OTHER_SERVERS)}


def test_no_two_examples_define_the_same_program():
    names = [name for file in FILES for name in re.findall(r"(?m)^\[(?:fcgi-)?program:(.*)\]$", file.read_text())]
    assert len(names) == len(set(names)) > len(OTHER_SERVERS)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_no_example_makes_supervisord_or_supervisorctl_import_memreap_unasked(file):
    parser = configparser.RawConfigParser(inline_comment_prefixes=(";",))
    parser.read(file)
    assert not [section for section in parser.sections() if section.startswith(("rpcinterface:", "ctlplugin:"))]


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_each_program_finishes_its_requests_and_stays_in_the_foreground(file):
    parser = configparser.RawConfigParser(inline_comment_prefixes=(";",))
    parser.read(file)
    for section in parser.sections():
        if "program:" in section:
            assert parser.getint(section, "stopwaitsecs") > 60
            assert not re.search(r" (-d|-D|--daemon(ize)?)\b", parser.get(section, "command"))
            assert re.search("without (-d|--daemon|daemonize=)|in the foreground", file.read_text().lower())


@pytest.fixture(scope="module")
def together(catalyst_script):
    """Those of TOGETHER in one supervisord, as they stand but for the paths, and with times in which tests can wait."""
    where = stack.directory()
    where.chmod(0o777)
    shutil.copy(stack.APPS / "leaky.psgi", where / "app.psgi")
    replacements = {
        r"/srv/(myapp|myapi|single)/script/\w+_fastcgi\.pl": str(catalyst_script),
        r"/srv/(shop|web|admin)/app\.psgi": f"{where}/app.psgi",
        r"/(var/log/supervisor|run/myapp|run/shop|run/web|run/admin|run)/": f"{where}/",
        r"command=memreap": f"command={Path(sys.executable).parent}/memreap",
        r"(?m)^(min_age|settle)=.*$": r"\1=1s",
        r"(?m)^checks=6$": "checks=2",
        r"(?m)^;(?=\[rpcinterface:|supervisor\.rpc)": "",  # for single.conf
    }
    replacements[r"/usr/bin/python3 -I /etc/supervisor/"] = f"{sys.executable} -I {EXAMPLES}/"
    replacements["--to root"] = "--to root --sendmail true"
    replacements["logger -t memreap"] = f"tee -a {where}/notified"
    if os.getuid() != 0:
        replacements[r"(?m)^(user|socket_owner)=.*$"] = ""
    for file in TOGETHER:
        text = file.read_text()
        for pattern, new in replacements.items():
            text = re.sub(pattern, new, text)
        (where / file.name).write_text(text)
    include = f"[include]\nfiles={' '.join(file.name for file in TOGETHER)}\n"
    with stack.running(include + stack.recorder(where), "myapp", where) as pool:
        eventually(lambda: assert_all_are_there(pool))
        yield pool
    shutil.rmtree(where)


def assert_all_are_there(pool: stack.Pool) -> None:
    for name, (count, *_) in POOLS.items():
        assert len(pool.another(name).workers()) == count


def test_all_examples_run_together_and_are_watched(together):
    def assert_watched():
        assert (
            "watching admin (limit 150 MiB uss), myapi (limit 150 MiB uss, headroom 10%), myapp (limit 150 MiB uss,"
            " headroom 10%), shop (limit 100 MiB uss, headroom 10%), web (total 300 MiB, headroom 10%),"
            " single (limit 150 MiB uss, headroom 10%)" in together.log()
        )

    eventually(assert_watched)
    dry = subprocess.run(
        [sys.executable, "-m", "supervisor_memreap", "once", "-n", "-c", str(together.directory / "supervisord.conf")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (dry.returncode, dry.stderr) == (0, "")
    for name, (count, *_) in {**POOLS, **SINGLE}.items():
        assert f"memreap: {name}: {count} workers, none to replace" in dry.stdout


def test_only_the_worker_that_grows_is_replaced_in_each_example(together):
    pools = [together.another(name) for name in POOLS]
    before = {pool.name: pool.workers() for pool in pools}
    grown = {pool.name: pool.grow(1, POOLS[pool.name].limit_mb + 50) for pool in pools}

    for pool in pools:
        eventually(lambda: assert_reaped(pool, *grown[pool.name]))  # noqa: B023
    assert_notified(together.directory / "notified", grown)
    for pool in pools:
        assert before[pool.name] - pool.workers() == grown[pool.name]
        assert len(pool.workers()) == POOLS[pool.name].workers
        assert_reaped(pool, *grown[pool.name])


def assert_reaped(pool: stack.Pool, pid: int) -> None:
    """This worker and no other one."""
    events = [event for event in stack.announced(pool.directory) if event["pool"] == pool.name]
    events = [event for event in events if event["event"] != "relieved"]  # of the pool with a total
    assert [(event["event"], event["pid"]) for event in events] == [("reap", pid), ("left", pid)]


def assert_notified(path: Path, grown: dict[str, set[int]]) -> None:
    """By the listener of notify.conf."""

    def all_are_there() -> None:
        text = path.read_text()
        for name, pids in grown.items():
            for pid in pids:
                assert f"reap: {name}: worker {pid} holds " in text
                assert f"left: {name}: worker {pid} left after " in text

    eventually(all_are_there)


def test_a_process_without_a_manager_that_grows_is_replaced(together):
    single = together.another("single")
    (grown,) = single.grow(1, 200)
    eventually(lambda: assert_reaped(single, grown))
    reap, _ = (event for event in stack.announced(single.directory) if event["pool"] == "single")
    assert "TERM sent" in reap["message"]


def test_a_listener_ended_by_hand_is_restarted(together):
    before = stack.listener_in(together.directory)
    lines = together.log().splitlines()
    before.terminate()

    def assert_started_again():
        assert stack.listener_in(together.directory) != before
        assert len([line for line in together.log().splitlines()[len(lines) :] if "memreap: version " in line]) == 1

    eventually(assert_started_again)
