"""Records real pools in fast motion, for suggest.py: python benchmarks/suggest_record.py

One real supervisord runs all pools of POOLS at the same time, with real servers: FCGI::ProcManager, Starman, gunicorn,
uWSGI, php-fpm, unicorn and Apache prefork, 4 workers each. Their application (benchmarks/apps/aging.*) keeps, shares
and frees memory as each request says: so what is true of a pool is known before anything is measured. A client of each
pool asks at random moments, more by day than by night. The real `memreap listen` watches all of them and records their
workers. Some have a limit, by which it replaces workers; some are deployed after 14 hours: all workers are new, and
leak more or less from then on.

A second stands for SPEED seconds: 40 hours take 17 minutes. It needs two CPUs, 3 GiB, and what tests/run installs, and
writes benchmarks/results/suggest_recorded.json.gz: for each pool what is true of it, and what memreap recorded, with
times as if it had not been fast motion. As in a history, readings older than 25 hours are one each 15 minutes.

    python benchmarks/suggest_record.py --hours 2 --out FILE     a short trial
"""

from __future__ import annotations

import argparse
import contextlib
import gzip
import http.client
import json
import math
import os
import random
import re
import shutil
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple

import psutil

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from loss import versions
from suggest_pools import DAY, EPOCH, HOUR, MIB, Pool
from suggest_recorded import FILE
from support import servers, stack
from support.driver import eventually, supervisord, workers_below
from support.servers import Server

from supervisor_memreap.history import historyfile

HERE = Path(__file__).resolve().parent
WORKERS = 4
SPEED = 144.0
HOURS = 40.0
# Requests a second that a pool gets on average.
REQUESTS = 2.0
# Requests in an hour of fast motion.
AN_HOUR = REQUESTS * HOUR / SPEED
# MiB that each worker keeps from its first request on, where the application can.
BASE = 3.0
# Seconds between the starts of two pools: a fresh worker is seen by the next look only if it starts in time.
APART = 0.6
# Looks have to be in time, even if other work keeps the machine busy; what the servers do need not.
FIRST, NOT_FIRST = (["nice", "-n", "-10"], "nice -n 10 ") if os.getuid() == 0 else ([], "")
# A Monday, 00:00 UTC.
BEGIN = math.ceil((EPOCH - 4 * DAY) / (7 * DAY)) * 7 * DAY + 4 * DAY
# Of the history, what memreap keeps in full, and then one reading of each part, in seconds.
FINE_FOR, COARSE = 25 * HOUR, 900.0
PHP, APACHE = "php-fpm", "Apache prefork"


class Real(NamedTuple):
    """A pool to record: its server, and what is true of it but for the size of a fresh worker."""

    server: str
    kind: str
    truth: dict[str, Any]


def _leak(per_hour: float, **more: Any) -> dict[str, Any]:
    return {"leak": per_hour, **more}


def _deploy(per_hour: float, changes: float) -> dict[str, Any]:
    return _leak(per_hour, deploys=(0.6,), changes=changes)


def _shared(mib: float, hours: float, **more: Any) -> dict[str, Any]:
    return {"shared": mib, "unsharing": hours, **more}


def _large(mib: float, hours: float, stays: str) -> dict[str, Any]:
    return {"spikes": 1 / hours, "spike_size": mib, "spike_stays": stays}


