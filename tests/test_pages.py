"""What all pages have in common: their links lead somewhere, and each setting, command and log line in them exists."""

from __future__ import annotations

import ast
import configparser
import inspect
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from supervisor import options
from support import stack
from test_core_events import EXAMPLES

from supervisor_memreap.commands.cli import COMMANDS
from supervisor_memreap.core.settings import KEYS, Given, SettingsError, parse, resolve
from supervisor_memreap.ctlplugin import HELP
from supervisor_memreap.listener import slowoutputs

README = stack.ROOT / "README.md"
PAGES = [README, *sorted((stack.ROOT / "docs").glob("*.md"))]
DASHBOARD = stack.ROOT / "docs/fleet/README.md"
RESULTS = sorted((stack.ROOT / "benchmarks/results").glob("*.md"))
CONTROL = re.findall(r"^memreap (\w+)", HELP, re.MULTILINE)
# What ps shows, as of a command.
PROCESSES = [kind.name for kind in slowoutputs._KINDS]
# Of other programs than memreap and supervisord, and of a command as an event.
OTHER_KEYS = {"chmod", "chown", "id", "memreap", "psi", "ptrace_scope", "serialize", "until"}
SUPERVISORD_KEYS = set(re.findall(r"""['"]([a-z_]+)['"]""", inspect.getsource(options)))
FENCED = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)

each_page = pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)


def prose(page: Path) -> str:
    """Without code, in which a bracket or a # is neither a link nor a heading."""
    text = FENCED.sub("", page.read_text())
    return re.sub(r"^ {4}.*$", "", text, flags=re.MULTILINE)


def anchors(page: Path) -> set[str]:
    """As GitHub makes them of headings."""
    found: Counter[str] = Counter()
    for heading in re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE):
        text = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading).strip().lower()
        found[re.sub(r"[^\w\- ]", "", text).replace(" ", "-")] += 1
    return {f"{name}-{number}" if number else name for name, count in found.items() for number in range(count)}


@pytest.mark.parametrize("page", [*PAGES, DASHBOARD, *RESULTS], ids=lambda path: path.name)
def test_each_link_leads_to_a_file_and_a_heading(page):
    broken = []
    for link in re.findall(r"\]\(([^)\s]+)\)", re.sub(r"`[^`\n]*`", "", prose(page))):
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        if ":" not in path and (not target.exists() or (anchor and anchor not in anchors(target))):
            broken.append(link)
    assert broken == []


def test_the_readme_has_at_most_150_lines():
    assert len(README.read_text().splitlines()) <= 150


def test_all_pages_together_have_at_most_15_000_words():
    words = {page.name: sum(bool(re.search(r"\w", word)) for word in page.read_text().split()) for page in PAGES}
    assert sum(words.values()) <= 15_000, words


# Settings.


def blocks(page: Path) -> Iterator[str]:
    """Code, in fences or indented."""
    text = page.read_text()
    yield from (code for _, code in FENCED.findall(text))
    for block in re.findall(r"(?:^ {4}.*\n)+", FENCED.sub("", text), re.MULTILINE):
        yield re.sub("^ {4}", "", block, flags=re.MULTILINE)


def spans(page: Path) -> list[str]:
    """What is in code spans, without the first column of a table of log lines."""
    text = re.sub(r"^ {4}.*$", "", FENCED.sub("", page.read_text()), flags=re.MULTILINE)
    return re.findall(r"`([^`\n]+)`", re.sub(r"(?s)\| the log says \|.*?(?:\n\n|\Z)", "", text))


@each_page
def test_each_section_of_memreap_in_a_block_is_valid(page):
    for block in blocks(page):
        if not re.search(r"^\[memreap[\]:]", block, re.MULTILINE):
            continue
        section = re.findall(r"^\[memreap(?::[^\]]+)?\]\n(?:(?:[a-z_]+ ?=.*|;.*|)\n?)*", block, re.MULTILINE)
        parser = configparser.ConfigParser(interpolation=None)
        parser.read_string("\n".join(section))
        # A block may show only the setting that it is about.
        for_all = {"observe": Given("yes", "")}
        written = {
            name.partition(":")[2]: {key: Given(value, name) for key, value in parser[name].items()}
            for name in parser.sections()
        }
        resolve({**written, "": {**for_all, **written.get("", {})}})


