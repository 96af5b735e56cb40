"""The ways of replacing workers that have grown, which loss.py compares: memreap's, and those that people use."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

import psutil
from support import stack
from support.reaping import wait_for

from supervisor_memreap.core.events import Event, ManagerLost, Signalled, Sink, Stuck, WrongSetting
from supervisor_memreap.core.settings import Settings
from supervisor_memreap.host import procfs
from supervisor_memreap.host.thismachine import ThisMachine
from supervisor_memreap.listener.reaper import Reaper
from supervisor_memreap.supervisord.client import Unavailable, connect

WORKERS = 4
NEWBORN = 0.3
"""Seconds: until then a worker may still run its manager's signal handlers. No strategy here signals one, though only
memreap does that itself: the losses of the others must not be accidental."""
TICK = 0.05
# The default idle_wait of 60 s, shortened as the time between two looks is: 12 ticks of TICK_5, of 0.35 s each here.
SAME_LOOKS = 60 / 5 * 0.35


class Limits(NamedTuple):
    """What a worker may hold, in bytes, by the measure of the strategy: memreap's, kidreaper's, memmon's (of all)."""

    uss: int
    vms: int
    cumulative_rss: int
    rss: int
    """By which all strategies are compared."""


Write = Callable[[str], None]
# Begins a line with the moment at which a worker was signalled, and one with what the page is to mention.
MOMENT = "moment: "
REMARK = "remark: "
# Looks, acts, yields the seconds until its next call; ends if nothing is left to do.
Act = Callable[[stack.Pool, Limits, Write], Iterator[float]]


def over(pool: stack.Pool, limits: Limits) -> list[int]:
    """The workers over the limit by their address space, as kidreaper's `ps -o pid=,vsz= --ppid` finds them."""
    view = procfs.source()
    pids = []
    try:
        for pid in view.children(pool.manager().pid):
            with contextlib.suppress(ProcessLookupError):
                process = view.process(pid)
                if not process.ended and process.age > NEWBORN and view.sizes(pid).size >= limits.vms:
                    pids.append(pid)
    except (ProcessLookupError, psutil.NoSuchProcess):
        pass  # the manager is being replaced
    return pids


def hup(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGHUP)


# Ways that supervisord's configuration brings about need nothing to be done; that is the control, too.
def nothing(pool: stack.Pool, limits: Limits, write: Write) -> Iterator[float]:
    while True:
        yield 1.0


def all_at_once(pool: stack.Pool, limits: Limits, write: Write) -> Iterator[float]:
    while True:
        for pid in over(pool, limits):
            hup(pid)
        yield 1.0


def kidreaper(pool: stack.Pool, limits: Limits, write: Write) -> Iterator[float]:
    while True:
        for pid in over(pool, limits):
            hup(pid)
            yield 0.1
        yield 0.2


def the_manager(pool: stack.Pool, limits: Limits, write: Write) -> Iterator[float]:
    while True:
        workers = [procfs.source().process(pid) for pid in pool.workers()]
        if over(pool, limits) and len(workers) == WORKERS and all(process.age > NEWBORN for process in workers):
            hup(pool.manager().pid)
        yield 1.0


def _notes(write: Write) -> Sink:
    """A line for each event that the benchmark counts or mentions."""

    def note(event: Event) -> None:
        if isinstance(event, Signalled):
            write(f"{MOMENT}{event.moment.value}")
        elif isinstance(event, (WrongSetting, ManagerLost, Stuck)):
            write(f"{REMARK}{event.pool}: {event.text}")

    return note


def memreap(hold: bool = True, idle_wait: float = 60.0) -> Act:
    """The listener's own code, with the settings of its default but for what must pass between two reaps."""

    def act(pool: stack.Pool, limits: Limits, write: Write) -> Iterator[float]:
        settings = {
            "limit": limits.uss,
            "min_age": NEWBORN,
            "settle": 0.1,
            "checks": 1,
            "idle_wait": idle_wait,
            "hold": hold,
        }
        supervisord = connect(f"unix://{pool.directory}/s.sock", {})
        reaper = Reaper(ThisMachine(), (_notes(write),))
        while True:
            try:
                pools = reaper.tick(supervisord.programs(), Settings({pool.name: settings}), time.monotonic())
            except Unavailable:
                pools = []  # it is tried again
            if any(watched.state.suspended for watched in pools):
                return  # explained by a remark
            wait_for(reaper, TICK)
            yield TICK

    return act


class Way(NamedTuple):
    title: str
    about: str
    act: Act = nothing
    wrap: str = "{command}"
    extra: str = ""
    """What is added to supervisord.conf."""
    patient: bool = False
    """Whether to recycle as many workers as --reaps; the others lose enough to be seen with fewer."""


MEMMON = "command={python} -m superlance.memmon --cumulative -p myapp={cumulative_rss}\nevents=TICK_5\n"
WAYS = {
    "a": Way(
        "ulimit -v",
        "limits the worker's address space; the worker dies in the middle of a request",
        wrap="sh -c 'ulimit -v {kib}; exec {command}'",
    ),
    "b": Way(
        "memmon",
        "superlance's memmon, with TICK_5 and --cumulative; it restarts the whole program",
        extra=f"[eventlistener:memmon]\n{MEMMON}",
    ),
    "c": Way("HUP to all at once", "signals all workers over the limit together, once a second", all_at_once),
    "d": Way(
        "kidreaper",
        "the script from 2007: lists the workers over the limit and signals them one by one, busy or not,"
        " 0.1 s apart here, 10 s apart in the original",
        kidreaper,
        patient=True,
    ),
    "e": Way(
        "HUP to the manager", "signals the manager when a worker is over the limit, at most once a second", the_manager
    ),
    "f": Way(
        "memreap",
        "the default: signals a worker at its boundary. This calls Reaper.tick every 0.05 s with"
        " supervisord's current answer. That is the listener's own code without the event protocol, in which ticks less"
        " than 0.5 s apart count as one. min_age=0.3s and settle=0.1s, so that many reaps fit in an hour",
        memreap(),
        patient=True,
    ),
    "g": Way(
        "memreap, hold=no",
        "as f, but signals the worker right after it was seen in accept, without ptrace",
        memreap(False),
        patient=True,
    ),
    "h": Way(
        "memreap, seldom",
        "as f, with idle_wait=4.2s, which allows as many looks as the default of 60 s does with TICK_5",
        memreap(idle_wait=SAME_LOOKS),
        patient=True,
    ),
    "i": Way(
        "memreap, hold=no, busy",
        "as g, with idle_wait=4.2s, as where ptrace is not permitted: a worker that is not seen idle gets USR1 while"
        " busy, unless connections are kept",
        memreap(False, SAME_LOOKS),
        patient=True,
    ),
    "n": Way("nothing", "control: no worker grows, and none is signalled"),
}
