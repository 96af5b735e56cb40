"""That the next listener knows what the last one had saved."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields

from supervisor_memreap.core.frozen import replace
from supervisor_memreap.core.state import Lasting, Phase, PoolState, is_worth_keeping
from supervisor_memreap.host.machine import States

# What is saved only beside something else: a roll that is over, too.
_BESIDE = ("settings", "manager", "population", "roll")


@dataclass
class Restarts:
    say: Callable[[str], None]

    def check(self, before: States, after: States) -> None:
        """`before`: what the last listener had saved, as it knew it; `after`: what the next one knows."""
        for name, state in before.items():
            expected, found = _continued(state), after.get(name, PoolState())
            for field in fields(Lasting):
                if field.name in _BESIDE and not is_worth_keeping(state):
                    continue
                was, is_now = getattr(expected, field.name), getattr(found, field.name)
                if field.name == "population":
                    was, is_now = was.lasting(), is_now.lasting()
                if was != is_now:
                    self.say(f"{name}: {field.name} is forgotten over a restart: {was}, now {is_now}")


def _continued(state: PoolState) -> PoolState:
    """Whether an attempt has sent its signal is not known, so it counts as sent."""
    reap = state.attempted
    return replace(state, reap=reap.to(Phase.SIGNALLED, reap.since, is_sent=False)) if reap else state
