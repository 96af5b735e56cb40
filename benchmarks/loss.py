"""What each way of replacing grown workers costs: lost requests, shortened sleeps, lost cleanup handlers.

    python benchmarks/loss.py                       everything; about an hour, Ctrl-C is allowed at any time
    python benchmarks/loss.py --strategy d,f --quick
    python benchmarks/loss.py --report              the tables and the picture again, from the results alone

All of it is real: an application made by catalyst.pl, started by its own script/myapp_fastcgi.pl under a supervisord,
with FCGI::ProcManager and 4 workers, behind nginx. Each request makes its worker grow by some hundred KiB, so each
worker is over the limit after some seconds, and the strategy has to do something about it.

The client asks without pause (4 at a time: "full") or with a pause (2 at a time: "moderate"), each with a connection
from nginx to the worker for every request, and with connections that are kept (fastcgi_keep_conn on). 55 % of the
requests are quick GETs, 35 % POSTs of 2 KB, 10 % GETs whose action sleeps for 0.2 s; every fourth request promises in
its answer that a handler in psgix.cleanup.handlers will run. Every answer is checked to be whole and right; all else is
lost: another status than 200, a reset, a cut, a wrong checksum of the body that was posted. (nginx repeats a failed
request only where there is another server, or a GET on a kept connection: its defaults.) After a loss a client waits
for 0.1 s, so that a time without any worker is not counted at the rate at which nginx refuses.

The limit is what a worker holds that has served, measured first, and 8 MiB. The strategies:
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import http.client
import importlib.metadata
import itertools
import json
import math
import multiprocessing
import os
import platform
import random
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import psutil

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

import stack
from driver import eventually

from supervisor_memreap import __version__
from supervisor_memreap.core.model import ProcessId
from supervisor_memreap.core.settings import Settings
from supervisor_memreap.host import processes
from supervisor_memreap.reaper import Reaper
from supervisor_memreap.supervisord.client import Unavailable, connect

APPS = Path(__file__).with_name("apps")
WORKERS = 4
ROOM = 8 * 1024**2
"""Bytes from a worker that has served to one that is over the limit."""
NEWBORN = 0.3
"""Seconds: until then a worker may still run its manager's signal handlers. No strategy here signals one, though only
memreap takes care of that by itself: the others' losses are not to be those of an accident."""
SLEEP = 0.2
FORK = multiprocessing.get_context("fork")


class Limits(NamedTuple):
    """What a worker may hold, in bytes, by the measure of the strategy: memreap's, kidreaper's, memmon's (of all)."""

    uss: int
    vms: int
    cumulative_rss: int


class Condition(NamedTuple):
    name: str
    path: str
    clients: int
    pause: float
    """Seconds of thinking after each answer, on average."""
    leak: int
    """KiB a request, so that a worker's life is a few seconds long."""


CONDITIONS = (
    Condition("full", "myapp", 4, 0.0, 160),
    Condition("full, kept", "kept", 4, 0.0, 160),
    Condition("moderate", "myapp", 2, 0.03, 400),
    Condition("moderate, kept", "kept", 2, 0.03, 400),
)

Tell = Callable[[str], None]
# Looks, acts, yields the seconds until it wants to be called again; ends if it can do no more.
Act = Callable[[stack.Pool, Limits, Tell], Iterator[float]]


def over(pool: stack.Pool, limits: Limits) -> list[int]:
    """The workers over the limit by their address space, as kidreaper's `ps -o pid=,vsz= --ppid` finds them."""
    view = processes.source()
    found = []
    try:
        for pid in view.children(pool.manager().pid):
            with contextlib.suppress(ProcessLookupError):
                one = view.process(pid)
                if not one.ended and one.age > NEWBORN and view.sizes(pid).size >= limits.vms:
                    found.append(pid)
    except (ProcessLookupError, psutil.NoSuchProcess):
        pass  # the manager is being replaced
    return found


def hup(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGHUP)


