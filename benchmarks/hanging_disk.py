"""Whether a tick waits for the disk of the history: python benchmarks/hanging_disk.py [--out DIRECTORY]

A separate file system, in a file and mounted through a loop device, holds the history. 1,000 sleeping workers are
looked at, every look is recorded, and everything that happens is an event:

    writing    the disk works
    hanging    fsfreeze: every write waits in the kernel, as with a file server or a controller that does not answer
    writing    it works again: buffered events are written

Needs root, a C compiler and e2fsprogs. Writes benchmarks/results/hanging_disk.md. Linux only.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from pages import RESULTS
from tick import build, sleepers

from supervisor_memreap.core import events
from supervisor_memreap.core.model import ProcessId, Program
from supervisor_memreap.core.recording import Recording
from supervisor_memreap.core.settings import Settings
from supervisor_memreap.history import historyfile
from supervisor_memreap.host.thismachine import ThisMachine
from supervisor_memreap.listener.reaper import Reaper
from supervisor_memreap.listener.slowoutputs import SlowOutputs
from supervisor_memreap.outputs import child
from supervisor_memreap.outputs.lasting import Once
from supervisor_memreap.supervisord.configfile import Contents

PROGRAMS, WORKERS, LOOKS = 50, 1000, 30
PAGE = """\
# A disk that hangs

The longest look with a disk that works, that hangs, and that works again. The file system of the history is frozen with
`fsfreeze`, so that every write waits in the kernel. `python benchmarks/hanging_disk.py`, as root, wrote this page.

{}
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=RESULTS, help="directory of hanging_disk.md (benchmarks/results)")
    options = parser.parse_args()
    if os.geteuid() != 0:
        print("hanging_disk.py: only root can mount and freeze a file system", file=sys.stderr)
        return 2
    try:
        with tempfile.TemporaryDirectory() as directory, disk(Path(directory)) as mounted:
            floor = build(Path(directory))
            with sleepers(floor, PROGRAMS, WORKERS) as managers:
                table = measure(managers, mounted)
    except KeyboardInterrupt:
        return 130
    print(table)
    (options.out / "hanging_disk.md").write_text(PAGE.format(table))
    return 0


@contextlib.contextmanager
def disk(directory: Path) -> Iterator[Path]:
    """A file system of 64 MB, unmounted afterwards."""
    image, mounted = directory / "image", directory / "mounted"
    mounted.mkdir()
    with image.open("wb") as file:
        file.truncate(64 * 1024**2)
    subprocess.run(["mkfs.ext4", "-q", image], check=True)
    subprocess.run(["mount", "-o", "loop", image, mounted], check=True)
    try:
        yield mounted
    finally:
        subprocess.run(["umount", mounted], check=True)


@contextlib.contextmanager
def frozen(mounted: Path) -> Iterator[None]:
    subprocess.run(["fsfreeze", "-f", mounted], check=True)
    try:
        yield
    finally:
        subprocess.run(["fsfreeze", "-u", mounted], check=True)


class Listener:
    """One that looks as fast as it can, records every look, and has an event at each."""

    def __init__(self, managers: list[int], path: Path):
        self._programs = [Program(f"p{pid}", f"p{pid}", "RUNNING", pid) for pid in managers]
        self._settings = Settings({program.name: {"limit": 1 << 40} for program in self._programs})
        self.log: list[events.Event] = []
        self._outputs = SlowOutputs(self.log.append, Once(self.log.append))
        self._outputs.apply(Recording(history=str(path)), Contents())
        self._reaper = Reaper(ThisMachine())
        self.events = 0

    def look(self) -> float:
        """ms of the wall clock."""
        begin = time.monotonic()
        self._reaper.tick(self._programs, self._settings, time.monotonic())
        self._outputs._history._looked = None  # every look is recorded, not one a minute
        self._outputs.look(self._outputs.with_totals(self._reaper.status()), 5)
        worker = ProcessId(self.events + 1, 1.0)
        self._outputs.take(
            events.Left(self._programs[0].name, time.time(), worker, 0.4, None, 100, 0, used=100, metric="uss")
        )
        self.events += 1
        self._outputs.wake(self._outputs.fds())
        return (time.monotonic() - begin) * 1000

    def close(self) -> None:
        self._reaper.close()
        self._outputs.close()


def measure(managers: list[int], mounted: Path) -> str:
    path = mounted / "memreap.sqlite"
    listener = Listener(managers, path)
    rows = []
    try:
        for _ in range(10):
            listener.look()  # all sizes are read
        wait_for(path, 1)
        rows.append(("writing", [listener.look() for _ in range(LOOKS)]))
        with frozen(mounted):
            rows.append(("hanging", [listener.look() for _ in range(LOOKS)]))
            time.sleep(child.PATIENCE)
            rows[-1][1].append(listener.look())
            logged = [event.text for event in listener.log]
        rows.append(("writing again", [listener.look() for _ in range(LOOKS)]))
        written = wait_for(path, listener.events, listener)
    finally:
        listener.close()
    lines = [
        f"| the disk | looks at {WORKERS:,} workers | median ms | longest ms |",
        "|---|--:|--:|--:|",
        *(f"| {state} | {len(times)} | {statistics.median(times):.0f} | {max(times):.0f} |" for state, times in rows),
        "",
        f"{written} of {listener.events} events were in the history afterwards. While the disk hung, the log had",
        f"{len(logged)} line: `{logged[0] if logged else '-'}`.",
        f"Measured on {time.strftime('%Y-%m-%d')}: Python {platform.python_version()},"
        f" Linux {platform.release()} {platform.machine()}, {os.cpu_count()} CPUs.",
    ]
    return "\n".join(lines)


def wait_for(path: Path, count: int, listener: Listener | None = None) -> int:
    """The number of events in the history: at least this many, or the number after half a minute."""
    found = 0
    for _ in range(300):
        with contextlib.suppress(historyfile.HistoryError):
            found = sum(len(history.events) for history in historyfile.load(str(path)))
        if found >= count:
            break
        if listener:
            listener._outputs.wake(listener._outputs.fds())
        time.sleep(0.1)
    return found


if __name__ == "__main__":
    sys.exit(main())
