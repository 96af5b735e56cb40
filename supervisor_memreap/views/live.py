"""Looks at the pools again and again, and shows them until the user ends it."""

from __future__ import annotations

import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

from rich.text import Text

from supervisor_memreap.core.command import UnknownName
from supervisor_memreap.core.rows import Held
from supervisor_memreap.core.settings import SettingsError
from supervisor_memreap.core.text import quote, seconds
from supervisor_memreap.outputs import statustable
from supervisor_memreap.outputs.view import View
from supervisor_memreap.supervisord.client import Client, Unavailable, connect
from supervisor_memreap.views.page import ASCII, UNICODE, Frame, Glyphs, Message, memory_page, page
from supervisor_memreap.views.terminal import Terminal
from supervisor_memreap.views.viewer import Remote, Viewer

# Seconds that another machine has to answer.
TIMEOUT = 5.0
# Seconds in which the memory of all programs must be read: meanwhile no key works.
_MEMORY_PATIENCE = 1.0
# Events that are kept; a screen shows fewer.
_MESSAGES = 100


class Outcome(NamedTuple):
    """Of one look."""

    view: View | None
    trouble: str
    at: float
    """Seconds since 1970."""
    held: Held | str | None = None
    """As in memory_page, where that is shown."""


def client_of(url: str, server: Mapping[str, str]) -> Client:
    """The supervisord of --url; the credentials in the URL come first, then as in `connect`. Raises SettingsError."""
    try:
        parts = urlsplit(url)
        # Of unix:///path, geturl would drop the two slashes.
        shown = url if parts.scheme == "unix" else parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
        valid = (parts.scheme == "http" and parts.hostname and parts.port != 0) or (parts.scheme, parts.netloc) == (
            "unix",
            "",
        )
    except ValueError:
        shown, valid = quote(url.rpartition("@")[2]), False
    if not valid:
        raise SettingsError(
            f"command line: --url {quote(shown)}: not an address of supervisord, such as http://web1:9001"
        )
    if parts.username is not None:
        return Client(shown, unquote(parts.username), unquote(parts.password or ""), TIMEOUT)
    return connect(shown, server, TIMEOUT)


def run(viewer: Viewer | Remote, names: Sequence[str], interval: float, url: str | None) -> int:
    """The exit status. `url` is the address of another machine's supervisord, as it may be shown.

    Raises Unavailable, UnknownName.
    """
    first = viewer.look()  # before the screen changes: a mistake in the command line is a plain line
    first.require(names)
    able = sys.stdout.isatty() and os.environ.get("TERM", "") not in ("", "dumb")
    top = _Top(viewer, names, url or socket.gethostname(), Outcome(first, "", time.time()))
    return top.live(interval, is_remote=url is not None) if able else top.lines(interval)


class _Top:
    def __init__(self, viewer: Viewer | Remote, names: Sequence[str], where: str, first: Outcome):
        self._viewer = viewer
        self._names = names
        self._where = where
        assert first.view is not None
        self._view, self._seen, self._trouble = first.view, first.at, ""
        self._messages: dict[Message, None] = {}
        self._is_memory = False
        self._held: Held | str | None = None
        self._take(first)

    def live(self, interval: float, is_remote: bool) -> int:
        """On a terminal."""
        terminal = Terminal()
        looker = _Looker(self._look, terminal.wake, in_thread=is_remote)
        due = time.monotonic() + interval
        with terminal.entered():
            while not terminal.is_over:
                terminal.draw(self._page(terminal, looker.waiting))
                terminal.wait(min(1.0, due - time.monotonic()))
                if terminal.is_over:
                    break
                if terminal.is_second_page != self._is_memory:
                    self._is_memory, self._held = terminal.is_second_page, None
                    terminal.draw(self._page(terminal, looker.waiting))  # to read it may take a second
                    due = time.monotonic()
                if time.monotonic() >= due:
                    due = time.monotonic() + interval
                    looker.ask()
                outcome = looker.take()
                if outcome:
                    self._take(outcome)
        return 0 if terminal.ended_by is None else 128 + terminal.ended_by

    def _page(self, terminal: Terminal, waiting: float) -> list[Text]:
        columns, rows = terminal.size()
        switch = "m: pools" if self._is_memory else "m: memory"
        frame = self._frame(f"{switch}  q: quit" if terminal.has_keys else "Ctrl-C: quit", waiting)
        if self._is_memory:
            return memory_page(frame, self._held, columns, rows, _glyphs())
        return page(frame, columns, rows, _glyphs())

    def lines(self, interval: float) -> int:
        """Where nothing can be drawn over."""
        try:
            while True:
                print("\n".join(line.plain for line in page(self._frame("", 0.0), statustable.WIDTH, None, _glyphs())))
                print(flush=True)
                time.sleep(interval)
                self._take(self._look())
        except BrokenPipeError:
            # `| head`. What is still in the buffer is dropped.
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            return 0

    def _look(self) -> Outcome:
        try:
            return Outcome(self._viewer.look(), "", time.time(), self._look_at_memory() if self._is_memory else None)
        except Unavailable as error:
            return Outcome(None, str(error), time.time())

    def _look_at_memory(self) -> Held | str:
        """Raises Unavailable."""
        from supervisor_memreap.host import trees  # here, since the first page needs nothing of it

        try:
            return trees.read(self._viewer.client.programs(), self._names, patience=_MEMORY_PATIENCE)
        except (trees.NotHere, UnknownName) as error:
            return str(error)

    def _take(self, outcome: Outcome) -> None:
        self._trouble = outcome.trouble
        self._held = outcome.held or self._held
        if outcome.view is None:
            return
        self._view, self._seen = outcome.view.only(self._names), outcome.at
        for pool in self._view.pools:
            text = pool.get("message")
            if text:
                self._messages[Message(pool.get("message_at") or 0.0, pool["name"], text)] = None
        for message in list(self._messages)[:-_MESSAGES]:
            del self._messages[message]

    def _frame(self, hint: str, waiting: float) -> Frame:
        trouble = self._trouble
        if waiting > TIMEOUT:
            trouble = f"{self._where} has not answered for {seconds(waiting)}"
        return Frame(self._where, self._view, trouble, self._seen, time.time(), sorted(self._messages), hint)


class _Looker:
    """Looks when asked: at once, since supervisord on this machine answers or fails within a second; or in a thread,
    since it may take a minute until the name of another host is resolved, and keys have to work.
    """

    def __init__(self, look: Callable[[], Outcome], wake: Callable[[], None], in_thread: bool):
        self._look = look
        self._wake = wake
        self._in_thread = in_thread
        self._asked = 0.0
        self._answer: Future[Outcome] | None = None

    @property
    def waiting(self) -> float:
        """Seconds since the question that has no answer yet."""
        return 0.0 if self._answer is None else time.monotonic() - self._asked

    def ask(self) -> None:
        if self._answer is None:
            self._asked = time.monotonic()
            self._answer = Future()
            if self._in_thread:
                threading.Thread(target=self._run, args=[self._answer], daemon=True).start()
            else:
                self._run(self._answer)

    def take(self) -> Outcome | None:
        if self._answer is None or not self._answer.done():
            return None
        answer, self._answer = self._answer, None
        return answer.result()

    def _run(self, answer: Future[Outcome]) -> None:
        try:
            answer.set_result(self._look())
        except Exception as error:  # raised again by `take`
            answer.set_exception(error)
        self._wake()


def _glyphs() -> Glyphs:
    return UNICODE if "utf" in (sys.stdout.encoding or "").lower() else ASCII
