"""Load on a web server, from a separate process, so that neither slows the other.

    python load.py PORT PATH CLIENTS PER_CONNECTION PAUSE TAKES KB ANSWERS ONE_IN

Asks until its standard input is closed, and then writes a Tally in JSON. A request is lost if its answer is not a whole
and right 200: also one on a kept connection that the server closes, and one with an empty answer. Each line of standard
input is another KB. Needs Python alone.
"""

from __future__ import annotations

import dataclasses
import hashlib
import http.client
import json
import random
import struct
import subprocess
import sys
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

TIMEOUT = 30
# Of ten requests; quick GETs, POSTs of 2 KB, GETs that take 50 ms, and POSTs of 100 KB, which nginx passes in parts.
_KINDS = ("get", "post", "get", "post", "get", "slow", "get", "upload", "get", "post")
_BODIES = {"post": 2048, "upload": 100 * 1024}


@dataclasses.dataclass(frozen=True)
class Tally:
    answered: int
    lost: dict[str, int]
    """How many, by the kind of request and how it was lost."""
    connections: int
    longest_gap: float
    """The longest time in seconds in which no client got an answer."""
    losses: list[float] = dataclasses.field(default_factory=list)
    """When each loss was noticed, in seconds (monotonic)."""


def exchange(
    connection: http.client.HTTPConnection, path: str, body: bytes = b"", keep: bool = True
) -> tuple[str, bytes, int]:
    """`ok`, the body of the answer to a GET, or to a POST if there is a body, and the worker's pid if it had that.

    Or in a word how it was lost.
    """
    headers = {"Content-Type": "application/octet-stream", **({} if keep else {"Connection": "close"})}
    try:
        connection.request("POST" if body else "GET", path, body or None, headers)
        answer = connection.getresponse()
        text = answer.read()
    except (OSError, http.client.HTTPException) as error:
        return type(error).__name__, b"", 0
    worker = int(answer.headers.get("X-Worker", 0))
    return ("ok", text, worker) if answer.status == 200 else (str(answer.status), b"", worker)


def expected(body: bytes) -> bytes:
    """The answer of tests/apps/growing.* to this body."""
    return f"{len(body)} {hashlib.md5(body).hexdigest()}\n{'.' * 4000}\nend\n".encode()


class Answer(NamedTuple):
    """A complete, correct answer, as in the file of answers."""

    at: float
    """When it was there, in seconds (monotonic)."""
    took: float
    worker: int
    """The pid of the worker that gave it."""


_ANSWER = struct.Struct("=ddI")


def read_answers(path: Path) -> list[Answer]:
    """What a load has written."""
    return [Answer(*fields) for fields in _ANSWER.iter_unpack(path.read_bytes())]


class _Connection(http.client.HTTPConnection):
    """Knows how often it was opened."""

    opened = 0

    def connect(self) -> None:
        self.opened += 1
        super().connect()


class Clients:
    """Each client has its own thread, on one connection for `per_connection` requests."""

    def __init__(
        self,
        port: int,
        path: str,
        clients: int,
        per_connection: int,
        pause: float,
        takes: float,
        kb: int,
        one_in: int,
    ):
        self._port = port
        self._path = path
        self._clients = clients
        self._per_connection = per_connection
        self._keep = per_connection > 1
        self._pause = pause
        self._takes = takes
        self.kb = kb
        self._one_in = one_in
        self.answers: list[bytes] = []
        self._losses: list[float] = []
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
        return Tally(answered, dict(outcomes), connections, self._longest_gap, self._losses)

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
        body = dice.randbytes(_BODIES.get(kind, 0))
        takes = max(self._takes, 0.05 if kind == "slow" else 0.0)
        leaks = self.kb and (self._one_in == 1 or not dice.randrange(self._one_in))
        query = "&".join([*([f"s={takes}"] if takes else ()), *([f"kb={self.kb}"] if leaks else ())])
        began = time.monotonic()
        outcome, text, worker = exchange(connection, f"{self._path}?{query}", body, self._keep)
        if outcome == "ok" and text != expected(body):
            outcome = "wrong"
        if outcome == "ok":
            self._note_answer(began, worker)
            return outcome
        self._losses.append(time.monotonic())
        connection.close()
        # A time in which the server refuses is not counted at the rate at which it does so.
        self._stop.wait(0.1)
        return f"{kind} {outcome}"

    def _note_answer(self, began: float, worker: int) -> None:
        with self._lock:
            now = time.monotonic()
            self.answers.append(_ANSWER.pack(now, now - began, worker))
            self._longest_gap = max(self._longest_gap, now - (self._last_answer or now))
            self._last_answer = now


class Load:
    """The process with its clients, in a `with` block; `tally` then has the results of their requests.

    `takes`: seconds that each request takes, at least; `kb`: by how much it lets its worker grow, or one of `one_in`
    requests does. All whole answers stand in the file `answers`, if it is given.
    """

    def __init__(
        self,
        port: int,
        path: str = "/",
        clients: int = 2,
        per_connection: int = 1,
        pause: float = 0.005,
        takes: float = 0.0,
        kb: int = 0,
        answers: Path | None = None,
        one_in: int = 1,
    ):
        words = (port, path, clients, per_connection, pause, takes, kb, answers or "", one_in)
        self._command = [sys.executable, __file__, *map(str, words)]
        self.tally = Tally(0, {}, 0, 0.0)

    def __enter__(self) -> Load:
        pipe = subprocess.PIPE
        # A separate session: Ctrl-C is for us, and it ends when its standard input is closed.
        self._process = subprocess.Popen(self._command, stdin=pipe, stdout=pipe, start_new_session=True)
        return self

    @property
    def pid(self) -> int:
        return self._process.pid

    def let_grow(self, kb: int) -> None:
        """From now on, each request that leaks makes its worker grow by this many KiB."""
        assert self._process.stdin
        self._process.stdin.write(b"%d\n" % kb)
        self._process.stdin.flush()

    def __exit__(self, *_) -> None:
        try:
            output, _errors = self._process.communicate(timeout=TIMEOUT + 5)
        finally:
            self._process.kill()
            self._process.wait()
        self.tally = Tally(**json.loads(output))


def main(
    port: str, path: str, clients: str, per_connection: str, pause: str, takes: str, kb: str, answers: str, one_in: str
) -> None:
    how = int(clients), int(per_connection), float(pause), float(takes), int(kb), int(one_in)
    with Clients(int(port), path, *how) as asking:
        for line in sys.stdin:
            asking.kb = int(line)
    if answers:
        Path(answers).write_bytes(b"".join(asking.answers))
    print(json.dumps(dataclasses.asdict(asking.tally())))


if __name__ == "__main__":
    main(*sys.argv[1:])
