"""A command for the listener, which supervisord hands on as an event, and its answer."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from supervisor_memreap.core.command import TYPE, Verb
from supervisor_memreap.core.failed import Failed
from supervisor_memreap.core.listeners import ListenerState
from supervisor_memreap.core.rows import ListenerRow

# Seconds in which the listener must start a command; then it expires. The listener starts it after the current tick:
# within a second, but a busy machine may need longer.
PATIENCE = 10.0
# Seconds after that in which the answer to a command that was started in time may still arrive.
LATE = 3.0
# And this much longer for doctor, which is a separate process.
DOCTOR_PATIENCE = 30.0
# Seconds between two checks whether supervisord has discarded the command.
ASK_AGAIN = 1.0


class NoAnswer(Failed):
    """One line: what is known about the command."""


def answer(
    supervisor: Any, memreap: Any, words: Sequence[str], verb: Verb, listener: ListenerRow, id: str
) -> dict[str, Any]:
    """The listener's answer to these words, which begin with `verb`. Raises NoAnswer.

    `supervisor` and `memreap` are the namespaces of supervisord's XML-RPC; the rest is raised as they raise it.
    """
    # By the clock of supervisord's machine, which is also the listener's.
    until = listener["time"] + PATIENCE
    text = f"{' '.join(words)} id={id} until={until:.3f}"
    patience = PATIENCE + LATE + (DOCTOR_PATIENCE if verb == "doctor" else 0.0)
    start = asked = time.monotonic()
    supervisor.sendRemoteCommEvent(TYPE, text)
    while time.monotonic() - start < patience:
        is_due = time.monotonic() - asked > ASK_AGAIN
        now = memreap.getListener() if is_due else listener
        answer = memreap.getAnswer(id)
        if answer:
            return dict(answer)
        if is_due:
            asked = time.monotonic()
            # In this order: if the listener was ready, it has answered all earlier commands by now.
            if asked - start < PATIENCE and _is_ready(now) and now["pid"] == listener["pid"]:
                # supervisord has discarded it: its buffer holds 10 events by default. Send it with the same id and
                # time: the listener carries it out once, however often it arrives.
                supervisor.sendRemoteCommEvent(TYPE, text)
        time.sleep(0.1)
    raise NoAnswer(_without_answer(memreap.getListener(), listener["pid"], until))


def _is_ready(listener: ListenerRow) -> bool:
    """Whether it handles no event, and none waits for it."""
    return bool(listener["listener_state"] == ListenerState.READY and not listener["events_waiting"])


def _without_answer(listener: ListenerRow, pid: int, until: float) -> str:
    """What is known about a command that got no answer in time."""
    if listener["pid"] != pid:
        return "no answer: the listener was restarted; see memreap status for what was done"
    # It handles events in order: if it has looked after the command expired, it would have answered. (Ages are
    # rounded to 0.1 s.)
    age = listener.get("age_seconds")
    if age is not None and listener["time"] - age > until + 0.1:
        return (
            "nothing was done: the command did not reach the listener in time. supervisord discards events when too"
            " many wait: set buffer_size=100 in the listener's [eventlistener:...] section"
        )
    return (
        f"no answer within {PATIENCE:.0f} s, the listener is {listener['listener_state']} and"
        f" {listener['events_waiting']} events are waiting. The command has expired: unless it was already started, it"
        " will not be carried out; see memreap status, and the listener's log"
    )
