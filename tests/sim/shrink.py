"""The shortest script that still breaks the same invariant."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace

from .run import Report, Run
from .script import DAY, Script

Play = Callable[[Script], Report]


def kind_of(what: str) -> str:
    """The invariant of a line, without its numbers and names."""
    return re.sub(r"[0-9.]+", "N", what)


def play(script: Script) -> Report:
    return Run(script).play()


def shrink(script: Script, progress: Callable[[str], None] = lambda _: None, play: Play = play) -> Script:
    """Leaves out what is not needed: the time after it, pools, actions, first many and then one by one."""
    first = play(script).broken[0]
    wanted = kind_of(first.what)

    def still(candidate: Script) -> bool:
        return any(kind_of(each.what) == wanted for each in play(candidate).broken)

    shorter = replace(script, days=(first.at - script.uptime + 60.0) / DAY)
    shorter = replace(shorter, actions=tuple(each for each in script.actions if each.at < shorter.days * DAY))
    script = shorter if still(shorter) else script
    for pool in script.pools if len(script.pools) > 1 else ():
        fewer = replace(
            script,
            pools=tuple(each for each in script.pools if each is not pool),
            actions=tuple(each for each in script.actions if each.pool != pool.name),
        )
        if len(fewer.pools) and still(fewer):
            script = fewer
            progress(f"without {pool.name}")
    size = max(1, len(script.actions) // 2)
    while size:
        start = 0
        while start < len(script.actions):
            fewer = script.without(set(range(start, start + size)))
            if still(fewer):
                script = fewer
                progress(f"{len(script.actions)} actions")
            else:
                start += size
        size //= 2
    return script
