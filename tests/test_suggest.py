"""The command suggest: which pools it judges, what it prints, its exit status, and its message without a history."""

from __future__ import annotations

import json
import re
import time
from dataclasses import replace
from pathlib import Path
from subprocess import CompletedProcess

import pytest
from support import inprocess, savedhistory
from support.sawtooth import time_zone
from test_core_suggestion import BEGIN, HOUR, MIB, four, leak, pool, shifted

from supervisor_memreap.advice.poolhistory import PoolHistory

NOW = float(int(time.time()))


def until_now(history: PoolHistory, name: str, hours: float = 24.0) -> PoolHistory:
    """The history, so that it ends now."""
    return replace(shifted(history, NOW - hours * HOUR - BEGIN), name=name)


@pytest.fixture(scope="module")
def conf(tmp_path_factory) -> Path:
    """A configuration whose history has a pool that leaks, and one that was watched for too short a time."""
    directory = tmp_path_factory.mktemp("suggest")
    savedhistory.save(
        directory / "memreap.sqlite",
        # In any four days there is a whole weekday.
        until_now(pool(four(leak(5), end=96), hours=96), "myapp", 96),
        until_now(pool(four(leak(60), end=0.4, every=1), hours=0.4), "shop:young", 0.4),
        until_now(pool(four(leak(2), end=96), hours=96), "shop:old", 96),
    )
    return configuration(directory, f"history={directory}/memreap.sqlite")


def configuration(directory: Path, line: str) -> Path:
    path = directory / "supervisord.conf"
    path.write_text(
        f"[supervisord]\nlogfile={directory}/supervisord.log\n[memreap]\n{line}\n[memreap:myapp]\nobserve=yes\n"
    )
    return path


def memreap(conf: Path, *words: str) -> CompletedProcess[str]:
    with time_zone("UTC0"):
        return inprocess.memreap("suggest", *words, "-c", str(conf))


def test_it_ends_with_the_block_to_paste(conf):
    result = memreap(conf, "myapp")
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.endswith("\n\n[memreap:myapp]\nlimit=120MB\n")
    assert re.search(r"^ *\*  120MB  14 h +6\.9 +3[34]\d MiB +480 MiB$", result.stdout, re.MULTILINE)
    assert max(map(len, result.stdout.splitlines())) <= 80


def test_a_group_means_all_its_pools_and_a_pool_without_a_suggestion_fails(conf):
    result = memreap(conf, "shop")
    assert result.returncode == 1
    assert "[memreap:shop:old]\nlimit=" in result.stdout
    assert "Watched for 22 min, 4 workers grew; ask again tomorrow." in result.stdout
    assert "myapp" not in result.stdout


def test_without_a_name_all_pools_are_judged(conf):
    result = memreap(conf, "--json")
    assert result.returncode == 1
    values = json.loads(result.stdout)
    assert values["version"] == 1
    assert [each["name"] for each in values["pools"]] == ["myapp", "shop:old", "shop:young"]
    myapp, _, young = values["pools"]
    assert (myapp["limit"], myapp["limit_bytes"], myapp["kind"]) == ("120MB", 120 * MIB, "steady leak")
    assert {"limit_bytes", "life_seconds", "reaps_per_day", "total_bytes"} <= set(myapp["candidates"][0])
    assert "limit" not in young
    assert young["reason"] == "watched for 22 min, 4 workers grew; ask again tomorrow"


def test_an_unknown_name_is_an_error_that_lists_the_known_ones(conf):
    result = memreap(conf, "myap")
    assert (result.returncode, result.stdout) == (1, "")
    (error,) = result.stderr.splitlines()
    assert "no pool 'myap'" in error
    assert "myapp, shop:old, shop:young" in error


def test_without_a_history_it_explains_what_to_do(tmp_path):
    result = memreap(configuration(tmp_path, f"history={tmp_path}/none.sqlite"))
    assert (result.returncode, result.stdout) == (1, "")
    error, needs = result.stderr.splitlines()
    assert f"{tmp_path}/none.sqlite: no history yet" in error
    assert "set observe=yes in [memreap:NAME]" in needs


def test_a_history_that_is_off_is_reported(tmp_path):
    result = memreap(configuration(tmp_path, "history=off"))
    assert result.returncode == 1
    assert "history=off" in result.stderr


def test_bad_usage_is_one_line(conf):
    result = memreap(conf, "--jsom")
    assert result.returncode == 2
    assert len(result.stderr.splitlines()) == 1
