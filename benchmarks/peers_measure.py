"""Ways of replacing grown workers, side by side under one load. For peers.py."""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from peers_report import Result
from peers_ways import COMPARISONS, MIB, ROOM, Limits, Load, Way
from servers_measure import debian, in_steps, machine, version
from support import servers, stack
from support.driver import cleans_up, eventually, is_alive
from support.load import Load as Clients
from support.load import read_answers
from support.memorygroup import MemoryGroup, memory_group, why_not
from support.servers import WORKERS, Server

from supervisor_memreap import __version__
from supervisor_memreap.core.model import Fact
from supervisor_memreap.host import procfs, sockets, waiting

# Seconds of load before workers grow; and between two readings of their sizes.
WARM_UP, SAMPLES = 2.0, 0.1
PROGRESS = 20.0


class Watch(stack.Watch):
    """Which workers serve and what they hold, until the end of the block."""

    def __init__(self, pool: stack.Pool):
        super().__init__(pool)
        self.ever = set(self._last)
        self._served = set(self._last)  # the pool has been under load
        self._helpers: set[int] = set()
        self.away: dict[int, float] = {}
        """For how many seconds so many workers did not serve."""
        self.most = {"uss": 0, "rss": 0, "vms": 0, "pool": 0}
        """What the largest worker held, and what all held together (RSS)."""
        self.samples: list[tuple[float, int]] = []
        """Time (monotonic), and USS of all workers."""
        self.looks = self.most_workers = 0
        self._looked: float | None = None
        self._sampled = 0.0

    @property
    def replaced(self) -> int:
        """How many have left."""
        return len(self.ever - self._last)

    def _run(self) -> None:
        with contextlib.suppress(OSError):  # of this thread alone: on a busy machine it would look 4 times a second
            os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))
        super()._run()

    def _look(self) -> None:
        if not is_alive(self._manager):
            self._manager = self._pool.managers()[-1]  # supervisord starts the program again
        try:
            listed = procfs.source().children(self._manager)
        except ProcessLookupError:
            listed = []
        # The kernel's list may lack one for a moment while another one ends.
        self._last = {pid for pid in {*listed, *self._last} - self._helpers if is_alive(pid)}
        self._helpers |= {pid for pid in self._last - self.ever if cleans_up(pid)}
        self._last -= self._helpers
        self.ever |= self._last
        self._served |= {pid for pid in self._last - self._served if serves(pid)}
        self.most_workers = max(self.most_workers, len(self._last))
        now = time.monotonic()
        away = max(0, WORKERS - len(self._last & self._served))
        self.away[away] = self.away.get(away, 0.0) + now - (self._looked or now)
        self._looked, self.looks = now, self.looks + 1
        if now >= self._sampled + SAMPLES:
            self._sampled = now
            self._sample(now)

    def _sample(self, now: float) -> None:
        held = [sizes for pid in self._last if (sizes := sizes_of(pid))]
        self.samples.append((now, sum(each["uss"] for each in held)))
        for each in (*held, {"pool": sum(sizes["rss"] for sizes in held)}):
            self.most.update({key: max(size, self.most[key]) for key, size in each.items()})


def serves(pid: int) -> bool:
    """Whether it waits for a connection, or has one."""
    try:
        own = sockets.of(pid)
        return own.has_client or waiting.waits_for(pid, own.listening) is Fact.SERVES
    except (OSError, ValueError):
        return False  # it has just ended


