"""The few FastCGI records that the demo needs: one GET from the client, one answer from the worker."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from typing import BinaryIO

BEGIN_REQUEST, END_REQUEST, PARAMS, STDIN, STDOUT = 1, 3, 4, 5, 6
_HEADER = struct.Struct("!BBHHBx")  # version, type, request, length, padding
_BEGIN = struct.pack("!HB5x", 1, 0)  # as a responder; close the connection after it
_END = struct.pack("!IB3x", 0, 0)  # the application's status, and REQUEST_COMPLETE


class BadReplyError(Exception):
    """What came back is not a whole, right reply."""


def get(path: str, timeout: float = 10.0) -> bytes:
    """One request over the unix socket; the whole body. Raises OSError, BadReplyError."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(timeout)
        connection.connect(path)
        connection.sendall(request_head() + record(STDIN))
        with connection.makefile("rb") as stream:
            return read_reply(stream)


def request_head() -> bytes:
    """All of a request but its end, so that whoever reads it has to wait for that."""
    params = b"".join(
        bytes((len(name), len(value))) + name + value
        for name, value in ((b"REQUEST_METHOD", b"GET"), (b"SCRIPT_NAME", b"/"))
    )
    return record(BEGIN_REQUEST, _BEGIN) + record(PARAMS, params) + record(PARAMS)


def read_reply(stream: BinaryIO) -> bytes:
    """The body, if the reply came to its end, says 200 and is as long as it says. Raises BadReplyError."""
    out, end = b"", None
    for kind, content in _records(stream):
        if kind == STDOUT:
            out += content
        elif kind == END_REQUEST:
            end = content
            break
    head, _, body = out.partition(b"\r\n\r\n")
    if end != _END:
        raise BadReplyError(f"cut off after {len(out)} bytes")
    if head.split(b"\r\n") != [b"Status: 200 OK", b"Content-Length: %d" % len(body)]:
        raise BadReplyError(f"not a right reply: {out[:80]!r}")
    return body


def read_request(stream: BinaryIO) -> bool:
    """Read one request to its end; False if the client went away before."""
    return any(kind == STDIN and not content for kind, content in _records(stream))


def reply(body: bytes) -> bytes:
    """What a worker answers: STDOUT in one record, and the end of the request."""
    head = b"Status: 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body)
    return record(STDOUT, head + body) + record(STDOUT) + record(END_REQUEST, _END)


def record(kind: int, content: bytes = b"") -> bytes:
    """One record of request 1; at most 65,535 bytes."""
    return _HEADER.pack(1, kind, 1, len(content), 0) + content


def _records(stream: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """Until the stream ends, be it in the middle of a record."""
    while len(header := stream.read(_HEADER.size)) == _HEADER.size:
        _, kind, _, length, padding = _HEADER.unpack(header)
        content = stream.read(length + padding)
        if len(content) < length + padding:
            return
        yield kind, content[:length]