def nothing(pool: stack.Pool, limits: Limits, tell: Tell) -> Iterator[float]:
    while True:
        yield 1.0


def all_at_once(pool: stack.Pool, limits: Limits, tell: Tell) -> Iterator[float]:
    while True:
        for pid in over(pool, limits):
            hup(pid)
        yield 1.0


def kidreaper(pool: stack.Pool, limits: Limits, tell: Tell) -> Iterator[float]:
    while True:
        for pid in over(pool, limits):
            hup(pid)
            yield 0.1
        yield 0.2


def manager(pool: stack.Pool, limits: Limits, tell: Tell) -> Iterator[float]:
    while True:
        workers = [processes.source().process(pid) for pid in pool.workers()]
        if over(pool, limits) and len(workers) == WORKERS and all(one.age > NEWBORN for one in workers):
            hup(pool.manager().pid)
        yield 1.0


def memreap(hold: bool) -> Act:
    def act(pool: stack.Pool, limits: Limits, tell: Tell) -> Iterator[float]:
        its = {"limit": limits.uss, "min_age": NEWBORN, "settle": 0.1, "checks": 1, "idle_wait": 60.0, "hold": hold}
        supervisord = connect(f"unix://{pool.folder}/s.sock", {})
        reaper = Reaper(tell)
        while True:
            try:
                standings = reaper.tick(supervisord.programs(), Settings({pool.name: its}), time.monotonic())
            except Unavailable as error:
                tell(f"{error}; trying again")
                standings = []
            if any(one.state.suspended for one in standings):
                return  # it has told why
            yield 0.05

    return act


class Strategy(NamedTuple):
    title: str
    about: str
    act: Act = nothing
    wrap: str = "{command}"
    extra: str = ""
    """What is added to supervisord.conf."""
    patient: bool = False
    """Whether it is to recycle as many workers as --reaps says; the others lose enough to be seen with fewer."""


STRATEGIES = {
    "n": Strategy("nothing", "control: nothing is limited, nothing grows, nothing is signalled"),
    "a": Strategy(
        "ulimit -v",
        "the limit is one of address space, set in the program's command",
        wrap="sh -c 'ulimit -v {kib}; exec {command}'",
    ),
    "b": Strategy(
        "memmon",
        "superlance's, with TICK_5 and --cumulative, restarts the program",
        extra="[eventlistener:memmon]\ncommand={python} -m superlance.memmon --cumulative -p myapp={cumulative_rss}\n"
        "events=TICK_5\n",
    ),
    "c": Strategy(
        "HUP to all at once", "once a second, all workers over the limit are signalled together", all_at_once
    ),
    "d": Strategy(
        "kidreaper",
        "the script of 2007: all that are over the limit are listed, then signalled one after another, at any moment,"
        " with a wait (0.1 s here, 10 s there)",
        kidreaper,
        patient=True,
    ),
    "e": Strategy("HUP to the manager", "as soon as a worker is over the limit, at most once a second", manager),
    "f": Strategy(
        "memreap",
        "the default: signalled while held inside accept. supervisor_memreap.reaper.Reaper.tick is called 20 times a"
        " second with what supervisord says at that moment: the listener's own code without its event protocol, which"
        " takes ticks closer than 0.5 s for one. min_age=0.3s, settle=0.1s, so that many reaps fit in an hour",
        memreap(hold=True),
        patient=True,
    ),
    "g": Strategy("memreap, hold=no", "signalled right after it was seen in accept", memreap(hold=False), patient=True),
}


