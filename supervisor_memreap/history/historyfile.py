"""The file of the history, in SQLite: it is opened, read and kept small here; record.historywriter fills it.

Sizes of workers are in KiB, which is exact: every metric is a number of pages. A rollback journal and not a
write-ahead log, so that a user who may only read the file can read it.
"""

from __future__ import annotations

import errno
import fcntl
import itertools
import json
import os
import sqlite3
import stat
from collections.abc import Collection, Iterable, Iterator
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Any

from supervisor_memreap.history.historypath import HistoryError, NoHistoryError, refusal

if TYPE_CHECKING:
    from supervisor_memreap.advice.poolhistory import PoolHistory, WorkerHistory

_MAGIC, _APPLICATION = b"SQLite format 3\0", 0x6D656D72
"""The beginning of every file of SQLite, and the mark of memreap's files: `memr`."""
# One script for each version of the schema: the last of them is that of this memreap.
_SCHEMAS = (
    """
    CREATE TABLE pool (
        id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, metric TEXT NOT NULL, since REAL NOT NULL,
        reaps INTEGER NOT NULL DEFAULT 0, returned INTEGER NOT NULL DEFAULT 0);
    CREATE TABLE reading (
        pool INTEGER NOT NULL, at INTEGER NOT NULL, workers INTEGER NOT NULL, "limit" INTEGER, total INTEGER NOT NULL,
        largest INTEGER NOT NULL, PRIMARY KEY (pool, at)) WITHOUT ROWID;
    CREATE TABLE worker (
        id INTEGER PRIMARY KEY, pool INTEGER NOT NULL, pid INTEGER NOT NULL, started REAL NOT NULL,
        reaped INTEGER NOT NULL DEFAULT 0);
    CREATE INDEX worker_pid ON worker (pool, pid);
    CREATE TABLE worker_reading (
        at INTEGER NOT NULL, worker INTEGER NOT NULL, kib INTEGER NOT NULL, PRIMARY KEY (at, worker)) WITHOUT ROWID;
    CREATE TABLE event (
        id INTEGER PRIMARY KEY, at REAL NOT NULL, pool TEXT NOT NULL, name TEXT NOT NULL, pid INTEGER NOT NULL,
        fields TEXT NOT NULL);
    CREATE INDEX event_at ON event (at);
    CREATE TABLE mark (name TEXT PRIMARY KEY, value REAL NOT NULL);
    """,
)
SCHEMA = len(_SCHEMAS)
# Of the space that the history may take, the rest is for the journal of a change.
_SHARE = 0.75
# Seconds to wait while another process reads or writes the file.
_BUSY = 10.0


class InUseError(HistoryError):
    """Another process writes to the file."""


class FullError(HistoryError):
    """There is no room for it: on the disk, or in the space that the history may take."""


class DamagedError(HistoryError):
    """The file is a history that SQLite can no longer read."""


@contextmanager
def errors(path: str) -> Iterator[None]:
    """Those of SQLite and of the system become HistoryError; DamagedError is one that does not go away."""
    try:
        yield
    except sqlite3.DatabaseError as error:
        text = str(error)
        # Of these two SQLite makes exceptions of the general kind; all others have a kind of their own.
        if type(error) is sqlite3.DatabaseError and ("malformed" in text or "not a database" in text):
            raise DamagedError(f"{path}: {text}") from None
        kind = FullError if "disk is full" in text else HistoryError
        raise kind(f"{path}: {text}") from None
    except (OSError, sqlite3.Error) as error:
        raise HistoryError(f"{path}: {getattr(error, 'strerror', None) or error}") from None


