"""An error of ours is an event, and never ends the listener."""

from __future__ import annotations

import contextlib
import os
import time
import traceback
from collections.abc import Iterator

from supervisor_memreap.core.events import InternalError, Sink


@contextlib.contextmanager
def guard(emit: Sink, pool: str = "") -> Iterator[None]:
    """Emit any exception as an InternalError, of this pool if one is named, and go on after the block."""
    try:
        yield
    except Exception as error:
        emit(internal_error(error, pool))


def internal_error(error: Exception, pool: str = "") -> InternalError:
    """The event, with the place where the error was raised."""
    place = traceback.extract_tb(error.__traceback__)[-1]
    return InternalError(pool, time.time(), repr(error), f"{os.path.basename(place.filename)}:{place.lineno}")
