"""Fills the history, in a child process of the listener: pools and workers over time, and each event.

Whatever goes wrong with the file, nothing that waits for it is lost up to a bound, one line reports the problem, and it
is tried again every RETRY seconds.
"""

from __future__ import annotations

import functools
import itertools
import json
import os
import time
from collections import deque
from collections.abc import Iterable

from supervisor_memreap.core.recording import Recording
from supervisor_memreap.core.rows import OBSERVED, PoolRow, TotalsRow, freed
from supervisor_memreap.history import historyfile
from supervisor_memreap.history.daily import Daily
from supervisor_memreap.history.historyfile import DamagedError, FullError, InUseError, Writer
from supervisor_memreap.history.historypath import HistoryError
from supervisor_memreap.outputs.inbox import Inbox, Message, Tell

# Keep every reading, one a minute, for FINE_FOR seconds; then one per COARSE seconds, for COARSE_FOR seconds.
FINE_FOR, COARSE, COARSE_FOR = 25 * 3600, 900, 31 * 86400
# Seconds between two times at which old readings are thinned.
THINNED_EVERY = 3600.0
# Seconds until a file that could not be written is tried again; and for which a file that another memreap writes to is
# waited for without a word: the one that was just stopped may still be finishing.
RETRY, HANDOVER = 30.0, 10.0
# Looks and events that wait while the file cannot be written; beyond that the oldest are lost. A look at 1,000 workers
# takes 0.6 MB of memory.
_MOST_LOOKS, _MOST_EVENTS = 60, 2000
# Messages of one transaction: 100 KB of events, which also the smallest history has room for above _FULL.
_AT_ONCE = 50
# Above this share of the space the oldest part is removed, until it is below the second.
_FULL, _ROOMY = 0.95, 0.85
# Below this share it is not the space that it may take that is used up.
_HALF = 0.5
# Looks in a row with another metric, after which it is that of the pool, and the earlier readings are removed.
_LOOKS_DIFFER = 3
# Two start times of a process may differ by this many seconds: they are computed from its age by an adjusted clock.
_SAME_START = 30.0
# Priority (nice): workers go first.
_NICE = 10


def consume(messages: Inbox, tell: Tell, recording: Recording) -> None:
    """Until the listener ends. `recording.history` is the path in force."""
    assert recording.history
    os.nice(_NICE)
    history = _History(recording.history, recording.history_size, recording.summary == "daily", tell)
    for message in messages:
        history.add(message)
        if not messages.has_more():
            history.write()
            # Not sooner than in a second: a disk that damages each new file would else be filled with them.
            while history.is_behind and not messages.has_more(max(1.0, history.retry_after(time.monotonic()))):
                history.write()
    history.write()
    history.close()


