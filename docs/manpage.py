#!/usr/bin/env python3
"""Makes memreap.1 of what `memreap --help` says and of the README's table of settings: python docs/manpage.py

A test holds that memreap.1 is what this makes.
"""

from __future__ import annotations

import argparse
import itertools
import re
from collections.abc import Iterator
from pathlib import Path

from supervisor_memreap import __version__
from supervisor_memreap.cli import parser

HERE = Path(__file__).parent
PAGE = HERE / "memreap.1"


def page() -> str:
    return "\n".join(_page()) + "\n"


def _page() -> Iterator[str]:
    whole = parser()
    yield f'.TH MEMREAP 1 "" "memreap {__version__}" "User Commands"'
    yield ".SH NAME"
    yield f"memreap \\- {_escape(_lowered(whole.description or ''))}"
    commands = _commands(whole)
    yield ".SH SYNOPSIS"
    for name, one, _summary in commands:
        yield f".B memreap {name}"
        yield _escape(" ".join(["[OPTION]...", *map(_shown, _words(one))]))
        yield ".br"
    yield ".SH COMMANDS"
    for name, one, summary in commands:
        yield f".SS memreap {name}"
        yield from _text(f"{summary[0].upper()}{summary[1:]}.")
        yield from _text(one.description or "")
        for action in one._actions:
            if action.option_strings or action.help:
                yield ".TP"
                yield f"\\fB{_escape(', '.join(action.option_strings) or _shown(action))}\\fR{_argument(action)}"
                yield _escape((action.help or "").replace("%%", "%"))
        yield from _text(one.epilog or "")
    yield ".SH SETTINGS"
    yield from _text(
        "In supervisord's configuration, in [memreap] for all pools, in [memreap:NAME] for a program, a group or"
        " group:name; key by key, the most exact one wins."
    )
    for key, default, meaning in _settings():
        yield ".TP"
        yield f"\\fB{_escape(key)}\\fR (default {_escape(default)})"
        yield _escape(meaning)
    yield ".SH SEE ALSO"
    yield ".BR supervisord (1),"
    yield ".BR supervisorctl (1);"
    yield "in supervisorctl,"
    yield ".B help memreap"


def _commands(whole: argparse.ArgumentParser) -> list[tuple[str, argparse.ArgumentParser, str]]:
    (group,) = (one for one in whole._actions if isinstance(one, argparse._SubParsersAction))
    summaries = {one.dest: one.help or "" for one in group._choices_actions}
    return [(name, one, summaries[name]) for name, one in group.choices.items()]


def _words(one: argparse.ArgumentParser) -> list[argparse.Action]:
    return [action for action in one._actions if not action.option_strings]


def _shown(action: argparse.Action) -> str:
    name = str(action.metavar or action.dest)
    return f"[{name}]..." if action.nargs == "*" else name


def _argument(action: argparse.Action) -> str:
    if not action.option_strings or action.nargs == 0:
        return ""
    name = str(action.metavar or action.dest.upper())
    return f" \\fI{_escape(f'[{name}]' if action.nargs == '?' else name)}\\fR"


def _settings() -> list[tuple[str, str, str]]:
    readme = (HERE.parent / "README.md").read_text()
    table = readme.partition("| key | default | meaning |")[2].partition("\n\n")[0]
    rows = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in table.splitlines()[2:]]
    return [
        (_plain(key), _plain(default).replace("\N{EN DASH}", "none"), _plain(meaning)) for key, default, meaning in rows
    ]


def _plain(markdown: str) -> str:
    return re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", markdown).replace("`", "").strip()


def _text(text: str) -> Iterator[str]:
    """Paragraphs are filled; what is indented stays as it is."""
    for block in re.split(r"\n\s*\n", text.strip("\n")):
        lines = [line for line in block.splitlines() if line.strip()]
        yield ".PP"
        for indented, some in itertools.groupby(lines, lambda line: line.startswith("    ")):
            if indented:
                yield from (".RS", ".nf", *(_escape(line[4:]) for line in some), ".fi", ".RE")
            else:
                yield from map(_escape, some)


def _escape(text: str) -> str:
    text = text.replace("\\", "\\e").replace("-", "\\-")
    text = "".join(one if one.isascii() else f"\\[u{ord(one):04X}]" for one in text)
    return f"\\&{text}" if text.startswith((".", "'")) else text


def _lowered(text: str) -> str:
    return (text[:1].lower() + text[1:]).rstrip(".")


if __name__ == "__main__":
    PAGE.write_text(page())
