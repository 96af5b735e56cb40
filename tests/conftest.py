"""What several files of tests share."""

from __future__ import annotations

import os
import shutil
import sys

import psutil
import pytest
import stack
from driver import eventually


@pytest.fixture(scope="session", autouse=True)
def _no_process_is_left_behind():
    """What a test starts carries this mark in its environment, whoever becomes its parent."""
    mark = f"of-{os.getpid()}"
    os.environ["MEMREAP_TESTS"] = mark
    # As in a shell in which this environment is activated: another supervisorctl need not have memreap.
    os.environ["PATH"] = f"{os.path.dirname(sys.executable)}:{os.environ.get('PATH', os.defpath)}"
    yield
    eventually(lambda: _assert_none_is_left(mark))


def _assert_none_is_left(mark: str) -> None:
    left = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("MEMREAP_TESTS") == mark:
                left.append(process.cmdline())
        except psutil.Error:
            pass  # it has just ended, or is another user's
    assert left == []


@pytest.fixture(scope="session")
def catalyst_script():
    """The script of a real Catalyst application, made once."""
    where = stack.folder()
    yield stack.catalyst(where)
    shutil.rmtree(where)


@pytest.fixture
def sock():
    """A path for a pool's socket, in a folder of its own that every user may enter."""
    where = stack.folder()
    yield where / "myapp.sock"
    shutil.rmtree(where)
