"""What the demo shows: a table that is drawn over itself in a terminal, else lines."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import textwrap
import time

from supervisor_memreap.core.model import Pool
from supervisor_memreap.core.text import memory
from supervisor_memreap.demo.progress import Tally
from supervisor_memreap.demo.stop import Stop

# Seconds between two lines about the workers, where there is no table.
_EVERY = 5.0
# Lines of the listener's log below the table; and the smallest terminal that has room for one.
_LOG_ROWS = 8
_COLUMNS, _ROWS_BESIDE_WORKERS = 60, 8


class Screen:
    def __init__(self, stop: Stop, limit: int) -> None:
        self._stop = stop
        self._limit = limit
        self._drawn = 0
        self._shown = 0.0

    def write(self, text: str) -> None:
        """Some lines; in a terminal no word of them is broken."""
        if sys.stdout.isatty():
            columns = min(100, shutil.get_terminal_size().columns - 1)
            text = "\n".join(textwrap.fill(line, columns, break_on_hyphens=False) for line in text.split("\n"))
        self._print(text)

    def show(self, pool: Pool, tally: Tally, new: list[str], numbers: str, last: bool = False) -> None:
        """Show the state of the pool; `last` is the final time, after which nothing is drawn over it."""
        if _has_room(len(pool.workers)):
            self._draw(pool, tally, numbers, last)
            return
        for line in new:
            self.write(line)
        if last or time.monotonic() - self._shown >= _EVERY:
            self._shown = time.monotonic()
            self.write(f"workers hold {', '.join(memory(worker.used or 0) for worker in pool.workers)}; {numbers}")

    def _draw(self, pool: Pool, tally: Tally, numbers: str, last: bool) -> None:
        columns, rows = shutil.get_terminal_size()
        lines = [*self._table(pool, tally.leaving, columns), "", numbers, ""]
        lines += _tail(tally.lines, columns - 1, min(_LOG_ROWS, rows - 1 - len(lines)))
        with self._stop.silent():
            # The word "stopping" is on a separate line below the table, and so is the ^C of the terminal.
            up = self._drawn + 2 if self._stop.signum else self._drawn
            if self._stop.signum and not last:
                return
            stopping = ["", "stopping"] if self._stop.signum else []
            self._print((f"\033[{up}A" if self._drawn else "") + "\r\033[J" + "\n".join([*lines, *stopping]))
            self._drawn = len(lines)

    def _table(self, pool: Pool, leaving: set[int], columns: int) -> list[str]:
        width = min(60, columns - 44)
        full, empty = ("█", "░") if "utf" in (sys.stdout.encoding or "").lower() else ("#", ".")
        lines = [f" worker      holds  {'limit ' + memory(self._limit):>{width}}    age"]
        for worker in pool.workers:
            used = worker.used or 0
            filled = min(width, round(width * used / self._limit))
            state = "leaving" if worker.id.pid in leaving else "over" if used > self._limit else ""
            bar = _coloured(full * filled, state) + empty * (width - filled)
            lines.append(f"{worker.id.pid:>7} {memory(used):>10}  {bar}  {worker.age:>3.0f} s  {state}".rstrip())
        return lines

    def _print(self, text: str) -> None:
        try:
            print(text, flush=True)
        except OSError:
            # The reader is gone: `| head`, or a closed terminal. What is still in the buffer is dropped.
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            self._stop.request(signal.SIGPIPE)


def _has_room(workers: int) -> bool:
    columns, rows = shutil.get_terminal_size()
    able = sys.stdout.isatty() and os.environ.get("TERM", "") not in ("", "dumb")
    return able and columns >= _COLUMNS and rows >= workers + _ROWS_BESIDE_WORKERS


def _tail(log: list[str], columns: int, rows: int) -> list[str]:
    """The last lines of the log, each of them whole."""
    tail: list[str] = []
    for line in reversed(log):
        wrapped = textwrap.wrap(line, columns, subsequent_indent=" " * len("07:30:06 "), break_on_hyphens=False)
        if len(wrapped) + len(tail) > rows:
            break
        tail = wrapped + tail
    return tail


def _coloured(bar: str, state: str) -> str:
    if os.environ.get("NO_COLOR"):
        return bar
    return f"\033[{ {'': 32, 'over': 31, 'leaving': 33}[state] }m{bar}\033[0m"
