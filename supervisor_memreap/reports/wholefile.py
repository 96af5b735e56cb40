"""Writes a file that a user asked for: all of it, or nothing."""

from __future__ import annotations

import os
import tempfile

from supervisor_memreap.core.failed import Failed
from supervisor_memreap.core.text import quote


class NotWrittenError(Failed):
    """One line: the file, and why."""


def write(path: str, contents: bytes) -> None:
    """Replace the file at this path, if there is one. Raises NotWrittenError."""
    try:
        if os.path.exists(path) and not os.path.isfile(path):
            # Such as /dev/stdout, which must not be replaced. A directory is an error of open().
            with open(path, "wb") as file:
                file.write(contents)
        else:
            _replace(os.path.realpath(path), contents)  # a link stays one
    except OSError as error:
        raise NotWrittenError(f"{quote(path)}: cannot be written: {error.strerror}") from None


def _replace(path: str, contents: bytes) -> None:
    fd, new = tempfile.mkstemp(prefix=".memreap-", dir=os.path.dirname(path))
    try:
        with open(fd, "wb") as file:
            file.write(contents)
            mask = os.umask(0)
            os.umask(mask)
            os.fchmod(fd, 0o666 & ~mask)  # as open() makes a file
        os.replace(new, path)
    except BaseException:
        os.unlink(new)
        raise
