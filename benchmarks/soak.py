"""Whether memreap grows in a month, misses an answer, or takes two workers at once.

    python benchmarks/soak.py                    520,000 ticks, a month of TICK_5, as fast as they are answered
    python benchmarks/soak.py --ticks 20000      a shorter one
    python benchmarks/soak.py --real --hours 4   supervisord's own TICK_5, nginx, FCGI::ProcManager
    python benchmarks/soak.py --month            520,000 looks in simulated time, with restarts of memreap
    python benchmarks/soak.py --quarter          three months in simulated time, with TICK_60, of one listener
    python benchmarks/soak.py --report           only write the page again, from the results

Ctrl-C or TERM at any time: what was measured until then counts, and nothing is left running.

As fast as they are answered: this script takes the place of supervisord's side of the event protocol for a real
`memreap listen`, and sends the next tick when the last one is answered. A real supervisord runs gunicorn, whose workers
grow with each request, so they are replaced all the time. Meanwhile, every EVERY ticks, something happens:
{actions}
The listener is never restarted. Its clocks are those of the machine: an hour of this has an hour of the history, and
what is kept for a day is kept throughout. So settings are the smallest (min_age=1s, settle=0s), and the rule that ticks
within 0.5 s cause one look is off: each tick causes one.

In simulated time: the real reaper and the real writer of the history, by a clock that jumps from event to event, on the
machine of tests/sim. What depends on hours and days is measured there.

Real: all by the clock, with supervisord, nginx and a few requests a second. The same happens, one each minute.

Samples are taken all along. After a warm-up, the first quarter, a line is laid through the medians of 12 parts of the
run. A figure grows if its slope is, with 95 % confidence, above what is allowed:
{allowed}
PSS itself depends on how many other programs map Python's library. So what counts are anonymous memory and resident
memory, the latter with each page in full. The exit status is 1 if something grows, an event was not answered, a worker
was signalled while another one of its pool was away, a request was lost that no action explains, or memreap logged an
internal error.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import itertools
import json
import os
import platform
import queue
import shutil
import signal
import sys
import textwrap
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

import soak_measure
import soak_month
import soak_report
from pages import RESULTS, read
from soak_disturb import Disturber
from support import servers, stack
from support.driver import OK, READY, Driver, listening_in
from support.load import Load

TICKS, EVERY, SAMPLED = 520_000, 1000, 200
# Seconds between two actions and two samples of a real run; and from the last look that is a missed tick.
REAL_EVERY, REAL_SAMPLED, MISSED = 60.0, 5.0, 30.0
# Seconds until an event without an answer is a missed one: where all else goes first, a second may last long.
PATIENCE = 300.0
SETTINGS = """\
[memreap]
history={where}/memreap.sqlite
history_size=4MB
log=json
min_age=1s
settle=0s
[memreap:myapp]
limit=40MB
"""
LISTENER = """\
[eventlistener:memreap]
command={python} -m supervisor_memreap listen
events=TICK_5,PROCESS_STATE,REMOTE_COMMUNICATION
buffer_size=100
autorestart=true
stderr_logfile={where}/listener.log
stderr_logfile_maxbytes=0
"""
# Each tick causes a look: in the listener itself, not in its children.
EACH_TICK = """\
import sys
if "listen" in sys.orig_argv:
    from supervisor_memreap.listener import timing
    timing.TOGETHER = 0.0
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=_described(), formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ticks", type=int, default=TICKS, help="at most so many (%(default)s)")
    parser.add_argument("--hours", type=float, help="at most so long (without --real: as long as the ticks take)")
    parser.add_argument("--real", action="store_true", help="by the clock, for --hours (4)")
    parser.add_argument("--month", action="store_true", help="in simulated time, so many --ticks")
    parser.add_argument("--quarter", action="store_true", help="in simulated time, a quarter of --ticks")
    parser.add_argument("--every", type=int, default=EVERY, help="ticks from one action to the next (%(default)s)")
    parser.add_argument(
        "--out", type=Path, default=RESULTS, help="directory of soak.jsonl and .md (benchmarks/results)"
    )
    parser.add_argument("--report", action="store_true", help="measure nothing: write the page again")
    options = parser.parse_args()
    for each in (signal.SIGINT, signal.SIGTERM):  # a shell ignores the first in what it starts in the background
        signal.signal(each, signal.default_int_handler)
    file = options.out / "soak.jsonl"
    try:
        status = 0 if options.report else _measure(options, file)
    except KeyboardInterrupt:  # before anything could be measured
        return 130
    page = soak_report.markdown(read(file))
    (options.out / "soak.md").write_text(page)
    print(page)
    return status


