"""The core has no I/O: the rules that keep it so stand here."""

from __future__ import annotations

import ast
from pathlib import Path

import supervisor_memreap.core

FORBIDDEN = {"os", "signal", "time", "socket", "psutil", "supervisor", "sys", "subprocess", "pathlib", "select", "io"}
FORBIDDEN |= {"datetime", "zoneinfo", "random"}
ALLOWED_OF_OURS = "supervisor_memreap.core"
FILES = sorted(Path(supervisor_memreap.core.__file__).parent.glob("*.py"))


def imported(file: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide where they go"
            names.add(node.module or "")
    return names


def test_the_core_imports_no_process_clock_or_file_module():
    for file in FILES:
        for name in imported(file):
            assert name.split(".")[0] not in FORBIDDEN, file
            assert not name.startswith("supervisor_memreap") or name.startswith(ALLOWED_OF_OURS), file


def test_the_core_opens_and_prints_nothing():
    called = {
        (node.func.id, file.name)
        for file in FILES
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    }
    assert [call for call in called if call[0] in {"open", "print", "input", "exec", "eval"}] == []


def test_the_core_has_modules_to_check():
    assert {"model.py", "policy.py", "settings.py", "events.py"} <= {file.name for file in FILES}
