"""References in the documentation to tests and to other pages are correct."""

from __future__ import annotations

import ast
import importlib.util
import re
import shutil
import subprocess

import pytest
from support import servers as set_ups
from support import stack
from support.inprocess import memreap
from test_core_events import EXAMPLES
from test_layers import LAYERS

from supervisor_memreap.commands.cli import parser
from supervisor_memreap.core import servers
from supervisor_memreap.core.hindrance import Kind
from supervisor_memreap.core.model import Standing
from supervisor_memreap.core.reasons import REASONS
from supervisor_memreap.core.rows import MemoryRow, PoolRow, WorkerRow
from supervisor_memreap.core.settings import KEYS, RECORDING_KEYS
from supervisor_memreap.doctor import recycling
from supervisor_memreap.outputs import fields

(COMMANDS,) = [list(action.choices) for action in parser()._actions if isinstance(action.choices, dict)]
SAFETY = stack.ROOT / "tests/SAFETY.md"
DOCUMENTS = [
    stack.ROOT / "README.md",
    *sorted((stack.ROOT / "docs").glob("*.md")),
    *sorted((stack.ROOT / "tests").glob("*.md")),
    *sorted((stack.ROOT / "benchmarks/results").glob("*.md")),
]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_named_test_exists(document):
    missing = []
    for file, name in re.findall(r"`(test_\w+\.py|kernel_guest\.py)::(\w+)`", document.read_text()):
        path = stack.ROOT / ("tests" if file.startswith("test_") else "benchmarks") / file
        if not path.exists() or f"def {name}(" not in path.read_text():
            missing.append(f"{file}::{name}")
    assert missing == []


def test_the_list_of_checks_names_tests():
    assert len(re.findall(r"`test_\w+\.py::test_\w+`", SAFETY.read_text())) > 250


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


def after(page: str, start: str, end: str) -> str:
    """What follows `start` in a page, up to `end`."""
    _, found, rest = (stack.ROOT / page).read_text().partition(start)
    assert found, f"{page} has no {start}"
    return re.split(end, rest)[0]


@pytest.mark.parametrize(
    ("page", "start", "is_in_order"),
    [
        ("README.md", "Each watched program needs", False),
        ("docs/how-it-works.md", "The order of reasons: workers that a user asked to replace", True),
        ("docs/memory.md", "urgent: a user's request", True),
        ("docs/events.md", "| `reason` |", False),
        ("docs/metrics.md", "| `reason` |", False),
    ],
)
def test_each_list_of_the_reasons_is_complete(page, start, is_in_order):
    settings = [reason.setting for reason in REASONS if reason.setting]
    named = [name for name in re.findall(r"`(\w+)`", after(page, start, r"\.\s|\|\n")) if name in settings]
    assert named == settings if is_in_order else set(named) == set(settings)


def row_of_status(key: str) -> set[str]:
    return set(re.findall(r"`([\w ]+)`", after("docs/operating.md", f"\n| `{key}` |", r"\|\n")))


def test_the_operating_page_has_each_key_of_a_pool_and_each_of_their_values():
    table = after("docs/operating.md", "| key of a pool | meaning |", r"\n\n")
    keys = {key for row in re.findall(r"^\| (`.*?) \|", table, re.MULTILINE) for key in re.findall(r"`(\w+)`", row)}
    assert keys == set(PoolRow.__annotations__)
    assert row_of_status("workers") >= {*WorkerRow.__annotations__, *(reason.label for reason in REASONS)}
    assert row_of_status("standing") == {standing.value for standing in Standing}
    shown = re.findall(r"^\| ([A-Z]+) \|", after("docs/operating.md", "| standing | meaning |", r"\n\n"), re.MULTILINE)
    assert {word.lower() for word in shown} == {standing.value for standing in Standing} - {"not running"}


def test_the_operating_page_has_each_key_of_what_a_program_holds():
    table = after("docs/operating.md", "| key of a program | meaning |", r"\n\n")
    keys = {key for row in re.findall(r"^\| (`.*?) \|", table, re.MULTILINE) for key in re.findall(r"`(\w+)`", row)}
    assert keys == set(MemoryRow.__annotations__)


