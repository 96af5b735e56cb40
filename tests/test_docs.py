"""References in the documentation to tests and to other pages are correct."""

from __future__ import annotations

import ast
import importlib.util
import re
import shutil
import subprocess

import pytest
from support import stack
from support.inprocess import memreap
from test_core_events import EXAMPLES

from supervisor_memreap.commands.cli import parser
from supervisor_memreap.core.settings import KEYS, RECORDING_KEYS
from supervisor_memreap.outputs import fields

(COMMANDS,) = [list(action.choices) for action in parser()._actions if isinstance(action.choices, dict)]
DOCUMENTS = [stack.ROOT / "README.md", *sorted((stack.ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_named_test_exists(document):
    missing = []
    for file, name in re.findall(r"`(test_\w+\.py)::(test_\w+)`", document.read_text()):
        path = stack.ROOT / "tests" / file
        if not path.exists() or f"def {name}(" not in path.read_text():
            missing.append(f"{file}::{name}")
    assert missing == []


def test_the_safety_page_names_tests():
    assert len(re.findall(r"`test_\w+\.py::test_\w+`", (stack.ROOT / "docs/safety.md").read_text())) > 30


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_internal_link_resolves(document):
    links = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", document.read_text())
    assert [link for link in links if not (document.parent / link).exists()] == []


@pytest.mark.parametrize("page", ["SECURITY.md", "docs/install.md"])
def test_each_file_that_a_setting_names_is_in_the_pages_on_security_and_on_what_is_left(page):
    keys = [key for key in RECORDING_KEYS if accepts_a_path(key)]
    assert {"history", "metrics_file"} <= set(keys)
    text = (stack.ROOT / page).read_text()
    assert [key for key in keys if f"`{key}=`" not in text] == []


def accepts_a_path(key: str) -> bool:
    try:
        RECORDING_KEYS[key]("/a/file.prom")
    except ValueError:
        return False
    return True


def test_the_events_page_has_each_event_with_its_fields():
    rows = re.findall(r"^\| `(\w+)` \| `(\w+)` \| (.*?) \|", (stack.ROOT / "docs/events.md").read_text(), re.MULTILINE)
    described = {(event, name): set(re.findall(r"`(\w+)`", own)) for event, name, own in rows}
    values = [fields.of(event) for event, _ in EXAMPLES]
    assert described == {(each["event"], each["name"]): set(each) - set(fields.COMMON) for each in values}
    assert len(rows) == len(described)


def test_the_events_page_has_the_common_fields():
    table = (stack.ROOT / "docs/events.md").read_text().partition("| field | meaning |")[2].partition("\n\n")[0]
    assert re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE) == [*fields.COMMON, "shortened"]


def man_page():
    spec = importlib.util.spec_from_file_location("manpage", stack.ROOT / "docs/manpage.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_man_page_is_generated_from_help_and_readme():
    assert (stack.ROOT / "docs/memreap.1").read_text() == man_page().page(), "run python docs/manpage.py"


def test_the_man_page_has_every_command_and_every_setting():
    page = (stack.ROOT / "docs/memreap.1").read_text().replace("\\-", "-")
    commands = re.findall(r"^\.SS \\fBmemreap (\w+)\\fR$", page, re.MULTILINE)
    assert commands == COMMANDS
    assert [key for key in KEYS if f"\\fB{key}\\fR (default " not in page] == []


@pytest.mark.skipif(not shutil.which("groff"), reason="groff would say what is wrong with it")
def test_the_man_page_has_no_warnings():
    command = ["groff", "-man", "-Tutf8", "-ww", "-z", str(stack.ROOT / "docs/memreap.1")]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    assert result.stderr == ""


@pytest.mark.parametrize("words", [[], *([name] for name in COMMANDS)])
def test_each_help_page_fits_a_terminal_and_the_readme_names_each_command(words):
    result = memreap(*words, "--help", environment={"COLUMNS": "100"})
    assert result.returncode == 0
    assert result.stdout.startswith("usage: memreap")
    assert len(result.stdout.splitlines()) > 8
    assert max(map(len, result.stdout.splitlines())) <= 100
    assert " ".join(["memreap", *words]) in (stack.ROOT / "README.md").read_text()


def test_every_line_explained_in_the_readme_is_written_by_memreap():
    table = (stack.ROOT / "README.md").read_text().partition("| the log says |")[2].partition("\n\n")[0]
    explained = re.findall(r"^\| `([^`]+)` \|", table, re.MULTILINE)
    sources = (path.read_text() for path in (stack.ROOT / "supervisor_memreap").rglob("*.py"))
    texts = [
        *(event.text for event, _ in EXAMPLES),
        *(node.value for source in sources for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Constant)),
    ]
    patterns = {line: re.compile(re.sub("[0-9]+", r"[0-9]+", re.escape(line))) for line in explained}
    assert len(explained) > 25
    assert [line for line, pattern in patterns.items() if not any(map(pattern.search, map(str, texts)))] == []


def test_the_readme_has_every_setting():
    table = (stack.ROOT / "README.md").read_text().partition("| key | default | meaning |")[2].partition("\n\n")[0]
    assert set(re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)) == set(KEYS)
