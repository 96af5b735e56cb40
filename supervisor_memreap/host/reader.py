"""Reads what another process can keep locked, in a child process: files of /proc, and its sockets. Linux only.

A process can hold that lock endlessly, for example if a thread maps a file on a file server that hangs. A process that
reads its smaps_rollup, cmdline, environ or mem then waits as long. So a child reads, and is killed if it does not
answer: KILL interrupts the wait for the lock. One child serves until this process ends; a question costs 0.05 ms, so
the sizes of many processes are one question.
Questions about sockets, of which a process may have 18,000, have another child, whose answers may come later (Facts).
"""

from __future__ import annotations

import contextlib
import errno
import gc
import os
import select
import signal
import struct
import time
from collections.abc import Collection, Iterable

from supervisor_memreap.core.model import Fact, ProcessMemory
from supervisor_memreap.core.servers import Loop
from supervisor_memreap.host import forked, seen
from supervisor_memreap.host.procfile import read_part

# Seconds that an answer may take. A rollup of 20 GB takes 0.1 s.
PATIENCE = 0.5
# In this many seconds at most PATIENCE is spent on processes that do not answer: where a file server hangs, all
# workers of a pool may. Then each of the others has only this long.
LOST_WITHIN, IMPATIENCE = 4.0, 0.02
# Seconds for which a process is not asked about again where the answer took too long: at first, since the reason may be
# a busy machine and not a lock; twice as long each time; and at most.
AVOIDED, AVOIDED_LONGEST = 4.0, 60.0
# Of each file: a command line may have 2 MB, and its beginning is all that is needed.
_MAX_BYTES = 65536
_LENGTH = struct.Struct("=ii")
# What a question about the loop of a worker begins with.
_LOOP = "loop "
# And one about what a manager watches.
_OWN = "own "
# One about what processes hold: the seconds that it may take, and their pids. Of each in this order, an error, and what
# it holds as ProcessMemory has it, -1 for None; fewer, if there was no time for more.
_HELD = "held "
_OF_EACH = struct.Struct("=i4q")
_AT_ONCE = 500
# Seconds for a child that was killed to end.
_ENDS = 0.02
# Children that were killed and wait in the kernel, as where a file server hangs: with this many, no more are started.
_MOST_UNCOLLECTED = 4


class Blocked(PermissionError):
    """The process keeps locked what is to be read: of a file, its own memory map."""


class NoReader(PermissionError):
    """There is no process that could read it, which tells nothing about the file."""


class _Child:
    """Answers one question after another."""

    def __init__(self) -> None:
        self.owner = os.getpid()
        self._data = b""
        with forked.two_pipes() as (asked, answered, self._asks, self._answers):
            self._pid = os.fork()
            if self._pid == 0:
                _serve(asked, answered, self.owner)

    def ask(self, question: str, patience: float) -> bytes:
        """The answer. Raises OSError as open and read do; TimeoutError; EOFError if the child has ended."""
        self.write(question)
        return self.answer(question, patience)

    def write(self, question: str) -> None:
        """Raises EOFError."""
        try:
            os.write(self._asks, f"{question}\n".encode())
        except BrokenPipeError:
            raise EOFError from None

    def answer(self, question: str, patience: float) -> bytes:
        """To the question that was written last; after a TimeoutError it may come later. Raises as `ask`."""
        deadline = time.monotonic() + patience
        self._take(_LENGTH.size, deadline)
        number, count = _LENGTH.unpack_from(self._data)
        self._take(_LENGTH.size + count, deadline)
        data, self._data = self._data[_LENGTH.size :], b""
        if number:
            raise OSError(number, os.strerror(number), question)
        return data

    def end(self) -> None:
        os.close(self._asks)
        os.close(self._answers)
        # Where KILL does not interrupt its wait for the lock (before Linux 5.3), it ends when it gets it.
        forked.collect(self._pid, 0.0, {signal.SIGKILL: _ENDS})

    def _take(self, count: int, deadline: float) -> None:
        """Read the first `count` bytes of the answer."""
        poll = select.poll()
        poll.register(self._answers, select.POLLIN)
        while len(self._data) < count:
            if not poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
                raise TimeoutError
            chunk = os.read(self._answers, count - len(self._data))
            if not chunk:
                raise EOFError
            self._data += chunk


_child: _Child | None = None
_reads_here = False
_lost_at = float("-inf")
"""When a process did not answer within PATIENCE (monotonic)."""
_avoided: dict[str, tuple[float, float]] = {}
"""By its directory, or its epoll, which has another lock: until when (monotonic) nothing is read, and for how long that
is."""


