"""The demo: a private supervisord with a pool that leaks, load on it, and the real listener, shown until it ends."""

from __future__ import annotations

import argparse
import contextlib
import math
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

from supervisor_memreap.core.listeners import ListenerState
from supervisor_memreap.core.model import Pool, Program
from supervisor_memreap.core.settings import PoolSettings, Watch
from supervisor_memreap.core.text import memory
from supervisor_memreap.demo import fastcgi, load, private
from supervisor_memreap.demo.prefork import LEAK
from supervisor_memreap.demo.progress import Tally, read
from supervisor_memreap.demo.screen import Screen
from supervisor_memreap.demo.stop import Stop
from supervisor_memreap.host import look, procfs, reader
from supervisor_memreap.supervisord.client import Client, Unavailable

_LIMIT_MB = 40
_LIMIT = _LIMIT_MB * 1024**2
_START = 20.0
DEFAULT = 60
# Seconds at the end, if there is time for them, in which the pool is saturated.
_SATURATED = 30
# Seconds from the moment when a worker is over its limit until it has left: ticks come every 5 s, up to 2 s late.
_REAP = 8


class Plan(NamedTuple):
    workers: int
    seconds: int
    calm: int
    """For how many of these seconds there are fewer clients than workers."""


def least(workers: int) -> int:
    """The seconds after which the average worker has reached its limit and was reaped, plus a margin."""
    growing = _LIMIT / (load.PER_SECOND / workers * LEAK)
    return math.ceil((growing + _REAP) / 5) * 5


def run(args: argparse.Namespace) -> int:
    """The exit status of `memreap demo`."""
    shortest = least(args.workers)
    if args.seconds is not None and args.seconds < shortest:
        count = f"{args.workers} workers" if args.workers > 1 else "a single worker"
        print(
            f"memreap demo: --seconds {args.seconds} is too short to see a worker reaped: with {count}, at least"
            f" {shortest}",
            file=sys.stderr,
        )
        return 2
    stop = Stop()
    stop.catch_signals()
    try:
        seconds = args.seconds or max(DEFAULT, shortest + _SATURATED)
        return _demonstrate(args, Plan(args.workers, seconds, max(shortest, seconds - _SATURATED)), stop)
    finally:
        reader.end()
        stop.ignore_signals()


def _demonstrate(args: argparse.Namespace, plan: Plan, stop: Stop) -> int:
    perl = args.pool != "python" and _has_perl()
    if args.pool == "perl" and not perl:
        print("memreap demo: no perl with FCGI and FCGI::ProcManager here; try --pool python", file=sys.stderr)
        return 2
    screen = Screen(stop, _LIMIT)
    with private.directory() as directory:
        conf = _configuration(directory, perl, plan.workers)
        with private.Supervisord(directory, conf) as supervisord:
            name = "FCGI::ProcManager" if perl else "a small manager like FCGI::ProcManager"
            screen.write(
                f"A pool of {plan.workers} leaking workers under {name}, limit {memory(_LIMIT)} each, under"
                f" load, and the real listener on a private supervisord in {directory}."
                + (f" After {plan.calm} s there will be more clients than workers." if plan.calm < plan.seconds else "")
                + f" Ends in {plan.seconds} s, or with Ctrl-C.\n"
            )
            client = Client(f"unix://{directory}/s.sock")
            if not _starts(directory, client, supervisord, stop):
                return 128 + stop.signum if stop.signum else 1
            requests, tally = load.Load(f"{directory}/pool.sock"), Tally(directory / "memreap.log")
            _show(client, supervisord, requests, tally, screen, stop, plan)
            ended_early = supervisord.has_ended()
            log = [event["message"] for event in read(directory / "memreap.log")]
    _sum_up(requests, tally, screen)
    if ended_early:
        print("memreap demo: another process ended its supervisord", file=sys.stderr)
    elif not tally.reaped and not stop.signum:
        print("No worker was reaped, which should not happen. The end of the listener's log:", *log[-5:], sep="\n")
    return 1 if ended_early or requests.lost or not (tally.reaped or stop.signum) else 0


def _has_perl() -> bool:
    command = ["perl", "-MFCGI", "-MFCGI::ProcManager", "-e1"]
    try:
        # Not in the current directory, from which a Perl before 5.26 takes modules.
        return subprocess.run(command, cwd="/", stderr=subprocess.DEVNULL, check=False).returncode == 0
    except OSError:
        return False


