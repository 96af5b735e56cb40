"""How many workers serve while gunicorn's are replaced that import for long, and how long a client waits.

    python benchmarks/slowstart.py                   imports of 8 and 45 s, 2 and 3 workers; about fifteen minutes
    python benchmarks/slowstart.py --imports 8 --reaps 2

gunicorn runs without preload, so each replacement imports before it serves. memreap (Reaper.tick, once in half a
second) replaces every worker that is older than 2 s, with settle=0.5s, as fast as its rules permit, while one client
asks without pause. A row also shows how long the same client waited while no worker was replaced. Prints a table.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from support.reaping import Reaping
from support.slowstart import slow

from supervisor_memreap.core.events import Settled
from supervisor_memreap.core.settings import Settings

SETTINGS = Settings({"myapp": {"max_age": 2.0, "min_age": 1.0, "settle": 0.5}})
# Seconds for which nothing is replaced.
BEFORE = 10.0


def measure(kind: str, workers: int, seconds: float, reaps: int) -> str:
    with tempfile.TemporaryDirectory(prefix="memreap-") as where, slow(kind, workers, Path(where), seconds) as pool:
        with Reaping(pool.manager) as reaping, pool.watched():
            time.sleep(BEFORE)
            without, pool.longest = pool.longest, 0.0
            reaping.settings = SETTINGS
            while len(reaping.all_of(Settled)) < reaps:
                reaping.tick()
            to_serve = [event.to_serve or 0.0 for event in reaping.all_of(Settled)]
        return (
            f"| gunicorn {kind} | {workers} | {seconds:.0f} s | {len(to_serve)} | {min(to_serve):.1f} to"
            f" {max(to_serve):.1f} s | {pool.fewest} | {without:.2f} s | {pool.longest:.2f} s | {len(pool.lost)} |"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--imports", type=float, nargs="*", default=[8.0, 45.0])
    parser.add_argument("--reaps", type=int, default=3)
    arguments = parser.parse_args()
    print(
        "| server | workers | import | replaced | served after | fewest that served | longest wait without reaps | with"
        " | lost |"
    )
    print("|---|--:|--:|--:|--:|--:|--:|--:|--:|")
    for seconds in arguments.imports:
        for kind in ("sync", "gthread"):
            for workers in (2, 3):
                print(measure(kind, workers, seconds, arguments.reaps), flush=True)


if __name__ == "__main__":
    main()
