"""One server under one load, whose workers are replaced at one moment: what that costs. For servers.py."""

from __future__ import annotations

import contextlib
import functools
import importlib.metadata
import math
import os
import select
import shutil
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

from loss import versions
from servers_report import ANY, BOUNDARY, IDLE, NOTHING, WHILE_BUSY
from support import servers, stack
from support.driver import eventually
from support.load import Answer, Load, read_answers
from support.looking import order_of
from support.servers import Server
from worker_ends import Ends, lost_in

from supervisor_memreap import __version__
from supervisor_memreap.core.model import Pool, ProcessId, SentMoment, Worker, WorkerDetail
from supervisor_memreap.core.model import Result as Sent
from supervisor_memreap.core.servers import named, recognise, signal_while_busy
from supervisor_memreap.core.settings import PoolSettings
from supervisor_memreap.host import procfs, signalling
from supervisor_memreap.host.attempt import Attempt
from supervisor_memreap.host.source import Source
from supervisor_memreap.host.thismachine import Descriptor

PER_CONNECTION = 20
# Seconds: no worker is signalled before it has its own signal handlers.
MIN_AGE = 0.5
# Seconds in which a signalled worker has to leave, and another to take its place.
PATIENCE = 60.0
# Bytes from a worker that has served to one that is over the limit; and over the limit, where growth is turned off.
ROOM, MOST = 8 * 1024**2, 128 * 1024**2
# Seconds until a case ends after that.
IN_VAIN = 30.0
# Seconds between two looks at the sizes of workers.
LOOKS = 0.01
# Seconds after which an attempt is given up, so that the next worker that is due has its turn: as memreap does, and to
# see an idle moment of any of them.
TURNS = {BOUNDARY: 5.0, IDLE: 0.1}
# Seconds between two lines of progress.
PROGRESS = 10.0

MOMENTS = (NOTHING, ANY, WHILE_BUSY, IDLE, BOUNDARY)


class LoadKind(NamedTuple):
    clients: int
    takes: float
    """Seconds that each request takes, at least."""
    kb: int
    """KiB by which each request lets its worker grow, so that a worker's life is about 1.5 s long."""


# One client fewer than there are workers: with as many, each worker always has a connection, and none is ever idle.
# Saturated, requests take their time: with quick ones, clients and nginx would keep the CPUs busy, and workers wait.
LOADS = {"3 clients": LoadKind(3, 0.0, 90), "8 clients": LoadKind(8, 0.04, 300)}
LIGHT, SATURATED = LOADS


class Case(NamedTuple):
    """One server under one load, signalled at one moment."""

    server: str
    kept: bool
    load: str
    moment: str

    @property
    def name(self) -> str:
        return f"{self.server}, {'kept' if self.kept else 'not kept'}, {self.load}, {self.moment}"


def signal_at(server: Server, moment: str) -> str:
    """The signal that a worker gets at this moment."""
    if moment != WHILE_BUSY:
        return server.signal
    names = (server.name, server.name.split()[0], *(["FCGI::ProcManager"] if server.name.startswith("FCGI") else []))
    return signal_while_busy(next(filter(lambda name: named(name).is_known, names), ""), None)


class Reap(NamedTuple):
    """Times are monotonic."""

    due: float
    """When its worker was seen over the limit, or the last reap was over, if that was later."""
    signalled: float
    gone: float
    replaced: float
    """When there were as many workers as there always are."""
    over: int
    """Bytes by which it was over the limit when it was signalled."""
    before: frozenset[int]
    """The pids of the workers that there were when it was signalled."""


