"""`metrics=` and `metrics_file=`: what Prometheus gets of the looks and events. Runs in a child of the listener.

The messages are taken at once, whatever a scraper or a disk does: the port and the file have a thread each.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from supervisor_memreap.core.recording import Address, Recording
from supervisor_memreap.host import packages
from supervisor_memreap.outputs.lasting import Lasting
from supervisor_memreap.outputs.tally import Tally

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

# Seconds between two times at which the library is looked for.
_LOOK_AGAIN = 30.0
# Seconds between two attempts to listen on a port that is taken.
_RETRY = 5.0
# Seconds between two looks at whether the listener still looks, which decides the content of the file.
_TURN = 1.0
# Seconds to wait at the end for a write of the file.
_FAREWELL = 2.0


def consume(
    messages: Iterable[Mapping[str, Any]], tell: Callable[[Mapping[str, Any]], None], recording: Recording
) -> None:
    """Serve the messages until they end. The process must end then: its threads do not."""
    serving = _Serving(recording, Tally(), _Troubles(tell))
    serving.begin()
    for message in messages:
        serving.take(message)
    serving.end()


class _Serving:
    """All that is offered to Prometheus; until its library is installed, the messages are still counted."""

    def __init__(self, recording: Recording, tally: Tally, troubles: _Troubles):
        self._recording = recording
        self._tally = tally
        self._troubles = troubles
        self._lock = threading.Lock()
        self._has_begun = False
        self._tried = 0.0
        """When the library was last looked for (monotonic)."""
        self._file: _File | None = None

    def begin(self) -> None:
        """If prometheus-client is installed."""
        self._tried = time.monotonic()
        importlib.invalidate_caches()
        try:
            from supervisor_memreap.outputs import exposition
        except ImportError as error:  # older ones lack some of the names
            if not (error.name or "").startswith("prometheus_client"):
                raise
            missing = f"Python's prometheus-client is missing, or older than 0.16: {packages.install_extra('metrics')}"
            self._troubles.follow("client", f"{missing}; checking again every {_LOOK_AGAIN:.0f} s")
            return
        self._troubles.follow("client", "")
        self._has_begun = True
        exposed = exposition.Exposition(self._tally, self._lock)
        if self._recording.metrics:
            _start(_listen, Address(*self._recording.metrics), exposition.registry(exposed), self._troubles)
        if self._recording.metrics_file:
            self._file = _File(self._recording.metrics_file, exposed.text, self._troubles)
            _start(self._file.keep, lambda: _is_old(self._tally, self._lock))

    def take(self, message: Mapping[str, Any]) -> None:
        if not self._has_begun and time.monotonic() - self._tried >= _LOOK_AGAIN:
            self.begin()
        with self._lock:
            has_looked = self._tally.take(message, time.monotonic())
        if self._file and has_looked:
            self._file.due.set()

    def end(self) -> None:
        if self._file:
            self._file.remove()


def _start(function: Callable[..., None], *arguments: object) -> None:
    threading.Thread(target=function, args=arguments, daemon=True).start()


def _is_old(tally: Tally, lock: threading.Lock) -> bool:
    with lock:
        return tally.is_old(time.monotonic())


class _Troubles:
    """Reports the problems of the port and of the file to the listener, in one line, whenever they change."""

    def __init__(self, tell: Callable[[Mapping[str, Any]], None]):
        self._report = tell
        self._lock = threading.Lock()
        self._lasting: Lasting[str] = Lasting()

    def follow(self, of: str, trouble: str) -> None:
        """Empty: it is over."""
        with self._lock:
            if self._lasting.note(of, trouble):
                self._report({"trouble": "; ".join(self._lasting.texts())})

    def fail(self, error: BaseException) -> None:
        self.follow("scrape", f"internal error in a scrape, please report it: {error!r}")


def _listen(address: Address, registry: CollectorRegistry, troubles: _Troubles) -> None:
    """Answer Prometheus; if the port is taken, once it is free."""
    from supervisor_memreap.outputs import scrape

    while True:
        try:
            server = scrape.Server(address, registry, troubles.fail)
        except (OSError, UnicodeError) as error:  # the latter: of a name that DNS cannot have
            reason = getattr(error, "strerror", None) or error
            why = f"cannot listen on {address}: {reason}: Prometheus cannot scrape this host"
            troubles.follow("port", f"{why}; trying again every {_RETRY:.0f} s")
            time.sleep(_RETRY)
        else:
            troubles.follow("port", "")
            server.serve_forever()


class _File:
    """For node_exporter, which reads it whenever it is scraped itself, so each version comes by a rename."""

    def __init__(self, path: str, text: Callable[[], bytes], troubles: _Troubles):
        self._path = path
        self._text = text
        self._troubles = troubles
        self._lock = threading.Lock()
        self._written: tuple[int, int] | None = None
        """Device and inode of our last version."""
        self.due = threading.Event()
        """There was a look."""

    def keep(self, is_old: Callable[[], bool]) -> None:
        """Write it after each look, and once when looks have stopped: it must not look fine indefinitely."""
        was_old = False
        while True:
            has_looked = self.due.wait(_TURN)
            self.due.clear()
            if has_looked or is_old() != was_old:
                was_old = is_old()
                with self._lock:
                    self._write()

    def _write(self) -> None:
        before = self._written
        try:
            text = self._text()
            try:
                self._put(text)
            except OSError:
                # Rather none than an old one; on a full disk, that makes room for the new one.
                self._drop(self._path)
                self._put(text)
            # Where the old one's room is not free at once, every second write succeeds: that ends no trouble.
            if before:
                self._troubles.follow("file", "")
        except OSError as error:
            why = f"cannot write {self._path}: {error.strerror}: node_exporter gets nothing"
            self._troubles.follow("file", f"{why}; trying again after each look")
        except Exception as error:
            self._troubles.fail(error)

    def _put(self, text: bytes) -> None:
        """Raises OSError; then no part of it is left."""
        new = f"{self._path}.new"
        self._written = None
        self._drop(new)  # of one that was ended while it wrote
        try:
            # Never through a link that another user has put there.
            with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644), "wb") as file:
                os.fchmod(file.fileno(), 0o644)  # whatever the umask is: node_exporter is another user
                file.write(text)
                file.flush()
                status = os.fstat(file.fileno())
            os.rename(new, self._path)
        except OSError:
            self._drop(new)
            raise
        self._written = status.st_dev, status.st_ino

    @staticmethod
    def _drop(path: str) -> None:
        with contextlib.suppress(OSError):
            os.unlink(path)

    def remove(self) -> None:
        """No pool is watched any longer. If another memreap writes the file now, leave it."""
        if not self._lock.acquire(timeout=_FAREWELL):  # forever: nothing may be written now
            return
        with contextlib.suppress(OSError):
            status = os.stat(self._path)
            if (status.st_dev, status.st_ino) == self._written:
                os.unlink(self._path)
