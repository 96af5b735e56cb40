"""`memreap completion`: real shells complete what a user types."""

from __future__ import annotations

import contextlib
import os
import pty
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from supervisor_memreap.commands.cli import parser
from supervisor_memreap.commands.completion import SHELLS
from supervisor_memreap.host import packages

MEMREAP = [sys.executable, "-m", "supervisor_memreap"]
START = {
    "bash": ["bash", "--norc", "--noprofile", "-i"],
    "zsh": ["zsh", "-f", "-i"],
    "tcsh": ["tcsh", "-f"],
}
# As in docs/install.md; zsh looks up _memreap in a directory of $fpath.
READ = {
    "bash": "source {where}/bash",
    "zsh": "fpath=({where} $fpath); autoload -U compinit; compinit -u -D",
    "tcsh": "source {where}/tcsh",
}


@pytest.fixture(scope="module")
def scripts(tmp_path_factory) -> Path:
    """A directory with the script for each shell."""
    where = tmp_path_factory.mktemp("completion")
    for shell in SHELLS:
        result = subprocess.run([*MEMREAP, "completion", shell], capture_output=True, text=True, check=True)
        assert result.stderr == ""
        (where / shell).write_text(result.stdout)
    shutil.copy(where / "zsh", where / "_memreap")
    return where


def installed(shell: str) -> str:
    if not shutil.which(shell):
        pytest.skip(f"no {shell}: tests/run installs it on Debian")
    return shell


class Terminal:
    """A shell on a terminal."""

    def __init__(self, shell: str, where: Path):
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            os.chdir(where)
            environment = {**os.environ, "TERM": "xterm", "PS1": "$ ", "HOME": str(where)}
            os.execvpe(START[shell][0], START[shell], environment)
        self.text = ""

    def types(self, text: str) -> None:
        os.write(self.fd, text.encode())

    def shows(self, expected: str, within: float = 30.0) -> None:
        end = time.monotonic() + within
        while expected not in self.text:
            assert select.select([self.fd], [], [], max(0.0, end - time.monotonic()))[0], repr(self.text)
            self.text += os.read(self.fd, 4096).decode(errors="replace")

    def forget(self) -> None:
        self.text = ""


@contextlib.contextmanager
def terminal(shell: str, where: Path) -> Iterator[Terminal]:
    """It has read the script, and asks for a command."""
    opened = Terminal(installed(shell), where)
    try:
        # The command as it is typed does not have the text that shows that it was carried out.
        opened.types(f"{READ[shell].format(where=where)}; echo rea''dy\n")
        opened.shows("ready")
        opened.forget()
        yield opened
    finally:
        os.kill(opened.pid, 9)
        os.close(opened.fd)
        os.waitpid(opened.pid, 0)


@pytest.mark.parametrize("shell", SHELLS)
def test_the_shell_can_read_the_script(scripts, shell):
    result = subprocess.run([installed(shell), "-n", scripts / shell], capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize(
    ("typed", "shown"), [("memreap sta", "memreap status"), ("memreap settings -c fleet.", "fleet.conf")]
)
def test_the_shell_completes_typed_words(scripts, shell, typed, shown):
    (scripts / "fleet.conf").touch()
    with terminal(shell, scripts) as opened:
        opened.types(f"{typed}\t")
        opened.shows(shown)


def completed(scripts: Path, *words: str) -> set[str]:
    """What bash offers for the last word."""
    line = (
        f'source {scripts}/bash; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _shtab_memreap memreap "${{@: -1}}" ;'
        " printf '%s\\n' \"${COMPREPLY[@]}\""
    )
    command = ["bash", "--norc", "--noprofile", "-c", line, "bash", "memreap", *words]
    result = subprocess.run(command, capture_output=True, text=True, check=True, cwd=scripts)
    return set(result.stdout.split())


def test_every_command_and_every_option_is_offered(scripts):
    (commands,) = [action.choices for action in parser(is_whole=True)._actions if isinstance(action.choices, dict)]
    assert completed(scripts, "") >= set(commands)
    for name, command in commands.items():
        options = {option for action in command._actions for option in action.option_strings}
        assert completed(scripts, name, "-") == options


@pytest.mark.parametrize(
    "words",
    [["-c"], ["once", "-c"], ["once", "--pidfile"], ["plot", "-o"], ["report", "--html"], ["status", "--json", "-c"]],
)
def test_a_file_is_offered_where_the_option_takes_one(scripts, words):
    (scripts / "fleet.conf").touch()
    assert completed(scripts, *words, "fl") == {"fleet.conf"}


def test_a_full_disk_is_reported_in_one_line_and_a_closed_output_not_at_all():
    with open("/dev/full", "w") as full:
        result = subprocess.run(
            [*MEMREAP, "completion", "bash"], stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    assert (result.returncode, result.stderr) == (1, "memreap: cannot write the output: No space left on device\n")
    closed = ["sh", "-c", '"$@" >&-', "sh", *MEMREAP, "completion", "bash"]
    result = subprocess.run(closed, stderr=subprocess.PIPE, text=True, check=False)
    assert (result.returncode, result.stderr) == (0, "")


def test_without_shtab_one_line_names_the_extra(tmp_path):
    (tmp_path / "shtab.py").write_text("raise ImportError")
    result = subprocess.run(
        [*MEMREAP, "completion", "bash"],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        check=False,
    )
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr == f"memreap: shtab is missing: {packages.install_extra('completion')}\n"


def test_an_unknown_shell_is_named_in_the_error():
    result = subprocess.run([*MEMREAP, "completion", "fsh"], capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout) == (2, "")
    assert "invalid choice: 'fsh'" in result.stderr