class Workers:
    """The workers of a pool, of which the largest over the limit is replaced, one after the other."""

    def __init__(self, pool: stack.Pool, server: Server, moment: str):
        self._manager = procfs.source().process(pool.manager().pid).id
        self._number = server.workers
        self._moment = moment
        self._signal = signal_at(server, moment)
        self._sizes: dict[Worker, int] = {}
        self._due: dict[ProcessId, float] = {}
        self.limit = 0
        self.largest = 0
        """The most that any worker held since there is a limit, in bytes."""
        self.signalled: set[int] = set()
        """The pids of those that were signalled."""
        self.otherwise: Counter[str] = Counter()
        """Workers that were signalled at another moment than wanted, and why."""

    def look(self) -> None:
        view = procfs.source()
        self._sizes = {}
        for worker in self.all(view):
            with contextlib.suppress(ProcessLookupError):
                self._sizes[worker] = view.sizes(worker.id.pid).bound
        now = time.monotonic()
        over = {worker.id for worker, size in self._sizes.items() if self.limit and size > self.limit}
        self._due = {id: self._due.get(id, now) for id in over}
        if self.limit:
            self.largest = max(self.largest, *self._sizes.values(), 0)

    def all(self, view: Source) -> list[Worker]:
        workers = []
        for pid in view.children(self._manager.pid):
            with contextlib.suppress(ProcessLookupError):
                process = view.process(pid)
                if process.parent == self._manager.pid and not process.ended:
                    workers.append(Worker(process.id, process.age, 0, WorkerDetail(None, True)))
        return workers

    def set_limit(self) -> None:
        """The most that one holds now, and some room."""
        self.look()
        self.limit = max(self._sizes.values()) + ROOM

    def reap(self, since: float) -> Reap | None:
        """Signal one that is due, and wait until another is there; None: none is due, or none could be signalled."""
        self.look()
        for worker in sorted(self._sizes, key=lambda worker: -self._sizes[worker]):
            due = self._due.get(worker.id)
            if due is None or worker.age < MIN_AGE:
                continue
            before = frozenset(each.id.pid for each in self._sizes)
            if self._signalled(worker):
                signalled, size = time.monotonic(), self._sizes.get(worker, 0)
                eventually(functools.partial(self._assert_gone, worker), timeout=PATIENCE)
                gone = time.monotonic()
                eventually(self.assert_all_are_there, timeout=PATIENCE)
                over = max(0, size - self.limit)
                return Reap(max(due, since), signalled, gone, time.monotonic(), over, before)
        return None

    def _signalled(self, worker: Worker) -> bool:
        view, pid = procfs.source(), worker.id.pid
        if self._moment in (ANY, WHILE_BUSY):
            signum = signal.Signals[f"SIG{self._signal}"]
            with contextlib.suppress(ProcessLookupError):
                if view.catches(pid, signum):
                    self.signalled.add(pid)
                    os.kill(pid, signum)
                    return True
            return False
        hold = self._moment == BOUNDARY
        settings = PoolSettings(limit=1, signal=self._signal, hold=hold)
        pool = Pool("", "RUNNING", manager=self._manager, workers=tuple(self._sizes))
        outcome = self._outcome(order_of(pool, worker, settings, TURNS[self._moment]), view)
        if outcome is None or outcome.result is not Sent.SENT:
            return False
        self.signalled.add(pid)
        # Not as wanted: not permitted, or the attempt was out of time, and may have sent it or not.
        if outcome.moment is not (SentMoment.HELD if hold else SentMoment.IDLE):
            self.otherwise["not permitted" if outcome.unheld else "out of time"] += 1
        return True

    def _outcome(self, order: Any, view: Source) -> Any:
        """The outcome of an attempt, while sizes are read; None: the worker is gone."""
        try:
            pidfd = signalling.open_pidfd(order.worker.pid)
        except ProcessLookupError:
            return None
        handle = None if pidfd is None else Descriptor(pidfd)
        try:
            attempt = Attempt(order, view, handle, None)
            while (outcome := attempt.outcome()) is None:
                select.select([attempt.fd], [], [], LOOKS)
                self.look()
            return outcome
        finally:
            if handle:
                handle.close()

    def _assert_gone(self, worker: Worker) -> None:
        self.look()
        assert worker.id not in {each.id for each in self._sizes}

    def assert_all_are_there(self) -> None:
        self.look()
        assert len(self._sizes) >= self._number

    def pace(self) -> float:
        """Seconds that this server needs between two signals."""
        return named(recognise(procfs.source().names(self._manager.pid))).pace


