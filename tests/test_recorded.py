"""A real listener records, and the commands that read its history find it and show what happened."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

import pytest
from support import inprocess, stack
from support.driver import POOL, eventually, supervisord, until

from supervisor_memreap.supervisord.client import Client


@pytest.fixture(scope="module")
def recorded():
    """A directory in which a supervisord runs, with a listener that has reaped a worker at a user's request."""
    where = stack.directory()
    text = (
        f"[program:myapp]\ncommand={sys.executable} {POOL} 3 40\n[memreap]\nlimit=1GB\nmin_age=1s\nsettle=1s\n"
        f"[memreap:myapp]\n[eventlistener:memreap]\ncommand={sys.executable} -m supervisor_memreap listen\n"
        f'events=TICK_5,REMOTE_COMMUNICATION\nstderr_logfile={where}/memreap.log\nenvironment=TMPDIR="{where}"\n'
    )
    try:
        with supervisord(where, text):
            eventually(lambda: pools(where))
            client = Client(f"unix://{where}/s.sock")
            client._call("supervisor.sendRemoteCommEvent", "memreap-command", "reap myapp")
            until(lambda: [pool["reaps_by_reason"] for pool in pools(where)], [{"requested": 1}])
            yield where
        stack.end(where)
    finally:
        shutil.rmtree(where)


def memreap(where, *words: str) -> subprocess.CompletedProcess[str]:
    return inprocess.memreap(*words, "-c", f"{where}/supervisord.conf")


def pools(where):
    result = memreap(where, "report", "--json")
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)["pools"]


def test_the_report_shows_what_the_listener_did(recorded):
    (pool,) = pools(recorded)
    assert (pool["name"], pool["metric"], pool["workers"], pool["limit_bytes"]) == ("myapp", "uss", 3, 1024**3)
    assert pool["given_back_bytes"] > 30 * 1024**2
    assert pool["peak_total_bytes"] > 3 * 40 * 1024**2
    text = memreap(recorded, "report").stdout
    assert "  workers replaced   1 (requested)" in text


@pytest.mark.parametrize("words", [["report"], ["suggest", "--json"], ["plot", "myapp", "-o", "copied.svg"]])
def test_a_copied_history_is_read_without_a_configuration(recorded, tmp_path, monkeypatch, words):
    shutil.copy(recorded / "memreap.sqlite", tmp_path / "web1.sqlite")
    monkeypatch.chdir(tmp_path)
    result = inprocess.memreap(*words, "--history", "web1.sqlite", "-c", "/nowhere.conf")
    assert result.stderr == ""
    assert "myapp" in (result.stdout or (tmp_path / "copied.svg").read_text())


def test_the_page_and_its_picture_are_made_while_the_listener_writes(recorded):
    result = memreap(recorded, "report", "--html", f"{recorded}/report.html")
    assert (result.returncode, result.stderr) == (0, "")
    page = (recorded / "report.html").read_text()
    assert '<section id="pool-1">\n<h2>myapp</h2>' in page
    assert "reaped: requested (1)" in page
    assert "limit 1.0 GiB" in page