def _configuration(directory: Path, perl: bool, workers: int) -> str:
    here = Path(__file__).parent
    pool = ["perl", str(here / "pool.pl")] if perl else [sys.executable, "-m", "supervisor_memreap.demo.prefork"]
    # The last two lines of the program: if the demo is killed by SIGKILL, its supervisord ends all processes soon.
    return f"""\
[supervisord]
logfile={directory}/supervisord.log
pidfile={directory}/supervisord.pid
childlogdir={directory}
[unix_http_server]
file={directory}/s.sock
[rpcinterface:supervisor]
supervisor.rpcinterface_factory=supervisor.rpcinterface:make_main_rpcinterface
[rpcinterface:memreap]
supervisor.rpcinterface_factory=supervisor_memreap.rpcinterface:make_rpcinterface
[program:demo]
command={_quoted(*pool, f"{directory}/pool.sock", str(workers))}
startsecs=0
stdout_logfile=NONE
stderr_logfile={directory}/pool.log
stopwaitsecs=2
killasgroup=true
[memreap]
log=json
[memreap:demo]
limit={_LIMIT_MB}MB
min_age=1s
settle=1s
[eventlistener:memreap]
command={_quoted(sys.executable, "-m", "supervisor_memreap", "listen")}
events=TICK_5
stdout_logfile=NONE
stderr_logfile={directory}/memreap.log
"""


def _quoted(*words: str) -> str:
    return " ".join('"' + argument.replace("%", "%%") + '"' for argument in words)


def _starts(directory: Path, client: Client, supervisord: private.Supervisord, stop: Stop) -> bool:
    """Whether the pool answers and the listener has started; if not, and no user stopped it, print the logs."""
    deadline = time.monotonic() + _START
    while time.monotonic() < deadline and not supervisord.has_ended():
        with contextlib.suppress(OSError, Unavailable):
            if _receives_events(client) and fastcgi.get(f"{directory}/pool.sock", patience=1.0).endswith(b"ok"):
                return True
        if stop.wait(0.1):
            return False
    print(f"memreap demo: the pool or the listener did not start within {_START:.0f} s:", file=sys.stderr)
    for log in ("supervisord.log", "pool.log", "memreap.log"):
        with contextlib.suppress(OSError):
            print(*(event["message"] for event in read(directory / log)[-5:]), sep="\n", file=sys.stderr)
    return False


def _receives_events(client: Client) -> bool:
    """Whether the listener has begun, as supervisord knows by the event protocol. Raises Unavailable."""
    listener = client.listener()
    return listener is not None and listener["listener_state"] in (ListenerState.READY, ListenerState.BUSY)


def _show(
    client: Client,
    supervisord: private.Supervisord,
    requests: load.Load,
    tally: Tally,
    screen: Screen,
    stop: Stop,
    plan: Plan,
) -> None:
    """Show the pool under load until the time is over or a signal arrives, and its final state."""
    began = time.monotonic()
    deadline = began + plan.seconds

    def show(last: bool) -> None:
        pool = _look(client)
        new = tally.update(pool)
        if not requests.clients and plan.calm <= time.monotonic() - began < plan.seconds:
            requests.saturate(plan.workers)
            text = f"saturated: {requests.clients} clients on {plan.workers} workers, none is ever idle"
            new.append(tally.begin_saturation(text))
        leaving = f", {len(tally.leaving)} leaving" if tally.leaving else ""
        leaving += ", saturated" if requests.clients else ""
        numbers = f"{tally.reaped} reaped{leaving}, {requests.answered:,} requests answered, {requests.lost} lost"
        left = max(0.0, deadline - time.monotonic())
        screen.show(pool, tally, new, numbers + ("" if last else f", {left:.0f} s to go"), last)

    with requests:
        while (left := deadline - time.monotonic()) > 0 and not supervisord.has_ended():
            show(last=False)
            if stop.wait(min(0.5, left)):
                break
    show(last=True)


def _look(client: Client) -> Pool:
    try:
        programs = [program for program in client.programs() if program.name == "demo"]
    except Unavailable:
        programs = [Program("demo", "demo", "unknown", 0)]
    return look.look(Watch(programs[0], PoolSettings()), procfs.source())


def _sum_up(requests: load.Load, tally: Tally, screen: Screen) -> None:
    if requests.clients:
        screen.write(
            f"\nWith {requests.clients} clients on {requests.workers} workers, so that none was ever idle:"
            f" {tally.reaped_saturated} reaped, {requests.answered - requests.answered_before:,} requests answered,"
            f" {requests.lost - requests.lost_before} lost. They go one at a time, so some grow past the limit"
            " meanwhile."
        )
    workers = "1 worker" if tally.reaped == 1 else f"{tally.reaped} workers"
    why = f" ({requests.why})" if requests.lost else ""
    screen.write(f"\n{workers} reaped, {requests.answered:,} requests answered, {requests.lost} requests lost{why}")
    now = memory(tally.held)
    if not tally.reaped:
        screen.write(f"The pool holds {now}, as it would without memreap.")
        return
    # Each replacement started small; without memreap it would not have been started.
    without = tally.held + tally.freed - tally.reaped * tally.fresh
    screen.write(
        f"The pool holds {now}. Without memreap it would hold {memory(without)}: the {workers} freed"
        f" {memory(tally.freed)}, and a fresh one starts with {memory(tally.fresh)}."
    )
