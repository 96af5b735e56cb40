"""The commands report and plot: which pools and which time they show, what they write, and what they refuse."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from subprocess import CompletedProcess

import pytest
from support import inprocess, savedhistory, sawtooth
from support.sawtooth import DAY, HOUR

from supervisor_memreap.host import packages

NOW = float(int(time.time()))
NO_LIBRARY = (
    "import sys; sys.modules['matplotlib'] = None; from supervisor_memreap.__main__ import main; sys.exit(main())"
)


@pytest.fixture(scope="module")
def conf(tmp_path_factory) -> Path:
    """A configuration whose history has three pools, two of them in a group, and a hostile name."""
    directory = tmp_path_factory.mktemp("report")
    savedhistory.save(
        directory / "memreap.sqlite",
        sawtooth.pool("myapp", days=3, until=NOW),
        sawtooth.troubled("shop:front", until=NOW),
        sawtooth.pool("shop:back", workers=2, until=NOW),
        sawtooth.pool("old", until=NOW - 3 * DAY),
    )
    return configuration(directory, f"history={directory}/memreap.sqlite")


def configuration(directory: Path, line: str) -> Path:
    path = directory / "supervisord.conf"
    path.write_text(
        f"[supervisord]\nlogfile={directory}/supervisord.log\n[memreap]\nlimit=150MB\n{line}\n[memreap:myapp]\n"
    )
    return path


def memreap(conf: Path, *words: str, zone: str = "UTC0") -> CompletedProcess[str]:
    with sawtooth.time_zone(zone):
        return inprocess.memreap(*words, "-c", str(conf))


def process(conf: Path, *words: str, code: str = "") -> CompletedProcess[str]:
    """One of its own, which starts with this code, in the directory of the configuration."""
    start = ["-c", code] if code else ["-m", "supervisor_memreap"]
    command = [sys.executable, *start, *words, "-c", str(conf)]
    environment = {**os.environ, "TZ": "UTC0"}
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment, cwd=conf.parent)


def names(text: str) -> list[str]:
    return re.findall(r"^(\S+)$", text, re.MULTILINE)


def test_by_default_it_shows_the_last_day_of_all_pools(conf):
    result = memreap(conf, "report")
    assert (result.returncode, result.stderr) == (0, "")
    assert names(result.stdout) == ["myapp", "old", "shop:back", "shop:front"]
    assert "recorded for 22 h of 24 h" in result.stdout
    assert "4: 2 not permitted, 1 never idle, 1 signal not caught" in result.stdout
    assert max(map(len, result.stdout.splitlines())) <= 80


def test_the_suggestion_of_a_limit_is_in_the_report_from_more_than_a_day(conf):
    suggested = json.loads(memreap(conf, "suggest", "myapp", "--json").stdout)["pools"][0]
    assert suggested["watched_seconds"] > 2 * DAY
    (pool,) = json.loads(memreap(conf, "report", "myapp", "--json").stdout)["pools"]
    assert pool["suggestion"].startswith("watched for 3 d: a limit of ")
    assert "  suggestion         watched for 3 d: a limit of " in memreap(conf, "report", "myapp").stdout


def test_a_name_may_be_a_pool_or_a_group(conf):
    assert names(memreap(conf, "report", "myapp").stdout) == ["myapp"]
    assert names(memreap(conf, "report", "shop", "myapp").stdout) == ["myapp", "shop:back", "shop:front"]


def test_more_days_show_more_events(conf):
    counts = [
        json.loads(memreap(conf, "report", "myapp", "--json", *length).stdout)["pools"][0]["reaps"]
        for length in ([], ["--days", "2"], ["--month"])
    ]
    assert 0 < counts[0] < counts[1] < counts[2]


def test_a_suspension_that_began_before_the_time_shown_is_known(tmp_path):
    now = time.time()  # and not when this file was read, which may be half an hour ago
    history, since = sawtooth.pool("myapp", days=3, until=now), now - 2.5 * DAY
    history = replace(history, events=tuple(event for event in history.events if event.at < since))
    wrong = sawtooth.suspended(since, lasts=3 * DAY)
    savedhistory.save(tmp_path / "memreap.sqlite", sawtooth.with_events(history, wrong))
    result = memreap(configuration(tmp_path, f"history={tmp_path}/memreap.sqlite"), "report")
    assert "since then (60 h): even a fresh worker" in result.stdout


def test_json_has_every_pool_with_times_and_their_zone(conf):
    values = json.loads(memreap(conf, "report", "--json", zone="CET-1").stdout)
    assert values["version"] == 1
    assert [pool["name"] for pool in values["pools"]] == ["myapp", "old", "shop:back", "shop:front"]
    assert values["pools"][0]["until_time"].endswith("+01:00")


def test_the_page_has_the_picture_of_each_pool(conf, tmp_path):
    result = memreap(conf, "report", "--html", f"{tmp_path}/report.html")
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
    _, *sections = (tmp_path / "report.html").read_text().split("<section ")
    pools = {re.search("<h2>(.*?)</h2>", section)[1]: "<svg" in section for section in sections}
    assert pools == {"myapp": True, "old": False, "shop:back": True, "shop:front": True}


@pytest.mark.parametrize(("ending", "begin"), [("svg", b"<?xml"), ("png", b"\x89PNG"), ("SVG", b"<?xml")])
def test_an_existing_picture_is_overwritten(conf, tmp_path, ending, begin):
    path = tmp_path / f"myapp.{ending}"
    path.write_text("an earlier one")
    result = memreap(conf, "plot", "myapp", "-o", str(path))
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
    assert path.read_bytes().startswith(begin)
    assert os.listdir(tmp_path) == [path.name]
    assert path.stat().st_mode & 0o777 == 0o666 & ~umask()


def umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_a_link_still_points_to_the_new_picture(conf, tmp_path):
    (tmp_path / "link.svg").symlink_to("real.svg")
    assert memreap(conf, "plot", "myapp", "-o", f"{tmp_path}/link.svg").returncode == 0
    assert (tmp_path / "link.svg").is_symlink()
    assert (tmp_path / "real.svg").read_text().startswith("<?xml")


@pytest.mark.parametrize("length", [["--hours", "3"], ["--days", "2"]])
def test_the_time_of_a_picture_can_be_chosen(conf, tmp_path, length):
    assert memreap(conf, "plot", "myapp", "-o", f"{tmp_path}/a.svg", *length).returncode == 0
    hours = int(length[1]) * (24 if length[0] == "--days" else 1)
    start = time.gmtime(NOW - hours * HOUR)
    assert f"from {start.tm_mday} {time.strftime('%b', start)} " in (tmp_path / "a.svg").read_text()


@pytest.mark.parametrize(
    ("words", "status", "line"),
    [
        (["report", "myap"], 1, "no pool 'myap' in .*memreap.sqlite; there are: myapp, old, shop:back, shop:front"),
        (["plot", "myap", "-o", "a.svg"], 1, "no pool 'myap' in .*; there are: myapp, old"),
        (["plot", "shop", "-o", "a.svg"], 1, "'shop' matches 2 pools; name one of them: shop:back, shop:front"),
        (["plot", "old", "-o", "a.svg"], 1, "old: nothing was recorded from .*: no picture"),
        (["plot", "myapp", "-o", "a.gif"], 2, r"a.gif: must end in .svg or .png"),
        (["plot", "myapp", "-o", "svg"], 2, "svg: must end in .svg or .png"),
        (["plot", "myapp"], 2, "required: -o/--output"),
        (["plot", "-o", "a.svg"], 2, "required: NAME"),
        (["plot", "myapp", "-o", "/nowhere/a.svg"], 1, "/nowhere/a.svg: cannot be written: No such file or directory"),
        (["report", "old", "--html", "/no/a.html"], 1, "/no/a.html: cannot be written: No such file or directory"),
        (["report", "old", "--html", "/"], 1, "/: cannot be written: Is a directory"),
        (["report", "--days", "0"], 2, "--days: 0: not a number from 1 to 31"),
        (["report", "--days", "32"], 2, "--days: 32: not a number from 1 to 31"),
        (["plot", "myapp", "-o", "a.svg", "--hours", "x"], 2, "--hours: x: not a number from 1 to 744"),
        (["report", "--days", "2", "--month"], 2, "not allowed with argument"),
        (["report", "--json", "--html", "a.html"], 2, "not allowed with argument"),
    ],
)
def test_each_problem_is_one_line_and_nothing_is_written(conf, tmp_path, monkeypatch, words, status, line):
    monkeypatch.chdir(tmp_path)
    result = memreap(conf, *words)
    assert (result.returncode, result.stdout) == (status, "")
    assert len(result.stderr.splitlines()) == 1
    assert re.search(line, result.stderr), result.stderr
    assert os.listdir(tmp_path) == []


def test_without_a_history_it_names_the_path_it_tried(tmp_path):
    result = memreap(configuration(tmp_path, f"history={tmp_path}/none.sqlite"), "report")
    assert (result.returncode, result.stdout) == (1, "")
    assert f"{tmp_path}/none.sqlite: no history yet" in result.stderr


def test_a_history_that_is_off_is_reported_as_off(tmp_path):
    result = memreap(configuration(tmp_path, "history=off"), "plot", "myapp", "-o", "a.svg")
    assert result.returncode == 1
    assert "there is no history: history=off in [memreap]" in result.stderr


def test_the_default_history_is_beside_the_log_of_supervisord(tmp_path):
    savedhistory.save(tmp_path / "memreap.sqlite", sawtooth.pool(until=NOW))
    assert names(memreap(configuration(tmp_path, ""), "report").stdout) == ["myapp"]


def test_an_invalid_configuration_exits_2(tmp_path):
    result = memreap(configuration(tmp_path, "limit=150 monkeys"), "report")
    assert (result.returncode, result.stdout) == (2, "")
    assert len(result.stderr.splitlines()) == 1


@pytest.mark.parametrize("words", [["plot", "myapp", "-o", "a.svg"], ["report", "--html", "a.html"]])
def test_without_matplotlib_it_names_the_extra_and_exits_2(conf, words):
    result = process(conf, *words, code=NO_LIBRARY)
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr == (
        f"memreap: the pictures need matplotlib, which is not installed here: {packages.install_extra('plot')}\n"
    )
    assert not {"a.svg", "a.html"} & set(os.listdir(conf.parent))


def test_a_text_report_needs_no_matplotlib(conf):
    shown = process(conf, "report", code=NO_LIBRARY).stdout
    with_it = memreap(conf, "report").stdout
    # Its times and how long it is not recorded differ if a minute has ended meanwhile.
    times = r"from .*\(|for \d+ min$"
    assert re.sub(times, "", shown, flags=re.MULTILINE) == re.sub(times, "", with_it, flags=re.MULTILINE)
    assert process(conf, "report", "--json", code=NO_LIBRARY).returncode == 0


@pytest.mark.parametrize("words", [["report"], ["report", "--json"]])
def test_a_reader_that_ends_early_is_not_an_error(conf, words):
    command = f"{sys.executable} -m supervisor_memreap {' '.join(words)} -c {conf} | head -1"
    result = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=True)
    assert (len(result.stdout.splitlines()), result.stderr) == (1, "")


INTERRUPTED = """
import os, signal, sys
from supervisor_memreap.reports import wholefile
replace = os.replace
os.replace = lambda *paths: os.kill(os.getpid(), signal.SIGINT)
from supervisor_memreap.__main__ import main
sys.exit(main())
"""


def test_ctrl_c_leaves_the_earlier_file_and_no_other(conf, tmp_path):
    path = tmp_path / "a.svg"
    path.write_text("an earlier one")
    result = process(conf, "plot", "myapp", "-o", str(path), code=INTERRUPTED)
    assert (result.returncode, result.stderr) == (130, "")
    assert path.read_text() == "an earlier one"
    assert os.listdir(tmp_path) == ["a.svg"]


def test_a_full_disk_leaves_no_partial_file(conf, tmp_path):
    code = (
        "import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        "import matplotlib.figure; resource.setrlimit(resource.RLIMIT_FSIZE, (50000, 50000));"
        "from supervisor_memreap.__main__ import main; sys.exit(main())"
    )
    result = process(conf, "plot", "myapp", "-o", f"{tmp_path}/a.png", code=code)
    assert result.returncode == 1
    assert result.stderr == f"memreap: {tmp_path}/a.png: cannot be written: File too large\n"
    assert os.listdir(tmp_path) == []


def test_a_device_is_written_to_not_replaced(conf):
    result = process(conf, "report", "myapp", "--html", "/dev/stdout")
    assert result.returncode == 0
    assert result.stdout.startswith("<!DOCTYPE html>")


def test_help_names_the_extra_that_a_picture_needs(conf):
    for command in ("plot", "report"):
        assert "extra `plot`" in " ".join(memreap(conf, command, "--help").stdout.split())