class Census:
    """Who works in the pool, look after look: how many were replaced, and how long it had less than all but one."""

    def __init__(self, pool: stack.Pool):
        self._pool = pool
        self._manager = pool.manager().pid
        self._last: set[ProcessId] = set()
        self._ever: set[ProcessId] = set()
        self._short_since: float | None = None
        self.longest_gap = 0.0
        self.look()

    @property
    def recycled(self) -> int:
        """Workers that left and have one in their place."""
        return max(0, min(len(self._ever) - WORKERS, len(self._ever - self._last)))

    def look(self) -> None:
        now = time.monotonic()
        self._last = self._workers()
        self._ever |= self._last
        if len(self._last) >= WORKERS - 1:
            self._short_since = None
            return
        if self._short_since is None:
            self._short_since = now
        self.longest_gap = max(self.longest_gap, now - self._short_since)

    def _workers(self) -> set[ProcessId]:
        view = processes.source()
        try:
            if view.process(self._manager).ended:
                raise ProcessLookupError
            # The kernel's list may miss one while a sibling exits.
            pids = {*view.children(self._manager), *(one.pid for one in self._last)}
        except ProcessLookupError:
            with contextlib.suppress(psutil.NoSuchProcess):
                self._manager = self._pool.manager().pid
            return set()
        there = set()
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                one = view.process(pid)
                if one.parent == self._manager and not one.ended:
                    there.add(one.id)
        return there


