"""Makes memreap.1 from the help of memreap and of supervisorctl memreap, and settings.md: python docs/manpage.py

A test checks that memreap.1 is up to date.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from argparse_manpage.manpage import Manpage

from supervisor_memreap import __version__
from supervisor_memreap.commands.cli import parser
from supervisor_memreap.ctlplugin import HELP

HERE = Path(__file__).parent
PAGE = HERE / "memreap.1"
SETTINGS = (
    "In supervisord's configuration: in [memreap] for all pools, in [memreap:NAME] for a program, a group or"
    " group:name. For each setting, the most specific section wins. MB means MiB."
)
SUPERVISORCTL = (
    "With [ctlplugin:memreap] and [rpcinterface:memreap] in supervisord's configuration, which memreap doctor"
    " explains, also from another machine:"
)


def page() -> str:
    whole = parser(is_whole=True)
    actions = whole._actions  # noqa: SLF001 # argparse shows them nowhere else
    (commands,) = (each.choices for each in actions if isinstance(each.choices, dict))
    for command in commands.values():  # Manpage does not show its epilog
        command.description = "\n".join(filter(None, (command.description, command.epilog)))
    summary = (whole.description or "").rstrip(".")
    data = {
        "description": summary[:1].lower() + summary[1:],
        "project_name": "memreap",
        "version": __version__,
        "manual_title": "User Commands",
        "date": " ",  # that of the last change would change the page
    }
    manual = Manpage(whole, data, format="single-commands-section")
    manual.add_section("commands of supervisorctl", ">", "\n".join([_escape(SUPERVISORCTL), *_supervisorctl()]))
    manual.add_section("settings", ">", "\n".join([_escape(SETTINGS), *_settings()]))
    manual.add_section("see also", ">", ".BR supervisord (1),\n.BR supervisorctl (1)")
    return str(manual)


def _supervisorctl() -> Iterator[str]:
    commands, _, rest = HELP.partition("\n\n")
    for command in re.split(r"\n(?=memreap )", commands):
        usage, text = re.split(r" {2,}", command, maxsplit=1)
        yield f".TP\n\\fBsupervisorctl {_escape(usage)}\\fR\n{_escape(' '.join(text.split()))}"
    yield f".PP\n{_escape(rest.strip())}"


def _settings() -> Iterator[str]:
    table = (HERE / "settings.md").read_text().partition("| setting | default | allowed | meaning |")[2]
    for line in table.partition("\n\n")[0].splitlines()[2:]:
        key, default, allowed, meaning = (_plain(cell) for cell in line.strip("|").split(" | "))
        default = default.replace("\N{EN DASH}", "none")
        yield f".TP\n\\fB{_escape(key)}\\fR (default {_escape(default)}; {_escape(allowed)})\n{_escape(meaning)}"


def _plain(markdown: str) -> str:
    """Without marks, and without sentences that only name another page."""
    here = re.sub(r" See \[[^]]*\]\([^)]*\)", "", markdown)
    return re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", here).replace("`", "").strip()


def _escape(text: str) -> str:
    text = text.replace("\\", "\\e").replace("-", "\\-")
    return f"\\&{text}" if text.startswith((".", "'")) else text


if __name__ == "__main__":
    PAGE.write_text(page())
