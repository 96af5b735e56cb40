"""Talks to supervisord over XML-RPC, with a time-out, and never a traceback."""

from __future__ import annotations

import base64
import http.client
import os
import re
import socket
import struct
import time
import xmlrpc.client
import zlib
from collections.abc import Mapping, Sequence
from typing import Any, Optional, cast
from urllib.parse import urlsplit
from xml.parsers.expat import ExpatError

from supervisor_memreap.core.failed import Failed
from supervisor_memreap.core.model import Ending, Program
from supervisor_memreap.core.rows import ListenerRow, PoolRow, of_xmlrpc

# Seconds. supervisord answers for 200 programs in 25 ms; one that needs longer than this is stopped or hangs.
TIMEOUT = 1.0
# The type of the events that carry announcements.
ANNOUNCEMENT = "memreap"
# Bytes of supervisord's log that are read to find out how a program ended: about 600 lines.
_LOG_TAIL = 65536
# Of supervisor.xmlrpc.Faults; that module imports 3 MB, most of it for a server.
_UNKNOWN_METHOD, _INCORRECT_PARAMETERS, _SHUTDOWN_STATE = 1, 2, 6
# Its lines have the local time, cut to milliseconds.
_ENDED = re.compile(r"^([0-9]{4}-[0-9]{2}-[0-9]{2} [0-9:]{8}),[0-9]{3} [A-Z]+ (stopped|exited): (.*) \(", re.MULTILINE)


class Unavailable(Failed):
    """supervisord gives no usable answer; one line with the cause and the remedy."""


class Refused(Unavailable):
    """supervisord does not understand what it got."""


class ShuttingDown(Unavailable):
    """supervisord is about to exit, or to restart all its programs."""


class _UnixConnection(http.client.HTTPConnection):
    peer: int | None = None
    """The pid, in our own namespace, of the listening process; 0: it has none there. None: unknown."""

    def __init__(self, path: str, timeout: float):
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)
        if hasattr(socket, "SO_PEERCRED"):
            (self.peer,) = struct.unpack_from("i", self.sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))


class _Transport(xmlrpc.client.Transport):
    """With a time-out, and over a unix socket too."""

    def __init__(self, url: str, username: str | None, password: str | None, timeout: float):
        known = username is not None and password is not None
        written = f"{username}:{password}".encode(errors="surrogateescape")  # as the file or the environment has them
        credentials = base64.b64encode(written).decode()
        super().__init__(headers=[("Authorization", f"Basic {credentials}")] if known else [])
        self._url = url
        self._timeout = timeout
        self._unix: _UnixConnection | None = None

    def request(self, *args: Any, **options: Any) -> Any:
        """Once: that of xmlrpc.client does it again where the connection broke, perhaps after it was carried out."""
        return self.single_request(*args, **options)

    def make_connection(self, host: Any) -> http.client.HTTPConnection:
        if self._url.startswith("unix://"):
            self._unix = _UnixConnection(self._url[len("unix://") :], self._timeout)
            connection: http.client.HTTPConnection = self._unix
        else:
            parts = urlsplit(self._url)
            name, port = parts.hostname or "localhost", parts.port or 80
            connection = http.client.HTTPConnection(name, port, timeout=self._timeout)
        self._connection = host, connection
        return connection

    def peer(self) -> int | None:
        """As in _UnixConnection, of the last call."""
        return self._unix.peer if self._unix else None