def test_the_operating_page_has_each_hindrance_for_which_a_worker_is_overdue():
    waits = {Kind.OBSERVED, Kind.PAUSED, Kind.SUSPENDED, Kind.LEAVING, Kind.SETTLING, Kind.YOUNG}
    assert row_of_status("hindrance") - {"kind", "text", "since"} == {kind.value for kind in set(Kind) - waits}


def table_of_servers(heading: str) -> dict[str, list[str]]:
    """The other cells of each row of the table below this heading, by the name of the server before a bracket."""
    lines = re.findall(r"^\| (.*) \|$", after("docs/servers.md", f"\n{heading}\n", r"\n## "), re.MULTILINE)
    rows = [line.split(" | ") for line in lines[1:]]
    return {first.partition(" (")[0]: cells for first, *cells in rows}


def quoted(cell: str) -> tuple[str, ...]:
    return tuple(re.findall(r"`([^`]+)`", cell))


# By what it says of a busy worker where ptrace is not permitted, after the signal.
UNLESS = {
    servers.Moment.ANY: "",
    servers.Moment.UNLESS_KEPT: ", unless connections are seen to be kept",
    servers.Moment.IF_FRESH: ", if connections are seen not to be kept",
}


def test_the_table_of_servers_is_that_of_the_code():
    rows = table_of_servers("## Servers")
    lines = {line.name: line for line in servers.LINES if line.graceful}
    assert set(rows) == {*lines, "Net::Server::PreFork"}
    for name, line in lines.items():
        signals, busy, lost, pace, *_ = rows[name]
        cost = line.while_busy
        assert quoted(signals) == line.graceful
        assert busy == (f"`{cost.signal}`{UNLESS[line.moment]}" if cost else "never")
        assert lost == ("; ".join(filter(None, cost[1:])) if cost else "-")
        assert pace == (f"{line.pace:g} s" if line.pace else "-")


def test_each_server_that_is_refused_is_in_the_documentation_with_the_reason():
    rows = table_of_servers("## Refused")
    lines = {line.name: line.refusal.partition(";")[0] for line in servers.LINES if line.graceful == ()}
    assert {name: why for name, (why, _) in rows.items()} == lines


def test_each_example_of_a_server_has_one_of_its_signals_and_each_way_of_its_own_is_named():
    rows = table_of_servers("## Servers")
    for signals, *_, examples in rows.values():
        for path in re.findall(r"\(\.\./([^)]+)\)", examples):
            chosen = re.findall(r"^signal=(\w+)", (stack.ROOT / path).read_text(), re.MULTILINE)
            assert set(chosen) <= set(quoted(signals)), path
    assert {name for name, (*_, off, _) in rows.items() if off} >= {*recycling._FINDERS, "Starman"}
    assert set(quoted(rows["uWSGI"][-2])) == set(recycling._UWSGI)


@pytest.mark.parametrize("server", servers.SERVERS, ids=lambda server: server.name)
def test_each_server_of_the_table_has_a_set_up_and_how_its_workers_wait_is_documented(server):
    assert any(each.name.startswith(server.name) for each in (*set_ups.SERVERS, *set_ups.REFUSED))
    waits = after("tests/SAFETY.md", "### How the workers of each server wait", r"\n### ")
    assert not server.graceful or re.search(rf"\n\| {server.name}\b", waits)


def test_the_map_for_contributors_is_that_of_the_tree():
    text = (stack.ROOT / "CONTRIBUTING.md").read_text()
    package, tests = stack.ROOT / "supervisor_memreap", stack.ROOT / "tests"
    rows = re.findall(r"^\| (`.*?) \|", after("CONTRIBUTING.md", "## Map", r"\n## "), re.MULTILINE)
    rooms = re.findall(r"`(\w+)/`", "".join(rows))
    layer_of = {room: number for number, layer in enumerate(LAYERS) for room in layer}
    assert set(rooms) == {path.parent.name for path in package.glob("*/__init__.py")}
    assert rooms == sorted(rooms, key=lambda room: layer_of[room])
    files = set(re.findall(r"`(\w[\w./-]*(?:\.py|\.md|/))`", text))
    places = (stack.ROOT, package, package / "commands", tests, tests / "support", tests / "sim")
    assert {file for file in files if not any((place / file).exists() for place in places)} == set()
    sources = "".join(path.read_text() for path in tests.glob("test_*.py"))
    assert [name for name in re.findall(r"`(test_\w+)`", text) if f"def {name}(" not in sources] == []
