"""As much of FastCGI 1.0 as a request without a body needs, for both ends of a unix socket."""

from __future__ import annotations

import re
import socket
import struct
import time

_BEGIN, _END, _PARAMS, _STDIN, _STDOUT = 1, 3, 4, 5, 6
_HEADER = struct.Struct(">BBHHBx")  # version, type, request id, content length, padding length
_PATIENCE = 20.0
# What a server of CGI's kind expects of any request.
_GET = {
    b"REQUEST_METHOD": b"GET",
    b"REQUEST_URI": b"/",
    b"SCRIPT_NAME": b"",
    b"PATH_INFO": b"/",
    b"QUERY_STRING": b"",
    b"SERVER_NAME": b"localhost",
    b"SERVER_PORT": b"80",
    b"SERVER_PROTOCOL": b"HTTP/1.0",
}


def get(path: str, patience: float = _PATIENCE, query: bytes = b"") -> bytes:
    """What the worker behind the socket at `path` answers to a GET.

    Raises OSError if that is cut short, or nothing arrives for `patience` seconds.
    """
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(patience)
        connection.connect(path)
        connection.sendall(request(query))
        answer = b""
        while True:
            kind, content = _read(connection)
            if kind == _END:
                return answer
            if kind == _STDOUT:
                answer += content


def request(query: bytes = b"") -> bytes:
    """A whole GET of /, with at most 127 bytes of a query."""
    values = {**_GET, b"QUERY_STRING": query}
    params = b"".join(bytes([len(name), len(value)]) + name + value for name, value in values.items())
    begin = _record(_BEGIN, struct.pack(">HB5x", 1, 0))  # a responder, that closes when it has answered
    return begin + _record(_PARAMS, params) + _record(_PARAMS, b"") + _record(_STDIN, b"")


def serve(connection: socket.socket, body: bytes) -> None:
    """Read one request and answer it; with the query `s=0.1` after 0.1 s. Raises OSError if the other side leaves."""
    connection.settimeout(_PATIENCE)
    params = b""
    while (record := _read(connection)) != (_STDIN, b""):
        params += record[1] if record[0] == _PARAMS else b""
    takes = re.search(rb"QUERY_STRINGs=([0-9.]+)", params)
    if takes:
        time.sleep(float(takes[1]))
    head = b"Status: 200 OK\r\nContent-Type: text/plain\r\n\r\n"
    connection.sendall(_record(_STDOUT, head + body) + _record(_STDOUT, b"") + _record(_END, bytes(8)))


def _record(kind: int, content: bytes) -> bytes:
    return _HEADER.pack(1, kind, 1, len(content), 0) + content


def _read(connection: socket.socket) -> tuple[int, bytes]:
    _version, kind, _id, length, padding = _HEADER.unpack(_exactly(connection, _HEADER.size))
    return kind, _exactly(connection, length + padding)[:length]


def _exactly(connection: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        chunk = connection.recv(count - len(data))
        if not chunk:
            raise ConnectionResetError("the connection was cut in the middle of an answer")
        data += chunk
    return data
