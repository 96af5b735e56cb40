"""An error of ours is an event, and never ends the listener."""

from __future__ import annotations

import contextlib
import os
import time
import traceback
from types import TracebackType

from supervisor_memreap.core.events import InternalError, Sink


class Guard(contextlib.AbstractContextManager["Guard"]):
    """Emit any exception as an InternalError, of this pool if one is named, and go on after the block."""

    def __init__(self, emit: Sink, pool: str = ""):
        self._emit, self._pool = emit, pool

    def __exit__(self, _kind: object, error: BaseException | None, _traceback: TracebackType | None) -> bool:
        if not isinstance(error, Exception):
            return False
        self._emit(internal_error(error, self._pool))
        return True


def internal_error(error: Exception, pool: str = "") -> InternalError:
    """The event, with the place where the error was raised."""
    place = traceback.extract_tb(error.__traceback__)[-1]
    return InternalError(pool, time.time(), repr(error), f"{os.path.basename(place.filename)}:{place.lineno}")
