"""What machines read: the log as JSON, the same fields in announcements, and the tables as JSON."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from support import stack
from support.driver import POOL, eventually, listening, supervisord, until, workers_below

from supervisor_memreap.outputs import words

POOLS = f"[program:myapp]\ncommand={sys.executable} {POOL} 1 40\nstopasgroup=true\nkillasgroup=true\n"
SETTINGS = "[memreap:myapp]\nlimit=30MB\nmin_age=1s\nsettle=1s\n"
JSON = "[memreap]\nlog=json\n"


@pytest.fixture
def pool(tmp_path):
    """A supervisord with a worker over its limit, whose settings are in a file of their own; its directory."""
    (tmp_path / "memreap.ini").write_text(JSON + SETTINGS)
    with supervisord(tmp_path, POOLS + "[include]\nfiles=*.ini\n" + stack.recorder(tmp_path)):
        yield tmp_path


def listens(where: Path, *words: str) -> Any:
    # What a listener leaves for the next one is in its temporary directory.
    environment = {"SUPERVISOR_SERVER_URL": f"unix://{where}/s.sock", "TMPDIR": str(where)}
    return listening("-c", f"{where}/supervisord.conf", *words, log=where / "log", **environment)


def logged(listener) -> list[dict[str, Any]]:
    """All lines of its log: each is an object."""
    return [json.loads(line) for line in listener.text().splitlines()]


def assert_logged(listener, *expected: str) -> None:
    listener.tick()
    assert [values["name"] for values in logged(listener)] == list(expected)


def test_every_line_of_the_log_is_an_object_as_announced_until_the_file_changes_which_a_mistake_in_it_does_not(pool):
    settings = pool / "memreap.ini"
    with listens(pool) as listener:
        eventually(lambda: assert_logged(listener, "Started", "Watching", "Signalled", "Left"))
        _, _, sent, left = logged(listener)
        until(lambda: stack.announced(pool), [sent, left])
        assert (sent["event"], sent["reason"], sent["evidence"]["metric"]) == ("reap", "limit", "uss")
        assert sent["evidence"]["limit"] == 30 << 20
        assert left["replaced_by"] in workers_below(manager(pool))
        assert sent["time"] == words.time_text(sent["at"])
        eventually(lambda: assert_logged(listener, "Started", "Watching", "Signalled", "Left", "Settled"))
        settings.write_text("[memreap]\nlog=xml\n" + SETTINGS)
        assert_logged(listener, "Started", "Watching", "Signalled", "Left", "Settled", "SettingsRefused")
        assert "log=xml: must be text or json (the earlier settings stay in force)" in logged(listener)[-1]["message"]
        settings.write_text(SETTINGS.replace("30MB", "60MB") + "[memreep:x]\n")
        listener.tick()
        *_, warned, watching = listener.text().splitlines()
        assert " memreap: " in warned
        assert "[memreep:x]: ignored" in warned
        assert watching.endswith(" memreap: watching myapp (limit 60 MiB uss)")
        settings.write_text(JSON + SETTINGS.replace("30MB", "61MB"))
        listener.tick()
        assert json.loads(listener.text().splitlines()[-1])["name"] == "Watching"


def manager(where: Path) -> int:
    (line,) = [line for line in (where / "s.log").read_text().splitlines() if "spawned: 'myapp'" in line]
    return int(line.split()[-1])


@pytest.mark.parametrize(
    ("more", "words", "expected"),
    [
        ("[memreap:web]\nlimit=monkeys\n", [], ["Started", "SettingsRefused", "SupervisordUnavailable"]),
        ("", ["myapp=monkeys"], ["SettingsRefused"]),
        ("", ["myapp"], ["SettingsRefused"]),
    ],
)
def test_the_first_line_is_json_whatever_else_is_wrong(tmp_path, more, words, expected):
    (tmp_path / "supervisord.conf").write_text(JSON + more)
    log = tmp_path / "log"
    driver = listening("-c", str(tmp_path / "supervisord.conf"), *words, log=log)
    if words:
        with pytest.raises(AssertionError, match="stdout was closed"), driver:
            pass
        assert [json.loads(line)["name"] for line in log.read_text().splitlines()] == expected
    else:
        with driver as listener:
            assert_logged(listener, *expected)
