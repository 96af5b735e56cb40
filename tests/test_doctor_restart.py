"""`memreap doctor` where supervisord or supervisorctl runs in a Python without memreap, on the real ones."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import venv
from pathlib import Path

import psutil
import pytest
import supervisor
from support.doctor import SMALL_POOL, assert_found, doctor, needs_root, running
from support.driver import eventually
from support.stack import INTERFACE, PLUGIN, python_for

import supervisor_memreap
from supervisor_memreap import __version__
from supervisor_memreap.doctor import interpreter

TEXT = SMALL_POOL
RESOLVED = r"supervisor_memreap.rpcinterface:make_rpcinterface cannot be resolved within \[rpcinterface:memreap\]"


class Environment:
    """A venv that has supervisor and pip, and no memreap."""

    def __init__(self, where: Path):
        self.directory = where / "their venv"  # with a space, as a path may have one
        venv.create(self.directory, symlinks=True)
        self.python = str(self.directory / "bin/python")
        (self._packages,) = self.directory.glob("lib/python*/site-packages")
        for name in ("supervisor", "pip"):
            self._add(Path(supervisor.__file__).parent.parent / name)
        for name in ("supervisord", "supervisorctl"):
            script = self.directory / "bin" / name
            # As pip writes it where the path has a space.
            head = f"#!/bin/sh\n'''exec' \"{self.python}\" \"$0\" \"$@\"\n' '''\n"
            script.write_text(f"{head}import sys\nfrom supervisor.{name} import main\nsys.exit(main())\n")
            script.chmod(0o755)

    def _add(self, package: Path) -> None:
        (self._packages / package.name).symlink_to(package)

    def install_memreap(self) -> None:
        """What `pip install` does, without an index."""
        self._add(Path(supervisor_memreap.__file__).parent)
        self._add(Path(psutil.__file__).parent)

    @property
    def environ(self) -> dict[str, str]:
        return {**os.environ, "PATH": f"{self.directory}/bin:{os.environ['PATH']}"}


@pytest.fixture
def theirs(where) -> Environment:
    return Environment(where)


def add(where: Path, text: str) -> None:
    with (where / "supervisord.conf").open("a") as conf:
        conf.write(text)


def test_a_supervisord_that_cannot_import_memreap_is_found_before_its_section_is_advised(where, theirs):
    with running(where, TEXT, python=theirs.python):
        remedy = rf"first '{theirs.python}' -m pip install DIRECTORY, the source of memreap {re.escape(__version__)}"
        expression = (
            r"listener: note: .*python cannot import supervisor_memreap \(ModuleNotFoundError: .*\): with"
            rf" \[rpcinterface:memreap\] supervisord would not start again; {remedy}; then run memreap doctor again"
        )
        eventually(lambda: assert_found(where, expression, 0))


def test_a_section_that_keeps_supervisord_from_starting_is_the_first_thing_that_is_said(where, theirs):
    with running(where, TEXT, python=theirs.python):
        add(where, INTERFACE)
        remedy = rf"remove that section, or '{theirs.python}' -m pip install DIRECTORY, the source of memreap "
        expression = rf"\Amemreap: supervisord: supervisord will not start again: {RESOLVED}: .*; {remedy}"
        eventually(lambda: assert_found(where, expression))
        assert "restart supervisord, but first solve the problem that keeps it from starting" in doctor(where).stdout
        # And so it is.
        start = [theirs.python, "-m", "supervisor.supervisord", "-n", "-c", f"{where}/supervisord.conf"]
        result = subprocess.run(start, capture_output=True, text=True, check=False, cwd=where, timeout=30)
        assert re.search(RESOLVED, result.stderr)
        assert result.returncode == 2
        theirs.install_memreap()
        assert_found(where, r"it has not read \[rpcinterface:memreap\] yet: restart supervisord, once\n")
    # And now it starts.
    with running(where, TEXT + INTERFACE, python=theirs.python):
        eventually(lambda: assert_found(where, r"no problems found\n\Z", 0))


def test_a_supervisord_that_is_down_because_of_the_section_is_found(where, theirs):
    (where / "supervisord.conf").write_text(
        f"[supervisord]\n[supervisorctl]\nserverurl=unix://{where}/s.sock\n{TEXT}{INTERFACE}".replace(
            "WHERE", str(where)
        )
    )
    expression = (
        rf"\Amemreap: supervisord: supervisord will not start as {theirs.directory}/bin/supervisord: {RESOLVED}"
    )
    assert_found(where, expression, env=theirs.environ)


def test_a_supervisorctl_that_cannot_import_memreap_is_found_before_and_after_its_section_is_added(where, theirs):
    with running(where, TEXT + INTERFACE):
        before = (
            r"supervisorctl: note: do not add \[ctlplugin:memreap\] yet: .*, and every call of .*ctl would fail; first"
        )
        eventually(lambda: assert_found(where, before, 0, env=theirs.environ))
        advice = r"supervisorctl: note: for supervisorctl memreap status, add \[ctlplugin:memreap\] with "
        assert_found(where, advice, 0)
        add(where, PLUGIN)
        after = r"supervisorctl: every call of .*/their venv/bin/supervisorctl fails: .*; remove that section, or '"
        assert_found(where, after, env=theirs.environ)
        call = [f"{theirs.directory}/bin/supervisorctl", "-c", f"{where}/supervisord.conf", "status"]
        result = subprocess.run(call, capture_output=True, text=True, check=False, timeout=30)
        assert (result.returncode, "cannot be resolved" in result.stderr) == (2, True)
        assert "fails" not in doctor(where).stdout


@needs_root
def test_where_supervisords_python_may_not_be_asked_the_section_is_not_advised(where):
    where.chmod(0o777)
    command = [*python_for("www-data", where).split(), "doctor", "-c", f"{where}/supervisord.conf"]

    def assert_unknown() -> None:
        result = subprocess.run(
            command, capture_output=True, text=True, check=False, cwd="/", user="www-data", timeout=60
        )
        expression = (
            r"supervisord: note: whether supervisord will start again, .* is unknown: it is another user's process:"
            r" run memreap doctor as root\n"
            r"(.*\n)*.*listener: note: .*; do not add \[rpcinterface:memreap\] before it is known"
        )
        assert re.search(expression, result.stdout), result.stdout + result.stderr

    with running(where, TEXT, http=f"[unix_http_server]\nfile={where}/s.sock\nchmod=0777\n"):
        eventually(assert_unknown)


@needs_root
def test_a_file_that_only_root_may_read_is_unknown_where_supervisord_has_become_another_user(where, monkeypatch):
    where.chmod(0o777)
    python = python_for("www-data", where).split()[2]
    monkeypatch.setenv("PYTHONPATH", f"{where}/lib")
    (where / "secret.conf").write_text("[program:secret]\ncommand=sleep 1000\n")
    (where / "secret.conf").chmod(0o600)
    http = f"user=www-data\n[unix_http_server]\nfile={where}/s.sock\n"
    with running(where, "[include]\nfiles=secret.conf\n", http=http, python=python):
        expression = (
            rf"note: whether supervisord will start again, .* unknown: .* {where}/secret.conf may not be read by"
        )
        assert_found(where, expression)


def test_what_supervisords_own_parser_refuses_is_found_whatever_it_is(where):
    with running(where, TEXT):
        add(where, "[program:myother]\ncommand=sleep 1000\nnumprocs=2\n")
        expression = r"\Amemreap: supervisord: supervisord will not start again: %\(process_num\) must be present"
        eventually(lambda: assert_found(where, expression))


def test_the_question_changes_nothing_and_a_python_that_hangs_is_given_up(where, theirs):
    conf = where / "supervisord.conf"
    conf.write_text(
        f"[supervisord]\nlogfile={where}/x.log\npidfile={where}/x.pid\n[unix_http_server]\nfile={where}/x\n"
    )
    before = sorted(where.rglob("*"))
    script = f"{theirs.directory}/bin/supervisord"
    answer = interpreter.of_script("supervisord", script, [str(conf)], os.environ, 30.0)
    assert (answer.unknown, answer.refused, answer.processes, answer.serverurl) == ("", "", [], f"unix://{where}/x")
    assert sorted(where.rglob("*")) == before
    assert (
        "did not answer within 0 s"
        in interpreter.of_script("supervisord", script, [str(conf)], os.environ, 0.0).unknown
    )


@pytest.mark.parametrize(
    ("words", "flags"),
    [
        (["/x/supervisord", "-n"], []),
        (["-I", "-sE", "/x/supervisord"], ["-I", "-sE"]),
        (["-W", "ignore", "-Xdev", "-m", "supervisor.supervisord"], ["-W", "ignore", "-Xdev"]),
        (["-bW", "error", "-c", "import supervisor"], ["-bW", "error"]),
    ],
)
def test_the_flags_of_python_are_those_in_front_of_the_script(words, flags):
    assert list(interpreter._flags(words)) == flags


@pytest.mark.parametrize(
    ("head", "words"),
    [
        ("#!/usr/bin/python3 -I\n", ["/usr/bin/python3", "-I"]),
        ("#!/usr/bin/env python3\n", ["python3"]),
        ("#! /usr/bin/env -S python3 -s\n", ["python3", "-s"]),
        ("#!/bin/sh\n'''exec' /a/long/python \"$0\" \"$@\"\n' '''\n", ["/a/long/python"]),
    ],
)
def test_the_python_of_a_script_is_that_of_its_first_line(tmp_path, head, words):
    (tmp_path / "x").write_text(head)
    assert interpreter._shebang(str(tmp_path / "x")) == words


def test_a_script_of_something_else_is_not_asked(tmp_path):
    for text in ("", "\x7fELF", "#!\n", "#!/bin/sh\necho\n"):
        (tmp_path / "supervisorctl").write_text(text)
        answer = interpreter.of_script("supervisorctl", f"{tmp_path}/supervisorctl", ["/none"], os.environ, 10.0)
        assert re.search("is not a Python script|is not a Python", answer.unknown), text
        assert not answer.can_import


def test_the_supervisorctl_beside_the_supervisord_that_runs_comes_before_the_one_on_the_path(tmp_path):
    script = tmp_path / "supervisord"
    script.write_text("import sys\nprint('ready', flush=True)\nsys.stdin.read()\n")
    with subprocess.Popen([sys.executable, script], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout
        assert process.stdout.readline() == b"ready\n"
        assert interpreter.script_beside(process.pid, "supervisorctl") is None
        beside = tmp_path / "supervisorctl"
        beside.touch(mode=0o755)
        assert interpreter.script_beside(process.pid, "supervisorctl") == str(beside)
        beside.chmod(0o644)
        assert interpreter.script_beside(process.pid, "supervisorctl") is None
        process.communicate()
    assert interpreter.script_beside(process.pid, "supervisorctl") is None
