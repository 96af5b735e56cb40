"""The `memreap` command: which commands there are, and what all of them have."""

from __future__ import annotations

import argparse
import errno
import importlib
import os
import signal
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from supervisor_memreap import __version__
from supervisor_memreap.commands.arguments import CONFIGURATION
from supervisor_memreap.core.command import VERBS
from supervisor_memreap.core.failed import Failed
from supervisor_memreap.core.text import quote
from supervisor_memreap.outputs import log

# The modules of this package. Each has its help in its docstring (and EPILOG), add_arguments(parser) and run(args).
COMMANDS = {
    "listen": ("listen", "watch the pools; started by supervisord"),
    "once": ("once", "replace the workers that have to go now, then exit"),
    "status": ("status", "show the state of the pools"),
    "top": ("top", "show the pools live in a terminal"),
    "memory": ("showmemory", "show what each program of supervisord holds"),
    "doctor": ("doctor", "check for anything that would stop memreap or make it unsafe"),
    "settings": ("showsettings", "show the settings in force, and where each was set"),
    "report": ("report", "report what happened in a day or a month, as text or HTML"),
    "suggest": ("suggest", "suggest a limit for a pool"),
    "plot": ("plot", "plot the history of a pool"),
    "demo": ("demo", "show memreap at work on a private supervisord in a temporary directory"),
    "completion": ("completion", "print a shell completion script"),
}
# Errors of a write to a full or broken disk.
_OUTPUT_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """One clear line, not a screen of usage."""
        verb = next((verb for verb in (*VERBS, "workers") if f"invalid choice: '{verb}'" in message), "")
        if verb:
            message = f"{verb} is a command of supervisorctl: supervisorctl memreap {verb}; see memreap doctor"
        self.exit(2, f"{self.prog}: {' '.join(map(quote, message.split()))} (see {self.prog} --help)\n")


class Command(_Parser):
    """A command whose module is imported when it is needed: the listener needs no reports, and vice versa."""

    def __init__(self, *, module: str, **options: Any):
        super().__init__(formatter_class=argparse.RawDescriptionHelpFormatter, **options)
        self._module = module

    def load(self) -> None:
        if not self._module:
            return
        module = importlib.import_module(f"supervisor_memreap.commands.{self._module}")
        self._module = ""
        self.description = module.__doc__
        self.epilog = getattr(module, "EPILOG", "")
        module.add_arguments(self)
        self.set_defaults(run=module.run, parser=self)

    def parse_known_args(self, args=None, namespace=None):  # type: ignore[no-untyped-def] # as argparse's
        self.load()
        return super().parse_known_args(args, namespace)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; the exit status."""
    # If it was inherited as ignored, as from a shell with `trap '' CHLD`, every wait for our own children would fail.
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    _open_standard_descriptors()
    whole = parser()
    args, rest = whole.parse_known_args(argv)
    # `once myapp -n limit=1MB`: argparse takes no further argument of a list that an option has ended.
    positional = next((key for key in ("words", "names") if hasattr(args, key)), "")
    if rest and (not positional or any(argument.startswith("-") for argument in rest)):
        whole.error(f"unrecognized arguments: {' '.join(rest)}")
    if rest:
        setattr(args, positional, [*getattr(args, positional), *rest])
    if not hasattr(args, "run"):
        whole.print_help()
        return 2
    try:
        exit_status = int(args.run(args))
        sys.stdout.flush()
    except BrokenPipeError:
        # What reads our output has ended, such as head. Nothing more is written, not even at the exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except OSError as error:
        if error.errno not in _OUTPUT_FULL:
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        log.to(sys.stderr)(f"cannot write the output: {error.strerror}")
        return 1
    except Failed as error:
        log.to(sys.stderr)(str(error))
        return error.exit_status
    except KeyboardInterrupt:
        return 130
    return exit_status


def _open_standard_descriptors() -> None:
    """If a shell has closed 0, 1 or 2 (`<&-`), one of our pipes would get that number."""
    for fd in (0, 1, 2):
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest number that is free
    for name in ("stdin", "stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "r+"))  # noqa: SIM115 # for as long as we run


def parser(is_whole: bool = False) -> argparse.ArgumentParser:
    """The command line; if not `is_whole`, a command has its arguments only when it is called."""
    whole = _Parser(
        prog="memreap",
        description="Keeps pools of pre-forked workers under supervisord small, one worker at a time.",
    )
    whole.add_argument("--version", action="version", version=f"memreap {__version__}")
    whole.add_argument("-c", "--configuration", metavar="FILE", help=f"{CONFIGURATION}; may also follow the command")
    commands = whole.add_subparsers(title="commands", metavar="COMMAND", parser_class=Command)
    for name, (module, summary) in COMMANDS.items():
        command = commands.add_parser(name, help=summary, module=module)
        if is_whole:
            command.load()
    return whole