def client(stop: Any, pool: stack.Pool, condition: Condition, leak: int) -> None:
    """Ask until it is to stop; a line for each request in the folder's `answers`."""
    answers = os.open(pool.folder / "answers", os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def ask_on(number: int) -> None:
        dice = random.Random(number)
        for serial in itertools.count():
            if is_over(stop):
                return
            kind = dice.choices(("get", "post", "sleep"), (55, 35, 10))[0]
            promise = serial % 4 == 0
            word, slept = ask(pool.port, condition.path, f"{number}-{serial}", kind, leak, promise)
            shortened = word == "ok" and kind == "sleep" and slept < SLEEP - 0.005
            os.write(answers, f"{number}-{serial} {kind} {word} {int(shortened)} {int(promise)}\n".encode())
            time.sleep(0.1 if word != "ok" else dice.expovariate(1 / condition.pause) if condition.pause else 0)

    threads = [threading.Thread(target=ask_on, args=(number,)) for number in range(condition.clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def ask(port: int, path: str, id: str, kind: str, leak: int, promise: bool) -> tuple[str, float]:
    """`ok`, or in a word how the request was lost; and how long its action slept, in seconds."""
    body = random.Random(id).randbytes(2048) if kind == "post" else b""
    query = f"id={id}&leak={leak}&cleanup={int(promise)}" + (f"&s={SLEEP}" if kind == "sleep" else "")
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        headers = {"Content-Type": "application/octet-stream"}
        connection.request("POST" if body else "GET", f"/{path}/?{query}", body or None, headers)
        answer = connection.getresponse()
        text = answer.read()
    except (OSError, http.client.HTTPException) as error:
        return type(error).__name__, 0.0
    finally:
        connection.close()
    if answer.status != 200:
        return str(answer.status), 0.0
    head = f"{id} {len(body)} {hashlib.md5(body).hexdigest()} ([0-9.]+) {int(promise)}\n"
    match = re.fullmatch(head.encode() + rb"\.{4000}\nend\n", text)
    return ("ok", float(match[1])) if match else ("wrong", 0.0)


def pursue(stop: Any, strategy: Strategy, pool: stack.Pool, limits: Limits) -> None:
    """Do as the strategy does until it is to stop; what it tells is a line in the folder's `told`."""
    with (pool.folder / "told").open("a", buffering=1) as told:
        for pause in strategy.act(pool, limits, lambda text: print(text, file=told)):
            if is_over(stop):
                return
            time.sleep(pause)


def is_over(stop: Any) -> bool:
    parent = multiprocessing.parent_process()
    return stop.is_set() or not (parent and parent.is_alive())


@contextlib.contextmanager
def beside(work: Callable[..., None], *args: object) -> Iterator[Any]:
    """Runs work(stop, …) in a process of its own, which ends with the block: it answers for no signal of a terminal."""

    def run() -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        work(stop, *args)

    stop = FORK.Event()
    process = FORK.Process(target=run)
    process.start()
    try:
        yield process
    finally:
        stop.set()
        process.join(35)  # a request may take as long as its time-out
        process.kill()
        process.join()


@contextlib.contextmanager
def application() -> Iterator[Path]:
    """The script of the Catalyst application."""
    where = stack.folder()
    try:
        script = stack.catalyst(where)
        shutil.copy(APPS / "Root.pm", script.parent.parent / "lib/MyApp/Controller/Root.pm")
        yield script
    finally:
        shutil.rmtree(where)


@contextlib.contextmanager
def served(script: Path, strategy: Strategy, limits: Limits) -> Iterator[stack.Pool]:
    """The pool under supervisord, with what the strategy adds to its configuration, and nginx in front."""
    where = stack.folder()
    command = strategy.wrap.format(command=f"{script} -l {where}/myapp.sock -n {WORKERS} -e", kib=limits.vms // 1024)
    text = f'[program:myapp]\ncommand={command}\nenvironment=LOSS_WRITTEN="{where}/written"\n'
    text += strategy.extra.format(python=sys.executable, **limits._asdict())
    try:
        with stack.running(text, "myapp", where, nginx_conf=APPS / "nginx.conf") as pool:
            eventually(lambda: _assert_whole(pool))
            yield pool
    finally:
        shutil.rmtree(where)


def _assert_whole(pool: stack.Pool) -> None:
    assert len(pool.workers()) == WORKERS


def measure(script: Path) -> Limits:
    """The limits: what the largest worker holds that has served, or all together, and room for some growth."""
    with served(script, STRATEGIES["n"], Limits(0, 0, 0)) as pool:
        for serial in range(15 * WORKERS):
            for kind in ("get", "post"):
                assert ask(pool.port, "myapp", str(serial), kind, 0, True)[0] == "ok"
        tree = [pool.manager(), *map(psutil.Process, pool.workers())]
        infos = [one.memory_full_info() for one in tree]
    return Limits(
        max(one.uss + one.swap for one in infos[1:]) + ROOM,
        max(one.vms for one in infos[1:]) + ROOM,
        sum(one.rss for one in infos) + 3 * ROOM,
    )


def run(
    key: str, condition: Condition, script: Path, limits: Limits, reaps: int, seconds: float, name: str = ""
) -> dict[str, Any]:
    """One strategy under one condition until so many workers are recycled, or the time is up; what came of it.

    Ctrl-C ends it early: what came of it until then has `interrupted`.
    """
    strategy = STRATEGIES[key]
    interrupted = False
    with served(script, strategy, limits) as pool:
        census = Census(pool)
        began = told = time.monotonic()
        leak = 0 if key == "n" else condition.leak
        with beside(client, pool, condition, leak), beside(pursue, strategy, pool, limits) as pursuer:
            try:
                while census.recycled < reaps and time.monotonic() < began + seconds and pursuer.is_alive():
                    time.sleep(0.01)
                    census.look()
                    if time.monotonic() > told + 5:
                        told = time.monotonic()
                        say_progress(name, census.recycled, reaps, told - began, seconds, tally(pool))
            except KeyboardInterrupt:
                interrupted = True
            took = time.monotonic() - began
        with contextlib.suppress(AssertionError):  # those that are lost are counted
            eventually(lambda: _assert_cleaned_up(pool), timeout=2)
        result = {"strategy": key, "condition": condition.name, "recycled": census.recycled, "seconds": round(took, 1)}
        result.update(tally(pool), longest_gap=round(census.longest_gap, 3), interrupted=interrupted)
    result.update(at=time.strftime("%Y-%m-%d %H:%M:%S"), limits=limits._asdict())
    return result


def _assert_cleaned_up(pool: stack.Pool) -> None:
    assert not tally(pool)["cleanups_lost"]


def tally(pool: stack.Pool) -> dict[str, Any]:
    """What the client and the strategy wrote down, counted."""
    rows = [line.split(" ") for line in pool.log("answers").splitlines()]
    whole = [row for row in rows if row[2] == "ok"]
    promised = {row[0] for row in whole if row[4] == "1"}
    told = pool.log("told").splitlines()
    moments = [re.search(r"HUP sent, it was (idle \(held|idle|busy)", line) for line in told]
    return {
        "answered": len(whole),
        "lost": Counter(f"{row[1]} {row[2]}" for row in rows if row[2] != "ok"),
        "sleeps": sum(row[1] == "sleep" for row in whole),
        "shortened": sum(row[3] == "1" for row in whole),
        "promised": len(promised),
        "cleanups_lost": len(promised - set(pool.log("written").splitlines())),
        "moments": Counter({"idle (held": "held"}.get(found[1], found[1]) for found in moments if found),
        "remarks": [line for line in told if "suspended" in line or "stuck" in line][:3],
    }


def say_progress(name: str, recycled: int, reaps: int, since: float, seconds: float, sums: dict[str, Any]) -> None:
    left = min(seconds - since, since * (reaps - recycled) / recycled if recycled else seconds)
    print(
        f"{name}: {recycled} of {reaps} recycled, {sums['answered']} answered, {sum(sums['lost'].values())} lost,"
        f" {sums['shortened']} shortened, {sums['cleanups_lost']} cleanups due or lost;"
        f" {since:.0f} s, {left:.0f} s to go",
        file=sys.stderr,
    )


def versions() -> dict[str, str]:
    """What it was measured with."""
    perl = "print join ' ', $^V =~ s/v//r, map { eval qq{require $_} or die; $_->VERSION } @ARGV"
    modules = ("Catalyst", "FCGI::ProcManager", "FCGI", "Plack")
    said = subprocess.run(
        ["perl", "-e", perl.replace("eval qq{require $_}", "eval qq{require $_; 1}"), *modules],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    nginx = subprocess.run(["/usr/sbin/nginx", "-v"], capture_output=True, text=True, check=True).stderr
    try:
        superlance = importlib.metadata.version("superlance")
    except importlib.metadata.PackageNotFoundError:
        superlance = "none"
    model = re.search("model name\\s*: (.*)", Path("/proc/cpuinfo").read_text())
    return {
        "memreap": __version__,
        "Python": platform.python_version(),
        "supervisor": importlib.metadata.version("supervisor"),
        "superlance": superlance,
        "nginx": nginx.strip().rpartition("/")[2],
        **dict(zip(("Perl", *modules), said)),
        "Linux": f"{platform.release()} {platform.machine()}",
        "CPUs": f"{os.cpu_count()} of {model[1] if model else 'an unknown model'}",
    }


def add_up(results: list[dict[str, Any]]) -> dict[str, Any]:
    """Several results as one."""
    total: dict[str, Any] = {"lost": Counter(), "moments": Counter(), "remarks": []}
    for one in results:
        for key in ("recycled", "seconds", "answered", "sleeps", "shortened", "promised", "cleanups_lost"):
            total[key] = total.get(key, 0) + one[key]
        total["lost"] += Counter(one["lost"])
        total["moments"] += Counter(one["moments"])
        total["remarks"] += one["remarks"]
        total["longest_gap"] = max(total.get("longest_gap", 0.0), one["longest_gap"])
    return total


def grouped(results: list[dict[str, Any]], *keys: str) -> dict[tuple[str, ...], dict[str, Any]]:
    """The sums of those that have these keys' values in common, in the order of STRATEGIES and CONDITIONS."""
    order = [*STRATEGIES, *(one.name for one in CONDITIONS)]
    found = sorted({tuple(one[key] for key in keys) for one in results}, key=lambda got: list(map(order.index, got)))
    return {got: add_up([one for one in results if tuple(one[key] for key in keys) == got]) for got in found}


def per_thousand(count: int, recycled: int) -> str:
    """`3.4`; where there was none, what it is less than with 95 % certainty: `0 (< 1.5)`."""
    if not recycled:
        return "-"
    return f"{1000 * count / recycled:.3g}" if count else f"0 (< {3000 / recycled:.2g})"


def markdown(results: list[dict[str, Any]]) -> str:
    """docs/loss.md."""
    lines = [
        "# What it costs to replace a grown worker",
        "",
        "Measured by `python benchmarks/loss.py`, which says in its head what was done; written by it too.",
        "",
        "![lost requests, shortened sleeps and lost cleanup handlers per 1,000 recycled workers](loss.svg)",
        "",
        "| | way | recycled workers | requests answered | lost | per 1,000 recycled | shortened sleeps"
        " | lost cleanup handlers | longest time with fewer than all but one worker |",
        "|---|---|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for (key,), one in grouped(results, "strategy").items():
        lost = sum(one["lost"].values())
        lines.append(
            f"| {key} | {STRATEGIES[key].title} | {one['recycled']:,} | {one['answered']:,} | {lost:,}"
            f" | {per_thousand(lost, one['recycled'])} | {one['shortened']:,} | {one['cleanups_lost']:,}"
            f" | {one['longest_gap']:.2f} s |"
        )
    lines += ["", "In brackets: what the rate is less than with 95 % certainty, where nothing was seen.", ""]
    lines += [f"- **{key}, {one.title}**: {one.about}." for key, one in STRATEGIES.items()]
    lines += [
        "",
        "## Each condition",
        "",
        "| | load | recycled | seconds | answered | lost | shortened, of sleeps | cleanups lost, of promised"
        " | longest gap | HUP sent while |",
        "|---|---|--:|--:|--:|---|--:|--:|--:|---|",
    ]
    for (key, name), one in grouped(results, "strategy", "condition").items():
        lost = ", ".join(f"{count} {what}" for what, count in one["lost"].most_common()) or "0"
        moments = ", ".join(f"{count} {what}" for what, count in one["moments"].most_common())
        lines.append(
            f"| {key} | {name} | {one['recycled']:,} | {one['seconds']:.0f} | {one['answered']:,} | {lost}"
            f" | {one['shortened']:,} of {one['sleeps']:,} | {one['cleanups_lost']:,} of {one['promised']:,}"
            f" | {one['longest_gap']:.2f} s | {moments or '-'} |"
        )
    remarks = [f"- {one['strategy']}, {one['condition']}: {text}" for one in results for text in one["remarks"]]
    dates = sorted(one["at"] for one in results)
    used = {json.dumps(one["versions"]): one["versions"] for one in results}.values()
    lines += ["", *remarks, *([""] if remarks else []), f"Measured from {dates[0]} to {dates[-1]}, with:", ""]
    lines += ["- " + ", ".join(f"{what} {version}" for what, version in one.items()) for one in used]
    return "\n".join(lines) + "\n"


BARS = (("lost", "lost requests", "#d1495b"), ("shortened", "shortened sleeps", "#edae49"),
        ("cleanups_lost", "lost cleanup handlers", "#3d85a8"))  # fmt: skip


def svg(results: list[dict[str, Any]]) -> str:
    """docs/loss.svg: bars by the logarithm, since 1 and 1,000 are both to be seen; the numbers stand beside them."""
    sums = {key: one for (key,), one in grouped(results, "strategy").items() if one["recycled"] and key != "n"}
    parts = []
    for x, (_, label, colour) in zip((170, 330, 500), BARS):
        parts.append(
            f'<rect x="{x}" y="38" width="10" height="10" fill="{colour}"/><text x="{x + 15}" y="47">{label}</text>'
        )
    y = 64
    for key, one in sums.items():
        parts.append(f'<text x="160" y="{y + 24}" text-anchor="end" class="way">{STRATEGIES[key].title}</text>')
        parts.append(f'<text x="160" y="{y + 38}" text-anchor="end" class="small">{one["recycled"]:,} recycled</text>')
        for what, _, colour in BARS:
            count = sum(one[what].values()) if what == "lost" else one[what]
            rate = 1000 * count / one["recycled"]
            width = 110 * math.log10(1 + rate)
            parts.append(f'<rect x="170" y="{y}" width="{max(width, 1):.0f}" height="14" fill="{colour}"/>')
            parts.append(
                f'<text x="{176 + width:.0f}" y="{y + 11}">{f"{rate:,.3g}" if rate < 1000 else f"{rate:,.0f}"}</text>'
            )
            y += 17
        y += 17
    style = (
        "text{font:12px system-ui,sans-serif;fill:#1f2328}.way,.title{font-weight:600}.small{font-size:11px;opacity:.7}"
        "@media(prefers-color-scheme:dark){text{fill:#e6edf3}}"
    )
    title = '<text x="20" y="22" class="title">Per 1,000 recycled workers (bars: logarithmic)</text>'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 720 {y}" width="720" height="{y}" role="img">'
    return "\n".join([head, f"<style>{style}</style>", title, *parts, "</svg>"]) + "\n"


def read(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def write_report(file: Path, out: Path) -> None:
    results = read(file)
    if results:
        out.mkdir(parents=True, exist_ok=True)
        (out / "loss.md").write_text(markdown(results))
        (out / "loss.svg").write_text(svg(results))
        print(markdown(results))


def arguments() -> argparse.Namespace:
    about = "\n".join(f"  {key}  {one.title}: {one.about}" for key, one in STRATEGIES.items())
    parser = argparse.ArgumentParser(description=f"{__doc__}\n{about}", formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--strategy", default=",".join(STRATEGIES), help="letters, as d,f (default: all)")
    parser.add_argument("--condition", help="a part of the names of the conditions, as kept (default: all)")
    parser.add_argument(
        "--reaps", type=int, default=500, help="workers to recycle in each condition by d, f and g (500); others: 40"
    )
    parser.add_argument(
        "--minutes", type=float, default=10, help="at most for a condition of d, f and g (10); others: 1"
    )
    parser.add_argument("--quick", action="store_true", help="20 workers, half a minute at most")
    parser.add_argument("--out", type=Path, default=Path("docs"), help="folder of loss.md and loss.svg (docs)")
    parser.add_argument(
        "--results",
        type=Path,
        help="what was measured, a line of JSON each (OUT/loss.jsonl); what is"
        "\nthere counts: only what is missing is measured",
    )
    parser.add_argument("--report", type=Path, nargs="?", const=True, help="only write the report, from this file")
    return parser.parse_args()


def main() -> None:
    options = arguments()
    file = options.results or options.out / "loss.jsonl"
    if options.report:
        write_report(file if options.report is True else options.report, options.out)
        return
    conditions = [one for one in CONDITIONS if (options.condition or "") in one.name]
    plan = [(key, condition) for key in options.strategy.split(",") for condition in conditions]
    options.out.mkdir(parents=True, exist_ok=True)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with application() as script:
        limits = measure(script)
        for number, (key, condition) in enumerate(plan, 1):
            patient = STRATEGIES[key].patient
            reaps, seconds = (options.reaps, 60 * options.minutes) if patient else (min(40, options.reaps), 60.0)
            if options.quick:
                reaps, seconds = min(20, reaps), 30.0
            done = [one for one in read(file) if (one["strategy"], one["condition"]) == (key, condition.name)]
            reaps -= sum(one["recycled"] for one in done)
            seconds -= sum(one["seconds"] for one in done)
            if reaps <= 0 or seconds <= 0:
                continue
            name = f"[{number}/{len(plan)}] {key} ({STRATEGIES[key].title}), {condition.name}"
            result = run(key, condition, script, limits, reaps, seconds, name)
            with file.open("a") as stream:
                stream.write(json.dumps({**result, "versions": versions()}) + "\n")
            if result["interrupted"]:
                break
    write_report(file, options.out)


if __name__ == "__main__":
    main()
