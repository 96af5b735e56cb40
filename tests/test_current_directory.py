"""No module that lies in the current directory is run: any user who may write there could run code as root."""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import stack
from support.doctor import BIN, SMALL_POOL
from support.driver import assert_in, eventually, supervisord
from support.screen import Screen

from supervisor_memreap.commands import cli
from supervisor_memreap.history import historyfile
from supervisor_memreap.history.historypath import HistoryError

TEXT = f"{SMALL_POOL}stderr_logfile=WHERE/memreap.log\n{stack.INTERFACE}{stack.PLUGIN}"
# A command that is not here gets the configuration alone.
ARGUMENTS = {
    "completion": ["bash"],
    "demo": ["--pool", "python"],
    "listen": ["myapp=1GB"],
    "once": ["--dry-run", "-c", "CONF"],
    "plot": ["myapp", "-c", "CONF", "-o", "OUT/plot.svg"],
    "report": ["-c", "CONF", "--html", "OUT/report.html"],
}
STATUS = {"listen": 2, "suggest": 1}
"""Commands with an exit status other than 0: there is no supervisord above it, and nothing can be advised yet."""
STARTS = {"script": [f"{BIN}/memreap"], "module": [sys.executable, "-m", "supervisor_memreap"]}
OTHERS = {"matplotlib", "pip", "prometheus_client", "psutil", "rich", "shtab", "sitecustomize", "supervisor"}


def commands() -> list[str]:
    """All that the parser knows."""
    (action,) = (each for each in cli.parser()._actions if isinstance(each, argparse._SubParsersAction))
    return sorted(action.choices)


class Traps:
    """A module of each name of the standard library, and of others that are imported; each leaves a mark if it runs."""

    def __init__(self, directory: Path):
        self._marks = directory / "marks"
        self._marks.mkdir()
        library = [*Path(os.__file__).parent.iterdir(), *Path(os.__file__).parent.glob("lib-dynload/*.so")]
        names = {path.name.partition(".")[0] for path in library} - self._taken_by_python_itself(directory)
        self.names = {name for name in names | OTHERS if name.isidentifier()}

    @staticmethod
    def _taken_by_python_itself(directory: Path) -> set[str]:
        """What `python -m` imports before the first line of the module that it runs, whichever that is."""
        (directory / "bare.py").write_text("import sys; print(*sys.modules)")
        command = [sys.executable, "-S", "-m", "bare"]
        return set(subprocess.run(command, cwd=directory, capture_output=True, text=True, check=True).stdout.split())

    def set(self, directory: Path) -> None:
        for name in self.names:
            (directory / f"{name}.py").write_text(f"open({str(self._marks / name)!r}, 'w').close()\n")

    def assert_none_ran(self) -> None:
        assert sorted(path.name for path in self._marks.iterdir()) == []


@pytest.fixture
def traps(tmp_path):
    return Traps(tmp_path)


@contextlib.contextmanager
def running(where: Path, prompt: bool) -> Iterator[None]:
    with supervisord(where, TEXT.replace("WHERE", str(where)), prompt=prompt):
        yield


def assert_recorded(history: Path) -> None:
    assert history.exists()
    try:
        assert [pool for pool in historyfile.load(str(history)) if pool.readings]
    except HistoryError as error:  # it is just being made
        raise AssertionError(str(error)) from None


def run(directory: Path, *command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, cwd=directory, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=60
    )


def see_top(directory: Path, *command: str) -> subprocess.CompletedProcess[str]:
    with Screen(command, cwd=directory) as screen:
        screen.until(lambda text: "myapp" in text)
        screen.types(b"q")
        return subprocess.CompletedProcess(command, screen.ends(), "", screen.text())


def see_demo(directory: Path, *command: str) -> subprocess.CompletedProcess[str]:
    pipe = subprocess.PIPE
    with subprocess.Popen(command, cwd=directory, stdout=pipe, stderr=pipe, text=True, start_new_session=True) as demo:
        assert demo.stdout
        assert any("workers hold" in line for line in demo.stdout)
        demo.send_signal(signal.SIGINT)
        output, errors = demo.communicate(timeout=60)
    return subprocess.CompletedProcess(command, demo.returncode, output, errors)


def test_a_trap_exists_for_every_module_that_a_command_may_import(traps):
    assert {"__future__", "ctypes", "http", "json", "logging", "signal", "socket", "tempfile", "xmlrpc"} <= traps.names
    assert len(traps.names) > 150


def test_a_trap_catches_a_process_with_the_current_directory_on_its_path(traps, tmp_path):
    traps.set(tmp_path)
    subprocess.run([sys.executable, "-c", "import json"], cwd=tmp_path, check=False)
    with pytest.raises(AssertionError, match="json"):
        traps.assert_none_ran()


@pytest.fixture(scope="module")
def conf() -> Iterator[str]:
    """The configuration of a supervisord with a pool that has a history."""
    where = stack.directory()
    with running(where, prompt=True):
        eventually(lambda: assert_recorded(where / "memreap.sqlite"))
        yield f"{where}/supervisord.conf"
    shutil.rmtree(where)


@pytest.mark.parametrize(("name", "start"), [*((name, "script") for name in commands()), ("doctor", "module")])
def test_no_command_runs_code_from_its_current_directory(conf, tmp_path, traps, name, start):
    directory = tmp_path / "current"
    directory.mkdir()
    traps.set(directory)
    words = ARGUMENTS.get(name, ["-c", "CONF"])
    arguments = [word.replace("OUT", str(tmp_path)).replace("CONF", conf) for word in words]
    see = {"demo": see_demo, "top": see_top}.get(name, run)
    result = see(directory, *STARTS[start], name, *arguments)
    assert "Traceback" not in result.stderr, result.stderr
    assert result.returncode == STATUS.get(name, 0), result
    traps.assert_none_ran()


def test_doctor_runs_no_code_from_the_directory_of_supervisord(where, traps):
    traps.set(where)
    with running(where, prompt=True):
        command = [f"{BIN}/supervisorctl", "-c", f"{where}/supervisord.conf", "memreap", "doctor"]
        eventually(lambda: assert_in("no problems found", run(where, *command).stdout))
        eventually(lambda: assert_recorded(where / "memreap.sqlite"))
        traps.assert_none_ran()


def test_doctor_runs_no_code_from_there_where_supervisord_was_started_with_m(where, traps):
    with running(where, prompt=False):
        traps.set(where)
        command = [f"{BIN}/memreap", "doctor", "-c", f"{where}/supervisord.conf"]
        eventually(lambda: assert_in("no problems found", run(where, *command).stdout))
        traps.assert_none_ran()
