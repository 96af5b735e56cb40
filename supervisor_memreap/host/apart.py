"""What is needed seldom, and takes much memory or many imports, is made in a child process that ends at once."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
from collections.abc import Callable
from typing import NoReturn, TypeVar, cast

MadeT = TypeVar("MadeT")


def made_or_here(make: Callable[[], MadeT]) -> MadeT:
    """As `made`, and here if the child process was ended. Raises its errors."""
    try:
        return made(make)
    except ChildProcessError:
        return make()


def made(make: Callable[[], MadeT]) -> MadeT:
    """What it returns, made in a child process; here if there can be none. Raises its errors, and ChildProcessError."""
    import pickle  # in the process for the history, only when it is used

    try:
        with contextlib.ExitStack() as opened:
            readable, writable = os.pipe()
            opened.callback(os.close, readable)
            opened.callback(os.close, writable)
            child = os.fork()
            opened.pop_all()
    except OSError:
        return make()
    if child == 0:
        _run(make, writable)
    os.close(writable)
    with open(readable, "rb") as file:
        data = file.read()
    with contextlib.suppress(ChildProcessError):  # a library ignores SIGCHLD: then the kernel has waited for it
        os.waitpid(child, 0)
    try:
        answer = pickle.loads(data)  # noqa: S301 - our own child has written it
    except (EOFError, pickle.UnpicklingError):  # not, or not all of it
        raise ChildProcessError(errno.ECHILD, "its process was ended") from None
    if isinstance(answer, Exception):
        raise answer
    return cast("MadeT", answer)


def _run(make: Callable[[], object], writable: int) -> NoReturn:
    import pickle

    from supervisor_memreap.host import forked

    try:
        ended = {signal.SIGTERM, signal.SIGINT, signal.SIGHUP}
        forked.settle("memreap apart", (writable,), ended, with_parent=True)
        try:
            result = make()
        except Exception as error:
            result = error
        data = pickle.dumps(result)
        with open(writable, "wb") as file:
            file.write(data)
    finally:
        os._exit(0)
