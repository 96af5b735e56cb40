"""Commands in the process of the test: what a process of their own would print and exit with, without its start."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from subprocess import CompletedProcess
from typing import Any
from unittest import mock

from supervisor import supervisorctl

from supervisor_memreap.commands import cli
from support.driver import Transport

NOTHING: Mapping[str, str] = {}


def memreap(*words: str, environment: Mapping[str, str] = NOTHING) -> CompletedProcess[str]:
    return _run(cli.main, words, environment)


def control(*words: str) -> CompletedProcess[str]:
    """supervisorctl; it would leave its connections open until its end."""
    with mock.patch("supervisor.xmlrpc.SupervisorTransport", Transport):
        return _run(supervisorctl.main, words, NOTHING)


def _run(main: Callable[[Sequence[str]], Any], words: Sequence[str], more: Mapping[str, str]) -> CompletedProcess[str]:
    stdout, stderr = io.StringIO(), io.StringIO()
    with (
        mock.patch.dict(os.environ, more),
        contextlib.redirect_stdout(stdout),
        contextlib.redirect_stderr(stderr),
    ):
        try:
            status = main(list(words))
        except SystemExit as exit:
            status = exit.code
            if isinstance(status, str):  # as Python itself does
                print(status, file=sys.stderr)
                status = 1
    return CompletedProcess(words, status or 0, stdout.getvalue(), stderr.getvalue())
