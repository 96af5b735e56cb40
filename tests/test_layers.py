"""The layers: which module may import which, and how large a function or class may be."""

from __future__ import annotations

import ast
import functools
import io
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from supervisor.childutils import EventListenerProtocol
from supervisor.xmlrpc import Faults

import supervisor_memreap
from supervisor_memreap.commands import cli
from supervisor_memreap.supervisord import client
from supervisor_memreap.supervisord.protocol import Protocol

ROOT = Path(supervisor_memreap.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))
MAX_LINES_OF_A_FUNCTION, MAX_LINES_OF_A_CLASS = 50, 200
# A room, or a file of the top, imports from itself and from the rooms before its own.
LAYERS: tuple[set[str], ...] = (
    {"core"},
    {"advice"},
    {"host"},
    {"supervisord"},
    {"outputs"},
    {"reports"},
    {"history"},  # its writer makes the lines of each day
    {"listener"},
    {"views", "doctor", "demo"},
    {"commands"},
    {"ctlplugin", "rpcinterface", "__main__"},  # the entry points
)
MAX_FILES_ON_TOP = 6
# Of listener/, the process around the reaper. All else there asks host/machine.py, as core/ asks nothing at all: so it
# runs on a simulated machine too.
AROUND_THE_REAPER = {
    "application",
    "doctorprocess",
    "loop",
    "slowoutputs",
    "statedirectory",
    "statefile",
}
OUTSIDE = {"fcntl", "os", "psutil", "random", "select", "signal", "socket", "subprocess", "threading", "time"}
# The packages of which a command imports only those that it needs: all else would cost memory and time of each.
ROOMS_OF_COMMANDS = {"demo", "doctor", "reports", "views"}
ROOM_OF = {
    "demo": "demo",
    "doctor": "doctor",
    "plot": "reports",
    "report": "reports",
    "status": "views",
    "suggest": "reports",
    "top": "views",
}


@functools.cache
def tree(file: Path) -> ast.Module:
    return ast.parse(file.read_text())


def imports(file: Path) -> set[str]:
    """The memreap modules that it imports, anywhere in the file."""
    modules = set()
    for node in ast.walk(tree(file)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("supervisor_memreap"):
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            modules |= {name if is_module(name) else str(node.module) for name in names}
        elif isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names if alias.name.startswith("supervisor_memreap")}
    return modules


def is_module(name: str) -> bool:
    path = ROOT.joinpath(*name.split(".")[1:])
    return path.with_suffix(".py").exists() or path.is_dir()


def name_of(file: Path) -> str:
    return ".".join(("supervisor_memreap", *file.relative_to(ROOT).with_suffix("").parts)).removesuffix(".__init__")


def part_of(module: str) -> str:
    """The room, or the file of the top, that this module is in."""
    return module.split(".")[1]


def test_no_module_imports_from_its_own_layer_or_one_above_it():
    assert not imports(ROOT / "__init__.py"), "it is imported by all"
    for file in set(FILES) - {ROOT / "__init__.py"}:
        own = part_of(name_of(file))
        (number,) = [number for number, layer in enumerate(LAYERS) if own in layer]
        below = {own}.union(*LAYERS[:number])
        for module in imports(file) - {"supervisor_memreap"}:
            assert part_of(module) in below, f"{name_of(file)} imports {module}"


def test_the_reaper_reaches_the_outside_only_through_its_machine():
    around = {f"supervisor_memreap.listener.{name}" for name in AROUND_THE_REAPER}
    for file in (ROOT / "listener").glob("*.py"):
        if file.stem in AROUND_THE_REAPER:
            continue
        nodes = list(ast.walk(tree(file)))
        names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
        names |= {node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)}
        assert not names & OUTSIDE, file
        of_host = {module for module in imports(file) if part_of(module) == "host"}
        assert of_host <= {"supervisor_memreap.host.machine"}, file
        assert not imports(file) & around, file


def test_the_machine_itself_is_pure():
    of_ours = imports(ROOT / "host/machine.py")
    assert {part_of(module) for module in of_ours} == {"core"}


def test_every_layer_exists():
    assert set().union(*LAYERS) == {part_of(name_of(file)) for file in FILES if file != ROOT / "__init__.py"}


def test_few_files_are_at_the_top_level_and_module_names_are_unique():
    assert len([file for file in FILES if file.parent == ROOT]) <= MAX_FILES_ON_TOP
    names = Counter(file.stem for file in FILES if file.name != "__init__.py")
    assert [name for name, count in names.items() if count > 1] == []


# Each command in a fork of one Python that has loaded no command yet.
LOADED = """
import os, sys
from supervisor_memreap.commands import cli
for command in cli.COMMANDS:
    if not os.fork():
        sys.stdout = open(os.devnull, "w")
        try:
            cli.main([command, "--help"])
        except SystemExit:
            print(command, *sys.modules, file=sys.stderr, flush=True)
        os._exit(0)
    os.wait()
"""