def read_here() -> None:
    """From now on this process reads files itself: it is a child that may be killed when it takes too long."""
    global _reads_here
    _reads_here = True


def read(path: str) -> bytes:
    """The beginning of a file of /proc/PID. Raises as host.procfile.read does, and Blocked."""
    if _reads_here:
        return read_part(path, 0, _MAX_BYTES)
    return _answered(path, path[: path.index("/", len("/proc/"))], "its memory map is locked")


def memory(pid: int) -> ProcessMemory:
    """What the process holds, by its page tables. Raises as `read`."""
    return _parsed(read(f"/proc/{pid}/smaps_rollup"))


def memories(pids: Collection[int], until: float) -> dict[int, ProcessMemory]:
    """Of those of them that could be read until then (monotonic)."""
    global _lost_at
    found: dict[int, ProcessMemory] = {}
    pids = [pid for pid in pids if not (_avoided and _is_avoided(f"/proc/{pid}"))]
    while pids and (seconds := until - time.monotonic()) > 0:
        part, pids = pids[:_AT_ONCE], pids[_AT_ONCE:]
        try:
            answer = _ask(f"{_HELD}{seconds} {' '.join(map(str, part))}", _HELD, PATIENCE + seconds)
        except TimeoutError:
            _lost_at = time.monotonic()
        except OSError:
            found |= _one_by_one(part, until)  # as after a time-out: without the one that does not answer
        else:
            found |= _unpacked(part, answer)
    return found


def _unpacked(pids: Iterable[int], answer: bytes) -> dict[int, ProcessMemory]:
    found = {}
    for pid, (error, private, swapped, pss, whole) in zip(pids, _OF_EACH.iter_unpack(answer)):
        if not error:
            found[pid] = ProcessMemory(private, swapped, pss, None if whole < 0 else whole)
    return found


def _one_by_one(pids: Iterable[int], until: float) -> dict[int, ProcessMemory]:
    """Where one of them keeps its memory map locked, only that one is not read."""
    found = {}
    for pid in pids:
        if time.monotonic() < until:
            with contextlib.suppress(OSError):
                found[pid] = memory(pid)
    return found


def _parsed(rollup: bytes) -> ProcessMemory:
    sizes = {}
    for line in rollup.splitlines()[1:]:
        key, _, value = line.partition(b":")
        sizes[key] = int(value.split()[0]) * 1024
    private = sizes.get(b"Private_Clean", 0) + sizes.get(b"Private_Dirty", 0)
    return ProcessMemory(private, sizes.get(b"SwapPss", 0), sizes.get(b"Pss", 0), sizes.get(b"Swap"))


def loop(pid: int, manager: int) -> Loop:
    """As host.seen.loop; HIDDEN too where it is not answered in time. Raises ProcessLookupError; NoReader."""
    try:
        if _reads_here:
            return seen.loop(pid, manager)
        return Loop(_answered(f"{_LOOP}{pid} {manager}", f"epoll of {pid}", "its epoll is locked").decode())
    except (NoReader, ProcessLookupError):
        raise
    except OSError:
        return Loop.HIDDEN


def watches_own(pid: int) -> bool:
    """As host.seen.watches_own; False where that could not be read."""
    try:
        if _reads_here:
            return seen.watches_own(pid)
        return _answered(f"{_OWN}{pid}", f"epoll of {pid}", "its epoll is locked") == b"yes"
    except OSError:
        return False


def _answered(question: str, about: str, why_not: str) -> bytes:
    """The answer; `about` is as in _ask. Raises as the reading does, and Blocked."""
    global _lost_at
    asked = time.monotonic()
    is_short = asked - _lost_at < LOST_WITHIN
    try:
        return _ask(question, about, IMPATIENCE if is_short else PATIENCE)
    except TimeoutError:
        _lost_at = _lost_at if is_short else asked
        raise Blocked(errno.EACCES, why_not, question) from None


