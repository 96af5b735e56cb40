"""`memreap doctor`: what supervisord and supervisorctl can import and read, as their own Pythons say.

The findings are made of answers that the test gives; the Pythons that are asked are real.
"""

from __future__ import annotations

import ast
import contextlib
import os
import re
import subprocess
import sys

import pytest
from support.doctor import READY, RUNNING, SOUND, Environment, assert_finds, assert_found, examined, needs_root
from support.driver import assert_matches
from support.stack import INTERFACE, PLUGIN, ROOT, python_for

from supervisor_memreap.core.frozen import replace
from supervisor_memreap.doctor import interpreter
from supervisor_memreap.doctor.interpreter import Answer
from supervisor_memreap.listener.doctorprocess import DoctorProcess

RESOLVED = "supervisor_memreap.rpcinterface:make_rpcinterface cannot be resolved within [rpcinterface:memreap]"
REFUSES = Answer("supervisord", "/their/python", refused=RESOLVED)
OLD = Answer("supervisord", "/their/python", version="0.1")
UNKNOWN = Answer("supervisord", unknown="it is another user's process: run memreap doctor as root")


@pytest.mark.parametrize(
    ("answer", "sections", "expression"),
    [
        (OLD, "", r"listener: note: .*/their/python has supervisor_memreap 0.1, not .*: first .*, then add \[rpcint"),
        (
            UNKNOWN,
            "",
            f"supervisord: note: cannot tell whether supervisord will start again, or has read .*: {UNKNOWN.unknown}$",
        ),
        (UNKNOWN, "", r"listener: note: .*; do not add \[rpcinterface:memreap\] before it is known"),
        (REFUSES, INTERFACE, "supervisord: it has not read .*: restart supervisord, but first solve the problem"),
    ],
)
def test_nothing_is_advised_with_which_supervisord_may_not_start_again(answer, sections, expression):
    assert_finds(expression, examined(SOUND + sections, answer=answer))


def test_where_neither_section_may_be_added_one_note_says_so():
    python = Answer("supervisord", "/their/python", error="No module named 'supervisor_memreap'")
    neither = (
        r"listener: note: whether it hangs cannot be seen, since supervisord has no \[rpcinterface:memreap\]; add"
        r" neither that nor \[ctlplugin:memreap\]: /their/python cannot import memreap, and supervisord would not start"
        r" again \(docs/install.md\)$"
    )
    found = examined(answer=python)
    assert_finds(neither, found)
    assert "supervisorctl" not in found


def test_whether_a_listener_hangs_is_no_question_while_none_runs():
    fatal = [replace(row, state="FATAL", pid=0) if row.name == "memreap" else row for row in RUNNING]
    assert "listener: note: whether it hangs" in examined()
    assert "whether it hangs" not in examined(rows=fatal)


def test_a_restart_of_supervisord_is_advised_by_one_function_alone():
    """It knows whether supervisord would start again: no other text of doctor may advise it."""
    doctor = ROOT / "supervisor_memreap/doctor"
    advising = {
        path.name
        for path in doctor.glob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant) and "restart supervisord" in str(node.value)
    }
    assert advising == {"restart.py"}


def test_with_the_interface_an_older_memreap_and_a_missing_plugin_are_notes():
    expression = (
        "supervisord: note: .* has supervisor_memreap 0.1, not .*: first .*, then restart supervisord, once, when"
    )
    expression += " convenient: that restarts all its programs$"
    assert_finds(expression, examined(SOUND + INTERFACE, answer=OLD, listener=READY))
    advice = r"supervisorctl: note: for supervisorctl memreap status, add \[ctlplugin:memreap\] with "
    assert_finds(advice, examined(SOUND + INTERFACE, listener=READY))


def test_a_supervisorctl_that_cannot_load_memreap_is_a_note_if_another_one_asked(monkeypatch):
    sections = SOUND + INTERFACE + PLUGIN
    fails = "every call of supervisorctl{} fails: .*cannot be resolved"
    assert_matches("(?m)^supervisorctl: " + fails.format(""), examined(sections, answer=REFUSES, listener=READY))
    # As the listener starts it, for supervisorctl memreap doctor.
    printed = "import os; print({key: os.environ[key] for key in os.environ if key.startswith('MEMREAP_')})"
    monkeypatch.setattr(sys, "argv", ["-c" + printed])
    asked = DoctorProcess("", "1")
    while not asked.has_ended():
        asked.wake(asked.fds())
    for key, value in ast.literal_eval(asked.result()[1]).items():
        monkeypatch.setenv(key, value)
    other = r"(?m)^supervisorctl: note: " + fails.format(r" \(another supervisorctl than the one that asked\)")
    assert_matches(other, examined(sections, answer=REFUSES, listener=READY))
    unread = Answer("supervisord", "/their/python", refused="Source contains parsing errors")
    assert_matches("(?m)^supervisorctl: every call", examined(sections, answer=unread, listener=READY))


