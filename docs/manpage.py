"""Makes memreap.1 from `memreap --help` and the README's table of settings: python docs/manpage.py

A test checks that memreap.1 is up to date.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from argparse_manpage.manpage import Manpage

from supervisor_memreap import __version__
from supervisor_memreap.commands.cli import parser

HERE = Path(__file__).parent
PAGE = HERE / "memreap.1"
SETTINGS = (
    "In supervisord's configuration: in [memreap] for all pools, in [memreap:NAME] for a program, a group or"
    " group:name. For each setting, the most specific section wins."
)


def page() -> str:
    whole = parser(is_whole=True)
    summary = (whole.description or "").rstrip(".")
    data = {
        "description": summary[:1].lower() + summary[1:],
        "project_name": "memreap",
        "version": __version__,
        "manual_title": "User Commands",
        "date": " ",  # that of the last change would change the page
    }
    manual = Manpage(whole, data, format="single-commands-section")
    manual.add_section("settings", ">", "\n".join([_escape(SETTINGS), *_settings()]))
    manual.add_section("see also", ">", ".BR supervisord (1),\n.BR supervisorctl (1);\nin supervisorctl: help memreap")
    return str(manual)


def _settings() -> Iterator[str]:
    readme = (HERE.parent / "README.md").read_text()
    table = readme.partition("| key | default | meaning |")[2].partition("\n\n")[0]
    for line in table.splitlines()[2:]:
        key, default, meaning = (_plain(cell) for cell in line.strip("|").split(" | "))
        default = default.replace("\N{EN DASH}", "none")
        yield f".TP\n\\fB{_escape(key)}\\fR (default {_escape(default)})\n{_escape(meaning)}"


def _plain(markdown: str) -> str:
    return re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", markdown).replace("`", "").strip()


def _escape(text: str) -> str:
    text = text.replace("\\", "\\e").replace("-", "\\-")
    return f"\\&{text}" if text.startswith((".", "'")) else text


if __name__ == "__main__":
    PAGE.write_text(page())