class _History:
    def __init__(self, path: str, size: int, is_summarised: bool, tell: Tell):
        self._path = path
        self._daily = Daily(is_summarised, functools.partial(historyfile.each, path))
        self._observed: set[str] = set()
        """The pools that were only observed in the last look."""
        self._size = size
        self._report = tell
        self._file: Writer | None = None
        self._tables: _Tables | None = None
        self._waiting: deque[Message] = deque()
        self._thinned = float("-inf")
        self._began = time.monotonic()
        self._retry_at = float("-inf")
        """Not before (monotonic)."""
        self._trouble = ""
        """As it was last reported."""

    @property
    def is_behind(self) -> bool:
        """Whether the file could not be written the last time."""
        return bool(self._waiting)

    def retry_after(self, now: float) -> float:
        """Seconds until the file may be tried again; `now` is monotonic."""
        return max(0.0, self._retry_at - now)

    def add(self, message: Message) -> None:
        if message["kind"] == "look":
            self._observed = {row["name"] for row in message["pools"] if row.get("standing") == OBSERVED}
        self._waiting.append(message)
        kind = message["kind"]
        alike = [number for number, each in enumerate(self._waiting) if each["kind"] == kind]
        if len(alike) > (_MOST_LOOKS if kind == "look" else _MOST_EVENTS):
            del self._waiting[alike[0]]

    def write(self) -> None:
        """Write what waits. Never raises HistoryError."""
        now = time.monotonic()
        if self.retry_after(now):
            return
        try:
            tables = self._open()
            tables.make_room()
            while self._waiting:
                self._write_part(tables)
                tables.make_room()
            if now - self._thinned >= THINNED_EVERY:
                self._thinned = now
                tables.thin(time.time())
            for line in self._daily.lines(tables, self._observed, time.time()):
                self._report({"lines": [line]})
        except HistoryError as error:
            self._handle(error, now)
            return
        except (ChildProcessError, TimeoutError) as error:
            # The kernel ends it where memory is short.
            self._report({"note": f"a line about the pools could not be made: {error.strerror}"})
        except Exception as error:
            # Of a line for the log: what is recorded must not suffer from that.
            self._report_trouble(f"internal error, please report it: {error!r}")
            return
        self._report_trouble("")

    def _write_part(self, tables: _Tables) -> None:
        """Some of the messages that wait, in one transaction; one at a time where there is little room."""
        most = _AT_ONCE
        while True:
            part = list(itertools.islice(self._waiting, most))
            try:
                tables.write(part)
            except FullError:
                if tables.fullness() < _HALF and not any(map(self._is_huge, part)):
                    raise  # it is the disk that is full
                if most > 1:
                    most = 1
                    continue
                if tables.remove_oldest():
                    continue
                self._report({"note": "an entry is too large for history_size= and was not recorded"})
            except HistoryError:
                raise
            except Exception as error:
                # It would fail again.
                if most > 1:
                    most = 1
                    continue
                self._report({"note": f"internal error, please report it: {error!r}; an entry was not recorded"})
            for _ in part:
                self._waiting.popleft()
            return

    def _is_huge(self, message: Message) -> bool:
        """Whether it would take most of the space alone."""
        return len(json.dumps(message)) > self._size / 4

    def _open(self) -> _Tables:
        if self._tables is None:
            self._file = Writer(self._path, self._size)
            self._tables = _Tables(self._file)
            self._report({"totals": self._tables.totals()})
        return self._tables

    def _handle(self, error: HistoryError, now: float) -> None:
        is_handover = isinstance(error, InUseError) and now - self._began < HANDOVER
        self._retry_at = now + (1.0 if is_handover else RETRY)
        self.close()
        if isinstance(error, DamagedError):
            try:
                kept = historyfile.set_aside(self._path)
            except HistoryError as failed:
                error = failed
            else:
                self._retry_at = float("-inf")
                self._report({"note": f"{error}: it was kept as {kept}, and a new history was started"})
                return
        if not is_handover:
            self._report_trouble(f"{error}; trying again every {RETRY:.0f} s")

    def _report_trouble(self, trouble: str) -> None:
        if trouble != self._trouble:
            self._trouble = trouble
            self._report({"trouble": trouble})

    def close(self) -> None:
        if self._file:
            self._file.close()
        self._file = self._tables = None


