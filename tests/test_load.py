"""The load of the tests counts each request as lost that has not got its whole and right answer."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator

import pytest
from support.driver import until
from support.load import Load, expected

WHOLE = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n"


def answer(body: bytes) -> bytes:
    return WHOLE % len(body) + body


class Server:
    """Answers each connection with the same bytes, and then closes it."""

    def __init__(self, answer: bytes):
        self._answer = answer
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port = self._listening.getsockname()[1]
        self.requests = self.leaking = 0

    def serve(self) -> None:
        while True:
            with self._listening.accept()[0] as connection:
                request = connection.recv(65536)
                if not request:
                    return  # it is over
                self.requests += 1
                self.leaking += b"kb=" in request
                connection.sendall(self._answer)
                connection.shutdown(socket.SHUT_WR)
                while connection.recv(65536):
                    pass

    def close(self) -> None:
        socket.create_connection(("127.0.0.1", self.port)).close()

    def release(self) -> None:
        self._listening.close()


@contextlib.contextmanager
def serving(answer: bytes) -> Iterator[Server]:
    server = Server(answer)
    thread = threading.Thread(target=server.serve)
    thread.start()
    try:
        yield server
    finally:
        server.close()
        thread.join()
        server.release()


def tally_of(answer: bytes, per_connection: int = 1):
    with serving(answer) as server, Load(server.port, "/", 1, per_connection, pause=0) as load:
        until(lambda: server.requests > 5)
    return load.tally


RIGHT = expected(b"")


@pytest.mark.parametrize(
    ("answer", "how"),
    [
        (b"", "RemoteDisconnected"),
        (answer(RIGHT)[:-1], "IncompleteRead"),
        (WHOLE % 0, "wrong"),
        (answer(RIGHT[:-5]), "wrong"),
        (answer(expected(b"another")), "wrong"),
        (b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n", "502"),
        (b"no HTTP\r\n\r\n", "BadStatusLine"),
    ],
    ids=["none", "cut", "empty", "truncated", "of another body", "an error", "something else"],
)
def test_an_incomplete_or_wrong_answer_is_a_loss(answer, how):
    tally = tally_of(answer)
    assert tally.answered == 0
    assert sum(tally.lost.values()) > 5
    assert {kind.split()[1] for kind in tally.lost} == {how}


def test_a_right_answer_is_not_a_loss_unless_for_a_request_with_another_body():
    tally = tally_of(answer(RIGHT))
    assert tally.answered > 0
    assert set(tally.lost) <= {"post wrong", "upload wrong"}


def test_a_kept_connection_closed_without_notice_is_a_loss():
    tally = tally_of(answer(RIGHT), per_connection=20)
    assert {kind.split()[1] for kind in tally.lost} - {"wrong"} != set()


def test_the_longest_time_without_an_answer_is_reported():
    with serving(answer(RIGHT)) as server, Load(server.port, clients=1, pause=0.3) as load:
        until(lambda: server.requests > 5)
    assert 0.3 <= load.tally.longest_gap < 10


@pytest.mark.parametrize(("one_in", "least", "most"), [(1, 1.0, 1.0), (4, 0.05, 0.6)])
def test_each_request_leaks_or_one_of_so_many(one_in, least, most):
    with serving(answer(RIGHT)) as server, Load(server.port, clients=1, pause=0, kb=1, one_in=one_in):
        until(lambda: server.requests > 20)
    assert least <= server.leaking / server.requests <= most


def test_each_request_is_lost_where_no_server_listens():
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with Load(port, clients=1) as load:
        pass
    assert load.tally.answered == 0
    assert load.tally.lost
