"""What is asked of supervisord over HTTP, and what answers of another kind become."""

from __future__ import annotations

import base64
import contextlib
import gzip
import socket
import threading

import pytest

from supervisor_memreap.supervisord.client import Client, Unavailable

NOT_OURS = "does not answer like supervisord"
GZIP = b"HTTP/1.0 200 OK\r\nContent-Encoding: gzip\r\n\r\n"


@contextlib.contextmanager
def answering(answer: bytes):
    """The port of a server that gives each connection this answer, and the list of what it was asked."""
    asked: list[bytes] = []

    def serve():
        with contextlib.suppress(OSError):
            while True:
                connection, _ = server.accept()
                with connection:
                    head, _, body = connection.recv(65536).partition(b"\r\n\r\n")
                    length = int(head.lower().partition(b"content-length: ")[2].split()[0])
                    while len(body) < length:
                        body += connection.recv(65536)
                    asked.append(head)
                    connection.sendall(answer)

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield server.getsockname()[1], asked
        finally:
            server.shutdown(socket.SHUT_RDWR)
            thread.join()


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (b"", "Remote end closed connection"),
        (b"220 mail.example.com ESMTP\r\n", NOT_OURS),
        (b"HTTP/1.0 200 OK\r\n\r\n<html>", NOT_OURS),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 9\r\n\r\n<", NOT_OURS),
        (b"HTTP/1.0 503 Busy\r\n\r\n", "HTTP status 503 Busy"),
        (GZIP + b"no gzip", "Not a gzipped file"),
        (GZIP + gzip.compress(b"<methodResponse>" * 1000, mtime=0)[:40], NOT_OURS),
        (GZIP + gzip.compress(b"", mtime=0)[:10] + b"\xff" * 40, NOT_OURS),
    ],
    ids=range(8),
)
def test_an_answer_of_another_kind_is_one_line_and_is_asked_for_once(answer, expected):
    with answering(answer) as (port, asked):
        with pytest.raises(Unavailable, match=expected):
            Client(f"http://127.0.0.1:{port}").publish("{}")
        assert len(asked) == 1


def test_a_password_is_sent_with_the_bytes_that_it_was_given_with():
    password = b"p\xe4ss\xc3\xa4".decode(errors="surrogateescape")
    with answering(b"") as (port, asked), pytest.raises(Unavailable):
        Client(f"http://127.0.0.1:{port}", "me", password).publish("{}")
    assert b"Basic " + base64.b64encode(b"me:p\xe4ss\xc3\xa4") in asked[0]
