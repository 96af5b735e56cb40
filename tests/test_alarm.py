"""What wakes the listener between two ticks, with the kernel's own control groups and pressure files. Linux only."""

from __future__ import annotations

import contextlib
import os
import select
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from support.driver import POOL, assert_in, eventually, listening_in, supervisord, until

from supervisor_memreap.core import events
from supervisor_memreap.core.events import Sink
from supervisor_memreap.core.model import HOST, MemoryScope, Program
from supervisor_memreap.core.settings import PoolSettings, Watch
from supervisor_memreap.core.shortage import Episode, Kind, Shortage
from supervisor_memreap.host import alarm
from supervisor_memreap.host.alarm import Alarm, Waker, wakers
from supervisor_memreap.host.memory import Group, Memory
from supervisor_memreap.host.thismachine import ThisMachine
from supervisor_memreap.listener.memorywatch import MemoryWatch
from supervisor_memreap.listener.timing import Timing
from supervisor_memreap.outputs.lasting import Once
from supervisor_memreap.supervisord.protocol import Event

MIB = 1024**2
PRESSURE = "/proc/pressure/memory"
STALL = Waker("stall", PRESSURE, 200_000)


def descriptors() -> list[str]:
    return sorted(os.listdir("/proc/self/fd"))


@pytest.fixture
def kernel() -> Iterator[Alarm]:
    """What wakes us; all that it opens is closed at the end."""
    before = descriptors()
    made = Alarm()
    try:
        yield made
    finally:
        made.close()
    assert descriptors() == before


def wakes(kernel: Alarm, within: float = 0.0) -> list[int]:
    poll = select.poll()
    for fd, wanted in kernel.fds().items():
        poll.register(fd, wanted)
    return [fd for fd, _ in poll.poll(within * 1000)]


def group_in(version: int) -> Path:
    """The directory of a new control group. Skips the test where none can be made."""
    mounts = [mount for mount in Memory()._all_mounts() if mount.version == version]
    if not mounts:
        pytest.skip(f"no version {version} memory control groups are mounted here")
    directory = Path(mounts[0].point) / f"memreap-test-{os.getpid()}"
    try:
        directory.mkdir()
    except OSError as error:
        pytest.skip(f"no control group can be made here: {error.strerror}")
    return directory


@contextlib.contextmanager
def removed(directory: Path) -> Iterator[Path]:
    try:
        yield directory
    finally:
        if directory.exists():
            eventually(lambda: _remove(directory))


def _remove(directory: Path) -> None:
    try:
        directory.rmdir()
    except OSError as error:  # a process in it has not quite ended
        raise AssertionError(str(error)) from None


@pytest.fixture
def group() -> Iterator[Path]:
    """A version 1 memory control group of 300 MiB."""
    with removed(group_in(1)) as directory:
        (directory / "memory.limit_in_bytes").write_text(str(300 * MIB))
        yield directory


@pytest.fixture
def unified() -> Iterator[Path]:
    """A version 2 control group; it may have no memory controller, but the pressure of its processes."""
    with removed(group_in(2)) as directory:
        yield directory