class Facts:
    """Asks its own child what the sockets of processes show, one question at a time."""

    def __init__(self) -> None:
        self._child: _Child | None = None
        self._asked_at = 0.0

    def ask(self, pid: int, manager: int) -> None:
        """As host.seen.fact; `answer` has the answer. Not before the last one has come. Raises NoReader."""
        self._child = self._child or _begin_child(str(pid))
        self._asked_at = time.monotonic()
        try:
            self._child.write(f"{pid} {manager}")
        except EOFError:
            raise self._no_more() from None

    def answer(self, patience: float) -> Fact | None:
        """To the question asked last, if it arrives within `patience` seconds; None: it may arrive later.

        Raises OSError; NoReader, also where PATIENCE has passed since it was asked.
        """
        if self._child is None:
            raise self._no_more()
        left = PATIENCE - (time.monotonic() - self._asked_at)
        try:
            return Fact(self._child.answer("", max(0.0, min(patience, left))).decode())
        except TimeoutError:
            if patience < left:
                return None
            raise self._no_more() from None
        except EOFError:
            raise self._no_more() from None

    def end(self) -> None:
        """End the child, which otherwise ends a moment after this process."""
        if self._child:
            self._child.end()
            self._child = None

    def _no_more(self) -> NoReader:
        self.end()
        return NoReader(errno.EACCES, "the process that reads it has ended")


def _begin_child(about: str) -> _Child:
    """Raises NoReader."""
    if forked.uncollected() >= _MOST_UNCOLLECTED:
        raise NoReader(errno.EACCES, "the processes that read it do not end", about)
    try:
        return _Child()
    except OSError as error:  # no memory, no process, no descriptor left
        raise NoReader(errno.EACCES, f"cannot be read: {error.strerror}", about) from None


def _ask(question: str, about: str, patience: float) -> bytes:
    """`about`: what is not asked about again for a while after it took too long. Raises TimeoutError, Blocked."""
    global _child
    if _is_avoided(about):
        raise Blocked(errno.EACCES, "it could not be read in time", about)
    if _child is None or _child.owner != os.getpid():
        _child = _begin_child(about)
    try:
        data = _child.ask(question, patience)
    except TimeoutError:
        _end_child()
        _, before = _avoided.get(about, (0.0, AVOIDED / 2))
        pause = min(2 * before, AVOIDED_LONGEST)
        _avoided[about] = time.monotonic() + pause, pause
        raise
    except EOFError:
        _end_child()
        raise NoReader(errno.EACCES, "the process that reads it has ended", about) from None
    _avoided.pop(about, None)
    return data


def _is_avoided(about: str) -> bool:
    until, _ = _avoided.get(about, (0.0, 0.0))
    return until > time.monotonic()


def end() -> None:
    """End the child of this process, which otherwise ends a moment after this process."""
    if _child and _child.owner == os.getpid():
        _end_child()


def _end_child() -> None:
    global _child
    assert _child
    _child.end()
    _child = None
    now = time.monotonic()
    for about in [about for about, (until, _) in _avoided.items() if until + AVOIDED_LONGEST < now]:
        del _avoided[about]


def _serve(asked: int, answered: int, parent: int) -> None:
    """Never returns. Keeps no descriptor of its parent open, above all no lock, and ends with it."""
    try:
        gc.disable()  # it would write to what is shared with the parent, and so unshare it
        forked.settle("memreap reader", (asked, answered), {signal.SIGINT}, with_parent=True)
        with open(asked, encoding="utf-8", errors="surrogateescape") as questions:
            if os.getppid() == parent:
                for question in questions:
                    os.write(answered, _answer(question.rstrip("\n")))
    finally:
        os._exit(0)


def _answer(question: str) -> bytes:
    number = 0
    try:
        if question.startswith("/"):
            data = read_part(question, 0, _MAX_BYTES)
        elif question.startswith(_HELD):
            seconds, *pids = question[len(_HELD) :].split()
            data = _held(map(int, pids), time.monotonic() + float(seconds))
        elif question.startswith(_LOOP):
            data = seen.loop(*map(int, question[len(_LOOP) :].split())).value.encode()
        elif question.startswith(_OWN):
            data = b"yes" if seen.watches_own(int(question[len(_OWN) :])) else b"no"
        else:
            data = seen.fact(*map(int, question.split())).value.encode()
    except ProcessLookupError:
        data, number = b"", errno.ESRCH
    except OSError as error:
        data, number = b"", error.errno or errno.EACCES
    return _LENGTH.pack(number, len(data)) + data


def _held(pids: Iterable[int], until: float) -> bytes:
    answers = []
    for pid in pids:
        number, held = 0, ProcessMemory(0, 0, 0)
        try:
            held = _parsed(read_part(f"/proc/{pid}/smaps_rollup", 0, _MAX_BYTES))
        except OSError as error:
            number = error.errno or errno.EACCES
        answers.append(_OF_EACH.pack(number, *(-1 if value is None else value for value in held)))
        if time.monotonic() >= until:
            break
    return b"".join(answers)