def test_a_supervisord_that_is_down_because_of_the_section_is_reported(where, monkeypatch):
    theirs = Environment(where)
    monkeypatch.setenv("PATH", theirs.path)
    (where / "supervisord.conf").write_text(
        f"[supervisord]\n[supervisorctl]\nserverurl=unix://{where}/s.sock\n{SOUND}{INTERFACE}"
    )
    script = theirs.script("supervisord")
    expression = rf"\Amemreap: supervisord: supervisord will not start as {script}: {re.escape(RESOLVED)}"
    assert_found(where, expression)


@contextlib.contextmanager
def called_supervisord(where, python: str = sys.executable, **options):
    """The pid of a process that is started as supervisord is."""
    script = where / "supervisord"
    script.write_text("import sys\nprint('ready', flush=True)\nsys.stdin.read()\n")
    with subprocess.Popen([python, script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, **options) as process:
        assert process.stdout.readline() == b"ready\n"
        yield process.pid
        process.communicate()


def test_a_supervisord_of_another_user_may_not_be_asked(where, monkeypatch):
    with called_supervisord(where) as pid:
        monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 33)
        assert interpreter.of_supervisord(pid, [], 30.0).unknown == UNKNOWN.unknown


@needs_root
def test_a_file_readable_only_by_root_is_unknown_if_supervisord_changed_its_user(where):
    where.chmod(0o777)
    python = python_for("www-data", where).split()[2]
    (where / "supervisord.conf").write_text("[supervisord]\n[include]\nfiles=secret.conf\n")
    (where / "secret.conf").write_text("[program:secret]\ncommand=sleep 1000\n")
    (where / "secret.conf").chmod(0o600)
    environ = {**os.environ, "PYTHONPATH": f"{where}/lib"}
    with called_supervisord(where, python, env=environ, cwd=where, user="www-data", group="www-data") as pid:
        files = [f"{where}/supervisord.conf", f"{where}/secret.conf"]
        assert f"{where}/secret.conf cannot be read by" in interpreter.of_supervisord(pid, files, 30.0).unknown


def test_the_check_changes_nothing_and_a_hanging_python_is_given_up(where):
    theirs = Environment(where)
    conf = where / "supervisord.conf"
    conf.write_text(
        f"[supervisord]\nlogfile={where}/x.log\npidfile={where}/x.pid\n[unix_http_server]\nfile={where}/x\n"
    )
    before = sorted(where.rglob("*"))
    script = theirs.script("supervisord")
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
def test_the_flags_of_python_are_the_words_before_the_script(words, flags):
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
def test_the_python_of_a_script_is_the_one_in_its_first_line(tmp_path, head, words):
    (tmp_path / "x").write_text(head)
    assert interpreter._shebang(str(tmp_path / "x")) == words


def test_an_unrelated_script_is_not_run(tmp_path):
    for text in ("", "\x7fELF", "#!\n", "#!/bin/sh\necho\n"):
        (tmp_path / "supervisorctl").write_text(text)
        answer = interpreter.of_script("supervisorctl", f"{tmp_path}/supervisorctl", ["/none"], os.environ, 10.0)
        assert re.search("is not a Python script|is not a Python interpreter", answer.unknown), text
        assert not answer.can_import


def test_the_supervisorctl_beside_the_running_supervisord_precedes_the_one_on_the_path(tmp_path):
    with called_supervisord(tmp_path) as pid:
        assert interpreter.script_beside(pid, "supervisorctl") is None
        beside = tmp_path / "supervisorctl"
        beside.touch(mode=0o755)
        assert interpreter.script_beside(pid, "supervisorctl") == str(beside)
        beside.chmod(0o644)
        assert interpreter.script_beside(pid, "supervisorctl") is None
    assert interpreter.script_beside(pid, "supervisorctl") is None
