"""`memreap top` on a real terminal, over the pools of a real supervisord."""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
import sys
import time
from typing import NamedTuple

import pytest
from support import stack
from support.driver import eventually, stopped, supervisord
from support.inprocess import memreap
from support.operated import Operated, assert_status
from support.screen import Screen
from support.sections import INTERFACES, listener, program

from supervisor_memreap.host import packages

MEMREAP = [sys.executable, "-m", "supervisor_memreap"]
# Twelve workers are more than fit beside the others at 80x24, where there is a second pool of eight.
WORKERS, OTHERS = 12, 8
PASSWORD = "to@pse:cret"
COLOR = rb"\033\[[\d;]*3[0-7][\d;]*m"
ENTERED, LEFT = b"\033[?1049h\033[?25l", b"\033[?1049l\033[?25h"


POOLS = (
    program("myapp", WORKERS, 30)
    + program("other", OTHERS, 5)
    + "[memreap]\nmin_age=1s\nsettle=1s\nlimit=1GB\n[memreap:myapp]\n[memreap:other]\n"
)


class Host(NamedTuple):
    operated: Operated
    supervisord: subprocess.Popen
    port: int

    def top(self, *words: str) -> list[str]:
        return [*MEMREAP, "-c", f"{self.operated.directory}/supervisord.conf", "top", "--interval", "0.5", *words]


@pytest.fixture(scope="module")
def host():
    where, port = stack.directory(), stack.free_port()
    http = (
        f"[unix_http_server]\nfile={where}/s.sock\nusername=me\npassword={PASSWORD}\n"
        f"[inet_http_server]\nport=127.0.0.1:{port}\nusername=me\npassword={PASSWORD}\n"
    )
    try:
        login = f',SUPERVISOR_USERNAME="me",SUPERVISOR_PASSWORD="{PASSWORD}"'
        text = POOLS + listener(where, events="TICK_5", more=login) + INTERFACES
        with supervisord(where, text, http) as process:
            conf = where / "supervisord.conf"
            conf.write_text(
                conf.read_text().replace("[supervisorctl]\n", f"[supervisorctl]\nusername=me\npassword={PASSWORD}\n")
            )
            operated = Operated(where, sys.executable, f"unix://{where}/s.sock", "me", PASSWORD)
            eventually(lambda: assert_status(operated, r"myapp +QUIET(?s:.*)\nother +QUIET"))
            yield Host(operated, process, port)
    finally:
        shutil.rmtree(where)


def is_whole(text: str) -> bool:
    """All sizes are known."""
    return bool(re.search(r"^myapp +QUIET +1.0 GiB uss +12 +\d+ MiB", text, re.MULTILINE))


def quits(screen: Screen) -> int:
    """Its exit status."""
    screen.types(b"q")
    return screen.ends()


def assert_restored(screen: Screen) -> None:
    assert screen.attributes() == screen.saved_mode
    assert screen.raw.count(ENTERED) == screen.raw.count(LEFT) > 0
    assert screen.raw.rfind(LEFT) > screen.raw.rfind(ENTERED)


def assert_fits(screen: Screen, columns: int) -> None:
    assert max(map(len, screen.lines())) < columns
    # Nothing has scrolled: the first line is still there.
    assert screen.lines()[0].startswith("memreap top  ")


@pytest.mark.parametrize(("columns", "rows"), [(80, 24), (120, 40)])
def test_all_pools_are_shown_with_their_largest_workers_and_q_quits(host, columns, rows):
    with Screen(host.top(), columns, rows) as screen:
        text = screen.until(is_whole)
        assert_fits(screen, columns)
        workers = re.findall(r"^ +(\d+) +(?:[\d.]+ MiB|-) [█░]+ +[\d.]+ (?:s|min|h)", text, re.MULTILINE)
        hidden = re.findall(r"… (\d+) more workers not shown", text)
        assert len(workers) + sum(map(int, hidden)) == WORKERS + OTHERS
        assert bool(hidden) == (rows == 24)
        assert re.search(r"^ +limit +workers +total +growth +reaps +freed$", text, re.MULTILINE)
        assert "2 pools, 20 workers" in text
        assert re.search(r"^seen by the listener \d s ago", text, re.MULTILINE)
        screen.types(b"x")  # any other key does nothing
        assert quits(screen) == 0
        assert_restored(screen)
        assert screen.raw.endswith(LEFT)
        assert screen.raw.startswith(ENTERED)
        assert re.search(COLOR, screen.raw)


def test_m_switches_to_the_memory_of_all_programs_and_back(host):
    with Screen(host.top(), 100, 30) as screen:
        assert "m: memory  q: quit" in screen.until(is_whole)
        screen.types(b"m")
        text = screen.until(lambda text: re.search(r"^total ", text, re.MULTILINE))
        assert_fits(screen, 100)
        assert "m: pools  q: quit" in text
        assert re.search(rf"^myapp +RUNNING +{WORKERS + 1} +\d+ MiB", text, re.MULTILINE)
        for name in ("other", "memreap", "supervisord"):
            assert re.search(rf"^{name} +RUNNING +[1-9]", text, re.MULTILINE)
        with stopped(host.supervisord.pid):
            text = screen.until(lambda text: "TROUBLE: supervisord did not answer within 1 s" in " ".join(text.split()))
            assert re.search(r"^total ", text, re.MULTILINE)
        screen.types(b"mmm")
        screen.until(is_whole)
        assert quits(screen) == 0
        assert_restored(screen)