NONE, LEAK, LIMIT = "no growth", "leak", "leak, with a limit"
DEPLOY, RELOAD = "leak that a deployment changed", "leak that a reload changed"
COW, COW_LEAK, CACHE = "copy on write", "leak on top of copy on write", "cache that fills"
RETURNED, REUSED, STEPS = "large requests, freed", "large requests, kept for the next", "leak in steps"
POOLS = (
    Real("FCGI::ProcManager", NONE, {}),
    Real("FCGI::ProcManager", LEAK, _leak(0.5)),
    Real("FCGI::ProcManager", COW, _shared(8, 3)),
    Real("FCGI::ProcManager", COW_LEAK, _shared(6, 1.5, leak=0.4)),
    Real("FCGI::ProcManager", RETURNED, _large(8, 6, "no")),
    Real("FCGI::ProcManager", DEPLOY, _deploy(0.3, 2.5)),
    Real("Starman", NONE, {}),
    Real("Starman", LEAK, _leak(0.3)),
    Real("Starman", COW, _shared(8, 1)),
    Real("Starman", STEPS, _large(3, 6, "add")),
    Real("Starman", LIMIT, _leak(0.8, limit=12)),
    Real("gunicorn sync", NONE, {}),
    Real("gunicorn sync", LEAK, _leak(0.6)),
    Real("gunicorn sync", COW, _shared(10, 4)),
    Real("gunicorn sync", REUSED, _large(8, 8, "max")),
    Real("gunicorn sync", DEPLOY, _deploy(0.6, 0.4)),
    Real("gunicorn sync", RELOAD, _deploy(0.3, 2.5)),
    Real("gunicorn sync", LIMIT, _leak(1.0, limit=16)),
    Real("uWSGI", NONE, {}),
    Real("uWSGI", LEAK, _leak(0.25, cycle=0.8)),
    Real("uWSGI", CACHE, _shared(8, 2)),
    Real("uWSGI", RETURNED, _large(10, 10, "no")),
    Real("uWSGI", DEPLOY, _deploy(0.25, 4.0)),
    Real(PHP, NONE, {}),
    Real(PHP, LEAK, _leak(0.4)),
    Real(PHP, STEPS, _large(2, 4, "add")),
    Real(PHP, DEPLOY, _deploy(0.6, 0.25)),
    Real(PHP, LIMIT, _leak(0.6, limit=10)),
    Real("unicorn", NONE, {}),
    Real("unicorn", LEAK, _leak(0.5)),
    Real("unicorn", COW_LEAK, _shared(6, 2, leak=0.4)),
    Real("unicorn", CACHE, _shared(10, 3)),
    Real("unicorn", LIMIT, _leak(0.9, limit=14)),
    Real(APACHE, NONE, {}),
    Real(APACHE, LEAK, _leak(0.35)),
    Real(APACHE, STEPS, _large(3, 8, "add")),
    Real(APACHE, CACHE, _shared(8, 2)),
)
# Entries of a cache that fills.
ENTRIES = 128


def truth(number: int, real: Real, base: float, share: float = 1.0, start: float = 0.0) -> Pool:
    """What is true of it; `base` is what a worker of this server holds that does not grow, in MiB.

    `share`: how many of the requests that were planned were made, since the machine may be too busy. `start`: when it
    was, in seconds of fast motion after the first.
    """
    chance = random.Random(number)
    values: dict[str, Any] = {"cycle": chance.uniform(0, 0.4), "phase": chance.uniform(0, 2 * math.pi), **real.truth}
    for key, factor in (("leak", share), ("spikes", share), ("unsharing", 1 / share)):
        if key in values:
            values[key] = round(values[key] * factor, 4)
    leak = values.get("leak", 0.0) * WORKERS / AN_HOUR / share
    values |= {"request_leak": leak or 0.01, "days": (HOURS - start / HOUR) / 24, "begin": BEGIN + start}
    return Pool(real.kind, number, WORKERS, base, 0.02 * base, **values)


def query(real: Real, pool: Pool, leak: float, chance: random.Random) -> str:
    """What the next request does."""
    words = [f"base={BASE * MIB:.0f}"]
    if leak:
        words.append(f"leak={chance.expovariate(1 / pool.request_leak) * leak / pool.leak * MIB + 1:.0f}")
    if pool.shared:
        share = WORKERS / AN_HOUR / pool.unsharing
        if real.kind == CACHE:
            # One entry in each request would fill it sooner.
            if chance.random() < share * ENTRIES:
                words.append(f"cache={ENTRIES}&entry={pool.shared * MIB / ENTRIES:.0f}")
        else:
            pages = 256 * pool.shared * share
            words.append(f"touch={int(pages + chance.random())}")
    if chance.random() < pool.spikes * WORKERS / AN_HOUR:
        size = pool.spike_size * math.exp(chance.gauss(0, 0.4)) * MIB
        words.append(f"large={size:.0f}&stays={pool.spike_stays}&hold={chance.uniform(180, 600) / SPEED:.2f}")
    return "&".join(words)


