"""The load on the pool."""

from __future__ import annotations

import threading

from supervisor_memreap.demo import fastcgi

# Each of two threads asks so often: 40 requests a second together, a fraction of what two cores can serve.
_LOADERS, _INTERVAL = 2, 0.05
PER_SECOND = _LOADERS / _INTERVAL
# Clients for each worker while the pool is saturated.
_CLIENTS = 2
# Seconds that the last requests have to be answered.
_LAST = 3.0


class Load:
    """Requests, one after the other in each of a few threads; counts what came of them."""

    def __init__(self, path: str) -> None:
        self._path = path
        self.answered = 0
        self.lost = 0
        self.why = ""
        self.clients = 0
        """While the pool is saturated; 0: it is not yet."""
        self.workers = self.answered_before = self.lost_before = 0
        """As they were when it became so."""
        self._query = b""
        self._pause = _INTERVAL
        self._stop = threading.Event()
        self._lock = threading.Lock()
        # Daemons: none may hold up the end of the demo.
        self._threads = [threading.Thread(target=self._ask, daemon=True) for _ in range(_LOADERS)]
        self._over = False

    def saturate(self, workers: int) -> None:
        """From now on, ask without pause with more clients than there are workers.

        Each request takes longer, so that their number stays the same: workers grow as fast, and none is ever idle.
        """
        self._query, self._pause = b"s=%.3f" % (workers / PER_SECOND), 0.0
        self.workers, self.answered_before, self.lost_before = workers, self.answered, self.lost
        self.clients = max(_LOADERS, _CLIENTS * workers)
        more = [threading.Thread(target=self._ask, daemon=True) for _ in range(self.clients - _LOADERS)]
        for thread in more:
            thread.start()
        self._threads += more

    def _ask(self) -> None:
        while not self._stop.wait(self._pause):
            try:
                answer = fastcgi.get(self._path, query=self._query)
                why = "" if answer.endswith(b"\r\n\r\nok") else f"a wrong answer: {answer[:80]!r}"
            except OSError as error:
                why = str(error)
            with self._lock:
                if not self._over:  # afterwards the pool is stopped: not a loss
                    self.lost += bool(why)
                    self.answered += not why
                    self.why = why or self.why

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(_LAST)
        with self._lock:
            self._over = True