@each_page
def test_each_key_in_a_code_span_is_one_of_memreap_or_supervisord_and_has_a_valid_value(page):
    wrong = []
    for key, value in (span.partition("=")[::2] for span in spans(page) if re.match("[a-z_]+=", span)):
        if key not in KEYS:
            wrong += [key] * (key not in SUPERVISORD_KEYS | OTHER_KEYS)
        elif value and not re.fullmatch("[A-Z]+", value):
            try:
                parse(key, Given(value, str(page)))
            except SettingsError as error:
                wrong.append(str(error))
    assert wrong == []


# Commands.


@each_page
def test_each_command_of_memreap_and_of_supervisorctl_exists(page):
    unknown = []
    for line in (*spans(page), *(line for block in blocks(page) for line in block.splitlines())):
        command = line.partition(" # ")[0]
        for before, name in re.findall(r"(?:^|&& )(.*?)\bmemreap ([a-z]+)", command):
            is_control = re.search(r"supervisorctl( -\S+ \S+)* $", before)
            is_own = re.fullmatch(r"(\$ )?(sudo (-u \S+ )?)?(command=)?(\S*/)?", before)
            known = CONTROL if is_control else [*COMMANDS, *PROCESSES] if is_own else [name]
            unknown += [command] * (name not in known)
    assert unknown == []


# Lines of the log.


def generalised(text: str) -> str:
    """Without the numbers and names that differ from one such line to another."""
    text = re.sub(r"\d[\d.,]*(?: (?:[KMGT]iB|ms|s|min|h|d))?", "N", text)
    text = re.sub(r"\b(HUP|TERM|QUIT|USR1|USR2|KILL)\b", "SIGNAL", text)
    return re.sub(r"\b(uss|pss|rss|vms)\b", "METRIC", text)


def quoted(page: Path) -> Iterator[str]:
    """The lines of blocks that begin with a time, each with its continuation, without time, `memreap:` and pool."""
    for block in blocks(page):
        for line in re.findall(r"^ *(?:\d{4}-\d\d-\d\d )?\d\d:\d\d:\d\d (.*(?:\n {4,}.*)*)", block, re.MULTILINE):
            yield re.sub(r"^(memreap: )?(?:[\w:-]+: (?=worker|suspended|resumed))?", "", " ".join(line.split()))


@each_page
def test_each_quoted_line_of_the_log_is_an_event(page):
    written = {generalised(event.text) for event, _ in EXAMPLES}
    shown = [generalised(line) for line in quoted(page)]
    assert [line for line in shown if not any(text == line or _begins(text, line) for text in written)] == []


def _begins(text: str, line: str) -> bool:
    """Whether the line is the text up to its `...`."""
    return line.endswith(("...", "\N{HORIZONTAL ELLIPSIS}")) and text.startswith(
        line.rstrip(".\N{HORIZONTAL ELLIPSIS} ")
    )


def test_each_line_that_a_table_explains_is_written_by_memreap():
    tables = [
        table for page in PAGES for table in re.findall(r"(?s)\| the log says \|(.*?)(?:\n\n|\Z)", page.read_text())
    ]
    cells = re.findall(r"^\| (`.+?`) \|", "\n".join(tables), re.MULTILINE)
    explained = [line for cell in cells for line in re.findall("`([^`]+)`", cell)]
    sources = (path.read_text() for path in (stack.ROOT / "supervisor_memreap").rglob("*.py"))
    texts = [
        *(event.text for event, _ in EXAMPLES),
        *(node.value for source in sources for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Constant)),
    ]
    patterns = {line: re.compile(re.sub("[0-9]+", r"[0-9]+", re.escape(line))) for line in explained}
    assert len(explained) > 20
    assert [line for line, pattern in patterns.items() if not any(map(pattern.search, map(str, texts)))] == []