def test_a_command_imports_no_other_command_and_no_package_it_does_not_need():
    result = subprocess.run([sys.executable, "-c", LOADED], capture_output=True, text=True, check=True)
    modules = {command: names for command, *names in map(str.split, result.stderr.splitlines())}
    assert set(modules) == set(cli.COMMANDS)
    for command, names in modules.items():
        loaded = {name.partition(".")[2] for name in names if name.startswith("supervisor_memreap.")}
        others = {f"commands.{module}" for name, (module, _) in cli.COMMANDS.items() if name != command}
        assert not loaded & others, command
        rooms = {module.partition(".")[0] for module in loaded} & ROOMS_OF_COMMANDS
        assert rooms <= {ROOM_OF.get(command)}, command


@pytest.mark.parametrize(
    "words", [["--help"], ["--version"], ["--bad"], ["bad"], ["completion", "--help"]], ids=" ".join
)
def test_the_command_line_itself_loads_neither_events_nor_the_policy_nor_what_supervisord_is_called_with(words):
    script = (
        "import sys\nfrom supervisor_memreap.commands import cli\n"
        f"try: cli.main({words!r})\nexcept SystemExit: print('LOADED', *sys.modules, file=sys.stderr)\n"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    loaded = set(result.stderr.rpartition("LOADED")[2].split())
    assert "supervisor_memreap.core.command" in loaded
    core = {name for name in loaded if name.startswith("supervisor_memreap.core.")}
    assert core == {f"supervisor_memreap.core.{name}" for name in ("command", "failed", "text", "values")}
    # From Python 3.14 on, argparse itself loads it, for the colours of its help.
    dataclasses = {"dataclasses"} if sys.version_info < (3, 14) else set()
    assert loaded.isdisjoint({*dataclasses, "decimal", "json", "psutil", "supervisor.xmlrpc", "xmlrpc.client"})


@pytest.mark.parametrize("command", ["status", "top"])
def test_what_asks_the_listener_loads_nothing_of_a_look_of_its_own(command):
    script = (
        f"import sys, {'rich, ' if command == 'top' else ''}supervisor_memreap.commands.{command}\nprint(*sys.modules)"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    loaded = set(result.stdout.split())
    assert "supervisor_memreap.supervisord.client" in loaded
    look = ("core.events", "core.policy", "host.look", "listener.reaper")
    assert loaded.isdisjoint(f"supervisor_memreap.{module}" for module in look)


def loaded_by(script: str, **options: Any) -> set[str]:
    """The modules of a Python that has run this."""
    command = [sys.executable, "-c", f"import sys\n{script}\nprint(*sys.modules)"]
    return set(subprocess.run(command, capture_output=True, text=True, check=True, **options).stdout.split())


def test_the_listener_loads_no_parser_of_supervisors_and_nothing_that_only_its_children_need(tmp_path):
    (tmp_path / "s.conf").write_text("[memreap:myapp]\nlimit=150MB\n")
    loaded = loaded_by(
        "from supervisor_memreap.commands import listen\n"
        "from supervisor_memreap.supervisord.configfile import ConfigFile\n"
        "assert ConfigFile('s.conf').read_apart().sections['myapp']",
        cwd=tmp_path,
    )
    assert "http.client" in loaded
    assert loaded.isdisjoint({"supervisor", "sqlite3", "prometheus_client"})


def test_the_process_for_the_history_loads_nothing_of_the_listener():
    loaded = loaded_by(
        "from supervisor_memreap.outputs import inbox\nfrom supervisor_memreap.history import historywriter"
    )
    assert "sqlite3" in loaded
    assert loaded.isdisjoint({"ctypes", "dataclasses", "pickle", "psutil", "supervisor"})
    rooms = {name.split(".")[1] for name in loaded if name.startswith("supervisor_memreap.")}
    assert rooms == {"core", "history", "host", "outputs"}
    assert loaded.isdisjoint(f"supervisor_memreap.core.{module}" for module in ("events", "model", "settings"))


def test_what_the_listener_repeats_of_supervisor_is_as_there():
    assert (client._UNKNOWN_METHOD, client._SHUTDOWN_STATE) == (Faults.UNKNOWN_METHOD, Faults.SHUTDOWN_STATE)
    assert client._INCORRECT_PARAMETERS == Faults.INCORRECT_PARAMETERS
    read, write = os.pipe()
    own, theirs = Protocol(0, write), io.StringIO()
    for protocol, out in ((own, ()), (EventListenerProtocol(), (theirs,))):
        protocol.ready(*out)
        protocol.ok(*out)
    assert os.read(read, 100).decode() == theirs.getvalue()
    own._stdout.close()
    os.close(read)


def test_no_modules_import_each_other_in_a_cycle():
    graph = {name_of(file): imports(file) for file in FILES}
    done: set[str] = set()

    def visit(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, f"{' -> '.join((*path, module))}"
        if module not in done:
            for other in graph.get(module, ()):
                visit(other, (*path, module))
            done.add(module)

    for module in graph:
        visit(module, ())


def test_no_function_or_class_is_too_large():
    most = {ast.FunctionDef: MAX_LINES_OF_A_FUNCTION, ast.ClassDef: MAX_LINES_OF_A_CLASS}
    for file in FILES:
        for node in ast.walk(tree(file)):
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and node.end_lineno:
                size = node.end_lineno - node.lineno + 1
                assert size <= most[type(node)], f"{file}: {node.name} has {size} lines"
