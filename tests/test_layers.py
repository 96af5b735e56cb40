"""The house: who imports whom, and how large a piece may be."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import supervisor_memreap

ROOT = Path(supervisor_memreap.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))
MOST_LINES_OF_A_FUNCTION, MOST_LINES_OF_A_CLASS = 50, 200
# A package imports from itself and from those before it. The doors, which are files of the top, import from all.
LAYERS = ("core", "host", "supervisord", "record", "doctor", "demo")


def imports(file: Path) -> set[str]:
    """The modules of ours that it imports, anywhere in it."""
    modules = set()
    for node in ast.walk(ast.parse(file.read_text())):
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


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_no_package_imports_from_one_above_it(file):
    layer = file.relative_to(ROOT).parts[0]
    if layer not in LAYERS[:4]:
        return
    below = LAYERS[: LAYERS.index(layer) + 1]
    for module in imports(file) - {"supervisor_memreap"}:
        assert module.split(".")[1] in below, f"{name_of(file)} imports {module}"


def test_no_modules_import_each_other_in_a_circle():
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


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_no_function_and_no_class_is_larger_than_a_readers_patience(file):
    for node in ast.walk(ast.parse(file.read_text())):
        most = {ast.FunctionDef: MOST_LINES_OF_A_FUNCTION, ast.ClassDef: MOST_LINES_OF_A_CLASS}.get(type(node))
        if most and isinstance(node, (ast.FunctionDef, ast.ClassDef)) and node.end_lineno:
            assert node.end_lineno - node.lineno < most, f"{node.name} has {node.end_lineno - node.lineno + 1} lines"
