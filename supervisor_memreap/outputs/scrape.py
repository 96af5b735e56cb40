"""The port that Prometheus scrapes. A scraper that hangs stops neither another scrape nor this process."""

from __future__ import annotations

import contextlib
import http.server
import socket
import socketserver
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from prometheus_client import CollectorRegistry, MetricsHandler

from supervisor_memreap.core.recording import Address

# Seconds that a connection may last: as long as Prometheus waits for a scrape by default.
PATIENCE = 10.0
# Connections at a time, each with its thread. For one more, the oldest is closed.
MOST = 16


class Server(socketserver.ThreadingMixIn, http.server.HTTPServer):
    """Listens once it is made; `serve_forever` answers. Raises OSError.

    `fail` gets an error of ours in a scrape.
    """

    daemon_threads = True

    def __init__(self, address: Address, registry: CollectorRegistry, fail: Callable[[BaseException], None]):
        self._fail = fail
        self._lock = threading.Lock()
        self._open: dict[socket.socket, float] = {}
        """The connections, the oldest first, and until when each may last."""
        addresses = socket.getaddrinfo(*address, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        self.address_family, where = addresses[0][0], addresses[0][4]
        super().__init__(where, MetricsHandler.factory(registry))  # type: ignore[arg-type] # IPv6 has four parts

    def server_bind(self) -> None:
        if self.address_family == socket.AF_INET6:
            # [::] is all of IPv6, and not IPv4 too.
            self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        # That of HTTPServer also asks DNS for the name of this host, which may take long.
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = self.server_address[:2]  # type: ignore[assignment]

    def process_request(self, request: Any, client_address: Any) -> None:
        with self._lock:
            if len(self._open) >= MOST:
                self._hang_up(next(iter(self._open)))
            self._open[request] = time.monotonic() + PATIENCE
        super().process_request(request, client_address)

    def service_actions(self) -> None:
        """Called each half second."""
        now = time.monotonic()
        with self._lock:
            for connection in [each for each, until in self._open.items() if until < now]:
                self._hang_up(connection)

    def _hang_up(self, connection: socket.socket) -> None:
        """Its thread, which reads or writes, gets an error, and ends."""
        del self._open[connection]
        with contextlib.suppress(OSError):
            connection.shutdown(socket.SHUT_RDWR)

    def shutdown_request(self, request: Any) -> None:
        with self._lock:
            self._open.pop(request, None)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        error = sys.exc_info()[1]
        if error and not isinstance(error, OSError):
            self._fail(error)
