"""python -m tests.sim.mutants: changes memreap in one place at a time, and shows the changes that no test notices.

Each change is made in a copy. The pure tests run first, those of the changed file before the others, then the simulated
machine: as soon as one fails, the change is found. By hand, not in the suite: a change takes 5 to 60 s.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import os
import queue
import random
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).parents[2]
COPIED = ("supervisor_memreap", "tests", "pyproject.toml", "setup.cfg")
# Modules that decide.
MODULES = (
    *("carryout", "choosing", "delay", "following", "hindrance", "oomkills", "pace", "policy", "reasons", "selection"),
    *("serving", "shortage", "state", "unmet"),
)
LISTENER = ("attemptqueue", "attempts", "followed", "memorywatch", "pool", "pools", "poolstate", "reaper")
FILES = (*(f"core/{name}.py" for name in MODULES), *(f"listener/{name}.py" for name in LISTENER))
# Seconds for one run of the tests: a change may make a loop endless.
PATIENCE = 300.0
_running: set[subprocess.Popen[bytes]] = set()
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
    parser.add_argument("--at-a-time", type=int, default=1, metavar="N", help="each in a copy of its own (default: 1)")
    arguments = parser.parse_args(argv)
    if arguments.sample < 1 or arguments.at_a_time < 1:
        parser.error("--sample and --at-a-time must be at least 1")
    with tempfile.TemporaryDirectory(prefix="memreap-mutants-") as directory:
        copies = [Path(directory, str(number)) for number in range(arguments.at_a_time)]
        for copy in copies:
            for name in COPIED:
                (shutil.copytree if (ROOT / name).is_dir() else shutil.copy2)(ROOT / name, copy / name)
        if any(_fails(copies[0], run) for run in _runs(copies[0], "listener/reaper.py")):
            print("the tests fail without a change too", file=sys.stderr)
            return 2
        changes = [(file, number) for file in FILES for number in range(len(_places(copies[0], file)))]
        chosen = random.Random(arguments.seed).sample(changes, min(arguments.sample, len(changes)))
        try:
            survived = _try_all(copies, chosen)
        except KeyboardInterrupt:
            print("stopped", file=sys.stderr)
            return 130
    print(f"{len(chosen)} of {len(changes)} changes, {survived} not found")
    return 1 if survived else 0


def _try_all(copies: Sequence[Path], chosen: Sequence[tuple[str, int]]) -> int:
    """Returns how many of these changes no test finds."""
    free = queue.SimpleQueue[Path]()
    for copy in copies:
        free.put(copy)

    def found(change: tuple[str, int]) -> str:
        copy = free.get()
        try:
            return _unfound(copy, *change)
        finally:
            free.put(copy)

    survived = 0
    with ThreadPoolExecutor(len(copies)) as pool:
        try:
            for count, text in enumerate(pool.map(found, chosen), 1):
                if text:
                    survived += 1
                    print(text, flush=True)
                if count % 10 == 0:
                    print(f"{count} of {len(chosen)} changes, {survived} not found", file=sys.stderr, flush=True)
        except KeyboardInterrupt:
            pool.shutdown(wait=False, cancel_futures=True)
            for process in list(_running):
                _end(process)
            raise
    return survived


def _places(copy: Path, file: str) -> list[tuple[int, str]]:
    changes = _Changes()
    changes.visit(ast.parse((copy / "supervisor_memreap" / file).read_text()))
    return changes.places


def _unfound(copy: Path, file: str, number: int) -> str:
    """Make this change. Empty: it was found; else where and what it is."""
    path = copy / "supervisor_memreap" / file
    original = path.read_text()
    line, what = _places(copy, file)[number]
    tree = _Changes(number).visit(ast.parse(original))
    path.write_text(ast.unparse(ast.fix_missing_locations(tree)))
    try:
        is_found = any(_fails(copy, arguments) for arguments in _runs(copy, file))
    finally:
        path.write_text(original)
    return "" if is_found else f"{file}:{line}: {what}: {original.splitlines()[line - 1].strip()}"


def _runs(copy: Path, file: str) -> Iterator[list[str]]:
    """Arguments of pytest, those that find most in the shortest time first."""
    tests = copy / "tests"
    own = tests / f"test_core_{Path(file).stem}.py"
    policy = [tests / f"test_core_{name}.py" for name in ("policy", "delay", "phases", "observe", "serving")]
    first = list(dict.fromkeys([path for path in (own, *policy) if path.exists()]))
    yield ["--noconftest", *map(str, first)]
    yield ["--noconftest", *(str(path) for path in sorted(tests.glob("test_core_*.py")) if path not in first)]
    yield [str(tests / "test_sim.py")]
    if file.startswith("listener/"):
        yield [str(tests / f"test_{name}.py") for name in ("attempt", "attemptqueue", "reaper", "saving")]


def _fails(copy: Path, arguments: list[str]) -> bool:
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", *arguments]
    environment = {**os.environ, "PYTHONPATH": f"{copy}:{copy / 'tests'}", "PYTHONDONTWRITEBYTECODE": "1"}
    with subprocess.Popen(
        command, cwd=copy, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT, start_new_session=True
    ) as process:
        _running.add(process)
        try:
            return process.wait(PATIENCE) != 0
        except subprocess.TimeoutExpired:
            return True
        finally:
            _running.discard(process)
            _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    """And all that it has started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main())
