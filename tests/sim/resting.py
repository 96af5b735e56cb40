"""That the rules find nothing to do in a pool at rest, at each look at one."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from unittest import mock

from supervisor_memreap.core import following, resting, selection
from supervisor_memreap.core.policy import Choice, Look

Decide = Callable[[Look, "Choice | None", float], "Choice | None"]


def checked(say: Callable[[str], None], decide: Decide = resting.choice_in) -> AbstractContextManager[object]:
    """While this lasts, `say` gets what differs."""

    def choice_in(look: Look, before: Choice | None, now: float) -> Choice | None:
        choice = decide(look, before, now)
        if choice is not None:
            state, log = following.follow(*look, now)
            (by_rules,) = selection.choose([look._replace(state=state)], now).choices
            if log or by_rules != choice:
                say(f"{look.pool.name}: taken to be at rest, but the rules find {log}, {by_rules}, not {choice}")
        return choice

    return mock.patch.object(resting, "choice_in", choice_in)
