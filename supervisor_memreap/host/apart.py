"""What is needed seldom, and takes much memory or many imports, is made in a child process that ends at once."""

from __future__ import annotations

import contextlib
import errno
import math
import os
import select
import signal
import time
from collections.abc import Callable
from typing import NoReturn, TypeVar, cast

from supervisor_memreap.core.text import seconds

MadeT = TypeVar("MadeT")
# Seconds for the child to end once it has written its answer, and once it was killed.
_ENDS = 0.05


def made_or_here(make: Callable[[], MadeT], patience: float) -> MadeT:
    """As `made`, and here if the child process was ended. Raises its errors, and TimeoutError."""
    try:
        return made(make, patience)
    except ChildProcessError:
        return make()


def made(make: Callable[[], MadeT], patience: float) -> MadeT:
    """What it returns, made in a child process; here if there can be none.

    Raises its errors; TimeoutError after `patience` seconds, as where its user stops it; ChildProcessError.
    """
    # In the process for the history, only when it is used.
    import pickle

    from supervisor_memreap.host import forked

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
    os.set_blocking(readable, False)
    try:
        data = all_of(readable, time.monotonic() + patience)
    except TimeoutError:
        raise TimeoutError(errno.ETIMEDOUT, f"its process did not end within {seconds(patience)}") from None
    finally:
        os.close(readable)
        forked.collect(child, _ENDS, {signal.SIGKILL: _ENDS})
    try:
        answer = pickle.loads(data)  # noqa: S301 - our own child has written it
    except (EOFError, pickle.UnpicklingError):  # not, or not all of it
        raise ChildProcessError(errno.ECHILD, "its process was ended") from None
    if isinstance(answer, Exception):
        raise answer
    return cast("MadeT", answer)


def all_of(readable: int, deadline: float, most: float = math.inf) -> bytearray:
    """What is written to this pipe, which does not block, until its writers have closed it, or more than `most` bytes.

    Raises TimeoutError.
    """
    poll, data = select.poll(), bytearray()
    poll.register(readable, select.POLLIN)
    while (left := deadline - time.monotonic()) > 0:
        try:
            chunk = os.read(readable, 1 << 16)
        except BlockingIOError:  # there is a writer
            poll.poll(left * 1000)
            continue
        if not chunk:
            return data
        data += chunk
        if len(data) > most:
            return data
    raise TimeoutError


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
