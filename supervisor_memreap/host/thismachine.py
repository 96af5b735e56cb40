"""The machine that memreap runs on, as `host.machine` describes it."""

from __future__ import annotations

import contextlib
import os
import select
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

from supervisor_memreap.core.model import Ending, Holder, Pool, ProcessId, Program, Result, Worker
from supervisor_memreap.core.oomkills import Kills
from supervisor_memreap.core.settings import Watch
from supervisor_memreap.host import alarm, lock, look, procfs, reader, signalling
from supervisor_memreap.host.alarm import Alarm
from supervisor_memreap.host.attempt import Attempt
from supervisor_memreap.host.kept import Kept
from supervisor_memreap.host.machine import Asked, Gate, Handle, Lock, Order
from supervisor_memreap.host.memory import Memory
from supervisor_memreap.host.oomcounters import OomKills
from supervisor_memreap.host.whoserves import OF_COMMAND, Serving

# Asks supervisord how the last process of a program ended, after this time of the wall clock.
HowEnded = Callable[[Program, float], Ending]


class Descriptor:
    """Closed at most once. With a lock: held until it and its copies are closed."""

    def __init__(self, fd: int):
        self._fd: int | None = fd

    def fileno(self) -> int:
        assert self._fd is not None, "closed"
        return self._fd

    def share(self) -> Descriptor:
        return Descriptor(os.dup(self.fileno()))

    def close(self) -> None:
        fd, self._fd = self._fd, None
        if fd is not None:
            os.close(fd)


class ThisMachine:
    """`patience`: seconds that a look may wait for who serves. `how_ended` is as in Machine."""

    def __init__(
        self,
        how_ended: HowEnded = lambda _program, _since: Ending.UNKNOWN,
        patience: float = OF_COMMAND,
    ):
        self.how_ended = how_ended
        is_linux = procfs.is_usable()
        self._kept = Kept() if is_linux else None
        self._serving = Serving(patience) if is_linux else None
        self._now, self._view = 0.0, procfs.source()
        """Of the last look."""
        self._memory: Memory | None = None
        """Of the last look; None: no setting needed it."""
        self._oom_kills = OomKills()
        self._alarm = Alarm()

    def now(self) -> float:
        return time.monotonic()

    def time(self) -> float:
        return time.time()

    @contextlib.contextmanager
    def look(self, now: float, reads_scopes: bool) -> Iterator[ThisMachine]:
        self._now, self._view = now, procfs.source()
        self._memory = Memory() if reads_scopes else None
        if self._kept:
            self._kept.begin()
        if self._serving:
            self._serving.begin(now)
        yield self
        if self._kept:
            self._kept.end()
        if self._serving:
            self._serving.end()
        reader.end()

    def read(
        self,
        watch: Watch,
        gate: Gate,
        expected: Collection[ProcessId],
        serving: Collection[ProcessId],
        reads_structure: bool,
        probe: bool,
    ) -> Pool:
        how = self._kept, self._memory, reads_structure, probe, self._now
        pool = look.look(watch, self._view, gate, expected, *how)
        return self._serving.look(pool, serving, self._view, self._now) if self._serving else pool

    # Of single processes.

    def may_exist(self, process: ProcessId) -> bool:
        try:
            return procfs.source().process(process.pid).id == process
        except ProcessLookupError:
            return False
        except OSError:
            return True

    def measure(self, asked: Sequence[Asked], until: float) -> list[Mapping[ProcessId, int]]:
        try:
            return look.measure(asked, procfs.source(), until, self._kept)
        finally:
            reader.end()

    def server_of(self, pool: Pool) -> str | None:
        return look.server_of(pool, procfs.source())

    def private_memory(self, process: ProcessId, processes: int) -> int | None:
        return look.private_memory(process, processes, procfs.source())

    def activity(self, process: ProcessId) -> str:
        return look.activity(process, procfs.source())

    def holders(self, pool: Pool) -> tuple[Holder, ...]:
        return look.holders(pool, procfs.source())

    # Memory that is short.

    def holders_in(self, scope: str) -> tuple[Holder, ...]:
        return self._memory.holders(scope) if self._memory else ()

    def oom_kills(self, processes: Mapping[str, ProcessId | None], now: float) -> tuple[dict[str, str], list[Kills]]:
        return self._oom_kills.look(processes, now)

    def set_alarm(self, headroom: float | None, pressure: float | None, ignored: Collection[str]) -> str:
        groups = self._memory.groups.values() if self._memory else ()
        is_wanted = (headroom, pressure) != (None, None)
        self._alarm.set(alarm.wakers(groups, headroom, pressure, ignored) if is_wanted else ())
        return self._alarm.refused

    def alarm_fds(self) -> Mapping[int, int]:
        return self._alarm.fds()

    def acknowledge_alarm(self) -> None:
        self._alarm.acknowledge()

    # The signal.

    def lock(self, manager: ProcessId, is_group: bool) -> Lock:
        # A user that runs the pool may not open the files of root's supervisord.
        return Descriptor(lock.take_file(manager) if is_group else lock.take(manager))

    def attempt(self, order: Order, lock: Lock | None) -> Attempt:
        assert lock is None or isinstance(lock, Descriptor)
        pidfd = signalling.open_pidfd(order.worker.pid)
        handle = None if pidfd is None else Descriptor(pidfd)
        try:
            return Attempt(order, procfs.source(), handle, lock.fileno() if lock else None)
        except BaseException:
            if handle:
                handle.close()
            raise

    def follow(self, process: ProcessId) -> Handle | None:
        pidfd = signalling.follow(process, procfs.source())
        return None if pidfd is None else Descriptor(pidfd)

    def may_signal(self, process: ProcessId) -> bool:
        return signalling.may_signal(process)

    def force(self, pool: Pool, worker: Worker, signal: str) -> Result:
        return signalling.force(pool, worker, signal, procfs.source())

    def wait(self, fds: Mapping[int, int], seconds: float | None) -> list[int]:
        poll = select.poll()  # not select(2), which ends at descriptor 1023
        for fd, wanted in fds.items():
            poll.register(fd, wanted)
        return [fd for fd, _ in poll.poll(None if seconds is None else max(0.0, seconds) * 1000 + 1)]

    def close(self) -> None:
        self._alarm.close()
        self._oom_kills.close()
        if self._kept:
            self._kept.close()
        if self._serving:
            self._serving.close()
