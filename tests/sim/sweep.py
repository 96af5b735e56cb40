"""Every fault at every call: the n-th call of each kind fails, for n = 1, 2, … up to the last one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from supervisor_memreap.core.frozen import replace

from .faults import FAULTS, KILLED, Fault
from .processes import MIB, Growth
from .requests import Load
from .run import Report
from .script import DAY, Action, PoolScript, Script
from .shrink import play

TICKS = 40


def base() -> Script:
    """A few minutes in which most things happen: workers are reaped, one is stuck, a user looks after the rest."""
    growth = Growth(fresh=10 * MIB, leak=MIB)
    settings = {"limit": 60 * MIB, "settle": 2.0, "min_age": 1.0, "grace": 20.0, "stuck": "KILL"}
    pools = (
        PoolScript("pool0", "procmanager", Load(), growth, 0.2, settings),
        PoolScript("pool1", "gunicorn", Load(pause=0.0, work=0.5), growth, 4.0, {**settings, "stuck": "report"}),
        PoolScript("pool2", "fragile", Load(), growth, 0.2, settings),
    )
    actions = (
        Action(40.0, "hangs", "pool0"),
        Action(60.0, "stuck", "pool1"),
        Action(90.0, "reap", "pool1"),
        Action(120.0, "pause", "pool1"),
        Action(130.0, "crash worker", "pool0"),
        Action(140.0, "resume", "pool1"),
        Action(150.0, "once", "", (10.0,)),
        Action(165.0, "restart memreap"),
        Action(180.0, "restart", "pool0"),
        Action(185.0, "status"),
        Action(186.0, "status"),
        Action(193.0, "kill memreap"),
    )
    return Script("sweep", TICKS * 5 / DAY, pools, actions)


def kinds() -> list[tuple[str, str]]:
    """Each call with each way to fail; the empty one is any call."""
    return [("", KILLED), *((call, how) for call, hows in FAULTS.items() for how in hows)]


def sweep(call: str, how: str, script: Script, every: int = 1) -> Iterator[Report]:
    """A run for each fault of this kind, or for `every` so many-th."""
    for number in range(1, calls_of(script)[call] + 1, every):
        yield play(replace(script, faults=(Fault(call, number, how),)))


_counted: dict[str, Counter[str]] = {}


def calls_of(script: Script) -> Counter[str]:
    """By kind; up to its fault, each run is the same."""
    if script.seed not in _counted:
        _counted[script.seed] = play(script).calls
    return _counted[script.seed]
