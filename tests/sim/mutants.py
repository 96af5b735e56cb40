"""python -m tests.sim.mutants: changes memreap in one place at a time, and shows the changes that no test notices.

Each change is made in a copy. The pure tests run first, those of the changed file before the others, then the simulated
machine: as soon as one fails, the change is found. By hand, not in the suite: a change takes 5 to 60 s.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
COPIED = ("supervisor_memreap", "tests", "pyproject.toml", "setup.cfg")
# Modules that decide.
MODULES = (
    *("carryout", "choosing", "delay", "following", "hindrance", "oomkills", "pace", "policy", "reasons", "selection"),
    *("serving", "shortage", "state", "unmet"),
)
LISTENER = ("attemptqueue", "attempts", "followed", "memorywatch", "pool", "pools", "poolstate", "reaper")
# Seconds for one run of the tests: a change may make a loop endless.
PATIENCE = 300.0
_COMPARED = {ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq}
_COMPARED |= {ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In}
_COUNTED = {ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Add}


class _Changes(ast.NodeTransformer):
    """Makes the change with this number; None: only counts them."""

    def __init__(self, wanted: int | None = None):
        self.wanted = wanted
        self.places: list[tuple[int, str]] = []
        """The line of each, and what it is."""

    def _is_wanted(self, node: ast.expr | ast.stmt, what: str) -> bool:
        self.places.append((node.lineno, what))
        return len(self.places) - 1 == self.wanted

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST:
        if node.value:
            node.value = self.visit(node.value)
        return node  # not the annotation

    def visit_Compare(self, node: ast.Compare) -> ast.AST:
        self.generic_visit(node)
        other = _COMPARED.get(type(node.ops[0]))
        if other and self._is_wanted(node, f"{type(node.ops[0]).__name__} to {other.__name__}"):
            node.ops[0] = other()
        return node

    def visit_BoolOp(self, node: ast.BoolOp) -> ast.AST:
        self.generic_visit(node)
        if self._is_wanted(node, "and, or"):
            node.op = ast.Or() if isinstance(node.op, ast.And) else ast.And()
        return node

    def visit_BinOp(self, node: ast.BinOp) -> ast.AST:
        self.generic_visit(node)
        other = _COUNTED.get(type(node.op))
        if other and self._is_wanted(node, f"{type(node.op).__name__} to {other.__name__}"):
            node.op = other()
        return node

    def visit_UnaryOp(self, node: ast.UnaryOp) -> ast.AST:
        self.generic_visit(node)
        return node.operand if isinstance(node.op, ast.Not) and self._is_wanted(node, "without not") else node

    def visit_Constant(self, node: ast.Constant) -> ast.AST:
        if isinstance(node.value, bool):
            if self._is_wanted(node, f"not {node.value}"):
                return ast.copy_location(ast.Constant(not node.value), node)
        elif isinstance(node.value, (int, float)) and self._is_wanted(node, f"{node.value} and one more"):
            return ast.copy_location(ast.Constant(node.value + 1), node)
        return node

    def visit_If(self, node: ast.If) -> ast.AST:
        self.generic_visit(node)
        if self._is_wanted(node, "if never"):
            node.test = ast.copy_location(ast.Constant(False), node.test)
        return node


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.sim.mutants", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sample", type=int, default=300, help="how many changes (default: 300)")
    parser.add_argument("--seed", default="1", help="which (default: 1)")
    arguments = parser.parse_args(argv)
    files = [f"core/{name}.py" for name in MODULES] + [f"listener/{name}.py" for name in LISTENER]
    changes = [(file, number) for file in files for number in range(len(_places(file)))]
    chosen = random.Random(arguments.seed).sample(changes, min(arguments.sample, len(changes)))
    survived = 0
    with tempfile.TemporaryDirectory(prefix="memreap-mutants-") as directory:
        copy = Path(directory)
        for name in COPIED:
            (shutil.copytree if (ROOT / name).is_dir() else shutil.copy)(ROOT / name, copy / name)
        if any(_fails(copy, run) for run in _runs(copy, "listener/reaper.py")):
            print("the tests fail without a change too", file=sys.stderr)
            return 2
        for count, (file, number) in enumerate(chosen, 1):
            try:
                found = _is_found(copy, file, number)
            except KeyboardInterrupt:
                print("stopped", file=sys.stderr)
                return 130
            line, what = _places(file)[number]
            survived += not found
            if not found:
                text = (ROOT / "supervisor_memreap" / file).read_text().splitlines()[line - 1].strip()
                print(f"{file}:{line}: {what}: {text}", flush=True)
            if count % 10 == 0:
                print(f"{count} of {len(chosen)} changes, {survived} not found", file=sys.stderr, flush=True)
    print(f"{len(chosen)} of {len(changes)} changes, {survived} not found")
    return 1 if survived else 0


def _places(file: str) -> list[tuple[int, str]]:
    changes = _Changes()
    changes.visit(ast.parse((ROOT / "supervisor_memreap" / file).read_text()))
    return changes.places


def _is_found(copy: Path, file: str, number: int) -> bool:
    path = copy / "supervisor_memreap" / file
    original = path.read_text()
    tree = _Changes(number).visit(ast.parse(original))
    path.write_text(ast.unparse(ast.fix_missing_locations(tree)))
    try:
        return any(_fails(copy, arguments) for arguments in _runs(copy, file))
    finally:
        path.write_text(original)


def _runs(copy: Path, file: str) -> Iterator[list[str]]:
    tests = copy / "tests"
    own = tests / f"test_core_{Path(file).stem}.py"
    policy = [tests / f"test_core_{name}.py" for name in ("policy", "delay", "phases", "observe", "serving")]
    first = list(dict.fromkeys([path for path in (own, *policy) if path.exists()]))
    yield ["--noconftest", *map(str, first)]
    yield [str(tests / "test_sim.py")]
    yield ["--noconftest", *(str(path) for path in sorted(tests.glob("test_core_*.py")) if path not in first)]
    if file.startswith("listener/"):
        yield [str(tests / f"test_{name}.py") for name in ("attempt", "attemptqueue", "reaper", "saving")]


def _fails(copy: Path, arguments: list[str]) -> bool:
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", *arguments]
    environment = {**os.environ, "PYTHONPATH": f"{copy}:{copy / 'tests'}", "PYTHONDONTWRITEBYTECODE": "1"}
    with subprocess.Popen(
        command, cwd=copy, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT, start_new_session=True
    ) as process:
        try:
            return process.wait(PATIENCE) != 0
        except subprocess.TimeoutExpired:
            return True
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main())
