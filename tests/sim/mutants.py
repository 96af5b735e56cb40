"""python -m tests.sim.mutants: changes memreap in one place at a time, and shows the changes that no test notices.

The pure tests and the simulated machine are loaded once. Each change is made in a process forked from there, which runs
the tests that call the changed function, the quickest first, until one fails; then those of the simulated machine try
what is left. By hand, not in the suite: 300 changes take an hour of CPU.

Only what functions do is changed. A number at the head of a module is a choice: a test of it would repeat it.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import functools
import importlib
import os
import random
import signal
import sys
import time
import types
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
# Modules that decide.
MODULES = (
    *("carryout", "choosing", "delay", "following", "hindrance", "oomkills", "pace", "policy", "reasons", "selection"),
    *("serving", "shortage", "state", "unmet"),
)
LISTENER = ("attemptqueue", "attempts", "followed", "memorywatch", "pool", "pools", "poolstate", "reaper")
FILES = (*(f"core/{name}.py" for name in MODULES), *(f"listener/{name}.py" for name in LISTENER))
# Seconds for all tests of one change: it may make a loop endless.
PATIENCE = 600.0
_COMPARED = {ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq}
_COMPARED |= {ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In}
_COUNTED = {ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Add}
Function = tuple[str, int, str]
"""Its file, first line and name."""
Change = tuple[str, int]
"""Its file, and its number in that."""
UNNOTICED, NOTICED, NOT_MADE = range(3)


class _Changes(ast.NodeTransformer):
    """Makes the change with this number; None: only counts them."""

    def __init__(self, file: str, wanted: int | None = None):
        self._file = file
        self.wanted = wanted
        self.places: list[tuple[Function, int, str]] = []
        """Of each: the function in which it is, the line, and what is changed."""
        self._function: Function | None = None

    def _is_wanted(self, node: ast.expr | ast.stmt, what: str) -> bool:
        if self._function is None:
            return False
        self.places.append((self._function, node.lineno, what))
        return len(self.places) - 1 == self.wanted

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        outer = self._function
        first = node.decorator_list[0].lineno if node.decorator_list else node.lineno
        self._function = outer or (self._file, first, node.name)
        node.body = [self.visit(each) for each in node.body]  # its arguments are evaluated outside of it
        self._function = outer
        return node

    def visit_Assert(self, node: ast.Assert) -> ast.AST:
        return node  # a check itself

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
    parser.add_argument("--file", choices=FILES, metavar="FILE", help="only in this one, such as core/policy.py")
    parser.add_argument("--at-a-time", type=int, default=1, metavar="N", help="so many processes (default: 1)")
    arguments = parser.parse_args(argv)
    if arguments.sample < 1 or arguments.at_a_time < 1:
        parser.error("--sample and --at-a-time must be at least 1")
    files = [arguments.file] if arguments.file else FILES
    changes = [(file, number) for file in files for number in range(len(_places(file)))]
    chosen = random.Random(arguments.seed).sample(changes, min(arguments.sample, len(changes)))
    for each in (signal.SIGINT, signal.SIGTERM):  # a shell ignores the first in what it starts in the background
        signal.signal(each, signal.default_int_handler)
    os.chdir(ROOT)
    sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
    trial = _Trial(chosen, arguments.at_a_time)
    tests = [*sorted(map(str, Path("tests").glob("test_core_*.py"))), "tests/test_sim.py"]
    quiet = [
        "-o",
        "addopts=",
        "--noconftest",
        "-p",
        "no:cacheprovider",
        "-p",
        "no:xdist",
        "-p",
        "no:terminal",
        "-p",
        "no:randomly",
    ]
    pytest.main([*quiet, *tests], plugins=[trial])
    if trial.trouble:
        print(trial.trouble, file=sys.stderr)
        return 130 if trial.trouble == STOPPED else 2
    print(f"{len(chosen)} of {len(changes)} changes, {trial.unnoticed} not noticed")
    return 1 if trial.unnoticed else 0


STOPPED = "stopped"


class _Trial:
    """A plugin of pytest that runs the tests which it has collected in its own way."""

    def __init__(self, chosen: Sequence[Change], at_a_time: int):
        self._chosen, self._at_a_time = chosen, at_a_time
        self.unnoticed = 0
        self.trouble = "no tests were found"

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        self.trouble = ""
        pure = [item for item in session.items if "test_sim.py" not in item.nodeid]
        simulated = [item for item in session.items if item not in pure]
        calls: dict[str, set[Function]] = {}
        took: dict[str, float] = {}
        try:
            for item in session.items:
                began, notes = time.perf_counter(), calls.setdefault(item.nodeid, set())
                with _called(notes) if item in pure else contextlib.nullcontext():
                    _run(session, item)
                took[item.nodeid] = time.perf_counter() - began
            if session.testsfailed:
                self.trouble = "the tests fail without a change too"
                return True
            for items in (pure, simulated):
                items.sort(key=lambda item: took[item.nodeid])
            pairs = [(item, calls[item.nodeid]) for item in pure]
            left = self._unnoticed(session, self._chosen, pairs, "the pure tests")
            everywhere = [(item, {_places(file)[number][0] for file, number in left}) for item in simulated]
            self.unnoticed = len(self._unnoticed(session, left, everywhere, "the simulated machine"))
        except KeyboardInterrupt:
            self.trouble = STOPPED
        return True

    def _unnoticed(
        self,
        session: pytest.Session,
        changes: Sequence[Change],
        tests: Sequence[tuple[pytest.Item, set[Function]]],
        by: str,
    ) -> list[Change]:
        """Those of the changes that these tests do not notice, each with the functions that it calls."""
        running: dict[int, Change] = {}
        waiting, unnoticed = list(reversed(changes)), []
        print(f"{len(changes)} changes; not noticed by {by}:", flush=True)
        try:
            while waiting or running:
                while waiting and len(running) < self._at_a_time:
                    file, number = change = waiting.pop()
                    function, _, _ = _places(file)[number]
                    pid = os.fork()
                    if pid == 0:
                        _try(session, file, number, [item for item, called in tests if function in called])
                    running[pid] = change
                pid, status = os.wait()
                change = running.pop(pid)
                if os.waitstatus_to_exitcode(status) in (UNNOTICED, NOT_MADE):
                    unnoticed.append(change)
                    print(_text(*change, is_made=os.waitstatus_to_exitcode(status) == UNNOTICED), flush=True)
        finally:
            for pid in running:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
        return unnoticed


def _text(file: str, number: int, is_made: bool) -> str:
    _, line, what = _places(file)[number]
    text = (ROOT / "supervisor_memreap" / file).read_text().splitlines()[line - 1].strip()
    return f"{file}:{line}: {what}{'' if is_made else ' (could not be made)'}: {text}"


def _try(session: pytest.Session, file: str, number: int, tests: list[pytest.Item]) -> None:
    """In a process of its own, whose exit status says what became of it; the alarm ends a loop without an end."""
    status = NOT_MADE
    try:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        signal.alarm(int(PATIENCE))
        null = os.open(os.devnull, os.O_RDWR)
        for fd in (0, 1, 2):
            os.dup2(null, fd)
        _change(file, number)
        status = NOTICED
        for item in tests:
            _run(session, item)
            if session.testsfailed:
                break
        else:
            status = UNNOTICED
    finally:
        os._exit(status)


def _run(session: pytest.Session, item: pytest.Item) -> None:
    session.config.hook.pytest_runtest_protocol(item=item, nextitem=None)


def _change(file: str, number: int) -> None:
    """Give the function its changed code. Raises LookupError if there is no such function."""
    path = ROOT / "supervisor_memreap" / file
    function, _, _ = _places(file)[number]
    tree = _Changes(file, number).visit(ast.parse(path.read_text()))
    changed = compile(ast.fix_missing_locations(tree), str(path), "exec")
    module = importlib.import_module(f"supervisor_memreap.{file[:-3].replace('/', '.')}")
    code = next(each for each in _codes(changed) if _function_of(each) == function)
    functions = [each for each in _functions(vars(module).values()) if _function_of(each.__code__) == function]
    if not functions:
        raise LookupError(function)
    for each in functions:
        each.__code__ = code


@functools.cache
def _places(file: str) -> list[tuple[Function, int, str]]:
    changes = _Changes(file)
    changes.visit(ast.parse((ROOT / "supervisor_memreap" / file).read_text()))
    return changes.places


def _function_of(code: types.CodeType) -> Function:
    return "/".join(Path(code.co_filename).parts[-2:]), code.co_firstlineno, code.co_name


def _codes(code: types.CodeType) -> Iterator[types.CodeType]:
    for each in code.co_consts:
        if isinstance(each, types.CodeType):
            yield each
            yield from _codes(each)


def _functions(values: Iterable[Any]) -> Iterator[types.FunctionType]:
    """Those of a module and of its classes, whatever they are wrapped in."""
    for value in values:
        if isinstance(value, type):
            yield from _functions(vars(value).values())
            continue
        inner = (
            getattr(value, "fget", None) or getattr(value, "__func__", None) or getattr(value, "func", None) or value
        )
        inner = getattr(inner, "__wrapped__", inner)
        if isinstance(inner, types.FunctionType):
            yield inner


@contextlib.contextmanager
def _called(functions: set[Function]) -> Iterator[None]:
    """Collects the functions of memreap that are called."""

    def note(frame: types.FrameType, event: str, _: Any) -> None:
        if event == "call" and "supervisor_memreap" in frame.f_code.co_filename:
            codes.add(frame.f_code)

    codes: set[types.CodeType] = set()
    sys.setprofile(note)
    try:
        yield
    finally:
        sys.setprofile(None)
        functions |= {_function_of(code) for code in codes}


if __name__ == "__main__":
    sys.exit(main())