class Running:
    """A pool under supervisord, and its client."""

    def __init__(self, number: int, real: Real, where: Path):
        self.name = "p" + "abcdefghijklmnopqrstuvwxyz"[number // 26] + "abcdefghijklmnopqrstuvwxyz"[number % 26]
        self.number, self.real, self.where = number, real, where / self.name
        self.pool = truth(number, real, 1.0)
        self.server = _adapted(servers.named(real.server))
        self.port = stack.free_port()
        self.answered = self.lost = 0
        self.began = self.share = 0.0

    def prepare(self) -> str:
        """Its files; returns its sections of supervisord's configuration."""
        self.where.mkdir()
        shutil.copy(HERE / f"apps/aging{Path(self.server.app).suffix}", self.where / self.server.app)
        for name, text in self.server.files.items():
            (self.where / name).write_text(text.format(where=self.where, port=self.port))
        program = self.server.program.format(where=self.where, port=self.port).replace(":myapp]", f":{self.name}]")
        program = program.replace("command=", f"command={NOT_FIRST}")
        shared = math.ceil(self.pool.shared) if self.real.kind in (COW, COW_LEAK) else 0
        # So that large blocks are always given back, as they are the first time.
        environment = f"environment=AGING_SHARED={shared},MALLOC_MMAP_THRESHOLD_=131072\n"
        limit = f"limit={self.pool.limit:g}MB" if self.pool.limit else "observe=yes"
        return f"{program}{environment}[memreap:{self.name}]\n{limit}\nmin_age=1s\nsettle=1s\n"

    def address(self, nginx: int) -> tuple[int, str]:
        return (nginx, f"/{self.name}/") if self.server.front else (self.port, "/")

    def ask(self, nginx: int, words: str) -> None:
        port, path = self.address(nginx)
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        try:
            connection.request("GET", f"{path}?{words}", headers={"Connection": "close"})
            answer = connection.getresponse()
            if answer.status != 200 or answer.read() != b"ok\n":
                raise OSError(f"{self.name} answered {answer.status}")
        except http.client.HTTPException as error:
            raise OSError(f"{self.name}: {error!r}") from None
        finally:
            connection.close()

    def assert_answers(self, nginx: int) -> None:
        try:
            self.ask(nginx, "")
        except OSError as error:
            raise AssertionError(f"{self.name} ({self.real.server}): {error}") from None

    def play(self, nginx: int, where: Path, start: float, hours: float) -> None:
        """Begin anew, ask at random moments, and deploy, until the end; `start` is monotonic."""
        time.sleep(APART * self.number)
        self.began = time.time()
        self.restart(where)
        self.warm_up(nginx)
        begin = due = time.monotonic()
        chance, leak, deploys = random.Random(self.number + 1000), self.pool.leak, [*self.pool.deploys]
        while due < start + hours * HOUR / SPEED:
            at = (due - begin) * SPEED
            load = 1 + self.pool.cycle * math.sin(2 * math.pi * at / DAY + self.pool.phase)
            due += chance.expovariate(REQUESTS * load)
            time.sleep(max(0.0, due - time.monotonic()))
            # What a busy machine did not let it ask is not made up for: that would be a burst.
            due = max(due, time.monotonic() - 1)
            if deploys and at >= deploys[0] * DAY:
                deploys.pop(0)
                leak *= self.pool.changes
                self.deploy(where)
                self.warm_up(nginx)
            try:
                self.ask(nginx, query(self.real, self.pool, leak, chance))
                self.answered += 1
            except OSError:
                self.lost += 1
        if not self.answered:
            why = f"no request was answered in its part of {hours:g} hours of fast motion"
            raise SystemExit(f"{self.name} ({self.real.server}): {why}: the machine is too busy; set more --hours")
        self.share = self.answered / REQUESTS / (time.monotonic() - begin)

    def deploy(self, where: Path) -> None:
        """All workers are new then; after a reload, of the same manager."""
        if self.real.kind == RELOAD:
            os.kill(_managers(where)[self.name], signal.SIGHUP)
        else:
            self.restart(where)

    def warm_up(self, nginx: int) -> None:
        """Let each worker serve a request soon: a second is long in fast motion."""
        eventually(lambda: self.assert_answers(nginx))

        def ask(_: int) -> None:
            with contextlib.suppress(OSError):
                self.ask(nginx, f"base={BASE * MIB:.0f}")

        with ThreadPoolExecutor(WORKERS) as threads:
            list(threads.map(ask, range(4 * WORKERS)))

    def restart(self, where: Path) -> None:
        control = stack.control(where)
        control.stopProcess(self.name)
        control.startProcess(self.name)


def _adapted(server: Server) -> Server:
    """Its manager loads the application before it forks, in the directory of its pool."""
    command, files = server.command, dict(server.files)
    if server.executable.endswith("gunicorn"):
        command += " --preload --chdir {where}"
    elif server.name == "Starman":
        command += " --preload-app"
    elif server.name == "unicorn":
        files["unicorn.rb"] += "preload_app true\n"
    return replace(server, command=command, files=files)


def _nginx(pools: list[Running], where: Path, port: int) -> str:
    """In front of those that do not speak HTTP; returns its section."""
    conf = servers.in_front_of({pool.name: pool.server for pool in pools}, where)
    text = conf.read_text().replace("FOLDER/$pool.sock", "FOLDER/$pool/myapp.sock")
    text = text.replace("FOLDER/growing.php", "FOLDER/$pool/growing.php")
    conf.write_text(text.replace("FOLDER", str(where)).replace("PORT", str(port)))
    return f"[program:nginx]\ncommand=/usr/sbin/nginx -e {where}/nginx-error.log -c {conf} -p {where}/\n"


@contextlib.contextmanager
def running(pools: list[Running], where: Path) -> Iterator[int]:
    """All of them under one supervisord, with the listener; the port of nginx."""
    port = stack.free_port()
    text = "".join(pool.prepare() for pool in pools) + _nginx(pools, where, port)
    text += f"[memreap]\nhistory={where}/memreap.sqlite\nhistory_size=200MB\n"
    text += (
        f"[eventlistener:memreap]\ncommand={sys.executable} {HERE}/apps/fast_listener.py\nevents=TICK_5\n"
        f'buffer_size=100\nstderr_logfile={where}/memreap.log\nenvironment=TMPDIR="{where}"\n{stack.INTERFACE}'
    )
    with supervisord(where, text, within=FIRST):
        for pool in pools:
            eventually(lambda pool=pool: pool.assert_answers(port))
        yield port


def _managers(where: Path) -> dict[str, int]:
    return {
        name: int(pid) for name, pid in re.findall(r"spawned: '(\w+)' with pid ([0-9]+)", (where / "s.log").read_text())
    }


def _sizes(manager: int) -> list[Any]:
    """Of its workers, and last its own; none, if it has just ended."""
    found: list[Any] = []
    with contextlib.suppress(psutil.NoSuchProcess):
        for pid in (*workers_below(manager), manager):
            with contextlib.suppress(psutil.NoSuchProcess):
                found.append(psutil.Process(pid).memory_full_info())
    return found


def record(hours: float, out: Path, chosen: tuple[Real, ...]) -> None:
    where = stack.directory()
    pools = [Running(number, real, where) for number, real in enumerate(chosen)]
    try:
        with running(pools, where) as port:
            wall = time.time()
            highest = _play(pools, port, where, hours)
            fresh = _fresh(pools, where)
        histories = {history.name: history for history in historyfile.load(str(where / "memreap.sqlite"))}
        log = (where / "memreap.log").read_text()
    finally:
        with contextlib.suppress(Exception):
            shutil.copy(where / "memreap.log", out.with_suffix(".log"))
        shutil.rmtree(where, ignore_errors=True)
    end = wall + hours * HOUR / SPEED
    times = sorted({reading.at for history in histories.values() for reading in history.readings if reading.at < end})
    kept = _kept(times, wall)
    result = {
        "made": _made(pools, highest),
        "begin": BEGIN,
        "times": [round((at - wall) * SPEED) for at in kept],
        "pools": [_values(pool, fresh[pool.real.server], histories[pool.name], kept, wall) for pool in pools],
    }
    with gzip.GzipFile(out, "wb", mtime=0) as file:
        file.write(json.dumps(result, separators=(",", ":")).encode())
    reaps = {pool.name: log.count(f" memreap: {pool.name}: worker") for pool in pools if pool.pool.limit}
    print(f"{out}: {out.stat().st_size / 1000:.0f} KB; {highest / MIB:.0f} MiB at most; {reaps}; {fresh}")


def _play(pools: list[Running], port: int, where: Path, hours: float) -> int:
    """Until the end, or a client fails. The most that all held, in bytes (PSS)."""
    start, highest = time.monotonic(), 0
    failures: list[BaseException] = []
    has_failed = threading.Event()

    def play(pool: Running) -> None:
        try:
            pool.play(port, where, start, hours)
        except BaseException as error:
            failures.append(error)
            has_failed.set()

    threads = [threading.Thread(target=play, args=(pool,), daemon=True) for pool in pools]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        if has_failed.wait(30):
            break
        held = sum(info.pss for manager in _managers(where).values() for info in _sizes(manager))
        highest = max(highest, held)
        done = (time.monotonic() - start) * SPEED / HOUR
        lost = sum(pool.lost for pool in pools)
        print(f"{done:.1f} h: {held / MIB:.0f} MiB, {lost} requests lost", file=sys.stderr, flush=True)
    if failures:
        raise failures[0]
    return highest


def _fresh(pools: list[Running], where: Path) -> dict[str, float]:
    """What a fresh worker of each server holds, in MiB."""
    managers = _managers(where)
    return {
        pool.real.server: statistics.median(info.uss for info in _sizes(managers[pool.name])[:-1]) / MIB
        for pool in pools
        if pool.real.kind == NONE
    }


def _made(pools: list[Running], highest: int) -> dict[str, Any]:
    return {
        **{key: value for key, value in versions().items() if key not in ("superlance", "Catalyst")},
        **_servers(),
        "at": time.strftime("%Y-%m-%d"),
        "highest_mib": round(highest / MIB),
        "answered": sum(pool.answered for pool in pools),
        "lost": sum(pool.lost for pool in pools),
        "speed": SPEED,
    }


def _values(pool: Running, fresh: float, history: Any, kept: list[float], wall: float) -> dict[str, Any]:
    """What is true of a pool, and what was recorded of it."""
    start = round((pool.began - wall) * SPEED)
    return {
        "server": pool.real.server,
        "truth": asdict(truth(pool.number, pool.real, round(fresh, 2), pool.share, start)),
        "workers": list(_workers(history, kept, wall, pool.began)),
    }


def _kept(times: list[float], wall: float) -> list[float]:
    """Those that a history keeps."""
    last = {int((at - wall) * SPEED // COARSE): at for at in times}
    fine_from = times[-1] - FINE_FOR / SPEED
    return [at for at in times if at >= fine_from or last[int((at - wall) * SPEED // COARSE)] == at]


def _workers(history: Any, kept: list[float], wall: float, began: float) -> Iterator[dict[str, Any]]:
    """Those that started since it began.

    Sizes in pages, each as its difference from the one before; null: it was not read then.
    """
    number = {at: index for index, at in enumerate(kept)}
    for worker in history.workers:
        sizes = {number[at]: used // 4096 for at, used in worker.readings if at in number}
        if not sizes or worker.started < began:
            continue
        first, before = min(sizes), 0
        steps: list[int | None] = []
        for index in range(first, max(sizes) + 1):
            size = sizes.get(index)
            steps.append(None if size is None else size - before)
            before = before if size is None else size
        values = {"pid": worker.pid, "started": round((worker.started - wall) * SPEED), "first": first, "pages": steps}
        yield {**values, "reaped": True} if worker.was_reaped else values


def _servers() -> dict[str, str]:
    """Their versions, of Debian's packages and PyPI."""
    import importlib.metadata

    packages = ("starman", "uwsgi-core", "php8.2-fpm", "unicorn", "apache2-bin")
    output = subprocess.run(
        ["dpkg-query", "-W", "-f=${Package} ${Version}\n", *packages], capture_output=True, text=True, check=False
    ).stdout
    found = dict(line.split() for line in output.splitlines())
    return {"gunicorn": importlib.metadata.version("gunicorn"), **found}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hours", type=float, default=HOURS, metavar="H", help=f"of fast motion (default: {HOURS:g})")
    parser.add_argument("--out", type=Path, default=FILE)
    args = parser.parse_args()
    record(args.hours, args.out, POOLS)


if __name__ == "__main__":
    main()
