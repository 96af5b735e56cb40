"""Load on a web server, by a process of its own, so that neither slows the other.

    python load.py PORT PATH CLIENTS PER_CONNECTION PAUSE

Asks until its standard input is closed, and then writes a Tally in JSON. A request is lost if its answer is not a whole
and right 200: also one on a kept connection that the server closes, and one with an empty answer. Needs Python alone.
"""

from __future__ import annotations

import dataclasses
import hashlib
import http.client
import json
import random
import subprocess
import sys
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

TIMEOUT = 30
# Of ten requests; quick GETs, POSTs of 2 KB, and GETs that take 50 ms.
_KINDS = ("get", "post", "get", "post", "get", "slow", "get", "post", "get", "post")


@dataclasses.dataclass(frozen=True)
class Tally:
    answered: int
    lost: dict[str, int]
    """How many, by the kind of request and how it was lost."""
    connections: int
    longest_gap: float
    """Seconds between two answers, whichever clients got them: so long did nobody get one."""


def exchange(
    connection: http.client.HTTPConnection, path: str, body: bytes = b"", keep: bool = True
) -> tuple[str, bytes]:
    """`ok` and the body of the answer to a GET, or to a POST if there is a body; or in a word how it was lost."""
    headers = {"Content-Type": "application/octet-stream", **({} if keep else {"Connection": "close"})}
    try:
        connection.request("POST" if body else "GET", path, body or None, headers)
        answer = connection.getresponse()
        text = answer.read()
    except (OSError, http.client.HTTPException) as error:
        return type(error).__name__, b""
    return ("ok", text) if answer.status == 200 else (str(answer.status), b"")


def expected(body: bytes) -> bytes:
    """The answer of tests/apps/growing.* to this body."""
    return f"{len(body)} {hashlib.md5(body).hexdigest()}\n{'.' * 4000}\nend\n".encode()


class _Connection(http.client.HTTPConnection):
    """Knows how often it was opened."""

    opened = 0

    def connect(self) -> None:
        self.opened += 1
        super().connect()


class Clients:
    """Each of them asks in a thread of its own, on one connection for `per_connection` requests."""

    def __init__(self, port: int, path: str, clients: int, per_connection: int, pause: float):
        self._port = port
        self._path = path
        self._clients = clients
        self._per_connection = per_connection
        self._keep = per_connection > 1
        self._pause = pause
        self._stop = threading.Event()
        self._threads = ThreadPoolExecutor(clients)
        self._lock = threading.Lock()
        self._last_answer: float | None = None
        self._longest_gap = 0.0

    def __enter__(self) -> Clients:
        # Each asks at least once.
        self._results = [self._threads.submit(self._ask, number) for number in range(self._clients)]
        return self

    def __exit__(self, *_) -> None:
        self._stop.set()
        self._threads.shutdown()

    def tally(self) -> Tally:
        """After the end; raises what a client raised."""
        outcomes = sum((result.result() for result in self._results), Counter())
        answered, connections = outcomes.pop("ok", 0), outcomes.pop("connections")
        return Tally(answered, dict(outcomes), connections, self._longest_gap)

    def _ask(self, number: int) -> Counter[str]:
        outcomes: Counter[str] = Counter()
        dice = random.Random(number)
        while not outcomes or not self._stop.is_set():
            connection = _Connection("127.0.0.1", self._port, timeout=TIMEOUT)
            for _ in range(self._per_connection):
                outcomes[self._request(connection, dice)] += 1
                if self._stop.wait(self._pause):
                    break
            connection.close()
            outcomes["connections"] += connection.opened
        return outcomes

    def _request(self, connection: http.client.HTTPConnection, dice: random.Random) -> str:
        kind = dice.choice(_KINDS)
        body = dice.randbytes(2048) if kind == "post" else b""
        outcome, text = exchange(connection, f"{self._path}?{'s=0.05' if kind == 'slow' else ''}", body, self._keep)
        if outcome == "ok" and text != expected(body):
            outcome = "wrong"
        if outcome == "ok":
            self._note_answer()
            return outcome
        connection.close()
        # A time in which the server refuses is not counted at the rate at which it does so.
        self._stop.wait(0.1)
        return f"{kind} {outcome}"

    def _note_answer(self) -> None:
        with self._lock:
            now = time.monotonic()
            self._longest_gap = max(self._longest_gap, now - (self._last_answer or now))
            self._last_answer = now


class Load:
    """The process with its clients, in a `with` block; `tally` after that says what came of their requests."""

    def __init__(self, port: int, path: str = "/", clients: int = 2, per_connection: int = 1, pause: float = 0.005):
        words = (port, path, clients, per_connection, pause)
        self._command = [sys.executable, __file__, *map(str, words)]
        self.tally = Tally(0, {}, 0, 0.0)

    def __enter__(self) -> Load:
        pipe = subprocess.PIPE
        # A session of its own: Ctrl-C is for us, and it ends when its standard input is closed.
        self._process = subprocess.Popen(self._command, stdin=pipe, stdout=pipe, start_new_session=True)
        return self

    def __exit__(self, *_) -> None:
        try:
            output, _errors = self._process.communicate(timeout=TIMEOUT + 5)
        finally:
            self._process.kill()
            self._process.wait()
        self.tally = Tally(**json.loads(output))


def main(port: str, path: str, clients: str, per_connection: str, pause: str) -> None:
    with Clients(int(port), path, int(clients), int(per_connection), float(pause)) as asking:
        sys.stdin.read()
    print(json.dumps(dataclasses.asdict(asking.tally())))


if __name__ == "__main__":
    main(*sys.argv[1:])