class Writer:
    """The file, open for the only memreap that writes to it. Raises HistoryError, here and in every method."""

    def __init__(self, path: str, size: int):
        self.path = path
        self._size = size
        with errors(path):
            if reason := refusal(path):
                raise HistoryError(f"{reason}: set history=PATH in [memreap] to a file that only its user may replace")
            # Kept open as long as the file is used: closing any descriptor of it would end SQLite's own locks.
            self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK, 0o644)
        try:
            with errors(path):
                self._lock()
                self._check()
                self.db = self._connect()
                try:
                    self._prepare()
                except BaseException:
                    self.db.close()
                    raise
        except BaseException:
            os.close(self._fd)
            raise

    def _lock(self) -> None:
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                return  # a file system without such locks
            raise InUseError(
                f"{self.path}: another memreap writes to it; set another history=PATH in [memreap] for this supervisord"
            ) from None

    def _check(self) -> None:
        """It must be empty, or ours: a mistyped path must not damage another file."""
        status = os.fstat(self._fd)
        if not stat.S_ISREG(status.st_mode):
            raise HistoryError(f"{self.path}: not a file; set history=PATH in [memreap]")
        if not _is_ours(os.pread(self._fd, 100, 0)) and os.path.exists(f"{self.path}-journal"):
            # A writer was killed while it began the file: SQLite takes back what it had written.
            with closing(self._connect()) as db:
                db.execute("SELECT count(*) FROM sqlite_master").fetchone()
        begin = os.pread(self._fd, 100, 0)
        if begin and not _is_ours(begin):
            raise HistoryError(f"{self.path}: not a memreap history; set history=PATH in [memreap] to another file")

    def _connect(self) -> sqlite3.Connection:
        return sqlite3.connect(self.path, timeout=_BUSY, isolation_level=None)

    def _prepare(self) -> None:
        self.db.execute("PRAGMA trusted_schema = OFF")
        (version,) = self.db.execute("PRAGMA user_version").fetchone()
        if version > SCHEMA:
            raise HistoryError(
                f"{self.path}: written by a newer memreap (schema {version}, this one reads {SCHEMA}): upgrade"
                " memreap, or set another history=PATH in [memreap]"
            )
        if version == 0:
            self.db.execute("PRAGMA auto_vacuum = INCREMENTAL")
        self.db.execute("PRAGMA journal_mode = DELETE")
        for number in range(version, SCHEMA):
            # In one transaction: where it is interrupted, it begins again from the version before.
            self.db.executescript(
                f"BEGIN IMMEDIATE; {_SCHEMAS[number]} PRAGMA application_id = {_APPLICATION};"
                f" PRAGMA user_version = {number + 1}; COMMIT;"
            )
        (self._page,) = self.db.execute("PRAGMA page_size").fetchone()
        self._pages: int = int(self._size * _SHARE) // self._page
        self.db.execute(f"PRAGMA max_page_count = {max(self._pages, self._number('page_count'))}")

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """All of it, or nothing."""
        with errors(self.path):
            self.db.execute("BEGIN IMMEDIATE")
            try:
                yield self.db
                self.db.execute("COMMIT")
            except BaseException:
                if self.db.in_transaction:
                    self.db.execute("ROLLBACK")
                raise

    def fullness(self) -> float:
        """What is in use of the space that it may take: 1 is all of it."""
        with errors(self.path):
            used = self._number("page_count") - self._number("freelist_count")
            return used / self._pages

    def give_back(self) -> None:
        """Make the file smaller, by what is free in it; a part at a time, since the journal gets as large."""
        with errors(self.path):
            part = max(100, self._pages // 20)
            while self._number("freelist_count"):
                before = self._number("page_count")
                # Not execute, which would free a single page.
                self.db.executescript(f"PRAGMA incremental_vacuum({part});")
                if self._number("page_count") >= before:
                    break
            self.db.execute(f"PRAGMA max_page_count = {self._pages}")

    def _number(self, pragma: str) -> int:
        return int(self.db.execute(f"PRAGMA {pragma}").fetchone()[0])

    def close(self) -> None:
        try:
            self.db.close()
        finally:
            os.close(self._fd)


def _is_ours(begin: bytes) -> bool:
    return begin[:16] == _MAGIC and int.from_bytes(begin[68:72], "big") == _APPLICATION


def set_aside(path: str) -> str:
    """Keep a damaged history under another name, which is returned; one of them is kept. Raises HistoryError."""
    kept = f"{path}.damaged"
    with errors(path):
        os.replace(path, kept)
        for suffix in ("-journal", "-wal", "-shm"):
            try:
                os.unlink(path + suffix)
            except FileNotFoundError:
                pass
    return kept


def names(path: str, since: float = 0.0) -> list[str]:
    """The pools that were recorded since then, in seconds since 1970. Raises HistoryError."""
    with _reading(path) as db:
        rows = db.execute(
            "SELECT name FROM pool WHERE ? <= 0 OR EXISTS (SELECT 1 FROM reading WHERE pool = id AND at >= ?)"
            " ORDER BY name",
            (since, since),
        )
        return [name for (name,) in rows]


def each(path: str, since: float, wanted: Iterable[str] | None = None) -> Iterator[PoolHistory]:
    """The `wanted` pools, or all, one after another: the readings since then, and all events.

    What an old event began may still last. A week of 400 workers takes 200 MB while it is judged. Raises HistoryError.
    """
    for name in names(path) if wanted is None else wanted:
        yield from load(path, since, [name])


def load(path: str, since: float = 0.0, wanted: Collection[str] | None = None) -> list[PoolHistory]:
    """The `wanted` pools, or all, by name: the readings since then, in seconds since 1970, and all events.

    Raises HistoryError.
    """
    with _reading(path) as db:
        rows = db.execute("SELECT * FROM pool ORDER BY name").fetchall()
        return [_pool(db, row, since) for row in rows if wanted is None or row[1] in wanted]


@contextmanager
def _reading(path: str) -> Iterator[sqlite3.Connection]:
    """All that is read is as of one moment."""
    if not os.path.exists(path):
        raise NoHistoryError(f"{path}: no history yet: is a listener running, and does it record (history=)?")
    with errors(path):
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # which does not wait for the writer of a fifo
        try:
            begin = os.read(fd, 100) if stat.S_ISREG(os.fstat(fd).st_mode) else b""
        finally:
            os.close(fd)
        if not _is_ours(begin):
            raise HistoryError(f"{path}: not a memreap history")
        with closing(_open_to_read(path)) as db:
            (version,) = db.execute("PRAGMA user_version").fetchone()
            if version != SCHEMA:
                raise HistoryError(f"{path}: it has schema {version}, and this memreap reads {SCHEMA}: upgrade memreap")
            db.execute("BEGIN")
            yield db


def _open_to_read(path: str) -> sqlite3.Connection:
    quoted = path.replace("%", "%25").replace("?", "%3f").replace("#", "%23")
    db = sqlite3.connect(f"file:{quoted}?mode=ro", uri=True, timeout=_BUSY, isolation_level=None)
    try:
        db.execute("SELECT count(*) FROM sqlite_master").fetchone()
    except sqlite3.OperationalError as error:
        # A writer was killed in the middle: only one who may write can undo what it had begun. Not in a directory of
        # another user, who could have root write into any file, by a link and a journal; there, the listener does it.
        db.close()
        if refusal(path):
            raise HistoryError(f"{path}: {error}: try again when the listener has written to it") from None
        db = sqlite3.connect(f"file:{quoted}?mode=rw", uri=True, timeout=_BUSY, isolation_level=None)
    return db


def _pool(db: sqlite3.Connection, row: tuple[Any, ...], since: float) -> PoolHistory:
    # The process that writes the history loads none of it.
    from supervisor_memreap.advice.poolhistory import EventRecord, PoolHistory, PoolReading

    number, name, metric, began, reaps, freed = row
    readings = db.execute(
        'SELECT at, workers, "limit", total, largest FROM reading WHERE pool = ? AND at >= ? ORDER BY at',
        (number, since),
    )
    events = db.execute("SELECT at, name, pid, fields FROM event WHERE pool = ? ORDER BY at, id", (name,))
    return PoolHistory(
        name,
        metric,
        began,
        tuple(PoolReading(*values) for values in readings),
        tuple(_workers(db, number, since)),
        tuple(EventRecord(at, kind, pid, json.loads(values)) for at, kind, pid, values in events),
        reaps,
        freed,
    )


def _workers(db: sqlite3.Connection, pool: int, since: float) -> Iterator[WorkerHistory]:
    from supervisor_memreap.advice.poolhistory import Reading, WorkerHistory

    rows = db.execute(
        "SELECT worker.id, pid, started, reaped, at, kib FROM worker JOIN worker_reading ON worker = worker.id"
        " WHERE pool = ? AND at >= ? ORDER BY worker.id, at",
        (pool, since),
    )
    for (_, pid, started, reaped), readings in itertools.groupby(rows, lambda row: row[:4]):
        sizes = tuple(Reading(at, kib * 1024) for *_, at, kib in readings)
        yield WorkerHistory(pid, started, sizes, bool(reaped))