def measure(case: Case, reaps: int, seconds: float, progress: Callable[[str], None] = lambda _: None) -> dict[str, Any]:
    """Replace a number of workers under load, within a time; returns the cost."""
    server, load_kind = servers.named(case.server), LOADS[case.load]
    where = stack.directory()
    done: list[Reap] = []
    try:
        with servers.running(server, where, keep=case.kept) as pool:
            workers = Workers(pool, server, case.moment)
            eventually(workers.assert_all_are_there, timeout=PATIENCE)
            how = load_kind.clients, PER_CONNECTION if case.kept else 1, 0.0, load_kind.takes, 0, where / "answers"
            with (ends := Ends(pool)), Load(pool.port, "/myapp/", *how) as load:
                time.sleep(2.0)  # each has served requests of every kind
                workers.set_limit()
                grows = case.moment != NOTHING
                load.let_grow(load_kind.kb // server.threads if grows else 0)
                pace = workers.pace()
                began = reported_at = last = time.monotonic()
                end = began + seconds
                while len(done) < reaps and time.monotonic() < end:
                    reap = None if case.moment == NOTHING else workers.reap(last)
                    if reap:
                        done.append(reap)
                        time.sleep(max(0.0, pace - (reap.replaced - reap.signalled)))
                        last = time.monotonic()
                    else:
                        time.sleep(LOOKS)
                    if grows and workers.largest > workers.limit + MOST:
                        grows = False
                        load.let_grow(0)
                        end = min(end, time.monotonic() + IN_VAIN)
                    if time.monotonic() > reported_at + PROGRESS:
                        reported_at = time.monotonic()
                        progress(
                            f"{len(done)} of {reaps} reaps after {reported_at - began:.0f} of at most {seconds:.0f} s"
                        )
                took = time.monotonic() - began
        answers = [answer for answer in read_answers(where / "answers") if answer.at >= began]
    finally:
        shutil.rmtree(where)
    return {
        **case._asdict(),
        "signal": signal_at(server, case.moment),
        "reaps": len(done),
        "otherwise": workers.otherwise,
        "seconds": round(took, 1),
        "answered": load.tally.answered,
        "lost": load.tally.lost,
        "lost_in": lost_in(load.tally.losses, ends.at, workers.signalled),
        "ended_unsignalled": len(ends.at.keys() - workers.signalled),
        "longest_gap": round(load.tally.longest_gap, 3),
        "overshoot": 0 if case.moment == NOTHING else max(0, workers.largest - workers.limit),
        "gave_up": case.moment != NOTHING and not grows,
        **_times(done, answers),
        "at": time.strftime("%Y-%m-%d %H:%M:%S"),
        "versions": {"memreap": __version__, case.server: version(server)},
        "machine": machine(),
    }


def _times(reaps: Iterable[Reap], answers: list[Answer]) -> dict[str, Counter[int]]:
    """How often something took a number of milliseconds. Such counts can be added up."""
    counts: dict[str, Counter[int]] = {name: Counter() for name in ("signalled", "gone", "replaced", "serving", "took")}
    first: dict[int, float] = {}
    for answer in sorted(answers):
        first.setdefault(answer.worker, answer.at)
        counts["took"][in_steps(answer.took)] += 1
    for reap in reaps:
        counts["signalled"][in_steps(reap.signalled - reap.due)] += 1
        counts["gone"][in_steps(reap.gone - reap.due)] += 1
        counts["replaced"][in_steps(reap.replaced - reap.due)] += 1
        serves = [at for pid, at in first.items() if pid not in reap.before and at > reap.signalled]
        if serves:
            counts["serving"][in_steps(min(serves) - reap.due)] += 1
    return counts


def in_steps(seconds: float) -> int:
    """In milliseconds, by steps of 5, so that there are not thousands of values."""
    return 5 * max(0, math.ceil(200 * seconds))


def version(server: Server) -> str:
    if not server.packages:
        return importlib.metadata.version(Path(server.executable).name)
    return debian(server.packages[0])


def debian(package: str) -> str:
    """Its version."""
    command = ["dpkg-query", "-W", "-f", "${Version}", package]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def machine() -> str:
    used = versions()
    return f"{used['CPUs']}, Linux {used['Linux']}, Python {used['Python']}, nginx {used['nginx']}"
