"""What several files of tests share."""

from __future__ import annotations

import shutil

import pytest
import stack


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
