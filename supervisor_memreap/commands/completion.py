"""\
Print a shell completion script for memreap's commands, options and files. It needs shtab
1.5.6 or later: the extra `completion`, or Debian's python3-shtab.

    memreap completion bash > /etc/bash_completion.d/memreap
    memreap completion zsh > /usr/local/share/zsh/site-functions/_memreap
    memreap completion tcsh > /etc/memreap.tcsh     and in ~/.tcshrc: source /etc/memreap.tcsh

It takes effect in a new shell. Print it again after each upgrade of memreap.

exit status: 0 it is printed; 2 bad usage, or shtab is missing.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator

from supervisor_memreap.commands import cli
from supervisor_memreap.host import packages

SHELLS = ("bash", "zsh", "tcsh")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("shell", choices=SHELLS, help="the shell that will read the script")


def run(args: argparse.Namespace) -> int:
    """The exit status, as above."""
    try:
        import shtab
    except ImportError:
        text = f"shtab is missing: {packages.install_extra('completion')}"
        raise packages.MissingLibraryError(text) from None
    whole = cli.parser(is_whole=True)
    for action in _actions(whole):
        if str(action.metavar).startswith("FILE"):
            action.complete = shtab.FILE  # type: ignore[attr-defined] # where shtab looks for it
    sys.stdout.write(f"{shtab.complete(whole, args.shell)}\n")
    return 0


def _actions(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    """All options and arguments, those of the commands included."""
    for action in parser._actions:  # noqa: SLF001 # argparse has no other list of them, and shtab reads this one too
        yield action
        if isinstance(action.choices, dict):
            for command in action.choices.values():
                yield from _actions(command)
