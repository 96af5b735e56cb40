"""A pool whose workers grow by MIB a second each, by the clock: python growing.py WORKERS MIB"""

from __future__ import annotations

import os
import signal
import sys
import time

# Pages that are written at a time: 64 KiB.
STEP = 64 * 1024


def grow(mib: float) -> None:
    began, held = time.monotonic(), []
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    while True:
        while len(held) * STEP < (time.monotonic() - began) * mib * 1024**2:
            held.append(bytearray(b"x") * STEP)
        time.sleep(0.01)


def main() -> None:
    count, mib = int(sys.argv[1]), float(sys.argv[2])
    for _ in range(count):
        if os.fork() == 0:
            grow(mib)
    os.write(1, f"ready (pid: {os.getpid()})\n".encode())
    signal.pause()


if __name__ == "__main__":
    main()
