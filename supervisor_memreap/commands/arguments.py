"""Arguments that several commands have."""

from __future__ import annotations

import argparse

from supervisor_memreap.core.text import quote
from supervisor_memreap.core.values import duration

CONFIGURATION = "supervisord.conf (default: as supervisorctl)"


def add_configuration(parser: argparse.ArgumentParser) -> None:
    # Without a default, which would override a -c before the command.
    parser.add_argument("-c", "--configuration", metavar="FILE", default=argparse.SUPPRESS, help=CONFIGURATION)


def add_json(parser: argparse._ActionsContainer) -> None:
    parser.add_argument("--json", action="store_true", help="print JSON; see docs/operating.md")


def interval(text: str) -> float:
    try:
        seconds = duration(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{quote(text)}: {error}") from None
    if seconds < 0.5:
        raise argparse.ArgumentTypeError(f"{text}: at least 0.5s")
    return seconds