@contextlib.contextmanager
def holding(group: Path, mib: int) -> Iterator[None]:
    """A process in the group that holds this much memory."""
    code = (
        "import os, sys\n"
        "open(sys.argv[1] + '/cgroup.procs', 'w').write(str(os.getpid()))\n"
        "held = bytearray(int(sys.argv[2]) * 1024 * 1024)\n"
        "print('ready', flush=True); sys.stdin.read()\n"
    )
    command = [sys.executable, "-c", code, str(group), str(mib)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        try:
            assert process.stdout.readline() == "ready\n"
            yield
        finally:
            process.kill()


def on(group: Path, mib: int, usage: int = 0) -> Waker:
    return Waker("usage", str(group), mib * MIB, MIB, usage * MIB)


def test_kernel_accepts_a_pressure_trigger_and_does_not_wake_without_pressure(kernel):
    kernel.set([STALL])
    if kernel.refused:
        pytest.skip(f"the kernel offers no trigger here: {kernel.refused}")
    assert list(kernel.fds().values()) == [select.POLLPRI]
    assert wakes(kernel, 0.1) == []


def test_a_v2_group_has_a_trigger_that_ends_with_the_group(kernel, unified):
    kernel.set([Waker("stall", f"{unified}/memory.pressure", 200_000)])
    if kernel.refused:
        pytest.skip(f"the kernel offers no trigger here: {kernel.refused}")
    assert wakes(kernel) == []
    unified.rmdir()
    assert wakes(kernel, 5.0)
    kernel.acknowledge()
    assert kernel.fds() == {}  # else it would wake us forever


def test_a_v2_events_file_wakes_once_for_each_change(kernel, unified):
    # memory.events needs the memory controller, which may be in use by version 1; cgroup.events wakes in the same way.
    kernel.set([Waker("limit", f"{unified}/cgroup.events")])
    assert list(kernel.fds().values()) == [select.POLLPRI]
    assert wakes(kernel) == []
    with holding(unified, 1):
        assert wakes(kernel, 5.0)
        kernel.acknowledge()
        assert kernel.fds()
        assert wakes(kernel) == []
    assert wakes(kernel, 5.0)
    kernel.acknowledge()
    unified.rmdir()
    eventually(lambda: _assert_closed(kernel))


def _assert_closed(kernel: Alarm) -> None:
    kernel.acknowledge()
    assert kernel.fds() == {}


def test_only_usage_that_crosses_the_value_wakes(kernel, group):
    kernel.set([on(group, 100)])
    assert list(kernel.fds().values()) == [select.POLLIN]
    with holding(group, 20):
        assert wakes(kernel, 0.2) == []
        with holding(group, 120):
            assert wakes(kernel, 5.0)


def test_usage_that_crossed_the_value_since_the_look_wakes_at_once(kernel, group):
    with holding(group, 120):
        kernel.set([on(group, 100, usage=50)])
        assert wakes(kernel, 5.0)
        kernel.acknowledge()
        kernel.set([on(group, 100, usage=130)])  # the look saw that, and what it did about it is its own matter
        assert wakes(kernel) == []


def test_a_small_change_of_the_value_does_not_rearm(kernel, group):
    kernel.set([on(group, 100)])
    before = list(kernel._armed.values())
    kernel.set([Waker("usage", str(group), 100 * MIB + MIB // 2, MIB)])
    assert list(kernel._armed.values()) == before
    kernel.set([on(group, 120)])
    assert [each.waker.value for each in kernel._armed.values()] == [120 * MIB]


def test_a_recreated_group_is_watched_again(kernel, group):
    kernel.set([on(group, 100)])
    _remove(group)
    assert wakes(kernel, 5.0)
    kernel.acknowledge()
    group.mkdir()
    kernel.set([on(group, 100)])
    with holding(group, 120):
        assert wakes(kernel, 5.0)


def test_the_pressure_level_of_a_group_can_be_watched(kernel, group):
    kernel.set([Waker("level", str(group))])
    if kernel.refused:
        pytest.skip(f"this kernel has no memory.pressure_level: {kernel.refused}")
    assert wakes(kernel, 0.1) == []


def test_no_descriptor_stays_open_or_is_inherited(kernel, group):
    before = len(descriptors())
    for number in range(20):
        kernel.set([on(group, 100 + 10 * (number % 2)), Waker("level", str(group)), STALL])
        assert len(descriptors()) <= before + 3
    for fd in kernel.fds():
        assert not os.get_inheritable(fd)
    kernel.set([])
    assert len(descriptors()) == before


@pytest.mark.parametrize("kind", ["stall", "limit", "usage", "level"])
def test_a_missing_kernel_feature_is_reported_and_not_offered(kernel, tmp_path, kind):
    for place in (tmp_path / "none", tmp_path):
        kernel.set([Waker(kind, str(place), 1)])
        assert kernel.fds() == {}
        assert_in(str(place), kernel.refused)
    for name in ("memory.usage_in_bytes", "memory.pressure_level"):
        (tmp_path / name).write_text("1")
    kernel.set([Waker(kind, str(tmp_path), 2)])
    assert kernel.fds() == {}


def test_a_trigger_that_the_kernel_refuses_is_not_offered(kernel):
    if not os.path.exists(PRESSURE):
        pytest.skip("this kernel reports no pressure")
    kernel.set([Waker("stall", PRESSURE, 10 * alarm.WINDOW)])
    assert kernel.fds() == {}
    assert_in("Invalid argument", kernel.refused)


def of_group(version: int, size: int | None, available: int | None, usage: int | None = 150) -> Group:
    scope = MemoryScope("g", size and size * MIB, None if available is None else available * MIB)
    return Group(version, "/sys/g", scope, usage and usage * MIB)


def asked(group: Group, headroom: float | None = 100 * MIB, pressure: float | None = None, ignored=frozenset()):
    return [(each.kind, each.place, each.value) for each in wakers([group], headroom, pressure, set(ignored))]


def test_a_v1_group_wakes_when_usage_reaches_its_limit_minus_headroom():
    # Of 150 MiB in use, 30 are file pages that count as available: 300 less 100, and those.
    assert asked(of_group(1, 300, 180)) == [
        ("stall", PRESSURE, 200_000),
        ("level", "/sys/g", 0),
        ("usage", "/sys/g", 230 * MIB),
    ]


def test_a_v2_group_wakes_at_its_limit():
    assert asked(of_group(2, 300, 180)) == [
        ("stall", PRESSURE, 200_000),
        ("stall", "/sys/g/memory.pressure", 200_000),
        ("limit", "/sys/g/memory.events", 0),
    ]


@pytest.mark.parametrize("version", [1, 2])
def test_a_group_full_of_page_cache_does_not_wake_although_at_its_limit(version):
    kinds = [kind for kind, *_ in asked(of_group(version, 300, 200, usage=300))]
    assert "usage" not in kinds
    assert "limit" not in kinds
    assert "stall" in kinds


def test_pressure_is_a_share_of_the_window():
    assert asked(of_group(2, None, None, None), None, 20.0) == [
        ("stall", PRESSURE, 400_000),
        ("stall", "/sys/g/memory.pressure", 400_000),
    ]


def test_a_shortage_that_is_ignored_does_not_wake():
    assert asked(of_group(1, 300, 180), ignored={"g"}) == []


@pytest.mark.parametrize(
    ("kind", "scope", "kinds"),
    [
        (Kind.HEADROOM, HOST, []),
        (Kind.PRESSURE, "control group /g", []),
        (Kind.TOTAL, "myapp", ["stall"]),  # which does not concern the host
    ],
)
def test_a_shortage_that_is_given_up_does_not_wake(kind, scope, kinds):
    wanted: list[list[str]] = []

    class Woken(ThisMachine):
        def set_alarm(self, headroom, pressure, ignored):
            is_wanted = (headroom, pressure) != (None, None)
            wanted.append([each.kind for each in wakers((), headroom, pressure, ignored)] if is_wanted else [])
            return ""

    memory = MemoryWatch(Woken())
    settings = PoolSettings(headroom=100 * MIB)
    memory.begin([Watch(Program("myapp", "myapp", "RUNNING", 1), settings)])
    memory.set_alarm()
    shortage = Shortage(kind, scope, 1.0, 2.0, 2.4)
    memory.episodes = {shortage.key: Episode(shortage, 0.0, given_up=1.0)}
    memory.set_alarm()
    memory.begin([Watch(Program("myapp", "myapp", "RUNNING", 1), PoolSettings(limit=MIB))])
    memory.set_alarm()
    assert wanted == [["stall"], kinds, []]


def timing_of(machine: ThisMachine, take: Sink) -> Timing:
    memory = MemoryWatch(machine)
    memory.begin([Watch(Program("myapp", "myapp", "RUNNING", 1), PoolSettings(headroom=100 * MIB))])
    return Timing(machine, memory, Once(take))


@pytest.fixture
def timing() -> Iterator[Timing]:
    with contextlib.closing(ThisMachine()) as machine:
        yield timing_of(machine, lambda _: None)


def test_the_next_look_is_one_second_after_the_last_and_waits_for_nothing_else(monkeypatch, timing):
    reading, writing = os.pipe()
    monkeypatch.setitem(alarm._ARM, "level", lambda _: os.dup(reading))
    monkeypatch.setattr(alarm, "wakers", lambda *_: [Waker("level", "/x")])
    timing.begin()
    timing.end()
    assert timing.patience() is None
    (fd,) = timing.fds()
    timing.wake([writing])
    assert timing.patience() is None
    os.write(writing, b"x")
    timing.wake([fd])
    assert timing.fds() == {}
    assert 0.5 < timing.patience() <= 1.0
    assert not timing.is_due()
    monkeypatch.setattr(timing, "_due", time.monotonic())
    assert timing.is_due()
    os.read(reading, 1)
    timing.begin()
    timing.end()
    assert timing.patience() is None
    assert len(timing.fds()) == 1
    os.close(reading)
    os.close(writing)


def tick(late: float = 0.0) -> Event:
    return Event("TICK_5", f"when:{int(time.time() - late)}")


def test_the_period_is_that_of_the_tick_that_comes_most_often(timing):
    assert timing.period() is None
    for name, period in (("TICK_3600", 3600), ("TICK_60", 60), ("TICK_3600", 60)):
        timing.is_for_a_look(Event(name, f"when:{int(time.time())}"))
        assert timing.period() == period


def test_a_tick_right_after_another_look_causes_no_look(monkeypatch, timing):
    assert timing.is_for_a_look(tick())
    assert not timing.is_for_a_look(tick())
    monkeypatch.setattr(timing, "_began", time.monotonic() - 1)
    monkeypatch.setattr(timing, "_due", time.monotonic())
    assert timing.is_due()
    assert not timing.is_for_a_look(tick())
    monkeypatch.setattr(timing, "_began", time.monotonic() - 1)
    assert timing.is_for_a_look(tick())
    monkeypatch.setattr(timing, "_began", time.monotonic() - 1)
    assert not timing.is_for_a_look(tick(late=60))
    assert not timing.is_for_a_look(Event("PROCESS_LOG", ""))


def test_a_kernel_without_wakeups_is_reported_once(monkeypatch, tmp_path):
    reported: list[events.Event] = []
    timing = timing_of(ThisMachine(), reported.append)
    monkeypatch.setattr(alarm, "wakers", lambda *_: [Waker("stall", str(tmp_path / "none"), 1)])
    for _ in range(3):
        timing.begin()
        timing.end()
    (event,) = reported
    assert isinstance(event, events.NoAlarm)
    assert_in("none: No such file or directory", event.text)


PROGRAM = (
    f"[program:myapp]\ncommand={sys.executable} {POOL} 2 40\nautorestart=false\nstopasgroup=true\nkillasgroup=true\n"
    "[memreap]\nheadroom=100MB\n[memreap:myapp]\nlimit=1GB\nmin_age=1s\nsettle=1s\n"
)


@pytest.fixture
def listener(tmp_path, group):
    """A real listener that has looked once at a pool in this group, and gets no more ticks."""
    inside = ["sh", "-c", 'echo $$ > "$0/cgroup.procs"; exec "$@"', str(group)]
    with supervisord(tmp_path, PROGRAM, within=inside), listening_in(tmp_path) as driver:
        driver.tick()
        yield driver


def reads(process: psutil.Process) -> int:
    """How often it has read from a file or a pipe, which it does dozens of times in a look."""
    return process.io_counters().read_count


def alarms_of(process: psutil.Process) -> list[str]:
    """The descriptors by which the kernel wakes it, without their numbers."""
    opened = []
    for fd in Path(f"/proc/{process.pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # it has just been closed
            opened.append(os.readlink(fd))
    return sorted(path for path in opened if "eventfd" in path or path == PRESSURE)


def _assert_asleep(process: psutil.Process) -> None:
    """Not while it still reads what its other processes have answered to the tick.

    If other processes wait for memory, as on a busy machine, that is a reason to look: then it sleeps later.
    """
    before = reads(process)
    select.select([], [], [], 3.0)
    assert reads(process) == before


def test_it_sleeps_while_nothing_happens_and_a_jump_between_two_ticks_causes_a_look(listener, group):
    process = listener.listener()
    eventually(lambda: _assert_asleep(process), timeout=60)
    before = reads(process)
    listener.tick()
    assert reads(process) > before + 10
    assert "HUP sent" not in listener.text()
    armed = alarms_of(process)
    assert armed
    with holding(group, 140):
        eventually(lambda: assert_in("headroom 100 MiB: HUP sent", listener.text()))
        # It goes on to look on its own: the first one leaves, the replacement settles, the other one goes.
        eventually(lambda: assert_in("has its headroom of 100 MiB again", listener.text()))
    assert listener.text().count("HUP sent") == 2
    until(lambda: alarms_of(process), armed)
    assert "internal error" not in listener.text()
