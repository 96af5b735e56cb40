"""Which call of memreap to the outside fails, and how."""

from __future__ import annotations

import errno
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

KILLED = "killed"
"""The process of memreap that makes the call ends there."""
DEFECT = "defect"
"""Of memreap itself: an exception that nobody expects."""
FAULTS = {
    "attempt": ("EAGAIN", "ENOMEM", "EMFILE", "ESRCH", DEFECT),
    "child": ("ended before", "ended after"),
    "emit": (),
    "follow": ("none", DEFECT),
    "force": ("not permitted", "failed", DEFECT),
    "how_ended": ("unknown", DEFECT),
    "load": ("torn", "unreadable", "foreign"),
    "lock": ("EMFILE", "ESRCH", "locked", "unlockable", DEFECT),
    "look": (DEFECT,),
    "measure": (DEFECT,),
    "oom_kills": (DEFECT,),
    "outcome": (DEFECT,),
    "programs": ("refused",),
    "read": ("unreadable", DEFECT),
    "replace": (),
    "replaced": (),
    "set_alarm": (DEFECT,),
    "share": ("EMFILE", DEFECT),
    "write": ("disk full", DEFECT),
}
"""By the call, how it may fail; each may end by force too. `child` is the process that makes an attempt."""


@dataclass(frozen=True)
class Fault:
    call: str
    """As in FAULTS; empty: any."""
    number: int
    """Of the call, in one run, from 1 on."""
    how: str


class Killed(BaseException):
    """This process of memreap ends here, without another step."""


class Faults:
    def __init__(self, faults: Iterable[Fault]):
        self._faults = {(each.call, each.number): each.how for each in faults}
        self.calls: Counter[str] = Counter()
        """How many of each kind were made; empty: of all."""
        self.made = 0

    def at(self, call: str) -> str:
        """Count this call; how it fails, where the protocol has no exception for that; empty: it does not.

        Raises OSError, RuntimeError, Killed.
        """
        self.calls[call] += 1
        self.calls[""] += 1
        if not self._faults:
            return ""
        how = self._faults.get((call, self.calls[call])) or self._faults.get(("", self.calls[""])) or ""
        if not how:
            return ""
        self.made += 1
        if how == KILLED and call == "child":
            return "ended after"  # it is that process that ends
        if how == KILLED:
            raise Killed
        if how == DEFECT:
            raise RuntimeError(f"a defect in {call}")
        if how == "ESRCH":
            raise ProcessLookupError(errno.ESRCH, "No such process")
        if how.startswith("E"):
            raise OSError(getattr(errno, how), how)
        return how