def test_by_its_address_a_supervisord_of_this_machine_is_read_too(host):
    """In a thread, which so starts the process that reads."""
    with Screen(host.top("--url", f"http://127.0.0.1:{host.port}", "myapp")) as screen:
        screen.until(is_whole)
        screen.types(b"m")
        text = screen.until(lambda text: re.search(rf"^myapp +RUNNING +{WORKERS + 1} +\d+ MiB", text, re.MULTILINE))
        assert "TROUBLE" not in text
        assert quits(screen) == 0
        assert_restored(screen)


@pytest.mark.parametrize("ends", [b"\x03", signal.SIGTERM, signal.SIGHUP], ids=["Ctrl-C", "TERM", "HUP"])
def test_however_it_ends_the_terminal_is_restored(host, ends):
    with Screen(host.top()) as screen:
        screen.until(is_whole)
        assert screen.attributes() != screen.saved_mode
        if isinstance(ends, bytes):
            screen.types(ends)
        else:
            screen.process.send_signal(ends)
        assert screen.ends() == 128 + (signal.SIGINT if isinstance(ends, bytes) else ends)
        assert_restored(screen)


def test_after_an_internal_error_the_terminal_is_restored(host):
    script = (
        "import sys\nfrom supervisor_memreap.commands import cli\nfrom supervisor_memreap.views import live\n"
        "whole, count = live.page, [0]\n"
        "def page(*args):\n    count[0] += 1\n    return whole(*args) if count[0] < 3 else 1 / 0\n"
        "live.page = page\nsys.exit(cli.main(sys.argv[1:]))\n"
    )
    with Screen([sys.executable, "-c", script, *host.top()[3:]]) as screen:
        assert screen.ends() == 1
        assert_restored(screen)
        assert b"ZeroDivisionError" in screen.raw.rpartition(LEFT)[2]


def test_ctrl_z_returns_the_terminal_to_the_shell_and_fg_continues(host):
    with Screen(host.top()) as screen:
        screen.until(is_whole)
        screen.types(b"\x1a")
        screen.until(lambda _: screen.is_stopped())
        while screen.read(0.1):
            pass
        assert_restored(screen)
        before = len(screen.raw)
        screen.process.send_signal(signal.SIGCONT)
        screen.until(lambda _: b"QUIET" in screen.raw[before:])
        assert quits(screen) == 0
        assert_restored(screen)


def test_it_follows_the_size_of_the_window(host):
    with Screen(host.top(), 120, 40) as screen:
        screen.until(lambda text: is_whole(text) and "not shown" not in text)
        screen.resize(80, 24)
        screen.until(lambda text: is_whole(text) and "not shown" in text)
        assert_fits(screen, 80)
        screen.resize(30, 6)  # too small to be of use, but no fault
        screen.until(lambda text: text.startswith("memreap top"))
        screen.resize(120, 40)
        screen.until(lambda text: is_whole(text) and "not shown" not in text)
        assert quits(screen) == 0


def test_no_color_is_respected_and_every_state_is_in_words(host):
    with Screen(host.top(), NO_COLOR="1") as screen:
        screen.until(is_whole)
        assert quits(screen) == 0
    assert not re.search(COLOR, screen.raw)


def test_without_unicode_the_bars_are_ascii(host):
    with Screen(host.top("myapp"), PYTHONIOENCODING="ascii") as screen:
        text = screen.until(is_whole)
        assert re.search(r"MiB #*\.+ ", text)
        assert text.isascii()
        assert "other" not in text
        assert quits(screen) == 0


def test_an_unavailable_supervisord_is_reported_and_it_continues(host):
    with Screen(host.top(), NO_COLOR="1") as screen:
        screen.until(is_whole)
        with stopped(host.supervisord.pid):
            text = screen.until(lambda text: "TROUBLE: supervisord did not answer within 1 s" in " ".join(text.split()))
            assert re.search(r"^myapp +BLIND ", text, re.MULTILINE)
            assert "QUIET" not in text
        screen.until(lambda text: is_whole(text) and "TROUBLE" not in text)
        assert quits(screen) == 0
        assert_restored(screen)


ACCESS = [
    pytest.param("me:to%40pse%3Acret@", {}, id="in the URL"),
    pytest.param("", {"SUPERVISOR_USERNAME": "me", "SUPERVISOR_PASSWORD": PASSWORD}, id="in the environment"),
    pytest.param("", {}, id="in the configuration"),
]