class _Tables:
    """What is written to the file. Raises HistoryError."""

    def __init__(self, file: Writer):
        self._file = file
        self._pools: dict[str, tuple[int, str]] = {}
        """Number and metric, by name."""
        self._differing: dict[str, int] = {}
        """At how many looks in a row each pool had another metric."""
        self._workers: dict[tuple[int, int], tuple[int, float]] = {}
        """Number and start of the last worker of each pool and pid."""

    def totals(self) -> dict[str, TotalsRow]:
        """What is counted of each pool, by name: the counters of a listener go on from there."""
        with historyfile.errors(self._file.path):
            rows = self._file.db.execute("SELECT name, since, reaps, returned FROM pool").fetchall()
        return {name: {"since": since, "reaps": reaps, "returned": bytes_} for name, since, reaps, bytes_ in rows}

    def write(self, messages: Iterable[Message]) -> None:
        try:
            with self._file.transaction():
                for message in messages:
                    if message["kind"] == "look":
                        self._write_look(message)
                    else:
                        self._write_event(message)
        except BaseException:
            self._pools, self._workers = {}, {}  # some of it may be taken back
            raise

    def _write_look(self, look: Message) -> None:
        at = int(look["at"])
        rows: list[PoolRow] = look["pools"]
        for row in rows:
            pool = self._pool_of_look(row["name"], row["metric"], at)
            if pool is None:
                continue
            known = [(worker, size) for worker in row["workers"] if (size := worker.get("used_bytes")) is not None]
            if not known:
                continue
            sizes = [size for _, size in known]
            # Of workers that were not read in time, the size of an average one is the best guess.
            total = sum(sizes) * len(row["workers"]) // len(known)
            self._file.db.execute(
                "INSERT OR REPLACE INTO reading VALUES (?, ?, ?, ?, ?, ?)",
                (pool, at, len(row["workers"]), row.get("limit_bytes"), total, max(sizes)),
            )
            self._file.db.executemany(
                "INSERT OR REPLACE INTO worker_reading VALUES (?, ?, ?)",
                [
                    (at, self._worker(pool, worker["pid"], at - worker["age_seconds"]), size // 1024)
                    for worker, size in known
                ],
            )

    def _pool_of_look(self, name: str, metric: str, at: float) -> int | None:
        """None: it is measured in another way than before, perhaps because the file is half written at this look."""
        number = self._pool(name, metric, at)
        recorded = self._pools[name][1]
        if metric == recorded:
            self._differing.pop(name, None)
            return number
        self._differing[name] = self._differing.get(name, 0) + 1
        if self._differing[name] < _LOOKS_DIFFER:
            return None
        # What was measured another way cannot be compared.
        del self._differing[name]
        self._remove(number)
        self._file.db.execute("UPDATE pool SET metric = ? WHERE id = ?", (metric, number))
        self._pools[name] = number, metric
        return number

    def _pool(self, name: str, metric: str, at: float) -> int:
        """Its number. `metric` is that of a pool that is not recorded yet."""
        known = self._pools.get(name)
        db = self._file.db
        if known is None:
            known = db.execute("SELECT id, metric FROM pool WHERE name = ?", (name,)).fetchone()
            if known is None:
                cursor = db.execute("INSERT INTO pool (name, metric, since) VALUES (?, ?, ?)", (name, metric, at))
                known = int(cursor.lastrowid or 0), metric
        self._pools[name] = known
        return known[0]

    def _remove(self, pool: int) -> None:
        db = self._file.db
        db.execute("DELETE FROM worker_reading WHERE worker IN (SELECT id FROM worker WHERE pool = ?)", (pool,))
        db.execute("DELETE FROM worker WHERE pool = ?", (pool,))
        db.execute("DELETE FROM reading WHERE pool = ?", (pool,))
        self._workers = {key: known for key, known in self._workers.items() if key[0] != pool}

    def _worker(self, pool: int, pid: int, started: float) -> int:
        known = self._last_worker(pool, pid)
        if known is None or abs(known[1] - started) > _SAME_START:
            cursor = self._file.db.execute(
                "INSERT INTO worker (pool, pid, started) VALUES (?, ?, ?)", (pool, pid, started)
            )
            known = self._workers[pool, pid] = int(cursor.lastrowid or 0), started
        return known[0]

    def _last_worker(self, pool: int, pid: int) -> tuple[int, float] | None:
        known = self._workers.get((pool, pid))
        if known is None:
            known = self._file.db.execute(
                "SELECT id, started FROM worker WHERE pool = ? AND pid = ? ORDER BY id DESC", (pool, pid)
            ).fetchone()
            if known:
                self._workers[pool, pid] = known
        return known

    def _write_event(self, event: Message) -> None:
        db = self._file.db
        at, name, pool, pid = event["at"], event["name"], event["pool"], event["pid"]
        fields = {key: value for key, value in event.items() if key not in ("kind", "at", "name", "pool", "pid")}
        db.execute(
            "INSERT INTO event (at, pool, name, pid, fields) VALUES (?, ?, ?, ?, ?)",
            (at, pool, name, pid, json.dumps(fields)),
        )
        if name == "Left":
            number = self._pool(pool, event["metric"], at)
            returned = freed(event["came_back"], event["taken"])
            db.execute("UPDATE pool SET reaps = reaps + 1, returned = returned + ? WHERE id = ?", (returned, number))
        elif name == "Signalled":
            row = db.execute("SELECT id FROM pool WHERE name = ?", (pool,)).fetchone()
            worker = row and self._last_worker(row[0], pid)
            if worker:
                db.execute("UPDATE worker SET reaped = 1 WHERE id = ?", (worker[0],))

    def mark(self, name: str) -> float | None:
        with historyfile.errors(self._file.path):
            row = self._file.db.execute("SELECT value FROM mark WHERE name = ?", (name,)).fetchone()
        return None if row is None else float(row[0])

    def set_mark(self, name: str, value: float) -> None:
        with self._file.transaction() as db:
            db.execute("INSERT OR REPLACE INTO mark VALUES (?, ?)", (name, value))

    def thin(self, now: float) -> None:
        """Keep fewer of the old readings, and none of the oldest."""
        fine, coarse = int(now - FINE_FOR), int(now - COARSE_FOR)
        with self._file.transaction() as db:
            self._remove_before(coarse)
            db.execute(
                # Not NOT IN, which takes minutes for 1,000 workers.
                "DELETE FROM worker_reading WHERE (at, worker) IN (SELECT at, worker FROM ("
                "SELECT at, worker, max(at) OVER (PARTITION BY worker, at / ?) AS last FROM worker_reading WHERE at < ?"
                ") WHERE at < last)",
                (COARSE, fine),
            )
            # The last row of each part is kept, with the largest worker of all of it.
            parts = db.execute(
                "SELECT max(largest), pool, max(at) FROM reading WHERE at < ? GROUP BY pool, at / ?"
                " HAVING count(*) > 1",
                (fine, COARSE),
            ).fetchall()
            db.executemany("UPDATE reading SET largest = ? WHERE pool = ? AND at = ?", parts)
            db.executemany(
                "DELETE FROM reading WHERE pool = ? AND at >= ? AND at < ?",
                [(pool, at - at % COARSE, at) for _, pool, at in parts],
            )
        self._workers = {}

    def _remove_before(self, at: int) -> None:
        db = self._file.db
        db.execute("DELETE FROM worker_reading WHERE at < ?", (at,))
        db.execute("DELETE FROM reading WHERE at < ?", (at,))
        db.execute("DELETE FROM event WHERE at < ?", (at,))
        db.execute("DELETE FROM worker WHERE id NOT IN (SELECT worker FROM worker_reading)")

    def make_room(self) -> None:
        """Keep the file within its size: remove the oldest part if it is nearly full."""
        if self._file.fullness() < _FULL:
            return
        while self._file.fullness() > _ROOMY and self.remove_oldest():
            pass
        self._file.give_back()

    def fullness(self) -> float:
        return self._file.fullness()

    def remove_oldest(self) -> bool:
        """A tenth of all that is recorded; False: there is nothing older than the newest."""
        with self._file.transaction() as db:
            oldest, newest = db.execute(
                "SELECT min(at), max(at) FROM (SELECT at FROM worker_reading UNION ALL SELECT at FROM event)"
            ).fetchone()
            if oldest is None or oldest >= newest:
                return False
            self._remove_before(int(oldest + (newest - oldest) * 0.1) + 1)
        self._workers = {}
        return True