class Client:
    """One supervisord. Raises Unavailable if the address is invalid.

    Credentials are sent, and never part of a message.
    """

    def __init__(self, url: str, username: str | None = None, password: str | None = None, timeout: float = TIMEOUT):
        self.url = url
        self._timeout = timeout
        if urlsplit(url).scheme not in ("unix", "http"):
            raise Unavailable(f"{self.shown_url}: not an address of supervisord, such as unix:///run/supervisor.sock")
        self._transport = _Transport(url, username, password, timeout)
        self._proxy = xmlrpc.client.ServerProxy("http://127.0.0.1", transport=self._transport)

    def programs(self) -> list[Program]:
        """All programs that supervisord runs, and its own pid, in one call. Raises Unavailable."""
        asked = time.monotonic()
        answers = self._call_all("supervisor.getPID", "supervisor.getAllProcessInfo", "memreap.getRestarted")
        try:
            pid, infos, restarted = answers
            for answer in (pid, infos):
                if _is_fault(answer):
                    raise self._explain_fault(answer["faultCode"], answer["faultString"])
            # A struct is a Fault: there is no [rpcinterface:memreap], or that of an older memreap.
            known = set(restarted) if isinstance(restarted, list) else None
            is_proven = self._runs_here(pid)
            return [
                Program(
                    info["group"],
                    info["name"],
                    info["statename"],
                    info["pid"],
                    pid,
                    f"{info['group']}:{info['name']}" in known if known is not None else None,
                    str(info["spawnerr"]),
                    None if is_proven else float(info["now"] - info["start"]),
                    asked,
                )
                for info in infos
            ]
        except (KeyError, TypeError, ValueError):
            raise Unavailable(f"{self.shown_url} does not answer like supervisord") from None

    def _runs_here(self, pid: int) -> bool:
        """Whether this pid of supervisord certainly means the same process here as there.

        supervisord may run in a container, while we run on the host, where its pids mean other processes.
        """
        return pid == self._transport.peer() or (pid == os.getppid() and pid != 1)

    def how_ended(self, program: Program, since: float) -> Ending:
        """How this program first ended after `since`, in seconds since the epoch, from supervisord's own log."""
        try:
            log = str(self._call("supervisor.readLog", -_LOG_TAIL, 0))
        except Unavailable:
            return Ending.UNKNOWN  # it has no log that can be read, such as /dev/stdout
        for at, ending, name in _ENDED.findall(log):
            # Both times are cut to seconds, and supervisord writes the line a moment after the process has ended.
            if name == program.name and _epoch(at) >= since - 1:
                return Ending(ending)
        return Ending.UNKNOWN

    def publish(self, status: str) -> bool:
        """Publish the status; False: this supervisord has no [rpcinterface:memreap]. Raises Unavailable, Refused."""
        (answer,) = self._call_all("memreap.publish", params=[status])
        if not _is_fault(answer):
            return True
        if answer["faultCode"] != _UNKNOWN_METHOD:
            raise self._explain_fault(answer["faultCode"], answer["faultString"])
        return False

    def listener(self) -> ListenerRow | None:
        """The result of memreap.getListener; None: there is no [rpcinterface:memreap]. Raises Unavailable."""
        return cast(Optional[ListenerRow], self._struct("memreap.getListener"))

    def configuration(self) -> list[dict[str, Any]]:
        """The configuration that supervisord has read, from supervisor.getAllConfigInfo. Raises Unavailable."""
        answer = self._call("supervisor.getAllConfigInfo")
        return [dict(info) for info in answer if isinstance(info, dict)] if isinstance(answer, list) else []

    def pending(self) -> dict[str, list[str]]:
        """The result of memreap.getPending; empty if there is no such method. Raises Unavailable."""
        return self._struct("memreap.getPending") or {}

    def seen_by_listener(self) -> tuple[list[PoolRow], ListenerRow] | None:
        """The results of memreap.getPools and getListener; None: no [rpcinterface:memreap]. Raises Unavailable."""
        answers = self._call_all("memreap.getPools", "memreap.getListener")
        try:
            pools, listener = answers
            if isinstance(pools, dict):
                if pools["faultCode"] == _UNKNOWN_METHOD:
                    return None
                raise self._explain_fault(pools["faultCode"], pools["faultString"])
            return of_xmlrpc(pools), cast(ListenerRow, dict(listener))
        except (KeyError, TypeError, ValueError, OverflowError):
            raise Unavailable(f"{self.shown_url} does not answer like supervisord") from None

    def announce(self, announcements: Sequence[str]) -> None:
        """Send all of them, a line each, as one event. Raises Unavailable."""
        self._call("supervisor.sendRemoteCommEvent", ANNOUNCEMENT, "\n".join(announcements))

    def _struct(self, method: str) -> dict[str, Any] | None:
        """What this method returns; None: there is no such method. Raises Unavailable."""
        (answer,) = self._call_all(method)
        return dict(answer) if isinstance(answer, dict) and not _is_fault(answer) else None

    def _call_all(self, *methods: str, params: Sequence[Any] = ()) -> Any:
        """The answers of these methods, in one call: of one that failed, its fault. Raises Unavailable."""
        return self._call("system.multicall", [{"methodName": name, "params": [*params]} for name in methods])

    def _call(self, method: str, *params: Any) -> Any:
        try:
            return getattr(self._proxy, method)(*params)
        except xmlrpc.client.Fault as fault:
            raise self._explain_fault(fault.faultCode, fault.faultString) from None
        except xmlrpc.client.ProtocolError as error:
            raise Unavailable(self._explain_status(error)) from None
        except socket.timeout:
            raise Unavailable(
                f"supervisord did not answer within {self._timeout:.0f} s at {self.shown_url}: it is stopped or busy"
            ) from None
        except PermissionError:
            raise Unavailable(
                f"permission denied connecting to supervisord at {self.shown_url}: run memreap as the user that owns"
                " the socket, or set chmod= and chown= in [unix_http_server]"
            ) from None
        except OSError as error:
            raise Unavailable(f"supervisord does not answer at {self.shown_url}: {error.strerror or error}") from None
        except (http.client.HTTPException, xmlrpc.client.Error, ExpatError, ValueError, EOFError, zlib.error) as error:
            raise Unavailable(f"{self.shown_url} does not answer like supervisord: {type(error).__name__}") from None
        finally:
            # A kept connection would break when supervisord restarts.
            self._transport.close()

    @property
    def is_local(self) -> bool:
        """Whether the address is a unix socket, which has the same name for supervisord."""
        return self.url.startswith("unix://")

    @property
    def shown_url(self) -> str:
        """Without credentials."""
        scheme, _, rest = self.url.partition("://")
        return f"{scheme}://{rest.rpartition('@')[2]}"

    def _explain_fault(self, code: int, text: str) -> Unavailable:
        if code == _SHUTDOWN_STATE:
            return ShuttingDown("supervisord is shutting down or restarting")
        if code == _UNKNOWN_METHOD:
            return Unavailable(
                "supervisord has no XML-RPC interface: add [rpcinterface:supervisor] with"
                " supervisor.rpcinterface_factory = supervisor.rpcinterface:make_main_rpcinterface"
            )
        return (Refused if code == _INCORRECT_PARAMETERS else Unavailable)(f"supervisord refused: {text}")

    def _explain_status(self, error: xmlrpc.client.ProtocolError) -> str:
        if error.errcode == 401:
            return (
                f"supervisord at {self.shown_url} requires a user name and password: set them in [supervisorctl],"
                " or as SUPERVISOR_USERNAME and SUPERVISOR_PASSWORD in the listener's environment="
            )
        return f"supervisord at {self.shown_url} answered with HTTP status {error.errcode} {error.errmsg}"


def _is_fault(answer: Any) -> bool:
    return isinstance(answer, dict) and "faultCode" in answer


def _epoch(local_time: str) -> float:
    try:
        return time.mktime(time.strptime(local_time, "%Y-%m-%d %H:%M:%S"))
    except (ValueError, OverflowError):
        return 0.0


def connect(url: str, server: Mapping[str, str], timeout: float = TIMEOUT) -> Client:
    """The supervisord at `url`, with the credentials of our environment, else of `server`, its [supervisorctl]."""
    return Client(
        url,
        os.environ.get("SUPERVISOR_USERNAME", server.get("username")),
        os.environ.get("SUPERVISOR_PASSWORD", server.get("password")),
        timeout,
    )


def connect_as_supervisorctl(server: Mapping[str, str]) -> Client:
    """From [supervisorctl], unless supervisord's environment has the URL."""
    url = os.environ.get("SUPERVISOR_SERVER_URL") or server.get("serverurl", "http://localhost:9001")
    return connect(url, server)
