"""A pool in which the listener sends nothing: paused by a user, suspended by the listener itself, or hindered."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Mapping
from typing import Any

from supervisor_memreap.core.hindrance import Kind
from supervisor_memreap.core.model import Pool
from supervisor_memreap.core.settings import Watch
from supervisor_memreap.doctor import ownrights, rights
from supervisor_memreap.doctor.finding import Case, Finding, note
from supervisor_memreap.listener import statedirectory
from supervisor_memreap.listener.statefile import StateFile
from supervisor_memreap.outputs import statusrows, words


def check(case: Case, watch: Watch) -> Iterator[Finding]:
    """Asks the listener, through [rpcinterface:memreap]; without that, reads what it has saved."""
    name = watch.program.namespec
    seen = case.client.seen_by_listener()
    if seen is None:
        values: Mapping[str, Any] = _remembered(case, watch)
    else:
        values = next((pool for pool in seen[0] if pool.get("name") == name), {})
    if values.get("paused"):
        yield note("", words.paused(name, case.has_commands))
    if values.get("suspension"):
        yield Finding("", words.suspended(name, values["suspension"], case.has_commands))
    hindrance = values.get("hindrance")
    if hindrance and hindrance["kind"] != Kind.UNSAVED:  # which is a finding about the listener
        since = words.clock(hindrance["since"])
        yield Finding("", f"workers are due, and none could be signalled since {since}: {hindrance['text']}")


def _remembered(case: Case, watch: Watch) -> dict[str, Any]:
    """What the listener has saved, read as its user."""
    listener = case.running_listener
    try:
        supervisord = case.view.process(watch.program.supervisord).id
        actor = rights.of(listener.pid if listener else os.getpid())
    except (OSError, ValueError):
        return {}

    environ = ownrights.environment_of_listener(case, supervisord.pid)

    def read() -> bytes:
        directories = statedirectory.candidates(supervisord.pid, case.contents, environ)
        states, _ = StateFile(supervisord, directories).read(time.monotonic())
        state = states.get(watch.program.namespec)
        if state is None:
            return b"{}"
        boot = time.time() - time.monotonic()
        suspension = statusrows.suspension(Pool(watch.program.namespec, ""), state, boot)
        values = {"paused": state.paused, "suspension": suspension, "hindrance": statusrows.hindrance(state, boot)}
        return json.dumps(values).encode()

    return dict(json.loads(rights.run_as(actor, read) or b"{}"))
