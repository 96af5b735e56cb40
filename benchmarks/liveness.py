"""How soon a due worker is signalled, at any load; and whether memory runs out in a container at a saturated load.

    python benchmarks/liveness.py                    both tables; about forty minutes, on a machine that is quiet
    python benchmarks/liveness.py --reaps 3 --seconds 60 --clients 1 8

supervisord, with its own TICK_5, runs nginx, four workers, and memreap's listener with settle=SETTLE. Clients ask
without pause, and each request takes 20 ms at least.

In the first table one worker at a time grows over its limit: a row counts the seconds from the answer to the request
that let it grow until the signal. Two ticks are 10 s.

In the second one, in a control group that is full in less than half a minute, every request of eight clients lets its
worker grow, and `headroom` is all that is set. `hold=no, idle_wait=never` is what memreap did before it went to the
boundary: it waits until it sees a worker idle.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from loss import versions
from support import cgroup, servers, stack
from support.driver import eventually
from support.load import Load

LIMIT_MB, GROWS_MB = 60, 60
SETTLE = 1.0
TAKES = 0.02
# A server, and whether nginx keeps its connections to the workers.
LOADS = (("FCGI::ProcManager", False), ("FCGI::ProcManager", True), ("gunicorn sync", False), ("php-fpm", False))
GROUP_MB, HEADROOM_MB, GROWS_KB = 450, 180, 150
WAYS = {"at the boundary": "", "when seen idle": "hold=no\nidle_wait=never\n", "nothing": None}


def listener(where: Path) -> str:
    return (
        f"[eventlistener:memreap]\ncommand={sys.executable} -m supervisor_memreap listen\nevents=TICK_5\n"
        f"buffer_size=100\nstderr_logfile={where}/memreap.log\n{stack.recorder(where)}"
    )


@contextmanager
def directory() -> Iterator[Path]:
    where = stack.directory()
    try:
        yield where
    finally:
        shutil.rmtree(where)


def liveness(name: str, keep: bool, clients: int, reaps: int) -> str:
    waits: list[float] = []
    with directory() as where:
        settings = f"[memreap:myapp]\nlimit={LIMIT_MB}MB\nmin_age=1s\nsettle={SETTLE:g}s\n"
        with (
            servers.running(servers.named(name), where, settings + listener(where), keep, prompt=False) as pool,
            Load(pool.port, "/myapp/", clients, 10 if keep else 1, pause=0.0, takes=TAKES) as load,
        ):
            for number in range(reaps):
                (grown,) = pool.grow(1, GROWS_MB)
                due = time.time()
                eventually(lambda: _assert_gone(where, 2 * number + 2), timeout=300)  # noqa: B023
                reap = stack.announced(where)[2 * number]
                assert reap["pid"] == grown
                waits.append(reap["at"] - due)
                time.sleep(SETTLE + 5.0 + number % 5)  # so that they are due at any time between two ticks
    tally = load.tally
    return (
        f"| {name} | {'kept' if keep else 'fresh'} | {clients} | {len(waits)} | {statistics.median(waits):.1f} s |"
        f" {max(waits):.1f} s | {sum(tally.lost.values())} of {tally.answered + sum(tally.lost.values()):,} |"
    )


def _assert_gone(where: Path, events: int) -> None:
    assert len(stack.announced(where)) >= events


def container(way: str, seconds: float) -> str:
    more = WAYS[way]
    settings = f"[memreap]\nheadroom={HEADROOM_MB}MB\nmin_age=1s\nsettle={SETTLE:g}s\n{more}[memreap:myapp]\n"
    with directory() as where, cgroup.made(GROUP_MB << 20) as group:
        text = "" if more is None else settings + listener(where)
        server = servers.named("FCGI::ProcManager")
        with servers.running(server, where, text, prompt=False, within=group.command) as pool:
            with Load(pool.port, "/myapp/", 8, pause=0.0, takes=TAKES, kb=GROWS_KB) as load:
                time.sleep(seconds)
            reaps = sum(event["event"] == "reap" for event in stack.announced(where))
            kills = group.oom_kills
    lost = sum(load.tally.lost.values())
    return f"| {way} | {reaps} | {kills} | {lost} of {load.tally.answered + lost:,} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, nargs="*", default=[1, 4, 8, 64])
    parser.add_argument("--reaps", type=int, default=10, help="of each row of the first table (10)")
    parser.add_argument("--seconds", type=float, default=120.0, help="of each row of the second one (120); 0: none")
    arguments = parser.parse_args()
    what = ", ".join(f"{name} {version}" for name, version in versions().items())
    print(f"{what}; settle={SETTLE:g}s, TICK_5, four workers\n")
    print("| server | connections | clients | reaps | due to signalled, median | longest | lost |")
    print("|---|---|--:|--:|--:|--:|--:|")
    for name, keep in LOADS:
        for clients in arguments.clients:
            print(liveness(name, keep, clients, arguments.reaps), flush=True)
    if not arguments.seconds:
        return
    print(
        f"\nA control group of {GROUP_MB} MiB with headroom={HEADROOM_MB}MB, 8 clients, {arguments.seconds:g} s each.\n"
    )
    print("| memreap | reaps | OOM kills | lost |\n|---|--:|--:|--:|")
    for way in WAYS:
        print(container(way, arguments.seconds), flush=True)


if __name__ == "__main__":
    main()