def sizes_of(pid: int) -> dict[str, int]:
    """In bytes; private memory and RSS with swap. Empty: the process has ended."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
        vms = procfs.source().sizes(pid).size
    except OSError:
        return {}
    kib = {key: int(value.split()[0]) for key, value in (line.split(":") for line in lines)}
    uss = kib["Private_Clean"] + kib["Private_Dirty"] + kib["SwapPss"]
    return {"uss": uss * 1024, "rss": (kib["Rss"] + kib["Swap"]) * 1024, "vms": vms}


@contextlib.contextmanager
def group_of_pool() -> Iterator[MemoryGroup | None]:
    """A control group for one pool, if one can be made here."""
    with contextlib.nullcontext() if why_not() else memory_group() as group:
        yield group


@contextlib.contextmanager
def pool_of(server: Server, more: str, group: MemoryGroup | None = None) -> Iterator[stack.Pool]:
    """A running pool, all of whose workers have served."""
    servers.skip_without(server)
    where = stack.directory()
    try:
        command = group.running(server.command) if group else server.command
        set_up = replace(server, command=command)
        with servers.running(set_up, where, more.replace("{where}", str(where))) as pool:
            eventually(lambda: _assert_all_serve(pool), timeout=30)
            yield pool
    finally:
        shutil.rmtree(where)


def _assert_all_serve(pool: stack.Pool) -> None:
    assert len([pid for pid in pool.workers() if serves(pid)]) == WORKERS


def clients(pool: stack.Pool, load: Load, answers: Path | None = None) -> Clients:
    return Clients(pool.port, "/myapp/", load.clients, 1, load.pause, load.takes, 0, answers, load.one_in)


def limits_for(server: Server, load: Load) -> Limits:
    """What the largest worker holds that has served requests of all kinds, and ROOM."""
    with group_of_pool() as group, pool_of(server, "", group) as pool:
        with clients(pool, load):
            time.sleep(2 * WARM_UP)
        held = [sizes for pid in pool.workers() if (sizes := sizes_of(pid))]
        manager = sizes_of(pool.manager().pid)["rss"]
        whole = group.usage() + WORKERS * ROOM if group else 0
    most = {key: max(each[key] for each in held) + ROOM for key in held[0]}
    return Limits(**most, pool=WORKERS * most["rss"], manager=manager, group=whole, requests=load.requests)


class Side:
    """One way, in a running pool."""

    def __init__(self, way: Way, words: str, limits: Limits, pool: stack.Pool, group: MemoryGroup | None):
        self.way = way
        self.watch = Watch(pool)
        self._words = words
        self._limits = limits
        self._pool = pool
        self._group = group
        self._answers = pool.directory / "answers"
        self._of_group: dict[str, int] = {}

    @contextlib.contextmanager
    def under(self, load: Load) -> Iterator[None]:
        """Asked all the time, without growth."""
        with clients(self._pool, load, self._answers) as self._clients:
            yield

    @contextlib.contextmanager
    def growing(self, kb: int) -> Iterator[None]:
        self._clients.let_grow(kb)
        with self.watch:
            yield
        if self._group:
            self._of_group = {"peak_of_group": self._group.peak(), "oom_kills": self._group.oom_kills}

    def result(self, began: float, ended: float) -> Result:
        """After the load."""
        watch, way = self.watch, self.way
        totals = [uss for _, uss in watch.samples]
        answers = [answer for answer in read_answers(self._answers) if began <= answer.at < ended]
        package = {way.package: debian(way.package)} if way.package else {}
        return {
            "way": way.name,
            "server": way.server.name,
            "set": self._words,
            "limits": self._limits._asdict(),
            "seconds": round(ended - began, 1),
            "replaced": watch.replaced,
            "managers": len(watch.managers),
            "looks": watch.looks,
            "most_workers": watch.most_workers,
            "away": {number: round(seconds, 2) for number, seconds in sorted(watch.away.items())},
            "mean": sum(totals) // len(totals),
            "peak": max(totals),
            "peak_rss": watch.most["pool"],
            **self._of_group,
            "overshoot": watch.most[way.metric] - getattr(self._limits, way.metric),
            "series": [(round(at - began, 1), round(uss / MIB)) for at, uss in watch.samples[:: round(1 / SAMPLES)]],
            "answered": len(answers),
            "lost": self._clients.tally.lost,
            "took": Counter(in_steps(answer.took) for answer in answers),
            "at": time.strftime("%Y-%m-%d %H:%M:%S"),
            "versions": {"memreap": __version__, way.server.name: version(way.server), **package},
            "machine": machine(),
        }


@contextlib.contextmanager
def side(way: Way, limits: Limits, spare: int | None) -> Iterator[Side]:
    """`spare`: the limit of its control group, beyond what the pool holds when all workers are at their limit."""
    server, words = way.set_up(way.server, limits)
    with group_of_pool() as group, contextlib.ExitStack() as limited:
        if spare is not None:
            if not group:
                raise RuntimeError(why_not())
            limited.enter_context(group.limited(limits.group + spare))
        with pool_of(server, way.section(limits), group) as pool:
            yield Side(way, words, limits, pool, group)


def measure(title: str, load: Load, seconds: float, progress: Callable[[str], None]) -> list[Result]:
    """A result for each way of this comparison, all under load at the same time."""
    ways, spare = COMPARISONS[title].ways, COMPARISONS[title].spare
    limits = {way.server.name: limits_for(way.server, load) for way in ways}
    with contextlib.ExitStack() as running:
        sides = [running.enter_context(side(way, limits[way.server.name], spare)) for way in ways]
        with contextlib.ExitStack() as stacked:
            for each in sides:
                stacked.enter_context(each.under(load))
            time.sleep(WARM_UP)
            for each in sides:
                stacked.enter_context(each.growing(load.kb))
            began = time.monotonic()
            while (passed := time.monotonic() - began) < seconds:
                time.sleep(1.0)
                if passed % PROGRESS < 1:
                    counts = ", ".join(f"{each.way.name} {each.watch.replaced}" for each in sides)
                    progress(f"replaced after {passed:.0f} of {seconds:.0f} s: {counts}")
            ended = time.monotonic()
        section = title if COMPARISONS[title].is_apart else load.name
        return [
            {"comparison": title, "load": load.name, "section": section, **each.result(began, ended)} for each in sides
        ]