def _measure(options: argparse.Namespace, file: Path) -> int:
    """The exit status. The results go to the file."""
    options.out.mkdir(parents=True, exist_ok=True)
    result = measured(options)
    # The last run of each kind counts.
    kept = [row for row in read(file) if row["kind"] != result["kind"]]
    file.write_text("".join(json.dumps(row) + "\n" for row in (*kept, {**result, **about()})))
    problems = soak_report.problems(result)
    print("\n".join(problems) or "nothing grows")
    return int(bool(problems))


def _described() -> str:
    names = textwrap.fill(f"{', '.join(Disturber.ACTIONS)}.", 120)
    return (__doc__ or "").format(actions=names, allowed=textwrap.fill(soak_report.ALLOWED_TEXT, 120))


def measured(options: argparse.Namespace) -> dict[str, Any]:
    if options.month:
        return {"kind": "month", **soak_month.play(options.ticks, 5.0)}
    if options.quarter:
        return {"kind": "quarter", **soak_month.play(options.ticks // 4, 60.0, is_restarted=False)}
    where = stack.directory()
    try:
        with _private_state(where):
            if options.real:
                return real(where, 4.0 if options.hours is None else options.hours)
            return fast(where, options.ticks, options.hours, options.every)
    finally:
        shutil.rmtree(where)


def about() -> dict[str, str]:
    names = ("supervisor_memreap", "supervisor", "psutil", "gunicorn")
    packages = "".join(f"{name} {importlib.metadata.version(name)}, " for name in names)
    system = (
        f"Python {platform.python_version()}, Linux {platform.release()} {platform.machine()}, {os.cpu_count()} CPUs"
    )
    return {"at": time.strftime("%Y-%m-%d"), "on": packages + system}


@contextlib.contextmanager
def _private_state(where: Path) -> Iterator[None]:
    """The state of the listener is saved below this directory."""
    before = os.environ.get("XDG_RUNTIME_DIR")
    os.environ["XDG_RUNTIME_DIR"] = str(where / "run")
    (where / "run/memreap").mkdir(mode=0o700, parents=True)
    (where / "run").chmod(0o700)
    try:
        yield
    finally:
        os.environ.pop("XDG_RUNTIME_DIR")
        if before is not None:
            os.environ["XDG_RUNTIME_DIR"] = before


class Run:
    """What is noted while it goes on."""

    def __init__(self, where: Path, unit: str):
        self._where = where
        self._unit = unit
        self._began = self._shown = time.monotonic()
        self.samples: list[tuple[float, dict[str, int]]] = []
        self.sent = self.answered = 0
        self.answers: Counter[int] = Counter()
        self.looks: Counter[int] = Counter()
        """How many events were answered, and looked at, after so many tenths of a millisecond."""
        self.failed = ""
        self.is_interrupted = False

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._began

    def sample(self, at: float, listener: int) -> None:
        state = (self._where / "run/memreap").glob("memreap-*")
        values = soak_measure.sample(listener, state, self._where / "memreap.sqlite")
        values["supervisord"] = soak_measure.anonymous(int((self._where / "s.pid").read_text()))
        # After each start of a program memreap reads all of them once: 2 MB for 16,000.
        values["processes"] = sum(map(str.isdigit, os.listdir("/proc")))
        self.samples.append((at, values))

    def show(self, done: float, whole: float) -> None:
        if time.monotonic() - self._shown < 10:
            return
        self._shown = time.monotonic()
        last = self.samples[-1][1] if self.samples else {}
        held = f"{last.get('anonymous', 0) / 1024**2:.2f} MiB, {last.get('descriptors', 0)} descriptors"
        print(f"{done:,.0f} of {whole:,.0f} {self._unit}, {self.seconds:.0f} s, {held}", file=sys.stderr, flush=True)

    @contextlib.contextmanager
    def until_interrupted(self) -> Iterator[None]:
        """Ctrl-C, and what fails, end it: what there is until then counts."""
        try:
            yield
        except KeyboardInterrupt:
            self.is_interrupted = True
        except (AssertionError, OSError) as error:
            self.failed = f"{type(error).__name__}: {str(error)[:500]}"

    def result(self, kind: str, load: Load, disturber: Disturber) -> dict[str, Any]:
        with (self._where / "listener.log").open() as log:
            story = soak_measure.Story(disturber.restarts()).read(log)
        tally = load.tally
        return {
            "kind": kind,
            "unit": self._unit,
            "seconds": round(self.seconds),
            "interrupted": self.is_interrupted,
            "failed": self.failed,
            "sent": self.sent,
            "answered": self.answered,
            "answers": soak_report.times(self.answers),
            "looks": soak_report.times(self.looks),
            "figures": soak_report.figures(self.samples),
            "samples": soak_report.thinned(self.samples),
            "events": dict(story.counts.most_common()),
            "overlaps": story.overlaps[:20],
            "errors": story.errors[:20],
            "actions": dict(disturber.counts()),
            "troubles": disturber.troubles(),
            "requests": tally.answered,
            "lost_as": tally.lost,
            "lost_by_actions": sum(map(disturber.caused, tally.losses)),
            "lost": sum(not disturber.caused(at) for at in tally.losses),
        }


def fast(
    where: Path, ticks: int, hours: float | None, every: int = EVERY, sampled: int = SAMPLED, kb: int = 1000
) -> dict[str, Any]:
    """As fast as they are answered; each request lets its worker grow by `kb`."""
    (where / "site").mkdir()
    (where / "site/sitecustomize.py").write_text(EACH_TICK)
    settings = SETTINGS.format(where=where) + stack.INTERFACE
    run, end = Run(where, "ticks"), time.monotonic() + 3600 * (float("inf") if hours is None else hours)
    events: queue.SimpleQueue[tuple[str, str]] = queue.SimpleQueue()

    def command(text: str) -> None:
        events.put(("REMOTE_COMMUNICATION", f"type:memreap-command\n{text}"))

    with contextlib.ExitStack() as open_now:
        pool = open_now.enter_context(servers.running(servers.named("gunicorn sync"), where, settings))
        load = open_now.enter_context(Load(pool.port, "/myapp/", 2, pause=0.25, kb=kb))
        driver = open_now.enter_context(listening_in(where, within=PATIENCE, PYTHONPATH=str(where / "site")))
        listener = driver.listener().pid
        _yield_too(int((where / "s.pid").read_text()), load.pid)
        disturber = Disturber(pool, lambda: listener, command, lambda *event: events.put(event))
        acted = itertools.count(1)
        due = [next(acted) * every]

        def is_due() -> bool:
            if run.sent < due[0]:
                return False
            due[0] = max(run.sent, next(acted) * every)
            return True

        with run.until_interrupted(), disturber.going_on(is_due):
            for number in range(ticks):
                while not events.empty():
                    _send(driver, run, *events.get())
                _tick(driver, run)
                if number % sampled == 0:
                    run.sample(number, listener)
                    run.show(number, ticks)
                if time.monotonic() > end:
                    break
    return run.result("fast", load, disturber)


def _yield_too(*sessions: int, mine: Path = Path("/proc/self/autogroup")) -> None:
    """Give these sessions the priority of ours: with /proc/self/autogroup a user lets it yield to all others."""
    with contextlib.suppress(OSError):
        for nice in mine.read_text().split()[-1:]:  # empty where our session has no group of its own
            for pid in sessions:
                Path(f"/proc/{pid}/autogroup").write_text(nice)


def _send(driver: Driver, run: Run, name: str, payload: str) -> None:
    run.sent += 1
    driver.event(name, payload)
    driver.expect(OK, PATIENCE)
    driver.expect(READY, PATIENCE)
    run.answered += 1


def _tick(driver: Driver, run: Run) -> None:
    run.sent += 1
    driver.event()
    took = driver.expect(OK, PATIENCE)
    run.answered += 1
    run.answers[round(took * 10_000)] += 1
    run.looks[round((took + driver.expect(READY, PATIENCE)) * 10_000)] += 1


def real(where: Path, hours: float, every: float = REAL_EVERY, sampled: float = REAL_SAMPLED) -> dict[str, Any]:
    """By the clock; `every` and `sampled` are seconds."""
    settings = SETTINGS.format(where=where) + stack.INTERFACE + LISTENER.format(where=where, python=sys.executable)
    run = Run(where, "seconds")
    with contextlib.ExitStack() as open_now:
        server = servers.named("FCGI::ProcManager")
        pool = open_now.enter_context(servers.running(server, where, settings, prompt=False))
        load = open_now.enter_context(Load(pool.port, "/myapp/", 2, pause=0.5, kb=1500))
        listener = stack.listener_in(where).pid

        def command(text: str) -> None:
            stack.control(where).sendRemoteCommEvent("memreap-command", text)

        disturber = Disturber(pool, lambda: listener, command)
        began = acted = time.monotonic()

        def is_due() -> bool:
            nonlocal acted
            if time.monotonic() - acted < every:
                return False
            acted = time.monotonic()
            return True

        oldest = 0.0
        with run.until_interrupted(), disturber.going_on(is_due):
            while run.seconds < 3600 * hours:
                run.sample(run.seconds, listener)
                run.show(run.seconds, 3600 * hours)
                oldest = max(oldest, _age_of_look(where))
                time.sleep(sampled)
        run.sent = int((time.monotonic() - began) / 5)
        dropped = (where / "s.log").read_text().count("discarding event")
        run.answered = run.sent - dropped - (oldest > MISSED)
    return {**run.result("real", load, disturber), "oldest_look": oldest}


def _age_of_look(where: Path) -> float:
    """Seconds since the last look; 0 where that is not known, such as at the start."""
    return float(stack.rpc(where).memreap.getListener().get("age_seconds", 0.0))


if __name__ == "__main__":
    sys.exit(main())
