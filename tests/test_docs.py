"""The reference pages have what the code has, no less and no more; references to tests and to files are correct."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
import subprocess
from datetime import datetime
from unittest import mock

import pytest
from support import sawtooth, stack
from support import servers as set_ups
from support.inprocess import memreap
from test_core_events import EXAMPLES
from test_examples_of_servers import EXAMPLES as EXAMPLES_OF_SERVERS
from test_examples_of_servers import RUNS, parts
from test_layers import LAYERS

from supervisor_memreap.advice.evidence import Kind as GrowthKind
from supervisor_memreap.advice.suggestion import suggest
from supervisor_memreap.commands.cli import parser
from supervisor_memreap.core import events as all_events
from supervisor_memreap.core import servers
from supervisor_memreap.core.hindrance import Kind
from supervisor_memreap.core.model import Standing
from supervisor_memreap.core.reasons import REASONS
from supervisor_memreap.core.rows import ListenerRow, MemoryRow, PoolRow, RollRow, SuspensionRow, WorkerRow
from supervisor_memreap.core.settings import (
    KEYS,
    RECORDING_KEYS,
    Given,
    PoolSettings,
    Recording,
    SettingsError,
    field_of,
    parse,
)
from supervisor_memreap.core.state import Cause
from supervisor_memreap.core.values import duration, size
from supervisor_memreap.ctlplugin import HELP, MemreapControllerPlugin
from supervisor_memreap.doctor import recycling
from supervisor_memreap.host import attempt
from supervisor_memreap.listener.attempts import ALONE
from supervisor_memreap.outputs import fields
from supervisor_memreap.outputs.view import View
from supervisor_memreap.reports import advicetext, summary
from supervisor_memreap.rpcinterface import MemreapNamespaceRPCInterface

(PARSERS,) = [action.choices for action in parser(is_whole=True)._actions if isinstance(action.choices, dict)]
COMMANDS = list(PARSERS)
CONTROL = re.findall(r"^memreap (\w+)", HELP, re.MULTILINE)
SAFETY = stack.ROOT / "tests/SAFETY.md"
DOCUMENTS = [
    stack.ROOT / "README.md",
    *sorted((stack.ROOT / "docs").glob("*.md")),
    *sorted((stack.ROOT / "tests").glob("*.md")),
    *sorted((stack.ROOT / "benchmarks/results").glob("*.md")),
]


def after(page: str, start: str, end: str) -> str:
    """What follows `start` in a page, up to `end`."""
    _, found, rest = (stack.ROOT / page).read_text().partition(start)
    assert found, f"{page} has no {start}"
    return re.split(end, rest)[0]


def rows(page: str, head: str) -> list[tuple[str, ...]]:
    """Of the table with this head: the cells of each row."""
    lines = after(page, f"\n{head}\n", r"\n\n").strip().splitlines()[1:]
    return [tuple(cell.strip() for cell in line.strip("|").split(" | ")) for line in lines]


def spans(text: str) -> set[str]:
    """What is in code spans."""
    return set(re.findall(r"`([^`]+)`", text))


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


@pytest.mark.parametrize("page", ["SECURITY.md", "docs/install.md"])
def test_each_file_that_a_setting_names_is_in_the_pages_on_security_and_on_what_is_left(page):
    keys = [key for key in RECORDING_KEYS if accepts_a_path(key)]
    assert {"history", "metrics_file"} <= set(keys)
    text = (stack.ROOT / page).read_text()
    assert [key for key in keys if f"`{key}=`" not in text] == []


def test_the_longest_attempt_is_the_same_in_the_code_and_on_each_page():
    safety, security = ((stack.ROOT / page).read_text() for page in ("docs/safety.md", "SECURITY.md"))
    assert f"An attempt takes {ALONE:.0f} s at most" in safety
    assert f"for {ALONE:.0f} s at most (after {ALONE + attempt._OVERRUN:.0f} s it is killed)" in security


def accepts_a_path(key: str) -> bool:
    try:
        RECORDING_KEYS[key]("/a/file.prom")
    except ValueError:
        return False
    return True


def test_the_events_table_has_each_event_with_its_fields():
    """`name` is `event` in another spelling where the row does not have it."""
    described = {}
    for events, own, _ in rows("docs/interfaces.md", "| event | its own fields | what happened |"):
        names = re.findall(r"\(`(\w+)`\)", events)
        for event in re.findall(r"(?<!\()`(\w+)`", events):
            name = names[0] if names else "".join(part.capitalize() for part in event.split("_"))
            assert (event, name) not in described
            described[event, name] = spans(own)
    values = [fields.of(event) for event, _ in EXAMPLES]
    assert described == {(each["event"], each["name"]): set(each) - set(fields.COMMON) for each in values}


def test_the_common_fields_of_events_are_listed_and_the_example_is_an_event():
    table = [cell.strip("`") for cell, _ in rows("docs/interfaces.md", "| field | meaning |")]
    assert table == [*fields.COMMON, "shortened"]
    shown = json.loads(re.search(r"(?s)\n    (\{.*?\})\n\n", after("docs/interfaces.md", "## Events", r"\n## "))[1])
    (event,) = (event for event, _ in EXAMPLES if event.text.endswith("limit 150 MiB: HUP sent between two requests"))
    assert (list(shown), list(shown["evidence"])) == (list(fields.of(event)), list(fields.of(event)["evidence"]))
    assert datetime.fromisoformat(shown["time"]).timestamp() == int(shown["at"])


def test_each_announcement_is_listed():
    announced = {kind.announced_as for kind in all_events.kinds() if kind.announced_as}
    text = " ".join(after("docs/interfaces.md", "## Announcements", r"\n## ").split())
    assert spans(text.partition("each of these events: ")[2].partition(".")[0]) == announced


def man_page():
    spec = importlib.util.spec_from_file_location("manpage", stack.ROOT / "docs/manpage.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_man_page_is_generated_from_help_and_settings():
    assert (stack.ROOT / "docs/memreap.1").read_text() == man_page().page(), "run python docs/manpage.py"


def test_the_man_page_has_every_command_also_of_supervisorctl_and_every_setting():
    page = (stack.ROOT / "docs/memreap.1").read_text().replace("\\-", "-")
    commands = re.findall(r"^\.SS \\fBmemreap (\w+)\\fR$", page, re.MULTILINE)
    assert commands == COMMANDS
    assert page.count("\nexit status: ") == len([*COMMANDS, "supervisorctl memreap"])
    assert re.findall(r"^\\fBsupervisorctl memreap (\w+)", page, re.MULTILINE) == list(CONTROL)
    assert re.findall(r"^\\fB(\w+)\\fR \(default ", page, re.MULTILINE) == list(KEYS)


@pytest.mark.skipif(not shutil.which("groff"), reason="groff would say what is wrong with it")
def test_the_man_page_has_no_warnings():
    command = ["groff", "-man", "-Tutf8", "-ww", "-z", str(stack.ROOT / "docs/memreap.1")]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    assert result.stderr == ""


@pytest.mark.parametrize("words", [[], *([name] for name in COMMANDS)])
def test_each_help_page_fits_a_terminal(words):
    result = memreap(*words, "--help", environment={"COLUMNS": "100"})
    assert result.returncode == 0
    assert result.stdout.startswith("usage: memreap")
    assert len(result.stdout.splitlines()) > 8
    assert max(map(len, result.stdout.splitlines())) <= 100


def test_the_tables_of_commands_have_each_command_and_what_ends_it():
    commands = "".join(cell for cell, _ in rows("docs/commands.md", "| command | what it does |"))
    assert re.findall(r"`memreap (\w+)", commands) == COMMANDS
    control = after("docs/commands.md", "## supervisorctl memreap", r"\n```")
    assert re.findall(r"^\| `supervisorctl memreap (\w+)", control, re.MULTILINE) == list(CONTROL)
    statuses = {
        f"memreap {name}": exit_statuses(f"{each.description}\n\n{each.epilog}") for name, each in PARSERS.items()
    }
    statuses["supervisorctl memreap"] = exit_statuses(HELP)
    for of_all in (each.pop(2) for each in statuses.values()):
        assert of_all.startswith("bad usage")
    assert [each.pop(130, "Ctrl-C") for each in statuses.values()] == ["Ctrl-C"] * len(statuses)
    table = {}
    for command, *cells, other in rows("docs/commands.md", "| command | 0 | 1 | other |"):
        known = {number: cell for number, cell in enumerate(cells) if cell != "\N{EN DASH}"}
        more = re.fullmatch(r"(\d+) (.*)", other)
        table[command.strip("`")] = {**known, **({int(more[1]): more[2]} if more else {})}
    assert table == statuses


def exit_statuses(text: str) -> dict[int, str]:
    """As a help page has them."""
    (sentence,) = re.findall(r"(?s)exit status: (.*?)\.?\s*(?:\n\n|$)", text)
    parts = re.split(r"; (?=\d)", " ".join(sentence.split()))
    return {int(number): meaning for number, _, meaning in (part.partition(" ") for part in parts)}


def test_the_help_of_supervisorctl_has_each_of_its_commands():
    plugin = MemreapControllerPlugin(mock.Mock(options=mock.Mock(plugins=[])))
    plugin.do_memreap("nothing")
    (line,) = (call.args[0] for call in plugin.ctl.output.call_args_list)
    named = line.partition("the commands are ")[2].split(", ")
    assert set(CONTROL) == set(named)


SETTINGS_TABLE = rows("docs/settings.md", "| setting | default | allowed | meaning |")


def test_the_table_of_settings_has_each_setting_with_its_default():
    assert [key.strip("`") for key, *_ in SETTINGS_TABLE] == list(KEYS)
    defaults = {**vars(PoolSettings()), **Recording()._asdict()}
    for name, shown, *_ in SETTINGS_TABLE:
        key, is_value = name.strip("`"), bool(re.fullmatch("`[^`]+`", shown))
        default = defaults[field_of(key)]
        assert (parse(key, Given(shown.strip("`"), "")) == default) if is_value else default in (None, ""), key
        assert is_value or shown == "\N{EN DASH}" or key in ("signal", "history"), key


def accepts(key: str, value: str) -> bool:
    try:
        parse(key, Given(value, ""))
    except SettingsError:
        return False
    return True


def beyond(value: str) -> tuple[str, str]:
    """A little less, and a little more."""
    if value.endswith("%"):
        return f"{float(value[:-1]) - 0.001:.3f}%", f"{float(value[:-1]) + 0.001:.3f}%"
    if value.endswith("B"):
        return str(size(value) - 1), str(size(value) + 1)
    if value.isdigit():
        return str(int(value) - 1), str(int(value) + 1)
    return f"{duration(value) - 0.001:.3f}s", f"{duration(value) + 0.001:.3f}s"


def test_the_table_of_settings_has_what_is_allowed_and_no_more():
    """A range ends where it says, a list has all words that there are; `LIKE:THIS` is a pattern."""
    words = {word for *_, allowed, _ in SETTINGS_TABLE for word in spans(allowed)} | {"STOP", "on", "3"}
    for name, _, allowed, _ in SETTINGS_TABLE:
        key, ends = name.strip("`"), re.findall(r"`([^`]+)` to `([^`]+)`", allowed)
        for least, most in ends:
            assert [accepts(key, value) for value in (least, most)] == [True, True], key
            assert [accepts(key, value) for value in (beyond(least)[0], beyond(most)[1])] == [False, False], key
        if not ends:
            some = {word for word in words if not word[0].isdigit() or key == "depth"}
            listed = spans(allowed) - {"ADDRESS:PORT", ".prom"}
            synonyms = {"on", "off"} if listed == {"yes", "no"} else set()
            assert {word for word in some if accepts(key, word)} == listed | synonyms, key
    assert accepts("metrics", "127.0.0.1:65535")
    assert not accepts("metrics", "127.0.0.1:65536")
    assert not accepts("history", "relative/path")
    assert not accepts("metrics_file", "/a/file.txt")


@pytest.mark.parametrize(
    ("page", "start", "is_in_order"),
    [
        ("docs/how-it-works.md", "The order of reasons: workers that a user asked to replace", True),
        ("docs/settings.md", "Each watched program needs", False),
        ("docs/interfaces.md", "| `reason` |", False),
        ("docs/metrics.md", "| `reason` |", False),
    ],
)
def test_each_list_of_the_reasons_is_complete(page, start, is_in_order):
    settings = [reason.setting for reason in REASONS if reason.setting]
    named = [name for name in re.findall(r"`(\w+)`", after(page, start, r"\.\s|\|\n")) if name in settings]
    assert named == settings if is_in_order else set(named) == set(settings)


def row_of_status(key: str) -> set[str]:
    return set(re.findall(r"`([\w ]+)`", after("docs/interfaces.md", f"\n| `{key}` |", r"\|\n")))


def keys_of(head: str) -> set[str]:
    """In the first column of this table."""
    return {key for cell, _ in rows("docs/interfaces.md", head) for key in spans(cell)}


def test_the_json_of_the_status_has_each_key_and_each_of_their_values():
    assert keys_of("| key of a pool | meaning |") == set(PoolRow.__annotations__)
    assert keys_of("| key | meaning |") == set(View([], "look", "n", ("t",), 1.0, warnings=("w",)).values())
    assert row_of_status("workers") >= {*WorkerRow.__annotations__, *(reason.label for reason in REASONS)}
    assert row_of_status("roll") == set(RollRow.__annotations__)
    assert row_of_status("suspension") == set(SuspensionRow.__annotations__) | {cause.value for cause in Cause}
    assert row_of_status("standing") == {standing.value for standing in Standing}
    shown = re.findall(r"^\| ([A-Z]+) \|", after("docs/commands.md", "| standing | meaning |", r"\n\n"), re.MULTILINE)
    assert {word.lower() for word in shown} == {standing.value for standing in Standing} - {"not running"}


def test_the_json_of_other_commands_and_of_the_listener_has_each_key(monkeypatch):
    assert keys_of("| key of a program | meaning |") == set(MemoryRow.__annotations__)
    assert keys_of("| key of the listener | meaning |") == set(ListenerRow.__annotations__)
    for module in (summary, advicetext):
        monkeypatch.setattr(module, "known", lambda row: row)
    monkeypatch.setattr(summary, "timed", lambda row: row)
    report = summary.values(summary.of(sawtooth.troubled(), sawtooth.UNTIL - 86400, sawtooth.UNTIL))
    assert keys_of("| key of a pool in a report | meaning |") == set(report)
    assert row_of_status("days") == set(report["days"][0])
    suggestion = suggest(sawtooth.pool(days=3), sawtooth.UNTIL)
    assert keys_of("| key of a suggestion | meaning |") == set(advicetext.values(suggestion))
    assert row_of_status("kind") == {kind.value for kind in GrowthKind}
    forecast = next(iter(advicetext.values(suggestion)["candidates"]))
    assert spans(after("docs/interfaces.md", "| `candidates`, `present` |", r"\|\n")) == set(forecast)


def test_each_method_of_xml_rpc_is_listed():
    methods = {name for name in vars(MemreapNamespaceRPCInterface) if not name.startswith("_")}
    table = "".join(cell for cell, _ in rows("docs/interfaces.md", "| method | what it returns |"))
    assert set(re.findall(r"`memreap\.(\w+)\(", table)) == methods


def test_the_help_of_get_pool_has_each_key():
    text = MemreapNamespaceRPCInterface.getPool.__doc__
    rows = (PoolRow, WorkerRow, RollRow, SuspensionRow)
    assert {key for row in rows for key in row.__annotations__} - set(re.findall(r"\w+", text)) == set()


def test_the_json_of_the_status_has_each_hindrance_for_which_a_worker_is_overdue():
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


def test_the_page_names_the_variants_that_each_example_of_a_server_has():
    cells = [examples for *_, examples in table_of_servers("## Servers").values()]
    links = re.findall(r"conf\.d-examples/([\w-]+)\.conf\)(?: \((.*?)\))?", " ".join(cells))
    for file in EXAMPLES_OF_SERVERS:
        named = [name for link, names in links if link == file for name in names.split(", ") if name]
        _, variants = parts(file)
        # Without the name of the server.
        assert sorted(named) == sorted(re.sub(r"^(Apache prefork|\S+) (with )?", "", name) for name in variants), file


def test_each_server_that_is_accepted_and_each_set_up_that_was_measured_has_an_example_that_is_run():
    rows = table_of_servers("## Servers")
    assert [name for name, cells in rows.items() if "](" not in cells[-1]] == ["gunicorn of an unknown worker class"]
    measured = {each.name for each in (*set_ups.SERVERS, *set_ups.ELASTIC)}
    # test_examples.py runs those of FCGI::ProcManager.
    assert {name for name in measured - {*RUNS} if not name.startswith("FCGI::ProcManager")} == set()


def test_each_worker_class_of_gunicorn_that_is_accepted_has_an_example_that_is_run():
    section = after("docs/servers.md", "\n## gunicorn's worker classes\n", r"\n## ")
    classes = re.findall(r"^- `(\w+)`(?: and `(\w+)`)?", section, re.MULTILINE)
    classes.append(quoted(after("docs/servers.md", "\n| gunicorn (", r"\)")))
    refused = {line.name for line in servers.LINES if line.graceful == ()}
    accepted = {f"gunicorn {name}" for pair in classes for name in pair if name} - refused
    assert accepted >= {"gunicorn sync", "gunicorn gevent", "gunicorn gevent_pywsgi", "gunicorn gthread"}
    assert accepted - {*RUNS} == set()


def test_each_server_that_ends_idle_workers_has_an_example_of_that_which_is_run():
    elastic = " ".join(name for name, run in RUNS.items() if run.is_elastic)
    managers = after("docs/servers.md", "\n## Pools that grow and shrink\n\n", " end idle workers")
    for manager, _, modes in (each.partition(" with ") for each in re.split(", | and ", managers)):
        # CPAN alone has FCGI::ProcManager::Dynamic.
        assert manager in elastic or manager == "FCGI::ProcManager::Dynamic"
        assert [mode for mode in spans(modes) if mode not in elastic] == []


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
