"""The command line itself: what is printed where, and with which exit status."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from support.inprocess import memreap

from supervisor_memreap.supervisord import configfile


def process(*words: str) -> subprocess.CompletedProcess[str]:
    """One of its own, of which the exit status is that of the command."""
    command = [sys.executable, "-m", "supervisor_memreap", *words]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_without_a_command_it_prints_its_help_and_exits_2():
    result = process()
    assert (result.returncode, result.stderr) == (2, "")
    assert result.stdout == memreap("--help").stdout


@pytest.mark.parametrize("command", ["status", "settings", "doctor", "once"])
def test_the_configuration_may_precede_or_follow_the_command(tmp_path, command):
    conf = tmp_path / "supervisord.conf"
    conf.write_text("[memreap:myapp]\nlimit=150 monkeys\n")
    before, behind = memreap("-c", str(conf), command), memreap(command, "-c", str(conf))
    assert "limit=150 monkeys: not a size" in before.stdout + before.stderr
    assert (before.stdout, before.stderr, before.returncode) == (behind.stdout, behind.stderr, behind.returncode)


def test_the_configuration_after_the_command_wins(tmp_path):
    conf = tmp_path / "supervisord.conf"
    conf.write_text("[memreap:myapp]\nlimit=150 monkeys\n")
    result = process("-c", "/nowhere", "settings", "-c", str(conf))
    assert (result.returncode, result.stdout) == (2, "")
    assert "monkeys" in result.stderr


def test_doctor_json_distinguishes_problems_from_notes(tmp_path):
    conf = tmp_path / "supervisord.conf"
    conf.write_text("[memreap:myapp]\nlimit=150 monkeys\n")
    result = process("doctor", "--json", "-c", str(conf))
    values = json.loads(result.stdout)
    kinds = {finding["kind"] for finding in values["findings"] if "monkeys" in finding["text"]}
    assert (result.returncode, result.stderr, kinds) == (1, "", {"problem"})


def test_doctor_without_a_configuration_has_found_a_problem(monkeypatch):
    monkeypatch.setattr(configfile, "searched", lambda: ["/nowhere/supervisord.conf"])
    result = memreap("doctor")
    assert (result.returncode, result.stderr) == (1, "")
    assert "configuration: no supervisord.conf in /nowhere/supervisord.conf; specify it with -c\n" in result.stdout


def test_demo_refuses_a_configuration():
    result = memreap("-c", "/nowhere", "demo")
    assert result.returncode == 2
    assert "unexpected argument -c: demo has its own configuration" in result.stderr


@pytest.mark.parametrize(
    "words", [["x" * 100_000], ["status", "--" + "x" * 100_000], ["status", "--watch", "x" * 100_000]]
)
def test_bad_usage_quotes_at_most_100_characters(words):
    result = memreap(*words)
    assert (result.returncode, result.stdout) == (2, "")
    assert len(result.stderr) < 400
    assert len(result.stderr.splitlines()) == 1


@pytest.mark.parametrize("command", ["settings", "doctor"])
def test_a_value_of_100_kb_is_not_printed_whole(tmp_path, command):
    conf = tmp_path / "supervisord.conf"
    conf.write_text(f"[memreap:myapp]\nlimit={'v' * 100_000}\n")
    result = memreap(command, "-c", str(conf))
    assert "limit=vvv" in result.stdout + result.stderr
    assert "v" * 101 not in result.stdout + result.stderr


def test_the_listener_does_not_import_what_it_never_uses():
    command = [sys.executable, "-X", "importtime", "-m", "supervisor_memreap", "listen"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 2
    loaded = {line.rpartition("|")[2].strip() for line in result.stderr.splitlines()}
    assert "supervisor_memreap.listener.reaper" in loaded
    unused = {"sqlite3", "asyncio", "matplotlib", "supervisor_memreap.doctor", "supervisor_memreap.reports"}
    assert not loaded & unused
