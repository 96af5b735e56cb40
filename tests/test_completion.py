"""`memreap completion`: real shells complete what a user types."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import needs
from support.inprocess import memreap
from support.screen import Screen

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
        result = memreap("completion", shell)
        assert (result.returncode, result.stderr) == (0, "")
        (where / shell).write_text(result.stdout)
    shutil.copy(where / "zsh", where / "_memreap")
    return where


@contextlib.contextmanager
def terminal(shell: str, where: Path) -> Iterator[Screen]:
    """A shell on a terminal; it has read the script, and asks for a command."""
    needs.skip_without(shell)
    with Screen(START[shell], cwd=where, PS1="$ ", HOME=str(where)) as screen:
        # The command as it is typed does not have the text that shows that it was carried out.
        screen.types(f"{READ[shell].format(where=where)}; echo rea''dy\n".encode())
        screen.until(lambda text: "ready" in text)
        yield screen


@pytest.mark.parametrize("shell", SHELLS)
def test_the_shell_can_read_the_script(scripts, shell):
    needs.skip_without(shell)
    result = subprocess.run([shell, "-n", scripts / shell], capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize(
    ("typed", "shown"), [("memreap sta", "memreap status"), ("memreap settings -c fleet.", "fleet.conf")]
)
def test_the_shell_completes_typed_words(scripts, shell, typed, shown):
    (scripts / "fleet.conf").touch()
    with terminal(shell, scripts) as screen:
        screen.types(f"{typed}\t".encode())
        screen.until(lambda text: shown in text)


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
    result = memreap("completion", "fsh")
    assert (result.returncode, result.stdout) == (2, "")
    assert "invalid choice: 'fsh'" in result.stderr
