"""A process unrelated to memreap: python bystander.py FILE [MIB]

A process and its child, as a manager and its worker are, that hold MIB each. Every signal that one of them gets, and
that can be caught, is a line in FILE; TERM ends them as well.
"""

from __future__ import annotations

import os
import signal
import sys
import time


def main() -> None:
    file = os.open(sys.argv[1], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
    held = bytearray(int(sys.argv[2] if len(sys.argv) > 2 else 40) * 1024 * 1024)
    child = None

    def record(signum: int, _frame: object) -> None:
        os.write(file, f"{os.getpid()} got {signal.Signals(signum).name}\n".encode())
        if signum == signal.SIGTERM:
            if child:
                os.kill(child, signal.SIGKILL)
            os._exit(0)

    for signum in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP, signal.SIGCHLD}:
        if signum < signal.SIGRTMIN:
            signal.signal(signum, record)
    child = os.fork()
    print(f"ready (pid: {os.getpid()})", flush=True)
    while held:
        time.sleep(0.1)  # not pause(): a signal that comes just before it would be noted, and slept over


if __name__ == "__main__":
    main()
