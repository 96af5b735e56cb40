"""Arguments that several commands have."""

from __future__ import annotations

import argparse
from collections.abc import Callable

from supervisor_memreap.core.text import quote
from supervisor_memreap.core.values import duration

CONFIGURATION = "supervisord.conf (default: as supervisorctl)"


def add_configuration(parser: argparse.ArgumentParser) -> None:
    # Without a default, which would override a -c before the command.
    parser.add_argument("-c", "--configuration", metavar="FILE", default=argparse.SUPPRESS, help=CONFIGURATION)


def add_json(parser: argparse._ActionsContainer) -> None:
    parser.add_argument("--json", action="store_true", help="print JSON; see docs/interfaces.md")


def add_history(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--history", metavar="FILE", help="read this file, such as a copy of another machine's memreap.sqlite"
    )


def count(most: int, of: str = "") -> Callable[[str], int]:
    """For argparse: a whole number from 1 to this one, such as `of` seconds."""

    def parse(text: str) -> int:
        if not (text.isascii() and text.isdigit() and len(text) < 10 and 1 <= int(text) <= most):
            raise argparse.ArgumentTypeError(f"{quote(text)}: not a number{of} from 1 to {most}")
        return int(text)

    return parse


def interval(text: str) -> float:
    try:
        seconds = duration(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{quote(text)}: {error}") from None
    if seconds < 0.5:
        raise argparse.ArgumentTypeError(f"{text}: at least 0.5s")
    return seconds
