"""A plugin of coverage.py: also what a child process of memreap has run is counted, however that ends.

Such a process ends by os._exit, or becomes another program, and its parent waits for it for milliseconds before it is
killed. In a measured process it has the time that it takes to write down what it has run.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import os
import re
import signal
import sys
from pathlib import Path
from typing import Any, NoReturn

import coverage

# Seconds in which a busy machine starts and saves a measurement.
_PATIENCE = 2.0
# What memreap watches in the tests: measured, it would hold more memory, and each of its workers start later.
_WATCHED = re.compile(r"/tests/(support|apps)/\w+\.py$|/bin/(gunicorn|granian|hypercorn|uvicorn)$")
_PACKAGE = Path(__file__).parents[2] / "supervisor_memreap"
_exit, _execv = os._exit, os.execv


class _OnlyWhatRuns(coverage.CoveragePlugin):
    """The first process names all files of the package, which takes a while; the others only what they run."""

    def configure(self, config: Any) -> None:
        if "COVERAGE_PROCESS_CONFIG" in os.environ:
            config.set_option("run:source_pkgs", [])
            config.set_option("run:include", [f"{_PACKAGE}/*"])


def coverage_init(registry: Any, options: object) -> None:
    """Called in each measured process, and again in each that it forks."""
    command = getattr(sys, "orig_argv", [])  # it is of Python 3.10
    if sys.executable and any(map(_WATCHED.search, command)):
        del os.environ["COVERAGE_PROCESS_CONFIG"]
        _execv(sys.executable, command)  # the same once more, not measured
    registry.add_configurer(_OnlyWhatRuns())
    if os._exit is _exit:
        os._exit, os.execv = _save_and_exit, _save_and_exec
        os.register_at_fork(before=_be_patient)
        atexit.register(_end_reader)


def _save() -> None:
    """Nothing may end this process meanwhile, except by KILL, nor may its parent's end."""
    signal.pthread_sigmask(signal.SIG_BLOCK, set(signal.Signals) - {signal.SIGSEGV, signal.SIGALRM})
    ctypes.CDLL(None).prctl(1, 0, 0, 0, 0)  # PR_SET_PDEATHSIG
    if measured := coverage.Coverage.current():
        with contextlib.suppress(Exception):
            measured.stop()
            measured.save()


def _save_and_exit(status: int) -> NoReturn:
    try:
        _save()
    finally:
        _exit(status)


def _save_and_exec(path: Any, arguments: Any) -> NoReturn:
    _save()
    signal.pthread_sigmask(signal.SIG_UNBLOCK, set(signal.Signals))
    _execv(path, arguments)


def _be_patient() -> None:
    """Before a fork: its child is not killed as long as it may be saving."""
    forked: Any = sys.modules.get("supervisor_memreap.host.forked")
    if forked and forked.collect.__module__ != __name__:
        collect = forked.collect

        def patient(child: int, patience_before: float, ends: Any) -> Any:
            if signal.SIGTERM not in ends:  # such as the reader, which ends by itself
                return collect(child, max(patience_before, _PATIENCE), ends)
            return collect(child, patience_before, {**ends, signal.SIGTERM: _PATIENCE})

        forked.collect = patient


def _end_reader() -> None:
    reader: Any = sys.modules.get("supervisor_memreap.host.reader")
    if reader:
        with contextlib.suppress(OSError):  # a test has ended it
            reader.end()