@pytest.mark.parametrize(("userinfo", "environment"), ACCESS)
def test_another_host_is_shown_by_its_address_without_a_password(host, userinfo, environment):
    configuration = [] if userinfo or environment else ["-c", f"{host.operated.directory}/supervisord.conf"]
    command = [*MEMREAP, "top", *configuration, "--url", f"http://{userinfo}127.0.0.1:{host.port}"]
    with Screen([*command, "--interval", "0.5"], **environment) as screen:
        text = screen.until(is_whole)
        assert text.startswith(f"memreap top  http://127.0.0.1:{host.port}  ")
        assert quits(screen) == 0
        assert_restored(screen)
        assert b"cret" not in screen.raw


def test_another_host_that_hangs_is_reported_until_it_answers_again(host):
    with Screen(host.top("--url", f"http://127.0.0.1:{host.port}")) as screen:
        screen.until(is_whole)
        with stopped(host.supervisord.pid):
            text = screen.until(lambda text: "TROUBLE: supervisord did not answer within 5 s" in " ".join(text.split()))
            assert re.search(r"^other +BLIND ", text, re.MULTILINE)
        screen.until(lambda text: is_whole(text) and "TROUBLE" not in text)
        with stopped(host.supervisord.pid):
            # A host that hangs delays no key: another machine has 5 s to answer.
            time.sleep(1)
            screen.types(b"q")
            assert screen.ends(seconds=2) == 0
        assert_restored(screen)


def test_into_a_pipe_it_writes_whole_tables_and_ends_with_the_reader(host):
    command = " ".join(host.top())
    result = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {command} | head -60"], capture_output=True, text=True, check=True
    )
    assert result.stderr == ""
    assert "\033" not in result.stdout
    lines = result.stdout.splitlines()
    assert sum(line.startswith("memreap top  ") for line in lines) >= 2
    first = lines[: lines.index("", 6 + WORKERS + OTHERS)]
    assert sum(bool(re.match(r" +\d+ +[\d.]+ MiB ", line)) for line in first) == WORKERS + OTHERS
    assert max(map(len, lines)) < 80


def test_a_dumb_terminal_gets_plain_lines(host):
    with Screen(host.top(), TERM="dumb", rows=60) as screen:
        screen.until(lambda text: text.count("memreap top") == 2)
        screen.types(b"\x03")
        assert screen.ends() == 130
        assert b"\033" not in screen.raw
        assert screen.attributes() == screen.saved_mode


@pytest.mark.parametrize(
    ("words", "status", "line"),
    [
        (["myap"], 1, "no pool 'myap' is watched; there are: myapp, other"),
        (["--interval", "x"], 2, "argument --interval: x:"),
        (["--interval", "0.1"], 2, "argument --interval: 0.1: at least 0.5s"),
        (["--url", "web1:9001"], 2, "--url web1:9001: not an address of supervisord, such as http://web1:9001"),
        (["--url", "http://me:cret@web1:x"], 2, "--url web1:x: not an address"),
        (["--url", "https://web1"], 2, "--url https://web1: not an address"),
        (["--url", "unix:///nowhere/s.sock"], 1, "supervisord does not answer at unix:///nowhere/s.sock: No such file"),
        (
            ["--url", "http://me:cret@127.0.0.1:1"],
            1,
            "supervisord does not answer at http://127.0.0.1:1: Connection refused",
        ),
    ],
)
def test_a_mistake_is_one_line_before_the_screen_changes(host, words, status, line):
    result = memreap("top", "-c", f"{host.operated.directory}/supervisord.conf", *words)
    assert (result.returncode, result.stdout, result.stderr.count("\n")) == (status, "", 1)
    assert line in result.stderr
    assert "cret" not in result.stderr


def test_a_wrong_password_is_one_line(host):
    result = memreap("top", "--url", f"http://me:wrong@127.0.0.1:{host.port}")
    assert (result.returncode, result.stderr.count("\n")) == (1, 1)
    assert "requires a user name and password" in result.stderr
    assert "wrong" not in result.stderr


def without_rich(*words: str) -> subprocess.CompletedProcess[str]:
    script = (
        "import sys\nsys.modules['rich'] = None\n"
        "from supervisor_memreap.commands import cli\nsys.exit(cli.main(sys.argv[1:]))"
    )
    return subprocess.run([sys.executable, "-c", script, *words], capture_output=True, text=True, check=False)


def test_without_rich_one_line_names_what_to_install():
    result = without_rich("top")
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr == (
        f"memreap: memreap top needs rich, which is not installed: {packages.install_extra('top')}\n"
    )


def test_the_other_commands_do_not_import_rich():
    assert without_rich("--help").returncode == 0
    assert without_rich("top", "--help").returncode == 0


def test_unwatched_pools_never_look_fine(where):
    with supervisord(where, program("myapp", 2, 5) + "[memreap:myapp]\nlimit=1GB\n" + INTERFACES):
        conf = f"{where}/supervisord.conf"
        with Screen([*MEMREAP, "top", "-c", conf]) as screen:
            text = screen.until(lambda text: "myapp" in text)
            assert "TROUBLE: there is no listener, so no pool is watched" in text
            assert re.search(r"^myapp +BLIND ", text, re.MULTILINE)
            assert "QUIET" not in text
            assert quits(screen) == 0
        # The listener has never looked, so there are no pools.
        assert memreap("top", "-c", conf, "--url", f"unix://{where}/s.sock", "myapp").returncode == 1
